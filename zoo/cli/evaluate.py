"""The commands that use finished runs and exported files: evaluate, predict, plot."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from zoo.cli import archive
from zoo.cli.console import ConsoleReporter, load_registry, quoted
from zoo.cli.data_command import DataCommand
from zoo.cli.options import (
    WholeNumber,
    exported_option,
    parse_provider_names,
    runs_option,
    typed_again,
)
from zoo.cli.reading_options import formats_option, max_pixels_option, reading_options, reading_values
from zoo.errors import UsageError, ZooError


@click.command(cls=DataCommand, short_help="Evaluate an export or a run on pictures.")
@click.argument("model")
@click.option("--data", help="Pictures to evaluate on (default: those of the run).")
@reading_options
@click.option(
    "--part",
    type=click.Choice(["train", "val", "test", "all"]),
    help="The part of the pictures (default: test if there is one, else all).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
@runs_option
@exported_option
def evaluate(
    model: str, data: str | None, part: str | None, as_json: bool, runs: Path, exported: Path, **values: Any
) -> None:
    """Evaluate MODEL (an exported file, the name of an export, or a run) on pictures."""
    from zoo.evaluate.metrics import table
    from zoo.workflow import evaluate as workflow

    _refuse_swapped(model, [data] if data else [], exported, runs)
    path = workflow.resolve_model(model, exported, runs)
    reporter = ConsoleReporter(only_warnings=as_json)
    parameters = click.get_current_context().params
    typed = [word for key in parameters if key not in ("model", "data") for word in typed_again(key, parameters[key])]
    options: dict[str, Any] = {
        "runs_folder": runs,
        "reading": reading_values(values),
        "again": ["zoo", "evaluate", model, *typed],
    }
    metrics = workflow.evaluate(path, load_registry(), reporter, data=data, part=part, **options)
    click.echo(json.dumps(metrics) if as_json else table(metrics))


@click.command(short_help="Label pictures with an export or a run.")
@click.argument("model")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--top", type=WholeNumber(1), metavar="K", help="Show the K most likely classes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per picture.")
@click.option("--threads", type=WholeNumber(1, 256), metavar="N", help="Number of threads (default: one per core).")
@click.option(
    "--providers",
    callback=parse_provider_names,
    metavar="P,...",
    help="Execution providers that run the network, best first: cpu, openvino, cuda, ... "
    "(default: the choice of `zoo-runtime tune`, or cpu).",
)
@click.option("--coverage", type=float, metavar="C", help="Also show label sets with this coverage: 0.9, 0.95 or 0.99.")
@max_pixels_option
@formats_option
@archive.archive_options
@runs_option
@exported_option
def predict(model: str, paths: tuple[str, ...], runs: Path, exported: Path, **values: Any) -> int:
    """Label pictures with MODEL (an exported file, the name of an export, or a run).

    PATH is a picture, a folder of pictures, or - for a picture on standard input. With --out DIR, the answers go to
    Parquet, and PATH may be an archive.
    """
    from zoo.workflow import evaluate as workflow
    from zoo_runtime import MAX_PIXELS
    from zoo_runtime.workshop import print_predictions

    scoring = {name: values.pop(name) for name in ("out", "ray", "address", "workers", "column", "slice")}
    archive.check(scoring, values)
    _refuse_swapped(model, paths, exported, runs)
    path = workflow.resolve_model(model, exported, runs, to_predict=True)
    if scoring["out"] is not None:
        return archive.score(path, paths, scoring, values)
    try:
        return print_predictions(os.fspath(path), paths, **{**values, "max_pixels": values["max_pixels"] or MAX_PIXELS})
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _refuse_swapped(model: str, others: Sequence[str], exported: Path, runs: Path) -> None:
    """Refuse a command whose MODEL is a picture or a folder of pictures, if another word names an export or a run.

    Args:
        model: The word that should name an exported file, an export or a run.
        others: The words that should name pictures.
        exported: The folder of exports.
        runs: The folder of runs.

    Raises:
        UsageError: The words are in the wrong order. The message shows the right command.
    """
    from zoo.workflow.evaluate import resolve_model
    from zoo_runtime import SUFFIXES

    try:
        if resolve_model(model, exported, runs).suffix.lower() not in SUFFIXES:
            return
    except ZooError:
        if not os.path.isdir(model):
            return
    found = {}
    for other in others:
        with contextlib.suppress(ZooError):
            found[other] = resolve_model(other, exported, runs)
    words = sys.argv[1:]
    for other, path in found.items():
        if path.is_dir() or path.suffix.lower() in (".onnx", ".tflite", ".xml"):
            exchanged = {model: other, other: model}
            command = " ".join(["zoo", *(quoted(exchanged.get(word, word)) for word in words)])
            shown = f": `{command}`" if words.count(model) == words.count(other) == 1 else ""
            raise UsageError(f"{model!r} is not an exported file or a run, but {other!r} is. Give it first{shown}.")


@click.command(short_help="Draw accuracy and loss of runs over the epochs.")
@click.argument("requested", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help="File for the curves (default: curves.png, in the run folder for one RUN, in the current folder for several).",
)
@click.option(
    "--smooth",
    type=click.FloatRange(0, 0.99),
    default=0.8,
    show_default=True,
    help="Smoothing of the lines: the weight of earlier epochs; 0 draws the lines through the dots.",
)
@runs_option
def plot(requested: tuple[str, ...], output: Path | None, smooth: float, runs: Path) -> None:
    """Draw accuracy and loss over the epochs of each RUN (a run folder or a run's id) in one picture."""
    from zoo.report import curves
    from zoo.runs import locate

    options = [*typed_again("output", output), *typed_again("smooth", smooth)]
    for text in requested:
        if locate(text, runs) is None:
            from zoo.workflow.evaluate import find_run

            others = [each for each in requested if each != text]
            # The path of a run includes the folder of runs, but the others may be ids.
            others += typed_again("runs", runs) if others else []
            find_run(text, Path("exported"), runs, "zoo plot", [*others, *options])
    click.echo(f"Curves     {curves.plot(requested, runs, output, smooth)}")
