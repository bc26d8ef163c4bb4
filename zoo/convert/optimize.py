"""The graph as a device should get it: BatchNorm folded into convolutions, no Transpose that is not needed.

The work is onnxruntime's, offline and at its basic level, which keeps to ONNX's own operators: every BatchNorm that
directly follows a convolution (depthwise too) disappears in it, and Transposes between NHWC and NCHW cancel out.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

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
    # onnxruntime lists every domain that it knows.
    used = {node.domain for node in cleaned.graph.node}
    kept = [opset for opset in cleaned.opset_import if opset.domain in used]
    del cleaned.opset_import[:]
    cleaned.opset_import.extend(kept)
    return cleaned
