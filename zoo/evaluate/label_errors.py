"""Ranks pictures by how probably their label is wrong, and estimates how many labels are wrong.

Everything here works on arrays. The probabilities must come from networks that were not trained on the picture that
they judge.

- The ranking is by the probability of the label that the picture has ("self-confidence"). It is one of the scores of
  confident learning: Northcutt et al. 2021, https://arxiv.org/abs/1911.00068, and of cleanlab.
- The number of wrong labels is estimated from the pictures that the network is surest of (anchor points: Liu and Tao
  2016, https://arxiv.org/abs/1411.7718). Confident learning counts every confident mistake of the network as a wrong
  label. On clean data that are hard to classify, it therefore finds many wrong labels that do not exist.
  `benchmarks/label_errors.py` compares both; docs/label-errors.md has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# The fractions of the surest decisions among which wrong labels are counted. The lowest rate is the estimate.
SUREST = (0.1, 0.2, 0.3, 0.5, 1.0)
# No rate is estimated from fewer decisions than this, unless a quarter of all is less.
FEWEST = 100
# Where wrong labels limit how sure the network is, it is about equally sure of all easy pictures. A rate above the
# first number is not believed if the median decision is less sure than the second one times the surest decisions.
HIGH, EVEN = 0.1, 0.75
# If the network contradicts more labels than this where it is surest, the network is wrong and not the labels.
HIGHEST = 0.5
# Labels of a multi-label picture that are as improbable as this are also changed in its suggestion.
IMPROBABLE = 0.1
# This fraction of the judged pictures is always listed.
LISTED = 0.1
# So many pictures are ranked at once.
BLOCK = 1024


@dataclass(frozen=True)
class LabelErrors:
    """The judged pictures, ranked.

    Args:
        order: The places of the pictures in the arrays that were judged, int64 (N,), the most suspicious first.
        score: The probability of the label that each picture has, float64 (N,) in 0..1, in the order of the arrays.
            If there may be several labels, it is that of the least probable of all decisions about the picture.
        suggested: For each picture, the classes that it more probably has, as a bool array (N, classes).
        probability_suggested: The probability of the suggestion, float64 (N,) in 0..1. For several labels, it is that
            of the opposite of the least probable decision.
        suspected: Whether each picture is among the most suspicious ones, as many as there are wrong labels by the
            estimate, and the network disagrees with its label: bool (N,).
        expected: The estimated number of wrong labels; None if there is no estimate.
    """

    order: npt.NDArray[np.int64]
    score: Array
    suggested: npt.NDArray[np.bool_]
    probability_suggested: Array
    suspected: npt.NDArray[np.bool_]
    expected: float | None

    def listed(self) -> npt.NDArray[np.int64]:
        """Return the first places of `order` that a list shows: a tenth of all, and all suspected ones."""
        last = np.flatnonzero(self.suspected[self.order])
        count = max(int(np.ceil(LISTED * len(self.order))), int(last[-1]) + 1 if len(last) else 0)
        return self.order[:count]


def judge(likely: npt.NDArray[Any], targets: npt.NDArray[Any], task: str) -> LabelErrors:
    """Rank pictures by how probably their label is wrong.

    Args:
        likely: Probabilities from networks that have not seen the picture, (pictures, classes) in 0..1.
        targets: (pictures, classes): 1 if the picture is labeled with the class, else 0.
        task: "multiclass", "binary" or "multilabel".
    """
    values, given = np.asarray(likely, np.float64), np.asarray(targets) > 0.5
    pictures = np.arange(len(values))
    if task == "multilabel":
        states = np.where(given, values, 1 - values)
        score = states.min(axis=1) if len(states) else np.zeros(0)
        change = states <= IMPROBABLE
        if len(states):
            change[pictures, states.argmin(axis=1)] = True
        suggested = given ^ change
        opposite = 1 - score
    else:
        score, opposite = np.zeros(len(values)), np.zeros(len(values))
        suggested = np.zeros_like(given)
        # Copies of the whole table take much memory if there are many classes.
        for rows in np.array_split(pictures, -(-len(values) // BLOCK) or 1):
            score[rows] = np.where(given[rows], values[rows], 0.0).sum(axis=1)
            others = np.where(given[rows], -1.0, values[rows])
            if len(rows):
                suggested[rows, others.argmax(axis=1)] = True
                opposite[rows] = others.max(axis=1)
    # Equal scores keep the order of the pictures, so that the list is the same on every machine.
    order = np.argsort(score, kind="stable").astype(np.int64)
    expected = estimate(values, given, task)
    suspected = np.zeros(len(values), bool)
    suspected[order[: round(expected or 0)]] = True
    suspected &= opposite > score
    return LabelErrors(order, score, suggested, opposite, suspected, expected)


def estimate(likely: Array, given: npt.NDArray[np.bool_], task: str) -> float | None:
    """Estimate how many labels are wrong.

    Where the network is surest, it is hardly ever wrong itself, so that a label that disagrees is wrong. The fraction
    of such labels, times the number of all labels, is the estimate. It assumes that labels of easy pictures are wrong
    as often as those of hard ones. The lowest fraction over several degrees of sureness counts.

    Args:
        likely: Probabilities, (pictures, classes).
        given: Whether the picture is labeled with the class, bool (pictures, classes).
        task: As in `judge`.

    Returns:
        The number of wrong labels. For several labels, every class of every picture counts. None without pictures, or
        if even the surest decisions are often wrong, and others are much less sure, or if most of the surest decisions
        are wrong: the network is then too weak.
    """
    if not len(likely):
        return None
    if task == "multilabel":
        sure = np.maximum(likely, 1 - likely).ravel()
        wrong = ((likely >= 0.5) != given).ravel()
    else:
        sure = likely.max(axis=1)
        wrong = ~given[np.arange(len(likely)), likely.argmax(axis=1)]
    wrong = wrong[np.argsort(-sure, kind="stable")]
    sure = -np.sort(-sure)
    fewest = max(1, min(FEWEST, len(wrong) // 4))
    counts = {max(fewest, round(share * len(wrong))) for share in SUREST}
    rate = min(wrong[:count].mean() for count in counts)
    # From 0 for a guess to 1 for certainty.
    guess = 1 / (2 if task == "multilabel" else likely.shape[1])
    sure = (sure - guess) / (1 - guess)
    uneven = np.median(sure) < EVEN * sure[: max(1, len(sure) // 10)].mean()
    if rate > HIGHEST or (rate > HIGH and uneven):
        return None
    return float(rate * len(wrong))
