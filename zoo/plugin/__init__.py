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

from zoo.plugin.augmentation import ParameterRange, check_parameters, picture_generators, random_horizontal_flip
from zoo.plugin.keras_applications import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    IMAGENET_MEAN_BGR,
    KerasApplication,
    copy_weights,
    keras_architecture,
    normalize,
    rebuild,
)
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
    "IMAGENET_DEVIATION",
    "IMAGENET_MEAN",
    "IMAGENET_MEAN_BGR",
    "Architecture",
    "Augmentation",
    "ClassIndex",
    "Head",
    "KerasApplication",
    "ParameterRange",
    "Phase",
    "Schedule",
    "Stage",
    "Weights",
    "check_parameters",
    "copy_weights",
    "hookimpl",
    "imagenet_weights",
    "keras_architecture",
    "normalize",
    "picture_generators",
    "random_horizontal_flip",
    "rebuild",
]
