"""A graph whose weights are stored in 16 bits: half the file, and float32 again as soon as it is loaded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SMALLEST = 256
LARGEST = float(np.finfo(np.float16).max)


def to_fp16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Store a graph's weights as float16, each followed by a Cast that onnxruntime folds when it loads the file.

    Tensors of fewer than 256 values, and those with one beyond float16's range, stay as they are.

    Args:
        graph: What `convert` gave.

    Returns:
        A graph with the same inputs and outputs that computes in float32.
    """
    copy = _copy(graph)
    casts = []
    for tensor, values in _weights(copy):
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values, f"{name}_float16"))
        casts.append(helper.make_node("Cast", [f"{name}_float16"], [name], f"{name}_to_float32", to=TensorProto.FLOAT))
    nodes = [*casts, *copy.graph.node]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def rounded(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same weights as `to_fp16` stores, as float32."""
    copy = _copy(graph)
    for tensor, values in _weights(copy):
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return copy


def _copy(graph: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy


def _weights(graph: onnx.ModelProto) -> Iterator[tuple[TensorProto, np.ndarray]]:
    """The tensors that are stored in 16 bits, and their values so."""
    for tensor in graph.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            if values.size >= SMALLEST and np.abs(values).max() <= LARGEST:
                yield tensor, values.astype(np.float16)
