"""Chooses a network among several whose answers to the same held-out pictures are known.

A network that is not worse than the best one by more than one standard error of the difference counts as equally good,
and the fastest of these is chosen: the rule of one standard error of Breiman, Friedman, Olshen and Stone,
"Classification and Regression Trees" (1984), for the smallest tree. `zoo.evaluate.standing` computes the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from zoo.evaluate.standing import EQUAL, standing

# Networks that are behind the best one by no more than this many standard errors may still win after fine-tuning.
OPEN = 2.0


@dataclass(frozen=True)
class Contender:
    """A network that can be chosen.

    Args:
        name: Its name.
        right: For each held-out picture, how right its answer is; see `zoo.evaluate.standing.standing`.
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
        ValueError: There is no network, or one that has answered no picture.
    """
    costs = {each.name: (each.milliseconds, each.bytes) for each in contenders}
    found = standing({each.name: each.right for each in contenders}, costs)
    ordered = sorted(found.behind, key=lambda name: (costs[name], name))

    def within(errors: float) -> list[str]:
        return [name for name in ordered if found.behind[name][0] <= errors * found.behind[name][1]]

    take = within(EQUAL)[0]
    near = within(OPEN)
    return Choice(found.best, take, tuple(name for name in ordered if name in near or name == take), found.behind)
