"""The commands that export a network or check published weights: export, verify."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.console import ConsoleReporter, load_registry, quoted
from zoo.cli.data_command import DataCommand, check_architecture
from zoo.cli.options import (
    allow_chance_option,
    exported_option,
    name_option,
    precision_option,
    replace_option,
    resize_option,
    runs_option,
    size_option,
    typed_again,
    variant_names,
    variant_options,
    variant_requests,
)
from zoo.cli.reading_options import formats_option, max_pixels_option, reading_options, reading_values
from zoo.errors import ZooError

if TYPE_CHECKING:
    from zoo.data.reading import ReadingOptions
    from zoo.export.variants import VariantRequest
    from zoo.plugin.registry import Registry
    from zoo.workflow.export import ExportResult
    from zoo_runtime import Signer


def show_refusal(result: ExportResult) -> int:
    """Print why no file was put in place, if the network has learned nothing, and return the exit code.

    Returns:
        1 if the network was refused, else 0.
    """
    if result.refusal:
        click.echo(f"error: {result.refusal}", err=True)
    return 1 if result.refusal else 0


def show_variants(result: ExportResult) -> int:
    """Print the result of each variant (a smaller file, such as int8), and return the exit code.

    Returns:
        1 if a variant was refused, else 0.
    """
    for variant_file, path in result.variants:
        name = variant_file.variant.name
        click.echo(f"{name:<10} {path or 'refused'}")
        if variant_file.figures:
            for line in variant_file.variant.describe(variant_file.figures):
                click.echo(f"           {line}")
            click.echo(f"           all figures are in {result.run.folder / variant_file.record}")
        if variant_file.refusal:
            click.echo(f"error: no {name} file is exported: {variant_file.refusal}.", err=True)
    return 1 if any(path is None for _, path in result.variants) else 0


@click.command(
    cls=DataCommand,
    short_help="Export a run again, or a published classifier.",
    help="Export a finished run again, or a published classifier with --top.\n\n"
    f"With {variant_names()}, only the smaller file is made. The float32 export is not changed.",
)
@click.argument("what", metavar="RUN|ARCH.TAG")
@click.option("--top", is_flag=True, help="Export the published classifier ARCH.TAG itself, with its own classes.")
@size_option
@resize_option
@click.option(
    "--data",
    help="The run's pictures, if they have moved; with --top, pictures for the parity check (default: digits).",
)
@reading_options
@click.option(
    "--best-so-far", is_flag=True, help="Export an interrupted run with its best weights so far; it can be resumed."
)
@allow_chance_option
@precision_option
@variant_options
@name_option
@replace_option
@click.option(
    "--sign",
    "key",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="Sign the exported files with this private Ed25519 key; devices check it with --require-signature.",
)
@runs_option
@exported_option
@click.option(
    "--web",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Also make a page that labels pictures in a browser: a folder for any web server. A finished run is not "
    "exported again, and an exported file can be given instead.",
)
@click.option(
    "--ort-web",
    type=click.Path(path_type=Path),
    metavar="TGZ|FOLDER",
    help="The npm package onnxruntime-web for the page (default: downloaded once, and kept in the cache).",
)
def export(what: str, web: Path | None, ort_web: Path | None, **values: Any) -> int:
    """Export a run or a published classifier; see `_export`. If `web` is given, also make a page for browsers.

    Returns:
        The exit code: 1 if a variant was refused or the network has learned nothing, else 0.
    """
    if web is None:
        if ort_web is not None:
            raise click.UsageError("--ort-web goes with --web FOLDER, the folder for the page.")
        return _export(what, **values)[0]
    from zoo.export import web_page
    from zoo.workflow import web as workflow

    chosen = [request for request in variant_requests(dict(values)) if request]
    if len(chosen) > 1:
        raise click.UsageError("--web makes a page for one file. Give it with one of --int8 and --fp16 at a time.")
    web_page.check_place(web, replace=values["replace"])
    reporter = ConsoleReporter()
    engine = workflow.find_engine(ort_web, reporter)
    free = {"what", "web", "ort_web", "name", "replace", "runs", "exported"}
    found = None
    if not any(typed_again(key, value) for key, value in values.items() if key not in free):
        found = workflow.find_exported(what, values["exported"], values["runs"])
    if found is None:
        code, target = _export(what, **values)
        if target is None:
            return code
        found = target, target.parent.name
    title = values["name"] or found[1]
    sizes = workflow.write(found[0], web, engine, reporter, title=title, replace=values["replace"])
    click.echo(f"Page       {web} ({sum(sizes.values()) / 1e6:.1f} MB, for {found[0]})")
    click.echo(f"Try it     python -m http.server --directory {quoted(str(web))} 8000, then open http://localhost:8000")
    return 0


def _export(
    what: str,
    top: bool,
    size: tuple[int, int] | None,
    resize: str | None,
    data: str | None,
    best_so_far: bool,
    allow_chance: bool,
    wanted_precision: float | None,
    name: str | None,
    replace: bool,
    key: Path | None,
    runs: Path,
    exported: Path,
    **values: Any,
) -> tuple[int, Path | None]:
    """Export a finished run again, or export a published classifier if `top` is True.

    If the options request variants (smaller files, such as int8), zoo makes these variants of the run, and leaves the
    run's float32 export unchanged.

    Returns:
        The exit code of `export`, and the path of the exported file: of the last variant if there are any. None if
        nothing was put in place.
    """
    typed = _typed()
    variants, reading = variant_requests(values), reading_values(values)
    _check_together(top, size, best_so_far, wanted_precision, variants, reading)
    if not top and typed_again("resize", resize):
        raise click.UsageError("--resize goes with --top; a run keeps the method of resizing that it was trained with.")
    signer = _signer(key)
    registry, reporter = load_registry(), ConsoleReporter()
    target: Path | None
    asked: dict[str, Any] = {"name": name, "exported": exported, "size": size, "reading": reading, "replace": replace}
    if top:
        check_architecture(what, registry)
        from zoo.workflow import published

        options = {**asked, "resize": resize, "data": data or "digits", "folder": runs}
        target = published.export_top(what, registry, reporter, **options)
    else:
        from zoo.workflow import export as workflow
        from zoo.workflow.evaluate import find_run

        _refuse_architecture(what, registry, exported, runs)
        folder = find_run(what, exported, runs, "zoo export", typed)
        options = {**asked, "data": data, "variants": variants, "allow_chance": allow_chance, "typed": typed}
        options["precision"] = wanted_precision
        if best_so_far:
            result = _export_best_so_far(folder, registry, reporter, options)
        else:
            result = workflow.export_run(folder, registry, reporter, **options)
        target = result.exported
        if target is None:
            paths = [path for _, path in result.variants if path]
            _sign(signer, *paths)
            return show_refusal(result) or show_variants(result), paths[-1] if paths else None
        if size or best_so_far or wanted_precision is not None:
            _show_table(result)
    click.echo(f"Export     {target} ({target.stat().st_size / 1e6:.1f} MB)")
    _sign(signer, target)
    return 0, target


def _check_together(
    top: bool,
    size: tuple[int, int] | None,
    best_so_far: bool,
    wanted_precision: float | None,
    variants: Sequence[VariantRequest],
    reading: ReadingOptions,
) -> None:
    """Raise an error if options of `zoo export` do not go together."""
    if top and variants:
        raise click.UsageError(
            f"--{variants[0].variant.name} goes with a run: a smaller file is evaluated on the run's test pictures."
        )
    if top and wanted_precision is not None:
        raise click.UsageError("--precision goes with a run, because held-out pictures decide the threshold.")
    if best_so_far and (top or variants or size):
        other = "--top" if top else "--size" if size else f"--{variants[0].variant.name}"
        raise click.UsageError(f"--best-so-far exports the float32 file of an interrupted run. Leave out {other}.")
    if best_so_far and reading.words():
        raise click.UsageError(f"--best-so-far reads the pictures as the run does. Leave out {reading.words()[0]}.")


def _signer(key: Path | None) -> Signer | None:
    """Read the private key before anything is exported. None if the user gave none."""
    if key is None:
        return None
    from zoo.workflow import signing

    def ask() -> str:
        try:
            return str(click.prompt(f"Passphrase of {key}", hide_input=True))
        except click.Abort:
            # Ctrl-C, or the end of the input, as in a cron job.
            raise EOFError from None

    return signing.open_key(key, ask)


def _sign(signer: Signer | None, *exported: Path | None) -> None:
    """Sign files that were exported, and print where the signatures are."""
    if signer is None:
        return
    from zoo.workflow import signing

    for path in exported:
        if path is not None:
            click.echo(f"Signature  {signing.sign(path, signer)} (key {signer.fingerprint})")


def _export_best_so_far(
    folder: Path, registry: Registry, reporter: ConsoleReporter, options: dict[str, Any]
) -> ExportResult:
    """Export an interrupted run. The options are those of `zoo.workflow.export.export_run`."""
    from zoo.workflow.best_so_far import export_best_so_far

    used = ("name", "exported", "data", "allow_chance", "replace", "precision", "typed")
    return export_best_so_far(folder, registry, reporter, **{key: options[key] for key in used})


def _typed() -> list[str]:
    """Return the words that the user typed after the run, except --runs: the path of a run includes that folder."""
    parameters = click.get_current_context().params
    return [word for key in parameters if key not in ("what", "runs") for word in typed_again(key, parameters[key])]


def _show_table(result: ExportResult) -> None:
    """Print the figures of the test pictures, where they are not those of the report of the run."""
    from zoo.evaluate.metrics import table

    click.echo(f"\nTest pictures, through the exported file:\n{table(result.metrics['test'])}\n")


def _refuse_architecture(what: str, registry: Registry, exported: Path, runs: Path) -> None:
    """Raise an error if the user typed the name of an architecture instead of a run.

    If the current folder, `runs` or `exported` contains a file or folder of this name, no error is raised.

    Args:
        what: The text that the user typed.
        registry: The loaded plugins.
        exported: The folder of exports.
        runs: The folder of runs.

    Raises:
        UsageError: `what` is the name of an architecture that has a published classifier.
    """
    if any(os.path.exists(place / what) for place in (Path(), runs, exported)):
        return
    with contextlib.suppress(ZooError):
        architecture, tag = registry.resolve(what)
        if registry.weights_of(architecture.name, tag, top=True):
            raise click.UsageError(
                f"{what!r} is an architecture, not a run. `zoo export {what} --top` exports the published classifier. "
                f"To train it on your own pictures first: `zoo finetune {what} --data FOLDER`."
            )


@click.command(short_help="Check the hash and accuracy of published weights.")
@click.argument("architecture", metavar="ARCH[.TAG]")
@click.option(
    "--data", required=True, help="Folder of pictures named by WordNet identifier, such as n01440764_tench.jpg."
)
@size_option
@resize_option
@max_pixels_option
@formats_option
@click.option(
    "--at-least",
    type=click.FloatRange(0, 1),
    metavar="TOP1",
    help="Fail with exit code 1 if top-1 accuracy is below this fraction.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def verify(
    architecture: str,
    data: str,
    size: tuple[int, int] | None,
    resize: str | None,
    max_pixels: int | None,
    formats: tuple[str, ...] | None,
    at_least: float | None,
    as_json: bool,
) -> int:
    """Check published weights: find the file, check its hash, and measure its accuracy on ImageNet pictures."""
    registry = load_registry()
    check_architecture(architecture, registry)
    from zoo.data.pixels import left_out_text
    from zoo.workflow import published
    from zoo_runtime import MAX_PIXELS
    from zoo_runtime.workshop import format_accuracy

    reporter = ConsoleReporter(only_warnings=as_json)
    options: dict[str, Any] = {"size": size, "resize": resize, "max_pixels": max_pixels or MAX_PIXELS}
    options["formats"] = formats
    figures = published.verify(architecture, data, registry, reporter, **options)
    if figures["left_out"]:
        reporter.warn(left_out_text(figures["left_out"], figures["pictures"] + len(figures["left_out"])))
    if as_json:
        click.echo(json.dumps(figures))
    else:
        for key in ("top1", "top5"):
            reported = figures[f"reported_{key}"]
            note = f" (reported on ImageNet's validation pictures: {reported:.3f})" if reported else ""
            measured = format_accuracy(figures[key], figures[f"{key}_interval"])
            click.echo(f"{key.replace('top', 'top-')}      {measured}{note}")
        click.echo(
            f"pictures   {figures['pictures']}, {figures['resize']} to {figures['size'][0]}x{figures['size'][1]}"
        )
    if at_least is not None and figures["top1"] < at_least:
        click.echo(f"error: top-1 accuracy {figures['top1']:.4f} is below {at_least:g}.", err=True)
        return 1
    return 0
