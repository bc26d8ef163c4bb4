"""Runs whose plugins are no longer installed: which ones are missing, and what can be done without them.

A run's model.keras holds the network itself, so that its export needs no architecture from a plugin. What needs one is
refused here with the name, the distribution and the version that the run recorded, and the command that installs it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from zoo import installed, runs
from zoo.errors import DuplicateName, PluginMissing, RunError, UnknownName
from zoo.installed import normalized
from zoo.plugin import Architecture, Head, Stage
from zoo.plugin.registry import Registry
from zoo.reporter import Reporter

if TYPE_CHECKING:
    import keras

# How run.json and exported files name a plugin.
RECORDED = re.compile(r"(?P<name>\S+) \((?P<distribution>\S+) (?P<version>\S+)\)")

STAND_IN = "the architecture of a run whose plugin is missing"


@dataclass(frozen=True)
class MissingPlugin:
    """A plugin that took part in a run, and is not there now.

    Args:
        name: The name of its entry point.
        distribution: The name of the distribution that had it.
        version: The version of the distribution.
        why: "is not installed", or why zoo does not use it.
    """

    name: str
    distribution: str
    version: str
    why: str

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version}) {self.why}"

    @property
    def command(self) -> str:
        """The command that brings it back."""
        if self.why != "is not installed":
            return "`zoo doctor` says more"
        return f"`pip install {self.distribution}=={self.version}` installs it"


def missing(recorded: Sequence[str], registry: Registry | None = None) -> list[MissingPlugin]:
    """Return the plugins that a run recorded and that are not there now.

    Args:
        recorded: The entry `plugins` of run.json, such as ["vgg (finezoo 1.0)"].
        registry: The loaded plugins. None only looks at what is installed; no plugin is imported then.
    """
    there = {(point.name, normalized(point.distribution)) for point in installed.entry_points()}
    loaded = {(each.name, normalized(each.distribution)) for each in registry.plugins} if registry else there
    broken = {(each.name, normalized(each.distribution)) for each in registry.broken} if registry else set()
    found = []
    for text in recorded:
        match = RECORDED.fullmatch(str(text))
        key = (match["name"], normalized(match["distribution"])) if match else None
        if match is None or key in loaded:
            continue
        why = "cannot be used" if key in broken else "is left out" if key in there else "is not installed"
        found.append(MissingPlugin(match["name"], match["distribution"], match["version"], why))
    return found


def text_of(found: Sequence[MissingPlugin]) -> str:
    """Return one or more sentences about missing plugins and what brings them back; an empty text if there are none."""
    return " ".join(f"The plugin {each}; {each.command}." for each in found)


def architecture_of(record: runs.RunRecord, registry: Registry, reporter: Reporter) -> Architecture:
    """Return the architecture of a run. If no plugin provides it, return one that holds what run.json says.

    The latter is enough to export the trained network. It cannot be built, and all its layers are in one stage, so that
    outliers are found by what the last layer reads.

    Args:
        record: The content of run.json.
        registry: The loaded plugins.
        reporter: Receives a warning if the architecture is missing.
    """
    name = str(record.architecture["name"])
    try:
        return registry.architecture(name)
    except (UnknownName, DuplicateName) as error:
        why = text_of(missing(record.plugins, registry)) or str(error)
    reporter.warn(f"no plugin provides the architecture {name!r} of this run, so that its own files are used. {why}")

    def build(shape: tuple[int, int, int]) -> NoReturn:
        raise PluginMissing(f"the network {name!r} cannot be built again. {why}")

    size = (int(record.image["size"][0]), int(record.image["size"][1]))
    return Architecture(
        name=name,
        summary=STAND_IN,
        build=build,
        input_size=size,
        min_size=1,
        channels=int(record.image.get("channels", 3)),
        parameters=int(record.architecture.get("parameters", 0)),
        stages=(Stage("network", ("*",)),),
        head=Head(**(record.head or {})),
        source=str(record.architecture.get("source") or "unknown"),
        licence=str(record.architecture.get("licence") or "unknown"),
    )


def require_plugin(architecture: Architecture, what: str) -> None:
    """Raise PluginMissing if an architecture only stands for that of a missing plugin; see `architecture_of`.

    Args:
        architecture: The architecture.
        what: What it is needed for, such as "another size".
    """
    if architecture.summary == STAND_IN:
        raise PluginMissing(f"{what} needs the plugin that provides the architecture {architecture.name!r}, see above.")


def refuse(run: runs.Run, record: runs.RunRecord, registry: Registry, what: str, error: Exception) -> NoReturn:
    """Raise an error that names the missing plugins of a run; if none is missing, raise the error that was found.

    Args:
        run: The run folder.
        record: The content of run.json.
        registry: The loaded plugins.
        what: What cannot be done, such as "cannot be resumed".
        error: What was raised.
    """
    found = missing(record.plugins, registry)
    if not found:
        raise error
    raise PluginMissing(f"{str(run.folder)!r} {what}. {text_of(found)} ({error})") from error


def load_kept(run: runs.Run, record: runs.RunRecord, registry: Registry) -> keras.Model:
    """Load model.keras of a run.

    Raises:
        RunError: The file is damaged.
        PluginMissing: The file cannot be loaded, and a plugin of the run is missing, which may define its layers.
    """
    from zoo.train.network import load_model

    try:
        return load_model(run.model)
    except RunError as error:
        refuse(run, record, registry, "cannot be opened without a plugin that it was made with", error)
