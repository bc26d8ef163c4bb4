"""Measures how much a quantized or rounded graph differs from the float32 graph, in its outputs and in its speed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

from zoo.convert.keras_to_onnx import INPUT, LOGITS, PROBABILITIES
from zoo.convert.session import open_session
from zoo.export import paired
from zoo_runtime.workshop import time_pairs

if TYPE_CHECKING:
    import onnxruntime

    from zoo.data.dataset import Dataset

BATCH = 16
PAIRS = 20


@dataclass(frozen=True)
class ValidationSet:
    """Holds the pictures on which graphs are compared with the float32 graph.

    Args:
        pixels: Decoded pictures, a uint8 array (N, H, W, C) in 0..255.
        targets: The classes of the pictures, a float array (N, classes): 1 if the picture has the class, else 0.
        multilabel: Whether a picture may have several classes, or none.
    """

    pixels: np.ndarray
    targets: np.ndarray
    multilabel: bool = False

    def outputs(
        self,
        session: onnxruntime.InferenceSession,
        count: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run a graph on the pictures.

        Args:
            session: The opened graph, with the outputs `logits` and `probabilities`.
            count: Run only the first `count` pictures. None means all.
            progress: Called with (pictures done, pictures in total) after each batch; None means no calls.

        Returns:
            The logits (N, units) and the probabilities (N, classes), both float32. `units` is 1 for a binary network
            with one unit, and otherwise the number of classes.
        """
        pixels = self.pixels[:count]
        batches = []
        for i in range(0, len(pixels), BATCH):
            batches.append(session.run([LOGITS, PROBABILITIES], {INPUT: pixels[i : i + BATCH]}))
            if progress:
                progress(min(i + BATCH, len(pixels)), len(pixels))
        logits, probabilities = (np.concatenate([batch[k] for batch in batches]) for k in (0, 1))
        return logits, probabilities

    def accuracy(self, probabilities: np.ndarray) -> float:
        """Return the fraction of pictures that are classified correctly, given probabilities (N, classes).

        A multi-label picture counts as correct if the prediction is right for every class. A class is predicted if its
        probability is 0.5 or more.
        """
        return self.compare(probabilities, probabilities).accuracies[0]

    def compare(self, float32: np.ndarray, changed: np.ndarray) -> paired.PairedCounts:
        """Count on how many pictures the answers of two graphs agree, given their probabilities (N, classes)."""
        return paired.compare(float32, changed, self.targets, multilabel=self.multilabel)


def validation_set(dataset: Dataset, rows: np.ndarray) -> ValidationSet:
    """Return the pictures of a dataset with the given indices."""
    return ValidationSet(pixels_of(dataset, rows), dataset.targets[rows], dataset.source.multilabel)


def pixels_of(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Return a copy of the pixels of some pictures, a uint8 array (N, H, W, C) in 0..255."""
    return np.ascontiguousarray(dataset.pixels.array[rows])


def relative_error(logits: np.ndarray, changed: np.ndarray) -> float:
    """Return how much logits change, relative to their spread.

    Args:
        logits: The original logits, a float array (N, units).
        changed: The changed logits, of the same shape.

    Returns:
        The root mean square of the change, divided by the spread. The spread is the root mean square of the original
        logits after the mean of each unit over the pictures has been subtracted. Infinity if a changed logit is NaN or
        infinite.
    """
    spread = float(np.sqrt(np.mean((logits - logits.mean(axis=0)) ** 2)))
    error = float(np.sqrt(np.mean((changed - logits) ** 2))) / max(spread, 1e-30)
    return error if np.isfinite(error) else float("inf")


def between_processors(graph: onnx.ModelProto, pixels: np.ndarray) -> float:
    """Estimate how much the probabilities of an int8 graph may differ between two processors.

    The graph runs twice on this machine. The first run uses fused int8 kernels. The second run executes the nodes as
    written, and computes in float32 between the quantization steps. The estimate is the largest difference between the
    probabilities of the two runs.

    Processors differ for two reasons. If a value lies near the midpoint between two quantized values, one processor may
    round it up and another may round it down. Some processors add products in 16 bits, which may overflow.

    Args:
        graph: The int8 graph.
        pixels: Decoded pictures, a uint8 array (N, H, W, C) in 0..255.

    Returns:
        The largest difference of a probability, in 0..1.
    """
    feeds = [{INPUT: pixels[i : i + BATCH]} for i in range(0, len(pixels), BATCH)]
    optimized, as_written = (
        np.concatenate([session.run([PROBABILITIES], feed)[0] for feed in feeds])
        for session in (open_session(graph), open_session(graph, as_written=True))
    )
    return float(np.abs(optimized - as_written).max())


def speedup(
    reference: onnxruntime.InferenceSession, session: onnxruntime.InferenceSession, pixels: np.ndarray
) -> float:
    """Return the speedup of one graph over another: the time of `reference` divided by the time of `session`.

    The two graphs are timed alternately, in 20 pairs of measurements. The result is the median of the 20 ratios. A
    value above 1 means that `session` is faster.

    Args:
        reference: The opened float32 graph.
        session: The opened int8 graph.
        pixels: The batch of pictures that each call runs on, a uint8 array (N, H, W, C) in 0..255.
    """

    def runner(session: onnxruntime.InferenceSession) -> Callable[[np.ndarray], object]:
        return lambda batch: session.run([PROBABILITIES], {INPUT: batch})

    return time_pairs(runner(reference), runner(session), [(pixels, pixels)], pairs=PAIRS).ratio
