"""The command `zoo doctor`: checks the installation and shows versions, plugins, folders, providers and problems."""

from __future__ import annotations

import contextlib
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

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
            plugins: The name, distribution, version and state ("loaded" or "broken") of each plugin.
            folders: The paths and sizes of the caches and of the mirror. The entry `network` says whether downloads are
                allowed.
            providers: The execution providers of ONNX Runtime.
            problems: One string per problem; empty if nothing is wrong.
    """
    from zoo import files, runs
    from zoo.plugin import Architecture, Weights, registry

    # With this variable, a broken plugin would stop the command that shows its traceback.
    os.environ.pop("ZOO_STRICT_PLUGINS", None)
    found = registry.load()
    problems = [f"plugin {plugin} is broken: {plugin.error}\n{plugin.trace.rstrip()}" for plugin in found.broken]
    problems += [
        f"more than one plugin brings the name {'.'.join(key) if isinstance(key, tuple) else key}, so zoo uses none of "
        f"them: {' and '.join(map(str, plugins))}"
        for (_, key), plugins in found.conflicts.items()
    ]
    names = {architecture.name for architecture in found.all(Architecture)}
    orphans = sorted(
        {entry.id for entry in found.all(Weights)} - {e.id for e in found.all(Weights) if e.architecture in names}
    )
    problems += [f"the weights {identity} belong to an architecture that no plugin brings" for identity in orphans]
    problems += _package_problems()
    mirror = files.mirror()
    if mirror and not mirror.is_dir():
        problems.append(f"ZOO_WEIGHTS_DIR is {str(mirror)!r}, which is not a folder")
    return {
        "versions": runs.versions(),
        "plugins": [
            {"name": p.name, "distribution": p.distribution, "version": p.version, "state": state}
            for group, state in ((found.plugins, "loaded"), (found.broken, "broken"))
            for p in group
        ],
        "folders": {
            "cache (ZOO_CACHE)": _folder(files.cache()),
            "mirror (ZOO_WEIGHTS_DIR)": _folder(mirror, "does not exist") if mirror else "not set",
            "Keras's cache": _folder(files.keras_cache()),
            "network": "forbidden by ZOO_OFFLINE" if files.offline() else "allowed",
        },
        "providers": _providers(problems),
        "problems": problems,
    }


def _package_problems() -> list[str]:
    """Describe the problems with the installed packages, in one string per problem.

    Both finezoo and finezoo-runtime install zoo_runtime. Uninstalling one of them removes files that the other needs.
    """
    from importlib import metadata

    from zoo import runs

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
    absent = [name for name in runs.PACKAGES if name not in runs.versions()]
    if absent:
        problems.append(
            f"these packages are not installed: {', '.join(absent)}. Type `pip install --force-reinstall finezoo` "
            "(from a clone: `pip install --force-reinstall .`)."
        )
    for module in ("zoo_runtime", "zoo_plugins"):
        if find_spec(module) is None:
            problems.append(missing_text(module))
    return problems


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
    names = [*report["versions"], *(p["name"] for p in report["plugins"])]
    width = max(map(len, names), default=0)
    lines = ["versions"] + [f"  {name:<{width}} {version}" for name, version in report["versions"].items()]
    lines += ["plugins"]
    lines += [f"  {p['name']:<{width}} {p['state']:<8} {p['distribution']} {p['version']}" for p in report["plugins"]]
    lines += ["folders"] + [f"  {label:<26} {value}" for label, value in report["folders"].items()]
    lines += ["onnxruntime providers", "  " + ", ".join(report["providers"])]
    lines += ["problems"] + [f"  {problem}" for problem in report["problems"] or ["none"]]
    return "\n".join(lines)


@click.command(short_help="Check the installation: versions, plugins, cache, folders.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def doctor(as_json: bool) -> int:
    """Check the installation: versions, plugins, cache, mirror and onnxruntime providers.

    The exit code is 1 if there is a problem.
    """
    report = examine()
    click.echo(json.dumps(report, indent=1) if as_json else table(report))
    return 1 if report["problems"] else 0
