"""Computes metrics from probabilities and targets, and prints them as text.

Where the probabilities come from is in `zoo.evaluate.evaluator`. Precision, recall, F1, average precision and the
confusion matrix are computed by scikit-learn.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

# Probabilities are clipped here before the logarithm of the loss.
SMALLEST_PROBABILITY = 1e-12
# Characters in a line of a terminal.
TERMINAL = 80
# The metrics that the exported file carries.
SUMMARY = ("accuracy", "exact_match", "mean_average_precision", "macro_f1", "loss", "pictures")


def measure(
    probabilities: np.ndarray, targets: np.ndarray, classes: Sequence[str], *, multilabel: bool = False
) -> dict[str, Any]:
    """Compare predictions with the truth.

    Args:
        probabilities: A float array (N, classes) in 0..1.
        targets: A float array (N, classes), 1 where a picture belongs to a class, else 0.
        classes: Class names, in the order of the columns.
        multilabel: Whether a picture may have any number of classes. A class is then predicted from 0.5 on.

    Returns:
        The content of metrics.json for one part: pictures, accuracy, loss (the mean cross-entropy in nats), macro_f1
        (over the classes that have pictures), per_class (name -> precision, recall, f1, pictures), classes, and
        confusion_matrix. Rows of the matrix are true classes and columns predicted ones, in the order of `classes`.

        For multi-label pictures, accuracy is the fraction of correct decisions over all pictures and classes, and loss
        is their mean. Instead of a confusion matrix there are exact_match, the fraction of pictures with every decision
        correct, and mean_average_precision, over the classes that have pictures.
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
        figures = {
            "accuracy": float((predicted == labels).mean()),
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
    """Return the figures of multi-label pictures; `truth` and `decided` are bool arrays (N, classes)."""
    from sklearn.metrics import average_precision_score

    correct = decided == truth
    likelihoods = np.clip(np.where(truth, probabilities, 1 - probabilities), SMALLEST_PROBABILITY, 1)
    present = [i for i in range(truth.shape[1]) if truth[:, i].any()]
    averages = [average_precision_score(truth[:, i], probabilities[:, i]) for i in present]
    return {
        "accuracy": float(correct.mean()),
        "exact_match": float(correct.all(axis=1).mean()),
        "mean_average_precision": float(np.mean(averages)) if averages else 0.0,
        "loss": float(-np.log(likelihoods).mean()),
    }


def summary(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the part of the metrics that the exported file carries: its most important figures."""
    return {key: metrics[key] for key in SUMMARY if key in metrics}


def table(metrics: dict[str, Any], max_classes: int = 12) -> str:
    """Format metrics for the terminal: one line per class, a line of totals, and the confusion matrix.

    Args:
        metrics: As `measure` returns them.
        max_classes: The largest number of classes for which the confusion matrix is shown.
    """
    names = metrics["classes"]
    width = max(5, *(len(name) for name in names))
    lines = [f"{'class':<{width}}  precision  recall     f1  pictures"]
    for name in names:
        row = metrics["per_class"][name]
        lines.append(
            f"{name:<{width}}  {row['precision']:>9.3f}  {row['recall']:>6.3f}  {row['f1']:>5.3f}  {row['pictures']:>8}"
        )
    multilabel = ""
    if "exact_match" in metrics:
        multilabel = f"exact match {metrics['exact_match']:.4f}, mean AP {metrics['mean_average_precision']:.4f}, "
    lines.append(
        f"accuracy {metrics['accuracy']:.4f}, {multilabel}macro F1 {metrics['macro_f1']:.4f}, "
        f"loss {metrics['loss']:.4f}, {metrics['pictures']} pictures"
    )
    if "confusion_matrix" in metrics and len(names) <= max_classes:
        lines += ["", *_matrix(names, metrics["confusion_matrix"])]
    return "\n".join(lines)


def _matrix(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> list[str]:
    """Return the lines of a confusion matrix.

    Columns bear the class names if the lines then fit a terminal. Otherwise they bear letters, so that long names are
    not cut. The names then stand behind the rows, where columns line up whatever characters the names have.
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
