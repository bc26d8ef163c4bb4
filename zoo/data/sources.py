"""Lists a user's pictures and their labels.

A source is a folder with class folders, a folder with train/, val/ and test/, a list such as a CSV file, an .npz file,
or scikit-learn's handwritten digits. This module lists pictures but does not decode them. `zoo.data.lists` reads files,
`zoo.data.pixels` decodes the pictures, and `zoo.data.split` splits them.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from zoo.data import several_tables
from zoo.data.folders import read_folder
from zoo.data.lists import read_list, read_lists
from zoo.data.locate import URL
from zoo.data.names import check_alike, normalized, printable, quoted, remark_on_plurals
from zoo.data.reading import Exclusion, Findings, LeftOut, ReadingOptions, check_present
from zoo.data.stored import StoredPicture
from zoo.data.tables import SEPARATOR, Row
from zoo.data.tree import Tree
from zoo.errors import DataLayout, DataNotFound, EmptyClass, UsageError
from zoo_runtime import MAX_PIXELS, SUFFIXES

EMBEDDED = "digits"
# The longest name that `short_name` returns without a hash. Names of exports get an architecture and a size as well.
LONGEST_NAME = 80
HELP = """zoo reads one of these:
  a folder with one folder per class: photos/cat/1.jpg, photos/dog/2.jpg
  a folder with train/ (and val/, test/), each with one folder per class: photos/train/cat/1.jpg
  a folder with one folder per class, each with train/ (and val/, test/): photos/cat/train/1.jpg
  a list with the columns path,label[,split]; or path,labels[,split] with several labels like "cat;indoors":
    .csv, .tsv, .txt, .json, .jsonl, .parquet, .arrow or .feather
  a folder with such lists: train.csv, val.csv, test.csv; or train-00000-of-00002.parquet, ...
  an .npz file with the arrays x_train, y_train (and x_val, y_val, x_test, y_test)
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
        content: A path, a picture file that a table contains, or a uint8 array (H, W), (H, W, 1) or (H, W, 3), values
            0..255. `zoo_runtime.decode` accepts all of them.
        labels: The indices of the picture's classes, ascending. There is exactly one, unless the source is multi-label.
        split: The part that the source puts the picture into: "train", "val" or "test". None if the source has no
            split.
    """

    name: str
    content: Path | StoredPicture | np.ndarray
    labels: tuple[int, ...]
    split: str | None

    def digest(self) -> str:
        """Return the sha256 of the picture, in hex: of the file's bytes, or of the array's shape and bytes.

        Raises:
            OSError: The file cannot be read, or is not a regular file.
            ValueError: The path contains a null character.
        """
        if not isinstance(self.content, np.ndarray):
            with self.open() as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        # Arrays (H, W) and (H, W, 1) hold the same picture.
        shape = self.content.shape[:2] if self.content.shape[2:] == (1,) else self.content.shape
        return hashlib.sha256(str(shape).encode() + np.ascontiguousarray(self.content).tobytes()).hexdigest()

    def open(self) -> io.BufferedReader | io.BytesIO:
        """Open the picture's file in binary mode.

        Raises:
            OSError: The file cannot be opened, or it is a pipe or a device. Reading from a pipe or a device might never
                end.
            ValueError: The path contains a null character.
            TypeError: The content of the picture is an array, so there is no file.
        """
        path = self.content
        if isinstance(path, StoredPicture):
            return io.BytesIO(path.read())
        if not isinstance(path, Path):
            raise TypeError(f"{self.name} is an array and has no file.")
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
        return path.open("rb")


@dataclass(frozen=True)
class Source:
    """Lists the labeled pictures of a folder, a list or an .npz file, or those of scikit-learn's digits.

    Args:
        name: A short name. The names of exports contain it.
        classes: Class names, sorted. The labels of a picture are indices into them.
        pictures: The pictures, in a fixed order.
        size: The default image size for these pictures, (height, width) in pixels. None means the network's own size.
        remarks: Warnings for the user about files that are not used, and about what was assumed.
        multilabel: Whether a picture may have several classes, or none.
        findings: How the source was understood, and what of it is not used.
        max_pixels: The largest picture to decode, in pixels of color; see `zoo_runtime.decode`.
        formats: The formats of picture files to read; see `zoo_runtime.decode`. None means the common ones.
    """

    name: str
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    size: tuple[int, int] | None = None
    remarks: tuple[str, ...] = ()
    multilabel: bool = False
    findings: Findings = field(default_factory=Findings)
    max_pixels: int = MAX_PIXELS
    formats: tuple[str, ...] | None = None

    @property
    def limits(self) -> dict[str, Any]:
        """The largest picture and the formats, as keyword arguments of `zoo_runtime.Predictor`."""
        return {"max_pixels": self.max_pixels, "formats": self.formats}

    @property
    def task(self) -> str:
        """The kind of classification: "binary" (two classes), "multiclass" or "multilabel"."""
        return "multilabel" if self.multilabel else "binary" if len(self.classes) == 2 else "multiclass"

    @cached_property
    def missing(self) -> frozenset[int]:
        """The indices of the pictures whose files do not exist, such as those that a list names wrongly."""
        paths = [(i, each.content) for i, each in enumerate(self.pictures) if isinstance(each.content, Path)]
        return frozenset(i for i, path in paths if not os.path.exists(path))

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


def open_source(data: str, *, reading: ReadingOptions | None = None, fewest_classes: int = 2) -> Source:
    """List the pictures of a source.

    Args:
        data: A path, or the name "digits".
        reading: Which classes and files are used, and how large the pictures may be. None means the defaults.
        fewest_classes: The smallest number of classes that is accepted: 2 for training. 1 is enough to evaluate a
            network.

    Returns:
        The source. Each of its classes has at least one file, which may turn out to be unreadable.

    Raises:
        DataNotFound: The path does not exist, or the user has no permission to read it.
        DataLayout: The folder or file does not have one of the layouts that zoo reads, or it lacks a class that
            `reading` names.
        EmptyClass: A class folder is empty, the source's validation or test part lacks a class, or there are too few
            classes.
    """
    reading = reading or ReadingOptions()
    try:
        source = _open(data, reading, training=fewest_classes > 1)
    except OSError as error:
        where = os.fspath(error.filename or data)
        raise DataNotFound(f"{printable(where)!r} cannot be read: {error.strerror or error}.") from None
    counts = Counter(source.classes[label] for picture in source.pictures for label in picture.labels)
    check_alike(data, counts, reading.classes or ())
    hints = remark_on_plurals(counts, reading.classes or ())
    source = replace(source, remarks=(*source.remarks, *hints)) if hints else source
    if len(source.classes) < fewest_classes:
        raise EmptyClass(_too_few_classes(data, source))
    if reading.formats is not None:
        source = replace(source, formats=reading.formats)
    return source if reading.max_pixels is None else replace(source, max_pixels=reading.max_pixels)


def _lists_of(folder: Path, reading: ReadingOptions, exclusion: Exclusion) -> list[several_tables.PartList]:
    """Return the lists that make up a folder's data set. None are read if --classes names folders."""
    tree = Tree(folder, exclusion)
    names = {normalized(each.name) for each in tree.live(folder)}
    if reading.classes is not None and set(reading.classes) <= names | {"*"}:
        return []
    return several_tables.find(tree)


def _select(path: Path, source: Source, reading: ReadingOptions, exclusion: Exclusion | None = None) -> Source:
    """Leave out pictures and classes of a table, or of the digits, that the user does not want.

    Args:
        path: The path of the table, or of anything in the folder of several tables.
        source: The source as it stands.
        reading: Says which classes and pictures are used.
        exclusion: What has been left out so far. None means nothing.

    Raises:
        DataLayout: The source lacks a class that `reading` names, or every picture is left out.
    """
    if not reading.exclude and reading.classes is None:
        return source
    exclusion = exclusion or Exclusion(reading.exclude)

    def relative(picture: Picture) -> str:
        content = picture.content
        if isinstance(content, Path) and content.is_relative_to(path.parent):
            return os.fspath(content.relative_to(path.parent))
        return picture.name

    kept = [picture for picture in source.pictures if not exclusion(relative(picture))]
    if not kept and source.pictures:
        raise DataLayout(f"--exclude leaves out all {len(source.pictures)} pictures of {str(path)!r}.")
    counts = Counter(source.classes[label] for picture in kept for label in picture.labels)
    classes = [name for name in source.classes if counts[name]]
    left_out = [LeftOut(picture, "--exclude") for picture in dict.fromkeys(exclusion.left_out)]
    if reading.classes is not None and "*" not in reading.classes:
        check_present(reading.classes, classes, str(path))
        left_out += [LeftOut(name, "not named by --classes", counts[name]) for name in classes]
        left_out = [each for each in left_out if each.path not in reading.classes]
        classes = [name for name in classes if name in reading.classes]
    index = {source.classes.index(name): i for i, name in enumerate(classes)}
    pictures = tuple(
        replace(picture, labels=tuple(index[label] for label in picture.labels if label in index))
        for picture in kept
        if source.multilabel or picture.labels[0] in index
    )
    findings = replace(source.findings, left_out=(*source.findings.left_out, *left_out))
    remarks = (*source.remarks, *exclusion.unused(path.parent))
    return replace(source, classes=tuple(classes), pictures=pictures, remarks=remarks, findings=findings)


def _too_few_classes(data: str, source: Source) -> str:
    """Compose the error message for a source that has only one class or none."""
    if not source.multilabel:
        found = f"only the class {quoted(source.classes[0])}" if source.classes else "no pictures"
        return f"{data!r} has {found}; a classifier needs two classes or more. {HELP}"
    found = f"only the label {source.classes[0]!r}" if source.classes else "no label on any picture"
    return (
        f"{data!r} has {found}; a classifier needs two classes or more. To train for one thing that is in a picture "
        f"or not, name the column `label` and give each picture one of two classes, such as cat and other. {HELP}"
    )


def _open(data: str, reading: ReadingOptions, *, training: bool) -> Source:
    path = Path(os.path.expanduser(data))
    exclusion = Exclusion(reading.exclude)
    if path.is_dir() and (lists := _lists_of(path, reading, exclusion)):
        listing, left_out = read_lists(path, lists, columns=reading.columns, base=reading.root)
        source = _source(path.resolve().name, listing.rows, remarks=listing.remarks, multilabel=listing.multilabel)
        source = replace(source, findings=Findings(left_out=tuple(left_out)))
        return _select(path / "*", source, reading, exclusion)
    if (reading.columns or reading.root is not None) and (path.is_dir() or (data == EMBEDDED and not path.exists())):
        option = "--columns" if reading.columns else "--root"
        raise UsageError(f"{option} is for a list of pictures, such as a CSV file. {data!r} is not a list. Omit it.")
    if data == EMBEDDED and not path.exists():
        return _select(path, _digits(), reading)
    if URL.match(data) and not path.exists():
        advice = "zoo reads local files: download it, unpack it if it is an archive, and give the path of the folder."
        if data.lower().startswith("file:"):
            advice = f"Give the path alone: {unquote(urlsplit(data).path)!r}."
        raise DataNotFound(f"{data!r} is an address, not a path. {advice}")
    if not data or not path.exists():
        raise DataNotFound(f"there is nothing at {data!r}. {HELP}")
    if path.is_dir():
        rows, remarks, findings = read_folder(path, reading, training=training)
        return replace(_source(path.resolve().name, rows, remarks=remarks), findings=findings)
    listing = read_list(path, columns=reading.columns, root=reading.root)
    source = _source(path.stem, listing.rows, remarks=listing.remarks, multilabel=listing.multilabel)
    return _select(path, source, reading)


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
        paths = [path for path in Tree(root, Exclusion(())).pictures(root) if path.suffix.lower() in SUFFIXES]
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
        pictures.append(Picture(printable(str(path.relative_to(root))), path, (label,), None))
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
    named = [tuple(map(normalized, row.labels)) for row in rows]
    classes = tuple(sorted({label for labels in named for label in labels}))
    index = {label: i for i, label in enumerate(classes)}
    pictures = tuple(
        Picture(printable(row.name), row.content, tuple(sorted({index[label] for label in labels})), row.split)
        for row, labels in zip(rows, named, strict=True)
    )
    return Source(short_name(name), classes, pictures, size, tuple(remarks), multilabel)


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
