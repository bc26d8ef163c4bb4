"""What an exported file promises about its answers, through training and export."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from zoo.workflow import trust
from zoo_runtime import Predictor


def test_a_wanted_precision_with_several_labels_is_refused_before_the_training(zoo, tmp_path, photos):
    found = enumerate(pictures(photos))
    lines = ["path,labels", *(f"{path},{path.parent.name}{';sharp' * (i % 2)}" for i, path in found)]
    (tmp_path / "pictures.csv").write_text("\n".join(lines) + "\n")
    folders = ("--runs", tmp_path / "runs", "--exported", tmp_path / "exported")
    ran = zoo("finetune", "mnist_convnet", "--data", tmp_path / "pictures.csv", "--precision", 0.9, *folders)
    assert ran.code == 2 and "--precision needs pictures with exactly one class each" in ran.err
    assert not (tmp_path / "runs").exists()


def pictures(folder):
    return sorted(folder.rglob("*.jpg"))


@pytest.fixture(scope="module")
def others(tmp_path_factory, make_photos):
    """Return pictures like those of `photos`, on which no network was trained."""
    folder = tmp_path_factory.mktemp("others")
    make_photos(folder, 40, seed=77)
    return [str(path) for path in pictures(folder)]


def test_a_network_with_frozen_stages_has_a_score_of_frozen_features(zoo, finished, photos, others, tmp_path):
    first, _, _ = finished
    ran = zoo(
        *("finetune", "mobilenetv2_035", "--data", photos, "--size", 32, "--weights", first / "model.keras"),
        *("--schedule", "fine-tune", "--epochs", "1,1,1", "--batch-size", 8, "--name", "half", "--allow-chance"),
        *("--runs", tmp_path / "runs", "--exported", tmp_path / "exported"),
    )
    assert ran.code == 0, ran.err
    predictor = Predictor(tmp_path / "exported" / "half" / "model.onnx")
    (run,) = (tmp_path / "runs").iterdir()
    moved = {name for phase in json.loads((run / "run.json").read_text())["phases"] for name in phase["moved_layers"]}
    assert len(moved) > 5 and "Conv1" not in moved
    entry = predictor.info.trust["outliers"]
    assert entry["frozen_features"] is True and entry["fitted_on"] == "training, frozen features"
    # 95 % of 120 pictures are kept; the threshold comes from about 50 pictures.
    answers = predictor(others)
    assert np.mean([not each.outlier for each in answers]) > 0.85
    # The threshold is not so large that it keeps everything.
    assert 0 < entry["threshold"] < 3 * np.quantile([each.outlier_score for each in answers], 0.95)


def test_all_layers_trained_without_validation_pictures_give_no_score(zoo, photos, tmp_path):
    ran = zoo(
        *("finetune", "mnist_convnet", "--data", photos, "--schedule", "scratch", "--epochs", 1, "--batch-size", 24),
        *("--name", "all", "--allow-chance", "--cv", 2),
        *("--runs", tmp_path / "runs", "--exported", tmp_path / "exported"),
    )
    assert ran.code == 0, ran.err
    predictor = Predictor(tmp_path / "exported" / "all" / "model.onnx")
    assert "outliers" not in predictor.info.trust and predictor(str(pictures(photos)[0])).outlier_score is None
    assert predictor.info.trust["calibration"]["fitted_on"] == "cross-validation"


def test_a_smaller_file_that_cannot_show_the_precision_is_refused(zoo, finished, tmp_path, monkeypatch):
    run, _, _ = finished
    words = ("export", run, "--fp16", "--precision", "0.5", "--exported", tmp_path / "exported")
    assert zoo(*words).code == 0
    file = tmp_path / "exported" / "shapes-fp16" / "model.onnx"
    assert Predictor(file).info.trust["unknown"]["threshold"] is not None
    file.unlink()
    moved_by = trust.moved_by

    def worse(*arguments):
        found = moved_by(*arguments)
        return dataclasses.replace(found, logits=-found.logits)

    monkeypatch.setattr(trust, "moved_by", worse)
    ran = zoo(*words)
    assert ran.code == 1 and "holds a precision of 0.5" in ran.out + ran.err and not file.exists()
    assert "`--precision none` exports it" in ran.out + ran.err
