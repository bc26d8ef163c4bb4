"""Functions that several commands share: they print messages, load the plugins and quote paths."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.reporter import Reporter

if TYPE_CHECKING:
    from zoo.plugin.registry import Registry

LINE_SECONDS = 10


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

    @contextlib.contextmanager
    def transfer(self, label: str, waiting: str = "") -> Iterator[Callable[[int, int], None]]:
        if not sys.stderr.isatty():
            yield _lines(label)
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as Speed

        columns = (TextColumn("  {task.description}"), BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(waiting or label, total=None)
            yield lambda done, total: bar.update(task, description=label, completed=done, total=total or None)


def _lines(label: str) -> Callable[[int, int], None]:
    """Return a function that prints size and speed of a download every LINE_SECONDS, where no bar can be drawn."""
    from zoo import files

    started = last = time.monotonic()
    first: int | None = None

    def show(done: int, total: int) -> None:
        nonlocal last, first
        # What an earlier attempt has left does not count for the speed.
        first = done if first is None else first
        now = time.monotonic()
        if now - last >= LINE_SECONDS:
            last = now
            of_all = f" of {files.size_text(total)}" if total else ""
            speed = files.size_text((done - first) / (now - started))
            click.echo(f"  {label}: {files.size_text(done)}{of_all}, {speed}/s", err=True)

    return show


def load_registry() -> Registry:
    """Load all plugins; with `zoo --no-plugins`, those of zoo alone.

    A warning is printed for each plugin that cannot be used or is slow, and for each name that several plugins provide.
    """
    from zoo.plugin import registry

    return registry.load(warn=plugin_warning, builtin_only=without_plugins())


def without_plugins() -> bool:
    """Return whether the user typed `zoo --no-plugins`."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.find_root().params.get("no_plugins"))


def plugin_warning(text: str) -> None:
    """Print a warning about a plugin. A command that loads plugins twice warns once."""
    context = click.get_current_context(silent=True)
    told: set[str] = context.meta.setdefault(f"{__name__}.told", set()) if context is not None else set()
    if text not in told:
        told.add(text)
        click.echo(f"warning: {text}", err=True)


def quoted(path: str | Path) -> str:
    """Quote a path for a shell, so that a user can paste a command with this path into a terminal."""
    import shlex

    return shlex.quote(os.fspath(path))
