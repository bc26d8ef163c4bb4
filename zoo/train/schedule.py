"""Schedules as a user names them, by name or as a TOML file of phases; and what one would train, phase by phase.

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
    rate = "cosine"

A phase takes what `zoo.plugin.Phase` takes. A whole number of 0 for `patience` means never to stop early.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.errors import InvalidPluginData, UnknownName, UsageError
from zoo.plugin import Architecture, Head, Phase, Schedule
from zoo.plugin.registry import Registry
from zoo.train.network import truncate

FIELDS = tuple(field.name for field in dataclasses.fields(Phase))
REQUIRED = tuple(field.name for field in dataclasses.fields(Phase) if field.default is dataclasses.MISSING)


def find(text: str, registry: Registry) -> Schedule:
    """Find a schedule.

    Args:
        text: Name of a schedule, or path of a TOML file (it ends in .toml).
        registry: The loaded plugins.

    Raises:
        UnknownName: No plugin brings it, or a phase of the file has a key that phases do not have.
        UsageError: The file cannot be read or does not hold phases.
    """
    return _read(Path(os.path.expanduser(text))) if text.lower().endswith(".toml") else registry.schedule(text)


def check_fit(schedule: Schedule, architecture: Architecture) -> None:
    """Raise UsageError unless a schedule's phases fit an architecture's stages and end with the whole network."""
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
            f"the last phase of schedule {schedule.name!r}, {phases[-1].name!r}, has a depth of {phases[-1].depth}: "
            f"there must be one for the whole network behind it."
        )


def _read(path: Path) -> Schedule:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the schedule {str(path)!r} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the schedule {str(path)!r} is no TOML: {error}.") from None
    listed = content.get("phase")
    if set(content) - {"phase", "name", "summary"} or not isinstance(listed, list) or not listed:
        raise UsageError(
            f"the schedule {str(path)!r} must hold one or more [[phase]] tables, and may hold name and summary. "
            f"Received: {', '.join(content) or 'nothing'}."
        )
    phases = tuple(_phase(path, number, table) for number, table in enumerate(listed, start=1))
    try:
        return Schedule(
            name=_slug(str(content.get("name", path.stem))),
            summary=str(content.get("summary", f"phases of {path.name}")),
            phases=phases,
        )
    except InvalidPluginData as error:
        raise UsageError(f"the schedule {str(path)!r}: {error}") from None


def _slug(text: str) -> str:
    """A name as schedules have it, of any text: "My phases (2)" is my-phases-2."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_") or "phases"


def _phase(path: Path, number: int, table: Any) -> Phase:
    where = f"the schedule {str(path)!r}, phase {number}"
    if not isinstance(table, dict):
        raise UsageError(f"{where}: [[phase]] must be a table. Received: {table!r}.")
    for key in table:
        if key not in FIELDS:
            raise UnknownName(f"key of a phase ({path.name}, phase {number})", key, FIELDS, "See `zoo schedule show`.")
    missing = [key for key in REQUIRED if key not in table]
    if missing:
        raise UsageError(f"{where}: {', '.join(missing)} must be given.")
    # TOML has no null, and a patience of no epoch would end every phase at once.
    values = {key: None if (key, repr(value)) == ("patience", "0") else value for key, value in table.items()}
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
    """Say phase by phase what would train; builds the network.

    Args:
        schedule: The schedule.
        architecture: The network.
        size: (height, width) in pixels; None means the architecture's own.
        classes: Number of classes.
        head: None means the architecture's own.

    Returns:
        Text: for each phase the layers that move, their weight tensors and parameters.

    Raises:
        UsageError: The schedule does not fit the architecture, or the size is too small.
    """
    from zoo import backend
    from zoo.train import freeze
    from zoo.train.network import Network, attach_head, build_backbone

    check_fit(schedule, architecture)
    backend.start()
    backbone = build_backbone(architecture, size or architecture.input_size)
    task = "binary" if classes == 2 else "multiclass"
    head = head or architecture.head
    model = attach_head(backbone, head, classes, architecture.name, task=task)
    whole = Network(model, tuple(layer.name for layer in backbone.layers), architecture)
    before = freeze.layer_defaults(model)
    height, width = size or architecture.input_size
    lines = [
        f"{schedule.name} on {architecture.name} at {height}x{width}, {classes} classes: "
        f"{len(model.trainable_weights)} weight tensors can train, {model.count_params():,} parameters in all"
    ]
    for number, phase in enumerate(schedule.phases_for(architecture), start=1):
        network = whole
        if phase.depth is not None and phase.depth < len(architecture.stages):
            network = truncate(whole, phase.depth, head, classes, task)
        moving = freeze.set_trainable(network.model, network.backbone, network.architecture, phase, before)
        depth = "" if network is whole else f", the first {phase.depth} of {len(architecture.stages)} stages"
        lines += [
            "",
            f"{number}. {phase.name}{depth}: trains {phase.train}, {phase.epochs} epochs, {phase.optimizer} at "
            f"{phase.learning_rate:g} ({phase.rate}), BatchNorm {phase.batch_norm}{_further(phase)}",
            f"   {len(network.model.trainable_weights)} weight tensors in {len(moving.layers)} layers, "
            f"{moving.parameters:,} of {moving.total:,} parameters",
            *_layers(moving, phase),
        ]
    return "\n".join(lines)


def _further(phase: Phase) -> str:
    """What a phase has beyond what every phase has."""
    told = []
    if phase.enough is not None:
        told.append(f", left out at a validation loss of {phase.enough:g} or less")
    if phase.clip_norm is not None:
        told.append(f", gradients clipped to a norm of {phase.clip_norm:g}")
    if phase.ema is not None:
        told.append(f", weights averaged with momentum {phase.ema:g}")
    return "".join(told)


def _layers(moving: Any, phase: Phase) -> list[str]:
    """Names of moving layers, wrapped; where rates differ, a line for each."""
    import textwrap

    if phase.rate_decay == 1:
        return textwrap.wrap(", ".join(moving.layers), 100, initial_indent="   ", subsequent_indent="   ")
    by_scale: dict[float, list[str]] = {}
    for path, scale in moving.lr_multipliers.items():
        names = by_scale.setdefault(scale, [])
        layer = path.rpartition("/")[0]
        if layer not in names:
            names.append(layer)
    return [
        line
        for scale, names in by_scale.items()
        for line in textwrap.wrap(
            f"{phase.learning_rate * scale:g}: {', '.join(names)}", 100, initial_indent="   ", subsequent_indent="     "
        )
    ]


def override(
    phases: Sequence[Phase],
    *,
    epochs: Sequence[int] | None = None,
    learning_rates: Sequence[float] | None = None,
    optimizer: str | None = None,
    rate: str | None = None,
    clip_norm: float | None = None,
    ema: float | None = None,
    patience: int | None = None,
    views: int | None = None,
) -> tuple[Phase, ...]:
    """Apply a user's wishes to a schedule.

    Args:
        phases: The schedule's.
        epochs: One number a phase (0 leaves the phase out, and nothing else does then), or a single one for the
            longest phase, the others in proportion.
        learning_rates: One a phase, or a single one for the highest, the others in proportion.
        optimizer: For all phases.
        rate: For all phases: how the learning rate moves, see `zoo.plugin.Phase`.
        clip_norm: For all phases; 0 never clips.
        ema: For all phases; 0 averages nothing.
        patience: For all phases; 0 never ends one early.
        views: For all phases that augment.

    Returns:
        The phases to train.

    Raises:
        UsageError: Another number of values than of phases, or no epoch left.
    """
    names = ", ".join(phase.name for phase in phases)
    for label, values in (("--epochs", epochs), ("--learning-rate", learning_rates)):
        if values is not None and len(values) not in (1, len(phases)):
            raise UsageError(
                f"{label} takes one value, or one for each of the {len(phases)} phases ({names}). "
                f"Received: {len(values)}."
            )
    one_by_one = epochs is not None and len(epochs) > 1
    if epochs is not None and len(epochs) == 1 and len(phases) > 1:
        longest = max(phase.epochs for phase in phases)
        epochs = [epochs[0] and max(1, round(phase.epochs * epochs[0] / longest)) for phase in phases]
    if learning_rates is not None and len(learning_rates) == 1:
        highest = max(phase.learning_rate for phase in phases)
        learning_rates = [phase.learning_rate * learning_rates[0] / highest for phase in phases]
    changed = []
    for i, phase in enumerate(phases):
        wishes: dict = {}
        if epochs is not None:
            if not epochs[i]:
                continue
            wishes["epochs"] = epochs[i]
            if one_by_one:
                # Who names a phase's epochs wants them.
                wishes["enough"] = None
        if learning_rates is not None:
            wishes["learning_rate"] = learning_rates[i]
        if optimizer is not None:
            wishes["optimizer"] = optimizer
        if rate is not None:
            wishes["rate"] = rate
        if clip_norm is not None:
            wishes["clip_norm"] = clip_norm or None
        if ema is not None:
            wishes["ema"] = ema or None
        if patience is not None:
            wishes["patience"] = patience or None
        if views is not None and phase.augment:
            wishes["views"] = views
        try:
            changed.append(dataclasses.replace(phase, **wishes))
        except InvalidPluginData as error:
            raise UsageError(f"phase {phase.name!r} cannot be trained so: {error}") from None
    if not changed:
        raise UsageError("--epochs leaves nothing to train; give at least one phase an epoch.")
    return tuple(changed)
