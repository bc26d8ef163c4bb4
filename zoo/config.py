"""What a user asks of training, and what comes of it once names, files and defaults are resolved.

Everything that can be wrong with a wish is found here, before anything long begins.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo import backend, files
from zoo.data import augment as policies
from zoo.data import sources
from zoo.data.augment import Augment
from zoo.errors import InvalidPluginData, UsageError
from zoo.plugin import Architecture, Augmentation, Head, Phase, Schedule
from zoo.plugin.registry import Registry
from zoo.pretrained import fetch, select
from zoo.reporter import Reporter
from zoo.train import schedule as schedule_tools
from zoo_runtime import ImageSpec


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """What a user asks of `finetune`.

    Args:
        architecture: `name` or `name.tag`.
        data: A path, or "digits"; see `zoo.data.sources`.
        weights: "auto", "none", a tag, or a path.
        size: (height, width) in pixels; None means what suits the data, else the weights.
        resize: "squash", "crop", "crop:FRACTION" or "pad".
        schedule: Name, or path of a TOML file; None means the architecture's default, or `scratch` on random weights.
        augment: The augmentation policy and its parameters; see `zoo.data.augment.parse`.
        epochs: See `zoo.train.schedule.override`.
        batch_size: Pictures a step.
        learning_rates: See `zoo.train.schedule.override`.
        optimizer: For all phases; None leaves it to the schedule.
        rate: How the learning rate moves in all phases, see `zoo.plugin.Phase`; None leaves it to the schedule.
        clip_norm: Norm that gradients are scaled down to in all phases; None leaves it to the schedule.
        ema: Momentum of a moving average of weights in all phases; None leaves it to the schedule.
        head: What differs from the architecture's head: names and values of `zoo.plugin.Head`.
        label_smoothing: Share of every target that is spread over all classes, in [0, 1).
        balance: Whether every class counts alike in the losses, however many pictures it has; for pictures of one class
            each.
        patience: Epochs without a better validation loss that end a phase; 0 never does; None leaves it to the
            schedule.
        keep_best: Whether the epoch of least validation loss is kept, else the last.
        precision: "float32" or "bfloat16"; see `zoo.train.engine.TrainConfig`.
        views: Augmented copies of a picture, computed ahead; None makes a fresh one every epoch.
        cache_size: Bytes that outputs of frozen layers may take on the disk, over all runs; 0 runs all layers in every
            step; None means 4 GB or half of what is free, and no such cache where it would save little.
        val_split: Fraction taken as validation; None means the default.
        seed: Decides split, initial weights, order and augmentation.
        name: Of the export; None means `<architecture>-<data name>`.
        runs: Where the run folder is made.
        exported: Where the export is put.
        export: Whether to put it there.
    """

    architecture: str
    data: str = "digits"
    weights: str = "auto"
    size: tuple[int, int] | None = None
    resize: str = "squash"
    schedule: str | None = None
    augment: str = "none"
    epochs: tuple[int, ...] | None = None
    batch_size: int = 32
    learning_rates: tuple[float, ...] | None = None
    optimizer: str | None = None
    rate: str | None = None
    clip_norm: float | None = None
    ema: float | None = None
    head: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    label_smoothing: float = 0.0
    balance: bool = False
    patience: int | None = None
    keep_best: bool = True
    precision: str = "float32"
    views: int | None = None
    cache_size: int | None = None
    val_split: float | None = None
    seed: int = 0
    name: str | None = None
    runs: Path = Path("runs")
    exported: Path = Path("exported")
    export: bool = True


@dataclass(frozen=True)
class ResolvedConfig:
    """Options with every name, file and default resolved.

    Args:
        options: What was asked for.
        name: Of the export.
        architecture: The network.
        head: What it ends in.
        source: The pictures.
        spec: How they are decoded.
        found: The weights to begin from; None means random ones.
        weights_record: The same for run.json and the exported file.
        schedule: Of the phases.
        phases: As the user wants them.
        augmentation: The policy.
        parameters: Of the policy.
        augment: The policy, built; None alters nothing.
        warnings: What the user was told.
    """

    options: FinetuneConfig
    name: str
    architecture: Architecture
    head: Head
    source: sources.Source
    spec: ImageSpec
    found: fetch.WeightsFile | Path | None
    weights_record: dict[str, Any]
    schedule: Schedule
    phases: tuple[Phase, ...]
    augmentation: Augmentation
    parameters: Mapping[str, Any]
    augment: Augment | None
    warnings: list[str] = field(default_factory=list)


def resolve(options: FinetuneConfig, registry: Registry, reporter: Reporter) -> ResolvedConfig:
    """Resolve what a user asks for; gets weights that are not at hand.

    Args:
        options: What is wanted.
        registry: The loaded plugins.
        reporter: Hears which weights, and of doubts.

    Raises:
        ZooError: With what to do about it.
    """
    backend.check()
    architecture, tag = registry.resolve(options.architecture)
    augmentation, parameters = policies.parse(options.augment, registry)
    source = sources.open_source(options.data)
    if options.balance and source.multilabel:
        raise UsageError("--balance is for pictures of one class each; these have several labels or none.")
    name = checked_name(options.name or f"{architecture.name}-{source.name}")
    if options.export:
        files.check_writable(options.exported / name)
    head = _head(architecture, options.head)
    asked = options.schedule or architecture.default_schedule
    _check_augmented(_phases(schedule_tools.find(asked, registry), architecture, options), augmentation)
    augment = None if augmentation.name == "none" else policies.build(augmentation, parameters)

    with reporter.timing.measure("weights"):
        wanted = options.size or source.size
        found, weights_record = select.choose(architecture, tag, options.weights, wanted, registry, reporter)
    schedule = schedule_tools.find(
        options.schedule or (select.RANDOM_SCHEDULE if weights_record["random"] else asked), registry
    )
    phases = _phases(schedule, architecture, options)
    _check_augmented(phases, augmentation)
    warnings: list[str] = []
    if weights_record["random"]:
        reporter.say(f"Weights: random, schedule {schedule.name}")
        if phases[-1].train != "all":
            warnings.append(f"schedule {schedule.name} keeps layers frozen that have random weights; expect little.")
            reporter.warn(warnings[-1])
    return ResolvedConfig(
        options=options,
        name=name,
        architecture=architecture,
        head=head,
        source=source,
        spec=image_spec(architecture, _size(architecture, options, source, weights_record), options.resize),
        found=found,
        weights_record=weights_record,
        schedule=schedule,
        phases=phases,
        augmentation=augmentation,
        parameters=parameters,
        augment=augment,
        warnings=warnings,
    )


def checked_name(name: str) -> str:
    """The name of an export, or UsageError."""
    if sources.short_name(name) != name:
        raise UsageError(f"--name may hold letters, digits, '.', '_' and '-'. Received: {name!r}.")
    return name


def _phases(schedule: Schedule, architecture: Architecture, options: FinetuneConfig) -> tuple[Phase, ...]:
    """The schedule's phases as the user wants them, every selector checked before anything long begins."""
    phases = schedule_tools.override(
        schedule.phases_for(architecture),
        epochs=options.epochs,
        learning_rates=options.learning_rates,
        optimizer=options.optimizer,
        rate=options.rate,
        clip_norm=options.clip_norm,
        ema=options.ema,
        patience=options.patience,
        views=options.views,
    )
    # What is left of it: an --epochs of 0 leaves phases out.
    schedule_tools.check_fit(dataclasses.replace(schedule, phases=phases), architecture)
    return phases


def _check_augmented(phases: Sequence[Phase], augmentation: Augmentation) -> None:
    """Raise UsageError where a policy or views are asked for and would change nothing."""
    if augmentation.name == "none" and any(phase.views is not None for phase in phases):
        raise UsageError("--views goes with --augment: without it every view of a picture is the same.")
    if augmentation.name != "none" and not any(phase.augment for phase in phases):
        raise UsageError(f"no phase of the schedule augments; leave --augment {augmentation.name} out.")


def _head(architecture: Architecture, overrides: Mapping[str, Any]) -> Head:
    """The architecture's head with what a user wants instead."""
    try:
        return dataclasses.replace(architecture.head, **overrides)
    except InvalidPluginData as error:
        raise UsageError(str(error)) from None


def _size(
    architecture: Architecture, options: FinetuneConfig, source: sources.Source, weights_record: dict[str, Any]
) -> tuple[int, int]:
    from zoo.train.network import check_size

    size = options.size or source.size or tuple(weights_record.get("input_size") or architecture.input_size)
    check_size(architecture, size)
    return size


def image_spec(architecture: Architecture, size: tuple[int, int], resize: str) -> ImageSpec:
    """How pictures are decoded for a network.

    Args:
        architecture: For its channels.
        size: (height, width) in pixels.
        resize: As in `FinetuneConfig`.

    Raises:
        UsageError: There is no such way.
    """
    way, _, fraction = resize.partition(":")
    try:
        kept = {"fraction": float(fraction)} if fraction else {}
        if kept and way != "crop":
            raise ValueError("only crop takes a fraction")
        return ImageSpec(size=size, channels=architecture.channels, resize=way, **kept)
    except ValueError as error:
        raise UsageError(f"--resize must be squash, crop, crop:FRACTION or pad, --size in pixels: {error}.") from None
