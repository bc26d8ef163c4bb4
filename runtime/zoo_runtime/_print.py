"""Prints predictions line by line, for the commands `zoo-runtime predict` and `zoo predict`, and formats accuracies."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence

from ._errors import PictureError
from ._limit import MAX_PIXELS
from ._listing import PassedOver, expand, no_picture_in
from ._predictor import Predictor
from ._rows import answer, answer_text, failure, failure_text, utc
from ._rows import one_line as one_line
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
    csv: str | None = None,
    allow_url: bool = False,
    require_signature: str | os.PathLike[str] | None = None,
) -> int:
    """Predict the classes of pictures, and print one line per picture.

    A picture or folder that cannot be read does not stop the others. Its error is printed to standard error or, with
    `as_json`, as a JSON object to standard output. If files in folders are passed over because their endings are not
    those of pictures, a last line on standard error counts them.

    Args:
        model: Path of an exported file, or of the folder that holds it.
        paths: Pictures, folders of pictures, patterns such as `photos/*.jpg`, `-` for standard input and, with
            `allow_url`, web addresses.
        top: How many classes to print per picture, likeliest first. None means only the predicted labels if the output
            is text, and all classes if it is JSON.
        as_json: Print one JSON object per picture instead of text.
        threads: See `Predictor`.
        providers: See `Predictor`.
        max_pixels: See `Predictor`.
        formats: See `Predictor`.
        coverage: Also print the label set of each picture; see `Prediction.labels_at`. None prints no sets.
        csv: Path of a table to which a row per picture is added; "-" prints the table in place of the text. None writes
            no table.
        allow_url: Whether to download pictures from http:// and https:// addresses.
        require_signature: See `Predictor`.

    Returns:
        The exit code: 0, or 1 if a picture or a folder could not be read.

    Raises:
        ModelError: If the exported file cannot be used. See `Predictor`.
        TypeError: If `max_pixels` is not a number, or `formats` is not a list of names.
        ValueError: If `threads`, `providers`, `max_pixels` or `formats` has a wrong value; see `Predictor`. Or if
            the file has no label sets with this coverage.
        PictureNotFound: If the paths contain no picture, although all folders can be read.
        NotWritten: If the table cannot be written, or is a table of something else.
    """
    failed = False
    is_text = not as_json and csv != "-"

    choices = {"threads": threads, "providers": providers, "formats": formats, "require_signature": require_signature}
    predictor = Predictor(model, max_pixels=max_pixels, **choices)  # type: ignore[arg-type]
    if coverage is not None:
        known_coverage(Trust.from_json(predictor.info.trust).sets, coverage)
    with contextlib.ExitStack() as stack:
        table = None
        if csv is not None:
            from ._watch.outputs import Table

            table = stack.enter_context(contextlib.closing(Table(csv, predictor.info)))

        def refuse(path: str, error: PictureError) -> None:
            nonlocal failed
            failed = True
            if table is not None:
                table.write({"time": utc(time.time()), **failure(path, error)})
            print_error(path, error, as_json)

        passed_over = PassedOver()
        listed = list(expand(paths, refuse, passed_over, allow_url=allow_url))
        results = predictor.predict_each([source for _, source in listed])
        for (name, _), result in zip(listed, results, strict=True):
            if isinstance(result, PictureError):
                refuse(name, result)
                continue
            if table is not None:
                table.write({"time": utc(time.time()), **answer(name, result, predictor.info)})
            if as_json:
                print(json.dumps(answer(name, result, predictor.info, top, coverage)), flush=True)
            elif is_text:
                print(one_line(f"{name}: {answer_text(result, predictor.info, top, coverage)}"), flush=True)
    if not listed and not failed:
        raise no_picture_in(paths, passed_over)
    if passed_over:
        advice = f". {passed_over.advice()}" if passed_over.advice() else ""
        print(one_line(f"passed over: {passed_over}{advice}"), file=sys.stderr)
    return 1 if failed else 0


def print_error(path: str, error: PictureError, as_json: bool) -> None:
    """Print why a picture cannot be read: to standard error or, with `as_json`, as JSON to standard output."""
    if as_json:
        print(json.dumps(failure(path, error)), flush=True)
    else:
        print(failure_text(path, error), file=sys.stderr)


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
