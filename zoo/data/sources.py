"""Where pictures come from: class folders, split folders, a CSV, an .npz, or the embedded digits.

A source is only listed here, never decoded; `pixels` does that, and `split` decides which picture serves what.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from zoo.errors import DataLayout, DataNotFound, EmptyClass
from zoo_runtime import SUFFIXES

EMBEDDED = "digits"
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# What file managers and archivers leave behind; nobody means them as pictures or classes.
IGNORED = {"thumbs.db", "desktop.ini", "__macosx", "@eadir"}
HELP = (
    "zoo reads a folder of class folders, a folder with train/ (and val/, test/) of class folders, a CSV with the "
    "columns path,label[,split] (or path,labels[,split], several labels between semicolons), an .npz with x_train, "
    "y_train[, x_test, y_test], or the name 'digits'."
)
SEPARATOR = ";"
IDENTIFIER = re.compile(r"n\d{8}")
IDENTIFIED = "Pictures must be called n01440764_tench.jpg, or stand in folders called n01440764, by WordNet identifier."


@dataclass(frozen=True)
class Picture:
    """One picture of a source.

    Args:
        name: How messages and lists call it: the path, or "x_train[12]".
        content: A path, or a uint8 array (H, W), (H, W, 1) or (H, W, 3).
        labels: Indices of its classes in rising order: exactly one, unless the source is multi-label.
        split: "train", "val", "test", or None where the source gives none.
    """

    name: str
    content: Path | np.ndarray
    labels: tuple[int, ...]
    split: str | None

    def digest(self) -> str:
        """sha256 of the file's bytes, or of the array's.

        Raises:
            OSError: The file cannot be read.
        """
        if isinstance(self.content, Path):
            with self.open() as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        # (H, W) and (H, W, 1) are the same picture.
        shape = self.content.shape[:2] if self.content.shape[2:] == (1,) else self.content.shape
        return hashlib.sha256(str(shape).encode() + np.ascontiguousarray(self.content).tobytes()).hexdigest()

    def open(self) -> BinaryIO:
        """Open a picture's file.

        Raises:
            OSError: It cannot be opened, or is a pipe or device, of which reading might never end.
        """
        if self.content.exists() and not self.content.is_file():
            raise OSError(errno.EINVAL, "it is no regular file", os.fspath(self.content))
        return self.content.open("rb")


@dataclass(frozen=True)
class Source:
    """Labelled pictures.

    Args:
        name: Short name, used in the names of runs and exports.
        classes: Class names, sorted; a picture's labels are indices into them.
        pictures: In a fixed order.
        size: The (height, width) in pixels that suits these pictures, or None to use the network's own.
        remarks: What the user should know of what was left aside.
        multilabel: Whether a picture may have several classes, or none.
    """

    name: str
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    size: tuple[int, int] | None = None
    remarks: tuple[str, ...] = ()
    multilabel: bool = False

    @property
    def task(self) -> str:
        """What the exported file calls it: "binary", "multiclass" or "multilabel"."""
        return "multilabel" if self.multilabel else "binary" if len(self.classes) == 2 else "multiclass"

    def class_of(self, picture: Picture) -> str:
        """Name of a picture's class; of several, all of them between semicolons."""
        return SEPARATOR.join(self.classes[label] for label in picture.labels)


def location(data: str) -> str:
    """Where a source is, whatever the working directory: an absolute path, or "digits" for the embedded data."""
    path = Path(os.path.expanduser(data))
    return data if data == EMBEDDED and not path.exists() else str(path.resolve())


def open_source(data: str, *, fewest_classes: int = 2) -> Source:
    """List the pictures of a source.

    Args:
        data: A path, or the name "digits".
        fewest_classes: 2 to learn from the pictures; 1 is enough to judge by them.

    Returns:
        The source, every class of which has a picture.

    Raises:
        DataNotFound: Nothing is there, or it may not be read.
        DataLayout: It is not arranged as zoo reads it.
        EmptyClass: A class has no picture, or there are too few classes.
    """
    try:
        source = _open(data)
    except OSError as error:
        where = os.fspath(error.filename or data)
        raise DataNotFound(f"{where!r} cannot be read: {error.strerror or error}.") from None
    if len(source.classes) < fewest_classes:
        found = f"only the class {source.classes[0]!r}" if source.classes else "no picture"
        if source.multilabel:
            found = f"only the label {source.classes[0]!r}" if source.classes else "no label on any picture"
            found += " (for one thing that is there or not, give every picture one of two classes in a column `label`)"
        raise EmptyClass(f"{data!r} has {found}; a classifier needs two classes or more. {HELP}")
    return source


def _open(data: str) -> Source:
    path = Path(os.path.expanduser(data))
    if data == EMBEDDED and not path.exists():
        return _digits()
    if not data or not path.exists():
        raise DataNotFound(f"there is nothing at {data!r}. {HELP}")
    if path.is_dir():
        return _from_folder(path)
    if path.suffix.lower() == ".csv":
        return _from_csv(path)
    if path.suffix.lower() == ".npz":
        return _from_npz(path)
    raise DataLayout(f"{data!r} is neither a folder nor a .csv nor an .npz. {HELP}")


def identified_folder(folder: str) -> Path:
    """The folder of `open_identified`; raises DataNotFound where there is none."""
    root = Path(os.path.expanduser(folder))
    if not root.is_dir():
        raise DataNotFound(f"{folder!r} is no folder. {IDENTIFIED}")
    return root


def open_identified(folder: str, classes: Sequence[str]) -> list[Picture]:
    """List pictures that tell their class by its WordNet identifier, as those of ImageNet do.

    Args:
        folder: Holds them, at any depth: `n01440764_tench.jpg`, or `n01440764/00000293.jpg`.
        classes: Class names that begin with an identifier ("n01440764_tench"), in the order of a network's output.

    Returns:
        The pictures; labels are indices into `classes`.

    Raises:
        DataNotFound: There is no such folder, or it may not be read.
        DataLayout: It holds no picture, or a picture is of no class.
    """
    root = identified_folder(folder)
    index = {IDENTIFIER.match(name).group(): i for i, name in enumerate(classes) if IDENTIFIER.match(name)}
    try:
        paths = [path for path in _files(root) if path.suffix.lower() in SUFFIXES]
    except OSError as error:
        raise DataNotFound(f"{os.fspath(error.filename or folder)!r} cannot be read: {error.strerror}.") from None
    if not paths:
        raise DataLayout(f"{folder!r} holds no pictures. {IDENTIFIED}")
    pictures = []
    for path in paths:
        found = IDENTIFIER.match(path.name) or IDENTIFIER.match(path.parent.name)
        label = index.get(found.group()) if found else None
        if label is None:
            why = f"{found.group()} is none of the network's classes" if found else "it names no WordNet identifier"
            raise DataLayout(f"the class of {str(path)!r} is not known: {why}. {IDENTIFIED}")
        pictures.append(Picture(_printable(str(path.relative_to(root))), path, (label,), None))
    return pictures


def short_name(text: str) -> str:
    """Bring a name to letters, digits, '.', '_' and '-', as export and run folders need."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "data"


def _source(
    name: str,
    labelled: list[tuple[str, Path | np.ndarray, str | tuple[str, ...], str | None]],
    size: tuple[int, int] | None = None,
    remarks: Sequence[str] = (),
    *,
    multilabel: bool = False,
) -> Source:
    """Build a source from (name, content, class name or names, split)."""
    named = [tuple(map(_printable, (given,) if isinstance(given, str) else given)) for _, _, given, _ in labelled]
    classes = tuple(sorted({label for labels in named for label in labels}))
    index = {label: i for i, label in enumerate(classes)}
    pictures = tuple(
        Picture(_printable(n), content, tuple(sorted({index[label] for label in labels})), split)
        for (n, content, _, split), labels in zip(labelled, named, strict=True)
    )
    return Source(short_name(name), classes, pictures, size, tuple(remarks), multilabel)


def _printable(text: str) -> str:
    """File names are bytes and need not be UTF-8; names of classes go into files that are."""
    return text.encode("utf-8", "backslashreplace").decode()


def _meant(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in IGNORED


def _folders(path: Path) -> list[Path]:
    """The folders in a folder.

    Raises:
        DataLayout: A link leads nowhere; a class might be missing without a word.
    """
    for entry in sorted(path.iterdir()):
        if _meant(entry.name) and entry.is_symlink() and not entry.exists():
            raise DataLayout(f"{str(entry)!r} is a link to nothing ({os.readlink(entry)!r}). Repair or remove it.")
    return sorted(p for p in path.iterdir() if _meant(p.name) and p.is_dir())


def _loose(path: Path) -> list[str]:
    """A remark on the pictures that stand beside folders, where none are looked for."""
    names = sorted(_printable(p.name) for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.is_dir())
    if not names:
        return []
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return [f"{len(names)} pictures beside the folders in {str(path)!r} are in no class and left aside: {shown}"]


def _files(root: Path) -> list[Path]:
    """Every file below a folder but hidden ones and what file managers leave behind.

    Links are followed, but no folder is entered twice, nor one that the root lies in. A link to nothing counts as a
    file, so that it is reported with the bad pictures.

    Raises:
        OSError: A folder below may not be read; its pictures would be missing without a word.
    """

    def stop(error: OSError) -> None:
        raise error

    real = Path(os.path.realpath(root))
    seen = {str(real), *map(str, real.parents)}

    def is_new(folder: str) -> bool:
        place = os.path.realpath(folder)
        return place not in seen and not seen.add(place)

    found = []
    for folder, folders, names in os.walk(root, onerror=stop, followlinks=True):
        folders[:] = [name for name in sorted(folders) if _meant(name) and is_new(os.path.join(folder, name))]
        for name in filter(_meant, names):
            path = os.path.join(folder, name)
            # A pipe or a device is there but no file, and reading it would never end.
            if os.path.isfile(path) or not os.path.exists(path):
                found.append(Path(path))
    return sorted(found)


def _from_folder(root: Path) -> Source:
    name = root.resolve().name
    folders = _folders(root)
    if not folders:
        loose = len(_files(root))
        hint = f"It holds {loose} files but no class folders." if loose else "The folder is empty."
        hint += " Put the pictures of each class in a folder."
        raise DataLayout(f"{str(root)!r} has no class folders. {hint} {HELP}")
    kinds = {folder: SPLITS.get(folder.name.lower()) for folder in folders}
    # Classes may be called "train" and "plane": it is a split only if it has class folders and nothing stands beside.
    if not any(_folders(folder) for folder, split in kinds.items() if split):
        return _source(name, _class_folders(root, None), remarks=_loose(root))
    others = [folder.name for folder, split in kinds.items() if not split]
    parts = [folder.name for folder, split in kinds.items() if split]
    if others and len(parts) > 1 and "train" in kinds.values():
        raise DataLayout(
            f"{str(root)!r} has {', '.join(parts)} with folders in them, as a split has, but also {', '.join(others)}. "
            "If it is a split, move those elsewhere; if all are classes, rename the first ones."
        )
    if others:
        return _source(name, _class_folders(root, None), remarks=_loose(root))
    twice = [split for split in ("train", "val", "test") if list(kinds.values()).count(split) > 1]
    if twice:
        names = [folder.name for folder, split in kinds.items() if split == twice[0]]
        raise DataLayout(f"{str(root)!r} has several folders for {twice[0]}: {', '.join(names)}. Keep one.")
    if "train" not in kinds.values():
        raise DataLayout(f"{str(root)!r} has {', '.join(f.name for f in folders)} but no train/ folder.")
    given = set(kinds.values())
    labelled, remarks = [], _loose(root)
    # train/ alone is no split: its pictures are split like those of a plain folder.
    for folder, split in kinds.items():
        labelled += _class_folders(folder, split if given != {"train"} else None)
        remarks += _loose(folder)
    _check_split_classes(str(root), labelled)
    return _source(name, labelled, remarks=remarks)


def _class_folders(root: Path, split: str | None) -> list[tuple[str, Path, str, str | None]]:
    labelled = []
    for folder in _folders(root):
        files = _files(folder)
        if not files:
            raise EmptyClass(f"the class folder {str(folder)!r} is empty. Add pictures to it, or remove it.")
        labelled += [(str(file), file, folder.name, split) for file in files]
    return labelled


def _check_split_classes(
    name: str, labelled: list[tuple[str, Path | np.ndarray, str | tuple[str, ...], str | None]]
) -> None:
    """Raise unless train has every class that another split has."""
    per_split: dict[str | None, set[str]] = {}
    for _, _, given, split in labelled:
        per_split.setdefault(split, set()).update((given,) if isinstance(given, str) else given)
    trained = per_split.get("train", set())
    for split, labels in per_split.items():
        unknown = sorted(labels - trained) if split in ("val", "test") else []
        if unknown:
            raise DataLayout(f"{name}: {split} has classes that train has no picture of: {', '.join(unknown)}.")
        # A rare one of several labels need not be in every part.
        several = any(not isinstance(given, str) for _, _, given, _ in labelled)
        missing = sorted(trained - labels) if split in ("val", "test") and not several else []
        if missing:
            raise EmptyClass(f"{name}: {split} has no picture of {', '.join(missing)}. Add some, or leave {split} out.")


def _from_csv(path: Path) -> Source:
    labelled: list[tuple[str, Path, str | tuple[str, ...], str | None]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = [column.strip().lower() for column in reader.fieldnames or []]
            if "path" not in columns or len({"label", "labels"} & set(columns)) != 1:
                raise DataLayout(
                    f"{str(path)!r} must begin with a line that names the columns path,label[,split], or "
                    f"path,labels[,split] where a picture may have several. Received: {','.join(columns) or 'nothing'}."
                )
            reader.fieldnames = columns
            multilabel = "labels" in columns
            for row in reader:
                where, label = (row["path"] or "").strip(), (row["labels" if multilabel else "label"] or "").strip()
                given = (row.get("split") or "").strip().lower()
                if None in row:
                    raise DataLayout(
                        f"{str(path)!r}, line {reader.line_num}: {len(columns) + len(row[None])} values for "
                        f"{len(columns)} columns. Put a path that has a comma in it between double quotes."
                    )
                if not where or not (label or multilabel):
                    wanted = "path" if multilabel else "path and label"
                    raise DataLayout(f"{str(path)!r}, line {reader.line_num}: {wanted} must not be empty.")
                if given and given not in SPLITS:
                    raise DataLayout(
                        f"{str(path)!r}, line {reader.line_num}: split must be train, val or test. Received: {given!r}."
                    )
                # A relative path counts from the CSV's own folder.
                file = path.parent / where
                if "\\" in where and not os.path.exists(file):
                    # Written on Windows.
                    file = path.parent / where.replace("\\", "/")
                several = tuple(part.strip() for part in label.split(SEPARATOR) if part.strip())
                labelled.append((where, file, several if multilabel else label, SPLITS.get(given)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataLayout(f"{str(path)!r} is not a CSV in UTF-8: {error}.") from None
    splits = {split for *_, split in labelled}
    if None in splits and len(splits) > 1:
        raise DataLayout(f"{str(path)!r} gives a split for some pictures only. Give it for all, or for none.")
    if splits == {"train"}:
        labelled = [(*row[:3], None) for row in labelled]
    elif None not in splits and labelled:
        if "train" not in splits:
            raise DataLayout(f"{str(path)!r} has no picture with split train.")
        _check_split_classes(str(path), labelled)
    return _source(path.stem, labelled, multilabel=multilabel)


def _from_npz(path: Path) -> Source:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ("x_train", "y_train", "x_test", "y_test") if key in archive.files}
            found = ", ".join(archive.files)
    except PermissionError:
        raise
    except Exception as error:
        # On damaged files zipfile, zlib and numpy raise OSError, ValueError, NotImplementedError and more.
        raise DataLayout(f"{str(path)!r} cannot be read as an .npz of plain arrays: {error}") from None
    if not {"x_train", "y_train"} <= arrays.keys() or ("x_test" in arrays) != ("y_test" in arrays):
        wanted = "x_train and y_train, and may hold x_test and y_test"
        raise DataLayout(f"{str(path)!r} must hold {wanted}. Found: {found}.")
    labelled = []
    splits = ("train", "test") if "x_test" in arrays else ("train",)
    labels = {split: _labels(path, arrays[f"y_{split}"]) for split in splits}
    # Zero-padded, so that sorting the names sorts the numbers: "02" before "10".
    width = max(len(str(given.max())) if given.dtype.kind in "iu" and len(given) else 0 for given in labels.values())
    for split in splits:
        pictures, marks = arrays[f"x_{split}"], labels[split]
        fits = pictures.ndim == 3 or (pictures.ndim == 4 and pictures.shape[3] in (1, 3))
        if pictures.dtype != np.uint8 or not fits:
            raise DataLayout(
                f"{str(path)!r}: x_{split} must be uint8 of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3). "
                f"Received: {pictures.dtype} {pictures.shape}."
            )
        if len(pictures) != len(marks):
            raise DataLayout(f"{str(path)!r}: x_{split} has {len(pictures)} pictures, y_{split} {len(marks)} labels.")
        for i, (picture, mark) in enumerate(zip(pictures, marks, strict=True)):
            label = str(mark).zfill(width)
            labelled.append((f"x_{split}[{i}]", picture, label, split if len(splits) > 1 else None))
    if len(splits) > 1:
        _check_split_classes(str(path), labelled)
    return _source(path.stem, labelled)


def _labels(path: Path, labels: np.ndarray) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise DataLayout(
            f"{str(path)!r}: labels must be whole numbers or texts, one a picture. "
            f"Received: {labels.dtype} {labels.shape}."
        )
    if labels.dtype.kind in "iu" and len(labels) and labels.min() < 0:
        raise DataLayout(f"{str(path)!r}: labels must not be negative. Received: {labels.min()}.")
    if labels.dtype.kind == "U" and not all(label.strip() for label in labels):
        raise DataLayout(f"{str(path)!r}: label {int(np.argmin([bool(x.strip()) for x in labels]))} is empty.")
    return labels


def _digits() -> Source:
    """scikit-learn's handwritten digits: 1,797 pictures of 8x8 pixels, embedded in the package."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labelled = [
        (f"digits[{i}]", picture, str(label), None)
        for i, (picture, label) in enumerate(zip(pictures, digits.target, strict=True))
    ]
    return _source("digits", labelled, size=(64, 64))
