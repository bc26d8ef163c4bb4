"""Loads the installed plugins, and looks up by name what they provide.

Importing this module loads no plugin; the function `load` does that.

pluggy's own loader of entry points stops at the first exception, so one broken plugin would make every command fail.
Here each plugin is imported, registered and queried separately. A plugin that fails becomes a `BrokenPlugin`, and the
other plugins still work.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import metadata
from typing import TypeVar, cast

import pluggy

from zoo.errors import BrokenPluginError, DuplicateName, InvalidPluginData, UnknownName, reason
from zoo.plugin import hookspecs
from zoo.plugin.loggers import Logger
from zoo.plugin.types import Architecture, Augmentation, Schedule
from zoo.plugin.weights import Weights

Item = Architecture | Weights | Augmentation | Schedule | Logger
ItemT = TypeVar("ItemT", Architecture, Weights, Augmentation, Schedule, Logger)
Name = str | tuple[str, str]
"""The name of an item or, for weights, (architecture, tag). If two plugins provide the same name, zoo uses neither."""

GROUP = "zoo.plugins"
HOOKS: dict[str, type[Item]] = {
    "zoo_architectures": Architecture,
    "zoo_weights": Weights,
    "zoo_augmentations": Augmentation,
    "zoo_schedules": Schedule,
    "zoo_loggers": Logger,
}
KINDS = {
    Architecture: "architecture",
    Weights: "weights",
    Augmentation: "augmentation",
    Schedule: "schedule",
    Logger: "logger",
}


@dataclass(frozen=True)
class Plugin:
    """Identifies a plugin.

    Args:
        name: The name of its entry point.
        distribution: The name of the installed distribution that contains the plugin ("finezoo").
        version: The version of the distribution.
    """

    name: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


@dataclass(frozen=True)
class BrokenPlugin(Plugin):
    """Identifies a plugin that cannot be used, and says why.

    Args:
        error: The reason, in one line.
        trace: The traceback of the exception, as text.
    """

    error: str
    trace: str


@dataclass
class Registry:
    """Holds everything that the loaded plugins provide, and finds it by the names that users type.

    `load` makes and fills a registry. An item is one object that a plugin provides: an `Architecture`, a `Weights`, an
    `Augmentation`, a `Schedule` or a `Logger`. The class of an item is called its kind.

    Args:
        plugins: The plugins that were loaded.
        broken: The plugins that cannot be used.
        items: Maps each kind to a dictionary from the keys of items to the items. The key of an item is its name. For
            `Weights`, it is (architecture, tag, includes_top, input_size).
        providers: Maps the `id()` of each item to the plugin that provides it.
        conflicts: Maps (kind, name) to the plugins, two or more, that provide this name. Such a name cannot be used.
    """

    plugins: list[Plugin] = field(default_factory=list)
    broken: list[BrokenPlugin] = field(default_factory=list)
    items: dict[type, dict[object, Item]] = field(default_factory=lambda: {kind: {} for kind in HOOKS.values()})
    providers: dict[int, Plugin] = field(default_factory=dict)
    conflicts: dict[tuple[type, Name], list[Plugin]] = field(default_factory=dict)

    def plugin_of(self, item: Item) -> Plugin:
        """Return the plugin that provides an item.

        Raises:
            KeyError: No plugin provides it, for example because it is a schedule from a user's file.
        """
        return self.providers[id(item)]

    def all(self, kind: type[ItemT]) -> list[ItemT]:
        """Return every item of a kind, such as `Architecture`, except the items whose names are in conflict.

        The items are in the order in which `add` received them.
        """
        return cast("list[ItemT]", list(self.items[kind].values()))

    def architecture(self, name: str) -> Architecture:
        """Look up an architecture by its name.

        Args:
            name: The name of the architecture; letter case, hyphens and underscores are ignored.

        Raises:
            UnknownName: No plugin provides it.
            DuplicateName: More than one plugin provides it.
        """
        return self._get(Architecture, self.canonical_name(name), "`zoo list architectures` shows them.")

    def canonical_name(self, name: str) -> str:
        """Return the exact name of an architecture, whatever letter case, hyphens and underscores the user typed.

        "ResNet50" becomes "resnet50". A name that matches no architecture, or more than one, is returned unchanged.
        """
        known = [item.name for item in self.all(Architecture)]
        known += [key for kind, key in self.conflicts if kind is Architecture and isinstance(key, str)]
        alike = [other for other in known if squeezed(other) == squeezed(name)]
        return alike[0] if name not in known and len(alike) == 1 else name

    def augmentation(self, name: str) -> Augmentation:
        """Look up an augmentation policy by its name.

        Raises:
            UnknownName: No plugin provides it.
            DuplicateName: More than one plugin provides it.
        """
        return self._get(Augmentation, name, "`zoo list augmentations` shows them.")

    def schedule(self, name: str) -> Schedule:
        """Look up a schedule by its name.

        Raises:
            UnknownName: No plugin provides it.
            DuplicateName: More than one plugin provides it.
        """
        return self._get(Schedule, name, "`zoo list schedules` shows them.")

    def logger(self, name: str) -> Logger:
        """Look up a logger by its name.

        Raises:
            UnknownName: No plugin provides it.
            DuplicateName: More than one plugin provides it.
        """
        return self._get(Logger, name, "`zoo list loggers` shows them.")

    def weights_of(self, architecture: str, tag: str | None = None, top: bool | None = None) -> list[Weights]:
        """Return the published weights of an architecture, one entry per file.

        Args:
            architecture: The exact name of the architecture.
            tag: Only weights with this tag are returned; None means every tag.
            top: True returns only files with the top, False only files that can be loaded without it. None returns
                both.

        Returns:
            The entries. Those of the plugin that provides the architecture come first.
        """
        own = self.items[Architecture].get(architecture)
        found = [
            entry
            for entry in self.all(Weights)
            if entry.architecture == architecture and (tag is None or entry.tag == tag) and entry.serves(top)
        ]
        return sorted(found, key=lambda entry: own is None or self.plugin_of(entry) != self.plugin_of(own))

    def resolve(self, name: str) -> tuple[Architecture, str | None]:
        """Split a name that a user typed into architecture and tag.

        Args:
            name: The name, such as "mobilenetv2" or "mobilenetv2.imagenet1k".

        Returns:
            The architecture, and the tag or None.

        Raises:
            UnknownName: The architecture does not exist, or has no weights with that tag.
            DuplicateName: More than one plugin provides the architecture or the weights.
        """
        head, _, tag = name.partition(".")
        architecture = self.architecture(head)
        if not tag:
            return architecture, None
        self.check_tag(architecture.name, tag)
        return architecture, tag

    def check_tag(self, architecture: str, tag: str | None) -> None:
        """Check that an architecture has usable weights with a tag.

        Args:
            architecture: The exact name of the architecture.
            tag: The tag. None means that any usable tag is enough. An architecture for which no plugin lists weights
                passes too.

        Raises:
            UnknownName: The architecture has no weights with that tag.
            DuplicateName: More than one plugin provides the weights with that tag, so zoo cannot use them. If `tag` is
                None, this is true of every tag of the architecture.
        """
        tags = {entry.tag for entry in self.weights_of(architecture)}
        for (kind, key), plugins in self.conflicts.items():
            if kind is Weights and key[0] == architecture and (key[1] == tag or not (tag or tags)):
                raise _duplicate(f"weights {_text(key)}", plugins)
        if tag and tag not in tags:
            raise UnknownName(f"weights tag for {architecture}", tag, tags, f"`zoo info {architecture}` shows them.")

    def _get(self, kind: type[ItemT], name: str, hint: str) -> ItemT:
        if (kind, name) in self.conflicts:
            raise _duplicate(f"{KINDS[kind]} {name!r}", self.conflicts[kind, name])
        if name not in self.items[kind]:
            raise UnknownName(KINDS[kind], name, map(str, self.items[kind]), hint)
        return cast(ItemT, self.items[kind][name])

    def add(self, plugin: Plugin, items: Iterable[Item]) -> None:
        """Add the items of a plugin.

        If another plugin already provides an item of the same kind and name, the name is added to `conflicts`. Neither
        plugin's items of that name can then be used.
        """
        for item in items:
            kind, name = type(item), _name(item)
            self.providers[id(item)] = plugin
            if (kind, name) in self.conflicts:
                others = self.conflicts[kind, name]
                self.conflicts[kind, name] = others if plugin in others else [*others, plugin]
                continue
            held = {key: other for key, other in self.items[kind].items() if _name(other) == name}
            owners = {self.providers[id(other)] for other in held.values()} - {plugin}
            if owners:
                for key in held:
                    del self.items[kind][key]
                self.conflicts[kind, name] = [*owners, plugin]
            else:
                self.items[kind][_key(item)] = item


def _name(item: Item) -> Name:
    """Return the name of an item: for weights, (architecture, tag); for other items, the field `name`."""
    return (item.architecture, item.tag) if isinstance(item, Weights) else item.name


def _key(item: Item) -> object:
    """Return the key under which `Registry.items` holds an item. It is unique among the items of a kind."""
    return (*_name(item), item.includes_top, item.input_size) if isinstance(item, Weights) else item.name


def squeezed(name: str) -> str:
    """Return a name in lower case, without hyphens and underscores, so that names can be compared."""
    return re.sub("[-_]", "", name.lower())


def _duplicate(what: str, plugins: list[Plugin]) -> DuplicateName:
    return DuplicateName(
        f"{what} is brought by {len(plugins)} plugins: {' and '.join(map(str, plugins))}. "
        "zoo uses none of them. Uninstall all but one of these packages."
    )


def load(
    entry_points: Iterable[metadata.EntryPoint] | None = None, warn: Callable[[str], None] | None = None
) -> Registry:
    """Load plugins into a new registry.

    The environment variable ZOO_STRICT_PLUGINS counts as set if its value is neither empty nor 0.

    Args:
        entry_points: The entry points of the plugins. None means all installed ones of the group `zoo.plugins`.
        warn: A function that receives a line of text for each plugin that cannot be used, and for each name that
            several plugins provide. It also receives a line for each distribution whose entry points cannot be read.
            None suppresses these warnings.

    Returns:
        The registry.

    Raises:
        BrokenPluginError: A plugin cannot be used, and ZOO_STRICT_PLUGINS is set.
        DuplicateName: Several plugins provide the same name, and ZOO_STRICT_PLUGINS is set.
    """
    strict = os.environ.get("ZOO_STRICT_PLUGINS", "") not in ("", "0")
    registry = Registry()
    manager = pluggy.PluginManager("zoo")
    manager.add_hookspecs(hookspecs)
    found = _entry_points(warn) if entry_points is None else entry_points
    for point in sorted(found, key=lambda point: point.name):
        plugin = Plugin(point.name, *_distribution(point))
        try:
            # What a plugin prints must not get into the output of `--json`.
            with contextlib.redirect_stdout(sys.stderr):
                items = _collect(manager, point)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            why = reason(error)
            if strict:
                raise BrokenPluginError(f"plugin {plugin} cannot be used: {why}") from error
            broken = BrokenPlugin(plugin.name, plugin.distribution, plugin.version, why, traceback.format_exc())
            registry.broken.append(broken)
            if warn:
                warn(f"plugin {plugin} cannot be used: {broken.error} (`zoo doctor` shows the traceback)")
            continue
        registry.plugins.append(plugin)
        registry.add(plugin, items)
    for (kind, key), plugins in registry.conflicts.items():
        duplicate = _duplicate(f"{KINDS[kind]} {_text(key)!r}", plugins)
        if strict:
            raise duplicate
        if warn:
            warn(str(duplicate))
    return registry


def _distribution(point: metadata.EntryPoint) -> tuple[str, str]:
    return _name_and_version(point.dist) if point.dist else ("unknown distribution", "?")


@functools.lru_cache
def _name_and_version(distribution: metadata.Distribution) -> tuple[str, str]:
    """Return the name and the version of a distribution.

    The result is cached, because each access to `name` or `version` parses the distribution's whole METADATA file,
    including its README.
    """
    known = distribution.metadata
    return known["Name"], known["Version"]


def _text(name: Name) -> str:
    return ".".join(name) if isinstance(name, tuple) else str(name)


def _entry_points(warn: Callable[[str], None] | None) -> list[metadata.EntryPoint]:
    """Return the installed entry points of the group `zoo.plugins`.

    If the entry points of a distribution cannot be read, they are left out, and `warn` receives a line of text.
    """
    try:
        return list(metadata.entry_points(group=GROUP))
    except Exception:
        # importlib.metadata reads all distributions at once and stops at the first bad one.
        points: dict[tuple[str, str], metadata.EntryPoint] = {}
        for distribution in metadata.distributions():
            try:
                for point in distribution.entry_points.select(group=GROUP):
                    points.setdefault((distribution.name, point.name), point)
            except Exception as error:
                if warn:
                    warn(f"the entry points of {distribution.name} cannot be read: {reason(error)}")
        return list(points.values())


def _collect(manager: pluggy.PluginManager, point: metadata.EntryPoint) -> list[Item]:
    """Import one plugin, call its hooks, and return the items that the hooks return. The items are checked first.

    Raises:
        InvalidPluginData: The plugin has no hook or an unknown one, or a hook returned something that is not allowed.
        Exception: The import of the plugin or one of its hooks failed, or pluggy refused the plugin.
    """
    module = point.load()
    # pluggy checks the signatures, and refuses a module that two entry points name.
    manager.register(module, name=f"{point.name} of {_distribution(point)[0]}")
    unknown = [caller.name for caller in manager.get_hookcallers(module) or [] if caller.name not in HOOKS]
    if unknown:
        raise InvalidPluginData(f"there is no hook {unknown[0]!r}. The hooks are {', '.join(HOOKS)}.")
    if not manager.get_hookcallers(module):
        raise InvalidPluginData(f"it implements none of the hooks {', '.join(HOOKS)}.")
    items: list[Item] = []
    for hook, kind in HOOKS.items():
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            if implementation.plugin is module:
                items += _checked(hook, kind, implementation.function())
    return items


def _checked(hook: str, kind: type[Item], returned: object) -> list[Item]:
    """Return the items that a hook returned, as a list.

    Raises:
        InvalidPluginData: The hook did not return items of the right kind, or returned two items with the same key.
    """
    if isinstance(returned, (str, bytes)) or not isinstance(returned, Iterable):
        raise InvalidPluginData(f"{hook} must return {kind.__name__} objects. Received: {returned!r}.")
    items = list(returned)
    for item in items:
        # isinstance would accept a subclass, which could skip the checks.
        if type(item) is not kind:
            raise InvalidPluginData(f"{hook} must return {kind.__name__} objects. Received: {item!r}.")
    keys = [_key(item) for item in items]
    twice = [item for item in items if keys.count(_key(item)) > 1]
    if twice:
        raise InvalidPluginData(f"{hook} lists {_text(_name(twice[0]))!r} twice.")
    return items
