"""Measures what safe points cost: the share of an epoch, and the bytes that an epoch writes.

    python benchmarks/safe_points.py [--architecture mobilenetv2] [--size 224] [--pictures 1700] [--epochs 4]
                                     [--train last:3] [--rounds 2] [--folder FOLDER]

A network with random weights trains its top stages on drawn pictures, as the second phase of the schedule `auto` does:
the features below are cached, and the weights are averaged. It trains without and with safe points in turn, in FOLDER
(a temporary folder by default). The cost is the time for which the training waits, and the processor time of the thread
that writes divided by the number of cores, which the training uses too, in percent of an epoch. The limit is 2 %; the
exit code is 1 if the cost is higher.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from zoo import backend
from zoo.plugin import Phase, registry
from zoo.reporter import Reporter
from zoo.train import engine
from zoo.train.frozen.features import FeatureCacheConfig
from zoo.train.inputs import TrainingData
from zoo.train.network import assemble, build_backbone
from zoo.train.safe_points import SafePoints

LIMIT = 0.02
CLASSES = 5


class Measured(SafePoints):
    """Safe points that know how many bytes the largest one has."""

    size = 0

    def write(self, path, values):
        super().write(path, values)
        self.size = max(self.size, path.stat().st_size)


def drawn(count: int, size: int) -> TrainingData:
    """Draw pictures of noise with a level per class. All of them are for training."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % CLASSES
    pictures = np.empty((count, size, size, 3), np.uint8)
    for i, label in enumerate(labels):
        pictures[i] = rng.integers(0, 56, (size, size, 3)) + 50 * label
    targets = np.eye(CLASSES, dtype="float32")[labels]
    return TrainingData(pictures, targets, np.arange(count), np.arange(0))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Train without and with safe points in turn.

    Returns:
        The least seconds of an epoch "with" and "without" safe points, the seconds per safe point for which the
        training waits ("foreground"), its processor time in the "background", the "share" of both in an epoch, and its
        "bytes".
    """
    architecture = registry.load().architecture(arguments.architecture)
    backend.start().utils.set_random_seed(0)
    backbone = build_backbone(architecture, (arguments.size, arguments.size))
    network = assemble(backbone, architecture, architecture.head, CLASSES)
    phase = Phase(
        name="top", train=arguments.train, epochs=arguments.epochs + 1, learning_rate=9e-5, ema=0.96, patience=None
    )
    data, config = (
        drawn(arguments.pictures, arguments.size),
        engine.TrainConfig(
            features=FeatureCacheConfig(folder / "features", pictures="drawn", always=True), keep_best=False
        ),
    )
    figures: dict[str, list[float]] = {"with": [], "without": [], "foreground": [], "background": []}
    size = 0
    for number in range(arguments.rounds):
        for kind in ("without", "with"):
            points = Measured(folder / f"round{number}", Reporter())
            reporter, training = Reporter(), points.training("phases") if kind == "with" else None
            result = engine.train(network, [phase], data, config, reporter, training)
            # The first epoch of the first round traces the network.
            figures[kind] += [row["seconds"] for row in result.history[1:]]
            if training is not None:
                waited = next(value for names, value in reporter.timing.rows() if names[-1] == "safe points")
                figures["foreground"].append(waited / len(result.history))
                figures["background"].append(points.background_seconds / len(result.history))
                size = max(size, points.size)
    # Other programs only make epochs longer.
    means = {key: float(min(values)) for key, values in figures.items()}
    share = (means["foreground"] + means["background"] / (os.cpu_count() or 1)) / means["without"]
    return {**means, "share": share, "bytes": size}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="mobilenetv2")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--pictures", type=int, default=1700)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--train", default="last:3")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = measure(arguments, Path(folder))
    print(json.dumps({**vars(arguments), "folder": str(arguments.folder), **figures, "cores": os.cpu_count()}))
    print(
        f"an epoch {figures['without']:.2f} s, with safe points {figures['with']:.2f} s; a safe point takes "
        f"{figures['foreground'] * 1000:.0f} ms and {figures['background'] * 1000:.0f} ms in the background: "
        f"{figures['share']:.2%} of an epoch (limit {LIMIT:.0%}); {figures['bytes'] / 1e6:.1f} MB"
    )
    return int(figures["share"] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
