"""The configuration of fine-tuning: what the user asks for, and the same with every name, file and default resolved.

`resolve` finds everything that can be wrong with a request before anything long begins. The classes here hold data
alone; `zoo.workflow.finetune` has the steps that use them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
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
from zoo.pretrained import select
from zoo.reporter import Reporter
from zoo.train import schedule as schedule_tools
from zoo.train.network import check_size
from zoo_runtime import ImageSpec

# The settings of phases that the command line overrides: the option that run.json records them after -> their names in
# run.json -> the names of the fields of `zoo.plugin.Phase`.
RECORDED_OVERRIDES = {
    "learning_rates": {"optimizer": "optimizer", "rate": "lr_schedule", "clip_norm": "clip_norm", "ema": "ema"},
    "balance": {"patience": "patience"},
    "precision": {"views": "views"},
}


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """What a user asks of `zoo.workflow.finetune.finetune`.

    Args:
        architecture: `name` or `name.tag`.
        data: A path, or "digits"; see `zoo.data.sources`.
        weights: "auto", "none", a tag, or a path.
        size: (height, width) in pixels. None takes the size of the data, else that of the weights.
        resize: "squash", "crop", "crop:FRACTION" or "pad".
        schedule: The name of a schedule, or the path of a TOML file. None takes the default of the architecture, or
            `scratch` for random weights.
        augment: The augmentation policy and its parameters; see `zoo.data.augment.parse`.
        epochs: See `zoo.train.schedule.override`.
        batch_size: Pictures per training step.
        learning_rates: See `zoo.train.schedule.override`.
        overrides: Settings for all phases, by the names of the fields of `zoo.plugin.Phase`; see
            `zoo.train.schedule.override`. What is not given stays as the schedule has it.
        head: Values that replace those of the architecture's head, by the names of the fields of `zoo.plugin.Head`.
        label_smoothing: The fraction of every target that is spread evenly over all classes, in [0, 1).
        balance: True gives every class the same weight in the loss, however many pictures it has. It needs data with
            exactly one class per picture.
        keep_best: True keeps the epoch with the least validation loss, False the last epoch.
        precision: "float32" or "bfloat16"; see `zoo.train.engine.TrainConfig`.
        cache_size: Bytes on the disk for the feature caches of all runs. 0 runs all layers in every step. None allows
            4 GB or half of the free space, and uses no cache where it would save little.
        val_split: The fraction of the pictures for validation. None takes the default of `zoo.data.split`.
        seed: Decides the split, the initial weights, the order of the pictures and the augmentation.
        name: The name of the export. None makes it `<architecture>-<name of the data>`.
        runs: The folder in which the run folder is made.
        exported: The folder of exports.
        export: Whether the exported file is put there.
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
    overrides: Mapping[str, Any] = field(default_factory=dict)
    head: Mapping[str, Any] = field(default_factory=dict)
    label_smoothing: float = 0.0
    balance: bool = False
    keep_best: bool = True
    precision: str = "float32"
    cache_size: int | None = None
    val_split: float | None = None
    seed: int = 0
    name: str | None = None
    runs: Path = Path("runs")
    exported: Path = Path("exported")
    export: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the request as run.json records it: plain values, each override under a key of its own."""
        values: dict[str, Any] = {}
        others = dict(self.overrides)
        for key, value in vars(self).items():
            if key != "overrides":
                values[key] = str(value) if isinstance(value, Path) else value
            for recorded, name in RECORDED_OVERRIDES.get(key, {}).items():
                values[recorded] = others.pop(name, None)
        return {**values, **others}


@dataclass(frozen=True)
class ResolvedConfig:
    """A `FinetuneConfig` with every name, file and default resolved.

    Args:
        requested: The request.
        name: The name of the export.
        architecture: The network.
        head: What the network ends in.
        source: The pictures.
        spec: How they are decoded.
        weights: What training starts from.
        schedule: The schedule that the phases come from.
        phases: The phases to train, with the overrides applied.
        augmentation: The augmentation policy.
        parameters: The parameters of the policy.
        augment: The function that the policy built; None alters nothing.
        warnings: Warnings that the user has seen.
    """

    requested: FinetuneConfig
    name: str
    architecture: Architecture
    head: Head
    source: sources.Source
    spec: ImageSpec
    weights: select.StartingWeights
    schedule: Schedule
    phases: tuple[Phase, ...]
    augmentation: Augmentation
    parameters: Mapping[str, Any]
    augment: Augment | None
    warnings: tuple[str, ...] = ()


def resolve(config: FinetuneConfig, registry: Registry, reporter: Reporter) -> ResolvedConfig:
    """Resolve a request; download weights that are not available locally.

    Args:
        config: The request.
        registry: The loaded plugins.
        reporter: Receives the choice of weights, and warnings.

    Raises:
        ZooError: Something about the request is wrong; the message says what to do about it.
    """
    backend.check()
    architecture, tag = registry.resolve(config.architecture)
    augmentation, parameters = policies.parse(config.augment, registry)
    source = sources.open_source(config.data)
    if config.balance and source.multilabel:
        raise UsageError("--balance needs pictures with exactly one class each; these have several labels or none.")
    name = checked_name(config.name or f"{architecture.name}-{source.name}")
    if config.export:
        files.check_writable(config.exported / name)
    head = _head(architecture, config.head)
    size = config.size or source.size
    check_size(architecture, size or architecture.input_size)
    image_spec(architecture, size or architecture.input_size, config.resize)

    # A mistake in the options is found before weights are downloaded, which may take long.
    expected_random = select.starts_random(architecture, tag, config.weights, registry)
    schedule, phases = _schedule(config, architecture, registry, augmentation, random=expected_random)
    augment = None if augmentation.name == "none" else policies.build(augmentation, parameters)
    with reporter.timing.measure("weights"):
        weights = select.choose(architecture, tag, config.weights, size, registry, reporter)
    # Without weights, the schedule is another one. If the options do not fit it, this report says why.
    weights.report(reporter)
    if weights.random != expected_random:
        schedule, phases = _schedule(config, architecture, registry, augmentation, random=True)
    size = size or weights.input_size or architecture.input_size
    check_size(architecture, size)
    return ResolvedConfig(
        requested=config,
        name=name,
        architecture=architecture,
        head=head,
        source=source,
        spec=image_spec(architecture, size, config.resize),
        weights=weights,
        schedule=schedule,
        phases=phases,
        augmentation=augmentation,
        parameters=parameters,
        augment=augment,
        warnings=_warn_of_random(weights, schedule, phases, reporter),
    )


def checked_name(name: str) -> str:
    """Return the name of an export, or raise UsageError for a name that is not allowed."""
    if sources.short_name(name) != name:
        raise UsageError(f"--name may hold letters, digits, '.', '_' and '-'. Received: {name!r}.")
    return name


def image_spec(architecture: Architecture, size: tuple[int, int], resize: str) -> ImageSpec:
    """Say how pictures are decoded for a network.

    Args:
        architecture: Decides the channels.
        size: (height, width) in pixels.
        resize: As in `FinetuneConfig`.

    Raises:
        UsageError: The text names no method of resizing.
    """
    method, _, fraction = resize.partition(":")
    try:
        if method == "crop" or (method in ("squash", "pad") and not fraction):
            values: dict[str, Any] = {"resize": method, **({"fraction": float(fraction)} if fraction else {})}
            return ImageSpec(size=size, channels=architecture.channels, **values)
    except ValueError:
        pass
    raise UsageError(
        "--resize must be squash, crop, pad or crop:FRACTION, with a fraction above 0 and at most 1, such as "
        f"crop:0.875. Received: {resize!r}."
    )


def _schedule(
    config: FinetuneConfig,
    architecture: Architecture,
    registry: Registry,
    augmentation: Augmentation,
    *,
    random: bool,
) -> tuple[Schedule, tuple[Phase, ...]]:
    """Return the schedule of a run and its phases, checked against the architecture and the augmentation policy."""
    default = select.RANDOM_SCHEDULE if random else architecture.default_schedule
    schedule = schedule_tools.find(config.schedule or default, registry)
    phases = schedule_tools.plan_phases(
        schedule,
        architecture,
        epochs=config.epochs,
        learning_rates=config.learning_rates,
        overrides=config.overrides,
    )
    if augmentation.name == "none" and any(phase.views is not None for phase in phases):
        raise UsageError("--views goes with --augment: without augmentation, all views of a picture are the same.")
    if augmentation.name != "none" and not any(phase.augment for phase in phases):
        raise UsageError(
            f"no phase of schedule {schedule.name} uses augmentation. Omit --augment {augmentation.name}, or choose "
            "another --schedule; `zoo list schedules` shows them."
        )
    return schedule, phases


def _warn_of_random(
    weights: select.StartingWeights, schedule: Schedule, phases: tuple[Phase, ...], reporter: Reporter
) -> tuple[str, ...]:
    """Report a start from random weights; warn where layers keep them, and return the warnings."""
    if not weights.random:
        return ()
    reporter.say(f"Weights: random, schedule {schedule.name}")
    if phases[-1].train == "all":
        return ()
    warning = (
        f"schedule {schedule.name} keeps layers frozen that have random weights; the network will learn little. "
        "Use --schedule scratch, or give weights with --weights."
    )
    reporter.warn(warning)
    return (warning,)


def _head(architecture: Architecture, changes: Mapping[str, Any]) -> Head:
    """Return the architecture's head with the values that the user asks for."""
    try:
        return dataclasses.replace(architecture.head, **changes)
    except InvalidPluginData as error:
        raise UsageError(str(error)) from None
