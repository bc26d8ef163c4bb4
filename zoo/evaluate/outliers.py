"""Scores how unlike the training pictures a picture is, by pooled features of the network.

The features of the training pictures are grouped into a few prototypes. The score of a picture is its cosine distance
to the nearest prototype. docs/trust.md has the other scores that were tried, and their figures. Logits tell little: on
flowers, their area under the curve was 0.6, and that of this score was 0.99.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.evaluate.calibration import group_numbers

PROTOTYPES = 32
# A prototype stands for at least this many pictures on average.
PICTURES_PER_PROTOTYPE = 4
KEPT = 0.95
FOLDS = 3
STEPS = 20
SMALLEST_NORM = 1e-12

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OutlierScore:
    """Holds the prototypes and the threshold of the outlier score.

    Args:
        prototypes: float32 (prototypes, features), each of length 1.
        threshold: Pictures with a larger score are outliers, in 0..2.
        held_out: The scores of the pictures that decided the threshold, float64 (pictures,).
    """

    prototypes: npt.NDArray[np.float32]
    threshold: float
    held_out: Array

    def __call__(self, features: npt.NDArray[Any]) -> Array:
        """Return the score of each picture, float64 (pictures,) in 0..2."""
        return scores(features, self.prototypes)


def scores(features: npt.NDArray[Any], prototypes: npt.NDArray[Any]) -> Array:
    """Return 1 minus the cosine between each picture and the prototype that is nearest, float64 (pictures,) in 0..2.

    Args:
        features: (pictures, features).
        prototypes: (prototypes, features), each of length 1.
    """
    return np.asarray(1 - (_unit(features) @ np.asarray(prototypes, np.float64).T).max(axis=1))


def fit(
    features: npt.NDArray[Any],
    groups: Sequence[object],
    held_out: npt.NDArray[Any] | None = None,
    *,
    seed: int = 0,
) -> OutlierScore | None:
    """Find prototypes, and a threshold that keeps 95 % of pictures like the training pictures.

    Args:
        features: Features of training pictures, (pictures, features).
        groups: A value per picture; pictures with equal values are copies, which stand in one fold.
        held_out: Features of other pictures, on which the network was not trained. None holds out the training pictures
            themselves, in 3 folds; this is right only if the features do not depend on the labels.
        seed: Decides the prototypes and the folds.

    Returns:
        The score. None if there are too few pictures to keep 95 % of them, or if the features are all alike.
    """
    values = np.asarray(features, np.float32)
    if not np.isfinite(values).all() or np.ptp(_unit(values), axis=0).max(initial=0) < 1e-6:
        return None
    prototypes = _prototypes(values, seed)
    if held_out is not None and len(held_out):
        found = scores(held_out, prototypes)
    else:
        fold_of = _folds(groups, seed)
        found = np.concatenate(
            [
                scores(values[fold_of == fold], _prototypes(values[fold_of != fold], seed))
                for fold in range(FOLDS)
                if (fold_of == fold).any() and (fold_of != fold).any()
            ]
            or [np.zeros(0)]
        )
    # With 95 % probability, the next picture is not above this one (split conformal prediction).
    place = math.ceil(KEPT * (len(found) + 1) - 1e-9)
    if place > len(found):
        return None
    return OutlierScore(prototypes.astype(np.float32), float(np.sort(found)[place - 1]), found)


def _prototypes(features: npt.NDArray[np.float32], seed: int) -> Array:
    """Return the centers of k-means on features of length 1, each of length 1, float64 (prototypes, features)."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    units = _unit(features).astype(np.float32)
    count = max(1, min(PROTOTYPES, len(units) // PICTURES_PER_PROTOTYPE, len(np.unique(units, axis=0))))
    # On several threads, sums are added in another order in every run.
    with threadpool_limits(1):
        centers = KMeans(count, n_init=1, max_iter=STEPS, random_state=seed).fit(units).cluster_centers_
    return _unit(centers)


def _folds(groups: Sequence[object], seed: int) -> npt.NDArray[np.int64]:
    """Return the fold of each picture; copies stand in one fold."""
    numbers = group_numbers(groups)
    return np.asarray((np.random.default_rng(seed).permutation(numbers.max(initial=-1) + 1) % FOLDS)[numbers])


def _unit(values: npt.NDArray[Any]) -> Array:
    array = np.asarray(values, np.float64)
    return np.asarray(array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), SMALLEST_NORM))
