"""The command that lays runs side by side: report."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.options import runs_option


@click.command(short_help="Lay runs side by side on one page.")
@click.argument("requested", nargs=-1, required=True, metavar="RUN...")
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.html",
    help="With several runs: the file for the page (default: comparison.html).",
)
@click.option("--json", "as_json", is_flag=True, help="With several runs: print everything as JSON.")
@runs_option
def report(requested: tuple[str, ...], show: bool, output: Path | None, as_json: bool, runs: Path) -> None:
    """Lay two or more runs side by side (RUN is a run folder or a run's id).

    The page says what differs in settings, data and figures. On the test pictures that both have, a paired test says
    whether a run is better than the one that is named first. Pictures and network are not needed.
    """
    from zoo.cli.comparison import compare
    from zoo.workflow.evaluate import find_run

    if len(requested) < 2:
        raise click.UsageError("name two or more runs. `zoo evaluate RUN` shows the figures of one.")
    folders = [find_run(text, Path("exported"), runs, "zoo report") for text in requested]
    path = compare(folders, output, as_json=as_json, show=show)
    if show and path is not None:
        click.launch(path.resolve().as_uri())
