"""The command `sweep`: which network, at which size, trained in which way?"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.console import ConsoleReporter, load_registry, quoted, without_plugins
from zoo.cli.data_command import DataCommand
from zoo.cli.options import (
    allow_chance_option,
    exported_option,
    log_option,
    name_option,
    parse_size,
    precision_option,
    replace_option,
    training_options,
    training_values,
    typed_again,
    variant_options,
    variant_requests,
)
from zoo.cli.table import Column, duration, joined, layout, terminal_width
from zoo.cli.values import WholeNumber, parse_names
from zoo.errors import UsageError

if TYPE_CHECKING:
    from zoo.workflow.sweep_results import Row, SweepResult

COLUMNS = (
    Column("network", least=12),
    Column("size", right=True),
    Column("schedule", least=8),
    Column("accuracy", right=True),
    Column("95 %", dropped=4),
    Column("held out", right=True, dropped=3),
    Column("behind", dropped=2),
    Column("took", right=True, dropped=5),
    Column("", least=8, dropped=1),
)
# These stand in other options of this command, or make no sense with several networks.
NOT_OURS = ("architecture", "size", "schedule", "val_split")
OWN = ("networks", "sizes", "schedules", "budget", "output", "as_json", "ray", "address", "trial_cpus", "data")
# A solved head has no use for these, or cannot be solved with them.
NOT_FOR_HEADS = ("epochs", "learning_rate", "augment", "batch_size", "keep", "precision", "hidden", "dropout", "reduce")
OTHER_HEADS = ("hidden", "reduce", "weight_l1", "dropout")
# With --resume, everything else is known.
WITH_RESUME = ("budget", "as_json", "ray", "address", "trial_cpus")
UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600}


def _sizes(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[tuple[int, int] | None, ...]:
    """Parse sizes, separated by commas."""
    names = parse_names(context, parameter, value)
    return tuple(dict.fromkeys(parse_size(context, parameter, each) for each in names)) or (None,)


def parse_budget(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Parse a time such as 30m, 90s, 2h or 1h30m, and return seconds."""
    if value is None:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(s|min|m|h)", value.strip().lower())
    rest = re.sub(r"(\d+(?:\.\d+)?)\s*(s|min|m|h)", "", value.strip().lower()).strip()
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if rest or not seconds:
        raise click.BadParameter(f"must be a time such as 30m, 90s, 2h or 1h30m. Received: {value!r}.")
    return seconds


class _SweepCommand(DataCommand):
    """The command `sweep`, which takes the options of an earlier sweep with --resume FOLDER."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        words = [word for word in args if word == "--resume" or word.startswith("--resume=")]
        if not words or context.resilient_parsing:
            return super().parse_args(context, args)
        place = args.index(words[0])
        folder = words[0].partition("=")[2] or (args[place + 1 : place + 2] or [""])[0]
        rest = args[:place] + args[place + (1 if "=" in words[0] else 2) :]
        with self.context_class(self, context.parent, context.info_name).scope(cleanup=False) as tried:
            super().parse_args(tried, list(rest))
            for name in tried.params:
                if name not in WITH_RESUME and typed_again(name, tried.params[name]):
                    raise UsageError(
                        f"--resume goes on with the settings that the sweep has. Leave out "
                        f"{typed_again(name, tried.params[name])[0]}."
                    )
        return super().parse_args(context, [*_asked_before(folder), "--output", folder, *rest])


def _asked_before(folder: str) -> list[str]:
    """Return the options of the sweep in a folder."""
    path = Path(folder) / "sweep.json"
    try:
        asked = json.loads(path.read_text("utf-8"))["asked"]
        lists = {"--networks": asked["networks"], "--schedules": asked["schedules"]}
        sizes = ["x".join(map(str, size)) for size in asked["sizes"] if size]
        lists |= {"--sizes": sizes}
        given = [word for option, values in lists.items() if values for word in (option, ",".join(values))]
        # The place of the pictures is among the words.
        return [*given, *asked["words"]]
    except FileNotFoundError:
        raise UsageError(f"there is no sweep in {folder!r}: it has no sweep.json.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error}.") from None


@click.command(cls=_SweepCommand, short_help="Try networks, sizes and schedules, and export the best one.")
@click.option(
    "--networks",
    callback=parse_names,
    metavar="NAME,...",
    help="The networks to try (default: all whose weights are on this computer).",
)
@click.option(
    "--sizes",
    callback=_sizes,
    metavar="SIDE|HxW,...",
    help="Picture sizes in pixels, such as 128,160,224 (default: chosen to suit the data and the weights).",
)
@click.option(
    "--schedules",
    callback=parse_names,
    metavar="NAME,...",
    help="The schedules to try (default: auto and fine-tune). The solved head alone always competes.",
)
@click.option(
    "--budget",
    callback=parse_budget,
    metavar="TIME",
    help="How long the sweep may take, such as 30m or 2h, with the export (default: no limit).",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Folder of the sweep (default: sweep-DATA in the current folder).",
)
@click.option("--resume", metavar="FOLDER", expose_value=False, help="Go on with the sweep in this folder.")
@click.option("--ray", is_flag=True, help="Run the trials on Ray Tune; see docs/sweep.md.")
@click.option("--address", metavar="HOST:PORT", help="With --ray: a running Ray cluster (default: this computer).")
@click.option(
    "--trial-cpus", type=WholeNumber(1, 1024), default=2, show_default=True, help="With --ray: processors per trial."
)
@click.option("--json", "as_json", is_flag=True, help="Print the leaderboard as JSON.")
@training_options
@name_option
@replace_option
@exported_option
@allow_chance_option
@precision_option
@variant_options
@log_option
def sweep(
    data: str,
    networks: tuple[str, ...],
    sizes: tuple[tuple[int, int] | None, ...],
    schedules: tuple[str, ...],
    budget: float | None,
    output: Path | None,
    ray: bool,
    address: str | None,
    trial_cpus: int,
    as_json: bool,
    **values: Any,
) -> int:
    """Try networks, picture sizes and schedules on your pictures, and export the best one.

    Each network is judged at each size with a solved head. The best third is trained with all schedules on one part of
    the pictures, the best third of these on more parts, and so on. Held-out pictures decide. Then the winner is trained
    on all pictures, exported, and evaluated on the test pictures, which no other trial sees.

    The same command goes on with a sweep that was interrupted. Most options of `zoo finetune` can be given, for all
    trials.
    """
    if (address or typed_again("trial_cpus", trial_cpus)) and not ray:
        raise UsageError(f"{'--address' if address else '--trial-cpus'} goes with --ray.")
    from zoo.data import sources
    from zoo.report import leaderboard
    from zoo.workflow.sweep import sweep as workflow
    from zoo.workflow.sweep_config import SweepConfig, digest_of
    from zoo.workflow.sweep_trials import absolute

    place = data if sources.location(data) == sources.EMBEDDED else absolute(data)
    words, head_words = _trial_words(values, place)
    if output is None:
        output = Path(f"sweep-{sources.short_name(place.rstrip('/').rpartition('/')[2])}")
    registry = load_registry()
    _check(values, data, (*networks, "mobilenetv2")[0])
    pictures = digest_of(sources.open_source(place, reading=_reading(values)))
    command = _command(output, address, trial_cpus, ray=ray)
    requested = SweepConfig(
        data=place,
        networks=networks,
        sizes=sizes,
        schedules=tuple(absolute(name) if name.endswith(".toml") else name for name in schedules),
        words=words,
        head_words=head_words,
        heads_compete=not any(typed_again(name, values[name]) for name in OTHER_HEADS) and _is_vector(values["pool"]),
        random=values["weights"] == "none",
        folds=values["folds"],
        budget=budget,
        output=output,
        exported=Path(absolute(str(values["exported"]))),
        pictures=pictures,
        command=command,
        again=f"{command} --budget {budget:g}s" if budget else command,
        environment=_environment(),
        threads=trial_cpus if ray else None,
    )
    options = {"address": address, "cpus": trial_cpus} if ray else None
    found = workflow(requested, registry, ConsoleReporter(only_warnings=as_json), ray=options)
    leaderboard.write(found.to_json(), output / "leaderboard.html")
    _write_table(found, output / "leaderboard.csv")
    if as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        _show(found, requested.budget or 0.0)
    return 1 if found.problem else 0


sweep.params = [each for each in sweep.params if each.name not in NOT_OURS]


def _trial_words(values: Mapping[str, Any], data: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the options that all trials get, and those that the solved heads get."""
    exported = ["--exported", os.path.abspath(os.path.expanduser(values["exported"]))]
    words, head_words = ["--data", data, *exported], ["--data", data, *exported]
    for name, value in values.items():
        if name in OWN or name == "exported":
            continue
        typed = typed_again(name, value)
        if name == "weights" and typed and os.path.isfile(os.path.expanduser(value)):
            typed = [typed[0], os.path.abspath(os.path.expanduser(value))]
        if name in ("export_as", "loggers") and typed:
            typed = [typed[0], ",".join(value)]
        words += typed
        if name in NOT_FOR_HEADS or name == "weight_l1" or name.startswith("override_"):
            continue
        if name != "pool" or _is_vector(value):
            head_words += typed
    return tuple(words), tuple(head_words)


def _command(output: Path, address: str | None, trial_cpus: int, *, ray: bool) -> str:
    """Return the command that goes on with a sweep, without a budget; the arguments are options of `zoo sweep`."""
    command = f"zoo {'--no-plugins ' if without_plugins() else ''}sweep --resume {quoted(output)}"
    typed = [*typed_again("address", address), *typed_again("trial_cpus", trial_cpus)] if ray else []
    return " ".join([command, *(["--ray"] if ray else []), *map(quoted, typed)])


def _environment() -> dict[str, str]:
    """Return what the processes of trials need to know, because machines of a cluster have an environment of their own.

    A worker of Ray on another machine has that of the command that started Ray there.
    """
    # Passwords and tokens stay here: a trial needs none.
    names = ("ZOO_CACHE", "ZOO_WEIGHTS_DIR", "ZOO_OFFLINE", "ZOO_PLUGINS", "ZOO_STRICT_PLUGINS")
    found = {name: os.environ[name] for name in (*names, "KERAS_BACKEND", "KERAS_HOME") if name in os.environ}
    return {**found, "ZOO_PLUGINS": ""} if without_plugins() else found


def _is_vector(pool: Mapping[str, Any] | None) -> bool:
    """Return whether a pooling gives few enough features for a solved head."""
    return pool is None or pool["pool"] not in ("flatten", "roi")


def _check(values: Mapping[str, Any], data: str, network: str) -> None:
    """Check the options that all trials share, before the first one starts."""
    copied = dict(values)
    variant_requests(copied)
    for name in ("replace", "allow_chance"):
        copied.pop(name)
    training_values(copied, architecture=network, data=data)


def _reading(values: Mapping[str, Any]) -> Any:
    from zoo.cli.reading_options import reading_values

    return reading_values(dict(values))


def _note(row: Row) -> str:
    stages = {0: "the solved head", 1: "1 fold"}
    out = f"out after {stages.get(row.out_after or 0, f'{row.out_after} folds')}"
    notes = {"winner": "take this one", "close": "as good", "behind": "", "out": out}
    return {**notes, "unfinished": "unfinished", "waiting": "not begun"}.get(row.state, row.state)


def _show(found: SweepResult, budget: float) -> None:
    """Print the leaderboard and the winner."""
    from zoo.evaluate.metrics import accuracy_text

    lines = []
    for row in found.rows:
        if row.state == "failed":
            continue
        low, high = row.accuracy_interval or (0.0, 0.0)
        measured = ["-", "", ""]
        if row.accuracy is not None:
            measured = [f"{row.accuracy:.4f}", f"{low:.3f} to {high:.3f}", str(row.pictures)]
        behind = ""
        if row.behind is not None and row.state not in ("winner", "out"):
            behind = f"{100 * row.behind:.1f} ± {100 * (row.behind_error or 0.0):.1f}"
        cells = [row.network, row.size, Path(row.schedule).stem, *measured, behind]
        lines.append([*cells, duration(row.seconds), _note(row)])
    click.echo("")
    for line in layout(COLUMNS, lines, terminal_width()):
        click.echo(joined(line))
    for row in found.rows:
        if row.state == "failed":
            click.echo(f"failed: {row.name}: {row.problem.splitlines()[0]}")
    click.echo("")
    click.echo(f"Take       {found.winner}")
    if found.test is not None:
        click.echo(f"Test       {accuracy_text(dict(found.test))}; no other trial has seen these pictures")
    if found.problem:
        click.echo(f"error: the winner could not be finished: {found.problem}", err=True)
    elif found.problem == "":
        click.echo(f"Unfinished The time was over before the winner was exported. Finish it: zoo resume {found.run}")
    if found.exported is not None:
        click.echo(f"Export     {found.exported}")
        click.echo(f"Run        {found.run}")
    click.echo(f"Page       {found.output / 'leaderboard.html'}")
    click.echo(f"Table      {found.output / 'leaderboard.csv'}")
    if found.stopped:
        click.echo(
            f"Go on      {found.command} --budget TIME   (more than {duration(max(found.seconds, budget))} in all)"
        )
    click.echo(f"Took       {duration(found.seconds)}")


def _write_table(found: SweepResult, path: Path) -> None:
    """Write all figures as CSV."""
    from zoo.data.decisions import as_text
    from zoo.files import atomic_write

    rows = found.to_json()["rows"]
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        fields = [name for name in rows[0] if name != "accuracy_interval"]
        place = fields.index("accuracy") + 1
        fields[place:place] = ["accuracy_low", "accuracy_high"]
        writer = csv.DictWriter(stream, fields)
        writer.writeheader()
        for row in rows:
            low, high = row.pop("accuracy_interval") or (None, None)
            # The text of an error may come from anywhere, and spreadsheets open this file.
            row = {key: as_text(value) if isinstance(value, str) else value for key, value in row.items()}
            writer.writerow({**row, "accuracy_low": low, "accuracy_high": high})
