"""Checks converted graphs: operators that are not ONNX's own, and operators that needlessly cost time."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def check_graph(graph: onnx.ModelProto, transposes: int = 4) -> None:
    """Check that a converted graph has only standard ONNX operators, and no operators that needlessly cost time.

    Args:
        graph: The graph that `zoo.convert.keras_to_onnx.convert` returned.
        transposes: The greatest number of Transpose nodes that the graph may have.

    Raises:
        AssertionError: The graph has an input other than `image`, a non-standard operator, or too many Transpose nodes.
            Or a convolution is followed by a BatchNorm, or by a Mul or Add with one constant per channel. The
            converter should have folded such an operator into the weights of the convolution.
    """
    nodes = graph.graph.node
    inputs = [value.name for value in graph.graph.input]
    assert inputs == ["image"], f"the graph's inputs are {inputs}"
    foreign = {f"{node.domain}:{node.op_type}" for node in nodes if node.domain}
    assert not foreign, f"operators that are not ONNX's own: {sorted(foreign)}"
    count = sum(node.op_type == "Transpose" for node in nodes)
    assert count <= transposes, f"the graph has {count} Transpose nodes; at most {transposes} are allowed"

    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    readers = defaultdict(list)
    for node in nodes:
        for name in node.input:
            readers[name].append(node)
    for node in nodes:
        if node.op_type != "Conv" or len(readers[node.output[0]]) != 1:
            continue
        (reader,) = readers[node.output[0]]
        scales = reader.op_type in ("Mul", "Add") and any(
            math.prod(constants.get(name, ())) == constants[node.input[1]][0] > 1 for name in reader.input
        )
        assert not scales and reader.op_type != "BatchNormalization", f"not folded into its convolution: {reader.name}"
