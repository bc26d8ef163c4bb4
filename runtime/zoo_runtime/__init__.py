"""zoo_runtime: runs image classifiers exported by zoo, with onnxruntime, numpy and Pillow.

from zoo_runtime import Predictor

predictor = Predictor("model.onnx")
print(predictor("cat.jpg").label)
"""

import os as _os

# From 1.29 on, ONNX Runtime tells its makers of every process and writes an identifier to the disk, unless this stands
# in the environment before it is imported (https://github.com/microsoft/onnxruntime/pull/27379). Yours is kept.
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from ._decode import MAX_PIXELS, SUFFIXES, decode
from ._errors import (
    CorruptModel,
    CorruptPicture,
    ModelError,
    ModelNotFound,
    NotAnExport,
    NotAPicture,
    NotMeasured,
    NotWritten,
    PictureError,
    PictureNotFound,
    PictureTooLarge,
    ProviderNotStarted,
    UnknownSchema,
    UnknownTask,
    UnsupportedPicture,
    ZooRuntimeError,
)
from ._format import INPUT, OUTPUT, ImageSpec, ModelInfo
from ._pairs import Pairs, time_pairs
from ._predictor import Prediction, Predictor, list_pictures
from ._selftest import CheckResult, check, record, versions
from ._session import Settings
from ._version import __version__

__all__ = [
    "INPUT",
    "MAX_PIXELS",
    "OUTPUT",
    "SUFFIXES",
    "CheckResult",
    "CorruptModel",
    "CorruptPicture",
    "ImageSpec",
    "ModelError",
    "ModelInfo",
    "ModelNotFound",
    "NotAPicture",
    "NotAnExport",
    "NotMeasured",
    "NotWritten",
    "Pairs",
    "PictureError",
    "PictureNotFound",
    "PictureTooLarge",
    "Prediction",
    "Predictor",
    "ProviderNotStarted",
    "Settings",
    "UnknownSchema",
    "UnknownTask",
    "UnsupportedPicture",
    "ZooRuntimeError",
    "__version__",
    "check",
    "decode",
    "list_pictures",
    "record",
    "time_pairs",
    "versions",
]
