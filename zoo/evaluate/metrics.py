"""Metrics of an exported file, measured as the device measures: file -> zoo_runtime -> probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zoo_runtime import PictureError, Predictor


def predict(
    predictor: Predictor, contents: Sequence[object], progress: Callable[[int, int], None] | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """Run pictures through the predictor.

    Args:
        predictor: The exported file.
        contents: Paths or uint8 arrays.
        progress: Called with (pictures done, pictures in all).

    Returns:
        float64 array (pictures, classes) of those that can be read, and for the others index -> why, beginning with
        the name of the error.
    """
    rows, bad = [], {}
    for i, result in enumerate(predictor.predict_each(contents)):
        if isinstance(result, PictureError):
            bad[i] = f"{type(result).__name__}: {result}"
        else:
            rows.append(list(result.probabilities.values()))
        if progress:
            progress(i + 1, len(contents))
    return np.array(rows).reshape(len(rows), len(predictor.info.classes)), bad


def measure(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Compare predictions with the truth.

    Args:
        probabilities: float array (pictures, classes).
        labels: True class indices, int array (pictures,).
        classes: Class names, in the order of the columns.

    Returns:
        pictures, accuracy, loss (mean cross-entropy in nats), macro_f1, per_class {name: precision, recall, f1,
        pictures}, and confusion_matrix: rows are true classes, columns predicted ones, in the order of `classes`.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predicted = probabilities.argmax(axis=1)
    every = np.arange(len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    chosen = np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, 1)
    present = support > 0
    return {
        "pictures": len(labels),
        "accuracy": float((predicted == labels).mean()),
        "loss": float(-np.log(chosen).mean()),
        "macro_f1": float(f1[present].mean()),
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
        "confusion_matrix": confusion_matrix(labels, predicted, labels=every).tolist(),
    }


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
    lines.append(
        f"accuracy {metrics['accuracy']:.4f}, macro F1 {metrics['macro_f1']:.4f}, loss {metrics['loss']:.4f}, "
        f"{metrics['pictures']} pictures"
    )
    if len(names) <= widest:
        cell = max(6, *(len(name[:10]) + 1 for name in names))
        lines += ["", "confusion matrix (rows: truth, columns: prediction)"]
        lines.append(" " * width + "".join(f"{name[:10]:>{cell}}" for name in names))
        for name, row in zip(names, metrics["confusion_matrix"], strict=True):
            lines.append(f"{name:<{width}}" + "".join(f"{count:>{cell}}" for count in row))
    return "\n".join(lines)
