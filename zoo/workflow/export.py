"""Export of a trained network: convert, check parity, evaluate, and only then replace files.

This module decides the order of the steps. `zoo.convert`, `zoo.export` and `zoo.evaluate` implement them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import config, files, runs
from zoo.data import dataset as datasets
from zoo.data.dataset import Dataset
from zoo.errors import RunError, UsageError, WriteError, ZooError
from zoo.evaluate import evaluator
from zoo.evaluate import metrics as metric_tools
from zoo.export.variants import VARIANTS, Variant, VariantFile, VariantRequest, failed, make_variant
from zoo.plugin import Architecture, Head
from zoo.plugin.registry import Registry
from zoo.reporter import Reporter
from zoo.train.network import load_model
from zoo_runtime import ImageSpec, ModelError, ModelInfo, Predictor

if TYPE_CHECKING:
    import keras
    import onnx

EXPORTED_FILE = "model.onnx"


@dataclass(frozen=True)
class TrainedModel:
    """A trained network, and what it was trained on.

    Args:
        model: The trained network.
        architecture: The architecture of the network.
        dataset: The pictures of the run.
        run: The run folder.
        record: The content of run.json.
        name: The name of the export.
    """

    model: keras.Model
    architecture: Architecture
    dataset: Dataset
    run: runs.Run
    record: runs.RunRecord
    name: str


@dataclass(frozen=True)
class ExportResult:
    """The files and figures of an export.

    Args:
        run: The run folder.
        metrics: The content of metrics.json: the figures of the float32 file, under "validation" and "test".
        exported: The path of the exported float32 file; None if none was put in place.
        sample: A picture to try the file on.
        variants: Each variant with the path of its file, which is None if the file was refused.
    """

    run: runs.Run
    metrics: dict[str, Any]
    exported: Path | None
    sample: Path
    variants: tuple[tuple[VariantFile, Path | None], ...] = ()


def export_model(
    trained: TrainedModel,
    exported: Path | None,
    reporter: Reporter,
    *,
    keep: bool = True,
    float32: bool = True,
    variants: Sequence[VariantRequest] = (),
) -> ExportResult:
    """Convert a network, check and evaluate the file, and put it in place.

    Nothing is replaced before every check has passed.

    Args:
        trained: The network to export.
        exported: The folder of exports; None evaluates the network and puts nothing in place.
        reporter: Receives progress messages and warnings.
        keep: Whether the run folder gets the file, its figures and the report too.
        float32: Whether the float32 file is put in place. False makes and evaluates it only for comparison.
        variants: The variants to make.

    Returns:
        Paths, figures and variants.

    Raises:
        ConversionFailed: The network cannot be converted.
        ParityFailed: The converted graph gives other values than the network.
        DataError: A picture that could be read before cannot be read now.
        WriteError: A file cannot be put in its place.
    """
    from zoo.export import artifact
    from zoo.export.parity import PARITY_PICTURES

    started = time.perf_counter()
    reporter.say("Exporting to ONNX")
    dataset = trained.dataset
    # Validation pictures come first: on training pictures a network is most certain, and differences are smallest.
    rows = np.concatenate([dataset.split.val, dataset.split.train])[:PARITY_PICTURES]
    graph, info = convert_and_check(trained.model, _info(trained), dataset.pixels.array[rows], reporter)
    metrics = evaluator.evaluate_parts(Predictor(artifact.serialize(graph, info)), dataset, reporter)
    summary = {part: metric_tools.summary(figures) for part, figures in metrics.items()}
    info = dataclasses.replace(info, metrics=summary)
    target = exported / trained.name / EXPORTED_FILE if exported is not None and float32 else None
    earlier = _info_of(target) if target is not None else None
    if float32:
        content = artifact.serialize(graph, info)
        if keep:
            _keep(trained, content, metrics, info, target, started)
        elif target is not None:
            artifact.place(content, target)
    result = ExportResult(trained.run, metrics, target, sample(dataset, trained.run))
    if exported is None:
        return result
    if float32:
        requested = [each.variant for each in variants]
        others = [variant for variant in VARIANTS if variant not in requested]
        _report_replaced(earlier, exported, trained, _remove_stale(others, exported, trained, reporter), reporter)
    files_and_paths = [
        _export_variant(request, graph, info, trained, metrics, exported, keep=keep, reporter=reporter)
        for request in variants
    ]
    refused = [variant_file.variant for variant_file, path in files_and_paths if path is None]
    for line in _remove_stale(refused, exported, trained, reporter) if float32 else ():
        reporter.say(line)
    for left in (variant_path(exported, trained.name, variant) for variant in refused):
        if left.is_file():
            reporter.warn(f"{left} comes from an earlier export and is not changed.")
    return dataclasses.replace(result, variants=tuple(files_and_paths))


def convert_and_check(
    model: keras.Model, info: ModelInfo, pixels: np.ndarray, reporter: Reporter
) -> tuple[onnx.ModelProto, ModelInfo]:
    """Convert a network to a graph, and compare the two on pictures.

    Args:
        model: A network with the layers `logits` and `probabilities`.
        info: The metadata of the file so far.
        pixels: Decoded pictures, a uint8 array (N, H, W, C) in 0..255.
        reporter: Receives the figures of the comparison.

    Returns:
        The graph with the outputs `probabilities` and `logits`, and the metadata with parity figures and self-test.

    Raises:
        ConversionFailed: The network cannot be converted.
        ParityFailed: The graph gives other values than the network.
    """
    from zoo.convert.keras_to_onnx import convert
    from zoo.export import artifact, parity

    with reporter.timing.measure("converting"):
        graph = convert(model)
    with reporter.timing.measure("checking parity"):
        figures = parity.check(model, graph, pixels, multilabel=info.task == "multilabel")
    reporter.say(
        f"Parity with Keras on {figures['pictures']} pictures: logits differ by at most "
        f"{figures['logits_difference']:.1e} of the largest logit (allowed {figures['tolerance']:g}), probabilities by "
        f"{figures['probabilities_difference']:.1e}"
    )
    with reporter.timing.measure("self-test"):
        return graph, artifact.with_selftest(graph, dataclasses.replace(info, parity=figures))


def sample(dataset: Dataset, run: runs.Run) -> Path:
    """Return a test picture to try the export on. A picture that came from an array is saved in the run folder."""
    content = dataset.source.pictures[int(dataset.split.test[0])].content
    if isinstance(content, Path):
        return content
    from PIL import Image

    path = run.folder / "sample.png"
    image = content[:, :, 0] if content.ndim == 3 and content.shape[2] == 1 else content
    Image.fromarray(image).save(path)
    return path


def _info(trained: TrainedModel) -> ModelInfo:
    """Return the metadata of the exported file as far as they are known before it is checked."""
    record, dataset = trained.record, trained.dataset
    return ModelInfo(
        classes=dataset.source.classes,
        task=record.task,
        image=dataset.spec,
        architecture=trained.architecture.describe(),
        weights=dict(record.weights),
        run={
            "id": record.id,
            "created": record.created,
            "versions": dict(record.versions),
            "plugins": list(record.plugins),
            "seed": record.options["seed"],
        },
        data=dataset.describe(),
    )


def _keep(
    trained: TrainedModel, content: bytes, metrics: dict[str, Any], info: ModelInfo, target: Path | None, started: float
) -> None:
    """Write figures and report into the run folder; write the file there too and copy it to `target`, unless None."""
    from zoo.export import artifact
    from zoo.report import curves, html

    run = trained.run
    if target is not None:
        artifact.place(content, run.exported)
    run.write_json("metrics.json", metrics)
    if target is not None:
        _copy(run.exported, target, run)
    record = trained.record.with_export(parity=info.parity, seconds=time.perf_counter() - started)
    run.write_record(record)
    with files.atomic_write(run.folder / "report.html") as temporary:
        drawn = (run.folder / curves.FILE).is_file()
        page = html.render(record, metrics, run.read_history(), curves=curves.FILE if drawn else None)
        temporary.write_text(page, encoding="utf-8")


def check_targets(exported: Path, name: str, variants: Sequence[VariantRequest]) -> None:
    """Check, before anything is trained, that variants can be put in place and replace no other kind of file.

    Args:
        exported: The folder of exports.
        name: The name of the export.
        variants: The variants to make.

    Raises:
        UsageError: A float32 export, or another kind of variant, has the name that a variant would get.
        WriteError: The folder may not be written to.
    """
    for request in variants:
        kind = request.variant.name
        target = variant_path(exported, name, request.variant)
        files.check_writable(target.parent)
        present = _info_of(target)
        if present is not None and present.precision.get("kind") != kind:
            raise UsageError(
                f"{str(target)!r} is not an {kind} file, so that it is not replaced by one; choose another --name."
            )


def variant_path(exported: Path, name: str, variant: Variant) -> Path:
    """Return the path at which a variant of an export is put in place."""
    return exported / f"{name}-{variant.name}" / EXPORTED_FILE


def _info_of(path: Path) -> ModelInfo | None:
    """Return the metadata of an exported file, or None if there is no such file or it cannot be read."""
    try:
        return Predictor(path, tuned=False).info if path.is_file() else None
    except ModelError:
        return None


def _export_variant(
    request: VariantRequest,
    graph: onnx.ModelProto,
    info: ModelInfo,
    trained: TrainedModel,
    metrics: dict[str, Any],
    exported: Path,
    *,
    keep: bool,
    reporter: Reporter,
) -> tuple[VariantFile, Path | None]:
    """Make a variant and put it in place. The run folder keeps its figures, and the file unless it is refused.

    A failure counts as a refusal, because the float32 file is in place by now, and another variant may succeed.
    """
    from zoo.export import artifact

    variant, run, size = request.variant, trained.run, trained.dataset.spec.size
    reporter.say(f"Making the {variant.name} file")
    target = variant_path(exported, trained.name, variant)
    suffix = variant.name if keep else f"{size[0]}x{size[1]}-{variant.name}"
    seed = trained.record.options["seed"]
    try:
        variant_file = make_variant(request, graph, info, trained.dataset, metrics, reporter, seed=seed)
        variant_file = dataclasses.replace(variant_file, record=f"{suffix}.json")
        run.write_json(variant_file.record, variant_file.figures)
        if not variant_file.refusal:
            kept = run.folder / f"model-{suffix}.onnx"
            artifact.place(variant_file.content, kept)
            _copy(kept, target, run, f" --{variant.name}")
    except ZooError as error:
        variant_file = failed(variant, str(error))
    return variant_file, None if variant_file.refusal else target


def _remove_stale(
    variants: Sequence[Variant], exported: Path, trained: TrainedModel, reporter: Reporter
) -> tuple[str, ...]:
    """Remove variants of another run that has the same name, because a user could take them for those of this run.

    A variant stays, with a warning, if the run that it came from is gone and could not make it again.

    Returns:
        One sentence per run that removed files came from, with the command that makes these files again.
    """
    removed: dict[str, list[tuple[str, str]]] = {}
    for variant in variants:
        path = variant_path(exported, trained.name, variant)
        present = _info_of(path)
        if present is None or present.precision.get("kind") != variant.name:
            continue
        if present.run.get("id") == trained.run.id:
            continue
        command = _command_for(present, exported, trained)
        if command is None:
            reporter.warn(
                f"{path} comes from another run, which is not in {str(trained.run.folder.parent)!r}. Remove the file, "
                f"or replace it: `zoo export {trained.run.folder} --{variant.name}` makes the file of this run."
            )
            continue
        with contextlib.suppress(OSError):
            path.unlink()
            _tuned(path).unlink(missing_ok=True)
            # The folder may hold files of the user; then it stays.
            path.parent.rmdir()
        if not path.exists():
            removed.setdefault(command, []).append((variant.name, str(path.parent)))
    return tuple(
        f"Removed {' and '.join(folder for _, folder in gone)}, made from another run; "
        f"`{' '.join([command, *(f'--{name}' for name, _ in gone)])}` makes {'them' if len(gone) > 1 else 'it'} again."
        for command, gone in removed.items()
    )


def _report_replaced(
    earlier: ModelInfo | None, exported: Path, trained: TrainedModel, removed: Sequence[str], reporter: Reporter
) -> None:
    """Name the run whose export was replaced, and the command that brings it back.

    Args:
        earlier: The metadata of the file that was in the place of the export; None if there was none.
        exported: The folder of exports.
        trained: The network that was exported.
        removed: Sentences about variants that were removed as well.
        reporter: Receives the line.
    """
    target = exported / trained.name / EXPORTED_FILE
    sentences = []
    if earlier is not None and earlier.run.get("id") != trained.run.id:
        identity, command = earlier.run.get("id"), _command_for(earlier, exported, trained)
        sentences = [f"{target} replaces the export of {f'run {identity}' if identity else 'a published network'}."]
        if command is not None:
            sentences.append(f"`{command}` brings that one back.")
    tuned = _tuned(target)
    if earlier is not None and tuned.is_file():
        with contextlib.suppress(OSError):
            tuned.unlink()
            sentences.append(f"Removed {tuned}, which was tuned for the earlier file.")
    sentences += removed
    if sentences:
        reporter.say(" ".join(sentences))


def _command_for(info: ModelInfo, exported: Path, trained: TrainedModel) -> str | None:
    """Return the command that exports the run of an earlier file to its place again; None if that run is gone."""
    folder = trained.run.folder.parent / str(info.run.get("id", ""))
    try:
        _, record = runs.load(folder)
    except RunError:
        return None
    resized = list(info.image.size) != list(record.image["size"])
    size = f"{info.image.size[0]}x{info.image.size[1]}"
    words = ["zoo", "export", str(folder), *(["--size", size] if resized else [])]
    if trained.name != record.name + (f"-{size}" if resized else ""):
        words += ["--name", trained.name]
    if exported != Path("exported"):
        words += ["--exported", str(exported)]
    return shlex.join(words)


def _tuned(path: Path) -> Path:
    """Return where `zoo-runtime tune` keeps the settings of an exported file."""
    return path.with_suffix(".tuned.json")


def _copy(source: Path, target: Path, run: runs.Run, option: str = "") -> None:
    """Copy an exported file to its place; if that fails, say how to export the run to another folder."""
    from zoo.export import artifact

    try:
        artifact.copy(source, target)
    except WriteError as error:
        raise WriteError(
            f"{error} The run is kept; `zoo export {run.folder}{option} --exported FOLDER` puts its export elsewhere."
        ) from error


def export_run(
    folder: Path,
    registry: Registry,
    reporter: Reporter,
    *,
    name: str | None,
    exported: Path,
    data: str | None = None,
    size: tuple[int, int] | None = None,
    variants: Sequence[VariantRequest] = (),
) -> ExportResult:
    """Export a finished run again, with the same checks.

    Args:
        folder: The run folder.
        registry: The loaded plugins.
        reporter: Receives progress messages and warnings.
        name: The name of the export. None takes the name in the run record, with the size appended if it differs.
        exported: The folder of exports.
        data: Where the run's pictures are now; None means where they were.
        size: (height, width) in pixels of the pictures that the exported file takes; None takes the size of the run. A
            file of another size is evaluated too, but the run keeps its own file, figures and report.
        variants: The variants to make. If there are any, the float32 export is not changed.

    Returns:
        As `export_model`.

    Raises:
        RunError: There is no finished run, or its pictures have changed.
        UsageError: The network cannot take pictures of that size.
    """
    run, record = runs.load(folder)
    architecture = registry.architecture(record.architecture["name"])
    resized = size is not None and list(size) != record.image["size"]
    suffix = f"-{size[0]}x{size[1]}" if size is not None and resized else ""
    name = config.checked_name(name or record.name + suffix)
    files.check_writable(exported / name)
    check_targets(exported, name, variants)
    model = load_model(run.model)
    if size is not None and resized:
        from zoo.train.network import resize

        head = architecture.head if record.head is None else Head(**record.head)
        model = resize(model, architecture, head, size, classes=len(record.classes), task=record.task)
    dataset = reload_dataset(run, record, data, reporter, size)
    trained = TrainedModel(model, architecture, dataset, run, record, name)
    return export_model(trained, exported, reporter, keep=not resized, float32=not variants, variants=variants)


def reload_dataset(
    run: runs.Run, record: runs.RunRecord, data: str | None, reporter: Reporter, size: tuple[int, int] | None = None
) -> Dataset:
    """Decode the pictures of a finished run again, and split them as the run did.

    Args:
        run: The run folder.
        record: The content of its run.json.
        data: Where the pictures are now; None means where they were.
        reporter: Receives the progress of decoding.
        size: (height, width) in pixels; None takes the size of the run.

    Raises:
        RunError: The pictures are not those of the run.
        DataError: The pictures cannot be read.
    """
    return datasets.reload(
        data or record.options["data"],
        ImageSpec(**{**record.image, **({"size": size} if size else {})}),
        parts=run.parts(),
        digest=record.data["digest"],
        how=record.data["split"],
        run=run.id,
        reporter=reporter,
    )
