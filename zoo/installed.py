"""Finds the plugins that are installed, by their entry points, without importing them.

`importlib.metadata` does the same for everything. Importing it takes as long as the rest of `zoo list`, so that it is
only used where packages are not in ordinary folders. Importing this module is quick.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.errors import reason

if TYPE_CHECKING:
    from importlib import metadata

GROUP = "zoo.plugins"
OWN = "finezoo"
"""The distribution whose plugins are built in."""


@dataclass(frozen=True, order=True)
class EntryPoint:
    """Says where a plugin is.

    Args:
        name: The name of the entry point, which is the name of the plugin.
        value: "module" or "module:object".
        distribution: The name of the installed distribution that contains the plugin ("finezoo").
        version: The version of the distribution.
    """

    name: str
    value: str
    distribution: str
    version: str

    @property
    def builtin(self) -> bool:
        """Whether the plugin belongs to zoo itself."""
        return normalized(self.distribution) == OWN

    @property
    def module(self) -> str:
        """The name of the module."""
        return self.value.partition("[")[0].partition(":")[0].strip()

    def load(self) -> object:
        """Import the module, and return it or its object.

        Raises:
            Exception: Whatever the module raises.
        """
        found: object = importlib.import_module(self.module)
        for part in filter(None, self.value.partition("[")[0].partition(":")[2].strip().split(".")):
            found = getattr(found, part)
        return found


def normalized(name: str) -> str:
    """Return the name of a distribution as it is compared: in lower case, with hyphens."""
    return re.sub(r"[-_.]+", "-", name).lower()


def entry_points(warn: Callable[[str], None] | None = None) -> list[EntryPoint]:
    """Return the entry points of all installed plugins: the built-in ones first, then the others, by their names.

    Args:
        warn: Receives a line of text for each distribution whose entry points cannot be read. They are left out.
    """
    found = []
    for name, read in _distributions():
        try:
            found += read()
        except Exception as error:
            if warn:
                warn(f"the entry points of {name} cannot be read: {reason(error)}. Install {name} again.")
    return sorted(found, key=lambda point: (not point.builtin, point))


def strangers() -> bool:
    """Return whether plugins are installed that are not zoo's own. Entry points that cannot be read do not count."""
    return any(not point.builtin for point in entry_points())


def _distributions() -> Iterator[tuple[str, Callable[[], list[EntryPoint]]]]:
    """Return, for each installed distribution, its name and a function that reads its entry points.

    If two distributions have the same name, Python uses the one whose folder comes first on `sys.path`.
    """
    if _only_folders():
        yield from _in_folders()
        return
    from importlib import metadata

    seen = set()
    for distribution in metadata.distributions():
        name = _name_of(distribution)
        if normalized(name) not in seen:
            seen.add(normalized(name))
            yield name, functools.partial(_select, distribution)


def _name_of(distribution: metadata.Distribution) -> str:
    try:
        # Python takes it from the name of a folder or file, without reading the metadata.
        return str(getattr(distribution, "_normalized_name", None) or distribution.name)
    except Exception:
        # Damaged metadata have no name.
        return "a distribution without a name"


def _select(distribution: metadata.Distribution) -> list[EntryPoint]:
    """Return the entry points of plugins in a distribution that `importlib.metadata` has found."""
    return [
        EntryPoint(point.name, point.value, str(distribution.name), str(distribution.version))
        for point in distribution.entry_points.select(group=GROUP)
    ]


def _only_folders() -> bool:
    """Return whether all packages are in folders, none in archives or in places that only another finder knows."""
    finders = [finder for finder in sys.meta_path if hasattr(finder, "find_distributions")]
    ordinary = all(getattr(finder, "__name__", "") == "PathFinder" for finder in finders)
    return ordinary and not any(
        path.endswith((".zip", ".egg", ".whl", ".pyz")) and os.path.exists(path) for path in sys.path if path
    )


def _in_folders() -> Iterator[tuple[str, Callable[[], list[EntryPoint]]]]:
    seen: set[str] = set()
    for folder in dict.fromkeys(sys.path):
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for entry in names:
            if entry.endswith((".dist-info", ".egg-info")):
                name, _, version = entry.rpartition(".")[0].partition("-")
                if normalized(name) not in seen:
                    seen.add(normalized(name))
                    place = os.path.join(folder or ".", entry)
                    yield normalized(name), functools.partial(_read, place, (name, version))


def _read(place: str, known: tuple[str, str]) -> list[EntryPoint]:
    """Read the entry points of a plugin from the metadata of its distribution.

    Args:
        place: The path of the folder with the metadata.
        known: The name and the version that the name of the folder says.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is damaged.
    """
    try:
        with open(os.path.join(place, "entry_points.txt"), encoding="utf-8") as stream:
            text = stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return []
    if GROUP not in text:
        return []
    pairs = list(_pairs(text))
    name, version = _name_and_version(place, known) if pairs else known
    return [EntryPoint(each, value, name, version) for each, value in pairs]


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Return the names and values of the entry points of plugins in the text of entry_points.txt.

    Raises:
        ValueError: A line is not `name = value`.
    """
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip()
        elif line and not line.startswith(("#", ";")) and section == GROUP:
            name, equals, value = line.partition("=")
            if not (equals and name.strip() and value.strip()):
                raise ValueError(f"{line!r} is not NAME = MODULE")
            yield name.strip(), value.strip()


def _name_and_version(place: str, known: tuple[str, str]) -> tuple[str, str]:
    """Return the name and the version of a distribution. Only the head of the file is read: a README follows."""
    facts: dict[str, str] = {}
    for file in ("METADATA", "PKG-INFO"):
        try:
            with open(os.path.join(place, file), encoding="utf-8", errors="replace") as stream:
                for line in stream:
                    title, _, value = line.partition(":")
                    if not line.strip() or len(facts) == 2:
                        break
                    if title in ("Name", "Version"):
                        facts[title] = value.strip()
            break
        except (FileNotFoundError, NotADirectoryError):
            continue
    return facts.get("Name") or known[0], facts.get("Version") or known[1] or "?"
