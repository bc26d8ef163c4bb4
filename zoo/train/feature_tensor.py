"""Chooses the pooled features of a trained network by which outliers are recognized."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from zoo import backend
from zoo.errors import InvalidPluginData
from zoo.plugin import Architecture
from zoo.train.network import output_of_stage, stage_of

if TYPE_CHECKING:
    import keras


def feature_tensor(
    model: keras.Model, architecture: Architecture, moved: Collection[str]
) -> tuple[keras.KerasTensor, bool]:
    """Return pooled features of a network, and whether they are independent of the training.

    The features are the mean over the map that the highest frozen stage passes on, because features of layers that
    were trained are closer together for training pictures than for other ones. If no stage is frozen, or all of them
    are, the features are what the last layer reads.

    Args:
        model: The trained network, with a layer `logits`.
        architecture: Defines the stages.
        moved: The names of the layers that training changed.

    Returns:
        A tensor (batch, n), and True if no layer below it was trained.
    """
    keras = backend.start()
    last = model.get_layer("logits").input
    names = [layer.name for layer in model.layers]
    changed = set(moved)
    if changed <= {"logits"}:
        return last, True
    try:
        stages = stage_of(architecture, names)
        lowest = min((number for name, number in stages.items() if name in changed), default=len(architecture.stages))
        if lowest == 0:
            return last, False
        with backend.names_after(operation.name for operation in model.operations):
            return keras.ops.mean(output_of_stage(model, names, architecture, lowest - 1), axis=(1, 2)), True
    except InvalidPluginData:
        return last, False
