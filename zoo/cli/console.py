"""Functions that several commands share: they print messages, load the plugins and quote paths."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.reporter import Reporter

if TYPE_CHECKING:
    from zoo.plugin.registry import Registry


class ConsoleReporter(Reporter):
    """Prints messages to stdout, and warnings and progress bars to stderr. Progress bars are drawn only on a terminal.

    Args:
        only_warnings: True suppresses messages, so that stdout holds only the JSON of a command. Warnings and progress
            bars are still printed.
    """

    def __init__(self, *, only_warnings: bool = False) -> None:
        super().__init__()
        self._only_warnings = only_warnings

    def say(self, text: str) -> None:
        if not self._only_warnings:
            click.echo(text)

    def warn(self, text: str) -> None:
        click.echo(click.style("warning: ", fg="yellow") + text, err=True)

    def block(self, title: str, text: str) -> None:
        rule = "=" * 78
        click.echo(click.style(f"{rule}\n{title}\n{text}\n{rule}", fg="yellow"), err=True)

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int], None]]:
        if not sys.stderr.isatty():
            yield lambda done, total: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # A transient bar leaves nothing on the screen. Until the first step is done, its length is unknown.
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total or None)


def load_registry() -> Registry:
    """Load all plugins.

    A warning is printed for each plugin that cannot be used, and for each name that several plugins provide.
    """
    from zoo.plugin import registry

    return registry.load(warn=lambda text: click.echo(f"warning: {text}", err=True))


def quoted(path: str | Path) -> str:
    """Quote a path for a shell, so that a user can paste a command with this path into a terminal."""
    import shlex

    return shlex.quote(os.fspath(path))
