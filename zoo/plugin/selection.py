"""Decides which of the installed plugins are loaded: ZOO_PLUGINS and `zoo --no-plugins`."""

from __future__ import annotations

import os
from collections.abc import Callable

from zoo import installed
from zoo.errors import UnknownName
from zoo.installed import EntryPoint, normalized

VARIABLE = "ZOO_PLUGINS"


def selected(warn: Callable[[str], None] | None = None, *, builtin_only: bool = False) -> list[EntryPoint]:
    """Return the entry points of the plugins that are to be loaded, the built-in ones first.

    The environment variable ZOO_PLUGINS names the plugins to load besides the built-in ones: entry points or
    distributions, separated by commas. If it is set and empty, only the built-in ones are loaded.

    Args:
        warn: Receives a line for each distribution whose entry points cannot be read.
        builtin_only: True leaves all other plugins out, whatever ZOO_PLUGINS says.

    Raises:
        UnknownName: ZOO_PLUGINS names a plugin that is not installed.
    """
    points, wanted = installed.entry_points(warn), os.environ.get(VARIABLE)
    if builtin_only:
        return [point for point in points if point.builtin]
    if wanted is None:
        return points
    names = [name for name in map(str.strip, wanted.split(",")) if name]
    for name in names:
        if not any(_means(name, point) for point in points):
            others = [point.name for point in points if not point.builtin]
            raise UnknownName("installed plugin", name, others or [point.name for point in points], _HINT)
    return [point for point in points if point.builtin or any(_means(name, point) for name in names)]


_HINT = (
    f"{VARIABLE} names the plugins to load, separated by commas; the built-in ones are always loaded. "
    "`zoo --no-plugins list plugins` works without it."
)


def _means(name: str, point: EntryPoint) -> bool:
    return name == point.name or normalized(name) == normalized(point.distribution)
