"""Opens graphs in ONNX Runtime on the CPU, and imports ONNX Runtime's tools for quantization."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

import onnx

from zoo import backend
from zoo.errors import ConversionFailed

if TYPE_CHECKING:
    import onnxruntime


def open_session(
    graph: onnx.ModelProto, *, as_written: bool = False, options: onnxruntime.SessionOptions | None = None
) -> onnxruntime.InferenceSession:
    """Open a graph in ONNX Runtime on the CPU. Warnings of ONNX Runtime are not printed.

    Args:
        graph: The graph.
        as_written: True runs the operations exactly as the graph has them, without ONNX Runtime's own optimizations.
        options: Threads and the like. None means those of ONNX Runtime.

    Raises:
        ConversionFailed: ONNX Runtime cannot run the graph.
    """
    onnxruntime = backend.onnxruntime()
    options = options or onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # The exceptions of ONNX Runtime have no common base class.
        raise ConversionFailed(f"onnxruntime cannot run the graph: {str(error).splitlines()[0]}") from error


def quantization() -> ModuleType:
    """Import the package `onnxruntime.quantization` and return it."""
    backend.onnxruntime()
    return importlib.import_module("onnxruntime.quantization")
