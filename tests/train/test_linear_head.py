"""The exact head: the same answer as scikit-learn's, honest folds, and evidence that a picture had no part in."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from zoo.train import linear_head
from zoo.train.folds import deal_folds
from zoo.train.linear_head import average, cross_entropies, solve


def clouds(count: int, classes: int, features: int = 40, spread: float = 1.5, seed: int = 0):
    """Return features around one centre per class, float32 (count * classes, features), and one-hot targets."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 0.5, (classes, features))
    labels = np.repeat(np.arange(classes), count)
    return (
        (centres[labels] + rng.normal(0, spread, (len(labels), features)) + 3).astype("float32"),
        np.eye(classes, dtype="float32")[labels],
    )


def accuracy(fit, features, targets) -> float:
    logits = features @ fit.kernel + fit.bias
    predicted = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(axis=1)
    return float((predicted == targets.argmax(axis=1)).mean())


@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("count", [6, 60])
def test_a_penalty_of_the_user_gives_the_head_of_scikit_learn(count, classes):
    """With 6 pictures of a class there are fewer pictures than features, and the problem is solved rotated."""
    features, targets = clouds(count, classes)
    fit = solve([features], targets, l2=0.01, folds=0)
    # scikit-learn's C weighs the sum of the losses against half the squared kernel.
    expected = LogisticRegression(C=1 / (0.02 * len(features)), tol=1e-8, max_iter=5000)
    expected.fit(features.astype(float), targets.argmax(axis=1))
    assert np.abs(fit.kernel.T - expected.coef_).max() < 1e-3 * np.abs(expected.coef_).max()
    centred = expected.intercept_ - expected.intercept_.mean()
    assert np.abs(fit.bias - fit.bias.mean() - centred).max() < 1e-3 * np.abs(centred).max()


def test_two_classes_have_one_unit_and_labels_have_one_each():
    features, targets = clouds(50, 2)
    binary = solve([features], targets, task="binary", l2=0.01, folds=0)
    expected = LogisticRegression(C=1 / (0.02 * len(features)), tol=1e-8, max_iter=5000)
    expected.fit(features.astype(float), targets[:, 1])
    assert binary.kernel.shape == (40, 1) and binary.bias.shape == (1,)
    assert np.abs(binary.kernel.T - expected.coef_).max() < 1e-3 * np.abs(expected.coef_).max()
    # A label counts half in the mean over two labels, so that half the penalty gives the same unit.
    labels = solve([features], targets, task="multilabel", l2=0.005, folds=0)
    assert labels.kernel[:, 1] == pytest.approx(binary.kernel[:, 0], rel=2e-2, abs=1e-4)
    assert labels.kernel[:, 0] == pytest.approx(-binary.kernel[:, 0], rel=2e-2, abs=1e-4)


def test_label_smoothing_is_that_of_keras():
    """Every picture counts for its class with 1 - s + s / classes, and for each other class with s / classes."""
    features, targets = clouds(30, 3)
    fit = solve([features], targets, l2=0.01, label_smoothing=0.3, folds=0)
    labels = targets.argmax(axis=1)
    weights = np.concatenate([np.where(labels == k, 0.8, 0.1) for k in range(3)])
    expected = LogisticRegression(C=1 / (0.02 * len(features)), tol=1e-8, max_iter=5000)
    expected.fit(np.concatenate([features] * 3).astype(float), np.repeat(np.arange(3), len(features)), weights)
    assert np.abs(fit.kernel.T - expected.coef_).max() < 2e-3 * np.abs(expected.coef_).max()


def test_weights_of_classes_count_as_copies_do():
    features, targets = clouds(20, 3)
    third = targets[:, 2] == 1
    weighted = solve([features], targets, l2=0.01, weights=np.array([1, 1, 3], "float32"), folds=0)
    doubled = np.concatenate([features, features[third], features[third]])
    copied = solve([doubled], np.concatenate([targets, targets[third], targets[third]]), l2=0.01, folds=0)
    assert np.abs(weighted.kernel - copied.kernel).max() < 2e-3 * np.abs(copied.kernel).max()


def test_cross_validation_chooses_a_penalty_that_generalizes():
    features, targets = clouds(12, 3, features=300, spread=4)
    unseen, truth = clouds(200, 3, features=300, spread=4)
    fit, weak = solve([features], targets), solve([features], targets, l2=1e-9, folds=0)
    losses = [-np.log(softmax(unseen @ head.kernel + head.bias)[truth > 0]).mean() for head in (fit, weak)]
    # The evidence of the folds comes true on pictures that no head has seen.
    assert losses[0] < losses[1] and fit.loss == pytest.approx(losses[0], abs=0.2)
    assert accuracy(fit, unseen, truth) > 0.45


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_random_labels_give_a_head_near_chance():
    rng = np.random.default_rng(1)
    features, targets = rng.normal(size=(120, 200)).astype("float32"), np.eye(2, dtype="float32")[np.arange(120) % 2]
    fit = solve([features], targets, task="binary")
    assert np.log(2) - 0.02 < fit.loss < np.log(2) + 0.1


def test_a_picture_has_no_part_in_its_own_evidence():
    features, targets = clouds(10, 3)
    evidence = solve([features], targets, l2=0.01).logits
    fold_of = deal_folds(list(targets.argmax(axis=1)), range(30), 5, 0)
    for fold in range(5):
        rest, held_out = fold_of != fold, fold_of == fold
        alone = solve([features[rest]], targets[rest], l2=0.01, folds=0)
        logits = features[held_out] @ alone.kernel + alone.bias
        assert centred(evidence[held_out]) == pytest.approx(centred(logits), rel=1e-2, abs=2e-2)


def centred(logits):
    return logits - logits.mean(axis=1, keepdims=True)


def test_copies_stand_in_one_fold_and_classes_are_spread():
    strata = [0] * 20 + [1] * 10 + [2] * 2 + [3]
    copies = [f"a{i // 2}" for i in range(20)] + [f"b{i}" for i in range(10)] + ["c0", "c1", "d"]
    folds = deal_folds(strata, copies, 5, 3)
    assert all(folds[i] == folds[i + 1] for i in range(0, 20, 2))
    assert [list(folds[:20]).count(k) for k in range(5)] == [4] * 5
    assert [list(folds[20:30]).count(k) for k in range(5)] == [2] * 5
    assert folds[30] != folds[31] and folds[32] == -1
    assert (deal_folds(strata, copies, 5, 3) == folds).all() and (deal_folds(strata, copies, 5, 4) != folds).any()


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_pictures_of_a_class_are_enough(count):
    features, targets = clouds(count, 3, spread=0.1)
    fit = solve([features], targets)
    assert accuracy(fit, features, targets) == 1.0 and np.isfinite(fit.kernel).all()
    assert fit.folds == (2 if count == 2 else 0) and len(fit.losses) == (6 if count == 2 else 0)


def test_the_same_bits_again_and_errors():
    features, targets = clouds(8, 3)
    one, other = solve([features], targets, seed=1), solve([features], targets, seed=1)
    assert (one.kernel == other.kernel).all() and (one.bias == other.bias).all()
    features[3, 4] = np.inf
    with pytest.raises(ValueError, match="must be finite"):
        solve([features], targets)
    with pytest.raises(ValueError, match="without pictures"):
        solve([features[:0]], targets[:0])


def test_an_average_of_heads_is_one_head():
    features, targets = clouds(20, 3)
    more = np.concatenate([features, clouds(20, 3, features=7, seed=5)[0]], axis=1)
    plain, joined = solve([features], targets), solve([features, more[:, 40:]], targets)
    fit = average(plain, joined, targets, "multiclass")
    logits = (features @ plain.kernel + plain.bias + more @ joined.kernel + joined.bias) / 2
    assert more @ fit.kernel + fit.bias == pytest.approx(logits)
    assert fit.logits == pytest.approx((plain.logits + joined.logits) / 2)
    assert fit.losses == pytest.approx(cross_entropies(fit.logits, targets, "multiclass"))
    for fold, (kernel, bias) in enumerate(fit.fold_heads):
        rows = np.flatnonzero(fit.fold_of == fold)
        assert more[rows] @ kernel + bias == pytest.approx(fit.logits[rows])


def test_copies_with_different_labels_stand_in_one_fold():
    folds = deal_folds([0, 0, 0, 1, 1, 1], ["a", "b", "c", "a", "d", "e"], 3, 0)
    assert folds[0] == folds[3] and set(folds) == {0, 1, 2}


def test_class_weights_count_in_the_choice_of_the_penalty():
    """A rare class of a hundredth: with its weight, the loss on held-out pictures is that of both classes alike."""
    features, targets = clouds(200, 2, spread=3.0)
    rows = np.concatenate([np.arange(200), np.arange(200, 210)])
    features, targets = features[rows], targets[rows]
    weights = np.array([105 / 200, 105 / 10], "float32")
    fit = solve([features], targets, task="binary", weights=weights)
    plain = cross_entropies(fit.logits, targets, "binary")
    assert fit.losses == pytest.approx(plain * (targets @ weights))
    assert fit.loss == pytest.approx((plain[:200].mean() + plain[200:].mean()) / 2, rel=1e-5)


def test_heads_with_different_folds_have_no_average():
    features, targets = clouds(20, 3)
    with pytest.raises(ValueError, match="different folds"):
        average(solve([features], targets), solve([features], targets, seed=1), targets, "multiclass")


def test_a_large_problem_holds_out_one_fold(monkeypatch):
    features, targets = clouds(60, 3)
    small = solve([features], targets)
    monkeypatch.setattr(linear_head, "LARGE", 1000)
    large = solve([features], targets)
    assert (small.folds, large.folds) == (5, 1) and len(large.losses) == len(small.losses) / 5
    assert np.array_equal(np.flatnonzero(large.fold_of == 0), large.rows) and len(large.fold_heads) == 1
    assert accuracy(large, features, targets) == pytest.approx(accuracy(small, features, targets), abs=0.05)
