"""Defines what the readers of lists share: a table as it was read, and the labeled pictures that it stands for.

`zoo.data.lists` chooses the reader of a file. `zoo.data.sources` builds a source from the rows, and also reads folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zoo.data.names import listed
from zoo.data.stored import StoredPicture
from zoo.errors import DataLayout, EmptyClass

SEPARATOR = ";"


class Row(NamedTuple):
    """Holds one picture and the names of its classes.

    Args:
        name: The name in messages and lists: the path, or "x_train[12]".
        content: A path, a picture file that a table contains, or a uint8 array (H, W), (H, W, 1) or (H, W, 3), values
            0..255.
        labels: The names of the picture's classes. There is exactly one, unless the source is multi-label.
        split: The part that the source puts the picture into: "train", "val" or "test". None if the source has no
            split.
    """

    name: str
    content: Path | StoredPicture | np.ndarray
    labels: tuple[str, ...]
    split: str | None


def check_split_classes(name: str, rows: Sequence[Row], *, multilabel: bool = False) -> None:
    """Check that the validation and test parts have the same classes as the train part.

    Args:
        name: The path of the source, for error messages.
        rows: The pictures, each with its part.
        multilabel: Whether a picture may have several classes. The validation and test parts may then lack a rare
            class.

    Raises:
        DataLayout: The validation or test part has a class that the train part does not have.
        EmptyClass: The validation or test part lacks a class of the train part. In multi-label data, this is allowed.
    """
    classes: dict[str | None, set[str]] = {}
    for row in rows:
        classes.setdefault(row.split, set()).update(row.labels)
    trained = classes.get("train", set())
    for part in ("val", "test"):
        if part not in classes:
            continue
        unknown = listed(sorted(classes[part] - trained))
        if unknown:
            raise DataLayout(
                f"{name!r}: the {part} part has classes without training pictures: {unknown}. "
                f"Add training pictures of them, or remove them from the {part} part."
            )
        missing = listed(sorted(trained - classes[part]))
        if missing and not multilabel:
            raise EmptyClass(
                f"{name!r}: the {part} part has no picture of {missing}. "
                f"Add some, or remove the whole {part} part; zoo then takes one from the training pictures."
            )


class Listing(NamedTuple):
    """Holds what a list says about its pictures.

    Args:
        rows: The pictures, in the order of the list.
        multilabel: Whether a picture may have several classes, or none.
        remarks: What the reader assumed or left out, one sentence or more each.
    """

    rows: list[Row]
    multilabel: bool = False
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Holds the cells of a list, column by column, before their meaning is known.

    Args:
        path: The path of the file.
        names: The names of the columns as the file writes them. Without a header they are "1", "2", ...
        columns: The cells of each column, equally many. Cells of text files are strings. Cells of other files may also
            be lists of strings. Missing values are empty strings.
        lines: The number of each row in the file, counted from 1.
        unit: What `lines` counts: "line" or "row".
        headed: Whether the file names its columns.
        is_legacy: Whether the cells were read as Latin-1, because the text is not Unicode. Each character then stands
            for one byte of an encoding that is not known yet.
        pictures: Maps the name of each column that contains picture files to the pictures, one per row.
        remarks: What the reader assumed, for the user.
    """

    path: Path
    names: list[str]
    columns: list[list]
    lines: Sequence[int]
    unit: str = "line"
    headed: bool = True
    is_legacy: bool = False
    pictures: Mapping[str, Sequence[StoredPicture]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def folder(self) -> Path:
        """The folder from which paths count."""
        return self.path.parent

    def without_header(self) -> Table:
        """Return the table as it is if its first line is not a header but the first row."""
        columns = [[name, *cells] for name, cells in zip(self.names, self.columns, strict=True)]
        names = [str(i + 1) for i in range(len(columns))]
        return replace(self, names=names, columns=columns, lines=[1, *self.lines], headed=False)

    def where(self, row: int) -> str:
        """Return the place of a row for messages, such as "'pets.csv', line 3"."""
        return f"{str(self.path)!r}, {self.unit} {self.lines[row]}"

    def places(self, rows: Sequence[int]) -> str:
        """Return the places of several rows for messages, such as "'pets.csv', lines 3, 8, 9 and 4 more"."""
        if len(rows) == 1:
            return self.where(rows[0])
        shown = ", ".join(str(self.lines[row]) for row in rows[:5])
        more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
        return f"{str(self.path)!r}, {self.unit}s {shown}{more}"
