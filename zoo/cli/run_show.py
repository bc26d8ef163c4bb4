"""Prints what `zoo runs show` says about a run."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zoo.cli import table
from zoo.files import size_text
from zoo.report.comparison import figure_text
from zoo.report.figure import SHOWN_SETTINGS
from zoo.reporter import counted, joined

CLASSES, WARNINGS = 10, 5
TITLE = 11


def lines(described: Mapping[str, Any]) -> Iterator[str]:
    """Return the lines for a terminal.

    Args:
        described: What `zoo.workflow.run_details.describe` returns.
    """
    yield from _titled("Run", described["folder"])
    for line in _titled("State", _state(described)):
        yield line.replace(described["state"], table.colored(described["state"], described["state"]), 1)
    if described["why"]:
        yield from _titled("", described["why"])
    for each in described["next"]:
        yield from _titled("Next", each, whole=True)
    yield from _titled("Created", _created(described))
    yield from _titled("Network", _network(described))
    settings = [
        f"{SHOWN_SETTINGS.get(f'options.{key}', key)} {_value(key, value)}"
        for key, value in described["settings"].items()
    ]
    yield from _titled("Settings", "; ".join(settings) or "all are the defaults")
    yield from _data(described["data"])
    yield from _schedule(described)
    yield from _titled("Result", _result(described["score"]))
    for each in described["exports"]:
        note = "" if each["same"] else "; of another run, or of a later export"
        yield from _titled("Export", f"{each['path']} ({size_text(each['bytes'])}{note})", whole=True)
    seconds = ", ".join(f"{name} {table.duration(value)}" for name, value in described["seconds"].items())
    yield from _titled("Took", seconds or "-")
    yield from _titled("Disk", f"{size_text(described['bytes'])} in the run folder")
    yield from _titled("Versions", ", ".join(f"{name} {text}" for name, text in described["versions"].items()))
    yield from _titled("Plugins", ", ".join(described["plugins"]))
    for text in described["missing_plugins"]:
        yield from _titled("Missing", f"the plugin {text}")
    for text in described["warnings"][:WARNINGS]:
        yield from _titled("Warning", text)
    if len(described["warnings"]) > WARNINGS:
        yield from _titled("", f"and {len(described['warnings']) - WARNINGS} more warnings")
    if described["command"]:
        yield from _titled("Repeat", shlex.join(described["command"]), whole=True)
    if described["report"]:
        yield from _titled("Report", described["report"], whole=True)


def _titled(title: str, text: str, *, whole: bool = False) -> Iterator[str]:
    """Return the lines of one fact. Paths and commands stay whole, so that they can be copied."""
    text = table.one_line(text)
    width = table.terminal_width()
    if whole or width is None:
        yield f"{title:{TITLE}}{text}".rstrip()
        return
    parts = textwrap.wrap(text, max(20, width - TITLE), break_long_words=False, break_on_hyphens=False) or [""]
    for i, part in enumerate(parts):
        yield f"{title if i == 0 else '':{TITLE}}{part}".rstrip()


def _state(described: Mapping[str, Any]) -> str:
    state, process = described["state"], described["process"]
    text = state
    if process:
        text += f" (process {process.get('pid')} on {process.get('host')}, since {process.get('since')})"
    return text


def _created(described: Mapping[str, Any]) -> str:
    ago = described["age"]
    when = "" if ago is None else f" ({table.age(ago)}{' ago' if ago >= -60 else ''})"
    return f"{described['created']}{when}"


def _network(described: Mapping[str, Any]) -> str:
    weights = described["weights"]
    start = "random weights" if weights.get("random") else f"weights {weights.get('id') or weights.get('file')}"
    return f"{described['network']['name']} from {start}, {described['task']}"


def _value(key: str, value: Any) -> str:
    """Format a setting as it is typed in a command."""
    if isinstance(value, list) and all(isinstance(each, (str, int, float)) for each in value):
        return ("x" if key == "size" else ",").join(map(str, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _data(data: Mapping[str, Any]) -> Iterator[str]:
    place = "embedded in zoo" if data["place"] == "digits" else str(data["place"])
    gone = "" if data["there"] else " (not there any more)"
    yield from _titled("Data", f"{data['name']}: {place}{gone}")
    counts = ", ".join(f"{count} {part}" for part, count in data["counts"].items() if count)
    unreadable = f"; {counted(data['unreadable'], 'unreadable picture')} left out" if data["unreadable"] else ""
    yield from _titled("", f"{counts}; {data['split']}{unreadable}")
    rows = [
        f"{name}: {'/'.join(str(of_class[part]) for part in ('train', 'val', 'test') if of_class.get(part))}"
        for name, of_class in data["classes"].items()
    ]
    if rows:
        kinds = "1 class" if len(rows) == 1 else f"{len(rows)} classes"
        yield from _titled("", f"{kinds}: {joined(rows, CLASSES)}")


def _schedule(described: Mapping[str, Any]) -> Iterator[str]:
    phases: Sequence[Mapping[str, Any]] = described["phases"]
    best = f", kept epoch {described['best_epoch']}" if described["best_epoch"] else ""
    yield from _titled("Schedule", f"{described['schedule']}{best}")
    for phase in phases:
        done = phase.get("epochs_run")
        planned = counted(phase["epochs"], "epoch")
        epochs = f"{planned} planned" if done is None else f"{done} of {planned}"
        if phase.get("left_out"):
            epochs = "left out"
        elif phase.get("optimizer") == "exact" and done:
            epochs = "solved"
        took = f", {table.duration(phase['seconds'])}" if phase.get("seconds") else ""
        yield from _titled("", f"{phase['name']}: trains {phase['train']}, {epochs}{took}")
    if described["evidence"]:
        yield from _titled("", described["evidence"])


def _result(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "not measured yet"
    return figure_text(f"{score['part'].replace('_', '-')} {score['name']}", score)
