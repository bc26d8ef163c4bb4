"""Evaluates an exported file on pictures, as the device would run it: file -> zoo_runtime -> probabilities.

How figures are computed from probabilities is in `zoo.evaluate.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zoo.data import pixels as pixel_cache
from zoo.data import sources
from zoo.data.dataset import Dataset, digest_of
from zoo.errors import DataError, UsageError
from zoo.evaluate import metrics
from zoo.reporter import Reporter
from zoo_runtime import ModelInfo, PictureError, Predictor

# The evaluated parts of a split, and their keys in metrics.json.
PARTS = (("val", "validation"), ("test", "test"))


@dataclass(frozen=True)
class EvaluationPictures:
    """Pictures to evaluate a file on, and what is known about each of them.

    Args:
        source: The pictures.
        digests: sha256 of each picture, in hex, in the order of the source.
        readable: Indices of the pictures that may be evaluated.
        known_parts: Maps the sha256 of every picture of the file's run to "train", "val" or "test". Empty if the run is
            not available.
        name: The name of the pictures in messages.
    """

    source: sources.Source
    digests: Sequence[str]
    readable: Collection[int]
    known_parts: Mapping[str, str] = field(default_factory=dict)
    name: str = ""

    def select(self, part: str | None) -> tuple[str, list[int]]:
        """Return the part to evaluate and the indices of its pictures.

        Args:
            part: "train", "val", "test" or "all". None takes the test part if there is one, else all.

        Raises:
            UsageError: The pictures have no such part.
        """
        parts = self._parts()
        part = part or ("test" if "test" in parts else "all")
        rows = [i for i in sorted(self.readable) if part in ("all", parts[i])]
        if not rows:
            raise UsageError(f"{self.name!r} has no {part} part. Omit --part to evaluate all of its pictures.")
        return part, rows

    def _parts(self) -> list[str | None]:
        """Return the part of each picture, or None for a picture that is in no part."""
        if self._are_of_the_run():
            # Wherever the pictures are now, the split of the run holds.
            return [self.known_parts.get(digest) for digest in self.digests]
        return [picture.split for picture in self.source.pictures]

    def _are_of_the_run(self) -> bool:
        """Return whether all pictures of the file's run are among these."""
        return bool(self.known_parts) and self.known_parts.keys() <= set(self.digests)

    def report_left_out(self, rows: Sequence[int], info: ModelInfo, reporter: Reporter) -> None:
        """Say which of the pictures are not evaluated, and why.

        Pictures that the run does not know are a warning, because a user may have added them to evaluate them.

        Args:
            rows: Indices of the pictures that are evaluated.
            info: The metadata of the file.
            reporter: Receives one message or warning; none if every picture is evaluated.
        """
        left_out = sorted(set(self.readable) - set(rows))
        if not left_out:
            return
        parts = self._parts()
        names = sorted({parts[i] or "" for i in left_out} - {""})
        new = [i for i in left_out if parts[i] is None]
        text = f"{len(rows)} of {len(self.readable)} pictures are evaluated."
        if names:
            text += f" Left out: {len(left_out) - len(new)} of the {' and '.join(names)} part{'s' * (len(names) > 1)}"
            text += ", which took part in training." if "train" in names and self._are_of_the_run() else "."
        if not new:
            reporter.say(text)
            return
        classes = {self.source.classes[label] for i in new for label in self.source.pictures[i].labels}
        unknown = sorted(classes - set(info.classes))
        text += f" Left out: {len(new)} that are not pictures of the run, such as new ones."
        text += f" The network does not know {_shorten(unknown, 5)}." if unknown else ""
        reporter.warn(f"{text} To evaluate new pictures, put them into a folder without the old ones.")

    def warn_if_seen(self, rows: Sequence[int], info: ModelInfo, reporter: Reporter) -> None:
        """Warn if the network knows some of the pictures, because figures on those say little about new ones."""
        seen = sum(self.known_parts.get(self.digests[i]) in ("train", "val") for i in rows)
        if seen:
            reporter.warn(
                f"{seen} of these {len(rows)} pictures were used to train or select the network. "
                "On new pictures, expect worse figures."
            )
        elif not self.known_parts and self._digest() == info.data.get("digest"):
            reporter.warn(
                "these are the pictures that the network was trained and tested on. Only its run folder knows which of "
                "them are test pictures: `zoo evaluate RUN` uses those alone."
            )

    def _digest(self) -> str:
        return digest_of(self.source, self.digests, range(len(self.digests)))


def evaluate_parts(predictor: Predictor, dataset: Dataset, reporter: Reporter) -> dict[str, Any]:
    """Evaluate an exported file on the validation and test pictures of its run, decoded as on the device.

    Args:
        predictor: The exported file.
        dataset: The pictures of the run.
        reporter: Receives the progress.

    Returns:
        The figures of each part, under "validation" and "test"; see `zoo.evaluate.metrics.measure`.

    Raises:
        DataError: A picture that could be read before cannot be read now.
    """
    figures = {}
    source = dataset.source
    for part, key in PARTS:
        rows = getattr(dataset.split, part)
        with reporter.timing.measure("evaluating"), reporter.progress(f"evaluating {key}") as progress:
            probabilities, bad = predict(predictor, dataset.contents(rows), progress)
        for i, why in bad.items():
            raise DataError(f"{source.pictures[rows[i]].name} could be read before, but cannot be read now: {why}")
        figures[key] = metrics.measure(
            probabilities, dataset.targets[rows], source.classes, multilabel=source.multilabel
        )
    return figures


def predict(
    predictor: Predictor, contents: Sequence[Any], progress: Callable[[int, int], None] | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """Run pictures through an exported file.

    Args:
        predictor: The exported file.
        contents: Paths, or uint8 arrays as `zoo_runtime.Predictor` takes them.
        progress: Called with (pictures done, pictures in total).

    Returns:
        The probabilities of the readable pictures, a float64 array (N, classes), and for each unreadable one its index
        with the reason, which begins with the name of the error.
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


def evaluate(
    predictor: Predictor, pictures: EvaluationPictures, reporter: Reporter, *, part: str | None = None
) -> dict[str, Any]:
    """Evaluate an exported file on pictures. Unreadable ones are left out with a warning.

    Args:
        predictor: The exported file.
        pictures: The pictures, and what is known about them.
        reporter: Receives progress, and warnings about pictures that are unreadable or were used to train or select
            the network.
        part: "train", "val", "test" or "all". None takes the test part if there is one, else all.

    Returns:
        The figures of `zoo.evaluate.metrics.measure`, and `part`.

    Raises:
        UsageError: The pictures have no such part.
        DataError: The pictures have a class that the network does not know, several labels where the network gives one
            class, or more than a fifth of them cannot be read.
    """
    source, info = pictures.source, predictor.info
    part, rows = pictures.select(part)
    chosen = [source.pictures[i] for i in rows]
    _check_labels(source, chosen, info)
    reporter.say(f"{part.capitalize()} pictures of {source.name}: {len(rows)}")
    pictures.report_left_out(rows, info, reporter)
    pictures.warn_if_seen(rows, info, reporter)
    with reporter.progress(f"evaluating {part}") as progress:
        probabilities, bad = predict(predictor, [picture.content for picture in chosen], progress)
    pixel_cache.check_readable(chosen, bad)
    if bad:
        # The text of a picture's error repeats its path.
        reasons = {chosen[i].name: why.replace(f"{chosen[i].name}: ", "", 1) for i, why in bad.items()}
        reporter.warn(pixel_cache.left_out_text(reasons, len(rows)))
    readable = [picture for i, picture in enumerate(chosen) if i not in bad]
    targets = _targets(source, readable, info.classes)
    multilabel = info.task == "multilabel"
    return {"part": part, **metrics.measure(probabilities, targets, info.classes, multilabel=multilabel)}


def _check_labels(source: sources.Source, pictures: Sequence[sources.Picture], info: ModelInfo) -> None:
    """Check that the network can give the classes that the pictures have."""
    present = {source.classes[label] for picture in pictures for label in picture.labels}
    unknown = sorted(present - set(info.classes))
    if unknown:
        raise DataError(f"the network does not know {_shorten(unknown, 5)}. It knows {_shorten(info.classes, 10)}.")
    if info.task != "multilabel" and any(len(picture.labels) != 1 for picture in pictures):
        raise DataError(
            f"some pictures of {source.name!r} have several labels or none, but the network gives exactly one class."
        )


def _targets(source: sources.Source, pictures: Sequence[sources.Picture], classes: Sequence[str]) -> np.ndarray:
    """Return the targets (N, classes) in the order of the network's classes, some of which the source may lack."""
    targets = np.zeros((len(pictures), len(classes)))
    for row, picture in zip(targets, pictures, strict=True):
        row[[classes.index(source.classes[label]) for label in picture.labels]] = 1
    return targets


def _shorten(names: Sequence[str], count: int) -> str:
    """List some names, and say how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
