"""Prints a comparison of runs, and writes its page, for the command `zoo report A B`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

OUTPUT = "comparison.html"


def compare(folders: Sequence[Path], output: Path | None, *, as_json: bool, show: bool) -> Path | None:
    """Compare runs, print the result, and write the page.

    Args:
        folders: The run folders. The others are compared with the first one.
        output: The file for the page. None means comparison.html in the current folder.
        as_json: Whether to print JSON. The page is then written only if `output` or `show` asks for it.
        show: Whether the page will be opened.

    Returns:
        The path of the page; None if there is none.

    Raises:
        UsageError: The request cannot be meant; see `zoo.workflow.compare_runs`.
        RunError: A file of a run is missing or damaged.
        WriteError: The page cannot be written.
    """
    from zoo.report import comparison
    from zoo.workflow import compare_runs

    if output is not None and output.suffix.lower() not in (".html", ".htm"):
        raise click.UsageError(f"--output must end in .html. Received: {str(output)!r}.")
    compared = compare_runs.compare(folders)
    page = output or Path(OUTPUT)
    wanted = not as_json or output is not None or show
    if wanted:
        compare_runs.write(compared, page, chosen=output is not None)
    if as_json:
        click.echo(json.dumps(compared))
    else:
        for line in comparison.terminal(compared):
            click.echo(line)
        click.echo(f"\nReport     {page}")
    return page if wanted else None
