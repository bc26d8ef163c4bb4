"""Compares fine-tuning with zoo and with Keras's transfer-learning guide.

Both use the same pictures, split, input size and pretrained weights.

    python benchmarks/finetune.py FOLDER WEIGHTS [--size 160] [--rounds 1] [--seed 0] [--counts 500,1000,2000,20000]

FOLDER has train/ and test/, each with class folders. WEIGHTS is MobileNetV2's published file without the top. Each
program runs in a process of its own, which is timed from its start to its end. The programs run in turn:

- guide: https://keras.io/guides/transfer_learning/ as its users write it; benchmarks/keras_user.py has the recipe.
- zoo: `zoo finetune mobilenetv2` with its defaults. It ends with a checked and evaluated ONNX file.
- zoo, new pictures: the same command after the caches of pixels and features were emptied, as over other pictures. It
  finds the converted backbone of the run before.
- zoo, again: the same command once more, which finds its pixels and features in the caches.

The columns of the table are:

    speedup        the guide's seconds divided by those of the program; shown only if its accuracy on the test pictures
                   is at least the guide's
    computing s    seconds that zoo takes to compute features

The line "limit" shows the minimum on this machine: decoding all pictures, and running the exported file once on each.

With --counts, only zoo runs. It trains on each of the given numbers of training pictures, with about 200 pictures each
for validation and test. Seconds and peak memory are printed. Pictures are repeated if the folder has too few.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ProgramFailed, link, timed

VAL_FRACTION = 0.1


def divide(folder: Path, target: Path, seed: int) -> dict[str, list[tuple[Path, str]]]:
    """Make the split that all programs use: a tenth of the training pictures becomes the validation part.

    Args:
        folder: Has train/ and test/, each with class folders.
        target: Receives links to the pictures in train/, val/ and test/.
        seed: Decides which training pictures are used for validation.

    Returns:
        Name of each part -> its pictures, as `link` takes them.
    """
    import numpy as np
    from sklearn.model_selection import train_test_split

    def listed(part: str) -> list[tuple[Path, str]]:
        return [(p.resolve(), p.parent.name) for p in sorted((folder / part).glob("*/*")) if p.is_file()]

    given = listed("train")
    rows = train_test_split(
        np.arange(len(given)), test_size=VAL_FRACTION, stratify=[label for _, label in given], random_state=seed
    )
    parts = {name: [given[i] for i in sorted(chosen)] for name, chosen in zip(("train", "val"), rows, strict=True)}
    parts["test"] = listed("test")
    for part, pictures in parts.items():
        link(pictures, target / part)
    return parts


def guide_side(data: Path, weights: Path, size: int, seed: int, folder: Path) -> dict[str, Any]:
    program = [sys.executable, str(Path(__file__).with_name("keras_user.py")), "guide"]
    found = timed([*program, str(data), "mobilenetv2", str(weights), str(size), str(seed)], folder, {})
    return {**found, "accuracy": json.loads(found["text"].splitlines()[-1])["accuracy"]}


def zoo_side(
    data: Path, weights: Path, size: int, seed: int, folder: Path, cache: Path, *options: str
) -> dict[str, Any]:
    program = str(Path(sys.executable).with_name("zoo"))
    command = [program, "finetune", "mobilenetv2", "--data", str(data), "--weights", str(weights)]
    command += ["--size", str(size), "--seed", str(seed), "--profile", *options]
    found = timed(command, folder, {"ZOO_CACHE": str(cache)})
    run = max((folder / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
    record = json.loads((run / "run.json").read_text())
    return {
        **found,
        "accuracy": json.loads((run / "metrics.json").read_text())["test"]["accuracy"],
        "prefix": record["prefix"]["seconds_preparing"] + record["prefix"]["seconds_computing"],
        "export": run / "model.onnx",
    }


def limit(data: Path, size: int, export: Path) -> tuple[int, float, float]:
    """Measure how long it takes to decode all pictures of a split, and to run an exported file once on each of them.

    Args:
        data: The folder of the split.
        size: Height and width in pixels.
        export: The exported file.

    Returns:
        The number of pictures, the seconds to decode them, and the seconds to run the file on them.
    """
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from zoo_runtime import ImageSpec, Predictor, decode

    paths = sorted(path for path in data.glob("*/*/*"))
    spec = ImageSpec(size=(size, size))
    started = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pixels = list(pool.map(lambda path: decode(path, spec), paths, chunksize=32))
    decoding = time.perf_counter() - started
    predictor = Predictor(export)
    started = time.perf_counter()
    for start in range(0, len(pixels), 32):
        predictor.probabilities(np.stack(pixels[start : start + 32]))
    return len(paths), decoding, time.perf_counter() - started


def compare(options: argparse.Namespace, weights: Path) -> None:
    rows: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="zoo-benchmark-") as name:
        folder = Path(name)
        divide(options.folder, folder / "data", options.seed)
        common = (folder / "data", weights, options.size)
        for round_number in range(options.rounds):
            seed = options.seed + round_number
            place = folder / f"round{round_number}"
            place.mkdir()
            cache = place / "cache"
            rows.setdefault("guide", []).append(guide_side(*common, seed, place))
            rows.setdefault("zoo", []).append(zoo_side(*common, seed, place, cache))
            for part in ("pixels", "features"):
                shutil.rmtree(cache / part)
            rows.setdefault("zoo, new pictures", []).append(zoo_side(*common, seed, place, cache))
            rows.setdefault("zoo, again", []).append(zoo_side(*common, seed, place, cache))
        count, decoding, running = limit(folder / "data", options.size, rows["zoo"][0]["export"])

    def mean(label: str, key: str) -> float:
        return sum(row[key] for row in rows[label]) / len(rows[label])

    print(f"{options.size} pixels, seeds {options.seed} to {options.seed + options.rounds - 1}, means:")
    print("side                 seconds  accuracy  speedup  computing s  memory GB")
    for label in rows:
        reached = mean(label, "accuracy") >= mean("guide", "accuracy")
        speedup = f"{mean('guide', 'seconds') / mean(label, 'seconds'):8.1f}" if reached else "       -"
        prefix = f"{mean(label, 'prefix'):12.1f}" if label != "guide" else "           -"
        memory = max(row["memory"] for row in rows[label]) / 1e9
        print(
            f"{label:18} {mean(label, 'seconds'):9.1f} {mean(label, 'accuracy'):9.4f} {speedup} {prefix} {memory:10.2f}"
        )
    print(f"limit: {count:,} pictures decoded in {decoding:.1f} s, through the exported file in {running:.1f} s")
    print(f"\nzoo, where the time went:\n{rows['zoo'][-1]['text'].partition('Took')[2]}", flush=True)


def grow(options: argparse.Namespace, weights: Path) -> None:
    print(f"{'pictures':>9} {'seconds':>8} {'memory GB':>10}   {options.size} pixels, seed {options.seed}")
    for count in options.counts:
        with tempfile.TemporaryDirectory(prefix="zoo-benchmark-") as name:
            folder = Path(name)
            parts = divide(options.folder, folder / "all", options.seed)
            given = random.Random(options.seed).sample(parts["train"], len(parts["train"]))
            link([given[i % len(given)] for i in range(count)], folder / "data" / "train")
            for part in ("val", "test"):
                link(parts[part][:: max(1, len(parts[part]) // 200)], folder / "data" / part)
            found = zoo_side(folder / "data", weights, options.size, options.seed, folder, folder / "cache")
        print(f"{count:9,} {found['seconds']:8.1f} {found['memory'] / 1e9:10.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--size", type=int, default=160, help="side in pixels (default 160)")
    parser.add_argument("--rounds", type=int, default=1, help="each with the next seed (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--counts",
        type=lambda text: [int(part) for part in text.split(",")],
        default=(),
        help="run only zoo, on these numbers of training pictures, such as 500,1000,2000,20000",
    )
    options = parser.parse_args()
    weights = options.weights.resolve()
    try:
        (grow if options.counts else compare)(options, weights)
    except ProgramFailed as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
