"""Time two calls against one another, so that neither gains from running second."""

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
    """The result of timing two calls in alternation.

    Args:
        first: Median milliseconds of the first call.
        second: Median milliseconds of the second call.
        ratio: Median over pairs of (time of the first / time of the second). Above 1, the second is faster.
        middle_half: First and third quartile of the pairs' ratios.
    """

    first: float
    second: float
    ratio: float
    middle_half: tuple[float, float]


def time_pairs(
    first: Callable[[Any], Any], second: Callable[[Any], Any], items: Sequence[tuple[Any, Any]], *, pairs: int = 60
) -> Pairs:
    """Time two calls in alternation.

    Each turn runs a block of one call and a block of the other, in alternating order. A block's first call does not
    count: it would pay for what the other block left behind, such as cold caches and threads that still spin.

    Args:
        first: The first call.
        second: The second call.
        items: Arguments, one pair (for the first, for the second) per turn. They repeat when they run out.
        pairs: Number of turns, at least 2.

    Returns:
        Medians in milliseconds, and the ratios.
    """
    endless = itertools.cycle(items)
    taken: list[tuple[float, float]] = []
    for turn in range(pairs + 2):
        arguments = next(endless)
        sides = [(0, first), (1, second)]
        medians = [0.0, 0.0]
        for side, call in sides if turn % 2 else reversed(sides):
            seconds = []
            for _ in range(1 + BLOCK):
                started = time.perf_counter()
                call(arguments[side])
                seconds.append(time.perf_counter() - started)
            medians[side] = sorted(seconds[1:])[BLOCK // 2]
        # The first two turns warm up.
        if turn >= 2:
            taken.append((medians[0], medians[1]))
    seconds_of = np.array(taken)
    one, other = 1000 * np.median(seconds_of, axis=0)
    low, middle, high = np.percentile(seconds_of[:, 0] / seconds_of[:, 1], [25, 50, 75])
    return Pairs(float(one), float(other), float(middle), (float(low), float(high)))
