"""Exports and evaluation: the metadata of the file, what is replaced and when, and the pictures that both sides see."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import zoo_runtime
from zoo_runtime import Predictor


def test_the_file_describes_itself(finished, photos):
    run, exported, _ = finished
    file = exported / "shapes" / "model.onnx"
    assert file.read_bytes() == (run / "model.onnx").read_bytes()
    assert sorted(p.name for p in exported.rglob("*")) == ["README.md", "model.onnx", "sbom.json", "shapes"]
    info = Predictor(file).info
    record = json.loads((run / "run.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    assert info.classes == ("bars", "discs", "noise") and info.task == "multiclass"
    assert info.image.to_json() == {
        "size": [32, 32],
        "channels": 3,
        "resize": "squash",
        "fraction": 0.875,
        "filter": "bilinear",
    }
    assert info.architecture["name"] == "mobilenetv2_035"
    assert info.weights["random"] is True and "ZOO_OFFLINE" in info.weights["reason"]
    assert info.run["id"] == run.name and info.run["seed"] == 0 and "keras" in info.run["versions"]
    assert info.data["digest"] == record["data"]["digest"] and info.data["counts"] == {
        "train": 48,
        "val": 12,
        "test": 12,
    }
    assert info.metrics["test"]["accuracy"] == metrics["test"]["accuracy"]
    assert info.parity["pictures"] == 60 and info.parity["logits_difference"] < 1e-4
    assert len(info.selftest["pictures"]) == 2
    # Small pictures of other shapes and modes, which only compare pixels. The file must not grow much.
    assert len(info.selftest["decoding"]) == 9 and len(json.dumps(info.selftest["decoding"])) < 32_000


def test_it_passes_its_own_check_and_fails_a_tampered_one(finished):
    _, exported, _ = finished
    predictor = Predictor(exported / "shapes" / "model.onnx")
    result = zoo_runtime.check(predictor)
    assert result.passed and result.pixels_equal and result.probability_difference == 0
    rows = [picture["probabilities"] for picture in predictor.info.selftest["pictures"]]
    assert all(abs(sum(row) - 1) < 1e-5 for row in rows)
    assert rows[0] != rows[1]
    rows[1][0] += 0.01
    assert not zoo_runtime.check(predictor).passed


def test_training_evaluation_and_device_see_the_same_pixels(finished, photos, monkeypatch):
    """Bit for bit: the training cache, the parity check and the predictor."""
    from zoo.data import pixels, sources
    from zoo_runtime import ImageSpec

    run, exported, _ = finished
    source = sources.open_source(str(photos))
    cached = pixels.load_pixels(source.pictures, ImageSpec((32, 32)), run.parent.parent / "cache" / "pixels")
    assert cached.cached, "the run's own cache is the one that is read"
    predictor = Predictor(exported / "shapes" / "model.onnx")
    for row, picture in zip(cached.array, source.pictures, strict=True):
        assert np.array_equal(row, predictor.decode(picture.content))


def test_metrics_are_those_of_the_exported_file(finished, photos, zoo, monkeypatch):
    run, exported, printed = finished
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] >= 0.9 and metrics["validation"]["accuracy"] >= 0.9
    predictor = Predictor(exported / "shapes")
    for part, key in (("test", "test"), ("val", "validation")):
        with (run / "pictures.csv").open(newline="") as stream:
            rows = [(row["class"], row["picture"]) for row in csv.DictReader(stream) if row["part"] == part]
        matrix = np.zeros((3, 3), int)
        for label, name in rows:
            predicted = predictor(str(photos / name)).label
            matrix[predictor.info.classes.index(label), predictor.info.classes.index(predicted)] += 1
        assert metrics[key]["confusion_matrix"] == matrix.tolist() and metrics[key]["pictures"] == len(rows) == 12
    assert f"accuracy {metrics['test']['accuracy']:.4f}" in printed
    again = json.loads(zoo("evaluate", run, "--json").out)
    assert again == {"part": "test", **metrics["test"]}
    everything = json.loads(zoo("evaluate", exported / "shapes", "--data", photos, "--json").out)
    assert everything["pictures"] == 72
    by_hand = [predictor(str(path)).label == path.parent.name for path in sorted(photos.rglob("*.jpg"))]
    assert everything["accuracy"] == pytest.approx(np.mean(by_hand))


def test_export_again_gives_the_same_network(finished, zoo, tmp_path):
    run, exported, _ = finished
    ran = zoo("export", run, "--exported", tmp_path / "second", "--name", "other")
    assert ran.code == 0, ran.err
    first = Predictor(exported / "shapes")
    second = Predictor(tmp_path / "second" / "other" / "model.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    assert np.array_equal(first.probabilities(pixels), second.probabilities(pixels))
    assert first.info == second.info


def test_a_failed_export_replaces_nothing(finished, zoo, tmp_path, monkeypatch):
    from zoo.export import parity

    run, _, _ = finished
    copy = tmp_path / "runs" / run.name
    shutil.copytree(run, copy)
    target = tmp_path / "exported" / "shapes" / "model.onnx"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"the one before")
    before = (copy / "model.onnx").read_bytes()
    monkeypatch.setattr(parity, "TOLERANCE", 1e-12)
    ran = zoo("export", copy, "--exported", tmp_path / "exported", "--replace")
    assert ran.code == 1
    assert "logits differ" in ran.err and "Traceback" not in ran.err
    assert target.read_bytes() == b"the one before"
    assert (copy / "model.onnx").read_bytes() == before
    assert os.listdir(target.parent) == ["model.onnx"]


def test_export_of_a_run_whose_pictures_changed_is_refused(finished, zoo, tmp_path, photos):
    run = tmp_path / "runs" / finished[0].name  # a copy: an export of moved pictures writes where they are now
    shutil.copytree(finished[0], run)
    other = tmp_path / "photos"
    shutil.copytree(photos, other)
    assert zoo("export", run, "--data", other, "--exported", tmp_path / "moved").code == 0
    next((other / "discs").iterdir()).unlink()
    ran = zoo("export", run, "--data", other, "--exported", tmp_path / "exported")
    assert ran.code == 1 and "--data" in ran.err
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("name", ["nothing", "runs/nothing", "x" * 5000])
@pytest.mark.parametrize("command", ["export", "evaluate", "plot", "predict"])
def test_an_unknown_run_is_named_as_typed(zoo, finished, tmp_path, monkeypatch, command, name):
    run, exported, _ = finished
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(run.parent)
    (tmp_path / "exported").symlink_to(exported)
    ran = zoo(command, name, *(["a.jpg"] if command == "predict" else []))
    assert ran.code == 2 and "runs/runs" not in ran.err
    assert f"{name!r}" in ran.err and f"Runs in 'runs': {run.name}" in ran.err
    assert ("Exports in 'exported': shapes" in ran.err) == (command in ("evaluate", "predict"))


@pytest.mark.parametrize("command", ["export", "evaluate", "plot"])
def test_a_misspelled_run_is_recognized(zoo, finished, tmp_path, command):
    run, exported, _ = finished
    name = run.name[:-1] + ("0" if run.name[-1] != "0" else "1")
    ran = zoo(command, name, "--runs", run.parent, *([] if command == "plot" else ["--exported", exported]))
    assert ran.code == 2 and f"Did you mean {run.name}?" in ran.err


@pytest.mark.parametrize("command", ["export", "evaluate", "plot"])
def test_a_folder_that_is_not_a_run_says_so(zoo, tmp_path, command):
    ran = zoo(command, tmp_path)
    lacking = "model.onnx" if command == "evaluate" else "run.json"
    assert ran.code == 2 and lacking in ran.err and f"{str(tmp_path)!r}" in ran.err


def test_a_run_that_did_not_finish_is_not_exported(zoo, finished, tmp_path):
    copy = tmp_path / "runs" / finished[0].name
    shutil.copytree(finished[0], copy)
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**record, "status": "running"}))
    ran = zoo("export", copy)
    assert ran.code == 1 and "did not finish" in ran.err
    (copy / "run.json").write_text(json.dumps({"schema": 1, "status": "running"}))
    ran = zoo("export", copy)
    assert ran.code == 1 and "is damaged: the entries id, created," in ran.err


def test_an_export_stays_in_its_folder(zoo, finished, tmp_path):
    run, _, _ = finished
    ran = zoo("export", run, "--name", "../escaped", "--exported", tmp_path / "exported")
    assert ran.code == 2 and "--name may hold" in ran.err
    (tmp_path / "file").write_text("x")
    ran = zoo("export", run, "--exported", tmp_path / "file")
    assert ran.code == 2 and "is a file" in ran.err
    ran = zoo("export", run, "--exported", tmp_path / "file" / "deeper")
    assert ran.code == 1 and f"{str(tmp_path / 'file')!r} is not a folder" in ran.err


def test_a_full_disk_is_a_named_error(zoo, finished, tmp_path):
    """A limit on the size of files stands for the full disk: writing the model fails in the middle."""
    run, _, _ = finished
    copy = tmp_path / "runs" / run.name
    shutil.copytree(run, copy)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 600; exec "$0" -m zoo.cli "$@"', sys.executable, "export", copy, "--exported", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_interrupts_wait_for_tf2onnx(monkeypatch):
    """The `except:` clauses of tf2onnx would swallow Ctrl-C, and a stopped export would go on."""
    from zoo.convert import keras_to_onnx

    # A shell starts background jobs with SIGINT ignored.
    outer = signal.signal(signal.SIGINT, signal.default_int_handler)
    reached = []
    with pytest.raises(KeyboardInterrupt), keras_to_onnx._interrupts_held():
        try:
            signal.raise_signal(signal.SIGINT)
            reached.append("still converting")
        except BaseException:
            reached.append("swallowed")
    assert reached == ["still converting"]
    assert signal.signal(signal.SIGINT, outer) is signal.default_int_handler
