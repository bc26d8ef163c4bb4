"""Runs a fine-tuning or a learning-rate range test.

This module decides the order of the steps. The steps themselves are in `zoo.config`, `zoo.data`, `zoo.train` and
`zoo.workflow.export`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo import config, files, runs
from zoo.config import FinetuneConfig, ResolvedConfig
from zoo.data import dataset as datasets
from zoo.data import group_by as grouping
from zoo.data import overview, sources
from zoo.data import pixels as pixel_cache
from zoo.data.dataset import Dataset
from zoo.data.sources import Source
from zoo.errors import EmptyClass, TrainingError, UsageError, WriteError, reason
from zoo.plugin.registry import Registry
from zoo.reporter import Reporter
from zoo.workflow.export import ExportResult, TrainedModel, export_model
from zoo.workflow.keras_network import build_network
from zoo.workflow.replaced import NewExport, check_targets, plan

if TYPE_CHECKING:
    import keras

    from zoo.export.variants import VariantRequest
    from zoo.train.engine import TrainConfig
    from zoo.train.inputs import TrainingData
    from zoo.train.lr_find import RangeTest, RangeTestConfig
    from zoo.workflow.solved import SolvedNetwork


def finetune(
    requested: FinetuneConfig,
    registry: Registry,
    reporter: Reporter,
    *,
    variants: Sequence[VariantRequest] = (),
    allow_chance: bool = False,
    replace: bool = False,
    needing_validation: Sequence[str] = (),
    typed: Sequence[str] = (),
) -> ExportResult:
    """Fine-tune a network on a user's pictures, export it, and evaluate the exported file.

    Args:
        requested: What the user requested.
        registry: The loaded plugins.
        reporter: Receives progress messages and warnings.
        variants: The variants (smaller files) to make in addition to the float32 file.
        allow_chance: True also exports a network that has learned nothing.
        replace: True also replaces exports of other pictures; see `zoo.workflow.replaced`.
        needing_validation: The options that the user typed and that need a validation part, such as ["--patience"]. If
            the run has none, a warning says that they have no effect.
        typed: The options that the user typed and that `zoo export RUN` takes, as words, for commands in messages.

    Returns:
        The run folder, the metrics, and the paths of the exported files.

    Raises:
        ZooError: A step failed. The message says what to do about it. An earlier export is replaced only after all
            checks of the new file have passed.
    """
    resolved = config.resolve(requested, registry, reporter)
    _check_own_weights(resolved, registry)
    files.check_writable(requested.runs, "--runs FOLDER")
    _check_targets(resolved, variants, None, replace=replace)
    cross_validated = resolved.schedule.by_evidence or requested.folds is not None
    if cross_validated and needing_validation:
        _warn_of_no_effect(needing_validation, reporter)
    dataset = load_dataset(resolved, reporter, validation=not cross_validated)
    # Only now it is certain which pictures can be read, and whether they are those of an earlier export.
    _check_targets(resolved, variants, dataset.digest, replace=replace)
    run = runs.create(requested.runs, resolved.architecture.name)
    record = _new_record(run, resolved, registry, dataset)
    try:
        run.write_record(record)
        run.write_pictures(dataset.listed())
        reporter.say(f"Run folder {run.folder}")
        _warn_of_left_out(run, record, dataset, reporter)
        with reporter.timing.measure("training"):
            model, record = _train(resolved, dataset, registry, run, record, reporter)
            with reporter.timing.measure("drawing curves"):
                _draw_curves(run, record, reporter)
        exported = requested.exported if requested.export else None
        with reporter.timing.measure("export"):
            trained = TrainedModel(model, resolved.architecture, dataset, run, record, resolved.name, typed=typed)
            return export_model(
                trained,
                exported,
                reporter,
                variants=variants,
                allow_chance=allow_chance,
                replace=replace,
                precision=requested.wanted_precision or None,
            )
    except BaseException as error:
        if record.status == "running":
            interrupted = isinstance(error, KeyboardInterrupt)
            status = "interrupted" if interrupted else f"failed: {type(error).__name__}: {error}"
            if isinstance(error, TrainingError):
                record = record.with_warnings([str(error)])
            with contextlib.suppress(WriteError):
                run.write_record(record.with_status(status))
        if isinstance(error, KeyboardInterrupt):
            _report_interruption(run, record, requested.exported, reporter)
        raise


def _check_targets(
    resolved: ResolvedConfig, variants: Sequence[VariantRequest], digest: str | None, *, replace: bool
) -> None:
    """Check that the export may replace what is at its place; see `zoo.workflow.replaced.check_targets`.

    Args:
        resolved: The settings of the run.
        variants: The variants to make.
        digest: The digest of the pictures; None before they are decoded.
        replace: True also replaces exports of other pictures.

    Raises:
        UsageError: An export of other pictures is at that place.
        WriteError: The folder of exports cannot be written to.
    """
    requested = resolved.requested
    if requested.export:
        new = _new_export(requested, resolved.source, digest)
        check_targets(requested.exported, resolved.name, variants, new, replace=replace)


def _new_export(requested: FinetuneConfig, source: Source, digest: str | None = None) -> NewExport:
    """Return what is known about the export of a run. Before the pictures are decoded, their digest is None."""
    place = sources.location(requested.data)
    return NewExport(None, requested.runs, source.classes, source.task, place, digest, source=source)


def _warn_of_no_effect(options: Sequence[str], reporter: Reporter) -> None:
    """Warn that options which need a validation part have no effect in a run that has none."""
    reporter.warn(
        f"{' and '.join(options)} {'has' if len(options) == 1 else 'have'} no effect: this run has no validation part. "
        "Each phase runs all its epochs, and the weights of the last epoch are kept. To use the option, name a "
        "schedule such as --schedule fine-tune, and omit --cv."
    )


def show_data(
    requested: FinetuneConfig,
    registry: Registry,
    reporter: Reporter,
    *,
    variants: Sequence[VariantRequest] = (),
    replace: bool = False,
) -> None:
    """Report what a run would read, how it would split it, and what it would export and replace.

    No picture is decoded, and Keras is not imported.

    Args:
        requested: What the user requested, as for `finetune`.
        registry: The loaded plugins.
        reporter: Receives the report and warnings.
        variants: The variants to make in addition to the float32 file.
        replace: True also replaces exports of other pictures.

    Raises:
        ZooError: The request cannot be carried out, the pictures cannot be found, or an export of other pictures is at
            the place of the new one.
    """
    validation = config.has_validation(requested, registry, reporter)
    source = sources.open_source(requested.data, reading=requested.reading)
    group_by = requested.group_by
    keys = None
    if group_by is not None:
        keys = grouping.keys_of(group_by, source, requested.data, reporter, requested.reading)
    split = overview.expected_split(
        source,
        seed=requested.seed,
        val_fraction=requested.val_split,
        validation=validation,
        group_by=group_by,
        keys=keys,
    )
    overview.show(source, split, reporter)
    if "problem" in split:
        raise EmptyClass(split["problem"])
    if requested.export:
        name = config.export_name(requested, registry.resolve(requested.architecture)[0], source)
        new = _new_export(requested, source)
        for line in plan(requested.exported, name, variants, new, replace=replace):
            reporter.say(line)


def _report_interruption(run: runs.Run, record: runs.RunRecord, exported: Path, reporter: Reporter) -> None:
    """Report which files an interrupted run leaves behind, and what to do next.

    If the network is already trained, the message contains the command that exports it to the folder `exported`.
    """
    if record.status == "trained":
        words = ["zoo", "export", str(run.folder)]
        words += ["--exported", str(exported)] if exported != Path("exported") else []
        reporter.warn(f"the network is trained and kept in {run.folder}. `{shlex.join(words)}` exports it.")
        return
    reporter.warn(
        f"training was interrupted. {run.folder} has the settings and the list of pictures, but no network, so that "
        "training cannot go on from there. Start the same command again; it reuses the pictures that are decoded "
        "already."
    )


def lr_find(
    requested: FinetuneConfig,
    registry: Registry,
    reporter: Reporter,
    range_test: RangeTestConfig,
    *,
    output: Path | None = None,
) -> list[RangeTest]:
    """Test a range of learning rates at the start of each phase, and draw the results.

    Each phase except the last one is trained after its test, because the next phase starts from the trained weights. No
    run folder is created, and the trained weights are discarded.

    Args:
        requested: What the user requested, as for `finetune`.
        registry: The loaded plugins.
        reporter: Receives progress messages and warnings.
        range_test: The learning rates to try.
        output: The path of the PNG file; None draws nothing.

    Returns:
        One test per phase.

    Raises:
        ZooError: A step failed. The message says what to do about it.
    """
    from zoo.report import lr_find as drawing
    from zoo.train import engine

    if output is not None:
        files.check_writable(output.parent, "--output FILE.png")
    if requested.folds is not None:
        raise UsageError("--cv goes with `zoo finetune`. A range test has one pass over the training pictures.")
    resolved = config.resolve(dataclasses.replace(requested, export=False), registry, reporter)
    if all(phase.optimizer == "exact" for phase in resolved.phases):
        raise UsageError(f"schedule {resolved.schedule.name} solves the head exactly and needs no learning rate.")
    _check_own_weights(resolved, registry)
    dataset = load_dataset(resolved, reporter)
    network = build_network(resolved, registry, reporter)
    tests = engine.lr_find(
        network, resolved.phases, training_data(dataset), train_config(resolved, dataset), reporter, range_test
    )
    if output is not None:
        panels = [
            drawing.Panel(phase.name, test.rates, test.changes, phase.learning_rate, test.suggestion, test.note)
            for phase, test in zip(resolved.phases, tests, strict=True)
            if test.rates
        ]
        drawing.draw(panels, output)
    return tests


def _check_own_weights(resolved: ResolvedConfig, registry: Registry) -> None:
    """Check a weights file of the user before Keras starts and before pictures are decoded.

    For an .h5 file, it compares the number of parameters with that of the network. It does not check other formats.
    `build_network` finds all other mistakes later.

    Raises:
        WeightsIncompatible: The file is damaged, or it belongs to another network.
    """
    from zoo.train.weights_file import check_parameters

    path, name = resolved.weights.file, resolved.architecture.name
    if isinstance(path, Path):
        check_parameters(path, resolved.architecture, registry.weights_of(name, top=False))


def load_dataset(resolved: ResolvedConfig, reporter: Reporter, *, validation: bool = True) -> Dataset:
    """Decode the pictures of a run, and split them into train, validation and test parts.

    Args:
        resolved: The settings of the run.
        reporter: Receives progress messages and warnings.
        validation: False makes no validation part.

    Raises:
        DataError: More than a fifth of the pictures cannot be read, or a class has too few pictures. The split of the
            user's data has a picture in two parts. A file changes while it is read. The decoded pictures cannot be
            written to the disk.
        UsageError: A validation fraction is requested, but the data already have a validation part.
    """
    requested = resolved.requested
    with reporter.timing.measure("pictures"):
        return datasets.load(
            resolved.source,
            resolved.spec,
            seed=requested.seed,
            val_fraction=requested.val_split,
            validation=validation,
            reporter=reporter,
            group_by=requested.group_by,
            data=requested.data,
            reading=requested.reading,
        )


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


def _new_record(run: runs.Run, resolved: ResolvedConfig, registry: Registry, dataset: Dataset) -> runs.RunRecord:
    """Return the record of a run whose training has not started."""
    requested, source = resolved.requested, dataset.source
    # A schedule from a user's file belongs to no plugin.
    items = (resolved.architecture, resolved.augmentation, resolved.schedule)
    plugins = {str(registry.plugin_of(item)) for item in items if id(item) in registry.providers}
    left_out = [{"picture": source.pictures[i].name, "why": why} for i, why in sorted(dataset.pixels.bad.items())]
    return runs.RunRecord(
        id=run.id,
        status="running",
        created=runs.now(),
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
        name=resolved.name,
        options={
            **requested.to_json(),
            "data": sources.location(requested.data),
            "schedule": resolved.schedule.name,
            # A relative path would not be found from another folder.
            **({"weights": str(file.absolute())} if isinstance(file := resolved.weights.file, Path) else {}),
        },
        architecture=resolved.architecture.describe(),
        head=dataclasses.asdict(resolved.head),
        weights=resolved.weights.record,
        augmentation={"name": resolved.augmentation.name, "parameters": dict(resolved.parameters)},
        image=dataset.spec.to_json(),
        classes=list(source.classes),
        task=source.task,
        data={**dataset.describe(), "left_out": left_out, "check": dataset.check},
        plugins=sorted(plugins),
        versions=runs.versions(),
        warnings=resolved.warnings,
    )


def _train(
    resolved: ResolvedConfig,
    dataset: Dataset,
    registry: Registry,
    run: runs.Run,
    record: runs.RunRecord,
    reporter: Reporter,
) -> tuple[SolvedNetwork | keras.Model, runs.RunRecord]:
    """Build and train the network of a run, and write history.csv, run.json, and model.keras or head.npz.

    Returns:
        The trained network, and the run record with the results of training.

    Raises:
        ZooError: The network cannot be built or trained, or a file cannot be written.
    """
    data, config = training_data(dataset), train_config(resolved, dataset)
    if resolved.schedule.by_evidence:
        from zoo.workflow import by_evidence

        return by_evidence.train(resolved, dataset, data, config, registry, run, record, reporter)
    if resolved.requested.folds is not None:
        from zoo.workflow import cross_validation

        return cross_validation.train(resolved, dataset, data, config, registry, run, record, reporter)
    from zoo.train import engine

    started = time.perf_counter()
    network = build_network(resolved, registry, reporter)
    result = engine.train(network, resolved.phases, data, config, reporter)
    run.write_history(result.history)
    with reporter.timing.measure("saving"), files.atomic_write(run.model) as temporary:
        network.model.save(temporary)
    record = record.with_training(
        phases=result.phases,
        best_epoch=result.best_epoch,
        prefix=result.cache_stats,
        warnings=result.warnings,
        seconds=time.perf_counter() - started,
    )
    run.write_record(record)
    return network.model, record


def _warn_of_left_out(run: runs.Run, record: runs.RunRecord, dataset: Dataset, reporter: Reporter) -> None:
    """Warn about unreadable files, which are left out of the dataset.

    The warning names up to five files; run.json lists all of them.
    """
    reasons = {each["picture"]: each["why"] for each in record.data["left_out"]}
    if reasons:
        text = pixel_cache.left_out_text(reasons, len(dataset.source.pictures))
        reporter.warn(f"{text}. {run.folder / runs.RECORD} lists them.")


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
