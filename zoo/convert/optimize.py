"""Simplifies a converted graph for devices: folds BatchNorm into convolutions and removes needless Transposes.

ONNX Runtime's graph optimizer does most of the work and writes the simplified graph to a file. The optimizer runs at
its basic level, because the result then has only standard ONNX operators. It folds each BatchNorm that directly follows
a convolution, depthwise or not, into that convolution. It also removes Transposes between NHWC and NCHW that cancel
out. Afterwards, this module replaces the computed target shapes of Reshapes by constants, and so does
`zoo.convert.batch_constants` with arrays that are equal for all pictures.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx

from zoo import backend
from zoo.convert import batch_constants
from zoo.errors import ConversionFailed, WriteError


def optimize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Simplify a graph that tf2onnx has converted.

    Args:
        model: The graph. Its feature maps have channels last.

    Returns:
        A new graph that computes the same outputs from the same inputs.

    Raises:
        ConversionFailed: ONNX Runtime cannot read the graph.
        WriteError: The folder for temporary files is full.
    """
    onnxruntime = backend.onnxruntime()
    with tempfile.TemporaryDirectory(prefix="zoo-optimize-") as folder:
        path = Path(folder, "model.onnx")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # The exceptions of ONNX Runtime have no common base class.
            if "serialization failed" in str(error):
                raise WriteError(
                    f"the graph cannot be written to {folder!r}; the disk may be full. "
                    "Free some space, or set TMPDIR to a folder on another disk."
                ) from error
            raise ConversionFailed(f"onnxruntime cannot read the graph: {str(error).splitlines()[0]}") from error
        cleaned = onnx.load(path)
    _reshape_to_constants(cleaned.graph)
    if not _has_branches(cleaned.graph):
        batch_constants.fold(cleaned)
        drop_unused(cleaned.graph)
    # ONNX Runtime lists all domains that it knows, whether the graph uses them or not.
    used = {node.domain for node in cleaned.graph.node}
    kept = [opset for opset in cleaned.opset_import if opset.domain in used]
    del cleaned.opset_import[:]
    cleaned.opset_import.extend(kept)
    return cleaned


def _reshape_to_constants(graph: onnx.GraphProto) -> None:
    """Replace the computed target shapes of Reshape nodes by constants.

    A target shape is replaced if all its dimensions except the batch size are known. For example, (batch size, 1280)
    becomes the constant [-1, 1280]. Without this function, seven nodes compute the shape of a flattened feature map,
    and compilers for accelerators do not accept these nodes. A graph with control flow (`If`, `Loop` or `Scan` nodes)
    is not changed.
    """
    if _has_branches(graph):
        # Branches and loops may read names of the surrounding graph, which this function does not follow.
        return
    makers = {name: node for node in graph.node for name in node.output}
    # Shapes are integers. Weights are not converted to arrays, because they are large.
    whole = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.data_type in whole
    }
    for node in graph.node:
        maker = makers.get(node.input[1]) if node.op_type == "Reshape" else None
        while maker is not None and maker.op_type == "Cast":
            maker = makers.get(maker.input[0])
        if maker is None or maker.op_type != "Concat":
            continue
        batch, *others = maker.input
        if not _is_one_number(batch, makers):
            continue
        if not all(name in constants and (constants[name] > 0).all() for name in others):
            continue
        target = np.concatenate([[-1], *(constants[name].reshape(-1) for name in others)]).astype(np.int64)
        name = f"target_of_{node.output[0]}"
        graph.initializer.append(onnx.numpy_helper.from_array(target, name))
        node.input[1] = name
    drop_unused(graph)


def _has_branches(graph: onnx.GraphProto) -> bool:
    """Return whether a graph has control flow: `If`, `Loop` or `Scan` nodes, which hold graphs of their own."""
    return any(attribute.HasField("g") for node in graph.node for attribute in node.attribute)


def _is_one_number(name: str, makers: dict[str, onnx.NodeProto]) -> bool:
    """Return whether a tensor is a single number that the graph takes from a shape, such as the batch size.

    tf2onnx ends this computation with a Squeeze node and then an Unsqueeze node. This function checks only whether
    these two nodes compute the tensor. No node computes a constant, so the result for a constant is False.

    Args:
        name: The name of the tensor.
        makers: Maps the name of each computed tensor to the node that computes it.
    """
    for kind in ("Unsqueeze", "Squeeze"):
        if name not in makers or makers[name].op_type != kind:
            return False
        name = makers[name].input[0]
    return True


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove all nodes and constants that do not contribute to an output of the graph."""
    wanted = {value.name for value in graph.output}
    for i in reversed(range(len(graph.node))):
        if wanted & set(graph.node[i].output):
            wanted |= set(graph.node[i].input)
        else:
            del graph.node[i]
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name not in wanted:
            del graph.initializer[i]
