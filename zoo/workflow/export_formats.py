"""Puts exported files in the formats of plugins in their places, each with its figures and its model card.

`zoo.export.formats` makes and checks them. A format that fails or is refused leaves nothing in place, and costs neither
the float32 export nor the other formats.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from zoo import files, runs
from zoo.errors import PluginError, UsageError, WriteError, ZooError
from zoo.export import format_metadata
from zoo.export.format_variant import FormatVariant
from zoo.export.formats import Bases, make_format
from zoo.export.variants import VARIANTS, VariantFile, VariantRequest, failed
from zoo.files import atomic_write
from zoo.plugin import Format, format_choice
from zoo.plugin.registry import Registry
from zoo.reporter import Reporter
from zoo.workflow import model_card, replaced
from zoo.workflow.model_card import Described
from zoo.workflow.replaced import variant_path
from zoo.workflow.trained import TrainedModel


def resolve(
    requests: Sequence[VariantRequest], registry: Registry, warn: Callable[[str], None] | None = None
) -> tuple[VariantRequest, ...]:
    """Look up the formats that are asked for, before anything is trained or converted.

    Args:
        requests: Files that are asked for, variants and formats.
        registry: The loaded plugins.
        warn: Receives a line about each format that is gone, which is then left out. None raises the error.

    Raises:
        UsageError: No plugin provides a format, or a module that it needs is not installed.
        DuplicateName: Two plugins provide a format of that name.
    """
    found = []
    for each in requests:
        if not isinstance(each.variant, FormatVariant):
            found.append(each)
            continue
        try:
            (kind,) = format_choice.check_formats([each.variant.name], registry)
        except (UsageError, PluginError) as error:
            if warn is None:
                raise
            warn(f"the file {each.variant.name!r} is not made: {error}")
            continue
        found.append(dataclasses.replace(each, variant=FormatVariant(kind.name, kind)))
    return tuple(found)


def of(requests: Sequence[VariantRequest]) -> list[Format]:
    """Return the formats among the files that are asked for, after they have been looked up."""
    return [each.variant.of() for each in requests if isinstance(each.variant, FormatVariant)]


def export(
    request: VariantRequest,
    bases: Bases,
    trained: TrainedModel,
    exported: Path,
    reporter: Reporter,
    *,
    keep: bool,
    replace: bool,
) -> tuple[VariantFile, Path | None]:
    """Make the files of a format, and put them into the run folder and the folder of exports.

    Args:
        request: The format, and the limits that its file must meet.
        bases: Has the graphs that formats store.
        trained: The network with its dataset and its run.
        exported: The folder of exports.
        reporter: Receives progress messages and warnings.
        keep: Whether the export has the input size of the run. If not, the size is added to names in the run folder.
        replace: True also replaces files of other pictures.

    Returns:
        The files with their figures, and the path of the main file in the folder of exports. The path is None if they
        were refused or an error occurred, which is then the reason of the refusal.
    """
    variant, run, size = request.variant, trained.run, trained.dataset.spec.size
    assert isinstance(variant, FormatVariant)
    reporter.say(f"Making the {variant.name} file")
    target = variant_path(exported, trained.name, variant)
    label = variant.name if keep else f"{size[0]}x{size[1]}-{variant.name}"
    try:
        made = make_format(variant, request.limits, bases, trained.dataset, reporter)
        made = dataclasses.replace(made, record=f"{runs.FORMATS}/{label}.json")
        (run.folder / runs.FORMATS).mkdir(exist_ok=True)
        run.write_json(made.record, made.figures)
        if not made.refusal:
            place(made, run.folder / runs.FORMATS / label / variant.file)
            _put(made, target, trained, reporter, replace=replace)
    except OSError as error:
        made = failed(variant, f"a file cannot be written: {error}")
    except ZooError as error:
        made = failed(variant, str(error))
    return made, None if made.refusal else target


def place(made: VariantFile, target: Path) -> None:
    """Write the files of a format. Of several files, the main one comes last, and is gone while others are replaced.

    So there is never a main file beside parts of another export. A single file is replaced in one step.

    Args:
        made: The files.
        target: The path of the main file.

    Raises:
        WriteError: A file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    files.remove_leftovers(target.parent, files.LEFTOVER_SECONDS)
    others = {name: content for name, content in made.files.items() if name != target.name}
    if others:
        target.unlink(missing_ok=True)
    for name, content in [*others.items(), (target.name, made.files[target.name])]:
        with atomic_write(target.with_name(name)) as temporary:
            temporary.write_bytes(content)
    sidecar = target.with_name(format_metadata.SIDECAR)
    if made.info is not None and not format_metadata.carries_metadata(target):
        with atomic_write(sidecar) as temporary:
            temporary.write_text(json.dumps(made.info.to_metadata(), indent=1), encoding="utf-8")


def _put(made: VariantFile, target: Path, trained: TrainedModel, reporter: Reporter, *, replace: bool) -> None:
    """Put the files into the folder of exports, with their model card, and report what they replace.

    Raises:
        ExportError: They would replace an export of other pictures, and `replace` is False.
        WriteError: A file cannot be written. The message says how to export the run to another folder.
    """
    run, variant = trained.run, made.variant
    assert made.info is not None
    replaced.check(target, trained.as_new(), kind=variant.name, replace=replace, trained=run.folder)
    try:
        earlier = replaced.prepare(target, run.id, run.folder.parent)
        place(made, target)
    except WriteError as error:
        dropped = ("--exported", "--as", *(f"--{each.name}" for each in VARIANTS))
        command = trained.export_command("--as", variant.name, "--exported", without=dropped)
        raise WriteError(f"{error} The run is kept; `{command} FOLDER` puts its export elsewhere.") from error
    replaced.report(target, earlier, trained.as_new(), made.info, reporter)
    described = Described(trained, made.metrics, made.figures)
    model_card.write(target, made.content, made.info, reporter, described)
