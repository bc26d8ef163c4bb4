"""Writes a plugin that its author can install, test and train at once, and then edit.

The files are made from the templates beside this module. Importing this module is quick.
"""

from __future__ import annotations

import datetime
import importlib.util
import keyword
import re
import shutil
from importlib import metadata
from pathlib import Path

from zoo.errors import UsageError, WriteError
from zoo.installed import entry_points
from zoo.plugin import Architecture, Augmentation, Format, Logger, Schedule, registry
from zoo.plugin.checks import NAME
from zoo.plugin.registry import KINDS, squeezed

TEMPLATES = Path(__file__).with_name("templates")
LICENCES = ("MIT", "Apache-2.0", "BSD-3-Clause", "ISC")
"""The licences that a scaffold may have, as SPDX identifiers."""
# What `zoo list` takes as the name of a kind.
LISTS = ("architectures", "weights", "augmentations", "schedules", "loggers", "formats", "plugins")
LONGEST = 40


def write_plugin(name: str, folder: Path, *, licence: str = "MIT", author: str | None = None) -> Path:
    """Write the package zoo-NAME with a network, a place for weights, an augmentation, a test and a licence.

    Args:
        name: The name of the plugin and of its network.
        folder: Where the folder of the package is created. It is made if it does not exist.
        licence: One of `LICENCES`.
        author: Who holds the copyright; None means the authors of the package.

    Returns:
        The folder of the package.

    Raises:
        UsageError: The name is not legal or not free, the licence is unknown, or the folder of the package exists.
        WriteError: The files cannot be written.
    """
    check_name(name)
    if licence not in LICENCES:
        raise UsageError(f"the licence must be one of {', '.join(LICENCES)}. Received: {licence!r}.")
    place = folder / f"zoo-{name}"
    if place.is_symlink() or place.exists():
        raise UsageError(
            f"{str(place)!r} exists, and `zoo new-plugin` overwrites nothing. Choose another name, or name another "
            "place with --dir."
        )
    module = module_of(name)
    values = {
        "name": name,
        "distribution": f"zoo-{name}",
        "module": module,
        "licence": licence,
        "author": " ".join((author or f"the authors of zoo-{name}").split()),
        "year": datetime.date.today().year,
        "function": name.replace("-", "_"),
    }
    texts = {
        "pyproject.toml": _rendered("pyproject.toml.jinja", values),
        f"{module}.py": _rendered("module.py.jinja", values),
        f"test_{module}.py": _rendered("test_module.py.jinja", values),
        "README.md": _rendered("README.md.jinja", values),
        "LICENSE": _rendered(f"licences/{licence}.txt", values),
        ".gitignore": _rendered("gitignore.jinja", values),
    }
    made = False
    try:
        place.mkdir(parents=True)
        made = True
        for file, text in texts.items():
            (place / file).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        if made:
            # Half a package would keep the next attempt from working.
            shutil.rmtree(place, ignore_errors=True)
        raise WriteError(
            f"{str(place)!r} cannot be written: {error.strerror or error}. Name another place with --dir."
        ) from error
    return place


def module_of(name: str) -> str:
    """Return the name of the module of a plugin."""
    return "zoo_" + name.replace("-", "_")


def check_name(name: str) -> None:
    """Check that a name can be that of a new plugin, of its module, of its distribution and of its network.

    Raises:
        UsageError: The name is not legal, or something that is installed has it.
    """
    module, distribution = module_of(name), f"zoo-{name}"
    legal = NAME.fullmatch(name) is not None and re.fullmatch(r".*[a-z0-9]", name) is not None
    if not legal or len(name) > LONGEST or "--" in name or "__" in name:
        raise UsageError(
            f"{name[:80]!r} cannot be the name of a plugin. A name has at most {LONGEST} lower-case letters, digits "
            f"and single hyphens or underscores, and begins and ends with a letter or a digit.{_nearest(name)}"
        )
    if keyword.iskeyword(module) or not module.isidentifier():
        raise UsageError(f"{module!r} cannot be the name of a Python module. Choose another name.")
    taken = _taken(name, module, distribution)
    if taken:
        raise UsageError(f"the name {name!r} is not free: {taken}. Choose another name.")


def _nearest(name: str) -> str:
    """Suggest a legal name, if one is near."""
    near = re.sub(r"[-_]*[^a-z0-9]+[-_]*", "-", name.lower()).strip("-_")[:LONGEST].rstrip("-_")
    if not NAME.fullmatch(near) or near == name or _taken(near, module_of(near), f"zoo-{near}"):
        return ""
    return f" Try {near!r}."


def _taken(name: str, module: str, distribution: str) -> str:
    """Say what has the name already; return an empty text if it is free."""
    if name in LISTS:
        return f"`zoo list {name}` means something else"
    installed = registry.load()
    for plugin in (*installed.plugins, *installed.broken):
        if squeezed(plugin.name) == squeezed(name):
            return f"the plugin {plugin} has it"
    names = {squeezed(name), squeezed(f"{name}-light")}
    items: list[Architecture | Augmentation | Schedule | Logger | Format] = [
        *installed.all(Architecture),
        *installed.all(Augmentation),
        *installed.all(Schedule),
        *installed.all(Logger),
        *installed.all(Format),
    ]
    for item in items:
        if squeezed(item.name) in names:
            return f"the {KINDS[type(item)]} {item.name!r} of {installed.plugin_of(item)} has it"
    for (kind, key), plugins in installed.conflicts.items():
        if isinstance(key, str) and squeezed(key) in names:
            return f"the {KINDS[kind]} {key!r} of {' and '.join(map(str, plugins))} has it"
    try:
        return f"the distribution {distribution} {metadata.version(distribution)} is installed"
    except metadata.PackageNotFoundError:
        pass
    if importlib.util.find_spec(module) is not None:
        return f"there is a module {module}"
    if any(point.module == module for point in entry_points()):
        return f"an installed plugin names the module {module}"
    return ""


def _rendered(template: str, values: dict[str, object]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template(template).render(values)
