"""Pictures ready to be learnt from: source -> pixels -> split; and the same ones again for a run that was."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zoo import files
from zoo.data import pixels as pixel_cache
from zoo.data import sources
from zoo.data import split as splitting
from zoo.errors import RunError
from zoo.reporter import Reporter
from zoo_runtime import ImageSpec


@dataclass(frozen=True)
class Dataset:
    """A source whose pictures are decoded and divided.

    Args:
        source: Where the pictures come from.
        spec: How they were decoded.
        pixels: What they were decoded to.
        split: Which of them serves what.
        targets: float32 array (pictures, classes), 1 where a picture is of a class, else 0.
    """

    source: sources.Source
    spec: ImageSpec
    pixels: pixel_cache.Pixels
    split: splitting.Split
    targets: np.ndarray = field(repr=False)

    @property
    def digest(self) -> str:
        """sha256 over every usable picture's digest and class, whatever their order and paths."""
        return digest_of(self.source, self.pixels.digests, self.pixels.usable)

    def contents(self, rows: Sequence[int]) -> list[object]:
        """Paths or arrays of some pictures."""
        return [self.source.pictures[i].content for i in rows]

    def describe(self) -> dict[str, Any]:
        """For run.json and the exported file."""
        parts = {part: len(getattr(self.split, part)) for part in splitting.PARTS}
        return {"name": self.source.name, "digest": self.digest, "counts": parts, "split": self.split.how}

    def listed(self) -> list[dict[str, str]]:
        """A row for every picture that is used: part, class, sha256, picture."""
        pictures = self.source.pictures
        return [
            {
                "part": part,
                "class": self.source.class_of(pictures[i]),
                "sha256": self.pixels.digests[i],
                "picture": pictures[i].name,
            }
            for part in splitting.PARTS
            for i in getattr(self.split, part)
        ]


def digest_of(source: sources.Source, digests: Sequence[str], rows: Sequence[int]) -> str:
    """sha256 over some pictures' digests and classes, whatever their order and paths."""
    lines = sorted(f"{digests[i]} {source.class_of(source.pictures[i])}" for i in rows)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def load(
    source: sources.Source, spec: ImageSpec, *, seed: int, val_fraction: float | None, reporter: Reporter
) -> Dataset:
    """Decode and divide the pictures of a source.

    Raises:
        DataError: Too many cannot be read, a class is left without pictures, or a given split leaks.
    """
    started = time.perf_counter()
    with reporter.timing.measure("decoding"):
        pixels = _decode(source, spec, reporter)
    with reporter.timing.measure("dividing"):
        split = splitting.split(
            source.pictures, pixels.digests, pixels.usable, source.classes, seed=seed, val_fraction=val_fraction
        )
    decoded = "found decoded" if pixels.cached else f"decoded in {time.perf_counter() - started:.1f} s"
    reporter.say(
        f"Data: {source.name}, {len(pixels.usable)} pictures of {len(source.classes)} classes, {decoded}; "
        f"{len(split.train)} to train on, {len(split.val)} to validate, {len(split.test)} to test ({split.how})"
    )
    for remark in source.remarks:
        reporter.warn(remark)
    _warn_of_contradictions(source, pixels, reporter)
    return Dataset(source, spec, pixels, split, multi_hot(source.pictures, len(source.classes)))


def reload(
    data: str, spec: ImageSpec, *, parts: Mapping[str, str], digest: str, how: str, run: str, reporter: Reporter
) -> Dataset:
    """Decode the pictures of a finished run and divide them as they were divided, wherever and however named now.

    Args:
        data: Where the pictures are; see `zoo.data.sources`.
        spec: How they are decoded.
        parts: sha256 of every picture of the run -> "train", "val" or "test".
        digest: The run's `Dataset.digest`.
        how: What decided the split, in words.
        run: The run's id, for messages.
        reporter: Hears of progress.

    Raises:
        RunError: They are not the pictures of the run.
        DataError: They cannot be read.
    """
    source = sources.open_source(data)
    pixels = _decode(source, spec, reporter)
    if digest_of(source, pixels.digests, pixels.usable) != digest:
        raise RunError(
            f"the pictures at {data!r} are not those that {run} was trained on, so that neither parity nor "
            "test figures would mean anything. Give the folder that holds them with --data."
        )
    rows = {
        part: np.array([i for i in pixels.usable if parts.get(pixels.digests[i]) == part], dtype=np.int64)
        for part in splitting.PARTS
    }
    split = splitting.Split(**rows, how=how)
    return Dataset(source, spec, pixels, split, multi_hot(source.pictures, len(source.classes)))


def multi_hot(pictures: Sequence[sources.Picture], classes: int) -> np.ndarray:
    """float32 array (pictures, classes): 1 where a picture is of a class, else 0."""
    targets = np.zeros((len(pictures), classes), "float32")
    for row, picture in zip(targets, pictures, strict=True):
        row[list(picture.labels)] = 1
    return targets


def _decode(source: sources.Source, spec: ImageSpec, reporter: Reporter) -> pixel_cache.Pixels:
    with reporter.progress("decoding pictures") as progress:
        pixels = pixel_cache.load_pixels(source.pictures, spec, files.cache() / "pixels", progress)
    pixel_cache.check_readable(source.pictures, pixels.bad)
    return pixels


def _warn_of_contradictions(source: sources.Source, pixels: pixel_cache.Pixels, reporter: Reporter) -> None:
    """The same picture under two classes teaches nothing right; the user should know."""
    first: dict[str, int] = {}
    pairs = []
    for i in pixels.usable:
        other = first.setdefault(pixels.digests[i], i)
        if source.pictures[other].labels != source.pictures[i].labels:
            pairs.append(f"{source.pictures[other].name} = {source.pictures[i].name}")
    if pairs:
        reporter.warn(
            f"{len(pairs)} pictures stand twice with different labels: {'; '.join(pairs[:3])}. Remove one of each pair."
        )
