"""Finds the plugin that a user wants to check: an installed one, a module, a file, or the project folder of one."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from zoo.errors import UnknownName, UsageError
from zoo.installed import GROUP, EntryPoint, entry_points, normalized
from zoo.plugin import Architecture, Weights, registry
from zoo.plugin.faults import BrokenPlugin
from zoo.plugin.registry import Item, Registry, squeezed


@dataclass(frozen=True)
class Subject:
    """What is checked.

    Args:
        name: The name by which the user asked for it.
        modules: The modules of the plugins.
        items: What the plugins provide, or the one item that the user named and its weights.
        own: The plugins that are checked, alone.
        registry: All installed plugins, and those that are checked.
        folder: The folder on Python's path that holds the module of a plugin that is not installed; None for others.
    """

    name: str
    modules: tuple[str, ...]
    items: tuple[Item, ...]
    own: Registry
    registry: Registry
    folder: Path | None = None

    @property
    def broken(self) -> list[BrokenPlugin]:
        """The plugins that are checked, and cannot be used."""
        return self.own.broken


def find_subject(plugin: str | Path | ModuleType) -> Subject:
    """Find what a user wants to check.

    Args:
        plugin: The name of an entry point, of a distribution or of an item such as an architecture; a module, or its
            name; the path of a module, of a package, or of a project folder whose pyproject.toml names a plugin.

    Raises:
        UnknownName: Nothing has that name.
        UsageError: The path is no Python module and no project with a plugin.
    """
    if isinstance(plugin, ModuleType):
        return _of_module(plugin.__name__, None)
    text = str(plugin)
    if isinstance(plugin, Path) or text.endswith(".py") or any(mark in text for mark in ("/", "\\")) or text == ".":
        return _of_path(Path(text))
    points = entry_points()
    named = [point for point in points if point.name == text]
    named = named or [point for point in points if normalized(point.distribution) == normalized(text)]
    if named:
        return _of_points(text, named, points, None)
    found = registry.load(points)
    names = {item.name for kind in found.items if kind is not Weights for item in found.all(kind)}
    item = _item_called(found, text)
    if item is not None:
        return _of_item(item, points, found)
    if Path(text).is_dir() or Path(text).is_file():
        return _of_path(Path(text))
    if _module_exists(text):
        return _of_module(text, None)
    known = {point.name for point in points} | names
    hint = "Give the name of a plugin, a distribution or a network, or a path such as ./zoo_mine.py."
    raise UnknownName("plugin, network or module", text, known, hint)


def _item_called(found: Registry, text: str) -> Item | None:
    wanted = squeezed(text.partition(".")[0])
    for kind in found.items:
        if kind is not Weights:
            for item in found.all(kind):
                if squeezed(item.name) == wanted:
                    return item
    return None


def _of_item(item: Item, points: list[EntryPoint], found: Registry) -> Subject:
    plugin = found.plugin_of(item)
    mine = [each for each in points if each.name == plugin.name and each.distribution == plugin.distribution]
    whole = _of_points(plugin.name, mine, points, None)
    chosen = [each for each in whole.items if type(each) is type(item) and _name(each) == _name(item)]
    if isinstance(item, Architecture):
        chosen += [each for each in whole.items if isinstance(each, Weights) and each.architecture == item.name]
    return Subject(_name(item), whole.modules, tuple(chosen), whole.own, whole.registry)


def _name(item: Item) -> str:
    return item.id if isinstance(item, Weights) else item.name


def _of_points(name: str, chosen: list[EntryPoint], points: Iterable[EntryPoint], folder: Path | None) -> Subject:
    # Alone, because a name that another plugin brings too would be missing from the registry of all.
    own, found = registry.load(chosen, commands=True), registry.load(points)
    items = [item for kind in own.items for item in own.all(kind)]
    return Subject(name, tuple(dict.fromkeys(point.module for point in chosen)), tuple(items), own, found, folder)


def _of_module(name: str, folder: Path | None) -> Subject:
    points = entry_points()
    named = [point for point in points if point.module == name]
    if not named:
        named = [_uninstalled(name, name)]
        points += named
    return _of_points(name, named, points, folder)


def _uninstalled(name: str, module: str) -> EntryPoint:
    return EntryPoint(name, module, "unknown distribution", "?")


def _module_exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _of_path(path: Path) -> Subject:
    """Find the plugin in a file, a package or a project folder, and put its folder on Python's path."""
    path = path.resolve()
    project = path / "pyproject.toml"
    if project.is_file():
        return _of_project(project)
    module = path.is_file() and path.suffix == ".py" and path.stem.isidentifier()
    if not module and not (path / "__init__.py").is_file():
        raise UsageError(
            f"{str(path)!r} holds no plugin. Give a Python file, a package with __init__.py, or a folder whose "
            f'pyproject.toml has [project.entry-points."{GROUP}"].'
        )
    folder = path.parent
    name = path.stem if module else path.name
    while (folder / "__init__.py").is_file():
        name, folder = f"{folder.name}.{name}", folder.parent
    _put_on_path(folder)
    return _of_module(name, folder)


def _of_project(project: Path) -> Subject:
    try:
        content = tomllib.loads(project.read_text("utf-8"))
        named = content["project"]["entry-points"][GROUP]
        modules = {name: str(value).partition(":")[0].strip() for name, value in named.items()}
    except (KeyError, AttributeError, TypeError):
        raise UsageError(f'{str(project)!r} names no plugin: it has no [project.entry-points."{GROUP}"].') from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{str(project)!r} cannot be read: {error}") from None
    places = [project.parent, project.parent / "src"]
    first = next(iter(modules.values())).split(".")[0]
    folder = next((each for each in places if (each / first).is_dir() or (each / f"{first}.py").is_file()), places[0])
    _put_on_path(folder)
    points = entry_points()
    chosen = []
    for name, module in modules.items():
        installed = [point for point in points if point.module == module]
        chosen += installed or [_uninstalled(name, module)]
        points += [] if installed else [chosen[-1]]
    return _of_points(project.parent.name, chosen, points, folder)


def _put_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
