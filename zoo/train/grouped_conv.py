"""Makes grouped convolutions train faster on a CPU.

TensorFlow has no gradient of a grouped convolution on a CPU. Keras therefore compiles such convolutions with XLA, into
loops that take a minute per training step of ResNeXt50. This module replaces each grouped convolution by several
ordinary convolutions. Each of them computes a few neighboring groups at once. Its kernel holds the weights of these
groups, and zeros wherever an input channel and a filter belong to different groups. The result is the same, and
TensorFlow's own kernels compute it in seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from zoo import backend

if TYPE_CHECKING:
    import keras

# Each part has at least this many channels. Fewer channels do not fill a vector register, and more multiply too many
# zeros. This was measured with layers of 128 to 1024 channels.
CHANNELS = 16


@contextlib.contextmanager
def cut(model: keras.Model) -> Iterator[None]:
    """Compute each grouped convolution of a model as several ordinary convolutions inside this context.

    This affects only functions that Keras traces inside the context, such as the training step. The weights of the
    layers stay as they are. When the context ends, the layers are restored. The context has no effect unless TensorFlow
    computes on a CPU.
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
    """Undo the effect of `cut` inside this context: each grouped convolution is computed as one operation again.

    zoo converts the frozen part to ONNX inside this context. The ONNX graph then contains the grouped convolutions, and
    not the ordinary convolutions that replace them during training.
    """
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
    grouped = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            grouped += _grouped(layer)
        elif (
            isinstance(layer, keras.layers.Conv2D)
            and layer.groups > 1
            and layer.data_format == "channels_last"
            and type(layer).convolution_op is keras.layers.Conv2D.convolution_op
        ):
            grouped.append(layer)
    return grouped


def _convolve(layer: keras.layers.Conv2D, inputs, kernel):
    """Compute a grouped convolution as several ordinary convolutions.

    `cut` sets this function as the `convolution_op` of the layer.

    Args:
        layer: The grouped convolution.
        inputs: The input of the layer, a tensor (batch, height, width, channels).
        kernel: The weights, a tensor (kernel height, kernel width, channels / groups, filters).

    Returns:
        A tensor (batch, height, width, filters). Its height and width depend on the layer's strides, padding and
        dilation.
    """
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
