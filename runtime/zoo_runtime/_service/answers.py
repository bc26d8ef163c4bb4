"""Turns a picture into the answer of the path /predict: what `zoo-runtime predict --json` prints, and the model."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from typing import Any

from .._errors import CorruptPicture, NotAPicture, PictureError, PictureTooLarge, UnsupportedPicture
from .._limit import with_option_names
from .._rows import prediction_json
from .limits import Refused
from .metrics import Metrics
from .models import Model

# Statuses: the file is too large, is none that can be read, or is damaged.
_STATUS: Mapping[type[PictureError], int] = {
    PictureTooLarge: 413,
    NotAPicture: 415,
    UnsupportedPicture: 415,
    CorruptPicture: 422,
}


def predict(
    model: Model, picture: bytes, *, top: int | None, coverage: float | None, alone: bool, metrics: Metrics
) -> bytes:
    """Classify a picture.

    Args:
        model: The model. The file that answers now answers the whole request.
        picture: The bytes of the picture's file.
        top: How many classes to return, likeliest first. None means all, in the order of the file.
        coverage: Also return the label set with this coverage. None returns none.
        alone: Whether no other picture is being classified.
        metrics: Counts the picture.

    Returns:
        The answer as JSON.

    Raises:
        Refused: If the picture cannot be read, or the file has no label sets of this coverage.
    """
    current = model.current
    predictor = current.alone if alone else current.shared
    started = time.perf_counter()
    try:
        # As a file: for bytes, the decoder looks whether they are the path of a file here, and says so to help.
        result = predictor(io.BytesIO(picture))
    except PictureError as error:
        metrics.picture_errors.labels(model.name, type(error).__name__).inc()
        raise refusal(error) from None
    metrics.prediction_seconds.labels(model.name).observe(time.perf_counter() - started)
    metrics.count(model.name, current.trust, result.confidence, result.outlier_score)
    try:
        answer = prediction_json(result, predictor.info, top, coverage)
    except ValueError as error:
        raise Refused(400, "BadQuery", f"coverage: {error}") from None
    return dump({"model": model.name, "version": current.version, **answer})


def refusal(error: PictureError, place: str = "") -> Refused:
    """Return the answer for a picture that cannot be read.

    Args:
        error: The error of the decoder.
        place: Which picture it is, such as "picture 3: ", if the request has several.
    """
    message = str(error).removeprefix("the file given: ")
    # Whoever asks over HTTP has no `Predictor`: what helps is an option of the command.
    message = with_option_names(message).replace("; --", "; zoo-runtime serve --")
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 422)
    return Refused(status, type(error).__name__, place + message)


def dump(answer: Mapping[str, Any]) -> bytes:
    """Return an answer as JSON.

    Raises:
        Refused: If it has numbers that JSON cannot express, because the network is broken.
    """
    try:
        return json.dumps(answer, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        raise Refused(
            500,
            "BadNetwork",
            "The network returned values that are not numbers for this picture. Export the model again.",
        ) from None


def describe(model: Model) -> dict[str, Any]:
    """Return what a client needs to know about a model, for the path /models."""
    current = model.current
    info = current.alone.info
    return {
        "name": model.name,
        "version": current.version,
        "classes": list(info.classes),
        "task": info.task,
        "size": list(info.image.size),
        "channels": info.image.channels,
        "architecture": info.architecture.get("name"),
        "unknown_below": current.trust.unknown_below,
        "outlier_above": current.trust.outlier_above,
        "coverages": sorted(map(float, current.trust.sets)),
        "opened_at": current.opened_at,
        "problem": model.problem,
    }
