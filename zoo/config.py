"""Defines the request for a fine-tuning run, before and after its names, files and defaults are resolved.

`resolve` turns a `FinetuneConfig` into a `ResolvedConfig`. It reports mistakes in the options before weights are
downloaded, pictures are decoded or training starts. The two classes only hold data. `zoo.workflow.finetune` runs the
steps of a fine-tuning run.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo import backend, files
from zoo.data import augment as policies
from zoo.data import sources
from zoo.data.augment import Augment
from zoo.data.reading import ReadingOptions
from zoo.errors import InvalidPluginData, UsageError
from zoo.plugin import Architecture, Augmentation, Head, Logger, Phase, Schedule, logger_choice
from zoo.plugin.registry import Registry
from zoo.plugin.types import VECTOR_POOLS
from zoo.pretrained import select
from zoo.reporter import Reporter
from zoo.train import exact
from zoo.train import schedule as schedule_tools
from zoo.train.network import check_size
from zoo_runtime import ImageSpec

# File systems allow 255 bytes. Sizes and variants are added to the name.
LONGEST_NAME = 200
# Names that Windows reserves, also with an extension.
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}

# The default schedule if that of the architecture solves the head exactly and the user's head cannot be solved.
UNSOLVED_SCHEDULE = "fine-tune"
# Maps keys of run.json to the fields of `zoo.plugin.Phase` that the command line can override. They are grouped by the
# key that stands before them in run.json. They keep their old names, because older run folders have them.
RECORDED_OVERRIDES = {
    "learning_rates": {"optimizer": "optimizer", "rate": "lr_schedule", "clip_norm": "clip_norm", "ema": "ema"},
    "balance": {"patience": "patience"},
    "precision": {"views": "views"},
}


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Describes the fine-tuning run that a user requests. `zoo.workflow.finetune.finetune` carries it out.

    Args:
        architecture: The name of an architecture, or the name with a tag of its weights: "mobilenetv2.imagenet1k".
        data: The path of the pictures, or "digits" for the pictures that are installed with zoo; see
            `zoo.data.sources`.
        reading: How the pictures are read: which classes and files are used.
        weights: The weights that training starts from: "auto" (pretrained if available, else random), "none" (random),
            a tag, or the path of a weights file.
        size: The (height, width) in pixels to which pictures are resized. None uses the size that suits the data. If
            that size is unknown, None uses the size at which the weights were trained, or else the architecture's
            default.
        resize: How pictures are resized: "squash", "crop", "crop:FRACTION" or "pad"; see `zoo_runtime.ImageSpec`. None
            means what the weights prefer, else "squash".
        levels: The bits that the gray levels of 16-bit pictures use, 8 to 16; see `zoo_runtime.ImageSpec`.
        schedule: The name of a schedule, the path of a TOML file, or the schedule itself. None uses the default of the
            architecture. If training starts from random weights, it is `scratch`. If the head cannot be solved exactly
            and the default decides by evidence, it is `fine-tune`.
        augment: An augmentation policy with its parameters, as `zoo.data.augment.parse` reads it. "none" does not
            augment.
        epochs: One number of epochs per phase. A single number is for the phase with the most epochs, and the other
            phases change in proportion. None keeps the schedule's numbers. See `zoo.train.schedule.override`.
        batch_size: Pictures per training step.
        learning_rates: One learning rate per phase. A single rate replaces the highest one, and the other rates change
            in proportion. None keeps the schedule's rates. See `zoo.train.schedule.override`.
        overrides: Maps names of fields of `zoo.plugin.Phase` to values that replace those of all phases. Other fields
            keep the schedule's values. See `zoo.train.schedule.override`.
        head: Maps names of fields of `zoo.plugin.Head` to values that replace those of the architecture's head.
        label_smoothing: The fraction of every target that is spread evenly over all classes, in [0, 1).
        balance: True gives every class the same weight in the loss, however many pictures the class has. This needs
            data with exactly one class per picture.
        keep_best: True keeps the weights of the epoch with the lowest validation loss, False those of the last epoch.
        precision: The number format in which training computes, "float32" or "bfloat16"; see
            `zoo.train.engine.TrainConfig`.
        cache_size: The greatest number of bytes on the disk for the feature caches of all runs. 0 uses no cache and
            runs all layers in every step. None allows 4 GiB, or half of the free disk space if that is less. With None,
            the cache is not used if it would save little time.
        val_split: The fraction of the pictures for validation. None uses 0.15. If the data have a train part of their
            own, None uses 0.10 of that part.
        group_by: Which pictures stay on one side of the split and in one fold, besides copies and near-duplicates: a
            regular expression on their paths, or "column:NAME"; see `zoo.data.group_by.keys_of`.
        wanted_precision: The wanted fraction of right answers, in (0, 1): less sure answers of the exported file become
            "unknown". None asks for none.
        folds: The number of folds of the cross-validation, 2 or more. None uses 5 folds if the schedule decides by
            evidence, and no cross-validation otherwise.
        seed: Determines the split, the initial weights, the order of the pictures and the augmentation.
        name: The name of the export. None uses `<architecture>-<name of the data>`.
        runs: The folder in which the run folder is created.
        exported: The folder of exports.
        export: True puts the exported file into the folder of exports. False trains and evaluates the network, but puts
            no file there.
        loggers: The names of the loggers besides history.csv, such as "tensorboard".
    """

    architecture: str
    data: str = "digits"
    reading: ReadingOptions = field(default_factory=ReadingOptions)
    weights: str = "auto"
    size: tuple[int, int] | None = None
    resize: str | None = None
    levels: int = 16
    schedule: str | Schedule | None = None
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
    group_by: str | None = None
    wanted_precision: float | None = None
    folds: int | None = None
    seed: int = 0
    name: str | None = None
    runs: Path = Path("runs")
    exported: Path = Path("exported")
    export: bool = True
    loggers: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the request as run.json records it.

        The keys are the names of the fields, and paths become strings. The field `overrides` has no key. Instead,
        the fields of `Phase` that it can contain have keys of their own:

        - A field that `RECORDED_OVERRIDES` lists is always present. `RECORDED_OVERRIDES` also defines its key, such as
          "rate" for the field `lr_schedule`. The value is None if the user does not override the field.
        - Any other field is present only if the user overrides it. The key is the name of the field.
        """
        values: dict[str, Any] = {}
        others = dict(self.overrides)
        for key, value in vars(self).items():
            if key != "overrides":
                values[key] = str(value) if isinstance(value, Path) else value
                if isinstance(value, Schedule):
                    values[key] = value.name
                if isinstance(value, ReadingOptions):
                    values[key] = value.to_json()
            for recorded, name in RECORDED_OVERRIDES.get(key, {}).items():
                values[recorded] = others.pop(name, None)
        return {**values, **others}


@dataclass(frozen=True)
class ResolvedConfig:
    """A `FinetuneConfig` after every name, file and default in it has been resolved.

    Args:
        requested: The `FinetuneConfig` that was resolved.
        name: The name of the export.
        architecture: The architecture of the network.
        head: The layers that are put on the backbone.
        source: The pictures with their labels, not yet decoded.
        spec: How pictures are decoded: their size, their channels and the method of resizing.
        weights: The weights that training starts from.
        schedule: The schedule that the phases come from.
        phases: The phases to train, with the user's overrides applied.
        augmentation: The augmentation policy.
        parameters: Maps the name of every parameter of the policy to its value, defaults included.
        augment: The function that augments pictures, built with these parameters; None if the policy is "none".
        warnings: The warnings that the user has already seen.
        loggers: The loggers that the user named.
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
    loggers: tuple[Logger, ...] = ()


def check_precision(precision: float | None, *, multilabel: bool) -> None:
    """Refuse a wanted precision for pictures with several labels.

    Raises:
        UsageError: A precision is wanted, and the pictures may have several labels.
    """
    if precision and multilabel:
        raise UsageError("--precision needs pictures with exactly one class each; these have several labels or none.")


def check_backend(architecture: Architecture) -> None:
    """Check that a network can be built on the requested backend of Keras.

    Raises:
        UsageError: It cannot.
    """
    wanted = backend.wanted()
    if wanted not in architecture.backends:
        others = " or ".join(f"KERAS_BACKEND={name}" for name in architecture.backends)
        raise UsageError(
            f"{architecture.name} cannot be built on the backend {wanted!r} of Keras. Set the environment variable "
            f"{others}, or take another network."
        )


def resolve(
    config: FinetuneConfig, registry: Registry, reporter: Reporter, planned: Schedule | None = None
) -> ResolvedConfig:
    """Check a request, and resolve every name, file and default in it.

    Pretrained weights that are not available locally are downloaded.

    Args:
        config: The request.
        registry: The loaded plugins.
        reporter: Receives messages about the chosen weights, and warnings.
        planned: The schedule of a run that is resumed, with the phases that were planned. None chooses the schedule.

    Raises:
        UsageError: An option has a value that zoo cannot use, or two options contradict each other.
        DataError: The pictures cannot be found, or they are not arranged in a way that zoo reads.
        WeightsError: Weights that the user names are not available, or a weights file is damaged or does not hold
            weights.
        PluginError: Two plugins provide a requested name, or a plugin breaks the rules of the plugin API.
        WriteError: The folder of exports cannot be written to.
        InstallationError: The Keras backend is not installed.
    """
    backend.check()
    architecture, tag = registry.resolve(config.architecture)
    check_backend(architecture)
    augmentation, parameters = policies.parse(config.augment, registry)
    source = sources.open_source(config.data, reading=config.reading)
    if config.balance and source.multilabel:
        raise UsageError("--balance needs pictures with exactly one class each; these have several labels or none.")
    check_precision(config.wanted_precision, multilabel=source.multilabel)
    loggers = logger_choice.loggers_of(config.loggers, registry, reporter.warn, resumed=planned is not None)
    name = export_name(config, architecture, source)
    if config.export:
        files.check_writable(config.exported / name, "--exported FOLDER")
    head = _head(architecture, config.head)
    size = config.size or source.size
    check_size(architecture, size or architecture.input_size)
    image_spec(architecture, size or architecture.input_size, config.resize or "squash", config.levels)

    # Mistakes in the options are reported before weights are downloaded, because a download may take long.
    expected_random = select.starts_random(architecture, tag, config.weights, registry)
    if planned is not None:
        schedule, phases = planned, planned.phases_for(architecture)
    else:
        schedule, phases = _schedule(
            config, architecture, head, registry, augmentation, reporter, random=expected_random
        )
    augment = None if augmentation.name == "none" else policies.build(augmentation, parameters)
    with reporter.timing.measure("weights"):
        weights = select.choose(architecture, tag, config.weights, size, registry, reporter)
    # Without weights, the schedule is another one. If the options do not fit it, this report says why.
    warnings = weights.report(reporter, schedule.name if config.schedule else None)
    resize, resampling = select.resizing(config.resize, weights.entry, reporter)
    if weights.random != expected_random and planned is None:
        schedule, phases = _schedule(config, architecture, head, registry, augmentation, reporter, random=True)
    size = size or weights.input_size or architecture.input_size
    check_size(architecture, size)
    return ResolvedConfig(
        requested=config,
        name=name,
        architecture=architecture,
        head=head,
        source=source,
        spec=image_spec(architecture, size, resize, config.levels, resampling),
        weights=weights,
        schedule=schedule,
        phases=phases,
        augmentation=augmentation,
        parameters=parameters,
        augment=augment,
        warnings=warnings + _warn_of_random(weights, schedule, phases, reporter),
        loggers=loggers,
    )


def has_validation(config: FinetuneConfig, registry: Registry, reporter: Reporter) -> bool:
    """Return whether a run has a validation part. Nothing is downloaded and no picture is read.

    Args:
        config: The request.
        registry: The loaded plugins.
        reporter: Receives a message if another schedule than the default one is needed.

    Raises:
        UsageError: An option has a value that zoo cannot use, or two options contradict each other.
        PluginError: Two plugins provide a requested name, or a plugin breaks the rules of the plugin API.
    """
    architecture, tag = registry.resolve(config.architecture)
    augmentation, _ = policies.parse(config.augment, registry)
    random = select.starts_random(architecture, tag, config.weights, registry)
    head = _head(architecture, config.head)
    schedule, _ = _schedule(config, architecture, head, registry, augmentation, reporter, random=random)
    return not (schedule.by_evidence or config.folds is not None)


def export_name(config: FinetuneConfig, architecture: Architecture, source: sources.Source) -> str:
    """Return the name of the export of a run.

    Raises:
        UsageError: The user's name is not allowed; see `checked_name`.
    """
    return checked_name(config.name or f"{architecture.name}-{source.name}")


def checked_name(name: str) -> str:
    """Check that the name of an export is allowed, and return it unchanged.

    Raises:
        UsageError: The name is empty, or it contains a character that is not an ASCII letter, a digit, '.', '_' or '-'.
            Or it begins or ends with '-' or '.', Windows reserves it for a device, or it is too long.
    """
    if len(name) > LONGEST_NAME:
        raise UsageError(f"--name may have at most {LONGEST_NAME} characters. Received: {len(name)} characters.")
    if name.partition(".")[0].lower() in DEVICES:
        raise UsageError(f"--name {name} cannot be used, because Windows reserves it. Received: {name!r}.")
    if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?", name):
        hint = f" `--name {sources.short_name(name)}` would do." if name else ""
        raise UsageError(
            "--name may hold the letters a to z, digits, '.', '_' and '-', and begins and ends with a letter, a digit "
            f"or '_'. Received: {name!r}.{hint}"
        )
    return name


def image_spec(
    architecture: Architecture,
    size: tuple[int, int],
    resize: str,
    levels: int = 16,
    resampling: str = "bilinear",
) -> ImageSpec:
    """Return the `ImageSpec` that says how pictures are decoded for an architecture.

    Args:
        architecture: The architecture, which determines the number of channels.
        size: (height, width) in pixels.
        resize: The method of resizing, as in `FinetuneConfig`.
        levels: The bits of 16-bit gray levels, as in `FinetuneConfig`.
        resampling: The filter; see `zoo_runtime.ImageSpec.filter`.

    Raises:
        UsageError: `resize` is not a method of resizing, `levels` is not 8 to 16, or `size` is not allowed.
    """
    if not 8 <= levels <= 16:
        raise UsageError(f"--levels must be a number of bits, 8 to 16. Received: {levels!r}.")
    method, _, fraction = resize.partition(":")
    try:
        if method == "crop" or (method in ("squash", "pad") and not fraction):
            values: dict[str, Any] = {"resize": method, "filter": resampling}
            values |= {"fraction": float(fraction)} if fraction else {}
            return ImageSpec(size=size, channels=architecture.channels, levels=levels, **values)
    except ValueError:
        pass
    raise UsageError(
        "--resize must be squash, crop, pad or crop:FRACTION, with a fraction above 0 and at most 1, such as "
        f"crop:0.875. Received: {resize!r}."
    )


def _schedule(
    config: FinetuneConfig,
    architecture: Architecture,
    head: Head,
    registry: Registry,
    augmentation: Augmentation,
    reporter: Reporter,
    *,
    random: bool,
) -> tuple[Schedule, tuple[Phase, ...]]:
    """Return the schedule of a run, and its phases with the user's overrides.

    Args:
        config: The request.
        architecture: The architecture of the network.
        head: The head of the network.
        registry: The loaded plugins.
        augmentation: The augmentation policy of the run.
        reporter: Receives a message if another schedule than the default one is needed.
        random: Whether training starts from random weights. The default schedule is then `scratch`.

    Raises:
        UsageError: The schedule does not exist, or does not fit the architecture, the head, the overrides or the
            augmentation policy.
        DuplicateName: More than one plugin provides the schedule.
        InvalidPluginData: The plugin's schedule gives no phases for the architecture.
    """
    default = select.RANDOM_SCHEDULE if random else architecture.default_schedule
    schedule = schedule_tools.find(config.schedule or default, registry)
    why = exact.obstacle(head) or ("" if head.pool in VECTOR_POOLS else f"--pool {head.pool} makes too many features")
    if schedule.by_evidence and not config.schedule and not why:
        why = _names_other_phases(config, schedule, architecture, registry)
    if schedule.by_evidence and why:
        if config.schedule:
            raise UsageError(
                f"schedule {schedule.name} solves the head exactly, which is not possible because {why}. Choose "
                "another --schedule, such as fine-tune, or omit the options of the head."
            )
        schedule = schedule_tools.find(UNSOLVED_SCHEDULE, registry)
        reporter.say(f"Schedule: {schedule.name}, because {why}")
    if config.val_split is not None and (schedule.by_evidence or config.folds is not None):
        raise UsageError(
            "--val-split cannot be used here, because this run decides by cross-validation and trains on all pictures "
            "that are not test pictures. Omit it, or name another schedule, such as --schedule fine-tune, without --cv."
        )
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


def _names_other_phases(
    config: FinetuneConfig, schedule: Schedule, architecture: Architecture, registry: Registry
) -> str:
    """Return why a user who names no schedule means `fine-tune`; empty if the default schedule fits the options.

    `fine-tune` was the default before `auto`. Commands with one number of epochs for each of its phases stay valid.
    """
    own = len(schedule.phases_for(architecture))
    for option, values in (("--epochs", config.epochs), ("--learning-rate", config.learning_rates)):
        if values is not None and len(values) not in (1, own):
            other = len(schedule_tools.find(UNSOLVED_SCHEDULE, registry).phases_for(architecture))
            return f"{option} has a value for each of its {other} phases" if len(values) == other else ""
    return ""


def _warn_of_random(
    weights: select.StartingWeights, schedule: Schedule, phases: tuple[Phase, ...], reporter: Reporter
) -> tuple[str, ...]:
    """If training starts from random weights, report this, and warn if the last phase leaves layers frozen.

    Args:
        weights: The weights that training starts from.
        schedule: The schedule of the run, which the messages name.
        phases: The phases of the schedule, with the user's overrides applied.
        reporter: Receives the report and the warning.

    Returns:
        The warnings; an empty tuple if there are none.
    """
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
    """Return the architecture's head, with some fields replaced by values that the user requests.

    Args:
        architecture: The architecture.
        changes: Maps names of fields of `zoo.plugin.Head` to values.

    Raises:
        UsageError: A value is not allowed.
    """
    try:
        return dataclasses.replace(architecture.head, **changes)
    except InvalidPluginData as error:
        raise UsageError(str(error)) from None
