"""A network that has learned nothing is not exported, unless --allow-chance is given; figures and warnings are kept."""

from __future__ import annotations

import csv
import json
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from zoo_runtime import Predictor

# The weights hardly change, so that the network answers as before training.
UNTRAINED = ("--size", 32, "--epochs", 1, "--learning-rate", "1e-12")


def folders(folder):
    return ("--runs", folder / "runs", "--exported", folder / "exported", "--name", "it")


@pytest.fixture
def earlier(finished, tmp_path):
    """Put an earlier export at the place of the new one, and return its path."""
    path = tmp_path / "exported" / "it" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes((finished[0] / "model.onnx").read_bytes())
    return path


def test_an_untrained_network_is_kept_and_not_exported(zoo, photos, tmp_path, earlier):
    before = earlier.read_bytes()
    ran = zoo("finetune", "mnist_convnet", "--data", photos, *UNTRAINED, *folders(tmp_path), "--fp16")
    assert ran.code == 1 and earlier.read_bytes() == before and not (tmp_path / "exported" / "it-fp16").exists()
    (run,) = (tmp_path / "runs").iterdir()
    warnings = [line.removeprefix("warning: ") for line in ran.err.splitlines() if line.startswith("warning: ")]
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "trained" and record["warnings"] == warnings
    assert "the network" in warnings[0] and "Check the labels, try another --learning-rate" in warnings[0]
    assert not (run / "model.onnx").exists() and not (run / "model-fp16.onnx").exists()
    assert json.loads((run / "metrics.json").read_text())["test"]["pictures"] == 12
    assert "Check the labels, try another --learning-rate" in (run / "report.html").read_text()
    assert "Test pictures, through the converted network" in ran.out and "Predict " not in ran.out

    for variants in ((), ("--fp16",)):
        again = zoo("export", run, "--exported", tmp_path / "exported", *variants)
        assert again.code == 1 and "no file is exported, because the network has learned nothing" in again.err
    assert earlier.read_bytes() == before and json.loads((run / "run.json").read_text())["warnings"] == warnings

    # The command that the message names works.
    (line,) = [line for line in ran.err.splitlines() if line.startswith("error: no file is exported")]
    typed = shlex.split(line.split("`")[1])
    exported = tmp_path / "exported"
    assert typed == ["zoo", "export", str(run), "--exported", str(exported), "--allow-chance"]
    assert zoo(*typed[1:], "--fp16").code == 0
    assert (tmp_path / "exported" / "it-fp16" / "model.onnx").is_file() and earlier.read_bytes() == before
    assert zoo(*typed[1:]).code == 0
    assert Predictor(earlier).info.run["id"] == run.name
    assert json.loads((run / "run.json").read_text())["warnings"] == warnings


@pytest.mark.slow
def test_without_an_export_the_exit_code_says_it_too(zoo, photos, tmp_path):
    arguments = ("finetune", "mnist_convnet", "--data", photos, *UNTRAINED, "--no-export", "--runs")
    assert zoo(*arguments, tmp_path / "refused").code == 1
    assert zoo(*arguments, tmp_path / "allowed", "--allow-chance").code == 0
    (run,) = (tmp_path / "allowed").iterdir()
    assert json.loads((run / "run.json").read_text())["warnings"]


def test_labels_that_have_nothing_to_do_with_the_pictures(zoo, tmp_path):
    """The network fits its training pictures, but no others."""
    generator = np.random.default_rng(1)
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(60):
            pixels = generator.integers(0, 256, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{i}.png")
    data = ("--data", tmp_path / "data", "--size", 16, "--epochs", 12, "--batch-size", 8)
    ran = zoo("finetune", "mnist_dense", *data, *folders(tmp_path))
    assert ran.code == 1 and "Check the labels" in ran.err and not (tmp_path / "exported").exists()


@pytest.mark.slow
def test_the_same_logits_for_every_picture(zoo, photos, tmp_path):
    arguments = ("finetune", "mobilenetv2_035", "--data", photos, "--weights", "none", "--schedule", "head-only")
    ran = zoo(*arguments, "--size", 32, "--epochs", 1, "--batch-size", 16, *folders(tmp_path))
    (run,) = (tmp_path / "runs").iterdir()
    command = f"zoo export {run} --exported {tmp_path / 'exported'} --allow-chance"
    assert ran.code == 1 and f"`{command}` exports it all the same" in ran.err
    warnings = json.loads((run / "run.json").read_text())["warnings"]
    assert any("same logits for every picture" in text and "learning rate" in text for text in warnings)
    ran = zoo("export", run, "--exported", tmp_path / "exported", "--allow-chance")
    assert ran.code == 0, ran.err
    assert (tmp_path / "exported" / "it" / "model.onnx").is_file()


def test_a_loss_that_is_not_finite_is_in_the_run_record(zoo, photos, tmp_path):
    arguments = ("finetune", "mnist_dense", "--data", photos, "--size", 32, "--epochs", 3, "--l2", 1000)
    ran = zoo(*arguments, "--optimizer", "sgd", "--batch-size", 4, "--learning-rate", 90, *folders(tmp_path))
    assert ran.code == 1, ran.err
    (run,) = (tmp_path / "runs").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert ran.code == 1 and record["status"].startswith("failed: TrainingError")
    assert "Try --learning-rate 9" in record["warnings"][-1] and "Try --learning-rate 9" in ran.err


def test_an_epoch_without_a_finite_validation_loss_is_a_warning(zoo, finished, tmp_path):
    run = tmp_path / "runs" / finished[0].name
    shutil.copytree(finished[0], run)
    with (run / "history.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows[0]["val_loss"] = "nan"
    with (run / "history.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    ran = zoo("export", run, "--exported", tmp_path / "exported")
    text = "the validation loss was not finite in 1 of 25 epochs. Try a lower --learning-rate."
    assert ran.code == 0 and text in ran.err
    assert text in json.loads((run / "run.json").read_text())["warnings"]
