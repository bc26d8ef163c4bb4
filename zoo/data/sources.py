"""Lists a user's pictures and their labels.

A source is a folder with class folders, a folder with train/, val/ and test/, a CSV file, an .npz file, or
scikit-learn's handwritten digits. This module lists pictures but does not decode them. `zoo.data.tables` reads the CSV
and the .npz, `zoo.data.pixels` decodes the pictures, and `zoo.data.split` splits them.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.data import tables
from zoo.data.tables import SEPARATOR, SPLITS, Row, check_split_classes
from zoo.errors import DataLayout, DataNotFound, EmptyClass
from zoo_runtime import IGNORED, SUFFIXES

EMBEDDED = "digits"
# The longest name that `short_name` returns without a hash. Names of exports get an architecture and a size as well.
LONGEST_NAME = 80
HELP = """zoo reads one of these:
  a folder with one folder per class: photos/cat/1.jpg, photos/dog/2.jpg
  a folder with train/ (and val/, test/), each with one folder per class: photos/train/cat/1.jpg
  a CSV file with the columns path,label[,split]; or path,labels[,split] with several labels like "cat;indoors"
  an .npz file with the arrays x_train, y_train (and x_test, y_test)
  the name digits: 1,797 handwritten digits that are installed with zoo"""
IDENTIFIER = re.compile(r"n\d{8}")
IDENTIFIED = (
    "The name of each picture, or of its folder, must begin with the WordNet identifier of its class: "
    "n01440764_tench.jpg or n01440764/00000293.jpg."
)


@dataclass(frozen=True)
class Picture:
    """Describes one picture of a source.

    Args:
        name: The name in messages and lists: the path, or "x_train[12]".
        content: A path, or a uint8 array (H, W), (H, W, 1) or (H, W, 3), values 0..255.
        labels: The indices of the picture's classes, ascending. There is exactly one, unless the source is multi-label.
        split: The part that the source puts the picture into: "train", "val" or "test". None if the source has no
            split.
    """

    name: str
    content: Path | np.ndarray
    labels: tuple[int, ...]
    split: str | None

    def digest(self) -> str:
        """Return the sha256 of the picture, in hex: of the file's bytes, or of the array's shape and bytes.

        Raises:
            OSError: The file cannot be read, or is not a regular file.
            ValueError: The path contains a null character.
        """
        if isinstance(self.content, Path):
            with self.open() as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        # Arrays (H, W) and (H, W, 1) hold the same picture.
        shape = self.content.shape[:2] if self.content.shape[2:] == (1,) else self.content.shape
        return hashlib.sha256(str(shape).encode() + np.ascontiguousarray(self.content).tobytes()).hexdigest()

    def open(self) -> io.BufferedReader:
        """Open the picture's file in binary mode.

        Raises:
            OSError: The file cannot be opened, or it is a pipe or a device. Reading from a pipe or a device might never
                end.
            ValueError: The path contains a null character.
            TypeError: The content of the picture is an array, so there is no file.
        """
        path = self.content
        if not isinstance(path, Path):
            raise TypeError(f"{self.name} is an array and has no file.")
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
        return path.open("rb")


@dataclass(frozen=True)
class Source:
    """Lists the labeled pictures of a folder, a CSV file or an .npz file, or those of scikit-learn's digits.

    Args:
        name: A short name. The names of exports contain it.
        classes: Class names, sorted. The labels of a picture are indices into them.
        pictures: The pictures, in a fixed order.
        size: The default image size for these pictures, (height, width) in pixels. None means the network's own size.
        remarks: Warnings for the user about files that are not used.
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
        """The kind of classification: "binary" (two classes), "multiclass" or "multilabel"."""
        return "multilabel" if self.multilabel else "binary" if len(self.classes) == 2 else "multiclass"

    def class_of(self, picture: Picture) -> str:
        """Return the name of a picture's class. If a picture has several classes, semicolons separate their names."""
        return SEPARATOR.join(self.classes[label] for label in picture.labels)


def location(data: str) -> str:
    """Return the absolute path of a source, or "digits" for scikit-learn's digits.

    A run records this string, so that its pictures can be found again from any working directory.

    Args:
        data: A path, or the name "digits". If a file or folder called "digits" exists, the name refers to it.
    """
    path = Path(os.path.expanduser(data))
    return data if data == EMBEDDED and not path.exists() else str(path.resolve())


def open_source(data: str, *, fewest_classes: int = 2) -> Source:
    """List the pictures of a source.

    Args:
        data: A path, or the name "digits".
        fewest_classes: The smallest number of classes that is accepted: 2 for training. 1 is enough to evaluate a
            network.

    Returns:
        The source. Each of its classes has at least one file, which may turn out to be unreadable.

    Raises:
        DataNotFound: The path does not exist, or the user has no permission to read it.
        DataLayout: The folder or file does not have one of the layouts that zoo reads.
        EmptyClass: A class folder is empty, the source's validation or test part lacks a class, or there are too few
            classes.
    """
    try:
        source = _open(data)
    except OSError as error:
        where = os.fspath(error.filename or data)
        raise DataNotFound(f"{where!r} cannot be read: {error.strerror or error}.") from None
    if len(source.classes) < fewest_classes:
        raise EmptyClass(_too_few_classes(data, source))
    return source


def _too_few_classes(data: str, source: Source) -> str:
    """Compose the error message for a source that has only one class or none."""
    if not source.multilabel:
        found = f"only the class {source.classes[0]!r}" if source.classes else "no pictures"
        return f"{data!r} has {found}; a classifier needs two classes or more. {HELP}"
    found = f"only the label {source.classes[0]!r}" if source.classes else "no label on any picture"
    return (
        f"{data!r} has {found}; a classifier needs two classes or more. To train for one thing that is in a picture "
        f"or not, name the column `label` and give each picture one of two classes, such as cat and other. {HELP}"
    )


def _open(data: str) -> Source:
    path = Path(os.path.expanduser(data))
    if data == EMBEDDED and not path.exists():
        return _digits()
    if not data or not path.exists():
        raise DataNotFound(f"there is nothing at {data!r}. {HELP}")
    if path.is_dir():
        return _from_folder(path)
    if path.suffix.lower() == ".csv":
        rows, multilabel = tables.read_csv(path)
        return _source(path.stem, rows, multilabel=multilabel)
    if path.suffix.lower() == ".npz":
        return _source(path.stem, tables.read_npz(path))
    raise DataLayout(f"{data!r} is a file, but neither a .csv nor an .npz file. {HELP}")


def identified_folder(folder: str) -> Path:
    """Check that a folder of ImageNet pictures exists, and return its path with "~" expanded.

    Raises:
        DataNotFound: There is no folder at this path.
    """
    root = Path(os.path.expanduser(folder))
    if not root.is_dir():
        raise DataNotFound(f"{folder!r} is not a folder. Give a folder of ImageNet pictures. {IDENTIFIED}")
    return root


def open_identified(folder: str, classes: Sequence[str]) -> list[Picture]:
    """List pictures whose file or folder names begin with the WordNet identifier of their class, as in ImageNet.

    Args:
        folder: A folder that contains the pictures at any depth: `n01440764_tench.jpg`, or `n01440764/00000293.jpg`.
        classes: Class names that begin with an identifier ("n01440764_tench"), in the order of a network's output.

    Returns:
        The pictures. Their labels are indices into `classes`.

    Raises:
        DataNotFound: The folder does not exist, or the user has no permission to read it.
        DataLayout: The folder has no pictures, or a picture belongs to none of the classes.
    """
    root = identified_folder(folder)
    matches = [(IDENTIFIER.match(name), i) for i, name in enumerate(classes)]
    index = {match.group(): i for match, i in matches if match}
    try:
        paths = [path for path in _files(root) if path.suffix.lower() in SUFFIXES]
    except OSError as error:
        raise DataNotFound(f"{os.fspath(error.filename or folder)!r} cannot be read: {error.strerror}.") from None
    if not paths:
        raise DataLayout(f"{folder!r} has no pictures. {IDENTIFIED}")
    pictures = []
    for path in paths:
        found = IDENTIFIER.match(path.name) or IDENTIFIER.match(path.parent.name)
        label = index.get(found.group()) if found else None
        if label is None:
            why = f"the network has no class {found.group()}" if found else "its name has no WordNet identifier"
            raise DataLayout(f"the class of {str(path)!r} is unknown: {why}. {IDENTIFIED}")
        pictures.append(Picture(_printable(str(path.relative_to(root))), path, (label,), None))
    return pictures


def short_name(text: str) -> str:
    """Turn a string into a name for a folder that is valid on every file system and in every shell.

    Letters of other scripts are transliterated to ASCII: "собаки" becomes "sobaki". ASCII letters, digits, '.', '_' and
    '-' are kept. Each sequence of other characters is replaced by one '-'. Then '-' and '.' are removed from both ends.

    Four digits of a hash of the string are added in three cases, so that different strings keep different names: the
    string has Chinese characters, many of which are transliterated alike; nothing readable is left, and the name is
    "data"; or the name has more than 80 characters and is cut.
    """
    text = unicodedata.normalize("NFC", text)
    plain = text
    if not text.isascii():
        # Importing it takes a moment, and most names do not need it.
        from anyascii import anyascii

        # Emoji become ":dog:", and a lone surrogate stands for a byte that is not text.
        plain = anyascii(text.encode("utf-8", "replace").decode())
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-.")
    ambiguous = any(unicodedata.name(character, "").startswith("CJK") for character in text)
    if len(short) > LONGEST_NAME or (ambiguous and short) or (not short and text.strip(".")):
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:4]
        return f"{short[:LONGEST_NAME].rstrip('-.') or 'data'}-{digest}"
    return short or "data"


def _source(
    name: str,
    rows: Sequence[Row],
    size: tuple[int, int] | None = None,
    remarks: Sequence[str] = (),
    *,
    multilabel: bool = False,
) -> Source:
    """Build a source from rows; see `zoo.data.tables.Row`.

    The class names of all rows are sorted. The labels of a picture are the indices of its classes in the sorted list.

    Args:
        name: The name of the file or folder. `short_name` turns it into a short name.
        rows: The pictures with the names of their classes.
        size: See `Source`.
        remarks: See `Source`.
        multilabel: See `Source`.
    """
    named = [tuple(map(_printable, row.labels)) for row in rows]
    classes = tuple(sorted({label for labels in named for label in labels}))
    index = {label: i for i, label in enumerate(classes)}
    pictures = tuple(
        Picture(_printable(row.name), row.content, tuple(sorted({index[label] for label in labels})), row.split)
        for row, labels in zip(rows, named, strict=True)
    )
    return Source(short_name(name), classes, pictures, size, tuple(remarks), multilabel)


def _printable(text: str) -> str:
    """Replace characters that UTF-8 cannot encode with backslash escapes.

    File names may contain any bytes, but zoo writes the names of classes and pictures to UTF-8 files.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def _is_relevant(name: str) -> bool:
    """Return whether a file or folder is neither hidden nor listed in `IGNORED`, judging by its name."""
    return not name.startswith(".") and name.lower() not in IGNORED


def _folders(path: Path) -> list[Path]:
    """List the direct subfolders of a folder, except hidden ones and those listed in `IGNORED`.

    Raises:
        DataLayout: A link is broken. Its class would otherwise be missing without a warning.
        OSError: The folder cannot be read.
    """
    for entry in sorted(path.iterdir()):
        if _is_relevant(entry.name) and entry.is_symlink() and not entry.exists():
            target = os.readlink(entry)
            raise DataLayout(f"{str(entry)!r} is a broken link: {target!r} does not exist. Repair or remove the link.")
    return sorted(p for p in path.iterdir() if _is_relevant(p.name) and p.is_dir())


def _unused_pictures(path: Path) -> list[str]:
    """Return a list with one warning if pictures are directly in a folder, or an empty list if there are none.

    Such pictures are not used, because only pictures in class folders have a class.
    """
    names = sorted(_printable(p.name) for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.is_dir())
    if not names:
        return []
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if len(names) == 1:
        return [
            f"1 picture is not used, because it is directly in {str(path)!r} and not in a class folder: {shown}. "
            "To use it, move it into the folder of its class."
        ]
    return [
        f"{len(names)} pictures are not used, because they are directly in {str(path)!r} and not in a class folder: "
        f"{shown}. To use them, move them into the folders of their classes."
    ]


def _files(root: Path) -> list[Path]:
    """List all files below a folder, except hidden files and those that file managers leave behind.

    Links are followed, but each folder is entered only once, and a folder that contains `root` is never entered. Broken
    links are listed, so that they are reported with the unreadable pictures. Pipes and devices are not listed.

    Raises:
        OSError: A folder cannot be read. Its pictures would otherwise be missing without a warning.
    """

    def stop(error: OSError) -> None:
        raise error

    real = Path(os.path.realpath(root))
    seen = {str(real), *map(str, real.parents)}

    def enter(folder: str) -> bool:
        # Records the folder, and returns whether it has not been entered before.
        place = os.path.realpath(folder)
        is_new = place not in seen
        seen.add(place)
        return is_new

    found = []
    for folder, folders, names in os.walk(root, onerror=stop, followlinks=True):
        folders[:] = [name for name in sorted(folders) if _is_relevant(name) and enter(os.path.join(folder, name))]
        for name in filter(_is_relevant, names):
            path = os.path.join(folder, name)
            # Pipes and devices exist but are not files; reading from them might never end.
            if os.path.isfile(path) or not os.path.exists(path):
                found.append(Path(path))
    return sorted(found)


def _from_folder(root: Path) -> Source:
    name = root.resolve().name
    folders = _folders(root)
    if not folders:
        files = len(_files(root))
        content = f"It has {files} files, which are not in class folders." if files else "The folder is empty."
        raise DataLayout(
            f"{str(root)!r} has no class folders. {content} "
            f"Make a folder for each class and put its pictures there. {HELP}"
        )
    parts = {folder: SPLITS[folder.name.lower()] for folder in folders if folder.name.lower() in SPLITS}
    others = [folder.name for folder in folders if folder not in parts]
    # Classes may be called "train" and "plane". Folders with the names of parts are a split only if they contain
    # folders, and if no other folders are beside them.
    if not any(_folders(folder) for folder in parts) or (others and not _is_ambiguous(parts)):
        return _source(name, _class_folders(root, None), remarks=_unused_pictures(root))
    if others:
        raise DataLayout(
            f"{str(root)!r} has {_names(parts)} with folders in them, like a split, but also {', '.join(others)}. "
            f"If this is a split, move {', '.join(others)} elsewhere. "
            f"If all of them are classes, rename {_names(parts)}."
        )
    for part in ("train", "val", "test"):
        same = [folder for folder, of in parts.items() if of == part]
        if len(same) > 1:
            raise DataLayout(
                f"{str(root)!r} has several folders for the {part} part: {_names(same)}. Keep one of them."
            )
    if "train" not in parts.values():
        raise DataLayout(
            f"{str(root)!r} has {_names(parts)} but no train/ folder. Add a folder train/ with the training pictures."
        )
    rows, remarks = [], _unused_pictures(root)
    # A train/ folder without val/ and test/ is not a split: its pictures are divided like those of a plain folder.
    is_split = set(parts.values()) != {"train"}
    for folder, part in parts.items():
        rows += _class_folders(folder, part if is_split else None)
        remarks += _unused_pictures(folder)
    check_split_classes(str(root), rows)
    return _source(name, rows, remarks=remarks)


def _is_ambiguous(parts: Mapping[Path, str]) -> bool:
    """Return whether the folders that have the names of parts look like a split.

    They do if there are at least two such folders, and one is for the train part. The caller needs this only if the
    source also has folders with other names. If the result is True, the caller raises an error. If it is False, the
    caller treats every folder as a class.

    Args:
        parts: Maps each folder that has the name of a part ("train", "valid", ...) to that part.
    """
    return len(parts) > 1 and "train" in parts.values()


def _names(folders: Iterable[Path]) -> str:
    return ", ".join(folder.name for folder in folders)


def _class_folders(root: Path, split: str | None) -> list[Row]:
    """List the files in all class folders that are directly in a folder.

    Args:
        root: The folder that contains the class folders.
        split: The part that all the pictures belong to, or None if the source has no split.

    Returns:
        One row per file.

    Raises:
        EmptyClass: A class folder has no files.
        DataLayout: A link in `root` is broken.
        OSError: A folder cannot be read.
    """
    rows = []
    for folder in _folders(root):
        files = _files(folder)
        if not files:
            raise EmptyClass(f"the class folder {str(folder)!r} is empty. Add pictures to it, or remove it.")
        rows += [Row(str(file), file, (folder.name,), split) for file in files]
    return rows


def _digits() -> Source:
    """Return scikit-learn's handwritten digits as a source: 1,797 gray pictures of 8x8 pixels.

    The pictures are part of the scikit-learn package.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = np.round(digits.images * (255 / 16)).astype(np.uint8)
    rows = [
        Row(f"digits[{i}]", picture, (str(label),), None)
        for i, (picture, label) in enumerate(zip(pictures, digits.target, strict=True))
    ]
    return _source("digits", rows, size=(64, 64))
