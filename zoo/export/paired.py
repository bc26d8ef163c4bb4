"""Compares the answers of a float32 file and of a variant picture by picture.

Most pictures say nothing about the difference of two files, because both files classify them correctly or both do not.
The other pictures are lost (only float32 is right) or won (only the variant is right). The drop in accuracy is the
number of lost pictures minus the number of won ones, as a fraction of all pictures. Its confidence bounds are those of
the score interval for paired proportions: T. Tango, "Equivalence test and confidence interval for the difference in
proportions for the paired-sample design", Statistics in Medicine 17 (1998), 891-908. Unlike simpler intervals, it also
holds for few pictures, and if no picture is lost or won.

`zoo.export.acceptance` decides with these counts whether a variant is exported, and `zoo.export.int8` chooses with them
among candidates.

This module must not import heavy packages, because the command line imports it to define the options of its commands.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# Each bound of an interval is wrong with a probability of at most about 5 %.
LEVEL = 0.05
# The quantile of the normal distribution at 1 - LEVEL.
QUANTILE = 1.6448536269514722
# Fractions of counts can differ from the exact value by a rounding error.
ROUNDING = 1e-9
# The number of times that `least_drop` draws pictures.
RESAMPLES = 200


class Conclusion(enum.Enum):
    """Says what the pictures show about a limit: it is kept, it is exceeded, or they are too few to tell."""

    WITHIN = "within"
    EXCEEDED = "exceeded"
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class PairedCounts:
    """Counts how often two files answer alike on the same pictures.

    For multi-label networks, an answer is the set of all predicted classes. It is right if every decision is right.

    Args:
        pictures: The number of pictures.
        float32_correct: The number of pictures that the float32 file classifies correctly.
        lost: The number of pictures on which float32 is right and the variant is wrong.
        won: The number of pictures on which float32 is wrong and the variant is right.
        changed: The number of pictures on which the answers differ. Both answers may be wrong.
    """

    pictures: int
    float32_correct: int
    lost: int
    won: int
    changed: int

    def __add__(self, other: PairedCounts) -> PairedCounts:
        return PairedCounts(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    @property
    def accuracies(self) -> tuple[float, float]:
        """The accuracy of the float32 file and that of the variant, in 0..1."""
        after = self.float32_correct - self.lost + self.won
        return self.float32_correct / self.pictures, after / self.pictures

    @property
    def drop(self) -> float:
        """The drop in accuracy, in -1..1. It is negative if the variant is more accurate."""
        return (self.lost - self.won) / self.pictures

    @property
    def bounds(self) -> tuple[float, float]:
        """The lower and the upper 95 % confidence bound of the drop, each of them one-sided."""
        return drop_bounds(self.lost, self.won, self.pictures)

    def conclude(self, max_drop: float, quantile: float = QUANTILE) -> Conclusion:
        """Decide whether the drop in accuracy exceeds a limit.

        The drop is clearly within the limit if its upper bound is, and clearly too large if its lower bound exceeds the
        limit. If neither holds, the margin of error counts, which is half of the distance of the bounds. If it is at
        most the limit, the measured drop decides. Otherwise the pictures are too few to tell.

        Args:
            max_drop: The largest allowed drop, as a fraction in 0..1.
            quantile: How far the bounds lie from the measured drop, in standard errors. The default gives each bound
                95 % confidence.
        """
        low, high = drop_bounds(self.lost, self.won, self.pictures, quantile)
        if high <= max_drop + ROUNDING:
            return Conclusion.WITHIN
        if low > max_drop + ROUNDING:
            return Conclusion.EXCEEDED
        if (high - low) / 2 > max_drop:
            return Conclusion.UNCLEAR
        return Conclusion.WITHIN if self.drop <= max_drop + ROUNDING else Conclusion.EXCEEDED

    def conclude_changed(self, limit: float) -> Conclusion:
        """Decide whether the fraction of pictures with changed answers exceeds a limit.

        The bounds of the fraction are exact (Clopper and Pearson, 1934), each with 95 % confidence.

        Args:
            limit: The largest allowed fraction, in 0..1.
        """
        from scipy.stats import binomtest

        if not self.pictures:
            return Conclusion.UNCLEAR
        interval = binomtest(self.changed, self.pictures).proportion_ci(1 - 2 * LEVEL, method="exact")
        if interval.low > limit:
            return Conclusion.EXCEEDED
        return Conclusion.WITHIN if interval.high <= limit else Conclusion.UNCLEAR

    def to_json(self) -> dict[str, Any]:
        """Return the counts, the drop and its bounds as a dictionary for int8.json and the like."""
        return {**asdict(self), "drop": self.drop, "drop_bounds": list(self.bounds)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PairedCounts:
        """Return the counts that `to_json` has written."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})


def compare(float32: np.ndarray, variant: np.ndarray, targets: np.ndarray, *, multilabel: bool) -> PairedCounts:
    """Count on how many pictures two files answer alike.

    Args:
        float32: The probabilities of the float32 file, a float array (N, classes) in 0..1.
        variant: The probabilities of the variant on the same pictures. An answer that is not finite counts as wrong.
        targets: The true classes, a float array (N, classes): 1 if the picture has the class, else 0.
        multilabel: Whether a picture may have several classes, or none. If True, the predicted classes are those with a
            probability of 0.5 or more. If False, the predicted class is the likeliest one.
    """
    import numpy as np

    if multilabel:
        before, after, truth = float32 >= 0.5, variant >= 0.5, targets > 0.5
    else:
        before, after, truth = (array.argmax(axis=1)[:, None] for array in (float32, variant, targets))
    finite = np.isfinite(variant).all(axis=1)
    right_before = (before == truth).all(axis=1)
    right_after = (after == truth).all(axis=1) & finite
    changed = (before != after).any(axis=1) | ~finite
    return PairedCounts(
        len(targets),
        int(right_before.sum()),
        int((right_before & ~right_after).sum()),
        int((~right_before & right_after).sum()),
        int(changed.sum()),
    )


def drop_bounds(lost: int, won: int, pictures: int, quantile: float = QUANTILE) -> tuple[float, float]:
    """Return the one-sided confidence bounds of a drop in accuracy: the score interval of Tango (1998).

    Args:
        lost: The number of pictures on which only float32 is right.
        won: The number of pictures on which only the variant is right.
        pictures: The number of all pictures, at least 1.
        quantile: The quantile of the normal distribution at the confidence of a bound. The default means 95 %.

    Returns:
        The lower and the upper bound, in -1..1.
    """

    def bound(score: float) -> float:
        # The score falls as the assumed drop rises. 60 halvings are more exact than a float needs.
        low, high = -1.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            if _score(lost, won, pictures, middle) > score:
                low = middle
            else:
                high = middle
        return (low + high) / 2

    return bound(quantile), bound(-quantile)


def _score(lost: int, won: int, pictures: int, drop: float) -> float:
    """Return the score statistic of Tango (1998): how many standard deviations the counts lie above an assumed drop.

    The variance uses the probability of a won picture that is likeliest if the drop is as assumed.
    """
    difference = lost - won - pictures * drop
    a, b = 2 * pictures, (2 * pictures - lost + won) * drop - lost - won
    c = -won * drop * (1 - drop)
    likeliest = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = pictures * (2 * likeliest + drop * (1 - drop))
    if variance <= 0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / math.sqrt(variance)


def least_drop(
    measure: Callable[[np.ndarray, np.ndarray], float], float32: np.ndarray, variant: np.ndarray, targets: np.ndarray
) -> float:
    """Return a lower 95 % bound of the drop of any metric, by the percentile bootstrap (B. Efron, 1979).

    The pictures are drawn 200 times, with repetition and always by the same seed. The two files are measured on the
    same draws.

    Args:
        measure: Computes the metric from probabilities and true classes, both arrays (N, classes).
        float32: The probabilities of the float32 file, a float array (N, classes) in 0..1.
        variant: The probabilities of the variant on the same pictures.
        targets: The true classes, a float array (N, classes): 1 if the picture has the class, else 0.
    """
    import numpy as np

    generator = np.random.default_rng(0)
    drops = []
    for _ in range(RESAMPLES):
        rows = generator.integers(0, len(targets), len(targets))
        drops.append(measure(float32[rows], targets[rows]) - measure(variant[rows], targets[rows]))
    return float(np.quantile(drops, LEVEL))
