"""Which picture serves what: train, validation, test. Stratified, seeded, and honest.

Byte-equal pictures never stand on two sides of an automatic split; a given split that shares a picture between sides
is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoo.data.sources import Picture
from zoo.errors import EmptyClass, SplitLeak, UsageError

PARTS = ("train", "val", "test")
TEST_FRACTION = 0.15
VAL_FRACTION = 0.15
VAL_FRACTION_OF_TRAIN = 0.10


@dataclass(frozen=True)
class Split:
    """Indices into a source's pictures, int64 arrays in rising order.

    Args:
        train: What the network learns from.
        val: What early stopping and the choice of the best epoch look at.
        test: What is looked at once, at the end.
        how: What decided it, in words.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    how: str


def split(
    pictures: Sequence[Picture],
    digests: Sequence[str],
    usable: Sequence[int],
    classes: Sequence[str],
    *,
    seed: int,
    val_fraction: float | None = None,
) -> Split:
    """Divide pictures.

    Args:
        pictures: All pictures of the source.
        digests: sha256 of each.
        usable: Indices of those that can be decoded.
        classes: Class names.
        seed: Of the automatic part.
        val_fraction: Fraction taken as validation, in (0, 1); None means 15 % of a plain folder and 10 % of a given
            train.

    Returns:
        The split; every class has a picture in each part, or of multi-label data at least in train.

    Raises:
        SplitLeak: A given split has the same picture on two sides.
        EmptyClass: A class has too few pictures.
        UsageError: A share is asked for, and the data bring validation pictures.
    """
    given = {part: [i for i in usable if pictures[i].split == part] for part in PARTS}
    if given["val"] and val_fraction is not None:
        raise UsageError("--val-split cannot be used here: the data bring validation pictures of their own.")
    rng = np.random.default_rng(seed)
    strata = _strata(pictures, usable, len(classes))
    if all(picture.split is None for picture in pictures):
        val_fraction = VAL_FRACTION if val_fraction is None else val_fraction
        rest, test = _take(usable, TEST_FRACTION, strata, digests, rng, leave=2)
        train, val = _take(rest, val_fraction / (1 - TEST_FRACTION), strata, digests, rng)
        shares = f"{1 - TEST_FRACTION - val_fraction:.0%} / {val_fraction:.0%} / {TEST_FRACTION:.0%}"
        how = f"train / val / test split {shares}, stratified, seed {seed}"
    else:
        _refuse_leaks(pictures, digests, given)
        train, val, test = given["train"], given["val"], given["test"]
        parts = [f"{part} as given" for part in ("train", "val", "test") if given[part]]
        if not test:
            train, test = _take(train, TEST_FRACTION, strata, digests, rng, leave=1 if val else 2)
            parts.append(f"test {TEST_FRACTION:.0%} of train")
        if not val:
            share = VAL_FRACTION_OF_TRAIN if val_fraction is None else val_fraction
            train, val = _take(train, share, strata, digests, rng)
            parts.append(f"val {share:.0%} of train")
        how = ", ".join(parts) + ("" if len(parts) == 3 and all(given.values()) else f", stratified, seed {seed}")
    for name, part in (("train", train), ("val", val), ("test", test)):
        missing = set(range(len(classes))) - {label for i in part for label in pictures[i].labels}
        if missing and name != "train" and any(len(pictures[i].labels) != 1 for i in usable):
            # Of several labels a rare one need not be everywhere; figures leave it out where it is not.
            continue
        if missing:
            names = ", ".join(classes[label] for label in sorted(missing))
            raise EmptyClass(
                f"the {name} part has no picture of {names}: each class needs at least three different pictures "
                "that can be read. Add pictures, or remove the class."
            )
    return Split(*(np.array(sorted(part), dtype=np.int64) for part in (train, val, test)), how)


def _strata(pictures: Sequence[Picture], usable: Sequence[int], classes: int) -> list[int]:
    """The class by which each picture is divided: its own; of several, the rarest; of none, a stratum of its own."""
    counts = Counter(label for i in usable for label in pictures[i].labels)
    return [min(picture.labels, key=lambda label: (counts[label], label), default=classes) for picture in pictures]


def _take(
    indices: Sequence[int],
    share: float,
    strata: Sequence[int],
    digests: Sequence[str],
    rng: np.random.Generator,
    leave: int = 1,
) -> tuple[list[int], list[int]]:
    """Split off a share of every stratum; copies of a picture move together.

    A stratum with two different pictures or more gives one at least, and keeps `leave` of them if it has more than
    that.
    """
    copies: dict[str, list[int]] = {}
    for i in indices:
        copies.setdefault(digests[i], []).append(i)
    groups: list[list[list[int]]] = [[] for _ in range(max(strata, default=0) + 1)]
    for group in copies.values():
        groups[strata[group[0]]].append(group)
    kept: list[int] = []
    taken: list[int] = []
    for own in groups:
        shuffled = [own[position] for position in rng.permutation(len(own))]
        count = sum(map(len, own))
        room = min(max(1, round(count * share)), count - 1)
        stay: list[list[int]] = []
        go: list[list[int]] = []
        for group in shuffled:
            # A picture with many copies would fill a small part alone; it stays where there is room.
            fits = len(group) <= room and len(own) - len(go) > leave
            room -= len(group) if fits else 0
            (go if fits else stay).append(group)
        if not go and len(stay) > 1:
            go = [min(stay, key=len)]
            stay.remove(go[0])
        kept += [i for group in stay for i in group]
        taken += [i for group in go for i in group]
    return kept, taken


def _refuse_leaks(pictures: Sequence[Picture], digests: Sequence[str], given: dict[str, list[int]]) -> None:
    seen: dict[str, tuple[str, int]] = {}
    shared = []
    for part, indices in given.items():
        for i in indices:
            other, first = seen.setdefault(digests[i], (part, i))
            if other != part:
                shared.append(f"{pictures[first].name} ({other}) = {pictures[i].name} ({part})")
    if shared:
        more = f" and {len(shared) - 5} more" if len(shared) > 5 else ""
        raise SplitLeak(
            f"{len(shared)} pictures stand in two parts of the given split: {'; '.join(shared[:5])}{more}. "
            "A test on pictures that were trained on measures memory; remove them from one side."
        )
