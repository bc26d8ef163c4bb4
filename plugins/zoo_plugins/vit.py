"""Provides vision transformers: DeiT, tiny and small, and DINOv2, small.

Sources: Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929 (the network), Touvron et al. 2020,
https://arxiv.org/abs/2012.12877 (DeiT), and Oquab et al. 2023, https://arxiv.org/abs/2304.07193 (DINOv2). The weights
are those of Meta, in the layout of timm: `blocks.3.attn.qkv.weight` is the kernel of the layer `blocks_3_attn_qkv`.

The feature map has two halves. The first one has the features of each patch. The second one repeats those of the class
token at every position. A pool then gives the mean of the patches and the class token, which DINOv2 reads too.

Three things differ from the published networks, and change no result:

- The class token and its position are one weight.
- LayerScale of DINOv2 is part of the layer before it. `load` multiplies it into that layer's kernel and bias.
- Positions are stored for the published grid. Other picture sizes interpolate them inside the graph, so that one set of
  weights fits all sizes. A picture is cut at the right and at the bottom to a multiple of the patch size.
"""

from __future__ import annotations

import re
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
    import numpy as np

DEIT, DINOV2 = "https://arxiv.org/abs/2012.12877", "https://arxiv.org/abs/2304.07193"
BLOCKS, STAGES = 12, 4
HEAD_CHANNELS = 64
EPSILON = 1e-6


@dataclass(frozen=True)
class Size:
    """The size of a vision transformer.

    Args:
        channels: The number of channels of a token. Each attention head has 64 of them.
        patch: The side of a patch in pixels.
        grid: The number of patches per side for which the published weights have positions.
    """

    channels: int
    patch: int = 16
    grid: int = 14


# name: (size, parameters without top, paper)
NETWORKS = {
    "deit_tiny": (Size(192), 5_524_224, DEIT),
    "deit_small": (Size(384), 21_665_280, DEIT),
    "dinov2_small": (Size(384, patch=14, grid=37), 22_046_592, DINOV2),
}

# name: (repository of timm, revision, top-1, top-5). The accuracies are those of timm's results/results-imagenet.csv.
# DINOv2 has no top. It was trained at 224 x 224 pixels, and at the end at 518 x 518, whose positions the file has.
PUBLISHED = {
    "deit_tiny": ("deit_tiny_patch16_224.fb_in1k", "main", 0.72172, 0.91112),
    "deit_small": ("deit_small_patch16_224.fb_in1k", "38e0e3a79073772ea54733b87885d3d7f6348e8a", 0.79844, 0.95044),
    "dinov2_small": ("vit_small_patch14_dinov2.lvd142m", "0686a689726076609b20e80d263cb5aa7be945f5", None, None),
}

SUMMARIES = {
    "deit_tiny": "vision transformer, tiny size, patches of 16x16 pixels",
    "deit_small": "vision transformer, small size, patches of 16x16 pixels",
    "dinov2_small": "vision transformer, small size, patches of 14x14 pixels; weights learned without labels",
}


def build(input_shape: tuple[int, int, int], *, size: Size) -> keras.Model:
    """Build the backbone; see `zoo.plugin.Architecture.build`.

    Args:
        input_shape: (height, width, channels).
        size: The size of the transformer.
    """
    import keras
    from keras import layers, ops

    pixels = keras.Input(input_shape, name="image")
    tokens = _tokens(pixels, size)
    height, width = (side // size.patch for side in input_shape[:2])
    shape = (height, width, size.channels)
    patches = layers.Reshape(shape, name="patches")(tokens[:, 1:])
    repeated = layers.Reshape(shape, name="class_token")(ops.tile(tokens[:, :1], (1, height * width, 1)))
    return keras.Model(pixels, layers.Concatenate(name="features")([patches, repeated]))


def build_classifier(input_shape: tuple[int, int, int], classes: int, *, size: Size) -> keras.Model:
    """Build the published classifier, which ends in logits; see `zoo.plugin.Architecture.build_classifier`.

    Args:
        input_shape: (height, width, channels).
        classes: The number of classes.
        size: The size of the transformer.
    """
    import keras

    pixels = keras.Input(input_shape, name="image")
    return keras.Model(pixels, keras.layers.Dense(classes, name="head")(_tokens(pixels, size)[:, 0]))


def _tokens(pixels: keras.KerasTensor, size: Size) -> keras.KerasTensor:
    """Return the normalized tokens, float32 (batch, 1 + patches, channels). The class token is the first one."""
    from keras import layers

    x = normalize(pixels, "torch")
    x = layers.Conv2D(size.channels, size.patch, strides=size.patch, name="patch_embed")(x)
    height, width = x.shape[1:3]
    count = 1 + height * width
    x = layers.Reshape((count - 1, size.channels), name="patch_embed_flat")(x)
    x = layers.Add(name="pos_embed_add")([x, _positions(x, size, height, width)])
    x = layers.Concatenate(axis=1, name="cls_token_join")([_weight(x, (1, size.channels), "cls_token"), x])
    for block in range(BLOCKS):
        if block % (BLOCKS // STAGES) == 0:
            # Stages hand over a map of four axes: a column of tokens. The second reshape belongs to the next stage.
            x = layers.Reshape((count, 1, size.channels), name=f"column_{block}")(x)
            x = layers.Reshape((count, size.channels), name=f"blocks_{block}_tokens")(x)
        x = _block(x, f"blocks_{block}")
    return layers.LayerNormalization(epsilon=EPSILON, name="norm")(x)


def _weight(x: keras.KerasTensor, shape: tuple[int, ...], name: str) -> keras.KerasTensor:
    """Return a trainable array as a tensor (batch, *shape). A layer of Keras needs an input: it gets ones.

    Args:
        x: Any tensor of the network, (batch, n, channels).
        shape: The shape of the array.
        name: The name of the layer, whose kernel has the shape (1, number of values).
    """
    import math

    from keras import initializers, layers, ops

    ones = ops.ones_like(x[:, 0, :1])
    draw = initializers.TruncatedNormal(stddev=0.02)
    values = layers.Dense(math.prod(shape), use_bias=False, kernel_initializer=draw, name=name)(ones)
    return layers.Reshape(shape, name=f"{name}_shape")(values)


def _positions(x: keras.KerasTensor, size: Size, height: int, width: int) -> keras.KerasTensor:
    """Return what is added to each patch for its position, (batch, height * width, channels)."""
    from keras import layers, ops

    grid, channels = size.grid, size.channels
    if (height, width) == (grid, grid):
        return _weight(x, (grid * grid, channels), "pos_embed")
    rows = _weight(x, (grid, grid * channels), "pos_embed")
    if height != grid:
        rows = ops.matmul(interpolation(grid, height), rows)
    places = layers.Reshape((height, grid, channels), name="pos_embed_rows")(rows)
    if width != grid:
        places = ops.matmul(interpolation(grid, width), places)
    return layers.Reshape((height * width, channels), name="pos_embed_flat")(places)


def interpolation(old: int, new: int) -> np.ndarray:
    """Return the matrix that resizes `old` values in a row to `new` values, float32 (new, old).

    It is a bicubic interpolation (Keys 1981, with a = -0.5), whose kernel is widened when the row becomes shorter.
    Pillow and PyTorch with `antialias=True` resize so.

    Args:
        old: The number of values; 1 or more.
        new: The number of values wanted; 1 or more.
    """
    import numpy as np

    scale = old / new
    width = max(scale, 1.0)
    centers = (np.arange(new) + 0.5) * scale
    distances = np.abs((np.arange(old) + 0.5) - centers[:, None]) / width
    near = (1.5 * distances - 2.5) * distances**2 + 1
    far = ((-0.5 * distances + 2.5) * distances - 4) * distances + 2
    weights = np.where(distances < 1, near, np.where(distances < 2, far, 0))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _block(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    from keras import layers

    y = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_norm1")(x)
    y = _dense(_attention(y, name), x.shape[-1], f"{name}_attn_proj")
    x = layers.Add(name=f"{name}_attn_add")([x, y])
    y = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_norm2")(x)
    y = layers.Activation("gelu", name=f"{name}_mlp_gelu")(_dense(y, 4 * x.shape[-1], f"{name}_mlp_fc1"))
    return layers.Add(name=f"{name}_mlp_add")([x, _dense(y, x.shape[-1], f"{name}_mlp_fc2")])


def _dense(x: keras.KerasTensor, units: int, name: str) -> keras.KerasTensor:
    """Apply a dense layer to each token. In ONNX, an EinsumDense is one MatMul; a Dense would be a dozen nodes."""
    from keras import layers

    shape = (x.shape[1], units)
    return layers.EinsumDense("abc,cd->abd", output_shape=shape, bias_axes="d", name=name)(x)


def _attention(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    from keras import layers, ops

    count, channels = x.shape[1:]
    heads = channels // HEAD_CHANNELS
    x = _dense(x, 3 * channels, f"{name}_attn_qkv")
    x = layers.Reshape((count, 3, heads, HEAD_CHANNELS), name=f"{name}_attn_heads")(x)
    x = layers.Permute((2, 3, 1, 4), name=f"{name}_attn_by_head")(x)
    query, key, value = x[:, 0] * HEAD_CHANNELS**-0.5, x[:, 1], x[:, 2]
    scores = ops.matmul(query, layers.Permute((1, 3, 2), name=f"{name}_attn_key")(key))
    x = ops.matmul(layers.Softmax(name=f"{name}_attn_softmax")(scores), value)
    x = layers.Permute((2, 1, 3), name=f"{name}_attn_by_token")(x)
    return layers.Reshape((count, channels), name=f"{name}_attn_flat")(x)


def load(model: keras.Model, path: Path) -> None:
    """Load a weights file in the layout of timm.

    Args:
        model: A network from `build` or `build_classifier`.
        path: The safetensors file, or a state dict of PyTorch.

    Raises:
        WeightsIncompatible: One of the other tensors is missing, or has another shape than the layer needs.
        KeyError: The file has no positions or no class token.
    """
    copy_tensors(converted(read_tensors(path)), model)


def converted(tensors: Any) -> dict[str, np.ndarray]:
    """Return the tensors of a file of timm under the names of the layers here, and in Keras's layout.

    Args:
        tensors: Maps the names of timm to float32 arrays.

    Raises:
        KeyError: There are no positions or no class token.
    """
    positions = tensors["pos_embed"][0]
    arrays = {
        "cls_token/kernel": (tensors["cls_token"][0, 0] + positions[0])[None],
        "pos_embed/kernel": positions[1:].reshape(1, -1),
        "patch_embed/kernel": tensors["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "patch_embed/bias": tensors["patch_embed.proj.bias"],
    }
    scaled = {"attn.proj": "ls1.gamma", "mlp.fc2": "ls2.gamma"}
    for name, array in tensors.items():
        match = re.fullmatch(r"(?:(blocks\.\d+)\.)?([\w.]+)\.(weight|bias)", name)
        if match is None or name.startswith("patch_embed"):
            continue
        block, layer, kind = match.groups()
        own = "_".join(filter(None, [block, layer])).replace(".", "_")
        factor = tensors.get(f"{block}.{scaled.get(layer)}")
        if factor is not None:
            array = array * (factor if kind == "bias" else factor[:, None])
        if "norm" in layer:
            arrays[f"{own}/{'gamma' if kind == 'weight' else 'beta'}"] = array
        else:
            arrays[f"{own}/{'kernel' if kind == 'weight' else 'bias'}"] = array.T
    return arrays


@hookimpl
def zoo_architectures():
    for name, (size, parameters, paper) in NETWORKS.items():
        per_stage = BLOCKS // STAGES
        last = ("norm",)
        yield Architecture(
            name=name,
            summary=SUMMARIES[name],
            build=partial(build, size=size),
            build_classifier=None if paper == DINOV2 else partial(build_classifier, size=size),
            input_size=(224, 224),
            min_size=2 * size.patch,
            parameters=parameters,
            stages=(
                Stage("embed", ("patch_embed", "pos_embed", "cls_token")),
                *(
                    Stage(
                        f"stage{i + 1}",
                        tuple(f"blocks_{block}_*" for block in range(i * per_stage, (i + 1) * per_stage))
                        + (last if i == STAGES - 1 else ()),
                    )
                    for i in range(STAGES)
                ),
            ),
            head=Head(pool="avg", dropout=0.2),
            learning_rate=5e-4,
            source=paper,
            licence="Apache-2.0",
        )


@hookimpl
def zoo_weights():
    for name, (repository, revision, top1, top5) in PUBLISHED.items():
        labelled = top1 is not None
        yield timm_weights(
            name,
            repository,
            tag="imagenet1k" if labelled else "lvd142m",
            revision=revision,
            crop=0.9 if labelled else None,
            top=labelled,
            load=load,
            licence="Apache-2.0",
            source="Meta",
            paper=NETWORKS[name][2],
            top1=top1,
            top5=top5,
        )
