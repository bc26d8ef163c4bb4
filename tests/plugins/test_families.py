"""The built-in families, checked by the kit that plugin authors run; the kit itself; the data classes of the API."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections import Counter

import numpy as np
import pytest
from builtin_plugins import DISTRIBUTION, builtin, smallest_of_each_family

import zoo_plugins
from zoo import testing
from zoo.errors import InvalidPluginData
from zoo.plugin import Architecture, Augmentation, Head, Schedule, Stage, Weights, registry

ARCHITECTURES = builtin(Architecture)
# Checked by default: networks whose check takes seconds.
QUICK = (
    "catsdogs_convnet",
    "mnist_convnet",
    "mnist_dense",
    "mobilenet_025",
    "mobilenetv2",
    "mobilenetv2_035",
    "mobilenetv3_small",
    "vgg16",
)
# Checked with `-m slow`: one network of each other family. benchmarks/backbones.py checks all at their own sizes.
SLOW = sorted({*smallest_of_each_family(), "mobilenetv3_large_minimalistic"} - {*QUICK})


def test_every_module_is_loaded_whole(plugins):
    """Each module of zoo_plugins that has a hook is an entry point, and the registry has everything that it lists."""
    listed = Counter()
    names = set()
    for module in pkgutil.iter_modules(zoo_plugins.__path__):
        code = importlib.import_module(f"zoo_plugins.{module.name}")
        hooks = [name for name in vars(code) if name.startswith("zoo_")]
        names |= {module.name} if hooks else set()
        for hook in hooks:
            listed += Counter(type(item) for item in getattr(code, hook)())
    ours = {plugin.name for plugin in plugins.plugins if plugin.distribution == DISTRIBUTION}
    assert ours == names
    for kind in (Architecture, Augmentation, Schedule, Weights):
        items = [item for item in plugins.all(kind) if plugins.plugin_of(item).distribution == DISTRIBUTION]
        assert len(items) == listed[kind] > 0


@pytest.mark.parametrize("name", QUICK)
def test_keeps_the_contract(plugins, name):
    architecture = plugins.architecture(name)
    testing.check_architecture(architecture, (architecture.min_size, architecture.min_size + 16))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_one_network_of_each_other_family_keeps_the_contract(plugins, name):
    testing.check_architecture(plugins.architecture(name))


@pytest.mark.every
@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - {*QUICK, *SLOW, "convnext_xlarge"}))
def test_every_network_is_built_as_promised(plugins, name):
    """Its stages cover every layer with weights, and it has the number of parameters that its family states.

    The numbers of keras.applications follow from the totals that Keras documents (https://keras.io/api/applications/),
    and those of ResNeXt from the README of keras-applications 1.0.8.
    """
    from zoo.train.network import build_backbone

    architecture = plugins.architecture(name)
    backbone = build_backbone(architecture, (architecture.min_size,) * 2)
    assert backbone.count_params() == architecture.parameters


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("densenet121", "torch"),
        ("efficientnet_b0", "torch"),
        ("efficientnetv2_b0", "torch"),
        ("mobilenetv2", "tf"),
        ("resnext50", "torch"),
        ("vgg16", "caffe"),
    ],
)
def test_normalization_equals_that_of_keras(plugins, name, mode):
    """The first layers of the network do what the family's preprocess_input does."""
    import keras

    from zoo.train.network import build_backbone

    model = build_backbone(plugins.architecture(name), (32, 32))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    normalized = keras.Model(model.input, model.get_layer("normalize").output).predict_on_batch(pixels)
    expected = keras.applications.imagenet_utils.preprocess_input(pixels.copy(), mode=mode)
    assert np.abs(normalized - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    "name", ["convnext_tiny", "efficientnet_b0", "mobilenetv2_035", "mobilenetv3_small", "resnext50", "vgg16"]
)
def test_classifier_has_the_backbones_layers(plugins, name):
    from zoo.train.network import build_backbone, build_classifier

    architecture = plugins.architecture(name)
    top = build_classifier(architecture, (32, 32), 10)
    names = {layer.name for layer in top.layers}
    weighted = {layer.name for layer in build_backbone(architecture, (32, 32)).layers if layer.weights}
    # In front of its top, Keras normalizes ConvNeXt's features by a layer of another name.
    assert weighted - {"layer_normalization"} <= names
    assert {"logits", "probabilities"} <= names
    rows = top.predict_on_batch(np.zeros((2, 32, 32, 3), "float32"))
    assert rows.shape == (2, 10) and np.allclose(rows.sum(axis=1), 1, atol=1e-5)


def test_last_stage_of_vgg_is_the_block_that_the_course_unfreezes(plugins):
    """`last:1` selects the same layers as `from:block5_conv1`."""
    from zoo.train import freeze
    from zoo.train.network import build_backbone

    vgg = plugins.architecture("vgg16")
    layers = [layer.name for layer in build_backbone(vgg, (32, 32)).layers]
    top = {"block5_conv1", "block5_conv2", "block5_conv3", "block5_pool"}
    assert freeze.select(vgg, layers, "from:block5_conv1") == freeze.select(vgg, layers, "last:1") == top


@pytest.mark.parametrize(
    ("typed", "name"),
    [("ResNet50V2", "resnet50v2"), ("EfficientNet-B0", "efficientnet_b0"), ("nasnetlarge", "nasnet_large")],
)
def test_names_are_found_in_other_spellings(zoo, typed, name):
    ran = zoo("info", typed)
    assert ran.code == 0 and ran.out.startswith(f"{name}: ")


@pytest.mark.parametrize("architecture", [pytest.param("mobilenetv2_035", marks=pytest.mark.slow), "vgg16"])
@pytest.mark.parametrize("schedule", sorted(builtin(Schedule)))
def test_schedules_fit_architectures(plugins, schedule, architecture):
    testing.check_schedule(plugins.schedule(schedule), plugins.architecture(architecture))


def test_a_size_below_the_smallest_is_refused(zoo, photos, tmp_path):
    ran = zoo("finetune", "vgg16", "--data", photos, "--size", "31x64", "--runs", tmp_path / "runs")
    assert ran.code == 2
    assert "at least 32 x 32" in ran.err and "31x64" in ran.err
    assert not (tmp_path / "runs").exists()


def _build(shape):
    import keras

    pixels = keras.Input(shape)
    x = keras.layers.Conv2D(4, 3, name="one")(pixels)
    return keras.Model(pixels, keras.layers.Conv2D(4, 3, name="two")(x))


def architecture(**changes) -> Architecture:
    values = {
        "name": "tiny",
        "summary": "two convolutions",
        "build": _build,
        "input_size": (32, 32),
        "min_size": 8,
        "parameters": 3 * 9 * 4 + 4 + 4 * 9 * 4 + 4,
        "stages": (Stage("a", ("one",)), Stage("b", ("two",))),
        "source": "here",
        "licence": "MIT",
    }
    return Architecture(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"parameters": 17}, "17 promised"),
        ({"stages": (Stage("a", ("one",)),)}, "stand in no stage: two"),
        ({"stages": (Stage("a", ("one", "two", "three")),)}, "do not exist: three"),
        ({"stages": (Stage("a", ("one", "two")), Stage("b", ("three_*",)))}, r"do not exist: three_\*"),
        ({"stages": (Stage("a", ("one", "two")), Stage("b", ("t*",)))}, "one stage only: two"),
    ],
)
def test_the_kit_finds_violations_of_the_contract(changes, problem):
    with pytest.raises((AssertionError, InvalidPluginData), match=problem):
        testing.check_architecture(architecture(**changes), (16, 16))


def _build_unnamed(shape):
    import keras

    pixels = keras.Input(shape)
    x = keras.layers.Conv2D(4, 3)(pixels)
    return keras.Model(pixels, keras.layers.Conv2D(4, 3)(x))


def test_unnamed_layers_have_the_same_names_in_every_build():
    """Keras counts unnamed layers over the process; stages, saved files and weights need the same names each time."""
    from zoo import backend
    from zoo.train.network import build_backbone

    def count() -> int:
        return int(backend.start().layers.Conv2D(4, 3).name.removeprefix("conv2d").removeprefix("_") or 0)

    first = count()
    unnamed = architecture(build=_build_unnamed, stages=(Stage("a", ("conv2d",)), Stage("b", ("conv2d_1",))))
    for _ in range(2):
        names = [layer.name for layer in build_backbone(unnamed, (16, 16)).layers]
        assert names == ["input_layer", "conv2d", "conv2d_1"]
    assert count() == first + 1, "layers built elsewhere must continue their own count"
    testing.check_architecture(unnamed, (16, 16))


@pytest.mark.parametrize("pool", ["avg", "max", "flatten", "l2norm", "roi"])
def test_heads_train_save_and_export(pool):
    head = Head(pool=pool, hidden=(6,), dropout=0.3, weight_l2=1e-4, weight_l1=1e-5, reduce=3)
    testing.check_architecture(architecture(head=head), (16, 16))


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: architecture(name="Tiny"), "lower-case"),
        (lambda: architecture(min_size=64), "at least min_size"),
        (lambda: architecture(channels=4), "channels must be"),
        (lambda: architecture(stages=(Stage("a", ("one",)), Stage("a", ("two",)))), "stage names must differ"),
        (lambda: architecture(stages=(Stage("a", ("one",)), Stage("b", ("one",)))), "one stage only"),
        (lambda: architecture(build="x"), "build must be a function"),
        (lambda: Head(pool="mean"), "pool must be"),
        (lambda: Head(dropout=1.0), "dropout must be"),
        (lambda: Stage("a", ()), "one or more layer names"),
    ],
)
def test_data_classes_refuse_what_the_contract_does_not_allow(make, problem):
    with pytest.raises(InvalidPluginData, match=problem):
        make()


FAMILY = """
from zoo.plugin import KerasApplication, Stage, hookimpl, keras_architecture

@hookimpl
def zoo_architectures():
    yield keras_architecture(
        KerasApplication("MobileNetV2", "tf", {"alpha": 0.35}),
        "narrow",
        summary="a narrow network",
        parameters=410_208,
        stages=[Stage("all", ["Conv1", "bn_Conv1", "Conv_1", "Conv_1_bn", "*expanded_conv_*", "block_*"])],
        source="https://arxiv.org/abs/1801.04381",
        size=96,
        learning_rate=3e-3,
    )
"""


def test_a_third_party_describes_a_network_of_keras_in_a_few_lines(zoo, install_plugin):
    """The defaults are those of the built-in families, which use the same function."""
    from zoo.train.network import build_backbone

    install_plugin("narrow", FAMILY)
    listed = zoo("list", "narrow")
    assert listed.code == 0 and "96x96" in listed.out and "Apache-2.0" in listed.out
    plugins = registry.load()
    narrow, builtin_one = plugins.architecture("narrow"), plugins.architecture("mobilenetv2_035")
    for field in ("head", "min_size", "channels", "licence", "default_schedule", "learning_rate"):
        assert getattr(narrow, field) == getattr(builtin_one, field)
    names = [[layer.name for layer in build_backbone(item, (32, 32)).layers] for item in (narrow, builtin_one)]
    assert names[0] == names[1] and narrow.build_classifier is not None


def test_a_third_party_architecture_is_fine_tuned_exported_and_predicts(zoo, install_plugin, photos, tmp_path):
    """An installed plugin's network is listed, fine-tuned and exported; the exported file predicts."""
    install_plugin(
        "tiny",
        """
from zoo.plugin import Architecture, Head, Stage, hookimpl

def build(shape):
    import keras
    from zoo.plugin import normalize
    pixels = keras.Input(shape)
    x = normalize(pixels, "torch")
    for i in range(1, 3):
        x = keras.layers.Conv2D(8 * i, 3, strides=2, padding="same", activation="relu", name=f"conv{i}")(x)
    return keras.Model(pixels, x)

@hookimpl
def zoo_architectures():
    yield Architecture(name="tiny", summary="two convolutions", build=build, input_size=(32, 32), min_size=8,
                       parameters=1392, stages=[Stage("a", ["conv1"]), Stage("b", ["conv2"])], head=Head(pool="max"),
                       source="here", licence="MIT")
""",
    )
    ran = zoo(
        *("finetune", "tiny", "--data", photos, "--epochs", 20, "--learning-rate", 0.01, "--batch-size", 8),
        *("--runs", tmp_path / "runs", "--exported", tmp_path / "exported"),
    )
    assert ran.code == 0, ran.err
    assert "no plugin lists pretrained weights of tiny" in ran.err
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "metrics.json").read_text())["test"]["accuracy"] >= 0.9
    assert json.loads((run / "run.json").read_text())["plugins"][-1] == "tiny (zoo-tiny 1.2)"
    picture = next((photos / "discs").iterdir())
    predicted = zoo("predict", tmp_path / "exported" / "tiny-photos" / "model.onnx", picture)
    assert predicted.code == 0 and "discs" in predicted.out
