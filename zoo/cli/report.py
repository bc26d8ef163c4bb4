"""The command that writes report pages: report."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.options import runs_option


@click.command(short_help="Write the report page of a run again, and open it.")
@click.argument("requested", nargs=-1, required=True, metavar="RUN")
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
@runs_option
def report(requested: tuple[str, ...], show: bool, runs: Path) -> None:
    """Write report.html, the page with everything about RUN (a run folder or a run's id), and print its path.

    The page is made from the files in the run folder. Pictures, network and plugins are not needed.
    """
    from zoo.runs import locate
    from zoo.workflow import page

    if len(requested) > 1:
        raise click.UsageError(f"name one RUN. Received: {len(requested)}.")
    folder = locate(requested[0], runs)
    if folder is None:
        # Its import takes a second, and is needed for the message alone.
        from zoo.workflow.evaluate import find_run

        folder = find_run(requested[0], Path("exported"), runs, "zoo report", ["--open"] if show else [])
    path = page.write_again(folder)
    click.echo(f"Report     {path}")
    if show:
        _open(path)


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
