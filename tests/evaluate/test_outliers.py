"""The outlier score: what it says of pictures like the training pictures, and of others."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from zoo.evaluate import outliers

RNG = np.random.default_rng(0)
CENTERS = RNG.normal(0, 1, (3, 40))


def features(pictures, centers=CENTERS, seed=0):
    rng = np.random.default_rng(seed)
    return np.maximum(centers[rng.integers(0, len(centers), pictures)] + rng.normal(0, 0.3, (pictures, 40)), 0)


def test_it_keeps_95_percent_and_recognizes_other_things():
    score = outliers.fit(features(600), range(600), seed=1)
    assert score is not None and score.prototypes.shape == (32, 40)
    np.testing.assert_allclose(np.linalg.norm(score.prototypes, axis=1), 1, rtol=1e-5)
    same, other = score(features(4000, seed=2)), score(features(4000, np.roll(CENTERS, 7, axis=1), seed=3))
    assert (same <= score.threshold).mean() == pytest.approx(0.95, abs=0.02)
    assert (other > score.threshold).mean() > 0.99
    assert roc_auc_score(np.repeat([0, 1], 4000), np.concatenate([same, other])) > 0.99


def test_copies_stand_in_one_fold():
    """A copy would be at distance 0 from its twin, and the threshold would then be far too low."""
    own = features(60)
    alone = outliers.fit(own, range(60))
    doubled = outliers.fit(np.concatenate([own, own]), [*range(60), *range(60)])
    split = outliers.fit(np.concatenate([own, own]), range(120))
    assert doubled.threshold == pytest.approx(alone.threshold, rel=0.15)
    assert split.threshold < 0.8 * alone.threshold


def test_held_out_features_decide_the_threshold():
    far = outliers.fit(features(200), range(200), features(100, np.roll(CENTERS, 3, axis=1), seed=5))
    near = outliers.fit(features(200), range(200))
    assert far.threshold > 2 * near.threshold and len(far.held_out) == 100


def test_too_few_or_equal_pictures_give_no_score():
    assert outliers.fit(features(15), range(15)) is None
    assert outliers.fit(np.ones((50, 40)), range(50)) is None
    assert outliers.fit(np.full((50, 40), np.nan), range(50)) is None
    # 19 pictures are the fewest of which 95 % can be kept.
    assert outliers.fit(features(19), range(19)) is not None


def test_the_same_seed_gives_the_same_prototypes():
    first, second, third = (outliers.fit(features(300), range(300), seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.prototypes, second.prototypes)
    assert not np.array_equal(first.prototypes, third.prototypes)
