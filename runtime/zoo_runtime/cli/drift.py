"""The command `zoo-runtime drift`: compares pictures with those that a network was trained on."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from .._drift import ENOUGH, format_shifts, smallest_shift
from .._errors import CorruptModel, PictureError
from .._listing import PassedOver, expand, no_picture_in
from .._predictor import Predictor
from .._print import one_line, print_error
from .options import add_model, add_predictor_options, predictor_options

DESCRIPTION = (
    "Compare pictures with those that the network was trained on: brightness, sharpness, confidence and more. The file "
    "has only numbers of the training pictures."
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_model(command)
    command.add_argument("paths", nargs="+", metavar="path", help="a picture, or a folder of pictures")
    command.add_argument("--json", action="store_true", help="print the figures as JSON")
    add_predictor_options(command)


def run(options: argparse.Namespace) -> int:
    return print_drift(options.model, options.paths, as_json=options.json, **predictor_options(options))


def print_drift(model: str, paths: Sequence[str], *, as_json: bool = False, **options: Any) -> int:
    """Compare pictures with the training pictures of an exported file, and print the result.

    Args:
        model: Path of an exported file, or of the folder that holds it.
        paths: Pictures, folders of pictures, patterns such as `photos/*.jpg`, and `-` for standard input.
        as_json: Print one JSON object instead of a table.
        **options: Keyword arguments of `Predictor`.

    Returns:
        The exit code: 0, or 1 if a picture or a folder could not be read. Nothing is compared if all of them failed.

    Raises:
        ModelError: If the exported file cannot be used, or has no statistics of its training pictures.
        PictureNotFound: If the paths contain no picture that can be read.
    """
    predictor = Predictor(model, drift=True, **options)
    counter, trained = predictor.drift, predictor.info.trust.get("drift")
    if counter is None or not trained:
        raise CorruptModel(
            "the file has no statistics of its training pictures, because an earlier version of zoo exported it, or "
            "because it has published weights. Export the run again: zoo export RUN."
        )
    failed, passed_over = False, PassedOver()

    def refuse(path: str, error: PictureError) -> None:
        nonlocal failed
        failed = True
        print_error(path, error, as_json=False)

    listed = list(expand(paths, refuse, passed_over))
    for (name, _), result in zip(listed, predictor.predict_each([source for _, source in listed]), strict=True):
        if isinstance(result, PictureError):
            refuse(name, result)
    if not counter.pictures:
        if failed:
            # Each picture has its own line already.
            return 1
        raise no_picture_in(paths, passed_over)
    shifts = counter.compare(trained)
    if as_json:
        counts = {"pictures": counter.pictures, "unknown": counter.unknown, "outliers": counter.outliers}
        print(json.dumps({**counts, "figures": [dataclasses.asdict(each) for each in shifts]}))
        return 1 if failed else 0
    here = "1 picture" if counter.pictures == 1 else f"{counter.pictures} pictures"
    print(f"{here} here, {trained.get('pictures')} training pictures")
    print(format_shifts(shifts))
    if predictor.info.trust.get("outliers"):
        share = counter.outliers / counter.pictures
        print(f"{counter.outliers} pictures ({share:.1%}) are unlike the training pictures; 5 % were to be expected")
    if counter.unknown:
        print(f"{counter.unknown} answers ({counter.unknown / counter.pictures:.1%}) are unknown")
    drifted = [each.figure for each in shifts if each.drifted]
    if drifted:
        print(f"drifted: {', '.join(drifted)}. Look at some pictures, and train again with pictures like these.")
    else:
        print(_not_drifted(counter.pictures))
    if passed_over.endings:
        print(one_line(f"passed over: {passed_over}"), file=sys.stderr)
    return 1 if failed else 0


def _not_drifted(pictures: int) -> str:
    """Say that no figure has drifted, or that the pictures are too few to tell."""
    if pictures >= ENOUGH:
        return "no figure has drifted"
    return (
        f"too few pictures to tell: {pictures} can only show that a mean has moved by more than "
        f"{smallest_shift(pictures):.1f} standard deviations, and none has. {ENOUGH} pictures show all that counts."
    )
