"""The public plugin API: everything that a plugin needs, and the only module of zoo that a plugin imports.

A plugin is a module named by an entry point of the group `zoo.plugins`. It implements hooks, which
`zoo.plugin.hookspecs` lists, and returns the data classes of `zoo.plugin.types`:

    from zoo.plugin import Augmentation, hookimpl

    @hookimpl
    def zoo_augmentations():
        return [Augmentation(name="mirror", summary="flips every picture", build=build_mirror)]

All classes are frozen and checked when made. Importing this module imports neither Keras nor numpy; `build` functions
import what they need in their bodies.
"""

from zoo.plugin.keras_applications import KerasApplication, copy_weights, normalize, rebuild
from zoo.plugin.types import (
    IMAGENET1K,
    Architecture,
    Augmentation,
    ClassIndex,
    Head,
    Phase,
    Schedule,
    Stage,
    Weights,
    hookimpl,
    imagenet_weights,
)

__all__ = [
    "IMAGENET1K",
    "Architecture",
    "Augmentation",
    "ClassIndex",
    "Head",
    "KerasApplication",
    "Phase",
    "Schedule",
    "Stage",
    "Weights",
    "copy_weights",
    "hookimpl",
    "imagenet_weights",
    "normalize",
    "rebuild",
]
