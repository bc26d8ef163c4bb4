"""Checks that the exported graph computes what the trained network computes, on real pictures.

Logits are compared, because a saturated softmax hides a wrong network. An in-memory copy of the graph has them as a
second output. The probabilities of the graph are then compared with those that follow from its own logits. They cannot
be compared with the network's as strictly: for a confident network, probabilities may differ by more than the logits
do, relative to their size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from zoo.convert.keras_to_onnx import INPUT, LOGITS, PROBABILITIES
from zoo.convert.session import open_session
from zoo.errors import ConversionFailed, ParityFailed

if TYPE_CHECKING:
    import keras

# The largest difference of logits, relative to the largest logit.
TOLERANCE = 1e-4
# The largest difference of a probability from what float32 computes of the logits.
HEAD_TOLERANCE = 1e-5
BATCH = 16

PARITY_PICTURES = 64


def check(
    model: keras.Model, graph: onnx.ModelProto, pixels: np.ndarray, *, multilabel: bool = False
) -> dict[str, Any]:
    """Compare a converted graph with its network.

    Args:
        model: The network, with the layers `logits` and `probabilities`.
        graph: The converted graph, with both outputs.
        pixels: Real pictures, a uint8 array (N, H, W, C) in 0..255.
        multilabel: Whether a picture may have any number of classes.

    Returns:
        The figures for run.json and the exported file: pictures; logits_difference and probabilities_difference, each
        max|difference| / max|Keras|; tolerance, the largest logits_difference that passes; and top1_equal, the number
        of pictures with the same likeliest class (for a multi-label network, with the same decision on every class).

    Raises:
        ConversionFailed: onnxruntime cannot run the graph.
        ParityFailed: Logits differ, probabilities do not follow from the logits, or values are not finite or do not
            depend on the picture.
    """
    import keras

    session = open_session(graph)
    names = [node.name for node in session.get_inputs()]
    if names != [INPUT]:
        raise ConversionFailed(f"the graph must have the one input {INPUT!r}. Received: {names}.")
    starts = range(0, len(pixels), BATCH)
    try:
        for size in (1, 3):
            session.run(None, {INPUT: np.resize(pixels, (size, *pixels.shape[1:]))})
        graph_batches = [session.run([LOGITS, PROBABILITIES], {INPUT: pixels[i : i + BATCH]}) for i in starts]
    except Exception as error:
        # The exceptions of onnxruntime have no common base class.
        raise ConversionFailed(f"onnxruntime cannot run the graph: {str(error).splitlines()[0]}") from error
    both = keras.Model(model.input, [model.get_layer(LOGITS).output, model.get_layer(PROBABILITIES).output])
    keras_batches = [both.predict_on_batch(pixels[i : i + BATCH].astype("float32")) for i in starts]
    logits, probabilities = (np.concatenate([batch[k] for batch in graph_batches]) for k in (0, 1))
    keras_logits, keras_probabilities = (
        np.concatenate([np.asarray(batch[k]) for batch in keras_batches]) for k in (0, 1)
    )
    return compare(keras_logits, logits, keras_probabilities, probabilities, multilabel=multilabel)


def compare(
    keras_logits: np.ndarray,
    logits: np.ndarray,
    keras_probabilities: np.ndarray,
    probabilities: np.ndarray,
    *,
    multilabel: bool = False,
) -> dict[str, Any]:
    """Compare the outputs of the network with those of the graph.

    Args:
        keras_logits: The network's logits, a float array (N, classes), or (N, 1) for a binary network.
        logits: The graph's logits, of the same shape.
        keras_probabilities: The network's probabilities, a float array (N, classes).
        probabilities: The graph's probabilities, of the same shape.
        multilabel: Whether a picture may have any number of classes.

    Returns:
        As `check`.

    Raises:
        ParityFailed: As `check`.
    """
    scale = max(float(np.abs(keras_logits).max()), 1e-30)
    difference = _check_logits(keras_logits, logits, scale)
    _check_probabilities(logits, probabilities, multilabel)
    # If the pictures hardly differ, a graph that ignores them would be within the tolerance.
    if len(logits) > 1 and difference > float(np.ptp(keras_logits, axis=0).max()) / 4:
        raise ParityFailed("the exported graph differs from the network by as much as the pictures do.")
    return {
        "pictures": len(logits),
        "tolerance": TOLERANCE,
        "logits_difference": difference / scale,
        "probabilities_difference": float(
            np.abs(keras_probabilities - probabilities).max() / np.abs(keras_probabilities).max()
        ),
        "top1_equal": _count_equal_decisions(keras_logits, logits, probabilities, scale, multilabel),
    }


def _check_logits(keras_logits: np.ndarray, logits: np.ndarray, scale: float) -> float:
    """Check that logits are finite, vary across pictures, and agree; return the largest difference."""
    for label, values in (("network", keras_logits), ("exported graph", logits)):
        if not np.isfinite(values).all():
            raise ParityFailed(
                f"the {label} gives values that are not finite (NaN or infinity); training or conversion went wrong."
            )
    if len(logits) > 1 and float(np.ptp(keras_logits, axis=0).max()) <= 1e-6 * scale:
        raise ParityFailed(
            "the network gives the same logits for every picture: it has learned nothing, and there is nothing to "
            "compare. Train with pretrained weights, more epochs, or another learning rate."
        )
    difference = float(np.abs(keras_logits - logits).max())
    # This form of the condition also fails for a NaN.
    if not difference / scale <= TOLERANCE:
        raise ParityFailed(
            f"the exported graph's logits differ from the network's by {difference / scale:.2g} of the largest logit "
            f"(allowed {TOLERANCE:g})."
        )
    return difference


def _check_probabilities(logits: np.ndarray, probabilities: np.ndarray, multilabel: bool) -> None:
    """Check that the graph's probabilities follow from its logits."""
    difference = float(np.abs(_probabilities(logits, multilabel) - probabilities).max())
    if not difference <= HEAD_TOLERANCE:
        raise ParityFailed(
            f"the exported graph's probabilities differ from those of its logits by {difference:.2g} "
            f"(allowed {HEAD_TOLERANCE:g})."
        )


def _count_equal_decisions(
    keras_logits: np.ndarray, logits: np.ndarray, probabilities: np.ndarray, scale: float, multilabel: bool
) -> int:
    """Count the pictures with the same decision, and check that all others are too close to call."""
    if multilabel or logits.shape[1] == 1:
        # A class is present if its logit is positive. A single unit is the second class against the first.
        signed = keras_logits if multilabel else np.hstack([-keras_logits, keras_logits])
        same = ((signed > 0) == (probabilities > 0.5)) | (np.abs(signed) <= TOLERANCE * scale)
        equal, decided = same.all(axis=1), np.ones(len(logits), bool)
    else:
        ordered = np.sort(keras_logits, axis=1)
        decided = ordered[:, -1] - ordered[:, -2] > TOLERANCE * scale
        equal = keras_logits.argmax(axis=1) == logits.argmax(axis=1)
    if not equal[decided].all():
        wrong = int((~equal & decided).sum())
        raise ParityFailed(f"the likeliest class differs for {wrong} of {len(equal)} pictures.")
    return int(equal.sum())


def _probabilities(logits: np.ndarray, multilabel: bool) -> np.ndarray:
    """Compute probabilities (N, classes) from logits: a softmax, or sigmoids for several labels or a single unit.

    A single unit gives the probability of the second class.
    """
    values = logits.astype(np.float64)
    if multilabel or values.shape[1] == 1:
        # A sigmoid written with tanh does not overflow.
        positive = (1 + np.tanh(values / 2)) / 2
        return positive if multilabel else np.hstack([1 - positive, positive])
    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
