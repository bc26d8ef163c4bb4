"""Splits pictures into train, validation and test parts.

A source may already have a split, for example in the form of folders train/ and test/. If the validation or test part
is missing, it is taken from the train part. It is an error if the split of a source has the same picture in two parts.

If the source has no split, the pictures of each class are divided at random. The result depends only on the pictures,
the fractions and the seed. Byte-equal pictures, and others that the caller puts into one group, are in the same part.
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
    groups: Sequence[str] | None = None,
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
        groups: A text per picture; pictures with equal texts stay together where a part is drawn. They include copies.
            None keeps copies alone together.

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
    together = digests if groups is None else groups
    strata = _strata(pictures, usable, len(classes))
    if given["train"] or given["val"] or given["test"]:
        _refuse_leaks(pictures, digests, given)
    request = _Request(given, strata, val_fraction, validation)
    parts = _draw(request, usable, digests, np.random.default_rng(seed))
    touched = set() if together is digests else _torn_strata(parts, given, digests, together, strata)
    if touched:
        # Only classes with torn groups are drawn anew, with a generator of their own: the others stay as they are.
        some = [i for i in usable if strata[i] in touched]
        drawn = _draw(request, some, together, np.random.default_rng([seed, 1]))
        parts = {name: [i for i in part if strata[i] not in touched] + drawn[name] for name, part in parts.items()}
    named = {name: parts[name] for name in PARTS if name != "val" or validation}
    lacking = _lacking(pictures, usable, len(classes), named)
    if lacking:
        raise EmptyClass(_too_few(*lacking, len(named), pictures, together, usable, classes, unreadable or {}))
    how = _describe(request, seed)
    return Split(_rising(parts["train"]), _rising(parts["val"]), _rising(parts["test"]), how)


@dataclass(frozen=True)
class _Request:
    """How the pictures are to be divided.

    Args:
        given: Maps each part to the pictures that the source puts into it. All are empty if the source has no split.
        strata: The stratum of each picture; see `_strata`.
        val_fraction: As in `split`.
        validation: As in `split`.
    """

    given: Mapping[str, Sequence[int]]
    strata: Sequence[int]
    val_fraction: float | None
    validation: bool

    @property
    def plain(self) -> bool:
        """Whether the source has no split."""
        return not any(self.given.values())

    @property
    def fraction(self) -> float:
        """The fraction of the validation part: of all pictures if the source has no split, else of the train part."""
        default = VAL_FRACTION if self.plain else VAL_FRACTION_OF_TRAIN
        return default if self.val_fraction is None else self.val_fraction


def _draw(
    request: _Request, indices: Sequence[int], together: Sequence[str], rng: np.random.Generator
) -> dict[str, list[int]]:
    """Divide some pictures into parts.

    Args:
        request: How the pictures are to be divided.
        indices: The pictures to divide.
        together: A text per picture of the source; pictures with equal texts stay together where a part is drawn.
        rng: Decides which pictures a drawn part gets.

    Returns:
        The pictures of the parts "train", "val" and "test". Without a validation part, "val" is empty.
    """
    strata, validation = request.strata, request.validation
    if request.plain:
        # The test part is the same with and without a validation part.
        train, test = _split_off(indices, TEST_FRACTION, strata, together, rng, leave=2)
        val: list[int] = []
        if validation:
            train, val = _split_off(train, request.fraction / (1 - TEST_FRACTION), strata, together, rng)
        return {"train": train, "val": val, "test": test}
    wanted = set(indices)
    train, val, test = ([i for i in request.given[part] if i in wanted] for part in PARTS)
    has_val, has_test = bool(request.given["val"]), bool(request.given["test"])
    if has_val and not validation:
        train, val = [*train, *val], []
    if not has_test:
        train, test = _split_off(train, TEST_FRACTION, strata, together, rng, leave=1 if has_val and validation else 2)
    if not has_val and validation:
        train, val = _split_off(train, request.fraction, strata, together, rng)
    return {"train": train, "val": val, "test": test}


def _describe(request: _Request, seed: int) -> str:
    """Describe how the pictures were divided, with fractions and seed."""
    if request.plain:
        if not request.validation:
            return f"train / test split {1 - TEST_FRACTION:.0%} / {TEST_FRACTION:.0%}, stratified, seed {seed}"
        shares = f"{1 - TEST_FRACTION - request.fraction:.0%} / {request.fraction:.0%} / {TEST_FRACTION:.0%}"
        return f"train / val / test split {shares}, stratified, seed {seed}"
    given, validation = request.given, request.validation
    parts = [f"{part} as given" for part in PARTS if given[part]]
    if given["val"] and not validation:
        parts = ["train and val as given", *(["test as given"] if given["test"] else [])]
    if not given["test"]:
        parts.append(f"test {TEST_FRACTION:.0%} of {'both' if given['val'] and not validation else 'train'}")
    if not given["val"] and validation:
        parts.append(f"val {request.fraction:.0%} of train")
    drawn = not given["test"] or (not given["val"] and validation)
    return ", ".join(parts) + (f", stratified, seed {seed}" if drawn else "")


def _torn_strata(
    parts: Mapping[str, Sequence[int]],
    given: Mapping[str, Sequence[int]],
    digests: Sequence[str],
    together: Sequence[str],
    strata: Sequence[int],
) -> set[int]:
    """Return the strata in which a drawn part has a picture of a group, and another part has the others.

    Args:
        parts: The pictures of each part, drawn without regard to groups.
        given: The pictures of each part that the source gives.
        digests: The sha256 of each picture.
        together: A text per picture; pictures with equal texts are a group.
        strata: The stratum of each picture.

    Returns:
        These strata, and those that share a group with one of them.
    """
    fixed = {i for name in ("val", "test") for i in given[name]}
    groups: dict[str, list[tuple[int, str]]] = {}
    for name, part in parts.items():
        for i in part:
            # A group that the source itself tears cannot be mended.
            if together[i] != digests[i] and i not in fixed:
                groups.setdefault(together[i], []).append((i, name))
    if not groups:
        return set()
    for name, part in parts.items():
        for i in part:
            if together[i] == digests[i] and together[i] in groups and i not in fixed:
                groups[together[i]].append((i, name))
    own = [{strata[i] for i, _ in members} for members in groups.values()]
    torn = [len({name for _, name in members}) > 1 for members in groups.values()]
    touched = set().union(*(each for each, is_torn in zip(own, torn, strict=True) if is_torn))
    while any(each & touched and not each <= touched for each in own):
        touched |= set().union(*(each for each in own if each & touched))
    return touched


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
    together: Sequence[str],
    usable: Sequence[int],
    classes: Sequence[str],
    unreadable: Mapping[int, str],
) -> str:
    """Return the error message for a part that lacks the classes `missing`.

    The message counts the pictures of each of these classes, and names the unreadable files of these classes. `needed`
    is the number of pictures that each class needs.
    """
    counts = {label: len({together[i] for i in usable if label in pictures[i].labels}) for label in missing}
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
    together: Sequence[str],
    rng: np.random.Generator,
    leave: int = 1,
) -> tuple[list[int], list[int]]:
    """Split off a fraction of the pictures of each stratum; see `_strata`.

    Copies and other pictures of one group stay together. If a stratum has two or more different pictures, at
    least one of them is split off.

    Args:
        indices: Indices of the pictures to divide.
        fraction: The fraction to split off, in (0, 1).
        strata: The stratum of each picture of the source.
        together: A text per picture of the source; pictures with equal texts are a group.
        rng: The random generator that decides which pictures are split off.
        leave: If a stratum has more than `leave` different pictures, at least `leave` of them stay.

    Returns:
        The indices that stay, and the indices that are split off.
    """
    copies: dict[str, list[int]] = {}
    for i in indices:
        copies.setdefault(together[i], []).append(i)
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
