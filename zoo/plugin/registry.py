"""Finds, loads, isolates and indexes plugins. Nothing happens at import; `load()` does the work.

pluggy's own entry-point loader stops at the first exception, and one bad plugin would then end every command. Here
each plugin is imported, registered and asked on its own; what fails becomes a `BrokenPlugin` and the rest goes on.
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

import pluggy

from zoo.errors import BrokenPluginError, DuplicateName, InvalidPluginData, UnknownName, reason
from zoo.plugin import hookspecs
from zoo.plugin.types import Architecture, Augmentation, Schedule, Weights

GROUP = "zoo.plugins"
HOOKS = {
    "zoo_architectures": Architecture,
    "zoo_weights": Weights,
    "zoo_augmentations": Augmentation,
    "zoo_schedules": Schedule,
}
KINDS = {Architecture: "architecture", Weights: "weights", Augmentation: "augmentation", Schedule: "schedule"}
Item = Architecture | Weights | Augmentation | Schedule


@dataclass(frozen=True)
class Plugin:
    """A plugin that was loaded: its entry-point name, and the distribution that brings it."""

    name: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


@dataclass(frozen=True)
class BrokenPlugin(Plugin):
    """A plugin that cannot be used, and why."""

    error: str
    trace: str


@dataclass
class Registry:
    """All that the loaded plugins bring, by name.

    `resolve` is how a user's word becomes data; the dictionaries are for listing.
    """

    plugins: list[Plugin] = field(default_factory=list)
    broken: list[BrokenPlugin] = field(default_factory=list)
    items: dict[type, dict[object, Item]] = field(default_factory=lambda: {kind: {} for kind in HOOKS.values()})
    providers: dict[int, Plugin] = field(default_factory=dict)
    conflicts: dict[tuple[type, object], list[Plugin]] = field(default_factory=dict)

    def plugin_of(self, item: Item) -> Plugin:
        """The plugin that brought an item."""
        return self.providers[id(item)]

    def all(self, kind: type) -> list[Item]:
        """Every usable item of a kind, in the order in which plugins listed them."""
        return list(self.items[kind].values())

    def architecture(self, name: str) -> Architecture:
        """Look an architecture up.

        Raises:
            UnknownName: No plugin brings it.
            DuplicateName: Two plugins do.
        """
        return self._get(Architecture, self.canonical_name(name), "`zoo list architectures` shows them.")

    def canonical_name(self, name: str) -> str:
        """An architecture's listed name, of one with other capitals, hyphens or underscores ("ResNet50")."""
        known = [*self.items[Architecture], *(key for kind, key in self.conflicts if kind is Architecture)]
        alike = [other for other in known if squeezed(other) == squeezed(name)]
        return alike[0] if name not in known and len(alike) == 1 else name

    def augmentation(self, name: str) -> Augmentation:
        """Look an augmentation policy up; raises as `architecture`."""
        return self._get(Augmentation, name, "`zoo list augmentations` shows them.")

    def schedule(self, name: str) -> Schedule:
        """Look a schedule up; raises as `architecture`."""
        return self._get(Schedule, name, "`zoo list schedules` shows them.")

    def weights_of(self, architecture: str, tag: str | None = None, top: bool | None = None) -> list[Weights]:
        """Every entry of published weights of an architecture; those of the plugin that brings it come first."""
        own = self.items[Architecture].get(architecture)
        found = [
            entry
            for entry in self.items[Weights].values()
            if entry.architecture == architecture
            and (tag is None or entry.tag == tag)
            and (top is None or entry.includes_top is top)
        ]
        return sorted(found, key=lambda entry: own is None or self.plugin_of(entry) != self.plugin_of(own))

    def resolve(self, name: str) -> tuple[Architecture, str | None]:
        """Split what a user typed, `mobilenetv2` or `mobilenetv2.imagenet1k`, into architecture and tag.

        Raises:
            UnknownName: The architecture, or the tag for that architecture, does not exist.
            DuplicateName: Two plugins bring the architecture, or the weights.
        """
        head, _, tag = name.partition(".")
        architecture = self.architecture(head)
        if not tag:
            return architecture, None
        self.check_tag(architecture.name, tag)
        return architecture, tag

    def check_tag(self, architecture: str, tag: str | None) -> None:
        """Raise UnknownName unless the architecture has weights of that tag, DuplicateName if two plugins bring them.

        Without a tag only the second is checked, where no other weights are left.
        """
        tags = {entry.tag for entry in self.weights_of(architecture)}
        for (kind, key), plugins in self.conflicts.items():
            if kind is Weights and key[0] == architecture and (key[1] == tag or not (tag or tags)):
                raise _duplicate(f"weights {'.'.join(key)}", plugins)
        if tag and tag not in tags:
            raise UnknownName(f"weights tag for {architecture}", tag, tags, f"`zoo info {architecture}` shows them.")

    def _get(self, kind: type, name: str, hint: str):
        if (kind, name) in self.conflicts:
            raise _duplicate(f"{KINDS[kind]} {name!r}", self.conflicts[kind, name])
        if name not in self.items[kind]:
            raise UnknownName(KINDS[kind], name, map(str, self.items[kind]), hint)
        return self.items[kind][name]

    def add(self, plugin: Plugin, items: Iterable[Item]) -> None:
        """Index what a plugin brings. A name that is already taken is withdrawn from both and kept as a conflict."""
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


def _name(item: Item) -> object:
    """What one plugin alone may bring: a name, or the (architecture, tag) of weights, of which there are many files."""
    return (item.architecture, item.tag) if isinstance(item, Weights) else item.name


def _key(item: Item) -> object:
    return (*_name(item), item.includes_top, item.input_size) if isinstance(item, Weights) else item.name


def squeezed(name: str) -> str:
    """A name without what does not matter in it: capitals, hyphens, underscores."""
    return re.sub("[-_]", "", name.lower())


def _duplicate(what: str, plugins: list[Plugin]) -> DuplicateName:
    return DuplicateName(
        f"{what} is brought by {len(plugins)} plugins: {' and '.join(map(str, plugins))}. "
        "None of them is used; uninstall all but one of these distributions."
    )


def load(
    entry_points: Iterable[metadata.EntryPoint] | None = None, warn: Callable[[str], None] | None = None
) -> Registry:
    """Load every plugin.

    Args:
        entry_points: Where to look; None means the installed entry points of the group `zoo.plugins`.
        warn: Called with one line for each plugin that cannot be used and each name given twice.

    Returns:
        The registry.

    Raises:
        BrokenPluginError: ZOO_STRICT_PLUGINS=1 and a plugin cannot be used.
        DuplicateName: ZOO_STRICT_PLUGINS=1 and a name is given twice.
    """
    strict = os.environ.get("ZOO_STRICT_PLUGINS", "") not in ("", "0")
    registry = Registry()
    manager = pluggy.PluginManager("zoo")
    manager.add_hookspecs(hookspecs)
    found = _entry_points(warn) if entry_points is None else entry_points
    for point in sorted(found, key=lambda point: point.name):
        plugin = Plugin(point.name, *_distribution(point))
        try:
            # What a plugin prints must not stand between the lines of `--json`.
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
                warn(f"plugin {plugin} is left out: {broken.error} (`zoo doctor` shows more)")
            continue
        registry.plugins.append(plugin)
        registry.add(plugin, items)
    for (kind, key), plugins in registry.conflicts.items():
        error = _duplicate(f"{KINDS[kind]} {_text(key)!r}", plugins)
        if strict:
            raise error
        if warn:
            warn(str(error))
    return registry


def _distribution(point: metadata.EntryPoint) -> tuple[str, str]:
    return _name_and_version(point.dist) if point.dist else ("unknown distribution", "?")


@functools.lru_cache
def _name_and_version(distribution: metadata.Distribution) -> tuple[str, str]:
    """Read once: each look at `name` or `version` parses the whole of METADATA, the README in it too."""
    known = distribution.metadata
    return known["Name"], known["Version"]


def _text(name: object) -> str:
    return ".".join(name) if isinstance(name, tuple) else str(name)


def _entry_points(warn: Callable[[str], None] | None) -> list[metadata.EntryPoint]:
    """The installed entry points of the group; a distribution whose list cannot be read is named and left out."""
    try:
        return list(metadata.entry_points(group=GROUP))
    except Exception:
        # importlib.metadata reads all distributions at once and stops at the first bad one.
        points = {}
        for distribution in metadata.distributions():
            try:
                for point in distribution.entry_points.select(group=GROUP):
                    points.setdefault((distribution.name, point.name), point)
            except Exception as error:
                if warn:
                    warn(f"the entry points of {distribution.name} cannot be read: {reason(error)}")
        return list(points.values())


def _collect(manager: pluggy.PluginManager, point: metadata.EntryPoint) -> list[Item]:
    """Import one plugin and call each of its hooks; everything it returns is checked."""
    module = point.load()
    # pluggy checks the signatures, and refuses a module that two entry points name.
    manager.register(module, name=f"{point.name} of {_distribution(point)[0]}")
    unknown = [caller.name for caller in manager.get_hookcallers(module) or [] if caller.name not in HOOKS]
    if unknown:
        raise InvalidPluginData(f"there is no hook {unknown[0]!r}. Hooks: {', '.join(HOOKS)}.")
    if not manager.get_hookcallers(module):
        raise InvalidPluginData(f"it implements none of the hooks {', '.join(HOOKS)}.")
    items: list[Item] = []
    for hook, kind in HOOKS.items():
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            if implementation.plugin is module:
                items += _checked(hook, kind, implementation.function())
    return items


def _checked(hook: str, kind: type, returned: object) -> list[Item]:
    if isinstance(returned, (str, bytes)) or not isinstance(returned, Iterable):
        raise InvalidPluginData(f"{hook} must return {kind.__name__} objects. Received: {returned!r}.")
    items = list(returned)
    for item in items:
        # Not isinstance: a class of the plugin's own could skip the checks.
        if type(item) is not kind:
            raise InvalidPluginData(f"{hook} must return {kind.__name__} objects. Received: {item!r}.")
    keys = [_key(item) for item in items]
    twice = [item for item in items if keys.count(_key(item)) > 1]
    if twice:
        raise InvalidPluginData(f"{hook} lists {_text(_name(twice[0]))!r} twice.")
    return items
