"""Weights files whose layout is another than that of zoo's network: converted on load, proven on random weights."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from zoo import backend, registry, testing
from zoo.errors import WeightsIncompatible
from zoo.plugin import normalize
from zoo.testing import synthetic_pixels
from zoo.train.model import build_backbone, build_classifier, load_weights

SIZE = (64, 64)


@pytest.fixture(scope="module")
def plugins():
    return registry.load()


def randomize(model):
    """Weights that show: biases begin as zeros, and the scales of ConvNeXt's layers as 1e-6."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.endswith("bias"):
            weight.assign(rng.normal(0, 0.1, weight.shape))
        elif "layer_scale" in weight.path:
            weight.assign(rng.uniform(0.2, 1, weight.shape))
    testing.randomize(model)


def write_as_published(model, path):
    """Write a file as Keras 2 did, which is how all these files are published."""
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, model)


def published_resnext(blocks, classes=None):
    """ResNeXt as keras-applications 1.0.8 builds it: depthwise with a multiplier, summed within each group."""
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


def agree(received, expected):
    received, expected = np.asarray(received), np.asarray(expected)
    assert received.shape == expected.shape
    assert np.abs(expected).max() > 1e-3 and np.ptp(expected, axis=0).max() > 1e-3 * np.abs(expected).max()
    return np.abs(received - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("top", [False, True])
def test_resnext(plugins, tmp_path, top):
    keras = backend.start()
    (entry,) = plugins.weights_of("resnext50", top=top)
    layout = published_resnext((3, 4, 6, 3), classes=7 if top else None)
    randomize(layout)
    write_as_published(layout, tmp_path / "x.h5")
    architecture = plugins.architecture("resnext50")
    model = build_classifier(architecture, SIZE, 7) if top else build_backbone(architecture, SIZE)
    load_weights(model, tmp_path / "x.h5", entry)
    output = model.get_layer("logits").output if top else model.output
    pixels = synthetic_pixels(4, SIZE, 3).astype("float32")
    assert agree(keras.Model(model.input, output).predict_on_batch(pixels), layout.predict_on_batch(pixels))


@pytest.mark.parametrize("top", [False, True])
def test_efficientnet(plugins, tmp_path, top):
    """Keras's graph for ImageNet weights: torch's normalisation, whatever layers it is made of."""
    keras = backend.start()
    (entry,) = plugins.weights_of("efficientnet_b0", top=top)
    options = {"classes": 7, "classifier_activation": None} if top else {}
    layout = keras.applications.EfficientNetB0(input_shape=(*SIZE, 3), include_top=top, weights=None, **options)
    (normalization,) = (x for x in layout.layers if isinstance(x, keras.layers.Normalization))
    published = [np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))]
    normalization.set_weights([*published, normalization.get_weights()[2]])
    architecture = plugins.architecture("efficientnet_b0")
    # Statistics that fit pictures normalised as for ImageNet weights: Keras's graph without them normalises otherwise.
    fitting = build_classifier(architecture, SIZE, 7) if top else build_backbone(architecture, SIZE)
    randomize(fitting)
    for layer in layout.layers:
        if layer.weights and layer is not normalization:
            layer.set_weights(fitting.get_layer(layer.name).get_weights())
    write_as_published(layout, tmp_path / "x.h5")
    model = build_classifier(architecture, SIZE, 7) if top else build_backbone(architecture, SIZE)
    load_weights(model, tmp_path / "x.h5", entry)
    output = model.get_layer("logits").output if top else model.output
    pixels = synthetic_pixels(4, SIZE, 3).astype("float32")
    body = keras.Model(normalization.output, layout.output)
    expected = body.predict_on_batch(keras.applications.imagenet_utils.preprocess_input(pixels.copy(), mode="torch"))
    assert agree(keras.Model(model.input, output).predict_on_batch(pixels), expected)

    # A user's copy, given by path, is read in the same way.
    again = build_classifier(architecture, SIZE, 7) if top else build_backbone(architecture, SIZE)
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
    (entry,) = plugins.weights_of("convnext_tiny", top=top)
    options = {"classes": 7, "classifier_activation": None} if top else {}
    with backend.fresh_names():
        layout = keras.applications.ConvNeXtTiny(input_shape=(*SIZE, 3), include_top=top, weights=None, **options)
    randomize(layout)
    write_as_published(layout, tmp_path / "x.h5")
    architecture = plugins.architecture("convnext_tiny")
    model = build_classifier(architecture, SIZE, 7) if top else build_backbone(architecture, SIZE)
    load_weights(model, tmp_path / "x.h5", entry)
    output = model.get_layer("logits").output if top else model.output
    pixels = synthetic_pixels(4, SIZE, 3).astype("float32")
    assert agree(keras.Model(model.input, output).predict_on_batch(pixels), layout.predict_on_batch(pixels))


# One member of each family, and of each way of normalising; EfficientNet, ConvNeXt and ResNeXt stand above.
KERAS_OWN = {
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
@pytest.mark.parametrize("name", KERAS_OWN)
def test_same_outputs_as_keras_own_network(plugins, tmp_path, name, top):
    """What Keras gives behind the family's own preprocess_input, or its preprocessing layers where it has some."""
    keras = backend.start()
    architecture = plugins.architecture(name)
    application = architecture.build.__self__
    size = (96, 96) if top or name != "vgg16" else (64, 64)
    options = {key: value for key, value in application.options.items() if key != "include_preprocessing"}
    if top:
        options.update(classes=7, classifier_activation=None)
    with backend.fresh_names():
        function = getattr(keras.applications, application.name)
        layout = function(weights=None, include_top=top, input_shape=(*size, 3), **options)

    def prepared(pixels):
        module = KERAS_OWN[name] and getattr(keras.applications, KERAS_OWN[name])
        return module.preprocess_input(pixels.copy()) if module else pixels

    pixels = synthetic_pixels(22, size, 3).astype("float32")
    rng = np.random.default_rng(0)
    for weight in layout.trainable_weights:
        if weight.path.endswith("bias"):
            weight.assign(rng.normal(0, 0.1, weight.shape))
    norms = [layer for layer in layout.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0
    layout(prepared(pixels[6:]), training=True)
    write_as_published(layout, tmp_path / "x.h5")

    model = build_classifier(architecture, size, 7) if top else build_backbone(architecture, size)
    load_weights(model, tmp_path / "x.h5", plugins.weights_of(name, top=top)[0])
    output = model.get_layer("logits").output if top else model.output
    received = keras.Model(model.input, output).predict_on_batch(pixels[:6])
    assert agree(received, layout.predict_on_batch(prepared(pixels[:6])))


@pytest.mark.slow
def test_a_convnext_whose_blocks_are_wrong_fails():
    """Its blocks' outputs are scaled by 1e-6 at first; a check on such weights would notice nothing."""
    from zoo.convert.keras_to_onnx import convert
    from zoo.errors import ParityFailed
    from zoo.export import parity
    from zoo.train.model import attach_head

    architecture = registry.load().architecture("convnext_tiny")
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
