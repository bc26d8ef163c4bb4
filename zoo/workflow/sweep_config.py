"""What a user requests of a sweep, and sweep.json, which remembers it in the folder of the sweep."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.sources import Source
from zoo.errors import DataError, RunError, UsageError
from zoo.plugin import Architecture
from zoo.plugin.registry import Registry
from zoo.train import schedule as schedules
from zoo.workflow.compare_networks import NONE_AT_HAND, at_hand
from zoo.workflow.sweep_trials import Trial, TrialFolder, write_json

FILE = "sweep.json"
FORMAT = 1
DEFAULT_SCHEDULES = ("auto", "fine-tune")
# How messages call what sweep.json holds, where "--" and its name are not the option.
SPOKEN = {"words": "the end of the command", "folds": "--cv"}
CHANGED = (
    "the pictures have changed since the sweep began, so that its trials cannot be compared. Start another one with "
    "--output FOLDER."
)


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Describes the sweep that a user requests.

    Args:
        data: The pictures, as `zoo finetune --data` takes them.
        networks: The names of networks. Empty takes all those whose weights are on this computer.
        sizes: (height, width) of the pictures in pixels. None chooses what suits the data and the weights.
        schedules: Names of schedules, or paths of TOML files. Empty takes `DEFAULT_SCHEDULES`.
        words: The options of `zoo finetune` that all trials get.
        head_words: The same without those that a solved head cannot have.
        heads_compete: Whether a solved head alone may win. It cannot if the user asked for another kind of head.
        random: Whether all trials start from random weights, so that no head is worth solving.
        folds: The number of folds of the cross-validation; None uses 5.
        budget: How many seconds the sweep may take. None sets no limit.
        output: The folder of the sweep.
        exported: The folder of exports.
        pictures: A digest of the list of pictures: their names, sizes and labels.
        command: The command that goes on with this sweep, for messages.
        again: The same with the budget.
        environment: Environment variables for the processes of trials.
        threads: On how many threads a trial is judged. None sets no limit.
    """

    data: str
    networks: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int] | None, ...] = (None,)
    schedules: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    head_words: tuple[str, ...] = ()
    heads_compete: bool = True
    random: bool = False
    folds: int | None = None
    budget: float | None = None
    output: Path
    exported: Path
    pictures: str = ""
    command: str = "zoo sweep"
    again: str = "zoo sweep"
    environment: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None

    def folder_of(
        self, network: str, size: tuple[int, int] | None, schedule: str, words: tuple[str, ...]
    ) -> TrialFolder:
        """Return the folder of a trial; the arguments are the fields of `Trial`."""
        trial = Trial(network, size, schedule, words, self.environment, self.threads)
        return TrialFolder(trial, self.output.absolute())


def begin(
    requested: SweepConfig, registry: Registry
) -> tuple[list[tuple[str, tuple[int, int] | None]], dict[str, Any]]:
    """Write sweep.json, or read that of an earlier part of the same sweep.

    Returns:
        The pairs of network and size, the cheapest first, and the content of sweep.json.

    Raises:
        UsageError: The request cannot be meant, or the folder has another sweep.
        DataError: The pictures have changed.
        RunError: sweep.json is damaged, or another version of zoo made it.
        WriteError: It cannot be written.
    """
    asked: dict[str, Any] = {
        "data": requested.data,
        "networks": list(requested.networks),
        "sizes": [list(size) if size else None for size in requested.sizes],
        "schedules": list(requested.schedules),
        "words": list(requested.words),
        "folds": requested.folds,
    }
    path = requested.output / FILE
    _check_names(requested)
    if path.is_file():
        state = _known(path, asked, requested)
    else:
        state = {
            "format": FORMAT,
            "asked": asked,
            "networks": _networks(requested, registry),
            "seconds": 0.0,
            "pictures": requested.pictures,
            "files": _digests(requested.schedules),
        }
        write_json(path, state)
    cost: dict[tuple[str, tuple[int, int] | None], float] = {}
    for name in state["networks"]:
        architecture, _ = registry.resolve(name)
        for size in requested.sizes:
            height, width = size or architecture.input_size
            cost[(name, size)] = architecture.parameters * height * width
    return sorted(cost, key=lambda pair: cost[pair]), state


def _known(path: Path, asked: Mapping[str, Any], requested: SweepConfig) -> dict[str, Any]:
    """Return the content of sweep.json of the same sweep.

    Raises:
        RunError: It is damaged, or of another version of zoo.
        UsageError: It is another sweep.
        DataError: The pictures have changed.
    """
    try:
        state = dict(json.loads(path.read_text("utf-8")))
        before, state["seconds"] = dict(state["asked"]), float(state["seconds"])
        state["networks"] = [str(name) for name in state["networks"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{str(path)!r} is damaged: {error}. Choose another folder with --output.") from None
    if state.get("format") != FORMAT:
        raise RunError(
            f"another version of zoo made the sweep in {str(requested.output)!r}. Go on with that version, or begin "
            "another sweep with --output FOLDER."
        )
    changed = [name for name in asked if before.get(name) != asked[name]]
    if changed:
        if "words" in changed and "folds" in changed:
            changed.remove("folds")  # The words have it as --cv.
        told = {name: (before.get(name), asked[name]) for name in changed}
        if "words" in told and isinstance(before.get("words"), list):
            told["words"] = _without_beginning(before["words"], asked["words"])
        changes = "; ".join(
            f"{SPOKEN.get(name, '--' + name)} was {_shown(old)} and is {_shown(new)}"
            for name, (old, new) in told.items()
        )
        raise UsageError(
            f"{str(requested.output)!r} has a sweep with other settings: {changes}. Name another folder with "
            f"--output, or go on with that sweep: `{requested.command}`."
        )
    now = _digests(requested.schedules)
    edited = [name for name, digest in now.items() if state.get("files", now).get(name) != digest]
    if edited:
        raise UsageError(
            f"the schedule {edited[0]!r} has changed since the sweep began, so that its trials cannot be compared. "
            "Begin another sweep with --output FOLDER."
        )
    if state.get("pictures", requested.pictures) != requested.pictures:
        raise DataError(CHANGED)
    return state


def _digests(schedules_asked: Sequence[str]) -> dict[str, str]:
    """Return the digest of each schedule that is a file; empty if it cannot be read, which its trial will say."""
    found = {}
    for name in schedules_asked:
        if name.endswith(".toml"):
            with contextlib.suppress(OSError):
                found[name] = hashlib.sha256(Path(name).read_bytes()).hexdigest()
    return found


def _check_names(requested: SweepConfig) -> None:
    """Check that each trial has a name of its own, which is that of its folder.

    Raises:
        UsageError: Two schedules have the same name.
    """
    names: dict[str, str] = {}
    for schedule in dict.fromkeys(requested.schedules or DEFAULT_SCHEDULES):
        key = Trial("", None, schedule).key
        if key in names:
            raise UsageError(
                f"--schedules: {names[key]!r} and {schedule!r} have the same name. Rename one of the files."
            )
        names[key] = schedule


def _without_beginning(old: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    """Leave out the options that two commands have in common at their beginning."""
    pairs = enumerate(zip(old, new, strict=False))
    same = next((place for place, (one, other) in pairs if one != other), min(len(old), len(new)))
    # An option stays together with its value.
    while same and not all(words[same].startswith("--") for words in (old, new) if same < len(words)):
        same -= 1
    return old[same:], new[same:]


def _shown(value: Any) -> str:
    if not isinstance(value, list):
        return "not given" if value is None else str(value)
    sizes = ["x".join(map(str, item)) if isinstance(item, list) else item for item in value]
    return " ".join(str(item) for item in sizes if item is not None) or "not given"


def _networks(requested: SweepConfig, registry: Registry) -> list[str]:
    """Return the names of the networks, and check them and the schedules.

    Raises:
        UsageError: A name is unknown, or there is no network.
    """
    for name in requested.networks:
        registry.resolve(name)
    for name in requested.schedules:
        schedules.find(name, registry)
    names = list(dict.fromkeys(requested.networks)) or [name for name, *_ in at_hand(registry)]
    if not names:
        raise UsageError(f"{NONE_AT_HAND} Or begin with random weights: --weights none --networks NAME.")
    assert all(isinstance(registry.resolve(name)[0], Architecture) for name in names)
    return names


def digest_of(source: Source) -> str:
    """Return a sha256, in hex, of a list of pictures: their names, labels, parts and sizes in bytes.

    Files are not read, because a sweep asks at each beginning.
    """
    digest = hashlib.sha256("\0".join(source.classes).encode("utf-8", "surrogateescape"))
    for picture in source.pictures:
        size: Any = None
        if isinstance(picture.content, Path):
            with contextlib.suppress(OSError, ValueError):
                size = os.stat(picture.content).st_size
        elif isinstance(picture.content, np.ndarray):
            size = picture.digest()
        line = f"{picture.name}\0{picture.labels}\0{picture.split}\0{size}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
