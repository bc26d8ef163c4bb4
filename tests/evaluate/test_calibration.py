"""Calibration, thresholds and label sets, fitted on drawn logits whose true probabilities are known."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.evaluate import calibration


def drawn(pictures, classes=4, factor=1.0, shift=0.0, seed=0, task="multiclass", spread=2.0):
    """Draw logits and labels. The true probabilities follow from the logits divided by `factor` minus `shift`."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, spread, (pictures, 1 if task == "binary" else classes))
    likely = calibration.probabilities(true, task)
    if task == "multilabel":
        targets = (rng.random(likely.shape) < likely).astype(float)
    else:
        chosen = (rng.random((pictures, 1)) > likely.cumsum(axis=1)).sum(axis=1).clip(0, likely.shape[1] - 1)
        targets = np.eye(likely.shape[1])[chosen]
    return true * factor + shift, targets


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_the_temperature_of_a_network_that_is_too_sure_is_found(task):
    logits, targets = drawn(4000, factor=3.0, task=task)
    found = calibration.fit(logits, targets, task)
    assert found.method == "temperature" and found.temperature == pytest.approx(3.0, rel=0.08)
    errors = [
        calibration.calibration_error(*calibration.decided(calibration.probabilities(each, task), targets, task))
        for each in (logits, found.apply(logits))
    ]
    assert errors[0] > 0.08 and errors[1] < 0.02


def test_shifted_logits_need_vector_scaling_and_balanced_classes_forbid_it():
    logits, targets = drawn(4000, factor=2.0, shift=np.array([3.0, 0.0, 0.0, -3.0]))
    found = calibration.fit(logits, targets, "multiclass")
    assert found.method == "vector"
    np.testing.assert_allclose(found.scale, 0.5, rtol=0.15)
    relative = found.shift - found.shift.mean()
    np.testing.assert_allclose(relative, [-1.5, 0, 0, 1.5], atol=0.3)
    assert calibration.fit(logits, targets, "multiclass", shifts=False).method == "temperature"
    assert calibration.fit(logits[:1], targets[:1], "multiclass").method == "none"


def test_the_calibration_error_of_known_bins():
    sure = np.array([0.95] * 10 + [0.65] * 10)
    right = np.array([True] * 8 + [False] * 2 + [True] * 6 + [False] * 4)
    assert calibration.calibration_error(sure, right) == pytest.approx((0.15 + 0.05) / 2)
    figures = calibration.reliability(sure, right)
    assert [each["decisions"] for each in figures["bins"]] == [10, 10]
    assert [each["accuracy"] for each in figures["bins"]] == pytest.approx([0.6, 0.8])
    low, high = figures["interval"]
    assert low < figures["expected_calibration_error"] < high


def test_the_threshold_holds_the_precision_in_nearly_all_draws():
    """The promise is 95 % confidence. The true precision above the threshold is known from 200,000 other pictures."""
    fresh = calibration.decided(*_decisions(200_000, seed=999))
    held = coverage = 0.0
    for seed in range(40):
        sure, right = calibration.decided(*_decisions(1500, seed=seed))
        threshold = calibration.threshold_for(sure, right, 0.95)
        assert threshold is not None
        kept = fresh[0] >= threshold
        held += fresh[1][kept].mean() >= 0.95
        coverage += kept.mean() / 40
    assert held >= 38
    # Not by refusing everything: half of the pictures are as sure as that.
    assert coverage > 0.4


def _decisions(pictures, seed):
    logits, targets = drawn(pictures, seed=seed, spread=5.0)
    return calibration.probabilities(logits * 1.5, "multiclass"), targets, "multiclass"


def test_too_few_pictures_hold_no_high_precision():
    sure, right = np.linspace(0.5, 1, 60), np.ones(60, bool)
    assert calibration.threshold_for(sure, right, 0.99) is None
    largest = calibration.largest_precision(sure, right)
    assert 0.8 < largest < 0.96 and calibration.threshold_for(sure, right, largest) is not None
    assert calibration.largest_precision(sure, ~right) == 0
    # A thousand pictures without an error are enough, and all of them get an answer.
    found = calibration.threshold_for(np.linspace(0.5, 1, 1000), np.ones(1000, bool), 0.99)
    assert found == pytest.approx(0.5, abs=1e-6) and found < 0.5


def test_confidences_that_float32_cannot_tell_apart_are_ties():
    """A hundred right answers differ from a hundred wrong ones by less than a device can see."""
    sure = np.concatenate([np.full(100, 1 - 1e-12), np.full(100, 1 - 1e-9)])
    right = np.repeat([True, False], 100)
    assert calibration.threshold_for(sure, right, 0.9) is None
    # Right answers that are clearly surer are told apart, and float32 keeps them above the threshold.
    found = calibration.threshold_for(np.repeat([0.99999, 0.9], 100), right, 0.9)
    assert 0.9 < found < np.float32(0.99999)


def test_a_few_right_answers_do_not_make_a_network_sure():
    """The unsure picture was 0.6. With targets of 1, the temperature would be as low as is allowed: 0.9997."""
    logits = np.array([[2.0, 0.0], [0.0, 3.0], [1.5, 0.0], [0.0, 2.5]])
    found = calibration.fit(logits, np.eye(2)[[0, 1, 0, 1]], "multiclass")
    assert 0.3 < found.temperature < 3
    assert calibration.probabilities(found.apply(np.array([[0.4, 0.0]])), "multiclass")[0, 0] < 0.8


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_two_pictures_and_a_hundred_classes_give_finite_figures(task):
    for pictures, classes in ((2, 2), (30, 100)):
        logits, targets = drawn(pictures, classes, task=task)
        found = calibration.fit(logits, targets, task)
        assert np.isfinite(found.apply(logits)).all() and 0.04 < found.temperature < 25
        after = calibration.crossed(logits, targets, task, vector=False, groups=range(pictures))
        assert np.isfinite(after).all() and after.shape == logits.shape


def test_copies_do_not_judge_their_own_calibration():
    logits, targets = drawn(100, classes=3, factor=2.0)
    twice, both = np.concatenate([logits, logits]), np.concatenate([targets, targets])
    groups = [*range(100), *range(100)]
    after = calibration.crossed(twice, both, "multiclass", vector=True, groups=groups)
    np.testing.assert_allclose(after[:100], after[100:])
    apart = calibration.crossed(twice, both, "multiclass", vector=True)
    assert np.abs(apart[:100] - apart[100:]).max() > 1e-3
    chosen = calibration.one_of_each(groups)
    assert sorted(groups[i] for i in chosen) == sorted(set(groups)) and (np.diff(chosen) > 0).all()
    # Not always the first one.
    assert 20 < sum(i >= 100 for i in chosen) < 80
    assert calibration.one_of_each([]).tolist() == []


def test_the_curve_of_precision_goes_from_strict_to_all():
    sure = np.array([0.9, 0.8, 0.8, 0.7])
    curve = calibration.precision_curve(sure, np.array([True, True, False, True]))
    assert [each["threshold"] for each in curve] == [0.9, 0.8, 0.7]
    assert [each["coverage"] for each in curve] == [0.25, 0.75, 1.0]
    assert [each["precision"] for each in curve] == pytest.approx([1, 2 / 3, 0.75])


def test_label_sets_cover_what_they_promise():
    covered = dict.fromkeys(("0.9", "0.95", "0.99"), 0.0)
    for seed in range(20):
        likely, targets, _ = _decisions(500, seed)
        fresh, truth, _ = _decisions(2000, seed + 1000)
        for coverage, threshold in calibration.set_thresholds(likely, targets).items():
            inside = fresh[np.arange(len(fresh)), truth.argmax(axis=1)] >= threshold
            covered[coverage] += inside.mean() / 20
    assert covered == pytest.approx({"0.9": 0.9, "0.95": 0.95, "0.99": 0.99}, abs=0.012)


def test_few_pictures_put_all_classes_into_the_set():
    likely, targets, _ = _decisions(18, 0)
    thresholds = calibration.set_thresholds(likely, targets)
    assert thresholds["0.9"] > 0 and thresholds["0.95"] == thresholds["0.99"] == 0


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "binary"])
def test_probabilities_follow_from_logits(task):
    logits = np.array([[800.0], [-3.0]]) if task == "binary" else np.array([[800.0, 0.0, -800.0], [1.0, 2.0, 3.0]])
    answers = calibration.probabilities(logits, task)
    assert answers.shape == ((2, 2) if task == "binary" else (2, 3)) and np.isfinite(answers).all()
    if task != "multilabel":
        assert answers.sum(axis=1) == pytest.approx(1)
    assert answers[0, 1 if task == "binary" else 0] == pytest.approx(1)
