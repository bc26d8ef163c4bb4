"""Published weights files, loaded into zoo's networks: both must compute the same, whatever the file's layout.

All files are written here, with random weights, in the layout in which they are published.
"""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from zoo import backend, testing
from zoo.errors import WeightsIncompatible
from zoo.plugin import IMAGENET_DEVIATION, IMAGENET_MEAN, normalize
from zoo.testing import synthetic_pixels
from zoo.train.network import build_backbone, build_classifier
from zoo.train.weights_file import load_weights

SIZE = (64, 64)
CLASSES = 7


def build(plugins, name, *, top, size=SIZE):
    """Build zoo's backbone, or its classifier of CLASSES classes."""
    architecture = plugins.architecture(name)
    return build_classifier(architecture, size, CLASSES) if top else build_backbone(architecture, size)


def outputs(model, pixels):
    """Compute the feature map of a backbone, or the logits of a classifier."""
    import keras

    logits = [layer.output for layer in model.layers if layer.name == "logits"]
    return keras.Model(model.input, logits[0] if logits else model.output).predict_on_batch(pixels)


def options(top):
    """Arguments for a classifier of keras.applications that gives logits; none for a backbone."""
    return {"classes": CLASSES, "classifier_activation": None} if top else {}


def randomize(model):
    """Randomize a network, including what starts at a value that hides errors.

    Biases start at 0, and the scales of ConvNeXt's layers at 1e-6.
    """
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.endswith("bias"):
            weight.assign(rng.normal(0, 0.1, weight.shape))
        elif "layer_scale" in weight.path:
            weight.assign(rng.uniform(0.2, 1, weight.shape))
    testing.randomize(model)


def write_as_published(model, path):
    """Write a file as Keras 2 did, the format of all published files."""
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, model)


def published_resnext(blocks, classes=None):
    """Build ResNeXt as keras-applications 1.0.8 does: depthwise with a multiplier, summed within each group."""
    import keras
    from keras import layers, ops

    def norm(x, name):
        return layers.BatchNormalization(epsilon=1.001e-5, name=name)(x)

    def block(x, filters, strides, name, shortcut):
        before = x
        if shortcut:
            before = norm(
                layers.Conv2D(2 * filters, 1, strides=strides, use_bias=False, name=f"{name}_0_conv")(x), f"{name}_0_bn"
            )
        x = ops.relu(norm(layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_1_conv")(x), f"{name}_1_bn"))
        width = filters // 32
        x = layers.ZeroPadding2D(1)(x)
        x = layers.DepthwiseConv2D(3, strides=strides, depth_multiplier=width, use_bias=False, name=f"{name}_2_conv")(x)
        side = x.shape[1:3]
        x = ops.sum(layers.Reshape((*side, 32, width, width))(x), axis=4)
        x = ops.relu(norm(layers.Reshape((*side, filters))(x), f"{name}_2_bn"))
        x = norm(layers.Conv2D(2 * filters, 1, use_bias=False, name=f"{name}_3_conv")(x), f"{name}_3_bn")
        return ops.relu(before + x)

    inputs = keras.Input((*SIZE, 3))
    x = layers.ZeroPadding2D(3)(normalize(inputs, "torch"))
    x = layers.Conv2D(64, 7, strides=2, use_bias=False, name="conv1_conv")(x)
    x = layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(ops.relu(norm(x, "conv1_bn"))))
    for stack, (filters, count) in enumerate(zip((128, 256, 512, 1024), blocks, strict=True), start=2):
        for i in range(1, count + 1):
            x = block(x, filters, 2 if i == 1 and stack > 2 else 1, f"conv{stack}_block{i}", i == 1)
    if classes:
        x = layers.Dense(classes, name="probs")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x)


def agree(received, expected, tolerance=1e-4):
    """Whether two results differ by at most a fraction of the largest value; the expected one must not be constant."""
    received, expected = np.asarray(received), np.asarray(expected)
    assert received.shape == expected.shape
    assert np.abs(expected).max() > 1e-3 and np.ptp(expected, axis=0).max() > 1e-3 * np.abs(expected).max()
    return np.abs(received - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("top", [False, True])
def test_resnext(plugins, tmp_path, top):
    backend.start()
    (entry,) = plugins.weights_of("resnext50", "imagenet1k", top=top)
    layout = published_resnext((3, 4, 6, 3), classes=CLASSES if top else None)
    randomize(layout)
    write_as_published(layout, tmp_path / "x.h5")
    model = build(plugins, "resnext50", top=top)
    load_weights(model, tmp_path / "x.h5", entry)
    pixels = synthetic_pixels(4, SIZE, 3).astype("float32")
    assert agree(outputs(model, pixels), layout.predict_on_batch(pixels))


@pytest.mark.slow
@pytest.mark.parametrize("top", [False, True])
def test_efficientnet(plugins, tmp_path, top):
    """Keras's graph for ImageNet weights normalizes as torch does, by several layers that zoo leaves out."""
    keras = backend.start()
    (entry,) = plugins.weights_of("efficientnet_b0", "imagenet1k", top=top)
    layout = keras.applications.EfficientNetB0(input_shape=(*SIZE, 3), include_top=top, weights=None, **options(top))
    (normalization,) = (x for x in layout.layers if isinstance(x, keras.layers.Normalization))
    published = [np.array(IMAGENET_MEAN), np.array(IMAGENET_DEVIATION)]
    normalization.set_weights([*published, normalization.get_weights()[2]])
    # BatchNorm's statistics must fit the normalization of ImageNet weights. Keras's graph without them normalizes in
    # another way, so zoo's network is randomized and its weights are copied.
    fitting = build(plugins, "efficientnet_b0", top=top)
    randomize(fitting)
    for layer in layout.layers:
        if layer.weights and layer is not normalization:
            layer.set_weights(fitting.get_layer(layer.name).get_weights())
    write_as_published(layout, tmp_path / "x.h5")
    model = build(plugins, "efficientnet_b0", top=top)
    load_weights(model, tmp_path / "x.h5", entry)
    pixels = synthetic_pixels(4, SIZE, 3).astype("float32")
    body = keras.Model(normalization.output, layout.output)
    expected = body.predict_on_batch(keras.applications.imagenet_utils.preprocess_input(pixels.copy(), mode="torch"))
    assert agree(outputs(model, pixels), expected)

    # A user's copy, given by its path, is read in the same way.
    again = build(plugins, "efficientnet_b0", top=top)
    load_weights(again, tmp_path / "x.h5", layouts=[entry])
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))

    normalization.set_weights([np.zeros(3), np.ones(3), normalization.get_weights()[2]])
    write_as_published(layout, tmp_path / "other.h5")
    with pytest.raises(WeightsIncompatible, match="the file normalizes pixels by mean"):
        load_weights(model, tmp_path / "other.h5", entry)


@pytest.mark.slow
@pytest.mark.parametrize("top", [False, True])
def test_convnext(plugins, tmp_path, top):
    keras = backend.start()
    (entry,) = plugins.weights_of("convnext_tiny", "imagenet1k", top=top)
    with backend.fresh_names():
        layout = keras.applications.ConvNeXtTiny(input_shape=(*SIZE, 3), include_top=top, weights=None, **options(top))
    randomize(layout)
    write_as_published(layout, tmp_path / "x.h5")
    model = build(plugins, "convnext_tiny", top=top)
    load_weights(model, tmp_path / "x.h5", entry)
    pixels = synthetic_pixels(4, SIZE, 3).astype("float32")
    assert agree(outputs(model, pixels), layout.predict_on_batch(pixels))


# One network of each family and each normalization, with the module whose preprocess_input it needs. None stands for
# networks of Keras with preprocessing layers. EfficientNet, ConvNeXt and ResNeXt have tests of their own above.
PREPROCESSING = {
    "densenet121": "densenet",
    "efficientnetv2_b0": None,
    "efficientnetv2_s": None,
    "inceptionresnetv2": "inception_resnet_v2",
    "inceptionv3": "inception_v3",
    "mobilenet_025": "mobilenet",
    "mobilenetv2_035": "mobilenet_v2",
    "mobilenetv3_large_minimalistic": None,
    "mobilenetv3_small": None,
    "nasnet_mobile": "nasnet",
    "resnet50": "resnet",
    "resnet50v2": "resnet_v2",
    "vgg16": "vgg16",
    "xception": "xception",
}


@pytest.mark.slow
@pytest.mark.parametrize("top", [False, True])
@pytest.mark.parametrize("name", PREPROCESSING)
def test_outputs_equal_those_of_the_network_of_keras(plugins, tmp_path, name, top):
    """Keras's network is fed by the family's own preprocess_input, or by preprocessing layers where it has some."""
    keras = backend.start()
    keras.utils.set_random_seed(0)
    application = plugins.architecture(name).build.__self__
    size = (96, 96) if top or name != "vgg16" else (64, 64)
    arguments = {key: value for key, value in application.options.items() if key != "include_preprocessing"}
    with backend.fresh_names():
        function = getattr(keras.applications, application.name)
        layout = function(weights=None, include_top=top, input_shape=(*size, 3), **arguments, **options(top))

    def preprocessed(pixels):
        module = PREPROCESSING[name] and getattr(keras.applications, PREPROCESSING[name])
        return module.preprocess_input(pixels.copy()) if module else pixels

    pixels = synthetic_pixels(22, size, 3).astype("float32")
    rng = np.random.default_rng(0)
    for weight in layout.trainable_weights:
        if weight.path.endswith("bias"):
            weight.assign(rng.normal(0, 0.1, weight.shape))
    # With a momentum of 0, one batch sets the statistics of every BatchNorm layer.
    for layer in layout.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    layout(preprocessed(pixels[6:]), training=True)
    write_as_published(layout, tmp_path / "x.h5")

    model = build(plugins, name, top=top, size=size)
    load_weights(model, tmp_path / "x.h5", plugins.weights_of(name, top=top)[0])
    # BatchNorm layers with the statistics of one batch enlarge rounding errors, to 1e-4 and more with some weights.
    assert agree(outputs(model, pixels[:6]), layout.predict_on_batch(preprocessed(pixels[:6])), tolerance=1e-3)


@pytest.mark.slow
def test_parity_notices_wrong_blocks_of_a_convnext(plugins):
    """Keras scales the blocks' outputs by 1e-6 at first, and a check with such weights would notice nothing."""
    from zoo.convert.keras_to_onnx import convert
    from zoo.errors import ParityFailed
    from zoo.export import parity
    from zoo.train.network import attach_head

    architecture = plugins.architecture("convnext_tiny")
    backbone = build_backbone(architecture, (32, 32))
    testing.randomize(backbone)
    model = attach_head(backbone, architecture.head, 5, "test")
    graph = convert(model)
    pixels = synthetic_pixels(4, (32, 32), 3)
    parity.check(model, graph, pixels)
    for node in graph.graph.node:
        if node.op_type == "Erf":
            node.op_type = "Neg"
    with pytest.raises(ParityFailed):
        parity.check(model, graph, pixels)
