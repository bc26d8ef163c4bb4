"""The built-in families, by the kit that plugin authors run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from zoo import testing
from zoo.errors import InvalidPluginData
from zoo.plugin import Architecture, Head, Schedule, Stage, registry

# Parameters without top and preprocessing layers. Those of keras.applications follow from the totals that Keras
# documents (https://keras.io/api/applications/); those of ResNeXt from the README of keras-applications 1.0.8.
PARAMETERS = {
    "catsdogs_convnet": 240_832,
    "mnist_convnet": 55_744,
    "mnist_dense": 0,
    "convnext_tiny": 27_820_128,
    "convnext_small": 49_454_688,
    "convnext_base": 87_566_464,
    "convnext_large": 196_230_336,
    "convnext_xlarge": 348_147_968,
    "densenet121": 7_037_504,
    "densenet169": 12_642_880,
    "densenet201": 18_321_984,
    "efficientnet_b0": 4_049_564,
    "efficientnet_b1": 6_575_232,
    "efficientnet_b2": 7_768_562,
    "efficientnet_b3": 10_783_528,
    "efficientnet_b4": 17_673_816,
    "efficientnet_b5": 28_513_520,
    "efficientnet_b6": 40_960_136,
    "efficientnet_b7": 64_097_680,
    "efficientnetv2_b0": 5_919_312,
    "efficientnetv2_b1": 6_931_124,
    "efficientnetv2_b2": 8_769_374,
    "efficientnetv2_b3": 12_930_622,
    "efficientnetv2_s": 20_331_360,
    "efficientnetv2_m": 53_150_388,
    "efficientnetv2_l": 117_746_848,
    "inceptionv3": 21_802_784,
    "inceptionresnetv2": 54_336_736,
    "mobilenet": 3_228_864,
    "mobilenet_025": 218_544,
    "mobilenet_050": 829_536,
    "mobilenet_075": 1_832_976,
    "mobilenetv2": 2_257_984,
    "mobilenetv2_035": 410_208,
    "mobilenetv2_050": 706_224,
    "mobilenetv2_075": 1_382_064,
    "mobilenetv2_130": 3_766_048,
    "mobilenetv2_140": 4_363_712,
    "mobilenetv3_small": 939_120,
    "mobilenetv3_small_075": 583_160,
    "mobilenetv3_small_minimalistic": 441_000,
    "mobilenetv3_large": 2_996_352,
    "mobilenetv3_large_075": 1_808_736,
    "mobilenetv3_large_minimalistic": 1_437_608,
    "nasnet_mobile": 4_269_716,
    "nasnet_large": 84_916_818,
    "resnet50": 23_587_712,
    "resnet101": 42_658_176,
    "resnet152": 58_370_944,
    "resnet50v2": 23_564_800,
    "resnet101v2": 42_626_560,
    "resnet152v2": 58_331_648,
    "resnext50": 23_048_128,
    "resnext101": 42_266_560,
    "vgg16": 14_714_688,
    "vgg19": 20_024_384,
    "xception": 20_861_480,
}

# One member of each family; the quick ones run by default. benchmarks/backbones.py checks all at their own sizes.
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
SLOW = (
    "efficientnet_b0",
    "resnext50",
    "convnext_tiny",
    "densenet121",
    "efficientnetv2_b0",
    "inceptionresnetv2",
    "inceptionv3",
    "mobilenetv3_large_minimalistic",
    "nasnet_mobile",
    "resnet50",
    "resnet50v2",
    "xception",
)


SCHEDULES = {"discriminative", "fine-tune", "full", "gradual-unfreeze", "grow", "head-only", "scratch"}


@pytest.fixture(scope="module")
def plugins():
    return registry.load()


def test_every_family_is_there(plugins):
    assert {item.name: item.parameters for item in plugins.all(Architecture)} == PARAMETERS


@pytest.mark.parametrize("name", QUICK)
def test_keeps_the_contract(plugins, name):
    architecture = plugins.architecture(name)
    testing.check_architecture(architecture, (architecture.min_size, architecture.min_size + 16))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_other_families_keep_the_contract(plugins, name):
    testing.check_architecture(plugins.architecture(name))


@pytest.mark.every
@pytest.mark.parametrize("name", sorted(PARAMETERS.keys() - {*QUICK, *SLOW, "convnext_xlarge"}))
def test_every_network_is_built_as_promised(plugins, name):
    """Stages cover it, and it has the published number of parameters."""
    from zoo.train.network import build_backbone

    architecture = plugins.architecture(name)
    backbone = build_backbone(architecture, (architecture.min_size,) * 2)
    assert backbone.count_params() == PARAMETERS[name]


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
def test_normalization_is_keras_own(plugins, name, mode):
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
    # Keras normalises ConvNeXt's features in front of its top by another layer.
    assert weighted - {"layer_normalization"} <= names
    assert {"logits", "probabilities"} <= names
    rows = top.predict_on_batch(np.zeros((2, 32, 32, 3), "float32"))
    assert rows.shape == (2, 10) and np.allclose(rows.sum(axis=1), 1, atol=1e-5)


def test_stages_are_the_courses(plugins):
    """`from:` and `last:` mean what the course means."""
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
def test_names_are_found_as_others_write_them(zoo, typed, name):
    ran = zoo("info", typed)
    assert ran.code == 0 and ran.out.startswith(f"{name}: ")


def test_every_listed_schedule_is_tested(plugins):
    assert {item.name for item in plugins.all(Schedule)} == SCHEDULES


@pytest.mark.parametrize("architecture", [pytest.param("mobilenetv2_035", marks=pytest.mark.slow), "vgg16"])
@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_schedules_fit(plugins, schedule, architecture):
    testing.check_schedule(plugins.schedule(schedule), plugins.architecture(architecture))


def test_too_small_a_picture_is_refused(zoo, photos, tmp_path):
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
def test_the_kit_finds_what_is_wrong(changes, problem):
    with pytest.raises((AssertionError, InvalidPluginData), match=problem):
        testing.check_architecture(architecture(**changes), (16, 16))


def _build_unnamed(shape):
    import keras

    pixels = keras.Input(shape)
    x = keras.layers.Conv2D(4, 3)(pixels)
    return keras.Model(pixels, keras.layers.Conv2D(4, 3)(x))


def test_unnamed_layers_have_the_names_of_a_fresh_process_in_every_build():
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
    assert count() == first + 1, "what others build goes on counting from where it was"
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


def test_a_strangers_architecture_runs_the_whole_way(zoo, install_plugin, photos, tmp_path):
    """A plugin that is only installed: listed, fine-tuned, exported, predicting; and its file needs no plugin."""
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
