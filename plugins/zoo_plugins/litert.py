"""Defines the formats `litert` and `litert-int8`: model.tflite, for Android and small boards.

zoo builds the graph of the ONNX file as a TensorFlow function (`FormatSource.tensorflow`), with every output that the
ONNX file has, and TensorFlow's converter makes the file of it. An int8 file has the ranges that zoo's int8 search
found. Its outputs, and what follows the pooled features, stay in float32.

What the file carries besides the network:

- the names of its input and outputs, and a signature `serving_default` that has them
- the metadata of TensorFlow Lite (TFLITE_METADATA), from which Android's and MediaPipe's tools read what the input is
  and which file has the labels; see https://ai.google.dev/edge/litert/models/metadata
- a ZIP archive at its end with `labels.txt`, one class a line, and `zoo.json`, the metadata that zoo_runtime reads.
  Interpreters ignore it, and `unzip` and Python's zipfile open it.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.plugin import Format, FormatSource, hookimpl
from zoo_plugins.litert_metadata import tflite_metadata

FILE, ENTRY, LABELS = "model.tflite", "zoo.json", "labels.txt"
INSTALL = "pip install 'finezoo[litert]'"
# A fixed time, so that the same network gives the same bytes.
EPOCH = (1980, 1, 1, 0, 0, 0)


def make(source: FormatSource) -> None:
    """Write model.tflite in float32."""
    _write(source, quantized=False)


def make_int8(source: FormatSource) -> None:
    """Write model.tflite in 8 bits, with the ranges of the int8 graph."""
    _write(source, quantized=True)


def run(folder: Path) -> Callable[[Any], Mapping[str, Any]]:
    """Open a .tflite file with LiteRT on the processor. Pictures go through it one at a time."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / FILE))
    interpreter.allocate_tensors()
    (image,), given = interpreter.get_input_details(), interpreter.get_output_details()

    def one(pixels: Any) -> list[Any]:
        interpreter.set_tensor(image["index"], pixels)
        interpreter.invoke()
        return [interpreter.get_tensor(each["index"]) for each in given]

    def outputs(pixels: Any) -> Mapping[str, Any]:
        rows = [one(pixels[i : i + 1]) for i in range(len(pixels))]
        return {each["name"]: np.concatenate([row[k] for row in rows]) for k, each in enumerate(given)}

    return outputs


def _write(source: FormatSource, *, quantized: bool) -> None:
    import onnx

    outputs = [each.name for each in onnx.load_model_from_string(source.onnx).graph.output]
    content = _described(_convert(source.tensorflow(), quantized), source, outputs)
    (source.folder / FILE).write_bytes(content + _archive(source))


def _convert(function: Any, quantized: bool) -> bytes:
    """Return the file that TensorFlow's converter makes of a function.

    Raises:
        ValueError: The file has operators that only TensorFlow can run.
    """
    import warnings

    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], function)
    if quantized:
        # The graph has its ranges, so that no pictures are needed.
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bytes(converter.convert())


def _described(content: bytes, source: FormatSource, outputs: Sequence[str]) -> bytes:
    """Return a .tflite file with names, a signature and the metadata of TensorFlow Lite.

    Args:
        content: The file of the converter.
        source: What the file was made from.
        outputs: The names of the outputs, in order.
    """
    import flatbuffers
    import numpy as np
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs, signature.outputs = [], []
    for entries, tensors, names in (
        (signature.inputs, graph.inputs, ["image"]),
        (signature.outputs, graph.outputs, outputs),
    ):
        for index, name in zip(tensors, names, strict=True):
            graph.tensors[index].name = name
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name, int(index)
            entries.append(entry)
    model.signatureDefs = [signature]
    name = str(json.loads(source.metadata["zoo.architecture"])["name"])
    model.description = f"{name}, made with zoo"
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(tflite_metadata(name, int(source.calibration.shape[3]), outputs, LABELS), np.uint8)
    entry.name, entry.buffer = "TFLITE_METADATA", len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(content) + 2**16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _archive(source: FormatSource) -> bytes:
    """Return the ZIP archive with the metadata of zoo and the labels."""
    stream = io.BytesIO()
    # Line breaks in the name of a class would be two labels.
    labels = "".join(f"{' '.join(name.split())}\n" for name in source.classes)
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in ((ENTRY, json.dumps(dict(source.metadata))), (LABELS, labels)):
            # TensorFlow Lite's own readers expect files that are not compressed.
            archive.writestr(zipfile.ZipInfo(name, EPOCH), text.encode())
    return stream.getvalue()


@hookimpl
def zoo_formats() -> list[Format]:
    """Return the formats of LiteRT, which was TensorFlow Lite."""
    shared: dict[str, Any] = {"file": FILE, "run": run, "needs": ("ai_edge_litert", "tensorflow"), "install": INSTALL}
    shared["same_bytes"] = True
    return [
        Format(name="litert", summary="LiteRT (.tflite) in float32, for Android", make=make, tolerance=1e-3, **shared),
        Format(
            name="litert-int8",
            summary="LiteRT (.tflite) in 8 bits, for Android and small boards",
            graph="int8",
            make=make_int8,
            **shared,
        ),
    ]
