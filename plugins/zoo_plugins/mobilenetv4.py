"""Provides MobileNetV4, convolutional, small and medium: universal inverted bottlenecks, plain ReLU, no attention.

Source: Qin et al. 2024, https://arxiv.org/abs/2404.10518. The networks follow the paper's tables of MNv4-Conv-S and
MNv4-Conv-M. Google has published no weights. Those here were trained by Ross Wightman with timm. The layers have
timm's names: `blocks.2.0.dw_mid.conv.weight` is the kernel of the layer `blocks_2_0_dw_mid_conv`.

A universal inverted bottleneck has up to four parts: a depthwise convolution at its start, a pointwise convolution that
expands, a depthwise convolution in its middle, and a pointwise convolution that projects. Only the parts with an
expanded number of channels end in ReLU.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.plugin import (
    Architecture,
    Head,
    Stage,
    copy_tensors,
    hookimpl,
    normalize,
    read_tensors,
    timm_weights,
)

if TYPE_CHECKING:
    import keras

PAPER = "https://arxiv.org/abs/2404.10518"
EPSILON = 1e-5
TOP_CHANNELS, HIDDEN = 960, 1280


class Conv(NamedTuple):
    """A convolution with BatchNorm and ReLU: side of its kernel, output channels, stride."""

    kernel: int
    channels: int
    stride: int = 1


class Fused(NamedTuple):
    """A fused inverted bottleneck: a 3x3 convolution that expands, and a pointwise one that projects."""

    channels: int
    expansion: int
    stride: int


class Bottleneck(NamedTuple):
    """A universal inverted bottleneck.

    Args:
        start: The side of the first depthwise kernel; 0 for none.
        middle: The side of the second depthwise kernel; 0 for none.
        channels: The number of output channels.
        expansion: The number of expanded channels divided by that of the input channels.
        stride: 2 halves height and width, in the second depthwise convolution if there is one.
    """

    start: int
    middle: int
    channels: int
    expansion: int
    stride: int = 1


Block = Conv | Fused | Bottleneck

SMALL: tuple[tuple[Block, ...], ...] = (
    (Conv(3, 32, 2), Conv(1, 32)),
    (Conv(3, 96, 2), Conv(1, 64)),
    (
        Bottleneck(5, 5, 96, 3, 2),
        *(Bottleneck(0, 3, 96, 2) for _ in range(4)),
        Bottleneck(3, 0, 96, 4),
    ),
    (
        Bottleneck(3, 3, 128, 6, 2),
        Bottleneck(5, 5, 128, 4),
        Bottleneck(0, 5, 128, 4),
        Bottleneck(0, 5, 128, 3),
        Bottleneck(0, 3, 128, 4),
        Bottleneck(0, 3, 128, 4),
    ),
    (Conv(1, TOP_CHANNELS),),
)

MEDIUM: tuple[tuple[Block, ...], ...] = (
    (Fused(48, 4, 2),),
    (Bottleneck(3, 5, 80, 4, 2), Bottleneck(3, 3, 80, 2)),
    (
        Bottleneck(3, 5, 160, 6, 2),
        Bottleneck(3, 3, 160, 4),
        Bottleneck(3, 3, 160, 4),
        Bottleneck(3, 5, 160, 4),
        Bottleneck(3, 3, 160, 4),
        Bottleneck(3, 0, 160, 4),
        Bottleneck(0, 0, 160, 2),
        Bottleneck(3, 0, 160, 4),
    ),
    (
        Bottleneck(5, 5, 256, 6, 2),
        Bottleneck(5, 5, 256, 4),
        Bottleneck(3, 5, 256, 4),
        Bottleneck(3, 5, 256, 4),
        Bottleneck(0, 0, 256, 4),
        Bottleneck(3, 0, 256, 4),
        Bottleneck(3, 5, 256, 2),
        Bottleneck(5, 5, 256, 4),
        Bottleneck(0, 0, 256, 4),
        Bottleneck(0, 0, 256, 4),
        Bottleneck(5, 0, 256, 2),
    ),
    (Conv(1, TOP_CHANNELS),),
)

# name: (blocks, parameters without top)
NETWORKS = {
    "mobilenetv4_conv_small": (SMALL, 1_284_192),
    "mobilenetv4_conv_medium": (MEDIUM, 7_268_496),
}

# name: (recipe, revision of the repository, top-1, top-5). timm's README reports these accuracies at 224 x 224 pixels.
PUBLISHED = {
    "mobilenetv4_conv_small": ("e2400_r224_in1k", "62da402ab468e9f1581764050d6be51fda8a35f0", 0.73756, 0.91422),
    "mobilenetv4_conv_medium": ("e500_r224_in1k", "e9c0138574f05d63fc035fe01067883b509d0652", 0.79094, 0.9477),
}


def build(input_shape: tuple[int, int, int], *, blocks: tuple[tuple[Block, ...], ...]) -> keras.Model:
    """Build the backbone; see `zoo.plugin.Architecture.build`.

    Args:
        input_shape: (height, width, channels).
        blocks: The blocks of each stage after the stem.
    """
    import keras

    pixels = keras.Input(input_shape, name="image")
    x = _convolution(normalize(pixels, "torch"), 32, 3, "conv_stem", "bn1", stride=2)
    for i, stage in enumerate(blocks):
        for j, block in enumerate(stage):
            x = _BUILDERS[type(block)](x, block, f"blocks_{i}_{j}")
    return keras.Model(pixels, x)


def _convolution(
    x: keras.KerasTensor,
    channels: int,
    kernel: int,
    name: str,
    norm: str,
    *,
    stride: int = 1,
    depthwise: bool = False,
    relu: bool = True,
) -> keras.KerasTensor:
    """Add a convolution with BatchNorm. The padding is symmetric, as in PyTorch; Keras's `same` is not at a stride."""
    from keras import layers

    if stride > 1:
        x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    options = {"strides": stride, "padding": "valid" if stride > 1 else "same", "use_bias": False, "name": name}
    x = layers.DepthwiseConv2D(kernel, **options)(x) if depthwise else layers.Conv2D(channels, kernel, **options)(x)
    x = layers.BatchNormalization(epsilon=EPSILON, name=norm)(x)
    return layers.Activation("relu", name=f"{norm}_relu")(x) if relu else x


def _plain(x: keras.KerasTensor, block: Conv, name: str) -> keras.KerasTensor:
    return _convolution(x, block.channels, block.kernel, f"{name}_conv", f"{name}_bn1", stride=block.stride)


def _fused(x: keras.KerasTensor, block: Fused, name: str) -> keras.KerasTensor:
    expanded = block.expansion * x.shape[-1]
    x = _convolution(x, expanded, 3, f"{name}_conv_exp", f"{name}_bn1", stride=block.stride)
    return _convolution(x, block.channels, 1, f"{name}_conv_pwl", f"{name}_bn2", relu=False)


def _bottleneck(x: keras.KerasTensor, block: Bottleneck, name: str) -> keras.KerasTensor:
    from keras import layers

    def part(x: keras.KerasTensor, channels: int, kernel: int, part: str, **options: Any) -> keras.KerasTensor:
        return _convolution(x, channels, kernel, f"{name}_{part}_conv", f"{name}_{part}_bn", **options)

    before, expanded = x, block.expansion * x.shape[-1]
    if block.start:
        stride = 1 if block.middle else block.stride
        x = part(x, x.shape[-1], block.start, "dw_start", stride=stride, depthwise=True, relu=False)
    x = part(x, expanded, 1, "pw_exp")
    if block.middle:
        x = part(x, expanded, block.middle, "dw_mid", stride=block.stride, depthwise=True)
    x = part(x, block.channels, 1, "pw_proj", relu=False)
    if block.stride > 1 or before.shape[-1] != block.channels:
        return x
    return layers.Add(name=f"{name}_add")([before, x])


_BUILDERS: dict[type, Callable[..., keras.KerasTensor]] = {Conv: _plain, Fused: _fused, Bottleneck: _bottleneck}


def build_classifier(
    input_shape: tuple[int, int, int], classes: int, *, blocks: tuple[tuple[Block, ...], ...]
) -> keras.Model:
    """Build the published classifier, which ends in logits; see `zoo.plugin.Architecture.build_classifier`.

    Args:
        input_shape: (height, width, channels).
        classes: The number of classes.
        blocks: The blocks of each stage after the stem.
    """
    import keras

    backbone = build(input_shape, blocks=blocks)
    x = keras.layers.GlobalAveragePooling2D(keepdims=True, name="global_pool")(backbone.output)
    x = _convolution(x, HIDDEN, 1, "conv_head", "norm_head")
    x = keras.layers.Flatten(name="flatten")(x)
    return keras.Model(backbone.input, keras.layers.Dense(classes, name="classifier")(x))


def load(model: keras.Model, path: Path) -> None:
    """Load a weights file of timm.

    Args:
        model: A network from `build` or `build_classifier`.
        path: The safetensors file, or a state dict of PyTorch.

    Raises:
        WeightsIncompatible: The file lacks a tensor, or one has another shape than the layer needs.
    """
    copy_tensors(read_tensors(path), model, tensor_name)


def tensor_name(layer: str) -> str:
    """Return how timm names a layer: "blocks.2.0.dw_mid.conv" for "blocks_2_0_dw_mid_conv"."""
    match = re.fullmatch(r"blocks_(\d+)_(\d+)_(?:(dw_start|dw_mid|pw_exp|pw_proj)_)?(\w+)", layer)
    return ".".join(["blocks", *filter(None, match.groups())]) if match else layer


@hookimpl
def zoo_architectures():
    for name, (blocks, parameters) in NETWORKS.items():
        yield Architecture(
            name=name,
            summary=f"{name.rpartition('_')[2]} size; universal inverted bottlenecks and plain ReLU, suited to int8",
            build=partial(build, blocks=blocks),
            build_classifier=partial(build_classifier, blocks=blocks),
            input_size=(224, 224),
            min_size=32,
            parameters=parameters,
            stages=(
                Stage("stem", ("conv_stem", "bn1")),
                *(Stage(f"stage{i + 1}", (f"blocks_{i}_*",)) for i in range(len(blocks) - 1)),
                Stage("top", (f"blocks_{len(blocks) - 1}_*",)),
            ),
            head=Head(pool="avg", dropout=0.2),
            learning_rate=3e-3,
            source=PAPER,
            licence="Apache-2.0",
        )


@hookimpl
def zoo_weights():
    for name, (recipe, revision, top1, top5) in PUBLISHED.items():
        yield timm_weights(
            name,
            f"{name}.{recipe}",
            revision=revision,
            load=load,
            licence="Apache-2.0",
            source=f"Ross Wightman, recipe {recipe}",
            paper=PAPER,
            top1=top1,
            top5=top5,
        )
