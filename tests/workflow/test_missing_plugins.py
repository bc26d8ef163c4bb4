"""A stranger's plugin from its installation to long after its removal: what it made goes on working."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import zoo_runtime
from zoo import config
from zoo.plugin import registry
from zoo.reporter import Reporter
from zoo.workflow import finetune, missing_plugins

TINY = """
import os, signal
from zoo.plugin import Architecture, Augmentation, Head, Stage, hookimpl

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

batches = [0]

def build_fading():
    def augment(images, labels, seeds):
        batches[0] += 1
        if batches[0] == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return images, labels
    return augment

@hookimpl
def zoo_augmentations():
    return [Augmentation(name="fading", summary="ends the training", build=build_fading)]
"""
GONE = "The plugin tiny (zoo-tiny 1.2) is not installed; `pip install zoo-tiny==1.2` installs it."


def uninstall(name: str, monkeypatch) -> None:
    """Remove what the fixture `install_plugin` has installed."""
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if Path(folder).name != f"site-{name}"])
    monkeypatch.delitem(sys.modules, f"{name}_plugin_module")


def test_a_third_party_network_outlives_its_plugin(zoo, install_plugin, photos, tmp_path, monkeypatch):
    install_plugin("tiny", TINY)
    folders = ("--runs", tmp_path / "runs", "--exported", tmp_path / "exported")
    options = ("--data", photos, "--epochs", 20, "--learning-rate", 0.01, "--batch-size", 8)
    ran = zoo("finetune", "tiny", *options, *folders)
    assert ran.code == 0, ran.err
    assert "no plugin lists pretrained weights of tiny" in ran.err
    (run,) = (tmp_path / "runs").iterdir()
    accuracy = json.loads((run / "metrics.json").read_text())["test"]["accuracy"]
    assert accuracy >= 0.9
    record = json.loads((run / "run.json").read_text())
    assert record["plugins"] == ["augmentation (finezoo 0.1.0)", "schedules (finezoo 0.1.0)", "tiny (zoo-tiny 1.2)"]
    assert not json.loads(zoo("runs", "show", run, "--json").out)["missing_plugins"]

    uninstall("tiny", monkeypatch)
    assert zoo("info", "tiny").code == 2
    again = zoo("export", run, "--name", "again", "--replace", *folders)
    assert again.code == 0, again.err
    assert (
        "no plugin provides the architecture 'tiny' of this run, so that its own files are used. " + GONE in again.err
    )
    exported = tmp_path / "exported" / "again" / "model.onnx"
    info = zoo_runtime.Predictor(exported).info
    assert info.run["plugins"] == record["plugins"] and info.architecture == record["architecture"]
    digests = [json.loads((run / "run.json").read_text())["weights_sha256"], record["weights_sha256"]]
    assert digests[0] == digests[1]
    picture = next((photos / "discs").iterdir())
    assert "discs" in zoo("predict", exported, picture).out
    evaluated = zoo("evaluate", run, "--json")
    assert evaluated.code == 0 and json.loads(evaluated.out)["accuracy"] == accuracy
    shown = zoo("runs", "show", run).out
    assert "the plugin tiny (zoo-tiny 1.2) is not installed" in shown and "`pip install zoo-tiny==1.2`" in shown
    sized = zoo("export", run, "--size", "48x48", "--name", "other", *folders)
    assert sized.code == 1 and "(--size) needs the plugin that provides the architecture 'tiny'" in sized.err
    assert GONE in sized.err and not (tmp_path / "exported" / "other").exists()


def test_a_run_cannot_go_on_without_its_plugin_and_says_which(zoo, install_plugin, photos, tmp_path, monkeypatch):
    install_plugin("tiny", TINY)
    options = ("--data", photos, "--epochs", 9, "--batch-size", 8, "--augment", "fading", "--no-export")
    ran = zoo("finetune", "tiny", *options, "--runs", tmp_path / "runs")
    assert ran.code == 143, ran.err
    (run,) = (tmp_path / "runs").iterdir()
    uninstall("tiny", monkeypatch)
    ran = zoo("resume", run)
    assert ran.code == 1
    assert f"{str(run)!r} cannot go on without a plugin that it was made with. {GONE}" in ran.err
    assert "There is no architecture called 'tiny'" in ran.err


WEIGHTS = """
from zoo.plugin import Weights, hookimpl

@hookimpl
def zoo_weights():
    yield Weights(architecture="mobilenetv2_035", tag="mine", url="https://example.org/y.h5", filename="y.h5",
                  includes_top=False, input_size=(64, 64), licence="MIT", source="https://example.org")
"""


def test_the_plugin_of_the_weights_takes_part_too(install_plugin, photos, tmp_path, monkeypatch):
    import h5py

    install_plugin("extra", WEIGHTS)
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(tmp_path))
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file.create_group("block_1")
    plugins = registry.load()
    wanted = config.FinetuneConfig(architecture="mobilenetv2_035.mine", data=str(photos), size=(64, 64))
    resolved = config.resolve(wanted, plugins, Reporter())
    assert "extra (zoo-extra 1.2)" in finetune.plugins_of(resolved, plugins)


def test_missing_plugins_are_told_from_those_that_are_left_out_or_broken(install_plugin, monkeypatch):
    install_plugin("here", WEIGHTS)
    install_plugin("broken", "raise RuntimeError")
    recorded = ["vgg (finezoo 0.0.1)", "here (Zoo_Here 1.0)", "gone (zoo-gone 3.1)", "broken (zoo-broken 1.2)", "odd"]
    (gone,) = missing_plugins.missing(recorded)
    assert str(gone) == "gone (zoo-gone 3.1) is not installed"
    assert gone.command == "`pip install zoo-gone==3.1` installs it"
    found = missing_plugins.missing(recorded, registry.load())
    assert [each.why for each in found] == ["is not installed", "cannot be used"]
    monkeypatch.setenv("ZOO_PLUGINS", "")
    found = missing_plugins.missing(recorded, registry.load())
    assert [each.why for each in found] == ["is left out", "is not installed", "is left out"]
    assert missing_plugins.text_of(found[:1]) == "The plugin here (Zoo_Here 1.0) is left out; `zoo doctor` says more."
    assert missing_plugins.text_of([]) == ""


@pytest.mark.parametrize("known", [["tiny"], []])
def test_a_damaged_network_is_not_blamed_on_plugins_that_are_there(known, tmp_path, plugins):
    from zoo import runs
    from zoo.errors import PluginMissing, RunError

    class Record:
        plugins = ("vgg (finezoo 0.1.0)", *(f"{name} (zoo-{name} 1.2)" for name in known))

    with pytest.raises(PluginMissing if known else RunError, match="tiny" if known else "damaged"):
        missing_plugins.refuse(runs.Run(tmp_path), Record, plugins, "cannot be opened", RunError("it is damaged"))
