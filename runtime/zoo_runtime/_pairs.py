"""Times two calls in alternating order, so that neither has the advantage of running second."""

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
    """Holds the result of timing two calls in alternation.

    Args:
        first: The median time of the first call, in milliseconds.
        second: The median time of the second call, in milliseconds.
        ratio: The median over all pairs of the first call's time divided by the second call's. Above 1, the second call
            is faster.
        middle_half: The first and the third quartile of these ratios.
    """

    first: float
    second: float
    ratio: float
    middle_half: tuple[float, float]


def time_pairs(
    first: Callable[[Any], Any], second: Callable[[Any], Any], items: Sequence[tuple[Any, Any]], *, pairs: int = 60
) -> Pairs:
    """Time two calls in alternation.

    Each pair consists of a block of the first call and a block of the second call. The order of the blocks alternates.
    A block has four calls, and its time is the median of the last three. The first one does not count, because it
    suffers from cold caches and from threads of the other block that still spin.

    Args:
        first: The first call.
        second: The second call.
        items: Pairs of arguments: one for the first call and one for the second. They are used in turn and start again
            after the last.
        pairs: The number of measured pairs, at least 2. Two more pairs before them warm up.

    Returns:
        The medians in milliseconds, and the ratios.
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
