"""What the built-in plugins bring, read when tests are collected, so that a new family needs no entry in any test."""

from __future__ import annotations

from zoo.plugin import Architecture, registry

DISTRIBUTION = "finezoo"


def builtin(kind: type) -> dict[str, object]:
    """List the architectures, augmentations or schedules of zoo's own plugins, by name.

    Args:
        kind: `Architecture`, `Augmentation` or `Schedule`.
    """
    plugins = registry.load()
    return {item.name: item for item in plugins.all(kind) if plugins.plugin_of(item).distribution == DISTRIBUTION}


def smallest_of_each_family() -> set[str]:
    """Name the network with the fewest parameters of each plugin and paper, to stand for its family in slow tests."""
    plugins = registry.load()
    smallest = {}
    for item in builtin(Architecture).values():
        family = plugins.plugin_of(plugins.architecture(item.name)).name, item.source
        if item.parameters < smallest.setdefault(family, item).parameters:
            smallest[family] = item
    return {item.name for item in smallest.values()}
