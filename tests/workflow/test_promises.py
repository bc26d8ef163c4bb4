"""What an exported file promises about its answers, through training and export."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil

import numpy as np
import pytest

from zoo.workflow import transfer, trust
from zoo_runtime import Predictor

EMPTY = np.zeros(0, np.int64)


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_smaller_file_that_cannot_show_the_precision_is_refused(zoo, finished, tmp_path, monkeypatch):
    run, _, _ = finished
    words = ("export", run, "--fp16", "--precision", "0.5", "--exported", tmp_path / "exported")
    assert zoo(*words).code == 0
    file = tmp_path / "exported" / "shapes-fp16" / "model.onnx"
    assert Predictor(file).info.trust["unknown"]["threshold"] is not None
    file.unlink()
    moved_by = transfer.moved_by

    def worse(*arguments):
        found = moved_by(*arguments)
        return dataclasses.replace(found, logits=-found.logits)

    monkeypatch.setattr(transfer, "moved_by", worse)
    ran = zoo(*words)
    assert ran.code == 1 and "holds a precision of 0.5" in ran.out + ran.err and not file.exists()
    advice = f"`zoo export {run} --exported {tmp_path / 'exported'} --fp16 --precision none` exports it"
    assert advice in ran.out + ran.err


@pytest.mark.parametrize("alike", [True, False])
def test_logits_that_antransfer_makes_worse_become_as_much_worse(alike):
    """The other size takes half of each margin and is unsure of the third class."""
    random = np.random.default_rng(0)
    targets = np.eye(3)[random.integers(0, 3, 3000)]
    held_out = random.normal(0, 1, (3000, 3)) + 4 * targets
    really = 0.5 * held_out + random.normal(0, 0.3, (3000, 3)) - 1.5 * targets * [0, 0, 1]
    rows = np.arange(3000)
    training = trust.HeldOut(rows[:400], held_out[:400] + targets[:400], targets[:400], "training")
    after = 0.5 * training.logits + random.normal(0, 0.3, (400, 3)) - 1.5 * training.targets * [0, 0, 1]
    known = trust.HeldOut(rows, held_out, targets, "cross-validation")
    moved = transfer.transferred(known, training.logits, after, 0, training.targets if alike else None)

    def right(logits, of):
        own = targets[:, of] == 1
        return float((logits[own].argmax(axis=1) == of).mean())

    misses = [abs(right(moved.logits, k) - right(really, k)) for k in range(3)]
    assert right(held_out, 2) - right(really, 2) > 0.15
    # Differences of all classes hide that one of them has become worse.
    assert max(misses) < 0.1 if alike else max(misses) > 0.2


@pytest.mark.slow
def test_a_file_without_held_out_pictures_says_so_and_promises_nothing(zoo, finished, tmp_path, monkeypatch):
    run, _, _ = finished
    monkeypatch.setattr(trust, "held_out", lambda dataset, *_: trust.HeldOut(EMPTY, np.zeros((0, 3)), EMPTY, ""))
    ran = zoo("export", run, "--fp16", "--exported", tmp_path, "--precision", "none")
    assert ran.code == 0 and "Calibration: none, because fewer than 2 pictures were held out" in ran.out
    assert "calibration" not in Predictor(tmp_path / "shapes-fp16").info.trust
    ran = zoo("export", run, "--exported", tmp_path, "--precision", 0.9)
    assert ran.code == 1 and "fewer than 2 pictures were held out" in ran.err and "--val-split" in ran.err
    assert f"`zoo export {run} --exported {tmp_path} --precision none` exports it." in ran.err


@pytest.mark.slow
def test_the_precision_of_the_latest_export_is_kept(zoo, finished, tmp_path):
    run = tmp_path / "runs" / finished[0].name
    shutil.copytree(finished[0], run)
    exported = ("--exported", tmp_path / "exported")

    def promised(place: str) -> object:
        return Predictor(tmp_path / place).info.trust["unknown"]["precision"]

    assert zoo("export", run, *exported, "--precision", "60%").code == 0
    ran = zoo("export", run, "--exported", tmp_path / "others", "--fp16")
    assert ran.code == 0 and promised("others/shapes-fp16") == 0.6
    assert "Precision: 0.6 is asked for, as by the latest float32 export of the run" in ran.out
    # A refused export changes neither the file in the run folder nor what is known of it.
    refused = zoo("export", run, "--exported", tmp_path / "o t", "--name", "n", "--replace", "--precision", 0.9999)
    (command,) = re.findall("kept; `(zoo export .*?)` exports it", refused.err)
    typed = ["--exported", str(tmp_path / "o t"), "--name", "n", "--replace", "--precision"]
    assert refused.code == 1 and shlex.split(command)[:-1] == ["zoo", "export", str(run), *typed]
    assert 0.5 < float(shlex.split(command)[-1]) < 0.9999
    assert json.loads((run / "trust.json").read_text())["unknown"]["precision"] == 0.6 == promised(run)
    # The float32 file at the same place counts more than the run. Said once, it is over.
    assert zoo("export", run, *exported, "--precision", "none").code == 0
    shutil.copy(finished[0] / "trust.json", run)
    ran = zoo("export", run, *exported, "--fp16")
    assert ran.code == 0 and promised("exported/shapes-fp16") is None and "Precision" not in ran.out


def test_a_training_without_the_precision_names_a_command_that_exports_it(zoo, photos, tmp_path):
    ran = zoo(
        *("finetune", "mnist_convnet", "--data", photos, "--schedule", "scratch", "--epochs", 1, "--batch-size", 24),
        *("--name", "it", "--allow-chance", "--precision", 0.999, "--fp16", "--max-drop", 40),
        *("--runs", tmp_path / "runs", "--exported", tmp_path / "ex"),
    )
    (command,) = re.findall("kept; `(zoo export .*?)` exports it", ran.err)
    (smaller,) = re.findall("Then `(zoo export .*?)` makes the smaller file", ran.err)
    assert ran.code == 1 and not (tmp_path / "ex").exists()
    assert "--max-drop" not in command and "--max-drop 40" in smaller and smaller.endswith("--fp16")
    for words in (command, smaller):
        assert zoo(*shlex.split(words)[1:]).code == 0
    infos = [Predictor(tmp_path / "ex" / name).info for name in ("it", "it-fp16")]
    assert infos[0].trust["unknown"]["precision"] == infos[1].trust["unknown"]["precision"] != 0.999
