"""Two classes, several labels, grey pictures, and the options of head and training, from the command to the device."""

from __future__ import annotations

import base64
import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from zoo.runs import Run
from zoo_runtime import Predictor


def finetune(zoo, folder, *arguments):
    ran = zoo("finetune", *arguments, "--runs", folder / "runs", "--exported", folder / "exported", "--name", "it")
    assert ran.code == 0, ran.err
    (run,) = (folder / "runs").iterdir()
    record, metrics = (json.loads((run / name).read_text()) for name in ("run.json", "metrics.json"))
    return run, record, metrics, Predictor(folder / "exported" / "it")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two classes that differ in brightness, so that a greyscale network can learn them from color pictures."""
    folder = tmp_path_factory.mktemp("two")
    rng = np.random.default_rng(0)
    for label, level in (("dark", 40), ("light", 200)):
        (folder / label).mkdir()
        for i in range(30):
            pixels = np.clip(rng.normal(level, 25, (30, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")
    return folder


def test_two_classes_have_one_unit_and_two_probabilities(zoo, two, tmp_path):
    arguments = ("mnist_convnet", "--data", two, "--epochs", 16, "--batch-size", 8, "--pool", "roi:2", "--hidden", "16")
    run, record, metrics, predictor = finetune(zoo, tmp_path, *arguments)
    assert record["task"] == predictor.info.task == "binary" and predictor.info.classes == ("dark", "light")
    assert record["head"]["pool"] == "roi" and record["head"]["grid"] == 2 and record["head"]["hidden"] == [16]
    # 55,744 of the convolutions, 2 x 2 x 64 x 16 + 16, 16 + 1.
    assert record["phases"][0]["moved_parameters"] == 55_744 + 4112 + 17
    assert metrics["test"]["accuracy"] == 1.0
    assert predictor.info.image.channels == 1
    result = predictor(two / "light" / "3.png")
    assert result.label == "light" and result.labels == ("light",)
    assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-6)
    rows = list(csv.DictReader((run / "history.csv").open()))
    assert float(rows[-1]["val_accuracy"]) == 1.0

    # The same network for larger pictures: a grid has as many cells over any map.
    ran = zoo("export", run, "--size", "36x44", "--exported", tmp_path / "exported")
    assert ran.code == 0, ran.err
    larger = Predictor(tmp_path / "exported" / "it-36x44")
    assert larger.info.image.size == (36, 44) and larger(two / "dark" / "3.png").label == "dark"
    assert json.loads((run / "run.json").read_text())["image"]["size"] == [28, 28]
    assert Predictor(run / "model.onnx").info.image.size == (28, 28)


def test_a_flat_head_stays_at_its_size(zoo, two, tmp_path):
    run, *_ = finetune(zoo, tmp_path, "mnist_dense", "--data", two, "--epochs", 1, "--allow-chance")
    found = json.loads((run / "examples.json").read_text())
    assert found["gradcam"] is False and "no convolutions" in found["gradcam_missing"]
    ran = zoo("export", run, "--size", "40", "--exported", tmp_path / "exported")
    assert ran.code == 2 and "--pool roi" in ran.err


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Pictures with a red left half, a green right half, both or neither."""
    folder = tmp_path_factory.mktemp("several")
    rng = np.random.default_rng(0)
    lines = ["path,labels"]
    for i in range(120):
        pixels = rng.integers(0, 60, (32, 32, 3)).astype(np.uint8)
        labels = []
        if i & 1:
            pixels[:, :16, 0] = 240
            labels.append("red")
        if i & 2:
            pixels[:, 16:, 1] = 240
            labels.append("green")
        Image.fromarray(pixels).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{'; '.join(labels)}")
    (folder / "pictures.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_several_labels(zoo, several, tmp_path):
    arguments = ("catsdogs_convnet", "--data", several / "pictures.csv", "--size", 64, "--pool", "flatten")
    refused = zoo("finetune", *arguments, "--balance")
    assert refused.code == 2 and "--balance needs pictures with exactly one class each" in refused.err
    run, record, metrics, predictor = finetune(
        zoo, tmp_path, *arguments, "--hidden", "none", "--epochs", 8, "--learning-rate", "0.003", "--batch-size", 8
    )
    assert record["task"] == predictor.info.task == "multilabel" and predictor.info.classes == ("green", "red")
    test = metrics["test"]
    assert test["accuracy"] >= 0.95 and test["exact_match"] >= 0.9 and test["mean_average_precision"] >= 0.95
    assert "confusion_matrix" not in test and test["pictures"] == sum(1 for _ in rows_of(run, "test"))
    assert {row["class"] for row in rows_of(run, "train")} == {"", "red", "green", "green;red"}
    assert "mean average precision" in (run / "report.html").read_text()
    calibration = test["calibration_error"]
    assert sum(each["decisions"] for each in calibration["bins"]) == 2 * test["pictures"] and "sets" not in test
    for row in Run(run).predictions():
        assert row["predicted"] == ";".join(sorted(predictor(several / row["picture"]).labels))
        assert row["confidence"] == row["second"] == row["unknown"] == ""
    check_sides(json.loads((run / "examples.json").read_text()))
    results = predictor([several / f"{i}.png" for i in range(4)])
    assert [set(result.labels) for result in results] == [set(), {"red"}, {"green"}, {"red", "green"}]
    assert sum(results[3].probabilities.values()) > 1.5

    ran = zoo("predict", tmp_path / "exported" / "it", several / "0.png", several / "3.png")
    first, second = ran.out.splitlines()
    assert first.endswith(": no class") and "green" in second and "red" in second
    ran = zoo("predict", tmp_path / "exported" / "it", several / "1.png", "--json")
    assert json.loads(ran.out)["labels"] == ["red"]
    ran = zoo("evaluate", run, "--json")
    assert json.loads(ran.out)["exact_match"] == test["exact_match"]


def check_sides(found):
    """Red is on the left and green on the right, and there the heat has to lie."""
    assert found["gradcam"] is True
    seen = set()
    for each in found["right"]:
        if each["said"]:
            assert each["truth"] == sorted(each["said"]) and each["overlay_class"] in each["said"]
            drawn = Image.open(io.BytesIO(base64.b64decode(each["overlay"].partition(",")[2])))
            heat = np.asarray(drawn).astype(float).sum(axis=2)
            half = heat.shape[1] // 2
            assert (heat[:, :half].mean() > heat[:, half:].mean()) == (each["overlay_class"] == "red")
            seen.add(each["overlay_class"])
    assert seen == {"red", "green"}


def rows_of(run, part):
    return [row for row in csv.DictReader((run / "pictures.csv").open()) if row["part"] == part]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("path,label,labels\n0.png,a,a\n", "must name the columns"),
        ("path,labels\n,a\n", "the column 'path' must not be empty"),
        ("path,labels\n0.png,\n1.png,\n", "no label on any picture"),
        ("path,labels\n0.png,a\n1.png,\n", "only the label 'a'; a classifier needs two classes"),
    ],
)
def test_wrong_lists_of_labels(zoo, several, tmp_path, text, problem):
    path = tmp_path / "a.csv"
    path.write_text(text)
    for name in ("0.png", "1.png"):
        (tmp_path / name).write_bytes((several / name).read_bytes())
    ran = zoo("finetune", "catsdogs_convnet", "--data", path, "--runs", tmp_path / "runs")
    assert ran.code == 1 and problem in ran.err


@pytest.mark.slow
def test_label_smoothing_keeps_the_loss_up(zoo, two, tmp_path):
    """With two classes and a smoothing of 0.2, the lowest possible loss is the entropy of (0.9, 0.1): 0.3251 nats."""
    arguments = ("mnist_convnet", "--data", two, "--epochs", 20, "--batch-size", 8, "--pool", "roi:2", "--hidden", "16")
    _, record, _, _ = finetune(zoo, tmp_path / "a", *arguments, "--label-smoothing", "0.2")
    assert record["options"]["label_smoothing"] == 0.2
    smoothed = [
        float(row["loss"]) for row in csv.DictReader((next((tmp_path / "a/runs").iterdir()) / "history.csv").open())
    ]
    finetune(zoo, tmp_path / "b", *arguments)
    plain = [
        float(row["loss"]) for row in csv.DictReader((next((tmp_path / "b/runs").iterdir()) / "history.csv").open())
    ]
    assert min(smoothed) > 0.325 and min(plain) < 0.3


@pytest.mark.slow
def test_balance_finds_the_rare_class(zoo, tmp_path):
    """Two classes overlap, and one is nine times as frequent: without --balance, uncertain pictures go to that one.

    The left half is darker than the right by 36 in one class and brighter by 36 in the other, with a standard deviation
    of 60. No classifier can be right on more than 73 % of the pictures of each class.
    """
    rng = np.random.default_rng(0)
    for label, level, counts in (("rare", -18, (30, 10, 50)), ("frequent", 18, (270, 90, 50))):
        for part, count in zip(("train", "val", "test"), counts, strict=True):
            folder = tmp_path / "data" / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                means = 128 + rng.normal(level, 30) * np.repeat([1, -1], 14)
                pixels = np.clip(rng.normal(means, 5, (28, 28)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    arguments = ("mnist_dense", "--data", tmp_path / "data", "--epochs", 20, "--learning-rate", "1e-3")
    recalls = {}
    for name, options in (("plain", ()), ("balanced", ("--balance",))):
        _, record, metrics, _ = finetune(zoo, tmp_path / name, *arguments, *options)
        assert record["options"]["balance"] is bool(options)
        recalls[name] = {label: row["recall"] for label, row in metrics["test"]["per_class"].items()}
    assert recalls["plain"]["rare"] < 0.4 and recalls["plain"]["frequent"] > 0.9
    assert 0.55 < recalls["balanced"]["rare"] < 0.85 and 0.55 < recalls["balanced"]["frequent"] < 0.85


@pytest.mark.slow
def test_patience_and_the_last_epoch(zoo, two, tmp_path):
    """At a learning rate that is far too high, the validation loss soon stops falling."""
    arguments = ("mnist_dense", "--data", two, "--epochs", 15, "--batch-size", 8, "--learning-rate", "3", "--no-export")
    arguments += ("--allow-chance",)
    for name, options, check in (
        ("stop", ("--patience", 2), lambda rows, record: len(rows) < 15 and len(rows) - best(rows) == 2),
        ("never", ("--patience", 0), lambda rows, record: len(rows) == 15 and record["best_epoch"] == best(rows) < 15),
        ("last", ("--keep", "last"), lambda rows, record: record["best_epoch"] == 15 > best(rows)),
    ):
        folder = tmp_path / name
        ran = zoo("finetune", *arguments, *options, "--runs", folder)
        assert ran.code == 0, ran.err
        (run,) = folder.iterdir()
        rows = list(csv.DictReader((run / "history.csv").open()))
        assert check(rows, json.loads((run / "run.json").read_text())), (name, [row["val_loss"] for row in rows])


def best(rows):
    return 1 + int(np.argmin([float(row["val_loss"]) for row in rows]))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--pool", "mean"), "avg, max, flatten, l2norm, roi"),
        (("--pool", "avg:3"), "roi:GRID"),
        (("--hidden", "12,x"), "whole numbers"),
        (("--views", "3"), "--views goes with --augment"),
        (("--patience", "-1"), "patience"),
    ],
)
def test_wrong_options(zoo, two, tmp_path, options, problem):
    ran = zoo("finetune", "mnist_dense", "--data", two, *options, "--runs", tmp_path / "runs")
    assert ran.code == 2 and problem in ran.err
    assert not (tmp_path / "runs").exists()
