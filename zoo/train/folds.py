"""Divides pictures into folds for cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def deal_folds(strata: Sequence[int], copies: Sequence[object], count: int, seed: int) -> npt.NDArray[np.int64]:
    """Divide pictures into folds for cross-validation.

    Each stratum is spread evenly over the folds. Copies of a picture stand in one fold. A stratum of which all pictures
    are copies of one is never held out, because the rest would have no picture of it.

    Args:
        strata: The stratum (class) of each picture.
        copies: A value per picture; pictures with equal values are copies.
        count: The number of folds. There are fewer if no stratum has so many different pictures.
        seed: Decides which picture comes into which fold.

    Returns:
        The fold of each picture, int64 (pictures,), from 0; -1 for pictures that are never held out.
    """
    rng = np.random.default_rng(seed)
    copied: dict[object, list[int]] = {}
    for i, value in enumerate(copies):
        copied.setdefault(value, []).append(i)
    # Copies with different labels stand together too, in the stratum of the first one.
    groups: dict[int, dict[object, list[int]]] = {}
    for value, members in copied.items():
        groups.setdefault(int(strata[members[0]]), {})[value] = members
    count = min(count, max(len(group) for group in groups.values()))
    folds = np.full(len(strata), -1, np.int64)
    start = 0
    for stratum in sorted(groups):
        own = list(groups[stratum].values())
        if len(own) < 2 or count < 2:
            continue
        for position, place in enumerate(rng.permutation(len(own))):
            folds[own[place]] = (start + position) % count
        # The next stratum goes on where this one ended, so that folds are equally large.
        start += len(own)
    return folds


def folds_of(
    targets: npt.NDArray[Any],
    rows: npt.NDArray[np.int64],
    copies: Sequence[object] | None,
    count: int,
    seed: int,
) -> npt.NDArray[np.int64]:
    """Divide some pictures of a dataset into folds; see `deal_folds`.

    Args:
        targets: The targets of all pictures, float32 (pictures, classes).
        rows: Indices of the pictures to divide, int64.
        copies: A value per picture of the dataset; pictures with equal values are copies. None if there are no copies.
        count: The number of folds.
        seed: Decides which picture comes into which fold.

    Returns:
        The fold of each of `rows`, int64; -1 for pictures that are never held out.
    """
    return deal_folds(strata_of(targets[rows]), [i if copies is None else copies[i] for i in rows], count, seed)


def strata_of(targets: npt.NDArray[np.float32]) -> list[int]:
    """Return the stratum of each picture: its rarest class, or the number of classes if it has none."""
    counts = targets.sum(axis=0)
    return [
        int(min(np.flatnonzero(row), key=lambda label: (counts[label], label), default=len(counts)))
        for row in targets > 0.5
    ]


def held_out_in(folds: int) -> str:
    """Say how pictures were held out: "each held out in one of 5 folds", or "held out in one fold".

    Args:
        folds: How many folds were held out, at least 1.
    """
    return f"each held out in one of {folds} folds" if folds > 1 else "held out in one fold"
