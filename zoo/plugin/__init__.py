"""The public API for plugins. A plugin needs no other module of zoo.

A plugin is a module that an entry point of the group `zoo.plugins` names. It implements one or more of the hooks in
`zoo.plugin.hookspecs`, which return instances of this module's data classes:

    from zoo.plugin import Augmentation, hookimpl

    @hookimpl
    def zoo_augmentations():
        return [Augmentation(name="mirror", summary="mirrors every picture", build=build_mirror)]

The instances that hooks return are immutable. The fields of such an instance are checked when it is created.

Importing this module imports neither Keras nor numpy, so that `zoo list` is quick. For the same reason, a plugin
imports Keras inside its functions, not at the top of its module.
"""

from zoo.plugin.api import API_VERSION
from zoo.plugin.augmentation import ParameterRange, check_parameters, picture_generators, random_horizontal_flip
from zoo.plugin.formats import Format, FormatSource
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
from zoo.plugin.loggers import EpochFigures, LoggedRun, Logger, RunLog
from zoo.plugin.readers import read_tensors
from zoo.plugin.tensors import copy_tensors
from zoo.plugin.types import Architecture, Augmentation, Head, Phase, Schedule, Stage, hookimpl
from zoo.plugin.weights import IMAGENET1K, ClassIndex, Weights, imagenet_weights, timm_weights

__all__ = [
    "API_VERSION",
    "IMAGENET1K",
    "IMAGENET_DEVIATION",
    "IMAGENET_MEAN",
    "IMAGENET_MEAN_BGR",
    "Architecture",
    "Augmentation",
    "ClassIndex",
    "EpochFigures",
    "Format",
    "FormatSource",
    "Head",
    "KerasApplication",
    "LoggedRun",
    "Logger",
    "ParameterRange",
    "Phase",
    "RunLog",
    "Schedule",
    "Stage",
    "Weights",
    "check_parameters",
    "copy_tensors",
    "copy_weights",
    "hookimpl",
    "imagenet_weights",
    "keras_architecture",
    "normalize",
    "picture_generators",
    "random_horizontal_flip",
    "read_tensors",
    "rebuild",
    "timm_weights",
]
