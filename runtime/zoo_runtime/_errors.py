"""Defines the errors that zoo_runtime raises, as one tree.

ZooRuntimeError
├── PictureError
│   ├── PictureNotFound       the file does not exist, or cannot be read
│   ├── NotAPicture           the file is empty, or its format is not supported
│   ├── CorruptPicture        the file is truncated or damaged
│   ├── PictureTooLarge       the picture has more pixels than the limit allows, or does not fit into memory
│   └── UnsupportedPicture    the pixels cannot be converted to 8 bits (32-bit floats, Lab), or an array is not uint8
├── CameraError               a camera, a stream or a video cannot be opened, or its package is missing
├── NotWritten                a result cannot be saved: no permission, or a full disk
├── NotMeasured               a process that was started in order to measure its time has failed
├── NotUpdated                a new file is not put in the place of the present one, which stays
└── ModelError
    ├── ModelNotFound         the file does not exist, cannot be read, or has changed since a predictor was pickled
    ├── CorruptModel          the engine cannot load the file, or its metadata or its self-test cannot be used
    ├── NotAnExport           the file is of another kind, such as a picture, or ONNX that zoo did not export
    ├── UnsafeModel           the file has what an exported file never has, such as external data
    ├── BadSignature          a signature is missing, is of another key or file, or cannot be checked
    ├── UnknownSchema         the metadata of the file have a version that this runtime does not know
    ├── UnknownTask           the file has no task, or a task that this runtime does not know
    ├── EngineNotInstalled    the file needs LiteRT or OpenVINO, which is not installed
    └── ProviderNotStarted    the file may be fine, but an execution provider cannot run here

Wrong arguments raise ValueError or TypeError instead.
"""


class ZooRuntimeError(Exception):
    """Base class of all errors that zoo_runtime defines."""


class PictureError(ZooRuntimeError):
    """Base class of all errors about a picture."""


class PictureNotFound(PictureError):
    """The file or folder does not exist or cannot be read, or the folder contains no picture."""


class NotAPicture(PictureError):
    """The file is empty, or its format is not supported."""


class CorruptPicture(PictureError):
    """The file is truncated or damaged. It is refused, because its missing pixels would have to be made up."""


class PictureTooLarge(PictureError):
    """The picture has more pixels than the limit allows, or needs more memory than the machine has.

    A side of more than 65,535 pixels is never accepted.
    """


class UnsupportedPicture(PictureError):
    """The pixels cannot be converted to 8 bits, or an object of an unsupported type, dtype or shape was passed.

    32-bit floats and Lab colors cannot be converted, because no rule says how to scale them to 0..255.
    """


class CameraError(ZooRuntimeError):
    """A camera, a stream or a video cannot be opened, or the package that reads it is not installed."""


class NotWritten(ZooRuntimeError):
    """A result cannot be saved: the folder is write-protected, or the disk is full."""


class NotMeasured(ZooRuntimeError):
    """A speed measurement has failed, because the process that was timed ended with an error."""


class NotUpdated(ZooRuntimeError):
    """A new exported file is not put in the place of the present one, or there is no earlier file to go back to.

    The present file stays as it is.
    """


class ModelError(ZooRuntimeError):
    """Base class of all errors about an exported file."""


class ModelNotFound(ModelError):
    """The file does not exist, cannot be read, or has changed since a predictor was pickled."""


class CorruptModel(ModelError):
    """The file cannot be loaded by its engine, or its metadata or its self-test cannot be used.

    The metadata are damaged or do not match the graph, or the self-test is damaged or missing.
    """


class NotAnExport(ModelError):
    """The file is of another kind, such as a picture or a PyTorch file, or it is an ONNX model without zoo metadata."""


class UnsafeModel(ModelError):
    """The file has something that exported files never have, so it is refused before ONNX Runtime opens it.

    This can be external data, an operator of another maker, or a constant that asks for a huge tensor.
    """


class BadSignature(ModelError):
    """The signature of the file is missing or damaged, is of another key or another file, or cannot be checked here."""


class UnknownSchema(ModelError):
    """The metadata of the file have a version that this runtime does not know.

    The file is refused, because the runtime could misread such metadata and predict wrong classes.
    """


class UnknownTask(ModelError):
    """The file has no task, or a task that this runtime does not know."""


class EngineNotInstalled(ModelError):
    """The file is for another engine than ONNX Runtime, such as LiteRT, and that engine is not installed."""


class ProviderNotStarted(ModelError):
    """An execution provider, such as "cuda", cannot run the file on this machine. The file itself may be fine."""
