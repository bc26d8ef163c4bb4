"""The hooks that a plugin may implement. Each takes no argument and returns data classes of `zoo.plugin`.

The functions here only declare the hooks: pluggy reads their names and signatures, and never calls them.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from zoo.plugin.types import Architecture, Augmentation, Schedule
from zoo.plugin.weights import Weights

hookspec = pluggy.HookspecMarker("zoo")


@hookspec
def zoo_architectures() -> Iterable[Architecture]:
    """Return networks that can be fine-tuned."""
    return ()


@hookspec
def zoo_weights() -> Iterable[Weights]:
    """Return pretrained weights; an entry may name another plugin's architecture."""
    return ()


@hookspec
def zoo_augmentations() -> Iterable[Augmentation]:
    """Return augmentation policies for training pictures."""
    return ()


@hookspec
def zoo_schedules() -> Iterable[Schedule]:
    """Return schedules: which layers train, for how long, and at which learning rate."""
    return ()
