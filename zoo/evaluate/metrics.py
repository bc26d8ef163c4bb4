"""Computes metrics from probabilities and targets, and formats them as text.

`zoo.evaluate.evaluator` computes the probabilities. scikit-learn computes precision, recall, F1, average precision and
the confusion matrix. Confidence intervals are those of E. B. Wilson (1927). They are computed here, because importing
SciPy's would take half of the time of `zoo report`.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from zoo_runtime.workshop import format_accuracy

# The loss raises smaller probabilities to this value, because the logarithm of 0 is infinite.
SMALLEST_PROBABILITY = 1e-12
# The width of a terminal, in characters.
TERMINAL = 80
# The table lists more classes than this only in part.
MOST_ROWS, WORST_ROWS = 100, 20
# The metrics that the exported file stores.
SUMMARY = (
    "accuracy",
    "accuracy_interval",
    "exact_match",
    "exact_match_interval",
    "mean_average_precision",
    "macro_f1",
    "loss",
    "pictures",
    "calibration_error",
    "sets",
    "unknown",
    "outliers",
)
CONFIDENCE = 0.95


def interval(fraction: float, pictures: int) -> list[float]:
    """Compute the 95 % confidence interval of a fraction of pictures, such as an accuracy: the Wilson score interval.

    Args:
        fraction: The fraction of pictures, in 0..1.
        pictures: The number of pictures, at least 1. The pictures must be independent of each other.

    Returns:
        The lower and the upper bound, in 0..1.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    right = round(fraction * pictures)
    share, width = right / pictures, z * z / pictures
    middle = share + width / 2
    spread = math.sqrt(share * (1 - share) * width + width * width / 4)
    # Rounding must not move a bound away from 0 or 1.
    low = 0.0 if right == 0 else (middle - spread) / (1 + width)
    high = 1.0 if right == pictures else (middle + spread) / (1 + width)
    return [low, high]


def measure(
    probabilities: np.ndarray, targets: np.ndarray, classes: Sequence[str], *, multilabel: bool = False
) -> dict[str, Any]:
    """Compute metrics from the probabilities and the true classes of pictures.

    Args:
        probabilities: The network's output, a float array (N, classes) in 0..1.
        targets: The true classes, a float array (N, classes): 1 if the picture has the class, else 0.
        classes: Class names, in the order of the columns.
        multilabel: Whether a picture may have several classes, or none. If True, the predicted classes are those with a
            probability of 0.5 or more. If False, the predicted class is the likeliest one.

    Returns:
        The metrics, as metrics.json stores them for each part:

        - pictures: The number of pictures.
        - accuracy: The fraction of pictures whose predicted class is correct.
        - accuracy_interval: The bounds of its 95 % confidence interval; see `interval`.
        - loss: The mean cross-entropy, in nats.
        - macro_f1: The mean F1 over the classes that have pictures.
        - per_class: Maps each class name to its precision, recall, f1 and pictures (how many have the class).
        - classes: The class names.
        - confusion_matrix: Counts of pictures. Rows are true classes and columns predicted ones, in the order of
          `classes`.

        For multi-label pictures, each pair of picture and class is one decision. Then accuracy is the fraction of
        correct decisions, and loss is the mean binary cross-entropy of the decisions, in nats. This accuracy has no
        interval, because the decisions on one picture depend on each other. Three entries replace the interval and the
        confusion matrix:

        - exact_match: The fraction of pictures for which all decisions are correct.
        - exact_match_interval: The bounds of its 95 % confidence interval.
        - mean_average_precision: The mean average precision over the classes that have pictures.
    """
    from sklearn.metrics import precision_recall_fscore_support

    figures: dict[str, Any]
    if multilabel:
        truth, decided = targets > 0.5, probabilities >= 0.5
        precision, recall, f1, support = precision_recall_fscore_support(
            truth, decided, average=None, zero_division=0, labels=np.arange(len(classes))
        )
        figures = _multilabel(probabilities, truth, decided)
    else:
        from sklearn.metrics import confusion_matrix

        labels, predicted = targets.argmax(axis=1), probabilities.argmax(axis=1)
        indices = np.arange(len(classes))
        precision, recall, f1, support = precision_recall_fscore_support(
            labels, predicted, labels=indices, zero_division=0
        )
        likelihoods = np.clip(probabilities[np.arange(len(labels)), labels], SMALLEST_PROBABILITY, 1)
        accuracy = float((predicted == labels).mean())
        figures = {
            "accuracy": accuracy,
            "accuracy_interval": interval(accuracy, len(labels)),
            "loss": float(-np.log(likelihoods).mean()),
            "confusion_matrix": confusion_matrix(labels, predicted, labels=indices).tolist(),
        }
    present = support > 0
    return {
        "pictures": len(targets),
        **figures,
        "macro_f1": float(f1[present].mean()) if present.any() else 0.0,
        "per_class": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "pictures": int(support[i]),
            }
            for i, name in enumerate(classes)
        },
        "classes": list(classes),
    }


def _multilabel(probabilities: np.ndarray, truth: np.ndarray, decided: np.ndarray) -> dict[str, Any]:
    """Compute the accuracy, exact match with its interval, mean average precision and loss of multi-label pictures.

    Args:
        probabilities: The network's output, a float array (N, classes) in 0..1.
        truth: A bool array (N, classes), True where the picture has the class.
        decided: A bool array (N, classes), True where the network predicts the class.

    Returns:
        `accuracy`, `exact_match`, `exact_match_interval`, `mean_average_precision` and `loss`, as `measure` defines
        them.
    """
    from sklearn.metrics import average_precision_score

    correct = decided == truth
    likelihoods = np.clip(np.where(truth, probabilities, 1 - probabilities), SMALLEST_PROBABILITY, 1)
    present = [i for i in range(truth.shape[1]) if truth[:, i].any()]
    averages = [average_precision_score(truth[:, i], probabilities[:, i]) for i in present]
    exact_match = float(correct.all(axis=1).mean())
    return {
        "accuracy": float(correct.mean()),
        "exact_match": exact_match,
        "exact_match_interval": interval(exact_match, len(truth)),
        "mean_average_precision": float(np.mean(averages)) if averages else 0.0,
        "loss": float(-np.log(likelihoods).mean()),
    }


def summary(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return those metrics that the exported file stores. Their names are in `SUMMARY`.

    The bins of the calibration error are left out.
    """
    kept = {key: metrics[key] for key in SUMMARY if key in metrics}
    if "calibration_error" in kept:
        kept["calibration_error"] = {key: value for key, value in kept["calibration_error"].items() if key != "bins"}
    return kept


def accuracy_text(metrics: dict[str, Any]) -> str:
    """Format the accuracy with its confidence interval and the number of pictures, such as "accuracy 0.94 (...)".

    For multi-label metrics, it is the exact match. See `zoo_runtime.workshop.format_accuracy` for the numbers.
    """
    key = "exact_match" if "exact_match" in metrics else "accuracy"
    text = format_accuracy(metrics[key], metrics[f"{key}_interval"], metrics["pictures"])
    return f"{key.replace('_', ' ')} {text}"


def table(metrics: dict[str, Any], max_classes: int = 12) -> str:
    """Format metrics for the terminal: one line per class, up to four lines of totals, and the confusion matrix.

    Of more than `MOST_ROWS` classes, only the `WORST_ROWS` with the lowest F1 are listed.

    Args:
        metrics: The metrics that `measure` returns, with or without those of `zoo.evaluate.answers.Answers.measure`.
        max_classes: If there are more classes, the confusion matrix is left out. Multi-label metrics do not have one.
    """
    names = metrics["classes"]
    width = max(5, *(len(name) for name in names))
    lines = [f"{'class':<{width}}  precision  recall     f1  pictures"]
    f1 = {name: metrics["per_class"][name]["f1"] for name in names}
    shown = sorted(names, key=f1.__getitem__)[:WORST_ROWS] if len(names) > MOST_ROWS else names
    for name in shown:
        row = metrics["per_class"][name]
        lines.append(
            f"{name:<{width}}  {row['precision']:>9.3f}  {row['recall']:>6.3f}  {row['f1']:>5.3f}  {row['pictures']:>8}"
        )
    if len(shown) < len(names):
        lines.append(f"... and {len(names) - len(shown)} more classes, with an F1 of at least {f1[shown[-1]]:.3f}")
    multilabel = ""
    if "exact_match" in metrics:
        multilabel = (
            f"accuracy of single decisions {metrics['accuracy']:.3f}, mean AP {metrics['mean_average_precision']:.3f}, "
        )
    lines.append(accuracy_text(metrics))
    lines.append(f"{multilabel}macro F1 {metrics['macro_f1']:.3f}, loss {metrics['loss']:.4f}")
    lines += trust_lines(metrics)
    if "unknown" in metrics:
        lines.append("accuracy counts every picture by its most likely class, also those answered unknown")
    if "confusion_matrix" in metrics and len(names) <= max_classes:
        lines += ["", *_matrix(names, metrics["confusion_matrix"])]
    return "\n".join(lines)


def trust_lines(figures: Mapping[str, Any]) -> list[str]:
    """Format what `zoo.evaluate.answers.Answers.measure` returns for the terminal, in at most two lines."""
    first, second = [], []
    if "calibration_error" in figures:
        entry = figures["calibration_error"]
        first.append(f"calibration error {entry['expected_calibration_error']:.3f} ({_range(entry['interval'])})")
    if "sets" in figures:
        entries = figures["sets"].items()
        found = ", ".join(f"{entry['coverage']:.3f}" for _, entry in entries)
        first.append(f"label sets at {', '.join(coverage for coverage, _ in entries)} have the class of {found}")
    if "unknown" in figures:
        entry = figures["unknown"]
        answered = f"answered {entry['answered']:.3f} ({_range(entry['answered_interval'])})"
        if entry["precision"] is not None:
            answered += f", of these right {entry['precision']:.3f} ({_range(entry['precision_interval'])})"
        second.append(answered)
    if "outliers" in figures:
        entry = figures["outliers"]
        second.append(
            f"called unlike the training pictures {entry['flagged']:.3f} ({_range(entry['flagged_interval'])})"
        )
    return ["; ".join(parts) for parts in (first, second) if parts]


def _range(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def _matrix(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> list[str]:
    """Return the lines of a confusion matrix.

    The column headings are the class names if every line then fits in 80 characters. Each row starts with its class
    name.

    Otherwise, the column headings are the letters A, B, C and so on. Each row then starts with the letter of its class
    and ends with the class name. Wide characters in a name at the end of a row do not shift the columns.

    Args:
        names: Class names, in the order of the matrix.
        matrix: Counts of pictures. Rows are true classes and columns are predicted ones.
    """
    counts = max(len(str(count)) for row in matrix for count in row)
    cell, width = 2 + max(counts, *map(len, names)), max(5, *map(len, names))
    if width + cell * len(names) <= TERMINAL:
        lines = ["confusion matrix (row: true class, column: predicted class)"]
        lines.append(" " * width + "".join(f"{name:>{cell}}" for name in names))
        rows = zip(names, matrix, strict=True)
        return lines + [f"{name:<{width}}" + "".join(f"{count:>{cell}}" for count in row) for name, row in rows]
    letters, cell = string.ascii_uppercase[: len(names)], 2 + counts
    lines = ["confusion matrix (row: true class, column: predicted class of that letter)"]
    lines.append(" " + "".join(f"{letter:>{cell}}" for letter in letters))
    for letter, name, row in zip(letters, names, matrix, strict=True):
        lines.append(letter + "".join(f"{count:>{cell}}" for count in row) + f"  {name}")
    return lines
