"""Holds the leaderboard of a sweep: a row for each trial, and the winner."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import runs
from zoo.errors import RunError
from zoo.evaluate.standing import EQUAL, Standing
from zoo.workflow.sweep_trials import HEAD, TrialFolder, size_text

# The states of a trial: it is the best one; it is behind that one by at most one standard error; it was compared with
# it to the end; it went out on the way; the time was over before it was judged as far as the others; it has failed; it
# was not begun.
WINNER, CLOSE, BEHIND, OUT, UNFINISHED, FAILED, WAITING = (
    *("winner", "close", "behind", "out", "unfinished", "failed", "waiting"),
)
ORDER = (WINNER, CLOSE, BEHIND, UNFINISHED, OUT, WAITING, FAILED)


@dataclass(frozen=True)
class Row:
    """A trial on the leaderboard.

    Args:
        name: The name of the trial.
        network: The name of its network.
        size: The picture size, such as "160"; empty if it is not known.
        schedule: The schedule.
        state: One of the states of this module.
        folds: After how many folds it was judged last; 0 is the solved head. None if it was not judged.
        out_after: After how many folds of the others it went out; None if it did not.
        accuracy: The fraction of right answers to held-out pictures, in 0..1.
        accuracy_interval: The bounds of its 95 % confidence interval.
        pictures: The number of held-out pictures.
        loss: Their mean cross-entropy.
        behind: By how much its accuracy is below that of the winner, on the pictures of both; None if it went out.
        behind_error: The standard error of this difference.
        seconds: How long it has taken.
        run: The folder of its run; None without one.
        problem: Why it failed; empty if it did not.
    """

    name: str
    network: str
    size: str
    schedule: str
    state: str
    folds: int | None
    out_after: int | None
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None
    pictures: int
    loss: float | None
    behind: float | None
    behind_error: float | None
    seconds: float
    run: str | None
    problem: str


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep, so far.

    Args:
        data: The pictures.
        output: The folder of the sweep.
        rows: The trials, the best first.
        winner: The name of the best one.
        run: The folder of its run.
        exported: The path of its exported file; None if it is not finished.
        test: The figures of the test pictures of the winner; None if it is not finished.
        problem: Why the winner could not be finished. None if it is; empty if the time was over.
        stopped: Whether the time was over before all was done.
        seconds: How long the sweep has taken, in all its parts.
        command: The command that goes on with the sweep.
    """

    data: str
    output: Path
    rows: tuple[Row, ...]
    winner: str
    run: Path | None
    exported: Path | None
    test: Mapping[str, Any] | None
    problem: str | None
    stopped: bool
    seconds: float
    command: str

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        values = {**vars(self), "rows": [dict(vars(row)) for row in self.rows]}
        return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}


def rows_of(
    folders: Mapping[str, TrialFolder], reached: Mapping[str, int], alive: Sequence[str], standing: Standing, rung: int
) -> list[Row]:
    """Return the leaderboard, the best first.

    Args:
        folders: All trials, by their names.
        reached: For each trial that is out, after how many folds it was.
        alive: The names of the trials that might have won.
        standing: How these stand.
        rung: After how many folds the last trials were compared.
    """
    rows = [_row(folder, reached, alive, standing, rung) for folder in folders.values()]

    def place(row: Row) -> tuple[Any, ...]:
        behind = row.behind if row.behind is not None else 1.0
        return (ORDER.index(row.state), behind, -(row.folds or 0), -(row.accuracy or 0.0), row.seconds, row.name)

    return sorted(rows, key=place)


def _row(folder: TrialFolder, reached: Mapping[str, int], alive: Sequence[str], standing: Standing, rung: int) -> Row:
    name, facts, latest, trial = folder.trial.key, folder.facts(), folder.latest(), folder.trial
    problem = facts.get("problem") or ""
    behind = standing.behind.get(name) if name in alive else None
    if problem:
        state = FAILED
    elif name == standing.best:
        state = WINNER
    elif name in reached:
        state = OUT
    elif latest is None:
        state = UNFINISHED if facts["seconds"] else WAITING
    elif behind is None or (rung and latest.step < rung and trial.schedule != HEAD):
        state = UNFINISHED
    else:
        state = CLOSE if behind[0] <= EQUAL * behind[1] else BEHIND
    run, size = folder.run(), size_text(trial.size)
    if run is not None and not size:
        with contextlib.suppress(RunError, KeyError, TypeError, ValueError):
            size = size_text(runs.Run(run).read_record().image["size"])
    return Row(
        name=name,
        network=trial.network,
        size=size,
        schedule=trial.schedule,
        state=state,
        folds=None if latest is None else latest.step,
        out_after=reached.get(name),
        accuracy=None if latest is None else latest.accuracy,
        accuracy_interval=None if latest is None else latest.accuracy_interval,
        pictures=0 if latest is None else len(latest.right),
        loss=None if latest is None else latest.loss,
        behind=None if behind is None else behind[0],
        behind_error=None if behind is None else behind[1],
        seconds=facts["seconds"],
        run=None if run is None else str(run),
        problem=problem,
    )
