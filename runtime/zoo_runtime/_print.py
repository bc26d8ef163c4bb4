"""Prints predictions line by line, for the commands `zoo-runtime predict` and `zoo predict`, and formats accuracies."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from ._decode import printable
from ._errors import NotAPicture, PictureError, PictureTooLarge
from ._format import ModelInfo
from ._given import LONGEST_PATH, shortened
from ._limit import MAX_PIXELS, with_option_names
from ._listing import PassedOver, expand, no_picture_in
from ._predictor import Prediction, Predictor
from ._session import Provider
from ._trust import Trust, known_coverage


def print_predictions(
    model: str,
    paths: Sequence[str],
    *,
    top: int | None = None,
    as_json: bool = False,
    threads: int | None = None,
    providers: Sequence[Provider] | None = None,
    max_pixels: int = MAX_PIXELS,
    formats: Sequence[str] | None = None,
    coverage: float | None = None,
) -> int:
    """Predict the classes of pictures, and print one line per picture.

    A picture or folder that cannot be read does not stop the others. Its error is printed to standard error or, with
    `as_json`, as a JSON object to standard output. If files in folders are passed over because their endings are not
    those of pictures, a last line on standard error counts them.

    Args:
        model: Path of an exported file, or of the folder that holds it.
        paths: Pictures, folders of pictures, patterns such as `photos/*.jpg`, and `-` for standard input.
        top: How many classes to print per picture, likeliest first. None means only the predicted labels if the output
            is text, and all classes if it is JSON.
        as_json: Print one JSON object per picture instead of text.
        threads: See `Predictor`.
        providers: See `Predictor`.
        max_pixels: See `Predictor`.
        formats: See `Predictor`.
        coverage: Also print the label set of each picture; see `Prediction.labels_at`. None prints no sets.

    Returns:
        The exit code: 0, or 1 if a picture or a folder could not be read.

    Raises:
        ModelError: If the exported file cannot be used. See `Predictor`.
        TypeError: If `max_pixels` is not a number, or `formats` is not a list of names.
        ValueError: If `threads`, `providers`, `max_pixels` or `formats` has a wrong value; see `Predictor`. Or if
            the file has no label sets with this coverage.
        PictureNotFound: If the paths contain no picture, although all folders can be read.
    """
    failed = False

    def refuse(path: str, error: PictureError) -> None:
        nonlocal failed
        failed = True
        print_error(path, error, as_json)

    predictor = Predictor(model, threads=threads, providers=providers, max_pixels=max_pixels, formats=formats)
    if coverage is not None:
        known_coverage(Trust.from_json(predictor.info.trust).sets, coverage)
    passed_over = PassedOver()
    listed = list(expand(paths, refuse, passed_over))
    results = predictor.predict_each([source for _, source in listed])
    for (name, _), result in zip(listed, results, strict=True):
        if isinstance(result, PictureError):
            refuse(name, result)
        else:
            _print_prediction(name, result, predictor.info, top, coverage, as_json)
    if not listed and not failed:
        raise no_picture_in(paths, passed_over)
    if passed_over:
        advice = f". {passed_over.advice()}" if passed_over.advice() else ""
        print(one_line(f"passed over: {passed_over}{advice}"), file=sys.stderr)
    return 1 if failed else 0


def _print_prediction(
    path: str, result: Prediction, info: ModelInfo, top: int | None, coverage: float | None, as_json: bool
) -> None:
    sets = {} if coverage is None else {f"{coverage:g}": list(result.labels_at(coverage))}
    if as_json:
        line: dict[str, object] = {
            "path": path,
            "label": result.label,
            "confidence": result.confidence,
            "probabilities": dict(result.top(top)) if top else result.probabilities,
        }
        if info.task == "multilabel":
            line["labels"] = list(result.labels)
        if info.trust:
            line["unknown"] = result.unknown
        if result.outlier_score is not None:
            line |= {"outlier_score": result.outlier_score, "outlier": result.outlier}
        if sets:
            line["sets"] = sets
        print(json.dumps(line), flush=True)
        return
    # A multi-label network shows the labels that apply. With --top, it shows the likeliest in any case.
    count = top or (len(result.labels) if info.task == "multilabel" else 1)
    shown = "  ".join(f"{label} {p:.4f}" for label, p in result.top(count)) or "no class"
    shown = f"unknown ({shown})" if result.unknown else shown
    for labels in sets.values():
        shown += f"  {{{', '.join(labels)}}}"
    shown += "  (unlike the training pictures)" if result.outlier else ""
    print(one_line(f"{path}: {shown}"), flush=True)


def print_error(path: str, error: PictureError, as_json: bool) -> None:
    """Print why a picture cannot be read: to standard error or, with `as_json`, as JSON to standard output."""
    message = str(error)
    if isinstance(error, (NotAPicture, PictureTooLarge)):
        message = with_option_names(message)
    if as_json:
        path = path if len(path) <= LONGEST_PATH else shortened(path)
        print(json.dumps({"path": path, "error": type(error).__name__, "message": message}), flush=True)
        return
    # A name that is no path can be a page of base64 text.
    shown = path if os.path.lexists(path) else shortened(path)
    for name in (path, shown, "the data given"):
        message = message.removeprefix(f"{printable(name)}: ").removeprefix(f"{name!r} ")
    print(one_line(f"{shown}: {message}"), file=sys.stderr)


def format_accuracy(accuracy: float, interval: Sequence[float], pictures: int | None = None) -> str:
    """Format an accuracy and its 95 % confidence interval, with as many decimals as the interval justifies.

    Args:
        accuracy: The fraction of pictures with a correct answer, in 0..1.
        interval: The lower and the upper bound of the confidence interval, in 0..1.
        pictures: The number of pictures; None leaves it out.

    Returns:
        A text such as "0.94 (0.89 to 0.97 with 95 % confidence, 150 pictures)". The accuracy is rounded to 0 or 1 only
        if it is 0 or 1.
    """
    low, high = interval
    width = high - low
    decimals = 2 if width >= 0.02 else 3 if width >= 0.002 else 4
    exact = decimals
    while exact < 6 and round(accuracy, exact) in (0, 1) and accuracy not in (0, 1):
        exact += 1
    count = "" if pictures is None else f", {pictures} picture{'s' * (pictures != 1)}"
    return f"{accuracy:.{exact}f} ({low:.{decimals}f} to {high:.{decimals}f} with 95 % confidence{count})"


def one_line(text: str) -> str:
    """Replace the unprintable characters of a string with escape sequences.

    Each picture is printed on one line. If a file name has a line break, the rest of the name would otherwise look like
    the line of another picture.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
