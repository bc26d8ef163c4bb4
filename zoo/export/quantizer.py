"""One way of bringing a graph to 8 bits -> the graph. Calibration and quantisation are onnxruntime's."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from zoo.convert.keras_to_onnx import INPUT, LOGITS
from zoo.convert.session import quantization
from zoo.errors import ConversionFailed

WEIGHTED = ("Conv", "Gemm", "MatMul")

PERCENTILE = 99.99

CHUNK = 8


@dataclass(frozen=True)
class QuantConfig:
    """One way of bringing a graph to 8 bits.

    Args:
        calibration: How ranges of activations are found: "minmax", "percentile" (99.99 % of the values) or "entropy".
        activations: Their type, "uint8" or "int8".
        per_channel: One scale a channel of the weights, rather than one a tensor.
        weight_bits: 8, or 7, which no processor's sums of 16 bits can overflow.
        left_out: Names of operations that stay in float32.
    """

    calibration: str = "minmax"
    activations: str = "uint8"
    per_channel: bool = True
    weight_bits: int = 8
    left_out: tuple[str, ...] = ()


class Quantizer:
    """Quantises one graph in many ways; each kind of ranges is found once."""

    def __init__(self, graph: onnx.ModelProto, calibration: np.ndarray):
        self._graph = onnx.shape_inference.infer_shapes(_named(graph))
        self._pixels = calibration
        self._ranges: dict[str, Any] = {}
        self._frame = _outside(self._graph.graph)
        self.weighted = [
            node.name for node in self._graph.graph.node if node.op_type in WEIGHTED and node.name not in self._frame
        ]
        if not self.weighted:
            raise ConversionFailed(f"the network has no {', '.join(WEIGHTED)}: there is nothing to bring to 8 bits.")

    def graph(self, config: QuantConfig, only: Sequence[str] = ()) -> onnx.ModelProto:
        """The graph in 8 bits, or with `only` just these operations of it."""
        tools = quantization()
        ranges = self._calibrated(config.calibration)
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
                    nodes_to_exclude=[*self._frame, *config.left_out],
                    op_types_to_quantize=list(tools.registry.QDQRegistry),
                    # Logits of 8 bits would give probabilities in steps of some hundredths.
                    extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
                )
                quantizer.quantize_model()
        except Exception as error:
            # onnxruntime's quantiser raises ValueError, KeyError, RuntimeError and more.
            raise ConversionFailed(f"onnxruntime cannot quantise the network: {error}") from error
        return quantizer.model.model

    def _calibrated(self, method: str) -> Any:
        """Ranges of every float tensor."""
        if method not in self._ranges:
            tools = quantization()
            kinds = {
                "minmax": (tools.CalibrationMethod.MinMax, {}),
                "percentile": (tools.CalibrationMethod.Percentile, {"percentile": PERCENTILE, "symmetric": False}),
                "entropy": (tools.CalibrationMethod.Entropy, {}),
            }
            kind, options = kinds[method]
            with tempfile.TemporaryDirectory(prefix="zoo-calibrate-") as folder, _quiet():
                source = Path(folder, "graph.onnx")
                onnx.save(self._graph, source)
                try:
                    calibrator = tools.create_calibrator(
                        source,
                        augmented_model_path=str(Path(folder, "augmented.onnx")),
                        calibrate_method=kind,
                        extra_options=options,
                    )
                    # Its memory grows with what it is given at once.
                    for i in range(0, len(self._pixels), CHUNK):
                        calibrator.collect_data(_Reader(self._pixels[i : i + CHUNK]))
                    self._ranges[method] = calibrator.compute_data()
                except Exception as error:
                    # As above.
                    raise ConversionFailed(f"onnxruntime cannot calibrate the network: {error}") from error
        return self._ranges[method]


class _Reader:
    """Pictures as onnxruntime's calibration asks for them: one batch, then None."""

    def __init__(self, pixels: np.ndarray):
        self._left = [{INPUT: pixels}]

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return self._left.pop() if self._left else None


def _named(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every operation has a name of its own, for it is by names that they are left out."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    seen: set[str] = set()
    for i, node in enumerate(copy.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{i}"
        seen.add(node.name)
    return copy


def _outside(graph: onnx.GraphProto) -> list[str]:
    """Operations before the first that has weights, and after the logits: normalisation, and softmax or sigmoid.

    Pixels are in 8 bits already, and a probability of 8 bits could not be between 0 and 1/255.
    """
    constants = {tensor.name for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    before: set[str] = set()
    reached = {INPUT}
    for node in graph.node:
        inputs = [name for name in node.input if name and name not in constants]
        if node.op_type not in WEIGHTED and inputs and all(name in reached for name in inputs):
            before.add(node.name)
            reached |= set(node.output)
    within = set()
    waiting = [LOGITS]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in within:
            within.add(node.name)
            waiting += node.input
    return [node.name for node in graph.node if node.name in before or node.name not in within]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without onnxruntime's advice, which is for those who call it themselves."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
