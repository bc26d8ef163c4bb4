"""Defines the formats `openvino`, `openvino-fp16` and `openvino-int8`: OpenVINO IR, a model.xml with a model.bin.

OpenVINO reads zoo's ONNX files itself, in 8 bits too: it knows the pairs of QuantizeLinear and DequantizeLinear. The
metadata are entries of the file's rt_info, under "zoo".

`openvino` stores float32, although OpenVINO's own default rounds the weights to 16 bits. For MobileNetV2 on cats and
dogs, float32 answers as the ONNX file does, to 0.000001. Rounded weights change probabilities by up to 0.013, and are
not faster. Who wants the half size says so: `openvino-fp16`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zoo.plugin import Format, FormatSource, hookimpl

FILE, WEIGHTS_DIGEST = "model.xml", "zoo.weights_sha256"
INSTALL = "pip install 'finezoo[openvino]'"


@functools.cache
def core() -> Any:
    """Return the `openvino.Core` of zoo, which is never removed.

    Two that are removed in the order in which they were made leave a stack for signals that is gone. Then the next
    Ctrl-C ends the process with SIGSEGV (OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()


def make(source: FormatSource, *, compress: bool = False) -> None:
    """Write model.xml and model.bin.

    Args:
        source: The ONNX file and its metadata.
        compress: Whether weights are rounded to 16 bits.
    """
    import onnx
    import openvino

    graph = onnx.load_model_from_string(source.onnx)
    # The reader would store them a second time, in a place of its own.
    del graph.metadata_props[:]
    model = core().read_model(graph.SerializeToString())
    for number, operation in enumerate(model.get_ordered_ops()):
        # OpenVINO counts those without a name in the whole process, so that the same network would get other bytes.
        if operation.get_friendly_name() == operation.get_name():
            operation.set_friendly_name(f"{operation.get_type_name()}:{number}")
    for key, text in source.metadata.items():
        model.set_rt_info(text, ["zoo", key])
    target = source.folder / FILE
    openvino.save_model(model, target, compress_to_fp16=compress)
    # With the digest of the weights, the runtime notices if the two files do not belong together.
    digest = hashlib.sha256(target.with_suffix(".bin").read_bytes()).hexdigest()
    model.set_rt_info(f'"{digest}"', ["zoo", WEIGHTS_DIGEST])
    openvino.save_model(model, target, compress_to_fp16=compress)


def make_compressed(source: FormatSource) -> None:
    """Write model.xml and model.bin with weights of 16 bits."""
    make(source, compress=True)


def run(folder: Path) -> Callable[[Any], Mapping[str, Any]]:
    """Open an IR on the processor, in the precision that the file has."""
    # Without the hint, OpenVINO computes in 16 bits on some processors.
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core().compile_model(folder / FILE, "CPU", options)
    request = compiled.create_infer_request()
    names = [output.any_name for output in compiled.outputs]

    def outputs(pixels: Any) -> Mapping[str, Any]:
        # The arrays of a request are overwritten by its next call.
        found = request.infer({0: pixels}).values()
        return {name: values.copy() for name, values in zip(names, found, strict=True)}

    return outputs


@hookimpl
def zoo_formats() -> list[Format]:
    """Return the formats of OpenVINO."""
    shared: dict[str, Any] = {"file": FILE, "run": run, "needs": ("openvino",), "install": INSTALL}
    shared["same_bytes"] = True
    return [
        Format(
            name="openvino", summary="OpenVINO IR in float32, for Intel's hardware", make=make, tolerance=1e-3, **shared
        ),
        Format(
            name="openvino-fp16",
            summary="OpenVINO IR with 16-bit weights, half as large",
            make=make_compressed,
            tolerance=0.05,
            **shared,
        ),
        Format(name="openvino-int8", summary="OpenVINO IR in 8 bits", graph="int8", make=make, **shared),
    ]
