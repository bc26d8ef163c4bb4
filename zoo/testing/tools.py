"""Makes what the checks of networks need: synthetic pictures, and networks with values like those of trained ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from zoo import backend

if TYPE_CHECKING:
    import keras


def synthetic_pixels(count: int, size: tuple[int, int], channels: int, seed: int = 0) -> np.ndarray:
    """Draw random pictures that differ from one another in color, coarse pattern and noise.

    Args:
        count: The number of pictures.
        size: (height, width) in pixels.
        channels: 1 or 3.
        seed: The same seed gives the same pictures.

    Returns:
        A uint8 array (count, height, width, channels) in 0..255.
    """
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, channels)).astype(float)
    rows, columns = (np.arange(side) * 4 // side for side in size)
    pictures = coarse[:, rows][:, :, columns] * rng.uniform(0.2, 1, (count, 1, 1, 1))
    noise = rng.normal(0, 20, (count, *size, channels))
    return (pictures + noise).clip(0, 255).astype(np.uint8)


def randomize(model: keras.Model, seed: int = 0, pictures: int = 32, batch_size: int = 32) -> None:
    """Set a network's biases, scales and BatchNorm statistics to values like those of a trained network.

    A comparison of two networks within a tolerance needs such values. With Keras's initial values, many deep networks
    output about 1e-17 everywhere, so that every comparison passes. ConvNeXt multiplies the output of each block by
    1e-6, so that a wrong block would not be noticed.

    This function draws biases, scales and shifts at random. It then measures the BatchNorm statistics on synthetic
    pictures, so that signals neither vanish nor explode, and changes the statistics a little at random.

    Args:
        model: The network; it is changed in place.
        seed: The seed of the random values and of the pictures.
        pictures: The number of synthetic pictures.
        batch_size: The number of pictures per batch; smaller batches need less memory.
    """
    keras = backend.start()
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        value = np.asarray(weight)
        # A weight whose values are all equal was not drawn at random: zeros are biases or shifts, others are scales.
        if value.size > 1 and not np.ptp(value):
            weight.assign(rng.uniform(0.2, 1, value.shape) if value.any() else rng.normal(0, 0.1, value.shape))
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if not layers:
        return
    kept = [(layer.momentum, layer.trainable) for layer in layers]
    for layer in layers:
        layer.trainable = True
        if layer.gamma is not None:
            # Training makes the scales before an Add small. If the branch outweighs the shortcut, rounding errors grow
            # with depth, and two machines differ by as much as a wrong network would.
            layer.gamma.assign(rng.uniform(0.3, 1, layer.gamma.shape) * (0.3 if _is_added(layer) else 1))
        if layer.beta is not None:
            layer.beta.assign(rng.uniform(-0.4, 0.4, layer.beta.shape))
    _, height, width, channels = model.input.shape
    pixels = synthetic_pixels(pictures, (height, width), channels, seed).astype("float32")
    for index in range(math.ceil(pictures / batch_size)):
        for layer in layers:
            # With this momentum the statistics become the mean over the batches.
            layer.momentum = index / (index + 1)
        model(pixels[index * batch_size : (index + 1) * batch_size], training=True)
    for layer, (momentum, trainable) in zip(layers, kept, strict=True):
        layer.momentum, layer.trainable = momentum, trainable
        deviation = np.sqrt(np.asarray(layer.moving_variance) + layer.epsilon)
        layer.moving_mean.assign_add(0.1 * deviation * rng.uniform(-1, 1, deviation.shape))
        # A channel that hardly varies over these few pictures would be amplified on other pictures, and its rounding
        # errors too.
        floor = np.median(deviation) / 3
        layer.moving_variance.assign(np.maximum(deviation, floor) ** 2 * rng.uniform(0.8, 1.25, deviation.shape))


def _is_added(layer: keras.Layer) -> bool:
    """Return whether a layer's output goes into an Add layer, directly or through Dropout layers."""
    for node in layer._outbound_nodes:
        kind = type(node.operation).__name__
        if kind == "Add" or (kind == "Dropout" and _is_added(node.operation)):
            return True
    return False
