"""Puts calibration and the outlier score into the graph of a network, without Keras."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from zoo.convert.keras_to_onnx import FEATURE_NORM, LOGITS, OUTLIER_SCORE, PROBABILITIES
from zoo.convert.optimize import drop_unused
from zoo.errors import ConversionFailed


def features_of(graph: onnx.ModelProto) -> str | None:
    """Return the name of the output with pooled features, float32 [batch, n]; None if the graph has none."""
    names = [output.name for output in graph.graph.output]
    others = [name for name in names if name not in (LOGITS, PROBABILITIES, OUTLIER_SCORE, FEATURE_NORM)]
    return others[0] if others else None


def with_calibration(
    graph: onnx.ModelProto, scale: npt.NDArray[np.float64], shift: npt.NDArray[np.float64], *, task: str
) -> onnx.ModelProto:
    """Return a graph whose probabilities are calibrated. Its logits are those of the graph given.

    Args:
        graph: A graph with the outputs `logits` and `probabilities`.
        scale: What logits are multiplied by before they become probabilities, (units,).
        shift: What is added then, (units,).
        task: "multiclass", "binary" or "multilabel".

    Raises:
        ConversionFailed: The graph is not valid.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    _sort(model.graph)
    outputs = {output.name: output for output in model.graph.output}
    kept = [output for name, output in outputs.items() if name != PROBABILITIES]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    drop_unused(model.graph)
    model.graph.initializer.append(numpy_helper.from_array(scale.astype("float32"), "calibration_scale"))
    nodes = [helper.make_node("Mul", [LOGITS, "calibration_scale"], ["calibrated"], name="calibration_scaling")]
    if shift.any():
        model.graph.initializer.append(numpy_helper.from_array(shift.astype("float32"), "calibration_shift"))
        nodes[0].output[0] = "scaled_logits"
        nodes.append(
            helper.make_node("Add", ["scaled_logits", "calibration_shift"], ["calibrated"], name="calibration_shifting")
        )
    model.graph.node.extend([*nodes, *probability_nodes("calibrated", len(scale), task)])
    model.graph.output.append(outputs[PROBABILITIES])
    return _checked(model)


def probability_nodes(logits: str, units: int, task: str) -> list[NodeProto]:
    """Return the nodes that compute `probabilities` from logits.

    Args:
        logits: The name of the logits, float32 [batch, units].
        units: The number of units.
        task: "multiclass", "binary" or "multilabel"; see `zoo.train.network.attach_head`.
    """
    if task == "multilabel":
        return [helper.make_node("Sigmoid", [logits], [PROBABILITIES], name=PROBABILITIES)]
    if units > 1:
        return [helper.make_node("Softmax", [logits], [PROBABILITIES], name=PROBABILITIES, axis=1)]
    # sigmoid(-x) and sigmoid(x), because 1 - p rounds a small probability to 0.
    return [
        helper.make_node("Neg", [logits], ["other_logits"], name="other_logits"),
        helper.make_node("Concat", ["other_logits", logits], ["both_logits"], name="both_logits", axis=1),
        helper.make_node("Sigmoid", ["both_logits"], [PROBABILITIES], name=PROBABILITIES),
    ]


def with_outlier_score(graph: onnx.ModelProto, prototypes: npt.NDArray[np.float32]) -> onnx.ModelProto:
    """Return a graph with the outputs `outlier_score` and `feature_norm` in place of the pooled features.

    Args:
        graph: A graph with pooled features as an output; see `features_of`.
        prototypes: Directions in the space of the features, float32 (prototypes, n). The graph stores them in 16 bits.

    Returns:
        A graph with two more outputs, float32 [batch]: `outlier_score`, 1 minus the cosine between the features and the
        prototype that is nearest, in 0..2; and `feature_norm`, the length of the features.

    Raises:
        ConversionFailed: The graph is not valid, or has no pooled features.
    """
    features = features_of(graph)
    if features is None:
        raise ConversionFailed("the graph has no pooled features.")
    model = without_features(graph)
    weights: dict[str, npt.NDArray[Any]] = {
        "prototypes": np.ascontiguousarray(prototypes.T, np.float16),
        "smallest_norm": np.array(1e-12, np.float32),
        "one": np.array(1, np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, f"outlier_{name}") for name, value in weights.items())
    # Rounded to 16 bits, a prototype is no longer of length 1, so the cosine is divided by its length.
    lengths = np.linalg.norm(weights["prototypes"].astype(np.float32), axis=0).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(lengths, "outlier_lengths"))

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        return helper.make_node(kind, inputs, [output], name=output, **attributes)

    model.graph.node.extend(
        [
            node("ReduceL2", [features], FEATURE_NORM, axes=[1], keepdims=0),
            node("ReduceL2", [features], "outlier_norm", axes=[1], keepdims=1),
            node("Max", ["outlier_norm", "outlier_smallest_norm"], "outlier_divisor"),
            node("Div", [features, "outlier_divisor"], "outlier_unit"),
            node("Cast", ["outlier_prototypes"], "outlier_directions", to=TensorProto.FLOAT),
            node("MatMul", ["outlier_unit", "outlier_directions"], "outlier_products"),
            node("Div", ["outlier_products", "outlier_lengths"], "outlier_cosines"),
            node("ReduceMax", ["outlier_cosines"], "outlier_nearest", axes=[1], keepdims=0),
            node("Sub", ["outlier_one", "outlier_nearest"], OUTLIER_SCORE),
        ]
    )
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in (OUTLIER_SCORE, FEATURE_NORM)
    )
    return _checked(model)


def without_features(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a graph whose pooled features are not an output."""
    features = features_of(graph)
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    kept = [output for output in model.graph.output if output.name != features]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return model


def _sort(graph: onnx.GraphProto) -> None:
    """Sort the nodes so that each stands after those whose outputs it reads. The quantizer does not keep this order."""
    waiting = list(graph.node)
    known = {"", *(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)}
    ordered: list[NodeProto] = []
    while waiting:
        later = []
        for node in waiting:
            if all(name in known for name in node.input):
                ordered.append(node)
                known.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            # The checker names the input that is missing.
            ordered += later
            break
        waiting = later
    del graph.node[:]
    graph.node.extend(ordered)


def _checked(model: onnx.ModelProto) -> onnx.ModelProto:
    _sort(model.graph)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionFailed(f"the graph cannot be extended: {error}") from error
    return model
