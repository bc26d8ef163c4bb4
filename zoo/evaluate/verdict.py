"""Judges whether a network has learned anything, from its probabilities on pictures that it was not trained on.

`zoo.evaluate.metrics` computes the figures themselves, and `zoo.workflow.export` acts on the verdict.

A network has learned nothing in two cases:

- It gives the same answer for all pictures, although at least `FEWEST_OTHERS` of them have another true answer. A
  network that recognizes 63 % of those or more misses all three in less than 5 % of cases.
- More than a quarter of all shuffles of the true classes fit its probabilities as well as the true classes do (a
  one-sided permutation test, see P. Good, "Permutation, Parametric, and Bootstrap Tests of Hypotheses", 3rd edition,
  2005). The test uses probabilities and not only answers, because that needs fewer pictures.

A quarter is more than the usual 5 %, because refusing a network of some use costs its user more than exporting a
useless one with a warning. Between 5 % and a quarter there is only a warning.

Both levels are halved for pictures of a cross-validation by which the head was chosen. On random features and random
labels, 4 to 13 % of such heads pass the level of 5 %, and 25 to 35 % the level of a quarter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.data.combinations import combinations
from zoo.evaluate import metrics

# Above this p-value, a warning says that a result may be chance.
LEVEL = 0.05
# Above this p-value of the permutation test, the network has learned nothing.
REFUSAL = 0.25
SHUFFLES = 999
# With fewer different ways to assign the true classes to the pictures, nothing is refused. 4 pictures of each of two
# classes give 70 ways, and 5 of each give 252.
FEWEST_WAYS = 200
FEWEST_OTHERS = 3
# A warning names at most this many classes.
NAMED = 5


@dataclass(frozen=True)
class Verdict:
    """Says whether a network has learned anything, and what a user should know about its answers.

    Args:
        learned: False if the network has learned nothing.
        warnings: Texts for the user. Each one names a remedy. If `learned` is False, the first one says why.
    """

    learned: bool
    warnings: tuple[str, ...]


def judge(
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    *,
    multilabel: bool = False,
    balanced: bool = False,
    solved: bool = False,
    chosen: bool = False,
) -> Verdict:
    """Judge a network by its probabilities on held-out pictures.

    Args:
        probabilities: The network's output, a float array (N, classes) in 0..1.
        targets: The true classes, a float array (N, classes): 1 if the picture has the class, else 0.
        classes: Class names, in the order of the columns.
        multilabel: Whether a picture may have several classes, or none.
        balanced: Whether the training gave every class the same weight. If True, no remedy is `--balance`.
        solved: Whether the head was solved and no other layers were trained. If True, no remedy is a number of epochs
            or a learning rate, because there are none.
        chosen: Whether the head was chosen by some of these pictures, as in a cross-validation.

    Returns:
        The verdict. Its warnings say if

        - the network has learned nothing or may have learned nothing, or the pictures are too few to tell
        - its answers are not better than always giving the most frequent answer (one-sided binomial test)
        - it recognizes no picture of a class
    """
    figures = metrics.measure(probabilities, targets, classes, multilabel=multilabel)
    advice = _advice(figures, balanced, solved)
    constant = _constant_answer(probabilities, targets, classes, multilabel)
    if constant:
        return Verdict(False, (f"{constant} {advice}",))
    count = f"{len(targets)} held-out pictures"
    warnings, learned = [], True
    if _ways(targets) < FEWEST_WAYS:
        warnings.append(f"{count} are too few to tell whether the network has learned anything. Add pictures.")
    else:
        p_value = shuffled_fit(probabilities, targets)
        share = 0.5 if chosen else 1.0
        learned = p_value <= share * REFUSAL
        if p_value > share * LEVEL:
            verdict = "may do no better than chance" if learned else "does no better than chance"
            warnings.append(
                f"the network {verdict}: if the true classes are shuffled among the {count}, "
                f"{100 * p_value:.0f} % of the shuffles fit its answers as well. {advice}"
            )
    if not warnings:
        warnings += _majority_warning(figures, targets, classes, multilabel, advice)
    return Verdict(learned, (*warnings, *_recall_warning(figures, advice)))


def shuffled_fit(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Compute the p-value of a one-sided permutation test: do the probabilities fit the pictures' own true classes?

    The statistic is the sum of the probabilities of the true classes. The shuffles are the same in every call.

    Args:
        probabilities: A float array (N, classes) in 0..1.
        targets: The true classes, a float array (N, classes).

    Returns:
        The fraction of shuffles of the true classes among the pictures that fit at least as well, in (0, 1].
    """
    pictures = np.arange(len(targets))
    if (targets.sum(axis=1) == 1).all():
        fits, labels = probabilities, targets.argmax(axis=1)
    else:
        rows, labels, _ = combinations(targets)
        # The sum for every picture (row) and every combination of true classes that occurs (column).
        fits = probabilities @ rows.T
    own = fits[pictures, labels].sum()
    generator = np.random.default_rng(0)
    shuffled = [fits[pictures, generator.permutation(labels)].sum() for _ in range(SHUFFLES)]
    # Equal sums can differ by rounding errors.
    return float((1 + np.count_nonzero(np.array(shuffled) >= own - 1e-9 * len(targets))) / (1 + SHUFFLES))


def _ways(targets: np.ndarray) -> float:
    """Return in how many different ways the true classes can be assigned to the pictures; infinity if too many."""
    counts = combinations(targets)[2]
    logarithm = math.lgamma(len(targets) + 1) - sum(math.lgamma(int(count) + 1) for count in counts)
    return math.exp(logarithm) if logarithm < 100 else math.inf


def _constant_answer(
    probabilities: np.ndarray, targets: np.ndarray, classes: Sequence[str], multilabel: bool
) -> str | None:
    """Return a sentence if the network gives the same answer for all pictures but many have another, else None."""
    answers = probabilities >= 0.5 if multilabel else np.eye(len(classes), dtype=bool)[probabilities.argmax(axis=1)]
    others = int(((targets > 0.5) != answers[0]).any(axis=1).sum())
    if (answers != answers[0]).any() or others < FEWEST_OTHERS:
        return None
    names = [name for name, named in zip(classes, answers[0], strict=True) if named]
    answer = " and ".join(map(repr, names)) or "no class"
    return (
        f"the network has learned nothing of use: it names {answer} for all {len(targets)} held-out "
        f"pictures, but that is wrong for {others} of them."
    )


def _majority_warning(
    figures: dict[str, Any], targets: np.ndarray, classes: Sequence[str], multilabel: bool, advice: str
) -> list[str]:
    """Return a warning if the answers are not better than always giving the most frequent answer, else nothing."""
    from scipy.stats import binomtest

    rows, _, counts = combinations(targets)
    share = float(counts.max() / len(targets))
    correct = round(figures["exact_match" if multilabel else "accuracy"] * len(targets))
    if share == 1 or binomtest(correct, len(targets), share, alternative="greater").pvalue <= LEVEL:
        return []
    names = [name for name, has in zip(classes, rows[counts.argmax()], strict=True) if has > 0.5]
    return [
        f"on the held-out pictures, {metrics.accuracy_text(figures)} is not clearly better than always "
        f"naming {' and '.join(map(repr, names)) or 'no class'}, which is right for {share:.2f} of them. {advice}"
    ]


def _recall_warning(figures: dict[str, Any], advice: str) -> list[str]:
    """Return a warning if there are classes of which no picture is recognized, else nothing."""
    rows = figures["per_class"].items()
    missed = [
        f"{name!r} ({row['pictures']} picture{'s' * (row['pictures'] > 1)})"
        for name, row in rows
        if row["pictures"] and not row["recall"]
    ]
    if not missed:
        return []
    more = f" and {len(missed) - NAMED} more classes" if len(missed) > NAMED else ""
    return [f"no held-out picture is recognized of {', '.join(missed[:NAMED])}{more}. {advice}"]


def _advice(figures: dict[str, Any], balanced: bool, solved: bool) -> str:
    """Return a sentence with the remedies.

    It names `--balance` only if a class has 1.5 times as many pictures as another one.
    """
    counts = [row["pictures"] for row in figures["per_class"].values()]
    balance = "try --balance, " if max(counts) >= 1.5 * min(counts) and not balanced else "try "
    other = "another network or --schedule fine-tune" if solved else "another --learning-rate or more --epochs"
    return f"Check the labels, {balance}{other}, or add pictures."
