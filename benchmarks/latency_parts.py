"""Shows where the time of one picture goes: decoding, the network, the answer, and what they take more in turn.

    python benchmarks/latency_parts.py MODEL --pictures FOLDER [--rounds 15]

Each part is timed again and again by itself, and in turn with the others, as in an application. In turn it takes
longer. To find out why, it is also timed after a pause, in which threads fall asleep, and after 16 MB of other memory
were read, which empties the processor's caches. The figures are medians in milliseconds.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from zoo_runtime import Predictor, list_pictures

CALLS = 20
OTHER_DATA = 16 << 20
SETTINGS: dict[str, dict[str, Any]] = {
    "the default": {},
    "spinning": {"spinning": True},
    "sleeping": {"spinning": False},
    "1 thread": {"threads": 1},
}


def measure(predictor: Predictor, pictures: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Return the milliseconds of each part under each circumstance, and of the whole."""
    session = predictor._network.session
    pixels = predictor.decode(pictures[0])
    outputs = predictor._network.run_all(session, pixels[None])
    data = np.ones(OTHER_DATA, np.uint8)
    endless = itertools.cycle(pictures)
    parts: dict[str, Callable[[], Any]] = {
        "decoding": lambda: predictor.decode(next(endless)),
        "network": lambda: predictor._network.run_all(session, pixels[None]),
        "answer": lambda: predictor._name(*(output[0] for output in outputs)),
    }
    before: dict[str, Callable[[], Any]] = {
        "by itself": lambda: None,
        "after a pause": lambda: time.sleep(0.003),
        "after other data": data.sum,
    }
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)

    def timed(part: str, how: str) -> None:
        started = time.perf_counter()
        parts[part]()
        taken[part, how].append(time.perf_counter() - started)

    for _ in range(rounds):
        for part, (how, prepare) in itertools.product(parts, before.items()):
            for _ in range(CALLS):
                prepare()
                timed(part, how)
        for _ in range(CALLS):
            for part in parts:
                timed(part, "in turn")
        for _ in range(CALLS):
            started = time.perf_counter()
            predictor(next(endless))
            taken["whole", "in turn"].append(time.perf_counter() - started)
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for (part, how), times in taken.items():
        found[part][how] = 1000 * float(np.median(times))
    return found


def main() -> int:
    """Measure and print. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--pictures", required=True)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    pictures = list_pictures(options.pictures)[:100]
    for name, given in SETTINGS.items():
        found = measure(Predictor(options.model, tuned=False, **given), pictures, options.rounds)
        whole = found.pop("whole")["in turn"]
        alone = sum(times["by itself"] for times in found.values())
        print(f"{name}: {whole:.2f} ms from picture to label, {whole - alone:.2f} more than the parts by themselves")
        for part, times in found.items():
            print(f"  {part:<9}" + "".join(f"  {how} {value:6.3f}" for how, value in times.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
