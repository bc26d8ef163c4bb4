"""One sha256 of all numbers in an exported file: it is recorded, and names and metadata do not change it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from zoo.errors import RunError
from zoo.export.weights_digest import weights_sha256


def test_the_digest_follows_the_numbers_and_nothing_else(finished, tmp_path):
    run, exported, _ = finished
    path = exported / "shapes" / "model.onnx"
    digest = weights_sha256(path)
    assert digest == weights_sha256(path.read_bytes()) == weights_sha256(run / "model.onnx")
    assert json.loads((run / "run.json").read_text())["weights_sha256"] == digest
    assert f"| sha256 of the weights | `{digest}` |" in (path.parent / "README.md").read_text()

    model = onnx.load(path)
    del model.metadata_props[:]
    renamed = model.graph.initializer[0].name
    for node in model.graph.node:
        node.name = f"node {node.name}"
        for i, name in enumerate(node.input):
            node.input[i] = "another" if name == renamed else name
    model.graph.initializer[0].name = "another"
    model.graph.initializer.insert(0, model.graph.initializer.pop())
    onnx.save(model, tmp_path / "renamed.onnx")
    assert weights_sha256(tmp_path / "renamed.onnx") == digest
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 4:
            values = onnx.numpy_helper.to_array(tensor).copy()
            values.flat[0] = np.nextafter(values.flat[0], np.float32(9))
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
            break
    onnx.save(model, tmp_path / "changed.onnx")
    assert weights_sha256(tmp_path / "changed.onnx") != digest


@pytest.mark.parametrize("content", [b"", b"not a network"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(RunError, match=r"model\.onnx' (cannot be read as|is not) an ONNX file"):
        weights_sha256(tmp_path / "model.onnx")
    with pytest.raises(RunError, match=r"none\.onnx' cannot be read"):
        weights_sha256(tmp_path / "none.onnx")
