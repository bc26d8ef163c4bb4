"""Judging an exported file or a run on pictures: the order of steps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from zoo import runs
from zoo.data import pixels as pixel_cache
from zoo.data import sources
from zoo.errors import UsageError
from zoo.evaluate import evaluator
from zoo.plugin.registry import Registry
from zoo.reporter import Reporter
from zoo.train.network import load_model
from zoo.workflow.export import reload_dataset
from zoo_runtime import ImageSpec, ModelInfo, Predictor


def evaluate(
    model: Path, registry: Registry, reporter: Reporter, *, data: str | None, part: str | None, runs_folder: Path
) -> dict[str, Any]:
    """Judge an exported file on pictures.

    Args:
        model: An exported file, or a run folder.
        registry: The loaded plugins.
        reporter: Hears of progress, of what is judged, and of pictures that the network was trained on.
        data: Pictures; None means the run's own.
        part: "train", "val", "test" or "all"; None means the test part where there is one, else all.
        runs_folder: Where the run of an exported file is looked for: it knows which pictures were trained on.

    Returns:
        As `zoo.evaluate.metrics.measure`, and `part`.

    Raises:
        UsageError: No pictures are given for a file whose run is not there, or they have no such part.
        DataError: The pictures have a class that the network does not know, or cannot be read.
    """
    predictor, run, record = _open_model(model, runs_folder)
    if data is None:
        if run is None or record is None:
            raise UsageError("give the pictures with --data: the run of this file, which knows its own, is not there.")
        dataset = reload_dataset(run, record, None, reporter)
        source, digests = dataset.source, dataset.pixels.digests
        readable = set(dataset.pixels.usable)
    else:
        source = sources.open_source(data, fewest_classes=1)
        digests = pixel_cache.digests_of(source.pictures)
        readable = set(range(len(digests)))
    known = run.parts() if run else {}
    return evaluator.evaluate(predictor, source, digests, readable, known, part, reporter, data=data or source.name)


def _open_model(model: Path, runs_folder: Path) -> tuple[Predictor, runs.Run | None, runs.RunRecord | None]:
    """Open an exported file or a run folder; of a file, find the run too."""
    if (model.is_dir() and not (model / "model.onnx").is_file()) or (model / "run.json").is_file():
        run, record = runs.load(model)
        return Predictor(run.exported if run.exported.is_file() else _exported_for_now(run, record)), run, record
    predictor = Predictor(model)
    folder = runs_folder / str(predictor.info.run.get("id", ""))
    if predictor.info.run.get("id") and (folder / "run.json").is_file():
        return predictor, *runs.load(folder)
    return predictor, None, None


def _exported_for_now(run: runs.Run, record: runs.RunRecord) -> bytes:
    """The bytes of an exported file for a run that keeps none."""
    from zoo.convert.keras_to_onnx import convert
    from zoo.export import artifact

    model = load_model(run.model)
    info = ModelInfo(classes=tuple(record.classes), task=record.task, image=ImageSpec(**record.image))
    return artifact.serialize(convert(model), info)


def resolve_model(text: str, exported: Path, runs_folder: Path, *, to_predict: bool = False) -> Path:
    """Turn what a user typed into a file or run folder: a path, an export's name, or a run's id.

    Args:
        text: As typed.
        exported: Where exports are.
        runs_folder: Where runs are.
        to_predict: Whether only a file will do.

    Raises:
        UsageError: Nothing of that name is there, or it has no exported file.
    """
    for path in (Path(text), exported / text, runs_folder / text):
        # Not Path.is_file, which raises on names that are too long and folders that may not be entered.
        if os.path.isfile(path):
            return path
        if os.path.isfile(path / "model.onnx") and (to_predict or not os.path.isfile(path / "run.json")):
            return path / "model.onnx"
        if os.path.isfile(path / "run.json"):
            if to_predict:
                raise UsageError(f"the run {text!r} has no exported file; `zoo export {text}` makes one.")
            return path
    names = sorted(p.parent.name for p in exported.glob("*/model.onnx"))
    raise UsageError(
        f"there is no exported file, export or run called {text!r}. "
        f"Exports in {str(exported)!r}: {', '.join(names) or 'none'}."
    )
