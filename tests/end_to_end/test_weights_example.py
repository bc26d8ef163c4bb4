"""The example of weights in docs/plugins.md: it loads, it decides the resize, and its licence goes into the export."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from torch_files import plain, torch_module, write_legacy

from zoo import backend, config
from zoo.plugin import registry
from zoo.reporter import Reporter
from zoo.train.weights_file import load_weights

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugins.md"


@pytest.fixture
def quick(install_plugin, monkeypatch, tmp_path):
    """Install the two examples of the page, and the package with the weights. Return the tensors in it."""
    page = PAGE.read_text("utf-8")
    architecture, weights = (
        re.search(rf"^```python\n({start}.*?)^```$", page, re.M | re.S)[1]
        for start in (r"from zoo\.plugin import Architecture, Head", r"from zoo\.plugin import Weights, copy_tensors")
    )
    site = tmp_path / "site-quick"
    shapes = {"conv0": (32, 3, 3, 3), "conv1": (64, 32, 3, 3), "conv2": (128, 64, 3, 3), "fc": (10, 128)}
    random = np.random.default_rng(0)
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"features.{name}.weight"] = (random.normal(size=shape) * 0.05).astype("f4")
        tensors[f"features.{name}.bias"] = random.normal(size=shape[0]).astype("f4")
    torch = torch_module(monkeypatch)
    file = write_legacy(torch, tmp_path / "w.pth", {name: plain(torch, array, name) for name, array in tensors.items()})
    for name in ("torch", "torch._utils"):
        monkeypatch.delitem(__import__("sys").modules, name)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert weights.count("0" * 64) == 1
    install_plugin("quick", architecture + "\n\n" + weights.replace("0" * 64, digest), "zoo-quick")
    (site / "quick_weights").mkdir()
    (site / "quick_weights" / "__init__.py").touch()
    file.rename(site / "quick_weights" / f"quick-{digest[:8]}.pth")
    info = site / "quick_weights-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: quick-weights\nVersion: 1.0\n")
    return tensors


def request(photos, **options):
    return config.FinetuneConfig(architecture="quick", data=str(photos), size=(32, 32), **options)


def test_the_example_loads_and_decides_how_pictures_are_resized(quick, photos, monkeypatch):
    heard = []

    class Listener(Reporter):
        def say(self, text):
            heard.append(text)

    resolved = config.resolve(request(photos), registry.load(), Listener())
    assert (resolved.spec.resize, resolved.spec.fraction, resolved.spec.filter) == ("crop", 0.875, "bicubic")
    assert "Pictures are resized as these weights prefer: crop:0.875, bicubic" in heard
    assert any("CC-BY-NC-4.0, forbids commercial use" in text for text in resolved.warnings)
    record = resolved.weights.record
    assert record["package"] == "quick-weights 1.0" and record["commercial_use"] is False and record["url"] is None
    file = resolved.weights.file
    keras = backend.start()
    model = resolved.architecture.build((32, 32, 3))
    load_weights(model, file.path, file.entry)
    for i in range(3):
        kernel, bias = model.get_layer(f"conv{i}").get_weights()
        assert np.array_equal(kernel, quick[f"features.conv{i}.weight"].transpose(2, 3, 1, 0))
        assert np.array_equal(bias, quick[f"features.conv{i}.bias"])
    pooled = keras.layers.GlobalAveragePooling2D()(model.output)
    whole = keras.Model(model.input, keras.layers.Dense(10, name="fc")(pooled))
    load_weights(whole, file.path, file.entry)
    assert np.array_equal(whole.get_layer("fc").get_weights()[0], quick["features.fc.weight"].T)

    heard.clear()
    explicit = config.resolve(request(photos, resize="squash"), registry.load(), Listener())
    assert (explicit.spec.resize, explicit.spec.filter) == ("squash", "bicubic")
    assert any("prefer --resize crop:0.875; --resize squash is used" in text for text in heard)
    random = config.resolve(request(photos, weights="none", schedule="plain"), registry.load(), Listener())
    assert (random.spec.resize, random.spec.filter) == ("squash", "bilinear")


@pytest.mark.slow
def test_the_example_trains_and_its_licence_goes_into_everything(zoo, quick, photos, tmp_path):
    from zoo_runtime import Predictor

    options = ("--runs", tmp_path / "runs", "--exported", tmp_path / "out", "--batch-size", 8)
    ran = zoo("finetune", "quick", "--data", photos, "--size", 32, "--schedule", "plain", "--epochs", 4, *options)
    assert ran.code == 0, ran.err
    assert "Weights: quick.shapes (quick-shapes.pth, from an installed Python package)" in ran.out
    assert "forbids commercial use" in ran.err
    (run,) = (tmp_path / "runs").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert record["options"]["resize"] is None and record["weights"]["commercial_use"] is False
    assert record["image"]["resize"] == "crop" and record["image"]["filter"] == "bicubic"
    assert any("forbids commercial use" in text for text in record["warnings"])
    exported = tmp_path / "out" / "quick-photos"
    info = Predictor(exported / "model.onnx").info
    assert info.weights["commercial_use"] is False and info.weights["package"] == "quick-weights 1.0"
    assert (info.image.resize, info.image.filter) == ("crop", "bicubic")
    assert "That licence forbids commercial use, of this file as well." in (exported / "README.md").read_text()
    again = zoo("finetune", "--config", run / "config.toml", "--name", "again")
    assert again.code == 0, again.err
    assert Predictor(tmp_path / "out" / "again" / "model.onnx").info.image == info.image
