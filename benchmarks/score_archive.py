"""Measures how many pictures a second `zoo predict --ray` scores, beside processes without Ray, in turns.

    pip install '.[ray]'
    python benchmarks/score_archive.py MODEL FOLDER [--workers 2] [--blocks 3] [--pictures 400]

MODEL is an exported file, and FOLDER has pictures, which are repeated until there are enough. A block measures in turn

- one: one process with one thread, on `--pictures` pictures
- processes: as many such processes at the same time as there are workers, each on as many pictures
- Ray: as many workers, each with one thread, on as many pictures together as the processes

The first part of each worker does not count: its time has the start of the process and the load of the file. The last
lines are medians over the blocks: Ray against workers x one, which should be 0.85 or more (docs/archives.md), and
against the processes, which meet the same limits of the machine (memory, clock) as Ray does. Run it on a quiet machine:
other programs slow the processes that use all cores down more than the single one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from zoo.archives.in_process import InProcess
from zoo.archives.on_ray import OnRay
from zoo.archives.parts import Piece
from zoo.archives.scoring import Scorer
from zoo.archives.sources import Shard
from zoo_runtime import list_pictures
from zoo_runtime.workshop import exported_in, usable_cores

PARTS = 8
"""The number of parts for each worker, of which the first one does not count."""


def shards_of(folder: str, pictures: int, workers: int) -> list[Shard]:
    """Return `PARTS` parts for each worker, which have `pictures` pictures together for each worker."""
    size = pictures // PARTS
    paths = itertools.cycle(list_pictures(folder))
    return [
        Shard("pictures", f"{folder}#{number}", folder, "", tuple(itertools.islice(paths, size)))
        for number in range(PARTS * workers)
    ]


def rate(pieces: Iterator[Piece], workers: int) -> float:
    """Return the pictures a second, without the first part of each worker."""
    times, counts = [], []
    for piece in pieces:
        assert not piece.problem, piece.problem
        times.append(time.perf_counter())
        counts.append(json.loads(piece.figures)["pictures"])
    return sum(counts[workers:]) / (times[-1] - times[workers - 1])


def alone(model: Path, folder: str, pictures: int) -> float:
    """Return the pictures a second of this process with one thread."""
    return rate(InProcess(Scorer(model, threads=1)).run(shards_of(folder, pictures, 1)), 1)


def together(options: argparse.Namespace, workers: int) -> float:
    """Return the pictures a second of several processes without Ray, which run at the same time."""
    command = [sys.executable, __file__, options.model, options.folder, "--pictures", str(options.pictures), "--child"]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(workers)]
    return sum(float(child.communicate()[0]) for child in children)


def on_ray(model: Path, folder: str, pictures: int, workers: int) -> tuple[float, float]:
    """Return the pictures a second of Ray, without and with the start of the workers."""
    with OnRay(model.read_bytes(), {"threads": 1}, None, None, workers) as engine:
        began = time.perf_counter()
        found = rate(engine.run(shards_of(folder, pictures, workers)), workers)
        return found, pictures // PARTS * PARTS * workers / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the pictures a second of `zoo predict --ray`.")
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=400, help="for each worker")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    model = Path(options.model)
    model = Path(exported_in(str(model))[0]) if model.is_dir() else model
    if options.child:
        print(alone(model, options.folder, options.pictures))
        return
    rows = []
    load = f"load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else "load unknown"
    print(f"{options.workers} workers, {options.pictures} pictures each, in {PARTS} parts, {load}\n")
    print("block   one process   processes        Ray   with its start   Ray / (workers x one)   Ray / processes")
    for block in range(options.blocks):
        one = together(options, 1)
        several = together(options, options.workers)
        ray, whole = on_ray(model, options.folder, options.pictures, options.workers)
        rows.append((ray / (options.workers * one), ray / several))
        figures = f"{one:13.1f} {several:11.1f} {ray:10.1f} {whole:16.1f}"
        print(f"{block + 1:5} {figures} {rows[-1][0]:23.3f} {rows[-1][1]:17.3f}", flush=True)
    to_one, to_several = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"\nRay against workers x one: {to_one:.3f} (promised: 0.85); against the processes: {to_several:.3f}")


if __name__ == "__main__":
    main()
