"""The errors that zoo_runtime raises, as one tree.

ZooRuntimeError
├── PictureError
│   ├── PictureNotFound       the file does not exist, or may not be read
│   ├── NotAPicture           the file is empty, or its format is not supported
│   ├── CorruptPicture        the file is truncated or damaged
│   ├── PictureTooLarge       the picture has more pixels than the limit allows
│   └── UnsupportedPicture    the pixels have no defined 8-bit meaning (32-bit float, Lab, arrays of another dtype)
├── NotWritten                a result cannot be saved: no permission, or a full disk
├── NotMeasured               a process that was being timed failed
└── ModelError
    ├── ModelNotFound         the file does not exist, or may not be read
    ├── CorruptModel          onnxruntime cannot load the file, or its metadata contradict one another
    ├── NotAnExport           the file is ONNX, but zoo did not export it
    ├── UnknownSchema         the file was exported by a version of zoo that this runtime does not know
    ├── UnknownTask           this runtime does not know the file's task
    └── ProviderNotStarted    the file may be fine, but an execution provider cannot run here
"""


class ZooRuntimeError(Exception):
    """Base of every error that zoo_runtime raises on purpose."""


class PictureError(ZooRuntimeError):
    """Base of every error about a picture."""


class PictureNotFound(PictureError):
    """The file does not exist, or it may not be read."""


class NotAPicture(PictureError):
    """The file is empty, or its format is not supported."""


class CorruptPicture(PictureError):
    """The file is truncated or damaged. The decoder never makes up missing pixels."""


class PictureTooLarge(PictureError):
    """The picture has more pixels than the limit allows."""


class UnsupportedPicture(PictureError):
    """The pixels have no defined 8-bit meaning."""


class NotWritten(ZooRuntimeError):
    """A result cannot be saved: the folder is write-protected, or the disk is full."""


class NotMeasured(ZooRuntimeError):
    """A process that was being timed failed."""


class ModelError(ZooRuntimeError):
    """Base of every error about a model file."""


class ModelNotFound(ModelError):
    """The file does not exist, or it may not be read."""


class CorruptModel(ModelError):
    """onnxruntime cannot load the file, or its metadata contradict one another."""


class NotAnExport(ModelError):
    """The file is ONNX, but it has no zoo metadata: zoo did not export it."""


class UnknownSchema(ModelError):
    """The file was exported for a newer runtime. Guessing at its meaning could give wrong answers."""


class UnknownTask(ModelError):
    """This runtime does not know the file's task."""


class ProviderNotStarted(ModelError):
    """onnxruntime has the execution provider, but it cannot run on this machine."""
