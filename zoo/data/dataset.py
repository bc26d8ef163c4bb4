"""The dataset of a run: source -> decoded pixels -> split; and the same dataset again for a finished run.

Finding, decoding and dividing pictures are in `zoo.data.sources`, `zoo.data.pixels` and `zoo.data.split`.
"""

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
    """Pictures of a source, decoded and divided into train, validation and test parts.

    Args:
        source: The pictures and their classes.
        spec: Size, channels and method of resizing with which they were decoded.
        pixels: The decoded pictures.
        split: The indices of each part.
        targets: float32 array (pictures, classes): 1 if the picture has the class, else 0.
    """

    source: sources.Source
    spec: ImageSpec
    pixels: pixel_cache.Pixels
    split: splitting.Split
    targets: np.ndarray = field(repr=False)

    @property
    def digest(self) -> str:
        """The sha256, in hex, of the digests and classes of all usable pictures. Order and paths do not matter."""
        return digest_of(self.source, self.pixels.digests, self.pixels.usable)

    def contents(self, rows: Sequence[int]) -> list[object]:
        """Return the paths or arrays of some pictures, given by their indices."""
        return [self.source.pictures[i].content for i in rows]

    def describe(self) -> dict[str, Any]:
        """Summarize the dataset for run.json and the exported file: name, digest, pictures per part, and split."""
        parts = {part: len(getattr(self.split, part)) for part in splitting.PARTS}
        return {"name": self.source.name, "digest": self.digest, "counts": parts, "split": self.split.how}

    def listed(self) -> list[dict[str, str]]:
        """List the pictures of all parts, each as a row with the keys part, class, sha256 and picture."""
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
    """Return the sha256, in hex, of the digests and classes of some pictures. Order and paths do not matter.

    Args:
        source: The pictures and their classes.
        digests: sha256 of each picture of the source, in hex.
        rows: Indices of the pictures that count.
    """
    lines = sorted(f"{digests[i]} {source.class_of(source.pictures[i])}" for i in rows)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def load(
    source: sources.Source, spec: ImageSpec, *, seed: int, val_fraction: float | None, reporter: Reporter
) -> Dataset:
    """Decode the pictures of a source and divide them.

    Args:
        source: The pictures and their classes.
        spec: Size, channels and method of resizing.
        seed: Seed of the split.
        val_fraction: The fraction of validation pictures; see `zoo.data.split.split`.
        reporter: Receives progress messages and warnings.

    Raises:
        DataError: Too many files cannot be read, a class has too few pictures, or a given split has the same picture
            in two parts.
        UsageError: A validation fraction is given, but the source has a validation part.
    """
    started = time.perf_counter()
    with reporter.timing.measure("decoding"):
        pixels = _decode(source, spec, reporter)
    with reporter.timing.measure("dividing"):
        split = splitting.split(
            source.pictures, pixels.digests, pixels.usable, source.classes, seed=seed, val_fraction=val_fraction
        )
    decoded = "decoded by an earlier run" if pixels.cached else f"decoded in {time.perf_counter() - started:.1f} s"
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
    """Decode the pictures of a finished run and divide them as that run did, even if they were moved or renamed.

    Args:
        data: The path of the pictures now; see `zoo.data.sources.open_source`.
        spec: Size, channels and method of resizing of the run.
        parts: Maps the sha256 of each picture of the run to "train", "val" or "test".
        digest: The run's `Dataset.digest`.
        how: The text that says how the split was made.
        run: The id of the run, for messages.
        reporter: Receives progress messages and warnings.

    Raises:
        RunError: The pictures are not those of the run.
        DataError: The pictures cannot be read.
    """
    source = sources.open_source(data)
    pixels = _decode(source, spec, reporter)
    if digest_of(source, pixels.digests, pixels.usable) != digest:
        raise RunError(
            f"the pictures at {data!r} are not the ones that {run} was trained on. Checks and test figures on other "
            "pictures would be meaningless. Name the right pictures with --data."
        )
    rows = {
        part: np.array([i for i in pixels.usable if parts.get(pixels.digests[i]) == part], dtype=np.int64)
        for part in splitting.PARTS
    }
    split = splitting.Split(**rows, how=how)
    return Dataset(source, spec, pixels, split, multi_hot(source.pictures, len(source.classes)))


def multi_hot(pictures: Sequence[sources.Picture], classes: int) -> np.ndarray:
    """Return the classes of pictures as a float32 array (pictures, classes): 1 if the picture has the class, else 0."""
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
    """Warn if equal pictures have different labels, because at least one of the labels must be wrong."""
    first: dict[str, int] = {}
    pairs = []
    for i in pixels.usable:
        other = first.setdefault(pixels.digests[i], i)
        if source.pictures[other].labels != source.pictures[i].labels:
            pairs.append(f"{source.pictures[other].name} = {source.pictures[i].name}")
    if pairs:
        reporter.warn(
            f"{len(pairs)} {'pictures have' if len(pairs) > 1 else 'picture has'} a copy with another label: "
            f"{'; '.join(pairs[:3])}{f' and {len(pairs) - 3} more' if len(pairs) > 3 else ''}. Remove one of each pair."
        )
