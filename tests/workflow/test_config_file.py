"""config.toml of a run folder repeats the run to the same weights."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from zoo import backend

OWN = """
[[phase]]
name = "all"
train = "all"
epochs = 1
learning_rate = 1e-3
batch_norm = "update"
"""


def weights_of(run):
    model = backend.start().models.load_model(run / "model.keras", compile=False)
    return [weight.tobytes() for weight in model.get_weights()]


@pytest.mark.slow
def test_a_run_is_repeated_to_the_same_bytes(zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digits = load_digits(n_class=3)
    images = (digits.images[:90] * 15).astype(np.uint8)
    np.savez("pictures.npz", x_train=images, y_train=digits.target[:90])
    (tmp_path / "own.toml").write_text(OWN)
    (tmp_path / "my.toml").write_text(
        'architecture = "mnist_convnet"\ndata = "pictures.npz"\nschedule = "own.toml"\nseed = 5\nsize = 32\n'
        'batch_size = 16\nno-export = true\nallow-chance = true\nhidden = [16]\ncache-size = "50MB"\n'
    )
    ran = zoo("finetune", "--config", "my.toml", "--dropout", 0.3, "--seed", 4)
    assert ran.code == 0 and "not repeated" not in ran.err, ran.err
    (run,) = (tmp_path / "runs").iterdir()
    text = (run / "config.toml").read_text("utf-8")
    values = tomllib.loads(text)
    assert text.startswith("# The settings of one run") and f"zoo finetune --config {run / 'config.toml'}" in text
    assert values["seed"] == 4 and values["data"] == str(tmp_path / "pictures.npz") and values["dropout"] == 0.3
    assert values["schedule"]["phase"][0]["epochs"] == 1 and values["chosen"] == {"resize": "squash", "weights": "none"}
    # Neither the schedule's file nor the place matters any more.
    (tmp_path / "own.toml").unlink()
    shutil.move(run / "config.toml", tmp_path / "elsewhere.toml")
    shutil.move("pictures.npz", "moved.npz")
    ran = zoo("finetune", "--config", "elsewhere.toml", "--runs", "again", "--data", "moved.npz")
    assert ran.code == 0, ran.err
    assert f"Settings, pictures, weights and versions as in run {run.name}" in ran.out
    (again,) = (tmp_path / "again").iterdir()
    assert weights_of(again) == weights_of(run)


@pytest.mark.slow
def test_an_old_record_is_trained_again(zoo, tmp_path):
    record = Path(__file__).parents[1] / "runs" / "records" / "1-resumable" / "run.json"
    options = ("--data", "digits", "--classes", "0,1", "--runs", tmp_path / "runs", "--no-export", "--allow-chance")
    ran = zoo("finetune", "--config", record, *options)
    assert ran.code == 0 and "is not repeated exactly: other pictures" in ran.err, ran.err
    (run,) = (tmp_path / "runs").iterdir()
    values = tomllib.loads((run / "config.toml").read_text("utf-8"))
    assert values["classes"] == ["0", "1"] and values["seed"] == 3 and values["batch-size"] == 16
