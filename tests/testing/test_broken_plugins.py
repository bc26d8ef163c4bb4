"""Each check is proved by a plugin that breaks its rule alone: exactly that check fails, and says what is wrong."""

from __future__ import annotations

import json

import pytest

from zoo import testing

NETWORK = """
from zoo.plugin import Architecture, Stage, hookimpl, normalize

STAGES = (Stage("low", ("one*",)), Stage("high", ("two",)))


def build(shape):
    import keras

    pixels = keras.Input(shape, name="image")
    x = normalize(pixels, "tf")
    x = keras.layers.Conv2D(4, 3, strides=2, use_bias=False, name="one")(x)
    norm = keras.layers.BatchNormalization(name="one_norm")
    x = norm(x)
    x = keras.layers.ReLU(name="one_relu")(x)
    x = keras.layers.Conv2D(6, 3, strides=2, name="two")(x)
    return keras.Model(pixels, x)


@hookimpl
def zoo_architectures():
    facts = {"source": "https://arxiv.org/abs/1412.6806", "licence": "MIT", "default_schedule": "scratch"}
    return [
        Architecture(
            name="odd",
            summary="two convolutions",
            build=build,
            input_size=(32, 32),
            min_size=16,
            parameters=346,
            stages=STAGES,
            **facts,
        )
    ]
"""
RELU = 'x = keras.layers.ReLU(name="one_relu")(x)'
UNSTEADY = """build.count = getattr(build, "count", 0) + 1
    x = keras.layers.ReLU(name=f"one_relu_{build.count}")(x)"""
MOVING = """x = norm(x)
    plain = norm.call

    def call(inputs, training=None, mask=None):
        if training:
            norm.moving_mean.assign(norm.moving_mean * 0.9 + 0.1 * keras.ops.mean(inputs, axis=(0, 1, 2)))
        return plain(inputs, training=training, mask=mask)

    norm.call = call"""
# A plugin that tries to download and goes on without.
HIDDEN = """import contextlib, socket
    with contextlib.suppress(Exception):
        socket.create_connection(("192.0.2.1", 80), timeout=1)"""
OWN_LAYER = """x = doubled()(x)
"""
OWN_CLASS = """
def doubled():
    import keras

    @keras.saving.register_keras_serializable("odd")
    class Doubled(keras.layers.Layer):
        def call(self, inputs):
            return inputs * 2

    return Doubled(name="doubled")


def build(shape):"""


def changed(*pairs: tuple[str, str]) -> str:
    """Return the sound network with some text replaced."""
    code = NETWORK
    for old, new in pairs:
        assert code.count(old) == 1
        code = code.replace(old, new)
    return code


BROKEN_NETWORKS = [
    (
        "build",
        "downloads https://example.org/odd.h5",
        changed((RELU, f'{RELU}\n    keras.utils.get_file("odd.h5", "https://example.org/odd.h5")')),
    ),
    (
        "build",
        "uses the network: it asks for",
        changed((RELU, f"{RELU}\n    {HIDDEN}")),
    ),
    ("parameters", "the backbone has 346 parameters, 347 promised", changed(("parameters=346", "parameters=347"))),
    ("layer-names", "a second build has other layer names: ['one_relu_", changed((RELU, UNSTEADY))),
    (
        "stages",
        "every layer with weights must be in a stage. Missing: two",
        changed((', Stage("high", ("two",))', ",")),
    ),
    (
        "input",
        "a picture has other features alone than in a batch of three",
        changed((RELU, f"{RELU}\n    x = x - 0.5 * keras.ops.mean(x, axis=0, keepdims=True)")),
    ),
    (
        "input",
        "cannot be built for (48, 96, 3)",
        changed((RELU, f"{RELU}\n    x = keras.layers.Reshape((7, shape[1] // 2 - 1, 4))(x)")),
    ),
    (
        "normalization",
        "the first layer with weights, 'one', reads values up to 255 with a mean of 12",
        changed(('x = normalize(pixels, "tf")', 'x = normalize(pixels, "none")')),
    ),
    (
        "normalization",
        "perhaps pixels are scaled twice",
        changed(('x = normalize(pixels, "tf")', "x = pixels / 255 / 255")),
    ),
    (
        "normalization",
        "perhaps pixels are scaled twice",
        changed(('x = normalize(pixels, "tf")', 'x = normalize(pixels / 255, "torch")')),
    ),
    (
        "stages",
        "stage 'low' is listed after 'high', but the picture passes it first",
        changed(
            ('(Stage("low", ("one*",)), Stage("high", ("two",)))', '(Stage("high", ("two",)), Stage("low", ("one*",)))')
        ),
    ),
    (
        "input",
        "the features sum to 1 everywhere",
        changed(('name="two")(x)', 'name="two")(x)\n    x = keras.layers.Softmax()(x)')),
    ),
    (
        "input",
        "features come last, after height and width",
        changed(('name="two")(x)', 'name="two")(x)\n    x = keras.layers.Permute((3, 1, 2))(x)')),
    ),
    (
        "save-load",
        "Lambda",
        changed((RELU, f"{RELU}\n    x = keras.layers.Lambda(lambda values: values * 2, output_shape=lambda s: s)(x)")),
    ),
    ("frozen-batch-norm", "changes frozen BatchNorm layers: one_norm", changed(("x = norm(x)", MOVING))),
    (
        "trainable-layers",
        "a step that trains 'all' leaves layers as they were: one",
        changed((RELU, f"{RELU}\n    x = keras.ops.stop_gradient(x)")),
    ),
    (
        "save-load",
        "layers that are not Keras's own: doubled",
        changed((RELU, f"{RELU}\n    {OWN_LAYER}"), ("\ndef build(shape):", OWN_CLASS)),
    ),
    (
        "onnx-parity",
        "erfinv",
        changed((RELU, f"{RELU}\n    x = keras.ops.erfinv(0.9 * keras.ops.tanh(x))")),
    ),
]
WEIGHTS = """
from zoo.plugin import Weights, hookimpl


@hookimpl
def zoo_weights():
    facts = {"source": "https://arxiv.org/abs/1412.6806", "licence": "MIT", "hash": "sha256:" + HASH}
    facts |= {"architecture": "mnist_convnet", "tag": "odd", "url": "https://example.org/odd.h5", "load": None}
    return [Weights(**{**facts, "filename": "odd.h5", "includes_top": False, "input_size": (28, 28), **CHANGES})]
"""
POLICY = """
from zoo.plugin import Augmentation, hookimpl


def build(*, strength):
    def policy(images, labels, seeds):
        import numpy as np

        RETURN

    return policy


@hookimpl
def zoo_augmentations():
    return [Augmentation(name="odd", summary="odd", build=build, parameters={"strength": 1.0})]
"""
SCHEDULE = """
from zoo.plugin import Phase, Schedule, hookimpl


@hookimpl
def zoo_schedules():
    phases = (Phase(name="only", train=TRAIN, epochs=1, learning_rate=1e-3),)
    return [Schedule(name=NAME, summary="one phase", phases=phases)]
"""
LOGGER = """
from zoo.plugin import Logger, RunLog, hookimpl


@hookimpl
def zoo_loggers():
    return [Logger(name="odd", summary="odd", open=lambda run: print("hello") or RunLog())]
"""
SOUND_SCHEDULE = SCHEDULE.replace("TRAIN", "'last:1'").replace("NAME", "'odd'")


def weights(**changes: str) -> str:
    listed = ", ".join(f"{name!r}: {code}" for name, code in changes.items())
    return WEIGHTS.replace("HASH", repr("0" * 64)).replace("CHANGES", f"{{{listed}}}")


BROKEN_OTHERS = [
    ("load", "ValueError: broken on purpose", "raise ValueError('broken on purpose')\n"),
    ("light-import", "odd_plugin_module.py (import PIL.Image) imports PIL", "import PIL.Image\n" + weights()),
    ("ids", "schedule 'finetune' looks like schedule 'fine-tune'", SOUND_SCHEDULE.replace("'odd'", "'finetune'")),
    ("ids", "no plugin brings an architecture 'nowhere'", weights(architecture="'nowhere'")),
    ("metadata", "odd.h5 has no hash", weights(hash="None")),
    ("metadata", "licence is the placeholder 'TODO'", weights(licence="'TODO'")),
    ("metadata", "the licence 'MIT License' is no SPDX identifier", weights(licence="'MIT License'")),
    ("metadata", "the source 'my thesis' names no address", weights(source="'my thesis'")),
    (
        "augmentation-arrays",
        "pixels left 0..255",
        POLICY.replace("RETURN", "return images + np.float32(1), labels"),
    ),
    (
        "augmentation-arrays",
        "pixels are at most 1",
        POLICY.replace("RETURN", "return images / np.float32(255), labels"),
    ),
    ("augmentation-arrays", "pictures got another class", POLICY.replace("RETURN", "return images, labels[::-1]")),
    (
        "augmentation-arrays",
        "pictures of one class got labels of other classes",
        POLICY.replace("RETURN", "return images, labels * np.float32(0.7) + np.float32(0.1)"),
    ),
    (
        "augmentation-seeds",
        "the same seeds gave other pictures",
        POLICY.replace("RETURN", "return np.random.default_rng().uniform(0, 255, images.shape).astype('f4'), labels"),
    ),
    ("schedule", "odd: There is no layer", SOUND_SCHEDULE.replace("last:1", "from:nowhere")),
    ("logger", "the logger prints to stdout: 'hello", LOGGER),
]


def checked(zoo, name: str, *options: object) -> dict[str, dict]:
    """Run `zoo check NAME --json`, and return its objects by "ITEM-CHECK"."""
    ran = zoo("check", name, "--json", *options)
    assert ran.err == "" or "cannot be used" in ran.err
    result = json.loads(ran.out)
    bad = [each for each in result["checks"] if each["state"] in ("failed", "unexpected")]
    assert ran.code == (1 if bad else 0)
    assert result["counts"]["failed"] == sum(each["state"] == "failed" for each in result["checks"])
    return {f"{each['item']}-{each['check']}": each for each in result["checks"]}


BROKEN = BROKEN_NETWORKS + BROKEN_OTHERS


@pytest.mark.parametrize("number", range(len(BROKEN)), ids=lambda number: f"{number}-{BROKEN[number][0]}")
def test_exactly_the_broken_rule_fails(number, install_plugin, zoo):
    check, problem, code = BROKEN[number]
    install_plugin("odd", code)
    # All checks run for the first network that breaks a rule. For the others, which take seconds, this check alone.
    again = code in [other for *_, other in BROKEN_NETWORKS] and check in [name for name, *_ in BROKEN[:number]]
    options = ("--only", check) if again else ()
    failed = {each["check"]: each for each in checked(zoo, "odd", *options).values() if each["state"] == "failed"}
    assert set(failed) == {check}
    assert problem in failed[check]["text"]
    (rule,) = [each for each in testing.CHECKS if each.name == check]
    assert failed[check]["advice"] == rule.advice and len(rule.advice) > 60


def test_every_check_has_a_plugin_that_breaks_it():
    assert {check for check, *_ in BROKEN} | {"weights"} == {c.name for c in testing.CHECKS}


def test_weights_that_do_not_fill_the_network_fail(install_plugin, zoo, tmp_path, monkeypatch):
    (tmp_path / "odd.h5").write_bytes(b"12 bytes long")
    digest = "'sha256:' + __import__('hashlib').sha256(b'12 bytes long').hexdigest()"
    install_plugin("odd", weights(hash=digest, load="lambda model, path: None"))
    skipped = checked(zoo, "odd")["mnist_convnet.odd-weights"]
    assert skipped["state"] == "skipped"
    assert "odd.h5. `zoo weights fetch mnist_convnet --to mirror`" in skipped["text"]
    assert skipped["text"].endswith("set ZOO_WEIGHTS_DIR=mirror")
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(tmp_path))
    failed = {name: each for name, each in checked(zoo, "odd").items() if each["state"] == "failed"}
    assert set(failed) == {"mnist_convnet.odd-weights"}
    assert failed["mnist_convnet.odd-weights"]["text"] == "the file leaves layer 'conv1' at its random values"
    (tmp_path / "odd.h5").write_bytes(b"other bytes")
    assert "sha256" in checked(zoo, "odd", "--only", "weights")["mnist_convnet.odd-weights"]["text"]


def test_a_sound_plugin_passes(install_plugin, zoo):
    install_plugin("odd", NETWORK)
    states = {name: each["state"] for name, each in checked(zoo, "odd").items()}
    assert set(states.values()) == {"passed"} and len(states) == 14


def test_a_name_that_two_plugins_bring_fails_in_both(install_plugin, zoo):
    install_plugin("odd", SOUND_SCHEDULE)
    install_plugin("even", SOUND_SCHEDULE)
    for name, other in (("odd", "even"), ("even", "odd")):
        ran = zoo("check", name, "--only", "ids", "--json")
        (check,) = json.loads(ran.out)["checks"]
        assert check["text"] == f"schedule 'odd' is brought by {other} (zoo-{other} 1.2) too; zoo uses neither"


COMMAND = """
import click
from zoo.plugin import hookimpl

@click.command({name!r})
def made():
    pass

@hookimpl
def zoo_commands():
    return [{returned}]
"""


def test_a_plugin_that_brings_commands_alone_passes(install_plugin, zoo):
    install_plugin("odd", COMMAND.format(name="count-it", returned="made"))
    assert {each["check"]: each["state"] for each in checked(zoo, "odd").values()} == {
        "load": "passed",
        "light-import": "passed",
    }


@pytest.mark.parametrize(
    ("name", "returned", "problem"),
    [
        ("Count_It", "made", "the name of a command has lower-case letters, digits and single hyphens"),
        ("count-it", "made, 7", "zoo_commands must return click.Command objects. Received: one of int"),
    ],
)
def test_commands_that_zoo_would_leave_out_fail(name, returned, problem, install_plugin, zoo):
    install_plugin("odd", COMMAND.format(name=name, returned=returned))
    failed = checked(zoo, "odd")["odd-load"]
    assert failed["state"] == "failed" and problem in failed["text"]


def test_the_kit_wants_the_names_of_commands_that_zoo_wants():
    from zoo.cli import plugin_commands
    from zoo.testing import packages

    assert packages.COMMAND.pattern == plugin_commands.NAME.pattern


def test_missing_stages_are_counted_beyond_the_first_five(install_plugin, zoo):
    many = "".join(f'    x = keras.layers.Conv2D(6, 3, padding="same", name="more{i}")(x)\n' for i in range(7))
    install_plugin("odd", NETWORK.replace("    return keras.Model(", many + "    return keras.Model("))
    failed = checked(zoo, "odd", "--only", "stages")["odd-stages"]
    assert "Missing: more0, more1, more2, more3, more4 and 2 more." in failed["text"]
