"""Numbers computed once for each picture of a set, kept on disk between runs: a bounded, memory-mapped cache.

A set is a folder: `values` holds a row a picture, `done` says which rows have been computed.
Where rows as float32 would not fit, they are kept as 16-bit fixed-point numbers between the least and the greatest
value of each row, off by at most half a 65535th of that span. (float16 would be off by 1/2048 of a value.)
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from zoo import paths

FORMAT = 1
LEVELS = 65535
DEFAULT_BYTES = 4 << 30


class Store:
    """Rows of one set.

    Args:
        folder: The set's.
        rows: How many rows there are, computed or not.
        shape: Of a row.
        fixed_point: Whether rows are kept in 16 bits a number.

    Attributes:
        row_bytes: What a row takes.

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path, rows: int, shape: tuple[int, ...], fixed_point: bool):
        self.folder, self.shape, self._fixed_point = folder, shape, fixed_point
        kind = "<u2" if fixed_point else "<f4"
        folder.mkdir(parents=True, exist_ok=True)
        self.row_bytes = math.prod(shape) * np.dtype(kind).itemsize
        # Files are as long as all rows; the disk gives room to what is written only.
        for name, size in (("values", self.row_bytes), ("spans", 8), ("done", 1)):
            with (folder / name).open("ab") as file:
                if file.tell() < rows * size:
                    file.truncate(rows * size)
        # Kept open: another run may remove the set, and what is open stays until this one ends.
        self._file = (folder / "values").open("r+b", buffering=0)
        self._values = np.memmap(folder / "values", kind, "r", shape=(rows, *shape))
        self._spans = np.memmap(folder / "spans", "<f4", "r+", shape=(rows, 2))
        self._done = np.memmap(folder / "done", np.uint8, "r+", shape=(rows,))
        with contextlib.suppress(OSError):
            # Marks the set as used.
            os.utime(folder)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Rows that have been computed: float32 array (len(rows), *shape)."""
        values = self._values[rows]
        if not self._fixed_point:
            return values
        low, step = (self._spans[rows, i].reshape(-1, *(1 for _ in self.shape)) for i in (0, 1))
        return values * step + low

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Those of some rows that have not been computed."""
        return rows[self._done[rows] == 0]

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Put rows in; they count as computed after `finish`.

        Raises:
            OSError: The disk is full. (Written through the map, that would kill the process.)
        """
        values = np.ascontiguousarray(values, "<f4")
        if self._fixed_point:
            flat = values.reshape(len(values), -1)
            low, high = flat.min(axis=1), flat.max(axis=1)
            step = np.where(high > low, (high - low) / LEVELS, 1).astype("<f4")
            self._spans[rows, 0], self._spans[rows, 1] = low, step
            levels = np.rint((flat - low[:, None]) / step[:, None])
            values = np.clip(levels, 0, LEVELS).astype("<u2")
        for row, value in zip(rows, values, strict=True):
            if os.pwrite(self._file.fileno(), value.tobytes(), int(row) * self.row_bytes) != self.row_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def finish(self, rows: np.ndarray) -> None:
        """Mark rows as computed, when they are safely on the disk."""
        os.fsync(self._file.fileno())
        self._spans.flush()
        self._done[rows] = 1
        self._done.flush()


class Cache:
    """The sets of all runs, within a bound.

    Args:
        folder: Where they are.
        limit: Bytes that they may take; None means 4 GB or half of what the disk has free (with what they take now),
            whichever is less.
    """

    def __init__(self, folder: Path, limit: int | None = None):
        self.folder = folder
        self._used: set[Path] = set()
        if limit is None:
            place = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
            free = shutil.disk_usage(place).free + sum(size for _, size, _ in self._sets())
            limit = min(DEFAULT_BYTES, free // 2)
        self.limit = limit

    def open(self, wanted: Iterable[tuple[str, int, int, tuple[int, ...]]]) -> list[Store] | None:
        """Open sets, making room for them: others that have not been used for longest go.

        Args:
            wanted: For each set its key, how many rows it has, how many of them will be needed, the shape of a row.

        Returns:
            The sets, or None if they would not fit the bound together.

        Raises:
            OSError: The folder cannot be written.
        """
        wanted = list(wanted)
        self.folder.mkdir(parents=True, exist_ok=True)
        sets = self._sets()
        for fixed_point, size in ((False, 4), (True, 2)):
            places = [self._place(key, fixed_point) for key, *_ in wanted]
            final = sum(needed * (math.prod(shape) * size + 9) for _, _, needed, shape in wanted)
            held = sum(size for _, size, path in sets if path in self._used.difference(places))
            if final + held <= self.limit:
                break
        else:
            return None
        there = sum(size for _, size, path in sets if path in places)
        others = [entry for entry in sets if entry[2] not in self._used.union(places)]
        taken = max(final, there) + held + sum(size for _, size, _ in others)
        while others and (taken > self.limit or self._free() + there < final):
            _, size, oldest = others.pop()
            taken -= size
            shutil.rmtree(oldest, ignore_errors=True)
        if self._free() + there < final:
            return None
        self._used.update(places)
        return [
            Store(place, rows, shape, fixed_point) for place, (_, rows, _, shape) in zip(places, wanted, strict=True)
        ]

    def _place(self, key: str, fixed_point: bool) -> Path:
        text = json.dumps([FORMAT, key, fixed_point])
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    def _sets(self) -> list[tuple[float, int, Path]]:
        """When each set was last used, the bytes that it takes, its folder; last used first."""
        found = []
        # Another run may be removing one.
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                with contextlib.suppress(OSError):
                    if path.is_dir() and not path.name.startswith(paths.PARTIAL):
                        size = sum(file.stat().st_blocks * 512 for file in path.iterdir())
                        found.append((path.stat().st_mtime, size, path))
        return sorted(found, reverse=True)

    def _free(self) -> int:
        return shutil.disk_usage(self.folder).free
