"""The command `zoo`: parse, call one function, print. No logic, and no heavy import before it is needed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from zoo.errors import InstallationError, UsageError, ZooError
from zoo.reporter import Reporter

KIND_NAMES = ("architectures", "weights", "augmentations", "schedules", "plugins")
RUNTIME_HINT = (
    "zoo_runtime is missing though zoo is here. The distributions finezoo and finezoo-runtime bring the same package, "
    "and removing one takes the other's files: reinstall with `pip install --force-reinstall --no-deps finezoo` "
    "(from a clone: `pip install --force-reinstall --no-deps .`)."
)


def main() -> None:
    """Run the command; every exit code is decided here."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # File names need not be valid text; printing one must not end the run.
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(_run())
    except KeyboardInterrupt:
        sys.exit(130)


def _run() -> int:
    try:
        return cli.main(standalone_mode=False) or 0
    except click.exceptions.Exit as request:
        return request.exit_code
    except click.Abort:
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ZooError as error:
        click.echo(f"error: {error}", err=True)
        return 2 if isinstance(error, UsageError) else 1
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "zoo_runtime":
            raise
        click.echo(f"error: {InstallationError(RUNTIME_HINT)}", err=True)
        return 1
    except Exception as error:
        runtime = sys.modules.get("zoo_runtime")
        if runtime is None or not isinstance(error, runtime.ZooRuntimeError):
            raise
        click.echo(f"error: {error}", err=True)
        return 1


class ConsoleReporter(Reporter):
    """Prints to the screen; bars only where somebody watches."""

    def __init__(self, *, only_warnings: bool = False):
        super().__init__()
        self._only_warnings = only_warnings

    def say(self, text: str) -> None:
        if not self._only_warnings:
            click.echo(text)

    def warn(self, text: str) -> None:
        click.echo(click.style("warning: ", fg="yellow") + text, err=True)

    def block(self, title: str, text: str) -> None:
        rule = "=" * 78
        click.echo(click.style(f"{rule}\n{title}\n{text}\n{rule}", fg="yellow"), err=True)

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int], None]]:
        if not sys.stderr.isatty():
            yield lambda done, total: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # Nothing is drawn until the first step is done, and nothing stays on the screen.
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total or None)


def _registry():
    from zoo import registry

    return registry.load(warn=lambda text: click.echo(f"warning: {text}", err=True))


def _size(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = value.lower().split("x")
    try:
        height, width = (int(side) for side in (sides * 2 if len(sides) == 1 else sides))
    except ValueError:
        raise click.BadParameter(
            f"must be SIDE or HEIGHTxWIDTH in pixels, such as 160 or 120x160. Received: {value!r}."
        ) from None
    if not (1 <= height <= 4096 and 1 <= width <= 4096):
        raise click.BadParameter(f"must be 1 to 4096 pixels. Received: {value!r}.")
    return height, width


def _numbers(kind: type, minimum: float, limit: float) -> Callable:
    def parse(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple | None:
        if value is None:
            return None
        try:
            numbers = tuple(kind(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if not numbers or not all(minimum <= number < limit for number in numbers):
            what = f"whole numbers from {minimum}" if kind is int else f"numbers above 0 and below {limit:g}"
            raise click.BadParameter(f"must be {what}, separated by commas. Received: {value!r}.")
        return numbers

    return parse


UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {unit[0] + "iB": 1024**power for power, unit in enumerate(("KB", "MB", "GB", "TB"), start=1)}


def _bytes(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", value.strip(), re.IGNORECASE)
    units = {unit.upper(): size for unit, size in UNITS.items()}
    if not found or found[2].upper() not in units:
        raise click.BadParameter(f"must be a number of bytes, such as 500MB, 8GB or 0. Received: {value!r}.")
    return int(float(found[1]) * units[found[2].upper()])


def _pool(context: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, Any] | None:
    from zoo.plugin import POOLS

    if value is None:
        return None
    pool, _, grid = value.partition(":")
    if pool not in POOLS or (grid and not (pool == "roi" and grid.isdecimal() and 1 <= int(grid) <= 64)):
        raise click.BadParameter(f"must be {', '.join(POOLS)} or roi:GRID, such as roi:4. Received: {value!r}.")
    return {"pool": pool, **({"grid": int(grid)} if grid else {})}


def _hidden(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    return () if value == "none" else _numbers(int, 1, 65537)(context, parameter, value)


def _providers(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    if value is None:
        return None
    from zoo_runtime import parse_providers

    try:
        return parse_providers(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _folder(default: str) -> dict[str, Any]:
    return {"type": click.Path(file_okay=False, path_type=Path), "default": default, "show_default": True}


resize_option = click.option(
    "--resize", default="squash", show_default=True, help="squash, crop, crop:FRACTION (default 0.875) or pad."
)
size_option = click.option(
    "--size", callback=_size, metavar="SIDE|HxW", help="Picture size in pixels (default: what suits data and weights)."
)
pool_option = click.option(
    "--pool",
    callback=_pool,
    metavar="POOL",
    help="avg, max, flatten, l2norm, roi or roi:GRID (default: the network's).",
)
reduce_option = click.option(
    "--reduce", type=click.IntRange(1), metavar="N", help="1x1 convolution to N channels before the pool."
)
hidden_option = click.option(
    "--hidden", callback=_hidden, metavar="N[,N...]", help="Units of the head's hidden layers, or none."
)
exported_option = click.option("--exported", **_folder("exported"), help="Where exports are.")
runs_option = click.option("--runs", **_folder("runs"), help="Where run folders are.")
name_option = click.option("--name", help="Name of the export (default: ARCH-DATA).")


def _number(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """FloatRange lets NaN through."""
    if value != value:
        raise click.BadParameter("must be a number. Received: nan.")
    return value


COMPACT_OPTIONS = (
    click.option(
        "--int8", is_flag=True, help="Make an int8 file, NAME-int8, where it loses little and is faster here."
    ),
    click.option("--fp16", is_flag=True, help="Make a file with 16-bit weights, NAME-fp16, half as large."),
    click.option(
        "--max-drop",
        type=click.FloatRange(0, 100),
        callback=_number,
        default=1.0,
        show_default=True,
        metavar="POINTS",
        help="Accuracy on the test pictures that these may lose, in points of a hundred.",
    ),
    click.option("--int8-any-speed", is_flag=True, help="Take an int8 file that is not faster on this machine too."),
)


# What decides how a network is trained.
TRAINING_OPTIONS = (
    click.argument("architecture", metavar="ARCH[.TAG]"),
    click.option("--data", default="digits", show_default=True, help="Folder, CSV, .npz, or 'digits'."),
    click.option("--weights", default="auto", show_default=True, help="auto, none, a tag, or the path of a file."),
    size_option,
    resize_option,
    click.option(
        "--schedule",
        help="See `zoo list schedules`, or a TOML file of phases "
        "(default: the architecture's; scratch on random weights).",
    ),
    click.option(
        "--augment",
        default="none",
        show_default=True,
        metavar="POLICY[:K=V,...]",
        help="See `zoo list augmentations`, and `zoo augment preview`.",
    ),
    click.option(
        "--epochs", callback=_numbers(int, 0, 10**6), metavar="N[,N...]", help="One a phase, or of the longest phase."
    ),
    click.option("--batch-size", type=click.IntRange(1, 4096), default=32, show_default=True),
    click.option(
        "--learning-rate",
        callback=_numbers(float, 1e-12, 100),
        metavar="R[,R...]",
        help="One a phase, or of the fastest phase.",
    ),
    click.option("--optimizer", type=click.Choice(["adam", "adamw", "sgd", "rmsprop"]), help="For all phases."),
    click.option(
        "--rate",
        type=click.Choice(["constant", "cosine", "one-cycle"]),
        help="How the learning rate moves in every phase (default: the schedule's).",
    ),
    click.option(
        "--clip-norm",
        type=click.FloatRange(0),
        metavar="NORM",
        help="Scale gradients down to this norm where theirs is greater; 0: never (default: the schedule's).",
    ),
    click.option(
        "--ema",
        type=click.FloatRange(0, 1, max_open=True),
        metavar="MOMENTUM",
        help="Judge and keep a moving average of the weights, such as 0.99; 0: none (default: the schedule's).",
    ),
    pool_option,
    hidden_option,
    click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), help="Of the pooled features."),
    click.option("--l1", "weight_l1", type=click.FloatRange(0), help="L1 penalty on the head's kernels."),
    click.option("--l2", "weight_l2", type=click.FloatRange(0), help="L2 penalty on the head's kernels."),
    reduce_option,
    click.option("--label-smoothing", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True),
    click.option(
        "--balance", is_flag=True, help="Let every class count alike in the loss, however many pictures it has."
    ),
    click.option(
        "--patience",
        type=click.IntRange(0),
        metavar="N",
        help="End a phase after N epochs without a better validation loss; 0: never (default: the schedule's).",
    ),
    click.option(
        "--keep",
        type=click.Choice(["best", "last"]),
        default="best",
        show_default=True,
        help="The epoch of least validation loss, or the last one.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16"]),
        default="float32",
        show_default=True,
        help="What trained layers compute in; weights, and the exported file, are float32 in any case.",
    ),
    click.option(
        "--views",
        type=click.IntRange(1, 1000),
        metavar="K",
        help="K augmented copies of each picture, computed ahead (default: a fresh one every epoch).",
    ),
    click.option(
        "--cache-size",
        callback=_bytes,
        metavar="BYTES",
        help="What outputs of frozen layers may take on the disk, such as 500MB or 8GB; "
        "0: run all layers in every step (default: 4 GB or half of what is free, and no cache where it saves little).",
    ),
    click.option(
        "--val-split",
        type=click.FloatRange(0, 0.8, min_open=True),
        help="Fraction taken as validation (default 0.15; 0.10 of a given train/).",
    ),
    click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True),
)


def training_options(command: Callable) -> Callable:
    """Give a command ARCH and all options that decide how a network is trained."""
    for option in reversed(TRAINING_OPTIONS):
        command = option(command)
    return command


def compact_options(command: Callable) -> Callable:
    """Give a command the options that make smaller files."""
    for option in reversed(COMPACT_OPTIONS):
        command = option(command)
    return command


def _compact(values: dict[str, Any]) -> dict[str, Any]:
    """Take the values of `COMPACT_OPTIONS` out of those of a command, for the functions of `workflow`.

    Raises:
        UsageError: A limit of a file that is not made.
    """
    from zoo.compact import KINDS, Limits

    wanted = tuple(kind for kind in KINDS if values.pop(kind))
    typed = [name for name in ("max_drop", "int8_any_speed") if _typed(name, values[name])]
    if typed and not wanted:
        raise click.UsageError(f"--{typed[0].replace('_', '-')} goes with --int8 or --fp16.")
    if values["int8_any_speed"] and "int8" not in wanted:
        raise click.UsageError("--int8-any-speed goes with --int8.")
    return {"compact": wanted, "limits": Limits(values.pop("max_drop") / 100, values.pop("int8_any_speed"))}


def _show_compacts(result: Any) -> int:
    """Print what came of smaller files; 1 where one was refused."""
    from zoo import compact

    for made, path in result.compacts:
        click.echo(f"{made.kind:<10} {path or 'refused'}")
        if made.figures:
            for line in compact.describe(made.figures):
                click.echo(f"           {line}")
            click.echo(f"           all figures in {result.run.folder / made.record}")
        if made.refusal:
            click.echo(f"error: no {made.kind} file is exported: {made.refusal}.", err=True)
    return 1 if any(path is None for _, path in result.compacts) else 0


def _options(values: dict[str, Any], **others: Any):
    """What a user asks of training, of the values of `TRAINING_OPTIONS`."""
    from zoo.recipe import Options

    values = {**values, **others}
    pool = values.pop("pool") or {}
    head = {key: values.pop(key) for key in ("hidden", "dropout", "weight_l1", "weight_l2", "reduce")}
    return Options(
        learning_rates=values.pop("learning_rate"),
        keep_best=values.pop("keep") == "best",
        head=pool | {key: value for key, value in head.items() if value is not None},
        **values,
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="finezoo", prog_name="zoo")
def cli() -> None:
    """Fine-tune an image classifier on your own pictures and run it on a device.

    \b
    zoo list                                  networks, weights, schedules ...
    zoo finetune mobilenetv2                  try it, on embedded pictures of digits
    zoo finetune mobilenetv2 --data photos/   your own: a folder for each class
    zoo predict mobilenetv2-photos cat.jpg
    """


@cli.command("list")
@click.argument("kind", required=False)
@click.argument("filter", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON objects.")
def list_command(kind: str | None, filter: str | None, as_json: bool) -> None:
    """Show what can be chosen.

    KIND is architectures (the default), weights, augmentations, schedules or plugins; FILTER is a part of the name.
    With --json and no KIND, everything is listed.
    """
    from zoo import listing

    if kind is not None and kind not in KIND_NAMES:
        if filter is not None:
            raise click.UsageError(f"KIND must be one of {', '.join(KIND_NAMES)}. Received: {kind!r}.")
        kind, filter = None, kind
    rows = listing.rows(_registry(), (kind,) if kind else KIND_NAMES if as_json else ("architectures",), filter or "")
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    elif rows:
        click.echo(listing.table(rows))
    else:
        raise click.UsageError(
            f"nothing of kind {kind or 'architectures'} has {filter!r} in its name. Kinds: {', '.join(KIND_NAMES)}."
        )


@cli.command()
@click.argument("name")
def info(name: str) -> None:
    """Show all that is known of one architecture, weights, augmentation policy or schedule."""
    from zoo import listing

    click.echo(listing.describe(_registry(), name))


@cli.command()
@training_options
@name_option
@runs_option
@exported_option
@click.option("--no-export", is_flag=True, help="Train and evaluate only.")
@compact_options
@click.option("--profile", is_flag=True, help="At the end, print where the time went.")
def finetune(architecture: str, no_export: bool, profile: bool, **values: Any) -> int:
    """Fine-tune a network on your pictures, export it, and judge the exported file."""
    compact = _compact(values)
    if no_export and compact["compact"]:
        raise click.UsageError("--no-export exports no smaller file either.")
    reporter = ConsoleReporter()
    with reporter.timing.measure("start"):
        registry = _registry()
        registry.resolve(architecture)
        from zoo import workflow
        from zoo.data import sources
        from zoo.evaluate.metrics import table

    options = _options(values, architecture=architecture, export=not no_export)
    result = workflow.finetune(options, registry, reporter, **compact)
    click.echo(f"\nTest pictures, through the exported file:\n{table(result.metrics['test'])}\n")
    click.echo(f"Run        {result.run.folder}")
    click.echo(f"Report     {result.run.folder / 'report.html'}")
    if result.exported:
        click.echo(f"Export     {result.exported} ({result.exported.stat().st_size / 1e6:.1f} MB)")
        click.echo(f"Predict    zoo-runtime predict {_quoted(result.exported)} {_quoted(result.sample)}")
    code = _show_compacts(result)
    if sources.location(options.data) == sources.EMBEDDED:
        click.echo(f"Your own   zoo finetune {architecture} --data FOLDER   (a folder of pictures for each class)")
    click.echo(f"Took       {time.perf_counter() - reporter.timing.begun:.0f} s")
    if profile:
        click.echo(f"\n{reporter.timing.table()}")
    return code


def _quoted(path: str | Path) -> str:
    import shlex

    return shlex.quote(os.fspath(path))


@cli.command("lr-find")
@training_options
@click.option("--lowest", type=click.FloatRange(1e-12, 100), default=1e-6, show_default=True, help="First rate.")
@click.option("--highest", type=click.FloatRange(1e-12, 100), default=1.0, show_default=True, help="Last rate.")
@click.option(
    "--steps", type=click.IntRange(20, 10000), default=100, show_default=True, help="Rates to try, one a batch."
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="lr-find.png",
    show_default=True,
    metavar="FILE.png",
    help="Where the picture is put.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def lr_find(
    architecture: str, lowest: float, highest: float, steps: int, output: Path, as_json: bool, **values: Any
) -> None:
    """Suggest a learning rate for each phase, by a range test.

    The rate rises from step to step. Where the loss is lowest, training has gone as fast as it can: a tenth of that
    rate is suggested. Where it never falls, as of layers that fit the pictures already, it is a third of the rate at
    which it begins to rise. A phase is tested after those before it have trained. Nothing is kept but the picture.
    """
    import dataclasses

    if not lowest < highest:
        raise click.UsageError(f"--lowest must be below --highest. Received: {lowest:g} and {highest:g}.")
    if output.suffix.lower() != ".png":
        raise click.UsageError(f"--output must end in .png. Received: {str(output)!r}.")
    registry = _registry()
    registry.resolve(architecture)
    from zoo import workflow

    reporter = ConsoleReporter(only_warnings=as_json)
    options = _options(values, architecture=architecture)
    span = {"lowest": lowest, "highest": highest, "steps": steps}
    tests = workflow.find_rates(options, registry, reporter, **span, output=output)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(test) for test in tests]))
        return
    click.echo("")
    for test in tests:
        rate = "none" if test.suggestion is None else f"{test.suggestion:g}"
        click.echo(f"{test.phase:10} {rate:8} {test.note}")
    click.echo(f"Picture    {output}")
    if all(test.suggestion is not None for test in tests):
        rates = [f"{test.suggestion:g}" for test in tests]
        # --learning-rate has a place for phases too that --epochs leaves out.
        if values["epochs"] and 0 in values["epochs"]:
            found = iter(rates)
            rates = [next(found) if count else rates[0] for count in values["epochs"]]
        typed = [word for name in values for word in _typed(name, values[name]) if name != "learning_rate"]
        command = ["zoo", "finetune", architecture, *typed, "--learning-rate", ",".join(rates)]
        click.echo(f"Use        {' '.join(map(_quoted, command))}")


def _typed(name: str, value: Any) -> list[str]:
    """An option of this command as it can be typed again; nothing where it was not typed."""
    context = click.get_current_context()
    if context.get_parameter_source(name) != click.core.ParameterSource.COMMANDLINE:
        return []
    (option,) = [parameter.opts[0] for parameter in context.command.params if parameter.name == name]
    if isinstance(value, bool):
        return [option]
    if isinstance(value, dict):
        value = f"{value['pool']}:{value['grid']}" if "grid" in value else value["pool"]
    elif isinstance(value, tuple):
        value = ("x" if name == "size" else ",").join(map(str, value)) or "none"
    return [option, str(value)]


@cli.group()
def schedule() -> None:
    """See what a schedule trains."""


@schedule.command("show")
@click.argument("name", metavar="SCHEDULE")
@click.argument("architecture", metavar="ARCH")
@size_option
@click.option("--classes", type=click.IntRange(2, 100000), default=2, show_default=True)
@pool_option
@hidden_option
@reduce_option
def schedule_show(
    name: str,
    architecture: str,
    size: tuple[int, int] | None,
    classes: int,
    pool: dict[str, Any] | None,
    hidden: tuple[int, ...] | None,
    reduce: int | None,
) -> None:
    """Show phase by phase what SCHEDULE (a name or a TOML file) trains of ARCH."""
    import dataclasses

    from zoo import schedules

    registry = _registry()
    found, network = schedules.find(name, registry), registry.architecture(architecture)
    wishes = {key: value for key, value in {"hidden": hidden, "reduce": reduce}.items() if value is not None}
    head = dataclasses.replace(network.head, **(pool or {}), **wishes)
    click.echo(schedules.show(found, network, size=size, classes=classes, head=head))


@cli.command()
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
    from zoo import workflow
    from zoo.evaluate.metrics import table

    path = workflow.resolve_model(model, exported, runs)
    reporter = ConsoleReporter(only_warnings=as_json)
    metrics = workflow.evaluate(path, _registry(), reporter, data=data, part=part, runs_folder=runs)
    click.echo(json.dumps(metrics) if as_json else table(metrics))


@cli.command()
@click.argument("what", metavar="RUN|ARCH.TAG")
@click.option("--top", is_flag=True, help="Export the published classifier ARCH.TAG itself, with its own classes.")
@size_option
@resize_option
@click.option(
    "--data", help="Where a run's pictures are now; with --top, pictures for the parity check (default digits)."
)
@compact_options
@name_option
@runs_option
@exported_option
def export(
    what: str,
    top: bool,
    size: tuple[int, int] | None,
    resize: str,
    data: str | None,
    name: str | None,
    runs: Path,
    exported: Path,
    **values: Any,
) -> int:
    """Export a finished run again, or with --top a published classifier.

    With --int8 or --fp16 the smaller file is made alone, and the float32 export is left as it is.
    """
    compact = _compact(values)
    if top and compact["compact"]:
        raise click.UsageError(
            f"--{compact['compact'][0]} goes with a run: a smaller file is judged on the run's test pictures."
        )
    registry = _registry()
    context = click.get_current_context()
    if top:
        registry.resolve(what)
        from zoo import workflow

        target = workflow.export_top(
            what,
            registry,
            ConsoleReporter(),
            name=name,
            exported=exported,
            size=size,
            resize=resize,
            data=data or "digits",
        )
    else:
        from zoo import workflow

        if context.get_parameter_source("resize").name == "COMMANDLINE":
            raise click.UsageError("--resize goes with --top; a run keeps the resize it was trained with.")
        folder = Path(what) if Path(what).is_dir() else runs / what
        result = workflow.export_run(
            *(folder, registry, ConsoleReporter()), name=name, exported=exported, data=data, size=size, **compact
        )
        target = result.exported
        if target is None:
            return _show_compacts(result)
        if size:
            from zoo.evaluate.metrics import table

            click.echo(f"\nTest pictures, through the exported file:\n{table(result.metrics['test'])}\n")
    click.echo(f"Export     {target} ({target.stat().st_size / 1e6:.1f} MB)")
    return 0


@cli.command()
@click.argument("architecture", metavar="ARCH[.TAG]")
@click.option("--data", required=True, help="Folder of pictures called by WordNet identifier: n01440764_tench.jpg.")
@size_option
@resize_option
@click.option(
    "--at-least", type=click.FloatRange(0, 1), metavar="TOP1", help="Exit 1 where top-1 accuracy is below this."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def verify(
    architecture: str, data: str, size: tuple[int, int] | None, resize: str, at_least: float | None, as_json: bool
) -> int:
    """Check published weights: get the file, check its hash, and score it on pictures of ImageNet's classes."""
    registry = _registry()
    registry.resolve(architecture)
    from zoo import workflow

    reporter = ConsoleReporter(only_warnings=as_json)
    figures = workflow.verify(architecture, data, registry, reporter, size=size, resize=resize)
    if figures["left_out"]:
        shown = "; ".join(f"{name}: {why}" for name, why in list(figures["left_out"].items())[:5])
        reporter.warn(f"{len(figures['left_out'])} files are left out: {shown}")
    if as_json:
        click.echo(json.dumps(figures))
    else:
        for key in ("top1", "top5"):
            reported = figures[f"reported_{key}"]
            note = f" (reported on ImageNet's validation pictures: {reported:.3f})" if reported else ""
            click.echo(f"{key.replace('top', 'top-')}      {figures[key]:.4f}{note}")
        click.echo(f"pictures   {figures['pictures']}, {resize} to {figures['size'][0]}x{figures['size'][1]}")
    if at_least is not None and figures["top1"] < at_least:
        click.echo(f"error: top-1 accuracy {figures['top1']:.4f} is below {at_least:g}.", err=True)
        return 1
    return 0


@cli.command()
@click.argument("model")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--top", type=click.IntRange(1), metavar="K", help="Show the K likeliest classes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a picture.")
@click.option("--threads", type=click.IntRange(1, 256), metavar="N", help="Threads to use (default: one a core).")
@click.option(
    "--providers",
    callback=_providers,
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
    from zoo import workflow
    from zoo_runtime import print_predictions

    path = workflow.resolve_model(model, exported, runs, to_predict=True)
    chosen = {"threads": threads, "providers": providers}
    return print_predictions(os.fspath(path), paths, top=top, as_json=as_json, **chosen)


@cli.group()
def augment() -> None:
    """Look at what augmentation policies do."""


@augment.command("preview")
@click.argument("policy", metavar="POLICY[:K=V,...]")
@click.option("--data", required=True, help="As of `zoo finetune`.")
@click.option(
    "--size", callback=_size, metavar="SIDE|HxW", help="Picture size in pixels (default: the data's, or 224)."
)
@click.option(
    "--pictures", type=click.IntRange(1, 64), default=6, show_default=True, help="Of as many classes as can be."
)
@click.option("--copies", type=click.IntRange(1, 32), default=5, show_default=True, help="Of each picture.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help="Where the sheet is put (default: augment-POLICY.png, here).",
)
def preview(policy: str, **values: Any) -> None:
    """Draw a sheet of pictures before and after POLICY, with their labels."""
    from zoo import augmentation

    click.echo(f"Sheet      {augmentation.preview(policy, _registry(), ConsoleReporter(), **values)}")


@cli.command()
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
    from zoo.evaluate import curves

    click.echo(f"Curves     {curves.plot(wanted, runs, output, smooth)}")


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def doctor(as_json: bool) -> int:
    """Show versions, plugins and their state, cache, mirror and providers. Exit 1 if something is wrong."""
    from zoo import doctor as checks

    report = checks.examine()
    click.echo(json.dumps(report, indent=1) if as_json else checks.table(report))
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    main()
