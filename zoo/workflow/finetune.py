"""The main functions: finetune, export, evaluate. Only the order of steps; each step lives in the package it names."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import backend, config, files, runs
from zoo.config import FinetuneConfig, ResolvedConfig
from zoo.data import sources
from zoo.data.dataset import Dataset, load
from zoo.errors import (
    WriteError,
    reason,
)
from zoo.export.variants import AcceptanceLimits
from zoo.plugin.registry import Registry
from zoo.reporter import Reporter
from zoo.train.engine import TrainConfig
from zoo.train.inputs import TrainingData
from zoo.workflow.export import Result, TrainedModel, check_targets, export_model

if TYPE_CHECKING:
    import keras

    from zoo.train.lr_find import RangeTest


def finetune(
    options: FinetuneConfig,
    registry: Registry,
    reporter: Reporter,
    *,
    compact: Sequence[str] = (),
    limits: AcceptanceLimits | None = None,
) -> Result:
    """Fine-tune a network on a user's pictures, export it and judge the exported file.

    Args:
        options: What is wanted.
        registry: The loaded plugins.
        reporter: Hears of every step.
        compact: Smaller files to make besides, of `zoo.export.variants.KINDS`.
        limits: What these may cost.

    Returns:
        Run folder, metrics, exported files.

    Raises:
        ZooError: With what to do about it. What was in place before stays in place.
    """
    plan = config.plan(options, registry, reporter)
    check_targets(options.exported, plan.name, compact)
    dataset = load_dataset(plan, reporter)
    run = runs.create(options.runs, plan.architecture.name)
    record = _record(run, plan, registry, dataset)
    try:
        run.write_json("run.json", record)
        run.write_pictures(dataset.listed())
        reporter.say(f"Run folder {run.folder}")
        left_out = record["data"]["left_out"]
        if left_out:
            reporter.warn(
                f"{len(left_out)} of {len(dataset.source.pictures)} files are left out; "
                f"{run.folder}/run.json lists them."
            )
        with reporter.timing.measure("training"):
            model = _train(plan, dataset, registry, run, record, reporter)
        exported = options.exported if options.export else None
        with reporter.timing.measure("export"):
            trained = TrainedModel(model, plan.architecture, dataset, run, record, plan.name)
            return export_model(trained, exported, reporter, compact=compact, limits=limits)
    except BaseException as error:
        if record["status"] == "running":
            interrupted = isinstance(error, KeyboardInterrupt)
            record["status"] = "interrupted" if interrupted else f"failed: {type(error).__name__}: {error}"
            with contextlib.suppress(WriteError):
                run.write_json("run.json", record)
        raise


def lr_find(
    options: FinetuneConfig,
    registry: Registry,
    reporter: Reporter,
    *,
    lowest: float,
    highest: float,
    steps: int,
    output: Path | None = None,
) -> list[RangeTest]:
    """Test a range of learning rates at the beginning of every phase, and draw what came of it.

    Each phase but the last is trained after its test, for the next goes on from there. Nothing is kept but the picture.

    Args:
        options: As for `finetune`.
        registry: The loaded plugins.
        reporter: Hears of every step.
        lowest: The first rate.
        highest: The last one, unless the loss diverges before.
        steps: How many, one a batch.
        output: Where the picture is put; None draws none.

    Returns:
        A test a phase.

    Raises:
        ZooError: With what to do about it.
    """
    if output is not None:
        files.check_writable(output.parent)
    plan = config.plan(dataclasses.replace(options, export=False), registry, reporter)
    dataset = load_dataset(plan, reporter)
    model, backbone = build_network(plan, registry, reporter)
    from zoo.report import lr_find as drawing
    from zoo.train import engine
    from zoo.train.lr_find import RangeTestConfig

    tests = engine.lr_find(
        *(model, backbone, plan.architecture, plan.phases),
        *(_pictures(dataset), learning_of(plan, dataset), reporter, RangeTestConfig(lowest, highest, steps)),
    )
    if output is not None:
        pairs = zip(plan.phases, tests, strict=True)
        drawing.draw(
            [
                drawing.Panel(phase.name, test.rates, test.changes, phase.learning_rate, test.suggestion, test.note)
                for phase, test in pairs
            ],
            output,
        )
    return tests


def load_dataset(plan: ResolvedConfig, reporter: Reporter) -> Dataset:
    """Decode and divide the pictures."""
    options = plan.options
    with reporter.timing.measure("pictures"):
        return load(plan.source, plan.spec, seed=options.seed, val_fraction=options.val_split, reporter=reporter)


def build_network(plan: ResolvedConfig, registry: Registry, reporter: Reporter) -> tuple[keras.Model, list[str]]:
    """Build the network with the weights to begin from; also the names of its backbone's layers, input first."""
    reporter.say("Starting Keras")
    with reporter.timing.measure("starting Keras"):
        keras = backend.start()
    from zoo.train.network import attach_head, build_backbone, load_weights

    with reporter.timing.measure("building the network"):
        keras.utils.set_random_seed(plan.options.seed)
        backbone = build_backbone(plan.architecture, plan.spec.size)
        if isinstance(plan.found, Path):
            load_weights(backbone, plan.found, layouts=registry.weights_of(plan.architecture.name, top=False))
        elif plan.found is not None:
            load_weights(backbone, plan.found.path, plan.found.entry)
        source = plan.source
        model = attach_head(backbone, plan.head, len(source.classes), plan.architecture.name, task=source.task)
    return model, [layer.name for layer in backbone.layers]


def learning_of(plan: ResolvedConfig, dataset: Dataset) -> TrainConfig:
    """How the network is trained on the pictures."""
    from zoo.train.engine import TrainConfig
    from zoo.train.frozen.features import FeatureCacheConfig

    options = plan.options
    return TrainConfig(
        batch_size=options.batch_size,
        seed=options.seed,
        augment=plan.augment,
        head=plan.head,
        label_smoothing=options.label_smoothing,
        balance=options.balance,
        keep_best=options.keep_best,
        precision=options.precision,
        features=FeatureCacheConfig(
            folder=files.cache() / "features",
            limit=options.cache_size,
            pictures=dataset.pixels.key,
            always=options.cache_size is not None,
        ),
    )


def _record(run: runs.Run, plan: ResolvedConfig, registry: Registry, dataset: Dataset) -> dict[str, Any]:
    """The first version of run.json."""
    options, source = plan.options, dataset.source
    # A schedule of a user's file is of no plugin.
    items = [item for item in (plan.architecture, plan.augmentation, plan.schedule) if id(item) in registry.providers]
    used = {str(registry.plugin_of(item)) for item in items}
    resolved = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    bad = sorted(dataset.pixels.bad.items())
    return {
        "schema": runs.SCHEMA,
        "id": run.id,
        "status": "running",
        "created": runs.now(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "name": plan.name,
        "options": {**resolved, "data": sources.location(options.data), "schedule": plan.schedule.name},
        "architecture": plan.architecture.describe(),
        "head": dataclasses.asdict(plan.head),
        "weights": plan.weights_record,
        "augmentation": {"name": plan.augmentation.name, "parameters": plan.parameters},
        "image": dataset.spec.to_json(),
        "classes": list(source.classes),
        "task": source.task,
        "data": {
            **dataset.describe(),
            "left_out": [{"picture": source.pictures[i].name, "why": why} for i, why in bad],
        },
        "plugins": sorted(used),
        "versions": runs.versions(),
        "phases": [],
        "warnings": [*plan.warnings],
        "seconds": {},
    }


def _train(
    plan: ResolvedConfig,
    dataset: Dataset,
    registry: Registry,
    run: runs.Run,
    record: dict[str, Any],
    reporter: Reporter,
) -> keras.Model:
    started = time.perf_counter()
    model, backbone = build_network(plan, registry, reporter)
    from zoo.train import engine

    outcome = engine.train(
        *(model, backbone, plan.architecture, plan.phases),
        *(_pictures(dataset), learning_of(plan, dataset), reporter),
    )
    record["prefix"] = outcome.prefix
    run.write_history(outcome.history)
    with reporter.timing.measure("saving"), files.atomic_write(run.model) as temporary:
        model.save(temporary)
    record.update(phases=outcome.phases, best_epoch=outcome.best_epoch, status="trained")
    record["warnings"] += outcome.warnings
    record["seconds"]["train"] = round(time.perf_counter() - started, 2)
    run.write_json("run.json", record)
    with reporter.timing.measure("drawing curves"):
        _draw_curves(run, record, reporter)
    return model


def _pictures(dataset: Dataset) -> TrainingData:
    split = dataset.split
    return TrainingData(dataset.pixels.array, dataset.targets, split.train, split.val, dataset.source.task)


def _draw_curves(run: runs.Run, record: dict[str, Any], reporter: Reporter) -> None:
    """Draw curves.png; a trained network is not lost to a picture of its history."""
    from zoo.report import curves

    try:
        curves.draw([curves.of_run(run, record, run.id)], run.folder / curves.FILE)
    except Exception as error:
        # matplotlib, its fonts and a user's matplotlibrc share no base class of errors.
        reporter.warn(f"{curves.FILE} was not drawn: {reason(error)}. `zoo plot {run.folder}` tries again.")
