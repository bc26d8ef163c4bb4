"""The forms of an answer that `predict` and `watch` share: a line of text, a JSON object, and a row of a table."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ._decode import printable
from ._errors import NotAPicture, PictureError, PictureTooLarge
from ._format import ModelInfo
from ._given import LONGEST_PATH, shortened
from ._limit import with_option_names
from ._predictor import Prediction

PROBABILITY = "p_"
"""The names of columns with probabilities begin with this, so that a class cannot have the name of another column."""


def prediction_json(
    result: Prediction, info: ModelInfo, top: int | None = None, coverage: float | None = None
) -> dict[str, Any]:
    """Return a prediction as a JSON object.

    Args:
        result: The prediction.
        info: The metadata of the file that predicted.
        top: How many classes to list, likeliest first. None lists all, in the order of the file.
        coverage: Also list the label set with this coverage; None lists none.

    Raises:
        ValueError: If the file has no label sets with this coverage.
    """
    values: dict[str, Any] = {
        "label": result.label,
        "confidence": result.confidence,
        "probabilities": dict(result.top(top)) if top else result.probabilities,
    }
    if info.task == "multilabel":
        values["labels"] = list(result.labels)
    if info.trust:
        values["unknown"] = result.unknown
    if result.outlier_score is not None:
        values |= {"outlier_score": result.outlier_score, "outlier": result.outlier}
    if coverage is not None:
        values["sets"] = {f"{coverage:g}": list(result.labels_at(coverage))}
    return values


def answer(
    path: str, result: Prediction, info: ModelInfo, top: int | None = None, coverage: float | None = None
) -> dict[str, Any]:
    """Return a prediction with the name of its picture as a JSON object; see `prediction_json`."""
    return {"path": path, **prediction_json(result, info, top, coverage)}


def failure(path: str, error: PictureError) -> dict[str, Any]:
    """Return why a picture cannot be read as a JSON object."""
    path = path if len(path) <= LONGEST_PATH else shortened(path)
    return {"path": path, "error": type(error).__name__, "message": message_of(error)}


def message_of(error: PictureError) -> str:
    """Return the message of an error, with the options of the commands in place of arguments of `Predictor`."""
    return with_option_names(str(error)) if isinstance(error, (NotAPicture, PictureTooLarge)) else str(error)


def answer_text(result: Prediction, info: ModelInfo, top: int | None = None, coverage: float | None = None) -> str:
    """Return a prediction as text, such as "cats 0.9981"."""
    # A multi-label network shows the labels that apply. With --top, it shows the likeliest in any case.
    count = top or (len(result.labels) if info.task == "multilabel" else 1)
    shown = "  ".join(f"{label} {p:.4f}" for label, p in result.top(count)) or "no class"
    shown = f"unknown ({shown})" if result.unknown else shown
    if coverage is not None:
        shown += f"  {{{', '.join(result.labels_at(coverage))}}}"
    return shown + ("  (unlike the training pictures)" if result.outlier else "")


def failure_text(path: str, error: PictureError) -> str:
    """Return a line that says why a picture cannot be read. It begins with the name of the picture, once."""
    message = message_of(error)
    # A name that is no path can be a page of base64 text.
    shown = path if os.path.lexists(path) else shortened(path)
    for name in (path, shown, "the data given", "the file given", "the array"):
        message = message.removeprefix(f"{printable(name)}: ").removeprefix(f"{name!r} ")
    return one_line(f"{shown}: {message}")


def columns(info: ModelInfo) -> list[str]:
    """Return the names of the columns of a table of answers. They depend on the classes alone."""
    fixed = ["time", "path", "position", "label", "labels", "confidence", "unknown", "outlier_score", "outlier"]
    return [*fixed, "error", "message", *(PROBABILITY + name for name in info.classes)]


def row(line: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return the cells of a JSON object of this module in a table.

    A cell is empty if the object lacks the entry. Line breaks become escape sequences, so that each row is one line.
    """
    probabilities = {PROBABILITY + name: value for name, value in line.get("probabilities", {}).items()}
    return [_cell(probabilities.get(name, line.get(name))) for name in names]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return one_line("|".join(map(str, value)))
    return one_line(value) if isinstance(value, str) else json.dumps(value)


def one_line(text: str) -> str:
    """Replace the unprintable characters of a string with escape sequences.

    Each picture is printed on one line. If a file name has a line break, the rest of the name would otherwise look like
    the line of another picture.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def utc(seconds: float) -> str:
    """Return a time in seconds since 1970 as ISO 8601 in UTC with milliseconds: "2026-11-27T10:21:07.123Z"."""
    import time

    whole = int(seconds // 1)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int((seconds - whole) * 1000):03}Z"
