"""Decides which pictures stay together in a split: copies, near-duplicates, and what a user's key joins.

Near-duplicates are linked in pairs, and chains of such links could join a whole class, as with a camera that does not
move. A group of near-duplicates may therefore hold a quarter of a class at most. Where it would be larger, weak links
are cut until it is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zoo.data.check.near import SIMILAR, Links
from zoo.data.sources import Picture

# A split into three parts needs as many groups of each class.
NEEDED = 3
# A picture that is saved more often than this is rather a scene of a camera that does not move.
MOST_COPIES = 10
LARGEST = 0.25
# The correlations below which the links of too large a group are cut, one after the other.
STRICTER = (SIMILAR, 0.96, 0.98, 0.99, 0.995, 0.999)


@dataclass(frozen=True)
class Grouping:
    """Which pictures stay together.

    Args:
        texts: A text per picture. Pictures with equal texts stay together.
        linked: The groups that near-duplicates make, each as the indices of its pictures, ascending. A group of
            byte-equal copies alone is not listed.
        cut: The number of groups that would have been too large, and of which links were cut.
    """

    texts: tuple[str, ...]
    linked: tuple[tuple[int, ...], ...]
    cut: int = 0


def group(
    pictures: Sequence[Picture],
    digests: Sequence[str],
    usable: Sequence[int],
    links: Links,
    keys: Sequence[str | None] | None = None,
) -> Grouping:
    """Decide which pictures stay together.

    Args:
        pictures: All pictures of the source.
        digests: The sha256 of each picture, in hex. Byte-equal copies stay together.
        usable: Indices of the pictures that can be decoded.
        links: The near-duplicates.
        keys: The user's key of each picture; pictures with the same key stay together. None stands for a picture
            without a key, and for no keys at all. Groups by keys may have any size.
    """
    nodes = _Union(digests, usable)
    kept, cut = _links_within_limits(pictures, nodes, links)
    for place in kept:
        nodes.join(int(links.first[place]), int(links.second[place]))
    linked = {nodes.root(int(links.first[place])) for place in kept}
    members = nodes.members()
    groups = tuple(sorted(tuple(members[root]) for root in linked))
    first: dict[str, int] = {}
    for i in usable:
        key = keys[i] if keys is not None else None
        if key is not None:
            nodes.join(first.setdefault(key, i), i)
    texts = list(digests)
    for i in usable:
        texts[i] = digests[nodes.root(i)]
    return Grouping(tuple(texts), groups, cut)


def same_pictures(digests: Sequence[str], usable: Sequence[int], links: Links) -> list[tuple[int, ...]]:
    """Return the groups of pictures that are the same picture: byte-equal, or saved again at another quality or size.

    Crops and frames of a burst do not count. If more than 10 different files look the same, only byte-equal ones count:
    they are rather frames of a camera that does not move.

    Args:
        digests: The sha256 of each picture, in hex.
        usable: Indices of the pictures that can be decoded.
        links: The near-duplicates.

    Returns:
        The groups, each as the ascending indices of at least two pictures.
    """
    nodes = _Union(digests, usable)
    for component in _components(links, np.flatnonzero(links.copy)):
        ends = {int(i) for i in np.concatenate([links.first[component], links.second[component]])}
        if len(ends) <= MOST_COPIES:
            for end in ends:
                nodes.join(min(ends), end)
    return [tuple(members) for members in nodes.members().values() if len(members) > 1]


class _Union:
    """Joins pictures to groups. The root of a group is its first picture."""

    def __init__(self, digests: Sequence[str], usable: Sequence[int]):
        self._usable = usable
        first: dict[str, int] = {}
        self._parent = {i: first.setdefault(digests[i], i) for i in usable}

    def root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        low, high = sorted((self.root(i), self.root(j)))
        self._parent[high] = low

    def members(self) -> dict[int, list[int]]:
        """Return the pictures of each group, ascending, by the root of the group."""
        found: dict[int, list[int]] = {}
        for i in self._usable:
            found.setdefault(self.root(i), []).append(i)
        return found


def _links_within_limits(pictures: Sequence[Picture], nodes: _Union, links: Links) -> tuple[npt.NDArray[np.int64], int]:
    """Return the places of the links that stay, and the number of groups that lost links."""
    if not len(links):
        return np.zeros(0, np.int64), 0
    copies = nodes.members()
    counts = Counter(label for members in copies.values() for i in members for label in pictures[i].labels)
    limits = {label: max(2, int(LARGEST * count)) for label, count in counts.items()}
    kept, waiting, cut = [], [(np.arange(len(links)), 0)], 0
    while waiting:
        places, step = waiting.pop()
        for component in _components(links, places):
            ends = {int(i) for i in np.concatenate([links.first[component], links.second[component]])}
            held = Counter(label for end in ends for i in copies[end] for label in pictures[i].labels)
            if all(count <= limits[label] for label, count in held.items()):
                kept.append(component)
                continue
            cut += step == 0
            if step + 1 < len(STRICTER):
                waiting.append((component[links.score[component] >= STRICTER[step + 1]], step + 1))
    stay = np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64)
    scarce = _scarce_classes(pictures, copies, links, stay)
    if scarce:
        rare = [
            bool(scarce & {*pictures[int(links.first[k])].labels, *pictures[int(links.second[k])].labels}) for k in stay
        ]
        cut += len(_components(links, stay[np.array(rare)]))
        stay = stay[~np.array(rare)]
    return stay, cut


def _components(links: Links, places: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Divide links into connected components, each as an array of places."""
    if not len(places):
        return []
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    nodes, ends = np.unique(np.concatenate([links.first[places], links.second[places]]), return_inverse=True)
    first, second = ends[: len(places)], ends[len(places) :]
    matrix = coo_matrix((np.ones(len(places), np.int8), (first, second)), shape=(len(nodes), len(nodes)))
    component = connected_components(matrix, directed=False)[1][first]
    order = np.argsort(component, kind="stable")
    bounds = np.flatnonzero(np.diff(component[order])) + 1
    return [np.sort(part) for part in np.split(places[order], bounds)]


def _scarce_classes(
    pictures: Sequence[Picture], copies: dict[int, list[int]], links: Links, places: npt.NDArray[np.int64]
) -> set[int]:
    """Return the classes that links leave with too few groups for a split, although they have enough pictures."""
    before = Counter(label for root in copies for label in pictures[root].labels)
    joined = Counter(before)
    for component in _components(links, places):
        ends = {int(i) for i in np.concatenate([links.first[component], links.second[component]])}
        for label, count in Counter(label for end in ends for label in pictures[end].labels).items():
            joined[label] -= count - 1
    return {label for label, count in joined.items() if count < NEEDED <= before[label]}
