"""Stores the weights of a graph in 16 bits, so that the file is half as large.

onnxruntime converts the weights back to float32 when it loads the file. The graph therefore computes in float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SMALLEST_SIZE = 256
LARGEST_VALUE = float(np.finfo(np.float16).max)


def to_fp16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a graph that stores its weights as float16.

    A Cast node turns each weight tensor back into float32. onnxruntime runs these nodes only once, when it loads the
    file. A weight tensor stays float32 if it has fewer than 256 values, or a value outside the range of float16.

    Args:
        graph: A graph with float32 weights. It is not changed.

    Returns:
        A graph with the same inputs and outputs, which computes in float32.
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
    """Return a copy of a graph with the weights rounded as by `to_fp16`, but stored as float32."""
    copy = _copy(graph)
    for tensor, values in _weights(copy):
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return copy


def _copy(graph: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy


def _weights(graph: onnx.ModelProto) -> Iterator[tuple[TensorProto, np.ndarray]]:
    """Yield each weight tensor that can be stored in 16 bits, together with its values as float16."""
    for tensor in graph.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            if values.size >= SMALLEST_SIZE and np.abs(values).max() <= LARGEST_VALUE:
                yield tensor, values.astype(np.float16)
