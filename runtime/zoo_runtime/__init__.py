"""Runs image classifiers exported by zoo. Needs only ONNX Runtime, numpy and Pillow.

Example:

    from zoo_runtime import Predictor

    predictor = Predictor("model.onnx")
    print(predictor("cat.jpg").label)

`zoo_runtime.workshop` has what only the package `zoo` needs.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from ._choice import DEFAULT_FORMATS, FORMATS
from ._decode import SUFFIXES, decode, highest_level
from ._drift import DriftCounter, Shift
from ._errors import (
    BadSignature,
    CameraError,
    CorruptModel,
    CorruptPicture,
    EngineNotInstalled,
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
from ._format import ImageSpec, ModelInfo
from ._limit import MAX_PIXELS
from ._listing import list_pictures
from ._predictor import Prediction, Predictor
from ._selftest import CheckResult, check
from ._session import Settings
from ._version import __version__

if _TYPE_CHECKING:
    from ._fake import FakePredictor
    from ._signature import Signer, verify_signature
    from ._update import Updated, rollback, update
    from ._watch.frames import frames
    from ._watch.vote import Vote

__all__ = [
    "DEFAULT_FORMATS",
    "FORMATS",
    "MAX_PIXELS",
    "SUFFIXES",
    "BadSignature",
    "CameraError",
    "CheckResult",
    "CorruptModel",
    "CorruptPicture",
    "DriftCounter",
    "EngineNotInstalled",
    "FakePredictor",
    "ImageSpec",
    "ModelError",
    "ModelInfo",
    "ModelNotFound",
    "NotAPicture",
    "NotAnExport",
    "NotMeasured",
    "NotUpdated",
    "NotWritten",
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
    "decode",
    "frames",
    "highest_level",
    "list_pictures",
    "rollback",
    "update",
    "verify_signature",
]


# Names that are imported on their first use, because most programs do not need them, and where they are.
_LATER = {
    "FakePredictor": "_fake",
    "Signer": "_signature",
    "verify_signature": "_signature",
    "Updated": "_update",
    "rollback": "_update",
    "update": "_update",
    "Vote": "_watch.vote",
    "frames": "_watch.frames",
}


def __getattr__(name: str) -> _Any:
    """Import on first use what few programs need, and what earlier versions had here and `workshop` has now."""
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(f".{_LATER[name]}", __name__), name)
    if not name.startswith("_"):
        from . import workshop

        if name in workshop.__all__:
            return getattr(workshop, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
