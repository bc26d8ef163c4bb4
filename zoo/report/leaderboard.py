"""Renders leaderboard.html, the page of a sweep: one file that loads nothing.

`zoo.workflow.sweep_results` makes the content. This module does not compute any figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from zoo.files import atomic_write
from zoo.report.figure import shared_style

STATES = {
    "winner": "take this one",
    "close": "as good as the winner, within one standard error",
    "behind": "behind the winner",
    "unfinished": "unfinished: the time was over",
    "waiting": "not begun: the time was over",
    "failed": "failed",
}


def write(found: Mapping[str, Any], path: Path) -> None:
    """Write the page of a sweep.

    Args:
        found: What `zoo.workflow.sweep_results.SweepResult.to_json` returns.
        path: The path of the page.

    Raises:
        WriteError: The page cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(render(found), encoding="utf-8")


def render(found: Mapping[str, Any]) -> str:
    """Return the HTML of the page of a sweep. Names are escaped.

    Args:
        found: As in `write`.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    folder = files(__package__)
    judged = [row for row in found["rows"] if row["accuracy_interval"] is not None]
    low = max(0.0, min(row["accuracy_interval"][0] for row in judged) - 0.02)
    high = min(1.0, max(row["accuracy_interval"][1] for row in judged) + 0.02)
    (winner,) = [row for row in found["rows"] if row["state"] == "winner"]
    return environment.from_string(folder.joinpath("leaderboard.html.jinja").read_text("utf-8")).render(
        **found,
        best=winner,
        key="exact_match" if "exact_match" in (found["test"] or {}) else "accuracy",
        style=shared_style() + folder.joinpath("comparison.css").read_text("utf-8"),
        at=lambda value: f"{100 * (value - low) / (high - low):.2f}",
        low=low,
        high=high,
        state=_state,
        place=Path(found["data"]).name,
    )


def _state(row: Mapping[str, Any]) -> str:
    """Return what became of a trial, in words."""
    if row["state"] != "out":
        return STATES[row["state"]]
    folds = row["out_after"]
    return "out after the solved head" if not folds else f"out after {folds} fold{'' if folds == 1 else 's'}"
