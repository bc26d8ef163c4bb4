"""Compares the accuracy of ways to classify with a pretrained network, on random draws of few pictures.

    python benchmarks/accuracy.py FOLDER... --work WORK [--weights FOLDER] [--networks mobilenetv2,mobilenet_050]
        [--counts 10,20,50,100,400] [--draws 10] [--methods probe,exact,zoo,guide] [--seed 0] [--cold]
    python benchmarks/accuracy.py --work WORK --table

Each FOLDER has a folder per class, or train/ and test/ with a folder per class. Without test/, the last 100 pictures of
each class by name are the test pictures (`--test`). The test pictures are the same for all runs. A draw takes COUNT of
the other pictures of each class at random, and all methods get the same pictures. Draws with the same number are
nested: the first 10 pictures of a draw are also in its 20. If a class has fewer than COUNT pictures, a draw takes as
many of each class as the smallest class has. All draws then have almost the same pictures, in another order.

The methods are:

- probe: logistic regression on pooled features, by scikit-learn as a stranger would write it. The features are those of
  `benchmarks/keras_user.py features`, neither scaled nor centred. `LogisticRegressionCV(cv=5, max_iter=1000)` chooses C
  of 10 values by accuracy. The features of all pictures are computed once per network. The seconds are those of the
  fit, on one thread, plus the measured seconds per picture for the pictures of the draw.
- exact: `zoo finetune NETWORK --data DRAW --seed SEED --schedule exact-head`.
- zoo: the same command without `--schedule`.
- guide: `benchmarks/keras_user.py guide`, on all pictures of the draw. `guide:20+10` trains the head for 20 epochs and
  the upper part of the backbone for 10.

SEED is `--seed` plus the number of the draw, from 0. The seconds of the last three methods are those of a whole
process, which also evaluates the network on the test pictures. zoo keeps its caches in WORK, so that its second method
finds the features of a draw that its first has computed. With `--cold` the caches are emptied before each run.

After each run, a line is added to WORK/results.jsonl. If the benchmark is interrupted, the same command goes on where
it stopped. The run records of zoo are kept in WORK/records. Use a new WORK after a change of zoo.
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import io
import json
import math
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import ProgramFailed, link, timed
from keras_user import HEAD_EPOCHS, NETWORKS, TOP_EPOCHS

KERAS_USER = str(Path(__file__).with_name("keras_user.py").resolve())
METHODS = ("probe", "exact", "zoo", "guide")
BASE = "probe"
# What identifies a run. `requested` is the number of pictures per class on the command line.
KEY = ("set", "network", "requested", "draw", "method", "seed")
Row = dict[str, Any]


@dataclass(frozen=True)
class PictureSet:
    """The pictures of a folder, divided into fixed test pictures and the pool that draws are taken from.

    Args:
        name: The name of the folder.
        classes: The names of the classes.
        test: (path, class name) of each test picture.
        pool: (path, class name) of every other picture. The pool has no byte-equal copy of a test picture.
    """

    name: str
    classes: tuple[str, ...]
    test: list[tuple[Path, str]]
    pool: list[tuple[Path, str]]

    @classmethod
    def read(cls, folder: Path, test_count: int) -> PictureSet:
        """Read a folder; see the description of FOLDER above."""
        folder = folder.resolve()
        given = (folder / "test").is_dir()
        train_folder = folder / "train" if given else folder
        classes = tuple(sorted(path.name for path in train_folder.iterdir() if path.is_dir()))
        test, pool = [], []
        for name in classes:
            paths = sorted(path for path in (train_folder / name).iterdir() if path.is_file())
            apart = sorted(path for path in (folder / "test" / name).iterdir()) if given else paths[-test_count:]
            test += [(path, name) for path in apart]
            pool += [(path, name) for path in (paths if given else paths[:-test_count])]
        copies = {_digest(path) for path, _ in test}
        pool = [(path, name) for path, name in pool if _digest(path) not in copies]
        lacking = set(classes) - {name for _, name in pool}
        if len(classes) < 2 or lacking:
            sys.exit(f"{folder} needs two classes or more, each with more than {test_count} pictures.")
        return cls(folder.name, classes, test, pool)

    def draw(self, count: int, number: int, seed: int) -> list[int]:
        """Return the indices in `pool` of a draw, class by class.

        Args:
            count: Pictures per class. If a class has fewer, each class gives as many as the smallest one has.
            number: The number of the draw.
            seed: The seed of the benchmark.
        """
        rng = np.random.default_rng([seed, number])
        members = [[i for i, (_, label) in enumerate(self.pool) if label == name] for name in self.classes]
        count = min(count, *map(len, members))
        return [int(i) for indices in members for i in rng.permutation(indices)[:count]]


@functools.cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Case:
    """One draw of one set for one network.

    Args:
        pictures: The set.
        network: A key of `NETWORKS`.
        weights: The file of the pretrained weights.
        size: Height and width in pixels for which the weights were trained.
        rows: Indices of the draw in the pool.
        seed: The seed of the run.
        work: The folder of results and caches.
        cold: Whether zoo's caches are emptied before each run.
    """

    pictures: PictureSet
    network: str
    weights: Path
    size: int
    rows: list[int]
    seed: int
    work: Path
    cold: bool

    def link(self, folder: Path) -> None:
        """Make links to the pictures of the draw and to the test pictures, in train/ and test/."""
        link([self.pictures.pool[i] for i in self.rows], folder / "train")
        link(self.pictures.test, folder / "test")


def find_weights(network: str, folder: Path) -> tuple[Path, int]:
    """Return the first file without the top that a folder has for a network, and its picture size in pixels."""
    from zoo.plugin import registry

    published = registry.load().weights_of(network, top=False)
    for entry in published:
        if (folder / entry.filename).is_file() and entry.input_size:
            return folder / entry.filename, entry.input_size[0]
    sys.exit(f"{folder} has no weights for {network}; it needs one of {', '.join(e.filename for e in published)}.")


def pooled_features(case: Case) -> tuple[np.ndarray, float]:
    """Return the features of the test pictures and then of the pool, and the seconds per picture.

    They are computed by Keras in a process of its own, and kept in the work folder.

    Returns:
        The features, float32 (pictures, features), and the seconds.
    """
    listed = [*case.pictures.test, *case.pictures.pool]
    content = json.dumps([str(case.weights), case.size, [_digest(path) for path, _ in listed]])
    name = f"{case.pictures.name}-{case.network}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.npz"
    file = case.work / "features" / name
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="features-", dir=case.work) as text:
            place = Path(text)
            link([(path, "all") for path, _ in listed], place / "pictures")
            command = [sys.executable, KERAS_USER, "features", str(place / "pictures"), case.network]
            timed([*command, str(case.weights), str(case.size), "features.npz"], place, {})
            os.replace(place / "features.npz", file)
    with np.load(file) as arrays:
        return arrays["features"], float(arrays["seconds_per_picture"])


def run_probe(case: Case) -> Row:
    """Fit scikit-learn's logistic regression on the features of a draw, and evaluate it on the test pictures."""
    from sklearn.linear_model import LogisticRegressionCV
    from threadpoolctl import threadpool_limits

    features, rate = pooled_features(case)
    names = np.array([label for _, label in (*case.pictures.test, *case.pictures.pool)])
    rows = np.array(case.rows) + len(case.pictures.test)
    folds = min(5, len(rows) // len(case.pictures.classes))
    # With several threads, these small matrices are slower, and sums come out in another order.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = time.perf_counter()
        model = LogisticRegressionCV(cv=folds, max_iter=1000, scoring="accuracy", use_legacy_attributes=False)
        model.fit(features[rows], names[rows])
        fit = time.perf_counter() - started
    test = slice(0, len(case.pictures.test))
    right = model.predict(features[test]) == names[test]
    computing = rate * len(rows)
    return {
        "accuracy": float(right.mean()),
        "seconds": computing + fit,
        "seconds_features": computing,
        "seconds_fit": fit,
        "c": float(np.ravel(model.C_)[0]),
    }


def run_zoo(case: Case, *options: str) -> Row:
    """Run `zoo finetune` on a draw, and read its accuracy on the test pictures from the run folder."""
    cache = case.work / "cache"
    if case.cold:
        shutil.rmtree(cache, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="zoo-", dir=case.work) as text:
        place = Path(text)
        case.link(place / "draw")
        command = [sys.executable, "-m", "zoo", "finetune", case.network, "--data", str(place / "draw")]
        environment = {"ZOO_CACHE": str(cache), "ZOO_WEIGHTS_DIR": str(case.weights.parent)}
        started = time.perf_counter()
        try:
            timed([*command, "--seed", str(case.seed), *options], place, environment)
        except ProgramFailed:
            # A network that has learned nothing is not exported, and the exit code is 1. Its metrics are a result.
            if not list((place / "runs").glob("*/metrics.json")):
                raise
        seconds = time.perf_counter() - started
        (run,) = (place / "runs").iterdir()
        record = json.loads((run / "run.json").read_text())
        record["history"] = (run / "history.csv").read_text()
        metrics = json.loads((run / "metrics.json").read_text())
    name = "-".join([case.pictures.name, case.network, str(len(case.rows)), str(case.seed), *options[1:]])
    records = case.work / "records"
    records.mkdir(exist_ok=True)
    (records / f"{name}.json").write_text(json.dumps(record, indent=2))
    return {
        "accuracy": metrics["test"]["accuracy"],
        "seconds": seconds,
        "schedule": record["options"]["schedule"],
        "size": record["image"]["size"],
        "kept": _kept_phase(record),
        "found": (record.get("prefix") or {}).get("found", 0),
    }


def _kept_phase(record: Row) -> str:
    """Return the name of the phase whose weights a run kept, or "" if the run record does not say so."""
    for row in csv.DictReader(io.StringIO(record["history"])):
        if row.get("epoch") == str(record.get("best_epoch")):
            return row.get("phase") or ""
    return ""


def run_guide(case: Case, epochs: str) -> Row:
    """Train by the recipe of Keras's guide in a process of its own.

    Args:
        case: The draw.
        epochs: The epochs of the head and of the upper part, such as "20+10"; empty means those of the guide.
    """
    head, _, top = epochs.partition("+")
    with tempfile.TemporaryDirectory(prefix="guide-", dir=case.work) as text:
        place = Path(text)
        case.link(place / "draw")
        command = [sys.executable, KERAS_USER, "guide", str(place / "draw"), case.network, str(case.weights)]
        command += [str(case.size), str(case.seed), f"{head or HEAD_EPOCHS},{top or TOP_EPOCHS}"]
        found = timed(command, place, {})
    return {"accuracy": json.loads(found["text"].splitlines()[-1])["accuracy"], "seconds": found["seconds"]}


def run_method(method: str, case: Case) -> Row:
    """Run one method, and return its accuracy on the test pictures, its seconds, and what else it reports."""
    name, _, epochs = method.partition(":")
    if name == "probe":
        return run_probe(case)
    if name == "guide":
        return run_guide(case, epochs)
    return run_zoo(case, *(("--schedule", "exact-head") if name == "exact" else ()))


def read_results(file: Path) -> list[Row]:
    """Read the results; a last line that an interruption has cut off is removed from the file."""
    if not file.is_file():
        return []
    text = file.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


def run_all(options: argparse.Namespace, file: Path) -> int:
    """Run what the results lack, draw by draw, so that an interrupted benchmark has some draws of everything.

    Args:
        options: The options of the command line.
        file: The file of the results.

    Returns:
        The number of runs that failed.
    """
    weights = {network: find_weights(network, options.weights.resolve()) for network in options.networks}
    sets = [PictureSet.read(folder, options.test) for folder in options.folders]
    cases = [(s, network, count) for s in sets for network in options.networks for count in options.counts]
    known = {tuple(row[key] for key in KEY) for row in read_results(file)}
    failed = 0
    for number in range(options.draws):
        for pictures, network, count in cases:
            rows = pictures.draw(count, number, options.seed)
            seed = options.seed + number
            case = Case(pictures, network, *weights[network], rows, seed, options.work, options.cold)
            for method in options.methods:
                key = (pictures.name, network, count, number, method, options.seed)
                if key in known:
                    continue
                try:
                    found = run_method(method, case)
                except ProgramFailed as error:
                    failed += 1
                    print(f"{key}: {error}", file=sys.stderr, flush=True)
                    continue
                result = dict(zip(KEY, key, strict=True)) | {"count": len(rows) // len(pictures.classes)} | found
                with file.open("a") as stream:
                    stream.write(json.dumps(result) + "\n")
                print(f"{' '.join(map(str, key[:5]))}: {found['accuracy']:.4f}, {found['seconds']:.1f} s", flush=True)
    return failed


def mean_and_error(values: Sequence[float], factor: float = 1, sign: str = "", digits: int = 3) -> str:
    """Format a mean and its standard error; the error is left out for a single value, and all is for no value."""
    if not values:
        return ""
    text = f"{factor * float(np.mean(values)):{sign}.{digits}f}"
    if len(values) == 1:
        return text
    return f"{text} ± {factor * float(np.std(values, ddof=1)) / math.sqrt(len(values)):.{digits}f}"


def compared(methods: Sequence[str]) -> list[str]:
    """Return the methods whose difference to `BASE` the table has; none if `BASE` is not one of them."""
    return [m for m in methods if m != BASE] if BASE in methods else []


def table_row(rows: list[Row], methods: Sequence[str]) -> list[str]:
    """Return the cells of one row of the table.

    Args:
        rows: The results for one set, network and number of pictures per class.
        methods: The methods of the columns.
    """
    accuracy = {m: {row["draw"]: row["accuracy"] for row in rows if row["method"] == m} for m in methods}
    base = accuracy.get(BASE, {})
    requested, used = rows[0]["requested"], rows[0]["count"]
    draws = sorted({len(each) for each in accuracy.values() if each})
    cells = [
        str(requested) if requested == used else f"{requested} ({used})",
        " to ".join(map(str, draws[:: max(1, len(draws) - 1)])),
    ]
    cells += [mean_and_error(list(accuracy[m].values())) for m in methods]
    for method in compared(methods):
        differences = [value - base[draw] for draw, value in accuracy[method].items() if draw in base]
        cells.append(mean_and_error(differences, 100, "+", 2))
    times = {m: [row["seconds"] for row in rows if row["method"] == m] for m in methods}
    cells.append(", ".join(f"{median(times[m]):.1f}" if times[m] else "-" for m in methods))
    kept = Counter(row["kept"] for row in rows if row["method"] == "zoo" and row.get("kept"))
    cells.append(", ".join(f"{name} {count}" for name, count in kept.most_common()))
    return cells


def print_table(results: list[Row]) -> None:
    """Print a Markdown table for each set and network."""
    used = {row["method"] for row in results}
    methods = [m for m in METHODS if m in used] + sorted(used - set(METHODS))
    head = ["pictures per class", "draws", *methods]
    head += [f"{m} - {BASE}, points" for m in compared(methods)]
    head += [f"seconds: {', '.join(methods)}", "phase that zoo kept"]
    for name, network in dict.fromkeys((row["set"], row["network"]) for row in results):
        print(f"\n`{name}`, `{network}`:\n")
        print(f"| {' | '.join(head)} |\n|{'--:|' * len(head)}")
        rows = [row for row in results if (row["set"], row["network"]) == (name, network)]
        for count in sorted({row["requested"] for row in rows}):
            print(f"| {' | '.join(table_row([row for row in rows if row['requested'] == count], methods))} |")


def name_list(known: Sequence[str]) -> Any:
    """Return a function that reads a list of names, separated by commas, for argparse."""

    def read(text: str) -> list[str]:
        for name in text.split(","):
            if name.partition(":")[0] not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return text.split(",")

    return read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER")
    parser.add_argument("--work", type=Path, required=True, help="folder of results and caches")
    parser.add_argument("--weights", type=Path, default=os.environ.get("ZOO_WEIGHTS_DIR"), help="folder of weights")
    parser.add_argument(
        "--networks", type=name_list(tuple(NETWORKS)), default="mobilenetv2,mobilenetv2_035,mobilenet_050"
    )
    parser.add_argument(
        "--counts", type=lambda text: [int(part) for part in text.split(",")], default="10,20,50,100,400"
    )
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--methods", type=name_list(METHODS), default="probe,exact,zoo")
    parser.add_argument("--test", type=int, default=100, help="test pictures per class of a folder without test/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cold", action="store_true", help="empty zoo's caches before each run")
    parser.add_argument("--table", action="store_true", help="only print the table of the results")
    options = parser.parse_args()
    options.work = options.work.resolve()
    file = options.work / "results.jsonl"
    failed = 0
    if not options.table:
        if not options.folders or options.weights is None:
            parser.error("give at least one FOLDER, and the folder of weights as --weights or as ZOO_WEIGHTS_DIR")
        options.work.mkdir(parents=True, exist_ok=True)
        failed = run_all(options, file)
    print_table([row for row in read_results(file) if row["seed"] == options.seed])
    if failed:
        sys.exit(f"{failed} runs failed; the same command tries them again.")


if __name__ == "__main__":
    main()
