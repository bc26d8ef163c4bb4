"""Figures of single classes: counts from three sources, intervals, and the order of confusions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from zoo.evaluate import metrics, per_class


@pytest.mark.parametrize(("hits", "of"), [(0, 1), (1, 1), (0, 300), (300, 300), (7, 9), (494, 500), (1, 1000)])
def test_intervals_are_those_of_scipy(hits, of):
    bounds = binomtest(hits, of).proportion_ci(0.95, "wilson")
    assert metrics.interval(hits / of, of) == pytest.approx([bounds.low, bounds.high], abs=1e-12)
    # The bounds themselves must not leave 0..1 by rounding.
    assert (metrics.interval(hits / of, of)[0] == 0) == (hits == 0)
    assert (metrics.interval(hits / of, of)[1] == 1) == (hits == of)


def test_counts_of_a_matrix_agree_with_the_figures_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, likely = np.eye(4)[rng.integers(0, 4, 200)], rng.random((200, 4))
    names = ["a", "b", "c", "d"]
    found = metrics.measure(likely + 0.4 * truth, truth, names)
    rows = per_class.class_figures(names, per_class.counts_of_matrix(found["confusion_matrix"]))
    for row in rows:
        own = found["per_class"][row["name"]]
        assert {key: row[key] for key in own} == pytest.approx(own)
        for key in ("precision", "recall", "f1"):
            low, high = row[f"{key}_interval"]
            assert 0 < low < row[key] < high < 1
    assert per_class.counts_of_figures(found["per_class"]) == per_class.counts_of_matrix(found["confusion_matrix"])


def test_what_has_no_value_is_none():
    matrix = [[0, 3, 0], [0, 5, 0], [0, 0, 0]]
    never_said, common, absent = per_class.class_figures("abc", per_class.counts_of_matrix(matrix))
    assert never_said["precision"] is None and never_said["precision_interval"] is None
    assert never_said["recall"] == never_said["f1"] == 0 and never_said["recall_interval"][1] > 0.5
    assert common["precision"] == 5 / 8 and common["recall"] == 1
    assert [absent[key] for key in ("precision", "recall", "f1")] == [None] * 3
    # A precision of 0 does not say how often a class was given.
    (unknown,) = per_class.class_figures(
        ["x"], per_class.counts_of_figures({"x": {"precision": 0.0, "recall": 0.0, "pictures": 7}})
    )
    assert unknown["said"] is unknown["precision"] is unknown["f1"] is None and unknown["recall"] == 0


def test_the_interval_of_f1_holds_the_true_value():
    """20 pictures of 100 have the class; the network hits 15 and gives it to 5 others: F1 is 0.75."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(500):
        hits, missed, others, _ = rng.multinomial(100, [0.15, 0.05, 0.05, 0.75])
        (row,) = per_class.class_figures(["x"], [(hits, hits + others, hits + missed)])
        low, high = row["f1_interval"]
        held += low <= 0.75 <= high
    assert 0.92 <= held / 500 <= 0.99


def test_labels_of_pictures_are_counted_one_by_one():
    rows = [
        {"class": "a;b", "predicted": "a"},
        {"class": "", "predicted": "b"},
        {"class": "b", "predicted": "a;b"},
    ]
    assert per_class.counts_of_labels(rows, ["a", "b"]) == [(1, 2, 1), (1, 2, 2)]
    assert per_class.counts_of_labels([], ["a", "b"]) is None
    # The name of a class has a semicolon, so that its labels cannot be told from two classes.
    assert per_class.counts_of_labels([{"class": "a;b", "predicted": "a;b"}], ["a;b"]) is None


def test_the_most_frequent_confusions_come_first():
    found = per_class.confusions("abc", [[10, 2, 1], [2, 0, 0], [0, 0, 9]])
    assert [(each["truth"], each["said"], each["count"]) for each in found] == [
        ("b", "a", 2),
        ("a", "b", 2),
        ("a", "c", 1),
    ]
    assert [each["fraction"] for each in found] == pytest.approx([1, 2 / 13, 1 / 13])
    assert per_class.confusions("ab", [[3, 0], [0, 4]]) == []
