"""Trains a schedule on folds of the pictures for a cross-validated accuracy, and then on all of them together."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import runs
from zoo.config import ResolvedConfig
from zoo.data.dataset import Dataset
from zoo.files import atomic_write
from zoo.plugin import Phase
from zoo.plugin.registry import Registry
from zoo.reporter import Reporter
from zoo.train import engine, progress
from zoo.train.evidence import by_epoch, fold_result, quiet, right
from zoo.train.folds import folds_of, held_out_in
from zoo.train.inputs import TrainingData, class_weights
from zoo.train.safe_points import SafePoints, TrainingPoints
from zoo.workflow.judging import Judging, stop
from zoo.workflow.keras_network import build_network

if TYPE_CHECKING:
    import keras

    from zoo.train.engine import TrainConfig
    from zoo.train.network import Network


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
) -> tuple[keras.Model, runs.RunRecord]:
    """Train all phases once for each fold, without its pictures, and then on all pictures; write the files of the run.

    There is no validation part. Every phase therefore runs all its epochs, and the weights of the last epoch are kept.

    The arguments and results are those of `zoo.workflow.by_evidence.train`.

    Raises:
        ZooError: The network cannot be built or trained, or a file cannot be written.
        Judged: The run was only to be judged.
    """
    phases = [dataclasses.replace(phase, patience=None, skip_below_loss=None) for phase in resolved.phases]
    config = dataclasses.replace(config, keep_best=False)
    logits, histories = _held_out(resolved, phases, data, config, registry, reporter, points, judging)
    text = "no class has 2 different pictures, so that none could be held out"
    if logits is not None:
        held_out = np.isfinite(logits).all(axis=1)
        correct = right(logits[held_out], data.targets[data.train][held_out], data.task)
        folds = f"{held_out.sum()} pictures, {held_out_in(len(histories))}"
        text = f"accuracy {correct.mean():.4f} on {folds}"
        run.write_out_of_fold([dataset.pixels.digests[i] for i in data.train[held_out]], logits[held_out])
    reporter.say(f"Cross-validation: {text}")
    weights = class_weights(data) if resolved.requested.balance else None
    stop(judging, run, data, dataset, np.arange(len(data.train)), logits, weights)
    network = build_network(resolved, registry, reporter)
    figures = by_epoch(histories) if histories else ()

    def log_epoch(row: Mapping[str, Any]) -> None:
        done = row["epoch"] - 1
        held_out = dict(zip(("val_loss", "val_accuracy"), figures[done], strict=True)) if done < len(figures) else {}
        log({**row, **held_out})

    result = engine.train(network, phases, data, config, reporter, points.training("phases"), log_epoch)
    with reporter.timing.measure("saving"), atomic_write(run.model) as temporary:
        network.model.save(temporary)
    record = record.with_training(
        phases=result.phases,
        best_epoch=result.best_epoch,
        prefix=result.cache_stats,
        warnings=result.warnings,
        seconds=points.elapsed(),
        evidence={"text": f"Cross-validation: {text}", "folds": len(histories)},
    )
    run.write_record(record)
    return network.model, record


def _held_out(
    resolved: ResolvedConfig,
    phases: list[Phase],
    data: TrainingData,
    config: TrainConfig,
    registry: Registry,
    reporter: Reporter,
    points: SafePoints,
    judging: Judging,
) -> tuple[np.ndarray | None, list[tuple[int, list[dict[str, Any]]]]]:
    """Train without each fold in turn.

    Returns:
        The logits of the held-out pictures, float64 (training pictures, units), with NaN for pictures that were never
        held out; None if there are no folds. Then, for each fold, its number of pictures and its history.
    """
    requested = resolved.requested
    fold_of = folds_of(data.targets, data.train, data.copies, requested.folds or 0, requested.seed)
    count = int(fold_of.max()) + 1
    network: Network | None = None
    variables: list[np.ndarray] = []

    def train_without(part: TrainingData, silent: Reporter, training: TrainingPoints | None) -> engine.TrainResult:
        nonlocal network, variables
        # Networks with fewer stages have heads of their own, whose weights are made when a phase begins.
        if network is None or any(phase.depth is not None for phase in phases):
            network = build_network(resolved, registry, silent)
            variables = progress.snapshot(network.model)
        # With the random state of dropout, because an interrupted run does not train all folds again.
        progress.assign(network.model.variables, variables)
        options = dataclasses.replace(config, val_logits=True)
        return engine.train(network, phases, part, options, silent, training)

    logits, histories = None, []
    for fold in range(judging.most(count)):
        rows = np.flatnonzero(fold_of == fold)
        part = data.holding_out(rows)
        reporter.say(f"Cross-validation: fold {fold + 1} of {count}, {len(part.train)} pictures to train on")
        with reporter.timing.measure("cross-validation"), quiet(reporter, f"fold {fold + 1}") as silent:
            train = functools.partial(train_without, part, silent)
            val_logits, history = fold_result(points, fold, train)
        if logits is None:
            logits = np.full((len(data.train), val_logits[-1].shape[1]), np.nan)
        logits[rows] = val_logits[-1]
        histories.append((len(rows), history))
    return logits, histories
