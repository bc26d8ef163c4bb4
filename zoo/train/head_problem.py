"""The convex problem of a linear head: features, scaling, cross-entropy with an L2 penalty, and its solution by L-BFGS.

`zoo.train.linear_head` chooses the penalty by cross-validation. `zoo.train.head_blocks` solves larger problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.data.memory import MappedRows

# So many pictures are read at once.
BLOCK = 2048
# L-BFGS stops when the gradient has fallen to a fraction of that of a kernel of zeros. The first fraction is for
# problems above the first size (pictures x features x units), and so on. On 1,000 pictures of flowers, 5e-3 takes 0.7
# of the time of 5e-4, and changes the out-of-fold loss by 0.0002.
GRADIENTS = ((2e-2, 100_000_000), (5e-3, 5_000_000), (5e-4, 500_000), (1e-6, 0))
STEPS = 1000

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scaling:
    """Centres features, and divides each group by one number, so that the total variance of the group is known.

    One range of penalties then suits all networks. Dividing each feature by its own standard deviation gave worse
    accuracies, because noise in features that hardly vary then counts as much as signal.

    Args:
        means: float64 (features,).
        scales: float64 (features,), positive.
    """

    means: Array
    scales: Array

    @classmethod
    def of(cls, features: Sequence[npt.NDArray[np.float32]], *, plain: bool) -> Scaling:
        means, scales = [], []
        for number, group in enumerate(features):
            mean, total = _mean_and_variance(group)
            share = 1.0 if number == 0 else 1 / (len(features) - 1)
            means.append(mean)
            scales.append(np.full(len(mean), 1.0 if plain or not total else np.sqrt(total / share)))
        return cls(np.concatenate(means), np.concatenate(scales))

    def apply(self, features: Sequence[npt.NDArray[np.float32]]) -> Array:
        """Return the scaled features, float64 (pictures, features)."""
        return (np.concatenate(features, axis=1, dtype=np.float64) - self.means) / self.scales

    def fold_back(self, kernel: Array, bias: Array) -> tuple[Array, Array]:
        """Return kernel and bias for features that are not scaled."""
        kernel = kernel / self.scales[:, None]
        return kernel, bias - self.means @ kernel


def _mean_and_variance(group: npt.NDArray[np.float32]) -> tuple[Array, float]:
    """Return the mean of each feature, and the sum of all their variances. A table in 64 bits would take much memory.

    Raises:
        ValueError: A feature is not finite.
    """
    rows = MappedRows(group)
    blocks = [np.arange(start, min(start + BLOCK, len(group))) for start in range(0, len(group), BLOCK)]
    mean = sum((rows[each].sum(axis=0, dtype=np.float64) for each in blocks), np.zeros(group.shape[1])) / len(group)
    if not np.isfinite(mean).all():
        raise ValueError("features must be finite. A layer of the network overflows on these pictures.")
    return mean, float(sum(((rows[each] - mean) ** 2).sum() for each in blocks)) / len(group)


@dataclass(frozen=True)
class Problem:
    """The loss of a head: mean cross-entropy plus half the penalty times the sum of the squared kernel.

    Args:
        features: float64 (pictures, n), scaled and, if there are more features than pictures, rotated.
        rotation: float64 (features, n), or None. The penalty does not see a rotation, so that a few hundred pictures
            need a few hundred numbers each instead of thousands.
        goals: What the loss compares with, float64 (pictures, units): smoothed targets.
        truth: The same without smoothing.
        shares: The weight of each picture in the loss, float64 (pictures, units) or (pictures, 1).
        softmax: Whether the units exclude one another.
    """

    features: Array
    rotation: Array | None
    goals: Array
    truth: Array
    shares: Array
    softmax: bool

    @classmethod
    def of(
        cls,
        features: Array,
        targets: npt.NDArray[np.float32],
        task: str,
        weights: npt.NDArray[np.float32] | None,
        label_smoothing: float,
    ) -> Problem:
        rotation = None
        if features.shape[0] < features.shape[1]:
            rotation, _ = np.linalg.qr(features.T)
            features = features @ rotation
        truth = targets.astype(np.float64)
        # The weight of a picture is that of its class.
        shares = (truth @ weights[:, None] if weights is not None else np.ones((len(truth), 1))).astype(np.float64)
        if task == "binary":
            truth = truth[:, 1:]
        goals = smoothed(truth, task, label_smoothing)
        return cls(features, rotation, goals, truth, shares, task == "multiclass")

    @property
    def size(self) -> int:
        """Pictures x features x units."""
        return self.features.size * self.units

    @property
    def units(self) -> int:
        return self.truth.shape[1]

    def logits(self, rows: npt.NDArray[np.int64], head: Array) -> Array:
        """Return the logits of pictures, float64 (len(rows), units); `head` is from `solve`."""
        return self.features[rows] @ head[:-1] + head[-1]

    def unrotate(self, kernel: Array) -> Array:
        return kernel if self.rotation is None else self.rotation @ kernel

    def solve(self, rows: npt.NDArray[np.int64], penalty: float, start: Array | None) -> Array:
        """Solve the head for some pictures.

        Args:
            rows: Indices of the pictures.
            penalty: The penalty.
            start: Where L-BFGS starts, as returned here; None starts at 0.

        Returns:
            The kernel, with the bias as its last row: float64 (n + 1, units).
        """
        from scipy.optimize import minimize

        features, goals, shares = self.features[rows], self.goals[rows], self.shares[rows]
        shares = shares / shares.sum()
        if not self.softmax:
            shares = shares / goals.shape[1]
        shape = (features.shape[1] + 1, goals.shape[1])

        def loss(flat: Array) -> tuple[float, Array]:
            solution = flat.reshape(shape)
            kernel = solution[:-1]
            logits = features @ kernel + solution[-1]
            answers, each = probabilities_and_entropy(logits, goals, self.softmax)
            slope = (answers - goals) * shares
            gradient = np.concatenate([features.T @ slope + penalty * kernel, slope.sum(axis=0, keepdims=True)])
            return float((each * shares).sum() + penalty / 2 * (kernel**2).sum()), gradient.ravel()

        begin = np.zeros(shape) if start is None else start
        flat = np.zeros(shape)
        flat[-1] = bias_of((goals * shares).sum(axis=0) / shares.sum(axis=0), self.softmax)
        fraction = next(each for each, above in GRADIENTS if self.size > above)
        gradient = fraction * float(np.abs(loss(flat.ravel())[1]).max())
        found = minimize(
            loss,
            begin.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"gtol": max(gradient, 1e-9), "ftol": 1e-12, "maxiter": STEPS, "maxcor": 20},
        )
        return np.asarray(found.x).reshape(shape)


def bias_of(means: Array, softmax: bool) -> Array:
    """Return the best bias of a head whose kernel is zero: the logits of the shares of the classes, (units,)."""
    means = np.clip(means, 1e-6, 1 - 1e-6)
    return np.log(means) if softmax else np.log(means / (1 - means))


def smoothed(truth: npt.NDArray[Any], task: str, label_smoothing: float) -> npt.NDArray[Any]:
    """Spread a fraction of each target over all classes, or over yes and no for single units, as Keras does."""
    spread = label_smoothing / (truth.shape[1] if task == "multiclass" else 2)
    return truth * (1 - label_smoothing) + spread


def probabilities_and_entropy(
    logits: npt.NDArray[Any], goals: npt.NDArray[Any], softmax: bool
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return probabilities, and the cross-entropy: (pictures, 1) for softmax, (pictures, units) for sigmoids.

    Both have the number format of the logits.
    """
    if softmax:
        highest = logits.max(axis=1, keepdims=True)
        powers = np.exp(logits - highest)
        sums = powers.sum(axis=1, keepdims=True)
        entropy = (goals.sum(axis=1, keepdims=True) * (np.log(sums) + highest)) - (goals * logits).sum(
            axis=1, keepdims=True
        )
        return powers / sums, entropy
    # log(1 + exp(x)) - goal * x, without an overflow. Pictures that are never held out have logits of NaN.
    with np.errstate(invalid="ignore"):
        entropy = np.logaddexp(0, logits) - goals * logits
        return np.exp(-np.logaddexp(0, -logits)), entropy


def cross_entropy(logits: Array, truth: Array, softmax: bool) -> Array:
    """Return the cross-entropy of each picture in nats, float64 (pictures,): for sigmoids, the mean over units."""
    return probabilities_and_entropy(logits, truth, softmax)[1].mean(axis=1)
