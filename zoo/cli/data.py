"""The commands that look at pictures without training: data show."""

from __future__ import annotations

import difflib
import json
import os
from typing import Any

import click

from zoo.cli.console import ConsoleReporter, quoted
from zoo.cli.data_command import ReadingCommand
from zoo.cli.reading_options import reading_options, reading_values


class _DataGroup(click.Group):
    """A group of commands. If the name of the command is left out, the error message shows a command to type."""

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(context, args[0]) is None:
            nearest = difflib.get_close_matches(args[0], self.commands, n=1)
            is_data = args[0] == "digits" or os.path.exists(os.path.expanduser(args[0]))
            rest = args if is_data or not nearest else args[1:]
            words = " ".join(map(quoted, ["data", nearest[0] if nearest and not is_data else "show", *rest]))
            raise click.UsageError(f"there is no command 'data {args[0]}'. Did you mean `zoo {words}`?", context)
        return super().resolve_command(context, args)


@click.group(cls=_DataGroup)
def data() -> None:
    """Look at pictures without training."""


@data.command("show", cls=ReadingCommand, short_help="Show what would be read: layout, classes, counts.")
@click.argument("data", metavar="DATA")
@reading_options
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def show(data: str, as_json: bool, **values: Any) -> None:
    """Show what zoo would read: the layout, the classes, the number of pictures, and what is left out.

    No picture is decoded. DATA is what --data takes: a folder, a CSV file, an .npz file, or 'digits'.
    """
    from zoo.data import overview, sources

    source = sources.open_source(data, reading=reading_values(values), fewest_classes=1)
    split = overview.expected_split(source, seed=0, val_fraction=None, validation=False)
    if as_json:
        found = {"data": sources.location(data), **overview.to_json(source), "split": split}
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    reporter = ConsoleReporter()
    overview.show(source, split, reporter)
    if "problem" in split:
        reporter.warn(f"training is not possible: {split['problem']}")
