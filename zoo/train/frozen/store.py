"""Stores features on the disk between runs, in a cache of limited size.

Each set of features is a folder with these files:

- `values` holds one row of numbers per picture or view.
- `done` marks the rows that have been computed.
- `spans` holds the least value and the step of each row, if the numbers are fixed-point numbers (see below).
- `key` says what the set was made of. `zoo cache` finds the name of the pictures by it.
- `took` holds the number of rows computed so far, and how many seconds their computation took.

The numbers are stored as float32 if they fit, and otherwise as 16-bit fixed-point numbers. For fixed-point numbers, the
range from the least to the greatest value of a row is divided into 65535 equal steps. Each value is rounded to the
nearest step, so that the rounding error is at most half a step. (The rounding error of float16 would be up to 1/2048 of
a value.)
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo import files

FORMAT = 1
LEVELS = 65535
DEFAULT_BYTES = 4 << 30
# The cache leaves this many bytes of the disk free, because a run writes files at its end.
RESERVE_BYTES = 512 << 20
# How often the creation of a set is tried, if other processes remove the set meanwhile.
ATTEMPTS = 5
KEY = "key"


@dataclass(frozen=True)
class FeatureSetSpec:
    """Describes a set of features (or of labels) that a run needs.

    Args:
        key: A string that identifies the set among all sets in the cache.
        count: The number of all rows of the set, computed or not.
        rows: Indices of the rows that are needed, int64.
        shape: The shape of one row.
    """

    key: str
    count: int
    rows: np.ndarray
    shape: tuple[int, ...]


class FeatureSet:
    """One set of features on the disk, with methods that read and write its rows.

    Args:
        folder: The folder of the set; it is created if it does not exist.
        count: The number of all rows of the set, computed or not.
        shape: The shape of one row.
        fixed_point: True stores numbers in 16 bits, False as float32.

    Attributes:
        row_bytes: The size of one row in bytes.
        numbers: The number format: "float32" or "16-bit fixed point".

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path, count: int, shape: tuple[int, ...], fixed_point: bool):
        self.folder, self.shape, self._fixed_point = folder, shape, fixed_point
        kind = "<u2" if fixed_point else "<f4"
        self.numbers = "16-bit fixed point" if fixed_point else "float32"
        self.row_bytes = math.prod(shape) * np.dtype(kind).itemsize
        sizes = {"values": count * self.row_bytes, "spans": count * 8, "done": count}
        self._files = _open_set(folder, sizes)
        self._kinds = {"values": np.dtype((kind, shape)), "spans": np.dtype(("<f4", (2,))), "done": np.dtype("u1")}
        self._count, self._lock = count, threading.Lock()
        with contextlib.suppress(OSError):
            # The time of the folder shows when the set was last used.
            os.utime(folder)
        self._unmark = files.mark_used(folder, self)

    def close(self) -> None:
        """Close the files. Nothing can be read or written afterwards."""
        for file in self._files.values():
            file.close()
        self._unmark()

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Read rows that have been computed.

        Args:
            rows: Indices of the rows, int64.

        Returns:
            A float32 array (len(rows), *shape).

        Raises:
            OSError: The files cannot be read.
        """
        values = self._get("values", rows)
        if not self._fixed_point:
            return values
        low, step = self._get("spans", rows).T.reshape(2, -1, *(1 for _ in self.shape))
        return values * step + low

    def missing(self, rows: np.ndarray) -> np.ndarray:
        """Return the indices of the given rows that have not been computed yet.

        Args:
            rows: Indices of rows, int64.

        Returns:
            An int64 array, in the order of `rows`.

        Raises:
            OSError: The file cannot be read.
        """
        return rows[self._get("done", np.arange(self._count))[rows] == 0]

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Write rows to the disk. They count as computed only after `finish`.

        Files are written directly, because a full disk would kill a process that writes through a memory map.

        Args:
            rows: Indices of the rows, int64.
            values: A float32 array (len(rows), *shape).

        Raises:
            OSError: The rows cannot be written, for example because the disk is full.
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
        """Flush all written rows to the disk, then mark the given rows as computed.

        Args:
            rows: Indices of the rows to mark, int64.

        Raises:
            OSError: The files cannot be written.
        """
        for name in ("values", "spans"):
            os.fsync(self._files[name].fileno())
        for row in rows:
            self._put("done", row, np.ones((), np.uint8))

    @property
    def seconds_a_row(self) -> float:
        """The mean time to compute one row of this set, in seconds, over this run and earlier runs; 0 if unknown."""
        rows, seconds = self._timing()
        return seconds / rows if rows else 0.0

    def add_timing(self, rows: int, seconds: float) -> None:
        """Record how long it took to compute rows. `seconds_a_row` uses this time in this run and in later ones.

        Args:
            rows: The number of rows.
            seconds: The seconds that all these rows took together.
        """
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
        """Read rows from one of the set's files.

        This does not use a memory map, because the pages of a map would count as used memory until the set is closed.

        Args:
            name: The name of the file: "values", "spans" or "done".
            rows: Indices of the rows, int64.

        Returns:
            An array with one item per row, in the number format of the file.

        Raises:
            OSError: The file cannot be read, or it is too short.
        """
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


def _open_set(folder: Path, sizes: Mapping[str, int]) -> dict[str, io.FileIO]:
    """Open the files of a set, and create the set if it is missing or damaged.

    A set is created in a temporary folder and moved to its place as a whole. If two processes create it at the same
    time, both use the set that is moved first.

    The files stay open, because another run may remove the set. Open files remain readable until this run ends.

    Args:
        folder: The folder of the set.
        sizes: The size of each file in bytes.

    Raises:
        OSError: The set cannot be created, or other processes remove it again and again.
    """
    for _ in range(ATTEMPTS):
        try:
            opened = _open_files(folder, sizes)
        except FileNotFoundError:
            opened = None
        if opened:
            return opened
        if folder.exists():
            # A program cut a file short, or an older version of zoo was killed while it created the set.
            files.evict(folder)
        with files.scratch_folder(folder.parent) as temporary:
            for name, size in sizes.items():
                with (temporary / name).open("wb") as file:
                    # A sparse file: the disk stores only values that are written.
                    file.truncate(size)
            with contextlib.suppress(OSError):
                # If another process has just created the set, this fails, and its set is used.
                os.rename(temporary, folder)
    raise OSError(errno.EBUSY, "other programs remove it again and again", str(folder))


def _open_files(folder: Path, sizes: Mapping[str, int]) -> dict[str, io.FileIO] | None:
    """Open the files of a set. Return None if a file does not have its size.

    All files come from one folder, even if another process removes that folder meanwhile and creates it anew. With
    files of two folders, rows would count as computed whose values are in files that nobody finds again.

    Raises:
        OSError: The files cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        opener = None
        if os.open in os.supports_dir_fd:
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)

            def opener(path: str, flags: int) -> int:
                return os.open(os.path.basename(path), flags, dir_fd=handle)

        opened: dict[str, io.FileIO] = {}
        with contextlib.ExitStack() as unless_kept:
            for name in sizes:
                opened[name] = unless_kept.enter_context(io.FileIO(os.fspath(folder / name), "r+", opener=opener))
            if any(os.fstat(file.fileno()).st_size != sizes[name] for name, file in opened.items()):
                return None
            unless_kept.pop_all()
    return opened


class Cache:
    """Manages the feature sets of all runs in one folder, and limits their total size.

    Args:
        folder: The folder that contains the sets.
        limit: The greatest total size of the sets in bytes. None means 4 GiB, or half of the free disk space if that is
            less. The space that existing sets take counts as free.

    Attributes:
        limit: The greatest total size in bytes, never None.
        refusal: The reason why the last call of `open` returned None.
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
        """Open sets, and make room for them by removing the least recently used sets.

        Args:
            wanted: The sets to open.

        Returns:
            The sets in the same order. All of them store float32 numbers if these fit, otherwise 16-bit numbers. If
            even 16-bit numbers exceed the limit of the cache or the space on the disk, the result is None, and
            `refusal` says why.

        Raises:
            OSError: The folder cannot be written.
        """
        with files.scratch_folder(self.folder):
            # Entering this context removes the temporary folders that killed processes left behind.
            pass
        sets = files.sets(self.folder)
        free = max(0, shutil.disk_usage(self.folder).free - RESERVE_BYTES)
        for fixed_point in (False, True):
            places = [self._place(one.key, fixed_point) for one in wanted]
            more = sum(self._lacking(place, one, fixed_point) for place, one in zip(places, wanted, strict=True))
            there = sum(size for _, size, path in sets if path in self._used.union(places))
            others = [entry for entry in sets if entry[2] not in self._used.union(places)]
            if there + more > self.limit:
                # The sets may hold rows of other splits. If the needed rows fit without them, new sets replace these.
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
        opened = [
            FeatureSet(place, one.count, one.shape, fixed_point) for place, one in zip(places, wanted, strict=True)
        ]
        for place, one in zip(places, wanted, strict=True):
            with contextlib.suppress(OSError):
                if not (place / KEY).exists():
                    (place / KEY).write_text(one.key, encoding="utf-8")
        return opened

    def drop(self, sets: Sequence[FeatureSet]) -> None:
        """Close sets, and remove them from the disk, including incomplete ones."""
        for feature_set in sets:
            feature_set.close()
            self._used.discard(feature_set.folder)
            files.evict(feature_set.folder)

    def _lacking(self, place: Path | None, spec: FeatureSetSpec, fixed_point: bool) -> int:
        """Return an upper bound on the bytes that a set still needs on the disk.

        The bound is the size of the needed rows that have not been computed yet, plus 9 bytes for every row of the set.
        The file `spans` takes 8 of these bytes, and `done` takes 1.

        Args:
            place: The folder of the set. If it is None, no row counts as computed.
            spec: Describes the set, and says which rows are needed.
            fixed_point: Whether numbers are stored in 16 bits.
        """
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
