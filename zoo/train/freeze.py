"""Selects the layers that a phase trains, and sets `trainable` on every layer.

No other module of zoo sets `trainable`, except `zoo.testing`, which does so in its checks. `zoo.train.fitting` compiles
the network afterwards.
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
    """The layers that a phase trains, the number of their parameters, and the learning-rate factors of their variables.

    Args:
        layers: Names of the layers with trainable weights, input first.
        parameters: The number of trainable parameters in these layers.
        total: The number of all parameters of the network.
        lr_multipliers: Maps the path of each trainable variable to the factor on its learning rate.
    """

    layers: tuple[str, ...]
    parameters: int
    total: int
    lr_multipliers: dict[str, float]


def select(architecture: Architecture, layers: Sequence[str], train: str) -> set[str]:
    """Return the names of the backbone's layers that a phase trains.

    Args:
        architecture: Defines the stages.
        layers: The names of all layers of the backbone, input first.
        train: "head" (no layer of the backbone), "last:N" (the last N stages), "from:LAYER" (this layer and all layers
            after it) or "all".

    Raises:
        UsageError: `train` asks for more stages than the architecture has.
        UnknownName: `train` names a layer that is not in `layers`.
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
    """Check that an architecture has at least N stages if a phase trains "last:N", the last N stages.

    Args:
        architecture: Defines the stages.
        train: Which layers the phase trains; see `select`. Values other than "last:N" are not checked.

    Raises:
        UsageError: The architecture has fewer than N stages.
    """
    kind, _, argument = train.partition(":")
    if kind == "last" and int(argument) > len(architecture.stages):
        raise UsageError(f"{architecture.name} has {len(architecture.stages)} stages. Received: {train!r}.")


@dataclass(frozen=True)
class LayerDefaults:
    """The dropout rates and BatchNorm momenta of a network before training. Phases change these values.

    Args:
        dropout: Maps the name of each dropout layer to its rate.
        momentum: Maps the name of each BatchNorm layer to the momentum of its statistics.
    """

    dropout: dict[str, float]
    momentum: dict[str, float]


def layer_defaults(model: keras.Model) -> LayerDefaults:
    """Read the dropout rates and BatchNorm momenta of a model. Call this before the first phase, which changes them."""
    layers = backend.start().layers
    return LayerDefaults(
        {layer.name: layer.rate for layer in model.layers if isinstance(layer, layers.Dropout)},
        {layer.name: layer.momentum for layer in model.layers if isinstance(layer, layers.BatchNormalization)},
    )


def restore_dropout(model: keras.Model, defaults: LayerDefaults) -> None:
    """Set the dropout layers of a model back to their original rates."""
    for name, rate in defaults.dropout.items():
        model.get_layer(name).rate = rate


def set_trainable(network: Network, phase: Phase, defaults: LayerDefaults) -> TrainableLayers:
    """Set which layers of a network train in a phase. The network must be compiled again before it trains.

    This also sets the rate of each dropout layer: 0 if the layer is frozen, otherwise the original rate. Each BatchNorm
    layer of the backbone that trains gets the phase's `batch_norm_momentum`, or its original momentum if
    `batch_norm_momentum` is None.

    Args:
        network: The network. All layers outside its backbone belong to the head, and always train.
        phase: Defines which layers of the backbone train.
        defaults: The result of `layer_defaults`, called before the first phase.

    Returns:
        The layers, parameters and learning-rate factors of the phase.

    Raises:
        UsageError: The phase asks for more stages than the network has.
        UnknownName: The phase names a layer that the backbone does not have.
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
            # `trainable = False` also freezes the statistics. In Keras 3, calling the whole backbone with
            # `training=False` does not.
            trainable = trainable and phase.batch_norm == "update"
            if trainable:
                layer.momentum = phase.batch_norm_momentum or defaults.momentum[layer.name]
        layer.trainable = trainable
        if layer.name in defaults.dropout:
            # Without dropout, a frozen backbone always gives the same output for a picture, although `fit` calls it in
            # training mode.
            layer.rate = defaults.dropout[layer.name] if trainable else 0.0
        if layer.trainable_weights:
            names.append(layer.name)
            below = last - stages[layer.name] if in_backbone else 0
            lr_multipliers.update({weight.path: phase.layer_decay**below for weight in layer.trainable_weights})
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return TrainableLayers(tuple(names), parameters, model.count_params(), lr_multipliers)
