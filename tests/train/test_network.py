"""Heads: the course's parameter counts, one sigmoid unit, a grid over maps of any size."""

from __future__ import annotations

import numpy as np
import pytest

from zoo import backend
from zoo.errors import InvalidPluginData, UsageError
from zoo.plugin import Head
from zoo.testing import synthetic_pixels
from zoo.train.network import assemble, attach_head, build_backbone, output_of_stage, resize


@pytest.mark.parametrize(
    ("name", "size", "head", "classes", "task", "parameters"),
    [
        ("mnist_dense", 28, None, 10, "multiclass", 407_050),
        ("mnist_convnet", 28, None, 10, "multiclass", 93_322),
        ("catsdogs_convnet", 150, None, 2, "binary", 3_453_121),
        ("vgg16", 150, Head(pool="flatten", hidden=(256,)), 2, "binary", 16_812_353),
        # A grid of 4 x 4 over the map of 7 x 7 has as many cells as the map of 150 pixels has positions.
        ("vgg16", 224, Head(pool="roi", hidden=(256,)), 2, "binary", 16_812_353),
    ],
)
def test_parameters_are_the_courses(plugins, name, size, head, classes, task, parameters):
    architecture = plugins.architecture(name)
    backbone = build_backbone(architecture, (size, size))
    model = attach_head(backbone, head or architecture.head, classes, name, task=task)
    assert model.count_params() == parameters


def test_the_probabilities_of_one_unit_keep_what_is_small(plugins):
    """1 - sigmoid(40) is 0 in float32; sigmoid(-40) is not."""
    keras = backend.start()
    backbone = build_backbone(plugins.architecture("mnist_dense"), (8, 8))
    model = attach_head(backbone, Head(pool="flatten"), 2, "x", task="binary")
    assert model.get_layer("logits").output.shape == (None, 1)
    for bias in (40.0, -40.0):
        model.get_layer("logits").set_weights([np.zeros((64, 1)), np.array([bias])])
        (row,) = keras.ops.convert_to_numpy(model(np.zeros((1, 8, 8, 1), "float32")))
        small, large = (row[0], row[1]) if bias > 0 else (row[1], row[0])
        assert large == 1 and small == pytest.approx(np.exp(-40), rel=1e-4)


def test_several_labels_have_a_sigmoid_each(plugins):
    backbone = build_backbone(plugins.architecture("mnist_dense"), (8, 8))
    model = attach_head(backbone, Head(pool="flatten"), 3, "x", task="multilabel")
    model.get_layer("logits").set_weights([np.zeros((64, 3)), np.array([2.0, 2.0, -2.0])])
    (row,) = model.predict_on_batch(np.zeros((1, 8, 8, 1), "float32"))
    assert row == pytest.approx([0.880797, 0.880797, 0.119203], abs=1e-5)


def reference_cells(features, grid):
    """Adaptive maximum pooling, cell by cell."""
    batch, height, width, channels = features.shape
    out = np.empty((batch, grid, grid, channels), features.dtype)
    for i in range(grid):
        rows = slice(i * height // grid, -(-(i + 1) * height // grid))
        for j in range(grid):
            columns = slice(j * width // grid, -(-(j + 1) * width // grid))
            out[:, i, j] = features[:, rows, columns].max(axis=(1, 2))
    return out.reshape(batch, -1)


@pytest.mark.parametrize(("size", "grid"), [((20, 32), 3), ((9, 9), 4), ((8, 8), 8), ((3, 2), 4)])
def test_roi_is_the_maximum_of_each_cell(plugins, size, grid):
    keras = backend.start()
    backbone = build_backbone(plugins.architecture("mnist_dense"), size)
    model = attach_head(backbone, Head(pool="roi", grid=grid), 2, "x")
    pooled = keras.Model(model.input, model.get_layer("head_pool").output)
    pixels = synthetic_pixels(3, size, 1).astype("float32")
    assert np.allclose(pooled.predict_on_batch(pixels), reference_cells(pixels / 255, grid), atol=1e-6)


def test_l2norm_is_the_root_mean_square(plugins):
    backbone = build_backbone(plugins.architecture("mnist_dense"), (6, 10))
    model = attach_head(backbone, Head(pool="l2norm"), 2, "x")
    model.get_layer("logits").set_weights([np.ones((1, 2)), np.zeros(2)])
    logits = backend.start().Model(model.input, model.get_layer("logits").output)
    pixels = synthetic_pixels(2, (6, 10), 1).astype("float32")
    expected = np.sqrt(np.square(pixels / 255).mean(axis=(1, 2)))
    assert np.allclose(logits.predict_on_batch(pixels), np.repeat(expected, 2, axis=1), atol=1e-5)


def test_a_grid_takes_another_size_with_the_same_weights(plugins):
    architecture = plugins.architecture("mnist_convnet")
    head = Head(pool="roi", grid=2, hidden=(8,))
    model = attach_head(build_backbone(architecture, (28, 28)), head, 3, "x")
    other = resize(model, architecture, head, (40, 52), classes=3, task="multiclass")
    assert other.input.shape == (None, 40, 52, 1)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))


@pytest.mark.parametrize("pool", ["avg", "max", "l2norm"])
def test_a_head_pools_lower_stages_too(plugins, pool):
    """The features of the top come first, then those of lower stages, lowest first."""
    keras = backend.start()
    architecture = plugins.architecture("mobilenetv2_035")
    backbone = build_backbone(architecture, (64, 64))
    network = assemble(backbone, architecture, Head(pool=pool, stages=3), 2)
    features = keras.Model(network.model.input, network.model.get_layer("head_join").output)
    names = [layer.name for layer in backbone.layers]
    lower = [output_of_stage(backbone, names, architecture, i) for i in (6, 7)]
    maps = keras.Model(backbone.input, [backbone.output, *lower])
    pixels = synthetic_pixels(2, (64, 64), 3).astype("float32")
    pooled = {
        "avg": lambda x: x.mean(axis=(1, 2)),
        "max": lambda x: x.max(axis=(1, 2)),
        "l2norm": lambda x: np.sqrt((x**2).mean(axis=(1, 2))),
    }[pool]
    expected = np.concatenate([pooled(np.asarray(x)) for x in maps(pixels)], axis=1)
    assert np.asarray(features(pixels)) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    larger = resize(network.model, architecture, Head(pool=pool, stages=3), (96, 96), classes=2, task="multiclass")
    assert np.array_equal(
        larger.get_layer("logits").get_weights()[0], network.model.get_layer("logits").get_weights()[0]
    )


def test_a_head_cannot_pool_more_stages_than_there_are(plugins):
    architecture = plugins.architecture("mobilenetv2_035")
    with pytest.raises(UsageError, match="has 9 stages; its head asks for 10"):
        assemble(build_backbone(architecture, (64, 64)), architecture, Head(stages=10), 2)
    with pytest.raises(InvalidPluginData, match="stages above 1 needs a pool of avg, max, l2norm"):
        Head(pool="flatten", stages=2)
