"""Converted backbones that are kept: the features of Keras, proof that goes with them, and what changes their key."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from zoo import backend, files
from zoo.convert.linear_head_graph import with_linear_head
from zoo.convert.session import open_session
from zoo.train.frozen import backbone as backbones


@pytest.fixture(scope="module")
def model():
    keras = backend.start()
    keras.utils.set_random_seed(0)
    pixels = keras.Input((12, 10, 3))
    low = keras.layers.Conv2D(4, 3, activation="relu")(pixels)
    high = keras.layers.Conv2D(6, 3, activation="relu")(low)
    return keras.Model(pixels, [keras.layers.GlobalAveragePooling2D()(x) for x in (high, low)])


@pytest.fixture(scope="module")
def converted(model):
    return backbones.convert(model)


def test_the_graph_computes_the_features_of_keras(model, converted):
    pixels = np.random.default_rng(1).integers(0, 256, (5, 12, 10, 3), np.uint8)
    features = backbones.FeatureSession(converted)(pixels)
    assert converted.widths == (6, 4)
    for values, expected in zip(features, model(pixels.astype("float32")), strict=True):
        assert values == pytest.approx(np.asarray(expected), rel=1e-4)


def test_drawn_pictures_differ_and_are_the_same_in_every_call():
    first, second = (backbones.drawn_pictures((12, 10), 3) for _ in range(2))
    assert first.shape == (8, 12, 10, 3) and np.array_equal(first, second)
    assert len({picture.tobytes() for picture in first}) == 8 and first.std() > 30


def test_what_is_kept_is_found_and_a_damaged_one_is_not(converted):
    key = backbones.digest_of(["something"])
    assert backbones.find(key) is None
    backbones.keep(converted, key)
    found = backbones.find(key)
    assert found.graph == converted.graph and found.key == key
    assert all(np.array_equal(*pair) for pair in zip(found.reference, converted.reference, strict=True))
    path = files.cache() / "backbones" / key / "reference.npz"
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(content)
    assert backbones.find(key) is None


@pytest.mark.parametrize(("task", "units"), [("multiclass", 3), ("multilabel", 3), ("binary", 1)])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_head_on_the_graph(converted, task, units, groups):
    rng = np.random.default_rng(2)
    kernel, bias = rng.normal(size=(6 + 4 * (groups - 1), units)), rng.normal(size=units)
    graph = with_linear_head(converted.graph, kernel, bias, task=task, groups=groups)
    pixels = rng.integers(0, 256, (4, 12, 10, 3), np.uint8)
    logits, answers = open_session(graph).run(["logits", "probabilities"], {"image": pixels})
    features = np.concatenate(backbones.FeatureSession(converted)(pixels)[:groups], axis=1)
    expected = features @ kernel + bias
    assert logits == pytest.approx(expected, rel=1e-4, abs=1e-4)
    if task == "multiclass":
        powers = np.exp(expected - expected.max(axis=1, keepdims=True))
        assert answers == pytest.approx(powers / powers.sum(axis=1, keepdims=True), abs=1e-4)
    else:
        both = np.concatenate([-expected, expected], axis=1) if task == "binary" else expected
        assert answers == pytest.approx(1 / (1 + np.exp(-both)), abs=1e-4)
    pools = [node for node in graph.graph.node if node.op_type in ("GlobalAveragePool", "ReduceMean")]
    assert len(pools) == groups


def test_the_key_depends_on_weights_size_and_code(plugins, tmp_path):
    from zoo.workflow.solved import BackboneSpec, backbone_key

    architecture = plugins.architecture("mobilenetv2_035")
    path = tmp_path / "weights.h5"
    path.write_bytes(b"1")
    keys = {
        backbone_key(BackboneSpec(architecture, architecture.head, size, path), plugins)
        for size in ((32, 32), (32, 48))
    }
    path.write_bytes(b"2")
    keys.add(backbone_key(BackboneSpec(architecture, architecture.head, (32, 32), path), plugins))
    other = dataclasses.replace(architecture.head, pool="max")
    keys.add(backbone_key(BackboneSpec(architecture, other, (32, 32), path), plugins))
    assert len(keys) == 4 and "" not in keys


def test_the_key_depends_on_what_is_bound_to_the_function_that_builds(plugins, monkeypatch, tmp_path):
    from zoo.workflow.solved import BackboneSpec, backbone_key

    path = tmp_path / "weights.h5"
    path.write_bytes(b"1")
    architecture = plugins.architecture("mobilenetv2_035")
    maker = architecture.build.__self__
    keys = set()
    for changes in ({}, {"mode": "caffe"}, {"options": {"alpha": 0.5}}):
        other = dataclasses.replace(architecture, build=dataclasses.replace(maker, **changes).build)
        monkeypatch.setitem(plugins.providers, id(other), plugins.plugin_of(architecture))
        keys.add(backbone_key(BackboneSpec(other, other.head, (32, 32), path), plugins))
    assert len(keys) == 3 and "" not in keys

    class Unknown:
        def __call__(self, shape):
            return None

    other = dataclasses.replace(architecture, build=Unknown())
    monkeypatch.setitem(plugins.providers, id(other), plugins.plugin_of(architecture))
    assert backbone_key(BackboneSpec(other, other.head, (32, 32), path), plugins) == ""
