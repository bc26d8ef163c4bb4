"""Flips labels of real pictures, and measures how many of them `zoo.evaluate.label_errors` finds.

    python benchmarks/label_errors.py FOLDER ARCH WEIGHTS [--size 224] [--flip 0.05] [--seeds 5] [--case plain]

FOLDER has a folder per class, at any depth. WEIGHTS is the file of ARCH without the top. The features of all pictures
are computed once. For each seed, FLIP of the labels are changed at random, a third of the pictures become test
pictures, and the head is solved on the others as the schedule `auto` does it. Training pictures are judged by
out-of-fold logits, test pictures by the head. The cases are:

    plain       the pictures as they are
    few         20 pictures of each class
    imbalance   the second class (and every other second one) keeps a tenth of its pictures
    forty       40 classes: each class in 4 rotations and 5 colorings, so that FOLDER must have 2 classes
    several     two pictures side by side, labeled with the classes of both; FLIP of the pictures have one label too
                many or too few

A row has the fraction of the flipped pictures in the first tenth of the list, the same in the first places of the list,
as many as there are flipped pictures, the flipped pictures, their estimated number (nan: no estimate), and the
accuracy. If cleanlab is installed, its first tenth and its number of label issues follow (`pip install cleanlab`).
"""

from __future__ import annotations

import argparse
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from zoo import backend
from zoo.convert.keras_to_onnx import convert_maps
from zoo.convert.session import open_session
from zoo.evaluate import calibration, label_errors
from zoo.plugin import Head, registry
from zoo.train.evidence import choose_head, more_stages
from zoo.train.linear_head import FOLDS, out_of_fold
from zoo.train.network import build_backbone, lower_maps, pooled
from zoo.train.weights_file import load_weights
from zoo_runtime import ImageSpec, decode

BATCH = 32
ROTATIONS, COLORINGS = 4, 5


def colored(picture: np.ndarray, coloring: int) -> np.ndarray:
    """Return a picture, uint8 (height, width, 3), in one of five colorings."""
    if coloring == 1:
        return 255 - picture
    if coloring == 2:
        return np.repeat(picture.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    if coloring == 3:
        return picture[:, :, ::-1]
    return picture * np.array([1, 0, 0] if coloring == 4 else [1, 1, 1], np.uint8)


def pictures_of(case: str, paths: list[Path], classes: np.ndarray, size: int) -> tuple[list, np.ndarray]:
    """Return functions that decode the pictures of a case, and their targets, float32 (pictures, classes)."""
    rng, count = np.random.default_rng(0), int(classes.max()) + 1
    spec = ImageSpec(size=(size, size))
    if case == "several":
        others = rng.permutation(len(paths))
        half = ImageSpec(size=(size, size // 2))
        targets = np.maximum(np.eye(count)[classes], np.eye(count)[classes[others]]).astype("float32")
        pairs = [(paths[i], paths[k]) for i, k in enumerate(others)]
        return [lambda pair=pair: np.hstack([decode(path, half) for path in pair]) for pair in pairs], targets
    if case == "forty":
        kinds = rng.integers(0, ROTATIONS * COLORINGS, len(paths))
        targets = np.eye(count * ROTATIONS * COLORINGS, dtype="float32")[classes * ROTATIONS * COLORINGS + kinds]

        def changed(path: Path, kind: int) -> np.ndarray:
            return colored(np.rot90(decode(path, spec), kind % ROTATIONS), kind // ROTATIONS)

        return [
            lambda path=path, kind=kind: changed(path, kind) for path, kind in zip(paths, kinds, strict=True)
        ], targets
    kept = np.arange(len(paths))
    if case in ("few", "imbalance"):
        members = [rng.permutation(np.flatnonzero(classes == label)) for label in range(count)]
        sizes = [20 if case == "few" else len(own) // (10 if i % 2 else 1) for i, own in enumerate(members)]
        kept = np.sort(np.concatenate([own[:size] for own, size in zip(members, sizes, strict=True)]))
    targets = np.eye(count, dtype="float32")[classes[kept]]
    return [lambda i=i: decode(paths[i], spec) for i in kept], targets


def features_of(pictures: list, architecture: str, weights: Path, size: int) -> list[np.ndarray]:
    """Return the pooled features of the top and of lower stages, each float32 (pictures, n)."""
    keras = backend.start()
    plugins = registry.load()
    network = plugins.architecture(architecture)
    backbone = build_backbone(network, (size, size))
    load_weights(backbone, weights, layouts=plugins.weights_of(architecture, top=False))
    head = Head(stages=more_stages(len(network.stages)))
    maps = [backbone.output, *lower_maps(backbone, network, head)]
    outputs = [pooled(x, head, f"pool_{i}") for i, x in enumerate(maps)]
    session = open_session(convert_maps(keras.Model(backbone.input, outputs)))
    name, parts = session.get_inputs()[0].name, []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(pictures), BATCH):
            pixels = np.stack(list(pool.map(lambda read: read(), pictures[start : start + BATCH])))
            parts.append(session.run(None, {name: pixels.astype("float32")}))
    return [np.concatenate(group) for group in zip(*parts, strict=True)]


def flipped(targets: np.ndarray, share: float, task: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return targets of which some are wrong, and which pictures these are, bool (pictures,)."""
    count, classes = targets.shape
    wrong = np.zeros(count, bool)
    wrong[rng.choice(count, max(1, round(share * count)), replace=False)] = True
    changed = targets.copy()
    for i in np.flatnonzero(wrong):
        if task == "multilabel":
            changed[i, rng.integers(classes)] -= 1
            changed[i] = np.abs(changed[i])
        else:
            changed[i] = np.roll(changed[i], rng.integers(1, classes))
    return changed, wrong


def probabilities(groups: list[np.ndarray], targets: np.ndarray, task: str, seed: int) -> np.ndarray:
    """Return probabilities from heads that have not seen the picture; NaN if a picture was never held out."""
    order = np.random.default_rng([seed, 1]).permutation(len(targets))
    train, test = np.split(order, [round(2 / 3 * len(order))])
    own = [group[train] for group in groups]
    options = {"task": task, "copies": None, "weights": None, "label_smoothing": 0.0, "seed": seed}
    chosen = choose_head(own, targets[train], Head(), folds=None, **options)
    logits = chosen.fit.logits
    if chosen.fit.folds == 1:
        logits = out_of_fold(own[0], targets[train], chosen.fit.penalty, folds=FOLDS, **options)
    known = np.isfinite(logits).all(axis=1)
    scaling = calibration.fit(logits[known], targets[train][known], task)
    likely = np.full(targets.shape, np.nan)
    likely[train] = calibration.probabilities(scaling.apply(logits), task)
    unseen = np.concatenate(groups[: chosen.groups], axis=1)[test] @ chosen.fit.kernel + chosen.fit.bias
    likely[test] = calibration.probabilities(scaling.apply(unseen), task)
    return likely


def by_cleanlab(likely: np.ndarray, targets: np.ndarray, wrong: np.ndarray, task: str) -> tuple[float, float]:
    """Return the fraction of wrong labels in the first tenth of cleanlab's list, and its number of label issues."""
    from cleanlab import count, multilabel_classification, rank
    from cleanlab.multilabel_classification.filter import find_label_issues

    if task == "multilabel":
        labels = [list(np.flatnonzero(row)) for row in targets]
        scores = multilabel_classification.get_label_quality_scores(labels, likely)
        issues = int(np.sum(find_label_issues(labels, likely, n_jobs=1)))
    else:
        labels = targets.argmax(axis=1)
        scores = rank.get_label_quality_scores(labels, likely)
        issues = count.num_label_issues(labels, likely)
    first = np.argsort(scores, kind="stable")[: -(-len(scores) // 10)]
    return wrong[first].sum() / max(1, wrong.sum()), issues


def measure(groups: list[np.ndarray], truth: np.ndarray, share: float, task: str, seed: int) -> list[float]:
    """Flip labels, judge all pictures, and return a row of the table."""
    rng = np.random.default_rng(seed)
    targets, wrong = flipped(truth, share, task, rng) if share else (truth, np.zeros(len(truth), bool))
    likely = probabilities(groups, targets, task, seed)
    known = np.isfinite(likely).all(axis=1)
    likely, targets, wrong = likely[known], targets[known], wrong[known]
    found = label_errors.judge(likely, targets, task)
    first = found.order[: -(-len(found.order) // 10)]
    total = max(1, int(wrong.sum()))
    _, right = calibration.decided(likely, truth[known], task)
    estimate = float("nan") if found.expected is None else found.expected
    row = [wrong[first].sum() / total, wrong[found.order[:total]].sum() / total, wrong.sum(), estimate, right.mean()]
    try:
        return [*row, *by_cleanlab(likely, targets, wrong, task)]
    except ImportError:
        return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("architecture")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--flip", type=lambda text: [float(part) for part in text.split(",")], default="0,0.05")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--case", choices=("plain", "few", "imbalance", "forty", "several"), default="plain")
    options = parser.parse_args()
    # A case without an estimate has a row of nan.
    warnings.simplefilter("ignore", RuntimeWarning)
    paths = [path for path in sorted(options.folder.rglob("*")) if path.is_file()]
    names = sorted({path.parent.name for path in paths})
    classes = np.array([names.index(path.parent.name) for path in paths])
    pictures, truth = pictures_of(options.case, paths, classes, options.size)
    task = "multilabel" if options.case == "several" else "binary" if truth.shape[1] == 2 else "multiclass"
    groups = features_of(pictures, options.architecture, options.weights, options.size)
    print(f"{options.case}: {len(truth)} pictures of {truth.shape[1]} classes, {options.seeds} seeds")
    print("flip   tenth   first   wrong  estimate  accuracy  cleanlab: tenth   issues")
    for share in options.flip:
        rows = np.array([measure(groups, truth, share, task, seed) for seed in range(options.seeds)])
        for name, values in (
            ("mean", np.nanmean(rows, axis=0)),
            ("least", np.nanmin(rows, axis=0)),
            ("most", np.nanmax(rows, axis=0)),
        ):
            tenth, first, wrong, estimate, accuracy, *more = values
            line = f"{share:4.2f}  {tenth:6.3f}  {first:6.3f}  {wrong:6.0f}  {estimate:8.1f}  {accuracy:8.3f}"
            print(line + (f"           {more[0]:6.3f}  {more[1]:7.1f}" if more else "") + f"  {name}", flush=True)


if __name__ == "__main__":
    main()
