"""What a file promises, measured on pictures: calibration, label sets, unknown and outliers."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.evaluate import calibration, metrics
from zoo.evaluate.answers import Answers
from zoo_runtime import ImageSpec, ModelInfo, Prediction

CLASSES = ("a", "b")


def info(**trust):
    return ModelInfo(CLASSES, "binary", ImageSpec((2, 2)), trust=trust)


def prediction(first, *, unknown=False, score=None, outlier=False, sets=None):
    likely = {"a": first, "b": 1 - first}
    label = max(likely, key=likely.get)
    return Prediction(label, likely[label], likely, (label,), unknown, score, outlier, None, sets or {})


def test_the_figures_of_four_answers():
    given = [
        prediction(0.9, score=0.1, sets={"0.9": ("a",)}),
        prediction(0.8, score=0.2, sets={"0.9": ("a", "b")}),
        prediction(0.6, unknown=True, score=0.7, outlier=True, sets={"0.9": ()}),
        prediction(0.1, score=0.3, sets={"0.9": ("b",)}),
    ]
    answers = Answers.of(iter(given), info(unknown={"threshold": 0.7}, calibration={"fitted_on": "validation"}), 9)
    assert answers.fitted_on == "validation" and answers.outlier_score.tolist() == [0.1, 0.2, 0.7, 0.3]
    figures = answers.measure(np.array([[1, 0], [0, 1], [1, 0], [0, 1]]), multilabel=False)
    # Gaps by bin: 0.1 and 0.1 in one, 0.8, 0.4 the other way.
    assert figures["calibration_error"]["expected_calibration_error"] == pytest.approx((0.2 + 0.8 + 0.4) / 4)
    assert figures["sets"]["0.9"] == {
        "coverage": 0.75,
        "coverage_interval": metrics.interval(0.75, 4),
        "size": 1.0,
    }
    assert figures["unknown"]["answered"] == 0.75 and figures["unknown"]["precision"] == pytest.approx(2 / 3)
    assert figures["unknown"]["precision_interval"] == metrics.interval(2 / 3, 3)
    assert figures["outliers"] == {"flagged": 0.25, "flagged_interval": metrics.interval(0.25, 4)}
    first, second = metrics.trust_lines(figures)
    assert first.startswith("calibration error 0.350 (") and "label sets at 0.9 have the class of 0.750" in first
    assert "answered 0.750" in second and "right 0.667" in second and "unlike the training pictures 0.250" in second


def test_a_file_without_thresholds_has_only_a_calibration_error():
    answers = Answers.of([prediction(0.9), prediction(0.2)], info(), 2)
    assert answers.unknown is answers.outlier_score is answers.outlier is None and answers.sets == {}
    figures = answers.measure(np.array([[1, 0], [0, 1]]), multilabel=False)
    assert list(figures) == ["calibration_error"]


def test_no_answer_has_no_precision():
    answers = Answers.of([prediction(0.6, unknown=True)], info(unknown={"threshold": 0.99}), 1)
    figures = answers.measure(np.array([[1, 0]]), multilabel=False)
    assert figures["unknown"]["answered"] == 0 and figures["unknown"]["precision"] is None
    assert metrics.trust_lines(figures)[1].startswith("answered 0.000")


def test_decisions_about_one_picture_are_drawn_together():
    """Pictures with many decisions that are wrong together say less than as many independent decisions."""
    wrong = np.random.default_rng(0).random(40) < 0.3
    sure, right = np.full(40 * 50, 0.7), np.repeat(~wrong, 50)
    alone = calibration.reliability(sure, right)
    together = calibration.reliability(sure, right, per_picture=50)
    assert together["expected_calibration_error"] == alone["expected_calibration_error"]
    width = [np.ptp(each["interval"]) for each in (alone, together)]
    assert width[1] > 3 * width[0]
