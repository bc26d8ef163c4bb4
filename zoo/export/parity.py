"""Proof that the exported graph computes what the trained network computes, on real pictures and on logits.

A saturated softmax hides a wrong network, so logits are compared too, through an in-memory copy of the graph that has
them as a second output.
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
# Softmax moves no probability by more than half of what the logits move, a sigmoid by a quarter. Confident networks
# have large logits, so that 1e-4 of the logits may be more than 1e-4 of a probability.
STEEPEST = 0.5
BATCH = 16


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
        pictures, tolerance, logits_difference and probabilities_difference: max|difference| / max|Keras|; and
        top1_equal: pictures whose likeliest class is the same, or of a multi-label network every decision.

    Raises:
        ConversionFailed: onnxruntime cannot run the graph.
        ParityFailed: Logits differ by more than the tolerance, probabilities by more than that and than the logits'
            own difference explains; values are not finite, or do not depend on the picture.
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
    likeliest = max(float(keras_probabilities.max()), 1e-30)
    differences = {
        "logits": moved / scale,
        "probabilities": float(np.abs(keras_probabilities - probabilities).max()) / likeliest,
    }
    allowed = {
        "logits": TOLERANCE,
        "probabilities": max(TOLERANCE, (STEEPEST * moved + float(np.finfo(np.float32).eps)) / likeliest),
    }
    for label, difference in differences.items():
        # Written so that a NaN fails.
        if not difference <= allowed[label]:
            raise ParityFailed(
                f"the exported graph's {label} differ from the network's by {difference:.2g} of their greatest value "
                f"(allowed {allowed[label]:.2g})."
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
        "logits_difference": differences["logits"],
        "probabilities_difference": differences["probabilities"],
        "top1_equal": int(equal.sum()),
    }
