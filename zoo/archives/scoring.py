"""Turns pictures into rows of answers. It knows no engine and no file format, so that every engine can call it.

The pictures go through `zoo_runtime.Predictor`, so that they are decoded as on the device and in training.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from zoo_runtime import MAX_PIXELS, NotAPicture, PictureError, PictureTooLarge, Prediction, Predictor
from zoo_runtime.workshop import exported_in, with_option_names

COLUMNS = {
    "path": "string",
    "label": "string",
    "labels": "array<string>",
    "confidence": "float",
    "probabilities": "array<float>",
    "unknown": "boolean",
    "outlier_score": "float",
    "outlier": "boolean",
    "label_set": "array<string>",
    "error": "string",
    "message": "string",
}
"""The columns of the answers and their types, in the words of Spark. docs/archives.md explains them."""

SPARK_TYPES = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
"""The same as the text that Spark takes for the type of a pandas UDF."""

# How `zoo_runtime` calls a picture that it got as bytes, at the beginning of a message.
_DATA = "the data given"


class Scorer:
    """Answers what pictures show, one row per picture.

    Args:
        model: The exported file: its path, or its bytes, which can be sent to other machines.
        threads: The number of threads, 1 to 256. None means one per core.
        providers: As for `zoo_runtime.Predictor`.
        max_pixels: The largest picture to decode, in pixels of color; None means the default.
        formats: The formats of pictures that are read; None means the common ones.
        coverage: Also give the label set with this coverage: 0.9, 0.95 or 0.99. None gives none.

    Attributes:
        info: The metadata of the file. `info.classes` has the order of the probabilities.
        digest: The SHA-256 of the file, in hexadecimal digits. An OpenVINO model is known by its model.xml.

    Raises:
        ModelError: The file cannot be used.
        ValueError: An argument has a wrong value, or the file has no label sets with this coverage.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        *,
        threads: int | None = 1,
        providers: Sequence[str] | None = None,
        max_pixels: int | None = None,
        formats: Sequence[str] | None = None,
        coverage: float | None = None,
    ) -> None:
        self._predictor = Predictor(
            model,
            threads=threads,
            providers=providers,
            # What `zoo-runtime tune` finds is the best for one picture at a time, on one machine.
            tuned=False,
            max_pixels=max_pixels or MAX_PIXELS,
            formats=formats,
        )
        self.info = self._predictor.info
        self.digest = hashlib.sha256(model if isinstance(model, bytes) else _content(model)).hexdigest()
        self._coverage = coverage
        if coverage is not None:
            sets = sorted((self.info.trust or {}).get("sets", {}))
            if f"{coverage:g}" not in sets:
                known = f"it has those with {', '.join(sets)}" if sets else "it has none"
                raise ValueError(f"the file has no label sets with the coverage {coverage:g}; {known}.")

    def rows(
        self, names: Iterable[str], pictures: Iterable[str | bytes | bytearray | PictureError | None]
    ) -> dict[str, list[Any]]:
        """Answer what pictures show. A picture that cannot be read gets a row with the error.

        Args:
            names: The name of each picture, for the column `path` and for messages.
            pictures: Each picture: a path, the bytes of its file, None if there is none, or the error that kept it
                from being read.

        Returns:
            A list for each of `COLUMNS`, with one entry per picture, in the order of the pictures. This is what pandas,
            pyarrow and Ray Data take for a table.
        """
        known = [printable(name) for name in names]
        # A column of pandas holds NaN where it has no picture.
        sources = [_given(each) for each in pictures]
        if len(known) != len(sources):
            raise ValueError(f"there must be a name for each picture. Received: {len(known)} and {len(sources)}.")
        good = [source for source in sources if not isinstance(source, PictureError)]
        answers = iter(self._predictor.predict_each(good))
        columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        for name, source in zip(known, sources, strict=True):
            answer = source if isinstance(source, PictureError) else next(answers)
            row = failure(name, answer) if isinstance(answer, PictureError) else self._row(name, answer)
            for column, values in columns.items():
                values.append(row.get(column))
        return columns

    def _row(self, name: str, answer: Prediction) -> dict[str, Any]:
        return {
            "path": name,
            "label": answer.label,
            "labels": list(answer.labels),
            "confidence": answer.confidence,
            "probabilities": list(answer.probabilities.values()),
            "unknown": answer.unknown,
            "outlier_score": answer.outlier_score,
            "outlier": None if answer.outlier_score is None else answer.outlier,
            "label_set": None if self._coverage is None else list(answer.labels_at(self._coverage)),
        }


def _content(model: str | os.PathLike[str]) -> bytes:
    path = os.fspath(model)
    return Path(path if os.path.isfile(path) else exported_in(path)[0]).read_bytes()


def failure(name: str, error: Exception) -> dict[str, Any]:
    """Return the row of a picture that cannot be read: its name, the type of the error, and the message."""
    text = str(error)
    if isinstance(error, (NotAPicture, PictureTooLarge)):
        text = with_option_names(text)
    if text.startswith(_DATA):
        text = printable(name) + text.removeprefix(_DATA)
    return {"path": printable(name), "error": type(error).__name__, "message": printable(text)}


def printable(name: str) -> str:
    """Return a name as text that Parquet can hold: bytes that are not UTF-8 become escapes such as `\\udce9`."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def _given(picture: Any) -> str | bytes | PictureError:
    """Return a picture, or an error if there is none."""
    if picture is None or (isinstance(picture, float) and picture != picture):
        return NotAPicture("there is no picture.")
    return bytes(picture) if isinstance(picture, (bytearray, memoryview)) else picture
