"""Makes smaller files, and puts exported ONNX files into the run folder and the folder of exports.

`zoo.workflow.export` decides the order. `zoo.workflow.export_formats` does the same for files of other formats.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import WriteError, ZooError
from zoo.export import format_metadata
from zoo.export.format_variant import FormatVariant
from zoo.export.formats import Bases
from zoo.export.variants import (
    VARIANTS,
    FinishGraph,
    Float32File,
    VariantFile,
    VariantGraph,
    VariantRequest,
    failed,
    make_variant,
    option_words,
)
from zoo.reporter import Reporter
from zoo.workflow import export_formats, model_card, replaced
from zoo.workflow.finished_graph import Finisher
from zoo.workflow.model_card import Described
from zoo.workflow.replaced import variant_path
from zoo.workflow.trained import TrainedModel
from zoo_runtime import Predictor

if TYPE_CHECKING:
    import onnx

    from zoo.export.fixed_batch import FixedBatch


@dataclass(frozen=True)
class Place:
    """Says where the files of variants are put.

    Args:
        exported: The folder of exports.
        keep: True if the export has the input size of the run. Files in the run folder then have their usual names.
            False adds the input size to these names, so that files for the input size of the run are not replaced.
        replace: True also replaces a variant of other pictures.
    """

    exported: Path
    keep: bool
    replace: bool


def put(
    source: Path | bytes,
    target: Path,
    described: Described,
    reporter: Reporter,
    *,
    kind: str | None = None,
    replace: bool,
) -> None:
    """Put an exported file in its place in the folder of exports, with its model card, and report what it replaces.

    The check of `check_targets` is repeated, because another program may have put a file there during the training.

    Args:
        source: The file in the run folder, or the bytes of a file that the run folder does not keep.
        target: The path in the folder of exports.
        described: The network with its dataset and its run, and the figures of the file.
        reporter: Receives the report.
        kind: The name of the variant; None for a float32 file.
        replace: True also replaces an export of other pictures.

    Raises:
        ExportError: The file would replace an export of other pictures, and `replace` is False.
        ParityFailed: The written file does not pass its self-test.
        WriteError: The file cannot be written. The message says how to export the run to another folder.
    """
    from zoo.export import artifact

    trained = described.trained
    run = trained.run
    replaced.check(target, trained.as_new(), kind=kind, replace=replace, trained=run.folder)
    try:
        earlier = replaced.prepare(target, run.id, run.folder.parent)
        if isinstance(source, bytes):
            artifact.place(source, target)
        else:
            artifact.copy(source, target)
    except WriteError as error:
        dropped = ("--exported", "--as", *(f"--{each.name}" for each in VARIANTS))
        command = trained.export_command(*(option_words(kind) if kind else []), "--exported", without=dropped)
        raise WriteError(f"{error} The run is kept; `{command} FOLDER` puts its export elsewhere.") from error
    info = Predictor(target, tuned=False).info
    replaced.report(target, earlier, trained.as_new(), info, reporter)
    model_card.write(target, source, info, reporter, described)


def export_all(
    variants: Sequence[VariantRequest],
    float32: Float32File,
    finisher: Finisher,
    trained: TrainedModel,
    place: Place,
    reporter: Reporter,
) -> list[tuple[VariantFile, Path | None]]:
    """Make the variants and formats that are asked for, one after the other.

    Args:
        variants: What is asked for.
        float32: The float32 file.
        finisher: Puts calibration and thresholds into graphs.
        trained: The network with its dataset and its run.
        place: Where the files are put.
        reporter: Receives progress messages and warnings.

    Returns:
        Each file with its figures, and its path in the folder of exports. The path is None if it was refused.
    """
    made: list[tuple[VariantFile, Path | None]] = []
    seed = trained.record.options["seed"]
    bases = Bases(float32, trained.dataset, finisher.of, reporter, seed, finisher.thresholds)
    for each in variants:
        if isinstance(each.variant, FormatVariant):
            options = {"keep": place.keep, "replace": place.replace}
            made.append(export_formats.export(each, bases, trained, place.exported, reporter, **options))
        else:
            finish, shared = finisher.of(each.variant.name), functools.partial(bases.shared, each, variants)
            made.append(export_variant(each, float32, finish, trained, place, shared, reporter=reporter))
    return made


def check_compiler(compiler: FixedBatch | None, *, replace: bool) -> None:
    """Check that the folder for a compiler may be written; see `zoo.export.fixed_batch.check_place`."""
    if compiler is not None:
        from zoo.export import fixed_batch

        fixed_batch.check_place(compiler.folder, replace=replace)


def write_for_compiler(
    compiler: FixedBatch, graph: onnx.ModelProto, trained: TrainedModel, reporter: Reporter
) -> float:
    """Make the folder for a compiler; see `zoo.export.fixed_batch.write`."""
    from zoo.convert.keras_to_onnx import public
    from zoo.export import fixed_batch, int8

    reporter.say(f"Making the file with a batch of {compiler.batch}, and calibration pictures")
    dataset = trained.dataset
    rows, _, _ = int8.choose_pictures(dataset.split, trained.record.options["seed"])
    return fixed_batch.write(compiler, public(graph), dataset.source.classes, dataset, rows)


def warn_of_stale(
    variants: Sequence[VariantRequest], exported: Path, trained: TrainedModel, reporter: Reporter
) -> None:
    """Warn of files of other runs beside a new float32 file that are not made again now."""
    requested = [each.variant for each in variants]
    names = [variant.name for variant in requested]
    others = [variant for variant in VARIANTS if variant not in requested]
    formats = [each for each in format_metadata.beside(exported, trained.name) if each[0] not in names]
    replaced.warn_of_stale(others, exported, trained.name, trained.run, reporter, formats)


def export_variant(
    request: VariantRequest,
    float32: Float32File,
    finish: FinishGraph,
    trained: TrainedModel,
    place: Place,
    shared: Callable[[], VariantGraph | None],
    *,
    reporter: Reporter,
) -> tuple[VariantFile, Path | None]:
    """Make a variant, write it into the run folder, and copy it into the folder of exports.

    The measured figures of the variant are written into the run folder too. A variant is refused in two cases:

    - The variant does not meet a limit on accuracy or speed. Only its figures are then written.
    - A ZooError occurs. The error is recorded as the reason of the refusal. It is not raised, because another variant
      may still succeed.

    Args:
        request: The variant, and the limits that it must meet.
        float32: The float32 file.
        finish: Puts calibration and thresholds into the graph of a variant; see `zoo.export.variants.make_variant`.
        trained: The network with its dataset and its run.
        place: Where the file is put.
        shared: Returns the graph of the variant if a format that is asked for too stores the same, or None.
        reporter: Receives progress messages and warnings.

    Returns:
        The variant with its figures, and the path of its file in the folder of exports. The path is None if the variant
        was refused.
    """
    from zoo.export import artifact

    variant, run, size = request.variant, trained.run, trained.dataset.spec.size
    reporter.say(f"Making the {variant.name} file")
    target = variant_path(place.exported, trained.name, variant)
    suffix = variant.name if place.keep else f"{size[0]}x{size[1]}-{variant.name}"
    seed = trained.record.options["seed"]
    try:
        variant_file = make_variant(request, float32, finish, trained.dataset, reporter, seed=seed, made=shared())
        variant_file = dataclasses.replace(variant_file, record=f"{suffix}.json")
        run.write_json(variant_file.record, variant_file.figures)
        if not variant_file.refusal:
            kept = run.folder / f"model-{suffix}.onnx"
            artifact.place(variant_file.content, kept)
            described = Described(trained, variant_file.metrics, variant_file.figures)
            put(kept, target, described, reporter, kind=variant.name, replace=place.replace)
    except ZooError as error:
        variant_file = failed(variant, str(error))
    return variant_file, None if variant_file.refusal else target


def warn_of_earlier(
    files_and_paths: Sequence[tuple[VariantFile, Path | None]], exported: Path, name: str, reporter: Reporter
) -> None:
    """Warn of variants that were refused while a file of an earlier export is at their place."""
    for variant_file, path in files_and_paths:
        left = variant_path(exported, name, variant_file.variant)
        if path is None and left.is_file():
            reporter.warn(f"{left} comes from an earlier export and is not changed.")
