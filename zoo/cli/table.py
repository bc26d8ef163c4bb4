"""Lays out tables for a terminal: columns that shrink to fit, texts in words such as "9 min", and colors."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

COLORS = {"failed": "red", "unreadable": "red", "interrupted": "yellow", "trained": "yellow", "running": "cyan"}
GAP = 2


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        title: The title.
        least: How narrow it may become if the terminal is too narrow; longer texts then end in "…". None keeps it.
        dropped: Columns with greater numbers are left out first if the table does not fit; 0 is always shown.
        right: Whether the texts are aligned to the right.
        middle: Whether longer texts are cut in their middle, because their ends tell them apart.
    """

    title: str
    least: int | None = None
    dropped: int = 0
    right: bool = False
    middle: bool = False


def terminal_width() -> int | None:
    """Return the width of the terminal, or None if the output goes to a file or a program, which gets whole lines."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def colored(text: str, state: str) -> str:
    """Color a text as its state demands, unless the environment variable NO_COLOR forbids it."""
    color = COLORS.get(state)
    return click.style(text, fg=color) if color and not os.environ.get("NO_COLOR") else text


def one_line(text: str) -> str:
    """Replace characters that would break a line or its layout by escapes."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def cut(text: str, width: int) -> str:
    """Shorten a text to a number of columns of the terminal, with "…" at its end."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else f"{set_cell_size(text, max(0, width - 1)).rstrip()}…"


def cut_middle(text: str, width: int) -> str:
    """Shorten a text to a number of columns of the terminal, with "…" in its middle."""
    from rich.cells import cell_len

    if cell_len(text) <= width or width < 3:
        return cut(text, width)
    end = text[-((width - 1) // 2) :]
    while cell_len(end) > (width - 1) // 2:
        end = end[1:]
    return f"{cut(text, width - cell_len(end))}{end}"


def layout(columns: Sequence[Column], lines: Sequence[Sequence[str]], width: int | None) -> list[list[str]]:
    """Return the padded cells of a table, with the titles as its first line.

    Args:
        columns: The columns. The last one is never padded.
        lines: The cells of each line.
        width: The width of the terminal; None is unlimited.
    """
    from rich.cells import cell_len

    shown = list(range(len(columns)))
    cells = [[each.title for each in columns], *([one_line(text) for text in line] for line in lines)]
    widths = [max(cell_len(line[i]) for line in cells) for i in range(len(columns))]
    if width is not None:
        while len(shown) > 1 and _least(columns, widths, shown) > width:
            last = max(shown, key=lambda i: (columns[i].dropped, i))
            if not columns[last].dropped:
                break
            shown.remove(last)
        for i in sorted(shown, key=lambda i: widths[i] - (columns[i].least or widths[i]), reverse=True):
            excess = sum(widths[j] + GAP for j in shown) - GAP - width
            if excess > 0 and columns[i].least is not None:
                widths[i] = max(min(widths[i], columns[i].least or 0), widths[i] - excess)
    return [[_padded(columns[i], line[i], widths[i], i == shown[-1]) for i in shown] for line in cells]


def _least(columns: Sequence[Column], widths: Sequence[int], shown: Sequence[int]) -> int:
    """Return how wide a table is if all columns are as narrow as they may be."""
    return sum(min(widths[i], columns[i].least or widths[i]) + GAP for i in shown) - GAP


def _padded(column: Column, text: str, width: int, last: bool) -> str:
    from rich.cells import cell_len

    text = (cut_middle if column.middle else cut)(text, width)
    space = " " * (width - cell_len(text))
    return space + text if column.right else text if last else text + space


def joined(cells: Sequence[str]) -> str:
    """Join the cells of a line."""
    return (" " * GAP).join(cells).rstrip()


def duration(seconds: float | None) -> str:
    """Return a time in words, such as "28 s", "9 min", "2.5 h" or "3 days"; "-" if it is unknown."""
    if seconds is None:
        return "-"
    for limit, unit, size in ((99.5, "s", 1), (99.5 * 60, "min", 60), (48 * 3600, "h", 3600)):
        if seconds < limit:
            number = seconds / size
            return f"{number:.1f} {unit}" if unit == "h" and number < 10 else f"{max(0, number):.0f} {unit}"
    return f"{seconds / 86400:.0f} days"


def age(seconds: float | None) -> str:
    """Return how long ago something was; a clock that was wrong gives "in future"."""
    if seconds is not None and seconds < -60:
        return "in future"
    return duration(None if seconds is None else max(0.0, seconds))
