"""Writes a new list of pictures from a run and the user's decisions about its labels. Pictures are never changed.

`zoo.data.decisions` reads the decisions and applies them.
"""

from __future__ import annotations

import csv
import os
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo import files, runs
from zoo.data import decisions as decided
from zoo.data import pixels as pixel_cache
from zoo.data import sources
from zoo.data.decisions import Applied, Entry
from zoo.data.names import normalized
from zoo.data.reading import ReadingOptions
from zoo.data.sources import Source
from zoo.data.stored import StoredPicture
from zoo.data.tables import SEPARATOR
from zoo.errors import DataError, EmptyClass, UsageError
from zoo.reporter import Reporter, counted, joined
from zoo.workflow import own_pictures

ARRAYS, LIST = ".npz", ".csv"
# The names of arrays in an .npz file, by part.
PREFIXES = {"train": "x_train y_train", "val": "x_val y_val", "test": "x_test y_test"}
NAMED = 3
# Options of `zoo finetune`, each with a value, that say where the pictures are and how they are read ...
OF_PICTURES = ("--data", "--classes", "--exclude", "--columns", "--root")
# ... and how they are split.
OF_SPLIT = ("--val-split", "--group-by")


@dataclass(frozen=True)
class NewList:
    """A list that was written.

    Args:
        path: The path of the list.
        applied: The pictures, and what has changed.
        command: The command that trains with the list.
    """

    path: Path
    applied: Applied
    command: str


def apply(
    path: Path,
    reporter: Reporter,
    *,
    run: str | None,
    folder: Path,
    data: str | None = None,
    output: Path | None = None,
    split: bool = True,
    replace: bool = False,
) -> NewList:
    """Write a new list of the pictures of a run, with the labels that the user decided.

    Args:
        path: The path of decisions.csv.
        reporter: Receives warnings.
        run: The path of the run folder, or the id of the run. None uses the run that the decisions name.
        folder: The folder of runs, where an id is looked up.
        data: The path of the pictures, if they have moved. None means the path in run.json.
        output: The path of the new list. None writes NAME-checked.csv (or .npz) into the working directory.
        split: Whether the list says which part each picture is in. False lets a training split them anew.
        replace: Whether an existing file is replaced.

    Raises:
        DataError: The decisions cannot be read or applied, or the pictures cannot be found.
        UsageError: There is no such run, or the new list cannot be put there.
        RunError: The run is not finished, or one of its files is damaged.
        WriteError: The list cannot be written.
    """
    decisions, remarks = decided.read(path)
    for text in remarks:
        reporter.warn(text)
    opened, record = runs.load(_run_of(decisions, run, folder, path))
    multilabel = record.task == "multilabel"
    again = ("zoo", "data", "apply", str(path), "--run", str(opened.folder))
    source = own_pictures.open_pictures(opened, record, data, again)
    arrays = _kind(source)
    target = _target(output, str(record.data["name"]), arrays, path, replace)
    entries = [_entry(row, record.classes, multilabel) for row in opened.pictures()]
    applied = decided.apply(decisions, entries, record.classes, multilabel=multilabel, run=opened.id)
    if not decisions:
        reporter.warn(f"{str(path)!r} has no decisions. The new list has the labels of the run.")
    for text in applied.remarks:
        reporter.warn(text)
    found = _places(opened, source, applied.entries, data or str(record.options["data"]), reporter)
    with files.atomic_write(target) as temporary:
        if arrays:
            _write_arrays(temporary, source, found, record.classes, multilabel, split)
        else:
            _write_list(temporary, source, found, multilabel, split)
        reading = _check(temporary, target, found, multilabel, split)
    return NewList(target, applied, shlex.join(_again(record, ["--data", str(target), *reading], split)))


def _again(record: runs.RunRecord, data: Sequence[str], split: bool) -> list[str]:
    """Return the words of the run's command with other pictures.

    Args:
        record: The run. One that was not started by `zoo finetune` gives a command without its options.
        data: The options that name the new list.
        split: Whether the list has a split. Options that draw one do not go with it.
    """
    typed = list(record.command[1:])
    if typed[:1] != ["finetune"]:
        return ["zoo", "finetune", str(record.architecture["name"]), *data]
    dropped = {*OF_PICTURES, *(OF_SPLIT if split else ())}
    words: list[str] = []
    rest = iter(typed)
    for word in rest:
        name, sign, _ = word.partition("=")
        if name not in dropped:
            words.append(word)
        elif not sign:
            next(rest, None)
    return ["zoo", *words, *data]


def _run_of(decisions: Sequence[decided.Decision], run: str | None, folder: Path, path: Path) -> Path:
    """Return the run folder that the user or the decisions name."""
    named = sorted({each.run for each in decisions if each.run})
    if run is not None:
        return runs.find(run, folder)
    if len(named) > 1:
        raise DataError(f"{str(path)!r} has decisions about several runs: {joined(named, NAMED)}. Apply one at a time.")
    if not named:
        raise UsageError(f"{str(path)!r} does not say which run it is about. Name the run with --run RUN.")
    found = runs.locate(named[0], folder)
    if found is None:
        raise UsageError(
            f"the decisions are about the run {named[0]}, which is not in {str(folder)!r}. Name its folder with --run."
        )
    return found


def _kind(source: Source) -> bool:
    """Return whether the pictures are arrays, which an .npz file can hold.

    Raises:
        UsageError: The pictures are inside a table, to which no list can refer.
    """
    contents = [picture.content for picture in source.pictures]
    if any(isinstance(content, StoredPicture) for content in contents):
        raise UsageError(
            f"the pictures of {source.name!r} are inside a table, so that no list can name their files. Save them as "
            "files, train with them, and apply the decisions of that run; or change the labels in the table."
        )
    return any(isinstance(content, np.ndarray) for content in contents)


def _target(output: Path | None, name: str, arrays: bool, decisions: Path, replace: bool) -> Path:
    """Return where the list is written, and check that it can be.

    Raises:
        UsageError: The ending is wrong, or there is a file already.
        WriteError: The folder cannot be written to.
    """
    ending = ARRAYS if arrays else LIST
    target = Path(f"{name}-checked{ending}") if output is None else Path(os.path.expanduser(output))
    if target.suffix.lower() != ending:
        why = "the pictures of the run are arrays" if arrays else "the new list is a CSV file"
        raise UsageError(f"--output must end in {ending}, because {why}. Received: {str(target)!r}.")
    if target.exists() and decisions.exists() and os.path.samefile(target, decisions):
        raise UsageError(f"--output {str(target)!r} is the file of decisions. Choose another name.")
    if target.is_dir() or (target.exists() and not replace):
        advice = "Choose another name with --output FILE" + ("." if target.is_dir() else ", or add --replace.")
        raise UsageError(f"{str(target)!r} exists already. {advice}")
    files.check_writable(target.parent, "--output FILE")
    return target


def _entry(row: dict[str, str], classes: Sequence[str], multilabel: bool) -> Entry:
    """Return a row of pictures.csv as a picture with its classes."""
    names = row["class"].split(SEPARATOR) if multilabel else [row["class"]]
    return Entry(row["picture"], row["sha256"], row["part"], tuple(name for name in names if name))


def _places(
    run: runs.Run, source: Source, entries: Sequence[Entry], where: str, reporter: Reporter
) -> list[tuple[Entry, int]]:
    """Find each picture in the source as it is now, by its sha256. Pictures that are gone are left out, with a warning.

    Returns:
        Each picture that was found, and its index in the source.

    Raises:
        DataError: No picture is there.
    """
    digests = pixel_cache.digests_of(source.pictures)
    places: dict[str, list[int]] = defaultdict(list)
    for i, digest in enumerate(digests):
        places[digest].append(i)
    found, gone = [], []
    for entry in entries:
        left = places[entry.sha256]
        if not left:
            gone.append(entry.picture)
            continue
        # A copy in its own place stays there.
        same = next((i for i in left if source.pictures[i].name == entry.picture), left[0])
        left.remove(same)
        found.append((entry, same))
    if not found:
        raise DataError(
            f"the pictures at {where!r} are not those of {run.id}. Name the place of its pictures with --data FOLDER."
        )
    if gone:
        reporter.warn(
            f"{counted(len(gone), 'picture')} of the run {'is' if len(gone) == 1 else 'are'} missing or changed, and "
            f"left out of the new list: {joined(gone, NAMED)}."
        )
    known = {entry.sha256 for entry in entries}
    # Pictures that were removed by a decision are not new.
    known |= {row["sha256"] for row in run.pictures()}
    new = sum(digest not in known for digest in digests)
    if new:
        verb = "was" if new == 1 else "were"
        reporter.warn(f"{counted(new, 'picture')} {verb} not in the run, and left out of the new list.")
    return found


def _write_list(
    target: Path, source: Source, found: Sequence[tuple[Entry, int]], multilabel: bool, split: bool
) -> None:
    """Write a CSV file with the columns path, label or labels, and split.

    Paths are relative if all pictures are below the folder of the list, so that both can be moved together.
    """
    paths = [Path(os.path.abspath(str(source.pictures[i].content))) for _, i in found]
    base = Path(os.path.abspath(target.parent))
    inside = all(path.is_relative_to(base) for path in paths)
    with target.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "labels" if multilabel else "label", *(["split"] if split else [])])
        for path, (entry, _) in zip(paths, found, strict=True):
            name = path.relative_to(base).as_posix() if inside else str(path)
            writer.writerow([name, SEPARATOR.join(entry.labels), *([entry.part] if split else [])])


def _write_arrays(
    target: Path,
    source: Source,
    found: Sequence[tuple[Entry, int]],
    classes: Sequence[str],
    multilabel: bool,
    split: bool,
) -> None:
    """Write an .npz file with the pictures, their labels and the names of the classes.

    Raises:
        UsageError: The pictures have different sizes.
    """
    used = [name for name in classes if any(name in entry.labels for entry, _ in found)]
    arrays: dict[str, np.ndarray] = {"class_names": np.array(used)}
    for part, names in PREFIXES.items():
        own = [(entry, i) for entry, i in found if entry.part == part or (not split and part == "train")]
        if not own:
            continue
        pictures = [np.asarray(source.pictures[i].content) for _, i in own]
        if len({picture.shape for picture in pictures}) > 1:
            raise UsageError(f"the pictures of {source.name!r} have different sizes, which an .npz file cannot hold.")
        hot = np.array([[name in entry.labels for name in used] for entry, _ in own], np.uint8)
        arrays |= dict(zip(names.split(), (np.stack(pictures), hot if multilabel else hot.argmax(axis=1)), strict=True))
    with target.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def _check(written: Path, target: Path, found: Sequence[tuple[Entry, int]], multilabel: bool, split: bool) -> list[str]:
    """Read the new list as a training will, and compare it.

    Args:
        written: The path of the list for now.
        target: The path that it will have, for messages.
        found: The pictures that were written.
        multilabel: Whether a picture may have several classes.
        split: Whether the list has a split.

    Returns:
        The options that a training needs to read it.

    Raises:
        DataError: A training could not read the list, or would read something else.
    """
    label = "labels" if multilabel else "label"
    columns = ("path=path", f"{label}={label}", *(["split=split"] if split else []))
    asked = [ReadingOptions(), *([ReadingOptions(columns=columns)] if target.suffix.lower() == LIST else [])]
    problem = ""
    for reading in asked:
        try:
            source = sources.open_source(str(written), reading=reading)
        except DataError as error:
            problem = str(error).replace(str(written), str(target))
            if isinstance(error, EmptyClass) and split:
                raise DataError(
                    f"no training could use the new list. {problem} Or add --no-split, so that a training splits all "
                    "pictures anew."
                ) from None
            continue
        if _same(source, found, split):
            return reading.words()
        problem = "it would not be read as it was written."
    raise DataError(f"no training could use the new list {str(target)!r}: {problem}")


def _same(source: Source, found: Sequence[tuple[Entry, int]], split: bool) -> bool:
    """Return whether a source has the pictures and the labels that were written. Numbers may have gained zeros."""

    def plain(name: str) -> str:
        text = normalized(name)
        return str(int(text)) if text.isascii() and text.isdigit() else " ".join(text.split())

    # A list without validation and test pictures has no split.
    parted = split and any(entry.part != "train" for entry, _ in found)
    written = sorted((entry.part if parted else "", *sorted(map(plain, entry.labels))) for entry, _ in found)
    read = sorted(
        (picture.split or "", *sorted(plain(source.classes[label]) for label in picture.labels))
        for picture in source.pictures
    )
    return written == read and not source.missing
