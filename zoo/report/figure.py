"""Formats what the report page shows, and marks it with its source.

Everything on the page that is not fixed prose is a `Figure`: a text with the name of the value that it shows. The name
stands in the attribute `data-figure`, so that a test can compare the whole page with the files of the run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from markupsafe import Markup, escape

# Words with more characters may be broken.
LONG = 14
CODE = re.compile("`([^`]+)`")
# A value that does not exist.
NONE = "–"
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


# Settings that pages name by their option, because their own name says less.
SHOWN_SETTINGS = {"options.wanted_precision": "--precision"}


@dataclass(frozen=True)
class Figure:
    """A text of the page with the source of its value.

    Args:
        source: The name of the value, such as "test.per_class.cat.recall".
        text: The text that the page shows. It is escaped.
        name: Whether the text was chosen by a user, such as the name of a class. It may then be written from right to
            left.
        code: Whether words between backticks are commands. They are shown without the backticks, in other letters.
    """

    source: str
    text: str
    name: bool = False
    code: bool = False

    def __html__(self) -> Markup:
        if not self.name:
            return Markup('<span data-figure="{}">{}</span>').format(self.source, self.text)
        # Only a long word may be broken anywhere, so that short names keep their width in a table.
        style = "name long" if max(map(len, self.text.split()), default=0) > LONG else "name"
        return Markup('<bdi class="{}" data-figure="{}">{}</bdi>').format(style, self.source, self._content())

    def _content(self) -> str:
        if not self.code:
            return self.text
        return Markup(CODE.sub(r"<code>\1</code>", str(escape(self.text))))

    def __str__(self) -> str:
        return self.text


def label(name: str) -> str:
    """Return the name of a class, quoted if its blanks or invisible characters would not be seen on the page."""
    return name if name and name == " ".join(name.split()) and name.isprintable() else repr(name)


def class_name(source: str, name: str) -> Figure:
    """Return the name of a class as a figure."""
    return Figure(source, label(name), name=True)


def text(source: str, value: Any) -> Figure:
    """Return any value as a figure; None becomes a dash."""
    return Figure(source, NONE if value is None or value == "" else str(value), name=isinstance(value, str))


def prose(source: str, value: str) -> Figure:
    """Return a sentence as a figure. Commands in it stand between backticks."""
    return Figure(source, value, name=True, code=True)


def count(source: str, value: int | None) -> Figure:
    """Return a whole number as a figure, with commas between thousands."""
    return Figure(source, NONE if value is None else f"{value:,}")


def fraction(source: str, value: float | None, decimals: int = 3) -> Figure:
    """Return a number in 0..1 as a figure. It is rounded to 0 or 1 only if it is 0 or 1."""
    return Figure(source, NONE if value is None else shown(value, decimals))


def shown(value: float, decimals: int = 3) -> str:
    """Format a number in 0..1 with a fixed number of decimals, and with more if it would be rounded to 0 or 1."""
    exact = decimals
    while exact < 6 and round(value, exact) in (0, 1) and value not in (0, 1):
        exact += 1
    return f"{value:.{exact}f}"


def interval(source: str, bounds: Sequence[float] | None) -> Figure:
    """Return an interval as a figure, such as "0.70 to 0.84"; with 3 decimals if it is narrower than 0.1."""
    if bounds is None:
        return Figure(source, "")
    low, high = bounds
    decimals = 2 if high - low >= 0.1 else 3
    return Figure(source, f"{low:.{decimals}f} to {high:.{decimals}f}")


def number(source: str, value: float | None, form: str = "{:.3g}") -> Figure:
    """Return any other number as a figure."""
    return Figure(source, NONE if value is None else form.format(value))


def seconds(source: str, value: float | None) -> Figure:
    """Return a duration as a figure, such as "85.5 seconds"."""
    return Figure(source, "not measured" if value is None else f"{value:.1f} seconds")


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
        parsed = float(value)
    except ValueError:
        return str(value)
    if column not in FORMATS or not math.isfinite(parsed):
        return str(value)
    return FORMATS[column].format(parsed)


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return (name, text) of every setting, with dots between the names of nested ones."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, setting(value)))
    return rows


def setting(value: Any) -> str:
    """Return a setting as text: "yes" and "no", lists with commas, and a dash for what is not set."""
    if value is None or value == [] or value == {} or value == "":
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(setting, value))
    return str(value)


def shared_style() -> str:
    """Return the style sheet that all pages share."""
    return files(__package__).joinpath("templates", "base.css").read_text("utf-8")
