"""Tensors of PyTorch and of Keras go to the layers of their names, and compute the same there."""

from __future__ import annotations

import numpy as np
import pytest

from zoo import backend
from zoo.errors import WeightsIncompatible
from zoo.plugin import copy_tensors


def values(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def correlate(x, kernel, groups=1):
    """A convolution of PyTorch without padding, by its definition. x: (height, width, in); kernel: (out, in, h, w)."""
    out, per_group, height, width = kernel.shape
    y = np.zeros((x.shape[0] - height + 1, x.shape[1] - width + 1, out))
    for o in range(out):
        first = o // (out // groups) * per_group
        for i in range(y.shape[0]):
            for j in range(y.shape[1]):
                part = x[i : i + height, j : j + width, first : first + per_group]
                y[i, j, o] = (part.transpose(2, 0, 1) * kernel[o]).sum()
    return y


@pytest.mark.parametrize(
    ("kind", "shape", "groups"),
    [("plain", (8, 6, 3, 2), 1), ("grouped", (8, 3, 3, 3), 2), ("depthwise", (12, 1, 3, 2), 6), ("flat", (8, 6), 1)],
)
def test_a_kernel_of_pytorch_computes_the_same(kind, shape, groups):
    keras = backend.start()
    kernel, x = values(0, *shape), values(1, 5, 5, 6)
    whole = kernel if kernel.ndim == 4 else kernel[:, :, None, None]
    size = whole.shape[2:]
    layers = keras.layers
    if kind == "depthwise":
        layer = layers.DepthwiseConv2D(size, depth_multiplier=2, name="conv")
    else:
        layer = layers.Conv2D(8, size, groups=groups, name="conv")
    model = keras.Sequential([keras.Input((5, 5, 6)), layer])
    bias = values(2, shape[0])
    copy_tensors(
        {"net.conv.weight": kernel, "net.conv.bias": bias, "net.fc.weight": x}, model, lambda name: f"net.{name}"
    )
    expected = correlate(x, whole, groups) + bias
    np.testing.assert_allclose(np.asarray(layer(x[None]))[0], expected, atol=1e-5)


def test_batch_normalization_dense_and_transposed_convolutions():
    keras = backend.start()
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((3, 3, 4)),
            layers.Conv2DTranspose(5, (2, 3), name="up"),
            layers.BatchNormalization(epsilon=1e-5, name="bn"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="fc"),
        ]
    )
    tensors = {"up.weight": values(0, 4, 5, 2, 3), "up.bias": values(1, 5)}
    tensors |= {"bn.weight": values(2, 5), "bn.bias": values(3, 5), "bn.running_mean": values(4, 5)}
    tensors |= {"bn.running_var": np.abs(values(5, 5)), "fc.weight": values(6, 3, 5), "fc.bias": values(7, 3)}
    copy_tensors(tensors, model)
    x = values(8, 3, 3, 4)
    up = np.zeros((4, 5, 5))
    for i in range(3):
        for j in range(3):
            up[i : i + 2, j : j + 3] += np.einsum("c,cohw->hwo", x[i, j], tensors["up.weight"])
    up += tensors["up.bias"]
    normal = (up - tensors["bn.running_mean"]) / np.sqrt(tensors["bn.running_var"] + 1e-5)
    pooled = (normal * tensors["bn.weight"] + tensors["bn.bias"]).mean((0, 1))
    expected = tensors["fc.weight"] @ pooled + tensors["fc.bias"]
    np.testing.assert_allclose(np.asarray(model(x[None]))[0], expected, atol=1e-4)


def test_keras_names_need_no_conversion_and_a_missing_tensor_changes_nothing():
    keras = backend.start()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="a"), keras.layers.Dense(2, name="b")])
    kernel = values(0, 4, 4)
    before = model.get_weights()
    with pytest.raises(
        WeightsIncompatible, match=r"layer 'b' needs the tensor 'b/kernel' or 'b\.weight', and the file has 2"
    ):
        copy_tensors({"a/kernel": kernel, "a/bias": values(1, 4)}, model)
    wrong = {"a/kernel": kernel, "a/bias": values(1, 4), "b.kernel": values(2, 2, 4), "b.bias": values(3, 2)}
    with pytest.raises(
        WeightsIncompatible, match=r"needs an array of shape \(4, 2\), and the file has 'b\.kernel' of shape \(2"
    ):
        copy_tensors(wrong, model)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    copy_tensors({**wrong, "b.kernel": values(2, 4, 2)}, model)
    assert np.array_equal(model.get_weights()[0], kernel), "a square kernel of Keras is not transposed"
