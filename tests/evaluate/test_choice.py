"""The choice of a network: differences are judged picture by picture, and the fastest of equally good ones is taken."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.evaluate.choice import Contender, choose


def contender(name, answers, milliseconds=1.0, size=1000):
    return Contender(name, {str(i): float(right) for i, right in enumerate(answers)}, milliseconds, size)


def answers(wrong, pictures=400):
    right = np.ones(pictures)
    right[list(wrong)] = 0
    return right


def test_the_fastest_of_those_that_are_as_good_is_taken():
    """25 pictures of 400 differ in both directions: the standard error is 1.25 points, the difference 0.25."""
    best = contender("best", answers(range(0, 12)), milliseconds=9)
    quick = contender("quick", answers(range(12, 25)), milliseconds=2)
    found = choose([quick, best])
    assert (found.best, found.take, found.open) == ("best", "quick", ("quick", "best"))
    gap, error = found.behind["quick"]
    assert gap == pytest.approx(1 / 400) and error == pytest.approx(0.0125, rel=0.01)
    assert found.behind["best"] == (0, 0)


def test_a_small_difference_counts_if_no_picture_speaks_against_it():
    """Both are wrong for the same 12 pictures. Seven more wrong ones are 2.7 standard errors of the difference."""
    best = contender("best", answers(range(12)), milliseconds=9)
    quick = contender("quick", answers(range(19)), milliseconds=2)
    found = choose([best, quick])
    assert (found.take, found.open) == ("best", ("best",))
    # Three more are 1.7 standard errors: not as good, but fine-tuning may decide otherwise.
    near = choose([best, contender("quick", answers(range(15)), milliseconds=2)])
    assert (near.take, near.open) == ("best", ("quick", "best"))


def test_equal_networks_are_told_apart_by_time_and_then_by_size():
    same = answers(range(5))
    assert choose([contender("slow", same, 3), contender("quick", same, 2)]).take == "quick"
    assert choose([contender("large", same, 2, 9000), contender("small", same, 2, 800)]).take == "small"
    assert choose([contender("b", same), contender("a", same)]).best == "a"


def test_only_pictures_that_all_have_answered_count():
    long = contender("long", answers(range(200, 400)))
    short = Contender("short", {str(i): 1.0 for i in range(100)} | {"own": 0.0}, 5.0, 1)
    found = choose([long, short])
    assert found.behind == {"long": (0, 0), "short": (0, 0)} and found.take == "long"
    # With nothing in common, each counts with its own pictures, and one picture proves nothing.
    found = choose([long, Contender("other", {"x": 1.0}, 1.5, 1)])
    assert (found.best, found.take, found.open) == ("other", "long", ("long", "other"))
    assert found.behind["long"] == (0.5, float("inf"))
    with pytest.raises(ValueError, match="there is nothing to compare"):
        choose([])
    with pytest.raises(ValueError, match="no picture was answered"):
        choose([long, Contender("mute", {}, 1.0, 1)])


def test_the_order_of_the_networks_does_not_matter():
    rng = np.random.default_rng(0)
    several = [contender(f"n{i}", rng.random(300) < 0.7 + 0.03 * i, milliseconds=1 + i) for i in range(5)]
    first = choose(several)
    assert all(choose([several[i] for i in rng.permutation(5)]) == first for _ in range(10))
