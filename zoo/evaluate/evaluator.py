"""An exported file and pictures -> figures, measured as the device does: file -> zoo_runtime -> probabilities."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from zoo.data import pixels as pixel_cache
from zoo.data import sources
from zoo.data.dataset import Dataset, digest_of
from zoo.errors import DataError, UsageError
from zoo.evaluate import metrics
from zoo.reporter import Reporter
from zoo_runtime import ModelInfo, PictureError, Predictor

PARTS = (("val", "validation"), ("test", "test"))


def judge(predictor: Predictor, dataset: Dataset, reporter: Reporter) -> dict[str, Any]:
    """Figures of an exported file on the run's validation and test pictures, decoded as the device does.

    Raises:
        DataError: A picture that could be read before cannot now.
    """
    found = {}
    for part, key in PARTS:
        rows = getattr(dataset.split, part)
        with reporter.timing.measure("evaluating"), reporter.progress(f"evaluating {key}") as progress:
            probabilities, bad = predict(predictor, dataset.contents(rows), progress)
        for i, why in bad.items():
            raise DataError(f"{dataset.source.pictures[rows[i]].name} could be read before and cannot now: {why}")
        found[key] = metrics.measure(
            probabilities, dataset.targets[rows], dataset.source.classes, multilabel=dataset.source.multilabel
        )
    return found


def predict(
    predictor: Predictor, contents: Sequence[object], progress: Callable[[int, int], None] | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """Run pictures through the predictor.

    Args:
        predictor: The exported file.
        contents: Paths or uint8 arrays.
        progress: Called with (pictures done, pictures in all).

    Returns:
        float64 array (pictures, classes) of those that can be read, and for the others index -> why, beginning with
        the name of the error.
    """
    rows, bad = [], {}
    for i, result in enumerate(predictor.predict_each(contents)):
        if isinstance(result, PictureError):
            bad[i] = f"{type(result).__name__}: {result}"
        else:
            rows.append(list(result.probabilities.values()))
        if progress:
            progress(i + 1, len(contents))
    return np.array(rows).reshape(len(rows), len(predictor.info.classes)), bad


def _warn_of_trained(
    info: ModelInfo,
    source: sources.Source,
    digests: Sequence[str],
    rows: Sequence[int],
    known: dict[str, str],
    reporter: Reporter,
) -> None:
    """Figures on pictures that a network learnt from say how well it remembers."""
    seen = sum(known.get(digests[i]) in ("train", "val") for i in rows)
    if seen:
        reporter.warn(
            f"the network was trained or chosen by {seen} of these {len(rows)} pictures; the figures flatter."
        )
    elif not known and digest_of(source, digests, range(len(digests))) == info.data.get("digest"):
        reporter.warn(
            "these are the very pictures that the network was trained, chosen and tested by. Only its run folder "
            "knows which is which: `zoo evaluate RUN` judges by its test pictures alone."
        )


def evaluate(
    predictor: Predictor,
    source: sources.Source,
    digests: Sequence[str],
    readable: Collection[int],
    known: Mapping[str, str],
    part: str | None,
    reporter: Reporter,
    *,
    data: str,
) -> dict[str, Any]:
    """Judge an exported file on a source's pictures.

    Args:
        predictor: The exported file.
        source: The pictures.
        digests: sha256 of each picture, hex.
        readable: Indices of the pictures that may be judged.
        known: sha256 of every picture of the file's run -> "train", "val" or "test"; empty where the run is not there.
        part: "train", "val", "test" or "all"; None means the test part where there is one, else all.
        reporter: Hears of progress, of what is judged, and of pictures that the network was trained on.
        data: What the pictures are called in messages.

    Returns:
        As `zoo.evaluate.metrics.measure`, and `part`.

    Raises:
        UsageError: The pictures have no such part.
        DataError: The pictures have a class that the network does not know, or cannot be read.
    """
    parts: list[str | None] = [picture.split for picture in source.pictures]
    if known.keys() and known.keys() <= set(digests):
        # The run's own pictures, wherever they are now: what was test then is test now.
        parts = [known.get(digest) for digest in digests]
    part = part or ("test" if "test" in parts else "all")
    rows = [i for i in sorted(readable) if part in ("all", parts[i])]
    if not rows:
        raise UsageError(f"{data!r} has no {part} part; leave --part out to judge all of it.")
    present = {source.classes[label] for i in rows for label in source.pictures[i].labels}
    unknown = sorted(present - set(predictor.info.classes))
    if unknown:
        raise DataError(
            f"the network does not know {', '.join(unknown[:5])}; it knows {', '.join(predictor.info.classes[:10])}."
        )
    multilabel = predictor.info.task == "multilabel"
    if not multilabel and any(len(source.pictures[i].labels) != 1 for i in rows):
        raise DataError(f"pictures of {source.name!r} have several labels or none, and the network gives one class.")
    reporter.say(f"{part.capitalize()} pictures of {source.name}: {len(rows)}")
    _warn_of_trained(predictor.info, source, digests, rows, known, reporter)

    with reporter.progress(f"evaluating {part}") as progress:
        probabilities, bad = predict(predictor, [source.pictures[i].content for i in rows], progress)
    pictures = [source.pictures[i] for i in rows]
    pixel_cache.check_readable(pictures, bad)
    if bad:
        shown = "; ".join(f"{pictures[i].name}: {why}" for i, why in list(bad.items())[:5])
        reporter.warn(f"{len(bad)} of {len(rows)} files are left out: {shown}")
    # In the order of the network's classes, of which the pictures may lack some.
    targets = np.zeros((len(pictures) - len(bad), len(predictor.info.classes)))
    judged = [picture for i, picture in enumerate(pictures) if i not in bad]
    for row, picture in zip(targets, judged, strict=True):
        row[[predictor.info.classes.index(source.classes[label]) for label in picture.labels]] = 1
    return {"part": part, **metrics.measure(probabilities, targets, predictor.info.classes, multilabel=multilabel)}
