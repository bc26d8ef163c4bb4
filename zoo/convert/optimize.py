"""The graph as a device should get it: BatchNorm folded into convolutions, no Transpose that is not needed.

The work is onnxruntime's, offline and at its basic level, which keeps to ONNX's own operators: every BatchNorm that
directly follows a convolution (depthwise too) disappears in it, and Transposes between NHWC and NCHW cancel out.
Reshapes get constant targets.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx

from zoo.errors import ConversionFailed, WriteError


def optimize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Clean a graph up.

    Args:
        model: What tf2onnx gives, channels last.

    Returns:
        A graph that computes the same, with the same inputs and outputs.

    Raises:
        ConversionFailed: onnxruntime cannot read the graph.
        WriteError: The folder for temporary files is full.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="zoo-optimize-") as folder:
        path = Path(folder, "model.onnx")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime's exceptions share no base class.
            if "serialization failed" in str(error):
                raise WriteError(
                    f"the graph cannot be written to {folder!r}; is the disk full? TMPDIR names another folder."
                ) from error
            raise ConversionFailed(f"onnxruntime cannot read the graph: {str(error).splitlines()[0]}") from error
        cleaned = onnx.load(path)
    _reshape_to_constants(cleaned.graph)
    # onnxruntime lists every domain that it knows.
    used = {node.domain for node in cleaned.graph.node}
    kept = [opset for opset in cleaned.opset_import if opset.domain in used]
    del cleaned.opset_import[:]
    cleaned.opset_import.extend(kept)
    return cleaned


def _reshape_to_constants(graph: onnx.GraphProto) -> None:
    """Give every Reshape whose target is computed, though only the batch is unknown, the constant target [-1, ...].

    Flattening a map is otherwise seven nodes of shape arithmetic, which compilers for accelerators refuse.
    """
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        # Branches and loops read names of the graph around them.
        return
    makers = {name: node for node in graph.node for name in node.output}
    # Shape arithmetic is in whole numbers; weights stay where they are.
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
    _drop_unused(graph)


def _is_one_number(name: str, makers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a tensor is computed as one number of a shape, rather than several of them or a constant."""
    for kind in ("Unsqueeze", "Squeeze"):
        if name not in makers or makers[name].op_type != kind:
            return False
        name = makers[name].input[0]
    return True


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and constants that nothing reads."""
    wanted = {value.name for value in graph.output}
    for i in reversed(range(len(graph.node))):
        if wanted & set(graph.node[i].output):
            wanted |= set(graph.node[i].input)
        else:
            del graph.node[i]
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name not in wanted:
            del graph.initializer[i]
