"""Locates the caches and the mirror, keeps a cache within its size limit, and writes files atomically.

Some caches consist of sets. A set is a subfolder that is kept or removed as a whole. What a cache holds is defined
elsewhere: decoded pixels in `zoo.data.pixels`, features in `zoo.train.frozen.store`, weights in `zoo.pretrained.fetch`.
Environment variables are read when a function is called, never at import.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from zoo.errors import WriteError

SCRATCH = ".partial-"
LEFTOVER_SECONDS = 3600
# The names of the temporary files of `atomic_write`.
_TEMPORARY = re.compile(r"\.[0-9a-f]{8}-.")


def cache() -> Path:
    """Return the folder of zoo's caches, which need not exist.

    It is the folder that the environment variable ZOO_CACHE names, or else the usual cache folder of this user and
    operating system.
    """
    given = os.environ.get("ZOO_CACHE")
    if given:
        return _expanded(given)
    import platformdirs

    return Path(platformdirs.user_cache_dir("zoo", appauthor=False))


def mirror() -> Path | None:
    """Return the folder that the environment variable ZOO_WEIGHTS_DIR names, or None if it is not set.

    This folder is called the mirror. Users put files into it that zoo would otherwise download. The name of each file
    must be the `filename` of a `zoo.plugin.Weights` or a `zoo.plugin.ClassIndex`.
    """
    given = os.environ.get("ZOO_WEIGHTS_DIR")
    return _expanded(given) if given else None


def keras_cache() -> Path:
    """Return the folder in which Keras stores downloaded weights: `models` in KERAS_HOME, or in ~/.keras by default."""
    return _expanded(os.environ.get("KERAS_HOME") or "~/.keras") / "models"


def _expanded(text: str) -> Path:
    # Path.expanduser raises an error if "~name" does not name a user.
    return Path(os.path.expanduser(text))


def offline() -> bool:
    """Return whether the environment variable ZOO_OFFLINE forbids downloads.

    Every value forbids downloads, except 0, false, no, off and an empty value. Letter case is ignored.
    """
    return os.environ.get("ZOO_OFFLINE", "").lower() not in ("", "0", "false", "no", "off")


def size_text(size: float) -> str:
    """Format a number of bytes in a readable unit: "1.2 GB", "25 MB", "310 kB", "12 bytes"."""
    for unit, number in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= 0.9995 * number:
            return f"{size / number:.{0 if size >= 9.95 * number else 1}f} {unit}"
    return f"{size:.0f} bytes"


def sets(folder: Path) -> list[tuple[float, int, Path]]:
    """List the sets in a cache folder. A set is a subfolder that is kept or removed as a whole.

    Sets that are still being written or removed are not listed.

    Returns:
        For each set: the time of its last use in seconds since the epoch, its size on the disk in bytes, and its path.
        The most recently used set comes first.
    """
    found = []
    # Another process may remove a set at the same time.
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                if path.is_dir() and not path.name.startswith(SCRATCH):
                    found.append((path.stat().st_mtime, sum(map(_taken, path.iterdir())), path))
    return sorted(found, reverse=True)


def make_room(
    cached: list[tuple[float, int, Path]],
    needed: int,
    *,
    limit: int,
    free: Callable[[], int],
    keep: Collection[Path] = (),
) -> None:
    """Remove the least recently used sets of a cache until there is room for `needed` more bytes.

    There is room if the new bytes fit on the disk, and if the cache with the new bytes takes at most `limit` bytes.

    Call this function only if enough room can be made. Otherwise it removes every set that is not in `keep`, although
    there is still no room afterwards.

    Args:
        cached: The sets of the cache, as `sets` returns them.
        needed: The number of bytes that the caller is about to write.
        limit: The number of bytes that the whole cache may take, including the `needed` ones.
        free: A function that returns the number of free bytes on the disk. It is called again after each removal,
            because the removal may free no space: if another process has the set open, the space becomes free only
            when that process closes it.
        keep: Paths of sets that must not be removed.
    """
    held = sum(size for _, size, _ in cached)
    candidates = [entry for entry in cached if entry[2] not in keep]
    while candidates and (held + needed > limit or free() < needed):
        _, size, oldest = candidates.pop()
        held -= size
        evict(oldest)


def evict(path: Path) -> None:
    """Remove a set from a cache in one step, so that no process can mistake a half-removed set for a whole one.

    The set is renamed first and then deleted. If the process is killed in between, `scratch_folder` deletes the rest
    later.
    """
    gone = path.parent / f"{SCRATCH}{os.urandom(6).hex()}"
    with contextlib.suppress(OSError):
        os.rename(path, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _taken(path: Path) -> int:
    """Return the number of bytes that a file takes on the disk, not counting the holes of a sparse file."""
    status = path.stat()
    return min(status.st_size, getattr(status, "st_blocks", status.st_size) * 512)


def mark_used(path: Path, user: object) -> Callable[[], None]:
    """Note that this process uses a file or a folder of a cache, so that `in_use` is true for other processes.

    The note is a lock that the operating system opens when the process ends, however it ends. Where files cannot be
    locked, nothing is noted. Windows needs no note, because it does not remove open files.

    Args:
        path: The file or folder.
        user: The object that uses it. The note ends with this object.

    Returns:
        A function that ends the note earlier.
    """
    if os.name == "nt":
        return lambda: None
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return lambda: None
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return weakref.finalize(user, os.close, descriptor)


def in_use(path: Path) -> bool:
    """Return whether a process uses a file or a folder of a cache; see `mark_used`."""
    if os.name == "nt":
        return False
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Provide a temporary folder inside a cache folder, and remove it when the context ends.

    Files that are finished in the temporary folder can be moved to their final place in one step. This function also
    removes the temporary folders of killed processes, if nothing has been written to them for an hour.

    Args:
        folder: The cache folder; it is created if necessary.

    Raises:
        OSError: A folder cannot be created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{SCRATCH}*"):
        # Another process may clean up at the same time.
        with contextlib.suppress(OSError):
            used = max(path.stat().st_mtime for path in (leftover, *leftover.iterdir()))
            if time.time() - used > LEFTOVER_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
    # `tempfile` would create a folder that only its owner may read, but several users may share a cache.
    temporary = folder / f"{SCRATCH}{os.urandom(6).hex()}"
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`. When the context ends, move the file at the temporary path to `path`.

    The move is atomic: other processes see either the old file or the new one. If the context ends with an exception,
    `path` stays as it was, and the temporary file is deleted. Missing parent folders are created.

    Raises:
        WriteError: The file cannot be written. Any OSError inside the context is raised as a WriteError.
    """
    # The suffix stays, because Keras and onnxruntime choose the file format by it.
    temporary = path.with_name(f".{os.urandom(4).hex()}-{path.name}")  # as in _TEMPORARY
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        full = " Free some space, or choose a folder on another disk." if error.errno == errno.ENOSPC else ""
        raise WriteError(f"{str(path)!r} cannot be written: {error.strerror or error}.{full}") from error


def remove_leftovers(folder: Path, age: float = 0.0) -> None:
    """Remove the temporary files of `atomic_write` that killed processes have left in a folder.

    Args:
        folder: The folder. It need not exist.
        age: How old a file must be, in seconds. Another process may still write younger ones.
    """
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _TEMPORARY.match(path.name) and time.time() - path.stat().st_mtime >= age:
                path.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the names of the files in a folder survive a power failure."""
    # Windows cannot open folders, and some network file systems cannot flush them.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_writable(folder: Path, option: str) -> None:
    """Check that files can be written to a folder, which need not exist yet. Nothing is created.

    Args:
        folder: The folder.
        option: The option with which the user can choose a different folder, such as "--exported FOLDER". The error
            message suggests it.

    Raises:
        WriteError: The folder cannot be created, the user has no permission to write to it, or it is on a read-only
            file system.
    """
    problem = why_not_writable(folder)
    if problem:
        raise WriteError(f"{str(folder)!r} {problem}. Choose another place with {option}.")


def why_not_writable(folder: Path) -> str | None:
    """Return why files cannot be written to a folder, which need not exist yet. None if they can.

    The reason continues a sentence that begins with the name of the folder.
    """
    there = Path(os.path.abspath(folder))
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return f"cannot be created: {str(there)!r} is not a folder"
    if os.access(there, os.W_OK | os.X_OK):
        return None
    # Windows has no statvfs.
    if hasattr(os, "statvfs") and os.statvfs(there).f_flag & os.ST_RDONLY:
        return f"cannot be written to: {str(there)!r} is on a read-only file system"
    return f"cannot be written to: you have no permission to write to {str(there)!r}"
