"""Grouped convolutions that train at a bearable speed on a processor.

TensorFlow has no gradient of a grouped convolution on a CPU, so Keras has XLA compile it, to loops that take a minute
for a step of ResNeXt50. Cut into convolutions of a few groups each, with zeros between the groups, the same sum runs in
TensorFlow's own kernels in seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from zoo import backend

if TYPE_CHECKING:
    import keras

# Fewer channels do not fill a vector register, more multiply too many zeros; measured at 128 to 1024 channels.
CHANNELS = 16


@contextlib.contextmanager
def cut(model: keras.Model) -> Iterator[None]:
    """Inside, the model's grouped convolutions run in parts, where TensorFlow would run them on a CPU.

    Functions must be traced inside. Weights are the same, and nothing is left of it after.
    """
    layers = _grouped(model) if backend.runs_on_tensorflow() and not backend.has_accelerator() else []
    for layer in layers:
        layer.convolution_op = partial(_convolve, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.convolution_op


@contextlib.contextmanager
def whole(model: keras.Model) -> Iterator[None]:
    """Inside, within `cut` too, the model's grouped convolutions are what they are; an exported graph keeps them so."""
    layers = {layer: vars(layer).pop("convolution_op") for layer in _cut_layers(model)}
    try:
        yield
    finally:
        for layer, operation in layers.items():
            layer.convolution_op = operation


def _cut_layers(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if "convolution_op" in vars(layer)]


def _grouped(model: keras.Model) -> list[keras.layers.Conv2D]:
    keras = backend.start()
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += _grouped(layer)
        elif (
            isinstance(layer, keras.layers.Conv2D)
            and layer.groups > 1
            and layer.data_format == "channels_last"
            and type(layer).convolution_op is keras.layers.Conv2D.convolution_op
        ):
            found.append(layer)
    return found


def _convolve(layer: keras.layers.Conv2D, inputs, kernel):
    """What `convolution_op` gives: `inputs` (batch, height, width, channels), `kernel` (h, w, channels/groups, out)."""
    import numpy as np
    from keras import ops

    channels, outputs = kernel.shape[-2:]
    divisors = [n for n in range(1, layer.groups + 1) if layer.groups % n == 0]
    parts = max([n for n in divisors if channels * layer.groups // n >= CHANNELS], default=1)
    groups = layer.groups // parts
    diagonal = np.kron(np.eye(groups), np.ones((channels, outputs // layer.groups)))
    options = {"strides": layer.strides, "padding": layer.padding, "dilation_rate": layer.dilation_rate}
    results = [
        ops.conv(x, ops.tile(k, (1, 1, groups, 1)) * ops.cast(diagonal, k.dtype), **options)
        for x, k in zip(ops.split(inputs, parts, axis=-1), ops.split(kernel, parts, axis=-1), strict=True)
    ]
    return ops.concatenate(results, axis=-1)
