"""Finds what a graph computes from the batch size alone, and makes constants of it.

A layer of Keras needs an input. A trainable array that is added to every picture, such as the positions of a vision
transformer, is therefore the kernel of a layer that reads ones. In the graph it would be computed again for every
picture, and an int8 search would try to quantize it.
"""

from __future__ import annotations

import numpy as np
import onnx

from zoo import backend

# Operators that repeat an input along an axis where its length is 1.
BROADCASTING = ("Add", "Sub", "Mul", "Div")


def batch_only(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the computed tensors whose values follow from the batch size alone.

    Args:
        graph: A graph without control flow, whose nodes stand in the order of computation.
    """
    constants = {tensor.name for tensor in graph.initializer}
    found: set[str] = set()
    for node in graph.node:
        inputs = [name for name in node.input if name]
        if node.op_type == "Shape" or (inputs and all(name in constants or name in found for name in inputs)):
            found.update(node.output)
    return found


def fold(model: onnx.ModelProto) -> None:
    """Replace tensors that are equal for all pictures by constants, where an operator can broadcast them.

    Args:
        model: A graph with one input, whose first axis is the batch. It is changed in place. Nodes that are no longer
            needed stay.
    """
    graph = model.graph
    only = batch_only(graph)
    reads = [
        (node, i)
        for node in graph.node
        if node.op_type in BROADCASTING and len(node.input) == 2 and not only & set(node.output)
        for i in range(2)
        if node.input[i] in only
    ]
    names = list(dict.fromkeys(node.input[i] for node, i in reads))
    if not names:
        return
    one, two = (_values(model, names, batch) for batch in (1, 2))
    for node, i in reads:
        name = node.input[i]
        first, second = one[name], two[name]
        if first.dtype != np.float32 or not first.ndim or second.shape != (2 * first.shape[0], *first.shape[1:]):
            continue
        if first.shape[0] == 1 and (second == first).all():
            constant = f"constant_{name}"
            if all(tensor.name != constant for tensor in graph.initializer):
                graph.initializer.append(onnx.numpy_helper.from_array(first, constant))
            node.input[i] = constant


def _values(model: onnx.ModelProto, names: list[str], batch: int) -> dict[str, np.ndarray]:
    """Compute tensors of a graph that depend on the batch size alone."""
    from zoo.convert.optimize import drop_unused

    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.output[:]
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    drop_unused(part.graph)
    (pixels,) = part.graph.input
    dtype = onnx.helper.tensor_dtype_to_np_dtype(pixels.type.tensor_type.elem_type)
    shape = [batch, *(each.dim_value for each in pixels.type.tensor_type.shape.dim[1:])]
    onnxruntime = backend.onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, {pixels.name: np.zeros(shape, dtype)}), strict=True))
