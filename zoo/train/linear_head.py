"""Solves a head that is linear in fixed features: logistic regression with an L2 penalty that cross-validation chooses.

Such a head has one best answer, because its loss is convex. SciPy's L-BFGS finds it in seconds, where gradient descent
over epochs only comes near it. Nothing here needs Keras.

Features are centred and scaled before they are penalized; the result is folded back, so that it applies to the features
as they are. `benchmarks/heads.py` measured the choices that are made here; docs/benchmarks.md has the figures.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.train import head_blocks
from zoo.train.folds import deal_folds, strata_of
from zoo.train.head_blocks import BlockProblem
from zoo.train.head_problem import Array, Problem, Scaling, cross_entropy, smoothed

FOLDS = 5
# Penalties from strong to weak, for features that `Scaling` has given a total variance of 1.
PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(2, -15, -1))
# A large problem starts with this one, because so many pictures never need a stronger one.
STRONGEST = 0.1
# The search ends if this many penalties in a row make the loss worse. Weak penalties take most of the time.
WORSE_IN_A_ROW = 2
# With more pictures x features x units than this, one fold is held out instead of all in turn, and fewer penalties are
# tried. 4,000 pictures of 4 classes with 1,280 features are as many.
LARGE = 20_000_000
# Solving a head takes about this many evaluations of the loss, each of 4 operations per picture, feature and unit.
EVALUATIONS = 150
# What one processor core does in a second, and the memory for each number of the kernel: rough figures for a warning.
OPERATIONS, BYTES_EACH = 3e10, 300
# The user is warned from so many seconds or bytes on.
LONG, MUCH = 1200, 4e9


@dataclass(frozen=True)
class HeadFit:
    """A solved head, and the evidence for it.

    Args:
        kernel: float64 (features, units). The units are the classes, or one unit if the task is "binary".
        bias: float64 (units,).
        penalty: The penalty with the lowest out-of-fold loss, in terms of the scaled features.
        rows: Indices of the pictures that were held out, int64 (held out,), ascending. Some pictures never are, such as
            the only one of its class.
        logits: Out-of-fold logits, float64 (held out, units): each row comes from heads that were solved without this
            picture.
        losses: The out-of-fold cross-entropy of each held-out picture in nats, float64 (held out,). It is multiplied by
            the weight of its class if there are weights.
        folds: The number of folds; 0 if no picture can be held out.
        fold_of: The fold in which each picture was held out, int64 (pictures,); -1 if it never was.
        fold_heads: For each fold, the kernel and the bias of the head that was solved without its pictures.
    """

    kernel: Array
    bias: Array
    penalty: float
    rows: npt.NDArray[np.int64]
    logits: Array
    losses: Array
    folds: int
    fold_of: npt.NDArray[np.int64]
    fold_heads: tuple[tuple[Array, Array], ...]

    def evaluate(
        self,
        features: Sequence[npt.NDArray[np.float32]],
        targets: npt.NDArray[Any],
        task: str,
        *,
        label_smoothing: float = 0.0,
        weights: npt.NDArray[np.float32] | None = None,
    ) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Compare the head with the truth.

        Args:
            features: The groups of features that the head reads, each float32 (pictures, n).
            targets: (pictures, classes), 1 if a picture is of a class, else 0.
            task: As in `solve`.
            label_smoothing: As in `solve`.
            weights: As in `solve`.

        Returns:
            The cross-entropy of each picture in nats, float64 (pictures,), and the decisions that are right: bool
            (pictures,), or (pictures, classes) if a picture may have several classes.
        """
        losses, right = [], []
        for rows in head_blocks.blocks_of(np.arange(len(targets))):
            logits = np.concatenate([group[rows] for group in features], axis=1) @ self.kernel + self.bias
            losses.append(
                cross_entropies(logits, targets[rows], task, label_smoothing=label_smoothing, weights=weights)
            )
            right.append(decisions(logits, targets[rows], task))
        return np.concatenate(losses), np.concatenate(right)

    @property
    def loss(self) -> float:
        """The mean out-of-fold cross-entropy, in nats; NaN if no picture could be held out."""
        return float(self.losses.mean()) if len(self.losses) else float("nan")


def solve(
    features: Sequence[npt.NDArray[np.float32]],
    targets: npt.NDArray[Any],
    *,
    task: str = "multiclass",
    copies: Sequence[object] | None = None,
    weights: npt.NDArray[np.float32] | None = None,
    label_smoothing: float = 0.0,
    l2: float = 0.0,
    folds: int = FOLDS,
    one_fold: bool | None = None,
    threads: int = 1,
    seed: int = 0,
) -> HeadFit:
    """Solve a linear head. The same arguments give the same result, bit for bit, on the same machine.

    Cross-validation chooses the penalty. The result is the average of the heads of all folds, over all penalties that
    are as good as the best one within one standard error. An average of linear heads is a linear head. If the problem
    is large (see `LARGE`), only the first fold is held out, and the result is solved once on all pictures.

    Args:
        features: Groups of features, each float32 (pictures, n). All groups but the first share the variance of the
            first, so that many extra features do not drown it. The kernel has the groups one below the other.
        targets: (pictures, classes), 1 if a picture is of a class, else 0.
        task: "multiclass", "binary" or "multilabel"; see `zoo.train.network.attach_head`.
        copies: A value per picture; pictures with equal values are copies and stand in the same fold. None if there are
            no copies.
        weights: The weight of each class in the loss, float32 (classes,), or None.
        label_smoothing: The fraction of every target that is spread over all classes, in [0, 1).
        l2: A penalty that the user chose: this times the sum of the squared kernel is added to the mean loss, as
            Keras's L2 regularizer does, for features as they are. The head is then solved once, on all pictures. 0 lets
            cross-validation choose.
        folds: The number of folds. With 0, nothing is held out, and the penalty is a medium one.
        one_fold: Whether only the first fold is held out. None decides by the size of the problem; see `LARGE`.
        threads: How many threads share the work, if the problem is solved in blocks (see `zoo.train.head_blocks`). The
            result does not depend on them.
        seed: Decides the folds.

    Returns:
        The head with its out-of-fold evidence.

    Raises:
        ValueError: There are no pictures, or a feature is not finite.
    """
    if not len(targets):
        raise ValueError("a head cannot be solved without pictures.")
    with one_blas_thread():
        return _solve(features, targets, task, copies, weights, label_smoothing, l2, folds, one_fold, threads, seed)


def one_blas_thread() -> contextlib.AbstractContextManager[Any]:
    """Let BLAS use one thread in a context, for the whole process. Contexts may be nested.

    Sums over several threads come out in another order, and these matrices are small.
    """
    # SciPy has a BLAS of its own. A library that is loaded inside the context would not be limited.
    import scipy.optimize  # noqa: F401
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, user_api="blas")


def _solve(
    features: Sequence[npt.NDArray[np.float32]],
    targets: npt.NDArray[Any],
    task: str,
    copies: Sequence[object] | None,
    weights: npt.NDArray[np.float32] | None,
    label_smoothing: float,
    l2: float,
    folds: int,
    one_fold: bool | None,
    threads: int,
    seed: int,
) -> HeadFit:
    """Solve a linear head; see `solve`."""
    everything = np.arange(len(targets))
    fold_of = deal_folds(strata_of(targets), range(len(targets)) if copies is None else copies, folds, seed)
    scaling = Scaling.of(features, plain=l2 > 0)
    problem = _problem(features, scaling, targets, task, weights, label_smoothing, threads)
    large = problem.size > LARGE
    one_fold = large if one_fold is None else one_fold
    if one_fold:
        fold_of = np.where(fold_of == 0, 0, -1)
    penalties = _penalties(problem, l2, few=large or one_fold)
    search = _search(problem, fold_of, penalties, targets, task, weights)
    good = search.good()
    by_fold = [np.mean([heads[i] for i in good], axis=0) for heads in search.heads]
    rows = np.flatnonzero(fold_of >= 0)
    logits = _held_out(problem, fold_of, by_fold)
    # Heads of all penalties take much memory if there are many classes.
    search.heads.clear()
    if search.folds and not l2 and not one_fold:
        solution = np.mean(by_fold, axis=0)
    else:
        solution = problem.solve(everything, penalties[good[0]], by_fold[0] if one_fold and by_fold else None)
    kernel, bias = scaling.fold_back(problem.unrotate(solution[:-1]), solution[-1])
    return HeadFit(
        kernel=kernel,
        bias=bias,
        penalty=float(penalties[search.best]),
        rows=rows,
        logits=logits,
        losses=cross_entropies(logits, targets[rows], task, weights=weights),
        folds=search.folds,
        fold_of=fold_of,
        fold_heads=tuple(scaling.fold_back(problem.unrotate(each[:-1]), each[-1]) for each in by_fold),
    )


def _penalties(problem: Problem | BlockProblem, l2: float, *, few: bool) -> Sequence[float]:
    """Return the penalties to try, from strong to weak."""
    if l2:
        return (2 * l2,)
    tried = PENALTIES[::2] if few else PENALTIES
    return [each for each in tried if each <= STRONGEST] if isinstance(problem, BlockProblem) else tried


def _problem(
    features: Sequence[npt.NDArray[np.float32]],
    scaling: Scaling,
    targets: npt.NDArray[Any],
    task: str,
    weights: npt.NDArray[np.float32] | None,
    label_smoothing: float,
    threads: int,
) -> Problem | BlockProblem:
    units = 1 if task == "binary" else targets.shape[1]
    if head_blocks.is_for_blocks(len(targets), len(scaling.means), units):
        return BlockProblem.of(features, scaling, targets, task, weights, label_smoothing, threads)
    return Problem.of(scaling.apply(features), targets, task, weights, label_smoothing)


def _held_out(problem: Problem | BlockProblem, fold_of: npt.NDArray[np.int64], heads: Sequence[Array]) -> Array:
    """Return the logits of the pictures that are held out, (held out, units), each from the head of its fold."""
    rows = np.flatnonzero(fold_of >= 0)
    logits = np.empty((len(rows), problem.units))
    for fold, head in enumerate(heads):
        own = fold_of[rows] == fold
        logits[own] = problem.logits(rows[own], head)
    return logits


def out_of_fold(
    features: Sequence[npt.NDArray[np.float32]],
    targets: npt.NDArray[Any],
    penalty: float,
    *,
    task: str = "multiclass",
    copies: Sequence[object] | None = None,
    weights: npt.NDArray[np.float32] | None = None,
    label_smoothing: float = 0.0,
    plain: bool = False,
    folds: int = FOLDS,
    seed: int = 0,
) -> tuple[npt.NDArray[np.int64], Array]:
    """Return logits of heads that have not seen the picture, for every picture, with a penalty that is known.

    `solve` holds out only one fold of a large problem. This function holds out all folds in turn, once.

    Args:
        features: As in `solve`.
        targets: As in `solve`.
        penalty: The penalty; see `HeadFit.penalty`.
        task: As in `solve`.
        copies: As in `solve`.
        weights: As in `solve`.
        label_smoothing: As in `solve`.
        plain: Whether the penalty is for features as they are, as that of `solve` is if it has `l2`.
        folds: The number of folds, at least 2.
        seed: Decides the folds.

    Returns:
        Indices of the pictures that were held out, and their logits; see `HeadFit.rows` and `HeadFit.logits`.

    Raises:
        ValueError: A feature is not finite.
    """
    with one_blas_thread():
        copies = range(len(targets)) if copies is None else copies
        fold_of = deal_folds(strata_of(targets), copies, folds, seed)
        scaling = Scaling.of(features, plain=plain)
        problem = _problem(features, scaling, targets, task, weights, label_smoothing, threads=1)
        heads = [each[0] for each in _search(problem, fold_of, (penalty,), targets, task, weights).heads]
        return np.flatnonzero(fold_of >= 0), _held_out(problem, fold_of, heads)


def cost_text(pictures: int, features: int, units: int, threads: int) -> str:
    """Return a warning if a head takes very long or very much memory; "" if it does not.

    Args:
        pictures: The number of pictures.
        features: The number of features that the head reads.
        units: The number of units.
        threads: How many threads share the work.
    """
    seconds = EVALUATIONS * 4 * pictures * features * units / OPERATIONS / threads
    memory = features * units * BYTES_EACH
    if seconds < LONG and memory < MUCH:
        return ""
    return (
        f"solving the head exactly for {pictures:,} pictures of {units:,} classes may take {seconds / 60:.0f} minutes, "
        f"and it needs about {memory / 1e9:.1f} GB of memory. `--schedule head-only` trains it step by step."
    )


def is_large(pictures: int, features: int, units: int) -> bool:
    """Return whether `solve` holds out one fold only, if it decides that itself."""
    return pictures * min(pictures, features) * units > LARGE


def _weights_of(targets: npt.NDArray[Any], weights: npt.NDArray[np.float32] | None) -> Array:
    """Return the weight of each picture in the loss, float64 (pictures,): that of its class, or 1."""
    return np.ones(len(targets)) if weights is None else (targets @ weights).astype(np.float64)


def average(
    plain: HeadFit,
    joined: HeadFit,
    targets: npt.NDArray[Any],
    task: str,
    weights: npt.NDArray[np.float32] | None = None,
) -> HeadFit:
    """Average a head with another one that has more features, and return the average as one head.

    Args:
        plain: A head on some features, from `solve`.
        joined: A head on the same features and, after them, on others. It was solved with the same folds.
        targets: As in `solve`.
        task: As in `solve`.
        weights: As in `solve`.

    Raises:
        ValueError: The heads were not solved with the same folds.
    """
    if not np.array_equal(plain.fold_of, joined.fold_of):
        raise ValueError("heads with different folds have no average.")

    def mean(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        kernel = second[0] / 2
        kernel[: len(first[0])] += first[0] / 2
        return kernel, (first[1] + second[1]) / 2

    kernel, bias = mean((plain.kernel, plain.bias), (joined.kernel, joined.bias))
    logits = (plain.logits + joined.logits) / 2
    return dataclasses.replace(
        plain,
        kernel=kernel,
        bias=bias,
        logits=logits,
        losses=cross_entropies(logits, targets[plain.rows], task, weights=weights),
        fold_heads=tuple(map(mean, plain.fold_heads, joined.fold_heads)),
    )


def cross_entropies(
    logits: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    task: str,
    *,
    label_smoothing: float = 0.0,
    weights: npt.NDArray[np.float32] | None = None,
) -> Array:
    """Return the cross-entropy of each picture in nats, float64 (pictures,); for sigmoids, the mean over the units.

    Args:
        logits: (pictures, units). A row of NaN gives NaN.
        targets: (pictures, classes), 1 if a picture is of a class, else 0.
        task: As in `solve`.
        label_smoothing: As in `solve`.
        weights: The weight of each class, by which the cross-entropy of its pictures is multiplied, or None.
    """
    losses = np.empty(len(targets))
    # The tables in 64 bits take much memory if there are many classes.
    for rows in head_blocks.blocks_of(np.arange(len(targets))):
        own = targets[rows]
        truth = (own[:, 1:] if task == "binary" else own).astype(np.float64)
        goals = smoothed(truth, task, label_smoothing)
        each = cross_entropy(np.asarray(logits[rows], np.float64), goals, task == "multiclass")
        losses[rows] = each * _weights_of(own, weights)
    return losses


def decisions(logits: npt.NDArray[Any], targets: npt.NDArray[np.float32], task: str) -> npt.NDArray[np.bool_]:
    """Return which decisions are right: bool (pictures,), or (pictures, classes) if there may be several classes.

    Args:
        logits: (pictures, units).
        targets: (pictures, classes), 1 if a picture is of a class, else 0.
        task: As in `solve`.
    """
    truth = targets[:, 1:] if task == "binary" else targets
    if task == "multiclass":
        return logits.argmax(axis=1) == truth.argmax(axis=1)
    right = (logits > 0) == (truth > 0.5)
    return right[:, 0] if task == "binary" else right


def rightness(logits: npt.NDArray[Any], targets: npt.NDArray[np.float32], task: str) -> npt.NDArray[np.float64]:
    """Return how right the answer to each picture is, in 0..1: float64 (pictures,).

    It is 1 for a right answer, and else 0. If there may be several classes, it is the fraction of right decisions.

    Args:
        logits: As in `decisions`.
        targets: As in `decisions`.
        task: As in `decisions`.
    """
    right = decisions(logits, targets, task).astype(np.float64)
    return right.mean(axis=1) if right.ndim > 1 else right


@dataclass
class _Search:
    """The heads of all folds for a path of penalties, and what they say about the pictures that they have not seen.

    Args:
        folds: The number of folds; 0 if no picture can be held out.
        heads: For each fold, its solution for each penalty.
        losses: For each penalty, the out-of-fold loss of each held-out picture, float64 (held out,).
    """

    folds: int
    heads: list[list[Array]] = dataclasses.field(default_factory=list)
    losses: list[Array] = dataclasses.field(default_factory=list)

    def means(self) -> list[float]:
        return [float(each.mean()) for each in self.losses]

    @property
    def best(self) -> int:
        """The number of the penalty with the lowest loss."""
        return int(np.argmin(self.means())) if self.folds else len(self.losses) // 2

    def good(self) -> list[int]:
        """Return the numbers of the penalties whose loss is the lowest, or is higher by one standard error at most."""
        if not self.folds:
            return [self.best]
        kept = []
        for i, losses in enumerate(self.losses):
            excess = losses - self.losses[self.best]
            if i == self.best or excess.mean() <= excess.std() / np.sqrt(len(excess)):
                kept.append(i)
        return kept


def _search(
    problem: Problem | BlockProblem,
    folds: npt.NDArray[np.int64],
    penalties: Sequence[float],
    targets: npt.NDArray[Any],
    task: str,
    weights: npt.NDArray[np.float32] | None,
) -> _Search:
    """Solve the heads of all folds for all penalties, until weaker penalties only make the loss worse."""
    count, held_out = int(folds.max()) + 1, np.flatnonzero(folds >= 0)
    search = _Search(count, heads=[[] for _ in range(count)])
    truth = targets[held_out]
    worse = 0
    for penalty in penalties:
        for fold in range(count):
            start = search.heads[fold][-1] if search.heads[fold] else None
            search.heads[fold].append(problem.solve(np.flatnonzero(folds != fold), penalty, start))
        logits = _held_out(problem, folds, [heads[-1] for heads in search.heads])
        search.losses.append(cross_entropies(logits, truth, task, weights=weights))
        means = search.means() if count else []
        worse = worse + 1 if len(means) > 1 and means[-1] > min(means[:-1]) else 0
        if worse == WORSE_IN_A_ROW:
            break
    return search
