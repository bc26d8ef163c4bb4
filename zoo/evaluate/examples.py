"""Chooses pictures that show how a network answers: its worst mistakes, right answers, and similar training pictures.

Everything here works on arrays. `zoo.workflow.report_data` adds the pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MISTAKES, RIGHT = 12, 6
NEAREST = 3
# So many training pictures are compared at once, so that memory holds few copies of their features.
BLOCK = 4096
# A class is said from this probability on, if a picture may have several.
THRESHOLD = 0.5


@dataclass(frozen=True)
class Example:
    """Describes the answer for one picture.

    Args:
        place: The index of the picture among those that were evaluated.
        label: The class that the example is about: the class that was said. If a picture may have several classes, the
            one about which the network is wrong and most sure, or, if it is right, the surest one that was said.
        said: The classes that the network said.
        confidence: How sure the network is of its decision about `label`, in 0..1.
        true_probability: The probability that the network gives to the truth: that of the true class, or, if a picture
            may have several classes, that of the right decision about `label`.
    """

    place: int
    label: int
    said: tuple[int, ...]
    confidence: float
    true_probability: float


def choose(
    likely: npt.NDArray[Any], targets: npt.NDArray[Any], digests: Sequence[str], *, multilabel: bool
) -> tuple[list[Example], list[Example]]:
    """Choose the mistakes of which the network is surest, and right answers.

    Args:
        likely: Probabilities, (pictures, classes).
        targets: The true classes, (pictures, classes): 1 if the picture has the class, else 0.
        digests: The digest of each picture. Of pictures with the same one, at most one is chosen.
        multilabel: Whether a picture may have several classes, or none.

    Returns:
        At most 12 mistakes, the surest first; and at most 6 right answers, of different classes where possible: half of
        the surest, then half of the least sure.
    """
    about = _decisions if multilabel else _classes
    examples, right = about(np.asarray(likely, np.float64), np.asarray(targets) > 0.5)
    order = sorted(examples, key=lambda each: (-each.confidence, each.place))
    mistakes = _distinct((each for each in order if not right[each.place]), digests)[:MISTAKES]
    correct = _distinct((each for each in order if right[each.place]), digests)
    surest = _of_different_classes(correct, RIGHT // 2, ())
    rest = [each for each in reversed(correct) if each not in surest]
    return mistakes, surest + _of_different_classes(rest, RIGHT - len(surest), surest)


def _classes(likely: npt.NDArray[Any], truth: npt.NDArray[np.bool_]) -> tuple[list[Example], list[bool]]:
    """Return an example for each picture that has one class, and whether the answer is right."""
    said, true = likely.argmax(axis=1), truth.argmax(axis=1)
    examples = [
        Example(i, int(said[i]), (int(said[i]),), float(likely[i, said[i]]), float(likely[i, true[i]]))
        for i in range(len(likely))
    ]
    return examples, (said == true).tolist()


def _decisions(likely: npt.NDArray[Any], truth: npt.NDArray[np.bool_]) -> tuple[list[Example], list[bool]]:
    """Return an example for each picture that may have several classes, and whether all decisions are right."""
    decided = likely >= THRESHOLD
    sure = np.maximum(likely, 1 - likely)
    wrong = decided != truth
    examples = []
    for i in range(len(likely)):
        shown = wrong[i] if wrong[i].any() else decided[i] if decided[i].any() else np.ones_like(wrong[i])
        label = int(np.where(shown, sure[i] if wrong[i].any() else likely[i], -1).argmax())
        said = tuple(int(place) for place in np.argsort(-likely[i], kind="stable") if decided[i, place])
        right = float(likely[i, label] if truth[i, label] else 1 - likely[i, label])
        examples.append(Example(i, label, said, float(sure[i, label]), right))
    return examples, (~wrong.any(axis=1)).tolist()


def _distinct(examples: Iterable[Example], digests: Sequence[str]) -> list[Example]:
    """Return the first example of each picture; copies have the same digest."""
    first: dict[str, Example] = {}
    for each in examples:
        first.setdefault(digests[each.place], each)
    return list(first.values())


def _of_different_classes(examples: Sequence[Example], count: int, others: Sequence[Example]) -> list[Example]:
    """Return the first examples of different classes. If these are too few, more of the same classes follow."""
    chosen: list[Example] = []
    known = {each.label for each in others}
    for each in examples:
        if each.label not in known:
            chosen.append(each)
            known.add(each.label)
    chosen = chosen[:count]
    chosen += [each for each in examples if each not in chosen][: count - len(chosen)]
    return [each for each in examples if each in chosen]


def nearest(
    features: npt.NDArray[Any], training: Sequence[npt.NDArray[Any]], digests: Sequence[str], count: int = NEAREST
) -> list[list[tuple[int, float]]]:
    """Find the training pictures whose features have the largest cosine with those of each picture.

    Args:
        features: (pictures, n).
        training: The features of the training pictures, in groups that stand beside each other: each (training
            pictures, a part of n).
        digests: The digest of each training picture. Of pictures with the same one, the first is returned.
        count: How many to return.

    Returns:
        For each picture, (index of the training picture, cosine), the most similar first.
    """
    found = []
    units = _unit(features)
    blocks = [slice(start, start + BLOCK) for start in range(0, len(digests), BLOCK)]
    cosines = np.concatenate(
        [units @ _unit(np.concatenate([group[each] for group in training], axis=1)).T for each in blocks]
        or [np.zeros((len(units), 0))],
        axis=1,
    )
    for row in cosines:
        chosen: dict[str, tuple[int, float]] = {}
        for place in np.argsort(-row, kind="stable"):
            chosen.setdefault(digests[place], (int(place), float(row[place])))
            if len(chosen) == count:
                break
        found.append(list(chosen.values()))
    return found


def _unit(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    array = np.asarray(values, np.float32)
    return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)
