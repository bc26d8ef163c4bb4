"""Makes the tiny network of `conftest.py` as files of LiteRT and OpenVINO. Neither needs TensorFlow."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from zoo_runtime import ModelInfo
from zoo_runtime.workshop import WEIGHTS_DIGEST, with_labels


def tflite(info: ModelInfo, sharpness: float, change: Any = None, *, metadata: bool = True) -> bytes:
    """Return the tiny network as a .tflite file: the softmax of the mean levels of the colors, times `sharpness`.

    Args:
        info: The metadata.
        sharpness: The factor.
        change: Called with the `ModelT` before it is written, to make a damaged file.
        metadata: Whether the file gets metadata.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    height, width = info.image.size
    count = len(info.classes)
    model = schema.ModelT()
    model.version, model.description = 3, "tiny"
    constants = [np.array([1, 2], np.int32), (np.eye(count, 3) * sharpness).astype(np.float32)]
    model.buffers = [schema.BufferT() for _ in range(1 + len(constants))]
    for buffer, values in zip(model.buffers[1:], constants, strict=True):
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    kinds = schema.TensorType
    shapes: list[tuple[str, list[int], int, int]] = [
        ("image", [1, height, width, 3], kinds.UINT8, 0),
        ("levels", [1, height, width, 3], kinds.FLOAT32, 0),
        ("axes", [2], kinds.INT32, 1),
        ("means", [1, 3], kinds.FLOAT32, 0),
        ("weights", [count, 3], kinds.FLOAT32, 2),
        ("logits", [1, count], kinds.FLOAT32, 0),
        ("probabilities", [1, count], kinds.FLOAT32, 0),
    ]
    graph = schema.SubGraphT()
    graph.tensors = []
    for name, shape, kind, buffer in shapes:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, buffer
        graph.tensors.append(tensor)
    graph.inputs, graph.outputs, graph.name = [0], [6], "main"
    softmax = schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    options = schema.BuiltinOptions
    steps = [
        (schema.BuiltinOperator.CAST, [0], [1], options.CastOptions, schema.CastOptionsT()),
        (schema.BuiltinOperator.MEAN, [1, 2], [3], options.ReducerOptions, schema.ReducerOptionsT()),
        (
            schema.BuiltinOperator.FULLY_CONNECTED,
            [3, 4, -1],
            [5],
            options.FullyConnectedOptions,
            schema.FullyConnectedOptionsT(),
        ),
        (schema.BuiltinOperator.SOFTMAX, [5], [6], options.SoftmaxOptions, softmax),
    ]
    model.operatorCodes, graph.operators = [], []
    for index, (code, inputs, outputs, kind, given) in enumerate(steps):
        operator_code = schema.OperatorCodeT()
        operator_code.builtinCode = operator_code.deprecatedBuiltinCode = code
        operator_code.version = 1
        model.operatorCodes.append(operator_code)
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = index, inputs, outputs
        operator.builtinOptionsType, operator.builtinOptions = kind, given
        graph.operators.append(operator)
    model.subgraphs = [graph]
    if change:
        change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    content = bytes(builder.Output())
    return with_labels(content, info.to_metadata(), info.classes) if metadata else content


def openvino_ir(folder: Path, onnx_file: bytes, metadata: dict[str, str], *, digest: bool = True) -> Path:
    """Write the two files of an OpenVINO model into a folder, and return the path of model.xml.

    Args:
        folder: The folder.
        onnx_file: The network as an ONNX file.
        metadata: The metadata entries.
        digest: Whether the metadata name the digest of the weights.
    """
    import openvino

    folder.mkdir(parents=True, exist_ok=True)
    model = openvino.Core().read_model(onnx_file)
    path = folder / "model.xml"
    # OpenVINO copies the metadata of an ONNX file to another place.
    if "framework" in model.get_rt_info():
        del model.get_rt_info()["framework"]
    openvino.save_model(model, path, compress_to_fp16=False)
    entries = dict(metadata)
    if digest:
        entries[WEIGHTS_DIGEST] = json.dumps(hashlib.sha256((folder / "model.bin").read_bytes()).hexdigest())
    for key, value in entries.items():
        model.set_rt_info(value, ["zoo", key])
    openvino.save_model(model, path, compress_to_fp16=False)
    return path
