"""The commands that use what is there: evaluate, predict, plot."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from zoo.cli.console import ConsoleReporter, load_registry
from zoo.cli.options import exported_option, providers_of, runs_option


@click.command()
@click.argument("model")
@click.option("--data", help="Pictures (default: those of the run).")
@click.option(
    "--part", type=click.Choice(["train", "val", "test", "all"]), help="Which of them (default: test, or all)."
)
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
@runs_option
@exported_option
def evaluate(model: str, data: str | None, part: str | None, as_json: bool, runs: Path, exported: Path) -> None:
    """Judge MODEL (an exported file, the name of an export, or a run folder) on pictures."""
    from zoo.evaluate.metrics import table
    from zoo.workflow import evaluate as workflow

    path = workflow.resolve_model(model, exported, runs)
    reporter = ConsoleReporter(only_warnings=as_json)
    metrics = workflow.evaluate(path, load_registry(), reporter, data=data, part=part, runs_folder=runs)
    click.echo(json.dumps(metrics) if as_json else table(metrics))


@click.command()
@click.argument("model")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--top", type=click.IntRange(1), metavar="K", help="Show the K likeliest classes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a picture.")
@click.option("--threads", type=click.IntRange(1, 256), metavar="N", help="Threads to use (default: one a core).")
@click.option(
    "--providers",
    callback=providers_of,
    metavar="P,...",
    help="Where the network runs, best first: cpu, openvino, cuda, ... (default: what was tuned, or cpu).",
)
@runs_option
@exported_option
def predict(
    model: str,
    paths: tuple[str, ...],
    top: int | None,
    as_json: bool,
    threads: int | None,
    providers: list[str] | None,
    runs: Path,
    exported: Path,
) -> int:
    """Label pictures with MODEL (an exported file, the name of an export, or a run folder)."""
    from zoo.workflow import evaluate as workflow
    from zoo_runtime import print_predictions

    path = workflow.resolve_model(model, exported, runs, to_predict=True)
    chosen = {"threads": threads, "providers": providers}
    return print_predictions(os.fspath(path), paths, top=top, as_json=as_json, **chosen)


@click.command()
@click.argument("wanted", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help="Where the picture is put (default: curves.png, in the run folder of one RUN, here for several).",
)
@click.option(
    "--smooth",
    type=click.FloatRange(0, 0.99),
    default=0.8,
    show_default=True,
    help="Weight of the past in the lines; 0 draws them through the dots.",
)
@runs_option
def plot(wanted: tuple[str, ...], output: Path | None, smooth: float, runs: Path) -> None:
    """Draw accuracy and loss over the epochs of RUN (a run folder or a run's id), several over one another."""
    from zoo.report import curves

    click.echo(f"Curves     {curves.plot(wanted, runs, output, smooth)}")
