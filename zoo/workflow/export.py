"""Exports a trained network: converts it, checks parity, evaluates the file, and only then replaces an earlier export.

This module decides the order of the steps. The steps themselves are in `zoo.convert`, `zoo.export` and `zoo.evaluate`.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import config, files, runs
from zoo.data import sources
from zoo.data.dataset import Dataset
from zoo.data.reading import ReadingOptions
from zoo.data.stored import StoredPicture
from zoo.errors import ZooError
from zoo.evaluate import evaluator
from zoo.evaluate import metrics as metric_tools
from zoo.evaluate.evaluator import Outputs
from zoo.export.variants import Float32File, VariantFile, VariantRequest
from zoo.plugin import Head
from zoo.plugin.registry import Registry
from zoo.reporter import Reporter
from zoo.workflow import (
    export_formats,
    export_variants,
    label_issues,
    missing_plugins,
    page,
    replaced,
    report_data,
    solved,
    transfer,
    trust,
    verdict,
)
from zoo.workflow import precision as precisions
from zoo.workflow.export_variants import Place, put, warn_of_earlier
from zoo.workflow.finished_graph import Finisher, convert_trained, cross_validated, finish_graph
from zoo.workflow.keras_network import trained_model
from zoo.workflow.model_card import Described
from zoo.workflow.own_pictures import reload_dataset
from zoo.workflow.replaced import EXPORTED_FILE, NewExport
from zoo.workflow.solved import SolvedNetwork
from zoo.workflow.trained import TrainedModel
from zoo.workflow.transfer import OwnSize
from zoo.workflow.trust import Trust
from zoo_runtime import ModelInfo, Predictor

if TYPE_CHECKING:
    import keras
    import onnx

    from zoo.export.fixed_batch import FixedBatch


@dataclass(frozen=True)
class ExportResult:
    """The files and metrics of an export.

    Args:
        run: The run folder.
        metrics: The metrics of the float32 file, under "validation" and "test"; see `zoo.evaluate.metrics.measure`. If
            the run used cross-validation instead of a validation part, they are under "cross_validation" and "test".
        exported: The path of the float32 file in the folder of exports; None if no such file was requested.
        sample: The path of a test picture to try the file on.
        variants: Each variant that was requested, with the path of its file. The path is None if the variant was
            refused.
        refusal: Why no file was put in place, if the network has learned nothing; otherwise None.
        logs: For each log of the run besides history.csv, the name of its logger and what shows it.
        difference: The largest difference of a probability between the file for a compiler and the float32 file. None
            if there is no such file.
    """

    run: runs.Run
    metrics: dict[str, Any]
    exported: Path | None
    sample: Path
    variants: tuple[tuple[VariantFile, Path | None], ...] = ()
    refusal: str | None = None
    logs: tuple[tuple[str, str], ...] = ()
    difference: float | None = None


def export_model(
    trained: TrainedModel,
    exported: Path | None,
    reporter: Reporter,
    *,
    keep: bool = True,
    float32: bool = True,
    variants: Sequence[VariantRequest] = (),
    allow_chance: bool = False,
    replace: bool = False,
    precision: float | None = None,
    compiler: FixedBatch | None = None,
) -> ExportResult:
    """Convert a network, check and evaluate the converted network, and write the exported files.

    An earlier export is not replaced before all checks have passed. If `keep` and `float32` are True, these files are
    also written into the run folder: metrics.json, run.json, report.html, the files of `zoo.workflow.report_data`, and
    model.onnx unless `exported` is None.
    No exported file is written if the network has learned nothing; see `zoo.evaluate.verdict`.

    Args:
        trained: The network to export, with its dataset and its run.
        exported: The folder of exports. None writes no exported file and makes no variants, not even in the run folder.
        reporter: Receives progress messages and warnings.
        keep: Pass False if the input size of the network is not that of the run. The four files above are then not
            changed, and the files of variants in the run folder have the input size in their names.
        float32: Whether the float32 file is exported. If False, only variants are exported, and the four files above
            are not changed. Variants are made from the converted network and compared with it in either case.
        variants: The variants to make.
        allow_chance: True also exports a network that has learned nothing.
        replace: True also replaces exports of other pictures; see `zoo.workflow.replaced`.
        precision: The wanted fraction of right answers, in (0, 1): less sure answers become "unknown". No file is put
            in place if held-out pictures cannot show it. None asks for none.
        compiler: Also make a file with a fixed batch and calibration pictures. None makes none.

    Returns:
        The paths of the files, the metrics of the float32 file, and the variants.

    Raises:
        ConversionFailed: The network cannot be converted.
        ParityFailed: The converted graph does not compute the same values as the network, or the written file fails its
            self-test.
        DataError: A picture that could be read before cannot be read now.
        ExportError: Another program put an export of other pictures in place in the meantime, and `replace` is False.
        WriteError: A file cannot be written.
    """
    from zoo.export import artifact

    started = time.perf_counter()
    dataset = trained.dataset
    raw, info, trust_options = convert_trained(
        trained, precision, reporter, keep=keep and float32, allow_chance=allow_chance
    )
    held_out = trained.held_out(raw, keep=keep)
    graph, info, fitted = finish_graph(trained, raw, info, held_out, trust_options, reporter)
    predictor = Predictor(artifact.serialize(graph, info), **dataset.source.limits)
    outputs = evaluator.predict_parts(predictor, dataset, reporter)
    known = {**cross_validated(held_out, fitted, trained.record.task), **outputs}
    metrics = evaluator.measure_parts(known, dataset)
    record, refusal = verdict.judge(trained, known, reporter, allow_chance=allow_chance)
    if float32:
        # Each smaller file decides for itself.
        refusal = refusal or precisions.refused(fitted, trained, [each.variant.name for each in variants])
    trained = dataclasses.replace(trained, record=record)
    summary = {part: metric_tools.summary(figures) for part, figures in metrics.items()}
    info = dataclasses.replace(info, metrics=summary)
    exported = exported if refusal is None else None
    target = exported / trained.name / EXPORTED_FILE if exported is not None and float32 else None
    if float32:
        content = artifact.serialize(graph, info)
        # The files of an earlier export stay together, if the new one is refused.
        if keep and (refusal is None or not trained.run.exported.is_file()):
            _write_figures(trained, raw, outputs, fitted, reporter, exported=target is not None)
            _keep(trained, content, metrics, info, started, export=target is not None)
            _report(trained.run, reporter)
        if target is not None:
            described = Described(trained, metrics)
            put(trained.run.exported if keep else content, target, described, reporter, replace=replace)
    result = ExportResult(trained.run, metrics, target, sample(dataset, trained.run), refusal=refusal)
    if exported is None:
        return result
    if float32:
        export_variants.warn_of_stale(variants, exported, trained, reporter)
    if compiler is not None:
        difference = export_variants.write_for_compiler(compiler, graph, trained, reporter)
        result = dataclasses.replace(result, difference=difference)
    finisher = Finisher(trained, raw, held_out, trust_options, reporter)
    float32_file, place = Float32File(raw, graph, info, outputs), Place(exported, keep, replace)
    files_and_paths = export_variants.export_all(variants, float32_file, finisher, trained, place, reporter)
    if float32 and keep:
        page.add_notes(trained.run, [variant_file for variant_file, _ in files_and_paths])
    warn_of_earlier(files_and_paths, exported, trained.name, reporter)
    return dataclasses.replace(result, variants=tuple(files_and_paths))


def _write_figures(
    trained: TrainedModel,
    raw: onnx.ModelProto,
    outputs: Mapping[str, Outputs],
    fitted: Trust,
    reporter: Reporter,
    *,
    exported: bool,
) -> None:
    """Write what the report shows besides metrics: trust.json, predictions, examples and doubtful labels.

    Raises:
        WriteError: trust.json cannot be written. Errors of the other files become warnings.
    """
    trained.run.write_json(trust.FILE, {**fitted.metadata, **fitted.report})
    report_data.write(trained, raw, outputs, fitted, reporter)
    with reporter.timing.measure("report"):
        label_issues.write(trained, fitted, outputs, reporter, exported=exported)


def sample(dataset: Dataset, run: runs.Run) -> Path:
    """Return the path of a test picture to try the exported file on.

    If the picture is not a file of its own, it is written to a file `sample` in the run folder, such as sample.png.
    """
    content = dataset.source.pictures[int(dataset.split.test[0])].content
    if isinstance(content, Path):
        return content
    if isinstance(content, StoredPicture):
        path = run.folder / f"sample{content.suffix}"
        path.write_bytes(content.read())
        return path
    from PIL import Image

    path = run.folder / "sample.png"
    image = content[:, :, 0] if content.ndim == 3 and content.shape[2] == 1 else content
    Image.fromarray(image).save(path)
    return path


def _keep(
    trained: TrainedModel, content: bytes, metrics: dict[str, Any], info: ModelInfo, started: float, *, export: bool
) -> None:
    """Write the exported file, its metrics and the run record into the run folder.

    Args:
        trained: The network with its dataset and its run.
        content: The bytes of the exported file.
        metrics: The content of metrics.json.
        info: The metadata of the exported file.
        started: The value of `time.perf_counter` when the export started.
        export: False does not write the exported file, but only the others.

    Raises:
        ParityFailed: The written file does not pass its self-test.
        WriteError: A file cannot be written.
    """
    from zoo.export import artifact, weights_digest

    run = trained.run
    if export:
        artifact.place(content, run.exported)
    run.write_json("metrics.json", metrics)
    record = trained.record.with_export(
        parity=info.parity,
        weights_sha256=weights_digest.weights_sha256(content),
        seconds=time.perf_counter() - started,
    )
    run.write_record(record)


def _report(run: runs.Run, reporter: Reporter) -> None:
    """Write the report page. If this fails, the user receives only a warning: the network must still be exported."""
    with reporter.timing.measure("report"):
        try:
            page.write(run)
        except ZooError as error:
            reporter.warn(f"{error} `zoo report {run.folder}` writes the report again.")


def export_run(
    folder: Path,
    registry: Registry,
    reporter: Reporter,
    *,
    name: str | None,
    exported: Path,
    data: str | None = None,
    reading: ReadingOptions | None = None,
    size: tuple[int, int] | None = None,
    variants: Sequence[VariantRequest] = (),
    float32: bool | None = None,
    allow_chance: bool = False,
    replace: bool = False,
    precision: float | None = None,
    compiler: FixedBatch | None = None,
    typed: Sequence[str] = (),
) -> ExportResult:
    """Export a finished run again, with the same checks as after training.

    Args:
        folder: The run folder.
        registry: The loaded plugins.
        reporter: Receives progress messages and warnings.
        name: The name of the export. None uses the name in the run record, with the size added if it is not that of the
            run.
        exported: The folder of exports.
        data: The path of the run's pictures, if they have moved. None means the path in run.json.
        reading: How these pictures are read. Options that are not given are those of the run.
        size: The (height, width) in pixels of the pictures that the exported file takes. None means the size of the
            run. With any other size, the exported file, the metrics and the report in the run folder are not changed.
        variants: The variants and formats to make.
        float32: Whether the float32 file is exported. None exports it if there are no variants; otherwise, the float32
            export is not changed.
        allow_chance: True also exports a network that has learned nothing.
        replace: True also replaces exports of other pictures; see `zoo.workflow.replaced`.
        precision: The wanted precision; see `export_model`. None means that of the latest export; see
            `zoo.workflow.precision.wanted`. 0 means none.
        compiler: Also make a file with a fixed batch and calibration pictures. The float32 export is then not changed,
            unless `float32` is True.
        typed: The words after `zoo export RUN` that the user typed, for commands in error messages.

    Returns:
        See `export_model`.

    Raises:
        RunError: The run is not finished, one of its files is missing or damaged, or its pictures have changed.
        UsageError: The name is not allowed. The network cannot take pictures of that size. A file would replace one of
            other pictures or of another kind.
        PluginMissing: No plugin provides the architecture of the run, and another size or a solved head needs it.
        InstallationError: Keras cannot be imported.
        WriteError: A file cannot be written.
        ConversionFailed: See `export_model`.
        ParityFailed: See `export_model`.
        DataError: The pictures cannot be read.
    """
    run, record = runs.load(folder)
    variants = export_formats.resolve(variants, registry)
    float32 = not (variants or compiler) if float32 is None else float32
    export_variants.check_compiler(compiler, replace=replace)
    config.check_precision(precision, multilabel=record.task == "multilabel")
    architecture = missing_plugins.architecture_of(record, registry, reporter)
    resized = size is not None and list(size) != record.image["size"]
    if resized:
        missing_plugins.require_plugin(architecture, "an export for pictures of another size (--size)")
    suffix = f"-{size[0]}x{size[1]}" if size is not None and resized else ""
    name = config.checked_name(name or record.name + suffix)
    files.check_writable(exported / name, "--exported FOLDER")
    runs.check_writable(run)
    place = sources.location(data) if data else str(record.options["data"])
    digest = str(record.data["digest"])
    new = NewExport(run.id, run.folder.parent, tuple(record.classes), record.task, place, digest)
    replaced.check_targets(exported, name, variants, new, float32=float32, replace=replace)
    again = ("zoo", "export", str(folder), *typed)
    own: OwnSize | None = None
    if size is not None and resized:
        same = functools.partial(reload_dataset, run, record, data, reporter, None, reading, again=again)
        model, own = _resized(run, record, registry, reporter, size, same)
    else:
        model = solved.open_trained(run, record, registry, reporter)
    dataset = reload_dataset(run, record, data, reporter, size, reading, again=again)
    trained = TrainedModel(model, architecture, dataset, run, record, name, place, typed, own)
    beside = exported / name / EXPORTED_FILE if not float32 else None
    return export_model(
        trained,
        exported,
        reporter,
        keep=not resized,
        float32=float32,
        variants=variants,
        compiler=compiler,
        allow_chance=allow_chance,
        replace=replace,
        precision=precisions.wanted(precision, run, record, reporter, beside, dataset.spec.size),
    )


def _resized(
    run: runs.Run,
    record: runs.RunRecord,
    registry: Registry,
    reporter: Reporter,
    size: tuple[int, int],
    same: Callable[[], Dataset],
) -> tuple[keras.Model | SolvedNetwork, OwnSize | None]:
    """Return the network of a run for another picture size, and what is known of held-out pictures at its own size.

    Args:
        run: The run folder.
        record: The content of run.json.
        registry: The loaded plugins.
        reporter: Receives progress messages.
        size: The (height, width) in pixels.
        same: Reads the pictures at the size of the run.
    """
    from zoo.train.network import resize

    architecture = registry.architecture(record.architecture["name"])
    head = architecture.head if record.head is None else Head(**record.head)
    whole = trained_model(run, record, registry, reporter)
    model = resize(whole, architecture, head, size, classes=len(record.classes), task=record.task)
    held_out = run.read_out_of_fold()
    return model, transfer.own_size(whole, same(), held_out, reporter) if held_out else None
