"""Finds schedules by name or in TOML files, applies the user's overrides, and shows what each phase would train.

This is an example of a TOML file:

    [[phase]]
    name = "head"
    train = "head"
    epochs = 3
    learning_rate = 3e-3

    [[phase]]
    name = "top"
    train = "last:2"
    epochs = 5
    learning_rate = 1e-4
    lr_schedule = "cosine"

The keys of a phase are the fields of `zoo.plugin.Phase`. The old names of these fields work too. A `patience` of 0
means that the phase never stops early.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidPluginData, UnknownName, UsageError
from zoo.plugin import Architecture, Head, Phase, Schedule
from zoo.plugin.registry import Registry
from zoo.plugin.types import RENAMED_FIELDS
from zoo.reporter import counted

if TYPE_CHECKING:
    from zoo.train.freeze import TrainableLayers

FIELDS = (*(field.name for field in dataclasses.fields(Phase)), *RENAMED_FIELDS)
# Settings that an override of 0 switches off, because a command line cannot express None.
OFF_AT_ZERO = ("clip_norm", "ema", "patience")
REQUIRED = tuple(field.name for field in dataclasses.fields(Phase) if field.default is dataclasses.MISSING)


def find(text: str | Schedule, registry: Registry) -> Schedule:
    """Find a schedule by its name, or read it from a TOML file.

    Args:
        text: The name of a schedule, the path of a file that ends in .toml, or a schedule, which is returned.
        registry: The loaded plugins.

    Raises:
        UnknownName: No plugin has a schedule of this name, or a phase of the file has an unknown key.
        DuplicateName: Two plugins have a schedule of this name.
        UsageError: The file cannot be read, or it does not describe valid phases.
    """
    if isinstance(text, Schedule):
        return text
    return _read(Path(os.path.expanduser(text))) if text.lower().endswith(".toml") else registry.schedule(text)


def check_fit(schedule: Schedule, architecture: Architecture) -> None:
    """Check that the phases of a schedule fit the stages of an architecture.

    Raises:
        UsageError: A phase asks for more stages than the architecture has, or the last phase has a `depth` below the
            number of stages.
    """
    phases = schedule.phases_for(architecture)
    count = len(architecture.stages)
    for phase in phases:
        depth = count if phase.depth is None else phase.depth
        if depth > count:
            raise UsageError(f"{architecture.name} has {count} stages; phase {phase.name!r} asks for depth {depth}.")
        kind, _, argument = phase.train.partition(":")
        if kind == "last" and int(argument) > depth:
            raise UsageError(
                f"{architecture.name} has {depth} stages in phase {phase.name!r}. Received: {phase.train!r}."
            )
    if phases[-1].depth not in (None, count):
        raise UsageError(
            f"the last phase of schedule {schedule.name!r}, {phases[-1].name!r}, trains a network of depth "
            f"{phases[-1].depth}. Add a phase without depth at the end, for the whole network of {count} stages."
        )


def _read(path: Path) -> Schedule:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the schedule {str(path)!r} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the schedule {str(path)!r} is not a TOML file: {error}.") from None
    return parse(content, f"the schedule {str(path)!r}", path.stem)


def parse(content: Mapping[str, Any], where: str, name: str) -> Schedule:
    """Return the schedule that a TOML file describes.

    Args:
        content: The content of the file, or of a table in it.
        where: What messages call the schedule, such as "the schedule 'my.toml'".
        name: The name of the schedule if the file has none.

    Raises:
        UnknownName: A phase has an unknown key.
        UsageError: The content does not describe valid phases.
    """
    tables = content.get("phase")
    if set(content) - {"phase", "name", "summary", "by_evidence"} or not isinstance(tables, list) or not tables:
        raise UsageError(
            f"{where} must hold one or more [[phase]] tables, and may hold name, summary and by_evidence. "
            f"Received: {', '.join(content) or 'nothing'}."
        )
    phases = tuple(_phase(where, number, table) for number, table in enumerate(tables, start=1))
    try:
        return Schedule(
            name=_slug(str(content.get("name", name))),
            summary=str(content.get("summary", f"phases of {name}.toml")),
            phases=phases,
            by_evidence=content.get("by_evidence", False) is True,
        )
    except InvalidPluginData as error:
        raise UsageError(f"{where}: {error}") from None


def to_toml(schedule: Schedule) -> dict[str, Any]:
    """Return the content of a TOML file from which `parse` makes the same schedule, which has a tuple of phases."""
    assert isinstance(schedule.phases, tuple)
    phases = []
    for phase in schedule.phases:
        # TOML has no null. All fields that can be None have None as default, except `patience`.
        values = {key: value for key, value in vars(phase).items() if value is not None}
        phases.append({**values, "patience": phase.patience or 0})
    facts = {"name": schedule.name, "summary": schedule.summary, "by_evidence": schedule.by_evidence}
    return {**facts, "phase": phases}


def _slug(text: str) -> str:
    """Turn a string into a valid name for a schedule: "My phases (2)" becomes "my-phases-2"."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_") or "phases"


def _phase(where: str, number: int, table: Any) -> Phase:
    where = f"{where}, phase {number}"
    if not isinstance(table, dict):
        raise UsageError(f"{where}: [[phase]] must be a table. Received: {table!r}.")
    for key in table:
        if key not in FIELDS:
            raise UnknownName(f"key of a phase ({where})", key, FIELDS, "See `zoo schedule show`.")
    missing = [key for key in REQUIRED if key not in table]
    if missing:
        raise UsageError(f"{where}: {', '.join(missing)} must be given.")
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = RENAMED_FIELDS.get(str(key), str(key))
        if name in values or (name != key and name in table):
            raise UsageError(f"{where}: {key} is the old name of {name}; give one of them.")
        # TOML has no null, and a patience of 0 epochs would end every phase at once.
        values[name] = None if (name, repr(value)) == ("patience", "0") else value
    try:
        return Phase(**values)
    except InvalidPluginData as error:
        raise UsageError(f"{where}: {error}") from None


def show(
    schedule: Schedule,
    architecture: Architecture,
    *,
    size: tuple[int, int] | None,
    classes: int,
    head: Head | None = None,
) -> str:
    """Build the network, and describe which of its layers each phase of a schedule would train.

    Args:
        schedule: The schedule.
        architecture: The architecture.
        size: The input size (height, width) in pixels; None means the architecture's own.
        classes: The number of classes.
        head: The head; None means the architecture's own.

    Returns:
        Text with the settings of each phase, the names of the layers that it trains, and how many weight tensors and
        parameters it trains.

    Raises:
        UsageError: The schedule does not fit the architecture, or the size is too small.
        UnknownName: A phase names a layer that the network does not have.
    """
    from zoo import backend
    from zoo.train import freeze
    from zoo.train.network import assemble, build_backbone, truncate

    check_fit(schedule, architecture)
    backend.start()
    backbone = build_backbone(architecture, size or architecture.input_size)
    task = "binary" if classes == 2 else "multiclass"
    head = head or architecture.head
    whole = assemble(backbone, architecture, head, classes, task=task)
    model = whole.model
    defaults = freeze.layer_defaults(model)
    height, width = size or architecture.input_size
    lines = [
        f"{schedule.name} on {architecture.name} at {height}x{width}, {classes} classes: "
        f"{counted(len(model.trainable_weights), 'weight tensor')} can train, "
        f"{model.count_params():,} parameters in all"
    ]
    for number, phase in enumerate(schedule.phases_for(architecture), start=1):
        network = whole
        if phase.depth is not None and phase.depth < len(architecture.stages):
            network = truncate(whole, phase.depth, head, classes, task)
        trainable = freeze.set_trainable(network, phase, defaults)
        depth = "" if network is whole else f", the first {phase.depth} of {len(architecture.stages)} stages"
        lines += [
            "",
            f"{number}. {phase.name}{depth}: trains {phase.train}, {counted(phase.epochs, 'epoch')}, "
            f"{'solved exactly, or adam' if phase.optimizer == 'exact' else phase.optimizer} at "
            f"{phase.learning_rate:g} ({phase.lr_schedule}), BatchNorm {phase.batch_norm}{_extras(phase)}",
            f"   {counted(len(network.model.trainable_weights), 'weight tensor')} in "
            f"{counted(len(trainable.layers), 'layer')}, {trainable.parameters:,} of {trainable.total:,} parameters",
            *_layer_lines(trainable, phase),
        ]
    return "\n".join(lines)


def _extras(phase: Phase) -> str:
    """Return a description of the optional settings of a phase; empty if it has none."""
    extras = []
    if phase.min_steps is not None:
        extras.append(f", at least {phase.min_steps} steps")
    if phase.skip_below_loss is not None:
        extras.append(f", skipped if the validation loss is at most {phase.skip_below_loss:g}")
    if phase.clip_norm is not None:
        extras.append(f", gradients clipped to a norm of {phase.clip_norm:g}")
    if phase.ema is not None:
        extras.append(f", weights averaged with momentum {phase.ema:g}")
    return "".join(extras)


def _layer_lines(trainable: TrainableLayers, phase: Phase) -> list[str]:
    """Return lines of text with the names of the layers that train, grouped by learning rate."""
    import textwrap

    if phase.layer_decay == 1:
        return textwrap.wrap(", ".join(trainable.layers), 100, initial_indent="   ", subsequent_indent="   ")
    by_multiplier: dict[float, list[str]] = {}
    for path, multiplier in trainable.lr_multipliers.items():
        names = by_multiplier.setdefault(multiplier, [])
        layer = path.rpartition("/")[0]
        if layer not in names:
            names.append(layer)
    return [
        line
        for multiplier, names in by_multiplier.items()
        for line in textwrap.wrap(
            f"{phase.learning_rate * multiplier:g}: {', '.join(names)}",
            100,
            initial_indent="   ",
            subsequent_indent="     ",
        )
    ]


def plan_phases(
    schedule: Schedule,
    architecture: Architecture,
    *,
    epochs: Sequence[int] | None = None,
    learning_rates: Sequence[float] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Phase, ...]:
    """Return the phases of a schedule with the user's overrides, and check that they fit the architecture.

    Args:
        schedule: The schedule.
        architecture: The architecture.
        epochs: See `override`.
        learning_rates: See `override`.
        overrides: See `override`.

    Raises:
        UsageError: The overrides do not fit the phases, or the phases do not fit the architecture.
    """
    phases = override(
        schedule.phases_for(architecture), epochs=epochs, learning_rates=learning_rates, overrides=overrides
    )
    if schedule.by_evidence and phases[0].optimizer != "exact":
        raise UsageError(
            f"schedule {schedule.name} starts with its phase {schedule.phases_for(architecture)[0].name!r}, so that "
            "--epochs cannot leave this phase out. Use --schedule fine-tune, or give it 1 epoch."
        )
    # --epochs may leave phases out, so the check looks at the phases that remain.
    check_fit(dataclasses.replace(schedule, phases=phases), architecture)
    return phases


def override(
    phases: Sequence[Phase],
    *,
    epochs: Sequence[int] | None = None,
    learning_rates: Sequence[float] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Phase, ...]:
    """Return the phases of a schedule with the user's epochs, learning rates and other settings.

    Args:
        phases: The phases of the schedule.
        epochs: One number per phase, or a single number. None changes no epochs. With one number per phase, 0 leaves a
            phase out. All other phases are then trained, even if `skip_below_loss` would skip them. A single number
            becomes the number of epochs of the longest phase. The epochs of the other phases are scaled by the same
            ratio, to at least 1.
        learning_rates: One rate per phase, or a single rate. None changes no rates. The phase with the highest rate
            gets the single rate, and the rates of the other phases are scaled by the same ratio.
        overrides: New values of other settings, the same in all phases. Maps the name of a field of `zoo.plugin.Phase`
            to its new value. For the fields in `OFF_AT_ZERO`, 0 switches the setting off. `views` changes only phases
            that augment, and `optimizer` only phases that are not solved exactly. None changes no other settings.

    Returns:
        The phases to train.

    Raises:
        UsageError: `epochs` or `learning_rates` has neither a single value nor one value per phase. A value is not
            allowed, or no phase has any epochs left.
    """
    _check_counts(phases, epochs, learning_rates)
    one_by_one = epochs is not None and len(epochs) > 1
    epochs = _epochs_of_phases(phases, epochs)
    if learning_rates is not None and len(learning_rates) == 1:
        highest = max(phase.learning_rate for phase in _moving(phases))
        learning_rates = [phase.learning_rate * learning_rates[0] / highest for phase in phases]
    common = {key: (value or None) if key in OFF_AT_ZERO else value for key, value in (overrides or {}).items()}
    changed = []
    for i, phase in enumerate(phases):
        changes: dict[str, Any] = {key: value for key, value in common.items() if key != "views" or phase.augment}
        if phase.optimizer == "exact":
            changes.pop("optimizer", None)
        if epochs is not None:
            changes |= {"epochs": epochs[i], "min_steps": None}
        if one_by_one:
            # A user who gives the epochs of each phase wants all of them trained.
            changes["skip_below_loss"] = None
        if learning_rates is not None and (phase.optimizer != "exact" or len(_moving(phases)) == len(phases)):
            changes["learning_rate"] = learning_rates[i]
        if changes.get("epochs") == 0:
            continue
        try:
            changed.append(dataclasses.replace(phase, **changes))
        except InvalidPluginData as error:
            raise UsageError(f"phase {phase.name!r} cannot be trained with these options: {error}") from None
    if not changed:
        raise UsageError("--epochs leaves nothing to train. Give at least one phase 1 epoch or more.")
    return tuple(changed)


def _moving(phases: Sequence[Phase]) -> Sequence[Phase]:
    """Return the phases that take steps: those that do not solve the head. If there are none, return all phases."""
    return [phase for phase in phases if phase.optimizer != "exact"] or phases


def _check_counts(
    phases: Sequence[Phase], epochs: Sequence[int] | None, learning_rates: Sequence[float] | None
) -> None:
    names = ", ".join(phase.name for phase in phases)
    if len(phases) == 1:
        allowed = f"one value, because the schedule has one phase ({names})"
    else:
        allowed = f"one value, or one for each of the {len(phases)} phases ({names})"
    for label, values in (("--epochs", epochs), ("--learning-rate", learning_rates)):
        if values is not None and len(values) not in (1, len(phases)):
            raise UsageError(f"{label} takes {allowed}. Received: {counted(len(values), 'value')}.")


def _epochs_of_phases(phases: Sequence[Phase], epochs: Sequence[int] | None) -> Sequence[int] | None:
    """Return the new number of epochs of each phase, or None if `epochs` is None.

    Args:
        phases: The phases of the schedule.
        epochs: One number per phase, or a single number. One number per phase is returned unchanged. A single number
            becomes the number of epochs of the longest phase. The epochs of the other phases are scaled by the same
            ratio, to at least 1. For example, a single 6 turns phases of 1 and 3 epochs into phases of 2 and 6 epochs.
            A single 0 gives every phase 0 epochs.
    """
    if epochs is None or len(epochs) > 1 or len(phases) == 1:
        return epochs
    longest = max(phase.epochs for phase in _moving(phases))
    return [epochs[0] and max(1, round(phase.epochs * epochs[0] / longest)) for phase in phases]
