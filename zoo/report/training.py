"""Prepares the sections of the report page about data and training: evidence, curves, phases, configuration, warnings.

Each function takes the content of the page and returns the variables of its template, a `Missing` with the reason, or
None if the section makes no sense for the run. Nothing is computed here but how a value is written.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from zoo.report import charts
from zoo.report.content import Content, Missing
from zoo.report.figure import (
    HEADINGS,
    NONE,
    SHOWN_SETTINGS,
    Figure,
    class_name,
    count,
    flat,
    format_cell,
    fraction,
    number,
    prose,
    text,
)
from zoo.report.figure import seconds as duration
from zoo.report.results import again, file_name, picture

# The figures of the parity check, and how they are written.
PARITY = {
    "pictures": "{:,}",
    "tolerance": "{:g}",
    "logits_difference": "{:.1e}",
    "probabilities_difference": "{:.1e}",
    "top1_equal": "{:,}",
    "calibrated_difference": "{:.1e}",
    "outlier_difference": "{:.1e}",
}
# A text that is a web address as a whole, and not only begins with one.
ADDRESS = re.compile(r"https?://[^\s<>\"']+")
# How many pictures that were left out are listed.
LEFT_OUT = 50


def trained(content: Content) -> Mapping[str, Any]:
    """Return what was trained, and the evidence for it."""
    record = content.record
    evidence = record.evidence or {}
    moved = [phase for phase in record.phases if phase.get("moved_layers")]
    counts = record.data["counts"]
    return {
        "evidence": text("evidence.text", evidence.get("text")) if evidence.get("text") else None,
        "rule": evidence.get("standard_error") is not None,
        "architecture": text("architecture.name", record.architecture["name"]),
        "weights": text("weights", _weights(content)),
        "random": bool(record.weights.get("random")),
        "schedule": text("options.schedule", record.options["schedule"]),
        "phases": [
            {
                "name": text(f"phases.{phase['name']}.name", phase["name"]),
                "layers": count(f"phases.{phase['name']}.layers", len(phase["moved_layers"])),
                "word": "layer" if len(phase["moved_layers"]) == 1 else "layers",
                "parameters": count(f"phases.{phase['name']}.parameters", phase.get("moved_parameters")),
            }
            for phase in moved
        ],
        "counts": [
            (heading, count(f"data.counts.{part}", counts[part]))
            for part, heading in (("train", "training"), ("val", "validation"), ("test", "test"))
        ],
        "split": text("data.split", record.data["split"]),
        "group_by": text("options.group_by", record.options["group_by"]) if record.options.get("group_by") else None,
        "seconds": duration("seconds.train", record.seconds.get("train")),
    }


def _weights(content: Content) -> str:
    """Return the name of the weights that training started from."""
    weights = content.record.weights
    return str(weights.get("id") or weights.get("file") or "random")


def curves(content: Content) -> Mapping[str, Any] | Missing:
    """Return the learning curves, and the table of the epochs."""
    if not content.history:
        return Missing(content.problems.get("history.csv") or "history.csv is missing or empty.")
    best, columns = content.record.best_epoch, list(content.history[0])
    drawn = [(name, charts.curves(content.history, name, best, content.held_out)) for name in ("accuracy", "loss")]
    solved = {phase["name"] for phase in content.record.phases if phase.get("optimizer") == "exact"}
    folds = content.held_out == "held-out"
    return {
        "charts": [(name, chart) for name, chart in drawn if chart],
        "best": count("best_epoch", best) if best is not None else None,
        "held_out": content.held_out,
        "folds": folds and any(row.get("val_loss") not in (None, "") for row in content.history),
        "headings": [_heading(column, content.held_out) for column in columns],
        "rows": [
            {
                "best": best is not None and str(row.get("epoch")) == str(best),
                "cells": [
                    Figure(
                        f"history.{i}.{column}",
                        # A solved head has no learning rate.
                        "solved"
                        if column == "learning_rate" and row.get("phase") in solved
                        else format_cell(column, row[column]),
                    )
                    for column in columns
                ],
            }
            for i, row in enumerate(content.history)
        ],
        "folded": len(content.history) > 12,
        "single": len(content.history) == 1,
    }


def _heading(column: str, held_out: str) -> str:
    """Return the heading of a column of history.csv."""
    return HEADINGS.get(column, column).replace("validation", held_out)


def data_check(content: Content) -> Mapping[str, Any]:
    """Return the findings of the data check, and the pictures that were left out."""
    data = content.record.data
    left_out = data.get("left_out") or []
    if isinstance(left_out, Mapping):
        left_out = [{"picture": name, "why": why} for name, why in left_out.items()]
    check = data.get("check")
    return {
        "ran": check is not None,
        "lines": [prose(f"data.check.lines.{i}", line) for i, line in enumerate((check or {}).get("lines", ()))],
        "left_out": [
            (text(f"data.left_out.{i}.picture", each["picture"]), text(f"data.left_out.{i}.why", each["why"]))
            for i, each in enumerate(left_out[:LEFT_OUT])
        ],
        "number": count("data.left_out", len(left_out)),
        "one": len(left_out) == 1,
        "more": count("data.left_out.more", len(left_out) - LEFT_OUT) if len(left_out) > LEFT_OUT else None,
    }


def label_issues(content: Content) -> Mapping[str, Any] | Missing:
    """Return the pictures whose labels are probably wrong."""
    issues = content.issues
    if not issues:
        problem = content.problems.get("label_issues.json")
        return Missing(problem or f"This run has no label_issues.json. {again(content)}")
    if not issues["judged"]:
        return Missing(f"Labels were not checked: {issues.get('missing')}.")
    first, expected = [], issues.get("expected")
    for i, each in enumerate(issues["first"]):
        source = f"label_issues.first.{i}"
        first.append(
            {
                "thumbnail": picture(each.get("thumbnail")),
                "picture": text(f"{source}.picture", file_name(each["picture"])),
                "path": each["picture"],
                "class": [class_name(f"{source}.class.{j}", name) for j, name in enumerate(each["class"])],
                "suggested": [class_name(f"{source}.suggested.{j}", name) for j, name in enumerate(each["suggested"])],
                "probability_class": fraction(f"{source}.probability_class", each.get("probability_class")),
                "probability_suggested": fraction(f"{source}.probability_suggested", each.get("probability_suggested")),
            }
        )
    return {
        "method": text("label_issues.method", issues["method"]),
        "judged": count("label_issues.judged", issues["judged"]),
        "listed": count("label_issues.listed", issues["listed"]),
        "none": not issues["listed"],
        "expected": number("label_issues.expected", expected, "{:.0f}") if expected is not None else None,
        "hardly": expected is not None and expected < 0.5,
        "missing_some": prose("label_issues.missing", issues["missing"]) if issues.get("missing") else None,
        "first": first,
        "page": "label_issues.html" in content.links,
        "table": "label_issues.csv" in content.links,
    }


def phases(content: Content) -> Mapping[str, Any] | Missing:
    """Return the phases with their layers and parameters."""
    rows = []
    for i, phase in enumerate(content.record.phases):
        source, layers = f"phases.{i}", phase.get("moved_layers") or []
        solution = phase.get("solution") or {}
        rows.append(
            {
                "name": text(f"{source}.name", phase["name"]),
                "train": text(f"{source}.train", phase.get("train")),
                "epochs": count(f"{source}.epochs_run", phase.get("epochs_run")),
                "optimizer": text(f"{source}.optimizer", phase.get("optimizer")),
                "rate": number(f"{source}.learning_rate", phase.get("learning_rate")),
                "exact": phase.get("optimizer") == "exact",
                "layers": count(f"{source}.layers", len(layers)),
                "parameters": count(f"{source}.moved_parameters", phase.get("moved_parameters")),
                "seconds": number(f"{source}.seconds", phase.get("seconds"), "{:.1f}"),
                "names": [text(f"{source}.moved_layers.{j}", name) for j, name in enumerate(layers)],
                "left_out": text(f"{source}.left_out", phase["left_out"]) if phase.get("left_out") else None,
                "penalty": number(f"{source}.solution.penalty", solution["penalty"]) if "penalty" in solution else None,
                "folds": count(f"{source}.solution.folds", solution.get("folds")),
                "fold_loss": number(f"{source}.solution.fold_loss", solution.get("fold_loss"), "{:.4f}"),
            }
        )
    total = content.record.architecture.get("parameters")
    return {
        "rows": rows,
        "backbone": None if total is None else count("architecture.parameters", total),
    }


def configuration(content: Content) -> Mapping[str, Any]:
    """Return settings, versions, plugins, licences and the figures of the parity check."""
    record = content.record
    parity = record.parity or {}
    return {
        "groups": [
            (heading, [(name, text(source, value), _link(value)) for name, source, value in rows if value is not None])
            for heading, rows in _origins(content)
        ],
        "parity": {
            key: number(f"parity.{key}", parity[key], form)
            for key, form in PARITY.items()
            if parity.get(key) is not None
        },
        "versions": [
            (Figure(f"versions.{name}.name", name), text(f"versions.{name}", value))
            for name, value in record.versions.items()
        ],
        "plugins": [text(f"plugins.{i}", name) for i, name in enumerate(record.plugins)],
        "options": _settings("options", record.options),
        "head": _settings("head", record.head or {}),
        "seconds": [
            (heading, duration(f"seconds.{key}", record.seconds.get(key)))
            for key, heading in (("train", "training"), ("export", "export"))
        ],
    }


def _origins(content: Content) -> list[tuple[str, list[tuple[str, str, Any]]]]:
    """Return where the run, its pictures and its network come from: groups of (name, source, value)."""
    record = content.record
    image, weights, architecture = record.image, record.weights, record.architecture
    # Only crops have a fraction.
    keys = ("resize", "channels", "filter", *(("fraction",) if image.get("resize") == "crop" else ()))
    return [
        (
            "Run",
            [
                ("id", "id", record.id),
                ("created", "created", record.created),
                ("export's name", "name", record.name),
                ("task", "task", record.task),
                ("pictures of", "data.name", record.data["name"]),
                ("digest of the pictures", "data.digest", record.data.get("digest")),
            ],
        ),
        (
            "Pictures",
            [
                ("size in pixels", "image.size", " x ".join(map(str, image["size"]))),
                *((key, f"image.{key}", image.get(key)) for key in keys),
            ],
        ),
        (
            "Architecture",
            [(key, f"architecture.{key}", architecture.get(key)) for key in ("name", "licence", "source")],
        ),
        (
            "Weights",
            [
                ("name", "weights", _weights(content)),
                *(
                    (key, f"weights.{key}", weights.get(key))
                    for key in ("licence", "source", "origin", "package", "file", "place")
                ),
                ("digest", "weights.sha256", weights.get("sha256")),
                ("reason", "weights.reason", weights.get("reason")),
            ],
        ),
    ]


def _settings(source: str, values: Mapping[str, Any]) -> list[tuple[Figure, Figure]]:
    """Return the names and values of settings."""
    return [
        (
            Figure(f"{source}.{name}.name", SHOWN_SETTINGS.get(f"{source}.{name}", name)),
            Figure(f"{source}.{name}", value, name=True),
        )
        for name, value in flat(values)
    ]


def _link(value: Any) -> str | None:
    """Return a value that is wholly a web address, else None."""
    return value if isinstance(value, str) and ADDRESS.fullmatch(value) else None


def warnings(content: Content) -> Mapping[str, Any] | None:
    """Return the warnings of the run."""
    found = [prose(f"warnings.{i}", warning) for i, warning in enumerate(content.record.warnings)]
    return {"warnings": found} if found else None


def repeat(content: Content) -> Mapping[str, Any]:
    """Return the command that repeats the run, quoted for a shell."""
    return {
        "command": Figure("command", command_text(content)),
        "seed": text("options.seed", content.record.options.get("seed")),
    }


def command_text(content: Content) -> str:
    """Return the command of a run. Its first word is a path if zoo was started as `python -m zoo`."""
    return shlex.join(["zoo", *content.record.command[1:]]) or NONE
