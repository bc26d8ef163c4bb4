"""The problem of a linear head for many pictures or many classes: solved block by block, in memory that stays bounded.

`zoo.train.head_problem.Problem` holds all features and targets in 64 bits. `BlockProblem` has the same methods, and
reads blocks of pictures in 32 bits instead. L-BFGS sees a whitened kernel (the covariance of the features, plus the
penalty, is its preconditioner), which takes a third of the steps where penalties are weak.

The result does not depend on the number of threads, because the gradients of the blocks are added in order.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from zoo.data.memory import MappedRows
from zoo.train.head_problem import BLOCK, Array, Scaling, bias_of, probabilities_and_entropy, smoothed

# A problem is solved in blocks if pictures x (features + units) are more than this. In 64 bits, these are 48 MB, of
# which a solution needs several copies.
LARGEST = 6_000_000
# L-BFGS keeps so many steps; each takes 16 bytes per number of the kernel.
KEPT_STEPS = 6
# L-BFGS stops when the gradient has fallen to this fraction of that of a kernel of zeros, or after so many steps. Where
# more steps are needed, the penalty is weak, and stopping early makes the head no worse for other pictures.
GRADIENT, MOST_STEPS = 5e-3, 30
# With more features than this, only their variances precondition the kernel. The covariance of 4,096 takes 134 MB.
MOST_FEATURES = 4096
# The eigenvalues of a covariance that is summed in 32 bits are known to about this fraction of their sum.
ROUNDING = 1e-6
# Threads, each with a block and a gradient of its own.
MOST_THREADS = 8

_T = TypeVar("_T")
_R = TypeVar("_R")


def is_for_blocks(pictures: int, features: int, units: int) -> bool:
    """Return whether a problem is too large for `Problem`."""
    return pictures * (min(pictures, features) + units) > LARGEST


def blocks_of(rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Divide the indices of pictures into blocks of at most `BLOCK`, in order."""
    return [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]


@dataclass(frozen=True)
class BlockProblem:
    """The loss of a head, computed in blocks: see `zoo.train.head_problem.Problem`, whose methods it has.

    Args:
        groups: The features, each float32 (pictures, n), memory-mapped or not.
        scaling: Centres and scales them.
        targets: (pictures, classes), 1 if a picture is of a class, else 0.
        task: "multiclass", "binary" or "multilabel".
        weights: The weight of each class in the loss, float32 (classes,), or None.
        label_smoothing: The fraction of every target that is spread over all classes, in [0, 1).
        spread: What preconditions the kernel: the covariance of the scaled features, float64 (features, features), or
            their variances, float64 (features,).
        threads: How many threads share the blocks.
    """

    groups: Sequence[MappedRows]
    scaling: Scaling
    targets: npt.NDArray[Any]
    task: str
    weights: npt.NDArray[np.float32] | None
    label_smoothing: float
    spread: Array
    threads: int

    @classmethod
    def of(
        cls,
        features: Sequence[npt.NDArray[np.float32]],
        scaling: Scaling,
        targets: npt.NDArray[Any],
        task: str,
        weights: npt.NDArray[np.float32] | None,
        label_smoothing: float,
        threads: int,
    ) -> BlockProblem:
        threads = max(1, min(MOST_THREADS, threads))
        groups = [MappedRows(group) for group in features]
        bare = cls(groups, scaling, targets, task, weights, label_smoothing, np.zeros(0), threads)
        return cls(groups, scaling, targets, task, weights, label_smoothing, bare._spread(), threads)

    @property
    def softmax(self) -> bool:
        return self.task == "multiclass"

    @property
    def units(self) -> int:
        return 1 if self.task == "binary" else self.targets.shape[1]

    @property
    def size(self) -> int:
        """Pictures x features x units."""
        return len(self.targets) * len(self.scaling.means) * self.units

    def unrotate(self, kernel: Array) -> Array:
        """Return the kernel for the scaled features. It is not rotated here."""
        return kernel

    def logits(self, rows: npt.NDArray[np.int64], head: Array) -> Array:
        """Return the logits of pictures, float64 (len(rows), units); `head` is from `solve`."""
        kernel, bias = head[:-1].astype(np.float32), head[-1]
        logits = np.empty((len(rows), self.units))
        places = blocks_of(np.arange(len(rows)))
        for place, values in zip(
            places, self._in_order(lambda at: self._scaled(rows[at]) @ kernel, places), strict=True
        ):
            logits[place] = values + bias
        return logits

    def solve(self, rows: npt.NDArray[np.int64], penalty: float, start: Array | None) -> Array:
        """Solve the head for some pictures; see `zoo.train.head_problem.Problem.solve`."""
        from scipy.optimize import minimize

        features, units = len(self.scaling.means), self.units
        whitening = _Whitening(self.spread, penalty, units)
        blocks = blocks_of(rows)
        total, means = self._totals(blocks)

        def loss(flat: Array) -> tuple[float, Array]:
            solution = whitening.kernel(flat.reshape(features + 1, units))
            kernel, bias = solution[:-1].astype(np.float32), solution[-1].astype(np.float32)
            value, gradient = penalty / 2 * float((solution[:-1] ** 2).sum()), np.zeros((features + 1, units))
            for entropy, by_kernel, by_bias in self._in_order(
                lambda each: self._block(each, kernel, bias, total), blocks
            ):
                value += entropy
                gradient[:-1] += by_kernel
                gradient[-1] += by_bias
            gradient[:-1] += penalty * solution[:-1]
            return value, whitening.gradient(gradient).ravel()

        zeros = np.zeros((features + 1, units))
        zeros[-1] = bias_of(means, self.softmax)
        zeros = whitening.whitened(zeros)
        begin = zeros if start is None else whitening.whitened(start)
        found = minimize(
            loss,
            begin.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={
                "gtol": max(GRADIENT * float(np.abs(loss(zeros.ravel())[1]).max()), 1e-9),
                "ftol": 1e-9,
                "maxiter": MOST_STEPS,
                "maxcor": KEPT_STEPS,
            },
        )
        return whitening.kernel(np.asarray(found.x).reshape(features + 1, units))

    def _scaled(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the scaled features of a block, float32 (len(rows), features)."""
        values = np.concatenate([group[rows] for group in self.groups], axis=1)
        values -= self.scaling.means.astype(np.float32)
        values /= self.scaling.scales.astype(np.float32)
        return values

    def _goals(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return smoothed targets, float32 (len(rows), units), and weights of pictures, float32 (len(rows), 1)."""
        truth = self.targets[rows].astype(np.float32)
        shares = np.ones((len(rows), 1), np.float32) if self.weights is None else truth @ self.weights[:, None]
        if self.task == "binary":
            truth = truth[:, 1:]
        return smoothed(truth, self.task, self.label_smoothing), shares

    def _block(
        self,
        rows: npt.NDArray[np.int64],
        kernel: npt.NDArray[np.float32],
        bias: npt.NDArray[np.float32],
        total: float,
    ) -> tuple[float, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return what a block adds to the loss, and to its gradient by kernel and bias."""
        features, (goals, shares) = self._scaled(rows), self._goals(rows)
        shares = shares / np.float32(total * (1 if self.softmax else self.units))
        logits = features @ kernel
        logits += bias
        answers, entropy = probabilities_and_entropy(logits, goals, self.softmax)
        answers -= goals
        answers *= shares
        return float((entropy * shares).sum(dtype=np.float64)), features.T @ answers, answers.sum(axis=0)

    def _totals(self, blocks: Sequence[npt.NDArray[np.int64]]) -> tuple[float, Array]:
        """Return the sum of the weights of all pictures, and the weighted mean of the goals, float64 (units,)."""
        total, sums = 0.0, np.zeros(self.units)
        for rows in blocks:
            goals, shares = self._goals(rows)
            total += float(shares.sum(dtype=np.float64))
            sums += (goals * shares).sum(axis=0, dtype=np.float64)
        return total, sums / total

    def _spread(self) -> Array:
        """Return the covariance of the scaled features; only their variances if the features are too many."""
        features, blocks = len(self.scaling.means), blocks_of(np.arange(len(self.targets)))
        if features > MOST_FEATURES:
            squares = self._in_order(lambda rows: (self._scaled(rows) ** 2).sum(axis=0, dtype=np.float64), blocks)
            return sum(squares, np.zeros(features)) / len(self.targets)
        covariance = np.zeros((features, features))

        def products(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
            values = self._scaled(rows)
            return values.T @ values

        for each in self._in_order(products, blocks):
            covariance += each
        return covariance / len(self.targets)

    def _in_order(self, work: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[_R]:
        """Yield the results of `work` in the order of the items. Few are computed ahead, because each takes memory."""
        if self.threads == 1:
            yield from map(work, items)
            return
        rest = iter(items)
        with ThreadPoolExecutor(self.threads) as pool:
            waiting = deque(pool.submit(work, item) for item in itertools.islice(rest, self.threads))
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in itertools.islice(rest, 1))
                yield result


class _Whitening:
    """Changes the variables of L-BFGS, so that the curvature of the loss is about the same in all directions.

    With C classes, the curvature is about (covariance of the features) / C + penalty at the start, and that of the bias
    is 1 / C (Boehning 1992, "Multinomial logistic regression algorithm").

    Args:
        spread: See `BlockProblem`.
        penalty: The penalty.
        units: The number of units.
    """

    def __init__(self, spread: Array, penalty: float, units: int):
        from scipy.linalg import cholesky

        # A single unit has a curvature of at most 1/4 times the covariance.
        share = 1 / max(units, 4)
        self._bias, self._full = np.sqrt(share), spread.ndim == 2
        # Features that never vary have no curvature of their own. The covariance is a sum in 32 bits: where features
        # depend on each other, its smallest eigenvalues may be negative, and such a matrix has no Cholesky factor.
        total = float(spread.trace() if self._full else spread.sum())
        least = max(penalty, ROUNDING * total * share, 1e-9)
        if self._full:
            self._factor = cholesky(spread * share + least * np.eye(len(spread)), lower=True)
        else:
            self._factor = np.sqrt(spread * share + least)[:, None]

    def kernel(self, whitened: Array) -> Array:
        """Return the kernel, with the bias as its last row, that belongs to the variables of L-BFGS."""
        return np.concatenate([self._solved(whitened[:-1], transposed=True), whitened[-1:] / self._bias])

    def gradient(self, gradient: Array) -> Array:
        """Return the gradient by the variables of L-BFGS."""
        return np.concatenate([self._solved(gradient[:-1], transposed=False), gradient[-1:] / self._bias])

    def whitened(self, head: Array) -> Array:
        """Return the variables of L-BFGS that belong to a kernel with the bias as its last row."""
        kernel = self._factor.T @ head[:-1] if self._full else self._factor * head[:-1]
        return np.concatenate([kernel, head[-1:] * self._bias])

    def _solved(self, values: Array, *, transposed: bool) -> Array:
        from scipy.linalg import solve_triangular

        if not self._full:
            return values / self._factor
        return np.asarray(solve_triangular(self._factor, values, lower=True, trans="T" if transposed else "N"))
