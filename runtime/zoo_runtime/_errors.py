"""Defines the errors that zoo_runtime raises, as one tree.

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
    ├── CorruptModel          onnxruntime cannot load the file, or its metadata are damaged or do not fit the graph
    ├── NotAnExport           the file is ONNX, but zoo did not export it
    ├── UnknownSchema         the file was exported by a version of zoo that this runtime does not know
    ├── UnknownTask           this runtime does not know the file's task
    └── ProviderNotStarted    the file may be fine, but an execution provider cannot run here

Wrong arguments raise ValueError or TypeError instead.
"""


class ZooRuntimeError(Exception):
    """Base of all errors that zoo_runtime defines."""


class PictureError(ZooRuntimeError):
    """Base of all errors about a picture."""


class PictureNotFound(PictureError):
    """The file or folder does not exist or may not be read, or a folder contains no picture."""


class NotAPicture(PictureError):
    """The file is empty, or its format is not supported."""


class CorruptPicture(PictureError):
    """The file is truncated or damaged. It is refused, because its missing pixels would have to be made up."""


class PictureTooLarge(PictureError):
    """The picture has more pixels than the limit allows, or needs more memory than the machine has.

    A side of more than 65,535 pixels is never accepted.
    """


class UnsupportedPicture(PictureError):
    """The pixels have no defined 8-bit meaning, or the picture was given in an unsupported form."""


class NotWritten(ZooRuntimeError):
    """A result cannot be saved: the folder is write-protected, or the disk is full."""


class NotMeasured(ZooRuntimeError):
    """A process that was started in order to measure its time has failed."""


class ModelError(ZooRuntimeError):
    """Base of all errors about an exported file."""


class ModelNotFound(ModelError):
    """The file does not exist, or it may not be read."""


class CorruptModel(ModelError):
    """onnxruntime cannot load the file, or its metadata or self-test are damaged or do not fit the graph."""


class NotAnExport(ModelError):
    """The file is an ONNX model, but zoo did not export it: it has no zoo metadata."""


class UnknownSchema(ModelError):
    """The file uses a version of the metadata that this runtime does not know, so it could give wrong answers."""


class UnknownTask(ModelError):
    """This runtime does not know the file's task."""


class ProviderNotStarted(ModelError):
    """An execution provider, such as "cuda", cannot run the file on this machine. The file itself may be fine."""
