"""Which layers a phase moves, and the epochs and rates that a user asked for instead of the schedule's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo import backend
from zoo.errors import UnknownName, UsageError
from zoo.plugin import Architecture, Phase
from zoo.train.network import stage_of

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class TrainableLayers:
    """What a phase trains.

    Args:
        layers: Names of the layers with trainable weights, input first.
        parameters: Their trainable weights, in numbers.
        total: All weights of the network, in numbers.
        lr_multipliers: Path of each trainable variable -> factor on its update.
    """

    layers: tuple[str, ...]
    parameters: int
    total: int
    lr_multipliers: dict[str, float]


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


@dataclass(frozen=True)
class LayerDefaults:
    """What phases change in layers besides weights, as it was before the first.

    Args:
        dropout: Name of each dropout layer -> its rate.
        momentum: Name of each BatchNorm layer -> momentum of its statistics.
    """

    dropout: dict[str, float]
    momentum: dict[str, float]


def layer_defaults(model: keras.Model) -> LayerDefaults:
    """Note what phases will change."""
    layers = backend.start().layers
    return LayerDefaults(
        {layer.name: layer.rate for layer in model.layers if isinstance(layer, layers.Dropout)},
        {layer.name: layer.momentum for layer in model.layers if isinstance(layer, layers.BatchNormalization)},
    )


def restore_dropout(model: keras.Model, before: LayerDefaults) -> None:
    """Give dropout layers their rates back."""
    for name, rate in before.dropout.items():
        model.get_layer(name).rate = rate


def set_trainable(
    model: keras.Model,
    backbone: Sequence[str],
    architecture: Architecture,
    phase: Phase,
    before: LayerDefaults,
) -> TrainableLayers:
    """Set `trainable` layer by layer for a phase; only this function does. What is frozen drops nothing out either.

    Args:
        model: The whole network.
        backbone: Names of the backbone's layers, input first; all others are the head.
        architecture: For its stages.
        phase: What moves.
        before: What `layer_defaults` gave before the first phase.

    Returns:
        What will move. The network must be compiled anew before it trains.
    """
    keras = backend.start()
    selected = select(architecture, list(backbone), phase.train)
    stages = stage_of(architecture, backbone)
    last = len(architecture.stages) - 1
    frozen_names = set(backbone)
    moving, lr_multipliers = [], {}
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
            lr_multipliers.update({weight.path: phase.rate_decay**below for weight in layer.trainable_weights})
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return TrainableLayers(tuple(moving), parameters, model.count_params(), lr_multipliers)
