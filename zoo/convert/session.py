"""Opening a graph in onnxruntime, quietly and on the processor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from zoo.errors import ConversionFailed

if TYPE_CHECKING:
    import onnxruntime


def open_session(graph: onnx.ModelProto, *, as_written: bool = False) -> onnxruntime.InferenceSession:
    """Open a graph, or with `as_written` without onnxruntime's own optimisations.

    Raises:
        ConversionFailed: onnxruntime cannot run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # onnxruntime's exceptions share no base class.
        raise ConversionFailed(f"onnxruntime cannot run the graph: {str(error).splitlines()[0]}") from error
