"""The commands about finished and unfinished runs: `zoo runs` with show, diff and rm."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli import table
from zoo.cli.console import quoted
from zoo.cli.options import runs_option
from zoo.cli.table import Column

if TYPE_CHECKING:
    from zoo.workflow.run_list import ListedRun, Listing, Score

MARKS = {"test": "", "validation": " val", "cross_validation": " cv"}
COLUMNS = (
    Column("RUN", least=12),
    Column("STATE"),
    Column("NETWORK", least=10, middle=True),
    Column("DATA", least=8, dropped=1),
    Column("SCHEDULE", least=9, dropped=2),
    Column("TIME", dropped=3, right=True),
    Column("AGE", dropped=4, right=True),
    Column("ACCURACY (95 %)", least=19),
)
SHOWN_FOREIGN = 5
# So much of the reason of a failure must be visible before names of runs are whole.
WHY = 40
_SORTS: dict[str, Callable[[ListedRun], Any]] = {
    "date": lambda run: run.created,
    "accuracy": lambda run: run.score.value if run.score else -1.0,
    "time": lambda run: -1.0 if run.seconds is None else run.seconds,
    "name": lambda run: run.id,
    "network": lambda run: run.network,
    "data": lambda run: run.data,
    "state": lambda run: run.state,
}
DESCENDING = ("date", "accuracy", "time")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class _RunCommands(click.Group):
    """The group of commands about runs. If the name of a run is in the place of a command, the message says so."""

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(context, name) is None:
            known = {"delete": "rm", "remove": "rm", "compare": "diff", "info": "show", "ls": "", "list": ""}
            nearest = difflib.get_close_matches(name, self.commands, n=1)
            meant = known.get(name, nearest[0] if nearest else f"show {quoted(name)}")
            command = f"zoo runs {meant}".rstrip()
            raise click.UsageError(f"there is no command 'runs {name}'. Did you mean `{command}`?", context)
        return super().resolve_command(context, args)


@click.group(cls=_RunCommands, invoke_without_command=True, short_help="List runs; show, compare and remove them.")
@runs_option
@json_option
@click.option("--sort", type=click.Choice(list(_SORTS)), default="date", show_default=True, help="The order.")
@click.pass_context
def runs(context: click.Context, runs: Path, as_json: bool, sort: str) -> None:
    """List the runs, the latest one first, with their state and their accuracy on test pictures.

    A narrow terminal shows only the last six characters of a run's name. Every command that takes a RUN accepts them.
    """
    if context.invoked_subcommand is not None:
        given = {"runs": runs, "as_json": as_json}
        typed = {
            key: value
            for key, value in given.items()
            if context.get_parameter_source(key) == click.core.ParameterSource.COMMANDLINE
        }
        context.default_map = dict.fromkeys(context.command.commands, typed)  # type: ignore[attr-defined]
        return
    from zoo.workflow import run_list

    listing = run_list.read(runs)
    listed = sorted(listing.runs, key=_SORTS[sort], reverse=sort in DESCENDING)
    if as_json:
        entries = {"runs": [_to_json(each) for each in listed], "foreign": dict(listing.foreign)}
        click.echo(json.dumps(entries))
        return
    if listed:
        for line in _lines(listed):
            click.echo(line)
    else:
        click.echo(f"There are no runs in {str(runs)!r}. `zoo finetune mobilenetv2 --data FOLDER` starts one.")
    _name_foreign(listing, runs)


def _to_json(run: ListedRun) -> dict[str, Any]:
    return {
        "id": run.id,
        "folder": str(run.folder),
        "state": run.state,
        "why": run.why,
        "network": run.network,
        "data": run.data,
        "schedule": run.schedule,
        "score": None if run.score is None else vars(run.score),
        "seconds": run.seconds,
        "created": run.created,
    }


def _lines(listed: list[ListedRun]) -> list[str]:
    """Return the lines of the table."""
    width = table.terminal_width()
    cells = [_cells(run) for run in listed]
    short = [[*line[:-1], line[-1][:WHY]] for line in cells]
    widest = max(len(table.joined(line)) for line in table.layout(COLUMNS, short, None))
    if width is not None and widest > width:
        # Names are shortened before anything else, because their last characters name a run, too.
        ends = [run.id.rpartition("-")[2] for run in listed]
        for run, line, end in zip(listed, cells, ends, strict=True):
            if _has_usual_name(run):
                line[0] = end if ends.count(end) == 1 else f"…{run.id[-11:]}"
    titles, *rows = table.layout(COLUMNS, cells, width)
    lines = [table.joined(titles)]
    for run, row in zip(listed, rows, strict=True):
        row[1] = table.colored(row[1], run.state)
        lines.append(table.joined(row))
    return [*lines, *_legend(listed)]


def _has_usual_name(run: ListedRun) -> bool:
    from zoo.workflow.run_list import RUN_NAME

    return RUN_NAME.fullmatch(run.id) is not None


def _cells(run: ListedRun) -> list[str]:
    # The folders of a path would leave no room for the reason. `zoo runs show` has them.
    why = re.sub(r"'(?:/|[A-Za-z]:)[^']*[/\\]([^'/\\]+)'", r"'…/\1'", run.why)
    result = why or (score_text(run.score) if run.score else "-")
    texts = (run.network, run.data, run.schedule)
    return [
        run.id,
        run.state,
        *(text or "-" for text in texts),
        table.duration(run.seconds),
        table.age(run.age),
        result,
    ]


def score_text(score: Score) -> str:
    """Format a figure with its interval, with as many decimals as the interval justifies, as the runtime does."""
    mark = MARKS[score.part] + (" exact" if score.name == "exact match" else "")
    if score.interval is None:
        return f"{score.value:.4f}{mark}"
    low, high = score.interval
    decimals = 2 if high - low >= 0.02 else 3 if high - low >= 0.002 else 4
    exact = decimals
    while exact < 6 and round(score.value, exact) in (0, 1) and score.value not in (0, 1):
        exact += 1
    return f"{score.value:.{exact}f} ({low:.{decimals}f}-{high:.{decimals}f}){mark}"


def _legend(listed: list[ListedRun]) -> list[str]:
    """Explain the marks in the table, if there are any."""
    scores = [run.score for run in listed if run.score and not run.why]
    texts = {
        "val: on validation pictures": any(score.part == "validation" for score in scores),
        "cv: in cross-validation": any(score.part == "cross_validation" for score in scores),
        "exact: all labels of a picture are right": any(score.name == "exact match" for score in scores),
    }
    states = {run.state for run in listed}
    lines = ["; ".join(text for text, there in texts.items() if there)]
    if "trained" in states:
        lines.append("trained: the network is kept, but its export is not finished; `zoo resume RUN` finishes it")
    if "interrupted" in states:
        lines.append("interrupted: `zoo resume RUN` continues it")
    lines = [line for line in lines if line]
    return ["", *lines] if lines else []


def _name_foreign(listing: Listing, folder: Path) -> None:
    """Name what is not a run, on stderr."""
    for name, why in list(listing.foreign.items())[:SHOWN_FOREIGN]:
        click.echo(f"not a run: {table.one_line(str(folder / name))}: {why}", err=True)
    more = len(listing.foreign) - SHOWN_FOREIGN
    if more > 0:
        click.echo(f"not runs: {more} more (--json names them)", err=True)


@runs.command("show", short_help="Show everything about a run.")
@click.argument("requested", metavar="RUN")
@runs_option
@json_option
def show(requested: str, runs: Path, as_json: bool) -> None:
    """Show the state of RUN, what to do next, its settings, data, phases, result, files and versions.

    RUN is a run folder, the name of a run, or the last six characters of its name.
    """
    from zoo.cli import run_show
    from zoo.runs import find
    from zoo.workflow import run_details

    described = run_details.describe(find(requested, runs))
    if as_json:
        click.echo(json.dumps(described))
        return
    for line in run_show.lines(described):
        click.echo(line)


@runs.command("diff", short_help="Say how two runs differ.")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@runs_option
@json_option
def diff(first: str, second: str, runs: Path, as_json: bool) -> None:
    """Say how the runs A and B differ: configuration, data, split, versions, plugins, result and exported weights.

    A and B are run folders, names of runs, or the last six characters of their names.

    On the test pictures that both have, a paired test says whether one is better. Only files in the run folders are
    read. `zoo report A B` writes a page about it.
    """
    from zoo.cli import run_diff
    from zoo.runs import find
    from zoo.workflow import run_differences

    compared = run_differences.compare(find(first, runs), find(second, runs))
    equal = run_differences.sections(compared)
    if as_json:
        click.echo(json.dumps({**compared, "equal": equal}))
        return
    for line in run_diff.lines(compared, equal):
        click.echo(line)


@runs.command("rm", short_help="Remove runs, after asking.")
@click.argument("requested", nargs=-1, metavar="RUN...")
@click.option("--failed", is_flag=True, help="Remove all runs that have failed.")
@click.option("--own-files", is_flag=True, help="Also delete files in the run folders that zoo did not make.")
@click.option("--leftovers", is_flag=True, help="Delete what an interrupted removal left behind.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@runs_option
def remove(requested: tuple[str, ...], failed: bool, own_files: bool, leftovers: bool, yes: bool, runs: Path) -> int:
    """Remove the folder of each RUN. Exports in the folder of exports stay, and so do your own files.

    The command says what it deletes, and asks. A run on which a process works is not removed.

    RUN is a run folder, the name of a run, or the last six characters of its name.
    """
    from zoo.cli import run_rm

    if not (requested or failed or leftovers):
        raise click.UsageError("name the runs to remove, or add --failed. `zoo runs` lists them.")
    return run_rm.remove(requested, runs, failed=failed, own_files=own_files, leftovers=leftovers, yes=yes)
