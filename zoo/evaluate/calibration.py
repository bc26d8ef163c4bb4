"""Fits on held-out pictures how sure a network may be: calibration, a threshold for a wanted precision, label sets.

Everything here works on arrays. Nothing may be fitted on test pictures or on pictures that the network was trained on.

- Temperature and vector scaling, and the expected calibration error: Guo et al. 2017, https://arxiv.org/abs/1706.04599
- The threshold for a precision: Geifman and El-Yaniv 2017, https://arxiv.org/abs/1705.08500
- Label sets (split conformal prediction): Sadinle et al. 2019, https://arxiv.org/abs/1609.00451
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.data import memory

Array = npt.NDArray[np.float64]

BINS = 15
RESAMPLES = 200
FOLDS = 5
CONFIDENCE = 0.95
COVERAGES = (0.9, 0.95, 0.99)
# Logits are multiplied by a number between e^-3 and e^3.
LARGEST_LOG_SCALE = 3.0
# float32 rounds probabilities. Those that differ by less than this count as equal, and thresholds are as much lower.
ROUNDING = 1e-6
# Vector scaling is not tried with fewer held-out pictures than this per unit.
PICTURES_PER_UNIT = 20
# More logits than this are calibrated in 2 folds instead of 5, and of more than that, some are left out.
LARGE, LARGEST = 2_000_000, 5_000_000
# So many steps are enough for thousands of scales and shifts.
STEPS = 100
# So many logits are scaled at once.
BLOCK = 1 << 15


@dataclass(frozen=True)
class Calibration:
    """Maps logits to calibrated logits: each is multiplied by a scale, and a shift is added.

    Args:
        method: "none", "temperature" (one scale, no shift) or "vector" (a scale and a shift for each unit).
        scale: float64 (units,), positive.
        shift: float64 (units,).
    """

    method: str
    scale: Array
    shift: Array

    @classmethod
    def none(cls, units: int) -> Calibration:
        """Return the calibration that changes nothing."""
        return cls("none", np.ones(units), np.zeros(units))

    @property
    def temperature(self) -> float:
        """The number by which logits are divided: the geometric mean over the units."""
        return float(np.exp(-np.log(self.scale).mean()))

    def apply(self, logits: npt.NDArray[Any]) -> Array:
        """Return the calibrated logits, float64 (pictures, units), for logits of the same shape."""
        return np.asarray(logits, np.float64) * self.scale + self.shift

    def probabilities(self, logits: npt.NDArray[Any], task: str) -> Array:
        """Return the calibrated probability of each class, float64 (pictures, classes); see `probabilities`."""
        pictures, units = logits.shape
        likely = memory.temporary((pictures, _classes(units, task)), np.float64)
        for rows in _blocks(pictures, units):
            likely[rows] = probabilities(self.apply(logits[rows]), task)
        return likely


def probabilities(logits: npt.NDArray[Any], task: str) -> Array:
    """Return the probability of each class, float64 (pictures, classes) in 0..1.

    Args:
        logits: (pictures, units). A binary network has one unit, or two.
        task: "multiclass", "binary" or "multilabel".
    """
    from scipy.special import expit, softmax

    pictures, units = logits.shape
    likely = np.empty((pictures, _classes(units, task)))
    for rows in _blocks(pictures, units):
        values = np.asarray(logits[rows], np.float64)
        if task == "multilabel":
            likely[rows] = expit(values)
        elif units == 1:
            likely[rows] = expit(np.concatenate([-values, values], axis=1))
        else:
            likely[rows] = softmax(values, axis=1)
    return likely


def _classes(units: int, task: str) -> int:
    return 2 if units == 1 and task != "multilabel" else units


def losses(logits: npt.NDArray[Any], targets: npt.NDArray[Any], task: str) -> Array:
    """Return the cross-entropy of each picture in nats, float64 (pictures,); the mean over labels if there are several.

    Args:
        logits: (pictures, units).
        targets: (pictures, classes): 1 if the picture has the class, else 0.
        task: "multiclass", "binary" or "multilabel".
    """
    from scipy.special import logsumexp

    pictures, units = logits.shape
    found = np.empty(pictures)
    for rows in _blocks(pictures, units):
        values, truth = np.asarray(logits[rows], np.float64), targets[rows]
        if task == "multilabel":
            found[rows] = (np.logaddexp(0, values) - truth * values).mean(axis=1)
        elif units == 1:
            found[rows] = np.logaddexp(0, values[:, 0]) - truth[:, 1] * values[:, 0]
        else:
            found[rows] = logsumexp(values, axis=1) - (truth * values).sum(axis=1)
    return found


def _blocks(pictures: int, units: int) -> Iterator[slice]:
    """Return slices of pictures. Blocks that fit into the cache of a processor are faster, and take no memory."""
    step = max(1, BLOCK // max(1, units))
    return (slice(start, start + step) for start in range(0, pictures, step))


def fit(
    logits: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    task: str,
    *,
    shifts: bool = True,
    groups: Sequence[object] | None = None,
) -> Calibration:
    """Fit temperature scaling, or vector scaling, or nothing: cross-validation on the same pictures decides.

    Temperature scaling has to lower the loss, and vector scaling has to lower it by more than one standard error.

    Args:
        logits: Logits of held-out pictures, (pictures, units).
        targets: (pictures, classes): 1 if the picture has the class, else 0.
        task: "multiclass", "binary" or "multilabel".
        shifts: False never shifts logits. A shift would undo the weighting of classes in training.
        groups: See `crossed`.

    Returns:
        The calibration. It changes nothing if there are fewer than 2 pictures.
    """
    return fit_and_cross(logits, targets, task, shifts=shifts, groups=groups)[0]


def fit_and_cross(
    logits: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    task: str,
    *,
    shifts: bool = True,
    groups: Sequence[object] | None = None,
) -> tuple[Calibration, Array]:
    """Return the calibration of `fit`, and logits that such calibrations give, each fitted without the picture.

    The arguments are those of `fit`. The logits are those of `crossed` with the method of the calibration.
    """
    pictures, units = logits.shape
    plain = np.asarray(logits, np.float64)
    if pictures < 2:
        return Calibration.none(units), plain
    alone = crossed(logits, targets, task, vector=False, groups=groups)
    before, after = losses(plain, targets, task), losses(alone, targets, task)
    scaled = bool(after.mean() < before.mean())
    if shifts and PICTURES_PER_UNIT * units <= min(pictures, LARGEST // units):
        shifted = crossed(logits, targets, task, vector=True, groups=groups)
        gain = (after if scaled else before) - losses(shifted, targets, task)
        if gain.mean() > gain.std(ddof=1) / math.sqrt(pictures):
            return _scaled(logits, targets, task, vector=True), shifted
    if not scaled:
        return Calibration.none(units), plain
    return _scaled(logits, targets, task, vector=False), alone


def crossed(
    logits: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    task: str,
    *,
    vector: bool,
    groups: Sequence[object] | None = None,
) -> Array:
    """Return calibrated logits, where the calibration of each picture was fitted without it.

    There are 5 folds, or 2 if there are many pictures, which differ little.

    Args:
        logits: Logits of held-out pictures, (pictures, units).
        targets: (pictures, classes): 1 if the picture has the class, else 0.
        task: "multiclass", "binary" or "multilabel".
        vector: True fits vector scaling, False temperature scaling.
        groups: A value per picture; pictures with equal values are copies, which stand in one fold. None means that
            there are no copies.
    """
    numbers = np.arange(len(logits)) if groups is None else group_numbers(groups)
    folds = FOLDS if logits.size <= LARGE else 2
    fold_of = (np.random.default_rng(0).permutation(numbers.max(initial=-1) + 1) % folds)[numbers]
    result = np.array(logits, np.float64)
    for fold in range(folds):
        rest, own = fold_of != fold, fold_of == fold
        if rest.any() and own.any():
            result[own] = _scaled(logits[rest], targets[rest], task, vector=vector).apply(logits[own])
    return result


def one_of_each(groups: Sequence[object]) -> npt.NDArray[np.int64]:
    """Return the ascending indices of one picture of each group, which is drawn at random, always alike.

    Near-duplicates are no further evidence. One that is drawn represents its group better than the first one does
    (Dunn et al. 2022, https://arxiv.org/abs/1809.07441).
    """
    order = np.random.default_rng(0).permutation(len(groups))
    return np.sort(order[np.unique(group_numbers(groups)[order], return_index=True)[1]])


def group_numbers(groups: Sequence[object]) -> npt.NDArray[np.int64]:
    """Return the number of the group of each picture, counted in the order in which the groups first occur."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(groups))}
    return np.asarray([numbers[value] for value in groups], np.int64)


def _scaled(logits: npt.NDArray[Any], targets: npt.NDArray[Any], task: str, *, vector: bool) -> Calibration:
    """Fit the scales, and the shifts if `vector` is True, that have the lowest loss.

    Targets are (N + 1) / (N + 2) instead of 1 (Platt 1999). Otherwise, a few pictures whose answers are all right would
    make the network as sure as possible.
    """
    from scipy.optimize import minimize

    pictures, units = logits.shape
    classes = 2 if task == "multilabel" else targets.shape[1]
    doubt = classes / (classes - 1) / (pictures + 2)
    single = task != "multilabel" and units == 1

    def parts(parameters: Array) -> tuple[Array, Array]:
        if vector:
            return np.exp(parameters[:units]), parameters[units:]
        return np.exp(np.full(units, parameters[0])), np.zeros(units)

    def loss(parameters: Array) -> tuple[float, Array]:
        scale, shift = parts(parameters)
        total, by_scale, by_shift = 0.0, np.zeros(units), np.zeros(units)
        for rows in _blocks(pictures, units):
            values = np.asarray(logits[rows], np.float64)
            truth = np.asarray(targets[rows], np.float64) * (1 - doubt) + doubt / classes
            scaled = values * scale + shift
            total += float(losses(scaled, truth, task).sum())
            # The derivative of the cross-entropy with respect to a logit is the probability minus the target.
            error = probabilities(scaled, task) - truth
            error = error[:, 1:] if single else error
            by_scale += (error * values).sum(axis=0)
            by_shift += error.sum(axis=0)
        gradient = np.concatenate([by_scale * scale, by_shift]) if vector else (by_scale * scale).sum(keepdims=True)
        return total / pictures, gradient / pictures / (units if task == "multilabel" else 1)

    limits = [(-LARGEST_LOG_SCALE, LARGEST_LOG_SCALE)] * (units if vector else 1)
    limits += [(-20.0, 20.0)] * (units if vector else 0)
    found = minimize(
        loss,
        np.zeros(len(limits)),
        jac=True,
        bounds=limits,
        method="L-BFGS-B",
        options={"ftol": 1e-8, "maxiter": STEPS},
    )
    scale, shift = parts(found.x)
    return Calibration("vector" if vector else "temperature", scale, shift)


def sample(groups: Sequence[object], units: int) -> npt.NDArray[np.int64]:
    """Return ascending indices of held-out pictures that are enough to fit everything, in bounded time and memory.

    These are all pictures, unless they have more than 5 million logits. Whole groups are drawn at random then.

    Args:
        groups: A value per picture; pictures with equal values are copies.
        units: The number of logits per picture.
    """
    most = max(1, LARGEST // units)
    if len(groups) <= most:
        return np.arange(len(groups))
    numbers = group_numbers(groups)
    place = np.random.default_rng(0).permutation(numbers.max() + 1)[numbers]
    return np.sort(np.argsort(place, kind="stable")[:most])


def decided(likely: npt.NDArray[Any], targets: npt.NDArray[Any], task: str) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Return how sure the network is of each decision, float64 (N,) in 0..1, and whether it is right, bool (N,).

    A decision is the likeliest class of a picture. If the task is "multilabel", it is whether a picture has a class.

    Args:
        likely: Probabilities, (pictures, classes).
        targets: (pictures, classes): 1 if the picture has the class, else 0.
        task: "multiclass", "binary" or "multilabel".
    """
    values = np.asarray(likely, np.float64)
    if task == "multilabel":
        sure = np.maximum(values, 1 - values)
        return sure.ravel(), ((values >= 0.5) == (np.asarray(targets) > 0.5)).ravel()
    return values.max(axis=1), values.argmax(axis=1) == np.asarray(targets).argmax(axis=1)


def calibration_error(sure: Array, right: npt.NDArray[np.bool_], bins: int = BINS) -> float:
    """Return the expected calibration error, in 0..1: the mean gap between confidence and accuracy over the bins.

    Args:
        sure: The confidence of each decision, in 0..1.
        right: Whether each decision is right.
        bins: The number of bins of equal width.
    """
    place = np.minimum((sure * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, weights=sure - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(sure))


def reliability(sure: Array, right: npt.NDArray[np.bool_], bins: int = BINS, *, per_picture: int = 1) -> dict[str, Any]:
    """Return the expected calibration error with its 95 % bootstrap interval, and the reliability of each bin.

    Args:
        sure: The confidence of each decision, in 0..1, at least one.
        right: Whether each decision is right.
        bins: The number of bins of equal width.
        per_picture: How many decisions stand one after the other for each picture. They depend on each other, so the
            bootstrap draws pictures.

    Returns:
        `expected_calibration_error`, its `interval`, and `bins`: for each bin that has decisions, their number, mean
        confidence and accuracy, with the 95 % Wilson interval of the accuracy. A sample of a sample has a larger error
        than the sample itself. The interval is therefore moved by the mean difference, so that it is around the error.
    """
    from zoo.evaluate.metrics import interval

    random = np.random.default_rng(0)
    if per_picture == 1:
        # One after the other, because all samples together take much memory.
        samples = (random.integers(0, len(sure), len(sure)) for _ in range(RESAMPLES))
        errors = [calibration_error(sure[rows], right[rows], bins) for rows in samples]
    else:
        errors = _resampled_by_picture(sure, right, bins, per_picture, random)
    place = np.minimum((sure * bins).astype(np.int64), bins - 1)
    filled = []
    for number in np.unique(place):
        own = place == number
        accuracy = float(right[own].mean())
        filled.append(
            {
                "from": float(number / bins),
                "decisions": int(own.sum()),
                "confidence": float(sure[own].mean()),
                "accuracy": accuracy,
                "accuracy_interval": interval(accuracy, int(own.sum())),
            }
        )
    error = calibration_error(sure, right, bins)
    low, high = np.quantile(errors, [0.025, 0.975]) - np.mean(errors) + error
    return {
        "expected_calibration_error": error,
        "interval": [max(0.0, float(low)), float(high)],
        "bins": filled,
    }


def _resampled_by_picture(
    sure: Array, right: npt.NDArray[np.bool_], bins: int, per_picture: int, random: np.random.Generator
) -> list[float]:
    """Return the calibration error of samples of pictures, each with all of its decisions."""
    pictures = len(sure) // per_picture
    place = np.minimum((sure * bins).astype(np.int64), bins - 1)
    place += np.repeat(np.arange(pictures) * bins, per_picture)
    gaps = np.bincount(place, weights=sure - right, minlength=pictures * bins).reshape(pictures, bins)
    samples = (random.integers(0, pictures, pictures) for _ in range(RESAMPLES))
    return [float(np.abs(gaps[rows].sum(axis=0)).sum() / len(sure)) for rows in samples]


def lower_bound(right: int, pictures: int, error: float) -> float:
    """Return the Clopper-Pearson lower bound of a precision; it is wrong with a probability of at most `error`.

    Args:
        right: How many answers are right.
        pictures: How many answers there are.
        error: The probability, in 0..1.
    """
    from scipy.stats import beta

    return float(beta.ppf(error, right, pictures - right + 1)) if right else 0.0


def threshold_for(sure: Array, right: npt.NDArray[np.bool_], precision: float) -> float | None:
    """Return the lowest threshold of the confidence above which a precision holds with 95 % confidence.

    The search tries a few thresholds. Each of them may be wrong with a part of the 5 %, so that all of them together
    are wrong with a probability of at most 5 % (Geifman and El-Yaniv 2017, algorithm 1).

    Args:
        sure: The confidence of each held-out picture, in 0..1.
        right: Whether each answer is right.
        precision: The wanted fraction of right answers among those that are given, in (0, 1).

    Returns:
        The threshold; answers with this confidence or more are given. None if no threshold is good enough.
    """
    rounded = np.round(sure / ROUNDING) * ROUNDING
    order = np.argsort(-rounded, kind="stable")
    ordered, hits = rounded[order], np.cumsum(right[order])
    # Pictures with equal confidences cannot be separated.
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    error = (1 - CONFIDENCE) / max(1, math.ceil(math.log2(len(ends) + 1)))
    low, high, best = 0, len(ends) - 1, None
    while low <= high:
        middle = (low + high) // 2
        end = ends[middle]
        if lower_bound(int(hits[end]), int(end) + 1, error) >= precision:
            best, low = max(0.0, float(ordered[end]) - ROUNDING / 2), middle + 1
        elif _too_few(int(end) + 1, error, precision):
            low = middle + 1
        else:
            high = middle - 1
    return best


def _too_few(pictures: int, error: float, precision: float) -> bool:
    """Return whether even answers that are all right would be too few to show a precision."""
    return lower_bound(pictures, pictures, error) < precision


def largest_precision(sure: Array, right: npt.NDArray[np.bool_]) -> float:
    """Return the largest precision with 3 decimals for which `threshold_for` finds a threshold; 0 if there is none."""
    low, high = 0, 1000
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if threshold_for(sure, right, middle / 1000) is not None else (low, middle - 1)
    return low / 1000


def precision_curve(sure: Array, right: npt.NDArray[np.bool_], points: int = 50) -> list[dict[str, float]]:
    """Return the precision for thresholds that keep more and more of the pictures.

    Args:
        sure: The confidence of each held-out picture, in 0..1.
        right: Whether each answer is right.
        points: The largest number of thresholds.

    Returns:
        For each threshold, strictest first: `threshold`, `coverage` (the fraction of pictures that get an answer),
        `precision`, and `lower`, the lower bound of the precision with 95 % confidence at this one threshold.
    """
    order = np.argsort(-sure, kind="stable")
    ordered, hits = sure[order], np.cumsum(right[order])
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    chosen = ends[np.unique(np.linspace(0, len(ends) - 1, min(points, len(ends))).round().astype(int))]
    return [
        {
            "threshold": float(ordered[end]),
            "coverage": float((end + 1) / len(sure)),
            "precision": float(hits[end] / (end + 1)),
            "lower": lower_bound(int(hits[end]), int(end) + 1, 1 - CONFIDENCE),
        }
        for end in chosen
    ]


def set_thresholds(
    likely: npt.NDArray[Any], targets: npt.NDArray[Any], coverages: Sequence[float] = COVERAGES
) -> dict[str, float]:
    """Return for each coverage the probability that a class needs to be in the label set of a picture.

    The set has the true class with at least the stated probability, for pictures like the held-out ones. A set may have
    several classes or none.

    Args:
        likely: Probabilities of held-out pictures, (pictures, classes).
        targets: (pictures, classes): 1 for the one class of the picture, else 0.
        coverages: The probabilities, each in (0, 1).

    Returns:
        Maps each coverage, as a string such as "0.95", to the threshold. It is 0 if there are too few pictures, so that
        the set has all classes.
    """
    true = np.sort(np.asarray(likely, np.float64)[np.arange(len(likely)), np.asarray(targets).argmax(axis=1)])
    thresholds = {}
    for coverage in coverages:
        # 1e-9 corrects rounding: 0.05 * 20 may be a little below 1.
        place = math.floor((1 - coverage) * (len(true) + 1) + 1e-9)
        thresholds[f"{coverage:g}"] = max(0.0, float(true[place - 1]) - ROUNDING) if place >= 1 else 0.0
    return thresholds
