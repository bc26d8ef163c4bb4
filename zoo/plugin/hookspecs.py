"""The hooks that a plugin may implement. Each returns data and takes no argument."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from zoo.plugin.types import Architecture, Augmentation, Schedule, Weights

hookspec = pluggy.HookspecMarker("zoo")


@hookspec
def zoo_architectures() -> Iterable[Architecture]:
    """Networks that can be fine-tuned."""


@hookspec
def zoo_weights() -> Iterable[Weights]:
    """Pretrained weights; an entry may name another plugin's architecture."""


@hookspec
def zoo_augmentations() -> Iterable[Augmentation]:
    """Augmentation policies for training pictures."""


@hookspec
def zoo_schedules() -> Iterable[Schedule]:
    """Schedules: what trains, for how long, at which rate."""
