"""Runs image classifiers exported by zoo. Needs only ONNX Runtime, numpy and Pillow.

Example:

    from zoo_runtime import Predictor

    predictor = Predictor("model.onnx")
    print(predictor("cat.jpg").label)
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from ._decode import SUFFIXES, decode, highest_level
from ._drift import DriftCounter, Shift, pixel_figures
from ._errors import (
    BadSignature,
    CameraError,
    CorruptModel,
    CorruptPicture,
    ModelError,
    ModelNotFound,
    NotAnExport,
    NotAPicture,
    NotMeasured,
    NotUpdated,
    NotWritten,
    PictureError,
    PictureNotFound,
    PictureTooLarge,
    ProviderNotStarted,
    UnknownSchema,
    UnknownTask,
    UnsafeModel,
    UnsupportedPicture,
    ZooRuntimeError,
)
from ._format import INPUT, OUTPUT, ImageSpec, ModelInfo
from ._kinds import conversion_advice, is_picture, is_readable
from ._limit import MAX_PIXELS, format_pixels, parse_pixels, with_option_names
from ._listing import IGNORED, list_pictures
from ._own import is_quarantine, is_written_by_zoo
from ._pairs import Pairs, time_pairs
from ._predictor import Prediction, Predictor
from ._selftest import CheckResult, check, record, versions
from ._session import Settings, parse_providers
from ._version import __version__

if _TYPE_CHECKING:
    from ._print import format_accuracy, print_predictions
    from ._signature import Signer, verify_signature
    from ._update import Updated, rollback, update
    from ._watch.frames import frames
    from ._watch.vote import Vote

__all__ = [
    "IGNORED",
    "INPUT",
    "MAX_PIXELS",
    "OUTPUT",
    "SUFFIXES",
    "BadSignature",
    "CameraError",
    "CheckResult",
    "CorruptModel",
    "CorruptPicture",
    "DriftCounter",
    "ImageSpec",
    "ModelError",
    "ModelInfo",
    "ModelNotFound",
    "NotAPicture",
    "NotAnExport",
    "NotMeasured",
    "NotUpdated",
    "NotWritten",
    "Pairs",
    "PictureError",
    "PictureNotFound",
    "PictureTooLarge",
    "Prediction",
    "Predictor",
    "ProviderNotStarted",
    "Settings",
    "Shift",
    "Signer",
    "UnknownSchema",
    "UnknownTask",
    "UnsafeModel",
    "UnsupportedPicture",
    "Updated",
    "Vote",
    "ZooRuntimeError",
    "__version__",
    "check",
    "conversion_advice",
    "decode",
    "format_accuracy",
    "format_pixels",
    "frames",
    "highest_level",
    "is_picture",
    "is_quarantine",
    "is_readable",
    "is_written_by_zoo",
    "list_pictures",
    "parse_pixels",
    "parse_providers",
    "pixel_figures",
    "print_predictions",
    "record",
    "rollback",
    "time_pairs",
    "update",
    "verify_signature",
    "versions",
    "with_option_names",
]


# Names that are imported on their first use, because most programs do not need them, and where they are.
_LATER = {
    "format_accuracy": "_print",
    "print_predictions": "_print",
    "Signer": "_signature",
    "verify_signature": "_signature",
    "Updated": "_update",
    "rollback": "_update",
    "update": "_update",
    "Vote": "_watch.vote",
    "frames": "_watch.frames",
}


def __getattr__(name: str) -> object:
    """Import what formats text, watches cameras, checks signatures or replaces files on its first use."""
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
