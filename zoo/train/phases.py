"""Which layers a phase moves, and the epochs and rates that a user asked for instead of the schedule's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo import backend
from zoo.errors import InvalidPluginData, UnknownName, UsageError
from zoo.plugin import Architecture, Phase

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Moving:
    """What a phase trains.

    Args:
        layers: Names of the layers with trainable weights, input first.
        parameters: Their trainable weights, in numbers.
        total: All weights of the network, in numbers.
        scales: Path of each trainable variable -> factor on its update.
    """

    layers: tuple[str, ...]
    parameters: int
    total: int
    scales: dict[str, float]


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


def select(architecture: Architecture, layers: Sequence[str], train: str) -> set[str]:
    """Names of the backbone's layers that a selector means.

    Args:
        architecture: For its stages.
        layers: All layers of the backbone, input first.
        train: "head", "last:N", "from:LAYER" or "all".

    Raises:
        UsageError: More stages are asked for than there are.
        UnknownName: There is no such layer.
    """
    kind, _, argument = train.partition(":")
    if kind == "head":
        return set()
    if kind == "all":
        return set(layers)
    if kind == "from":
        if argument not in layers:
            where = f"layer in the {len(architecture.stages)} stages of {architecture.name} that this phase has"
            raise UnknownName(where, argument, layers)
        return set(layers[layers.index(argument) :])
    check_stages(architecture, train)
    first = len(architecture.stages) - int(argument)
    return {layer for layer, stage in stage_of(architecture, layers).items() if stage >= first}


def check_stages(architecture: Architecture, train: str) -> None:
    """Raise UsageError if a selector asks for more stages than an architecture has."""
    kind, _, argument = train.partition(":")
    if kind == "last" and int(argument) > len(architecture.stages):
        raise UsageError(f"{architecture.name} has {len(architecture.stages)} stages. Received: {train!r}.")


def stage_of(architecture: Architecture, layers: Sequence[str]) -> dict[str, int]:
    """Number of the stage (0 is the stem) of every layer that stands in one.

    Args:
        architecture: For its stages.
        layers: All layers of the backbone.

    Raises:
        InvalidPluginData: A stage names layers that do not exist, or a layer stands in two stages.
    """
    stages: dict[str, int] = {}
    for i, stage in enumerate(architecture.stages):
        for wanted, found in stage.members(layers).items():
            if not found:
                raise InvalidPluginData(f"{architecture.name}: stages name layers that do not exist: {wanted}.")
            twice = [layer for layer in found if stages.get(layer, i) != i]
            if twice:
                raise InvalidPluginData(f"{architecture.name}: a layer must stand in one stage only: {twice[0]}.")
            stages.update(dict.fromkeys(found, i))
    return stages


@dataclass(frozen=True)
class Originals:
    """What phases change in layers besides weights, as it was before the first.

    Args:
        dropout: Name of each dropout layer -> its rate.
        momentum: Name of each BatchNorm layer -> momentum of its statistics.
    """

    dropout: dict[str, float]
    momentum: dict[str, float]


def originals(model: keras.Model) -> Originals:
    """Note what phases will change."""
    layers = backend.start().layers
    return Originals(
        {layer.name: layer.rate for layer in model.layers if isinstance(layer, layers.Dropout)},
        {layer.name: layer.momentum for layer in model.layers if isinstance(layer, layers.BatchNormalization)},
    )


def restore_dropout(model: keras.Model, before: Originals) -> None:
    """Give dropout layers their rates back."""
    for name, rate in before.dropout.items():
        model.get_layer(name).rate = rate


def output_of_stage(
    model: keras.Model, backbone: Sequence[str], architecture: Architecture, stage: int
) -> keras.KerasTensor:
    """The feature map that a stage hands on.

    Layers without weights belong to the highest stage that they get their input from. Where several tensors lead on
    (residual branches, dense blocks), it is the last of them.

    Args:
        model: The whole network.
        backbone: Names of the backbone's layers, input first.
        architecture: For its stages.
        stage: Number of the stage; 0 is the stem.

    Raises:
        InvalidPluginData: No map leads from the stage to the next.
    """
    keras = backend.start()
    stages = stage_of(architecture, backbone)
    # Keras offers no public way to a network's graph. Deeper nodes are called first.
    nodes = [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]
    makers = {node.operation.name: node for node in nodes}
    reached: dict[str, int] = {}
    for name, node in makers.items():
        sources = [tensor._keras_history.operation.name for tensor in node.input_tensors]
        reached[name] = max([stages.get(name, -1), *(reached[source] for source in sources)])
    leading = {
        tensor._keras_history.operation.name
        for name, node in makers.items()
        if reached[name] > stage
        for tensor in node.input_tensors
    }
    found = [name for name in makers if name in leading and reached[name] <= stage]
    last = makers[found[-1]] if found else None
    # Padding belongs to the convolution behind it.
    while last is not None and isinstance(last.operation, keras.layers.ZeroPadding2D):
        last = makers[last.input_tensors[0]._keras_history.operation.name]
    if last is None or len(last.outputs[0].shape) != 4:
        name = architecture.stages[stage].name
        raise InvalidPluginData(f"{architecture.name}: no feature map leads from stage {name!r} to the next.")
    return last.outputs[0]


def apply(
    model: keras.Model,
    backbone: Sequence[str],
    architecture: Architecture,
    phase: Phase,
    before: Originals,
) -> Moving:
    """Set `trainable` layer by layer for a phase; only this function does. What is frozen drops nothing out either.

    Args:
        model: The whole network.
        backbone: Names of the backbone's layers, input first; all others are the head.
        architecture: For its stages.
        phase: What moves.
        before: What `originals` gave before the first phase.

    Returns:
        What will move. The network must be compiled anew before it trains.
    """
    keras = backend.start()
    selected = select(architecture, list(backbone), phase.train)
    stages = stage_of(architecture, backbone)
    last = len(architecture.stages) - 1
    frozen_names = set(backbone)
    moving, scales = [], {}
    for layer in model.layers:
        in_backbone = layer.name in frozen_names
        trainable = not in_backbone or layer.name in selected
        if in_backbone and isinstance(layer, keras.layers.BatchNormalization):
            # trainable=False also keeps the statistics; `training=False` on the whole base does not in Keras 3.
            trainable = trainable and phase.batch_norm == "update"
            if trainable:
                layer.momentum = phase.batch_norm_momentum or before.momentum[layer.name]
        layer.trainable = trainable
        if layer.name in before.dropout:
            # A frozen base is a constant function of the picture, though `fit` calls it in training mode.
            layer.rate = before.dropout[layer.name] if trainable else 0.0
        if layer.trainable_weights:
            moving.append(layer.name)
            below = last - stages[layer.name] if in_backbone else 0
            scales.update({weight.path: phase.rate_decay**below for weight in layer.trainable_weights})
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return Moving(tuple(moving), parameters, model.count_params(), scales)
