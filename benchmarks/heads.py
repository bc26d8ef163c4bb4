"""Compares ways of solving a linear head: what `zoo.train.linear_head` does, and alternatives to it.

    python benchmarks/heads.py FOLDER ARCH WEIGHTS [--size 224] [--counts 10,20,50,100] [--draws 10] [--last 0]

FOLDER has a folder per class. WEIGHTS is the file of ARCH without the top. The features of all pictures, and of their
mirror images, are computed once. Each draw takes COUNT pictures of every class at random (the seed is the number of the
draw) and solves the head on them. All other pictures of the folder evaluate it. --last N leaves out the last N pictures
of each class by name. Use training pictures only, because a choice that test pictures have made proves nothing.

A row has the mean accuracy over the draws, the mean difference to scikit-learn in points with its standard error, the
mean cross-entropy, and seconds per head. The rows are:

    scikit-learn   LogisticRegression as its users write it: C of 13 values by the accuracy of 5-fold cross-validation
    zoo            `zoo.train.linear_head.solve`
    one head       the best penalty of `solve`, solved once on all pictures, instead of the average over folds
    standardized   every feature is divided by its standard deviation before it is penalized
    mirrored       the mirror image of every picture is added
    joint          the head also reads the pooled outputs of the top third of the stages and of the stage below
    average        the average of "zoo" and "joint"
    chosen         `zoo.train.evidence.choose_head`, which the schedules auto and exact-head use
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from zoo import backend
from zoo.convert.keras_to_onnx import convert_maps
from zoo.convert.session import open_session
from zoo.plugin import Head, registry
from zoo.train import linear_head
from zoo.train.evidence import choose_head, more_stages
from zoo.train.network import build_backbone, lower_maps, pooled
from zoo.train.weights_file import load_weights
from zoo_runtime import ImageSpec, decode

BATCH = 32


def compute_features(
    paths: list[Path], architecture: str, weights: Path, size: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Compute the features of pictures and of their mirror images.

    Returns:
        The pooled features of the pictures, float32 (pictures, n) each: those of the top, then those of lower stages.
        Then the features of the top for the mirror images.
    """
    keras = backend.start()
    plugins = registry.load()
    backbone = build_backbone(plugins.architecture(architecture), (size, size))
    load_weights(backbone, weights, layouts=plugins.weights_of(architecture, top=False))
    network = plugins.architecture(architecture)
    head = Head(stages=more_stages(len(network.stages)))
    maps = [backbone.output, *lower_maps(backbone, network, head)]
    outputs = [pooled(x, head, f"pool_{i}") for i, x in enumerate(maps)]
    session = open_session(convert_maps(keras.Model(backbone.input, outputs)))
    name = session.get_inputs()[0].name
    spec = ImageSpec(size=(size, size))
    plain, mirrored = [], []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), BATCH):
            pixels = np.stack(list(pool.map(lambda path: decode(path, spec), paths[start : start + BATCH])))
            pixels = pixels.astype("float32")
            plain.append(session.run(None, {name: pixels}))
            mirrored.append(session.run(None, {name: np.ascontiguousarray(pixels[:, :, ::-1])})[0])
    return [np.concatenate(group) for group in zip(*plain, strict=True)], np.concatenate(mirrored)


def scikit_learn(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel and bias of a logistic regression whose C is chosen by accuracy, with a column per class."""
    from sklearn.linear_model import LogisticRegressionCV

    folds = min(5, int(np.bincount(labels).min()))
    model = LogisticRegressionCV(
        Cs=np.logspace(-4, 2, 13), cv=folds, max_iter=2000, scoring="accuracy", use_legacy_attributes=True
    ).fit(features, labels)
    kernel, bias = model.coef_.T, model.intercept_
    # Of two classes, scikit-learn has one unit.
    return (np.hstack([-kernel, kernel]) / 2, np.hstack([-bias, bias]) / 2) if kernel.shape[1] == 1 else (kernel, bias)


def solve(
    way: str, groups: list[np.ndarray], mirrored: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel and bias of one way, with a column per class. The kernel may need the features of all groups."""
    targets = np.eye(int(labels.max()) + 1, dtype="float32")[labels]
    features = groups[0]
    if way in ("joint", "average"):
        joint = linear_head.solve(groups, targets)
        if way == "average":
            joint = linear_head.average(linear_head.solve([features], targets), joint, targets, "multiclass")
        return joint.kernel, joint.bias
    if way == "chosen":
        options = {"task": "multiclass", "copies": None, "weights": None, "label_smoothing": 0.0, "folds": 5, "seed": 0}
        chosen = choose_head(groups, targets, Head(), **options).fit
        return chosen.kernel, chosen.bias
    if way == "scikit-learn":
        return scikit_learn(features, labels)
    if way == "standardized":
        deviation = features.std(axis=0) + 1e-3
        fit = linear_head.solve([features / deviation], targets)
        return fit.kernel / deviation[:, None], fit.bias
    if way == "mirrored":
        both = np.concatenate([features, mirrored])
        fit = linear_head.solve([both], np.concatenate([targets] * 2), copies=[*range(len(labels))] * 2)
        return fit.kernel, fit.bias
    fit = linear_head.solve([features], targets)
    if way == "one head":
        variance = float(features.var(axis=0, dtype=np.float64).sum())
        fit = linear_head.solve([features], targets, l2=fit.penalty * variance / 2, folds=0)
    return fit.kernel, fit.bias


def evaluate(head: tuple[np.ndarray, np.ndarray], features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the accuracy and the mean cross-entropy in nats."""
    logits = features[:, : len(head[0])] @ head[0] + head[1]
    logits -= logits.max(axis=1, keepdims=True)
    logarithms = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float((logits.argmax(axis=1) == labels).mean()), float(-logarithms[np.arange(len(labels)), labels].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("architecture")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--counts", default="10,20,50,100")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--last", type=int, default=0)
    options = parser.parse_args()
    classes = sorted(path for path in options.folder.iterdir() if path.is_dir())
    listed = []
    for label, folder in enumerate(classes):
        paths = sorted(folder.iterdir())
        listed += [(path, label) for path in paths[: len(paths) - options.last]]
    labels = np.array([label for _, label in listed])
    groups, mirrored = compute_features(
        [path for path, _ in listed], options.architecture, options.weights, options.size
    )
    features = np.concatenate(groups, axis=1)
    ways = ("scikit-learn", "zoo", "one head", "standardized", "mirrored", "joint", "average", "chosen")
    print(f"{len(labels)} pictures of {len(classes)} classes, {options.draws} draws")
    for count in map(int, options.counts.split(",")):
        results: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
        for draw in range(options.draws):
            rng = np.random.default_rng(draw)
            rows = np.concatenate([rng.choice(np.flatnonzero(labels == k), count, False) for k in range(len(classes))])
            rest = np.setdiff1d(np.arange(len(labels)), rows)
            for way in ways:
                started = time.perf_counter()
                head = solve(way, [group[rows] for group in groups], mirrored[rows], labels[rows])
                seconds = time.perf_counter() - started
                results[way].append((*evaluate(head, features[rest], labels[rest]), seconds))
        base = np.array([row[0] for row in results[ways[0]]])
        for way in ways:
            accuracies, losses, seconds = np.array(results[way]).T
            difference = 100 * (accuracies - base)
            error = difference.std(ddof=1) / np.sqrt(options.draws) if options.draws > 1 else float("nan")
            print(
                f"{count:>4} a class  {way:13} {accuracies.mean():.4f}  {difference.mean():+.2f} +- {error:.2f}  "
                f"{losses.mean():.4f}  {seconds.mean():.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
