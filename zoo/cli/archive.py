"""The options of `zoo predict --out`, which scores archives into Parquet, and what the command prints at its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.console import ConsoleReporter, quoted
from zoo.cli.values import WholeNumber
from zoo.reporter import counted

if TYPE_CHECKING:
    from zoo.workflow.score_archive import Scored

SLICE = 1000
# At most so many labels, and so many lost parts, are shown.
LABELS, LOST = 10, 5

OPTIONS = (
    click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Score archives: write the answers to this folder as Parquet, one row per picture. PATH may then also be "
        "a tar file, a Parquet file with pictures, or an address such as s3://bucket/photos. The same command goes on "
        "after an interruption.",
    ),
    click.option(
        "--ray", is_flag=True, help="With --out: score on all processors of this machine or a cluster by Ray."
    ),
    click.option("--address", metavar="HOST:PORT", help="With --ray: the cluster (default: this machine alone)."),
    click.option(
        "--workers",
        type=WholeNumber(1),
        metavar="N",
        help="With --ray: the number of workers (default: all processors).",
    ),
    click.option("--column", metavar="NAME", help="With --out: the column of Parquet files that holds the pictures."),
    click.option(
        "--slice",
        type=WholeNumber(8, 1_000_000),
        metavar="N",
        help=f"With --out: how many pictures of a folder make a part, which is done as a whole (default: {SLICE}).",
    ),
)


def archive_options(command: Callable) -> Callable:
    """Give a command the options for archives."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def check(values: dict[str, Any], printed: dict[str, Any]) -> None:
    """Refuse options that do not go together.

    Args:
        values: The values of the options in `OPTIONS`, by name.
        printed: The values of the other options of the command.

    Raises:
        click.UsageError: An option of archives is given without --out, or one of printed answers with it.
    """
    if values["out"] is None:
        for name in ("ray", "address", "workers", "column", "slice"):
            if values[name]:
                raise click.UsageError(f"--{name} goes with --out DIR, the folder for the answers.")
        return
    if printed["top"]:
        raise click.UsageError("--top is for printed answers. --out writes the probabilities of all classes.")
    if printed["as_json"]:
        raise click.UsageError("--json is for printed answers. --out writes Parquet.")
    for name in ("address", "workers"):
        if values[name] and not values["ray"]:
            raise click.UsageError(f"--{name} goes with --ray.")
    if values["ray"] and printed["providers"]:
        raise click.UsageError("--providers goes without --ray, which shares out processors alone.")
    if "://" in str(values["out"]) or str(values["out"]).startswith(("s3:/", "gs:/")):
        raise click.UsageError("--out is a folder on this machine. Copy it to an object store afterwards.")


def score(model: Path, paths: tuple[str, ...], values: dict[str, Any], printed: dict[str, Any]) -> int:
    """Score archives, print what was done, and return the exit code.

    Args:
        model: The path of the exported file.
        paths: The archives.
        values: The values of the options in `OPTIONS`, by name.
        printed: Those of the options that `zoo predict` has in any case.
    """
    from zoo.workflow.score_archive import ScoreConfig, score_archive

    shared = {key: printed[key] for key in ("threads", "providers", "max_pixels", "formats", "coverage")}
    requested = ScoreConfig(sources=paths, **{**values, "slice": values["slice"] or SLICE}, **shared)
    reporter = ConsoleReporter()
    try:
        scored = score_archive(model, requested, reporter)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    for name, problem in list(scored.failed.items())[:LOST]:
        reporter.warn(f"{name} is not scored: {problem}")
    if len(scored.failed) > LOST:
        reporter.warn(f"{len(scored.failed) - LOST:,} more parts are not scored.")
    if scored.total.damage:
        others = counted(scored.total.damaged - 1, "more archive")
        more = f" {others} {'is' if scored.total.damaged == 2 else 'are'} damaged." if scored.total.damaged > 1 else ""
        reporter.warn(f"{scored.total.damage}{more}")
    click.echo(_summary(scored, requested.out))
    return 1 if scored.failed or scored.total.errors or scored.total.damage else 0


def _summary(scored: Scored, out: Path) -> str:
    total = scored.total
    bad = f", of which {total.errors:,} could not be read" if total.errors else ""
    now = "" if scored.now == total.pictures else f"; {scored.now:,} of them now"
    lines = [f"Scored     {_pictures(total.pictures)} in {counted(scored.parts, 'part')}{bad}{now}"]
    if scored.failed:
        lines.append(f"Not done   {counted(len(scored.failed), 'part')}; the same command tries again")
    counts = [f"{label} {count:,}" for label, count in total.labels.most_common(LABELS)]
    counts += [f"{len(total.labels) - LABELS} more classes"] if len(total.labels) > LABELS else []
    counts += [f"unknown {total.unknown:,}"] if total.unknown else []
    if counts:
        lines.append(f"Labels     {', '.join(counts)}")
    if total.empty:
        lines.append(f"Empty      {counted(total.empty, 'archive')} without a picture")
    if scored.passed_over:
        lines.append(f"Left out   {scored.passed_over}")
    if scored.now and scored.seconds:
        workers = f", {scored.workers} workers" if scored.workers > 1 else ""
        lines.append(f"Speed      {scored.now / scored.seconds:.1f} pictures/s, {scored.seconds:.0f} s{workers}")
    lines.append(f"Answers    {quoted(out)}, read by pandas.read_parquet({str(out)!r})")
    return "\n".join(lines)


def _pictures(number: int) -> str:
    return "1 picture" if number == 1 else f"{number:,} pictures"
