"""The command `zoo doctor`: checks the installation and shows versions, plugins, folders, known holes and problems."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli import known_holes
from zoo.errors import UnknownName

if TYPE_CHECKING:
    from zoo.installed import EntryPoint
    from zoo.plugin.faults import Plugin
    from zoo.plugin.registry import Registry

SHOWN_SECONDS = 0.2

REINSTALL = (
    "`pip install --force-reinstall --no-deps finezoo` (from a clone: `pip install --force-reinstall --no-deps .`)"
)


def missing_text(package: str) -> str:
    """Return the message that a package of zoo is missing, with the command that installs it again.

    Args:
        package: "zoo_runtime" or "zoo_plugins".
    """
    return (
        f"zoo is installed, but its package {package} is missing. finezoo and finezoo-runtime both install "
        "zoo_runtime, and removing one of them removes the files of the other. "
        f"Reinstall with {REINSTALL}."
    )


def examine() -> dict[str, Any]:
    """Check this installation.

    Returns:
        A dictionary that JSON can hold, with these keys:
            versions: Maps "python" and the names of packages to their versions.
            backend: The backend of Keras, its version, and which of the backends are installed.
            plugins: The name, distribution, version and state of each plugin: "loaded", "broken", or "left out" by
                ZOO_PLUGINS or --no-plugins. Also the seconds that it took to load; None if it was left out.
            folders: The paths and sizes of the caches and of the mirror. The entry `network` says whether downloads are
                allowed.
            providers: The execution providers of ONNX Runtime.
            holes: `known_on`, the month of zoo's table of known holes, and `found`, those of the installed packages.
            remarks: One string per thing that works and could be better.
            problems: One string per problem; empty if nothing is wrong.
    """
    from zoo import files, runs

    plugins, remarks, problems = _plugins()
    backends = _backend(remarks, problems)
    holes = known_holes.found()
    problems += [known_holes.text(*each) for each in holes]
    problems += _package_problems()
    mirror = files.mirror()
    if mirror and not mirror.is_dir():
        problems.append(f"ZOO_WEIGHTS_DIR is {str(mirror)!r}, which is not a folder")
    return {
        "versions": runs.versions(),
        "backend": backends,
        "plugins": plugins,
        "folders": {
            "cache (ZOO_CACHE)": _folder(files.cache()),
            "mirror (ZOO_WEIGHTS_DIR)": _folder(mirror, "does not exist") if mirror else "not set",
            "Keras's cache": _folder(files.keras_cache()),
            "network": "forbidden by ZOO_OFFLINE" if files.offline() else "allowed",
        },
        "providers": _providers(problems),
        "holes": {
            "known_on": known_holes.KNOWN_ON,
            "found": [{"version": version, **asdict(hole)} for _, version, found in holes for hole in found],
        },
        "remarks": remarks,
        "problems": problems,
    }


def _plugins() -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Load all plugins with their commands.

    Returns:
        The plugins, as `examine` returns them, the remarks and the problems.
    """
    from zoo import installed
    from zoo.cli import COMMANDS, plugin_commands
    from zoo.cli.console import without_plugins
    from zoo.plugin import registry

    # With this variable, a broken plugin would stop the command that shows its traceback.
    os.environ.pop("ZOO_STRICT_PLUGINS", None)
    problems: list[str] = []
    unread: list[str] = []
    points = installed.entry_points(unread.append)
    try:
        found = registry.load(builtin_only=without_plugins(), commands=True)
    except UnknownName as error:
        problems.append(f"{error}")
        found = registry.load(builtin_only=True, commands=True)
    problems += unread
    problems += [
        f"plugin {plugin} cannot be used: {plugin.error}. {plugin.advice}\n{plugin.trace.rstrip()}"
        for plugin in found.broken
    ]
    problems += [
        f"more than one plugin brings the name {'.'.join(key) if isinstance(key, tuple) else key}, so zoo uses none of "
        f"them: {' and '.join(map(str, plugins))}. Uninstall all but one of them, or leave them out with ZOO_PLUGINS"
        for (_, key), plugins in found.conflicts.items()
    ]
    problems += plugin_commands.sorted_out(found.commands, COMMANDS)[1]
    problems += _orphans(found)
    listed = [
        {**_named(plugin), "state": state, "seconds": round(found.seconds[plugin], 3)}
        for group, state in ((found.plugins, "loaded"), (found.broken, "broken"))
        for plugin in group
    ]
    known = {(each["name"], each["distribution"]) for each in listed}
    listed += [
        {**_named(point), "state": "left out", "seconds": None}
        for point in points
        if (point.name, point.distribution) not in known
    ]
    return listed, found.remarks, problems


def _named(plugin: Plugin | EntryPoint) -> dict[str, Any]:
    return {"name": plugin.name, "distribution": plugin.distribution, "version": plugin.version}


def _orphans(found: Registry) -> list[str]:
    """Describe weights of architectures that do not exist, in one string each."""
    from zoo.plugin import Architecture, Weights

    names = {architecture.name for architecture in found.all(Architecture)}
    orphans = sorted({entry.id for entry in found.all(Weights) if entry.architecture not in names})
    return [f"the weights {identity} belong to an architecture that no plugin brings" for identity in orphans]


def _package_problems() -> list[str]:
    """Describe the problems with the installed packages, in one string per problem.

    Both finezoo and finezoo-runtime install zoo_runtime. Uninstalling one of them removes files that the other needs.
    """
    from importlib import metadata

    from zoo import backend, runs

    have = set()
    for name in ("finezoo", "finezoo-runtime"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            metadata.version(name)
            have.add(name)
    problems = []
    if len(have) == 2:
        problems.append(
            "finezoo and finezoo-runtime are both installed. Both contain the package zoo_runtime, and removing one of "
            "them removes the files of the other. Keep one: `pip uninstall finezoo-runtime`, then "
            f"{REINSTALL}."
        )
    # `_backend` tells about these.
    absent = [name for name in runs.PACKAGES if name not in (*runs.versions(), *backend.CONVERTERS)]
    if absent:
        problems.append(
            f"these packages are not installed: {', '.join(absent)}. Type `pip install --force-reinstall finezoo` "
            "(from a clone: `pip install --force-reinstall .`)."
        )
    for module in ("zoo_runtime", "zoo_plugins"):
        if find_spec(module) is None:
            problems.append(missing_text(module))
    return problems


def _backend(remarks: list[str], problems: list[str]) -> dict[str, Any]:
    """Return the requested backend of Keras, its version, and the installed ones. Nothing of them is imported."""
    from importlib import metadata

    from zoo import backend
    from zoo.errors import InstallationError

    try:
        backend.check()
    except InstallationError as error:
        problems.append(f"{error}")
    lacking = backend.missing_converters()
    if lacking:
        remarks.append(
            f"{' and '.join(lacking)} cannot be found. Networks are trained all the same, and exported on a computer "
            f"that has TensorFlow, or here after `pip install {' '.join(lacking)}`"
        )
    installed = {}
    for name in backend.BACKENDS:
        if find_spec(name) is not None:
            installed[name] = "of unknown version"
            with contextlib.suppress(metadata.PackageNotFoundError):
                installed[name] = metadata.version(name)
    wanted = backend.wanted()
    return {"name": wanted, "version": installed.get(wanted), "installed": installed}


def _folder(path: Path, absent: str = "does not exist yet") -> str:
    """Describe a folder in one line: its path, how many files it has, and their size.

    Args:
        path: The path of the folder.
        absent: The text that follows the path if the path does not exist.
    """
    if not path.is_dir():
        return f"{path} ({'is not a folder' if os.path.lexists(path) else absent})"
    files = [p for p in path.rglob("*") if p.is_file()]
    return f"{path} ({len(files)} files, {sum(p.stat().st_size for p in files) / 1e6:.0f} MB)"


def _providers(problems: list[str]) -> list[str]:
    from zoo import backend

    try:
        return backend.onnxruntime().get_available_providers()
    except ImportError as error:
        problems.append(f"onnxruntime cannot be imported: {error}")
        return []


def table(report: dict[str, Any]) -> str:
    """Format the result of `examine` as text for the terminal.

    Args:
        report: The dictionary that `examine` returned.
    """
    versions = report["versions"]
    width = max(map(len, versions))
    lines = ["versions"] + [f"  {name:<{width}}  {version}" for name, version in versions.items()]
    chosen = report["backend"]
    others = [f"{name} {version}" for name, version in chosen["installed"].items() if name != chosen["name"]]
    lines += ["Keras backend", f"  {chosen['name']} {chosen['version'] or 'is not installed'}"]
    lines[-1] += f" (also installed: {', '.join(others)}; KERAS_BACKEND chooses)" if others else ""
    lines += ["plugins", *_aligned([_cells(plugin) for plugin in report["plugins"]])]
    lines += ["folders", *_aligned(list(report["folders"].items()))]
    lines += ["onnxruntime providers", "  " + ", ".join(report["providers"])]
    lines += ["remarks", *(f"  {remark}" for remark in report["remarks"])] if report["remarks"] else []
    lines += ["problems"] + [f"  {problem}" for problem in report["problems"] or ["none"]]
    return "\n".join(lines)


def _cells(plugin: dict[str, Any]) -> tuple[str, ...]:
    # Most plugins take a millisecond.
    slow = f"{plugin['seconds']:.1f} s to load" if (plugin["seconds"] or 0) >= SHOWN_SECONDS else ""
    return plugin["name"], plugin["state"], f"{plugin['distribution']} {plugin['version']}", slow


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines whose columns begin at the same place, however long the names are."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


@click.command(short_help="Check the installation: versions, plugins, cache, folders.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def doctor(as_json: bool) -> int:
    """Check the installation: versions and their known holes, plugins, cache, mirror and onnxruntime providers.

    A plugin that cannot be used is explained, with its traceback and with what to do.

    The exit code is 1 if there is a problem.
    """
    report = examine()
    click.echo(json.dumps(report, indent=1) if as_json else table(report))
    return 1 if report["problems"] else 0
