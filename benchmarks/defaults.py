"""Compares training recipes by cross-validation. The schedules take their default epochs and learning rates from it.

    python benchmarks/defaults.py DATA ARCH [--weights PATH] [--size 160] [--seeds 3] RECIPE...

A recipe is a list of phases joined by "+". Each phase is TRAIN*EPOCHS@RATE, with optional parts in this order:
"~cosine" or "~one-cycle" sets the learning-rate schedule. "!EPOCHS" sets a patience other than 5. "?LOSS" skips the
phase if the validation loss is already this low. "#POLICY" (and "/VIEWS") after the last phase augments the pictures:

    "head*5@3e-3+last:2*3@1e-4~cosine!1"        "head*8@3e-3#light/2"

The pictures are those that `zoo finetune` with seed 0 uses for training and validation. Its test pictures are left out.
Each seed divides them at random: 60 % to train on, 10 % to choose the best epoch, and 30 % to evaluate the network. All
recipes use the same divisions. Accuracy and log loss are means over the seeds.

The column "difference" compares the accuracy with that of the first recipe. The number after +- is its standard error,
in which a picture counts once, even if several seeds evaluate it. The seconds of the first recipe include computing the
features, which the other recipes find in the cache.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from zoo.config import ResolvedConfig
    from zoo.plugin.registry import Registry
    from zoo.reporter import Reporter

TRAIN, CHOOSE = 0.6, 0.1
PHASE = re.compile(
    r"(?P<train>head|all|last:\d+|from:[^*]+)\*(?P<epochs>\d+)@(?P<rate>[\d.e-]+)"
    r"(~(?P<moves>[a-z-]+))?(!(?P<patience>\d+))?(\?(?P<enough>[\d.]+))?"
)


def parse(text: str):
    """Read a recipe from its text, and stop the script if it has a mistake.

    Returns:
        The phases, and the text of the augmentation policy or None.
    """
    from zoo.plugin import Phase

    text, _, policy = text.partition("#")
    policy, _, views = policy.partition("/")
    phases = []
    for number, part in enumerate(text.split("+")):
        found = PHASE.fullmatch(part)
        if not found:
            sys.exit(f"{part!r} is not a phase. Write, for example, head*5@3e-3 or last:2*3@1e-4~cosine.")
        phases.append(
            Phase(
                name=f"{number} {found['train']}",
                train=found["train"],
                epochs=int(found["epochs"]),
                learning_rate=float(found["rate"]),
                lr_schedule=found["moves"] or "constant",  # type: ignore[arg-type]  # Phase checks it
                skip_below_loss=float(found["enough"]) if found["enough"] else None,
                patience=int(found["patience"] or 5) or None,
                views=int(views) if views else None,
            )
        )
    return phases, policy or None


def draw(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divide the pictures at random into those to train on, to choose the best epoch with, and to evaluate on.

    Args:
        labels: The class index of each picture, an integer array (pictures,).
        seed: The same seed gives the same division.

    Returns:
        Three int64 arrays of picture indices, in ascending order.
    """
    from sklearn.model_selection import train_test_split

    rows, judged = train_test_split(
        np.arange(len(labels)), test_size=1 - TRAIN - CHOOSE, stratify=labels, random_state=seed
    )
    share = CHOOSE / (TRAIN + CHOOSE)
    train, chosen = train_test_split(rows, test_size=share, stratify=labels[rows], random_state=seed)
    return np.sort(train), np.sort(chosen), np.sort(judged)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("architecture")
    parser.add_argument("recipes", nargs="+", metavar="RECIPE")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--size", type=int, help="side in pixels (default: what suits data and weights)")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    recipes = {text: parse(text) for text in options.recipes}
    with tempfile.TemporaryDirectory(prefix="zoo-defaults-") as folder:
        os.environ["ZOO_CACHE"] = os.environ.get("ZOO_CACHE", folder)
        compare(options, recipes, Path(os.environ["ZOO_CACHE"]) / "features")


def resolve(options: argparse.Namespace, plugins: Registry, reporter: Reporter) -> ResolvedConfig:
    """Resolve the configuration of a run, and stop the script if there are no pretrained weights."""
    from zoo import config

    size = (options.size, options.size) if options.size else None
    requested = {"architecture": options.architecture, "data": options.data, "weights": options.weights, "size": size}
    resolved = config.resolve(config.FinetuneConfig(**requested, export=False), plugins, reporter)
    if resolved.weights.random:
        sys.exit("There are no pretrained weights; name a file with --weights.")
    return resolved


def compare(options: argparse.Namespace, recipes: dict, cache: Path) -> None:
    """Train all recipes on the same divisions of the pictures, and print a line for each recipe.

    Args:
        options: The options of the command line.
        recipes: Text of each recipe -> its phases and its policy, as `parse` returns them.
        cache: The folder of the feature cache.
    """
    import dataclasses

    from zoo import backend
    from zoo.data import augment as policies
    from zoo.plugin import registry
    from zoo.reporter import Reporter
    from zoo.train import engine
    from zoo.train.frozen.features import FeatureCacheConfig
    from zoo.train.inputs import TrainingData
    from zoo.train.network import assemble
    from zoo.workflow import finetune

    plugins, reporter = registry.load(warn=print), Reporter()
    resolved = resolve(options, plugins, reporter)
    dataset = finetune.load_dataset(resolved, reporter)
    known = np.union1d(dataset.split.train, dataset.split.val)
    targets, array, task = dataset.targets, dataset.pixels.array, resolved.source.task
    labels = targets.argmax(axis=1)

    keras = backend.start()
    network = finetune.build_network(resolved, plugins, reporter)
    backbone = keras.Model(network.model.input, network.model.get_layer(network.backbone[-1]).output)
    pretrained = backbone.get_weights()
    features = FeatureCacheConfig(cache, limit=40 << 30, pictures=dataset.pixels.key, always=True)

    def run(text: str, seed: int, rows: tuple) -> tuple[np.ndarray, float, float]:
        """Train one recipe with one seed, and evaluate the network.

        Args:
            text: The recipe.
            seed: The seed of the run.
            rows: The division of the pictures, as `draw` returns it.

        Returns:
            A boolean array that is true for each evaluated picture that was classified correctly; the log loss; and the
            seconds that the training took.
        """
        phases, policy = recipes[text]
        train, chosen, judged = (known[part] for part in rows)
        augment = policies.build(*policies.parse(policy, plugins)) if policy else None
        config = dataclasses.replace(
            finetune.train_config(resolved, dataset), seed=seed, augment=augment, features=features
        )
        keras.utils.set_random_seed(seed)
        backbone.set_weights(pretrained)
        network = assemble(backbone, resolved.architecture, resolved.head, targets.shape[1], task=task)
        started = time.perf_counter()
        learnt = TrainingData(array, targets, train, chosen, task)
        engine.train(network, phases, learnt, config, reporter)
        seconds = time.perf_counter() - started
        probabilities = network.model.predict(array[judged].astype("float32"), batch_size=64, verbose=0)
        of_truth = probabilities[np.arange(len(judged)), labels[judged]]
        loss = float(-np.log(np.maximum(of_truth, 1e-7)).mean())
        return probabilities.argmax(axis=1) == labels[judged], loss, seconds

    draws = [draw(labels[known], seed) for seed in range(options.seeds)]
    counts = " + ".join(str(len(part)) for part in draws[0])
    print(
        f"{resolved.source.name} at {resolved.spec.size[0]}, {resolved.architecture.name}, {counts} pictures, "
        f"seeds 0 to {options.seeds - 1}"
    )
    print(f"{'recipe':60} accuracy  difference  log loss  seconds", flush=True)
    pictures = np.concatenate([rows[2] for rows in draws])
    first = None
    for text in recipes:
        results = [run(text, seed, rows) for seed, rows in enumerate(draws)]
        right = np.concatenate([result[0] for result in results]).astype(float)
        first = right if first is None else first
        print(f"{text:60} {figures(results, right, right - first, pictures)}", flush=True)


def figures(results: list[tuple], right: np.ndarray, difference: np.ndarray, pictures: np.ndarray) -> str:
    """Format the accuracy, difference, log loss and seconds of a recipe as a line of the table.

    Args:
        results: One tuple per seed: which pictures were classified correctly, the log loss, and the seconds.
        right: 1 for each evaluated picture that was classified correctly, else 0. The results of all seeds follow one
            another in this float array.
        difference: `right` minus the same array of the first recipe.
        pictures: The index of each evaluated picture, an int64 array as long as `right`.
    """
    error = math.sqrt((np.bincount(pictures, difference - difference.mean()) ** 2).sum()) / len(difference)
    return (
        f"{right.mean():8.4f}  {difference.mean():+.4f} +- {error:.4f} "
        f"{np.mean([r[1] for r in results]):9.4f} {np.mean([r[2] for r in results]):8.1f}"
    )


if __name__ == "__main__":
    main()
