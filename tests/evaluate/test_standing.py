"""The comparison of networks, or trials, by their answers to the same held-out pictures."""

from __future__ import annotations

import pytest

from zoo.evaluate.standing import pictures_in_common, standing


def answers(*right: float, start: int = 0) -> dict[str, float]:
    return {f"picture{start + i}": value for i, value in enumerate(right)}


def test_only_pictures_that_all_have_answered_count():
    # "lucky" is perfect on pictures that nobody else has answered, and wrong on the others.
    trials = {f"trial{i}": answers(*([1.0] * i + [0.0] * (6 - i))) for i in range(6)}
    trials["lucky"] = answers(0, 0, 0, 0, 0, 0, *[1.0] * 50)
    found = standing(trials, dict.fromkeys(trials, 1.0))
    assert found.best == "trial5" and found.behind["trial3"][0] == pytest.approx(2 / 6)


def test_of_equal_ones_the_cheapest_is_best():
    same = answers(1, 1, 0, 1)
    assert standing({"auto": same, "head": same}, {"auto": 3.0, "head": 0.0}).best == "head"
    assert standing({"b": same, "a": same}, {"a": 1.0, "b": 1.0}).best == "a"


def test_networks_with_few_pictures_in_common_are_compared_by_all_of_theirs():
    # Five of six pictures are common to all: the sixth one does not count.
    near = {"a": answers(1, 1, 1, 1, 1, 0), "b": answers(1, 1, 1, 1, 0, 1, start=1)}
    found = standing(near, {"a": 1.0, "b": 1.0})
    assert found.paired and found.best == "a" and found.behind["b"][0] == pytest.approx(0.0)
    far = {"a": answers(*[1.0] * 6, *[0.0] * 4), "b": answers(*[1.0] * 9, 0.0, start=8)}
    found = standing(far, {"a": 1.0, "b": 1.0})
    assert not found.paired and found.best == "b" and found.behind["a"][0] == pytest.approx(0.3)
    # The variances of 0.6 and 0.9 of ten pictures each are added.
    assert found.behind["a"][1] == pytest.approx((0.24 / 9 + 0.09 / 9) ** 0.5)
    assert pictures_in_common(near) == [f"picture{i}" for i in range(1, 6)] and pictures_in_common(far) is None
    with pytest.raises(ValueError, match="nothing to compare"):
        standing({}, {})
