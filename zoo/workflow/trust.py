"""Fits what an exported file knows about its own answers, and puts it into the graph and the metadata.

`zoo.evaluate.calibration` and `zoo.evaluate.outliers` have the methods, and `zoo.convert.trust_graph` the nodes. This
module decides on which pictures they are fitted: on pictures that were held out, never on test pictures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zoo.convert import trust_graph
from zoo.convert.keras_to_onnx import INPUT, LOGITS, OUTLIER_SCORE, PROBABILITIES
from zoo.convert.session import open_session
from zoo.data.dataset import Dataset
from zoo.errors import ConversionFailed, ParityFailed, RunError
from zoo.evaluate import calibration, outliers
from zoo.evaluate.calibration import Calibration
from zoo.evaluate.outliers import OutlierScore
from zoo.reporter import Reporter, counted
from zoo_runtime import DriftCounter, ModelInfo

if TYPE_CHECKING:
    import onnx

# The file in the run folder that has the metadata and the report of `Trust`.
FILE = "trust.json"
BATCH = 16
# So many training pictures decide prototypes and statistics. More change little, and take seconds.
FEATURE_PICTURES = 1024
STATISTICS_PICTURES = 256
CHECKED_PICTURES = 16
# Messages propose no lower precision than this: it would be of no use.
LEAST_PRECISION = 0.5
# Differences between the graph and numpy that pass, for calibrated probabilities and for outlier scores.
TOLERANCE, SCORE_TOLERANCE = 1e-5, 1e-3

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HeldOut:
    """Holds the logits of pictures that the network, or a network like it, was not trained on.

    Args:
        rows: Indices of the pictures in the dataset, int64 (N,).
        logits: float32 or float64 (N, units), before calibration.
        targets: uint8 (N, classes): 1 if the picture has the class, else 0.
        source: "cross-validation", "cross-validation at 224x224" if they were transferred from another picture size,
            "validation", or "" if there are no such pictures.
    """

    rows: npt.NDArray[np.int64]
    logits: npt.NDArray[Any]
    targets: npt.NDArray[Any]
    source: str


@dataclass(frozen=True)
class TrainingFeatures:
    """Holds the pooled features of training pictures.

    Args:
        rows: Indices of the pictures in the dataset, int64 (N,): the train part, or pictures at equal distances in it.
        groups: The features, in groups that stand beside each other, each (N, n).
        frozen: Whether no label has changed the layers that computed them.
    """

    rows: npt.NDArray[np.int64]
    groups: Sequence[npt.NDArray[Any]]
    frozen: bool = True

    def values(self, places: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return the features of the pictures at some places of `rows`, (len(places), all n together)."""
        return np.concatenate([group[places] for group in self.groups], axis=1)


@dataclass(frozen=True)
class Trust:
    """Holds what was fitted for one graph.

    Args:
        calibration: The calibration of its probabilities.
        outliers: The outlier score; None if the features cannot give one.
        metadata: The entry `trust` of `zoo_runtime.ModelInfo`.
        report: More figures for trust.json: the reliability of each bin, and the curve of precision and coverage.
        refusal: Why no threshold holds the wanted precision; None if one does, or none was asked for.
        possible: The largest precision that some threshold holds, as a word of a command; "" if it is below 0.5.
        training: The pooled features of training pictures, as the graph computes them; None if it has none.
    """

    calibration: Calibration
    outliers: OutlierScore | None
    metadata: Mapping[str, Any]
    report: Mapping[str, Any]
    refusal: str | None = None
    possible: str = ""
    training: TrainingFeatures | None = None


@dataclass(frozen=True)
class TrustOptions:
    """Says on what and for what a file is fitted.

    Args:
        task: "multiclass", "binary" or "multilabel".
        seed: The seed of the run.
        precision: The wanted precision in (0, 1); None asks for none.
        balanced: Whether the classes were weighted in training, so that a calibration must not shift logits.
        frozen: Whether the features do not depend on the training.
    """

    task: str
    seed: int
    precision: float | None = None
    balanced: bool = False
    frozen: bool = True


def held_out(dataset: Dataset, out_of_fold: Mapping[str, Any], graph: onnx.ModelProto) -> HeldOut:
    """Return logits of held-out pictures: of the cross-validation, or else of the validation part.

    Args:
        dataset: The dataset of the run.
        out_of_fold: The logits of pictures that were held out in a cross-validation, by the sha256 of the picture.
        graph: The graph of the network, with the output `logits`. It runs on the validation pictures.
    """
    digests, split = dataset.pixels.digests, dataset.split
    rows = np.array([i for i in split.train if digests[i] in out_of_fold], dtype=np.int64)
    if len(rows):
        logits = np.stack([out_of_fold[digests[i]] for i in rows])
        return HeldOut(rows, logits, dataset.targets[rows], "cross-validation")
    rows = np.asarray(split.val, np.int64)
    if not len(rows):
        units = next(o for o in graph.graph.output if o.name == LOGITS).type.tensor_type.shape.dim[1].dim_value
        return HeldOut(rows, np.zeros((0, units)), dataset.targets[rows], "")
    (computed,) = run(graph, dataset.pixels.array, rows, [LOGITS])
    return HeldOut(rows, computed, dataset.targets[rows], "validation")


def run(
    graph: onnx.ModelProto, pixels: npt.NDArray[np.uint8], rows: Sequence[int] | npt.NDArray[Any], names: list[str]
) -> list[npt.NDArray[np.float32]]:
    """Run a graph on some pictures, and return the outputs with these names, each (pictures, ...).

    Raises:
        ConversionFailed: ONNX Runtime cannot run the graph.
    """
    session = open_session(graph)
    try:
        batches = [
            session.run(names, {INPUT: np.ascontiguousarray(pixels[rows[i : i + BATCH]])})
            for i in range(0, len(rows), BATCH)
        ]
    except Exception as error:
        # The exceptions of ONNX Runtime have no common base class.
        raise ConversionFailed(f"onnxruntime cannot run the graph: {str(error).splitlines()[0]}") from error
    return [np.concatenate([batch[i] for batch in batches]) for i in range(len(names))]


def spread(rows: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Return at most `count` rows at equal distances, because the train part is sorted by class."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64))
    return np.asarray(rows, np.int64)[places]


def fit(
    known: HeldOut,
    dataset: Dataset,
    rows: npt.NDArray[np.int64],
    features: npt.NDArray[Any] | None,
    held_out_features: npt.NDArray[Any] | None,
    options: TrustOptions,
) -> Trust:
    """Fit calibration, thresholds, label sets, the outlier score and statistics of the training pictures.

    Args:
        known: Logits of held-out pictures.
        dataset: The dataset of the run.
        rows: Indices of training pictures that decide prototypes and statistics.
        features: The pooled features of these pictures, (pictures, n); None if the graph has none.
        held_out_features: The pooled features of validation pictures; None if there are none.
        options: What is asked for.
    """
    task, count = options.task, len(known.logits)
    scaling = Calibration.none(known.logits.shape[1])
    metadata: dict[str, Any] = {}
    report: dict[str, Any] = {}
    refusal, possible = None, ""
    sure = np.zeros(0)
    if count >= 2:
        known = enough(known, dataset)
        scaling, after, groups = _crossed(known, dataset, options)
        # Each from a calibration that was fitted without the picture. Its own would be too good for it.
        likely = calibration.probabilities(after, task)
        sure, _ = calibration.decided(likely, known.targets, task)
        metadata["calibration"], report["reliability"] = _calibrated(known, scaling, after, task)
        if task != "multilabel":
            entries, refusal, possible = _promised(likely, known, groups, options)
            metadata |= entries
    elif options.precision is not None:
        refusal = (
            f"no threshold holds a precision of {options.precision:g}, because fewer than 2 pictures were held out. "
            "Add pictures, or train with a validation part (--val-split) or a cross-validation (--cv)"
        )
    score = None
    unseen = None if options.frozen else held_out_features
    # Trained features are closer together for training pictures, so that these cannot decide the threshold.
    if features is not None and len(features) and (options.frozen or (unseen is not None and len(unseen))):
        score = outliers.fit(features, [dataset.groups[i] for i in rows], unseen, seed=options.seed)
        if score is not None:
            metadata["outliers"] = {
                "threshold": score.threshold,
                "kept": outliers.KEPT,
                "prototypes": len(score.prototypes),
                "pictures": len(score.held_out),
                "fitted_on": "training, frozen features" if options.frozen else "validation",
                "frozen_features": options.frozen,
            }
    metadata["drift"] = _statistics(dataset, rows, features, score, sure)
    return Trust(scaling, score, metadata, report, refusal, possible)


def promises(
    known: HeldOut, dataset: Dataset, options: TrustOptions, moved: Callable[[HeldOut], npt.NDArray[Any]]
) -> Trust:
    """Return what `fit` finds for thresholds and label sets alone: the entries `unknown` and `sets` of the metadata.

    Args:
        known: Logits of two or more held-out pictures; see `enough`.
        dataset: The dataset of the run.
        options: What is asked for. A picture has one label.
        moved: Takes calibrated logits of these pictures, and returns those that another file gives.
    """
    scaling, after, groups = _crossed(known, dataset, options)
    likely = calibration.probabilities(moved(dataclasses.replace(known, logits=after)), options.task)
    entries, refusal, possible = _promised(likely, known, groups, options)
    return Trust(scaling, None, entries, {}, refusal, possible)


def enough(known: HeldOut, dataset: Dataset) -> HeldOut:
    """Return as many held-out pictures as are needed."""
    kept = calibration.sample([dataset.groups[i] for i in known.rows], known.logits.shape[1])
    if len(kept) == len(known.logits):
        return known
    return HeldOut(known.rows[kept], known.logits[kept], known.targets[kept], known.source)


def _crossed(known: HeldOut, dataset: Dataset, options: TrustOptions) -> tuple[Calibration, Array, list[Any]]:
    """Return the calibration, the logits that calibrations give that were fitted without the picture, and groups."""
    groups = [dataset.groups[i] for i in known.rows]
    shifts = not options.balanced
    return *calibration.fit_and_cross(known.logits, known.targets, options.task, shifts=shifts, groups=groups), groups


def _promised(
    likely: Array, known: HeldOut, groups: Sequence[Any], options: TrustOptions
) -> tuple[dict[str, Any], str | None, str]:
    """Return the entries `unknown` and `sets`, why no threshold holds the precision, and the largest that one holds."""
    sure, right = calibration.decided(likely, known.targets, options.task)
    # The promises count independent pictures: near-duplicates are no further evidence.
    each = calibration.one_of_each(groups)
    unknown, refusal, possible = _thresholds(sure[each], right[each], options.precision)
    sets = calibration.set_thresholds(likely[each], known.targets[each])
    return {"unknown": unknown, "sets": sets}, refusal, possible


def reopened(values: Mapping[str, Any]) -> Trust:
    """Return what trust.json has, without the outlier score, whose prototypes are in the exported file alone.

    Raises:
        RunError: The file is damaged.
    """
    try:
        entry = values.get("calibration")
        scaling = Calibration("none", np.ones(1), np.zeros(1))
        if entry:
            scaling = Calibration(entry["method"], *(np.array(entry[key], float) for key in ("scale", "shift")))
        metadata = {key: values[key] for key in ("calibration", "unknown", "sets", "drift") if key in values}
        return Trust(scaling, None, metadata, {})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{FILE} is damaged: {error}. Export the run again.") from None


def _calibrated(known: HeldOut, scaling: Calibration, after: Array, task: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the entry `calibration`, and the reliability before and after.

    The logits `after` come from calibrations that were fitted without the picture that they judge.
    """
    figures = {}
    for name, logits in (("before", known.logits), ("after", after)):
        decisions = calibration.decided(calibration.probabilities(logits, task), known.targets, task)
        loss = float(calibration.losses(logits, known.targets, task).mean())
        per_picture = known.targets.shape[1] if task == "multilabel" else 1
        figures[name] = {"loss": loss, **calibration.reliability(*decisions, per_picture=per_picture)}
    short = {name: {key: value for key, value in values.items() if key != "bins"} for name, values in figures.items()}
    return {
        "method": scaling.method,
        "temperature": scaling.temperature,
        "scale": scaling.scale.tolist(),
        "shift": scaling.shift.tolist(),
        "fitted_on": known.source,
        "pictures": len(known.logits),
        **short,
    }, figures


def _thresholds(
    sure: Array, right: npt.NDArray[np.bool_], precision: float | None
) -> tuple[dict[str, Any], str | None, str]:
    """Return the entry `unknown`, why no threshold holds the wanted precision, and the largest that one holds."""
    entry: dict[str, Any] = {
        "precision": precision,
        "threshold": None,
        "coverage": None,
        "pictures": len(sure),
        "curve": calibration.precision_curve(sure, right),
    }
    if precision is None:
        return entry, None, ""
    threshold = calibration.threshold_for(sure, right, precision)
    if threshold is None:
        largest = calibration.largest_precision(sure, right)
        why = (
            f"no confidence threshold holds a precision of {precision:g}: {counted(len(sure), 'held-out picture')}, "
            f"without copies and near-duplicates, can show at most {largest:g} with 95 % confidence. More pictures can "
            "show more"
        )
        return entry, why, f"{largest:g}" if largest >= LEAST_PRECISION else ""
    kept = sure >= threshold
    entry["threshold"] = threshold
    entry["coverage"] = float(kept.mean())
    entry["held_out_precision"] = float(right[kept].mean())
    return entry, None, ""


def _statistics(
    dataset: Dataset,
    rows: npt.NDArray[np.int64],
    features: npt.NDArray[Any] | None,
    score: OutlierScore | None,
    sure: Array,
) -> dict[str, Any]:
    """Return the entry `drift`: the mean and the standard deviation of figures of training pictures."""
    counter = DriftCounter()
    for row in spread(rows, STATISTICS_PICTURES):
        counter.add(dataset.pixels.array[row], {})
    summary = counter.summary()
    columns: dict[str, npt.NDArray[Any]] = {}
    if len(sure) and not dataset.source.multilabel:
        columns["confidence"] = sure
    if score is not None and features is not None:
        columns["outlier_score"] = score.held_out
        columns["feature_norm"] = np.linalg.norm(np.asarray(features, np.float64), axis=1)
    for name, values in columns.items():
        summary["figures"][name] = {"mean": float(values.mean()), "deviation": float(values.std())}
    return summary


def attach(graph: onnx.ModelProto, trust: Trust, task: str) -> onnx.ModelProto:
    """Return the graph of the exported file: with calibrated probabilities and the outlier score.

    Args:
        graph: The graph of the network, with the outputs `logits`, `probabilities` and the pooled features.
        trust: What was fitted for this graph.
        task: "multiclass", "binary" or "multilabel".

    Raises:
        ConversionFailed: The graph is not valid.
    """
    if trust.calibration.method != "none":
        graph = trust_graph.with_calibration(graph, trust.calibration.scale, trust.calibration.shift, task=task)
    if trust.outliers is not None:
        return trust_graph.with_outlier_score(graph, trust.outliers.prototypes)
    return trust_graph.without_features(graph)


def check(
    finished: onnx.ModelProto, raw: onnx.ModelProto, trust: Trust, task: str, pixels: npt.NDArray[np.uint8]
) -> dict[str, float]:
    """Check that the finished graph computes what numpy computes from the logits and features of the raw graph.

    Args:
        finished: The graph of the exported file, from `attach`.
        raw: The graph that it was made from.
        trust: What was fitted.
        task: "multiclass", "binary" or "multilabel".
        pixels: Real pictures, uint8 (pictures, height, width, channels) in 0..255.

    Returns:
        The largest absolute differences, under "calibrated_difference" and, if there is a score, "outlier_difference".

    Raises:
        ParityFailed: The graph computes something else.
        ConversionFailed: ONNX Runtime cannot run a graph.
    """
    rows = np.arange(len(pixels))
    features = trust_graph.features_of(raw)
    names = [LOGITS, *([features] if features and trust.outliers is not None else [])]
    expected = run(raw, pixels, rows, names)
    outputs = run(finished, pixels, rows, [PROBABILITIES, *([OUTLIER_SCORE] if len(names) > 1 else [])])
    likely = calibration.probabilities(trust.calibration.apply(expected[0]), task)
    differences = {"calibrated_difference": float(np.abs(likely - outputs[0]).max())}
    if trust.outliers is not None and len(names) > 1:
        differences["outlier_difference"] = float(np.abs(trust.outliers(expected[1]) - outputs[1]).max())
    limits = {"calibrated_difference": TOLERANCE, "outlier_difference": SCORE_TOLERANCE}
    wrong = {name: value for name, value in differences.items() if not value <= limits[name]}
    if wrong:
        raise ParityFailed(f"calibration or outlier score of the graph differ from those that were fitted: {wrong}.")
    return differences


def finish(
    raw: onnx.ModelProto,
    info: ModelInfo,
    dataset: Dataset,
    known: HeldOut,
    options: TrustOptions,
    pixels: npt.NDArray[np.uint8],
    reporter: Reporter,
    features: Sequence[npt.NDArray[Any]] | None = None,
) -> tuple[onnx.ModelProto, ModelInfo, Trust]:
    """Fit everything for a graph, put it into the graph and the metadata, and check the result.

    Args:
        raw: The graph of the network, with the outputs `logits`, `probabilities` and, if possible, pooled features.
        info: The metadata of the file.
        dataset: The dataset of the run.
        known: Logits of held-out pictures.
        options: What is asked for.
        pixels: Real pictures for the check, uint8 (pictures, height, width, channels) in 0..255.
        reporter: Receives messages.
        features: Groups of pooled features of all training pictures, each (pictures, n), in the order of the train
            part. None computes those of at most 1,024 pictures.

    Returns:
        The graph of the exported file, its metadata without a self-test, and what was fitted.

    Raises:
        ParityFailed: See `check`.
        ConversionFailed: See `attach`.
    """
    train, name = dataset.split.train, trust_graph.features_of(raw)
    rows = spread(train, FEATURE_PICTURES)
    own = unseen = training = None
    with reporter.timing.measure("calibration and outliers"):
        if features is not None:
            training = TrainingFeatures(np.asarray(train, np.int64), features)
            own = training.values(spread(np.arange(len(train)), FEATURE_PICTURES))
        elif name is not None:
            (own,) = run(raw, dataset.pixels.array, rows, [name])
            training = TrainingFeatures(rows, [own], options.frozen)
        if name is not None and not options.frozen and len(dataset.split.val):
            (unseen,) = run(raw, dataset.pixels.array, spread(dataset.split.val, FEATURE_PICTURES), [name])
        trust = fit(known, dataset, rows, own, unseen, options)
        graph = attach(raw, trust, options.task)
        parity = {**info.parity, **check(graph, raw, trust, options.task, pixels)}
    trust = dataclasses.replace(trust, training=training)
    return graph, dataclasses.replace(info, trust=dict(trust.metadata), parity=parity), trust


def summary_lines(trust: Trust) -> list[str]:
    """Return lines that say how far the answers of a file can be trusted."""
    lines = []
    entry = trust.metadata.get("calibration")
    if entry:
        before, after = entry["before"], entry["after"]
        low, high = after["interval"]
        on = f"{entry['pictures']} held-out pictures ({entry['fitted_on']})"
        error = f"{after['expected_calibration_error']:.3f} ({low:.3f} to {high:.3f} with 95 % confidence)"
        if entry["method"] == "none":
            lines.append(f"Calibration: not needed; on {on}, the expected calibration error is {error}")
        else:
            lines.append(
                f"Calibration: {entry['method']} scaling on {on} lowers the loss from {before['loss']:.3f} to "
                f"{after['loss']:.3f}; the expected calibration error was "
                f"{before['expected_calibration_error']:.3f} and is {error}"
            )
    else:
        lines.append(
            "Calibration: none, because fewer than 2 pictures were held out; the confidences may be far too high"
        )
    unknown = trust.metadata.get("unknown") or {}
    if unknown.get("threshold") is not None:
        lines.append(
            f"Unknown: answers below a confidence of {unknown['threshold']:.4f} are unknown, so that at least "
            f"{unknown['precision']:g} of the others are right with 95 % confidence; {unknown['coverage']:.1%} of the "
            "held-out pictures get an answer"
        )
    return lines
