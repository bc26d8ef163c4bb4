"""The recipes of the README on real pictures and weights, each in a process of its own, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from zoo_runtime import Predictor


def finetune(*arguments, folder, environment=None):
    """Run `zoo finetune` in a new process; return the test accuracy of metrics.json and what was printed."""
    command = [sys.executable, "-m", "zoo.cli", "finetune", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, **(environment or {})}, timeout=1200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (folder / "runs").iterdir()
    return json.loads((run / "metrics.json").read_text())["test"]["accuracy"], done.stdout + done.stderr


def predictions(file, folder):
    """Return the labels that zoo-runtime gives to every picture below a folder, as a list of (path, label)."""
    command = [sys.executable, "-m", "zoo_runtime.cli", "predict", str(file), str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return [(row["path"], row["label"]) for row in map(json.loads, done.stdout.splitlines())]


@pytest.mark.real
def test_digits_from_the_mirror(tmp_path, real_weights):
    """Expected: 0.98. There are 269 test pictures, so that a standard error is 0.9 points."""
    accuracy, printed = finetune("mobilenetv2", folder=tmp_path)
    assert accuracy >= 0.95
    assert "NO PRETRAINED" not in printed and "the weights trained at 96x96 are not available; those" in printed


@pytest.mark.real
@pytest.mark.parametrize(("network", "floor"), [("mobilenetv2", 0.975), ("mobilenetv2_035", 0.95)])
def test_cats_and_dogs(tmp_path, real_weights, test_data, network, floor):
    """Expected: 0.984 to 0.989 for mobilenetv2, 0.96 to 0.97 for mobilenetv2_035."""
    data = test_data / "catsdogs"
    accuracy, _ = finetune(network, "--data", data, folder=tmp_path)
    assert accuracy >= floor
    file = tmp_path / "exported" / f"{network}-catsdogs" / "model.onnx"
    labelled = predictions(file, data / "test")
    assert len(labelled) == 1000
    assert np.mean([f"/{label}/" in path for path, label in labelled]) == pytest.approx(accuracy, abs=1e-9)
    (run,) = (tmp_path / "runs").iterdir()
    record = json.loads((run / "run.json").read_text())
    phases = [phase["name"] for phase in record["phases"] if phase["epochs_run"]]
    if network == "mobilenetv2":
        # The head makes too few mistakes for more than itself.
        assert phases == ["head"] and record["evidence"]["wrong"] < 20 and (run / "head.npz").exists()
    else:
        better = record["evidence"].get("gain", 0) > 0.5 * record["evidence"].get("standard_error", 0) > 0
        assert phases == (["head", "top"] if better else ["head"])
    metrics = json.loads((run / "metrics.json").read_text())
    assert abs(metrics["cross_validation"]["accuracy"] - accuracy) < 0.03


@pytest.mark.real
@pytest.mark.parametrize(("resize", "top1", "top5"), [("squash", 0.80, 0.94), ("crop", 0.82, 0.94)])
def test_the_published_classifier_scores_what_it_should(zoo, tmp_path, real_weights, test_data, resize, top1, top5):
    """A wrong scaling, channel order or class order would lose far more than these margins."""
    ran = zoo("export", "mobilenetv2.imagenet1k", "--top", "--resize", resize, "--exported", tmp_path)
    assert ran.code == 0, ran.err
    predictor = Predictor(tmp_path / "mobilenetv2-imagenet1k" / "model.onnx")
    pictures = sorted((test_data / "imagenet_sample").glob("*.jpg"))
    assert len(pictures) == 500 and len(predictor.info.classes) == 1000
    first = fifth = 0
    for path, result in zip(pictures, predictor.predict_each(pictures), strict=True):
        likeliest = [label.split("_")[0] for label, _ in result.top(5)]
        first += likeliest[0] == path.name.split("_")[0]
        fifth += path.name.split("_")[0] in likeliest
    assert first / 500 >= top1 and fifth / 500 >= top5


@pytest.mark.real
def test_a_classifier_without_its_class_names_is_refused(zoo, tmp_path, real_weights, monkeypatch):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    name = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"
    (mirror / name).symlink_to(real_weights / name)
    monkeypatch.setenv("ZOO_WEIGHTS_DIR", str(mirror))
    ran = zoo("export", "mobilenetv2.imagenet1k", "--top", "--exported", tmp_path / "exported")
    assert ran.code == 1 and "imagenet_class_index.json" in ran.err
    assert not (tmp_path / "exported").exists()


@pytest.mark.real
def test_a_folder_without_a_split(zoo, tmp_path, real_weights, test_data):
    """flowers has no split, so that zoo keeps 15 % of it for the test. `zoo evaluate` finds the same test part.

    Expected: 0.66 to 0.76. There are 300 test pictures, so that a standard error
    is 2.7 points.
    """
    accuracy, _ = finetune("mobilenetv2_035", "--data", test_data / "flowers", folder=tmp_path)
    assert accuracy >= 0.59
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads(zoo("evaluate", run, "--json").out)["accuracy"] == pytest.approx(accuracy, abs=1e-9)


@pytest.mark.real
@pytest.mark.parametrize(("name", "floor"), [("mobilenet_025", 0.53), ("mobilenetv2", 0.80)])
def test_published_weights_are_verified(zoo, real_weights, test_data, name, floor):
    pictures = test_data / "imagenet_sample"
    ran = zoo("verify", name, "--data", pictures, "--at-least", floor, "--json")
    assert ran.code == 0, ran.err
    figures = json.loads(ran.out)
    assert figures["pictures"] == 500 and floor <= figures["top1"] < figures["top5"] < 0.97
    assert figures["weights"]["id"] == f"{name}.imagenet1k"
    assert zoo("verify", name, "--data", pictures, "--at-least", 0.99).code == 1


@pytest.mark.real
def test_pictures_whose_names_do_not_identify_their_class_are_refused(zoo, real_weights, photos):
    ran = zoo("verify", "mobilenet_025", "--data", photos)
    assert ran.code == 1 and "its name has no WordNet identifier" in ran.err and "n01440764_tench.jpg" in ran.err
