"""From a trained network to files in their places: converted, compared with Keras, judged, and only then put there."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import compact as compacting
from zoo import runs
from zoo.compact import Compact, Limits
from zoo.errors import WriteError
from zoo.plugin import Architecture
from zoo.prepared import Prepared
from zoo.reporter import Reporter
from zoo_runtime import ModelInfo, Predictor

if TYPE_CHECKING:
    import keras
    import onnx

PARITY_PICTURES = 64


@dataclass(frozen=True)
class Product:
    """A trained network, and what it was trained on.

    Args:
        model: The network.
        architecture: What it is.
        prepared: Its pictures.
        run: The run folder.
        record: The content of run.json.
        name: Of the export.
    """

    model: keras.Model
    architecture: Architecture
    prepared: Prepared
    run: runs.Run
    record: dict[str, Any]
    name: str


@dataclass(frozen=True)
class Result:
    """What `deliver` leaves behind.

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
    compacts: tuple[tuple[Compact, Path | None], ...] = ()


def deliver(
    product: Product,
    exported: Path | None,
    reporter: Reporter,
    *,
    keep: bool = True,
    float32: bool = True,
    compact: Sequence[str] = (),
    limits: Limits | None = None,
) -> Result:
    """Convert, check, judge and put in place. Nothing is replaced before every check has passed.

    Args:
        product: What is exported.
        exported: The folder of exports; None judges the network and puts nothing in place.
        reporter: Hears of every step.
        keep: Whether the run folder gets the file, its figures and the report too.
        float32: Whether the float32 file is put in place; where not, it is made and judged for comparison alone.
        compact: Smaller files to make, of `zoo.compact.KINDS`.
        limits: What these may cost.

    Raises:
        ConversionFailed: There is no graph that computes what the network does.
        ParityFailed: There is one, but it gives something else.
        DataError: A picture that could be read before cannot now.
        WriteError: A file cannot be put in its place.
    """
    from zoo.evaluate import metrics as judging
    from zoo.export import staging

    begun = time.perf_counter()
    reporter.say("Exporting to ONNX")
    prepared = product.prepared
    # Pictures that training did not learn from come first: a network is surest of those it knows.
    chosen = np.concatenate([prepared.split.val, prepared.split.train])[:PARITY_PICTURES]
    graph, info = checked_graph(product.model, _info(product), prepared.pixels.array[chosen], reporter)
    metrics = compacting.judge(Predictor(staging.serialize(graph, info)), prepared, reporter)
    summary = {key: judging.summary(figures) for key, figures in metrics.items()}
    info = dataclasses.replace(info, metrics=summary)
    target = exported / product.name / "model.onnx" if exported is not None and float32 else None
    if float32:
        content = staging.serialize(graph, info)
        if keep:
            _keep(product, content, metrics, info, target, begun)
        elif target is not None:
            staging.place(content, target)
    result = Result(product.run, metrics, target, sample(prepared, product.run))
    if exported is None:
        return result
    limits = limits or Limits()
    made = [_compact(kind, graph, info, product, metrics, limits, exported, keep, reporter) for kind in compact]
    return dataclasses.replace(result, compacts=tuple(made))


def checked_graph(
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
    from zoo.export import parity, staging

    with reporter.timing.measure("converting"):
        graph = convert(model)
    with reporter.timing.measure("checking parity"):
        figures = parity.check(model, graph, pixels, multilabel=info.task == "multilabel")
    reporter.say(
        f"Parity with Keras on {figures['pictures']} pictures: logits differ by {figures['logits_difference']:.1e}, "
        f"probabilities by {figures['probabilities_difference']:.1e} of their greatest value "
        f"(allowed {figures['tolerance']:g})"
    )
    with reporter.timing.measure("self-test"):
        return graph, staging.with_selftest(graph, dataclasses.replace(info, parity=figures))


def describe(architecture: Architecture) -> dict[str, Any]:
    """What run.json and the exported file say of an architecture."""
    return {
        "name": architecture.name,
        "parameters": architecture.parameters,
        "source": architecture.source,
        "licence": architecture.licence,
    }


def sample(prepared: Prepared, run: runs.Run) -> Path:
    """A test picture to try the export on; arrays are written out for that."""
    content = prepared.source.pictures[int(prepared.split.test[0])].content
    if isinstance(content, Path):
        return content
    from PIL import Image

    path = run.folder / "sample.png"
    image = content[:, :, 0] if content.ndim == 3 and content.shape[2] == 1 else content
    Image.fromarray(image).save(path)
    return path


def _info(product: Product) -> ModelInfo:
    record, prepared = product.record, product.prepared
    return ModelInfo(
        classes=prepared.source.classes,
        # Runs of before there were binary networks have a softmax over two classes.
        task=record.get("task", "multiclass"),
        image=prepared.spec,
        architecture=describe(product.architecture),
        weights=record["weights"],
        run={key: record[key] for key in ("id", "created", "versions", "plugins")}
        | {"seed": record["options"]["seed"]},
        data=prepared.describe(),
    )


def _keep(
    product: Product, content: bytes, metrics: dict[str, Any], info: ModelInfo, target: Path | None, begun: float
) -> None:
    """Put the file, its figures and the report into the run folder, and a copy of the file in its place."""
    from zoo.evaluate import curves, report
    from zoo.export import staging

    run, record = product.run, product.record
    if target is not None:
        staging.place(content, run.exported)
    run.write_json("metrics.json", metrics)
    if target is not None:
        _copy(run.exported, target, run)
    record["seconds"]["export"] = round(time.perf_counter() - begun, 2)
    record["parity"] = info.parity
    run.write_json("run.json", record)
    with runs.replacing(run.folder / "report.html") as temporary:
        drawn = (run.folder / curves.FILE).is_file()
        page = report.render(record, metrics, run.read_history(), curves=curves.FILE if drawn else None)
        temporary.write_text(page, encoding="utf-8")


def _compact(
    kind: str,
    graph: onnx.ModelProto,
    info: ModelInfo,
    product: Product,
    metrics: dict[str, Any],
    limits: Limits,
    exported: Path,
    keep: bool,
    reporter: Reporter,
) -> tuple[Compact, Path | None]:
    """Make a smaller file; the run folder keeps what was tried, the file too where it is not refused."""
    from zoo.export import staging

    reporter.say(f"Making the {kind} file")
    seed = product.record["options"]["seed"]
    made = compacting.make(kind, graph, info, product.prepared, metrics, limits, reporter, seed=seed)
    suffix = kind if keep else f"{product.prepared.spec.size[0]}x{product.prepared.spec.size[1]}-{kind}"
    product.run.write_json(f"{suffix}.json", made.figures)
    if made.refusal:
        return made, None
    kept, target = product.run.folder / f"model-{suffix}.onnx", exported / f"{product.name}-{kind}" / "model.onnx"
    staging.place(made.content, kept)
    _copy(kept, target, product.run)
    return made, target


def _copy(source: Path, target: Path, run: runs.Run) -> None:
    from zoo.export import staging

    try:
        staging.copy(source, target)
    except WriteError as error:
        raise WriteError(
            f"{error} The run is kept; `zoo export {run.folder} --exported FOLDER` puts its export elsewhere."
        ) from error
