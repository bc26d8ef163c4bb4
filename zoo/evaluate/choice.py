"""Chooses a network among several whose answers to the same held-out pictures are known.

The accuracies of several networks on the same pictures rise and fall together, because some pictures are hard for all
of them. So the difference of two networks is judged picture by picture.

A network that is not worse than the best one by more than one standard error of the difference counts as equally good,
and the fastest of these is chosen: the rule of one standard error of Breiman, Friedman, Olshen and Stone,
"Classification and Regression Trees" (1984), for the smallest tree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

# Differences up to this many standard errors count as a tie for the choice.
EQUAL = 1.0
# Networks that are behind the best one by no more than this many standard errors may still win after fine-tuning.
OPEN = 2.0


@dataclass(frozen=True)
class Contender:
    """A network that can be chosen.

    Args:
        name: Its name.
        right: For each held-out picture, how right its answer is, in 0..1: 1 if it is right, and else 0. With several
            labels per picture, it is the fraction of right labels. The keys identify the pictures.
        milliseconds: The time for a picture.
        bytes: The size of the exported file.
    """

    name: str
    right: Mapping[str, float] = field(repr=False)
    milliseconds: float
    bytes: int


@dataclass(frozen=True)
class Choice:
    """The result of a comparison.

    Args:
        best: The name of the most accurate network.
        take: The name of the one to take: the fastest one that is as good as the best one.
        open: The names of those that are worth fine-tuning, the fastest first. The one to take is always among them.
        behind: For each network, by how much its accuracy is below that of the best one, and the standard error of this
            difference, both in 0..1.
    """

    best: str
    take: str
    open: tuple[str, ...]
    behind: Mapping[str, tuple[float, float]]


def choose(contenders: Sequence[Contender]) -> Choice:
    """Choose a network.

    A network is worth fine-tuning if it is at most two standard errors behind the best one, even if it is slow: large
    networks often gain more from fine-tuning than small ones.

    Args:
        contenders: The networks, at least one.

    Raises:
        ValueError: There is no network, or no picture that all of them have answered.
    """
    if not contenders:
        raise ValueError("there is no network to choose")
    shared = sorted(set.intersection(*(set(each.right) for each in contenders)))
    if not shared:
        raise ValueError("the networks have no held-out picture in common")
    table = np.array([[each.right[key] for key in shared] for each in contenders])
    accuracies = table.mean(axis=1)
    best = min(range(len(contenders)), key=lambda i: (-accuracies[i], _cost(contenders[i])))
    behind = [_difference(table[best], row) for row in table]
    equal = [i for i, (gap, error) in enumerate(behind) if gap <= EQUAL * error]
    take = min(equal, key=lambda i: _cost(contenders[i]))
    near = {i for i, (gap, error) in enumerate(behind) if gap <= OPEN * error}
    kept = sorted({*near, take}, key=lambda i: _cost(contenders[i]))
    return Choice(
        contenders[best].name,
        contenders[take].name,
        tuple(contenders[i].name for i in kept),
        {each.name: gap for each, gap in zip(contenders, behind, strict=True)},
    )


def _cost(contender: Contender) -> tuple[float, int, str]:
    return contender.milliseconds, contender.bytes, contender.name


def _difference(best: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return by how much one row is ahead of another on average, and the standard error of this mean."""
    differences = best - other
    if len(differences) < 2:
        return float(differences.mean()), float("inf")
    return float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(len(differences)))
