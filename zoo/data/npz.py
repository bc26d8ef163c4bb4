"""Reads pictures and labels from an .npz file of numpy arrays, under the names that are usual for them.

Pickled objects are never loaded.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zoo.data import labels as labeling
from zoo.data.splits import part_of
from zoo.data.tables import Listing, Row, check_split_classes
from zoo.errors import DataLayout, UsageError

PICTURES = ("x", "images", "image", "imgs", "img", "data", "pictures", "features")
LABELS = ("y", "labels", "label", "targets", "target")
NAMES = ("class_names", "classnames", "label_names", "target_names", "classes", "names")
LAYOUT = (
    "the arrays x_train and y_train, and may have x_val with y_val and x_test with y_test. Other usual names are read "
    "too: train_images and train_labels, images and labels, X and y"
)
MEANINGS = ("x", "y", "x_train", "y_train", "x_val", "y_val", "x_test", "y_test", "names")


class Part(NamedTuple):
    """Names the arrays of one part of the data: "train", "val" or "test", or None if the file has no parts."""

    split: str | None
    pictures: str
    labels: str


class Classes(NamedTuple):
    """Holds the class names of each picture of one part, and whether a picture may have several classes."""

    names: list[tuple[str, ...]]
    multilabel: bool


def read_npz(path: Path, columns: Mapping[str, str]) -> Listing:
    """Read an .npz file of pictures and labels.

    Pictures are uint8 arrays (N, H, W), (N, H, W, 1) or (N, H, W, 3). Whole numbers in 0..255 of another type, and
    arrays (N, 3, H, W), are converted without loss. Labels are one whole number or string per picture, with the shape
    (N,) or (N, 1), or a 0 or 1 for each class, with the shape (N, classes).

    Args:
        path: The path of the file.
        columns: What the user says about the names of the arrays, from meanings such as "x_train" to names. Empty means
            the usual names.

    Returns:
        One row per picture. Whole numbers become class names that are padded with zeros to equal length, such as "02"
        and "10", unless the file has an array of class names.

    Raises:
        DataLayout: The file does not have such arrays or cannot be read, an array would not be used, or another part
            has a class that the train part lacks.
        EmptyClass: The validation or test part lacks a class of the train part.
        PermissionError: The user has no permission to read the file.
        UsageError: `columns` names an array that the file does not have.
    """
    if not zipfile.is_zipfile(path):
        # numpy would take the file for a pickle, and propose to load it as one.
        raise DataLayout(
            f"{str(path)!r} cannot be read as an .npz file: it is damaged, or only its name ends in .npz. Copy or "
            "download it again, or save it again: np.savez('data.npz', x_train=x, y_train=y)"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            present = list(archive.files)
            parts, names, unused = _given(path, present, columns) if columns else _usual(path, present)
            wanted = {key for part in parts for key in (part.pictures, part.labels)} | ({names} if names else set())
            arrays = {key: _load(path, archive, key) for key in present if key in wanted}
    except (PermissionError, DataLayout, UsageError):
        raise
    except Exception as error:
        # The errors that zipfile, zlib and numpy raise for a damaged file have no common base class.
        raise DataLayout(f"{str(path)!r} cannot be read as an .npz file of plain arrays: {error}.") from None
    remarks = [f"{str(path)!r}: these arrays are not used: {', '.join(unused)}."] if unused else []
    labels = _classes(path, parts, arrays, names)
    rows = []
    for part, classes in zip(parts, labels, strict=True):
        pictures, said = _pictures(path, part.pictures, arrays.pop(part.pictures))
        remarks += said
        if len(pictures) != len(classes.names):
            raise DataLayout(
                f"{str(path)!r}: {part.pictures} and {part.labels} must be equally long. "
                f"Received: {len(pictures)} pictures and {len(classes.names)} labels."
            )
        split = part.split if len(parts) > 1 else None
        rows += [
            Row(f"{part.pictures}[{i}]", picture, of, split)
            for i, (picture, of) in enumerate(zip(pictures, classes.names, strict=True))
        ]
    multilabel = any(classes.multilabel for classes in labels)
    if len(parts) > 1:
        check_split_classes(str(path), rows, multilabel=multilabel)
    return Listing(rows, multilabel, tuple(remarks))


def _load(path: Path, archive: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        return archive[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise DataLayout(
            f"{str(path)!r}: {key} is not a plain array but holds Python objects, which zoo never loads, because they "
            "can run programs. Make all pictures equally large, and save plain arrays again: "
            f"np.savez('data.npz', {key}=np.stack(list({key})))"
        ) from None


def _meaning(key: str) -> tuple[str, str | None] | None:
    """Return what the name of an array means, such as ("pictures", "train"), or None if it is not a usual name."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower()
    words = re.sub(r"[\s\-.]+", "_", words).strip("_")
    if words in (*PICTURES, *LABELS):
        return ("pictures" if words in PICTURES else "labels"), None
    for first, second in ((words.partition("_")[::2]), (words.rpartition("_")[2::-2])):
        split = part_of(second)
        if split and first in (*PICTURES, *LABELS):
            return ("pictures" if first in PICTURES else "labels"), split
        split = part_of(first)
        if split and second in (*PICTURES, *LABELS):
            return ("pictures" if second in PICTURES else "labels"), split
    return None


def _usual(path: Path, present: list[str]) -> tuple[list[Part], str | None, list[str]]:
    """Find the arrays of a file by their usual names.

    Returns:
        The parts, the name of the array of class names or None, and the names of the arrays that are not used.

    Raises:
        DataLayout: The names leave doubt, or an array that looks like pictures or labels would not be used.
    """
    found: dict[tuple[str, str | None], str] = {}
    unused, names = [], None
    for key in present:
        meaning = _meaning(key)
        if meaning is not None and meaning in found:
            raise DataLayout(
                f"{str(path)!r}: {found[meaning]} and {key} mean the same. Say which one counts, for example: "
                f"--columns x_train={key},y_train=NAME"
            )
        if meaning:
            found[meaning] = key
        elif key.lower() in NAMES and names is None:
            names = key
        else:
            unused.append(key)
    splits = [split for split in ("train", None, "val", "test") if ("pictures", split) in found]
    pairs = [split for split in splits if ("labels", split) in found]
    if len(pairs) != len(found) / 2 or not ({"train", None} & set(pairs)) or (None in pairs and len(pairs) > 1):
        raise DataLayout(_explanation(path, present))
    doubtful = [key for key in unused if re.fullmatch(r"arr_\d+", key)]
    doubtful += [key for key in unused if re.search(r"(?i)(^|_)(x|y|images?|labels?|train|val|test)(_|$)", key)]
    if doubtful:
        raise DataLayout(
            f"{str(path)!r}: zoo does not know what to do with {', '.join(doubtful)}. {_explanation(path, present)}"
        )
    return [Part(split, found["pictures", split], found["labels", split]) for split in pairs], names, unused


def _explanation(path: Path, present: list[str]) -> str:
    example = "x_train=NAME,y_train=NAME"
    if len(present) == 2:
        example = f"x_train={present[0]},y_train={present[1]}"
    return (
        f"{str(path)!r} must have {LAYOUT}. Received: {', '.join(present) or 'no arrays'}. "
        f"Say which array is which, for example: --columns {example}"
    )


def _given(path: Path, present: list[str], columns: Mapping[str, str]) -> tuple[list[Part], str | None, list[str]]:
    """Find the arrays of a file by what the user says; see `_usual`.

    Raises:
        UsageError: A meaning or an array does not exist, or pictures or labels are missing.
    """
    for meaning, name in columns.items():
        if meaning not in MEANINGS:
            raise UsageError(
                f"--columns: {meaning!r} is not a meaning of an array in an .npz file. Allowed: {', '.join(MEANINGS)}."
            )
        if name not in present:
            raise UsageError(f"--columns: {str(path)!r} has no array {name!r}. It has: {', '.join(present)}.")
    named = {re.sub(r"^([xy])$", r"\1_train", meaning): name for meaning, name in columns.items()}
    splits = [split for split in ("train", "val", "test") if {f"x_{split}", f"y_{split}"} & named.keys()]
    incomplete = [split for split in splits if not {f"x_{split}", f"y_{split}"} <= named.keys()]
    if incomplete or "train" not in splits:
        raise UsageError(f"--columns needs x_train and y_train, and both of other pairs. Received: {', '.join(named)}.")
    unused = [key for key in present if key not in named.values()]
    return [Part(split, named[f"x_{split}"], named[f"y_{split}"]) for split in splits], named.get("names"), unused


def _classes(path: Path, parts: list[Part], arrays: Mapping[str, np.ndarray], names: str | None) -> list[Classes]:
    """Return the class names of all pictures, part by part."""
    labels = [_labels(path, part.labels, arrays[part.labels]) for part in parts]
    known = _names(path, names, arrays[names]) if names else None
    several = [values for values in labels if values.ndim == 2]
    if several and len(several) < len(labels):
        raise DataLayout(f"{str(path)!r}: the labels of all parts must have the same number of dimensions.")
    if len({values.shape[1] for values in several}) > 1:
        raise DataLayout(f"{str(path)!r}: the labels of all parts must have equally many columns, one per class.")
    numbers = [values for values in labels if values.dtype.kind in "iu"]
    # Numbers are padded with zeros, so that class names sort like the numbers: "02" before "10".
    filled = [values for values in numbers if len(values)]
    highest = max((values.shape[1] - 1 if values.ndim == 2 else int(values.max()) for values in filled), default=0)
    if known is not None and numbers and highest >= len(known):
        raise DataLayout(
            f"{str(path)!r}: {names} has {len(known)} names, but the labels go up to {highest}. Labels count from 0."
        )
    width = len(str(highest)) if numbers else 0

    def name(label: object) -> str:
        if known is not None and numbers:
            return known[int(label)]  # type: ignore[call-overload]
        return str(label).zfill(width) if numbers else labeling.one_line(label)

    multilabel = any((values.sum(axis=1) != 1).any() for values in several)
    return [
        Classes(
            [tuple(name(k) for k in np.flatnonzero(row)) for row in values]
            if values.ndim == 2
            else [(name(label),) for label in values.tolist()],
            multilabel,
        )
        for values in labels
    ]


def _names(path: Path, key: str, values: np.ndarray) -> list[str]:
    if values.ndim != 1 or values.dtype.kind not in "US":
        raise DataLayout(
            f"{str(path)!r}: {key} must be the names of the classes, one string each. "
            f"Received: {values.dtype} {values.shape}."
        )
    names = [
        labeling.one_line(name.decode("utf-8", "replace") if isinstance(name, bytes) else name)
        for name in values.tolist()
    ]
    if len(set(names)) < len(names) or not all(names):
        raise DataLayout(f"{str(path)!r}: the names in {key} must differ, and must not be empty.")
    return names


def _labels(path: Path, key: str, labels: np.ndarray) -> np.ndarray:
    """Check the labels of one part of an .npz file.

    Returns:
        Whole numbers, truth values or strings, with the shape (N,); or whole numbers 0 and 1 with the shape
        (N, classes).

    Raises:
        DataLayout: The array is neither of these. A number is negative, or a string is empty.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.round(labels)).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")
    is_table = labels.ndim == 2 and labels.dtype.kind in "iub" and np.isin(labels, (0, 1)).all() and labels.any()
    if is_table:
        return labels.astype(np.int64)
    if labels.ndim != 1 or labels.dtype.kind not in "iuUb":
        raise DataLayout(
            f"{str(path)!r}: the labels {key} must be whole numbers or strings, one per picture, or a 0 or 1 for each "
            f"class. Received: {labels.dtype} {labels.shape}."
        )
    if labels.dtype.kind in "iu" and len(labels) and labels.min() < 0:
        raise DataLayout(f"{str(path)!r}: the labels {key} must not be negative. Received: {labels.min()}.")
    if labels.dtype.kind == "U" and not all(label.strip() for label in labels):
        empty = int(np.argmin([bool(label.strip()) for label in labels]))
        raise DataLayout(f"{str(path)!r}: labels must not be empty. The label with index {empty} of {key} is empty.")
    return labels


def _pictures(path: Path, key: str, pictures: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return the pictures of one part as uint8 (N, H, W) or (N, H, W, channels), and what was converted.

    Only conversions that lose nothing are made.

    Raises:
        DataLayout: The pictures have another dtype or shape. The message has the line of numpy that converts them.
    """
    what = f"{str(path)!r}: {key}"
    received = f"Received: {pictures.dtype} {pictures.shape}"
    remarks = []
    fits = pictures.ndim == 3 or (pictures.ndim == 4 and pictures.shape[3] in (1, 3))
    if pictures.ndim == 4 and not fits and pictures.shape[1] in (1, 3) and min(pictures.shape[2:]) > 4:
        pictures = pictures.transpose(0, 2, 3, 1)
        remarks.append(f"{what} has the channels before the rows: {received[10:]}. zoo put them last.")
        fits = True
    if not fits:
        raise DataLayout(
            f"{what} must be a uint8 array (N, H, W), (N, H, W, 1) or (N, H, W, 3). {received}."
            f"{_reshaping(key, pictures)}"
        )
    if pictures.dtype == np.uint8:
        return pictures, remarks
    low, high = (pictures.min(), pictures.max()) if pictures.size and pictures.dtype.kind in "iuf" else (0, 0)
    if pictures.dtype.kind in "iuf" and low >= 0 and 1 < high <= 255:
        exact = pictures.astype(np.uint8)
        if (exact == pictures).all():
            return exact, [*remarks, f"{what} is {pictures.dtype} with whole numbers in 0..255; zoo read it as uint8."]
    raise DataLayout(
        f"{what} must be a uint8 array (N, H, W), (N, H, W, 1) or (N, H, W, 3) with values 0..255. {received}, values "
        f"{low:.4g} to {high:.4g}. {_conversion(key, pictures.dtype, float(low), float(high))}"
    )


def _reshaping(key: str, pictures: np.ndarray) -> str:
    """Return the sentence that says how to bring pictures of a wrong shape into a right one, or "" if none helps."""
    shape = pictures.shape
    if pictures.ndim == 4 and shape[3] == 4:
        return f" Keep red, green and blue: {key} = {key}[..., :3]"
    if pictures.ndim == 4 and shape[1] == 4:
        return f" Keep red, green and blue, and put the channels last: {key} = {key}[:, :3].transpose(0, 2, 3, 1)"
    if pictures.ndim == 2 and shape[1]:
        for channels in (1, 3):
            side = round((shape[1] / channels) ** 0.5)
            if side * side * channels == shape[1]:
                last = f", {channels}" if channels > 1 else ""
                return f" If each row is a square picture: {key} = {key}.reshape(-1, {side}, {side}{last})"
    return ""


def _conversion(key: str, dtype: np.dtype, low: float, high: float) -> str:
    """Return the sentence that says how to convert pictures of another dtype to uint8."""
    if dtype.kind == "b":
        return f"Convert it: {key} = {key}.astype('uint8') * 255"
    if dtype.kind in "iu" and low >= 0 and high > 255:
        return f"If it uses 16 bits, convert it: {key} = ({key} >> 8).astype('uint8')"
    if low >= 0 and high <= 1:
        return f"Convert it: {key} = ({key} * 255).round().astype('uint8')"
    if low >= -1 and high <= 1:
        return f"If it goes from -1 to 1, convert it: {key} = (({key} + 1) * 127.5).round().astype('uint8')"
    if low >= 0 and high <= 255:
        return f"Convert it: {key} = {key}.round().astype('uint8')"
    return f"Undo the normalization, so that values are 0..255, and convert it: {key} = {key}.round().astype('uint8')"
