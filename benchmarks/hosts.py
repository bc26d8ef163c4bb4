"""Compares one process with two processes that train together on this machine: equality, and pictures a second.

Usage:

    python benchmarks/hosts.py [ARCHITECTURE] [SIDE]

It trains all layers of the architecture (default: mobilenet_025 at 64 x 64) from random weights on the embedded digits
for two epochs, under KERAS_BACKEND=jax, once in one process and once in two on the loopback device. The figure is that
of the second epoch, which compiles nothing. Both processes share the cores of one machine, so the speed of two says
what the exchange costs, not what a second host gains. All BatchNorm layers are trained, which is the worst case;
docs/several-hosts.md says why.
"""

from __future__ import annotations

import csv
import io
import os
import socket
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np

PICTURES = 1259


def command(architecture: str, side: str, runs: Path) -> list[str]:
    """Return the command that trains, without the options of several processes."""
    words = ["finetune", architecture, "--data", "digits", "--weights", "none", "--size", side, "--schedule", "scratch"]
    words += ["--epochs", "2", "--optimizer", "sgd", "--no-export", "--allow-chance", "--runs", str(runs)]
    return [sys.executable, "-m", "zoo", *words]


def train(architecture: str, side: str, folder: Path, count: int) -> Path:
    """Train with a number of processes, and return the run folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for index in range(count):
        place = ["--processes", str(count), "--process-index", str(index), "--coordinator", f"127.0.0.1:{port}"]
        environment = {**os.environ, "KERAS_BACKEND": "jax", "ZOO_CACHE": str(folder / f"cache{index}")}
        words = command(architecture, side, folder / "runs") + (place if count > 1 else [])
        started.append(subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL))
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit("a process has failed; see its messages above")
    (run,) = (folder / "runs").iterdir()
    return run


def history(run: Path) -> list[dict[str, str]]:
    """Return the rows of all epochs."""
    with (run / "history.csv").open() as stream:
        return list(csv.DictReader(stream))


def weights(run: Path) -> dict[str, np.ndarray]:
    """Return all weights of the trained network by their places in the file."""
    found: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(run / "model.keras") as archive:
        stored = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(stored) as file:
        file.visititems(lambda name, each: found.update({name: each[...]}) if isinstance(each, h5py.Dataset) else None)
    return found


def main() -> None:
    architecture, side = [*sys.argv[1:], *["mobilenet_025", "64"][len(sys.argv) - 1 :]]
    with tempfile.TemporaryDirectory(prefix="zoo-hosts-") as place:
        runs = []
        for count in (1, 2):
            folder = Path(place) / str(count)
            folder.mkdir()
            runs.append(train(architecture, side, folder, count))
            seconds = float(history(runs[-1])[-1]["seconds"])
            print(f"{count} process{'es' if count > 1 else '  '}  {PICTURES / seconds:7.0f} pictures/s", flush=True)
        one, two = map(weights, runs)
        difference = max(float(np.abs(one[name].astype("f8") - two[name]).max(initial=0)) for name in one)
        losses = [[float(row[key]) for row in history(run) for key in ("loss", "val_loss")] for run in runs]
        print(f"greatest difference of a weight {difference:.1e}, of a loss {np.abs(np.subtract(*losses)).max():.1e}")


if __name__ == "__main__":
    main()
