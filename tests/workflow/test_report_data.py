"""The files from which the report is made: predictions.csv, examples.json and the figures of metrics.json."""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil

import pytest
from PIL import Image

from zoo.runs import PREDICTION_COLUMNS, Run
from zoo_runtime import Predictor


def test_predictions_are_what_the_exported_file_says(finished, photos):
    run, *_ = finished
    rows = Run(run).predictions()
    with (run / "pictures.csv").open(newline="") as stream:
        pictures = {row["sha256"]: row for row in csv.DictReader(stream)}
    assert [row["part"] for row in rows] == ["val"] * 12 + ["test"] * 12
    assert (run / "predictions.csv").read_text().splitlines()[0] == ",".join(PREDICTION_COLUMNS)
    predictor = Predictor(run / "model.onnx")
    for row in rows:
        known = pictures[row["sha256"]]
        assert (row["part"], row["class"], row["picture"]) == (known["part"], known["class"], known["picture"])
        answer = predictor(photos / row["picture"])
        (first, confidence), (second, second_probability) = answer.top(2)
        assert (row["predicted"], row["second"]) == (first, second)
        expected = confidence, second_probability, answer.probabilities[row["class"]]
        found = [float(row[key]) for key in ("confidence", "second_probability", "true_probability")]
        assert found == pytest.approx(expected, abs=1e-5)
        assert row["correct"] == str(int(first == row["class"])) and row["unknown"] == ""
        # 12 validation pictures are too few for an outlier score of trained features.
        assert answer.outlier_score is None and row["outlier_score"] == row["outlier"] == ""


def test_the_promises_are_measured_on_test_pictures_alone(finished, zoo):
    """This run was calibrated on its validation pictures, whose figures would be too good."""
    run, _, printed = finished
    metrics = json.loads((run / "metrics.json").read_text())
    assert json.loads((run / "trust.json").read_text())["calibration"]["fitted_on"] == "validation"
    assert not {"calibration_error", "sets", "unknown", "outliers"} & metrics["validation"].keys()
    test = metrics["test"]
    bins = test["calibration_error"]["bins"]
    assert sum(each["decisions"] for each in bins) == 12
    low, high = test["calibration_error"]["interval"]
    assert low <= test["calibration_error"]["expected_calibration_error"] <= high
    assert list(test["sets"]) == ["0.9", "0.95", "0.99"] and not {"unknown", "outliers"} & test.keys()
    assert f"calibration error {test['calibration_error']['expected_calibration_error']:.3f} (" in printed
    assert "label sets at 0.9, 0.95, 0.99 have the class of" in printed
    stored = Predictor(run / "model.onnx").info.metrics["test"]
    assert stored["sets"] == test["sets"] and "bins" not in stored["calibration_error"]

    ran = zoo("evaluate", run, "--part", "val", "--json")
    assert "sets" not in json.loads(ran.out) and "Figures of calibration and label sets are not given" in ran.err


def test_examples_have_small_pictures_with_the_right_proportions(finished, photos):
    run, *_ = finished
    found = json.loads((run / "examples.json").read_text())
    rows = {row["sha256"]: row for row in Run(run).predictions() if row["part"] == "test"}
    wrong = [row for row in rows.values() if row["correct"] == "0"]
    assert found["schema"] == 1 and len(found["mistakes"]) == len(wrong) and len(found["right"]) == 6
    assert {each["truth"][0] for each in found["right"][:3]} == {"bars", "discs", "noise"}
    for each in (*found["mistakes"], *found["right"]):
        row = rows[each["sha256"]]
        assert each["truth"] == [row["class"]] and each["said"] == [row["predicted"]] == [each["overlay_class"]]
        assert each["confidence"] == pytest.approx(float(row["confidence"]), abs=1e-5)
        assert each["unknown"] is each["outlier"] is None
        body = each["thumbnail"].partition(",")[2]
        # Pictures of 80 x 60 are enlarged by a whole number.
        assert Image.open(io.BytesIO(base64.b64decode(body))).size == (160, 120)
    for each in found["mistakes"]:
        assert len(each["nearest"]) == 3 and all((photos / near["picture"]).is_file() for near in each["nearest"])
    # At 32 x 32 pixels, the last map of this network is 1 x 1.
    assert found["gradcam"] is False and "a single position at this picture size" in found["gradcam_missing"]
    assert all(each["overlay"] is None for each in found["right"])
    assert found["nearest_of"] == found["training_pictures"] == 48


def test_an_export_does_not_fail_because_of_the_report(finished, zoo, tmp_path):
    """The names are taken by folders, so that neither file can be written."""
    run, *_ = finished
    copy = tmp_path / "runs" / run.name
    shutil.copytree(run, copy)
    for name in ("examples.json", "predictions.csv"):
        (copy / name).unlink()
        (copy / name).mkdir()
        (copy / name / "mine").write_text("")
    ran = zoo("export", copy, "--exported", tmp_path / "exported")
    assert ran.code == 0 and (tmp_path / "exported" / "shapes" / "model.onnx").is_file()
    assert "predictions.csv is not written" in ran.err and "examples.json is not written" in ran.err
