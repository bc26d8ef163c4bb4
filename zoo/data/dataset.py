"""Builds the dataset of a run, and rebuilds the dataset of a finished run.

`load` decodes the pictures of a source and splits them. `reload` decodes the pictures of a finished run and splits them
as that run did. `zoo.data.sources` finds pictures, `zoo.data.pixels` decodes them, and `zoo.data.split` splits them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
import time
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zoo import files
from zoo.data import group_by as grouping
from zoo.data import overview, sources
from zoo.data import pixels as pixel_cache
from zoo.data import split as splitting
from zoo.data.check import groups, near, quick
from zoo.data.reading import ReadingOptions
from zoo.errors import RunError
from zoo.reporter import Reporter, counted
from zoo_runtime import ImageSpec


@dataclass(frozen=True)
class Dataset:
    """Holds the decoded pictures of a source, split into train, validation and test parts.

    Args:
        source: Lists the pictures and their classes.
        spec: The image size, the channels and the resizing method with which the pictures were decoded.
        pixels: The decoded pictures, in the order of the source.
        split: The indices of the pictures in each part.
        targets: The classes of each picture, a uint8 array (pictures, classes): 1 if the picture has the class, else 0.
            Batches convert them to float32.
        together: A text per picture; pictures with equal texts are copies or near-duplicates, or the user keeps them
            together. They are in one part of a split that zoo draws, and in one fold. None if that is not known.
        check: What the check before the training found; see `zoo.data.check.quick`.
    """

    source: sources.Source
    spec: ImageSpec
    pixels: pixel_cache.Pixels
    split: splitting.Split
    targets: np.ndarray = field(repr=False)
    together: Sequence[str] | None = field(default=None, repr=False)
    check: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def digest(self) -> str:
        """One sha256, in hex, over the content and the classes of all decoded pictures. It identifies the dataset.

        The digest does not depend on the order or on the paths of the pictures.
        """
        return digest_of(self.source, self.pixels.digests, self.pixels.usable)

    @property
    def groups(self) -> Sequence[str]:
        """A text per picture; see `together`. If that is not known, only byte-equal copies have equal texts."""
        return self.pixels.digests if self.together is None else self.together

    def contents(self, rows: Sequence[int]) -> list[object]:
        """Return the content of the pictures with the given indices, as it was before decoding.

        The content of a picture is the path of its file. If the source is an .npz file or the digits, it is a uint8
        array of pixels.

        Args:
            rows: Indices of pictures in the source.
        """
        return [self.source.pictures[i].content for i in rows]

    def describe(self) -> dict[str, Any]:
        """Describe the dataset in a dictionary that run.json and the exported file store.

        Returns:
            `name` (of the source), `digest`, `counts` (the number of pictures in each part), and `split` (how the split
            was made).
        """
        parts = {part: len(getattr(self.split, part)) for part in splitting.PARTS}
        return {"name": self.source.name, "digest": self.digest, "counts": parts, "split": self.split.how}

    def listed(self) -> list[dict[str, str]]:
        """List the pictures of the train part, then of the validation part, then of the test part.

        Returns:
            One dictionary per picture: `part` ("train", "val" or "test"), `class` (names separated by semicolons if
            there are several), `sha256` (in hex), `picture` (the picture's name) and `group`. Pictures with the same
            `group` are copies or near-duplicates, or `--group-by` keeps them together. It is empty for other pictures.
        """
        pictures, groups = self.source.pictures, self.groups
        rows = [(part, i) for part in splitting.PARTS for i in getattr(self.split, part)]
        sizes = Counter(groups[i] for _, i in rows)
        return [
            {
                "part": part,
                "class": self.source.class_of(pictures[i]),
                "sha256": self.pixels.digests[i],
                "picture": pictures[i].name,
                "group": groups[i] if sizes[groups[i]] > 1 else "",
            }
            for part, i in rows
        ]


def digest_of(source: sources.Source, digests: Sequence[str], rows: Sequence[int]) -> str:
    """Return one sha256, in hex, over the content and the classes of some pictures.

    The digest does not depend on the order or on the paths of the pictures.

    Args:
        source: Lists the pictures and their classes.
        digests: The sha256 of each picture of the source, in hex.
        rows: Indices of the pictures to include.
    """
    lines = sorted(f"{digests[i]} {source.class_of(source.pictures[i])}" for i in rows)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def load(
    source: sources.Source,
    spec: ImageSpec,
    *,
    seed: int,
    val_fraction: float | None,
    reporter: Reporter,
    validation: bool = True,
    group_by: str | None = None,
    data: str = "DATA",
    reading: ReadingOptions | None = None,
) -> Dataset:
    """Decode the pictures of a source, check them, and split them into train, validation and test parts.

    Args:
        source: Lists the pictures and their classes.
        spec: The image size, the channels and the resizing method.
        seed: The seed of the split.
        val_fraction: The fraction of validation pictures, in (0, 1). None means the default; see
            `zoo.data.split.split`.
        reporter: Receives progress messages and warnings.
        validation: False makes no validation part; see `zoo.data.split.split`.
        group_by: Which pictures stay together; see `zoo.data.group_by.keys_of`. None keeps copies and near-duplicates
            alone together.
        data: The path of the source.
        reading: How the source was read. None means the defaults.

    Raises:
        DataError: More than a fifth of the files cannot be read, or a class has too few pictures or groups. The source
            has the same picture in two parts. A file changes while it is read. The decoded pictures cannot be written
            to the disk.
        UsageError: `val_fraction` is given, but the source already has a validation part. `group_by` fits no picture.
    """
    overview.report(source, reporter)
    started = time.perf_counter()
    keys = None if group_by is None else grouping.keys_of(group_by, source, data, reporter, reading)
    with reporter.timing.measure("decoding"):
        pixels = _decode_readable(source, spec, reporter)
    decoding = time.perf_counter() - started
    if keys is not None and group_by is not None:
        grouping.check_groups(keys, source, pixels.usable, group_by, validation=validation)
    with reporter.timing.measure("checking"):
        links = near.find(source.pictures, pixels, spec)
        grouped = groups.group(source.pictures, pixels.digests, pixels.usable, links, keys)
        words = [data, *(reading.words() if reading else []), *([] if group_by is None else ["--group-by", group_by])]
        check = quick.check(source, pixels, links, grouped, shlex.join(words), keys)
    with reporter.timing.measure("dividing"):
        split = splitting.split(
            source.pictures,
            pixels.digests,
            pixels.usable,
            source.classes,
            seed=seed,
            val_fraction=val_fraction,
            validation=validation,
            unreadable=pixels.bad,
            groups=grouped.texts,
        )
    if keys is not None:
        split = dataclasses.replace(split, how=f"{split.how}, grouped by {group_by!r}")
    decoded = "decoded by an earlier run" if pixels.cached else f"decoded in {decoding:.1f} s"
    reporter.say(
        f"Data: {source.name}, {len(pixels.usable)} pictures of {len(source.classes)} classes, {decoded}; "
        f"{len(split.train)} to train on, {f'{len(split.val)} to validate, ' if validation else ''}"
        f"{len(split.test)} to test ({split.how})"
    )
    _warn_of_contradictions(source, pixels, reporter)
    _warn_of_dark_levels(source, spec, pixels, reporter)
    for line in check.notes:
        reporter.say(line)
    for line in check.warnings:
        reporter.warn(line)
    targets = multi_hot(source.pictures, len(source.classes))
    return Dataset(source, spec, pixels, split, targets, grouped.texts, check.record)


def reload(
    source: sources.Source,
    spec: ImageSpec,
    *,
    parts: Mapping[str, str],
    digest: str,
    how: str,
    run: str,
    reporter: Reporter,
    groups: Mapping[str, str] | None = None,
) -> Dataset:
    """Decode the pictures of a finished run and split them as that run did.

    The sha256 of a picture decides to which part it belongs, so the pictures may have been moved or renamed.

    Args:
        source: Lists the pictures of the run where they are now.
        spec: The run's image size, channels and resizing method.
        parts: Maps the sha256 of each picture of the run, in hex, to "train", "val" or "test".
        digest: The `Dataset.digest` of the run.
        how: The description of how the run's split was made; see `zoo.data.split.Split`.
        run: The id of the run, for error messages.
        reporter: Receives progress messages.
        groups: Maps the sha256 of pictures of the run, in hex, to their `Dataset.together`. None if the run does not
            know them.

    Raises:
        RunError: The pictures or their classes differ from those of the run.
        DataError: The pictures cannot be read, or the decoded pictures cannot be written to the disk.
    """
    pixels = _decode_readable(source, spec, reporter)
    _check_read(source, pixels, parts, run)
    # A picture that the run could not read may be readable now, with a larger limit or another package.
    others = {i: "it was left out of the run" for i in pixels.usable if pixels.digests[i] not in parts}
    pixels = dataclasses.replace(pixels, bad=pixels.bad | others)
    decomposed = _decomposed(source)
    if digest_of(decomposed, pixels.digests, pixels.usable) == digest:
        source = decomposed
    elif digest_of(source, pixels.digests, pixels.usable) != digest:
        raise RunError(
            f"the pictures of {source.name!r} are not the ones that {run} was trained on. Checks and test figures on "
            "other pictures would be meaningless. Name the right pictures with --data."
        )
    rows = {
        part: np.array([i for i in pixels.usable if parts.get(pixels.digests[i]) == part], dtype=np.int64)
        for part in splitting.PARTS
    }
    split = splitting.Split(**rows, how=how)
    together = None if groups is None else [groups.get(digest, digest) for digest in pixels.digests]
    return Dataset(source, spec, pixels, split, multi_hot(source.pictures, len(source.classes)), together)


def _check_read(source: sources.Source, pixels: pixel_cache.Pixels, parts: Mapping[str, str], run: str) -> None:
    """Check that every picture of a run can still be read.

    Raises:
        RunError: A picture cannot be read, because a limit is lower than it was, or because a package is missing now.
    """
    lost = {source.pictures[i].name: why for i, why in pixels.bad.items() if pixels.digests[i] in parts}
    if lost:
        raise RunError(f"{counted(len(lost), 'picture')} of {run} cannot be read now: {pixel_cache.named_files(lost)}.")


def _decomposed(source: sources.Source) -> sources.Source:
    """Return a source with the names of its classes in NFD, as older versions of zoo read them on a Mac."""
    names = [unicodedata.normalize("NFD", name) for name in source.classes]
    classes = tuple(sorted(names))
    index = [classes.index(name) for name in names]
    pictures = tuple(
        dataclasses.replace(picture, labels=tuple(sorted(index[label] for label in picture.labels)))
        for picture in source.pictures
    )
    return dataclasses.replace(source, classes=classes, pictures=pictures)


def multi_hot(pictures: Sequence[sources.Picture], classes: int) -> np.ndarray:
    """Encode the classes of pictures as an array of zeros and ones.

    Args:
        pictures: The pictures.
        classes: The number of classes.

    Returns:
        A uint8 array (pictures, classes): 1 if the picture has the class, else 0.
    """
    targets = np.zeros((len(pictures), classes), np.uint8)
    for row, picture in zip(targets, pictures, strict=True):
        row[list(picture.labels)] = 1
    return targets


def decode(source: sources.Source, spec: ImageSpec, reporter: Reporter) -> pixel_cache.Pixels:
    """Decode the pictures of a source, or find them in the cache.

    Args:
        source: The pictures.
        spec: How a picture becomes pixels.
        reporter: Receives progress messages, and a warning if the cache cannot be written.

    Raises:
        DataError: A file changes while it is read, or the decoded pictures cannot be kept.
    """
    with reporter.progress("decoding pictures") as progress:
        return pixel_cache.load_pixels(
            source.pictures,
            spec,
            files.cache() / "pixels",
            progress,
            max_pixels=source.max_pixels,
            formats=source.formats,
            warn=reporter.warn,
            name=source.name,
        )


def _decode_readable(source: sources.Source, spec: ImageSpec, reporter: Reporter) -> pixel_cache.Pixels:
    """Decode the pictures of a source, of which most must be readable."""
    pixels = decode(source, spec, reporter)
    pixel_cache.check_readable(source.pictures, pixels.bad)
    return pixels


def _warn_of_dark_levels(
    source: sources.Source, spec: ImageSpec, pixels: pixel_cache.Pixels, reporter: Reporter
) -> None:
    """Warn if the 16-bit pictures use so few of their bits that they come out dark."""
    highest, count = pixel_cache.highest_level([source.pictures[i] for i in pixels.usable], source.max_pixels)
    bits = max(8, highest.bit_length())
    if count and bits < spec.levels:
        reporter.warn(
            f"of {count} pictures with 16 bits that were looked at, none has a level above {highest}, so they come out "
            f"nearly black. If {bits} bits are what the camera stores, train with --levels {bits}."
        )
    elif count and bits > spec.levels:
        reporter.warn(
            f"a picture with 16 bits has the level {highest}, but --levels {spec.levels} makes everything above "
            f"{2**spec.levels - 1} white. Train with --levels {bits}."
        )


def _warn_of_contradictions(source: sources.Source, pixels: pixel_cache.Pixels, reporter: Reporter) -> None:
    """Warn if byte-equal pictures have different labels, because at least one of the labels must be wrong."""
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
