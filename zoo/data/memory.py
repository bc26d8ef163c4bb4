"""Creates memory-mapped files, and limits how much memory large arrays take, with and without such a file."""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo import files

# Pixels that cannot be written to the disk are kept in memory up to this size.
MEMORY_BYTES = 1 << 30
# Pages of a memory-mapped file that were read or written count as memory of the process until it releases them.
RELEASED_BYTES = 128 << 20
# Temporary arrays of more bytes are in files.
TEMPORARY_BYTES = 32 << 20
# Linux maps 64 KiB around a byte that is read. A row may reach into two such blocks.
MAPPED_BYTES = 128 << 10


class MappedRows:
    """Reads rows of a memory-mapped array, and limits how much memory the array takes.

    The memory pages of the array are released after every 128 MiB that were read or written.

    Args:
        array: An array (rows, ...). If it is an ordinary array and not memory-mapped, nothing is released.
    """

    def __init__(self, array: np.ndarray):
        self._array, self._touched = array, 0

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return a copy of the rows with the given indices, an array (len(rows), ...)."""
        values = self._array[rows]
        self.touched(max(values.nbytes, len(rows) * MAPPED_BYTES))
        return values

    def touched(self, count: int) -> None:
        """Count the bytes that were read or written, and release the memory pages after every 128 MiB.

        Args:
            count: The number of bytes that were read or written since the last call.
        """
        self._touched += count
        if self._touched >= RELEASED_BYTES:
            self.release()

    def release(self) -> None:
        """Release the memory pages of the array. Call this when no more rows are read or written for a while."""
        self._touched = 0
        mapped: Any = getattr(self._array, "_mmap", None)
        if hasattr(mapped, "madvise"):
            # Written bytes are not lost: the operating system keeps them in its file cache and writes them to the disk.
            mapped.madvise(mmap.MADV_DONTNEED)


def memory_limit() -> int:
    """Return how many bytes of pixels are kept in memory at most: 1 GiB, or a quarter of this computer's memory."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        # Windows has no sysconf.
        memory = MEMORY_BYTES
    return min(MEMORY_BYTES, memory // 4)


def create(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """Create a file that holds a memory-mapped uint8 array, and reserve its space on the disk.

    Without the reservation, a write to the array on a full disk would kill the process (SIGBUS).

    Raises:
        OSError: The file cannot be created, or the disk is full.
    """
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    with path.open("r+b") as stream:
        _reserve(stream.fileno(), path.stat().st_size)
    return array


def temporary(shape: tuple[int, ...], kind: type[np.floating[Any]]) -> np.ndarray:
    """Create an array for a while: in memory or, if it is large, in a file of the cache folder.

    The operating system writes the pages of such an array to the disk when memory is short. The file has no name and
    goes with the array, also if the process is killed. If it cannot be created, the array is in memory.

    Args:
        shape: The shape of the array.
        kind: The type of its numbers.
    """
    size = np.dtype(kind).itemsize * math.prod(shape)
    if size > TEMPORARY_BYTES:
        with contextlib.suppress(OSError):
            files.cache().mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=files.cache()) as stream:
                stream.truncate(size)
                _reserve(stream.fileno(), size)
                return np.memmap(stream, kind, "r+", shape=shape)
    return np.empty(shape, kind)


def stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return arrays (rows, n) one below the other, float64; in a file if they are large, see `temporary`."""
    values = temporary((sum(map(len, parts)), parts[0].shape[1]), np.float64)
    start = 0
    for part in parts:
        values[start : start + len(part)] = part
        start += len(part)
        MappedRows(part).release()
    MappedRows(values).release()
    return values


def _reserve(descriptor: int, size: int) -> None:
    """Reserve the space of a file on the disk.

    Raises:
        OSError: The disk is full.
    """
    if not hasattr(os, "posix_fallocate"):
        # macOS has only the second of the two calls, and Windows has neither.
        disk = os.fstatvfs(descriptor) if hasattr(os, "fstatvfs") else None
        if disk is not None and disk.f_bavail * disk.f_frsize < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        # Some file systems cannot reserve space; their errors do not mean that the disk is full.
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
