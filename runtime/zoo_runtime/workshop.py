"""What only the package `zoo` needs from `zoo_runtime`: how files are told apart, formatted and measured in training.

Programs that label pictures need only the names in `zoo_runtime.__all__`. The names here may change with any version of
zoo. Every name that is imported here is public for `zoo`; `zoo` uses no other name of a private module.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from ._busy import OtherPrograms
from ._choice import parse_formats
from ._cores import usable_cores
from ._drift import pixel_figures
from ._engine import exported_in
from ._format import INPUT, OUTPUT
from ._kinds import conversion_advice, is_picture, is_readable
from ._limit import format_pixels, parse_pixels, with_option_names
from ._listing import IGNORED
from ._other import OtherPredictor
from ._own import is_quarantine, is_written_by_zoo
from ._pairs import Pairs, time_pairs
from ._selftest import record, versions
from ._session import parse_providers, session_options

WEIGHTS_DIGEST = "zoo.weights_sha256"
"""The metadata entry of an OpenVINO model that holds the SHA-256 of its weights, as a JSON string."""

if _TYPE_CHECKING:
    from ._print import format_accuracy, print_predictions
    from ._tflite import with_labels

__all__ = [
    "IGNORED",
    "INPUT",
    "OUTPUT",
    "WEIGHTS_DIGEST",
    "OtherPredictor",
    "OtherPrograms",
    "Pairs",
    "conversion_advice",
    "exported_in",
    "format_accuracy",
    "format_pixels",
    "is_picture",
    "is_quarantine",
    "is_readable",
    "is_written_by_zoo",
    "parse_formats",
    "parse_pixels",
    "parse_providers",
    "pixel_figures",
    "print_predictions",
    "record",
    "session_options",
    "time_pairs",
    "usable_cores",
    "versions",
    "with_labels",
    "with_option_names",
]


def __getattr__(name: str) -> _Any:
    """Import what formats and prints text on its first use, because most programs do not need it."""
    if name in ("format_accuracy", "print_predictions"):
        from . import _print

        return getattr(_print, name)
    if name == "with_labels":
        from ._tflite import with_labels

        return with_labels
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
