"""Measures what one picture costs in each step, and prints what follows for a million and a billion pictures.

    python benchmarks/scale.py measure FOLDER docs/scale.json [--network mobilenetv2] [--weights FOLDER]
    python benchmarks/scale.py table docs/scale.json [--cores 64] [--core-hour 0.04] [--gigabyte-month 0.023]

`measure` needs a quiet machine and a folder of class folders with some hundreds of pictures or more. It takes about ten
minutes. Each figure is a cost of processor time, over all cores, so that it does not depend on how many there are:

- names: `zoo.data.sources.open_source` over symbolic links, and the memory that stays; the difference between N and 2 N
- decode: `zoo_runtime.decode` of a file, one after the other
- read: `zoo.data.pixels.load_pixels` with an empty cache, which `zoo finetune` calls: digests, decoding, the array
- near: `zoo.data.check.hashes.candidates` over drawn hashes, for N and 2 N; its cost grows with the square
- answer, answer_int8: a `Predictor` with one thread, from a file to an answer, on the exported files
- features: the frozen backbone in ONNX Runtime, in batches
- top, all: an epoch of `zoo finetune` that trains the top 3 stages, and one that trains all layers, with augmentation:
  seconds in history.csv times cores; the first epoch of a phase is left out because it traces and fills caches
- head: `zoo.train.linear_head.solve` on drawn features of 10 classes, for N and 2 N, and the memory that it adds

`table` multiplies. It assumes nothing but the figures of the file and the options.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import common
import numpy as np

LINKS, HASHES, SOLVED, CLASSES = 20_000, 15_000, 50_000, 10
ANSWERED = 400
MILLION, BILLION = 1_000_000, 1_000_000_000
EPOCHS = 4
DAY = 24 * 3600
PHASES = """
[[phase]]
name = "head"
train = "head"
epochs = 1
learning_rate = 3e-3

[[phase]]
name = "top"
train = "last:3"
epochs = 4
learning_rate = 1e-4

[[phase]]
name = "all"
train = "all"
epochs = 3
learning_rate = 1e-5
"""


def paths_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))


def processor(work: Callable[[], object]) -> float:
    """Return the processor time of a call in seconds, over all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


def in_child(step: str, *arguments: str) -> dict[str, Any]:
    """Run one measurement in a process of its own, so that its memory is its own."""
    command = [sys.executable, __file__, "step", step, *arguments]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    figures: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return figures


def own_memory() -> int:
    """Return how much memory of this process is no mapped file, in bytes."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def names(folder: Path, count: int) -> dict[str, Any]:
    """Measure how long it takes to find the names of `count` pictures, and how much memory they take."""
    from zoo.data import sources

    with tempfile.TemporaryDirectory() as place:
        paths = paths_of(folder)
        common.link(((path, path.parent.name) for path in islice(cycle(paths), count)), Path(place))
        before = own_memory()
        kept: list[object] = []
        seconds = processor(lambda: kept.append(sources.open_source(place)))
        return {"seconds": seconds, "bytes": own_memory() - before}


def near(count: int) -> dict[str, Any]:
    from zoo.data.check import hashes

    random = np.random.default_rng(0)
    ways = (*hashes.UPRIGHT, *hashes.TURNED)
    signs = {way: random.choice(np.array([-1, 1], np.int8), (count, hashes.BITS)) for way in ways}
    gray = random.uniform(0, 255, count).astype(np.float32)
    return {"seconds": processor(lambda: hashes.candidates(signs, gray))}


def head(count: int, width: int) -> dict[str, Any]:
    from zoo.train import head_blocks, linear_head

    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, count)
    means = random.normal(0, 0.25, (CLASSES, width)).astype(np.float32)
    features = random.standard_normal((count, width), np.float32)
    features += means[labels]
    targets = np.eye(CLASSES, dtype=np.float32)[labels]
    before = own_memory()
    seconds = processor(lambda: linear_head.solve([features], targets))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "bytes": max(0, peak - before), "threads": head_blocks.MOST_THREADS}


def decode(folder: Path, size: int) -> dict[str, Any]:
    """Measure the decoder alone, and the whole step that reads the pictures for training."""
    from zoo.data import pixels, sources
    from zoo_runtime import ImageSpec
    from zoo_runtime import decode as decode_one

    spec = ImageSpec(size=(size, size))
    paths = paths_of(folder)[:1000]
    decode_one(paths[0], spec)
    alone = processor(lambda: [decode_one(path, spec) for path in paths])
    pictures = sources.open_source(str(folder)).pictures
    with tempfile.TemporaryDirectory() as cache:
        read = processor(lambda: pixels.load_pixels(pictures, spec, Path(cache)))
    return {"decode": alone / len(paths), "read": read / len(pictures)}


def answer(folder: Path, model: Path) -> dict[str, Any]:
    from zoo_runtime import Predictor

    predictor = Predictor(model, threads=1)
    paths = list(islice(cycle(paths_of(folder)), ANSWERED))
    predictor(paths[0])
    rounds = [processor(lambda: [predictor(path) for path in paths]) for _ in range(3)]
    return {"seconds": statistics.median(rounds) / len(paths)}


def features(network: str, size: int) -> dict[str, Any]:
    from zoo import backend
    from zoo.plugin import Head, registry
    from zoo.train.frozen import backbone as frozen
    from zoo.train.network import build_backbone, pooled

    keras = backend.start()
    model = build_backbone(registry.load().architecture(network), (size, size))
    converted = frozen.convert(keras.Model(model.input, pooled(model.output, Head(), "pool")))
    session = frozen.FeatureSession(converted)
    batch = np.random.default_rng(0).integers(0, 256, (32, size, size, 3), np.uint8)
    width = session(batch)[0].shape[1]
    rounds = [processor(lambda: session(batch)) for _ in range(12)]
    return {"seconds": statistics.median(rounds) / len(batch), "width": width}


def zoo(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "zoo", *arguments], check=True, stdout=sys.stderr)


def epochs(folder: Path, network: str, size: int) -> dict[str, float]:
    """Return the seconds of processor time that an epoch of each phase takes per training picture."""
    with tempfile.TemporaryDirectory() as place:
        schedule = Path(place) / "phases.toml"
        schedule.write_text(PHASES)
        zoo(
            *("finetune", network, "--data", str(folder), "--size", str(size), "--schedule", str(schedule)),
            *("--keep", "last", "--patience", "0", "--allow-chance"),
            *("--runs", f"{place}/runs", "--exported", f"{place}/exported"),
        )
        (run,) = Path(place).glob("runs/*/run.json")
        pictures = json.loads(run.read_text())["data"]["counts"]["train"]
        seconds: dict[str, list[float]] = {}
        with (run.parent / "history.csv").open(newline="") as stream:
            for row in csv.DictReader(stream):
                seconds.setdefault(row["phase"], []).append(float(row["seconds"]))
    cores = len(os.sched_getaffinity(0))
    return {phase: statistics.median(values[1:]) * cores / pictures for phase, values in seconds.items() if values[1:]}


def export(folder: Path, network: str, size: int, place: Path) -> Path:
    zoo(
        *("finetune", network, "--data", str(folder), "--size", str(size), "--schedule", "exact-head", "--int8"),
        *("--name", "scale", "--allow-chance", "--runs", str(place / "runs"), "--exported", str(place / "exported")),
    )
    return place / "exported"


def measure(options: argparse.Namespace) -> None:
    folder, network, size = options.folder.resolve(), options.network, options.size
    if options.weights:
        os.environ["ZOO_WEIGHTS_DIR"] = str(options.weights.resolve())
    paths = paths_of(folder)
    place = tempfile.TemporaryDirectory()
    exported = export(folder, network, size, Path(place.name))
    few, many = (in_child("names", str(folder), str(count)) for count in (LINKS, 2 * LINKS))
    close, far = (in_child("near", str(count)) for count in (HASHES, 2 * HASHES))
    computed = in_child("features", network, str(size))
    small, large = (in_child("head", str(count), str(computed["width"])) for count in (SOLVED, 2 * SOLVED))
    trained = epochs(folder, network, size)
    decoded = in_child("decode", str(folder), str(size))
    figures = {
        "machine": options.machine or f"{os.cpu_count()} cores, {platform.machine()}",
        "date": time.strftime("%Y-%m-%d"),
        "network": network,
        "size": size,
        "pictures": len(paths),
        "picture_bytes": statistics.mean(path.stat().st_size for path in paths),
        "features": computed["width"],
        "model_bytes": (exported / "scale" / "model.onnx").stat().st_size,
        "names_s": (many["seconds"] - few["seconds"]) / LINKS,
        "names_bytes": (many["bytes"] - few["bytes"]) / LINKS,
        "decode_s": decoded["decode"],
        "read_s": decoded["read"],
        # N pictures have N²/2 pairs, and 2 N have 4 times as many; the rest of the time grows with N.
        "near_pair_s": (far["seconds"] - 2 * close["seconds"]) / HASHES**2,
        "features_s": computed["seconds"],
        "head_s": (large["seconds"] - small["seconds"]) / SOLVED,
        "head_threads": large["threads"],
        "head_bytes": (large["bytes"] - small["bytes"]) / SOLVED,
        "answer_s": in_child("answer", str(folder), str(exported / "scale" / "model.onnx"))["seconds"],
        "answer_int8_s": in_child("answer", str(folder), str(exported / "scale-int8" / "model.onnx"))["seconds"],
        "top_s": trained["top"],
        "all_s": trained["all"],
    }
    options.output.write_text(json.dumps(figures, indent=1) + "\n")
    print(options.output.read_text())


def amount(value: float, units: str = "") -> str:
    """Format a number with three digits: 0.123, 12.3, 1,230 or 1.23 million."""
    for power, word in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
        if abs(value) >= power:
            return f"{value / power:.3g}{word}{units}"
    if abs(value) >= 100:
        return f"{round(value):,}{units}"
    return f"{value:.3g}{units}"


def size_of(number: float) -> str:
    for unit, power in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= power:
            return f"{amount(number / power)} {unit}"
    return f"{amount(number / 1e3)} kB"


def time_of(seconds: float) -> str:
    for unit, length in (("years", 365 * DAY), ("days", DAY), ("h", 3600), ("min", 60)):
        if seconds >= length * (1 if unit == "min" else 2):
            return f"{amount(seconds / length)} {unit}"
    return f"{amount(seconds)} s"


def table(figures: dict[str, Any], cores: int, core_hour: float, gigabyte_month: float) -> str:
    """Return the tables as Markdown."""
    pixels = figures["size"] ** 2 * 3
    costs = {
        "label it with the exported file, float32": figures["answer_s"],
        "label it with the exported file, int8": figures["answer_int8_s"],
        "find its name in a folder": figures["names_s"],
        "decode it for training, once": figures["read_s"],
        "compute its features, once": figures["features_s"],
        "solve the head on its features": figures["head_s"],
        "train the top stages on it, one epoch": figures["top_s"],
        "train all layers on it, one epoch": figures["all_s"],
    }
    lines = ["| step | processor time per picture |", "|---|--:|"]
    lines += [f"| {name} | {1e3 * seconds:.3g} ms |" for name, seconds in costs.items()]
    lines += [f"| compare its hash with that of another picture | {1e9 * figures['near_pair_s']:.3g} ns |", ""]

    def pairs(count: int) -> float:
        return figures["near_pair_s"] * count**2 / 2

    def row(name: str, seconds: float, alone: float = 0.0) -> str:
        """Return the row of a job. `alone` is the part of its seconds that few cores can share."""
        clock = (seconds - alone) / cores + alone / min(cores, figures["head_threads"])
        return f"| {name} | {amount(seconds / 3600)} | {time_of(clock)} | {amount(seconds / 3600 * core_hour)} $ |"

    once = figures["names_s"] + figures["read_s"] + figures["features_s"]
    for count in (MILLION, BILLION):
        head = count * figures["head_s"]
        lines += [
            f"| {amount(count)} pictures | core-hours | on {cores} cores | money |",
            "|---|--:|--:|--:|",
            row("label, float32", count * figures["answer_s"]),
            row("label, int8", count * figures["answer_int8_s"]),
            row("find near-duplicates: compare hashes", pairs(count)),
            row("decode, features, exact head", count * once + head, head),
            row(
                f"the same, then the top stages for {EPOCHS} epochs",
                count * (once + EPOCHS * figures["top_s"]) + head,
                head,
            ),
            row(
                f"decode, then all layers for {EPOCHS} epochs", count * (figures["read_s"] + EPOCHS * figures["all_s"])
            ),
            "",
        ]

    stored: dict[str, float] = {
        "files, read once over the network": figures["picture_bytes"],
        "decoded pixels on the disk": pixels,
        "features on the disk": 4 * figures["features"],
        "names in memory": figures["names_bytes"],
        "the head in memory, beside the features": figures["head_bytes"],
    }
    lines += ["| what | per picture | a million | a billion |", "|---|--:|--:|--:|"]
    for name, number in stored.items():
        lines.append(f"| {name} | {size_of(number)} | {size_of(number * MILLION)} | {size_of(number * BILLION)} |")
    month = f"{amount(pixels * BILLION / 1e9 * gigabyte_month)} $"
    lines += ["", f"The decoded pixels of a billion pictures cost {month} per month of storage.", ""]

    hours, memory, disk = 24.0, 64e9, 4e12
    limits = {
        f"near-duplicates take a day on {cores} cores": (2 * hours * 3600 * cores / figures["near_pair_s"]) ** 0.5,
        f"decoded pixels fill a disk of {size_of(disk)}": disk / pixels,
        f"names fill {size_of(memory)} of memory": memory / figures["names_bytes"],
        f"features fill a disk of {size_of(disk)}": disk / (4 * figures["features"]),
        "all layers for one epoch take a day on 2 cores": 2 * DAY / figures["all_s"],
        f"the exact head takes a day on {figures['head_threads']} cores": DAY
        * figures["head_threads"]
        / figures["head_s"],
    }
    lines += ["| what gives way | from so many pictures on |", "|---|--:|"]
    lines += [f"| {name} | {amount(count)} |" for name, count in sorted(limits.items(), key=lambda item: item[1])]
    return "\n".join(lines)


def step(options: argparse.Namespace) -> None:
    steps: dict[str, Callable[[list[str]], dict[str, Any]]] = {
        "names": lambda values: names(Path(values[0]), int(values[1])),
        "near": lambda values: near(int(values[0])),
        "head": lambda values: head(int(values[0]), int(values[1])),
        "decode": lambda values: decode(Path(values[0]), int(values[1])),
        "answer": lambda values: answer(Path(values[0]), Path(values[1])),
        "features": lambda values: features(values[0], int(values[1])),
    }
    print(json.dumps(steps[options.name](options.values)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("measure")
    command.add_argument("folder", type=Path)
    command.add_argument("output", type=Path)
    command.add_argument("--network", default="mobilenetv2")
    command.add_argument("--size", type=int, default=224)
    command.add_argument("--weights", type=Path, help="folder with pretrained weights")
    command.add_argument("--machine", help="the words that the file has for this machine")
    command.set_defaults(run=measure)
    command = commands.add_parser("table")
    command.add_argument("figures", type=Path)
    command.add_argument("--cores", type=int, default=64)
    command.add_argument("--core-hour", type=float, default=0.04, help="dollars for an hour of one core")
    command.add_argument("--gigabyte-month", type=float, default=0.023, help="dollars for a gigabyte and a month")
    command.set_defaults(
        run=lambda options: print(
            table(json.loads(options.figures.read_text()), options.cores, options.core_hour, options.gigabyte_month)
        )
    )
    command = commands.add_parser("step")
    command.add_argument("name")
    command.add_argument("values", nargs="*")
    command.set_defaults(run=step)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
