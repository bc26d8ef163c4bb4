"""Keeps features on the disk between runs, in a cache of bounded size.

A set is a folder. `values` holds a row per picture, and `done` says which rows have been computed. If rows do not fit
as float32, they are kept as 16-bit fixed-point numbers between the least and the greatest value of each row. Their
error is at most half a 65535th of that span. (The error of float16 would be 1/2048 of a value.)
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo import files

FORMAT = 1
LEVELS = 65535
DEFAULT_BYTES = 4 << 30
# The cache leaves this much free on the disk, because a run writes files at its end.
RESERVE_BYTES = 512 << 20


@dataclass(frozen=True)
class FeatureSetSpec:
    """A set of features that a run needs.

    Args:
        key: Identifies the set among all sets.
        count: The number of its rows, computed or not.
        rows: Indices of the rows that are needed, int64.
        shape: The shape of a row.
    """

    key: str
    count: int
    rows: np.ndarray
    shape: tuple[int, ...]


class FeatureSet:
    """The rows of one set.

    Args:
        folder: The folder of the set.
        count: The number of its rows, computed or not.
        shape: The shape of a row.
        fixed_point: Whether rows are kept in 16 bits per number.

    Attributes:
        row_bytes: Bytes per row.
        numbers: How numbers are kept: "float32" or "16-bit fixed point".

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path, count: int, shape: tuple[int, ...], fixed_point: bool):
        self.folder, self.shape, self._fixed_point = folder, shape, fixed_point
        kind = "<u2" if fixed_point else "<f4"
        self.numbers = "16-bit fixed point" if fixed_point else "float32"
        self.row_bytes = math.prod(shape) * np.dtype(kind).itemsize
        folder.mkdir(parents=True, exist_ok=True)
        sizes = {"values": count * self.row_bytes, "spans": count * 8, "done": count}
        if any(_size(folder / name) != size for name, size in sizes.items()):
            # The set is new, or another process was killed while it made or removed it.
            for name in ("done", "values", "spans", "took"):
                (folder / name).unlink(missing_ok=True)
            for name, size in sizes.items():
                with (folder / name).open("wb") as file:
                    # A sparse file: the disk stores only values that are written.
                    file.truncate(size)
        # Kept open, because another run may remove the set: open files stay readable until this run ends.
        self._files = {name: (folder / name).open("r+b", buffering=0) for name in sizes}
        self._kinds = {"values": np.dtype((kind, shape)), "spans": np.dtype(("<f4", (2,))), "done": np.dtype("u1")}
        self._count, self._lock = count, threading.Lock()
        with contextlib.suppress(OSError):
            # Marks the set as used.
            os.utime(folder)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return rows that have been computed, as a float32 array (len(rows), *shape)."""
        values = self._get("values", rows)
        if not self._fixed_point:
            return values
        low, step = self._get("spans", rows).T.reshape(2, -1, *(1 for _ in self.shape))
        return values * step + low

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Return those of some rows that have not been computed."""
        return rows[self._get("done", np.arange(self._count))[rows] == 0]

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Write rows. They count as computed after `finish`.

        Raises:
            OSError: The disk is full. (Writing through a memory map would kill the process instead.)
        """
        values = np.ascontiguousarray(values, "<f4")
        if self._fixed_point:
            flat = values.reshape(len(values), -1)
            low, high = flat.min(axis=1), flat.max(axis=1)
            step = np.where(high > low, (high - low) / LEVELS, 1).astype("<f4")
            for row, span in zip(rows, np.stack([low, step], axis=1).astype("<f4"), strict=True):
                self._put("spans", row, span)
            levels = np.rint((flat - low[:, None]) / step[:, None])
            values = np.clip(levels, 0, LEVELS).astype("<u2")
        for row, value in zip(rows, values, strict=True):
            self._put("values", row, value)

    def finish(self, rows: np.ndarray) -> None:
        """Mark rows as computed, once they are safely on the disk.

        Raises:
            OSError: They cannot be written to the disk.
        """
        for name in ("values", "spans"):
            os.fsync(self._files[name].fileno())
        for row in rows:
            self._put("done", row, np.ones((), np.uint8))

    @property
    def seconds_a_row(self) -> float:
        """Seconds that computing a row took, in this run and earlier ones; 0 if unknown."""
        rows, seconds = self._timing()
        return seconds / rows if rows else 0.0

    def add_timing(self, rows: int, seconds: float) -> None:
        """Record how long computing rows took, for the summaries of this run and later ones."""
        before = self._timing()
        with contextlib.suppress(OSError):
            (self.folder / "took").write_text(json.dumps([before[0] + rows, before[1] + seconds]))

    def _timing(self) -> tuple[int, float]:
        try:
            rows, seconds = json.loads((self.folder / "took").read_text())
            return (int(rows), float(seconds)) if rows > 0 and 0 < seconds < math.inf else (0, 0.0)
        except (OSError, ValueError, TypeError):
            return 0, 0.0

    def _get(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Read rows of a file, without a memory map: that would count as used memory until the set is closed."""
        kind, shape = self._kinds[name].base, self._kinds[name].shape
        values = np.empty((len(rows), *shape), kind)
        size = self._kinds[name].itemsize
        # Consecutive rows are read in one go.
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        with self._lock:
            for part in np.split(np.arange(len(rows)), breaks):
                if len(part):
                    self._files[name].seek(int(rows[part[0]]) * size)
                    target = values[part[0] : part[-1] + 1].reshape(-1).view("u1")
                    if self._files[name].readinto(target.data) != len(target):
                        raise OSError(errno.EIO, os.strerror(errno.EIO), self._files[name].name)
        return values

    def _put(self, name: str, row: int, value: np.ndarray) -> None:
        data, file = value.tobytes(), self._files[name]
        with self._lock:
            file.seek(int(row) * len(data))
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


class Cache:
    """The sets of all runs, within a limit.

    Args:
        folder: The folder of the sets.
        limit: Bytes that the sets may take. None means 4 GiB, or half of the free disk space (counting what the sets
            take now as free) if that is less.

    Attributes:
        refusal: Why the last call of `open` returned None.
    """

    def __init__(self, folder: Path, limit: int | None = None):
        self.folder, self.refusal = folder, ""
        self._used: set[Path] = set()
        if limit is None:
            place = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
            free = shutil.disk_usage(place).free + sum(size for _, size, _ in files.sets(self.folder))
            limit = min(DEFAULT_BYTES, free // 2)
        self.limit = limit

    def open(self, wanted: Sequence[FeatureSetSpec]) -> list[FeatureSet] | None:
        """Open sets, and make room for them by removing the sets that were used least recently.

        Args:
            wanted: The sets to open.

        Returns:
            The sets, or None if they do not fit the limit or the disk together; `refusal` says which.

        Raises:
            OSError: The folder cannot be written.
        """
        with files.scratch_folder(self.folder):
            # Entering it also removes what killed processes left behind.
            pass
        sets = files.sets(self.folder)
        free = max(0, shutil.disk_usage(self.folder).free - RESERVE_BYTES)
        for fixed_point in (False, True):
            places = [self._place(one.key, fixed_point) for one in wanted]
            more = sum(self._lacking(place, one, fixed_point) for place, one in zip(places, wanted, strict=True))
            there = sum(size for _, size, path in sets if path in self._used.union(places))
            others = [entry for entry in sets if entry[2] not in self._used.union(places)]
            if there + more > self.limit:
                # Rows that other splits computed may take the space.
                stale = [path for _, _, path in sets if path in set(places) - self._used]
                held = sum(size for _, size, path in sets if path in self._used)
                anew = sum(self._lacking(None, one, fixed_point) for one in wanted)
                if stale and held + anew <= self.limit:
                    for path in stale:
                        files.evict(path)
                    return self.open(wanted)
                self.refusal = f"--cache-size allows {files.size_text(self.limit)}"
            elif more > free + sum(size for _, size, _ in others):
                self.refusal = f"they do not fit on the disk of {str(self.folder)!r}"
            else:
                break
        else:
            return None
        files.make_room(
            sets,
            more,
            limit=self.limit,
            free=lambda: max(0, shutil.disk_usage(self.folder).free - RESERVE_BYTES),
            keep=self._used.union(places),
        )
        self._used.update(places)
        return [FeatureSet(place, one.count, one.shape, fixed_point) for place, one in zip(places, wanted, strict=True)]

    def drop(self, sets: Sequence[FeatureSet]) -> None:
        """Remove sets, complete or half-written."""
        for feature_set in sets:
            self._used.discard(feature_set.folder)
            files.evict(feature_set.folder)

    def _lacking(self, place: Path | None, spec: FeatureSetSpec, fixed_point: bool) -> int:
        """Return the bytes that the missing rows of a set will take; all rows are missing if `place` is None."""
        row = math.prod(spec.shape) * (2 if fixed_point else 4)
        count = len(spec.rows)
        if place is not None:
            with contextlib.suppress(OSError):
                done = np.fromfile(place / "done", np.uint8)
                count = int((done[spec.rows] == 0).sum()) if len(done) == spec.count else count
        return count * row + 9 * spec.count

    def _place(self, key: str, fixed_point: bool) -> Path:
        text = json.dumps([FORMAT, key, fixed_point])
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]
