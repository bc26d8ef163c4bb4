"""Loads the installed plugins, and looks up by name what they provide.

Importing this module loads no plugin; the function `load` does that.

pluggy's own loader of entry points stops at the first exception, so one broken plugin would make every command fail.
Here each plugin is imported, registered and queried separately. A plugin that fails becomes a `BrokenPlugin`, and the
other plugins still work. `zoo.plugin.guard` keeps it from spoiling the process, and `zoo.plugin.faults` words what is
wrong with it. `zoo.plugin.selection` says which plugins are loaded.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar, cast

import pluggy

from zoo.errors import BrokenPluginError, DuplicateName, InvalidPluginData, UnknownName
from zoo.installed import EntryPoint
from zoo.plugin import api, hookspecs
from zoo.plugin.faults import BrokenPlugin, Plugin, explain, patched_text, plain, remarks_on, shown, slowness
from zoo.plugin.formats import Format
from zoo.plugin.guard import Guard, Watched, forget, interrupted, trusted
from zoo.plugin.loggers import Logger
from zoo.plugin.selection import selected
from zoo.plugin.types import Architecture, Augmentation, Schedule
from zoo.plugin.weights import Weights

Item = Architecture | Weights | Augmentation | Schedule | Logger | Format
ItemT = TypeVar("ItemT", Architecture, Weights, Augmentation, Schedule, Logger, Format)
Name = str | tuple[str, str]
"""The name of an item or, for weights, (architecture, tag). If two plugins provide the same name, zoo uses neither."""

HOOKS: dict[str, type[Item]] = {
    "zoo_architectures": Architecture,
    "zoo_weights": Weights,
    "zoo_augmentations": Augmentation,
    "zoo_schedules": Schedule,
    "zoo_loggers": Logger,
    "zoo_formats": Format,
}
COMMANDS = "zoo_commands"
"""The hook for commands. It is only called where commands are looked up, because most commands do not need it."""
MOST_ITEMS = 10_000
"""The most items that a hook may return; a generator that never ends returns more."""
KINDS = {
    Architecture: "architecture",
    Weights: "weights",
    Augmentation: "augmentation",
    Schedule: "schedule",
    Logger: "logger",
    Format: "format",
}


@dataclass
class Registry:
    """Holds everything that the loaded plugins provide, and finds it by the names that users type.

    `load` makes and fills a registry. An item is one object that a plugin provides: an `Architecture`, a `Weights`, an
    `Augmentation`, a `Schedule`, a `Logger` or a `Format`. The class of an item is called its kind.

    Args:
        plugins: The plugins that were loaded.
        broken: The plugins that cannot be used.
        items: Maps each kind to a dictionary from the keys of items to the items. The key of an item is its name. For
            `Weights`, it is (architecture, tag, includes_top, input_size).
        providers: Maps the `id()` of each item to the plugin that provides it.
        conflicts: Maps (kind, name) to the plugins, two or more, that provide this name. Such a name cannot be used.
        seconds: Maps each plugin to the seconds that it took to load.
        remarks: Sentences about plugins that work, but do at import what they should leave.
        commands: What the hook `zoo_commands` of each plugin returned, if that was asked for; see `load`.
    """

    plugins: list[Plugin] = field(default_factory=list)
    broken: list[BrokenPlugin] = field(default_factory=list)
    items: dict[type, dict[object, Item]] = field(default_factory=lambda: {kind: {} for kind in HOOKS.values()})
    providers: dict[int, Plugin] = field(default_factory=dict)
    conflicts: dict[tuple[type, Name], list[Plugin]] = field(default_factory=dict)
    seconds: dict[Plugin, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    commands: list[tuple[Plugin, object]] = field(default_factory=list)
    # The keys of the items that have a name: an item is looked up by its name for each one that is added.
    _keys: dict[tuple[type, Name], list[object]] = field(default_factory=dict, repr=False)

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

    def format(self, name: str) -> Format:
        """Look up a format of exported files by its name.

        Raises:
            UnknownName: No plugin provides it.
            DuplicateName: More than one plugin provides it.
        """
        return self._get(Format, name, "`zoo list formats` shows them.")

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
            keys = self._keys.setdefault((kind, name), [])
            owners = {self.providers[id(self.items[kind][key])] for key in keys} - {plugin}
            if owners:
                for key in keys:
                    del self.items[kind][key]
                self.conflicts[kind, name] = [*owners, plugin]
            else:
                self.items[kind][_key(item)] = item
                keys.append(_key(item))


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
        "zoo uses none of them. Uninstall all but one of these packages, or leave them out with ZOO_PLUGINS."
    )


def load(
    entry_points: Iterable[EntryPoint] | None = None,
    warn: Callable[[str], None] | None = None,
    *,
    builtin_only: bool = False,
    commands: bool = False,
) -> Registry:
    """Load plugins into a new registry, the built-in ones first.

    The environment variable ZOO_STRICT_PLUGINS counts as set if its value is neither empty nor 0.

    Args:
        entry_points: The entry points of the plugins. None means all installed ones that ZOO_PLUGINS does not leave
            out; see `zoo.plugin.selection`.
        warn: A function that receives a line of text for each plugin that cannot be used or is slow, and for each name
            that several plugins provide. It also receives a line for each distribution whose entry points cannot be
            read. None suppresses these warnings.
        builtin_only: True leaves out all plugins that are not zoo's own.
        commands: Whether the hook `zoo_commands` is called too.

    Returns:
        The registry.

    Raises:
        UnknownName: ZOO_PLUGINS names a plugin that is not installed.
        BrokenPluginError: A plugin cannot be used, and ZOO_STRICT_PLUGINS is set.
        DuplicateName: Several plugins provide the same name, and ZOO_STRICT_PLUGINS is set.
    """
    strict = os.environ.get("ZOO_STRICT_PLUGINS", "") not in ("", "0")
    registry = Registry()
    manager = pluggy.PluginManager("zoo")
    manager.add_hookspecs(hookspecs)
    found = selected(warn, builtin_only=builtin_only) if entry_points is None else entry_points
    # Names that a stranger brings again, and modules that he names again, are then his fault.
    ordered = sorted(found, key=lambda point: (not point.builtin, point))
    guard = None if all(point.builtin for point in ordered) else Guard(warn)
    for point in ordered:
        _load_one(registry, manager, point, None if point.builtin else guard, warn, strict=strict, commands=commands)
    for (kind, key), plugins in registry.conflicts.items():
        duplicate = _duplicate(f"{KINDS[kind]} {_text(key)!r}", plugins)
        if strict:
            raise duplicate
        if warn:
            warn(str(duplicate))
    return registry


def _load_one(
    registry: Registry,
    manager: pluggy.PluginManager,
    point: EntryPoint,
    guard: Guard | None,
    warn: Callable[[str], None] | None,
    *,
    strict: bool,
    commands: bool,
) -> None:
    """Load one plugin into a registry; see `load`.

    Args:
        registry: Receives what the plugin provides.
        manager: Holds the modules of the plugins.
        point: The entry point of the plugin.
        guard: Watches the plugin. None for those of zoo.
        warn: As in `load`.
        strict: Whether a plugin that cannot be used is an error.
        commands: As in `load`.
    """
    plugin, watched = Plugin(point.name, point.distribution, point.version), Watched()
    try:
        with guard.watch(str(plugin)) if guard else trusted() as watched:
            module = point.load()
            version = api.check_api(point, module)
            items, made = _collect(manager, point, module, commands=commands)
        if watched.patched:
            raise InvalidPluginData(patched_text(watched.patched))
        registry.add(plugin, items)
    except BaseException as raised:
        if interrupted(raised):
            raise
        # What was replaced may be why something else failed.
        error = InvalidPluginData(patched_text(watched.patched)) if watched.patched else raised
        broken = explain(plugin, point, error.with_traceback(raised.__traceback__))
        forget(point, watched)
        if strict:
            raise BrokenPluginError(f"plugin {plugin} cannot be used: {broken.error}") from error
        registry.broken.append(broken)
        registry.seconds[broken] = watched.seconds
        if warn:
            text = f"plugin {plugin} cannot be used: {broken.error}. `zoo doctor` explains it and says what to do."
            warn(plain(text, 2 * len(text)))
        return
    registry.plugins.append(plugin)
    registry.seconds[plugin] = watched.seconds
    registry.commands += [(plugin, command) for command in made]
    if guard:
        registry.remarks += remarks_on(plugin, watched)
        if warn and slowness(plugin, watched):
            warn(f"{slowness(plugin, watched)}.")
    if version < api.API_VERSION:
        registry.remarks.append(f"plugin {plugin}: {api.outdated_text(point, version)}")


def _text(name: Name) -> str:
    return ".".join(name) if isinstance(name, tuple) else str(name)


def _collect(
    manager: pluggy.PluginManager, point: EntryPoint, module: object, *, commands: bool
) -> tuple[list[Item], list[object]]:
    """Call the hooks of one plugin, and return the items and the commands that they return. The items are checked.

    Raises:
        InvalidPluginData: The plugin has no hook or an unknown one, or a hook returned something that is not allowed.
        Exception: One of its hooks failed, or pluggy refused the plugin.
    """
    # pluggy checks the signatures, and refuses a module that two entry points name.
    manager.register(module, name=f"{point.name} of {point.distribution}")
    known = (*HOOKS, COMMANDS)
    unknown = [caller.name for caller in manager.get_hookcallers(module) or [] if caller.name not in known]
    if unknown:
        raise InvalidPluginData(
            f"there is no hook {unknown[0]!r}.{_meant(unknown[0], known)} The hooks are {', '.join(known)}. If a newer "
            "zoo has it: `pip install --upgrade finezoo`"
        )
    if not manager.get_hookcallers(module):
        raise InvalidPluginData(f"it implements none of the hooks {', '.join(known)}")
    items: list[Item] = []
    for hook, kind in HOOKS.items():
        for returned in _returned(manager, module, hook):
            items += _checked(hook, kind, returned)
    made: list[object] = []
    for returned in _returned(manager, module, COMMANDS) if commands else ():
        made += _listed(COMMANDS, "click.Command", returned)
    return items, made


def _meant(name: str, known: Iterable[str]) -> str:
    """Suggest the hook that a misspelled one resembles."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _returned(manager: pluggy.PluginManager, module: object, hook: str) -> Iterator[object]:
    """Call one hook of one plugin."""
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        if implementation.plugin is module:
            yield implementation.function()


def _listed(hook: str, kind: str, returned: object) -> list[object]:
    """Return what a hook returned, as a list.

    Raises:
        InvalidPluginData: It is nothing that can be listed, or has no end.
    """
    if isinstance(returned, (str, bytes)) or not isinstance(returned, Iterable):
        raise InvalidPluginData(f"{hook} must return {kind} objects. Received: {shown(returned)}")
    items = list(itertools.islice(returned, MOST_ITEMS + 1))
    if len(items) > MOST_ITEMS:
        raise InvalidPluginData(f"{hook} returns more than {MOST_ITEMS:,} objects, or never ends")
    return items


def _checked(hook: str, kind: type[Item], returned: object) -> list[Item]:
    """Return the items that a hook returned, as a list.

    Raises:
        InvalidPluginData: The hook did not return items of the right kind, or returned two items with the same key.
    """
    items = cast("list[Item]", _listed(hook, kind.__name__, returned))
    keys: set[object] = set()
    for item in items:
        # isinstance would accept a subclass, which could skip the checks.
        if type(item) is not kind:
            raise InvalidPluginData(f"{hook} must return {kind.__name__} objects. Received: {shown(item)}")
        name = _name(item)
        # A class that only looks like str could answer differently each time.
        if not all(type(part) is str for part in (name if isinstance(name, tuple) else (name,))):
            raise InvalidPluginData(f"{hook}: a name must be plain text. Received: {shown(name)}")
        if _key(item) in keys:
            raise InvalidPluginData(f"{hook} lists {_text(name)!r} twice")
        keys.add(_key(item))
    return items
