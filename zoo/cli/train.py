"""The commands that train or show what training would do: finetune, resume, lr-find, schedule show, augment preview."""

from __future__ import annotations

import dataclasses
import difflib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo import hosts
from zoo.cli import config_option
from zoo.cli.console import ConsoleReporter, load_registry, quoted
from zoo.cli.data_command import DataCommand, check_architecture
from zoo.cli.export import show_refusal, show_variants
from zoo.cli.hosts_options import hosts_options, together
from zoo.cli.options import (
    DATA_HELP,
    WholeNumber,
    allow_chance_option,
    exported_option,
    hidden_option,
    judging_options,
    log_option,
    name_option,
    parse_size,
    pool_option,
    precision_option,
    reduce_option,
    replace_option,
    runs_option,
    size_option,
    training_options,
    training_values,
    typed_again,
    variant_options,
    variant_requests,
)
from zoo.cli.reading_options import reading_options, reading_values
from zoo.errors import DataNotFound, UsageError
from zoo.export.variants import VARIANTS

if TYPE_CHECKING:
    from zoo.config import FinetuneConfig
    from zoo.plugin.registry import Registry
    from zoo.train.lr_find import RangeTest
    from zoo.workflow.config_file import Settings
    from zoo.workflow.export import ExportResult


def _typed() -> list[str]:
    """Return the options that the user typed and that `zoo export RUN` takes. The run records all others."""
    keys = ["exported", "replace", "allow_chance", "max_drop"]
    keys += [f"{each.name}_any_speed" for each in VARIANTS if each.must_be_faster]
    parameters = click.get_current_context().params
    return [word for key in keys for word in typed_again(key, parameters[key])]


class _FinetuneCommand(DataCommand):
    """The command `finetune`, which hands `--resume RUN` to the command `resume`, and takes options from --config."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if context.resilient_parsing:
            return super().parse_args(context, args)
        words = [word for word in args if word == "--resume" or word.startswith("--resume=")]
        if words:
            rest = [word.removeprefix("--resume=") for word in args if word != "--resume"]
            if any(word.split("=")[0] == "--config" for word in rest):
                raise click.UsageError(
                    "--resume continues a run with the settings that it has. Leave out --config.", context
                )
            context.exit(resume.main(rest, f"{context.command_path} --resume", standalone_mode=False) or 0)
        config_option.apply(self, context, args)
        try:
            return super().parse_args(context, args)
        except click.BadParameter as error:
            explained = config_option.explain(context, error)
            if explained is None:
                raise
            raise explained from None

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except DataNotFound as error:
            raise DataNotFound(f"{error}{config_option.moved_text(context)}") from None
        except (UsageError, click.UsageError) as error:
            text = error.message if isinstance(error, click.UsageError) else str(error)
            explained = config_option.with_origin(context, UsageError(text))
            if str(explained) == text:
                raise
            raise explained from None


@click.command(cls=_FinetuneCommand, short_help="Fine-tune a network on your pictures and export it.")
@training_options
@config_option.config_option
@name_option
@replace_option
@runs_option
@exported_option
@click.option(
    "--export/--no-export", default=True, help="Export the network, or only train and evaluate it (default: export)."
)
@allow_chance_option
@precision_option
@variant_options
@log_option
@hosts_options
@click.option("--profile", is_flag=True, help="At the end, print how long each step took.")
@click.option("--dry-run", is_flag=True, help="Print what would be read, split and replaced, and stop.")
@click.option("--resume", metavar="RUN", expose_value=False, help="Continue an interrupted run, as `zoo resume RUN`.")
@judging_options
def finetune(
    architecture: str,
    export: bool,
    allow_chance: bool,
    replace: bool,
    profile: bool,
    dry_run: bool,
    hold_out: int | None,
    judge_only: bool,
    processes: int | str | None,
    process_index: int | None,
    coordinator: str | None,
    **values: Any,
) -> int:
    """Fine-tune a network on your pictures, export it, and evaluate the exported file.

    The exit code is 1, and nothing is exported, if the network has learned nothing.
    """
    if not export and replace:
        raise click.UsageError("--no-export makes no exported file, so that --replace cannot be given with it.")
    typed = {"--patience": typed_again("override_patience", 0), "--keep": typed_again("keep", "")}
    needing_validation = [option for option, words in typed.items() if words]
    variants = variant_requests(values)
    if not export and variants:
        raise click.UsageError(
            f"--no-export makes no exported file, so that {variants[0].variant.option} cannot be given with it."
        )
    reporter = ConsoleReporter()
    with reporter.timing.measure("start"):
        registry = load_registry()
        check_architecture(architecture, registry)
        from zoo.workflow import finetune as workflow

    settings = config_option.settings_of(click.get_current_context())
    config = training_values(values, architecture=architecture, export=export)
    if settings is not None:
        config = dataclasses.replace(config, schedule=_schedule_of(settings, config.schedule, registry))
    if dry_run:
        workflow.show_data(config, registry, reporter, variants=variants, replace=replace)
        return 0
    options: dict[str, Any] = {"variants": variants, "allow_chance": allow_chance, "replace": replace}
    options["typed"] = _typed()
    options["repeats"] = settings.run if settings else None
    from zoo.workflow.judging import Judged, Judging

    options["judging"] = Judging(hold_out, judge_only)
    try:
        with together(processes, process_index, coordinator, {}, reporter.say):
            if not hosts.leads():
                from zoo.workflow import following

                following.take_part(config, registry)
                return 0
            result = workflow.finetune(config, registry, reporter, needing_validation=needing_validation, **options)
    except Judged:
        return 0
    return _show_result(result, reporter, config, profile=profile)


def _schedule_of(settings: Settings, requested: Any, registry: Registry) -> Any:
    """Return the schedule of a training whose settings come from a file: a name, a path, phases, or None.

    Args:
        settings: The settings of the file.
        requested: The value of --schedule, which was typed or is in the file.
        registry: The loaded plugins.
    """
    from zoo.plugin import Schedule

    if typed_again("schedule", requested):
        known = {each.name for each in registry.all(Schedule)}
        old = settings.recorded
        if requested in known or requested != settings.values.get("schedule", settings.chosen.get("schedule")):
            return requested
        if old is None and settings.folder is None:
            raise UsageError(
                f"{str(settings.path)!r}: no plugin provides the schedule {requested!r} of this run, and its phases "
                "are not recorded. Name a schedule, or the TOML file of its phases, with --schedule."
            )
        return old or requested
    return settings.schedule


def _show_result(result: ExportResult, reporter: ConsoleReporter, config: FinetuneConfig, *, profile: bool) -> int:
    """Print the figures and files of a run, and return the exit code.

    Args:
        result: The files and metrics of the run.
        reporter: Has measured the time.
        config: The settings of the run.
        profile: Whether to print how long each step took.
    """
    from zoo.data import sources
    from zoo.data.reading import ReadingOptions
    from zoo.evaluate.metrics import accuracy_text, table

    # Without an export, the converted network is evaluated too, but no file is kept.
    through = "exported file" if result.exported else "converted network"
    click.echo(f"\nTest pictures, through the {through}:\n{table(result.metrics['test'])}\n")
    if "cross_validation" in result.metrics:
        click.echo(f"Cross-validation: {accuracy_text(result.metrics['cross_validation'])}\n")
    click.echo(f"Run        {result.run.folder}")
    click.echo(f"Report     {result.run.folder / 'report.html'}")
    if result.exported:
        click.echo(f"Export     {result.exported} ({result.exported.stat().st_size / 1e6:.1f} MB)")
        limit = " ".join(ReadingOptions(max_pixels=config.reading.max_pixels, formats=config.reading.formats).words())
        words = [quoted(result.exported), quoted(result.sample), *([limit] if limit else [])]
        click.echo(f"Predict    zoo-runtime predict {' '.join(words)}")
    for logger, hint in result.logs:
        click.echo(f"Log        {logger}: {hint}")
    code = show_variants(result)
    if sources.location(config.data) == sources.EMBEDDED:
        click.echo(
            f"Your own   zoo finetune {config.architecture} --data FOLDER   (a folder of pictures for each class)"
        )
    click.echo(f"Took       {time.perf_counter() - reporter.timing.started:.0f} s")
    if profile:
        click.echo(f"\n{reporter.timing.table()}")
    return show_refusal(result) or code


@click.command(short_help="Continue an interrupted run.")
@click.argument("run", metavar="RUN")
@click.option("--data", help="The run's pictures, if they have moved.")
@runs_option
@hosts_options
@click.option("--profile", is_flag=True, help="At the end, print how long each step took.")
@judging_options
def resume(
    run: str,
    data: str | None,
    runs: Path,
    profile: bool,
    processes: int | str | None,
    process_index: int | None,
    coordinator: str | None,
    hold_out: int | None,
    judge_only: bool,
) -> int:
    """Continue an interrupted run where it stopped, and export it as it was asked for.

    The weights are those of a run without interruption, bit for bit. RUN is a run folder, the name of a run, or the
    last six characters of its name; `zoo runs` lists all runs.
    """
    reporter = ConsoleReporter()
    with reporter.timing.measure("start"):
        registry = load_registry()
        from zoo import runs as run_folders
        from zoo.workflow import unfinished
        from zoo.workflow.judging import Judged, Judging

    folder = run_folders.find(run, runs)
    judging = Judging(hold_out, judge_only)
    try:
        with together(processes, process_index, coordinator, {"run": folder.name}, reporter.say):
            if not hosts.leads():
                from zoo.workflow import following

                following.take_part_again(folder, registry, data)
                return 0
            _, _, asked = unfinished.open_unfinished(folder)
            result = (
                unfinished.resume(folder, registry, reporter, data=data, judging=judging) if asked is not None else None
            )
    except Judged:
        return 0
    if asked is None or result is None:
        click.echo(unfinished.finished_text(folder))
        return 0
    return _show_result(result, reporter, asked.config, profile=profile)


@click.command("lr-find", cls=DataCommand)
@training_options
@click.option("--lowest", type=click.FloatRange(1e-12, 100), default=1e-6, show_default=True, help="First rate to try.")
@click.option("--highest", type=click.FloatRange(1e-12, 100), default=1.0, show_default=True, help="Last rate to try.")
@click.option(
    "--steps",
    type=WholeNumber(20, 10000),
    default=100,
    show_default=True,
    help="Number of rates to try, one per batch.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="lr-find.png",
    show_default=True,
    metavar="FILE.png",
    help="File for the curves.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def lr_find(
    architecture: str, lowest: float, highest: float, steps: int, output: Path, as_json: bool, **values: Any
) -> None:
    """Suggest a learning rate for each phase, by a range test.

    The learning rate rises from step to step, and the loss falls until training becomes unstable. The suggestion is a
    tenth of the rate with the lowest loss.

    In a phase whose layers fit the pictures already, no rate may lower the loss. The suggestion for such a phase is a
    third of the rate at which the loss starts to rise. If there is no such rate, there is no suggestion for the phase.

    Use the rates of the schedule if a phase has no suggestion, or if no rate lowers the loss in any phase.

    Each phase is tested after the phases before it have been trained. Only the plot of the curves is kept.
    """
    if not lowest < highest:
        raise click.UsageError(f"--lowest must be below --highest. Received: {lowest:g} and {highest:g}.")
    if output.suffix.lower() != ".png":
        raise click.UsageError(f"--output must end in .png. Received: {str(output)!r}.")
    registry = load_registry()
    check_architecture(architecture, registry)
    from zoo.train.lr_find import RangeTestConfig
    from zoo.workflow import finetune as workflow

    reporter = ConsoleReporter(only_warnings=as_json)
    config = training_values(values, architecture=architecture)
    range_test = RangeTestConfig(lowest, highest, steps)
    tests = workflow.lr_find(config, registry, reporter, range_test, output=output)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(test) for test in tests]))
        return
    click.echo("")
    for test in tests:
        suggestion = "none" if test.suggestion is None else f"{test.suggestion:g}"
        click.echo(f"{test.phase:10} {suggestion:8} {test.note}")
    click.echo(f"Picture    {output}")
    failed = [test.phase for test in tests if test.suggestion is None]
    if not failed and any(test.lowers_loss for test in tests):
        click.echo(f"Use        {_command_to_use(architecture, values, tests)}")
    else:
        # A rate that only does no harm, in every phase, would train nothing.
        found = f"no rate was found for {', '.join(failed)}" if failed else "no rate lowers the loss"
        click.echo(
            f"Use        the rates of the schedule, because {found}. Check that the pictures are in the folders of "
            "their classes, or try --steps 300, a larger --batch-size, or another --lowest and --highest."
        )


def _command_to_use(architecture: str, values: dict[str, Any], tests: Sequence[RangeTest]) -> str:
    """Return the `zoo finetune` command that trains with the learning rates that the range tests suggest.

    The command repeats the training options that the user typed for `zoo lr-find`, except --learning-rate.

    Args:
        architecture: The name of the architecture.
        values: Maps the name of each training option to its value.
        tests: The range tests, one for each phase that trains. Each of them suggests a learning rate.
    """
    rates = [f"{test.suggestion:g}" for test in tests]
    # --learning-rate also needs a number for the phases that --epochs leaves out.
    if values["epochs"] and 0 in values["epochs"]:
        suggestions = iter(rates)
        rates = [next(suggestions) if count else rates[0] for count in values["epochs"]]
    typed = [word for name in values for word in typed_again(name, values[name]) if name != "learning_rate"]
    return " ".join(map(quoted, ["zoo", "finetune", architecture, *typed, "--learning-rate", ",".join(rates)]))


class _GroupOfOne(click.Group):
    """A group with a single command.

    If the name of this command is left out or misspelled, the error message shows the corrected command line.
    """

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(context, args[0]) is None:
            (only,) = self.commands
            # A misspelled name is replaced; anything else is an argument of the command.
            rest = args[1:] if difflib.get_close_matches(args[0], [only], cutoff=0.7) else args
            words = " ".join(map(quoted, [str(context.info_name), only, *rest]))
            raise click.UsageError(
                f"there is no command {f'{context.info_name} {args[0]}'!r}. Did you mean `zoo {words}`?", context
            )
        return super().resolve_command(context, args)


@click.group(cls=_GroupOfOne)
def schedule() -> None:
    """Show which layers a schedule trains."""


@schedule.command("show")
@click.argument("name", metavar="SCHEDULE")
@click.argument("architecture", metavar="ARCH")
@size_option
@click.option(
    "--classes",
    type=WholeNumber(2, 100000),
    default=2,
    show_default=True,
    help="Number of classes; it decides the size of the last layer.",
)
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
    """Show which layers of ARCH each phase of SCHEDULE (a name or a TOML file) trains."""
    from zoo.train import schedule as schedule_tools

    registry = load_registry()
    chosen, network = schedule_tools.find(name, registry), registry.architecture(architecture)
    changes: dict[str, Any] = {"hidden": hidden, "reduce": reduce}
    changes = {key: value for key, value in changes.items() if value is not None}
    head = dataclasses.replace(network.head, **(pool or {}), **changes)
    click.echo(schedule_tools.show(chosen, network, size=size, classes=classes, head=head))


@click.group(cls=_GroupOfOne)
def augment() -> None:
    """Show what augmentation policies do to pictures."""


@augment.command("preview", cls=DataCommand)
@click.argument("policy", metavar="POLICY[:K=V,...]")
@click.option("--data", default="digits", show_default=True, help=DATA_HELP)
@reading_options
@click.option(
    "--size",
    callback=parse_size,
    metavar="SIDE|HxW",
    help="Picture size in pixels (default: the size of the data, or 224).",
)
@click.option(
    "--pictures",
    type=WholeNumber(1, 64),
    default=6,
    show_default=True,
    help="Number of pictures, from as many classes as possible.",
)
@click.option(
    "--copies",
    type=WholeNumber(1, 32),
    default=5,
    show_default=True,
    help="Number of augmented copies of each picture.",
)
@click.option(
    "--seed",
    type=WholeNumber(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="Decides the choice of pictures and the augmentation.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help="File for the sheet (default: augment-POLICY.png in the current folder).",
)
def preview(policy: str, **values: Any) -> None:
    """Draw pictures before and after augmentation by POLICY on one sheet, with their labels."""
    from zoo.report import augment_preview

    reading = reading_values(values)
    sheet = augment_preview.preview(policy, load_registry(), ConsoleReporter(), reading=reading, **values)
    click.echo(f"Sheet      {sheet}")
