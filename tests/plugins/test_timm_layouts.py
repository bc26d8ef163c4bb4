"""Weights files in the layout of timm, loaded into zoo's networks: the outputs must be those of timm.

The files are written here, with random weights under the names and in the shapes of the published files. The expected
outputs were computed once with timm 1.0.31 from equal weights and pictures. timm is not needed here.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from timm_files import convolution, logits, pixels, write_safetensors

from zoo.errors import WeightsIncompatible
from zoo.train.network import build_backbone, build_classifier
from zoo.train.weights_file import load_weights
from zoo_plugins.vit import interpolation

SIZE = (64, 96)


def bottleneck(name, inputs, start, expanded, middle, outputs):
    """The tensors of a universal inverted bottleneck. `start` and `middle` are sides of depthwise kernels, or 0."""
    parts = {
        "dw_start": start and (inputs, 1, start),
        "pw_exp": (expanded, inputs, 1),
        "dw_mid": middle and (expanded, 1, middle),
        "pw_proj": (outputs, expanded, 1),
    }
    return {
        key: shape
        for part, sizes in parts.items()
        if sizes
        for key, shape in convolution(f"{name}.{part}.conv", f"{name}.{part}.bn", *sizes).items()
    }


def mobilenetv4_conv_small():
    """The names and shapes of the published file, row by row as in the table of MNv4-Conv-S in the paper."""
    shapes = convolution("conv_stem", "bn1", 32, 3, 3)
    rows = [(0, 0, 32, 32, 3), (0, 1, 32, 32, 1), (1, 0, 96, 32, 3), (1, 1, 64, 96, 1), (4, 0, 960, 128, 1)]
    for stage, block, *sizes in rows:
        shapes |= convolution(f"blocks.{stage}.{block}.conv", f"blocks.{stage}.{block}.bn1", *sizes)
    rows = [(64, 5, 192, 5, 96), *[(96, 0, 192, 3, 96)] * 4, (96, 3, 384, 0, 96)]
    for block, row in enumerate(rows):
        shapes |= bottleneck(f"blocks.2.{block}", *row)
    rows = [(96, 3, 576, 3, 128), (128, 5, 512, 5, 128), (128, 0, 512, 5, 128), (128, 0, 384, 5, 128)]
    rows += [(128, 0, 512, 3, 128)] * 2
    for block, row in enumerate(rows):
        shapes |= bottleneck(f"blocks.3.{block}", *row)
    shapes |= convolution("conv_head", "norm_head", 1280, 960, 1)
    return {**shapes, "classifier.weight": (1000, 1280), "classifier.bias": (1000,)}


def mobilenetv4_conv_medium():
    """The names and shapes of the published file, row by row as in the table of MNv4-Conv-M in the paper."""
    shapes = convolution("conv_stem", "bn1", 32, 3, 3)
    shapes |= convolution("blocks.0.0.conv_exp", "blocks.0.0.bn1", 128, 32, 3)
    shapes |= convolution("blocks.0.0.conv_pwl", "blocks.0.0.bn2", 48, 128, 1)
    stages = {
        1: [(48, 3, 192, 5, 80), (80, 3, 160, 3, 80)],
        2: [
            *[(80, 3, 480, 5, 160), (160, 3, 640, 3, 160), (160, 3, 640, 3, 160), (160, 3, 640, 5, 160)],
            *[(160, 3, 640, 3, 160), (160, 3, 640, 0, 160), (160, 0, 320, 0, 160), (160, 3, 640, 0, 160)],
        ],
        3: [
            *[(160, 5, 960, 5, 256), (256, 5, 1024, 5, 256), (256, 3, 1024, 5, 256), (256, 3, 1024, 5, 256)],
            *[(256, 0, 1024, 0, 256), (256, 3, 1024, 0, 256), (256, 3, 512, 5, 256), (256, 5, 1024, 5, 256)],
            *[(256, 0, 1024, 0, 256), (256, 0, 1024, 0, 256), (256, 5, 512, 0, 256)],
        ],
    }
    for stage, rows in stages.items():
        for block, row in enumerate(rows):
            shapes |= bottleneck(f"blocks.{stage}.{block}", *row)
    shapes |= convolution("blocks.4.0.conv", "blocks.4.0.bn1", 960, 256, 1)
    shapes |= convolution("conv_head", "norm_head", 1280, 960, 1)
    return {**shapes, "classifier.weight": (1000, 1280), "classifier.bias": (1000,)}


def hgnetv2(inside, stem, middles):
    """The names and shapes of HGNetV2-B0 or -B1, which differ in the channels of their stem and inside their blocks."""
    shapes = {}

    def layer(name, channels, inputs, kernel, scaled=True):
        shapes.update(convolution(f"{name}.conv", f"{name}.bn", channels, inputs, kernel))
        shapes.update({f"{name}.lab.{part}": (1,) for part in ("scale", "bias") if scaled})

    layer("stem.stem1", inside, 3, 3)
    layer("stem.stem2a", inside // 2, inside, 2)
    layer("stem.stem2b", inside, inside // 2, 2)
    layer("stem.stem3", inside, 2 * inside, 3)
    layer("stem.stem4", stem, inside, 1)
    inputs = stem
    for i, (middle, outputs, blocks) in enumerate(zip(middles, (64, 256, 512, 1024), (1, 1, 2, 1), strict=True)):
        if i:
            layer(f"stages.{i}.downsample", inputs, 1, 3, scaled=False)
        for block in (f"stages.{i}.blocks.{j}" for j in range(blocks)):
            for j, before in enumerate((inputs, middle, middle)):
                if i < 2:
                    layer(f"{block}.layers.{j}", middle, before, 3)
                else:
                    layer(f"{block}.layers.{j}.conv1", middle, before, 1, scaled=False)
                    layer(f"{block}.layers.{j}.conv2", middle, 1, 5)
            layer(f"{block}.aggregation.0", outputs // 2, inputs + 3 * middle, 1)
            layer(f"{block}.aggregation.1", outputs, outputs // 2, 1)
            inputs = outputs
    shapes |= {"head.last_conv.0.weight": (2048, 1024, 1, 1)}
    shapes |= {"head.last_conv.2.scale": (1,), "head.last_conv.2.bias": (1,)}
    return {**shapes, "head.fc.weight": (1000, 2048), "head.fc.bias": (1000,)}


def vit(channels, patch, grid, *, layer_scale=False, classes=None):
    """The names and shapes of a vision transformer of 12 blocks, as section 3.1 of its paper describes it."""
    shapes = {"cls_token": (1, 1, channels), "pos_embed": (1, 1 + grid**2, channels)}

    def dense(name, units, inputs):
        shapes.update({f"{name}.weight": (units, inputs), f"{name}.bias": (units,)})

    shapes |= {"patch_embed.proj.weight": (channels, 3, patch, patch), "patch_embed.proj.bias": (channels,)}
    for block in (f"blocks.{i}" for i in range(12)):
        for name in ("norm1", "norm2"):
            shapes |= {f"{block}.{name}.weight": (channels,), f"{block}.{name}.bias": (channels,)}
        dense(f"{block}.attn.qkv", 3 * channels, channels)
        dense(f"{block}.attn.proj", channels, channels)
        dense(f"{block}.mlp.fc1", 4 * channels, channels)
        dense(f"{block}.mlp.fc2", channels, 4 * channels)
        shapes |= {f"{block}.{name}.gamma": (channels,) for name in ("ls1", "ls2") if layer_scale}
    shapes |= {"norm.weight": (channels,), "norm.bias": (channels,)}
    if classes:
        dense("head", classes, channels)
    return shapes


# name: (names and shapes of the file, mean and standard deviation of timm's features, first logits of two pictures)
REFERENCE = {
    "mobilenetv4_conv_small": (
        mobilenetv4_conv_small,
        (1814.907, 2823.918, 1711.695, 0, 0, 0),
        ((-2215.208, 2010.018, -10169.82, 4396.821, 10268.81), (-2491.236, 2101.591, -8646.878, 4374.446, 9652.172)),
    ),
    "mobilenetv4_conv_medium": (
        mobilenetv4_conv_medium,
        (1952410, 3027760, 0, 3773500, 1206911, 0),
        ((-6320470, -5019948, -7660699, 3479474, 4695714), (-6464841, -4558834, -8757149, 3963673, 5382110)),
    ),
    "hgnetv2_b0": (
        lambda: hgnetv2(16, 16, (16, 32, 64, 128)),
        (1.438984, 2.509902, 3.469333, -0.1105587, -0.1105587, 1.486859),
        ((3.099361, -2.102552, -3.648468, 0.5416058, 4.586403), (2.808494, -1.716534, -3.608196, 0.1271771, 4.43507)),
    ),
    "hgnetv2_b1": (
        lambda: hgnetv2(24, 32, (32, 48, 96, 192)),
        (4.642227, 7.731898, 8.909149, 9.228053, 17.94869, -0.1105587),
        ((10.16148, -11.11623, -9.043943, -7.130464, 10.52612), (9.400136, -10.58472, -9.324331, -6.196742, 10.587)),
    ),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "mobilenetv4_conv_small" else pytest.mark.slow) for name in REFERENCE],
)
def test_outputs_are_those_of_timm(plugins, tmp_path, name):
    """One file serves the network with its top and without."""
    shapes, features, expected = REFERENCE[name]
    path = tmp_path / "model.safetensors"
    write_safetensors(path, shapes())
    architecture, (entry, *_) = plugins.architecture(name), plugins.weights_of(name)
    backbone, classifier = build_backbone(architecture, SIZE), build_classifier(architecture, SIZE, 1000)
    for model in (backbone, classifier):
        load_weights(model, path, entry)
    map_ = backbone.predict_on_batch(pixels(SIZE))
    assert np.allclose([map_.mean(), map_.std(), *map_[0, 0, 0, :2], *map_[1, -1, -1, -2:]], features, rtol=2e-4)
    expected = np.array(expected)
    assert np.abs(logits(classifier, SIZE)[:, :5] - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda shapes: shapes.pop("blocks.2.1.pw_exp.conv.weight"), "blocks_2_1_pw_exp_conv"),
        (lambda shapes: shapes.update({"blocks.3.1.dw_mid.conv.weight": (512, 1, 3, 3)}), "blocks_3_1_dw_mid_conv"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_layer(plugins, tmp_path, change, words):
    shapes = mobilenetv4_conv_small()
    change(shapes)
    path = tmp_path / "model.safetensors"
    write_safetensors(path, shapes)
    backbone = build_backbone(plugins.architecture("mobilenetv4_conv_small"), (32, 32))
    before = [np.array(weight) for weight in backbone.weights]
    with pytest.raises(WeightsIncompatible, match=words):
        load_weights(backbone, path, plugins.weights_of("mobilenetv4_conv_small")[0])
    assert all(np.array_equal(weight, was) for weight, was in zip(backbone.weights, before, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (
            (64, 96),
            [[-2.43036, 0.707132, -0.412646, 0.451749, -0.635118], [-0.905599, 0.660957, -1.6566, 1.83227, -1.62604]],
        ),
        (
            (224, 224),
            [[-1.63467, 1.67603, -0.0180238, 1.21609, -1.1062], [-2.17218, 2.00739, 0.045431, 1.45964, -0.747082]],
        ),
    ],
)
def test_deit_computes_what_timm_does_at_any_size(plugins, tmp_path, size, expected):
    """At 64 x 96 pixels the positions are interpolated, at 224 x 224 they are those of the file."""
    path = tmp_path / "model.safetensors"
    write_safetensors(path, vit(192, 16, 14, classes=1000))
    classifier = build_classifier(plugins.architecture("deit_tiny"), size, 1000)
    load_weights(classifier, path, plugins.weights_of("deit_tiny")[0])
    assert np.abs(logits(classifier, size)[:, :5] - np.array(expected)).max() < 5e-5


@pytest.mark.slow
def test_dinov2_computes_what_timm_does(plugins, tmp_path):
    """LayerScale is part of the layers before it. The features are the patches, and the class token beside each."""
    path = tmp_path / "model.safetensors"
    write_safetensors(path, vit(384, 14, 37, layer_scale=True))
    backbone = build_backbone(plugins.architecture("dinov2_small"), (70, 98))
    load_weights(backbone, path, plugins.weights_of("dinov2_small")[0])
    features = backbone.predict_on_batch(pixels((70, 98)))
    assert features.shape == (2, 5, 7, 768)
    patches, token = features[..., :384], features[..., 384:]
    means = [-0.1682862, 0.183945, -0.9737224, 0.3239794, -0.03477746, -0.3961378, -1.514098, 0.8735309]
    tokens = [-0.388057, -0.1154226, -0.7055922, 0.3270403, -0.3396569, -0.371624, -2.610385, 1.001272]
    assert np.abs(patches.mean(axis=(1, 2))[:, :4].ravel() - means).max() < 5e-5
    assert np.abs(token[:, 2, 3, :4].ravel() - tokens).max() < 5e-5
    assert np.ptp(token, axis=(1, 2)).max() == 0
    assert np.abs(patches[0, 0, 0, :3] - (-0.15041314, 0.21520212, -0.486101)).max() < 5e-5
    assert np.abs(patches[1, -1, -1, -3:] - (0.4687002, 0.17752442, 1.2196398)).max() < 5e-5


@pytest.mark.parametrize(("old", "new"), [(37, 16), (14, 6), (14, 14), (14, 20), (14, 1)])
def test_positions_are_interpolated_as_pillow_resizes(old, new):
    values = np.random.RandomState(1).normal(0, 1, (old, 5)).astype("float32")
    resized = Image.fromarray(values, "F").resize((5, new), Image.Resampling.BICUBIC)
    assert np.abs(interpolation(old, new) @ values - np.asarray(resized)).max() < 1e-5


@pytest.mark.slow
def test_a_transformer_keeps_its_weights_at_another_size(plugins):
    """`zoo export --size` builds the network again for another size; only the interpolation of positions differs."""
    from zoo.train.network import assemble, resize

    architecture = plugins.architecture("deit_tiny")
    model = assemble(build_backbone(architecture, (64, 96)), architecture, architecture.head, 3).model
    larger = resize(model, architecture, architecture.head, (96, 64), classes=3, task="multiclass")
    assert larger.input.shape == (None, 96, 64, 3)
    weights = {weight.path: np.array(weight) for weight in model.weights}
    assert weights.keys() == {weight.path for weight in larger.weights}
    assert all(np.array_equal(weights[weight.path], weight) for weight in larger.weights)
