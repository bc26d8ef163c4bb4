"""Runs a fine-tuning or a learning-rate range test.

This module decides the order of the steps. The steps themselves are in `zoo.config`, `zoo.data`, `zoo.train` and
`zoo.workflow.export`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from zoo import config, files, hosts, interrupts, runs
from zoo.config import FinetuneConfig, ResolvedConfig
from zoo.data import dataset as datasets
from zoo.data import group_by as grouping
from zoo.data import overview, sources
from zoo.data import pixels as pixel_cache
from zoo.data.dataset import Dataset
from zoo.data.sources import Source
from zoo.errors import EmptyClass, UsageError
from zoo.plugin import logger_choice
from zoo.plugin.registry import Item, Registry
from zoo.reporter import Reporter, joined
from zoo.runs import entries
from zoo.workflow import config_file, export_formats, request_file
from zoo.workflow.carry_out import carry_out, train_config, training_data
from zoo.workflow.export import ExportResult
from zoo.workflow.judging import EVERYTHING, Judging
from zoo.workflow.keras_network import build_network
from zoo.workflow.replaced import NewExport, check_targets, plan
from zoo.workflow.request_file import RunRequest, request_of

if TYPE_CHECKING:
    from zoo.export.variants import VariantRequest
    from zoo.train.lr_find import RangeTest, RangeTestConfig


@interrupts.handled()
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
    repeats: Mapping[str, Any] | None = None,
    judging: Judging = EVERYTHING,
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
        repeats: The run whose settings these are; see `zoo.workflow.config_file.Settings.run`. A message says whether
            pictures, weights and versions are the same.
        judging: How far the run is judged by held-out pictures.

    Returns:
        The run folder, the metrics, and the paths of the exported files.

    Raises:
        ZooError: A step failed. The message says what to do about it. An earlier export is replaced only after all
            checks of the new file have passed.
        KeyboardInterrupt: The run was interrupted. A warning says how to resume it.
        Judged: The run was only to be judged.
    """
    variants = export_formats.resolve(variants, registry)
    resolved = config.resolve(requested, registry, reporter)
    _check_own_weights(resolved, registry)
    files.check_writable(requested.runs, "--runs FOLDER")
    check_run_targets(resolved, variants, None, replace=replace)
    cross_validated = resolved.schedule.by_evidence or requested.folds is not None
    if cross_validated and needing_validation:
        _warn_of_no_effect(needing_validation, reporter)
    dataset = load_dataset(resolved, reporter, validation=not cross_validated)
    # Only now it is certain which pictures can be read, and whether they are those of an earlier export.
    check_run_targets(resolved, variants, dataset.digest, replace=replace)
    agree(resolved, dataset, registry)
    if repeats:
        changes = config_file.differences(repeats, resolved, dataset)
        if changes:
            reporter.warn(f"run {repeats.get('id')} is not repeated exactly: {joined(changes, 6)}.")
        else:
            reporter.say(f"Settings, pictures, weights and versions as in run {repeats.get('id')}")
    run = runs.create(requested.runs, resolved.architecture.name)
    asked = request_of(resolved, variants=variants, allow_chance=allow_chance, replace=replace, typed=typed)
    record = _new_record(run, resolved, registry, dataset, asked)

    def begin() -> None:
        request_file.write(run, asked)
        run.write_record(record)
        folders: Any = {"data": asked.config.data, "runs_folder": asked.config.runs, "exported": asked.config.exported}
        config_file.write(run, record, **folders)
        run.write_pictures(dataset.listed())
        reporter.say(f"Run folder {run.folder}")
        _warn_of_left_out(run, record, dataset, reporter)

    return carry_out(resolved, dataset, registry, run, record, asked, reporter, begin, judging=judging)


def check_run_targets(
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
    logger_choice.check_loggers(requested.loggers, registry)
    variants = export_formats.resolve(variants, registry)
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


def agree(resolved: ResolvedConfig, dataset: Dataset, registry: Registry) -> None:
    """Check that all processes have the same pictures, split, weights and plugins. Alone, nothing happens.

    Raises:
        HostsError: They have not.
        UsageError: Their devices cannot share a batch.
    """
    team = hosts.current()
    if team is None:
        return
    from zoo.train.spread import check_batch_size

    check_batch_size(resolved.requested.batch_size)
    split = dataset.split
    parts = b"".join(np.asarray(part, "<i8").tobytes() for part in (split.train, split.val, split.test))
    facts = {
        "the number of pictures": len(dataset.pixels.array),
        "the digest of the pictures": dataset.digest,
        "the classes": list(dataset.source.classes),
        "the digest of the split": hashlib.sha256(parts).hexdigest(),
        "the size of the pictures": list(dataset.spec.size),
        "the digest of the weights": resolved.weights.record.get("sha256"),
        "the plugins": plugins_of(resolved, registry),
    }
    team.require_same("pictures, weights and plugins", facts)


def plugins_of(resolved: ResolvedConfig, registry: Registry) -> list[str]:
    """Return the plugins that decide the weights of a run, each with its name, distribution and version."""
    return _plugins(_deciding(resolved), registry)


def _deciding(resolved: ResolvedConfig) -> list[Item]:
    entry = resolved.weights.entry
    return [resolved.architecture, resolved.augmentation, resolved.schedule, *([entry] if entry else [])]


def _plugins(items: Sequence[Item], registry: Registry) -> list[str]:
    # A schedule from a user's file belongs to no plugin.
    return sorted({str(registry.plugin_of(item)) for item in items if id(item) in registry.providers})


def _new_record(
    run: runs.Run, resolved: ResolvedConfig, registry: Registry, dataset: Dataset, asked: RunRequest
) -> runs.RunRecord:
    """Return the record of a run whose training has not started."""
    requested, source = resolved.requested, dataset.source
    left_out = [{"picture": source.pictures[i].name, "why": why} for i, why in sorted(dataset.pixels.bad.items())]
    options = {
        **requested.to_json(),
        "data": sources.location(requested.data),
        "schedule": resolved.schedule.name,
        # A relative path would not be found from another folder.
        **({"weights": str(file.absolute())} if isinstance(file := resolved.weights.file, Path) else {}),
    }
    data = {**dataset.describe(), "left_out": left_out, "check": dataset.check}
    return runs.RunRecord(
        id=run.id,
        status="running",
        created=runs.now(),
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
        name=resolved.name,
        options=cast(entries.Options, options),
        architecture=cast(entries.Architecture, resolved.architecture.describe()),
        head=dataclasses.asdict(resolved.head),
        weights=cast(entries.Weights, resolved.weights.record),
        augmentation={"name": resolved.augmentation.name, "parameters": dict(resolved.parameters)},
        image=dataset.spec.to_json(),
        classes=list(source.classes),
        task=source.task,
        data=cast(entries.Data, data),
        plugins=_plugins([*_deciding(resolved), *resolved.loggers, *export_formats.of(asked.variants)], registry),
        versions=runs.versions(),
        schedule={
            "name": resolved.schedule.name,
            "summary": resolved.schedule.summary,
            "by_evidence": resolved.schedule.by_evidence,
            "requested": requested.schedule is not None,
            # No plugin provides a schedule from a file.
            "own_file": id(resolved.schedule) not in registry.providers,
            "phases": cast(list[entries.Phase], [phase.to_json() for phase in resolved.phases]),
        },
        backend=asked.backend,
        variants=request_file.variants_to_json(asked.variants),
        allow_chance=asked.allow_chance,
        warnings=resolved.warnings,
    )


def _warn_of_left_out(run: runs.Run, record: runs.RunRecord, dataset: Dataset, reporter: Reporter) -> None:
    """Warn about unreadable files, which are left out of the dataset.

    The warning names up to five files; run.json lists all of them.
    """
    reasons = {each["picture"]: each["why"] for each in record.data["left_out"]}
    if reasons:
        text = pixel_cache.left_out_text(reasons, len(dataset.source.pictures))
        reporter.warn(f"{text}. {run.folder / runs.RECORD} lists them.")
