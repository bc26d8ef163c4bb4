"""Lists and opens files: on the disks of this machine, and in object stores and on servers through fsspec.

fsspec and the package of an object store are imported when an address such as s3://bucket/photos is used.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, BinaryIO, Protocol, cast
from urllib.parse import urlsplit

from zoo.errors import DataNotFound, InstallationError, UsageError
from zoo_runtime.workshop import IGNORED, is_written_by_zoo

JOB = "_job.json"
"""The name of the file that makes a folder one of answers; see `zoo.archives.ledger`."""


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
        """Open a file for reading.

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
        real = os.path.realpath(folder)
        yield from self._walk(folder, {real})

    def _walk(self, folder: str, seen: set[str]) -> Iterator[Entry]:
        try:
            with os.scandir(folder) as entries:
                found = sorted((entry.name, entry.is_dir()) for entry in entries if not _is_ignored(entry.name))
        except OSError as error:
            raise DataNotFound(f"the folder {folder!r} cannot be read: {error.strerror}.") from None
        beside = frozenset(name.lower() for name, is_folder in found if not is_folder)
        for name, is_folder in found:
            path = os.path.join(folder, name)
            if not is_folder:
                # Reading a pipe or a device might never end. A broken link becomes a row that says so.
                if os.path.isfile(path) or not os.path.exists(path):
                    yield Entry(path, _stamp(path), beside)
            elif not is_written_by_zoo(path) and not os.path.exists(os.path.join(path, JOB)):
                real = os.path.realpath(path)
                # Links are followed, but each folder is entered only once.
                if real not in seen:
                    seen.add(real)
                    yield from self._walk(path, seen)

    def matching(self, pattern: str) -> list[str]:
        import glob

        return sorted(glob.glob(pattern, recursive=True))

    def entry(self, path: str) -> Entry:
        return Entry(path, _stamp(path))

    def open(self, path: str) -> BinaryIO:
        return open(path, "rb")


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
        if parts.password is not None:
            raise UsageError(
                f"the address of {parts.hostname} holds a password, which would stand in every row. Give it to "
                f"{parts.scheme}:// in the way of its package, as environment variables or a file."
            )
        self._fs = _file_system(parts.scheme)
        self._unstrip: Callable[[str], str] = self._fs.unstrip_protocol

    def is_folder(self, path: str) -> bool:
        try:
            if self._fs.isdir(path):
                return True
            if self._fs.isfile(path):
                return False
        except Exception as error:
            raise DataNotFound(f"{path!r} cannot be read: {_text(error)}. Check the address and the access.") from None
        raise DataNotFound(f"there is nothing at {path!r}. Check the address.")

    def walk(self, folder: str) -> Iterator[Entry]:
        own = self._fs._strip_protocol(folder).rstrip("/")
        try:
            found = sorted(self._fs.ls(folder, detail=True, refresh=True), key=lambda each: str(each["name"]))
        except TypeError:
            # Few file systems know `refresh`.
            found = sorted(self._fs.ls(folder, detail=True), key=lambda each: str(each["name"]))
        except Exception as error:
            raise DataNotFound(f"{folder!r} cannot be listed: {_text(error)}.") from None
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
            if is_folder:
                yield from self.walk(self._unstrip(name))
            else:
                yield Entry(self._unstrip(name), stamp)

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
        return cast(BinaryIO, self._fs.open(path, "rb"))


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
