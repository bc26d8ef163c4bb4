"""Carries out a run whose folder exists: trains, draws the curves and exports, and notes how far it came.

A run that was interrupted continues here after its latest safe point. `zoo.workflow.finetune` begins runs, and
`zoo.workflow.unfinished` resumes them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo import backend, files, hosts, runs
from zoo.config import ResolvedConfig
from zoo.data.dataset import Dataset
from zoo.errors import DataError, RunError, TrainingError, WriteError, ZooError, reason
from zoo.plugin.registry import Registry
from zoo.reporter import Reporter
from zoo.runs import run_lock
from zoo.train import jobs
from zoo.train.safe_points import SafePoints
from zoo.workflow import export_formats, solved
from zoo.workflow.export import ExportResult, export_model
from zoo.workflow.judging import EVERYTHING, Judged, Judging
from zoo.workflow.keras_network import build_network
from zoo.workflow.logs import RunLogs, parameters_of
from zoo.workflow.request_file import RunRequest
from zoo.workflow.trained import TrainedModel

if TYPE_CHECKING:
    import keras

    from zoo.train.engine import TrainConfig
    from zoo.train.inputs import TrainingData
    from zoo.workflow.solved import SolvedNetwork

NOT_REPEATABLE = (
    "the network was trained with a GPU or TPU, whose sums may come in another order each time: the same command with "
    "the same seed may give slightly different weights. To get the same bytes, hide the device, for example with "
    "CUDA_VISIBLE_DEVICES=-1."
)


def carry_out(
    resolved: ResolvedConfig,
    dataset: Dataset,
    registry: Registry,
    run: runs.Run,
    record: runs.RunRecord,
    asked: RunRequest,
    reporter: Reporter,
    begin: Callable[[], None],
    *,
    resumed: bool = False,
    judging: Judging = EVERYTHING,
) -> ExportResult:
    """Train the network of a run, unless that is done, and export it. Other processes are kept away from the run.

    Args:
        resolved: The settings of the run.
        dataset: The pictures.
        registry: The loaded plugins.
        run: The run folder.
        record: The content of run.json.
        asked: What the run was asked for.
        reporter: Receives progress messages and warnings.
        begin: Writes the first files of the run. It is called once the run folder is locked.
        resumed: Whether the run was interrupted and continues now.
        judging: How far the run is judged by held-out pictures.

    Returns:
        The run folder, the metrics, and the paths of the exported files.

    Raises:
        ZooError: A step failed. run.json says so, unless the network was trained already.
        KeyboardInterrupt: The run was interrupted. A warning says how to resume it.
        Judged: The run was only to be judged. A message says how to finish it.
    """
    folder = run_lock.folder_of(run)
    with run_lock.hold(run):
        points, logs = SafePoints(folder, reporter), RunLogs(run, registry, reporter)
        team = hosts.current()
        if team is not None:
            team.at_end = lambda error: _note_failure(error, run, record, points, reporter)
        try:
            points.clean()
            files.remove_leftovers(run.folder)
            begin()
            logs.open(resolved.loggers, parameters_of(resolved, dataset, record), resumed=resumed)
            with reporter.timing.measure("training"):
                training = _Training(resolved, dataset, registry, run, record, reporter, points, logs, judging)
                model, record = _trained(training)
                # From here on, process 0 is alone.
                jobs.dismiss()
                hosts.finish()
                record = record.with_warnings(logs.warnings)
                # The network is kept, and run.json says so.
                points.clean("*.npz")
                with reporter.timing.measure("drawing curves"):
                    _draw_curves(run, record, reporter)
            with reporter.timing.measure("export"):
                result = export_model(
                    TrainedModel(model, resolved.architecture, dataset, run, record, resolved.name, typed=asked.typed),
                    resolved.requested.exported if resolved.requested.export else None,
                    reporter,
                    variants=export_formats.resolve(asked.variants, registry, reporter.warn if resumed else None),
                    allow_chance=asked.allow_chance,
                    replace=asked.replace,
                    precision=resolved.requested.wanted_precision or None,
                )
            logs.exported(result, run.read_record())
        except BaseException as error:
            _note_failure(error, run, record, points, reporter)
            logs.end(error)
            _note_warnings(run, logs)
            raise
        logs.end()
        _note_warnings(run, logs)
    shutil.rmtree(folder, ignore_errors=True)
    return dataclasses.replace(result, logs=tuple(logs.hints))


def _note_warnings(run: runs.Run, logs: RunLogs) -> None:
    """Write into run.json which loggers have failed. If that is impossible, the user has still seen the warnings."""
    if logs.warnings:
        with contextlib.suppress(WriteError, RunError):
            run.write_record(run.read_record().with_warnings(logs.warnings))


def _note_failure(
    error: BaseException, run: runs.Run, record: runs.RunRecord, points: SafePoints, reporter: Reporter
) -> None:
    """Write into run.json why a run ended early, and say how it continues."""
    # The network may be trained, and run.json says so, although the caller has not heard of it.
    with contextlib.suppress(Exception):
        record = run.read_record()
    interrupted = isinstance(error, KeyboardInterrupt)
    if record.status == "running":
        status = "interrupted" if interrupted else f"failed: {type(error).__name__}: {error}"
        if isinstance(error, TrainingError):
            record = record.with_warnings([str(error)])
        with contextlib.suppress(WriteError):
            run.write_record(record.with_status(status))
    command = shlex.join(["zoo", "resume", str(run.folder)])
    if record.status == "trained":
        if interrupted:
            reporter.warn(f"the network is trained and kept in {run.folder}. `{command}` finishes the export.")
        elif not isinstance(error, ZooError) or isinstance(error, (WriteError, DataError)):
            # Other errors would come again.
            reporter.warn(
                f"the network is trained and kept in {run.folder}. When the cause is removed, `{command}` finishes the "
                "export."
            )
    elif isinstance(error, Judged):
        reporter.say(f"Judged by held-out pictures, as asked. `{command}` finishes the run")
    elif interrupted:
        reporter.warn(f"training was interrupted. `{command}` continues it {points.position()}.")
    elif not isinstance(error, TrainingError):
        reporter.warn(f"the run has failed. When the cause is removed, `{command}` continues it {points.position()}.")


@dataclass(frozen=True)
class _Training:
    """What the training of a run works with.

    Args:
        resolved: The settings of the run.
        dataset: The pictures.
        registry: The loaded plugins.
        run: The run folder.
        record: The content of run.json before the training.
        reporter: Receives progress messages and warnings.
        points: The safe points of the run.
        logs: The open logs of the run.
        judging: How far the run is judged by held-out pictures.
    """

    resolved: ResolvedConfig
    dataset: Dataset
    registry: Registry
    run: runs.Run
    record: runs.RunRecord
    reporter: Reporter
    points: SafePoints
    logs: RunLogs
    judging: Judging


def _trained(training: _Training) -> tuple[SolvedNetwork | keras.Model, runs.RunRecord]:
    """Return the network of a run: that of an earlier process if it was trained, or else after training.

    Returns:
        The trained network, and the run record with the results of training.

    Raises:
        ZooError: The network cannot be built, trained or opened, or a file cannot be written.
    """
    run, reporter = training.run, training.reporter
    if training.record.status == "trained":
        training.logs.earlier()
        return solved.open_trained(run, training.record, training.registry, reporter), training.record
    if backend.missing_converters():
        reporter.say(
            "TensorFlow, which converts networks, is not installed here. This run ends when its network is trained. "
            "Its last message says how another computer makes the file"
        )
    model, record = _train(training)
    if backend.started() and backend.has_accelerator():
        reporter.warn(NOT_REPEATABLE)
        record = record.with_warnings([NOT_REPEATABLE])
        run.write_record(record)
    return model, record


def _train(training: _Training) -> tuple[SolvedNetwork | keras.Model, runs.RunRecord]:
    """Build and train the network of a run, and write run.json, and model.keras or head.npz.

    Returns:
        The trained network, and the run record with the results of training.

    Raises:
        ZooError: The network cannot be built or trained, or a file cannot be written.
    """
    resolved, dataset, registry, reporter = training.resolved, training.dataset, training.registry, training.reporter
    run, record, points, log = training.run, training.record, training.points, training.logs.epoch
    judging = training.judging
    data, config = training_data(dataset), train_config(resolved, dataset)
    if resolved.schedule.by_evidence:
        from zoo.workflow import by_evidence

        return by_evidence.train(resolved, dataset, data, config, registry, run, record, reporter, points, log, judging)
    if resolved.requested.folds is not None:
        from zoo.workflow import cross_validation

        return cross_validation.train(
            resolved, dataset, data, config, registry, run, record, reporter, points, log, judging
        )
    from zoo.train import engine

    network = build_network(resolved, registry, reporter)
    result = engine.train(network, resolved.phases, data, config, reporter, points.training("phases"), log)
    with reporter.timing.measure("saving"), files.atomic_write(run.model) as temporary:
        network.model.save(temporary)
    record = record.with_training(
        phases=result.phases,
        best_epoch=result.best_epoch,
        prefix=result.cache_stats,
        warnings=result.warnings,
        seconds=points.elapsed(),
    )
    run.write_record(record)
    return network.model, record


def _draw_curves(run: runs.Run, record: runs.RunRecord, reporter: Reporter) -> None:
    """Draw the training curves into curves.png in the run folder.

    If this fails, the user receives only a warning, because the network has been trained and must still be exported.
    """
    from zoo.report import curves

    try:
        curves.draw([curves.of_run(run, record, run.id)], run.folder / curves.FILE)
    except Exception as error:
        # matplotlib, its fonts and a user's matplotlibrc share no base class of errors.
        reporter.warn(f"{curves.FILE} was not drawn: {reason(error)}. `zoo plot {run.folder}` tries again.")


def train_config(resolved: ResolvedConfig, dataset: Dataset) -> TrainConfig:
    """Return the training settings that all phases share."""
    from zoo.train.engine import TrainConfig
    from zoo.train.frozen.features import FeatureCacheConfig

    requested = resolved.requested
    return TrainConfig(
        batch_size=requested.batch_size,
        seed=requested.seed,
        augment=resolved.augment,
        head=resolved.head,
        label_smoothing=requested.label_smoothing,
        balance=requested.balance,
        keep_best=requested.keep_best,
        precision=requested.precision,
        features=FeatureCacheConfig(
            folder=files.cache() / "features",
            limit=requested.cache_size,
            pictures=dataset.pixels.key,
            always=requested.cache_size is not None,
        ),
    )


def training_data(dataset: Dataset) -> TrainingData:
    """Return the pictures and targets of a dataset, and the indices of its train and validation parts.

    The arrays also contain the pictures of the test part, but no index refers to them.
    """
    from zoo.train.inputs import TrainingData

    split, task = dataset.split, dataset.source.task
    return TrainingData(dataset.pixels.array, dataset.targets, split.train, split.val, task, dataset.groups)
