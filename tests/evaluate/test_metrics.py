"""Metrics against figures that were worked out by hand."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from zoo.evaluate import metrics

# Rows are pictures, columns are the classes cat, dog and owl.
TRUTH = np.eye(3)[[0, 0, 0, 0, 1, 1, 2, 2]]
PROBABILITIES = np.array(
    [
        [0.8, 0.1, 0.1],  # cat, right
        [0.5, 0.3, 0.2],  # cat, right
        [0.5, 0.25, 0.25],  # cat, right
        [0.2, 0.7, 0.1],  # cat, taken for a dog
        [0.1, 0.8, 0.1],  # dog, right
        [0.6, 0.4, 0.0],  # dog, taken for a cat
        [0.25, 0.25, 0.5],  # owl, right
        [0.1, 0.8, 0.1],  # owl, taken for a dog
    ]
)


def test_one_class_per_picture():
    found = metrics.measure(PROBABILITIES, TRUTH, ["cat", "dog", "owl"])
    assert found["confusion_matrix"] == [[3, 1, 0], [1, 1, 0], [0, 1, 1]]
    assert found["pictures"] == 8 and found["classes"] == ["cat", "dog", "owl"]
    assert found["accuracy"] == 5 / 8
    # Precision is right ones over predicted ones (a column), recall over true ones (a row), F1 their harmonic mean.
    expected = {
        "cat": {"precision": 3 / 4, "recall": 3 / 4, "f1": 3 / 4, "pictures": 4},
        "dog": {"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5, "pictures": 2},
        "owl": {"precision": 1 / 1, "recall": 1 / 2, "f1": 2 / 3, "pictures": 2},
    }
    assert found["per_class"] == {name: pytest.approx(row) for name, row in expected.items()}
    assert found["macro_f1"] == pytest.approx((3 / 4 + 2 / 5 + 2 / 3) / 3)
    # The probabilities of the true classes are .8 .5 .5 .2, .8 .4, .5 .1; their product is 0.00064.
    assert found["loss"] == pytest.approx(-log(0.00064) / 8)
    assert "exact_match" not in found


def test_a_class_without_pictures_does_not_lower_the_mean():
    """The owl has no picture and is predicted once: its figures are 0, and macro F1 is the mean over cat and dog."""
    truth = np.eye(3)[[0, 0, 1, 1]]
    probabilities = np.eye(3)[[0, 0, 1, 2]] * 0.5
    found = metrics.measure(probabilities, truth, ["cat", "dog", "owl"])
    assert found["per_class"]["owl"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "pictures": 0}
    assert found["per_class"]["dog"] == pytest.approx({"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "pictures": 2})
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["confusion_matrix"] == [[2, 0, 0], [0, 1, 1], [0, 0, 0]]


def test_the_loss_of_a_class_that_was_ruled_out_is_finite():
    found = metrics.measure(np.array([[0.0, 1.0], [0.0, 1.0]]), np.eye(2)[[0, 1]], ["a", "b"])
    assert found["loss"] == pytest.approx(-log(1e-12) / 2) and found["accuracy"] == 0.5


def test_several_classes_per_picture():
    truth = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]])
    probabilities = np.array([[0.9, 0.5, 0.1], [0.4, 0.2, 0.1], [0.6, 0.1, 0.2], [0.1, 0.8, 0.1]])
    found = metrics.measure(probabilities, truth, ["red", "green", "blue"], multilabel=True)
    # Wrong are: the second picture is not called red (0.4), and the third is (0.6). 0.5 counts as yes.
    assert found["accuracy"] == pytest.approx(10 / 12)
    assert found["exact_match"] == 2 / 4
    expected = {
        "red": {"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "pictures": 2},
        "green": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "pictures": 2},
        "blue": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "pictures": 0},
    }
    assert found["per_class"] == {name: pytest.approx(row) for name, row in expected.items()}
    assert found["macro_f1"] == pytest.approx((1 / 2 + 1) / 2)
    # Red, from the most probable picture on: right, wrong, right, so (1/1 + 2/3) / 2. Green: 1. Blue has no picture.
    assert found["mean_average_precision"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    # The probability of each right decision, picture by picture.
    right = [0.9, 0.5, 0.9, 0.4, 0.8, 0.9, 0.4, 0.9, 0.8, 0.9, 0.8, 0.9]
    assert found["loss"] == pytest.approx(-sum(map(log, right)) / 12)
    assert "confusion_matrix" not in found


def test_several_classes_none_of_which_has_a_picture():
    found = metrics.measure(np.full((3, 2), 0.1), np.zeros((3, 2)), ["a", "b"], multilabel=True)
    assert (found["accuracy"], found["exact_match"]) == (1.0, 1.0)
    assert (found["mean_average_precision"], found["macro_f1"]) == (0.0, 0.0)


def test_summary_keeps_the_figures_without_the_tables():
    found = metrics.measure(PROBABILITIES, TRUTH, ["cat", "dog", "owl"])
    assert metrics.summary(found) == {
        key: found[key] for key in ("accuracy", "accuracy_interval", "macro_f1", "loss", "pictures")
    }


@pytest.mark.parametrize(
    ("correct", "pictures", "bounds"),
    # E. B. Wilson's formula by hand: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.959964.
    [(141, 150, (0.8899, 0.9681)), (5, 5, (0.5655, 1.0)), (0, 3, (0.0, 0.5615)), (9500, 10000, (0.9456, 0.9541))],
)
def test_the_interval_is_that_of_wilson(correct, pictures, bounds):
    assert metrics.interval(correct / pictures, pictures) == pytest.approx(bounds, abs=5e-5)


def test_only_figures_of_whole_pictures_have_an_interval():
    found = metrics.measure(PROBABILITIES, TRUTH, ["cat", "dog", "owl"])
    assert found["accuracy_interval"] == metrics.interval(found["accuracy"], found["pictures"])
    several = metrics.measure(PROBABILITIES, TRUTH, ["cat", "dog", "owl"], multilabel=True)
    assert several["exact_match_interval"] == metrics.interval(several["exact_match"], several["pictures"])
    assert "accuracy_interval" not in several
