"""The commands about pictures, without training: data show, data check, data restore, data apply."""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.console import ConsoleReporter, quoted
from zoo.cli.data_command import ReadingCommand
from zoo.cli.group_by_option import group_by_option
from zoo.cli.options import levels_option, runs_option
from zoo.cli.reading_options import reading_options, reading_values

if TYPE_CHECKING:
    from zoo.data.check.findings import Finding
    from zoo.workflow.data_check import DataCheck

SHOWN = 3
CLASSES = 10


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


@click.group(cls=_DataGroup, short_help="Show and check pictures without training.")
def data() -> None:
    """Look at pictures without training: what is read, and what is wrong with it."""


@data.command("show", cls=ReadingCommand, short_help="Show what would be read: layout, classes, counts.")
@click.argument("data", metavar="DATA")
@reading_options
@group_by_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def show(data: str, as_json: bool, group_by: str | None, **values: Any) -> None:
    """Show what zoo would read: the layout, the classes, the number of pictures, and what is left out.

    No picture is decoded. DATA is what --data takes: a folder, a CSV file, an .npz file, or 'digits'.
    """
    from zoo.data import group_by as grouping
    from zoo.data import overview, sources
    from zoo.errors import DataLayout, EmptyClass
    from zoo.reporter import Reporter

    reading = reading_values(values)
    problem = ""
    try:
        source = sources.open_source(data, reading=reading)
    except (DataLayout, EmptyClass) as error:
        # Pictures that are not enough for a training can be evaluated with another network.
        source = sources.open_source(data, reading=reading, fewest_classes=1)
        problem = str(error)
    reporter = ConsoleReporter(only_warnings=as_json)
    overview.report(source, reporter if not as_json else Reporter())
    keys = None if group_by is None else grouping.keys_of(group_by, source, data, reporter, reading)
    split = (
        {"problem": problem}
        if problem
        else overview.expected_split(source, seed=0, val_fraction=None, validation=False, group_by=group_by, keys=keys)
    )
    if as_json:
        found = {"data": sources.location(data), **overview.to_json(source), "split": split}
        found |= {} if keys is None else {"group_by": grouping.summary(keys)}
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    overview.show_split(source, split, reporter)
    if "problem" in split:
        reporter.warn(f"training is not possible: {split['problem']}")


@data.command("check", cls=ReadingCommand, short_help="Find copies, leaks, wrong labels and poor pictures.")
@click.argument("data", metavar="DATA")
@reading_options
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, with the names of all pictures.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a page with the findings and a contact sheet of each class.",
)
@click.option(
    "--quarantine",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Move unreadable files, extra copies and pictures with contradicting labels to DIR. Nothing is deleted.",
)
@click.option("--strict", is_flag=True, help="Exit with code 1 on leaks, contradicting labels or unreadable files.")
@levels_option
@group_by_option
def check(
    data: str,
    as_json: bool,
    html: Path | None,
    quarantine: Path | None,
    strict: bool,
    levels: int,
    group_by: str | None,
    **values: Any,
) -> int:
    """Check the pictures of DATA, which is what --data takes: a folder, a list, an .npz file, or 'digits'.

    Finds unreadable files, copies and near-duplicates, copies in two parts of a split or with different labels, and
    pictures that are dark, bright, blurred, blank, tiny or oddly shaped. Nothing is changed without --quarantine.
    """
    from zoo.workflow import data_check

    reporter = ConsoleReporter(only_warnings=as_json)
    reading = reading_values(values)
    again = [
        data,
        *reading.words(),
        *([] if levels == 16 else ["--levels", str(levels)]),
        *([] if group_by is None else ["--group-by", group_by]),
    ]
    result = data_check.check(
        data, reporter, reading=reading, group_by=group_by, html=html, quarantine_folder=quarantine, levels=levels
    )
    if as_json:
        click.echo(data_check.dumps(result))
    else:
        _show(again, result, html, quarantine)
    return int(strict and result.failed)


@data.command("restore", short_help="Move files of a quarantine back.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def restore(folder: Path) -> int:
    """Move the files that `zoo data check --quarantine DIR` moved to DIR back to where they were.

    Nothing is overwritten: a file whose place is taken stays in DIR. The exit code is then 1.
    """
    from zoo.data.check import quarantine
    from zoo.reporter import counted

    result = quarantine.restore(folder)
    click.echo(f"Moved      {counted(len(result.moved), 'file')} back")
    for what, paths in (("already gone from the quarantine", result.missing), ("place taken", result.occupied)):
        for path in paths[:SHOWN]:
            click.echo(f"warning: not moved, {what}: {path}", err=True)
        if len(paths) > SHOWN:
            click.echo(f"warning: not moved, {what}: {len(paths) - SHOWN} more", err=True)
    return int(bool(result.missing or result.occupied))


@data.command("apply", short_help="Write a new list from decisions about doubtful labels.")
@click.argument("decisions", metavar="DECISIONS", type=click.Path(path_type=Path))
@click.option("--run", metavar="RUN", help="Run folder or id (default: the run that DECISIONS names).")
@runs_option
@click.option("--data", metavar="DATA", help="Where the pictures of the run are now, if they have moved.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The new list (default: NAME-checked.csv here; .npz if the pictures are arrays).",
)
@click.option(
    "--no-split", is_flag=True, help="Leave out the split, so that the next training splits all pictures anew."
)
@click.option("--replace", is_flag=True, help="Also replace an existing file.")
def apply(
    decisions: Path, run: str | None, runs: Path, data: str | None, output: Path | None, no_split: bool, replace: bool
) -> None:
    """Write a new list of the pictures of a run, with the labels that DECISIONS gives.

    DECISIONS is decisions.csv, which the page label_issues.html in the run folder downloads. No picture is changed.
    """
    from zoo.workflow import decisions as deciding

    made = deciding.apply(
        decisions,
        ConsoleReporter(),
        run=run,
        folder=runs,
        data=data,
        output=output,
        split=not no_split,
        replace=replace,
    )
    applied = made.applied
    click.echo(f"Decisions  {applied.kept} kept, {len(applied.relabeled)} relabeled, {len(applied.removed)} removed")
    click.echo(f"List       {made.path} ({len(applied.entries)} pictures)")
    click.echo(f"Next       {made.command}")


def _show(again: list[str], result: DataCheck, html: Path | None, quarantine: Path | None) -> None:
    """Print the summary, the findings with their first pictures, and what was written."""
    summary = result.summary
    source = result.checked.source
    unread = summary["pictures"] - summary["readable"]
    if unread:
        click.echo(f"Unreadable {unread} of {summary['pictures']} pictures")
    if summary["sizes"]:
        sizes = summary["sizes"]
        click.echo(f"Sizes      {sizes['smallest']} to {sizes['largest']}, median {sizes['median']}")
        for title, key in (("Formats", "formats"), ("Modes", "modes")):
            click.echo(f"{title:10} " + ", ".join(f"{name} {count}" for name, count in summary[key].items()))
    names = [picture.name for picture in source.pictures]
    for finding in result.findings:
        click.echo("")
        _show_finding(finding, names)
    click.echo("")
    if not result.findings:
        click.echo("Nothing was found that needs attention.")
    shown = f"zoo data check {' '.join(map(quoted, again))} --json"
    if any(len(finding.items) > SHOWN for finding in result.findings):
        click.echo(f"All names  {shown}")
    if html:
        click.echo(f"Page       {html}")
    if quarantine and result.moved:
        click.echo(f"Moved      {len(result.moved)} files to {quarantine}; {quarantine / 'quarantine.csv'} lists them")
        click.echo(f"Undo       zoo data restore {quoted(quarantine)}")
    elif quarantine:
        click.echo("Moved      nothing")
    click.echo(f"Took       {result.seconds:.1f} s")


def _show_finding(finding: Finding, names: list[str]) -> None:
    colors: dict[str, Any] = {"error": "red", "warning": "yellow"}
    click.echo(click.style(f"{finding.level}: ", fg=colors.get(finding.level)) + finding.title)
    for item in finding.items[:SHOWN]:
        shown = " = ".join(names[i] for i in item.pictures[:4]) + (" ..." if len(item.pictures) > 4 else "")
        click.echo(f"    {shown}" + (f" ({item.detail})" if item.detail else ""))
    if len(finding.items) > SHOWN:
        click.echo(f"    and {len(finding.items) - SHOWN} more")
    if finding.classes:
        more = f" and {len(finding.classes) - CLASSES} more" if len(finding.classes) > CLASSES else ""
        click.echo("    " + ", ".join(map(repr, finding.classes[:CLASSES])) + more)
    if finding.advice:
        click.echo(f"  {finding.advice}")
