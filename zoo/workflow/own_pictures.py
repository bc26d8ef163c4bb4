"""Finds the pictures of a finished run again, and says what has changed since the run.

The sha256 of a picture identifies it, so the pictures may have been moved or renamed. Pictures that were added since
are left out. `zoo.data.dataset` decodes and splits the others.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from zoo import runs
from zoo.data import dataset as datasets
from zoo.data import pixels as pixel_cache
from zoo.data import sources
from zoo.data.dataset import Dataset
from zoo.data.names import normalized
from zoo.data.reading import ReadingOptions
from zoo.data.sources import Source
from zoo.errors import DataError, RunError
from zoo.reporter import Reporter, counted, joined
from zoo_runtime import ImageSpec

# A message names at most this many pictures of each kind.
NAMED = 3


@dataclass(frozen=True)
class Changes:
    """How a source differs from the pictures of a run.

    Args:
        total: The number of pictures of the run.
        missing: The names of the run's pictures that the source does not have. Each is the class folder and the file.
        edited: The names of the run's pictures of which the source has a file of that name with other content.
        relabeled: Of each picture that has another class now: its name, and both classes.
        known: The indices, in the source, of the pictures of the run that have their class, ascending.
        added: The indices of all others, except copies of pictures of the run and edited ones.
    """

    total: int
    missing: tuple[str, ...]
    edited: tuple[str, ...]
    relabeled: tuple[str, ...]
    known: tuple[int, ...]
    added: tuple[int, ...]

    @property
    def text(self) -> str:
        """What is missing, edited or relabeled, in one clause; empty if nothing is."""
        parts = [
            f"{len(names)} {verb} ({joined(names, NAMED)})"
            for verb, names in (
                (f"{'is' if len(self.missing) == 1 else 'are'} missing", self.missing),
                (f"{'was' if len(self.edited) == 1 else 'were'} edited", self.edited),
                (f"{'has' if len(self.relabeled) == 1 else 'have'} another class now", self.relabeled),
            )
            if names
        ]
        return f"of its {counted(self.total, 'picture')}, {', '.join(parts)}" if parts else ""


def compare(listed: Sequence[Mapping[str, str]], source: Source, digests: Sequence[str]) -> Changes:
    """Compare a source with the pictures of a run.

    Args:
        listed: The rows of pictures.csv; see `zoo.runs.Run.pictures`.
        source: Lists the pictures as they are now.
        digests: The sha256 of each picture of the source, in hex.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for i, digest in enumerate(digests):
        places[digest].append(i)
    names = {_short(picture.name) for picture in source.pictures}
    present = set(digests)
    missing, edited, relabeled, known = [], [], [], []
    for row in listed:
        left = places[row["sha256"]]
        label = normalized(row["class"])
        same = next((i for i in left if normalized(source.class_of(source.pictures[i])) == label), None)
        name = _short(row["picture"])
        if same is not None:
            known.append(same)
            left.remove(same)
        elif left:
            now = source.class_of(source.pictures[left[0]])
            relabeled.append(f"{name}: {now!r}, was {row['class']!r}")
        elif name in names and row["sha256"] not in present:
            edited.append(name)
        else:
            missing.append(name)
    hashes = {row["sha256"] for row in listed}
    # The new content of an edited picture is not another picture.
    new = [i for i, digest in enumerate(digests) if digest not in hashes]
    added = [i for i in new if _short(source.pictures[i].name) not in edited]
    return Changes(len(listed), tuple(missing), tuple(edited), tuple(relabeled), tuple(sorted(known)), tuple(added))


def _short(name: str) -> str:
    """Return the last two parts of a path, which are the class folder and the file; other names stay as they are."""
    return normalized("/".join(PurePath(name).parts[-2:]))


def recorded_reading(record: runs.RunRecord) -> ReadingOptions:
    """Return how a run read its pictures."""
    return ReadingOptions.from_json(record.options.get("reading"))


def open_pictures(
    run: runs.Run,
    record: runs.RunRecord,
    data: str | None,
    again: Sequence[str],
    reading: ReadingOptions | None = None,
) -> Source:
    """List the pictures of a run, or other pictures that the user names.

    Args:
        run: The run folder.
        record: The content of the run's run.json.
        data: The path that the user gave. None means the path in run.json.
        again: The words of the command that the user typed. The error message adds --data to them.
        reading: How the pictures are read. Options that are not given are those of the run.

    Raises:
        RunError: There are no usable pictures at the path in run.json.
        DataError: There are no usable pictures at the path that the user gave.
    """
    reading = (reading or ReadingOptions()).over(recorded_reading(record))
    if data is not None:
        return sources.open_source(data, reading=reading, fewest_classes=1)
    place = str(record.options["data"])
    try:
        return sources.open_source(place, reading=reading, fewest_classes=1)
    except DataError as error:
        why = str(error).removesuffix(sources.HELP).strip()
        command = shlex.join([*again, "--data"])
        raise RunError(
            f"the pictures of {run.id} were at {place!r}, and cannot be read there now: {why} If they were moved or "
            f"renamed, name the new place: `{command} FOLDER`."
        ) from None


def reload_dataset(
    run: runs.Run,
    record: runs.RunRecord,
    data: str | None,
    reporter: Reporter,
    size: tuple[int, int] | None = None,
    reading: ReadingOptions | None = None,
    *,
    again: Sequence[str] = ("zoo", "export", "RUN"),
) -> Dataset:
    """Load the dataset of a finished run again, with the same split.

    Args:
        run: The run folder.
        record: The content of the run's run.json.
        data: The path of the pictures, if they have moved. None means the path in run.json.
        reporter: Receives the progress of decoding, and a message about pictures that were added since the run.
        size: (height, width) in pixels to which pictures are resized; None means the size of the run.
        reading: How the pictures are read. Options that are not given are those of the run.
        again: The words of the command that the user typed, for error messages.

    Returns:
        The decoded pictures of the run and their split.

    Raises:
        RunError: Pictures of the run are missing, edited or in another class, or pictures.csv is missing or damaged.
        DataError: The pictures cannot be read.
    """
    source = open_pictures(run, record, data, again, reading)
    where = data or str(record.options["data"])
    digests = pixel_cache.digests_of(source.pictures)
    listed = run.pictures()
    changes = compare(listed, source, digests)
    if not changes.known:
        raise RunError(
            f"the pictures at {where!r} are not the ones that {run.id} was trained on. Checks and test figures on "
            "other pictures would be meaningless. Name the right pictures with --data."
        )
    if changes.text:
        # The first word is zoo.exe on Windows, and __main__.py after `python -m zoo`.
        words = list(record.command)[1:]
        train = shlex.join(["zoo", *words]) if words[:1] == ["finetune"] else "zoo finetune"
        raise RunError(
            f"the pictures at {where!r} have changed since {run.id} was trained: {changes.text}. Checks and test "
            f"figures on other pictures would be meaningless. Restore the pictures, name a copy of them with --data, "
            f"or train again: `{train}`."
        )
    unreadable = {os.path.basename(each["picture"]) for each in record.data.get("left_out", ())}
    added = [i for i in changes.added if os.path.basename(source.pictures[i].name) not in unreadable]
    if added:
        names = joined([_short(source.pictures[i].name) for i in added], NAMED)
        verb = "was" if len(added) == 1 else "were"
        reporter.say(f"{counted(len(added), 'picture')} {verb} added since the run, and left out: {names}")
    # Unreadable files stay, so that the decoded pictures of the run are found in the cache.
    rows = sorted({*changes.known, *changes.added} - set(added))
    return datasets.reload(
        _restricted(source, rows, tuple(record.classes)),
        ImageSpec(**{**record.image, **({"size": size} if size else {})}),
        parts={row["sha256"]: row["part"] for row in listed},
        digest=str(record.data["digest"]),
        how=str(record.data["split"]),
        run=run.id,
        reporter=reporter,
        groups={row["sha256"]: row["group"] or row["sha256"] for row in listed if row.get("group") is not None} or None,
    )


def _restricted(source: Source, rows: Sequence[int], classes: tuple[str, ...]) -> Source:
    """Return a source with some of the pictures of another one, and with the classes of the run.

    Args:
        source: The other source.
        rows: The indices of the pictures, ascending.
        classes: The classes of the run. Classes that are new have no picture of the run.
    """
    index = {normalized(name): i for i, name in enumerate(classes)}
    labels = [index.get(normalized(name)) for name in source.classes]
    pictures = []
    for i in rows:
        picture = source.pictures[i]
        # An unreadable file may be in a new class. Its label is never used.
        known = tuple(sorted(label for each in picture.labels if (label := labels[each]) is not None))
        pictures.append(dataclasses.replace(picture, labels=known))
    return dataclasses.replace(source, classes=classes, pictures=tuple(pictures))


def changes_for(run: runs.Run, source: Source, digests: Sequence[str], reporter: Reporter) -> None:
    """Warn about pictures of a run that are missing, edited or in another class, before the others are evaluated.

    Nothing is reported unless the source has at least half of the pictures of the run.

    Args:
        run: The run folder.
        source: Lists the pictures to evaluate.
        digests: The sha256 of each picture of the source, in hex.
        reporter: Receives the warning.
    """
    changes = compare(run.pictures(), source, digests)
    if 2 * len(changes.known) < changes.total or not changes.text:
        return
    reporter.warn(
        f"the pictures have changed since {run.id} was trained: {changes.text}. The figures are those of the pictures "
        "that are left, and differ from the figures of the run."
    )
