"""Trains by a schedule in which evidence decides: the head is solved, and later phases have to earn their place.

The order of the steps is here. `zoo.train.evidence` decides, and `zoo.workflow.solved` has the converted backbone.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend, runs
from zoo.config import ResolvedConfig
from zoo.data.dataset import Dataset
from zoo.errors import ConversionFailed, ConverterMissing, TrainingError
from zoo.files import atomic_write
from zoo.plugin.registry import Registry
from zoo.reporter import Reporter
from zoo.runs import OUT_OF_FOLD
from zoo.train import evidence, linear_head
from zoo.train.evidence import ChosenHead, Evidence, Trials
from zoo.train.folds import held_out_in
from zoo.train.frozen.backbone import PooledBackbone
from zoo.train.frozen.pooled import pooled_features
from zoo.train.frozen.stats import CacheStats
from zoo.train.inputs import TrainingData, class_weights
from zoo.train.linear_head import FOLDS, cross_entropies, decisions, out_of_fold
from zoo.train.safe_points import SafePoints, Values
from zoo.workflow import head_logits, solved
from zoo.workflow.judging import EVERYTHING, Judging, stop
from zoo.workflow.keras_network import build_network
from zoo.workflow.solved import SolvedNetwork
from zoo_runtime.workshop import usable_cores

if TYPE_CHECKING:
    import keras

    from zoo.train.engine import TrainConfig
    from zoo.train.network import Network

BATCH = 32
# The name of the step that solves the head.
HEAD = "head"


def train(
    resolved: ResolvedConfig,
    dataset: Dataset,
    data: TrainingData,
    config: TrainConfig,
    registry: Registry,
    run: runs.Run,
    record: runs.RunRecord,
    reporter: Reporter,
    points: SafePoints,
    log: Callable[[Mapping[str, Any]], None],
    judging: Judging,
) -> tuple[SolvedNetwork | keras.Model, runs.RunRecord]:
    """Solve the head, train later phases if held-out pictures say that they help, and write the files of the run.

    Args:
        resolved: The settings of the run.
        dataset: The pictures.
        data: The same pictures, as training takes them.
        config: The settings of training.
        registry: The loaded plugins.
        run: The run folder.
        record: The content of run.json so far.
        reporter: Receives progress messages and warnings.
        points: The safe points of the run. Steps that are finished in them are not repeated.
        log: Receives each row of the history, once its epoch has ended. The rows before an interruption come again.
        judging: How far the run is judged by held-out pictures.

    Returns:
        The network, and the record with the results of training. If only the head was trained and the backbone could be
        converted, the network is a `SolvedNetwork`.

    Raises:
        ZooError: The network cannot be built or trained, or a file cannot be written.
        Judged: The run was only to be judged.
    """
    started, stats = time.perf_counter(), CacheStats()
    backbone, groups = features_of(resolved, data, config, registry, reporter, stats)
    chosen, row, phase = _head_of(points, backbone, groups, resolved, data, reporter, started)
    log(row)
    epochs, phases, warnings = 1, [phase], _not_judged(chosen, resolved, data, reporter)
    found, trials = Evidence(0, ""), None
    if len(resolved.phases) > 1 and judging.folds != 0:
        trials = trials_of(chosen, resolved, data, config, registry, reporter, points)
        found = found_by(trials, resolved, judging)
        reporter.say(f"Evidence: {found.text}")
    _stop_if_judged(judging, chosen, found, resolved, data, dataset, run)
    if trials is not None and found.count:
        network, result = trials.refit(found, lambda row: log(_after_head(row, found)))
        epochs += len(result.history)
        warnings += result.warnings
        phases += result.phases
        trained: SolvedNetwork | keras.Model = network.model
    else:
        trained = head_alone(backbone, chosen, groups, resolved, registry, reporter)
    nothing = {"moved_layers": [], "moved_parameters": 0, "epochs_run": 0, "seconds": 0.0}
    left_out = resolved.phases[1 + found.count :]
    phases += [{**each.to_json(), **nothing, "left_out": found.text} for each in left_out]
    _write_network(trained, run, reporter)
    # Phases that were not tried have no out-of-fold logits.
    logits = found.logits if found.count else chosen.fit.logits
    if logits is not None:
        _write_out_of_fold(chosen.fit.rows, logits, data, dataset, run)
    _write_head_logits(logits, chosen, groups, resolved, data, dataset, run, reporter)
    record = record.with_training(
        phases=phases,
        best_epoch=epochs,
        prefix=stats.to_json(),
        warnings=warnings,
        seconds=points.elapsed(),
        head=dataclasses.asdict(chosen.head),
        evidence={"text": found.text, **found.record} if found.text else None,
    )
    run.write_record(record)
    return trained, record


def trials_of(
    chosen: ChosenHead,
    resolved: ResolvedConfig,
    data: TrainingData,
    config: TrainConfig,
    registry: Registry,
    reporter: Reporter,
    points: SafePoints,
) -> Trials:
    """Return the trials of the phases after that of the head. The arguments are those of `train`."""

    def build() -> Network:
        return build_network(resolved, registry, reporter, chosen.head)

    return Trials(build, chosen, resolved.phases[1:], data, config, reporter, points)


def found_by(trials: Trials, resolved: ResolvedConfig, judging: Judging = EVERYTHING) -> Evidence:
    """Return what the trials of a run say. If the user gave epochs for every phase, none is tried."""
    if len(resolved.requested.epochs or ()) > 1:
        return Evidence(len(resolved.phases) - 1, "--epochs has a value for each phase, so that all are trained")
    return trials.run(every_fold=resolved.requested.folds is not None, most=judging.most)


def _stop_if_judged(
    judging: Judging,
    chosen: ChosenHead,
    found: Evidence,
    resolved: ResolvedConfig,
    data: TrainingData,
    dataset: Dataset,
    run: runs.Run,
) -> None:
    """End a run that is only to be judged; see `zoo.workflow.judging.stop`."""
    if not judging.alone:
        return
    fit = chosen.fit
    rows, logits = fit.rows, found.logits if found.count else fit.logits
    if judging.folds and logits is not None:
        counted_in = fit.fold_of[rows] < judging.folds
        rows, logits = rows[counted_in], logits[counted_in]
    weights = class_weights(data) if resolved.requested.balance else None
    stop(judging, run, data, dataset, rows, logits, weights)


def _head_of(
    points: SafePoints,
    backbone: PooledBackbone | None,
    groups: list[np.ndarray],
    resolved: ResolvedConfig,
    data: TrainingData,
    reporter: Reporter,
    started: float,
) -> tuple[ChosenHead, dict[str, Any], dict[str, Any]]:
    """Return the head that was solved before an interruption, or else solve it; see `_solve_head`."""
    stored = points.finished(HEAD)
    if stored is not None:
        reporter.say("Head: the one that was solved before the interruption is used")
        return evidence.from_values(stored), dict(stored.facts["row"]), dict(stored.facts["phase"])
    seconds = time.perf_counter() - started
    chosen, row, phase = _solve_head(backbone, groups, resolved, data, reporter, seconds)
    values = evidence.to_values(chosen)
    points.finish(HEAD, Values({**values.facts, "row": row, "phase": phase}, values.arrays))
    return chosen, row, phase


def features_of(
    resolved: ResolvedConfig,
    data: TrainingData,
    config: TrainConfig,
    registry: Registry,
    reporter: Reporter,
    stats: CacheStats,
) -> tuple[PooledBackbone | None, list[np.ndarray]]:
    """Return the converted backbone, and the pooled features of the training pictures, each float32 (pictures, n).

    The backbone is None if it cannot be converted or run; Keras has then computed the features. On a GPU or TPU, Keras
    computes them in either case.
    """
    weights = resolved.weights.file
    if weights is not None:
        spec = solved.BackboneSpec(resolved.architecture, resolved.head, resolved.spec.size, weights)
        arguments = (data.array, data.train, config.features, reporter, stats)
        try:
            backbone = solved.open_backbone(spec, registry, reporter)
            computing = solved.keras_backbone(spec, registry, reporter) if backend.accelerated() else backbone
            return backbone, pooled_features(computing, *arguments)
        except ConverterMissing:
            reporter.say("Features: Keras computes them, because TensorFlow, which converts backbones, is missing here")
        except ConversionFailed as error:
            reporter.warn(f"features are computed by Keras, which is slower: {str(error).splitlines()[0]}")
        return None, pooled_features(solved.keras_backbone(spec, registry, reporter), *arguments)
    keras = backend.start()
    network = build_network(resolved, registry, reporter)
    layer = network.model.get_layer("logits")
    model = keras.Model(network.model.input, layer.input)
    parts = []
    with reporter.timing.measure("computing features"), reporter.progress("features") as progress:
        for start in range(0, len(data.train), BATCH):
            rows = data.train[start : start + BATCH]
            parts.append(np.asarray(model.predict_on_batch(data.array[rows].astype("float32"))))
            progress(start + len(rows), len(data.train))
    stats.engine, stats.computed = "Keras", len(data.train)
    return None, [np.concatenate(parts)]


def _solve_head(
    backbone: PooledBackbone | None,
    groups: list[np.ndarray],
    resolved: ResolvedConfig,
    data: TrainingData,
    reporter: Reporter,
    seconds: float,
) -> tuple[ChosenHead, dict[str, Any], dict[str, Any]]:
    """Solve and choose the head. Return it with its row of history.csv and its phase of run.json."""
    started, requested, phase = time.perf_counter(), resolved.requested, resolved.phases[0]
    targets = data.targets[data.train]
    weights = class_weights(data) if requested.balance else None
    features, units = sum(group.shape[1] for group in groups), targets.shape[1]
    cost = linear_head.cost_text(len(targets), features, units, usable_cores())
    if cost:
        reporter.warn(cost)
    with reporter.timing.measure("solving the head"):
        chosen = choose(groups, resolved, data, weights)
    fit = chosen.fit
    if backbone is None and len(groups) == 1:
        # Keras has computed the features of the head that was requested.
        chosen = dataclasses.replace(chosen, head=resolved.head)
    held_out, loss, accuracy = len(fit.rows), None, None
    options: dict[str, Any] = {"label_smoothing": requested.label_smoothing, "weights": weights}
    if held_out:
        known = targets[fit.rows]
        loss = float(cross_entropies(fit.logits, known, data.task, **options).mean())
        accuracy = float(decisions(fit.logits, known, data.task).mean())
    losses, right = fit.evaluate(groups[: chosen.groups], targets, data.task, **options)
    seconds = round(seconds + time.perf_counter() - started, 2)
    row = {
        "phase": phase.name,
        "epoch": 1,
        "learning_rate": 0.0,
        "loss": float(losses.mean()),
        "accuracy": float(right.mean()),
        "val_loss": loss,
        "val_accuracy": accuracy,
        "seconds": seconds,
    }
    tested = "no picture could be held out"
    if held_out:
        tested = f"loss {loss:.4f}, accuracy {accuracy:.4f} on {held_out} pictures, {held_out_in(fit.folds)}"
    reads = f"the features of {chosen.head.stages} stages" if chosen.head.stages > 1 else "the features of the top"
    reporter.say(f"Head: solved on {reads} in {time.perf_counter() - started:.1f} s; {tested}")
    return chosen, row, {**phase.to_json(), **_solution(chosen, loss), "seconds": seconds}


def choose(
    groups: list[np.ndarray], resolved: ResolvedConfig, data: TrainingData, weights: np.ndarray | None
) -> ChosenHead:
    """Solve and choose the head; see `zoo.train.evidence.choose_head`.

    Raises:
        TrainingError: The features are not finite.
    """
    requested = resolved.requested
    try:
        return evidence.choose_head(
            groups,
            data.targets[data.train],
            resolved.head,
            task=data.task,
            copies=None if data.copies is None else [data.copies[i] for i in data.train],
            weights=weights,
            label_smoothing=requested.label_smoothing,
            folds=requested.folds,
            seed=requested.seed,
        )
    except ValueError as error:
        raise TrainingError(f"the head cannot be solved: {error}") from error


def _solution(chosen: ChosenHead, loss: float | None) -> dict[str, Any]:
    """Return the entries of run.json that describe a solved head; `loss` is that of held-out pictures."""
    fit = chosen.fit
    return {
        "moved_layers": ["logits"],
        "moved_parameters": fit.kernel.size + fit.bias.size,
        "epochs_run": 1,
        "solution": {
            "penalty": fit.penalty,
            "folds": fit.folds,
            "fold_loss": loss,
            "stages": chosen.head.stages,
            "other_fold_losses": {str(stages): value for stages, value in chosen.others.items()},
        },
    }


def _not_judged(chosen: ChosenHead, resolved: ResolvedConfig, data: TrainingData, reporter: Reporter) -> list[str]:
    """Warn if no picture of some classes could be held out. Return the warning, or nothing."""
    if not chosen.fit.folds:
        return []
    counts = data.targets[data.train[chosen.fit.rows]].sum(axis=0)
    names = [repr(name) for name, count in zip(resolved.source.classes, counts, strict=True) if not count]
    if not names or chosen.fit.folds == 1:
        return []
    more = f" and {len(names) - 5} more classes" if len(names) > 5 else ""
    text = (
        f"the cross-validation does not judge {', '.join(names[:5])}{more}: add pictures. One of each class is for the "
    )
    text += "test, and at least two others are needed."
    reporter.warn(text)
    return [text]


def _after_head(row: Mapping[str, Any], found: Evidence) -> dict[str, Any]:
    """Return a row of a later phase for history.csv, with the figures of held-out pictures as validation."""
    done = row["epoch"] - 1
    loss, accuracy = found.epochs[done] if done < len(found.epochs) else (None, None)
    return {**row, "epoch": row["epoch"] + 1, "val_loss": loss, "val_accuracy": accuracy}


def head_alone(
    backbone: PooledBackbone | None,
    chosen: ChosenHead,
    groups: list[np.ndarray],
    resolved: ResolvedConfig,
    registry: Registry,
    reporter: Reporter,
) -> SolvedNetwork | keras.Model:
    """Return the network with the solved head alone."""
    kernel, bias = chosen.fit.kernel.astype("float32"), chosen.fit.bias.astype("float32")
    if backbone is not None:
        return SolvedNetwork(backbone, chosen.head, kernel, bias, resolved.source.task, groups[: chosen.groups])
    network = build_network(resolved, registry, reporter, chosen.head)
    network.model.get_layer("logits").set_weights([kernel, bias])
    return network.model


def _write_network(trained: SolvedNetwork | keras.Model, run: runs.Run, reporter: Reporter) -> None:
    with reporter.timing.measure("saving"):
        if isinstance(trained, SolvedNetwork):
            solved.save_head(run, trained.kernel, trained.bias)
            return
        with atomic_write(run.model) as temporary:
            trained.save(temporary)


def _write_out_of_fold(
    rows: np.ndarray, logits: np.ndarray, data: TrainingData, dataset: Dataset, run: runs.Run, name: str = OUT_OF_FOLD
) -> None:
    """Write logits of held-out pictures, given by their places in the train part. Rows of NaN are left out."""
    known = np.isfinite(logits).all(axis=1)
    run.write_out_of_fold([dataset.pixels.digests[i] for i in data.train[rows[known]]], logits[known], name)


def _write_head_logits(
    known: np.ndarray | None,
    chosen: ChosenHead,
    groups: list[np.ndarray],
    resolved: ResolvedConfig,
    data: TrainingData,
    dataset: Dataset,
    run: runs.Run,
    reporter: Reporter,
) -> None:
    """Write out-of-fold logits of the head for all training pictures, unless out-of-fold.npz has as many.

    Args:
        known: The logits in out-of-fold.npz, (held out, units), with NaN for pictures that it does not have.
        chosen: The head.
        groups: The features of the training pictures.
        resolved: The settings of the run.
        data: The pictures, as training takes them.
        dataset: The pictures.
        run: The run folder.
        reporter: Measures the time.
    """
    fit, requested = chosen.fit, resolved.requested
    rows, logits, targets = fit.rows, fit.logits, data.targets[data.train]
    if fit.folds == 1 and head_logits.affordable(groups[:1], fit.logits.shape[1]):
        with reporter.timing.measure("cross-validating the head"):
            rows, logits = out_of_fold(
                groups[:1],
                targets,
                fit.penalty,
                task=data.task,
                copies=None if data.copies is None else [data.copies[i] for i in data.train],
                weights=class_weights(data) if requested.balance else None,
                label_smoothing=requested.label_smoothing,
                plain=resolved.head.weight_l2 > 0,
                folds=requested.folds or FOLDS,
                seed=requested.seed,
            )
    if known is None or len(rows) > np.isfinite(known).all(axis=1).sum():
        _write_out_of_fold(rows, logits, data, dataset, run, head_logits.FILE)
