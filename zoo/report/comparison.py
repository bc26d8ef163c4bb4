"""Renders the comparison of runs: a page, and a short table for the terminal.

`zoo.workflow.compare_runs` makes the content. This module does not compute any figures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from zoo.files import size_text
from zoo.report.exported_facts import PARTS
from zoo.report.figure import SHOWN_SETTINGS, shared_style

# By this, a comparison is recognized when it is written again.
GENERATOR = '<meta name="generator" content="zoo comparison">'
# The page lists at most so many pictures of each pair; `--json` has all.
LISTED = 200
# The terminal shows at most so many differences, and so many characters of a value.
TERMINAL_ROWS, TERMINAL_VALUE = 12, 60


def render(compared: Mapping[str, Any]) -> str:
    """Render the page of a comparison.

    Args:
        compared: What `zoo.workflow.compare_runs.compare` returns.

    Returns:
        The HTML of one file that loads nothing. Names are escaped.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters.update(shown=shown, signed=signed, p=p_text)
    folder = files(__package__)
    names = ("settings", "data", "versions")
    return environment.from_string(folder.joinpath("comparison.html.jinja").read_text("utf-8")).render(
        **compared,
        generator=GENERATOR,
        style=shared_style() + folder.joinpath("comparison.css").read_text("utf-8"),
        differences=[(name, compared[name]) for name in names if compared[name]],
        rows=figure_rows(compared["runs"]),
        chart=_chart(compared["runs"]),
        listed=LISTED,
        named=SHOWN_SETTINGS,
        size=lambda value: "-" if value is None else size_text(value),
        by_label={each["label"]: each for each in compared["runs"]},
    )


def figure_rows(described: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each figure that a run has: `part`, `text` and the figure of each run or None."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for place, each in enumerate(described):
        for figure in each["figures"]:
            key = (figure["part"], figure["key"])
            row = rows.setdefault(
                key, {"part": PARTS[figure["part"]], "text": figure["text"], "values": [None] * len(described)}
            )
            row["values"][place] = figure
    order = list(PARTS.values())
    return sorted(rows.values(), key=lambda row: order.index(row["part"]))


def headline(described: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the figure that stands for a run: exact match or accuracy on its test pictures; None if there is none."""
    found = {figure["key"]: figure for figure in described["figures"] if figure["part"] == "test"}
    result: Mapping[str, Any] | None = found.get("exact_match", found.get("accuracy"))
    return result


def _chart(described: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return where the headline and its interval stand on a scale from `low` to `high`, in percent."""
    points = [headline(each) for each in described]
    known = [point for point in points if point and point["interval"]]
    if not known:
        return []
    low = max(0.0, min(point["interval"][0] for point in known) - 0.02)
    high = min(1.0, max(point["interval"][1] for point in known) + 0.02)
    return [
        {
            "label": each["label"],
            "low": low,
            "high": high,
            "value": point["value"],
            "at": 100 * (point["value"] - low) / (high - low),
            "from": 100 * (point["interval"][0] - low) / (high - low),
            "to": 100 * (point["interval"][1] - low) / (high - low),
        }
        for each, point in zip(described, points, strict=True)
        if point and point["interval"]
    ]


def shown(value: Any) -> str:
    """Format a setting. None means that the run has no such setting."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def signed(value: float) -> str:
    """Format a difference of accuracies with its sign."""
    return f"{value:+.3f}"


def p_text(value: float) -> str:
    """Format a p-value, as the part of a sentence."""
    return f"p = {value:.2g}" if value >= 0.0001 else "p < 0.0001"


def terminal(compared: Mapping[str, Any]) -> list[str]:
    """Return the lines of a short table for the terminal."""
    lines = []
    for each in compared["runs"]:
        figure = headline(each)
        lines.append(f"{each['label']:<3} {each['id']}  {each['title']}")
        lines.append(f"    {_headline_text(figure)}")
    for pair in compared["pairs"]:
        lines += ["", *pair_lines(pair)]
    rows = [row for name in ("settings", "data", "versions") for row in compared[name]]
    if not rows:
        return [*lines, "", "Settings, data and versions are equal."]
    labels = [each["label"] for each in compared["runs"]]
    lines += ["", f"What differs ({compared['equal']} other entries are equal):"]
    for row in rows[:TERMINAL_ROWS]:
        values = "; ".join(f"{name} {_short(value)}" for name, value in zip(labels, row["values"], strict=True))
        lines.append(f"    {row['name'].removeprefix('options.')}: {values}")
    more = len(rows) - TERMINAL_ROWS
    return [*lines, f"    and {more} more on the page"] if more > 0 else lines


def _headline_text(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "not measured on test pictures"
    return figure_text(figure["key"].replace("_", " "), figure)


def figure_text(label: str, figure: Mapping[str, Any]) -> str:
    """Return a figure in words: its label, its value, and its interval and the number of pictures if it has one.

    Args:
        label: What the figure is, such as "accuracy".
        figure: A dictionary with `value`, `interval` (None without one) and `pictures`.
    """
    from zoo_runtime.workshop import format_accuracy

    if figure["interval"] is None:
        return f"{label} {figure['value']:.4f}"
    return f"{label} {format_accuracy(figure['value'], figure['interval'], figure['pictures'])}"


def pair_lines(pair: Mapping[str, Any]) -> list[str]:
    """Return the lines about the test of two runs.

    Args:
        pair: An entry of `pairs`, as `zoo.workflow.compare_runs.compare` returns it.
    """
    result, first, second = pair["result"], pair["first"], pair["second"]
    notes = [f"    {note}" for note in pair["notes"]]
    if result is None:
        return [f"{second} against {first}: not tested. {pair['problem']}", *notes]
    low, high = result["interval"]
    return [
        f"{second} against {first}, on {result['pictures']} test pictures of both: {signed(result['difference'])} "
        f"({signed(low)} to {signed(high)} with 95 % confidence)",
        f"    right: both {result['both']}, only {first} {result['only_first']}, "
        f"only {second} {result['only_second']}, neither {result['neither']}. "
        f"McNemar's exact test: {p_text(result['p_value'])}",
        f"    {pair['conclusion']}",
        *notes,
    ]


def _short(value: Any) -> str:
    text = " ".join(shown(value).split())
    return text if len(text) <= TERMINAL_VALUE else f"{text[: TERMINAL_VALUE - 1]}…"
