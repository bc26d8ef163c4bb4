"""The pictures that show how a network answers, chosen from arrays."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.evaluate import examples


def likely_of(labels, sure, classes=3):
    """Return probabilities that give the label its probability, and share the rest between the other classes."""
    rows = np.full((len(labels), classes), 0.0)
    for row, label, value in zip(rows, labels, sure, strict=True):
        row[:] = (1 - value) / (classes - 1)
        row[label] = value
    return rows


def test_mistakes_come_surest_first_and_copies_once():
    likely = likely_of([0, 1, 2, 0, 1], [0.6, 0.9, 0.7, 0.95, 0.9])
    targets = np.eye(3)[[1, 2, 0, 0, 2]]
    mistakes, right = examples.choose(likely, targets, ["a", "b", "c", "d", "b"], multilabel=False)
    assert [(each.place, each.label, each.confidence) for each in mistakes] == [(1, 1, 0.9), (2, 2, 0.7), (0, 0, 0.6)]
    assert [each.true_probability for each in mistakes] == pytest.approx([0.05, 0.15, 0.2])
    assert [(each.place, each.said) for each in right] == [(3, (0,))]


def test_right_answers_are_of_different_classes_half_sure_half_not():
    labels = [0] * 10 + [1] * 10 + [2] * 10 + [3] * 10
    sure = np.linspace(0.99, 0.5, 40)
    mistakes, right = examples.choose(
        likely_of(labels, sure, 4), np.eye(4)[labels], [str(i) for i in range(40)], multilabel=False
    )
    assert mistakes == []
    assert [each.place for each in right[:3]] == [0, 10, 20]
    # The least sure one of the fourth class, and then the least sure of all.
    assert 39 in [each.place for each in right[3:]] and len({each.place for each in right}) == 6
    assert all(each.confidence < 0.6 for each in right[3:])


def test_at_most_twelve_mistakes():
    labels = np.zeros(50, int)
    likely = likely_of(labels, np.linspace(0.5, 0.9, 50))
    mistakes, right = examples.choose(likely, np.eye(3)[labels + 1], [str(i) for i in range(50)], multilabel=False)
    assert [each.place for each in mistakes] == list(range(49, 37, -1)) and right == []


def test_of_several_labels_the_worst_decision_counts():
    likely = np.array([[0.9, 0.8, 0.1], [0.6, 0.02, 0.9], [0.7, 0.1, 0.1], [0.1, 0.2, 0.3]])
    targets = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
    mistakes, right = examples.choose(likely, targets, list("abcd"), multilabel=True)
    # Picture 1 lacks class 1, which the network rules out with 0.98, and has not class 2, which it says with 0.9.
    assert [(each.place, each.label, each.said) for each in mistakes] == [(1, 1, (2, 0)), (0, 1, (0, 1))]
    assert [each.confidence for each in mistakes] == pytest.approx([0.98, 0.8])
    assert [each.true_probability for each in mistakes] == pytest.approx([0.02, 0.2])
    assert {(each.place, each.label, each.said) for each in right} == {(2, 0, (0,)), (3, 2, ())}


def test_nearest_are_those_of_the_largest_cosine_without_copies(monkeypatch):
    monkeypatch.setattr(examples, "BLOCK", 2)
    training = np.array([[1, 0], [0, 5], [3, 3], [3, 3], [-1, 0]], float)
    (found,) = examples.nearest(np.array([[10, 1.0]]), [training[:, :1], training[:, 1:]], ["a", "b", "c", "c", "d"])
    assert [place for place, _ in found] == [0, 2, 1]
    assert [cosine for _, cosine in found] == pytest.approx([10 / 101**0.5, 11 / 202**0.5, 1 / 101**0.5], abs=1e-6)
    assert examples.nearest(np.ones((1, 2)), [training[:1]], ["a"]) == [[(0, pytest.approx(0.5**0.5))]]
