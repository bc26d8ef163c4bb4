"""Compares networks, or trials of one network, by their answers to the same held-out pictures.

The accuracies of several networks on the same pictures rise and fall together, because some pictures are hard for all
of them. So a difference is judged picture by picture, which tells networks apart that are close to each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Differences up to this many standard errors count as a tie.
EQUAL = 1.0
# Networks are compared picture by picture if so much of their pictures is common to all of them.
COMMON = 0.5


@dataclass(frozen=True)
class Standing:
    """How networks stand.

    Args:
        best: The name of the most accurate one.
        behind: For each network, by how much its accuracy is below that of the best one, and the standard error of this
            difference, both in 0..1.
        paired: Whether the networks were compared picture by picture.
    """

    best: str
    behind: Mapping[str, tuple[float, float]]
    paired: bool


def pictures_in_common(answers: Mapping[str, Mapping[str, float]]) -> list[str] | None:
    """Return the pictures that all networks have answered, or None if these are too few for a comparison.

    They are too few if they are less than half of the pictures of the network that has answered the fewest. This
    happens because near-duplicates depend a little on the picture size, and the folds depend on near-duplicates.

    Args:
        answers: As in `standing`.

    Raises:
        ValueError: There is no network, or one without an answer.
    """
    if not answers or not all(answers.values()):
        raise ValueError("there is nothing to compare, or no picture was answered")
    common = sorted(set.intersection(*(set(each) for each in answers.values())))
    return common if len(common) >= COMMON * min(len(each) for each in answers.values()) else None


def standing(answers: Mapping[str, Mapping[str, float]], costs: Mapping[str, Any]) -> Standing:
    """Compare networks picture by picture on the pictures that all of them have answered.

    If there are too few of these, each network counts with all pictures that it has answered, and the differences have
    greater standard errors.

    Args:
        answers: For each network, how right its answer to each held-out picture is, in 0..1: 1 if it is right, and else
            0. With several labels per picture, it is the fraction of right labels. The keys identify the pictures.
        costs: For each network, what decides between two that are equally accurate: the lower one wins.

    Raises:
        ValueError: There is no network, or one without an answer.
    """
    common = pictures_in_common(answers)
    values = {
        name: np.array([each[picture] for picture in (sorted(each) if common is None else common)])
        for name, each in answers.items()
    }
    best = min(answers, key=lambda name: (-values[name].mean(), costs[name], name))
    behind: dict[str, tuple[float, float]] = {}
    for name, each in values.items():
        gap = float(values[best].mean() - each.mean())
        if name == best:
            behind[name] = 0.0, 0.0
        elif common is not None:
            behind[name] = gap, _error(values[best] - each)
        else:
            behind[name] = gap, math.hypot(_error(values[best]), _error(each))
    return Standing(best, behind, common is not None)


def _error(values: np.ndarray) -> float:
    """Return the standard error of the mean."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else float("inf")
