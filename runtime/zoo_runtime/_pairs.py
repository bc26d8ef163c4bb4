"""Measures how long two functions take.

The order of the two functions alternates, so that neither has the advantage of always running second.
"""

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
    """Holds the result of `time_pairs`: how long the calls of two functions take, and the ratio of their times.

    Args:
        first: The median time of a call of the first function, in milliseconds.
        second: The median time of a call of the second function, in milliseconds.
        ratio: The time of the first function divided by the time of the second function, as the median over all pairs
            of measurements. If the ratio is above 1, the second function is faster.
        middle_half: The first and the third quartile of the ratio over all pairs of measurements.
    """

    first: float
    second: float
    ratio: float
    middle_half: tuple[float, float]


def time_pairs(
    first: Callable[[Any], Any], second: Callable[[Any], Any], items: Sequence[tuple[Any, Any]], *, pairs: int = 60
) -> Pairs:
    """Call two functions in alternation, and measure how long they take.

    A pair of measurements consists of two blocks, one per function. From pair to pair, the order of the two blocks
    alternates. A block calls its function four times with the same argument. The time of the block is the median of the
    last three calls. The first call does not count, because caches are cold and threads of the other block still spin.

    Args:
        first: A function of one argument. Its result is ignored.
        second: The function to compare with `first`, also of one argument.
        items: Arguments for the functions. Each item belongs to one pair of measurements. It is a tuple: the argument
            of `first`, and the argument of `second`. After the last item, the first item follows again.
        pairs: The number of pairs of measurements, at least 1. Two more pairs run first, and their times do not count.

    Returns:
        The median times in milliseconds, and the ratio of the times.
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
