"""Puts a linear head on a converted backbone, without Keras."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from zoo.convert.keras_to_onnx import LOGITS, PROBABILITIES
from zoo.convert.optimize import drop_unused
from zoo.convert.trust_graph import probability_nodes
from zoo.errors import ConversionFailed


def with_linear_head(
    backbone: onnx.ModelProto, kernel: np.ndarray, bias: np.ndarray, *, task: str, groups: int
) -> onnx.ModelProto:
    """Return a graph that computes the probabilities of a linear head on pooled features.

    Args:
        backbone: A graph with the outputs `features_0`, `features_1` ..., float32 [batch, n].
        kernel: float32 (features, units): the rows for `features_0` first, then those for the other outputs that are
            used. There is one unit per class, or a single one if the task is "binary".
        bias: float32 (units,).
        task: "multiclass", "binary" or "multilabel"; see `zoo.train.network.attach_head`.
        groups: How many of the outputs the head reads. Nodes that only the other ones need are left out.

    Returns:
        A graph with the input `image` and the outputs `logits`, `probabilities` and the features that the head reads,
        as `zoo.convert.keras_to_onnx.convert` makes it.

    Raises:
        ConversionFailed: The graph is not valid.
    """
    model = onnx.ModelProto()
    model.CopyFrom(backbone)
    graph = model.graph
    features = [f"features_{i}" for i in range(groups)]
    nodes = []
    if groups > 1:
        nodes.append(helper.make_node("Concat", features, ["features"], name="features", axis=1))
        features = ["features"]
    weights = [numpy_helper.from_array(np.ascontiguousarray(kernel, "float32"), "head_kernel")]
    weights.append(numpy_helper.from_array(np.ascontiguousarray(bias, "float32"), "head_bias"))
    nodes += [
        helper.make_node("MatMul", [features[0], "head_kernel"], ["head_products"], name="head_products"),
        helper.make_node("Add", ["head_products", "head_bias"], [LOGITS], name=LOGITS),
    ]
    units = len(bias)
    nodes += probability_nodes(LOGITS, units, task)
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    del graph.output[:]
    for name, width in ((LOGITS, units), (PROBABILITIES, max(2, units)), (features[0], len(kernel))):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]))
    drop_unused(graph)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionFailed(f"the head does not fit the graph of the backbone: {error}") from error
    return model
