"""The built-in families, checked by the kit that plugin authors run."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter

import numpy as np
import pytest
from builtin_plugins import DISTRIBUTION, builtin, smallest_of_each_family

import zoo_plugins
from zoo import testing
from zoo.plugin import Architecture, Augmentation, Schedule, Weights

ARCHITECTURES = builtin(Architecture)
# Checked by default: networks whose check takes seconds, because they are small or have few layers.
QUICK_PARAMETERS = 430_000
QUICK = sorted(
    {name for name, item in ARCHITECTURES.items() if item.parameters <= QUICK_PARAMETERS} | {"mobilenetv3_small"}
)
# Checked with `-m slow`: one network of each other family. benchmarks/backbones.py checks all at their own sizes.
SLOW = sorted({*smallest_of_each_family(), "mobilenetv2", "mobilenetv3_large_minimalistic", "vgg16"} - {*QUICK})


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


@testing.parametrize_plugin(DISTRIBUTION, only=["load", "light-import", "ids", "metadata"])
def test_names_and_facts_keep_the_rules(check):
    check()


def broken_rules(name: str) -> list[str]:
    """Run all checks of a network, and return those that fail. None is expected to fail.

    They are one test, because two processes would build the network twice.
    """
    outcomes = [case.outcome() for case in testing.plugin_cases(name) if case.label == name]
    assert len(outcomes) > 10
    return [f"{outcome.case.id}: {outcome.text}" for outcome in outcomes if outcome.bad]


@pytest.mark.parametrize("name", QUICK)
def test_keeps_the_rules(name):
    assert broken_rules(name) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_one_network_of_each_other_family_keeps_the_rules(name):
    assert broken_rules(name) == []


@pytest.mark.real
def test_published_files_that_are_at_hand_keep_the_rules(real_weights):
    outcomes = [case.outcome() for case in testing.plugin_cases(DISTRIBUTION, only=["weights"])]
    assert [f"{outcome.case.id}: {outcome.text}" for outcome in outcomes if outcome.bad] == []
    assert sum(outcome.state == "passed" for outcome in outcomes) == len(list(real_weights.glob("*.h5")))


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
