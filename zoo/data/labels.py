"""Turns the cells of a list into class names, and finds rows that contradict each other.

`zoo.data.columns` says which cells those are.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from zoo.data.names import normalized
from zoo.data.tables import SEPARATOR, Row, Table
from zoo.errors import DataLayout

ONES, ZEROS = {"1", "1.0", "true"}, {"0", "0.0", "false"}
WHOLE = re.compile(r"(-?\d+)(?:\.0*)?")
# A list with at least this many rows, of which so many have a class of their own, is read from the wrong column.
UNIQUE_ROWS, UNIQUE_FRACTION = 20, 0.8
OTHER_SEPARATORS = "|,"
# What pandas and spreadsheets write for a missing value or an error, in lower case.
MISSING = {"nan", "<na>", "nat", "#n/a", "#ref!", "#value!", "#name?", "#div/0!"}


class Labels(NamedTuple):
    """Holds the class names of each row, whether a picture may have several, and what was assumed."""

    names: list[tuple[str, ...]]
    multilabel: bool
    remarks: tuple[str, ...] = ()


def read_labels(table: Table, columns: Sequence[int], *, multilabel: bool, is_confirmed: bool) -> Labels:
    """Return the class names of each row of a table.

    Args:
        table: The table.
        columns: The column of class names, or a column per class that holds 0 or 1.
        multilabel: Whether the one column holds several names per picture, separated by semicolons.
        is_confirmed: Whether the user named the column, so that an unusual one needs no question.

    Raises:
        DataLayout: A cell is empty or not valid, or the column looks like a wrong one.
    """
    if len(columns) > 1:
        return _flagged(table, columns)
    cells = table.columns[columns[0]]
    _refuse_objects(table, columns[0])
    if any(isinstance(cell, list) for cell in cells):
        return _listed(table, columns[0], multilabel=multilabel)
    if multilabel:
        return _several(table, columns[0])
    distinct = {cell: one_line(cell) for cell in set(cells)}
    if "" in distinct.values():
        empty = [i for i, cell in enumerate(cells) if not distinct[cell]]
        raise DataLayout(
            f"{table.places(empty)}: the column {table.names[columns[0]]!r} must not be empty. Write the class of the "
            "picture, or remove the row."
        )
    if not is_confirmed:
        _refuse_doubtful(table, columns[0], list(distinct.values()), len(cells))
    names = tidy_numbers(set(distinct.values()))
    tuples = {cell: (names[text],) for cell, text in distinct.items()}
    return Labels([tuples[cell] for cell in cells], False)


def tidy_numbers(names: set[str]) -> dict[str, str]:
    """Return the class name for each text. Whole numbers are padded with zeros, so that names sort like numbers.

    pandas writes 1.0 for 1 if a column has a missing value. Such numbers lose the ".0".

    Args:
        names: All texts. If one of them is not a whole number, or two differ in leading zeros only, no text is changed.
    """
    matches = {name: WHOLE.fullmatch(name) for name in names}
    whole = {name: match.group(1) for name, match in matches.items() if match}
    if len(whole) < len(names) or any(number.startswith("-") for number in whole.values()):
        return {name: name for name in names}
    # 1 and 1.0 are one class, but 1 and 01 may be two.
    if len({int(number) for number in whole.values()}) < len(set(whole.values())):
        return {name: name for name in names}
    width = max((len(number) for number in whole.values()), default=0)
    return {name: number.zfill(width) for name, number in whole.items()}


def is_flag_column(cells: Sequence[Any]) -> bool:
    """Return whether all cells of a column are 0 or 1."""
    distinct = {str(cell).strip().lower() for cell in cells}
    return bool(distinct) and distinct <= ONES | ZEROS


def without_repeats(table: Table, rows: list[Row], label: str, *, multilabel: bool) -> tuple[list[Row], list[str]]:
    """Use each file once, however often the list names it.

    In a list with several labels per picture, the labels of all its rows are joined.

    Args:
        table: The list, for messages.
        rows: Its rows, all of which have a path.
        label: The name of the column of class names, for messages.
        multilabel: Whether a picture may have several classes.

    Returns:
        The rows without repetitions, and a remark if there were any.

    Raises:
        DataLayout: Two rows give the same file different classes, or put it into different parts.
    """
    names = [_plain_name(row.name) for row in rows]
    if len(set(names)) == len(names):
        return rows, []
    first: dict[str, int] = {}
    kept: list[Row] = []
    place: list[int] = []
    repeated = 0
    for i, row in enumerate(rows):
        k = first.setdefault(names[i], len(kept))
        if k == len(kept):
            kept.append(row)
            place.append(i)
            continue
        repeated += 1
        before = kept[k]
        if before.split != row.split:
            raise DataLayout(
                f"{table.places([place[k], i])}: {row.name!r} is in two parts, {before.split} and {row.split}. "
                "Remove one of the lines."
            )
        if before.labels != row.labels:
            if not multilabel:
                raise DataLayout(*_contradiction(table, (place[k], i), (before, row), label))
            kept[k] = before._replace(labels=tuple(dict.fromkeys((*before.labels, *row.labels))))
    joined = " The labels of all its lines count." if multilabel else ""
    what = "1 line names a file" if repeated == 1 else f"{repeated:,} lines name files"
    return kept, [f"{str(table.path)!r}: {what} that an earlier line names too. Each file is used once.{joined}"]


def _plain_name(name: str) -> str:
    """Return a path without "." and "..", with the separators of this system."""
    if "\\" not in name and "./" not in name and "//" not in name:
        return name
    return os.path.normpath(name.replace("\\", "/"))


def _contradiction(
    table: Table, places: Sequence[int], rows: Sequence[Row], label: str
) -> tuple[str, list[tuple[str, list[str]]]]:
    """Return the error message for two rows that give one file different classes, and what the user can do."""
    first, second = rows
    text = (
        f"{table.places(places)}: {second.name!r} has two classes, {first.labels[0]!r} and {second.labels[0]!r}. "
        "Remove the wrong line, unless a picture may have several classes."
    )
    return text, [("if it may have several", ["--columns", f"labels={label}"])]


def _refuse_objects(table: Table, column: int) -> None:
    """Refuse objects of JSON as class names.

    Raises:
        DataLayout: A cell is an object, or a list with objects.
    """
    for row, cell in enumerate(table.columns[column]):
        found = next((part for part in (cell if isinstance(cell, list) else [cell]) if isinstance(part, dict)), None)
        if found is not None:
            keys = ", ".join(map(repr, list(found)[:5])) or "nothing"
            raise DataLayout(
                f"{table.where(row)}: the column {table.names[column]!r} holds an object with {keys}. A class must be "
                "a text or a number: write its name into the list instead of the object. If these are boxes, zoo "
                "does not learn them."
            )


def one_line(cell: Any) -> str:
    """Return a cell as the name of a class: in NFC, in one line, and without blanks at its ends."""
    text = cell.strip() if isinstance(cell, str) else str(cell)
    # Two spellings of an accent, as Macs and others write it, are one class.
    return normalized(re.sub(r"\s*[\r\n]+\s*", " ", text))


def _refuse_doubtful(table: Table, column: int, names: Sequence[str], count: int) -> None:
    """Ask whether a column really holds one class per picture, where its values make that doubtful.

    Raises:
        DataLayout: Nearly every row has a class of its own, or some names look like several classes or like none.
    """
    name = table.names[column]
    confirmed = ("if it is right", ["--columns", f"label={name or column + 1}"])
    known = set(names)
    if count >= UNIQUE_ROWS and len(known) >= UNIQUE_FRACTION * count:
        others = [other for other in table.names if other and other != name]
        raise DataLayout(
            f"{str(table.path)!r}: the column {name!r} has {len(known):,} different values in {count:,} rows, such as "
            f"{names[0]!r}. Does it hold the classes? The other columns are {', '.join(others)}.",
            [confirmed, ("if another one holds them", ["--columns", "label=NAME"])],
        )
    missing = [text for text in sorted(known) if text.lower() in MISSING]
    if missing:
        raise DataLayout(
            f"{str(table.path)!r}: the class {missing[0]!r} in the column {name!r} looks like a missing value. "
            "Write the classes of these pictures, or remove the rows.",
            [("if it is a class", confirmed[1])],
        )
    for text in sorted(known):
        for separator in (SEPARATOR, *OTHER_SEPARATORS):
            parts = [part.strip() for part in text.split(separator)]
            if len(parts) > 1 and all(part in known for part in parts):
                raise DataLayout(
                    f"{str(table.path)!r}: the class {text!r} looks like several classes, because "
                    f"{' and '.join(map(repr, dict.fromkeys(parts)))} are classes too.",
                    [
                        ("if a picture may have several", ["--columns", f"labels={name or column + 1}"]),
                        ("if it is one class", confirmed[1]),
                    ],
                )


def _several(table: Table, column: int) -> Labels:
    """Read a column with any number of names per picture, which semicolons or another character separate."""
    cells = [one_line(cell) for cell in table.columns[column]]
    distinct = set(cells)
    separator = SEPARATOR
    remarks: tuple[str, ...] = ()
    if not any(SEPARATOR in cell for cell in distinct):
        other = next((s for s in OTHER_SEPARATORS if _separates(distinct, s)), None)
        other = other or (" " if _blank_separates(distinct) else None)
        if other:
            separator = other
            example = next(cell for cell in cells if other in cell)
            remarks = (
                f"{str(table.path)!r}: zoo takes {other!r} for the separator of labels: {example!r} are several. "
                f"Separate labels with {SEPARATOR!r} to avoid doubt.",
            )
    parts = {cell: tuple(part.strip() for part in cell.split(separator) if part.strip()) for cell in distinct}
    names = tidy_numbers({part for several in parts.values() for part in several})
    tuples = {cell: tuple(dict.fromkeys(names[part] for part in several)) for cell, several in parts.items()}
    return Labels([tuples[cell] for cell in cells], True, remarks)


def _blank_separates(cells: set[str]) -> bool:
    """Return whether blanks separate labels: most cells with blanks consist of words that are cells of their own.

    Names of classes may have blanks, as in "fire truck", so repeated words are not enough.
    """
    split = [cell.split() for cell in cells if " " in cell]
    whole = [words for words in split if all(word in cells for word in words)]
    return bool(split) and 2 * len(whole) >= len(split)


def _separates(cells: set[str], separator: str) -> bool:
    """Return whether a character separates labels: the parts of most cells with it occur in other cells too."""
    counts = Counter(part.strip() for cell in cells for part in set(cell.split(separator)))
    split = [cell for cell in cells if separator in cell]
    repeated = [cell for cell in split if any(counts[part.strip()] > 1 for part in cell.split(separator))]
    return bool(split) and 2 * len(repeated) >= len(split)


def _listed(table: Table, column: int, *, multilabel: bool) -> Labels:
    """Read a column whose cells are lists of names, as JSON and Parquet may have them."""
    cells = [cell if isinstance(cell, list) else [cell] for cell in table.columns[column]]
    texts = [[text for part in cell if (text := one_line(part))] for cell in cells]
    names = tidy_numbers({text for cell in texts for text in cell})
    several = multilabel or any(len(cell) != 1 for cell in texts)
    return Labels([tuple(dict.fromkeys(names[text] for text in cell)) for cell in texts], several)


def _flagged(table: Table, columns: Sequence[int]) -> Labels:
    """Read columns that hold 1 where a picture has the class that the column names, and else 0.

    If every row has exactly one 1, each picture has one class. Otherwise it may have several, or none.

    Raises:
        DataLayout: A cell is neither 0 nor 1.
    """
    flags = []
    for column in columns:
        # A cell of JSON or Parquet may be a list, which is not hashable.
        cells = [str(cell).strip().lower() for cell in table.columns[column]]
        wrong = set(cells) - ONES - ZEROS
        if wrong:
            row = min(map(cells.index, wrong))
            raise DataLayout(
                f"{table.where(row)}, column {table.names[column]!r}: a column of a class must hold 0 or 1. "
                f"Received: {str(table.columns[column][row])!r}."
            )
        flags.append([cell in ONES for cell in cells])
    names = [table.names[column] for column in columns]
    rows = [tuple(name for name, has in zip(names, row, strict=True) if has) for row in zip(*flags, strict=True)]
    several = any(len(row) != 1 for row in rows)
    return Labels(rows, several)
