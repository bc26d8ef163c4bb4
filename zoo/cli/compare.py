"""The command `compare`: which network should I deploy?"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.console import ConsoleReporter, load_registry, quoted
from zoo.cli.data_command import DataCommand
from zoo.cli.group_by_option import group_by_option
from zoo.cli.options import DATA_HELP, resize_option, size_option, typed_again
from zoo.cli.reading_options import reading_options, reading_values
from zoo.cli.table import Column, duration, joined, layout, terminal_width
from zoo.cli.values import WholeNumber, parse_names

if TYPE_CHECKING:
    from zoo.report.network_plot import Point
    from zoo.workflow.compare_networks import Comparison, Tried

COLUMNS = (
    Column("network", least=16),
    Column("accuracy", right=True),
    Column("95 %", dropped=2),
    Column("ms", right=True),
    Column("MB", right=True),
    Column("size", dropped=3),
    Column("took", right=True, dropped=4),
    Column("", least=8, dropped=1),
)
FIELDS = (
    *("network", "weights", "accuracy", "accuracy_low", "accuracy_high", "pictures", "loss", "milliseconds", "bytes"),
    *("height", "width", "seconds", "behind", "behind_error", "take", "fine_tune", "too", "problem"),
)


def _limit(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise click.BadParameter(f"must be a number above 0. Received: {value:g}.")
    return value


@click.command(cls=DataCommand, short_help="Compare networks on your pictures, and name the one to take.")
@click.option("--data", default="digits", show_default=True, help=DATA_HELP)
@reading_options
@click.option(
    "--networks",
    callback=parse_names,
    metavar="NAME,...",
    help="The networks to compare (default: all whose weights are on this computer).",
)
@click.option(
    "--max-ms", type=float, callback=_limit, metavar="MS", help="Longest time for a picture, measured on this computer."
)
@click.option("--max-mb", type=float, callback=_limit, metavar="MB", help="Largest exported file, in megabytes.")
@click.option("--threads", type=WholeNumber(1, 256), metavar="N", help="Threads of the measurement (default: all).")
@size_option
@resize_option
@group_by_option
@click.option("--balance", is_flag=True, help="Give every class the same weight.")
@click.option(
    "--cv", "folds", type=WholeNumber(2, 100), metavar="K", help="Number of folds (default: 5; of many pictures, one)."
)
@click.option(
    "--seed", type=WholeNumber(0, 2**31 - 1), default=0, show_default=True, help="Decides the folds and the test part."
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Folder for the plot and the table (default: compare-DATA in the current folder).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def compare(
    networks: tuple[str, ...],
    max_ms: float | None,
    max_mb: float | None,
    output: Path | None,
    as_json: bool,
    **values: Any,
) -> int:
    """Compare networks on your pictures in minutes, and name the one to take.

    For each network, the head is solved on its frozen pretrained layers and tested by cross-validation. Then the
    exported file is measured on this computer. Test pictures are not used. Run `zoo finetune` on the network that is
    named.
    """
    from zoo import files
    from zoo.data import sources
    from zoo.report import network_plot
    from zoo.workflow.compare_networks import CompareConfig, compare

    typed = [word for name in values if name not in _OWN for word in typed_again(name, values[name])]
    reading = reading_values(values)
    config = CompareConfig(networks=networks, max_milliseconds=max_ms, max_megabytes=max_mb, reading=reading, **values)
    if output is None:
        output = Path(f"compare-{sources.short_name(sources.location(config.data).rstrip('/').rpartition('/')[2])}")
    files.check_writable(output, "--output FOLDER")
    found = compare(config, load_registry(), ConsoleReporter(only_warnings=as_json))
    with files.atomic_write(output / "networks.csv") as temporary:
        _write_table(found, temporary)
    plotted = output / "networks.png"
    network_plot.draw(_points(found), plotted, f"{found.data}: networks with a solved head")
    if as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        _show(found, plotted, typed)
    return 0 if found.choice is not None else 1


# The options that `zoo finetune` does not take, or understands otherwise.
_OWN = ("threads", "folds")


def _state(found: Comparison, row: Tried) -> str:
    if row.too:
        return "out"
    if found.choice is None:
        return "other"
    if row.name == found.choice.take:
        return "take"
    return "open" if row.name in found.choice.open else "other"


def _points(found: Comparison) -> list[Point]:
    from zoo.report.network_plot import Point

    points = []
    for row in found.tried:
        if row.milliseconds is not None and row.accuracy is not None and row.accuracy_interval is not None:
            low, high = row.accuracy_interval
            points.append(Point(row.name, row.milliseconds, row.accuracy, (low, high), _state(found, row)))
    return points


def _show(found: Comparison, plotted: Path, typed: list[str]) -> None:
    """Print the table and the choice."""
    notes = {"take": "take this one", "open": "worth fine-tuning", "other": ""}
    lines = []
    for row in found.tried:
        if row.problem:
            continue
        low, high = row.accuracy_interval or (0.0, 0.0)
        state = _state(found, row)
        note = f"too {' and too '.join(row.too)}" if state == "out" else notes[state]
        cells = [row.name, f"{row.accuracy:.4f}", f"{low:.3f} to {high:.3f}", f"{row.milliseconds:.1f}"]
        height, width = row.size or (0, 0)
        cells += [f"{(row.bytes or 0) / 1e6:.1f}", str(height) if height == width else f"{height}x{width}"]
        lines.append([*cells, duration(row.seconds), note])
    click.echo("")
    for line in layout(COLUMNS, lines, terminal_width()):
        click.echo(joined(line))
    left_out = [row for row in found.tried if row.problem]
    if left_out:
        click.echo("")
    for row in left_out:
        click.echo(f"left out: {row.name}: {row.problem.splitlines()[0]}")
    click.echo("")
    if found.busy:
        click.echo(f"warning: {found.busy}", err=True)
    choice = found.choice
    if choice is None:
        click.echo("No network keeps the limits. Raise --max-ms or --max-mb, or name smaller networks with --networks.")
    else:
        click.echo(f"Take       {choice.take}: {_why(found)}")
        others = [name for name in choice.open if name != choice.take]
        if others:
            click.echo(f"Maybe      {', '.join(others)}: fine-tuning may put them in front")
        click.echo(f"Fine-tune  {' '.join(map(quoted, ['zoo', 'finetune', choice.take, *typed]))}")
    click.echo(f"Plot       {plotted}")
    click.echo(f"Table      {plotted.with_suffix('.csv')}")


def _why(found: Comparison) -> str:
    """Return why a network is to be taken, in a few words."""
    choice = found.choice
    if choice is None:
        return ""
    within = " within the limits" if any(row.too for row in found.tried) else ""
    if choice.take == choice.best:
        return f"the most accurate one{within}, and no faster one is as good"
    gap, error = choice.behind[choice.take]
    return (
        f"the fastest of those that are as good as {choice.best}, the most accurate one{within} (behind by "
        f"{100 * gap:.1f} percentage points, with a standard error of {100 * error:.1f})"
    )


def _write_table(found: Comparison, path: Path) -> None:
    """Write all figures as CSV."""
    from zoo.data.decisions import as_text

    chosen = found.to_json()
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, FIELDS)
        writer.writeheader()
        for row in chosen["networks"]:
            low, high = row["accuracy_interval"] or (None, None)
            height, width = row["size"] or (None, None)
            writer.writerow(
                {
                    **{key: row.get(key) for key in FIELDS if key in row},
                    **{"network": row["name"], "accuracy_low": low, "accuracy_high": high},
                    **{"height": height, "width": width, "take": int(row["name"] == chosen["take"])},
                    "fine_tune": int(row["name"] in chosen["fine_tune"]),
                    "too": " and ".join(row["too"]),
                    # The text of an error may come from anywhere, and spreadsheets open this file.
                    "problem": as_text(row["problem"]),
                }
            )
