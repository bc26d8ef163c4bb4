"""The commands that train, or show how: finetune, lr-find, schedule show, augment preview."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from zoo.cli.console import ConsoleReporter, load_registry, quoted
from zoo.cli.export import show_variants
from zoo.cli.options import (
    exported_option,
    hidden_option,
    name_option,
    parse_size,
    pool_option,
    reduce_option,
    runs_option,
    size_option,
    training_options,
    training_values,
    typed_again,
    variant_options,
    variant_requests,
)


@click.command()
@training_options
@name_option
@runs_option
@exported_option
@click.option("--no-export", is_flag=True, help="Train and evaluate only.")
@variant_options
@click.option("--profile", is_flag=True, help="At the end, print where the time went.")
def finetune(architecture: str, no_export: bool, profile: bool, **values: Any) -> int:
    """Fine-tune a network on your pictures, export it, and judge the exported file."""
    variants = variant_requests(values)
    if no_export and variants:
        raise click.UsageError("--no-export exports no smaller file either.")
    reporter = ConsoleReporter()
    with reporter.timing.measure("start"):
        registry = load_registry()
        registry.resolve(architecture)
        from zoo.data import sources
        from zoo.evaluate.metrics import table
        from zoo.workflow import finetune as workflow

    config = training_values(values, architecture=architecture, export=not no_export)
    result = workflow.finetune(config, registry, reporter, variants=variants)
    click.echo(f"\nTest pictures, through the exported file:\n{table(result.metrics['test'])}\n")
    click.echo(f"Run        {result.run.folder}")
    click.echo(f"Report     {result.run.folder / 'report.html'}")
    if result.exported:
        click.echo(f"Export     {result.exported} ({result.exported.stat().st_size / 1e6:.1f} MB)")
        click.echo(f"Predict    zoo-runtime predict {quoted(result.exported)} {quoted(result.sample)}")
    code = show_variants(result)
    if sources.location(config.data) == sources.EMBEDDED:
        click.echo(f"Your own   zoo finetune {architecture} --data FOLDER   (a folder of pictures for each class)")
    click.echo(f"Took       {time.perf_counter() - reporter.timing.started:.0f} s")
    if profile:
        click.echo(f"\n{reporter.timing.table()}")
    return code


@click.command("lr-find")
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
    registry = load_registry()
    registry.resolve(architecture)
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
        rate = "none" if test.suggestion is None else f"{test.suggestion:g}"
        click.echo(f"{test.phase:10} {rate:8} {test.note}")
    click.echo(f"Picture    {output}")
    if all(test.suggestion is not None for test in tests):
        rates = [f"{test.suggestion:g}" for test in tests]
        # --learning-rate has a place for phases too that --epochs leaves out.
        if values["epochs"] and 0 in values["epochs"]:
            found = iter(rates)
            rates = [next(found) if count else rates[0] for count in values["epochs"]]
        typed = [word for name in values for word in typed_again(name, values[name]) if name != "learning_rate"]
        command = ["zoo", "finetune", architecture, *typed, "--learning-rate", ",".join(rates)]
        click.echo(f"Use        {' '.join(map(quoted, command))}")


@click.group()
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

    from zoo.train import schedule as schedule_tools

    registry = load_registry()
    found, network = schedule_tools.find(name, registry), registry.architecture(architecture)
    overrides = {key: value for key, value in {"hidden": hidden, "reduce": reduce}.items() if value is not None}
    head = dataclasses.replace(network.head, **(pool or {}), **overrides)
    click.echo(schedule_tools.show(found, network, size=size, classes=classes, head=head))


@click.group()
def augment() -> None:
    """Look at what augmentation policies do."""


@augment.command("preview")
@click.argument("policy", metavar="POLICY[:K=V,...]")
@click.option("--data", required=True, help="As of `zoo finetune`.")
@click.option(
    "--size", callback=parse_size, metavar="SIDE|HxW", help="Picture size in pixels (default: the data's, or 224)."
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
    from zoo.report import augment_preview

    click.echo(f"Sheet      {augment_preview.preview(policy, load_registry(), ConsoleReporter(), **values)}")
