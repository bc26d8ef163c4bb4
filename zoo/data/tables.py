"""Reads labeled pictures from a table: a CSV file that lists picture files, or an .npz file that contains pictures.

`zoo.data.sources` builds a source from the rows, and also reads folders.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zoo.errors import DataLayout, EmptyClass

SEPARATOR = ";"
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


class Row(NamedTuple):
    """Holds one picture and the names of its classes.

    Args:
        name: The name in messages and lists: the path, or "x_train[12]".
        content: A path, or a uint8 array (H, W), (H, W, 1) or (H, W, 3), values 0..255.
        labels: The names of the picture's classes. There is exactly one, unless the source is multi-label.
        split: The part that the source puts the picture into: "train", "val" or "test". None if the source has no
            split.
    """

    name: str
    content: Path | np.ndarray
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
        unknown = ", ".join(sorted(classes[part] - trained))
        if unknown:
            raise DataLayout(
                f"{name!r}: the {part} part has classes without training pictures: {unknown}. "
                f"Add training pictures of them, or remove them from the {part} part."
            )
        missing = ", ".join(sorted(trained - classes[part]))
        if missing and not multilabel:
            raise EmptyClass(
                f"{name!r}: the {part} part has no picture of {missing}. "
                f"Add some, or remove the whole {part} part; zoo then takes one from the training pictures."
            )


def read_csv(path: Path) -> tuple[list[Row], bool]:
    """Read a CSV file with the columns path,label[,split], or path,labels[,split].

    `labels` holds any number of class names, separated by semicolons.

    Returns:
        The rows, and whether the file is multi-label: whether it has the column `labels`.

    Raises:
        DataLayout: The file is not such a CSV. If a row is wrong, the message names its line. Only some rows have a
            split, the split has no train part, or another part has a class that the train part lacks.
        EmptyClass: The validation or test part lacks a class of the train part. In multi-label data, this is allowed.
        OSError: The file cannot be opened.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows, multilabel = _csv_rows(path, csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataLayout(
            f"{str(path)!r} is not a CSV file in UTF-8: {error}. Save it again as CSV with the encoding UTF-8."
        ) from None
    splits = {row.split for row in rows}
    if None in splits and len(splits) > 1:
        raise DataLayout(
            f"{str(path)!r} gives a split for only some of the pictures. Fill in the column split for all, or for none."
        )
    if splits == {"train"}:
        rows = [row._replace(split=None) for row in rows]
    elif rows and None not in splits:
        if "train" not in splits:
            raise DataLayout(f"{str(path)!r} has no training pictures. Write train into the column split of some rows.")
        check_split_classes(str(path), rows, multilabel=multilabel)
    return rows, multilabel


def read_column(path: Path, name: str) -> dict[str, str]:
    """Read a column of a CSV file.

    Args:
        path: The path of the CSV file.
        name: The name of the column. Letter case and blanks at the ends do not matter.

    Returns:
        A dictionary from the path of each picture, as the file has it, to the value of the column.

    Raises:
        DataLayout: The file has no such column.
        OSError: The file cannot be opened.
    """
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        columns = [column.strip().lower() for column in reader.fieldnames or []]
        if name.strip().lower() not in columns:
            raise DataLayout(f"{str(path)!r} has no column {name!r}. Its columns are: {', '.join(columns)}.")
        reader.fieldnames = columns
        return {(row["path"] or "").strip(): (row[name.strip().lower()] or "").strip() for row in reader}


def _csv_rows(path: Path, reader: csv.DictReader) -> tuple[list[Row], bool]:
    """Read the rows of a CSV file.

    Args:
        path: The path of the CSV file. Relative paths in the rows start at the folder of this file.
        reader: Reads the file.

    Returns:
        The rows, and whether the file has the column `labels`.

    Raises:
        DataLayout: The columns are not those that `read_csv` requires, or a row is not valid. If a row is not valid,
            the message names its line.
    """
    columns = [column.strip().lower() for column in reader.fieldnames or []]
    if "path" not in columns or len({"label", "labels"} & set(columns)) != 1:
        raise DataLayout(
            f"the first line of {str(path)!r} must name the columns: path,label[,split]; or path,labels[,split] if a "
            f"picture may have several labels. Received: {','.join(columns) or 'nothing'}."
        )
    reader.fieldnames = columns
    multilabel = "labels" in columns
    rows = []
    for row in reader:
        line = f"{str(path)!r}, line {reader.line_num}"
        where, label = (row["path"] or "").strip(), (row["labels" if multilabel else "label"] or "").strip()
        split = (row.get("split") or "").strip().lower()
        # DictReader puts surplus values under the key None.
        surplus = row.get(None)  # type: ignore[call-overload]
        if surplus is not None:
            raise DataLayout(
                f"{line}: the row has {len(columns) + len(surplus)} values for {len(columns)} columns. "
                "Put double quotes around values that contain a comma."
            )
        if not where or not (label or multilabel):
            raise DataLayout(f"{line}: {'path' if multilabel else 'path and label'} must not be empty.")
        if split and split not in SPLITS:
            raise DataLayout(f"{line}: split must be train, val or test. Received: {split!r}.")
        labels = tuple(part.strip() for part in label.split(SEPARATOR) if part.strip()) if multilabel else (label,)
        rows.append(Row(where, _csv_path(path.parent, where), labels, SPLITS.get(split)))
    return rows, multilabel


def _csv_path(folder: Path, where: str) -> Path:
    """Return the path of the file that a row of a CSV file names.

    Backslashes count as separators, unless a file whose name contains the backslashes exists.

    Args:
        folder: The folder of the CSV file. Relative paths start there.
        where: The path as the row contains it.
    """
    file = folder / where
    return folder / where.replace("\\", "/") if "\\" in where and not os.path.exists(file) else file


def read_npz(path: Path) -> list[Row]:
    """Read an .npz file with the arrays x_train and y_train, and optionally x_test and y_test.

    x_train and x_test are uint8 arrays (N, H, W), (N, H, W, 1) or (N, H, W, 3). y_train and y_test contain one whole
    number or string per picture, with the shape (N,) or (N, 1). Numbers must not be negative, and strings must not be
    empty. Pickled objects are not loaded.

    Returns:
        One row per picture. Whole numbers become class names that are padded with zeros to equal length, such as "02"
        and "10".

    Raises:
        DataLayout: The file does not have such arrays or cannot be read, or the test part has a class that the train
            part lacks.
        EmptyClass: The test part lacks a class of the train part.
        PermissionError: The user has no permission to read the file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ("x_train", "y_train", "x_test", "y_test") if key in archive.files}
            found = ", ".join(archive.files)
    except PermissionError:
        raise
    except Exception as error:
        # The errors that zipfile, zlib and numpy raise for a damaged file have no common base class.
        raise DataLayout(f"{str(path)!r} cannot be read as an .npz file of plain arrays: {error}.") from None
    if not {"x_train", "y_train"} <= arrays.keys() or ("x_test" in arrays) != ("y_test" in arrays):
        raise DataLayout(
            f"{str(path)!r} must have the arrays x_train and y_train, and may have x_test together with y_test. "
            f"Received: {found or 'no arrays'}."
        )
    rows = []
    splits = ("train", "test") if "x_test" in arrays else ("train",)
    labels = {split: _labels(path, arrays[f"y_{split}"]) for split in splits}
    # Numbers are padded with zeros, so that class names sort like the numbers: "02" before "10".
    width = max(len(str(given.max())) if given.dtype.kind in "iu" and len(given) else 0 for given in labels.values())
    for split in splits:
        pictures = arrays[f"x_{split}"]
        _check_npz_pictures(path, split, pictures, labels[split])
        part = split if len(splits) > 1 else None
        for i, (picture, label) in enumerate(zip(pictures, labels[split], strict=True)):
            rows.append(Row(f"x_{split}[{i}]", picture, (str(label).zfill(width),), part))
    if len(splits) > 1:
        check_split_classes(str(path), rows)
    return rows


def _check_npz_pictures(path: Path, split: str, pictures: np.ndarray, labels: np.ndarray) -> None:
    """Check the dtype, the shape and the number of pictures of one part of an .npz file.

    Raises:
        DataLayout: The dtype or the shape is not allowed, or the numbers of pictures and labels differ.
    """
    fits = pictures.ndim == 3 or (pictures.ndim == 4 and pictures.shape[3] in (1, 3))
    if pictures.dtype != np.uint8 or not fits:
        raise DataLayout(
            f"{str(path)!r}: x_{split} must be a uint8 array (N, H, W), (N, H, W, 1) or (N, H, W, 3). "
            f"Received: {pictures.dtype} {pictures.shape}."
        )
    if len(pictures) != len(labels):
        raise DataLayout(
            f"{str(path)!r}: x_{split} and y_{split} must be equally long. "
            f"Received: {len(pictures)} pictures and {len(labels)} labels."
        )


def _labels(path: Path, labels: np.ndarray) -> np.ndarray:
    """Check the labels of one part of an .npz file, and return them with the shape (N,).

    Raises:
        DataLayout: The array does not have one whole number or string per picture. A number is negative, or a string is
            empty.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise DataLayout(
            f"{str(path)!r}: labels must be whole numbers or strings, one per picture. "
            f"Received: {labels.dtype} {labels.shape}."
        )
    if labels.dtype.kind in "iu" and len(labels) and labels.min() < 0:
        raise DataLayout(f"{str(path)!r}: labels must not be negative. Received: {labels.min()}.")
    if labels.dtype.kind == "U" and not all(label.strip() for label in labels):
        empty = int(np.argmin([bool(label.strip()) for label in labels]))
        raise DataLayout(f"{str(path)!r}: labels must not be empty. The label with index {empty} is empty.")
    return labels
