"""Provides DenseNet with 121, 169 and 201 layers. Every layer receives the outputs of all earlier layers of its block.

Source: Huang et al. 2016, https://arxiv.org/abs/1608.06993. The layers come from keras.applications. Digests and
reported accuracies are those that Keras publishes (https://keras.io/api/applications/).

Weights of timm (https://huggingface.co/timm) fit the same layers; `tensor_name` says what timm calls them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.plugin import (
    KerasApplication,
    Stage,
    copy_tensors,
    hookimpl,
    imagenet_weights,
    keras_architecture,
    read_tensors,
    timm_weights,
)

if TYPE_CHECKING:
    import keras

PAPER = "https://arxiv.org/abs/1608.06993"
BASE_URL = "https://storage.googleapis.com/tensorflow/keras-applications/densenet/"

# layers: (parameters without top, top-1, top-5)
NETWORKS = {
    121: (7_037_504, 0.750, 0.923),
    169: (12_642_880, 0.762, 0.932),
    201: (18_321_984, 0.773, 0.936),
}

# layers: md5 without and with top
HASHES = {
    121: ("md5:30ee3e1110167f948a6b9946edeeb738", "md5:9d60b8095a5708f2dcce2bca79d332c7"),
    169: ("md5:b8c4d4c20dd625c148057b9ff1c1176b", "md5:d699b8f76981ab1b30698df4c175e90b"),
    201: ("md5:c13680b51ded0fb44dff2d8f86ac8bb1", "md5:1ceb130c1ea1b78c3bf6114dbdfd8807"),
}

# layers: length in bytes without top
LENGTHS = {121: 29_084_464, 169: 51_877_672, 201: 74_836_368}

# Each stage is a dense block and the transition after it; the last block has no transition.
STAGES = (
    Stage("conv1", ("conv1_*",)),
    *(Stage(f"conv{i}", (f"conv{i}_*", f"pool{i}_*")) for i in range(2, 5)),
    Stage("conv5", ("conv5_*", "bn")),
)


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
    """Return how timm names a layer: "features.denseblock1.denselayer6.conv2" for "conv2_block6_2_conv"."""
    match = re.fullmatch(r"conv(\d+)_block(\d+)_(\d)_(bn|conv)", layer)
    if match:
        block, number, part, kind = match.groups()
        # A dense layer here begins with the BatchNorm 0 and the convolution 1; timm counts both from 1.
        own = f"norm{int(part) + 1}" if kind == "bn" else f"conv{part}"
        return f"features.denseblock{int(block) - 1}.denselayer{number}.{own}"
    match = re.fullmatch(r"pool(\d)_(bn|conv)", layer)
    if match:
        return f"features.transition{int(match[1]) - 1}.{'norm' if match[2] == 'bn' else 'conv'}"
    single = {"conv1_conv": "conv0", "conv1_bn": "norm0", "bn": "norm5"}
    return f"features.{single[layer]}" if layer in single else "classifier"


@hookimpl
def zoo_architectures():
    for layers, (parameters, _, _) in NETWORKS.items():
        yield keras_architecture(
            KerasApplication(f"DenseNet{layers}", "torch"),
            f"densenet{layers}",
            summary=f"densely connected network of {layers} layers; few parameters for its accuracy",
            parameters=parameters,
            stages=STAGES,
            source=PAPER,
        )


@hookimpl
def zoo_weights():
    for layers, (_, top1, top5) in NETWORKS.items():
        stem = f"densenet{layers}_weights_tf_dim_ordering_tf_kernels"
        yield from imagenet_weights(
            f"densenet{layers}",
            BASE_URL,
            (f"{stem}_notop.h5", f"{stem}.h5"),
            size=224,
            hashes=HASHES[layers],
            lengths=(LENGTHS[layers], None),
            licence="BSD-3-Clause",
            source="https://github.com/liuzhuang13/DenseNet",
            paper=PAPER,
            top1=top1,
            top5=top5,
        )
    yield timm_weights(
        "densenet121",
        "densenet121.ra_in1k",
        tag="ra_in1k",
        revision="e65bed9f92a2e438879b179438d22ed719be26d6",
        size=288,
        crop=0.95,
        load=load_timm,
        licence="Apache-2.0",
        source="Ross Wightman, with RandAugment",
        paper=PAPER,
        top1=0.765,
        top5=0.93368,
    )
