"""Grouped convolutions in training: the same sums as Keras's own, without XLA."""

import numpy as np
import pytest

from zoo import backend
from zoo.train import grouped_conv

CASES = {
    # channels, filters, groups, options
    "several parts": (64, 64, 16, {}),
    "one part": (8, 16, 4, {"strides": 2, "padding": "same"}),
    "a group a channel": (32, 64, 32, {"padding": "same", "dilation_rate": 2}),
}


@pytest.mark.parametrize("case", CASES)
def test_same_output_and_gradients_as_the_layers_own(case):
    keras = backend.start()
    import tensorflow as tf

    channels, filters, groups, options = CASES[case]
    keras.utils.set_random_seed(0)
    inner_input = keras.Input((9, 9, channels))
    inner = keras.Model(
        inner_input,
        keras.layers.Conv2D(filters, 3, groups=groups, activation="tanh", bias_initializer="normal", **options)(
            inner_input
        ),
    )
    outer = keras.Input((9, 9, channels))
    model = keras.Model(outer, inner(outer))
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 9, 9, channels)), "float32")

    def step():
        @tf.function
        def traced():
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = model(x)
                loss = tf.reduce_sum(y * y)
            return y, tape.gradient(loss, [x, *model.trainable_variables])

        graph = traced.get_concrete_function().graph.as_graph_def()
        y, gradients = traced()
        return [y, *gradients], "_XlaMustCompile" in str(graph)

    expected, compiled = step()
    with grouped_conv.cut(model):
        got, compiled_in_parts = step()
    assert compiled
    assert not compiled_in_parts
    for one, other in zip(got, expected, strict=True):
        scale = np.abs(other).max()
        assert scale > 0
        assert np.abs(one - other).max() / scale < 1e-5
    assert "convolution_op" not in vars(inner.layers[1])
