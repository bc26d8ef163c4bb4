"""Finds the files that a list names, although a list often comes from another machine or another folder.

Paths count from the folder of the list, or from the folder that --root names. File URLs, backslashes, missing endings
and other Unicode forms of a name are understood. If no file is where the list says, the files are searched for, and
the error proposes a value of --root.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from zoo.data.label_studio import local_path, uploaded_name
from zoo.data.tables import Table
from zoo.errors import DataLayout, DataNotFound
from zoo_runtime import SUFFIXES

SAMPLE = 200
# How many files are looked at: near a list that names no existing file, and below a folder that the user names.
NEARBY_FILES, ROOT_FILES = 100_000, 5_000_000
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class Located(NamedTuple):
    """Holds the paths of the files, one per row, and what was assumed. A path need not exist."""

    paths: list[Path]
    remarks: tuple[str, ...] = ()


class FileIndex:
    """Lists the files below a folder by name. Hidden folders are left out.

    Args:
        folder: The folder.
        limit: The number of files after which the listing stops.
    """

    def __init__(self, folder: Path, limit: int):
        self.is_complete = True
        self._found: dict[str, list[str]] = {}
        count = 0
        for where, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in names:
                if os.path.splitext(name)[1].lower() in SUFFIXES:
                    self._found.setdefault(name, []).append(where)
            count += len(names)
            if count > limit:
                self.is_complete = False
                break
        self._stems: dict[str, list[str]] = {}
        self._lower: dict[str, list[str]] = {}
        for name in self._found:
            self._stems.setdefault(os.path.splitext(name)[0], []).append(name)
            self._lower.setdefault(name.lower(), []).append(name)
        self._files: dict[str, list[str]] = {}
        self._groups: dict[tuple[str, ...], dict[str, list[str]]] = {}

    def find(self, parts: Sequence[str]) -> list[str]:
        """Return the files whose paths share the longest end with a path, or an empty list.

        Args:
            parts: The folders and the name of the path. The name may lack its ending or have another case.
        """
        name = parts[-1] if parts else ""
        # Thousands of folders may have a file of one name, so the files are listed and grouped only once.
        if name not in self._files:
            names = [name] if name in self._found else self._stems.get(name) or self._lower.get(name.lower(), [])
            self._files[name] = [os.path.join(where, full) for full in names for where in self._found[full]]
        files = self._files[name]
        end: tuple[str, ...] = (name,)
        for folder in reversed(parts[:-1]):
            if len(files) < 2:
                break
            if end not in self._groups:
                self._groups[end] = _by_folder(files, len(end))
            if folder not in self._groups[end]:
                break
            files, end = self._groups[end][folder], (folder, *end)
        return files


def _by_folder(files: Sequence[str], place: int) -> dict[str, list[str]]:
    """Group paths by one of their folders, counted from the end: 1 is the folder of the file itself."""
    groups: dict[str, list[str]] = {}
    for file in files:
        folders = file.rsplit(os.sep, place + 1)
        if len(folders) > place:
            groups.setdefault(folders[-place - 1], []).append(file)
    return groups


def locate(table: Table, texts: Sequence[str], root: Path | None, search: Path | None = None) -> Located:
    """Return the path of each file that a list names.

    Args:
        table: The list, for messages.
        texts: The paths as the list writes them. None is empty.
        root: The folder from which relative paths count. None means the folder of the list.
        search: A folder below which files are searched by name if none is where the list says. None means `root`.

    Returns:
        The paths. Those of files that do not exist are what the list says.

    Raises:
        DataLayout: A path is the address of a web page, or a name without its folder or ending fits several files.
            Or none of the files exists. The message proposes a folder for --root if one is found.
        DataNotFound: The folder that the user names does not exist.
    """
    base = table.folder if root is None else root
    if root is not None and not root.is_dir():
        raise DataNotFound(f"--root: {str(root)!r} is not a folder. Give the folder from which the paths count.")
    plain = [local_path(_plain(table, i, text) if ":" in text else text) for i, text in enumerate(texts)]
    paths = [_direct(base, text) for text in plain]
    # One that exists is enough: the others count as unreadable pictures. A whole list is only checked if it seems lost.
    if not paths or any(os.path.exists(paths[i]) for i in _spread(len(paths))) or any(map(os.path.exists, paths)):
        return Located(paths)
    return (
        _with_endings(table, plain, paths)
        or (_below(table, folder, plain, paths) if (folder := search if root is None else root) is not None else None)
        or _refuse(table, base, plain, root)
    )


def exists(table: Table, text: str, root: Path | None) -> bool:
    """Return whether a text of a list names an existing file, with or without its ending."""
    base = table.folder if root is None else root
    if not text.strip() or "\0" in text or (":" in text and URL.match(text) and not text.startswith("file:")):
        return False
    # A long text, such as a caption, is not a path. `os.path.isfile` returns False for it, and `Path.is_file` fails.
    path = _direct(base, local_path(_plain(table, 0, text)))
    return os.path.isfile(path) or bool(_endings(path))


def _plain(table: Table, row: int, text: str) -> str:
    """Turn a file URL into a path. Return other paths unchanged.

    Raises:
        DataLayout: The text is the address of something on another machine.
    """
    if text[:5].lower() == "file:":
        try:
            path = unquote(urlsplit(text).path)
        except ValueError as error:
            raise DataLayout(f"{table.where(row)}: {text!r} is not a valid address of a file: {error}.") from None
        return path[1:] if re.match(r"/[A-Za-z]:", path) else path
    if URL.match(text):
        raise DataLayout(
            f"{table.where(row)}: {text!r} is an address on the network. zoo reads local files: download the pictures, "
            "and write their paths into the list."
        )
    return text


def _direct(base: Path, text: str) -> Path:
    """Return the path of a file, counted from a folder.

    Backslashes count as separators, unless a file whose name contains them exists. Macs write accents as separate
    characters, so the other Unicode forms of a name that does not exist are tried.
    """
    path = base / text
    if text.isascii() and "\\" not in text:
        return path
    if os.path.exists(path):
        return path
    if "\\" in text:
        path = base / text.replace("\\", "/")
    for form in ("NFC", "NFD"):
        other = Path(unicodedata.normalize(form, os.fspath(path)))  # type: ignore[arg-type]
        if os.path.exists(other):
            return other
    return path


def _spread(count: int) -> list[int]:
    """Return up to `SAMPLE` row numbers, evenly spread over all rows."""
    step = max(1, count // SAMPLE)
    return list(range(0, count, step))


def _endings(path: Path) -> list[str]:
    """Return the paths of the pictures in the same folder whose names are this path's name and an ending."""
    try:
        return [
            entry.path
            for entry in os.scandir(path.parent)
            if entry.name.startswith(path.name + ".") and _stem(entry.name) == path.name
        ]
    except (OSError, ValueError):
        return []


def _stem(name: str) -> str | None:
    """Return a file name without its ending, or None if the ending is not that of a picture."""
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in SUFFIXES else None


def _with_endings(table: Table, texts: Sequence[str], paths: Sequence[Path]) -> Located | None:
    """Find files whose names in the list lack the ending, such as "0a1b" for 0a1b.jpg, or differ from it in case.

    Returns:
        The paths, or None if no such file exists.

    Raises:
        DataLayout: Two files fit the same name.
    """
    folders: dict[str, dict[str, list[str]]] = {}
    found, endings, renamed = [], Counter[str](), 0
    for i, path in enumerate(paths):
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = _names_in(folder)
        fitting = folders[folder].get(name) or folders[folder].get(name.lower(), [])
        if len(fitting) > 1:
            raise DataLayout(
                f"{table.where(i)}: there is no file {texts[i]!r}, and {' and '.join(sorted(fitting))} both fit it. "
                "Write the names as they are, with their endings."
            )
        if fitting and fitting[0].lower() == name.lower():
            renamed += 1
        else:
            endings.update(os.path.splitext(full)[1] for full in fitting)
        found.append(Path(folder, fitting[0]) if fitting else path)
    added = ", ".join(ending for ending, _ in endings.most_common())
    remarks = [f"{str(table.path)!r}: the names of the pictures lack their endings; zoo added {added}."] * bool(endings)
    if renamed:
        remarks.append(
            f"{str(table.path)!r}: {renamed:,} names differ from those of the files in upper and lower case."
        )
    return Located(found, tuple(remarks)) if remarks else None


def _names_in(folder: str) -> dict[str, list[str]]:
    """Return the pictures of a folder, under their names without the ending and under their names in lower case."""
    names: dict[str, list[str]] = {}
    for entry in os.listdir(folder) if os.path.isdir(folder) else ():
        stem = _stem(entry)
        if stem is not None:
            names.setdefault(stem, []).append(entry)
            names.setdefault(entry.lower(), []).append(entry)
    return names


def _below(table: Table, root: Path, texts: Sequence[str], paths: Sequence[Path]) -> Located | None:
    """Find files anywhere below the folder that the user named, by the longest common end of their paths.

    Returns:
        The paths, or None if no such file exists.

    Raises:
        DataLayout: Several files fit the same name equally well, or the folder has too many files.
    """
    index = FileIndex(root, ROOT_FILES)
    if not index.is_complete:
        raise DataLayout(f"{str(root)!r} holds more than {ROOT_FILES:,} files. Give a folder further down with --root.")
    located, count = [], 0
    for i, text in enumerate(texts):
        files = _search(index, text)
        if len(files) > 1:
            raise DataLayout(
                f"{table.where(i)}: {text!r} fits several files below {str(root)!r}: {files[0]!r} and {files[1]!r}. "
                "Give a --root with only one of them, or write more of the path into the list."
            )
        count += len(files)
        located.append(Path(files[0]) if files else paths[i])
    if not count:
        return None
    example = next(i for i, path in enumerate(located) if path is not paths[i])
    return Located(
        located,
        (
            f"{str(table.path)!r}: {count:,} of {len(texts):,} pictures were found by name below {str(root)!r}: "
            f"{texts[example]!r} is {str(located[example])!r}.",
        ),
    )


def _refuse(table: Table, base: Path, texts: Sequence[str], root: Path | None) -> Located:
    """Raise the error for a list of which no file exists.

    Raises:
        DataLayout: Always. The message says what was tried, and proposes a folder for --root if one is found.
    """
    counted = (
        f"Paths count from {str(base.absolute())!r}, which --root names"
        if root is not None
        else f"Paths in a list count from the folder of the list, {str(base.absolute())!r}"
    )
    tried = os.fspath(_direct(base, texts[0]).absolute())
    none = f"none of the {len(texts):,} pictures" if len(texts) > 1 else "the only picture"
    text = f"{none} that {str(table.path)!r} names exists. {counted}: for {texts[0]!r}, zoo looked for {tried!r}. "
    nearby = None if root is not None else _proposal(table, base, texts)
    if nearby is None:
        raise DataLayout(f"{text}Give the folder from which the paths count: --root FOLDER.")
    folder, example, file = nearby
    raise DataLayout(
        f"{text}{example!r} is perhaps {os.path.normpath(file)!r}.", [("if so", ["--root", os.fspath(folder)])]
    )


def _proposal(table: Table, base: Path, texts: Sequence[str]) -> tuple[Path, str, str] | None:
    """Search for the files of a list below its folder, then below the folder above.

    Returns:
        A folder for --root, a path as the list writes it, and the file that it may be. None if nothing is found.
    """
    for folder in (base, base.absolute().parent):
        index = FileIndex(folder, NEARBY_FILES)
        found = [(text, files) for i in _spread(len(texts)) if (files := _search(index, text := texts[i]))]
        single = [(text, files[0]) for text, files in found if len(files) == 1]
        if not single:
            continue
        roots = {_root_of(text, file) for text, file in single}
        (only,) = roots if len(roots) == 1 else (None,)
        text, file = single[0]
        return (Path(only) if only else folder), text, file
    return None


def _root_of(text: str, file: str) -> str | None:
    """Return the folder from which a relative path leads to a file, or None if it does not."""
    parts = _parts(text)
    absolute = text[:1] in "/\\" or re.match(r"[A-Za-z]:", text) is not None
    inside = os.path.normpath(file).split(os.sep)
    if absolute or len(parts) > len(inside) or parts[:-1] != inside[len(inside) - len(parts) : -1]:
        return None
    return os.sep.join(inside[: len(inside) - len(parts)]) or "."


def _parts(text: str) -> list[str]:
    """Split a path of any operating system into its folders and its name, without a drive."""
    text = re.sub(r"^[A-Za-z]:", "", text).replace("\\", "/")
    return [part for part in text.split("/") if part not in ("", ".", "..")]


def _search(index: FileIndex, text: str) -> list[str]:
    """Return the files that a path may mean, also by the name that a file had before Label Studio renamed it."""
    name = uploaded_name(text)
    return index.find(_parts(text)) or (index.find([name]) if name else [])
