"""Measures over many random splits whether the promises of an exported file hold on test pictures.

    python benchmarks/trust_splits.py FOLDER ARCH WEIGHTS [--size 224] [--train 0.7] [--precision 0.99] [--splits 20]

FOLDER has a folder per class. WEIGHTS is the file of ARCH without the top. The features of all pictures are computed
once. For each split (the seed is the number of the split), the head is solved on the training pictures as the schedule
exact-head does it. Calibration, thresholds, label sets and the outlier score are fitted on its out-of-fold logits and
judged on all other pictures.

A row has the accuracy, the expected calibration error, the precision and the coverage of answers that are not unknown,
the coverage of the label sets, and the fraction of test pictures that are not outliers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from heads import compute_features

from zoo.evaluate import calibration, outliers
from zoo.plugin import Head
from zoo.train.evidence import choose_head

COLUMNS = ("accuracy", "ECE", "precision", "answered", "set 0.9", "set 0.95", "set 0.99", "kept", "temperature")


def split(groups: list[np.ndarray], targets: np.ndarray, share: float, precision: float, seed: int) -> list[float]:
    """Fit on a random part of the pictures, judge on the rest, and return the values of `COLUMNS`."""
    order = np.random.default_rng(seed).permutation(len(targets))
    train, test = np.split(order, [round(share * len(order))])
    task = "binary" if targets.shape[1] == 2 else "multiclass"
    chosen = choose_head(
        [group[train] for group in groups],
        targets[train],
        Head(),
        task=task,
        copies=None,
        weights=None,
        label_smoothing=0.0,
        folds=None,
        seed=seed,
    )
    features, fit = np.concatenate(groups[: chosen.groups], axis=1), chosen.fit
    known = np.isfinite(fit.logits).all(axis=1)
    scaling = calibration.fit(fit.logits[known], targets[train][known], task)
    held_out = calibration.probabilities(scaling.apply(fit.logits[known]), task)
    threshold = calibration.threshold_for(*calibration.decided(held_out, targets[train][known], task), precision)
    likely = calibration.probabilities(scaling.apply(features[test] @ fit.kernel + fit.bias), task)
    sure, right = calibration.decided(likely, targets[test], task)
    given = sure >= (2.0 if threshold is None else threshold)
    true = likely[np.arange(len(test)), targets[test].argmax(axis=1)]
    sets = calibration.set_thresholds(held_out, targets[train][known])
    rows = train[np.unique(np.linspace(0, len(train) - 1, 1024).round().astype(int))]
    score = outliers.fit(features[rows], range(len(rows)), seed=seed)
    return [
        float(right.mean()),
        calibration.calibration_error(sure, right),
        float(right[given].mean()) if given.any() else float("nan"),
        float(given.mean()),
        *(float((true >= value).mean()) for value in sets.values()),
        float("nan") if score is None else float((score(features[test]) <= score.threshold).mean()),
        scaling.temperature,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("architecture")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--train", type=float, default=0.7)
    parser.add_argument("--precision", type=float, default=0.99)
    parser.add_argument("--splits", type=int, default=20)
    options = parser.parse_args()
    names = sorted({path.parent.name for path in options.folder.rglob("*") if path.is_file()})
    paths = [path for path in sorted(options.folder.rglob("*")) if path.is_file()]
    targets = np.array([[path.parent.name == name for name in names] for path in paths], "float32")
    groups, _ = compute_features(paths, options.architecture, options.weights, options.size)
    print(f"{len(paths)} pictures of {len(names)} classes, {options.splits} splits")
    print("".join(f"{column:>12}" for column in COLUMNS))
    rows = []
    for seed in range(options.splits):
        rows.append(split(groups, targets, options.train, options.precision, seed))
        print("".join(f"{value:>12.4f}" for value in rows[-1]), flush=True)
    table = np.array(rows)
    print("".join(f"{value:>12.4f}" for value in np.nanmean(table, axis=0)) + "  mean")
    asked = table[np.isfinite(table[:, 2]), 2]
    print(f"a precision of {options.precision:g} held in {(asked >= options.precision).sum()} of {len(asked)} splits")


if __name__ == "__main__":
    main()
