"""Folders and files: where the caches and the mirror are, how a bounded cache makes room, how a file is replaced.

Environment variables are read when a function is called, never at import. What a cache holds is not known here: pixels
are in `zoo.data.pixels`, features in `zoo.train.frozen.store`, weights in `zoo.pretrained.fetch`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from zoo.errors import WriteError

SCRATCH = ".partial-"
LEFTOVER_SECONDS = 3600


def cache() -> Path:
    """Return the cache folder: the one that ZOO_CACHE names, or the usual one of this user."""
    given = os.environ.get("ZOO_CACHE")
    if given:
        return _expanded(given)
    import platformdirs

    return Path(platformdirs.user_cache_dir("zoo", appauthor=False))


def mirror() -> Path | None:
    """Return the folder that ZOO_WEIGHTS_DIR names, which holds weights files under their published names, or None."""
    given = os.environ.get("ZOO_WEIGHTS_DIR")
    return _expanded(given) if given else None


def keras_cache() -> Path:
    """Return the folder in which Keras keeps the weights that it downloads."""
    return _expanded(os.environ.get("KERAS_HOME") or "~/.keras") / "models"


def _expanded(text: str) -> Path:
    # Path.expanduser raises an error if "~name" does not name a user.
    return Path(os.path.expanduser(text))


def offline() -> bool:
    """Return whether ZOO_OFFLINE=1 forbids the use of the network."""
    return os.environ.get("ZOO_OFFLINE", "").lower() not in ("", "0", "false", "no", "off")


def size_text(size: float) -> str:
    """Write a number of bytes in a readable unit: "1.2 GB", "25 MB", "310 kB", "12 bytes"."""
    for unit, number in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= 0.9995 * number:
            return f"{size / number:.{0 if size >= 9.95 * number else 1}f} {unit}"
    return f"{size:.0f} bytes"


def sets(folder: Path) -> list[tuple[float, int, Path]]:
    """List the sets of a bounded cache; each set is a folder. Unfinished and half-removed sets are not listed.

    Returns:
        For each set, the time of its last use (seconds since the epoch), its size on the disk in bytes, and its path.
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
    """Evict the least recently used sets until `needed` more bytes fit both the limit and the disk.

    Everything that may be evicted is evicted if even that does not suffice; callers check beforehand whether it does.

    Args:
        cached: The sets of the cache, as `sets` returns them.
        needed: Bytes that are about to be written.
        limit: Bytes that the whole cache may take, including the `needed` ones.
        free: Returns the bytes that may still be written to the disk. It is called after each eviction, because a set
            that another process has open frees its space only when that process closes it.
        keep: Sets that stay, however long ago they were used.
    """
    held = sum(size for _, size, _ in cached)
    candidates = [entry for entry in cached if entry[2] not in keep]
    while candidates and (held + needed > limit or free() < needed):
        _, size, oldest = candidates.pop()
        held -= size
        evict(oldest)


def evict(path: Path) -> None:
    """Remove a set. It disappears in one step, because a half-removed set could be taken for a whole one.

    If the process is killed meanwhile, `scratch_folder` removes the rest later.
    """
    gone = path.parent / f"{SCRATCH}{secrets.token_hex(6)}"
    with contextlib.suppress(OSError):
        os.rename(path, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _taken(path: Path) -> int:
    """Return the bytes that a file takes on the disk; holes of a sparse file do not count."""
    status = path.stat()
    return min(status.st_size, getattr(status, "st_blocks", status.st_size) * 512)


@contextlib.contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Provide a temporary folder inside a cache folder. What is finished there can be moved to its place in one step.

    The temporary folder is removed at the end. Those that killed processes left behind are removed too, once nothing
    has been written to them for an hour.

    Raises:
        OSError: The folder cannot be created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{SCRATCH}*"):
        # Another process may clean up at the same time.
        with contextlib.suppress(OSError):
            used = max(path.stat().st_mtime for path in (leftover, *leftover.iterdir()))
            if time.time() - used > LEFTOVER_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
    # Only their owner may read what `tempfile` creates, but several users may share a cache.
    temporary = folder / f"{SCRATCH}{secrets.token_hex(6)}"
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Provide a temporary path beside `path`. At the end, the file written there replaces `path` in one step.

    If the block raises an exception, `path` stays as it was.

    Raises:
        WriteError: The disk is full, or writing is not permitted.
    """
    # The suffix stays, because Keras and onnxruntime choose the file format by it.
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"{str(path)!r} cannot be written: {error.strerror or error}.") from error


def check_writable(folder: Path) -> None:
    """Check that files can be written to a folder, which need not exist yet. Nothing is created.

    Raises:
        WriteError: The folder could not be created, or writing to it is not permitted.
    """
    there = Path(os.path.abspath(folder))
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise WriteError(f"{str(folder)!r} cannot be created: {str(there)!r} is not a folder. Choose another folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise WriteError(f"{str(folder)!r} cannot be written to: you have no permission to write to {str(there)!r}.")
