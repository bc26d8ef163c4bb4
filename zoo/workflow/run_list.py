"""Lists the runs of a folder with their states and figures, from run.json and metrics.json alone.

This is quick for a thousand runs: nothing here imports numpy, Keras or the runtime. `zoo.workflow.run_details`
describes a single run.
"""

from __future__ import annotations

import json
import os
import re
import time
from calendar import timegm
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo import runs
from zoo.errors import RunError, UsageError
from zoo.runs import run_lock

UNREADABLE = "unreadable"
# What a run without a metric has been asked for, in the order of preference.
PARTS = ("test", "validation", "cross_validation")
# Names that `zoo.runs.create` gives.
RUN_NAME = re.compile(r"\d{8}T\d{6}Z-.+-[0-9a-f]{6}", re.DOTALL)
# A run folder that is being removed has a name that begins so.
REMOVED = ".removed-"
# The logger "mlflow" keeps its database in a folder among the runs.
MLFLOW = "mlflow.db"


@dataclass(frozen=True)
class Score:
    """The figure that stands for a run.

    Args:
        name: "accuracy" or, if pictures have several classes, "exact match".
        value: The figure, in 0..1.
        interval: The bounds of its 95 % confidence interval; None if there is none.
        part: The pictures that were measured: "test", "validation" or "cross_validation".
        pictures: The number of these pictures; None if unknown.
    """

    name: str
    value: float
    interval: tuple[float, float] | None
    part: str
    pictures: int | None


@dataclass(frozen=True)
class ListedRun:
    """What the list says about a run.

    Args:
        folder: The run folder.
        state: What `zoo.runs.run_lock.state` returns, without the error; "failed" for a failed run, and "unreadable" if
            run.json cannot be read.
        why: Why it failed or cannot be read, as a whole; "" for other runs.
        network: The name of the architecture.
        data: The name of the data.
        schedule: The name of the schedule.
        score: The figure of the run; None if it was not measured.
        seconds: How long training and export took. For a running run, the time since its start. None if unknown.
        created: When the run was created, in UTC; "" if unknown.
        age: The seconds since then; negative if the clock was wrong, None if unknown.
    """

    folder: Path
    state: str
    why: str = ""
    network: str = ""
    data: str = ""
    schedule: str = ""
    score: Score | None = None
    seconds: float | None = None
    created: str = ""
    age: float | None = None

    @property
    def id(self) -> str:
        """The name of the run folder."""
        return self.folder.name


@dataclass(frozen=True)
class Listing:
    """The content of a folder of runs.

    Args:
        runs: The runs.
        foreign: The other entries of the folder, each with the reason why it is not a run.
    """

    runs: tuple[ListedRun, ...]
    foreign: Mapping[str, str] = field(default_factory=dict)


def read(folder: Path) -> Listing:
    """Read a folder of runs. A folder that does not exist is empty. The latest run comes first.

    Raises:
        UsageError: The path is not a folder.
        RunError: The folder cannot be read.
    """
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return Listing(())
    except NotADirectoryError:
        raise UsageError(f"{str(folder)!r} is not a folder; name the folder of runs with --runs FOLDER.") from None
    except OSError as error:
        raise RunError(f"the folder of runs {str(folder)!r} cannot be read: {error.strerror}.") from None
    now = time.time()
    found, foreign = [], {}
    for name in names:
        place = folder / name
        if name.startswith(REMOVED):
            foreign[name] = "the rest of a removed run; `zoo runs rm --leftovers` deletes it"
        elif not name.startswith(".") and not (place / MLFLOW).is_file():
            listed = _listed(place, now)
            if isinstance(listed, str):
                foreign[name] = listed
            else:
                found.append(listed)
    found.sort(key=lambda each: (each.created or each.id, each.id), reverse=True)
    return Listing(tuple(found), foreign)


def _listed(place: Path, now: float) -> ListedRun | str:
    """Return what the list says about a folder, or why it is not a run."""
    run = runs.Run(place)
    if not os.path.isdir(place):
        return "a broken link" if place.is_symlink() else "not a folder"
    if not os.path.lexists(place / runs.RECORD):
        if run_lock.holder(run) is not None:
            return ListedRun(place, "running")
        if not os.access(place, os.R_OK | os.X_OK):
            return ListedRun(place, UNREADABLE, "you have no permission to read the folder")
        if RUN_NAME.fullmatch(place.name) and set(os.listdir(place)) <= {runs.UNFINISHED}:
            return "its process ended before the run began; `zoo runs rm` removes it"
        return f"it has no {runs.RECORD}"
    try:
        return describe(run, run.read_record(), now)
    except RunError as error:
        return ListedRun(place, UNREADABLE, str(error))


def describe(run: runs.Run, record: runs.RunRecord, now: float) -> ListedRun:
    """Return what the list says about a run.

    Args:
        run: The run folder.
        record: The content of run.json.
        now: The current time, in seconds since the epoch.
    """
    try:
        state = run_lock.state(run, record)
        name, colon, why = state.partition(": ")
        age = _age(record.created, now)
        seconds: float | None = sum(map(float, record.seconds.values())) if record.seconds else None
        if state == "running":
            # A resumed run counts from its resumption, because its process knows no earlier time.
            resumed: Any = getattr(record, "resumed", None) or record.others.get("resumed") or ()
            seconds = _age(resumed[-1], now) if resumed else age
        return ListedRun(
            folder=run.folder,
            state=name,
            why=why if colon else "",
            network=str(record.architecture["name"]),
            data=str(record.data["name"]),
            schedule=str(record.options.get("schedule") or ""),
            score=score_of(run.folder),
            seconds=seconds,
            created=record.created,
            age=age,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{str(run.folder / runs.RECORD)!r} is damaged: {type(error).__name__}: {error}.") from None


def score_of(folder: Path) -> Score | None:
    """Return the figure that stands for a run: that of its test pictures, or else of those that were held out."""
    try:
        metrics = json.loads((folder / "metrics.json").read_bytes())
        for part in PARTS:
            measured = metrics.get(part) or {}
            for key in ("exact_match", "accuracy"):
                if isinstance(measured.get(key), (int, float)):
                    bounds = measured.get(f"{key}_interval")
                    interval = (float(bounds[0]), float(bounds[1])) if bounds else None
                    return Score(key.replace("_", " "), measured[key], interval, part, measured.get("pictures"))
    except (OSError, ValueError, AttributeError, TypeError, LookupError, RecursionError):
        pass
    return None


def _age(created: str, now: float) -> float | None:
    """Return the seconds since a time of run.json; None if it is not a time."""
    try:
        return now - timegm(time.strptime(created, "%Y-%m-%dT%H:%M:%SZ"))
    except (TypeError, ValueError):
        return None
