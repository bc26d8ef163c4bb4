"""Provides ConvNeXt in five sizes: a plain convolutional network with design choices of vision transformers.

Source: Liu et al. 2022, https://arxiv.org/abs/2201.03545. The layers come from keras.applications. Digests and
reported accuracies are those that Keras publishes (https://keras.io/api/applications/). Base, large and xlarge were
pretrained on ImageNet-21k.

Two kinds of Keras's layers are replaced by equivalent layers. Published weights are reshaped when they are loaded.

- Grouped convolutions with one group per channel become depthwise convolutions. On a CPU, TensorFlow can train grouped
  convolutions only through XLA.
- Dense layers over feature maps become 1x1 convolutions, because each dense layer would be exported as a dozen nodes of
  shape arithmetic.

Better weights than Keras's come from timm (https://huggingface.co/timm), whose layers `tensor_name` names. Those of
convnext_tiny.fb_in22k_ft_in1k are left out: they reach 78.9 % at 288 x 288 pixels, and Keras's 81.3 %.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.plugin import (
    KerasApplication,
    Stage,
    copy_tensors,
    copy_weights,
    hookimpl,
    imagenet_weights,
    keras_architecture,
    read_tensors,
    timm_weights,
)

if TYPE_CHECKING:
    import keras

PAPER = "https://arxiv.org/abs/2201.03545"
BASE_URL = "https://storage.googleapis.com/tensorflow/keras-applications/convnext/"

# name: (name in Keras, parameters without top, top-1)
NETWORKS = {
    "convnext_tiny": ("ConvNeXtTiny", 27_820_128, 0.813),
    "convnext_small": ("ConvNeXtSmall", 49_454_688, 0.823),
    "convnext_base": ("ConvNeXtBase", 87_566_464, 0.853),
    "convnext_large": ("ConvNeXtLarge", 196_230_336, 0.863),
    "convnext_xlarge": ("ConvNeXtXLarge", 348_147_968, 0.867),
}

# Pretrained on ImageNet-21k, then trained on ImageNet-1k.
FROM_21K = ("convnext_base", "convnext_large", "convnext_xlarge")

# name: sha256 without and with top
HASHES = {
    "convnext_tiny": (
        "sha256:d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
        "sha256:8ae6e78ce2933352b1ef4008e6dd2f17bc40771563877d156bc6426c7cf503ff",
    ),
    "convnext_small": (
        "sha256:6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab",
        "sha256:ce1277d8f1ee5a0ef0e171469089c18f5233860ceaf9b168049cb9263fd7483c",
    ),
    "convnext_base": (
        "sha256:40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45",
        "sha256:52cbb006d3dadd03f6e095a8ca1aca47aecdd75acb4bc74bce1f5c695d0086e6",
    ),
    "convnext_large": (
        "sha256:96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd",
        "sha256:070c5ed9ed289581e477741d3b34beffa920db8cf590899d6d2c67fba2a198a6",
    ),
    "convnext_xlarge": (
        "sha256:de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05",
        "sha256:c1f5ccab661354fc3a79a10fa99af82f0fbf10ec65cb894a3ae0815f17a889ee",
    ),
}

# name: length in bytes without top
LENGTHS = {
    "convnext_tiny": 111_650_432,
    "convnext_small": 198_551_472,
    "convnext_base": 350_926_856,
    "convnext_large": 785_596_384,
    "convnext_xlarge": 1_393_257_616,
}

# (name, tag, repository of timm, its commit, file, size, top-1, top-5). The accuracies are those of timm's
# results/results-imagenet.csv. The model cards state the licence.
WIGHTMAN, META = "Ross Wightman, pretrained on ImageNet-12k", "Meta, pretrained on ImageNet-22k"
SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
TIMM = (
    (
        *("convnext_tiny", "in12k_ft_in1k", "convnext_tiny.in12k_ft_in1k"),
        *("345dc605d897cc294370c00f073d9fc45226e538", BIN, WIGHTMAN, 288, 0.8445, 0.9734),
    ),
    (
        *("convnext_tiny", "in22k_ft_in1k", "convnext_tiny.fb_in22k_ft_in1k_384"),
        *("6a98cf478ae0e4257c5298ad7ddaa74ce7dcbbf1", BIN, META, 384, 0.84088, 0.97144),
    ),
    (
        *("convnext_small", "in12k_ft_in1k", "convnext_small.in12k_ft_in1k_384"),
        *("0fc49d4557a21fa528071cb53fea9b1a5432cd20", SAFETENSORS, WIGHTMAN, 384, 0.86182, 0.97922),
    ),
    (
        *("convnext_small", "in22k_ft_in1k", "convnext_small.fb_in22k_ft_in1k"),
        *("1ce2b378e263dc76e1df963cca0c7122a14b6f1a", SAFETENSORS, META, 288, 0.85262, 0.97682),
    ),
    (
        *("convnext_base", "in22k_ft_in1k", "convnext_base.fb_in22k_ft_in1k_384"),
        *("e477a32793407ff1647956cedd1456c41cac869c", SAFETENSORS, META, 384, 0.86796, 0.98264),
    ),
)


def change(layer: keras.Layer) -> keras.Layer:
    """Replace or keep one layer of Keras's network. `zoo.plugin.rebuild` calls this function for every layer.

    Args:
        layer: A layer of the network that keras.applications builds.

    Returns:
        For a convolution with groups, and for a pointwise dense layer, a new layer that replaces it. For any other
        layer, `layer` itself, which stays.
    """
    import keras

    if isinstance(layer, keras.layers.Conv2D) and layer.groups > 1:
        return keras.layers.DepthwiseConv2D(
            layer.kernel_size,
            padding=layer.padding,
            depthwise_initializer="glorot_uniform",
            name=layer.name,
        )
    if isinstance(layer, keras.layers.Dense) and "_pointwise_conv_" in layer.name:
        return keras.layers.Conv2D(layer.units, 1, name=layer.name)
    return layer


class _Network(KerasApplication):
    def load(self, model: keras.Model, path: Path) -> None:
        """Load a published weights file, and reshape its kernels to fit the layers that `change` returns.

        Raises:
            WeightsIncompatible: The file lacks a layer.
            ValueError: The arrays do not fit a layer.
        """
        import keras

        def convert(layer, arrays):
            if isinstance(layer, keras.layers.DepthwiseConv2D):
                return [arrays[0].transpose(0, 1, 3, 2), *arrays[1:]]
            if "_pointwise_conv_" in layer.name:
                return [arrays[0][None, None], *arrays[1:]]
            return arrays

        copy_weights(self.read(path, model), model, convert)


def load_timm(model: keras.Model, path: Path) -> None:
    """Load a weights file in the layout of timm.

    Args:
        model: A network from `build` or `build_classifier`.
        path: The safetensors file, or a state dict of PyTorch.

    Raises:
        WeightsIncompatible: A tensor is missing, or has another shape than the layer needs.
    """
    tensors = dict(read_tensors(path))
    for layer in model.layers:
        if layer.name.endswith("_layer_scale"):
            block = tensor_name(layer.name)
            # Keras does not name the one variable of its LayerScale.
            if f"{block}.gamma" in tensors:
                tensors[f"{block}/{layer.weights[0].name}"] = tensors[f"{block}.gamma"]
    copy_tensors(tensors, model, tensor_name)


def tensor_name(layer: str) -> str:
    """Return how timm names a layer: "stages.2.blocks.8.mlp.fc1" for "convnext_tiny_stage_2_block_8_pointwise_conv_1".

    For a LayerScale, it is the name of the block.
    """
    match = re.fullmatch(r"\w+_stage_(\d)_block_(\d+)_(\w+)", layer)
    if match:
        stage, block, part = match.groups()
        parts = {
            **{"depthwise_conv": ".conv_dw", "layernorm": ".norm", "layer_scale": ""},
            **{"pointwise_conv_1": ".mlp.fc1", "pointwise_conv_2": ".mlp.fc2"},
        }
        return f"stages.{stage}.blocks.{block}{parts[part]}"
    match = re.fullmatch(r"\w+_downsampling_(layernorm|conv)_(\d)", layer)
    if match:
        return f"stages.{int(match[2]) + 1}.downsample.{0 if match[1] == 'layernorm' else 1}"
    ends = {"_stem_conv": "stem.0", "_stem_layernorm": "stem.1", "_head_dense": "head.fc"}
    # The last one, which normalizes the feature map or the pooled features, is called otherwise with a top.
    return next((name for end, name in ends.items() if layer.endswith(end)), "head.norm")


def _network(keras_name: str) -> _Network:
    return _Network(keras_name, "torch", {"include_preprocessing": False}, change)


def _stages(name: str) -> tuple[Stage, ...]:
    return (
        Stage("stem", (f"{name}_stem_*",)),
        Stage("stage1", (f"{name}_stage_0_*",)),
        *(Stage(f"stage{i + 1}", (f"{name}_downsampling_*_{i - 1}", f"{name}_stage_{i}_*")) for i in range(1, 3)),
        Stage("stage4", (f"{name}_downsampling_*_2", f"{name}_stage_3_*", "layer_normalization")),
    )


@hookimpl
def zoo_architectures():
    for name, (keras_name, parameters, _) in NETWORKS.items():
        size = name.removeprefix("convnext_")
        origin = " (weights pretrained on ImageNet-21k)" if name in FROM_21K else ""
        yield keras_architecture(
            _network(keras_name),
            name,
            summary=f"{size} size, 7x7 depthwise convolutions and GELU; accurate and large{origin}",
            parameters=parameters,
            stages=_stages(name),
            source=PAPER,
            learning_rate=5e-4,
        )


@hookimpl
def zoo_weights():
    for name, (keras_name, _, top1) in NETWORKS.items():
        yield from imagenet_weights(
            name,
            BASE_URL,
            (f"{name}_notop.h5", f"{name}.h5"),
            size=224,
            hashes=HASHES[name],
            lengths=(LENGTHS[name], None),
            load=_network(keras_name).load,
            licence="MIT",
            source="https://github.com/facebookresearch/ConvNeXt"
            + (" (pretrained on ImageNet-21k)" if name in FROM_21K else ""),
            paper=PAPER,
            top1=top1,
        )
    for name, tag, repository, revision, file, source, size, tested_top1, top5 in TIMM:
        yield timm_weights(
            name,
            repository,
            tag=tag,
            revision=revision,
            file=file,
            size=size,
            crop=1.0,
            load=load_timm,
            licence="Apache-2.0",
            source=source,
            paper=PAPER,
            top1=tested_top1,
            top5=top5,
        )
