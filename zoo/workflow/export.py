"""From a trained network to files in their places: converted, compared with Keras, judged, and only then put there."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import config, files, runs
from zoo.data.dataset import Dataset, reload
from zoo.errors import UsageError, WriteError, ZooError
from zoo.evaluate import evaluator
from zoo.evaluate import metrics as metric_tools
from zoo.export import variants
from zoo.export.parity import PARITY_PICTURES
from zoo.export.variants import AcceptanceLimits, Variant
from zoo.plugin import Architecture, Head
from zoo.plugin.registry import Registry
from zoo.reporter import Reporter
from zoo.train.network import load_model
from zoo_runtime import ModelError, ModelInfo, Predictor
from zoo_runtime._format import ImageSpec

if TYPE_CHECKING:
    import keras
    import onnx


@dataclass(frozen=True)
class TrainedModel:
    """A trained network, and what it was trained on.

    Args:
        model: The network.
        architecture: What it is.
        dataset: Its pictures.
        run: The run folder.
        record: The content of run.json.
        name: Of the export.
    """

    model: keras.Model
    architecture: Architecture
    dataset: Dataset
    run: runs.Run
    record: dict[str, Any]
    name: str


@dataclass(frozen=True)
class Result:
    """What `export_model` leaves behind.

    Args:
        run: The run folder.
        metrics: The content of metrics.json: figures of the float32 file.
        exported: The exported file, or None.
        sample: A picture to try it on.
        compacts: Smaller files beside it, each with its place, or None where it was refused.
    """

    run: runs.Run
    metrics: dict[str, Any]
    exported: Path | None
    sample: Path
    compacts: tuple[tuple[Variant, Path | None], ...] = ()


def export_model(
    trained: TrainedModel,
    exported: Path | None,
    reporter: Reporter,
    *,
    keep: bool = True,
    float32: bool = True,
    compact: Sequence[str] = (),
    limits: AcceptanceLimits | None = None,
) -> Result:
    """Convert, check, judge and put in place. Nothing is replaced before every check has passed.

    Args:
        trained: What is exported.
        exported: The folder of exports; None judges the network and puts nothing in place.
        reporter: Hears of every step.
        keep: Whether the run folder gets the file, its figures and the report too.
        float32: Whether the float32 file is put in place; where not, it is made and judged for comparison alone.
        compact: Smaller files to make, of `zoo.export.variants.KINDS`.
        limits: What these may cost.

    Raises:
        ConversionFailed: There is no graph that computes what the network does.
        ParityFailed: There is one, but it gives something else.
        DataError: A picture that could be read before cannot now.
        WriteError: A file cannot be put in its place.
    """
    from zoo.export import artifact

    started = time.perf_counter()
    reporter.say("Exporting to ONNX")
    dataset = trained.dataset
    # Pictures that training did not learn from come first: a network is surest of those it knows.
    chosen = np.concatenate([dataset.split.val, dataset.split.train])[:PARITY_PICTURES]
    graph, info = convert_and_check(trained.model, _info(trained), dataset.pixels.array[chosen], reporter)
    metrics = evaluator.judge(Predictor(artifact.serialize(graph, info)), dataset, reporter)
    summary = {key: metric_tools.summary(figures) for key, figures in metrics.items()}
    info = dataclasses.replace(info, metrics=summary)
    target = exported / trained.name / "model.onnx" if exported is not None and float32 else None
    if float32:
        content = artifact.serialize(graph, info)
        if keep:
            _keep(trained, content, metrics, info, target, started)
        elif target is not None:
            artifact.place(content, target)
    result = Result(trained.run, metrics, target, sample(dataset, trained.run))
    if exported is None:
        return result
    limits = limits or AcceptanceLimits()
    if float32:
        _warn_of_others(exported, trained.name, trained.run, compact, reporter)
    made = [_compact(kind, graph, info, trained, metrics, limits, exported, keep, reporter) for kind in compact]
    return dataclasses.replace(result, compacts=tuple(made))


def convert_and_check(
    model: keras.Model, info: ModelInfo, pixels: np.ndarray, reporter: Reporter
) -> tuple[onnx.ModelProto, ModelInfo]:
    """Convert a network and compare both on pictures.

    Args:
        model: With the layers `logits` and `probabilities`.
        info: What the file says of itself so far.
        pixels: uint8 array (pictures, height, width, channels).
        reporter: Hears of the figures.

    Returns:
        The graph with both outputs, and `info` with parity and self-test.
    """
    from zoo.convert.keras_to_onnx import convert
    from zoo.export import artifact, parity

    with reporter.timing.measure("converting"):
        graph = convert(model)
    with reporter.timing.measure("checking parity"):
        figures = parity.check(model, graph, pixels, multilabel=info.task == "multilabel")
    reporter.say(
        f"Parity with Keras on {figures['pictures']} pictures: logits differ by {figures['logits_difference']:.1e} of "
        f"their greatest value (allowed {figures['tolerance']:g}), probabilities by "
        f"{figures['probabilities_difference']:.1e}"
    )
    with reporter.timing.measure("self-test"):
        return graph, artifact.with_selftest(graph, dataclasses.replace(info, parity=figures))


def sample(dataset: Dataset, run: runs.Run) -> Path:
    """A test picture to try the export on; arrays are written out for that."""
    content = dataset.source.pictures[int(dataset.split.test[0])].content
    if isinstance(content, Path):
        return content
    from PIL import Image

    path = run.folder / "sample.png"
    image = content[:, :, 0] if content.ndim == 3 and content.shape[2] == 1 else content
    Image.fromarray(image).save(path)
    return path


def _info(trained: TrainedModel) -> ModelInfo:
    record, dataset = trained.record, trained.dataset
    return ModelInfo(
        classes=dataset.source.classes,
        # Runs of before there were binary networks have a softmax over two classes.
        task=record.get("task", "multiclass"),
        image=dataset.spec,
        architecture=trained.architecture.describe(),
        weights=record["weights"],
        run={key: record[key] for key in ("id", "created", "versions", "plugins")}
        | {"seed": record["options"]["seed"]},
        data=dataset.describe(),
    )


def _keep(
    trained: TrainedModel, content: bytes, metrics: dict[str, Any], info: ModelInfo, target: Path | None, started: float
) -> None:
    """Put the file, its figures and the report into the run folder, and a copy of the file in its place."""
    from zoo.export import artifact
    from zoo.report import curves, html

    run, record = trained.run, trained.record
    if target is not None:
        artifact.place(content, run.exported)
    run.write_json("metrics.json", metrics)
    if target is not None:
        _copy(run.exported, target, run)
    record["seconds"]["export"] = round(time.perf_counter() - started, 2)
    record["parity"] = info.parity
    run.write_json("run.json", record)
    with files.atomic_write(run.folder / "report.html") as temporary:
        drawn = (run.folder / curves.FILE).is_file()
        page = html.render(record, metrics, run.read_history(), curves=curves.FILE if drawn else None)
        temporary.write_text(page, encoding="utf-8")


def check_targets(exported: Path, name: str, kinds: Sequence[str]) -> None:
    """Raise, before anything is trained, if smaller files could not be put in place, or would replace another kind.

    Raises:
        UsageError: A float32 export, or one of another kind, stands where a smaller file would.
        WriteError: The folder may not be written to.
    """
    for kind in kinds:
        target = compact_file(exported, name, kind)
        files.check_writable(target.parent)
        there = _info_of(target)
        if there is not None and there.precision.get("kind") != kind:
            raise UsageError(f"{str(target)!r} is no {kind} file and is not replaced by one; choose another --name.")


def compact_file(exported: Path, name: str, kind: str) -> Path:
    """Where a smaller file of an export stands."""
    return exported / f"{name}-{kind}" / "model.onnx"


def _info_of(path: Path) -> ModelInfo | None:
    """What an exported file says of itself; None where there is none, or none that can be read."""
    try:
        return Predictor(path, tuned=False).info if path.is_file() else None
    except ModelError:
        return None


def _compact(
    kind: str,
    graph: onnx.ModelProto,
    info: ModelInfo,
    trained: TrainedModel,
    metrics: dict[str, Any],
    limits: AcceptanceLimits,
    exported: Path,
    keep: bool,
    reporter: Reporter,
) -> tuple[Variant, Path | None]:
    """Make a smaller file; the run folder keeps what was tried, the file too where it is not refused.

    What goes wrong with it is a refusal: the float32 file is there by now, and another kind may come out well.
    """
    from zoo.export import artifact

    reporter.say(f"Making the {kind} file")
    run, seed = trained.run, trained.record["options"]["seed"]
    target = compact_file(exported, trained.name, kind)
    size = trained.dataset.spec.size
    suffix = kind if keep else f"{size[0]}x{size[1]}-{kind}"
    try:
        made = variants.make(kind, graph, info, trained.dataset, metrics, limits, reporter, seed=seed)
        made = dataclasses.replace(made, record=f"{suffix}.json")
        run.write_json(made.record, made.figures)
        if not made.refusal:
            kept = run.folder / f"model-{suffix}.onnx"
            artifact.place(made.content, kept)
            _copy(kept, target, run, f" --{kind}")
    except ZooError as error:
        made = variants.failed(kind, str(error))
    if made.refusal and target.is_file():
        reporter.warn(f"{target} is of an earlier export, and stays as it is.")
    return made, None if made.refusal else target


def _warn_of_others(exported: Path, name: str, run: runs.Run, made: Sequence[str], reporter: Reporter) -> None:
    """Smaller files of an earlier run under the same name would be taken for this one's."""
    for kind in variants.KINDS:
        path = compact_file(exported, name, kind)
        there = None if kind in made else _info_of(path)
        if there is not None and there.precision.get("kind") == kind and there.run.get("id") != run.id:
            reporter.warn(f"{path} is of another run; `zoo export {run.folder} --{kind}` makes it anew.")


def _copy(source: Path, target: Path, run: runs.Run, option: str = "") -> None:
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
    compact: Sequence[str] = (),
    limits: AcceptanceLimits | None = None,
) -> Result:
    """Export a finished run again, with the same checks.

    Args:
        folder: The run folder.
        registry: The loaded plugins.
        reporter: Hears of every step.
        name: Of the export; None means the run's own, with the size behind it where that is another.
        exported: Where it is put.
        data: Where the run's pictures are now; None means where they were.
        size: (height, width) in pixels of the exported file's pictures; None means those of the run. Another size is
            judged anew and leaves the run's own file, figures and report as they are.
        compact: Smaller files to make, of `zoo.export.variants.KINDS`; where there are any, the float32 export is
            left alone.
        limits: What these may cost.

    Returns:
        As `finetune`.

    Raises:
        RunError: No finished run is there, or its pictures have changed.
        UsageError: The network cannot take pictures of that size.
    """
    run, record = runs.load(folder)
    architecture = registry.architecture(record["architecture"]["name"])
    other = size is not None and list(size) != record["image"]["size"]
    name = config.checked_name(name or record["name"] + (f"-{size[0]}x{size[1]}" if other else ""))
    files.check_writable(exported / name)
    check_targets(exported, name, compact)
    model = load_model(run.model)
    if other:
        from zoo.train.network import resize

        head = Head(**record["head"]) if "head" in record else architecture.head
        classes, task = len(record["classes"]), record.get("task", "multiclass")
        model = resize(model, architecture, head, size, classes=classes, task=task)
    dataset = reload_dataset(run, record, data, reporter, size)
    trained = TrainedModel(model, architecture, dataset, run, record, name)
    return export_model(
        *(trained, exported, reporter), keep=not other, float32=not compact, compact=compact, limits=limits
    )


def reload_dataset(
    run: runs.Run, record: dict[str, Any], data: str | None, reporter: Reporter, size: tuple[int, int] | None = None
) -> Dataset:
    """Decode the pictures of a finished run again.

    Args:
        run: The run.
        record: Its run.json.
        data: Where the pictures are; None means where they were.
        reporter: Hears of progress.
        size: (height, width) in pixels; None means the run's.

    Raises:
        RunError: They are not the pictures of the run.
        DataError: They cannot be read.
    """
    return reload(
        data or record["options"]["data"],
        ImageSpec(**{**record["image"], **({"size": size} if size else {})}),
        parts=run.parts(),
        digest=record["data"]["digest"],
        how=record["data"]["split"],
        run=run.id,
        reporter=reporter,
    )
