"""McNemar's exact test and Holm's correction, against figures that were worked out by hand."""

from __future__ import annotations

import pytest

from zoo.evaluate.paired import PairedAnswers, count, holm


def test_pictures_are_counted_by_who_is_right():
    counts = count([True, True, False, False, True], [True, False, True, False, False])
    assert counts == PairedAnswers(both=1, only_first=2, only_second=1, neither=1) and counts.pictures == 5
    assert counts.accuracies == (0.6, 0.4) and counts.difference == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    # 2 * (1 + 10) / 2**10; 2 / 2**5; nothing differs.
    [(1, 9, 22 / 1024), (5, 0, 2 / 32), (0, 0, 1.0), (4, 4, 1.0)],
)
def test_the_exact_test(first, second, expected):
    assert PairedAnswers(80, first, second, 3).p_value == pytest.approx(expected)


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0] and holm([]) == []
