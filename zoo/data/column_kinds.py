"""Tells what the columns of a list look like: their usual names, and which of them hold files or few repeated values.

`zoo.data.columns` decides by this which column holds what. Where that is not clear, `question` makes the error, with
examples that are chosen from the values of the columns.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.data.locate import exists
from zoo.data.names import normalized
from zoo.data.tables import Table
from zoo.errors import DataLayout
from zoo_runtime import SUFFIXES

ROLES = ("path", "label", "labels", "split")
# The usual names, in lower case and with "_" between words. Where several are present, the first one has precedence.
PATHS = (
    *("path", "filepath", "file_path", "image_path", "img_path", "imagepath", "picture_path"),
    *("filename", "file_name", "image_filename", "image_file", "image_name", "img_name", "file", "fname", "fn"),
    *("image", "img", "picture", "photo", "image_id", "img_id", "imageid", "images", "name", "id"),
)
LABELS = (
    *("label", "class", "class_name", "classname", "label_name", "category", "category_name", "target"),
    *("species", "breed", "variety", "dx", "diagnosis", "y"),
)
MULTILABEL = ("labels", "tags")
PARTS = ("split", "set", "subset", "part", "partition", "usage", "is_valid", "is_test")
WRITTEN = "path,label[,split]; or path,labels[,split] if a picture may have several labels"
EVIDENCE = 30


def text(cell: Any) -> str:
    """Return a cell as text, without blanks at its ends."""
    return cell.strip() if isinstance(cell, str) else str(cell)


def key(name: str) -> str:
    """Return the name of a column in the form of the lists above: lower case, with "_" between words."""
    return re.sub(r"[\s\-.]+", "_", normalized(name).strip().lower())


def listed(table: Table) -> str:
    """Name the columns of a table, for messages."""
    shown = [repr(name) if name != name.strip() or not name else name for name in table.names]
    return ", ".join(shown[:15]) + (f" and {len(shown) - 15} more" if len(shown) > 15 else "")


def holds_files(table: Table, column: int, root: Path | None) -> bool:
    """Return whether most of some cells of a column are pictures, by their endings or because such files exist."""
    cells = _sample(table.columns[column])
    return bool(cells) and 2 * sum(_is_file(table, cell, root) for cell in cells) > len(cells)


def _sample(cells: Sequence[Any]) -> list[str]:
    step = max(1, len(cells) // EVIDENCE)
    return [found for cell in cells[::step][:EVIDENCE] if (found := text(cell))]


def _is_file(table: Table, cell: str, root: Path | None) -> bool:
    return os.path.splitext(cell.lower())[1] in SUFFIXES or exists(table, cell, root)


def is_index(table: Table, column: int, name: str) -> bool:
    """Return whether a column counts the rows, as pandas writes it."""
    return not name.strip() or name.startswith("Unnamed:") or (key(name) == "index" and len(table.names) > 2)


def name_of(table: Table, column: int) -> str:
    """Return what --columns calls a column: its name, or its number if the name is empty or occurs twice."""
    name = table.names[column]
    keys = [key(each) for each in table.names]
    return name if name.strip() == name and name and keys.count(key(name)) == 1 else str(column + 1)


def question(
    table: Table, why: str, root: Path | None, paths: Sequence[int] = (), labels: Sequence[int] = ()
) -> DataLayout:
    """Create the error for columns whose names do not say what they hold. Its commands name columns that may.

    Args:
        table: The list.
        why: What is not clear.
        root: The folder from which relative paths count. None means the folder of the list.
        paths: The columns that may hold the paths. Empty chooses one whose values are files.
        labels: The columns that may hold the classes. Empty chooses those with few values that are repeated.
    """
    files = list(paths) or [i for i in range(len(table.names)) if holds_files(table, i, root)][:1]
    found = list(labels) or likely_labels(table, files)
    message = (
        f"the first line of {str(table.path)!r} must name the columns: {WRITTEN}. Received: {listed(table)}; {why}."
    )
    if not files:
        message += " No column holds names of files that exist or that end like pictures, such as .jpg."
    unknown: list[int | None] = [None]
    pairs = [(path, label) for path in files or unknown for label in found or unknown][:4]
    remedies = []
    for path, label in pairs:
        parts = [
            f"path={'NAME' if path is None else name_of(table, path)}",
            f"label={'NAME' if label is None else name_of(table, label)}",
        ]
        what = "to say which is which" if label is None else f"if {_shown(table, label)} holds the classes"
        if len(files) > 1 and path is not None:
            what = f"if {_shown(table, path)} holds the paths" + (f", {what[3:]}" if label is not None else "")
        remedies.append((what, ["--columns", ",".join(map(_csv, parts))]))
    return DataLayout(message, remedies)


def likely_labels(table: Table, taken: Sequence[int], limit: int = 3) -> list[int]:
    """Return the columns that probably hold the classes, the most probable first.

    These have at least two values, each of which is repeated twice on average, and are words rather than numbers.

    Args:
        table: The list.
        taken: Columns that hold something else.
        limit: The largest number of columns.
    """
    ranked = []
    for i, name in enumerate(table.names):
        values = [text(cell) for cell in table.columns[i]]
        distinct = set(values) - {""}
        if i in taken or is_index(table, i, name) or not 2 <= len(distinct) <= max(2, len(values) // 2):
            continue
        usual = key(name) in LABELS or key(name) in MULTILABEL
        numbers = all(re.fullmatch(r"[\d\s.,:/TZ+-]+", value) for value in distinct)
        ranked.append((not usual, values.count("") > 0, numbers, len(distinct), i))
    best = sorted(ranked)[:limit]
    # Columns with words make those with numbers improbable.
    return [row[-1] for row in best if row[2] == best[0][2]]


def _shown(table: Table, column: int) -> str:
    """Return a column for messages: its name, with its number if the name occurs twice."""
    name = table.names[column]
    called = name_of(table, column)
    values = list(dict.fromkeys(value for cell in table.columns[column] if (value := text(cell))))[:2]
    example = f" ({', '.join(value[:30] for value in values)})" if values else ""
    return (repr(name) if called == name else f"column {called}") + example


def _csv(part: str) -> str:
    """Quote a part of --columns that contains a comma or a double quote."""
    return '"' + part.replace('"', '""') + '"' if "," in part or '"' in part else part
