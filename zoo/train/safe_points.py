"""Keeps safe points: what a run has computed so far, so that an interrupted run continues where it was.

A folder of safe points holds one file for each finished step, such as a fold of a cross-validation, and one file for
the training that is under way. A file is an uncompressed .npz: arrays, a JSON text, and the sha256 of both. Reading it
runs no code. `zoo.train.progress` decides what belongs to the state of a training.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo import files
from zoo.errors import WriteError
from zoo.reporter import Reporter

FORMAT = 1
# What reading a damaged file raises.
UNREADABLE = (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile)
# Names of arrays that hold the JSON text and the digest.
TEXT, DIGEST = "json", "sha256"
# The name of a safe point of a training: its step, its epochs, and its batches after them.
_NAME = re.compile(r"(.+)\.epoch(\d+)(?:\.batch(\d+))?\.npz")


@dataclass(frozen=True)
class Values:
    """The content of one file.

    Args:
        facts: Numbers, texts, lists and dictionaries, as JSON has them.
        arrays: Arrays by name.
    """

    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


def latest_position(folder: Path) -> str:
    """Describe the latest safe point in a folder, such as "after epoch 3" or "from the beginning".

    Args:
        folder: The folder of safe points. A process may write to it meanwhile.
    """
    listed: list[tuple[int, Path]] = []
    for path in folder.glob("*.npz"):
        with contextlib.suppress(OSError):
            listed.append((path.stat().st_mtime_ns, path))
    if not listed:
        return "from the beginning; pictures and features that are on the disk are used again"
    latest = max(listed)[1]
    found = _NAME.fullmatch(latest.name)
    if found is None:
        return f"after the step {latest.stem!r}"
    step, epochs, batches = found.groups()
    of_step = f" of {step.replace('fold', 'fold ')}" if step.startswith("fold") else ""
    return position(int(epochs), int(batches or 0)) + of_step


class SafePoints:
    """Reads and writes the safe points of one run.

    Args:
        folder: The folder of safe points; it is created when something is written.
        reporter: Receives a warning if a file is damaged.

    Attributes:
        background_seconds: The processor time that writing in the background has taken.
    """

    def __init__(self, folder: Path, reporter: Reporter):
        self.folder, self._reporter = folder, reporter
        self._opened, self._before = time.perf_counter(), 0.0
        self._writer: threading.Thread | None = None
        self._error: Exception | None = None
        self.background_seconds = 0.0

    def clean(self, pattern: str = ".*") -> None:
        """Remove files: what killed processes were writing, or with "*.npz" all safe points.

        No other process may write safe points of this run.
        """
        for path in self.folder.glob(pattern):
            with contextlib.suppress(OSError):
                path.unlink()

    def position(self) -> str:
        """Describe the latest safe point for a message, such as "after epoch 3" or "from the beginning"."""
        with contextlib.suppress(WriteError):
            self.wait()
        return latest_position(self.folder)

    def elapsed(self) -> float:
        """Return how many seconds the training has taken, in this process and in those that were interrupted."""
        return self._before + time.perf_counter() - self._opened

    def finished(self, name: str) -> Values | None:
        """Return what `finish` recorded for a step; None if the step is not finished.

        Args:
            name: The name of the step, such as "head" or "fold-1".
        """
        path = self.folder / f"{name}.npz"
        return self.read(path) if path.is_file() else None

    def finish(self, name: str, values: Values) -> None:
        """Record the results of a step, and remove the safe points inside it.

        Raises:
            WriteError: The file cannot be written.
        """
        self.wait()
        self.write(self.folder / f"{name}.npz", values)
        self._remove(name, keep=None)

    def training(self, name: str) -> TrainingPoints:
        """Return the safe points of a training.

        Args:
            name: The name of the step that trains, such as "fold-1" or "refit".
        """
        return TrainingPoints(self, name)

    def latest(self, name: str) -> Values | None:
        """Return the latest safe point of a training that can be read; None if there is none."""
        for *_, path in sorted(self._points(name), reverse=True):
            values = self.read(path)
            if values is not None:
                return values
        return None

    def save(self, name: str, number: int, values: Values, batches: int = 0) -> None:
        """Write a safe point of a training in the background. The one before is removed once the new one is proven.

        An error is raised by the next call, or by `wait`.

        Args:
            name: The name of the step that trains.
            number: The number of epochs so far.
            values: The state of the training. Its arrays must not change any more.
            batches: The number of batches of the next epoch so far.

        Raises:
            WriteError: The safe point before this one cannot be written.
        """
        self.wait()
        # The training goes on and changes its lists while the thread writes.
        values = Values(json.loads(json.dumps(values.facts)), dict(values.arrays))
        self._writer = threading.Thread(target=self._save, args=(name, number, values, batches), name="safe point")
        self._writer.start()

    def wait(self) -> None:
        """Wait until the last safe point is on the disk.

        Raises:
            WriteError: It cannot be written, or it cannot be read back.
        """
        if self._writer is not None:
            self._writer.join()
        self._writer, error, self._error = None, self._error, None
        if error is not None:
            raise error

    def _save(self, name: str, number: int, values: Values, batches: int) -> None:
        started = time.thread_time()
        try:
            within = f".batch{batches:06}" if batches else ""
            path = self.folder / f"{name}.epoch{number:06}{within}.npz"
            self.write(path, values)
            self._remove(name, keep=path)
        except Exception as error:
            # The thread that trains raises it.
            self._error = error
        self.background_seconds += time.thread_time() - started

    def read(self, path: Path) -> Values | None:
        """Read a file and check its digest. If it is damaged, warn and return None."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
            text, digest = arrays.pop(TEXT).tobytes(), arrays.pop(DIGEST).tobytes()
            facts = json.loads(text)
            if digest == _digest(text, arrays) and facts.pop("format") == FORMAT:
                self._before = max(self._before, facts.pop("elapsed") - (time.perf_counter() - self._opened))
                return Values(facts, arrays)
            problem = "its sha256 is another one"
        except UNREADABLE as error:
            problem = str(error) or type(error).__name__
        if not path.exists():
            # The process that trains has replaced it in the meantime.
            return None
        self._reporter.warn(f"{str(path)!r} is damaged and is not used: {problem}. Earlier work is used instead.")
        return None

    def write(self, path: Path, values: Values) -> None:
        """Write a file atomically, and read it back.

        Raises:
            WriteError: The file cannot be written, or it has another content afterwards.
        """
        facts = {**values.facts, "format": FORMAT, "elapsed": self.elapsed()}
        text = json.dumps(facts).encode()
        own = {TEXT: np.frombuffer(text, np.uint8), DIGEST: np.frombuffer(_digest(text, values.arrays), np.uint8)}
        arrays: dict[str, Any] = {**values.arrays, **own}
        with files.atomic_write(path) as temporary:
            np.savez(temporary, **arrays)
        if not _whole(path):
            raise WriteError(f"{str(path)!r} cannot be read back as it was written. Check the disk.")

    def _points(self, name: str) -> list[tuple[int, int, Path]]:
        """Return the number of epochs, of batches after them, and the path of each safe point of a training."""
        found = [(path, _NAME.fullmatch(path.name)) for path in self.folder.glob(f"{name}.epoch*.npz")]
        return [(int(name[2]), int(name[3] or 0), path) for path, name in found if name is not None]

    def _remove(self, name: str, keep: Path | None) -> None:
        for *_, path in self._points(name):
            if path != keep:
                with contextlib.suppress(OSError):
                    path.unlink()


@dataclass(frozen=True)
class TrainingPoints:
    """The safe points of one training.

    Args:
        points: The safe points of the run.
        name: The name of the step that trains.
    """

    points: SafePoints
    name: str

    def load(self) -> Values | None:
        """Return the latest state that can be read; None if the training starts from its beginning."""
        return self.points.latest(self.name)

    def save(self, number: int, values: Values, batches: int = 0) -> None:
        """Write the state after a number of epochs and batches; see `SafePoints.save`."""
        self.points.save(self.name, number, values, batches)

    def wait(self) -> None:
        """Wait until the last state is on the disk; see `SafePoints.wait`."""
        self.points.wait()


def position(epochs: int, batches: int) -> str:
    """Describe where a training was: "after epoch 3", or "after batch 17 of epoch 4"."""
    return f"after batch {batches} of epoch {epochs + 1}" if batches else f"after epoch {epochs}"


def _digest(text: bytes, arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the sha256 of a JSON text and of arrays with their names, types and shapes."""
    digest = hashlib.sha256(text)
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name])
        digest.update(repr([name, values.dtype.str, values.shape]).encode())
        digest.update(_bytes(values).data)
    return digest.digest()


def _whole(path: Path) -> bool:
    """Return whether a file that was just written can be read back as it was in memory.

    The archive has a checksum of each array, which was computed from the memory.
    """
    with contextlib.suppress(*UNREADABLE), zipfile.ZipFile(path) as archive:
        return archive.testzip() is None
    return False


def _bytes(values: np.ndarray) -> np.ndarray:
    """Return an array as a flat array of bytes."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
