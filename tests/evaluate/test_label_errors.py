"""The ranking of doubtful labels and the estimated number of wrong ones, on arrays."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.evaluate import label_errors


def drawn(pictures: int, classes: int, wrong: float, sharpness: float, seed: int = 0):
    """Draw calibrated probabilities, labels from them, and flip a fraction of the labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(pictures, classes)) * sharpness
    likely = np.exp(logits - logits.max(axis=1, keepdims=True))
    likely /= likely.sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(classes, p=row) for row in likely])
    flipped = rng.random(pictures) < wrong
    labels[flipped] = (labels[flipped] + rng.integers(1, classes, flipped.sum())) % classes
    return likely, np.eye(classes)[labels], flipped


@pytest.mark.parametrize(("sharpness", "least"), [(20.0, 0.85), (6.0, 0.6)])
def test_flipped_labels_are_first(sharpness, least):
    likely, targets, flipped = drawn(2000, 4, 0.05, sharpness)
    found = label_errors.judge(likely, targets, "multiclass")
    assert flipped[found.order[:200]].sum() / flipped.sum() > least
    assert (np.diff(found.score[found.order]) >= 0).all()
    assert found.suspected.sum() <= round(found.expected) and flipped[found.suspected].mean() > 0.5


def test_the_estimate_is_near_nothing_on_clean_data_and_near_the_truth_on_others():
    for sharpness in (20.0, 4.0):
        likely, targets, _ = drawn(3000, 5, 0.0, sharpness)
        assert label_errors.judge(likely, targets, "multiclass").expected < 45
    likely, targets, flipped = drawn(3000, 5, 0.1, 20.0)
    assert label_errors.judge(likely, targets, "multiclass").expected == pytest.approx(flipped.sum(), rel=0.3)
    # Of 100 pictures, few are needed to see that half of the mistakes are the network's own.
    likely, targets, _ = drawn(100, 5, 0.0, 1.5)
    assert (label_errors.judge(likely, targets, "multiclass").expected or 0) < 20
    # A network that is seldom sure cannot tell wrong labels from its own mistakes.
    likely, targets, _ = drawn(3000, 30, 0.0, 1.5)
    assert label_errors.judge(likely, targets, "multiclass").expected is None
    # One that has learned nothing contradicts nearly all labels, and answers the same for all pictures.
    found = label_errors.judge(np.repeat(likely[:1], 3000, axis=0), targets, "multiclass")
    assert found.expected is None and not found.suspected.any() and len(found.listed()) == 300


def test_suggestions_are_other_classes():
    likely = np.array([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3]])
    found = label_errors.judge(likely, np.eye(3)[[2, 1]], "multiclass")
    assert found.order.tolist() == [0, 1] and found.score.tolist() == [0.0, 0.5]
    assert found.suggested.tolist() == [[True, False, False], [False, False, True]]
    assert found.probability_suggested.tolist() == [0.9, 0.3]
    assert found.listed().tolist() == [0]


def test_several_labels_change_where_they_are_improbable():
    likely = np.array([[0.95, 0.02, 0.6], [0.9, 0.1, 0.7], [0.01, 0.97, 0.05]])
    targets = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 0]])
    found = label_errors.judge(likely, targets, "multilabel")
    assert found.order.tolist() == [2, 1, 0]
    assert found.score.round(2).tolist() == [0.6, 0.3, 0.01]
    assert found.suggested[2].tolist() == [False, True, False], "both wrong labels change"
    assert found.suggested[1].tolist() == [True, False, True], "the least probable one changes"


def test_no_pictures_give_an_empty_list():
    for task in ("multiclass", "multilabel"):
        found = label_errors.judge(np.zeros((0, 3)), np.zeros((0, 3)), task)
        assert found.expected is None and not len(found.listed())
