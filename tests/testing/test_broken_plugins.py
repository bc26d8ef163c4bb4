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
FORMAT = """
from zoo.plugin import Format, hookimpl


def make(source):
    import json
    import onnx

    onnx.load_model_from_string(source.onnx)
    (source.folder / "net.bin").write_bytes(source.onnx)
    (source.folder / "labels.txt").write_text("\\n".join(source.classes), "utf-8")
    (source.folder / "metadata.json").write_text(json.dumps(dict(source.metadata)), "utf-8")


def run(folder):
    import onnxruntime

    session = onnxruntime.InferenceSession((folder / "net.bin").read_bytes())
    names = [each.name for each in session.get_outputs()]

    def outputs(pixels):
        found = dict(zip(names, session.run(None, {"image": pixels})))
        return found

    return outputs


@hookimpl
def zoo_formats():
    return [Format(name="odd", summary="odd", file="net.bin", make=make, run=run, tolerance=1e-3, same_bytes=True)]
"""
SOUND_SCHEDULE = SCHEDULE.replace("TRAIN", "'last:1'").replace("NAME", "'odd'")


def format_with(*pairs: tuple[str, str]) -> str:
    """Return the sound format with some text replaced."""
    code = FORMAT
    for old, new in pairs:
        assert code.count(old) == 1
        code = code.replace(old, new)
    return code


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
    ("light-import", "(import onnxruntime) imports", "import onnxruntime\n" + FORMAT),
    (
        "ids",
        "format 'open-vino' looks like format 'openvino'",
        format_with(('name="odd"', 'name="open-vino"')),
    ),
    (
        "format-needs",
        "the code imports chip_compiler (line 5), which is not in needs=()",
        FORMAT.replace("\n\n\n", "\ndef compiled():\n    import chip_compiler\n\n\n", 1).replace(
            "def compiled", "\ndef compiled"
        ),
    ),
    (
        "format-files",
        "make leaves scratch.tmp in the working folder",
        format_with(('    (source.folder / "net', '    open("scratch.tmp", "w").close()\n    (source.folder / "net')),
    ),
    (
        "format-files",
        "the format odd made no file 'net.bin'. It made labels.txt, metadata.json, other.bin",
        format_with(('(source.folder / "net.bin")', '(source.folder / "other.bin")')),
    ),
    (
        "format-failure",
        "make raises no error for an ONNX file that is cut in the middle",
        format_with(("    onnx.load_model_from_string(source.onnx)\n", "")),
    ),
    (
        "format-answers",
        "its probabilities differ from those of the ONNX file by up to 0.0",
        format_with(("return found", 'return {**found, "probabilities": found["probabilities"] * 0.96 + 0.01}')),
    ),
    (
        "format-answers",
        "a batch of 1 gets other answers than a batch of 64",
        format_with(
            (
                "return found",
                'return {**found, "probabilities": found["probabilities"] * (1 + 5e-4 * (len(pixels) < 9))}',
            )
        ),
    ),
    (
        "format-answers",
        "gives no output 'outlier_score'",
        format_with(("return found", 'return {"probabilities": found["probabilities"]}')),
    ),
    (
        "format-metadata",
        "labels.txt has the classes ['Größe 4', 'bars', 'discs', 'noise'] instead of ['bars', 'discs'",
        format_with(("join(source.classes)", "join(sorted(source.classes))")),
    ),
    (
        "format-metadata",
        "the file carries other metadata than zoo handed over: zoo.architecture",
        format_with(("dict(source.metadata)", '{**source.metadata, "zoo.architecture": "{}"}')),
    ),
    (
        "format-bytes",
        "the same source gives other bytes the second time in made.txt",
        format_with(
            (
                "    onnx.load_model",
                '    import time; (source.folder / "made.txt").write_text(time.ctime(time.time()))\n'
                "    onnx.load_model",
            )
        ),
    ),
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
def test_exactly_the_broken_rule_fails(number, install_plugin, zoo, tmp_path, monkeypatch):
    check, problem, code = BROKEN[number]
    # One of the plugins writes into the working folder.
    monkeypatch.chdir(tmp_path)
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


def test_a_sound_format_passes(install_plugin, zoo):
    install_plugin("odd", FORMAT)
    states = {name: each["state"] for name, each in checked(zoo, "odd").items()}
    assert set(states.values()) == {"passed"} and len(states) == 10
    (format,) = [item for item in testing.plugin_cases("odd")[-1].arguments()[0].__dict__.values() if item]
    testing.check_format(format)


def test_a_format_that_cannot_be_made_here_says_why(install_plugin, zoo):
    install_plugin("odd", format_with(("same_bytes=True", 'needs=("chip_engine",), install="pip install chip"')))
    states = {name: each for name, each in checked(zoo, "odd").items() if each["state"] == "skipped"}
    assert len(states) == 5
    assert states["odd-format-answers"]["text"] == "chip_engine is not installed; pip install chip"
    assert {each["state"] for each in checked(zoo, "int8").values() if "format" in each["check"]} == {"skipped"}


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
