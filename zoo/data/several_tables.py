"""Reads a folder in which several lists make up one data set, and joins them to one table with a split.

These are a list for each part (train.csv, val.csv, test.csv), a list in the folder of each part (train/_classes.csv of
Roboflow, train/metadata.jsonl of Hugging Face), and files in shards (train-00000-of-00003.parquet). The names alone say
which part a list is. `zoo.data.columns` reads the joined table.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoo.data import column_kinds as kinds
from zoo.data import columns as meaning
from zoo.data.locate import exists
from zoo.data.names import listed, quoted
from zoo.data.reading import LeftOut
from zoo.data.splits import part_of
from zoo.data.tables import Table
from zoo.data.tree import Tree
from zoo.errors import DataLayout

COLUMNAR = (".parquet", ".pq", ".arrow", ".feather")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", *COLUMNAR)
_SHARD = re.compile(r"(?P<stem>.*?)[-_.]?(?P<number>\d{4,5})(?:-of-(?P<count>\d{4,5}))?")
# Words beside the name of a part: train_labels.csv, annotations-test.csv.
_WORDS = re.compile(
    r"(labels?|annotations?|metadata|meta|list|classes|split)(?![a-z])|(?<=[a-z])(Labels?|Annotations?)"
)
# What a list in the folder of a part is called.
_INSIDE = re.compile(r"_?(classes|labels|annotations|metadata)")


@dataclass(frozen=True)
class PartList:
    """Describes one list, which may consist of several files.

    Args:
        part: "train", "val" or "test". None if the data set has one list.
        files: The paths of the file or of its shards, sorted.
        count: The number of shards that the names announce. None if they announce none.
    """

    part: str | None
    files: tuple[Path, ...]
    count: int | None = None


@dataclass(frozen=True)
class JoinedTable(Table):
    """A table that was joined from several files. Rows are named by their files.

    Args:
        places_of_rows: The path of the file, and the place in it, of each row.
    """

    places_of_rows: Sequence[str] = field(default_factory=tuple)

    @property
    def folder(self) -> Path:
        """The folder from which paths count: the data set itself."""
        return self.path

    def where(self, row: int) -> str:
        """Return the place of a row for messages."""
        return self.places_of_rows[row]

    def places(self, rows: Sequence[int]) -> str:
        """Return the places of several rows for messages."""
        more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
        return "; ".join(self.places_of_rows[row] for row in rows[:5]) + more


def find(tree: Tree) -> list[PartList]:
    """Return the lists of a folder if their names leave no doubt that they make up one data set; else none.

    Folders of classes have precedence: lists beside them are not read.

    Raises:
        DataLayout: There are two lists for one part.
    """
    root = tree.root
    live = tree.live(root)
    found: list[PartList] = []
    if all(_holds_no_classes(tree, folder, beside=live) for folder in live):
        found = _directly_in(tree, root)
    if found:
        return found
    data = root / "data"
    if not live and not found and data in tree.listing(root).folders and (found := _directly_in(tree, data)):
        return found
    if tree.listing(root).pictures:
        return []
    parts = {folder: part for folder in tree.listing(root).folders if (part := part_of(folder.name))}
    if "train" not in parts.values() or not set(live) <= set(parts) or len(set(parts.values())) < len(parts):
        return []
    inside = {folder: _inside(tree, folder) for folder in parts}
    if not all(inside[folder] for folder, part in parts.items() if part == "train" or tree.pictures(folder)):
        return []
    if any(len(tree.live(folder)) > 1 for folder in parts):
        return []
    return [replace(each, part=parts[folder]) for folder, each in inside.items() if each]


def _holds_no_classes(tree: Tree, folder: Path, beside: Sequence[Path]) -> bool:
    """Return whether a folder beside lists holds pictures of all classes, such as images/ or train_images/."""
    return not tree.live(folder) and (len(beside) == 1 or part_of(folder.name) is not None)


def _tables(tree: Tree, folder: Path) -> list[Path]:
    """Return the lists directly in a folder, without those that --exclude leaves out."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in TABLES and not path.name.startswith(".")]
    return [path for path in sorted(found) if path.is_file() and not tree.exclusion(path.relative_to(tree.root))]


def _directly_in(tree: Tree, folder: Path) -> list[PartList]:
    """Return the lists directly in a folder that are named like parts; or the shards, or metadata.csv, of one list."""
    groups: dict[tuple[str, str], list[Path]] = {}
    for path in _tables(tree, folder):
        stem, _ = _stem_and_count(path)
        groups.setdefault((stem, path.suffix.lower()), []).append(path)
    parts: dict[str, list[PartList]] = {}
    for (stem, _), files in groups.items():
        part = part_of(_WORDS.sub(" ", stem))
        if part:
            parts.setdefault(part, []).append(PartList(part, tuple(files), _stem_and_count(files[0])[1]))
    double = [each for several in parts.values() if len(several) > 1 for each in several]
    if double and "train" in parts:
        names = [each.files[0].relative_to(tree.root).as_posix() for each in double]
        raise DataLayout(
            f"{str(tree.root)!r} has several lists for one part of a split: {listed(names, 6)}. Keep one for "
            "each part.",
            [(f"to read {quoted(name)} alone", ["--data", str(tree.root / name)]) for name in names[:4]],
        )
    if "train" in parts:
        return [each for part in ("train", "val", "test") for each in parts.get(part, ())]
    return _only_list(groups, tree, folder)


def _only_list(groups: Mapping[tuple[str, str], list[Path]], tree: Tree, folder: Path) -> list[PartList]:
    """Return the list of a folder that has one: shards of one name, or metadata.csv beside pictures."""
    if len(groups) != 1:
        return []
    ((stem, ending), files) = next(iter(groups.items()))
    has_pictures = bool(tree.listing(folder).pictures)
    if stem == "metadata" and len(files) == 1 and has_pictures:
        return [PartList(None, tuple(files))]
    if ending in COLUMNAR and not has_pictures and _stem_and_count(files[0])[1]:
        return [PartList(None, tuple(files), _stem_and_count(files[0])[1])]
    return []


def _inside(tree: Tree, folder: Path) -> PartList | None:
    """Return the list in the folder of a part, or None if there is none or more than one."""
    found = [path for path in _tables(tree, folder) if _INSIDE.fullmatch(path.stem.lower())]
    if len(found) == 1:
        return PartList(None, tuple(found))
    shards = [path for path in _tables(tree, folder) if path.suffix.lower() in COLUMNAR]
    stems = {_stem_and_count(path) for path in shards}
    if shards and len(stems) == 1 and not tree.pictures(folder):
        return PartList(None, tuple(shards), next(iter(stems))[1])
    return None


def _stem_and_count(path: Path) -> tuple[str, int | None]:
    """Return the name of a file without its ending and its number, and how many shards the name announces."""
    match = _SHARD.fullmatch(path.stem)
    if match is None or path.suffix.lower() not in (*COLUMNAR, ".jsonl"):
        return path.stem, None
    return match["stem"], int(match["count"]) if match["count"] else None


def join(
    root: Path, lists: Sequence[PartList], tables: Mapping[Path, Table], columns: Mapping[str, str], base: Path | None
) -> tuple[JoinedTable, list[LeftOut]]:
    """Join lists to one table with the column split.

    Args:
        root: The folder of the data set.
        lists: What `find` returned.
        tables: The table of each file.
        columns: What the user says about the columns; see `zoo.data.columns.parse_columns`.
        base: The folder from which relative paths count. None means the folder of each list.

    Returns:
        The table, and the lists that are left out because they have no labels.

    Raises:
        DataLayout: The lists have different columns or encodings, or their columns are not recognized.
        UsageError: `columns` names a column that a list does not have.
    """
    first = next((each for each in lists if each.part in ("train", None)), lists[0])
    trained, roles = meaning.understood(tables[first.files[0]], columns, base)
    is_headed = trained.headed
    trained = _with_names(trained, roles, is_headed=is_headed)
    path, labels = trained.names[roles.path], [trained.names[i] for i in roles.label]
    split = None if roles.split is None else trained.names[roles.split]
    kept: list[tuple[PartList, Table]] = []
    left_out: list[LeftOut] = []
    for each in lists:
        for file in each.files:
            table = _with_names(meaning.with_header(tables[file], base), roles, is_headed=is_headed)
            missing = _unlabeled(table, labels)
            if missing and each.part != "train" and each.part is not None:
                left_out.append(LeftOut(file.relative_to(root).as_posix(), missing))
            else:
                kept.append((each, table))
    _check_alike(root, kept, path)
    names = list(dict.fromkeys(name for _, table in kept for name in table.names if name != split))
    is_split = len({each.part for each, _ in kept}) > 1
    cells: dict[str, list[Any]] = {name: [] for name in names}
    stored: dict[str, list[Any]] = {}
    places: list[str] = []
    parts: list[str] = []
    for each, table in kept:
        _check_split(table, split, each.part)
        for name in names:
            column = table.columns[table.names.index(name)] if name in table.names else [""] * len(table)
            cells[name] += _placed(root, each, table, column, name, base) if name == path else column
        for name, pictures in table.pictures.items():
            stored.setdefault(name, []).extend(pictures)
        parts += [each.part or ""] * len(table)
        places += map(table.where, range(len(table)))
    columns_of_all = [cells[name] for name in names] + ([parts] if is_split else [])
    remarks = [*_said(root, lists, left_out), *(remark for _, table in kept for remark in table.remarks)]
    return (
        JoinedTable(
            root,
            [*names, "split"] if is_split else names,
            columns_of_all,
            range(1, len(places) + 1),
            unit="row",
            is_legacy=any(table.is_legacy for _, table in kept),
            pictures={name: pictures for name, pictures in stored.items() if len(pictures) == len(places)},
            remarks=tuple(dict.fromkeys(remarks)),
            places_of_rows=places,
        ),
        left_out,
    )


def _with_names(table: Table, roles: meaning.Roles, *, is_headed: bool) -> Table:
    """Return a table without a header with the names path and label, so that it can be joined to others.

    Raises:
        DataLayout: This list has no header, but the first one has.
    """
    if table.headed != is_headed:
        with_one = "has a header" if table.headed else "has no header"
        raise DataLayout(f"{str(table.path)!r} {with_one}, unlike the list of the train part. Give all lists the same.")
    if table.headed:
        return table
    called = {roles.path: "path", roles.label[0]: "label"} | ({} if roles.split is None else {roles.split: "split"})
    names = [called.get(i, name) for i, name in enumerate(table.names)]
    return replace(table, names=names, headed=True, remarks=(*table.remarks, *roles.assumed))


def _unlabeled(table: Table, labels: Sequence[str]) -> str:
    """Say why a list has no labels: it lacks their column, or the column is empty. Empty if it has labels.

    Raises:
        DataLayout: It has some but not all columns of the classes.
    """
    missing = [name for name in labels if name not in table.names]
    if missing and len(missing) < len(labels):
        raise DataLayout(
            f"{str(table.path)!r} has no column {missing[0]!r}, unlike the list of the train part. Give all lists the "
            "same columns."
        )
    if missing:
        return f"it has no column {missing[0]!r}"
    columns = [table.columns[table.names.index(name)] for name in labels]
    if len(table) and all(kinds.text(cell) in ("", "[]") for column in columns for cell in column):
        return f"its column {labels[0]!r} is empty"
    return ""


def _check_alike(root: Path, kept: Sequence[tuple[PartList, Table]], path: str) -> None:
    """Check that lists can be joined.

    Raises:
        DataLayout: A list lacks the column of paths, or some but not all lists are in Unicode.
    """
    for _, table in kept:
        if path not in table.names:
            raise DataLayout(
                f"{str(root)!r}: the lists have different columns. {str(table.path)!r} has no column {path!r}, only "
                f"{kinds.listed(table)}. Give all lists the same columns.",
                [("to read one list", ["--data", str(kept[0][1].path)])],
            )
    legacy = [table.path for _, table in kept if table.is_legacy]
    foreign = [
        table.path
        for _, table in kept
        if not table.is_legacy and not all(kinds.text(cell).isascii() for column in table.columns for cell in column)
    ]
    if legacy and foreign:
        raise DataLayout(f"{str(legacy[0])!r} is not in UTF-8, but {str(foreign[0])!r} is. Save all lists as UTF-8.")


def _check_split(table: Table, split: str | None, part: str | None) -> None:
    """Check that the column split of a list does not contradict the name of the list.

    Raises:
        DataLayout: It names another part.
    """
    if split is None or split not in table.names or part is None:
        return
    for row, cell in enumerate(table.columns[table.names.index(split)]):
        if part_of(kinds.text(cell)) not in (part, None):
            raise DataLayout(
                f"{table.where(row)}: the column {split!r} says {kinds.text(cell)!r}, but the name of the list says "
                f"{part}. Remove the column, or give the list with --data."
            )


def _placed(root: Path, each: PartList, table: Table, column: Sequence[Any], name: str, base: Path | None) -> list[str]:
    """Return paths that count from the data set instead of the folder of their list.

    The paths of train.csv may count from train/ or train_images/, and those of test.csv from test/.
    """
    texts = [kinds.text(cell) for cell in column]
    if name in table.pictures:
        file = table.path.name
        return [f"{file}/{text}" if text else f"{file}[{table.lines[i]}]" for i, text in enumerate(texts)]
    if base is not None:
        return texts
    prefix = table.path.parent.relative_to(root).as_posix()
    sample = texts[:: max(1, len(texts) // kinds.EVIDENCE)]
    if each.part is not None and not any(exists(table, text, None) for text in sample):
        own = [
            folder for folder in table.path.parent.iterdir() if folder.is_dir() and part_of(folder.name) == each.part
        ]
        fitting = [folder for folder in own if any(exists(table, text, folder) for text in sample)]
        prefix = fitting[0].relative_to(root).as_posix() if len(fitting) == 1 else prefix
    if prefix == ".":
        return texts
    return [text if not text or os.path.isabs(text) or ":" in text else f"{prefix}/{text}" for text in texts]


def _said(root: Path, lists: Sequence[PartList], left_out: Sequence[LeftOut]) -> list[str]:
    """Say which lists were read as one data set, and which shards are missing."""
    without = {each.path for each in left_out}
    shown = []
    for each in lists:
        name = each.files[0].relative_to(root).as_posix()
        if name in without:
            continue
        more = f" and {len(each.files) - 1} more" if len(each.files) > 1 else ""
        shown.append(f"{quoted(name)}{more}" + (f" ({each.part})" if each.part else ""))
    remarks = [f"{str(root)!r}: zoo reads {', '.join(shown)} as one data set."]
    for each in lists:
        if each.count and len(each.files) < each.count:
            name = each.files[0].relative_to(root).as_posix()
            remarks.append(f"{str(root)!r} has {len(each.files)} of the {each.count} shards of which {name!r} is one.")
    return remarks
