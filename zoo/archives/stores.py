"""Lists and opens files: on the disks of this machine, and in object stores and on servers through fsspec.

fsspec and the package of an object store are imported when an address such as s3://bucket/photos is used.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, BinaryIO, Protocol, cast
from urllib.parse import urlsplit

from zoo.archives.tar import read_fully
from zoo.errors import DataNotFound, InstallationError, UsageError
from zoo_runtime.workshop import IGNORED, is_written_by_zoo

JOB = "_job.json"
"""The name of the file that makes a folder one of answers; see `zoo.archives.ledger`."""

TARS = (".tar", ".tar.gz", ".tgz")
PARQUETS = (".parquet", ".pq")
ARCHIVES = TARS + PARQUETS
SERVERS = ("http", "https")
# How much of a file of a server is copied at a time, in bytes, and how deep its folders may be.
COPIED, DEEPEST = 1 << 20, 64


@dataclass(frozen=True)
class Entry:
    """A file that was found.

    Args:
        path: Its absolute path, or its address.
        stamp: Its size and the time of its last change, or what an object store has in place of it. It tells whether
            the file has changed.
        beside: The names of all files in its folder, in lower case; empty for what is not on a disk.
    """

    path: str
    stamp: str
    beside: frozenset[str] = frozenset()


class Store(Protocol):
    """Declares what the files of a disk and of an object store have in common."""

    def is_folder(self, path: str) -> bool:
        """Return whether a path is a folder.

        Raises:
            DataNotFound: There is nothing at the path.
        """
        ...

    def walk(self, folder: str) -> Iterator[Entry]:
        """Yield all files below a folder, sorted within each folder. Hidden files and folders are left out.

        Only the names of one folder are in memory at a time.

        Raises:
            DataNotFound: The folder, or one below it, cannot be read.
        """
        ...

    def matching(self, pattern: str) -> list[str]:
        """Return the paths that match a pattern such as `photos/*.tar`, sorted."""
        ...

    def entry(self, path: str) -> Entry:
        """Return what is known about one file."""
        ...

    def open(self, path: str) -> BinaryIO:
        """Open a file that is read from its beginning to its end. A `read` may return less than it was asked for.

        Raises:
            OSError: The file cannot be read.
        """
        ...

    def open_anywhere(self, path: str) -> BinaryIO:
        """Open a file that is read in any order.

        Raises:
            OSError: The file cannot be read.
        """
        ...


def is_address(text: str) -> bool:
    """Return whether a text is an address such as s3://bucket/photos, and not a path."""
    scheme, colon, _ = text.partition("://")
    return bool(colon) and len(scheme) > 1 and scheme.replace("+", "").replace("-", "").isalnum()


def without_scheme(text: str) -> str:
    """Return the path that a file:// address stands for; other text as it is."""
    return text.removeprefix("file://") if text.startswith("file://") else text


def store_of(path: str) -> Store:
    """Return the store of a path or an address.

    Raises:
        InstallationError: fsspec, or the package of an object store, is not installed.
        UsageError: The kind of the address is unknown, or the address holds a password.
    """
    if not is_address(path) or path.startswith("file://"):
        return Disk()
    return Remote(path)


class Disk:
    """The files of this machine, and of network drives."""

    def is_folder(self, path: str) -> bool:
        try:
            return stat.S_ISDIR(os.stat(path).st_mode)
        except OSError as error:
            raise DataNotFound(f"{path!r} cannot be read: {error.strerror}. Check the path.") from None

    def walk(self, folder: str) -> Iterator[Entry]:
        seen = {_identity(folder)}
        # What is left of the folder and of those that are being entered; a recursion would have a greatest depth.
        waiting = [_listed(folder)]
        while waiting:
            folder, names, beside = waiting[-1]
            entry = next(names, None)
            if entry is None:
                waiting.pop()
                continue
            name, is_folder = entry
            path = os.path.join(folder, name)
            if not is_folder:
                # Reading a pipe or a device might never end. A broken link becomes a row that says so.
                if os.path.isfile(path) or not os.path.exists(path):
                    yield Entry(path, _stamp(path), beside)
            elif not is_written_by_zoo(path) and not holds_answers(path):
                identity = _identity(path)
                # Links are followed, but each folder is entered only once.
                if identity not in seen:
                    seen.add(identity)
                    waiting.append(_listed(path))

    def matching(self, pattern: str) -> list[str]:
        import glob

        return sorted(glob.glob(pattern, recursive=True))

    def entry(self, path: str) -> Entry:
        return Entry(path, _stamp(path))

    def open(self, path: str) -> BinaryIO:
        return open(path, "rb")

    def open_anywhere(self, path: str) -> BinaryIO:
        return open(path, "rb")


def holds_answers(folder: str) -> bool:
    """Return whether a folder of this machine is one of answers."""
    return os.path.exists(os.path.join(folder, JOB))


def _listed(folder: str) -> tuple[str, Iterator[tuple[str, bool]], frozenset[str]]:
    """Return a folder, what it holds (name, whether it is a folder), and the names of its files in lower case.

    Raises:
        DataNotFound: The folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, _is_dir(entry)) for entry in entries if not _is_ignored(entry.name))
    except OSError as error:
        raise DataNotFound(
            f"the folder {folder!r} cannot be read: {error.strerror}. Allow it, or give the folders beside it one by "
            "one."
        ) from None
    return folder, iter(found), frozenset(name.lower() for name, is_folder in found if not is_folder)


def _identity(folder: str) -> object:
    """Return what is the same for a folder and for links to it."""
    try:
        status = os.stat(folder)
    except OSError:
        return folder
    # Some network drives number nothing.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link that leads to itself, for example.
        return False


def _stamp(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return "missing"
    return f"{status.st_size}:{status.st_mtime_ns}"


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in IGNORED


class Remote:
    """The files of an object store or a server, through fsspec.

    Args:
        address: Any address of the store.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._is_server = parts.scheme in SERVERS
        if secret := _secret(address):
            raise UsageError(
                f"the address of {parts.hostname} holds {secret}, which would stand in every row. Give it to "
                f"{parts.scheme}:// in the way of its package, as environment variables or a file."
            )
        self._fs = _file_system(parts.scheme)
        self._unstrip: Callable[[str], str] = self._fs.unstrip_protocol

    def is_folder(self, path: str) -> bool:
        try:
            # A server cannot say what is a folder: fsspec reads the whole file, and looks for links in it.
            if self._is_server and path.lower().endswith(ARCHIVES) and self._fs.isfile(path):
                return False
            if self._fs.isdir(path):
                return True
            if self._fs.isfile(path):
                return False
        except Exception as error:
            raise DataNotFound(f"{path!r} cannot be read: {_text(error)}. Check the address and the access.") from None
        raise DataNotFound(f"there is nothing at {path!r}. Check the address.")

    def walk(self, folder: str) -> Iterator[Entry]:
        yield from self._walk(folder, 1)

    def _walk(self, folder: str, depth: int) -> Iterator[Entry]:
        if depth > DEEPEST:
            raise DataNotFound(
                f"{folder!r} is more than {DEEPEST} folders deep. Links of the server may go in circles."
            )
        own = self._fs._strip_protocol(folder).rstrip("/")
        found = self._listed(folder)
        # The descriptions take much memory, so that only what is needed is kept.
        listed = [(str(each["name"]).rstrip("/"), each["type"] == "directory", _remote_stamp(each)) for each in found]
        del found
        below = {name for name, _, _ in listed}
        if f"{own}/{JOB}" in below:
            return
        for name, is_folder, stamp in listed:
            # An object store may list the folder itself, as an empty object.
            if name == own or _is_ignored(name.rpartition("/")[2]):
                continue
            # These are other views of the page, or addresses with keys.
            if self._is_server and "?" in name:
                continue
            if is_folder:
                yield from self._walk(self._unstrip(name), depth + 1)
            else:
                yield Entry(self._unstrip(name), stamp)

    def _listed(self, folder: str) -> list[dict[str, Any]]:
        try:
            try:
                found = self._fs.ls(folder, detail=True, refresh=True)
            except TypeError:
                # Few file systems know `refresh`.
                found = self._fs.ls(folder, detail=True)
        except Exception as error:
            raise DataNotFound(f"{folder!r} cannot be listed: {_text(error)}.") from None
        return sorted(found, key=lambda each: str(each["name"]))

    def matching(self, pattern: str) -> list[str]:
        try:
            return sorted(self._unstrip(str(each)) for each in self._fs.glob(pattern))
        except Exception as error:
            raise DataNotFound(f"{pattern!r} cannot be listed: {_text(error)}.") from None

    def entry(self, path: str) -> Entry:
        try:
            return Entry(path, _remote_stamp(self._fs.info(path)))
        except Exception as error:
            raise DataNotFound(f"{path!r} cannot be read: {_text(error)}.") from None

    def open(self, path: str) -> BinaryIO:
        # Without blocks, a server answers with the file as a whole; not every server can give a piece of one. With any
        # size, fsspec does not ask for it first, whose failure it would report as a file that does not exist.
        whole = {"block_size": 0, "size": 1} if self._is_server else {}
        return cast(BinaryIO, self._fs.open(path, "rb", **whole))

    def open_anywhere(self, path: str) -> BinaryIO:
        if not self._is_server:
            return self.open(path)
        with contextlib.ExitStack() as stack:
            copy = stack.enter_context(tempfile.TemporaryFile())
            with self.open(path) as stream:
                while piece := read_fully(stream, COPIED):
                    copy.write(piece)
            copy.seek(0)
            stack.pop_all()
        return cast(BinaryIO, copy)


def _secret(address: str) -> str:
    """Return what an address holds that others must not read. Empty if there is nothing."""
    parts = urlsplit(address)
    if parts.password is not None:
        return "a password"
    if parts.scheme not in SERVERS:
        return ""
    # Some servers take a token in place of the user, and signed addresses hold a key after the question mark.
    if parts.username is not None:
        return "the name of a user or a token"
    return "a question mark and what may be a key" if "?" in address else ""


def _file_system(scheme: str) -> Any:
    extra = "Install it: pip install 'finezoo[ray]', or pip install fsspec."
    if find_spec("fsspec") is None:
        raise InstallationError(f"zoo reads {scheme}:// through fsspec, which is not installed. {extra}")
    import fsspec
    from fsspec.registry import known_implementations

    known = known_implementations.get(scheme, {})
    package = {"http": "aiohttp", "https": "aiohttp"}.get(scheme, str(known.get("class", "")).partition(".")[0])
    try:
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise InstallationError(
            f"zoo reads {scheme}:// through fsspec and the package {package}, which is not installed here ({error}). "
            f"Install it, on a cluster on every machine: pip install {package}"
        ) from None
    except ValueError:
        raise UsageError(
            f"zoo does not know addresses that begin with {scheme}://. It reads those of fsspec, such as s3://, gs://, "
            "az://, http:// and file://."
        ) from None


def _remote_stamp(description: dict[str, Any]) -> str:
    """Return what tells whether an object has changed: its size and, as far as the store has them, tag and time."""
    keys = ("size", "ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime", "created")
    return ":".join(str(description[key]) for key in keys if description.get(key) is not None)


def _text(error: Exception) -> str:
    """Return the first line of an error of a foreign package, without a full stop."""
    lines = str(error).strip().splitlines() or [""]
    return (f"{type(error).__name__}: {lines[0][:300]}" if lines[0] else type(error).__name__).rstrip(".")
