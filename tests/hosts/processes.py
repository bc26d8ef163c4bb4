"""Starts `zoo` in several processes that train together on this machine, and compares the networks of runs."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np


def free_port() -> int:
    """Return a port that is free, and whose next one is free too."""
    while True:
        with socket.socket() as first, socket.socket() as second, contextlib.suppress(OSError, OverflowError):
            first.bind(("", 0))
            port = first.getsockname()[1]
            second.bind(("", port + 1))
            return port


def environment(cache: Path, **more: str) -> dict[str, str]:
    # A busy machine must not be taken for one that is gone.
    return {**os.environ, "KERAS_BACKEND": "jax", "ZOO_CACHE": str(cache), "ZOO_HOSTS_TIMEOUT": "200", **more}


class Process:
    """A running `zoo`, whose output goes to a file."""

    def __init__(self, folder: Path, name: str, *words: object, **more: str):
        self.log = folder / f"{name}.txt"
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "zoo", *map(str, words)],
                cwd=folder,
                env=environment(folder / f"cache-{name}", **more),
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def ended(self, seconds: float = 400) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still runs after {seconds} s:\n{self.text[-3000:]}") from None

    def says(self, words: str, seconds: float = 300) -> None:
        until = time.monotonic() + seconds
        while words not in self.text:
            assert self.process.poll() is None, self.text[-3000:]
            assert time.monotonic() < until, self.text[-3000:]
            time.sleep(0.02)


@contextlib.contextmanager
def together(folder: Path, *words: object, count: int = 2, own: dict[int, list[str]] | None = None, tag: str = ""):
    """Start processes with the same command, and end them after the context."""
    port, processes = free_port(), []
    try:
        for index in range(count):
            place = ["--processes", count, "--process-index", index, "--coordinator", f"127.0.0.1:{port}"]
            processes.append(Process(folder, f"process{tag}{index}", *words, *(own or {}).get(index, []), *place))
        yield processes
    finally:
        for each in processes:
            if each.process.poll() is None:
                each.process.kill()
                each.process.wait()


def only_run(folder: Path) -> Path:
    (run,) = [each for each in (folder / "runs").iterdir() if each.is_dir()]
    return run


def weights(run: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(run / "model.keras") as archive:
        stored = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(stored) as file:
        file.visititems(lambda name, each: found.update({name: each[...]}) if isinstance(each, h5py.Dataset) else None)
    return found


def history(run: Path) -> np.ndarray:
    """Return loss, accuracy, val_loss and val_accuracy of each epoch."""
    with (run / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return np.array([[float(row[key]) for key in ("loss", "accuracy", "val_loss", "val_accuracy")] for row in rows])


def greatest_difference(one: Path, other: Path) -> float:
    """Return the greatest difference of any weight of two runs, random states included."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys() and len(a) > 3
    return max(float(np.abs(a[name].astype("f8") - b[name].astype("f8")).max(initial=0)) for name in a)
