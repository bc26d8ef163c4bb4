"""Which trials of a sweep go on, and for how long."""

from __future__ import annotations

import pytest

from zoo.workflow.sweep_ladder import Budget, dealt, rungs, survivors


def answers(*right: float, start: int = 0) -> dict[str, float]:
    return {f"picture{start + i}": value for i, value in enumerate(right)}


@pytest.mark.parametrize(
    ("folds", "pictures", "expected"),
    [
        (5, None, (1, 3, 5)),
        (5, 425, (1, 3, 5)),
        (10, 500, (1, 3, 9, 10)),
        # A fold of 306 pictures: four of them are enough.
        (5, 1528, (1, 3, 4)),
        (5, 5000, (1,)),
        (5, 4000, (1, 2)),
        (2, 100, (1, 2)),
    ],
)
def test_rungs_end_when_enough_pictures_are_held_out(folds, pictures, expected):
    assert rungs(folds, pictures) == expected


def test_a_third_goes_on_and_is_judged_on_the_pictures_that_all_have_answered():
    # "lucky" is perfect on pictures that nobody else has answered, and wrong on the others.
    trials = {f"trial{i}": answers(*([1.0] * i + [0.0] * (6 - i))) for i in range(6)}
    trials["lucky"] = answers(0, 0, 0, 0, 0, 0, *[1.0] * 50)
    costs = dict.fromkeys(trials, 1.0)
    assert survivors(trials, costs) == ("trial5", "trial4", "trial3")
    assert survivors(dict(list(trials.items())[:2]), costs, least=2) == ("trial1", "trial0")


def test_of_equal_trials_the_cheapest_goes_on_alone():
    same = answers(1, 1, 0, 1)
    trials = {"auto": same, "head": same, "other": answers(1, 0, 0, 0), "fourth": answers(0, 0, 0, 0)}
    costs = {"auto": 3.0, "head": 0.0, "other": 1.0, "fourth": 1.0}
    groups = {"auto": "a", "head": "a", "other": "b", "fourth": "b"}
    assert survivors(trials, costs, groups=groups) == ("head", "other")
    # Networks that happen to give the same answers are different trials.
    assert survivors(trials, costs) == ("head", "auto")


def test_the_best_pair_is_tried_first():
    assert dealt(["a", "b"], ["x", "y"]) == (("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"))


def test_a_budget_counts_the_parts_before_and_keeps_a_reserve():
    now = [100.0]
    budget = Budget(1800, used=600, clock=lambda: now[0])
    assert budget.left() == 1200 and budget.left(0.5) == 300 and budget.left(0.8, reserve=900) == 300
    now[0] += 300
    assert budget.spent() == 900 and budget.is_over(0.5) and not budget.is_over(0.51)
    assert budget.left(1.0, reserve=1000) == 0
    assert Budget(None, clock=lambda: now[0]).left(0.1) is None and not Budget().is_over()
