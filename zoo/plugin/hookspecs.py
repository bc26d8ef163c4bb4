"""Declares the hooks that a plugin may implement.

A hook takes no arguments. It returns instances of one data class of `zoo.plugin`, such as `zoo.plugin.Architecture`.
pluggy reads the names and signatures of these functions, and never calls them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

from zoo.plugin.formats import Format
from zoo.plugin.loggers import Logger
from zoo.plugin.types import Architecture, Augmentation, Schedule
from zoo.plugin.weights import Weights

if TYPE_CHECKING:
    import click

hookspec = pluggy.HookspecMarker("zoo")


@hookspec
def zoo_architectures() -> Iterable[Architecture]:
    """Return the architectures that this plugin provides."""
    return ()


@hookspec
def zoo_weights() -> Iterable[Weights]:
    """Return descriptions of published weights, one `Weights` per file.

    The architecture can be one that another plugin provides.
    """
    return ()


@hookspec
def zoo_augmentations() -> Iterable[Augmentation]:
    """Return the augmentation policies that this plugin provides."""
    return ()


@hookspec
def zoo_schedules() -> Iterable[Schedule]:
    """Return the schedules that this plugin provides."""
    return ()


@hookspec
def zoo_loggers() -> Iterable[Logger]:
    """Return the loggers that this plugin provides."""
    return ()


@hookspec
def zoo_formats() -> Iterable[Format]:
    """Return the formats of exported files that this plugin provides."""
    return ()


@hookspec
def zoo_commands() -> Iterable[click.Command]:
    """Return the commands that this plugin adds to `zoo`.

    It is called for `zoo --help`, and for a command that is not one of zoo's own.
    """
    return ()
