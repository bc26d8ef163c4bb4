"""Grad-CAM of every family agrees with the gradients that Keras computes."""

from __future__ import annotations

import numpy as np
import pytest
from builtin_plugins import smallest_of_each_family

from zoo import testing
from zoo.plugin import Head

QUICK = ("mnist_convnet",)
# The smallest size whose last map has several positions in both directions, not square if possible.
SIZE = (96, 128)


def keras_heat(model, feature_map, pixels, label):
    """Return the Grad-CAM of each picture as Keras's gradients give it, (pictures, height, width)."""
    import keras
    import tensorflow as tf

    both = keras.Model(model.input, [feature_map, model.get_layer("logits").output])
    inputs = tf.constant(pixels, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        activations, logits = both(inputs, training=False)
        score = logits[:, label]
    weights = tf.reduce_mean(tape.gradient(score, activations), axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * activations, axis=-1)).numpy()


def compare(architecture, size, head=None):
    """Compare the heat maps of a network with random weights on random pictures, for the class with the most heat."""
    import keras

    from zoo.convert.gradcam import GradCam
    from zoo.convert.keras_to_onnx import convert
    from zoo.train.network import assemble, build_backbone

    keras.utils.set_random_seed(1)
    backbone = build_backbone(architecture, size)
    testing.randomize(backbone)
    model = assemble(backbone, architecture, head or architecture.head, 3).model
    pixels = testing.synthetic_pixels(3, size, architecture.channels, seed=1)
    gradcam = GradCam(convert(model), reduced=bool(head and head.reduce))
    assert gradcam.missing is None
    seen = 0
    for label in range(3):
        expected = keras_heat(model, backbone.output, pixels, label)
        for picture, wanted in zip(pixels, expected, strict=True):
            heat = gradcam(picture, label).map
            assert heat.shape == wanted.shape
            assert np.abs(heat - wanted).max() <= 1e-3 * max(np.abs(expected).max(), 1e-12)
            if wanted.std() > 1e-6 * np.abs(expected).max():
                assert np.corrcoef(heat.ravel(), wanted.ravel())[0, 1] > 0.99
                seen += 1
    assert seen >= 3


@pytest.mark.parametrize("name", QUICK)
def test_heat_is_that_of_keras(plugins, name):
    architecture = plugins.architecture(name)
    compare(architecture, (40, 32) if name == "mnist_convnet" else SIZE)


HEADS = {
    "grid": Head(pool="roi", grid=2, reduce=8, hidden=(12,)),
    "two stages": Head(pool="avg", stages=2, hidden=(12,)),
    "maximum": Head(pool="max"),
    "length": Head(pool="l2norm", hidden=(12, 8)),
}


@pytest.mark.parametrize("name", ["grid", "two stages"])
def test_heat_of_every_head_is_that_of_keras(plugins, name):
    compare(plugins.architecture("mnist_convnet"), (40, 32), HEADS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maximum", "length"])
def test_heat_of_other_pools_is_that_of_keras(plugins, name):
    compare(plugins.architecture("mnist_convnet"), (40, 32), HEADS[name])


# These take a minute each.
LARGE = {"inceptionresnetv2", "inceptionv3", "nasnet_mobile", "resnext50", "xception"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.every if name in LARGE else ())
        for name in sorted(set(smallest_of_each_family()) - {*QUICK, "mnist_dense"})
    ],
)
def test_heat_of_each_other_family_is_that_of_keras(plugins, name):
    architecture = plugins.architecture(name)
    compare(architecture, tuple(max(side, architecture.min_size + 32) for side in SIZE))
