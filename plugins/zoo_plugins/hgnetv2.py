"""Provides PP-HGNetV2, B0 and B1: dense blocks of plain convolutions, joined once per block.

Source: PaddleClas of Baidu, https://github.com/PaddlePaddle/PaddleClas (Apache-2.0). There is no paper of the network;
Cui et al. 2021, https://arxiv.org/abs/2103.05959, describes how its weights were distilled. The weights are those of
Baidu in the layout of timm: `stages.2.blocks.0.layers.1.conv1.bn.weight` belongs to the layer of the same name with `_`
instead of the dots.

After each ReLU, the network multiplies and shifts all channels by two trained numbers. Keras has no such layer. Here it
is a depthwise 1x1 convolution, so that each channel may get numbers of its own when it is trained further.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

SOURCE = "https://github.com/PaddlePaddle/PaddleClas"
PAPER = "https://arxiv.org/abs/2103.05959"
EPSILON = 1e-5
HIDDEN = 2048


@dataclass(frozen=True)
class StageSize:
    """The size of a stage.

    Args:
        middle: The number of channels of each convolution inside a block.
        outputs: The number of channels of the stage's output.
        blocks: The number of blocks. All but the first add their input to their output.
        light: Whether the convolutions inside are 1x1 followed by depthwise 5x5. Otherwise they are 3x3.
        convolutions: The number of convolutions inside a block.
    """

    middle: int
    outputs: int
    blocks: int = 1
    light: bool = False
    convolutions: int = 3


# name: (channels of the stem, sizes of the stages, parameters without top)
NETWORKS = {
    "hgnetv2_b0": (
        (16, 16),
        (StageSize(16, 64), StageSize(32, 256), StageSize(64, 512, 2, True), StageSize(128, 1024, 1, True)),
        1_871_680,
    ),
    "hgnetv2_b1": (
        (24, 32),
        (StageSize(32, 64), StageSize(48, 256), StageSize(96, 512, 2, True), StageSize(192, 1024, 1, True)),
        2_221_152,
    ),
}

# name: (revision of timm's repository NAME.ssld_stage2_ft_in1k, top-1, top-5). The accuracies are those of PaddleClas,
# docs/zh_CN/models/ImageNet1k/PP-HGNetV2.md.
PUBLISHED = {
    "hgnetv2_b0": ("fbde0576fe2bb17dd55228374272f0fc705a4640", 0.7777, 0.9391),
    "hgnetv2_b1": ("main", 0.7918, 0.9457),
}


def build(input_shape: tuple[int, int, int], *, stem: tuple[int, int], stages: tuple[StageSize, ...]) -> keras.Model:
    """Build the backbone; see `zoo.plugin.Architecture.build`.

    Args:
        input_shape: (height, width, channels).
        stem: The number of channels inside the stem, and of its output.
        stages: The sizes of the stages after the stem.
    """
    import keras
    from keras import layers

    pixels = keras.Input(input_shape, name="image")
    x = _convolution(normalize(pixels, "torch"), stem[0], 3, "stem_stem1", stride=2)
    x = layers.ZeroPadding2D(((0, 1), (0, 1)), name="stem_pad")(x)
    pooled = layers.MaxPooling2D(2, strides=1, name="stem_pool")(x)
    x = _convolution(x, stem[0] // 2, 2, "stem_stem2a", padding="valid")
    x = _convolution(x, stem[0], 2, "stem_stem2b")
    x = layers.Concatenate(name="stem_join")([pooled, x])
    x = _convolution(x, stem[0], 3, "stem_stem3", stride=2)
    x = _convolution(x, stem[1], 1, "stem_stem4")
    for i, stage in enumerate(stages):
        if i:
            x = _convolution(x, None, 3, f"stages_{i}_downsample", stride=2, relu=False)
        for j in range(stage.blocks):
            x = _block(x, stage, f"stages_{i}_blocks_{j}", residual=j > 0)
    return keras.Model(pixels, x)


def _convolution(
    x: keras.KerasTensor,
    channels: int | None,
    kernel: int,
    name: str,
    *,
    stride: int = 1,
    padding: str = "same",
    relu: bool = True,
) -> keras.KerasTensor:
    """Add a convolution with BatchNorm and, unless `relu` is False, ReLU and a scale and shift of each channel.

    Args:
        x: A feature map.
        channels: The number of output channels; None for a depthwise convolution.
        kernel: The side of the kernel.
        name: The name in front of the names of the layers.
        stride: With 2, the padding is symmetric, as in PyTorch; Keras's `same` is not.
        padding: The padding at a stride of 1.
        relu: Whether a ReLU follows.
    """
    from keras import layers

    if stride > 1:
        x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
        padding = "valid"
    options: dict[str, Any] = {"strides": stride, "padding": padding, "use_bias": False, "name": f"{name}_conv"}
    x = layers.Conv2D(channels, kernel, **options)(x) if channels else layers.DepthwiseConv2D(kernel, **options)(x)
    x = layers.BatchNormalization(epsilon=EPSILON, name=f"{name}_bn")(x)
    return _scaled(layers.Activation("relu", name=f"{name}_relu")(x), f"{name}_lab") if relu else x


def _scaled(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Multiply and shift each channel by trained numbers, which are 1 and 0 at first."""
    from keras import layers

    return layers.DepthwiseConv2D(1, depthwise_initializer="ones", name=name)(x)


def _block(x: keras.KerasTensor, stage: StageSize, name: str, *, residual: bool) -> keras.KerasTensor:
    from keras import layers

    before, outputs = x, [x]
    for i in range(stage.convolutions):
        if stage.light:
            x = _convolution(x, stage.middle, 1, f"{name}_layers_{i}_conv1", relu=False)
            x = _convolution(x, None, 5, f"{name}_layers_{i}_conv2")
        else:
            x = _convolution(x, stage.middle, 3, f"{name}_layers_{i}")
        outputs.append(x)
    x = layers.Concatenate(name=f"{name}_join")(outputs)
    x = _convolution(x, stage.outputs // 2, 1, f"{name}_aggregation_0")
    x = _convolution(x, stage.outputs, 1, f"{name}_aggregation_1")
    return layers.Add(name=f"{name}_add")([before, x]) if residual else x


def build_classifier(
    input_shape: tuple[int, int, int], classes: int, *, stem: tuple[int, int], stages: tuple[StageSize, ...]
) -> keras.Model:
    """Build the published classifier, which ends in logits; see `zoo.plugin.Architecture.build_classifier`.

    Args:
        input_shape: (height, width, channels).
        classes: The number of classes.
        stem: The number of channels inside the stem, and of its output.
        stages: The sizes of the stages after the stem.
    """
    import keras
    from keras import layers

    backbone = build(input_shape, stem=stem, stages=stages)
    x = layers.GlobalAveragePooling2D(keepdims=True, name="head_pool")(backbone.output)
    x = layers.Conv2D(HIDDEN, 1, use_bias=False, name="head_last_conv_0")(x)
    x = _scaled(layers.Activation("relu", name="head_relu")(x), "head_last_conv_2")
    return keras.Model(backbone.input, layers.Dense(classes, name="head_fc")(layers.Flatten(name="head_flat")(x)))


def load(model: keras.Model, path: Path) -> None:
    """Load a weights file in the layout of timm.

    Args:
        model: A network from `build` or `build_classifier`.
        path: The safetensors file, or a state dict of PyTorch.

    Raises:
        WeightsIncompatible: Another tensor is missing, or has another shape than the layer needs.
        KeyError: The file lacks the scale and shift after a ReLU.
    """
    import numpy as np

    tensors = dict(read_tensors(path))
    for layer in model.layers:
        if layer.name.endswith("_lab") or layer.name == "head_last_conv_2":
            name = tensor_name(layer.name)
            for variable, part in zip(layer.weights, ("scale", "bias"), strict=True):
                tensors[f"{name}/{variable.name}"] = np.full(variable.shape, tensors[f"{name}.{part}"], np.float32)
    copy_tensors(tensors, model, tensor_name)


def tensor_name(layer: str) -> str:
    """Return how timm names a layer: "stages.0.blocks.0.layers.1.bn" for "stages_0_blocks_0_layers_1_bn"."""
    return layer.replace("_", ".").replace("last.conv", "last_conv")


@hookimpl
def zoo_architectures():
    for name, (stem, stages, parameters) in NETWORKS.items():
        yield Architecture(
            name=name,
            summary=f"{name[-2:].upper()} size; plain convolutions, fast on desktop processors",
            build=partial(build, stem=stem, stages=stages),
            build_classifier=partial(build_classifier, stem=stem, stages=stages),
            input_size=(224, 224),
            min_size=32,
            parameters=parameters,
            stages=(
                Stage("stem", ("stem_*",)),
                *(Stage(f"stage{i + 1}", (f"stages_{i}_*",)) for i in range(len(stages))),
            ),
            head=Head(pool="avg", dropout=0.2),
            source=SOURCE,
            licence="Apache-2.0",
        )


@hookimpl
def zoo_weights():
    for name, (revision, top1, top5) in PUBLISHED.items():
        yield timm_weights(
            name,
            f"{name}.ssld_stage2_ft_in1k",
            revision=revision,
            crop=0.965,
            load=load,
            licence="Apache-2.0",
            source="Baidu, distilled with pictures of ImageNet-22k",
            paper=PAPER,
            top1=top1,
            top5=top5,
        )
