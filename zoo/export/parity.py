"""Proof that the exported graph computes what the trained network computes, on real pictures and on logits.

A saturated softmax hides a wrong network, so logits are compared, through an in-memory copy of the graph that has them
as a second output; and probabilities are compared with what follows from the graph's own logits. (Between the network
and the graph, probabilities of a confident network may be further apart than the logits are, relatively.)
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

TOLERANCE = 1e-4
# Of a probability, which is what float32 computes of its logits.
HEAD_TOLERANCE = 1e-5
BATCH = 16

PARITY_PICTURES = 64


def check(
    model: keras.Model, graph: onnx.ModelProto, pixels: np.ndarray, *, multilabel: bool = False
) -> dict[str, Any]:
    """Compare a converted graph with its network.

    Args:
        model: The network, with the layers `logits` and `probabilities`.
        graph: What `convert` gave, with both outputs.
        pixels: Real pictures, uint8 array (pictures, height, width, channels).
        multilabel: Whether each class is decided on its own, rather than one of all.

    Returns:
        pictures; logits_difference and probabilities_difference: max|difference| / max|Keras|; tolerance, the greatest
        logits_difference that passes; and top1_equal: pictures whose likeliest class is the same, or of a multi-label
        network every decision.

    Raises:
        ConversionFailed: onnxruntime cannot run the graph.
        ParityFailed: Logits differ; probabilities are not those of the logits; values are not finite, or do not depend
            on the picture.
    """
    import keras

    session = open_session(graph)
    names = [node.name for node in session.get_inputs()]
    if names != [INPUT]:
        raise ConversionFailed(f"the graph must have the one input {INPUT!r}. Received: {names}.")
    try:
        for size in (1, 3):
            session.run(None, {INPUT: np.resize(pixels, (size, *pixels.shape[1:]))})
        here = [
            session.run([LOGITS, PROBABILITIES], {INPUT: pixels[i : i + BATCH]}) for i in range(0, len(pixels), BATCH)
        ]
    except Exception as error:
        # onnxruntime's exceptions share no base class.
        raise ConversionFailed(f"onnxruntime cannot run the graph: {str(error).splitlines()[0]}") from error
    both = keras.Model(model.input, [model.get_layer(LOGITS).output, model.get_layer(PROBABILITIES).output])
    there = [both.predict_on_batch(pixels[i : i + BATCH].astype("float32")) for i in range(0, len(pixels), BATCH)]
    logits, probabilities = (np.concatenate([batch[k] for batch in here]) for k in (0, 1))
    keras_logits, keras_probabilities = (np.concatenate([np.asarray(batch[k]) for batch in there]) for k in (0, 1))
    return compare(keras_logits, logits, keras_probabilities, probabilities, multilabel=multilabel)


def compare(
    keras_logits: np.ndarray,
    logits: np.ndarray,
    keras_probabilities: np.ndarray,
    probabilities: np.ndarray,
    *,
    multilabel: bool = False,
) -> dict[str, Any]:
    """Compare outputs of the network and of the graph; see `check`.

    Args:
        keras_logits: The network's, float array (pictures, classes), or (pictures, 1) of a binary one.
        logits: The graph's.
        keras_probabilities: The network's, float array (pictures, classes).
        probabilities: The graph's.
        multilabel: Whether each class is decided on its own.
    """
    for label, values in (("network", keras_logits), ("exported graph", logits)):
        if not np.isfinite(values).all():
            raise ParityFailed(f"the {label} gives values that are not finite; training went wrong, or the graph did.")
    scale = max(float(np.abs(keras_logits).max()), 1e-30)
    spread = float(np.ptp(keras_logits, axis=0).max())
    if len(logits) > 1 and spread <= 1e-6 * scale:
        raise ParityFailed(
            "the network gives the same logits for every picture, so that nothing can be compared "
            "(and nothing was learnt)."
        )
    moved = float(np.abs(keras_logits - logits).max())
    # Written so that a NaN fails.
    if not moved / scale <= TOLERANCE:
        raise ParityFailed(
            f"the exported graph's logits differ from the network's by {moved / scale:.2g} of their greatest value "
            f"(allowed {TOLERANCE:g})."
        )
    wrong = float(np.abs(_probabilities(logits, multilabel) - probabilities).max())
    if not wrong <= HEAD_TOLERANCE:
        raise ParityFailed(
            f"the exported graph's probabilities differ from those of its logits by {wrong:.2g} "
            f"(allowed {HEAD_TOLERANCE:g})."
        )
    # Where pictures hardly differ, a graph that ignores them would be within the tolerance.
    if len(logits) > 1 and moved > spread / 4:
        raise ParityFailed("the exported graph differs from the network by as much as the pictures do.")
    if multilabel or logits.shape[1] == 1:
        # A class holds where its logit is positive; one unit is the second class's against the first.
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
    return {
        "pictures": len(logits),
        "tolerance": TOLERANCE,
        "logits_difference": moved / scale,
        "probabilities_difference": float(
            np.abs(keras_probabilities - probabilities).max() / np.abs(keras_probabilities).max()
        ),
        "top1_equal": int(equal.sum()),
    }


def _probabilities(logits: np.ndarray, multilabel: bool) -> np.ndarray:
    """What follows from logits: a softmax; of several labels a sigmoid each; of one unit that of the second class."""
    values = logits.astype(np.float64)
    if multilabel or values.shape[1] == 1:
        # Written with tanh, a sigmoid does not overflow.
        yes = (1 + np.tanh(values / 2)) / 2
        return yes if multilabel else np.hstack([1 - yes, yes])
    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
