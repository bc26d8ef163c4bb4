"""The data classes of the plugin API: what they refuse, and what they say about themselves."""

from __future__ import annotations

import dataclasses

import pytest

from zoo.errors import InvalidPluginData
from zoo.plugin import Architecture, Augmentation, ClassIndex, Head, Schedule, Stage, Weights, imagenet_weights


def architecture(**changes) -> Architecture:
    """Return a valid architecture, with some fields changed; nothing builds it."""
    values = {
        "name": "tiny",
        "summary": "two convolutions",
        "build": lambda input_shape: None,
        "input_size": (32, 32),
        "min_size": 8,
        "parameters": 260,
        "stages": (Stage("a", ("one",)), Stage("b", ("two",))),
        "source": "https://example.org/paper",
        "licence": "MIT",
    }
    return Architecture(**{**values, **changes})


def weights(**changes) -> Weights:
    """Return a valid entry of published weights, with some fields changed."""
    values = {
        "architecture": "tiny",
        "tag": "birds",
        "url": "https://example.org/files/b.h5",
        "filename": "b.h5",
        "includes_top": False,
        "input_size": (32, 32),
        "licence": "MIT",
        "source": "https://example.org",
    }
    return Weights(**{**values, **changes})


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: architecture(name="Tiny"), "lower-case"),
        (lambda: architecture(min_size=64), "at least min_size"),
        (lambda: architecture(channels=4), "channels must be"),
        (lambda: architecture(stages=(Stage("a", ("one",)), Stage("a", ("two",)))), "stage names must differ"),
        (lambda: architecture(stages=(Stage("a", ("one",)), Stage("b", ("one",)))), "one stage only"),
        (lambda: architecture(build="x"), "build must be a function"),
        (lambda: architecture(parameters=-1), "parameters must be"),
        (lambda: architecture(learning_rate=float("nan")), "learning_rate must be"),
        (lambda: architecture(classifier_size=224), "classifier_size must be"),
        (lambda: architecture(backends=("tensorflow", "theano")), "backends must be some of tensorflow, jax, torch"),
        (lambda: architecture(backends=()), "backends must be"),
        (lambda: architecture(summary=" "), "summary must be"),
        (lambda: architecture(stages=()), "one or more Stage"),
        (lambda: Head(pool="mean"), "pool must be"),
        (lambda: Head(hidden=(0,)), "hidden must be"),
        (lambda: Head(weight_l2=-1e-4), "penalty must not be negative"),
        (lambda: Head(reduce=0), "reduce must be"),
        (lambda: weights(tag="Birds"), "lower-case"),
        (lambda: weights(url="ftp://b.h5"), "url must be https"),
        (lambda: weights(filename="../b.h5"), "without folders"),
        (lambda: weights(hash="md5:abc"), "hash must be"),
        (lambda: weights(bytes=0), "bytes must be"),
        (lambda: weights(top1=71.3), "fractions in 0..1"),
        (lambda: weights(classes=1), "classes must be"),
        (lambda: ClassIndex(url="ftp://x", filename="x.json"), "url must begin"),
        (lambda: Augmentation(name="x", summary="x", build=None), "build must be a function"),
        (lambda: Augmentation(name="x", summary="x", build=dict, parameters=[]), "parameters must be a mapping"),
        (lambda: Schedule(name="x", summary="x", phases=()), "one or more Phase"),
        (lambda: Head(dropout=1.0), "dropout must be"),
        (lambda: Stage("a", ()), "one or more layer names"),
    ],
)
def test_data_classes_refuse_what_the_contract_does_not_allow(make, problem):
    with pytest.raises(InvalidPluginData, match=problem):
        make()


def test_an_error_names_the_class_and_what_was_received():
    with pytest.raises(InvalidPluginData, match=r"^Head: dropout must be in \[0, 1\)\. Received: 1\.5\.$"):
        Head(dropout=1.5)


def test_data_classes_are_frozen_and_keep_tuples():
    tiny = architecture(stages=[Stage("a", ["one"])], input_size=[32, 48])
    assert tiny.stages == (Stage("a", ("one",)),) and tiny.input_size == (32, 48)
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny.name = "other"


def test_an_architecture_describes_itself():
    """run.json and the metadata of exported files hold exactly these keys."""
    assert architecture().describe() == {
        "name": "tiny",
        "parameters": 260,
        "source": "https://example.org/paper",
        "licence": "MIT",
    }


def test_patterns_of_a_stage():
    stage = Stage("a", ("one", "block_*", "absent", "none_*"))
    layers = ["block_2", "one", "block_1", "top"]
    assert stage.members(iter(layers)) == {
        "one": ["one"],
        "block_*": ["block_2", "block_1"],
        "absent": [],
        "none_*": [],
    }


def test_weights_have_an_id():
    assert weights().id == "tiny.birds"


def test_the_two_files_of_imagenet_weights():
    without, with_top = imagenet_weights(
        "tiny",
        "https://example.org/",
        ("n.h5", "t.h5"),
        size=64,
        hashes=("md5:" + "0" * 32, None),
        lengths=(None, 7),
        published_as=("n-public.h5", "t-public.h5"),
        licence="MIT",
        source="https://example.org",
        top1=0.5,
    )
    assert (without.id, without.includes_top, without.filename) == ("tiny.imagenet1k", False, "n.h5")
    assert without.url == "https://example.org/n-public.h5" and without.input_size == (64, 64)
    assert without.hash == "md5:" + "0" * 32 and without.bytes is None and without.top1 == 0.5
    assert (with_top.includes_top, with_top.filename, with_top.hash, with_top.bytes) == (True, "t.h5", None, 7)
    assert with_top.class_index.filename == "imagenet_class_index.json"


def test_phases_that_depend_on_the_architecture_are_checked():
    schedule = Schedule(name="odd", summary="returns nothing", phases=lambda architecture: [])
    with pytest.raises(InvalidPluginData, match="the phases of 'odd' must be one or more Phase"):
        schedule.phases_for(architecture())
