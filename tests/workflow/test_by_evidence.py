"""Schedules that decide by held-out pictures: what a run writes, when Keras starts, how model.keras is made later."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from zoo_runtime import Predictor

SIZE = ("--size", 32)


@pytest.fixture(scope="module")
def weights(finished, tmp_path_factory):
    """The network of a finished run is the pretrained one."""
    run, _, _ = finished
    return Path(shutil.copy(run / "model.keras", tmp_path_factory.mktemp("weights") / "backbone.keras"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train(zoo, photos, weights, cache, tmp_path, monkeypatch):
    """Return a function that fine-tunes mobilenetv2_035, and returns the run folder and what was printed."""
    monkeypatch.setenv("ZOO_CACHE", str(cache))

    def run(*options, place="one"):
        folder = tmp_path / place
        ran = zoo(
            *("finetune", "mobilenetv2_035", "--data", photos, "--weights", weights, *SIZE, *options),
            *("--runs", folder / "runs", "--exported", folder / "exported", "--name", "shapes"),
        )
        assert ran.code == 0, ran.err
        (found,) = (folder / "runs").iterdir()
        return found, ran

    return run


def graph_of(path) -> bytes:
    """Return the graph of an exported file without its metadata."""
    model = onnx.load(path)
    del model.metadata_props[:]
    return model.SerializeToString(deterministic=True)


def in_a_new_process(*arguments, cache):
    """Run `zoo` in a new process, and return its stdout and which of the heavy packages it has imported."""
    code = (
        "import sys\nfrom zoo import cli\nsys.argv = ['zoo', *sys.argv[1:]]\n"
        "try:\n    cli.main()\nexcept SystemExit as stopped:\n    assert not stopped.code, stopped.code\n"
        "print('HEAVY', sorted({'keras', 'tensorflow', 'tf2onnx'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "ZOO_CACHE": str(cache), "ZOO_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *lines, heavy = done.stdout.splitlines()
    return "\n".join(lines), heavy


def test_the_default_solves_the_head_and_keeps_out_of_fold_figures(train):
    run, ran = train()
    record, metrics = (json.loads((run / name).read_text()) for name in ("run.json", "metrics.json"))
    assert record["options"]["schedule"] == "auto" and record["data"]["counts"] == {"train": 60, "val": 0, "test": 12}
    assert not (run / "model.keras").exists() and (run / "head.npz").exists()
    assert list(metrics) == ["cross_validation", "test"]
    assert metrics["cross_validation"]["pictures"] == 60 and metrics["cross_validation"]["accuracy"] > 0.8
    assert metrics["test"]["accuracy"] >= 0.75
    with np.load(run / "out-of-fold.npz") as arrays:
        logits, digests = arrays["logits"], arrays["sha256"].tolist()
    rows = list(csv.DictReader((run / "pictures.csv").open(newline="")))
    own = {row["sha256"]: row["class"] for row in rows if row["part"] == "train"}
    assert set(digests) == set(own)
    right = [("bars", "discs", "noise")[row.argmax()] == own[key] for row, key in zip(logits, digests, strict=True)]
    assert np.mean(right) == pytest.approx(metrics["cross_validation"]["accuracy"])
    (epoch,) = csv.DictReader((run / "history.csv").open(newline=""))
    assert float(epoch["val_accuracy"]) == pytest.approx(metrics["cross_validation"]["accuracy"])
    assert f"wrong for {60 - sum(right)} of 60 pictures" in ran.out
    assert record["phases"][1]["left_out"].startswith("The head alone is kept")
    assert "Cross-validation: accuracy" in ran.out and "Cross-validation" in (run / "report.html").read_text()


def test_a_second_run_needs_no_keras_and_gives_the_same_graph(train, photos, weights, cache, tmp_path):
    run, _ = train()
    other = tmp_path / "new"
    shutil.rmtree(cache / "features")
    out, heavy = in_a_new_process(
        *("finetune", "mobilenetv2_035", "--data", photos, "--weights", weights, *SIZE, "--name", "shapes"),
        *("--runs", other / "runs", "--exported", other / "exported"),
        cache=cache,
    )
    assert heavy == "HEAVY []"
    assert "the converted graph of an earlier run is used" in out and "were computed in" in out
    assert graph_of(other / "exported" / "shapes" / "model.onnx") == graph_of(run / "model.onnx")


def test_the_file_computes_what_keras_computes(train, plugins, photos):
    from zoo import runs
    from zoo.reporter import Reporter
    from zoo.workflow.keras_network import trained_model

    run, _ = train()
    folder, record = runs.load(run)
    model = trained_model(folder, record, plugins, Reporter())
    with np.load(run / "head.npz") as arrays:
        kernel, bias = model.get_layer("logits").get_weights()
        assert np.array_equal(kernel, arrays["kernel"]) and np.array_equal(bias, arrays["bias"])
    assert (run / "model.keras").exists()
    predictor = Predictor(run / "model.onnx")
    pictures = sorted(photos.rglob("*.jpg"))[::6]
    from zoo_runtime import decode

    pixels = np.stack([decode(path, predictor.info.image) for path in pictures])
    expected = np.asarray(model.predict_on_batch(pixels.astype("float32")))
    # The file divides the logits by its temperature.
    powers = expected ** (1 / predictor.info.trust["calibration"]["temperature"])
    expected = powers / powers.sum(axis=1, keepdims=True)
    assert np.abs(expected - predictor.probabilities(pixels)).max() < 1e-5
    parity = predictor.info.parity
    assert parity["drawn_pictures"] == 8 and 0 < parity["drawn_logits_difference"] < 1e-4


@pytest.mark.slow
def test_export_again_with_and_without_what_was_kept(train, zoo, cache, tmp_path):
    run, _ = train()
    before = graph_of(run / "model.onnx")
    for gone in ((), ("backbones", "features")):
        for name in gone:
            shutil.rmtree(cache / name)
        ran = zoo("export", run, "--exported", tmp_path / f"again{len(gone)}")
        assert ran.code == 0, ran.err
        assert graph_of(tmp_path / f"again{len(gone)}" / "shapes" / "model.onnx") == before
    ran = zoo("export", run, "--size", 48, "--exported", tmp_path / "larger", "--allow-chance")
    assert ran.code == 0, ran.err
    (larger,) = (tmp_path / "larger").glob("*/model.onnx")
    info = Predictor(larger).info
    assert info.image.size == (48, 48) and info.trust["calibration"]["fitted_on"] == "cross-validation at 32x32"
    assert info.trust["calibration"]["pictures"] == 60 and info.trust["unknown"]["curve"] and info.trust["sets"]
    # These logits are no figures of the file.
    assert list(info.metrics) == ["test"]
    assert (run / "model.keras").exists()


def test_without_the_weights_a_run_says_what_it_lacks(train, zoo, weights, cache, tmp_path):
    run, _ = train()
    aside = weights.with_name("aside.keras")
    weights.rename(aside)
    try:
        ran = zoo("export", run, "--exported", tmp_path / "again")
    finally:
        aside.rename(weights)
    assert ran.code == 1 and "has only the head of its network" in ran.err and "not available" in ran.err
    kept = weights.read_bytes()
    weights.write_bytes(kept + b"more")
    try:
        ran = zoo("export", run, "--exported", tmp_path / "again")
    finally:
        weights.write_bytes(kept)
    assert ran.code == 1 and "is no longer the file that training started from" in ran.err


SCHEDULE = """
by_evidence = true

[[phase]]
name = "head"
train = "head"
epochs = 1
learning_rate = 1e-3
optimizer = "exact"
augment = false

[[phase]]
name = "whole"
train = "{train}"
epochs = {epochs}
learning_rate = {rate}
batch_norm = "update"
batch_norm_momentum = 0.9
"""


@pytest.fixture
def hard(tmp_path):
    """Pictures that random features cannot tell apart well: the direction of a faint gradient in noise."""
    from PIL import Image

    rng = np.random.default_rng(0)
    ramp = np.linspace(-40, 40, 32)
    for label, sign in (("left", 1), ("right", -1)):
        folder = tmp_path / "hard" / label
        folder.mkdir(parents=True)
        for i in range(40):
            picture = 128 + sign * ramp[None, :, None] + rng.normal(0, 60, (32, 32, 3))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "hard"


@pytest.mark.slow
def test_more_layers_are_trained_where_held_out_pictures_show_a_gain(train, hard, tmp_path):
    schedule = tmp_path / "gain.toml"
    schedule.write_text(SCHEDULE.format(train="all", epochs=6, rate=3e-3))
    run, ran = train("--data", hard, "--schedule", schedule, "--batch-size", 8)
    record = json.loads((run / "run.json").read_text())
    evidence = record["evidence"]
    assert evidence["phases"] == ["whole"] and evidence["gain"] > 0.5 * evidence["standard_error"] > 0
    assert evidence["loss"][1] == pytest.approx(evidence["loss"][0] - evidence["gain"])
    assert evidence["temperature"] > 0 and "whole is trained" in ran.out
    assert (run / "model.keras").exists() and not (run / "head.npz").exists()
    history = list(csv.DictReader((run / "history.csv").open(newline="")))
    assert [row["phase"] for row in history] == ["head", *["whole"] * 6]
    assert all(row["val_loss"] for row in history)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["cross_validation"]["pictures"] == evidence["held_out"]
    assert metrics["cross_validation"]["accuracy"] == pytest.approx(evidence["accuracy"][1])


def test_a_phase_that_loses_is_left_out(train, hard, tmp_path):
    schedule = tmp_path / "loss.toml"
    schedule.write_text(SCHEDULE.format(train="last:1", epochs=1, rate=1.0))
    run, _ = train("--data", hard, "--schedule", schedule, "--batch-size", 8, "--allow-chance")
    record = json.loads((run / "run.json").read_text())
    assert "the head alone is kept" in record["evidence"]["text"].lower()
    assert (run / "head.npz").exists() and record["phases"][1]["epochs_run"] == 0


def test_two_pictures_a_class_are_enough(train, photos, tmp_path):
    few = tmp_path / "few"
    for label in ("bars", "discs", "noise"):
        (few / label).mkdir(parents=True)
        for path in sorted((photos / label).iterdir())[:2]:
            shutil.copy(path, few / label)
    run, _ = train("--data", few, "--allow-chance")
    assert json.loads((run / "run.json").read_text())["data"]["counts"] == {"train": 3, "val": 0, "test": 3}


def test_a_class_that_cannot_be_held_out_is_named(train, photos, tmp_path):
    few = tmp_path / "few"
    for label, count in (("bars", 8), ("discs", 8), ("noise", 2)):
        (few / label).mkdir(parents=True)
        for path in sorted((photos / label).iterdir())[:count]:
            shutil.copy(path, few / label)
    run, ran = train("--data", few, "--allow-chance")
    text = "the cross-validation does not judge 'noise': add pictures"
    assert text in ran.err and any(
        text in warning for warning in json.loads((run / "run.json").read_text())["warnings"]
    )


def test_a_given_validation_part_joins_the_training_part(train, photos, tmp_path):
    given = tmp_path / "given"
    for label in ("bars", "discs", "noise"):
        for i, path in enumerate(sorted((photos / label).iterdir())):
            folder = given / ("train", "val", "test")[min(2, i // 8)] / label
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
    run, _ = train("--data", given)
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["counts"] == {"train": 48, "val": 0, "test": 24}
    assert record["data"]["split"] == "train and val as given, test as given"


def test_options_that_do_not_go_with_it(zoo, photos, weights, tmp_path):
    common = ("finetune", "mobilenetv2_035", "--data", photos, "--weights", weights, *SIZE, "--runs", tmp_path / "runs")
    ran = zoo(*common, "--val-split", 0.2)
    assert ran.code != 0 and "--val-split cannot be used here" in ran.err
    ran = zoo(*common, "--schedule", "auto", "--hidden", 8)
    assert ran.code != 0 and "it has hidden layers" in ran.err and "fine-tune" in ran.err


@pytest.mark.slow
def test_a_head_that_cannot_be_solved_is_fine_tuned(train):
    run, ran = train("--hidden", 8, "--epochs", "1,1,1")
    assert json.loads((run / "run.json").read_text())["options"]["schedule"] == "fine-tune"
    assert "to validate" in ran.out


@pytest.mark.slow
def test_three_numbers_of_epochs_are_those_of_fine_tune(train):
    run, ran = train("--epochs", "2,1,1", "--batch-size", 8)
    record = json.loads((run / "run.json").read_text())
    assert record["options"]["schedule"] == "fine-tune" and record["data"]["counts"]["val"] == 12
    assert [phase["epochs_run"] for phase in record["phases"]] == [2, 1, 1]
    assert "Schedule: fine-tune, because --epochs has a value for each of its 3 phases" in ran.out


@pytest.mark.slow
def test_cross_validation_of_a_named_schedule(train):
    run, ran = train("--schedule", "head-only", "--cv", 3, "--epochs", 2)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["cross_validation"]["pictures"] == 60 and "fold 3 of 3" in ran.out
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["counts"]["val"] == 0 and record["best_epoch"] == 2
    history = list(csv.DictReader((run / "history.csv").open(newline="")))
    assert [bool(row["val_loss"]) for row in history] == [True, True]


def test_the_kept_graph_is_made_again_if_it_is_damaged(train, cache):
    run, _ = train()
    (graph,) = cache.glob("backbones/*/graph.onnx")
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    again, ran = train(place="two")
    assert "Converting the backbone" in ran.out
    assert graph_of(again / "model.onnx") == graph_of(run / "model.onnx")


@pytest.mark.slow
def test_epochs_for_each_phase_leave_nothing_to_evidence(train, zoo, photos, weights, tmp_path):
    run, ran = train("--epochs", "1,1")
    record = json.loads((run / "run.json").read_text())
    assert [phase["epochs_run"] for phase in record["phases"]] == [1, 1] and "--epochs has a value" in ran.out
    assert list(json.loads((run / "metrics.json").read_text())) == ["test"] and not (run / "out-of-fold.npz").exists()
    # The solved head is the first epoch of history.csv.
    assert record["best_epoch"] == 2 and "Kept epoch 2, the last epoch" in ran.out
    command = ("finetune", "mobilenetv2_035", "--data", photos, "--weights", weights, *SIZE, "--runs", tmp_path / "no")
    ran = zoo(*command, "--epochs", "0,1")
    assert ran.code == 2 and "cannot leave this phase out. Use --schedule fine-tune" in ran.err
    # A rate of the user is that of the phases that take steps.
    ran = zoo(*command, "--optimizer", "sgd", "--learning-rate", 3, "--cv", 2, "--exported", tmp_path / "ex")
    assert ran.code == 0, ran.err


@pytest.mark.slow
def test_the_range_test_leaves_the_solved_head_out(zoo, photos, weights, tmp_path):
    command = ("lr-find", "mobilenetv2_035", "--data", photos, "--weights", weights, *SIZE)
    ran = zoo(*command, "--steps", 20, "--output", tmp_path / "lr.png")
    assert ran.code == 0, ran.err
    assert "the head is solved exactly; this rate is not used" in ran.out and (tmp_path / "lr.png").exists()
    ran = zoo(*command, "--schedule", "exact-head")
    assert ran.code == 2 and "needs no learning rate" in ran.err
    assert zoo(*command, "--cv", 3).code == 2


def test_weights_are_found_from_another_folder(train, zoo, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(weights.parent)
    run, _ = train("--weights", weights.name)
    monkeypatch.chdir(tmp_path)
    assert json.loads((run / "run.json").read_text())["options"]["weights"] == str(weights)
    (run / "model.onnx").unlink()
    assert zoo("evaluate", run, "--json").code == 0


@pytest.mark.slow
def test_smaller_files_without_a_validation_part(train):
    run, ran = train("--fp16", "--int8", "--int8-any-speed")
    figures = json.loads((run / "int8.json").read_text())
    assert (run / "model-int8.onnx").exists() and (run / "model-fp16.onnx").exists()
    assert figures["paired"]["test"]["pictures"] == 12 and "too few to tell" in ran.out


def test_a_large_problem_that_holds_out_one_fold_still_judges_all_labels(train, monkeypatch):
    monkeypatch.setattr("zoo.train.linear_head.LARGE", 1)
    run, _ = train("--schedule", "exact-head")
    with np.load(run / "out-of-fold.npz") as few, np.load(run / "head-logits.npz") as every:
        assert len(few["sha256"]) < len(every["sha256"]) and set(few["sha256"]) < set(every["sha256"])
        known = dict(zip(every["sha256"], every["logits"], strict=True))
        # The same folds and nearly the same head judge the first fold.
        both = [(known[sha], logits) for sha, logits in zip(few["sha256"], few["logits"], strict=True)]
    assert np.mean([first.argmax() == second.argmax() for first, second in both]) > 0.8
    figures = json.loads((run / "label_issues.json").read_text("utf-8"))
    record = json.loads((run / "run.json").read_text("utf-8"))
    assert figures["parts"]["train"] == record["data"]["counts"]["train"] and figures["missing"] is None
    assert "training pictures by a cross-validation of the head" in figures["method"]
