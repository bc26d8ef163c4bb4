"""Says what the removal of runs deletes, asks, and removes them, for the command `zoo runs rm`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.table import one_line
from zoo.errors import UsageError, ZooError
from zoo.files import size_text
from zoo.reporter import counted, joined

if TYPE_CHECKING:
    from zoo.workflow.remove_runs import Removal

NAMED = 5


def remove(requested: Sequence[str], folder: Path, *, failed: bool, own_files: bool, leftovers: bool, yes: bool) -> int:
    """Remove runs.

    Args:
        requested: The runs that the user named.
        folder: The folder of runs.
        failed: Whether to remove all failed runs, too.
        own_files: Whether to delete files that zoo did not make.
        leftovers: Whether to delete what earlier removals have left.
        yes: Whether to remove without a question.

    Returns:
        The exit code: 1 if nothing was removed because the user said no, or if a run could not be removed.

    Raises:
        ZooError: A run cannot be removed. Nothing is removed then.
    """
    from zoo.workflow import remove_runs

    removals = [remove_runs.plan(place, folder) for place in remove_runs.find(requested, folder, failed=failed)]
    rest = remove_runs.leftovers(folder) if leftovers else []
    if not removals and not rest:
        click.echo("There is nothing to remove.")
        return 0
    for removal in removals:
        for line in _lines(removal, own_files):
            click.echo(line)
    for place in rest:
        click.echo(f"{place}: the rest of a removed run")
    total = sum(removal.bytes for removal in removals)
    what = " and ".join(
        text
        for text in (
            counted(len(removals), "run") if removals else "",
            counted(len(rest), "leftover") if rest else "",
        )
        if text
    )
    if not confirmed(f"Remove {what} ({size_text(total)})?" if removals else f"Remove {what}?", yes, "removed"):
        return 1
    problems = 0
    for removal in removals:
        try:
            remove_runs.remove(removal, foreign=own_files)
        except ZooError as error:
            problems += 1
            click.echo(f"error: {error}", err=True)
    remove_runs.delete_leftovers(rest)
    click.echo(f"Removed    {counted(len(removals) - problems, 'run')}")
    return int(problems > 0)


def confirmed(question: str, yes: bool, verb: str) -> bool:
    """Ask a question, unless the user has answered it already.

    Args:
        question: The question.
        yes: Whether the user gave --yes.
        verb: What would be done, such as "removed".

    Raises:
        UsageError: There is no terminal, so that nobody can answer.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(f"nothing was {verb}: there is no terminal to ask in. Add --yes to do it without a question.")
    if click.confirm(question):
        return True
    click.echo(f"Nothing was {verb}.")
    return False


def _lines(removal: Removal, own_files: bool) -> list[str]:
    """Say what the removal of a run deletes and what stays."""
    if removal.link:
        return [f"{one_line(str(removal.folder))}: only the link is removed; what it names stays"]
    lines = [f"{one_line(str(removal.folder))}: {removal.state}, {size_text(removal.bytes)}"]
    if removal.resumable:
        lines.append("    It can no longer be resumed then.")
    for path in removal.exports:
        lines.append(f"    The export stays: {one_line(str(path))}")
    if removal.only_copy:
        lines.append("    Its exported file model.onnx is deleted, too. No equal file is in the folder of exports.")
    if removal.foreign:
        names = joined([one_line(name) for name in removal.foreign], NAMED)
        fate = "deleted, too" if own_files else "not of zoo and kept in this folder (--own-files deletes them)"
        lines.append(f"    {names}: {fate}")
    return lines
