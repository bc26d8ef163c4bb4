"""The command that writes report pages: report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from zoo.cli.options import runs_option


@click.command(short_help="Write the report page of a run again, or compare runs.")
@click.argument("requested", nargs=-1, required=True, metavar="RUN...")
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.html",
    help="With several runs: the file for the comparison (default: comparison.html).",
)
@click.option("--json", "as_json", is_flag=True, help="With several runs: print the comparison as JSON.")
@runs_option
def report(requested: tuple[str, ...], show: bool, output: Path | None, as_json: bool, runs: Path) -> None:
    """Write report.html, the page with everything about RUN (a run folder or a run's id), and print its path.

    Several runs are laid side by side: what differs in settings, data and figures. On the test pictures that both have,
    a paired test says whether a run is better than the one that is named first.

    The pages are made from the files in the run folders. Pictures, network and plugins are not needed.
    """
    if len(requested) == 1 and (output is not None or as_json):
        option = "--json" if as_json else "--output"
        raise click.UsageError(f"{option} goes with several runs: the page of one run is report.html in its folder.")
    folders = _find(requested, runs, ["--open"] if show else [])
    path: Path | None
    if len(folders) == 1:
        from zoo.workflow import page

        path = page.write_again(folders[0])
        click.echo(f"Report     {path}")
    else:
        from zoo.cli.comparison import compare

        path = compare(folders, output, as_json=as_json, show=show)
    if show and path is not None:
        _open(path)


def _find(requested: Sequence[str], runs: Path, typed: Sequence[str]) -> list[Path]:
    """Return the run folders that the user names."""
    from zoo.runs import locate

    found = [(text, locate(text, runs)) for text in requested]
    if all(folder for _, folder in found):
        return [folder for _, folder in found if folder]
    # Its import takes a second, and is needed for the message alone.
    from zoo.workflow.evaluate import find_run

    return [find_run(text, Path("exported"), runs, "zoo report", typed) for text in requested]


def _open(path: Path) -> None:
    """Open a page in the user's browser. A machine without one gets a message."""
    import webbrowser

    address = path.resolve().as_uri()
    try:
        opened = webbrowser.open(address)
    except (webbrowser.Error, OSError):
        opened = False
    if not opened:
        click.echo(
            f"No browser could be opened here. Open {address} in one, or copy the file to another machine.", err=True
        )
