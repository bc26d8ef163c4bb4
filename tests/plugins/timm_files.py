"""Weights files in the layout of timm, with random values that depend on the names of the tensors alone.

The same values were given to networks of timm once, to compute what tests expect.
"""

from __future__ import annotations

import json
import zlib

import numpy as np


def drawn(name, shape, gain=1.0):
    """Draw the values of a tensor from its name. RandomState gives the same numbers in every version of numpy.

    Args:
        name: The name of the tensor.
        shape: Its shape.
        gain: A factor on what norms multiply by. A deep network with squeeze-and-excite needs less than 1. Otherwise,
            its features grow until its gates jump, and even PyTorch's float32 and float64 disagree.
    """
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif name.endswith(("pos_embed", "cls_token")):
        values = rng.normal(0, 0.5, shape)
    elif len(shape) < 2:
        scales = name.endswith(("weight", "gamma", "scale"))
        values = gain * rng.uniform(0.5, 1.5, shape) if scales else rng.normal(0, 0.1, shape)
    else:
        values = rng.normal(0, 1, shape) * np.sqrt(2 / np.prod(shape[1:]))
    return values.astype("float32")


def write_safetensors(path, shapes, gain=1.0):
    """Write a file with one random tensor for each name and shape."""
    header, data, end = {}, [], 0
    for name, shape in shapes.items():
        data.append(drawn(name, shape, gain).tobytes())
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + len(data[-1])]}
        end += len(data[-1])
    text = json.dumps(header).encode()
    path.write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *data]))


def convolution(name, norm, channels, inputs, kernel):
    """The tensors of a convolution without bias, and of the BatchNorm after it."""
    statistics = {f"{norm}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {f"{name}.weight": (channels, inputs, kernel, kernel), **statistics}


def pixels(size):
    return np.random.RandomState(0).randint(0, 256, (2, *size, 3)).astype("float32")


def logits(model, size):
    import keras

    return keras.Model(model.input, model.get_layer("logits").output).predict_on_batch(pixels(size))
