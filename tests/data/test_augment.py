"""Policies as users type them: parsing, describing, building, and how a run records them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from zoo.data import augment
from zoo.errors import InvalidPluginData, UnknownName, UsageError
from zoo.plugin import registry


def test_parameters_are_read_by_the_type_of_their_defaults(plugins):
    policy, parameters = augment.parse("course:rotation=30, flip=False", plugins)
    assert policy.name == "course"
    assert parameters == {"flip": False, "rotation": 30.0, "shift": 0.2, "shear": 0.2, "zoom": 0.2}
    assert isinstance(parameters["rotation"], float)
    assert augment.describe(policy, parameters) == "course:flip=false,rotation=30,shift=0.2,shear=0.2,zoom=0.2"
    assert augment.parse(augment.describe(policy, parameters), plugins) == (policy, parameters)
    assert augment.parse("none", plugins)[1] == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("coarse", "no augmentation called 'coarse'. Did you mean course"),
        ("course:rotatoin=3", "no parameter of the policy course called 'rotatoin'. Did you mean rotation"),
        ("none:flip=true", "no parameter of the policy none called 'flip'.*Known: none"),
        ("course:", "NAME:PARAMETER=VALUE"),
        ("course:rotation", "'rotation' is not PARAMETER=VALUE"),
        ("course:rotation=30,,zoom=0.1", "'' is not PARAMETER=VALUE"),
        ("course:rotation=30,rotation=40", "rotation is given twice"),
        ("course:rotation=far", "rotation must be a number, such as 45. Received: 'far'"),
        ("course:rotation=nan", "rotation must be a number"),
        ("course:flip=1", "flip must be true or false, such as true. Received: '1'"),
        ("randaugment:operations=1.5", "operations must be a whole number, such as 2"),
    ],
)
def test_policies_that_are_misspelt_or_malformed_are_refused(plugins, text, problem):
    with pytest.raises(UsageError, match=problem):
        augment.parse(text, plugins)


STRANGE = """
from zoo.plugin import Augmentation, hookimpl

def build(*, text, sides):
    if text != "good":
        raise RuntimeError("only good is good")
    return lambda images, labels, seeds: (images, labels)

@hookimpl
def zoo_augmentations():
    yield Augmentation(name="odd", summary="odd", build=build, parameters={"text": "bad", "sides": (1, 2)})
"""


def test_errors_of_a_third_party_policy(install_plugin):
    install_plugin("odd", STRANGE)
    plugins = registry.load()
    policy, parameters = augment.parse("odd", plugins)
    with pytest.raises(InvalidPluginData, match="'odd' cannot be built: RuntimeError: only good is good"):
        augment.build(policy, parameters)
    with pytest.raises(UsageError, match=r"the policy odd does not accept odd:text=worse.*only good is good"):
        augment.build(*augment.parse("odd:text=worse", plugins))
    assert augment.build(*augment.parse("odd:text=good", plugins))
    with pytest.raises(UsageError, match="sides cannot be changed here"):
        augment.parse("odd:sides=3", plugins)
    with pytest.raises(UnknownName):
        augment.parse("odd:side=3", plugins)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("course:rotatoin=3", "Did you mean rotation"), ("course:zoom=3", "zoom must be a number from 0 to 0.9")],
)
def test_finetune_refuses_a_policy_before_it_trains(zoo, photos, tmp_path, text, problem):
    ran = zoo("finetune", "mobilenetv2_035", "--data", photos, "--augment", text, "--runs", tmp_path / "runs")
    assert ran.code == 2 and problem in ran.err
    assert ran.out == "" and not (tmp_path / "runs").exists()


TINY = """
from zoo.plugin import Architecture, Stage, hookimpl

def build(shape):
    import keras
    pixels = keras.Input(shape)
    x = keras.layers.Rescaling(1 / 255)(pixels)
    return keras.Model(pixels, keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="conv")(x))

@hookimpl
def zoo_architectures():
    yield Architecture(name="tiny", summary="one convolution", build=build, input_size=(24, 24), min_size=8,
                       parameters=224, stages=[Stage("a", ["conv"])], source="here", licence="MIT")
"""


def test_a_run_trains_with_a_policy_and_records_its_parameters(zoo, install_plugin, photos, tmp_path):
    install_plugin("tiny", TINY)
    records = {}
    for text in ("none", "cutmix:flip=false", "course:rotation=30"):
        runs = tmp_path / text.partition(":")[0]
        ran = zoo(
            *("finetune", "tiny", "--data", photos, "--epochs", 1, "--batch-size", 16, "--augment", text),
            *("--no-export", "--allow-chance", "--runs", runs),
        )
        assert ran.code == 0, ran.err
        (run,) = runs.iterdir()
        record = json.loads((run / "run.json").read_text())
        assert record["options"]["augment"] == text
        assert any(plugin.startswith("augmentation (") for plugin in record["plugins"])
        records[text] = record["augmentation"], (run / "history.csv").read_text()
    assert records["none"][0] == {"name": "none", "parameters": {}}
    assert records["cutmix:flip=false"][0] == {"name": "cutmix", "parameters": {"flip": False, "alpha": 1.0}}
    assert records["course:rotation=30"][0]["parameters"]["rotation"] == 30.0
    assert len({history for _, history in records.values()}) == 3


LATE = """
import sys
import numpy as np
from zoo.plugin import Augmentation, hookimpl

POLICIES = {
    "late-raises": lambda images, labels, seeds: [][1],
    "late-none": lambda images, labels, seeds: None,
    "late-cuts": lambda images, labels, seeds: (images[:, :5], labels),
    "late-nan": lambda images, labels, seeds: (images * np.nan, labels),
    "late-wide": lambda images, labels, seeds: (images.astype("float64"), labels.astype("int64")),
}

@hookimpl
def zoo_augmentations():
    for name, made in {**POLICIES, "late-text": "no function"}.items():
        yield Augmentation(name=name, summary="late", build=lambda made=made: made)
"""


def test_a_policy_that_misbehaves_while_it_trains_is_named(install_plugin):
    install_plugin("late", LATE)
    found = registry.load()
    images, labels, seeds = np.zeros((2, 8, 8, 3), "f4"), np.eye(2, dtype="f4"), np.arange(2, dtype="u8")
    for name, problem in {
        "late-raises": r"'late-raises' failed: IndexError: list index out of range \(.*late_plugin_module\.py:7\)",
        "late-none": "'late-none' failed: TypeError",
        "late-cuts": r"must keep the shapes of pictures and labels, \(2, 8, 8, 3\) and \(2, 2\)\. Received: \(2, 5, 8",
        "late-nan": "makes pixels or labels that are not finite",
    }.items():
        with pytest.raises(InvalidPluginData, match=problem):
            augment.build(found.augmentation(name), {})(images, labels, seeds)
    with pytest.raises(InvalidPluginData, match="`build` must return a function"):
        augment.build(found.augmentation("late-text"), {})
    out = augment.build(found.augmentation("late-wide"), {})(images, labels, seeds)
    assert [each.dtype.name for each in out] == ["float32", "float32"]
