"""Splits pictures into train, validation and test parts.

A source may already have a split, for example in the form of folders train/ and test/. If the validation or test part
is missing, it is taken from the train part. It is an error if the split of a source has the same picture in two parts.

If the source has no split, the pictures of each class are divided at random. The result depends only on the pictures,
the fractions and the seed. Byte-equal pictures are always in the same part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zoo.data.pixels import named_files
from zoo.data.sources import Picture
from zoo.errors import EmptyClass, SplitLeak, UsageError

PARTS = ("train", "val", "test")
TEST_FRACTION = 0.15
VAL_FRACTION = 0.15
VAL_FRACTION_OF_TRAIN = 0.10
# How many classes an error message names.
NAMED_CLASSES = 5


@dataclass(frozen=True)
class Split:
    """Holds the indices of the pictures in each part, as int64 arrays, ascending.

    The indices refer to the pictures of the source.

    Args:
        train: Pictures to train on.
        val: Pictures for early stopping and for the choice of the best epoch. Empty if a run decides by
            cross-validation over the train part.
        test: Pictures for the final metrics. Training never uses them.
        how: A description of how the split was made, including fractions and seed.
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
    validation: bool = True,
    unreadable: Mapping[int, str] | None = None,
) -> Split:
    """Split pictures into train, validation and test parts.

    If the source has no split, 15 % of all pictures become the test part. If the source has a split, its validation and
    test parts are not changed, and a missing part is taken from the train part. A missing test part then gets 15 % of
    the train part.

    Args:
        pictures: All pictures of the source.
        digests: The sha256 of each picture, in hex. Pictures with equal digests are copies of each other.
        usable: Indices of the pictures that can be decoded. The others are in no part.
        classes: Class names.
        seed: The seed of the random choice.
        val_fraction: The size of the validation part, in (0, 1). If the source has no split, it is a fraction of all
            pictures, and None means 15 %. If the source has a split without a validation part, it is a fraction of
            the train part, and None means 10 %. If the test part is missing too, it is taken from the train part first.
        validation: False makes no validation part. If the source has one, its pictures join the train part.
        unreadable: Maps the index of each unreadable picture to the reason, for error messages. None names no files.

    Returns:
        The split. Every part that is made has a picture of every class. In multi-label data, this is certain only for
        the train part.

    Raises:
        SplitLeak: The split of the source has the same picture in two parts.
        EmptyClass: A class has too few pictures.
        UsageError: `val_fraction` is given, but the source already has a validation part.
    """
    given = {part: [i for i in usable if pictures[i].split == part] for part in PARTS}
    if given["val"] and val_fraction is not None:
        raise UsageError("--val-split cannot be used here, because the data already have a validation part. Omit it.")
    rng = np.random.default_rng(seed)
    strata = _strata(pictures, usable, len(classes))
    if all(picture.split is None for picture in pictures):
        # The test part is the same with and without a validation part.
        rest, test = _split_off(usable, TEST_FRACTION, strata, digests, rng, leave=2)
        train, val = rest, list[int]()
        how = f"train / test split {1 - TEST_FRACTION:.0%} / {TEST_FRACTION:.0%}, stratified, seed {seed}"
        if validation:
            val_fraction = VAL_FRACTION if val_fraction is None else val_fraction
            train, val = _split_off(rest, val_fraction / (1 - TEST_FRACTION), strata, digests, rng)
            shares = f"{1 - TEST_FRACTION - val_fraction:.0%} / {val_fraction:.0%} / {TEST_FRACTION:.0%}"
            how = f"train / val / test split {shares}, stratified, seed {seed}"
    else:
        _refuse_leaks(pictures, digests, given)
        train, val, test = given["train"], given["val"], given["test"]
        parts = [f"{part} as given" for part in ("train", "val", "test") if given[part]]
        if val and not validation:
            train, val, parts = [*train, *val], [], ["train and val as given", *(["test as given"] if test else [])]
        if not test:
            train, test = _split_off(train, TEST_FRACTION, strata, digests, rng, leave=1 if val else 2)
            parts.append(f"test {TEST_FRACTION:.0%} of train")
        if not val and validation:
            fraction = VAL_FRACTION_OF_TRAIN if val_fraction is None else val_fraction
            train, val = _split_off(train, fraction, strata, digests, rng)
            parts.append(f"val {fraction:.0%} of train")
        drawn = not given["test"] or (not given["val"] and validation)
        how = ", ".join(parts) + (f", stratified, seed {seed}" if drawn else "")
    parts_by_name = {"train": train, **({"val": val} if validation else {}), "test": test}
    lacking = _lacking(pictures, usable, len(classes), parts_by_name)
    if lacking:
        needed = len(parts_by_name)
        raise EmptyClass(_too_few(*lacking, needed, pictures, digests, usable, classes, unreadable or {}))
    return Split(_rising(train), _rising(val), _rising(test), how)


def _lacking(
    pictures: Sequence[Picture], usable: Sequence[int], classes: int, parts: Mapping[str, Sequence[int]]
) -> tuple[str, list[int]] | None:
    """Return the first part that lacks a required class, and the indices of the classes that it lacks.

    In multi-label data, only the train part must have every class. The validation and test parts may lack a rare class.
    Metrics that are averaged over classes then leave this class out.

    Args:
        pictures: All pictures of the source.
        usable: Indices of the pictures that can be decoded.
        classes: The number of classes.
        parts: Maps the name of each part to the indices of its pictures.

    Returns:
        The name of the part and the indices of the missing classes, ascending. None if no part lacks a required class.
    """
    multilabel = any(len(pictures[i].labels) != 1 for i in usable)
    for name, part in parts.items():
        missing = set(range(classes)) - {label for i in part for label in pictures[i].labels}
        if missing and (name == "train" or not multilabel):
            return name, sorted(missing)
    return None


def _too_few(
    part: str,
    missing: Sequence[int],
    needed: int,
    pictures: Sequence[Picture],
    digests: Sequence[str],
    usable: Sequence[int],
    classes: Sequence[str],
    unreadable: Mapping[int, str],
) -> str:
    """Return the error message for a part that lacks the classes `missing`.

    The message counts the pictures of each of these classes, and names the unreadable files of these classes. `needed`
    is the number of pictures that each class needs.
    """
    counts = {label: len({digests[i] for i in usable if label in pictures[i].labels}) for label in missing}
    scarce = [label for label in missing if counts[label] < needed]
    # A split that the user gives can leave a class out of a part although the class has many pictures.
    others = [classes[label] for label in missing if label not in scarce]
    texts = []
    for label in scarce[:NAMED_CLASSES]:
        has = {0: "no picture", 1: "1 picture"}.get(counts[label], f"{counts[label]} different pictures")
        texts.append(f"class {classes[label]!r} has {has} that can be read, and needs {needed}")
    if len(scarce) > NAMED_CLASSES:
        texts.append(f"{len(scarce) - NAMED_CLASSES} more classes have too few")
    if others:
        texts.append(
            f"the {'validation' if part == 'val' else part} part has no picture of {', '.join(others)} that can be read"
        )
    files = {pictures[i].name: why for i, why in sorted(unreadable.items()) if set(pictures[i].labels) & set(missing)}
    named = f" These files cannot be read: {named_files(files)}." if files else ""
    return f"{'; '.join(texts)}.{named} Add pictures, or remove the class."


def _rising(indices: Sequence[int]) -> np.ndarray:
    return np.array(sorted(indices), dtype=np.int64)


def _strata(pictures: Sequence[Picture], usable: Sequence[int], classes: int) -> list[int]:
    """Return the stratum of each picture, as a number.

    A stratum is a group of pictures from which every part receives a share. Its number is the index of the class that
    the pictures have. A picture of several classes belongs to the stratum of the rarest class. A picture without a
    class belongs to the stratum with the number `classes`.
    """
    counts = Counter(label for i in usable for label in pictures[i].labels)
    return [min(picture.labels, key=lambda label: (counts[label], label), default=classes) for picture in pictures]


def _split_off(
    indices: Sequence[int],
    fraction: float,
    strata: Sequence[int],
    digests: Sequence[str],
    rng: np.random.Generator,
    leave: int = 1,
) -> tuple[list[int], list[int]]:
    """Split off a fraction of the pictures of each stratum; see `_strata`.

    Byte-equal pictures are copies of each other and stay together. If a stratum has two or more different pictures, at
    least one of them is split off.

    Args:
        indices: Indices of the pictures to divide.
        fraction: The fraction to split off, in (0, 1).
        strata: The stratum of each picture of the source.
        digests: The sha256 of each picture of the source, in hex.
        rng: The random generator that decides which pictures are split off.
        leave: If a stratum has more than `leave` different pictures, at least `leave` of them stay.

    Returns:
        The indices that stay, and the indices that are split off.
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
        room = min(max(1, round(count * fraction)), count - 1)
        stay: list[list[int]] = []
        go: list[list[int]] = []
        for group in shuffled:
            # The copies of one picture could fill a small part. They stay in the larger part, where they fit.
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
    """Check that the split of a source does not have the same picture in two parts.

    Args:
        pictures: All pictures of the source.
        digests: The sha256 of each picture, in hex.
        given: Maps each part to the indices of its pictures.

    Raises:
        SplitLeak: A picture is in two parts.
    """
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
            f"{_pictures_are(len(shared))} in two parts of the given split: {'; '.join(shared[:5])}{more}. "
            "Figures on pictures that the network was trained on are too good. Remove the copies from one part."
        )


def _pictures_are(count: int) -> str:
    return "1 picture is" if count == 1 else f"{count} pictures are"
