"""Runs the float32 file and a variant on all available pictures, and counts on how many they give the same answers.

`zoo.export.acceptance` decides with these counts whether the variant is exported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from zoo.convert.session import open_session
from zoo.data.dataset import Dataset
from zoo.evaluate.evaluator import Outputs
from zoo.export import acceptance, comparison, paired
from zoo.reporter import Reporter

# Training pictures are added until this many pictures are compared.
COMPARED_PICTURES = 512


def gather(
    graphs: Mapping[str, onnx.ModelProto | Callable[[np.ndarray], np.ndarray]],
    outputs: tuple[Mapping[str, Outputs], Mapping[str, Outputs]],
    dataset: Dataset,
    train: np.ndarray,
    max_drop: float,
    reporter: Reporter,
) -> dict[str, Any]:
    """Compare the answers of two files on all validation and test pictures, and on training pictures.

    Training pictures are used only if there are fewer than 512 validation and test pictures.

    Args:
        graphs: The float32 graph and the graph of the variant, in this order. The keys name them in progress messages.
            Instead of a graph, a function from pixels, uint8 (batch, H, W, C), to probabilities (batch, classes).
        outputs: The probabilities of both files, under "validation" and "test"; see
            `zoo.evaluate.evaluator.predict_parts`. The validation part may be missing.
        dataset: The dataset of the run.
        train: Indices of the training pictures that may be used, the first ones first.
        max_drop: The largest allowed drop of a metric, as a fraction in 0..1.
        reporter: Receives progress messages.

    Returns:
        See `compare_parts`.
    """
    split = dataset.split
    train = train[: max(0, COMPARED_PICTURES - len(split.val) - len(split.test))]
    training = [np.zeros((0, dataset.targets.shape[1]))] * 2
    if len(train):
        pictures = comparison.validation_set(dataset, train)
        for i, (name, graph) in enumerate(graphs.items()):
            label = f"running {name} on training pictures"
            with reporter.timing.measure("evaluating"), reporter.progress(label) as progress:
                training[i] = _probabilities(pictures, graph, progress)
    parts = {"test": split.test, "validation": split.val, "training": train}
    nothing = {"validation": np.zeros((0, dataset.targets.shape[1]))}
    float32, variant = ({**nothing, **{key: part.probabilities for key, part in each.items()}} for each in outputs)
    return compare_parts(
        {**float32, "training": training[0]},
        {**variant, "training": training[1]},
        {part: dataset.targets[rows] for part, rows in parts.items()},
        max_drop,
        multilabel=dataset.source.multilabel,
    )


def other_training_pictures(dataset: Dataset, calibrated_on: Sequence[int], seed: int) -> np.ndarray:
    """Return the training pictures on which a graph was not calibrated, in an order that the seed decides."""
    train = np.setdiff1d(dataset.split.train, np.array(calibrated_on, dtype=np.int64))
    return np.random.default_rng(seed).permutation(train)


def _probabilities(
    pictures: comparison.ValidationSet,
    graph: onnx.ModelProto | Callable[[np.ndarray], np.ndarray],
    progress: Callable[[int, int], None],
) -> np.ndarray:
    if isinstance(graph, onnx.ModelProto):
        return pictures.outputs(open_session(graph), progress=progress)[1]
    batches = []
    for start in range(0, len(pictures.pixels), comparison.BATCH):
        batches.append(graph(pictures.pixels[start : start + comparison.BATCH]))
        progress(min(start + comparison.BATCH, len(pictures.pixels)), len(pictures.pixels))
    return np.concatenate(batches)


def compare_parts(
    float32: Mapping[str, np.ndarray],
    variant: Mapping[str, np.ndarray],
    targets: Mapping[str, np.ndarray],
    max_drop: float,
    *,
    multilabel: bool,
) -> dict[str, Any]:
    """Compare the answers of the float32 file and of a variant on all available pictures.

    Args:
        float32: The probabilities of the float32 file, float arrays (N, classes) in 0..1, under "test", "validation"
            and "training". A part may have no pictures, except the test part.
        variant: The probabilities of the variant for the same pictures.
        targets: The true classes of the same pictures, float arrays (N, classes): 1 if the picture has the class, else
            0.
        max_drop: The largest allowed drop of a metric, as a fraction in 0..1.
        multilabel: Whether a picture may have several classes, or none.

    Returns:
        `paired`: The counts of `PairedCounts.to_json` for the pictures "test", "validation_and_test" and "all". For
        multi-label networks with fewer than 500 test pictures, also `least_drops`: it maps accuracy and mean
        average precision to lower 95 % bounds of their drops, if they have fallen by more than `max_drop`.
    """
    counts = {
        part: paired.compare(float32[part], variant[part], targets[part], multilabel=multilabel) for part in targets
    }
    held_out = counts["test"] + counts["validation"]
    figures: dict[str, Any] = {
        "paired": {
            "test": counts["test"].to_json(),
            "validation_and_test": held_out.to_json(),
            "all": (held_out + counts["training"]).to_json(),
        }
    }
    if multilabel and len(targets["test"]) < acceptance.POINT_RULE_PICTURES:
        figures["least_drops"] = _least_drops(float32["test"], variant["test"], targets["test"], max_drop)
    return figures


def _least_drops(float32: np.ndarray, variant: np.ndarray, targets: np.ndarray, max_drop: float) -> dict[str, float]:
    """Return lower bounds of the drop of the metrics that have fallen by more than the limit."""
    measures = dict(zip(acceptance.UNPAIRED_METRICS, (_decision_accuracy, _mean_average_precision), strict=True))
    return {
        key: paired.least_drop(measure, float32, variant, targets)
        for key, measure in measures.items()
        if measure(float32, targets) - measure(variant, targets) > max_drop + paired.ROUNDING
    }


def _decision_accuracy(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Compute `accuracy` of multi-label networks; see `zoo.evaluate.metrics.measure`."""
    return float(((probabilities >= 0.5) == (targets > 0.5)).mean())


def _mean_average_precision(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Compute `mean_average_precision`; see `zoo.evaluate.metrics.measure`."""
    from sklearn.metrics import average_precision_score

    present = [i for i in range(targets.shape[1]) if targets[:, i].any()]
    averages = [average_precision_score(targets[:, i] > 0.5, probabilities[:, i]) for i in present]
    return float(sum(averages) / len(averages)) if averages else 0.0
