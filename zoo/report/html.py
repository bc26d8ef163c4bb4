"""Renders report.html, the report page of a run.

The page shows curves.png, which is in the same folder, and loads nothing else. All numbers come from run.json,
metrics.json and history.csv. This module does not compute any numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from zoo.runs import RunRecord
from zoo_runtime import format_accuracy

# How the page shows the columns of history.csv. A column that is not listed keeps its name and its text.
HEADINGS = {
    "phase": "phase",
    "epoch": "epoch",
    "learning_rate": "learning rate",
    "loss": "training loss",
    "accuracy": "training accuracy",
    "val_loss": "validation loss",
    "val_accuracy": "validation accuracy",
    "seconds": "seconds",
}
FORMATS = {
    "learning_rate": "{:.3g}",
    "loss": "{:.4f}",
    "accuracy": "{:.4f}",
    "val_loss": "{:.4f}",
    "val_accuracy": "{:.4f}",
    "seconds": "{:.1f}",
}


def render(
    record: RunRecord,
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    *,
    curves: str | None = None,
) -> str:
    """Render the report page of a run.

    Args:
        record: The content of run.json.
        metrics: The content of metrics.json; empty if the network was not evaluated.
        history: The rows of history.csv, one per epoch.
        curves: The name of the PNG with the learning curves, in the folder of the page. None if there is none.

    Returns:
        The HTML. Names of classes and files are escaped.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["label"] = _label
    template = files(__package__).joinpath("report.html.jinja").read_text("utf-8")
    return environment.from_string(template).render(
        **_run_facts(record),
        test=metrics.get("test"),
        accuracies={part: _accuracy(figures) for part, figures in metrics.items()},
        headings=[HEADINGS.get(column, column) for column in history[0]] if history else [],
        epochs=[[format_cell(column, value) for column, value in row.items()] for row in history],
        curves=curves,
    )


def _label(name: str) -> str:
    """Return the name of a class, quoted if its blanks or invisible characters would not be seen on the page."""
    return name if name and name == " ".join(name.split()) and name.isprintable() else repr(name)


def _accuracy(figures: Mapping[str, Any]) -> str:
    """Format the accuracy of one part, or the exact match if there is one, with its interval if it has one."""
    key = "exact_match" if "exact_match" in figures else "accuracy"
    interval = figures.get(f"{key}_interval")
    return format_accuracy(figures[key], interval, figures["pictures"]) if interval else f"{figures[key]:.4f}"


def _run_facts(record: RunRecord) -> dict[str, Any]:
    """Return the template variables that come from the run record.

    Only this function reads the record. The rest of this module and the template do not depend on the names of its
    fields.
    """
    options, weights, image, data = record.options, record.weights, record.image, record.data
    seconds = record.seconds.get("train")
    counts = " / ".join(str(data["counts"][part]) for part in ("train", "val", "test"))
    return {
        "run": record.id,
        "title": f"{record.architecture['name']} on {data['name']}",
        "warnings": record.warnings,
        "evidence": (record.evidence or {}).get("text"),
        "check": data.get("check", {}).get("lines", ()),
        "best_epoch": record.best_epoch,
        "settings": [
            ("run", record.id),
            ("weights", weights.get("id") or weights.get("file") or "random"),
            ("schedule", options["schedule"]),
            ("augmentation", options["augment"]),
            ("picture size", " x ".join(map(str, image["size"])) + f" pixels, {image['resize']}"),
            ("pictures (training / validation / test)", counts),
            ("split", data["split"]),
            *([("kept together by", options["group_by"])] if options.get("group_by") else []),
            ("pictures left out", len(data["left_out"])),
            ("seed", options["seed"]),
            ("training time", "not measured" if seconds is None else f"{seconds:.1f} seconds"),
        ],
    }


def format_cell(column: str, value: Any) -> str:
    """Format one value of history.csv for the page.

    Args:
        column: The column of history.csv, such as "val_loss".
        value: The value, as a number or as a string from the file.

    Returns:
        A learning rate with 3 significant digits, a loss or an accuracy with 4 decimals, or seconds with 1 decimal. An
        empty value or None becomes "-". Everything else stays as it is.
    """
    if value is None or value == "":
        return "-"
    try:
        number = float(value)
    except ValueError:
        return str(value)
    if column not in FORMATS or not math.isfinite(number):
        return str(value)
    return FORMATS[column].format(number)
