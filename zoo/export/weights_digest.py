"""Computes one sha256 of all numbers in an ONNX graph, to tell whether two exported files hold the same network.

The sha256 of a whole file is another one in each run, because the metadata name the run, its time and its self-test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from zoo.errors import RunError


def weights_sha256(file: Path | bytes) -> str:
    """Return the sha256 of the weights of an exported file, in hex; see `graph_sha256`.

    Args:
        file: The path of an ONNX file, or its bytes. External data beside a file are read too.

    Raises:
        RunError: The file is missing, cannot be read, or is not an ONNX file.
    """
    name = "the file" if isinstance(file, bytes) else repr(str(file))
    try:
        model = onnx.load_model_from_string(file) if isinstance(file, bytes) else onnx.load(file)
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        raise RunError(f"{name} cannot be read as an ONNX file: {error}.") from None
    if not model.graph.node:
        raise RunError(f"{name} is not an ONNX file: it has no graph.")
    return graph_sha256(model)


def graph_sha256(model: onnx.ModelProto) -> str:
    """Return the sha256 of all constants of a graph, in hex: weights, calibration, thresholds and outlier statistics.

    Constants count in the order in which the nodes use them, each with its type, its shape and its bytes in
    little-endian order. Names of nodes and tensors, and the metadata, do not count.
    """
    digest = hashlib.sha256()
    for tensor in _constants(model.graph):
        values = onnx.numpy_helper.to_array(tensor)
        digest.update(f"{onnx.TensorProto.DataType.Name(tensor.data_type)} {list(tensor.dims)}\n".encode())
        if values.dtype.kind == "O":
            digest.update(b"\0".join(bytes(each) for each in values.reshape(-1)))
        else:
            little = values.astype(values.dtype.newbyteorder("<"), copy=False)
            digest.update(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield each constant of a graph once, in the order in which the nodes use them, those of branches included."""
    waiting = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for name in node.input:
            if name in waiting:
                yield waiting.pop(name)
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from _constants(attribute.g)
            for branch in attribute.graphs:
                yield from _constants(branch)
    # Constants that a graph returns, or that only its branches use.
    yield from (waiting[name] for name in sorted(waiting))
