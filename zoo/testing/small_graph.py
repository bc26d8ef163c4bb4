"""Makes the small finished graph that formats are checked with. It needs neither Keras nor TensorFlow.

It has what exported files have: pixels as input, normalization, convolutions, calibrated probabilities and an outlier
score. Its weights are random, with sizes like those of a trained network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.testing.tools import synthetic_pixels

if TYPE_CHECKING:
    import onnx

CLASSES = ("bars", "discs", "noise", "Größe 4")
SIDE = 32


def finished_graph(kind: str) -> onnx.ModelProto:
    """Return the graph of an exported file in float32, with 16-bit weights, or in 8 bits.

    Args:
        kind: "float32", "fp16" or "int8"; see `zoo.plugin.Format.graph`.
    """
    from zoo.convert import trust_graph
    from zoo.export.fp16 import to_fp16
    from zoo.export.quantizer import QuantConfig, Quantizer

    graph = _raw()
    if kind == "int8":
        graph = Quantizer(graph, synthetic_pixels(32, (SIDE, SIDE), 3, seed=3)).graph(QuantConfig())
    if kind == "fp16":
        graph = to_fp16(graph)
    graph = trust_graph.with_calibration(graph, np.full(len(CLASSES), 0.8), np.zeros(len(CLASSES)), task="multiclass")
    prototypes = np.random.default_rng(2).normal(size=(4, 48)).astype(np.float32)
    return trust_graph.with_outlier_score(graph, prototypes)


def _raw() -> onnx.ModelProto:
    """Return the graph of a network: outputs `logits`, `probabilities` and pooled features."""
    from onnx import TensorProto, checker, helper, numpy_helper

    random = np.random.default_rng(1)

    def drawn(*shape: int) -> np.ndarray:
        values: np.ndarray = random.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        return values.astype(np.float32)

    values: dict[str, np.ndarray] = {
        "scale": np.array(1 / 127.5, np.float32),
        "one": np.array(1, np.float32),
        "first": drawn(24, 3, 3, 3),
        "first_bias": random.normal(0, 0.1, 24).astype(np.float32),
        "second": drawn(48, 24, 3, 3),
        "second_bias": random.normal(0, 0.1, 48).astype(np.float32),
        # Features of such networks hardly differ between pictures, so that small weights would give equal answers.
        "dense": (random.normal(size=(48, len(CLASSES))) * 1.5).astype(np.float32),
    }
    values["dense"] = values["dense"] - values["dense"].mean(axis=0)
    strides: dict[str, Any] = {"strides": [2, 2], "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["levels"], ["channels_first"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["channels_first", "scale"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "one"], ["normalized"]),
        helper.make_node("Conv", ["normalized", "first", "first_bias"], ["x"], **strides),
        helper.make_node("Relu", ["x"], ["x_relu"]),
        helper.make_node("Conv", ["x_relu", "second", "second_bias"], ["y"], **strides),
        helper.make_node("Relu", ["y"], ["y_relu"]),
        helper.make_node("GlobalAveragePool", ["y_relu"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "dense"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    outputs = {"logits": len(CLASSES), "probabilities": len(CLASSES), "features": 48}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", count]) for name, count in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return model
