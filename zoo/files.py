"""Where zoo keeps and looks for files: the cache, the mirror, Keras's own cache. Read from the environment on call."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from zoo.errors import WriteError

SCRATCH = ".partial-"
LEFTOVER_SECONDS = 3600


def cache() -> Path:
    """ZOO_CACHE, or the user's cache folder."""
    given = os.environ.get("ZOO_CACHE")
    if given:
        return _expanded(given)
    import platformdirs

    return Path(platformdirs.user_cache_dir("zoo", appauthor=False))


def mirror() -> Path | None:
    """ZOO_WEIGHTS_DIR: a folder with weights files under their published names, or None."""
    given = os.environ.get("ZOO_WEIGHTS_DIR")
    return _expanded(given) if given else None


def keras_cache() -> Path:
    """Where Keras keeps the weights that it downloads."""
    return _expanded(os.environ.get("KERAS_HOME") or "~/.keras") / "models"


def _expanded(text: str) -> Path:
    """Not Path.expanduser, which raises where "~name" is no user."""
    return Path(os.path.expanduser(text))


def offline() -> bool:
    """Whether ZOO_OFFLINE=1 forbids the network."""
    return os.environ.get("ZOO_OFFLINE", "").lower() not in ("", "0", "false", "no", "off")


def size_text(size: float) -> str:
    """Bytes in the unit that suits them: "1.2 GB", "25 MB", "310 kB", "12 bytes"."""
    for unit, number in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= 0.9995 * number:
            return f"{size / number:.{0 if size >= 9.95 * number else 1}f} {unit}"
    return f"{size:.0f} bytes"


def sets(folder: Path) -> list[tuple[float, int, Path]]:
    """The sets that a bounded cache holds, each a folder; what is being made or removed is left out.

    Returns:
        When each was used, the bytes that it takes on the disk, its path; last used first.
    """
    found = []
    # Another run may be removing one.
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                if path.is_dir() and not path.name.startswith(SCRATCH):
                    found.append((path.stat().st_mtime, sum(map(_taken, path.iterdir())), path))
    return sorted(found, reverse=True)


def evict(path: Path) -> None:
    """Remove a set in one step: a half-removed set would look like a whole one.

    What a killed process leaves behind is cleaned up by `scratch_folder`.
    """
    gone = path.parent / f"{SCRATCH}{secrets.token_hex(6)}"
    with contextlib.suppress(OSError):
        os.rename(path, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _taken(path: Path) -> int:
    """Bytes of a file, holes left out."""
    status = path.stat()
    return min(status.st_size, getattr(status, "st_blocks", status.st_size) * 512)


@contextlib.contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder inside a cache folder, where things are made before they are moved to their place.

    What killed processes left behind goes too: temporary folders in which nothing has been written for an hour.

    Raises:
        OSError: The folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{SCRATCH}*"):
        # Another process may be cleaning up as well.
        with contextlib.suppress(OSError):
            used = max(path.stat().st_mtime for path in (leftover, *leftover.iterdir()))
            if time.time() - used > LEFTOVER_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
    # Not tempfile's: its folders and files are closed to all others, and a cache may be shared.
    temporary = folder / f"{SCRATCH}{secrets.token_hex(6)}"
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what is written there takes its place at the end, or not at all.

    Raises:
        WriteError: The disk is full, or writing is not permitted.
    """
    # The ending is kept: Keras and onnxruntime go by it.
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
    """Raise WriteError if a folder that is to be made, or is there, could not be written to; nothing is made."""
    there = Path(os.path.abspath(folder))
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise WriteError(f"{str(folder)!r} cannot be made: {str(there)!r} is no folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise WriteError(f"{str(folder)!r} cannot be written to: no permission for {str(there)!r}.")
