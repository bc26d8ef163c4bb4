"""Declares the formats of ONNX files: float32, int8 and fp16. zoo itself makes, checks and runs them.

`zoo.export.variants` describes int8 and fp16, and the options `--int8` and `--fp16` ask for the same files.
"""

from __future__ import annotations

from zoo.plugin import Format, hookimpl

FILE = "model.onnx"


@hookimpl
def zoo_formats() -> list[Format]:
    """Return the formats that zoo_runtime runs with nothing but ONNX Runtime."""
    return [
        Format(name="onnx", summary="ONNX in float32: the file that every export has", file=FILE),
        Format(name="int8", summary="ONNX in 8 bits, for ONNX Runtime; the same as --int8", file=FILE, graph="int8"),
        Format(name="fp16", summary="ONNX with 16-bit weights; the same as --fp16", file=FILE, graph="fp16"),
    ]
