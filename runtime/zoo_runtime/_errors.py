"""The errors that zoo_runtime raises, drawn once as a tree.

ZooRuntimeError
├── PictureError
│   ├── PictureNotFound       no file there, or it may not be read
│   ├── NotAPicture           empty, or of no format that is read here
│   ├── CorruptPicture        truncated or damaged
│   ├── PictureTooLarge       more pixels than the bound allows
│   └── UnsupportedPicture    pixels without a defined 8-bit meaning (32-bit float, Lab, arrays of another dtype)
├── NotWritten                a result cannot be kept: no permission, full disk
├── NotMeasured               a process that was to be timed failed
└── ModelError
    ├── ModelNotFound         no file there, or it may not be read
    ├── CorruptModel          onnxruntime cannot load it, or its metadata do not hold together
    ├── NotAnExport           an ONNX file, but not one that zoo exported
    ├── UnknownSchema         exported by a version of zoo that this runtime does not know
    ├── UnknownTask           a task that this runtime does not know
    └── ProviderNotStarted    the file may be well, but what was to run it is not there
"""


class ZooRuntimeError(Exception):
    """Base of every error that zoo_runtime raises on purpose."""


class PictureError(ZooRuntimeError):
    """Base of everything that is wrong with a picture."""


class PictureNotFound(PictureError):
    """There is no file at that path, or it may not be read."""


class NotAPicture(PictureError):
    """The file is empty, or of no format that is read here."""


class CorruptPicture(PictureError):
    """The file is truncated or damaged; no pixels are made up for what is missing."""


class PictureTooLarge(PictureError):
    """The picture has more pixels than the bound allows."""


class UnsupportedPicture(PictureError):
    """The pixels have no defined 8-bit meaning."""


class NotWritten(ZooRuntimeError):
    """A result cannot be written: no permission, or a full disk."""


class NotMeasured(ZooRuntimeError):
    """A process that was to be timed failed."""


class ModelError(ZooRuntimeError):
    """Base of everything that is wrong with a model file."""


class ModelNotFound(ModelError):
    """There is no file at that path, or it may not be read."""


class CorruptModel(ModelError):
    """onnxruntime cannot load the file, or its metadata do not hold together."""


class NotAnExport(ModelError):
    """An ONNX file that does not describe itself; zoo did not export it."""


class UnknownSchema(ModelError):
    """Exported for a newer runtime; guessing at its meaning could give wrong answers."""


class UnknownTask(ModelError):
    """A task that this runtime does not know."""


class ProviderNotStarted(ModelError):
    """An execution provider that onnxruntime was built with cannot work on this machine."""
