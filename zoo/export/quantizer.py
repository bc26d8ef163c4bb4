"""Quantizes a graph to 8 bits with one given configuration.

onnxruntime does the calibration and the quantization. The quantized graph has QuantizeLinear and DequantizeLinear
nodes. When onnxruntime loads the graph, it fuses these nodes and their neighbors into int8 kernels. `zoo.export.int8`
searches for the best configuration.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from zoo.convert.batch_constants import batch_only
from zoo.convert.keras_to_onnx import INPUT, LOGITS
from zoo.convert.session import quantization
from zoo.errors import ConversionFailed

# The operator types that have weights.
WEIGHTED = ("Conv", "Gemm", "MatMul")
PERCENTILE = 99.99
# The number of pictures per step of calibration.
CHUNK = 8


@dataclass(frozen=True)
class QuantConfig:
    """Describes how to quantize a graph.

    Args:
        calibration: The method that finds the ranges of activations: "minmax", "percentile" (covers 99.99 % of the
            values) or "entropy".
        activations: The data type of quantized activations, "uint8" or "int8".
        per_channel: True uses one scale per channel of the weights. False uses one scale per weight tensor.
        weight_bits: 8 or 7. Some processors add two products of an activation and a weight in a 16-bit accumulator.
            With 7-bit weights, the accumulator cannot overflow.
        left_out: Names of nodes that stay in float32.
    """

    calibration: str = "minmax"
    activations: str = "uint8"
    per_channel: bool = True
    weight_bits: int = 8
    left_out: tuple[str, ...] = ()


class Quantizer:
    """Quantizes one graph with any number of configurations.

    Each calibration method runs at most once, because its result is stored.

    Args:
        graph: The float32 graph. It is not changed.
        calibration: Training pictures on which the ranges of activations are measured, a uint8 array (N, H, W, C) in
            0..255.

    Attributes:
        weighted: Names of the nodes with weights that can be quantized, in the order of the graph.

    Raises:
        ConversionFailed: The graph has no node with weights.
    """

    def __init__(self, graph: onnx.ModelProto, calibration: np.ndarray):
        self._graph = onnx.shape_inference.infer_shapes(_named(graph))
        self._pixels = calibration
        self._ranges: dict[str, Any] = {}
        self._excluded = _before_and_after(self._graph.graph)
        self.weighted = [
            node.name for node in self._graph.graph.node if node.op_type in WEIGHTED and node.name not in self._excluded
        ]
        if not self.weighted:
            raise ConversionFailed(
                f"there is nothing to quantize: the network has no operation of the kinds {', '.join(WEIGHTED)}."
            )

    def graph(self, config: QuantConfig, only: Sequence[str] = ()) -> onnx.ModelProto:
        """Return a quantized copy of the float32 graph.

        Args:
            config: How to quantize the graph.
            only: Names of the nodes to quantize. Empty means all nodes that can be quantized. Nodes in
                `config.left_out` are never quantized.

        Returns:
            The copy, with QuantizeLinear and DequantizeLinear nodes around the quantized nodes.

        Raises:
            ConversionFailed: onnxruntime cannot calibrate or quantize the graph.
        """
        tools = quantization()
        ranges = self.ranges(config.calibration)
        copy = onnx.ModelProto()
        copy.CopyFrom(self._graph)
        types = {"uint8": tools.QuantType.QUInt8, "int8": tools.QuantType.QInt8}
        try:
            with _quiet():
                quantizer = tools.QDQQuantizer(
                    copy,
                    per_channel=config.per_channel,
                    reduce_range=config.weight_bits == 7,
                    weight_qType=tools.QuantType.QInt8,
                    activation_qType=types[config.activations],
                    tensors_range=ranges,
                    nodes_to_quantize=list(only),
                    nodes_to_exclude=[*self._excluded, *config.left_out],
                    op_types_to_quantize=list(tools.registry.QDQRegistry),
                    # Quantized logits would give probabilities in steps of several hundredths.
                    extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
                )
                quantizer.quantize_model()
        except Exception as error:
            # onnxruntime's quantizer raises ValueError, KeyError, RuntimeError and more.
            raise ConversionFailed(f"onnxruntime cannot quantize the network: {error}") from error
        return quantizer.model.model

    def is_calibrated(self, method: str) -> bool:
        """Return whether a calibration method has run, so that its ranges are stored."""
        return method in self._ranges

    def ranges(self, method: str, progress: Callable[[int, int], None] | None = None) -> Any:
        """Return the range of every float tensor, measured with a calibration method.

        Each method runs only once. Later calls return its stored ranges.

        Args:
            method: The calibration method; see `QuantConfig`.
            progress: Called with (pictures done, pictures in total) while the method runs; None means no calls.

        Raises:
            ConversionFailed: onnxruntime cannot calibrate the graph.
        """
        if method not in self._ranges:
            tools = quantization()
            methods = {
                "minmax": (tools.CalibrationMethod.MinMax, {}),
                "percentile": (tools.CalibrationMethod.Percentile, {"percentile": PERCENTILE, "symmetric": False}),
                "entropy": (tools.CalibrationMethod.Entropy, {}),
            }
            calibration_method, options = methods[method]
            with tempfile.TemporaryDirectory(prefix="zoo-calibrate-") as folder, _quiet():
                source = Path(folder, "graph.onnx")
                onnx.save(self._graph, source)
                try:
                    calibrator = tools.create_calibrator(
                        source,
                        augmented_model_path=str(Path(folder, "augmented.onnx")),
                        calibrate_method=calibration_method,
                        extra_options=options,
                    )
                    # The calibrator keeps every activation of the pictures that it receives at once.
                    for i in range(0, len(self._pixels), CHUNK):
                        calibrator.collect_data(_Reader(self._pixels[i : i + CHUNK]))
                        if progress:
                            progress(min(i + CHUNK, len(self._pixels)), len(self._pixels))
                    self._ranges[method] = calibrator.compute_data()
                except Exception as error:
                    # The calibrator's exceptions have no common base class.
                    raise ConversionFailed(f"onnxruntime cannot calibrate the network: {error}") from error
        return self._ranges[method]


class _Reader:
    """Passes one batch of pictures to onnxruntime's calibrator.

    The calibrator calls `get_next` twice. The first call returns the batch. The second call returns None, which ends
    this step of the calibration.

    Args:
        pixels: The batch, a uint8 array (N, H, W, C) in 0..255.
    """

    def __init__(self, pixels: np.ndarray):
        self._waiting = [{INPUT: pixels}]

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return self._waiting.pop() if self._waiting else None


def _named(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a graph in which every node has a unique name.

    `QuantConfig.left_out` refers to nodes by these names.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    seen: set[str] = set()
    for i, node in enumerate(copy.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{i}"
        seen.add(node.name)
    return copy


def _before_and_after(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes that always stay in float32.

    Most of these nodes are at the two ends of the graph:

    - The nodes before the first one with weights normalize the pixels, which already have 8 bits.
    - The nodes after the logits compute the probabilities with a softmax or a sigmoid. In a binary network with one
      unit, they also compute the probability of the first class. An 8-bit probability could not have values between 0
      and 1/255.
    - Nodes that depend on the batch size alone, such as those that repeat a class token for each picture.
    """
    same_for_all = batch_only(graph)
    constants = {tensor.name for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    before: set[str] = set()
    reached = {INPUT}
    for node in graph.node:
        inputs = [name for name in node.input if name and name not in constants]
        if node.op_type not in WEIGHTED and inputs and all(name in reached for name in inputs):
            before.add(node.name)
            reached |= set(node.output)
    below_logits = set()
    waiting = [LOGITS]
    while waiting:
        producer = producers.get(waiting.pop())
        if producer is not None and producer.name not in below_logits:
            below_logits.add(producer.name)
            waiting += producer.input
    return [
        node.name
        for node in graph.node
        if node.name in before or node.name not in below_logits or same_for_all & set(node.output)
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress standard output and all log messages below the level ERROR inside a `with` block.

    onnxruntime prints and logs advice that is meant for people who call its quantizer directly.
    """
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
