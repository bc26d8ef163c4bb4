"""Files with 16-bit weights: half the size, nearly the same probabilities, refused if the weights are wrong."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import zoo_runtime
from zoo.export import fp16
from zoo_runtime import Predictor


def stored(path, kind):
    """Return the bytes of a file's tensors of one type."""
    graph = onnx.load(path).graph
    return sum(len(tensor.raw_data) for tensor in graph.initializer if tensor.data_type == kind)


def test_the_file_is_half_as_large_and_predicts_nearly_the_same(export, run, exported, photos):
    before = (exported / "shapes" / "model.onnx").read_bytes()
    ran = export("--fp16")
    assert ran.code == 0, ran.err
    file = exported / "shapes-fp16" / "model.onnx"
    assert (exported / "shapes" / "model.onnx").read_bytes() == before
    assert stored(file, TensorProto.FLOAT16) > 750_000 and stored(file, TensorProto.FLOAT) < 60_000
    assert file.stat().st_size < 0.56 * len(before)
    figures = json.loads((run / "fp16.json").read_text())
    assert figures["parity_with_rounded"] < 1e-4 and figures["refusal"] is None
    assert 0 < figures["logits_error"] < 0.01
    predictor, plain = Predictor(file), Predictor(exported / "shapes")
    assert predictor.info.precision["kind"] == "fp16" and zoo_runtime.check(predictor).passed
    pixels = np.stack([plain.decode(path) for path in sorted(photos.rglob("*.jpg"))])
    assert 0 < np.abs(predictor.probabilities(pixels) - plain.probabilities(pixels)).max() < 0.02


def test_a_file_that_loses_accuracy_is_refused(export, run, exported, monkeypatch):
    """Weights of the wrong sign give a file that agrees with its weights, but is not accurate enough."""
    weights = fp16._weights
    monkeypatch.setattr(fp16, "_weights", lambda graph: ((tensor, -values) for tensor, values in weights(graph)))
    ran = export("--fp16", "--max-drop", 30)
    assert ran.code == 1
    assert "no fp16 file is exported: accuracy falls from" in ran.err and "--max-drop allows 30" in ran.err
    assert [path.name for path in exported.iterdir()] == ["shapes"]
    assert "accuracy falls" in json.loads((run / "fp16.json").read_text())["refusal"]


def test_weights_that_are_not_read_back_are_an_error(export, exported, monkeypatch):
    to_fp16 = fp16.to_fp16

    def swapped(graph):
        fp16_graph = to_fp16(graph)
        tensors = [tensor for tensor in fp16_graph.graph.initializer if tensor.data_type == TensorProto.FLOAT16]
        values = onnx.numpy_helper.to_array(tensors[-1])
        tensors[-1].raw_data = values[::-1].tobytes()
        return fp16_graph

    monkeypatch.setattr(fp16, "to_fp16", swapped)
    ran = export("--fp16")
    assert ran.code == 1 and "logits differ" in ran.err
    assert not (exported / "shapes-fp16").exists()


def two_tensors(small: np.ndarray, large: np.ndarray) -> onnx.ModelProto:
    """A graph that adds two constants of 16 x 32 values."""
    tensors = [onnx.numpy_helper.from_array(values, name) for name, values in (("small", small), ("large", large))]
    nodes = [onnx.helper.make_node("Add", ["small", "large"], ["sum"])]
    output = onnx.helper.make_tensor_value_info("sum", TensorProto.FLOAT, list(small.shape))
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "two", [], [output], tensors))


def test_weights_beyond_the_range_of_float16_stay_as_they_are():
    values = np.linspace(-1, 1, 512, dtype=np.float32).reshape(16, 32)
    graph = fp16.to_fp16(two_tensors(values, values * 1e6))
    kinds = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    assert kinds == {"small_float16": TensorProto.FLOAT16, "large": TensorProto.FLOAT}


def test_rounded_weights_are_those_that_are_stored():
    values = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float32)
    graph = two_tensors(values, values / 3)
    arrays = [
        {tensor.name.removesuffix("_float16"): onnx.numpy_helper.to_array(tensor) for tensor in each.graph.initializer}
        for each in (fp16.to_fp16(graph), fp16.rounded(graph))
    ]
    for name in ("small", "large"):
        assert arrays[0][name].dtype == np.float16 and arrays[1][name].dtype == np.float32
        assert np.array_equal(arrays[0][name].astype(np.float32), arrays[1][name])
    assert not np.array_equal(arrays[1]["small"], values)


def test_few_values_stay_as_they_are():
    values = np.ones((16, 15), np.float32)
    graph = fp16.to_fp16(two_tensors(values, values))
    assert {tensor.data_type for tensor in graph.graph.initializer} == {TensorProto.FLOAT}


@pytest.mark.parametrize("make", [fp16.to_fp16, fp16.rounded])
def test_the_given_graph_is_not_changed(make):
    graph = two_tensors(*(np.random.default_rng(0).normal(size=(2, 16, 32)).astype(np.float32)))
    before = graph.SerializeToString(deterministic=True)
    make(graph)
    assert graph.SerializeToString(deterministic=True) == before
