"""Computes the figures of single classes with their intervals, and the most frequent confusions, from counts.

`zoo.evaluate.metrics` computes the counts and the plain figures. Nothing here needs a picture or a network.

The interval of F1 is the "Wilson indirect" interval of Lam et al. 2023, https://arxiv.org/abs/2309.14621: hits divided
by the pictures that have the class or were given it is a fraction with a Wilson interval, and F1 follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.evaluate.metrics import interval


def counts_of_matrix(matrix: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """Return (hits, said, true) for each class.

    Args:
        matrix: Counts of pictures. Rows are true classes, and columns are predicted ones.

    Returns:
        Per class, how many of its pictures were recognized, how many pictures were given this class, and how many have
        it.
    """
    said = [sum(column) for column in zip(*matrix, strict=True)]
    return [(row[i], said[i], sum(row)) for i, row in enumerate(matrix)]


def counts_of_labels(rows: Sequence[Mapping[str, str]], classes: Sequence[str]) -> list[tuple[int, int, int]] | None:
    """Return (hits, said, true) for each class, from pictures with several labels.

    Args:
        rows: Rows of predictions.csv. `class` and `predicted` are names of classes, separated by semicolons.
        classes: The names of all classes.

    Returns:
        The counts, as in `counts_of_matrix`. None if there are no rows, or if a name is not a name of a class, which
        happens if a name has a semicolon.
    """
    known = set(classes)
    truth = [set(filter(None, row["class"].split(";"))) for row in rows]
    said = [set(filter(None, row["predicted"].split(";"))) for row in rows]
    if not rows or not set().union(*truth, *said) <= known:
        return None
    pairs = list(zip(truth, said, strict=True))

    def counts(name: str) -> tuple[int, int, int]:
        hits = sum(name in true and name in given for true, given in pairs)
        return hits, sum(name in given for given in said), sum(name in true for true in truth)

    return [counts(name) for name in classes]


def counts_of_figures(per_class: Mapping[str, Mapping[str, float]]) -> list[tuple[int, int | None, int]]:
    """Return (hits, said, true) for each class, from its precision and recall.

    `said` is None if the class has no hits: a precision of 0 does not say how often the class was given.

    Args:
        per_class: The entry of metrics.json, see `zoo.evaluate.metrics.measure`.
    """
    counts: list[tuple[int, int | None, int]] = []
    for row in per_class.values():
        true = int(row["pictures"])
        hits = round(row["recall"] * true)
        counts.append((hits, round(hits / row["precision"]) if hits and row["precision"] else None, true))
    return counts


def class_figures(classes: Sequence[str], counts: Sequence[tuple[int, int | None, int]]) -> list[dict[str, Any]]:
    """Return the figures of each class, with 95 % confidence intervals.

    Args:
        classes: The names of the classes.
        counts: (hits, said, true) per class; `said` is None if it is not known.

    Returns:
        Per class: `name`, `hits`, `said`, `pictures`, and `precision`, `recall` and `f1`, each with its interval, such
        as `precision_interval`. A figure and its interval are None if they are not defined: the precision of a class
        that was never given, or the recall of a class without pictures.
    """
    rows = []
    for name, (hits, said, true) in zip(classes, counts, strict=True):
        union = None if said is None else said + true - hits
        shared = _fraction(hits, union)
        rows.append(
            {
                "name": name,
                "hits": hits,
                "said": said,
                "pictures": true,
                **_figure("precision", _fraction(hits, said)),
                **_figure("recall", _fraction(hits, true)),
                **_figure("f1", shared and [2 * value / (1 + value) for value in shared]),
            }
        )
    return rows


def _fraction(hits: int, of: int | None) -> list[float] | None:
    """Return a fraction and the bounds of its interval; None if there is nothing to divide by."""
    return [hits / of, *interval(hits / of, of)] if of else None


def _figure(name: str, values: list[float] | None) -> dict[str, Any]:
    """Return the entries of a figure and its interval."""
    return {name: values[0] if values else None, f"{name}_interval": values[1:] if values else None}


def confusions(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Return the pairs of classes that were confused, the most frequent ones first.

    Args:
        classes: The names of the classes.
        matrix: Counts of pictures. Rows are true classes, and columns are predicted ones.

    Returns:
        Per pair: `truth` and `said` (names), `row` and `column` (their places), `count`, and `fraction`, which is the
        count divided by the pictures of the true class. Pairs with equal counts are ordered by their fraction.
    """
    found = [
        {
            "truth": classes[i],
            "said": classes[j],
            "row": i,
            "column": j,
            "count": count,
            "fraction": count / sum(row),
        }
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if count and i != j
    ]
    return sorted(found, key=lambda each: (-each["count"], -each["fraction"], each["row"], each["column"]))
