"""Pairs of answers: what is counted, confidence bounds against published ones, and what few and many pictures show."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multinomial

from zoo.export import paired
from zoo.export.paired import Conclusion, PairedCounts


def counts(pictures, lost, won, changed=None):
    return PairedCounts(pictures, pictures - won, lost, won, lost + won if changed is None else changed)


def test_published_bounds():
    """Airway reactivity of 21 children, in Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014), 2850-2875.

    Their 95 % score interval of Tango is -0.517 to -0.026.
    """
    assert paired.drop_bounds(1, 7, 21, 1.959964) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert paired.drop_bounds(7, 1, 21, 1.959964) == pytest.approx((0.026, 0.517), abs=5e-4)


@pytest.mark.parametrize("pictures", [1, 27, 1000])
def test_bounds_at_the_ends(pictures):
    # Without a lost or won picture, the upper bound is that of Wilson for a fraction of 0.
    wilson = paired.QUANTILE**2 / (pictures + paired.QUANTILE**2)
    assert paired.drop_bounds(0, 0, pictures) == pytest.approx((-wilson, wilson))
    assert paired.drop_bounds(pictures, 0, pictures) == pytest.approx((1 - 2 * wilson, 1), abs=wilson)
    low, high = paired.drop_bounds(pictures, 0, pictures)
    assert paired.drop_bounds(0, pictures, pictures) == pytest.approx((-high, -low))


@pytest.mark.parametrize(
    ("pictures", "lost", "won", "conclusion"),
    [
        (27, 0, 0, Conclusion.UNCLEAR),
        (27, 1, 0, Conclusion.UNCLEAR),
        (27, 2, 1, Conclusion.UNCLEAR),
        (27, 4, 0, Conclusion.EXCEEDED),
        (27, 9, 0, Conclusion.EXCEEDED),
        (27, 9, 9, Conclusion.UNCLEAR),
        (300, 0, 0, Conclusion.WITHIN),
        (300, 4, 0, Conclusion.UNCLEAR),
        (300, 9, 0, Conclusion.EXCEEDED),
        (1000, 30, 5, Conclusion.EXCEEDED),
        (1000, 12, 8, Conclusion.WITHIN),
        # The margin of error is below the limit of 1 point, so that the measured drop decides: 1.5 or exactly 1 point.
        (1000, 20, 5, Conclusion.EXCEEDED),
        (1000, 15, 5, Conclusion.WITHIN),
        (1000, 16, 5, Conclusion.EXCEEDED),
        # Many lost and won pictures make the drop less certain.
        (1000, 60, 48, Conclusion.UNCLEAR),
        (10000, 190, 100, Conclusion.WITHIN),
    ],
)
def test_what_the_pictures_show_about_a_drop_of_one_point(pictures, lost, won, conclusion):
    assert counts(pictures, lost, won).conclude(0.01) is conclusion


def test_any_drop_is_within_100_points():
    for pictures in (1, 27):
        assert counts(pictures, pictures, 0).conclude(1.0) is Conclusion.WITHIN
    assert counts(27, 5, 0).conclude(0.0) is Conclusion.EXCEEDED
    assert counts(27, 1, 0).conclude(0.0) is Conclusion.UNCLEAR
    assert counts(27, 0, 9).conclude(0.0) is Conclusion.WITHIN


def test_narrower_bounds_conclude_sooner():
    """2 lost pictures of 36 are 1.4 standard errors above a drop of half a point, and 1 lost picture is 0.9."""
    for lost, quantile, conclusion in [
        (2, paired.QUANTILE, Conclusion.UNCLEAR),
        (2, 1.0, Conclusion.EXCEEDED),
        (1, 1.0, Conclusion.UNCLEAR),
    ]:
        assert counts(36, lost, 0).conclude(0.005, quantile) is conclusion


@pytest.mark.parametrize("pictures", [12, 27, 54, 100])
@pytest.mark.parametrize(("lose", "win"), [(0.01, 0.0), (0.03, 0.02), (0.08, 0.07), (0.15, 0.14)])
def test_a_file_that_loses_exactly_one_point_is_rarely_refused(pictures, lose, win):
    """The probability over all possible counts. The score interval aims at 5 % and is not exact."""
    refused = 0.0
    for lost in range(pictures + 1):
        for won in range(pictures + 1 - lost):
            if counts(pictures, lost, won).conclude(0.01) is Conclusion.EXCEEDED:
                cell = [lost, won, pictures - lost - won]
                refused += multinomial.pmf(cell, pictures, [lose, win, 1 - lose - win])
    assert refused < 0.08


@pytest.mark.parametrize(
    ("pictures", "changed", "conclusion"),
    [
        (0, 0, Conclusion.UNCLEAR),
        (6, 3, Conclusion.EXCEEDED),
        (4, 2, Conclusion.UNCLEAR),
        (30, 0, Conclusion.WITHIN),
        (30, 2, Conclusion.UNCLEAR),
        (318, 6, Conclusion.WITHIN),
        (318, 60, Conclusion.EXCEEDED),
    ],
)
def test_how_many_answers_change(pictures, changed, conclusion):
    assert counts(pictures, 0, 0, changed).conclude_changed(0.11) is conclusion


def test_what_is_counted():
    truth = np.eye(3)[[0, 0, 0, 1, 1, 2]]
    float32 = np.eye(3)[[0, 0, 1, 1, 0, 0]]
    variant = np.eye(3)[[0, 1, 0, 1, 2, 2]]
    expected = PairedCounts(pictures=6, float32_correct=3, lost=1, won=2, changed=4)
    assert paired.compare(float32, variant, truth, multilabel=False) == expected
    assert expected.accuracies == (0.5, 4 / 6) and expected.drop == -1 / 6
    assert expected + expected == PairedCounts(12, 6, 2, 4, 8)
    assert PairedCounts.from_json(expected.to_json()) == expected


def test_answers_that_are_not_finite_are_lost():
    truth = np.eye(2)[[0, 1]]
    broken = np.full((2, 2), np.nan)
    assert paired.compare(truth, broken, truth, multilabel=False) == PairedCounts(2, 2, 2, 0, 2)


def test_with_several_labels_the_whole_answer_counts():
    truth = np.array([[1, 1], [1, 0], [0, 0], [0, 1]])
    float32 = np.array([[0.9, 0.5], [0.9, 0.6], [0.1, 0.2], [0.9, 0.1]])
    variant = np.array([[0.9, 0.4], [0.9, 0.4], [0.4, 0.4], [0.2, 0.1]])
    assert paired.compare(float32, variant, truth, multilabel=True) == PairedCounts(4, 2, 1, 1, 3)


def test_least_drop():
    """With 40 lost pictures of 100, the drop is hardly below 0.3. With 1 lost picture, it may be 0."""
    truth = np.eye(2)[np.arange(100) % 2]

    def accuracy(probabilities, targets):
        return float((probabilities.argmax(axis=1) == targets.argmax(axis=1)).mean())

    variant = truth.copy()
    variant[:40] = 1 - variant[:40]
    assert 0.28 < paired.least_drop(accuracy, truth, variant, truth) < 0.38
    variant[1:40] = truth[1:40]
    assert paired.least_drop(accuracy, truth, variant, truth) == 0.0
