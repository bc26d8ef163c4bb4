"""A network, or the first stages of one with a head of their own, as phases with a depth train them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from zoo import backend
from zoo.plugin import Architecture, Head
from zoo.train import phases
from zoo.train.model import attach_head

if TYPE_CHECKING:
    import keras


class Stretch:
    """A network, or the first stages of one, with its head.

    Args:
        model: The whole of it; its last layers are logits and probabilities.
        backbone: Names of the backbone's layers in it, input first.
        architecture: With the stages that it has.
        prefix: Of the names of the head's layers.

    Attributes:
        trainer: From the input to the logits, which is what is trained.
    """

    def __init__(self, model: keras.Model, backbone: tuple[str, ...], architecture: Architecture, prefix: str = ""):
        self.model, self.backbone, self.architecture = model, backbone, architecture
        self.trainer = _model(model.input, model.get_layer(f"{prefix}logits").output)


def cut(whole: Stretch, depth: int, head: Head, classes: int, task: str) -> Stretch:
    """The first stages of a network, sharing its layers, with a new head.

    Args:
        whole: The network.
        depth: How many stages are left.
        head: The network's head; one that flattens is replaced by "roi", because maps near the stem are large.
        classes: Number of classes.
        task: See `zoo.train.model.attach_head`.

    Raises:
        InvalidPluginData: No feature map leads from the last of them to the next stage.
    """
    architecture = dataclasses.replace(whole.architecture, stages=whole.architecture.stages[:depth])
    output = phases.output_of_stage(whole.model, whole.backbone, whole.architecture, depth - 1)
    stem = _model(whole.model.input, output)
    if head.pool == "flatten":
        head = dataclasses.replace(head, pool="roi")
    prefix = f"depth{depth}_"
    model = attach_head(stem, head, classes, architecture.name, task=task, prefix=prefix)
    return Stretch(model, tuple(layer.name for layer in stem.layers), architecture, prefix)


def _model(pixels: keras.KerasTensor, output: keras.KerasTensor) -> keras.Model:
    """A model from one tensor to another."""
    return backend.start().Model(pixels, output)
