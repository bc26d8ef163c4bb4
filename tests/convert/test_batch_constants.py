"""Arrays that are equal for all pictures are constants of the exported graph."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.testing import synthetic_pixels

SIDE = 8


@pytest.fixture(scope="module")
def model():
    """A network that adds a trainable array to its feature map, and joins another one to it."""
    import keras
    from keras import layers, ops

    keras.utils.set_random_seed(0)
    pixels = keras.Input((SIDE, SIDE, 3), name="image")
    x = layers.Conv2D(4, 2, strides=2)(pixels)
    ones = ops.ones_like(x[:, 0, 0, :1])
    added = layers.Reshape((4, 4, 4))(layers.Dense(64, use_bias=False, name="added")(ones))
    joined = layers.Reshape((4, 4, 1))(layers.Dense(16, use_bias=False, name="joined")(ones))
    x = layers.Concatenate()([layers.Add()([x, ops.matmul(np.eye(4, dtype="float32")[::-1], added)]), joined])
    x = layers.Dense(3, name="logits")(layers.Flatten()(x))
    return keras.Model(pixels, layers.Activation("softmax", name="probabilities")(x))


@pytest.fixture(scope="module")
def graph(model):
    from zoo.convert.keras_to_onnx import convert

    return convert(model)


def test_an_array_that_is_added_is_a_constant(model, graph):
    """Its layer and its computation are gone. An array that is joined still has to be repeated for each picture."""
    from zoo.export import parity

    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    adds = [
        constants[name]
        for node in graph.graph.node
        if node.op_type == "Add"
        for name in node.input
        if name in constants
    ]
    assert (1, 4, 4, 4) in adds
    assert sum(node.op_type == "MatMul" for node in graph.graph.node) == 1
    assert sum(np.prod(shape) == 64 for shape in constants.values()) == 1, "the kernel itself is no longer there"
    parity.check(model, graph, synthetic_pixels(5, (SIDE, SIDE), 3))


def test_what_is_equal_for_all_pictures_is_not_quantized(graph):
    from zoo.export.quantizer import Quantizer

    kinds = {node.name: node.op_type for node in graph.graph.node}
    weighted = Quantizer(graph, synthetic_pixels(2, (SIDE, SIDE), 3)).weighted
    assert [kinds[name] for name in weighted] == ["Conv", "Gemm"]
