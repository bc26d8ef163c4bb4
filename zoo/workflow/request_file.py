"""Writes and reads what a run was asked for, so that `zoo resume` does all of it: unfinished/request.json.

run.json records the settings of the training. This file also has the phases themselves, because the TOML file of a
schedule may have changed since, and the options of the export.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import backend, runs
from zoo.config import FinetuneConfig, ResolvedConfig
from zoo.data import sources
from zoo.data.reading import ReadingOptions
from zoo.errors import RunError, ZooError
from zoo.export.format_variant import FormatVariant
from zoo.export.variants import VARIANTS, AcceptanceLimits, VariantRequest
from zoo.plugin import Phase, Schedule
from zoo.runs import entries, run_lock

FILE = f"{runs.UNFINISHED}/{run_lock.REQUEST}"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What a run was asked for.

    Args:
        config: The settings of the training. All paths are absolute.
        schedule: The schedule of the run, with its phases as they were planned.
        backend: The Keras backend that trains.
        variants: The variants to make in addition to the float32 file.
        allow_chance: Whether a network that has learned nothing is exported too.
        replace: Whether exports of other pictures are replaced.
        typed: The options that the user typed and that `zoo export RUN` takes, as words, for commands in messages.
    """

    config: FinetuneConfig
    schedule: Schedule
    backend: str
    variants: tuple[VariantRequest, ...] = ()
    allow_chance: bool = False
    replace: bool = False
    typed: tuple[str, ...] = ()


def request_of(
    resolved: ResolvedConfig,
    *,
    variants: Sequence[VariantRequest],
    allow_chance: bool,
    replace: bool,
    typed: Sequence[str],
) -> RunRequest:
    """Return what a run is asked for, with absolute paths."""
    asked, weights = resolved.requested, resolved.weights.file
    # A symbolic link is not resolved, because --group-by may look at the path.
    embedded = sources.location(asked.data) == sources.EMBEDDED
    data = asked.data if embedded else os.path.abspath(os.path.expanduser(asked.data))
    changes: dict[str, Any] = {"data": data, "name": resolved.name}
    if isinstance(asked.schedule, Schedule):
        changes["schedule"] = asked.schedule.name
    changes |= {"runs": asked.runs.absolute(), "exported": asked.exported.absolute()}
    if isinstance(weights, Path):
        changes["weights"] = str(weights.absolute())
    if resolved.weights.random:
        # Weights that appear later must not be used.
        changes["weights"] = "none"
    schedule = dataclasses.replace(resolved.schedule, phases=tuple(resolved.phases))
    return RunRequest(
        config=dataclasses.replace(asked, **changes),
        schedule=schedule,
        backend=backend.wanted(),
        variants=tuple(variants),
        allow_chance=allow_chance,
        replace=replace,
        typed=tuple(typed),
    )


def write(run: runs.Run, asked: RunRequest) -> None:
    """Write the request into a run folder.

    Raises:
        WriteError: The file cannot be written.
    """
    settings = {
        each.name: _plain(getattr(asked.config, each.name))
        for each in dataclasses.fields(asked.config)
        if each.name != "reading"
    }
    schedule = asked.schedule
    phases = [dataclasses.asdict(phase) for phase in schedule.phases] if isinstance(schedule.phases, tuple) else []
    content = {
        "format": FORMAT,
        "settings": {**settings, "reading": asked.config.reading.to_json()},
        "schedule": {"name": schedule.name, "summary": schedule.summary, "by_evidence": schedule.by_evidence},
        "phases": phases,
        "backend": asked.backend,
        "variants": variants_to_json(asked.variants),
        "allow_chance": asked.allow_chance,
        "replace": asked.replace,
        "typed": asked.typed,
    }
    run.write_json(FILE, content)


def read(run: runs.Run) -> RunRequest:
    """Read the request of a run.

    Raises:
        RunError: The file is damaged, or another version of zoo wrote it.
    """
    content = run.read_json(FILE)
    try:
        if content["format"] != FORMAT:
            raise RunError(
                f"{str(run.folder / FILE)!r} was written by another version of zoo. Resume it with that one."
            )
        phases = tuple(Phase(**each) for each in content["phases"])
        return RunRequest(
            config=_config(content["settings"]),
            schedule=Schedule(**content["schedule"], phases=phases),
            backend=content["backend"],
            variants=tuple(_variant(each) for each in content["variants"]),
            allow_chance=content["allow_chance"],
            replace=content["replace"],
            typed=tuple(content["typed"]),
        )
    except RunError:
        raise
    except (KeyError, TypeError, ValueError, ZooError) as error:
        raise RunError(f"{str(run.folder / FILE)!r} is damaged: {error}. Start the run again.") from error


def variants_to_json(variants: Sequence[VariantRequest]) -> list[entries.Variant]:
    """Return smaller files that were asked for as request.json and run.json record them."""
    return [
        {"name": each.variant.name, "max_drop": each.limits.max_drop, "any_speed": each.limits.any_speed}
        for each in variants
    ]


def _plain(value: Any) -> Any:
    """Return a setting as JSON has it."""
    return str(value) if isinstance(value, Path) else dict(value) if isinstance(value, Mapping) else value


def _config(values: Mapping[str, Any]) -> FinetuneConfig:
    settings: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in values.items()}
    settings["head"] = {key: tuple(x) if isinstance(x, list) else x for key, x in values["head"].items()}
    settings["reading"] = ReadingOptions.from_json(values["reading"])
    settings |= {key: Path(values[key]) for key in ("runs", "exported")}
    return FinetuneConfig(**settings)


def _variant(values: Mapping[str, Any]) -> VariantRequest:
    limits = {key: value for key, value in values.items() if key != "name"}
    # The plugins are not loaded yet, so that a format is looked up later.
    variant = next((each for each in VARIANTS if each.name == values["name"]), FormatVariant(values["name"]))
    return VariantRequest(variant, AcceptanceLimits(**limits))
