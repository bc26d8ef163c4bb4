"""Two things timed against one another, so that neither has an advantage of coming second."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK = 3


@dataclass(frozen=True)
class Pairs:
    """What came of timing two things by turns.

    Args:
        first: Median milliseconds of the first.
        second: Median milliseconds of the second.
        ratio: Time of the first over that of the second, the median over pairs: above 1 where the second is faster.
        middle_half: Quartiles of the pairs' ratios.
    """

    first: float
    second: float
    ratio: float
    middle_half: tuple[float, float]


def time_pairs(
    first: Callable[[Any], Any], second: Callable[[Any], Any], items: Sequence[tuple[Any, Any]], *, pairs: int = 60
) -> Pairs:
    """Time two calls by turns.

    Each turn is a block of calls of the one and a block of the other, in changing order, and a block's first call does
    not count: it would pay for what the other left behind, cold caches and threads that still wait by spinning.

    Args:
        first: One call.
        second: The other.
        items: What they are called with, a pair of arguments a turn, over and over.
        pairs: How many turns, at least 2.
    """
    endless = itertools.cycle(items)
    taken: list[tuple[float, float]] = []
    for turn in range(pairs + 2):
        arguments = next(endless)
        sides = [(0, first), (1, second)]
        best = [0.0, 0.0]
        for side, call in sides if turn % 2 else reversed(sides):
            seconds = []
            for _ in range(1 + BLOCK):
                begun = time.perf_counter()
                call(arguments[side])
                seconds.append(time.perf_counter() - begun)
            best[side] = sorted(seconds[1:])[BLOCK // 2]
        # The first two turns warm up.
        if turn >= 2:
            taken.append((best[0], best[1]))
    seconds_of = np.array(taken)
    one, other = 1000 * np.median(seconds_of, axis=0)
    low, middle, high = np.percentile(seconds_of[:, 0] / seconds_of[:, 1], [25, 50, 75])
    return Pairs(float(one), float(other), float(middle), (float(low), float(high)))
