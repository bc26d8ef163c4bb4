"""Selects and sets the layers that a phase trains.

During training, nothing else sets `trainable`; `zoo.train.fitting` compiles the network afterwards. Outside training,
`zoo.testing` sets it for a moment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo import backend
from zoo.errors import UnknownName, UsageError
from zoo.plugin import Architecture, Phase
from zoo.train.network import Network, stage_of

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class TrainableLayers:
    """The layers, weights and learning-rate factors that a phase trains.

    Args:
        layers: Names of the layers with trainable weights, input first.
        parameters: The number of their trainable weights.
        total: The number of all weights of the network.
        lr_multipliers: Path of each trainable variable -> factor on its update.
    """

    layers: tuple[str, ...]
    parameters: int
    total: int
    lr_multipliers: dict[str, float]


def select(architecture: Architecture, layers: Sequence[str], train: str) -> set[str]:
    """Return the names of the backbone's layers that a selector means.

    Args:
        architecture: Has the stages.
        layers: The names of all layers of the backbone, input first.
        train: "head", "last:N", "from:LAYER" or "all".

    Raises:
        UsageError: The selector asks for more stages than there are.
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
    """Settings of layers, besides weights, that phases change: their values before the first phase.

    Args:
        dropout: Name of each dropout layer -> its rate.
        momentum: Name of each BatchNorm layer -> the momentum of its statistics.
    """

    dropout: dict[str, float]
    momentum: dict[str, float]


def layer_defaults(model: keras.Model) -> LayerDefaults:
    """Read the settings that phases will change."""
    layers = backend.start().layers
    return LayerDefaults(
        {layer.name: layer.rate for layer in model.layers if isinstance(layer, layers.Dropout)},
        {layer.name: layer.momentum for layer in model.layers if isinstance(layer, layers.BatchNormalization)},
    )


def restore_dropout(model: keras.Model, defaults: LayerDefaults) -> None:
    """Give the dropout layers their rates back."""
    for name, rate in defaults.dropout.items():
        model.get_layer(name).rate = rate


def set_trainable(network: Network, phase: Phase, defaults: LayerDefaults) -> TrainableLayers:
    """Set `trainable` layer by layer for a phase. Frozen dropout layers are switched off.

    Args:
        network: The network; all layers outside its backbone belong to the head.
        phase: Says which layers train.
        defaults: What `layer_defaults` returned before the first phase.

    Returns:
        What will train. The network must be compiled again before it trains.
    """
    keras = backend.start()
    model, backbone = network.model, set(network.backbone)
    selected = select(network.architecture, network.backbone, phase.train)
    stages = stage_of(network.architecture, network.backbone)
    last = len(network.architecture.stages) - 1
    names, lr_multipliers = [], {}
    for layer in model.layers:
        in_backbone = layer.name in backbone
        trainable = not in_backbone or layer.name in selected
        if in_backbone and isinstance(layer, keras.layers.BatchNormalization):
            # trainable=False also keeps the statistics. `training=False` on the whole backbone does not in Keras 3.
            trainable = trainable and phase.batch_norm == "update"
            if trainable:
                layer.momentum = phase.batch_norm_momentum or defaults.momentum[layer.name]
        layer.trainable = trainable
        if layer.name in defaults.dropout:
            # A frozen backbone is a constant function of the picture, although `fit` calls it in training mode.
            layer.rate = defaults.dropout[layer.name] if trainable else 0.0
        if layer.trainable_weights:
            names.append(layer.name)
            below = last - stages[layer.name] if in_backbone else 0
            lr_multipliers.update({weight.path: phase.layer_decay**below for weight in layer.trainable_weights})
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return TrainableLayers(tuple(names), parameters, model.count_params(), lr_multipliers)
