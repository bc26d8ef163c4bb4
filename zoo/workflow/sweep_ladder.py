"""Decides which trials of a sweep go on, and for how long: successive halving on held-out folds, within a budget.

Successive halving is from Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization" (2016, https://arxiv.org/abs/1502.07943). What grows from rung to rung here is the number of folds that
were held out, so that the trials of a rung have answered the same pictures.

This module starts nothing and writes nothing; see `zoo.workflow.sweep`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from zoo.evaluate.standing import standing

# One of so many trials goes on to the next rung.
KEPT = 3
# At least so many pairs of network and size go on from the solved heads, because fine-tuning may change their order.
LEAST_PAIRS = 2
# No more folds are held out once a trial has answered so many pictures: a difference of two points then shows.
ENOUGH = 1000
# The solved heads may take this share of the budget, and all trials together the second one. The rest is for training
# the winner on all pictures and for its export.
HEADS_SHARE, TRIALS_SHARE = 0.35, 0.8


def rungs(folds: int, pictures: int | None) -> tuple[int, ...]:
    """Return after how many folds trials are compared: 1, 3, 9 and so on, and the last number.

    Args:
        folds: The number of folds of the cross-validation, at least 2.
        pictures: The number of pictures in all folds together. None if it is not known yet.
    """
    last = folds
    if pictures:
        last = min(folds, math.ceil(ENOUGH * folds / pictures))
    found, number = [], 1
    while number < last:
        found.append(number)
        number *= KEPT
    return (*found, last)


def survivors(
    answers: Mapping[str, Mapping[str, float]],
    costs: Mapping[str, float],
    *,
    least: int = 1,
    groups: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Return the trials that go on to the next rung, the best first: a third of them, rounded up.

    Args:
        answers: As in `zoo.evaluate.standing.standing`.
        costs: As there.
        least: How many go on at least.
        groups: A name for each trial. Of trials in the same group with the same answers, the cheapest goes on alone. A
            schedule that kept the solved head has the answers of that head.

    Raises:
        ValueError: There is no trial, or one without an answer.
    """
    behind = standing(answers, costs).behind
    order = sorted(answers, key=lambda name: (behind[name][0], costs[name], name))
    different: list[str] = []
    for name in order:
        twins = (other for other in different if groups and groups[other] == groups[name])
        if not any(_same(answers[other], answers[name]) for other in twins):
            different.append(name)
    return tuple(different[: max(least, math.ceil(len(order) / KEPT))])


def _same(first: Mapping[str, float], second: Mapping[str, float]) -> bool:
    """Return whether two trials have answered the same pictures alike."""
    common = first.keys() & second.keys()
    return bool(common) and all(first[picture] == second[picture] for picture in common)


def dealt(pairs: Sequence[str], schedules: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return all pairs with all schedules, the most promising first: the best pair with each schedule.

    Args:
        pairs: The pairs of network and size, the best first.
        schedules: The schedules.
    """
    return tuple((pair, schedule) for pair in pairs for schedule in schedules)


@dataclass
class Budget:
    """The time of a sweep, over all its parts.

    Args:
        total: How many seconds the sweep may take. None sets no limit.
        used: How many seconds its earlier parts have taken.
        clock: Returns the time in seconds, from any beginning.
    """

    total: float | None = None
    used: float = 0.0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._began = self.clock()

    def spent(self) -> float:
        """Return how many seconds the sweep has taken so far."""
        return self.used + self.clock() - self._began

    def left(self, share: float = 1.0, reserve: float = 0.0) -> float | None:
        """Return how many seconds are left of a share of the budget; None without a budget. It is never below 0.

        Args:
            share: The share, in 0..1.
            reserve: How many seconds at the end of the whole budget have to remain, in any case.
        """
        if self.total is None:
            return None
        return max(0.0, min(share * self.total, self.total - reserve) - self.spent())

    def is_over(self, share: float = 1.0, reserve: float = 0.0) -> bool:
        """Return whether a share of the budget is used up; see `left`."""
        left = self.left(share, reserve)
        return left is not None and left <= 0
