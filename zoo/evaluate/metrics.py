"""Metrics of an exported file, measured as the device measures: file -> zoo_runtime -> probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

SMALLEST = 1e-12
SUMMARY = ("accuracy", "exact_match", "mean_average_precision", "macro_f1", "loss", "pictures")


def measure(
    probabilities: np.ndarray, targets: np.ndarray, classes: Sequence[str], *, multilabel: bool = False
) -> dict[str, Any]:
    """Compare predictions with the truth.

    Args:
        probabilities: float array (pictures, classes).
        targets: float array (pictures, classes), 1 where a picture is of a class, else 0.
        classes: Class names, in the order of the columns.
        multilabel: Whether a picture may be of several classes, or of none; a class then holds from 0.5 on.

    Returns:
        pictures, accuracy, loss (mean cross-entropy in nats), macro_f1, per_class {name: precision, recall, f1,
        pictures}, classes, and confusion_matrix: rows are true classes, columns predicted ones, in the order of
        `classes`. Of multi-label pictures, accuracy is the share of right decisions over all pictures and classes and
        loss the mean over them; exact_match (share of pictures with every decision right) and mean_average_precision
        stand in the place of the confusion matrix.
    """
    from sklearn.metrics import precision_recall_fscore_support

    if multilabel:
        truth, decided = targets > 0.5, probabilities >= 0.5
        precision, recall, f1, support = precision_recall_fscore_support(
            truth, decided, average=None, zero_division=0, labels=np.arange(len(classes))
        )
        figures = _multilabel(probabilities, truth, decided)
    else:
        from sklearn.metrics import confusion_matrix

        labels, predicted = targets.argmax(axis=1), probabilities.argmax(axis=1)
        every = np.arange(len(classes))
        precision, recall, f1, support = precision_recall_fscore_support(
            labels, predicted, labels=every, zero_division=0
        )
        chosen = np.clip(probabilities[np.arange(len(labels)), labels], SMALLEST, 1)
        figures = {
            "accuracy": float((predicted == labels).mean()),
            "loss": float(-np.log(chosen).mean()),
            "confusion_matrix": confusion_matrix(labels, predicted, labels=every).tolist(),
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


def _multilabel(probabilities: np.ndarray, truth: np.ndarray, decided: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import average_precision_score

    right = decided == truth
    chosen = np.clip(np.where(truth, probabilities, 1 - probabilities), SMALLEST, 1)
    known = [i for i in range(truth.shape[1]) if truth[:, i].any()]
    averages = [average_precision_score(truth[:, i], probabilities[:, i]) for i in known]
    return {
        "accuracy": float(right.mean()),
        "exact_match": float(right.all(axis=1).mean()),
        "mean_average_precision": float(np.mean(averages)) if averages else 0.0,
        "loss": float(-np.log(chosen).mean()),
    }


def summary(metrics: dict[str, Any]) -> dict[str, Any]:
    """What the exported file says of the pictures it was judged on."""
    return {label: metrics[label] for label in SUMMARY if label in metrics}


def table(metrics: dict[str, Any], widest: int = 12) -> str:
    """Readable text: a line a class, then the confusion matrix where it fits a screen."""
    names = metrics["classes"]
    width = max(5, *(len(name) for name in names))
    lines = [f"{'class':<{width}}  precision  recall     f1  pictures"]
    for name in names:
        row = metrics["per_class"][name]
        lines.append(
            f"{name:<{width}}  {row['precision']:>9.3f}  {row['recall']:>6.3f}  {row['f1']:>5.3f}  {row['pictures']:>8}"
        )
    several = ""
    if "exact_match" in metrics:
        several = f"exact match {metrics['exact_match']:.4f}, mean AP {metrics['mean_average_precision']:.4f}, "
    lines.append(
        f"accuracy {metrics['accuracy']:.4f}, {several}macro F1 {metrics['macro_f1']:.4f}, "
        f"loss {metrics['loss']:.4f}, {metrics['pictures']} pictures"
    )
    if "confusion_matrix" in metrics and len(names) <= widest:
        cell = max(6, *(len(name[:10]) + 1 for name in names))
        lines += ["", "confusion matrix (rows: truth, columns: prediction)"]
        lines.append(" " * width + "".join(f"{name[:10]:>{cell}}" for name in names))
        for name, row in zip(names, metrics["confusion_matrix"], strict=True):
            lines.append(f"{name:<{width}}" + "".join(f"{count:>{cell}}" for count in row))
    return "\n".join(lines)
