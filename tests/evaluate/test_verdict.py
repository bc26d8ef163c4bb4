"""The verdict on a network: useless ones are refused, good ones on few pictures are not, and warnings name a remedy."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.evaluate import verdict


def judge(labels, predicted, classes=("cat", "dog"), sure=0.9, **options):
    """Judge a network that gives its predicted classes the probability `sure`."""
    one_hot = np.eye(len(classes))
    rest = (1 - sure) / (len(classes) - 1)
    probabilities = one_hot[list(predicted)] * (sure - rest) + rest
    return verdict.judge(probabilities, one_hot[list(labels)], classes, **options)


def pass_rate(labels, accuracy, networks=60):
    """Return the fraction of simulated networks of two classes that have learned something, by the verdict."""
    from scipy.stats import norm

    generator, passed = np.random.default_rng(0), 0
    labels = np.array(labels)
    distance = 2 * norm.ppf(accuracy)
    for _ in range(networks):
        scores = generator.normal(size=len(labels)) + distance * (labels - 0.5)
        second = 1 / (1 + np.exp(-max(distance, 1) * scores))
        probabilities = np.stack([1 - second, second], axis=1)
        passed += verdict.judge(probabilities, np.eye(2)[labels], ["cat", "dog"]).learned
    return passed / networks


def test_most_useless_networks_are_refused_and_most_good_ones_pass():
    assert pass_rate([0, 1] * 6, 0.5) <= 0.4
    assert pass_rate([0, 1] * 50, 0.5) <= 0.4
    assert pass_rate([0, 1] * 6, 0.9) >= 0.95
    assert pass_rate([0, 1] * 10, 0.8) >= 0.95
    assert pass_rate([0, 1] * 18, 0.65) >= 0.85
    assert pass_rate([0] * 90 + [1] * 10, 0.8) >= 0.95


@pytest.mark.parametrize("each", [1, 2, 3, 4])
def test_a_perfect_network_is_never_refused_on_few_pictures(each):
    found = judge([0, 1] * each, [0, 1] * each)
    assert found.learned
    assert any("too few to tell" in text for text in found.warnings)


def test_the_same_answer_for_all_pictures_is_refused():
    found = judge([0] * 3 + [1] * 9, [1] * 12)
    assert not found.learned
    (text,) = found.warnings
    assert "it names 'dog' for all 12 held-out pictures, but that is wrong for 3 of them" in text
    assert "--balance" in text and "labels" in text and "--learning-rate" in text
    # The classes have the same number of pictures, or --balance was given already.
    assert "--balance" not in judge([0] * 6 + [1] * 6, [1] * 12).warnings[0]
    assert "--balance" not in judge([0] * 3 + [1] * 9, [1] * 12, balanced=True).warnings[0]


def test_two_missed_pictures_of_a_rare_class_are_a_warning():
    found = judge([0] * 2 + [1] * 8, [1] * 10)
    assert found.learned
    assert any("no held-out picture is recognized of 'cat' (2 pictures)" in text for text in found.warnings)


def test_a_class_without_a_right_answer_is_a_warning():
    labels = [0] * 10 + [1] * 10 + [2] * 4
    found = judge(labels, [0] * 10 + [1] * 14, ("cat", "dog", "owl"))
    assert found.learned
    (text,) = found.warnings
    assert text.startswith("no held-out picture is recognized of 'owl' (4 pictures). ") and "--balance" in text


def test_balanced_answers_that_lose_against_the_most_frequent_class_are_a_warning():
    """They find most pictures of the rare class, which the most frequent answer never does."""
    found = judge([0] * 90 + [1] * 10, [0] * 75 + [1] * 24 + [0])
    assert found.learned
    (text,) = found.warnings
    assert "accuracy 0.84 (0.76 to 0.90 with 95 % confidence, 100 pictures) is not clearly better" in text
    assert "always naming 'cat', which is right for 0.90 of them" in text


def test_shuffled_classes_fit_a_useless_network_as_well():
    generator = np.random.default_rng(0)
    found = judge([0, 1] * 50, generator.integers(0, 2, 100))
    assert not found.learned and "shuffles fit its answers as well" in found.warnings[0]
    assert "labels" in found.warnings[0]


def test_nothing_is_said_about_a_good_network():
    assert judge([0, 1, 2] * 5, [0, 1, 2] * 5, ("cat", "dog", "owl")) == verdict.Verdict(True, ())


def test_several_labels():
    targets = np.array([[1, 0], [0, 1], [1, 1], [0, 0]] * 4, float)
    classes = ["cat", "dog"]
    assert verdict.judge(targets * 0.8 + 0.1, targets, classes, multilabel=True) == verdict.Verdict(True, ())
    never = verdict.judge(targets * 0.1 + 0.1, targets, classes, multilabel=True)
    assert not never.learned and "it names no class for all 16" in never.warnings[0]


def test_the_p_value_of_a_permutation_test():
    """Of the 252 ways to choose 5 of 10 pictures, one fits as well as the true one: the probability is 0.004."""
    targets = np.eye(2)[[0] * 5 + [1] * 5]
    assert verdict.shuffled_fit(targets, targets) == pytest.approx(1 / 252, abs=0.006)
    assert verdict.shuffled_fit(1 - targets, targets) == 1
    assert verdict.shuffled_fit(np.full((10, 2), 0.5), targets) == 1
