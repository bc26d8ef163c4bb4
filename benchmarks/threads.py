"""Compares the default settings of zoo_runtime with all others: alone, with a quota, and beside a busy program.

    python benchmarks/threads.py MODEL... [--pictures FOLDER] [--pairs 20] [--seconds 0.5] [--only alone|quota|busy]

Every other combination of threads and spinning runs in turn with the default: a block of so many seconds each, in which
one picture after another is decoded and labeled. Before each block, threads of the other one have time to fall asleep.
The table shows the mean time of a picture, and the default divided by the other setting, as the median over all pairs
of blocks with its middle half. The default must take at most 1.1 of the time of every other setting, or the exit code
is 1. A quota needs Linux and root; a busy program is a loop in Python.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from zoo_runtime import Predictor, list_pictures
from zoo_runtime._cores import usable_cores
from zoo_runtime._network import Network
from zoo_runtime._session import Settings

CONDITIONS = ("alone", "quota 1.5", "quota 1", "quota 0.5", "1 busy program")
PAUSE = 0.15
WORST = 1.1
WAITS = {None: "spinning briefly", True: "spinning", False: "sleeping"}


def name_of(settings: Settings) -> str:
    """Return how the table calls settings."""
    return f"{settings.threads or 'default'} thread{'s' * (settings.threads != 1)}, {WAITS[settings.spinning]}"


def others() -> list[Settings]:
    """Return the settings to compare with the default: 1 thread, half of the cores and all cores, and ways to wait."""
    cores = os.cpu_count() or 1
    several = sorted({max(2, cores // 2), cores} - {1})
    return [Settings(1), *(Settings(count, waits) for count in several for waits in WAITS)]


def measure(model: str, pictures: list[str], pairs: int, seconds: float) -> dict[str, object]:
    """Compare the settings in this process. Return the mean times in milliseconds, and the ratios of all pairs."""
    predictor = Predictor(model, tuned=False)
    path = str(Path(model) / "model.onnx") if Path(model).is_dir() else model
    alternatives = others()
    networks = {s: Network(path, s, Settings()) for s in (Settings(), *alternatives)}
    endless = itertools.cycle(pictures)

    def block(settings: Settings) -> list[float]:
        network = networks[settings]
        time.sleep(PAUSE)
        taken: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(taken) < 5:
            picture = next(endless)
            started = time.perf_counter()
            network.run(network.session, predictor.decode(picture)[None])
            taken.append(time.perf_counter() - started)
        return taken

    for settings in networks:
        block(settings)
    taken: dict[str, list[float]] = {name_of(s): [] for s in networks}
    ratios: dict[str, list[float]] = {name_of(s): [] for s in alternatives}
    for turn, other in itertools.product(range(pairs), alternatives):
        means = {}
        for settings in (Settings(), other) if turn % 2 else (other, Settings()):
            times = block(settings)
            taken[name_of(settings)] += times
            means[settings] = np.mean(times)
        ratios[name_of(other)].append(float(means[Settings()] / means[other]))
    return {"cores": usable_cores(), "seconds": taken, "ratios": ratios}


@contextlib.contextmanager
def condition(name: str) -> Iterator[list[str]]:
    """Provide a command that starts another one under a condition."""
    kind, _, amount = name.partition(" ")
    if kind == "quota":
        old = Path("/sys/fs/cgroup/cpu").is_dir()
        group = Path("/sys/fs/cgroup/cpu" if old else "/sys/fs/cgroup") / "zoo-threads"
        group.mkdir()
        quota = str(int(float(amount) * 100_000))
        try:
            if old:
                (group / "cpu.cfs_period_us").write_text("100000")
                (group / "cpu.cfs_quota_us").write_text(quota)
            else:
                (group / "cpu.max").write_text(f"{quota} 100000")
            yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
        finally:
            group.rmdir()
        return
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(int(kind) if amount else 0)]
    try:
        yield []
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> int:
    """Measure all conditions, and print the tables. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--pictures", type=Path, help="a folder of pictures (default: those inside the file)")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--only", default="", help="measure conditions whose name has this text")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        pictures = list_pictures(options.pictures)[:100]
        print(json.dumps(measure(options.models[0], pictures, options.pairs, options.seconds)))
        return 0
    bad = 0
    for model, name in itertools.product(options.models, CONDITIONS):
        if options.only not in name:
            continue
        with condition(name) as through:
            command = [*through, sys.executable, __file__, model, "--here", "--pairs", str(options.pairs)]
            command += ["--seconds", str(options.seconds), "--pictures", str(options.pictures)]
            found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        print(f"\n{model}, {name}: the default uses {found['cores']} of {os.cpu_count()} cores")
        for settings, seconds in found["seconds"].items():
            p50, p99 = 1000 * np.percentile(seconds, (50, 99))
            line = f"  {settings:<28} mean {1000 * np.mean(seconds):6.2f} ms  p50 {p50:6.2f}  p99 {p99:6.2f}"
            if settings in found["ratios"]:
                low, middle, high = np.percentile(found["ratios"][settings], (25, 50, 75))
                worse = middle > WORST
                bad += worse
                line += f"  default / this {middle:.2f} ({low:.2f} to {high:.2f}){'  TOO SLOW' if worse else ''}"
            print(line, flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
