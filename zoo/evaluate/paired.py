"""Compares two networks on the same pictures, of which both answers are known.

Pictures that both get right, or both wrong, say nothing about which of the two is better. McNemar's test looks at the
others only: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
Psychometrika 12 (1947), 153-157. It is used in its exact form, the binomial test of SciPy.

If several networks are compared with one, small p-values become likely by chance. S. Holm, "A simple sequentially
rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979), 65-70, corrects them.

`zoo.export.paired` compares a smaller file with its float32 file and decides with the interval of the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class PairedAnswers:
    """Counts the pictures by which of two networks answers correctly.

    With several labels per picture, an answer is correct if all labels are.

    Args:
        both: The number of pictures that both get right.
        only_first: The number that only the first network gets right.
        only_second: The number that only the second network gets right.
        neither: The number that both get wrong.
    """

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def pictures(self) -> int:
        """The number of pictures."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def accuracies(self) -> tuple[float, float]:
        """The accuracies of the two networks on these pictures, in 0..1."""
        return (self.both + self.only_first) / self.pictures, (self.both + self.only_second) / self.pictures

    @property
    def difference(self) -> float:
        """The accuracy of the second network minus that of the first, in -1..1."""
        return (self.only_second - self.only_first) / self.pictures

    @property
    def p_value(self) -> float:
        """The probability of counts at least as unequal as these if both networks were equally good."""
        from scipy.stats import binomtest

        differing = self.only_first + self.only_second
        return float(binomtest(self.only_first, differing, 0.5).pvalue) if differing else 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the counts and what follows from them, for a JSON file."""
        return {
            "pictures": self.pictures,
            **asdict(self),
            "accuracies": list(self.accuracies),
            "difference": self.difference,
            "p_value": self.p_value,
        }


def count(first: Sequence[bool], second: Sequence[bool]) -> PairedAnswers:
    """Count pictures by whether each of two networks answers correctly, in the same order of pictures."""
    pairs = list(zip(first, second, strict=True))
    return PairedAnswers(*(pairs.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that are corrected for the number of tests by Holm's method, in the given order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [1.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = largest
    return corrected
