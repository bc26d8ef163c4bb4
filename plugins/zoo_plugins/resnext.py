"""Provides ResNeXt with 50 and 101 layers: residual networks whose 3x3 convolutions have 32 groups (32x4d).

Source: Xie et al. 2016, https://arxiv.org/abs/1611.05431. Keras 3 has no ResNeXt, so this module builds it with the
layer names of keras-applications 1.0.8 (https://github.com/keras-team/keras-applications). The weights files come from
the releases of that package, and the accuracies from its README. The files contain each grouped convolution as a
depthwise convolution with a channel multiplier, whose outputs are summed within each group. `load` converts them.

Weights of timm (https://huggingface.co/timm) fit the same layers; `tensor_name` says what timm calls them. Those of
Meta, which billions of hashtags have taught, may not be used commercially.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.plugin import (
    Architecture,
    Head,
    Stage,
    copy_tensors,
    hookimpl,
    imagenet_weights,
    normalize,
    read_tensors,
    timm_weights,
)

if TYPE_CHECKING:
    import keras
    import numpy as np

PAPER = "https://arxiv.org/abs/1611.05431"
BILLION = "https://arxiv.org/abs/1905.00546"
BASE_URL = "https://github.com/keras-team/keras-applications/releases/download/resnet/"
GROUPS = 32
EPSILON = 1.001e-5

# name: (blocks of conv2 to conv5, parameters without top, top-1, top-5)
NETWORKS = {
    "resnext50": ((3, 4, 6, 3), 23_048_128, 0.777, 0.938),
    "resnext101": ((3, 4, 23, 3), 42_266_560, 0.787, 0.943),
}

# name: md5 without and with top
HASHES = {
    "resnext50": ("md5:62527c363bdd9ec598bed41947b379fc", "md5:67a5b30d522ed92f75a1f16eef299d1a"),
    "resnext101": ("md5:0f678c91647380debd923963594981b3", "md5:34fb605428fcc7aa4d62f44404c11509"),
}

# (name, tag, repository of timm, revision, size, crop, filter, licence, source, paper, top-1, top-5). The accuracies
# are those of timm's results/results-imagenet.csv, the licences those of the model cards.
TIMM = (
    (
        *("resnext50", "a1_in1k", "resnext50_32x4d.a1_in1k", "cf70ff7e66fdd0850944d954e53bf14131d70be1"),
        *(288, 1.0, "bicubic", "Apache-2.0", "Ross Wightman, recipe A1", "https://arxiv.org/abs/2110.00476"),
        *(0.81466, 0.95174),
    ),
    (
        *("resnext101", "gluon_in1k", "resnext101_32x4d.gluon_in1k", "main"),
        *(224, 0.875, "bicubic", "Apache-2.0", "the authors of GluonCV", "https://arxiv.org/abs/1812.01187"),
        *(0.8034, 0.9493),
    ),
    (
        *("resnext50", "swsl_ig1b", "resnext50_32x4d.fb_swsl_ig1b_ft_in1k", "main"),
        *(224, 0.875, "bilinear", "CC-BY-NC-4.0", "Meta, from a billion pictures with hashtags", BILLION),
        *(0.82174, 0.96222),
    ),
    (
        *("resnext101", "swsl_ig1b", "resnext101_32x4d.fb_swsl_ig1b_ft_in1k", "main"),
        *(224, 0.875, "bilinear", "CC-BY-NC-4.0", "Meta, from a billion pictures with hashtags", BILLION),
        *(0.83232, 0.96758),
    ),
)


def build(input_shape: tuple[int, int, int], *, blocks: tuple[int, ...]) -> keras.Model:
    """Build the backbone; see `zoo.plugin.Architecture.build`.

    Args:
        input_shape: (height, width, channels).
        blocks: The number of blocks in each of conv2 to conv5.
    """
    import keras

    layers = keras.layers
    pixels = keras.Input(input_shape, name="image")
    x = layers.ZeroPadding2D(3, name="conv1_pad")(normalize(pixels, "torch"))
    x = layers.Conv2D(64, 7, strides=2, use_bias=False, name="conv1_conv")(x)
    x = layers.BatchNormalization(epsilon=EPSILON, name="conv1_bn")(x)
    x = layers.Activation("relu", name="conv1_relu")(x)
    x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)
    for stack, (filters, count) in enumerate(zip((128, 256, 512, 1024), blocks, strict=True), start=2):
        for block in range(1, count + 1):
            strides = 2 if block == 1 and stack > 2 else 1
            x = _block(x, filters, strides, f"conv{stack}_block{block}", shortcut=block == 1)
    return keras.Model(pixels, x)


def _block(x: keras.KerasTensor, filters: int, strides: int, name: str, *, shortcut: bool) -> keras.KerasTensor:
    from keras import layers

    def norm(x, part):
        return layers.BatchNormalization(epsilon=EPSILON, name=f"{name}_{part}_bn")(x)

    def convolution(x, channels, size, part, **options):
        return layers.Conv2D(channels, size, use_bias=False, name=f"{name}_{part}_conv", **options)(x)

    residual = norm(convolution(x, 2 * filters, 1, 0, strides=strides), 0) if shortcut else x
    x = layers.Activation("relu", name=f"{name}_1_relu")(norm(convolution(x, filters, 1, 1), 1))
    x = layers.ZeroPadding2D(1, name=f"{name}_2_pad")(x)
    x = norm(convolution(x, filters, 3, 2, strides=strides, groups=GROUPS), 2)
    x = layers.Activation("relu", name=f"{name}_2_relu")(x)
    x = norm(convolution(x, 2 * filters, 1, 3), 3)
    return layers.Activation("relu", name=f"{name}_out")(layers.Add(name=f"{name}_add")([residual, x]))


def build_classifier(input_shape: tuple[int, int, int], classes: int, *, blocks: tuple[int, ...]) -> keras.Model:
    """Build the published classifier, which ends in logits; see `zoo.plugin.Architecture.build_classifier`.

    Args:
        input_shape: (height, width, channels).
        classes: The number of classes.
        blocks: The number of blocks in each of conv2 to conv5.
    """
    import keras

    backbone = build(input_shape, blocks=blocks)
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(backbone.output)
    return keras.Model(backbone.input, keras.layers.Dense(classes, name="probs")(x))


def load(model: keras.Model, path: Path) -> None:
    """Load a weights file in the layout of keras-applications 1.0.8.

    zoo converts every error of a `load` function to WeightsIncompatible before the user sees it.

    Args:
        model: A network from `build` or `build_classifier`.
        path: The .h5 file.

    Raises:
        KeyError: The file lacks a layer.
        ValueError: An array does not have the shape that the layer needs.
    """
    import h5py
    import keras

    with h5py.File(path) as file:
        groups = file.get("model_weights", file)
        for layer in model.layers:
            if not layer.weights:
                continue
            arrays = [groups[layer.name][name][()] for name in groups[layer.name].attrs["weight_names"]]
            if isinstance(layer, keras.layers.Conv2D) and layer.groups > 1:
                arrays = [grouped_kernel(arrays[0], layer.groups)]
            layer.set_weights(arrays)


def grouped_kernel(depthwise: np.ndarray, groups: int) -> np.ndarray:
    """Convert a depthwise kernel from a published weights file to the kernel of a grouped convolution.

    Args:
        depthwise: Kernel (height, width, channels, multiplier), where multiplier is channels / groups. This kernel
            computes `multiplier` outputs for each input channel. The published network then sums these outputs within
            each group: output k of a group is the sum of the k-th outputs of all input channels of the group.
        groups: Number of groups.

    Returns:
        Kernel (height, width, channels / groups, channels) for a Conv2D with this number of groups.
    """
    height, width, channels, multiplier = depthwise.shape
    parts = depthwise.reshape(height, width, groups, channels // groups, multiplier)
    return parts.transpose(0, 1, 3, 2, 4).reshape(height, width, channels // groups, groups * multiplier)


def load_timm(model: keras.Model, path: Path) -> None:
    """Load a weights file in the layout of timm.

    Args:
        model: A network from `build` or `build_classifier`.
        path: The safetensors file, or a state dict of PyTorch.

    Raises:
        WeightsIncompatible: A tensor is missing, or has another shape than the layer needs.
    """
    copy_tensors(read_tensors(path), model, tensor_name)


def tensor_name(layer: str) -> str:
    """Return how timm names a layer: "layer1.2.conv3" for "conv2_block3_3_conv"."""
    match = re.fullmatch(r"conv(\d+)_block(\d+)_(\d)_(bn|conv)", layer)
    if not match:
        return {"conv1_conv": "conv1", "conv1_bn": "bn1"}.get(layer, "fc")
    stack, block, part, kind = match.groups()
    own = f"{kind}{part}" if part != "0" else f"downsample.{0 if kind == 'conv' else 1}"
    return f"layer{int(stack) - 1}.{int(block) - 1}.{own}"


@hookimpl
def zoo_architectures():
    for name, (blocks, parameters, _, _) in NETWORKS.items():
        yield Architecture(
            name=name,
            summary=f"residual network of {name.removeprefix('resnext')} layers with grouped convolutions (32x4d)",
            build=partial(build, blocks=blocks),
            build_classifier=partial(build_classifier, blocks=blocks),
            input_size=(224, 224),
            min_size=32,
            parameters=parameters,
            stages=tuple(Stage(f"conv{i}", (f"conv{i}_*",)) for i in range(1, 6)),
            head=Head(pool="avg", dropout=0.2),
            source=PAPER,
            licence="MIT",
        )


@hookimpl
def zoo_weights():
    for name, (_, _, top1, top5) in NETWORKS.items():
        stem = f"{name}_weights_tf_dim_ordering_tf_kernels"
        yield from imagenet_weights(
            name,
            BASE_URL,
            (f"{stem}_notop.h5", f"{stem}.h5"),
            size=224,
            hashes=HASHES[name],
            load=load,
            licence="BSD-3-Clause",
            source="https://github.com/facebookresearch/ResNeXt",
            paper=PAPER,
            top1=top1,
            top5=top5,
        )
    for name, tag, repository, revision, side, crop, resampling, licence, source, paper, top1, top5 in TIMM:
        yield timm_weights(
            name,
            repository,
            tag=tag,
            revision=revision,
            size=side,
            crop=crop,
            filter=resampling,
            load=load_timm,
            licence=licence,
            source=source,
            paper=paper,
            top1=top1,
            top5=top5,
        )
