"""Checks on real pictures that the exported graph computes the same values as the trained network.

The logits of graph and network are compared, because a saturated softmax hides errors. For this check, the graph has
the logits as a second output, which the exported file does not have.

The graph's probabilities are not compared with the network's probabilities. They are compared with probabilities that
this module computes from the graph's own logits, because this comparison can be stricter. If a network is very
confident, small differences between logits become larger relative differences between probabilities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from zoo.convert.keras_to_onnx import INPUT, LOGITS, PROBABILITIES
from zoo.convert.session import open_session
from zoo.errors import ConstantOutput, ConversionFailed, ParityFailed

if TYPE_CHECKING:
    import keras
    import onnxruntime

# The largest difference of logits that passes, relative to the largest logit.
TOLERANCE = 1e-4
# The largest difference that passes between a probability of the graph and the one that follows from its logits.
HEAD_TOLERANCE = 1e-5
BATCH = 16

PARITY_PICTURES = 64


def check(
    model: keras.Model,
    graph: onnx.ModelProto,
    pixels: np.ndarray,
    *,
    multilabel: bool = False,
    allow_constant: bool = False,
) -> dict[str, Any]:
    """Check that a converted graph computes the same values as its Keras network.

    Args:
        model: The network, with the layers `logits` and `probabilities`.
        graph: The converted graph, with the outputs `logits` and `probabilities`.
        pixels: Real pictures, a uint8 array (N, H, W, C) in 0..255.
        multilabel: Whether a picture may have several classes, or none.
        allow_constant: True accepts a network whose outputs do not depend on the picture.

    Returns:
        A dictionary, which run.json and the exported file store:

        - pictures: The number of pictures.
        - logits_difference: The largest absolute difference between the logits of network and graph, divided by the
          network's largest absolute logit.
        - probabilities_difference: The largest absolute difference between the probabilities of network and graph,
          divided by the network's largest probability.
        - tolerance: The largest logits_difference that is allowed.
        - top1_equal: The number of pictures for which network and graph predict the same class. For a multi-label
          network, the number of pictures for which they agree on every class. See `_count_equal_decisions` for logits
          that are almost 0 or almost equal.

    Raises:
        ConversionFailed: onnxruntime cannot run the graph, or the graph has an input other than `image`.
        ParityFailed: The logits differ by more than the tolerance, or the predicted classes differ. The probabilities
            do not follow from the logits. A value is NaN or infinite.
        ConstantOutput: The outputs do not depend on the picture, and `allow_constant` is False.
    """
    import keras

    session = open_session(graph)
    check_batch_sizes(session, pixels)
    logits, probabilities = outputs_of(session, pixels)
    starts = range(0, len(pixels), BATCH)
    both = keras.Model(model.input, [model.get_layer(LOGITS).output, model.get_layer(PROBABILITIES).output])
    keras_batches = [both.predict_on_batch(pixels[i : i + BATCH].astype("float32")) for i in starts]
    keras_logits, keras_probabilities = (
        np.concatenate([np.asarray(batch[k]) for batch in keras_batches]) for k in (0, 1)
    )
    return compare(
        keras_logits,
        logits,
        keras_probabilities,
        probabilities,
        multilabel=multilabel,
        allow_constant=allow_constant,
    )


def check_batch_sizes(session: onnxruntime.InferenceSession, pixels: np.ndarray) -> None:
    """Check that a graph has the one input `image`, and that it runs on one picture and on three.

    Args:
        session: The opened graph.
        pixels: Real pictures, a uint8 array (N, H, W, C) in 0..255.

    Raises:
        ConversionFailed: The graph has another input, or onnxruntime cannot run it.
    """
    names = [node.name for node in session.get_inputs()]
    if names != [INPUT]:
        raise ConversionFailed(f"the graph must have the one input {INPUT!r}. Received: {names}.")
    for size in (1, 3):
        outputs_of(session, np.resize(pixels, (size, *pixels.shape[1:])))


def outputs_of(session: onnxruntime.InferenceSession, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run a graph on pictures, and return its logits (N, units) and its probabilities (N, classes), both float32.

    Raises:
        ConversionFailed: onnxruntime cannot run the graph.
    """
    try:
        batches = [
            session.run([LOGITS, PROBABILITIES], {INPUT: pixels[i : i + BATCH]}) for i in range(0, len(pixels), BATCH)
        ]
    except Exception as error:
        # The exceptions of onnxruntime have no common base class.
        raise ConversionFailed(f"onnxruntime cannot run the graph: {str(error).splitlines()[0]}") from error
    return np.concatenate([batch[0] for batch in batches]), np.concatenate([batch[1] for batch in batches])


def compare(
    keras_logits: np.ndarray,
    logits: np.ndarray,
    keras_probabilities: np.ndarray,
    probabilities: np.ndarray,
    *,
    multilabel: bool = False,
    allow_constant: bool = False,
) -> dict[str, Any]:
    """Check that the outputs of a graph equal those of its Keras network, within the tolerances.

    Args:
        keras_logits: The network's logits, a float array (N, classes), or (N, 1) for a binary network with one unit.
        logits: The graph's logits, of the same shape.
        keras_probabilities: The network's probabilities, a float array (N, classes).
        probabilities: The graph's probabilities, of the same shape.
        multilabel: Whether a picture may have several classes, or none.
        allow_constant: True accepts a network whose outputs do not depend on the picture.

    Returns:
        The dictionary that `check` returns.

    Raises:
        ParityFailed: The same conditions as in `check`.
        ConstantOutput: The same condition as in `check`.
    """
    scale = max(float(np.abs(keras_logits).max()), 1e-30)
    difference = _check_logits(keras_logits, logits, scale, allow_constant)
    _check_probabilities(logits, probabilities, multilabel)
    # If the pictures hardly differ, a graph that ignores them would be within the tolerance.
    if len(logits) > 1 and not allow_constant and difference > float(np.ptp(keras_logits, axis=0).max()) / 4:
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


def _check_logits(keras_logits: np.ndarray, logits: np.ndarray, scale: float, allow_constant: bool) -> float:
    """Check that logits are finite, differ between pictures, and agree between network and graph.

    Args:
        keras_logits: The network's logits.
        logits: The graph's logits, of the same shape.
        scale: The network's largest absolute logit.
        allow_constant: True accepts logits that do not differ between pictures.

    Returns:
        The largest absolute difference between the logits of network and graph.

    Raises:
        ConstantOutput: The logits do not differ between pictures.
        ParityFailed: Another one of these checks fails.
    """
    for label, values in (("network", keras_logits), ("exported graph", logits)):
        if not np.isfinite(values).all():
            raise ParityFailed(
                f"the {label} gives values that are not finite (NaN or infinity); training or conversion went wrong. "
                "Train with a lower --learning-rate."
            )
    if len(logits) > 1 and not allow_constant and float(np.ptp(keras_logits, axis=0).max()) <= 1e-6 * scale:
        raise ConstantOutput(
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
    """Check that the graph's probabilities equal the probabilities that follow from its logits.

    Args:
        logits: The graph's logits, a float array (N, classes), or (N, 1) for a network with one unit.
        probabilities: The graph's probabilities, a float array (N, classes).
        multilabel: Whether a picture may have several classes, or none.

    Raises:
        ParityFailed: A probability of the graph differs from the computed probability by more than 1e-5.
    """
    from zoo.evaluate import calibration

    expected = calibration.probabilities(logits, "multilabel" if multilabel else "multiclass")
    difference = float(np.abs(expected - probabilities).max())
    if not difference <= HEAD_TOLERANCE:
        raise ParityFailed(
            f"the exported graph's probabilities differ from those of its logits by {difference:.2g} "
            f"(allowed {HEAD_TOLERANCE:g})."
        )


def _count_equal_decisions(
    keras_logits: np.ndarray, logits: np.ndarray, probabilities: np.ndarray, scale: float, multilabel: bool
) -> int:
    """Count the pictures for which network and graph predict the same classes.

    Three kinds of networks predict classes in different ways:

    - A multi-label network predicts every class whose logit is positive.
    - A network with one unit predicts the second class if its logit is positive, and the first class otherwise.
    - Any other network predicts the class with the largest logit.

    In close cases, the graph may predict other classes than the network, and no error is raised:

    - In the first two kinds, a case is close if a logit of the network is almost 0. The graph's prediction for this
      logit then counts as equal.
    - In the third kind, a case is close if the network's two largest logits are almost equal. If the predictions then
      differ, the picture is not counted.

    Args:
        keras_logits: The network's logits.
        logits: The graph's logits, of the same shape.
        probabilities: The graph's probabilities, a float array (N, classes). In multi-label and one-unit networks, the
            graph predicts the classes whose probability is above 0.5.
        scale: The network's largest absolute logit. "Almost" means up to 1e-4 times this value.
        multilabel: Whether a picture may have several classes, or none.

    Raises:
        ParityFailed: The predicted classes of a picture differ, and the case is not close.
    """
    if multilabel or logits.shape[1] == 1:
        # A class is present if its logit is positive. With a single unit, a positive logit means the second class.
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
