"""Locks the folder of a device while its exported file is replaced, and says why it cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from typing import NoReturn

from ._errors import NotUpdated, NotWritten, ZooRuntimeError
from ._sidecars import Place


@contextlib.contextmanager
def written(place: Place, source: str | None = None) -> Iterator[None]:
    """Turn errors of the operating system into those that say why the folder cannot be written.

    Args:
        place: The folder.
        source: Path of the file that is copied into it, if one is.
    """
    try:
        yield
    except ZooRuntimeError:
        raise
    except OSError as error:
        _refuse(place, source, error)


def _refuse(place: Place, source: str | None, error: OSError) -> NoReturn:
    text = f"the folder {place!r} cannot be written: {error.strerror or error}. The present file stays."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(place).free
            if source is None or os.path.getsize(source) < free:
                # Room is lacking for a signature, or for a copy of the present file where files have one name only.
                text += f" {free / 1e6:.1f} MB are free, which is not enough for the files beside it and for copies."
            else:
                text += f" {os.path.getsize(source) / 1e6:.1f} MB are needed, and {free / 1e6:.1f} MB are free."
        text += " Free some space."
    elif error.errno == errno.EROFS:
        text += " Its file system is read-only: mount it for writing first, as with `sudo mount -o remount,rw /`."
    elif error.errno == errno.EBUSY:
        text += (
            f" {place.current} itself is probably mounted, as with `docker run -v .../{place.current}:...`, and then "
            "it cannot be replaced: mount its folder instead."
        )
    elif error.errno in (errno.EACCES, errno.EPERM):
        text += " Run the command as the user who owns the folder, or with sudo."
    raise NotWritten(text) from None


@contextlib.contextmanager
def locked(place: Place) -> Iterator[None]:
    """Hold the lock of a folder. It ends with the process, however that ends.

    Raises:
        NotUpdated: If another process holds it.
    """
    busy = NotUpdated(f"another process is updating {place!r}. Wait until it is done, and try again.")
    if os.name == "nt":
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_TEMPORARY", 0)
        try:
            # Windows removes the file when the process ends.
            descriptor = os.open(os.path.join(place, "model.lock"), flags)
        except FileExistsError:
            raise busy from None
    else:
        import fcntl

        try:
            descriptor = os.open(place, os.O_RDONLY)
        except OSError as error:
            raise NotWritten(f"the folder {place!r} cannot be read: {error.strerror}.") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise busy from None
        except OSError:
            # Some network file systems have no locks.
            pass
    try:
        yield
    finally:
        os.close(descriptor)
