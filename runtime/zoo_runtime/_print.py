"""Prints predictions line by line, for the commands `zoo-runtime predict` and `zoo predict`, and formats accuracies."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from ._decode import printable
from ._errors import PictureError
from ._predictor import Predictor, expand, no_picture_in
from ._session import Provider


def print_predictions(
    model: str,
    paths: Sequence[str],
    *,
    top: int | None = None,
    as_json: bool = False,
    threads: int | None = None,
    providers: Sequence[Provider] | None = None,
) -> int:
    """Predict the classes of pictures, and print one line per picture.

    A picture or folder that cannot be read does not stop the others. Its error is printed to standard error or, with
    `as_json`, as a JSON object to standard output.

    Args:
        model: Path of an exported file, or of the folder that holds it.
        paths: Pictures, and folders of pictures.
        top: How many classes to print per picture, likeliest first. None means only the predicted labels if the output
            is text, and all classes if it is JSON.
        as_json: Print one JSON object per picture instead of text.
        threads: See `Predictor`.
        providers: See `Predictor`.

    Returns:
        The exit code: 0, or 1 if a picture or a folder could not be read.

    Raises:
        ModelError: If the exported file cannot be used. See `Predictor`.
        ValueError: If `threads` or `providers` has a value that is not allowed. See `Predictor`.
        PictureNotFound: If the paths contain no picture, although all folders can be read.
    """
    failed = False

    def refuse(path: str, error: PictureError) -> None:
        nonlocal failed
        failed = True
        if as_json:
            print(json.dumps({"path": path, "error": type(error).__name__, "message": str(error)}), flush=True)
        else:
            text = str(error).removeprefix(f"{printable(path)}: ").removeprefix(f"{path!r} ")
            print(one_line(f"{path}: {text}"), file=sys.stderr)

    predictor = Predictor(model, threads=threads, providers=providers)
    listed = list(expand(paths, refuse))
    for path, result in zip(listed, predictor.predict_each(listed), strict=True):
        if isinstance(result, PictureError):
            refuse(path, result)
        elif as_json:
            line: dict[str, object] = {
                "path": path,
                "label": result.label,
                "confidence": result.confidence,
                "probabilities": dict(result.top(top)) if top else result.probabilities,
            }
            if predictor.info.task == "multilabel":
                line["labels"] = list(result.labels)
            print(json.dumps(line), flush=True)
        else:
            # A multi-label network shows the labels that apply. With --top, it shows the likeliest in any case.
            count = top or (len(result.labels) if predictor.info.task == "multilabel" else 1)
            shown = "  ".join(f"{label} {p:.4f}" for label, p in result.top(count))
            print(one_line(f"{path}: {shown or 'no class'}"), flush=True)
    if not listed and not failed:
        raise no_picture_in(paths)
    return 1 if failed else 0


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
