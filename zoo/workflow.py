"""The main functions: finetune, export, evaluate. Only the order of steps; each step lives in the package it names."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend, origin, paths, recipe, runs, weights
from zoo.compact import PARITY_PICTURES, Limits
from zoo.data import pixels as pixel_cache
from zoo.data import sources
from zoo.delivery import Product, Result, check_targets, checked_graph, deliver, describe
from zoo.errors import (
    DataError,
    ExportError,
    RunError,
    UsageError,
    WeightsUnavailable,
    WriteError,
    reason,
)
from zoo.plugin import Architecture, Head, Weights
from zoo.prepared import Prepared, digest_of, prepare_again
from zoo.recipe import Options, Plan
from zoo.registry import Registry
from zoo.reporter import Reporter
from zoo.train.feeds import Pictures
from zoo_runtime import ImageSpec, ModelInfo, Predictor

if TYPE_CHECKING:
    import keras
    import onnx

    from zoo.train.rates import RangeTest


def finetune(
    options: Options,
    registry: Registry,
    reporter: Reporter,
    *,
    compact: Sequence[str] = (),
    limits: Limits | None = None,
) -> Result:
    """Fine-tune a network on a user's pictures, export it and judge the exported file.

    Args:
        options: What is wanted.
        registry: The loaded plugins.
        reporter: Hears of every step.
        compact: Smaller files to make besides, of `zoo.compact.KINDS`.
        limits: What these may cost.

    Returns:
        Run folder, metrics, exported files.

    Raises:
        ZooError: With what to do about it. What was in place before stays in place.
    """
    plan = recipe.plan(options, registry, reporter)
    check_targets(options.exported, plan.name, compact)
    prepared = plan.prepare(reporter)
    run = runs.create(options.runs, plan.architecture.name)
    record = _record(run, plan, registry, prepared)
    try:
        run.write_json("run.json", record)
        run.write_pictures(prepared.listed())
        reporter.say(f"Run folder {run.folder}")
        left_out = record["data"]["left_out"]
        if left_out:
            reporter.warn(
                f"{len(left_out)} of {len(prepared.source.pictures)} files are left out; "
                f"{run.folder}/run.json lists them."
            )
        with reporter.timing.measure("training"):
            model = _train(plan, prepared, registry, run, record, reporter)
        exported = options.exported if options.export else None
        with reporter.timing.measure("export"):
            product = Product(model, plan.architecture, prepared, run, record, plan.name)
            return deliver(product, exported, reporter, compact=compact, limits=limits)
    except BaseException as error:
        if record["status"] == "running":
            interrupted = isinstance(error, KeyboardInterrupt)
            record["status"] = "interrupted" if interrupted else f"failed: {type(error).__name__}: {error}"
            with contextlib.suppress(WriteError):
                run.write_json("run.json", record)
        raise


def find_rates(
    options: Options,
    registry: Registry,
    reporter: Reporter,
    *,
    lowest: float,
    highest: float,
    steps: int,
    output: Path | None = None,
) -> list[RangeTest]:
    """Test a range of learning rates at the beginning of every phase, and draw what came of it.

    Each phase but the last is trained after its test, for the next goes on from there. Nothing is kept but the picture.

    Args:
        options: As for `finetune`.
        registry: The loaded plugins.
        reporter: Hears of every step.
        lowest: The first rate.
        highest: The last one, unless the loss diverges before.
        steps: How many, one a batch.
        output: Where the picture is put; None draws none.

    Returns:
        A test a phase.

    Raises:
        ZooError: With what to do about it.
    """
    if output is not None:
        runs.check_writable(output.parent)
    plan = recipe.plan(dataclasses.replace(options, export=False), registry, reporter)
    prepared = plan.prepare(reporter)
    model, backbone = plan.build(registry, reporter)
    from zoo.evaluate import rates
    from zoo.train import engine
    from zoo.train.rates import Sweep

    tests = engine.find_rates(
        *(model, backbone, plan.architecture, plan.phases),
        *(_pictures(prepared), plan.learning(prepared), reporter, Sweep(lowest, highest, steps)),
    )
    if output is not None:
        pairs = zip(plan.phases, tests, strict=True)
        rates.draw(
            [
                rates.Panel(phase.name, test.rates, test.changes, phase.learning_rate, test.suggestion, test.note)
                for phase, test in pairs
            ],
            output,
        )
    return tests


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
    limits: Limits | None = None,
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
        compact: Smaller files to make, of `zoo.compact.KINDS`; where there are any, the float32 export is left alone.
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
    name = recipe.checked_name(name or record["name"] + (f"-{size[0]}x{size[1]}" if other else ""))
    runs.check_writable(exported / name)
    check_targets(exported, name, compact)
    model = _load_model(run)
    if other:
        from zoo.train.model import at_size

        head = Head(**record["head"]) if "head" in record else architecture.head
        classes, task = len(record["classes"]), record.get("task", "multiclass")
        model = at_size(model, architecture, head, size, classes=classes, task=task)
    prepared = prepare_again(run, record, data, reporter, size)
    product = Product(model, architecture, prepared, run, record, name)
    return deliver(*(product, exported, reporter), keep=not other, float32=not compact, compact=compact, limits=limits)


def export_top(
    wanted: str,
    registry: Registry,
    reporter: Reporter,
    *,
    name: str | None,
    exported: Path,
    size: tuple[int, int] | None,
    resize: str,
    data: str,
) -> Path:
    """Export a published classifier, with its own classes, without training.

    Args:
        wanted: `architecture` or `architecture.tag`.
        registry: The loaded plugins.
        reporter: Hears of every step.
        name: Of the export; None means `<architecture>-<tag>`.
        exported: Where it is put.
        size: (height, width) in pixels; None means the architecture's own.
        resize: As in `Options`.
        data: Pictures for the parity check.

    Returns:
        The exported file.

    Raises:
        UsageError: There is no published classifier.
        WeightsUnavailable: Its weights or class names are not to be had.
    """
    architecture, tag = registry.resolve(wanted)
    size = size or architecture.input_size
    spec = recipe.image_spec(architecture, size, resize)
    published = _published(architecture, tag, size, registry)
    target = exported / recipe.checked_name(name or f"{architecture.name}-{published[0].tag}") / "model.onnx"
    runs.check_writable(target.parent)
    classes = _fetch_classes(published, reporter)
    found = _fetch_published(published, size, reporter)
    pictures = sources.open_source(data, fewest_classes=1).pictures
    reporter.say(f"Parity is checked on {min(len(pictures), PARITY_PICTURES)} pictures of {data}")
    graph, info = _published_graph(architecture, found, classes, spec, pictures, reporter)
    from zoo.export import staging

    staging.place(staging.serialize(graph, info), target)
    return target


def verify(
    wanted: str,
    data: str,
    registry: Registry,
    reporter: Reporter,
    *,
    size: tuple[int, int] | None = None,
    resize: str = "squash",
) -> dict[str, Any]:
    """Check published weights: get the file, check its hash, and score the exported classifier on ImageNet pictures.

    Args:
        wanted: `architecture` or `architecture.tag`.
        data: Folder of pictures named by WordNet identifier; see `zoo.data.sources.open_identified`.
        registry: The loaded plugins.
        reporter: Hears of every step.
        size: (height, width) in pixels; None means the architecture's own.
        resize: As in `Options`.

    Returns:
        name, weights (as in the exported file), size, resize, pictures, top1, top5 (in 0..1), reported_top1,
        reported_top5 (or None), parity, and left_out: unreadable picture -> why.

    Raises:
        UsageError: There is no published classifier.
        WeightsUnavailable: Its weights or class names are not to be had.
        HashMismatch: A file is not the published one.
        DataError: The pictures do not tell their classes, or cannot be read.
    """
    from zoo.evaluate import metrics
    from zoo.export import staging

    architecture, tag = registry.resolve(wanted)
    size = size or architecture.input_size
    spec = recipe.image_spec(architecture, size, resize)
    sources.identified_folder(data)
    published = _published(architecture, tag, size, registry)
    # What is small comes first: a folder of other pictures is refused before a gigabyte is fetched.
    classes = _fetch_classes(published, reporter)
    pictures = sources.open_identified(data, classes)
    found = _fetch_published(published, size, reporter)
    graph, info = _published_graph(architecture, found, classes, spec, pictures, reporter)
    predictor = Predictor(staging.serialize(graph, info))
    with reporter.progress(f"scoring {len(pictures)} pictures") as progress:
        probabilities, bad = metrics.predict(predictor, [picture.content for picture in pictures], progress)
    pixel_cache.check_readable(pictures, bad)
    labels = np.array([picture.labels[0] for i, picture in enumerate(pictures) if i not in bad])
    best = np.argsort(-probabilities, axis=1)[:, :5]
    return {
        "name": found.entry.id,
        "weights": info.weights,
        "size": list(size),
        "resize": resize,
        "pictures": len(labels),
        "top1": float((best[:, 0] == labels).mean()),
        "top5": float((best == labels[:, None]).any(axis=1).mean()),
        "reported_top1": found.entry.top1,
        "reported_top5": found.entry.top5,
        "parity": info.parity,
        "left_out": {pictures[i].name: why for i, why in bad.items()},
    }


def _published(architecture: Architecture, tag: str | None, size: tuple[int, int], registry: Registry) -> list[Weights]:
    """Entries of the published classifier, the one that fits a size best first.

    Raises:
        UsageError: There is none, or it takes no pictures of that size.
    """
    from zoo.train.model import check_size

    registry.check_tag(architecture.name, tag)
    entries = registry.weights_of(architecture.name, tag, top=True)
    entries = [entry for entry in origin.first_tag(entries) if entry.class_index]
    if not entries or architecture.build_classifier is None:
        wanted = f"{architecture.name}.{tag}" if tag else architecture.name
        raise UsageError(
            f"{wanted} has no published weights with a top and class names; `zoo info {wanted}` shows them."
        )
    check_size(architecture, size)
    only = architecture.classifier_size
    if only not in (None, size):
        raise UsageError(
            f"the published top of {architecture.name} flattens its map: it takes pictures of {only[0]}x{only[1]} "
            f"only. Received: --size {size[0]}x{size[1]}."
        )
    return weights.by_fit(entries, size)


def _fetch_classes(entries: Sequence[Weights], reporter: Reporter) -> list[str]:
    """Get the names of the classes of a published classifier; a small file."""
    index = entries[0].class_index
    try:
        with reporter.progress("downloading class names") as progress:
            classes = weights.read_class_index(weights.find_file(index, progress))
    except WeightsUnavailable as error:
        text = f"{error}.\n{weights.advice(index)}."
        if not weights.at_hand(entries[0]):
            text += f"\nThe weights are not at hand either: {entries[0].url}, as {entries[0].filename}."
        raise WeightsUnavailable(text) from None
    if len(classes) != entries[0].classes:
        raise ExportError(f"{index.filename} names {len(classes)} classes, not {entries[0].classes}.")
    return classes


def _fetch_published(entries: Sequence[Weights], size: tuple[int, int], reporter: Reporter) -> weights.Found:
    """Get the weights with top that fit a size best."""
    try:
        with reporter.progress("downloading weights") as progress:
            found = weights.find(entries, size, progress)
    except WeightsUnavailable as error:
        raise WeightsUnavailable(f"{error}.\n{weights.advice(entries[0])}.") from None
    origin.say(found, reporter)
    return found


def _published_graph(
    architecture: Architecture,
    found: weights.Found,
    classes: Sequence[str],
    spec: ImageSpec,
    pictures: Sequence[sources.Picture],
    reporter: Reporter,
) -> tuple[onnx.ModelProto, ModelInfo]:
    """Build the published classifier, convert it, and compare both on some of the pictures."""
    from zoo.train.model import build_classifier, load_weights

    step = max(1, len(pictures) // PARITY_PICTURES)
    chosen = pictures[::step][:PARITY_PICTURES]
    pixels = pixel_cache.load_pixels(chosen, spec, paths.cache() / "pixels")
    pixel_cache.check_readable(chosen, pixels.bad)
    backend.start()
    model = build_classifier(architecture, spec.size, found.entry.classes)
    load_weights(model, found.path, found.entry)
    info = ModelInfo(
        classes=tuple(classes),
        task="multiclass",
        image=spec,
        architecture=describe(architecture),
        weights=origin.describe(found),
        run={"created": _now(), "versions": runs.versions()},
        metrics={"published": {"top1": found.entry.top1, "top5": found.entry.top5}},
    )
    return checked_graph(model, info, pixels.array[pixels.usable], reporter)


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
    from zoo.evaluate import metrics

    predictor, run, record = _open_model(model, runs_folder)
    if data is None:
        if run is None or record is None:
            raise UsageError("give the pictures with --data: the run of this file, which knows its own, is not there.")
        prepared = prepare_again(run, record, None, reporter)
        source, digests = prepared.source, prepared.pixels.digests
        readable = set(prepared.pixels.usable)
    else:
        source = sources.open_source(data, fewest_classes=1)
        digests = pixel_cache.digests_of(source.pictures)
        readable = set(range(len(digests)))
    known = run.parts() if run else {}
    parts: list[str | None] = [picture.split for picture in source.pictures]
    if known.keys() and known.keys() <= set(digests):
        # The run's own pictures, wherever they are now: what was test then is test now.
        parts = [known.get(digest) for digest in digests]
    part = part or ("test" if "test" in parts else "all")
    rows = [i for i in sorted(readable) if part in ("all", parts[i])]
    if not rows:
        raise UsageError(f"{data or source.name!r} has no {part} part; leave --part out to judge all of it.")
    present = {source.classes[label] for i in rows for label in source.pictures[i].labels}
    unknown = sorted(present - set(predictor.info.classes))
    if unknown:
        raise DataError(
            f"the network does not know {', '.join(unknown[:5])}; it knows {', '.join(predictor.info.classes[:10])}."
        )
    multilabel = predictor.info.task == "multilabel"
    if not multilabel and any(len(source.pictures[i].labels) != 1 for i in rows):
        raise DataError(f"pictures of {source.name!r} have several labels or none, and the network gives one class.")
    reporter.say(f"{part.capitalize()} pictures of {source.name}: {len(rows)}")
    _warn_of_trained(predictor.info, source, digests, rows, known, reporter)

    with reporter.progress(f"evaluating {part}") as progress:
        probabilities, bad = metrics.predict(predictor, [source.pictures[i].content for i in rows], progress)
    pictures = [source.pictures[i] for i in rows]
    pixel_cache.check_readable(pictures, bad)
    if bad:
        shown = "; ".join(f"{pictures[i].name}: {why}" for i, why in list(bad.items())[:5])
        reporter.warn(f"{len(bad)} of {len(rows)} files are left out: {shown}")
    # In the order of the network's classes, of which the pictures may lack some.
    targets = np.zeros((len(pictures) - len(bad), len(predictor.info.classes)))
    judged = [picture for i, picture in enumerate(pictures) if i not in bad]
    for row, picture in zip(targets, judged, strict=True):
        row[[predictor.info.classes.index(source.classes[label]) for label in picture.labels]] = 1
    return {"part": part, **metrics.measure(probabilities, targets, predictor.info.classes, multilabel=multilabel)}


def _open_model(model: Path, runs_folder: Path) -> tuple[Predictor, runs.Run | None, dict[str, Any] | None]:
    """Open an exported file or a run folder; of a file, find the run too."""
    if (model.is_dir() and not (model / "model.onnx").is_file()) or (model / "run.json").is_file():
        run, record = runs.load(model)
        return Predictor(run.exported if run.exported.is_file() else _exported_for_now(run, record)), run, record
    predictor = Predictor(model)
    folder = runs_folder / str(predictor.info.run.get("id", ""))
    if predictor.info.run.get("id") and (folder / "run.json").is_file():
        return predictor, *runs.load(folder)
    return predictor, None, None


def _warn_of_trained(
    info: ModelInfo,
    source: sources.Source,
    digests: Sequence[str],
    rows: Sequence[int],
    known: dict[str, str],
    reporter: Reporter,
) -> None:
    """Figures on pictures that a network learnt from say how well it remembers."""
    seen = sum(known.get(digests[i]) in ("train", "val") for i in rows)
    if seen:
        reporter.warn(
            f"the network was trained or chosen by {seen} of these {len(rows)} pictures; the figures flatter."
        )
    elif not known and digest_of(source, digests, range(len(digests))) == info.data.get("digest"):
        reporter.warn(
            "these are the very pictures that the network was trained, chosen and tested by. Only its run folder "
            "knows which is which: `zoo evaluate RUN` judges by its test pictures alone."
        )


def _load_model(run: runs.Run) -> keras.Model:
    keras = backend.start()
    try:
        return keras.models.load_model(run.model, compile=False)
    except Exception as error:
        # Keras, zipfile and h5py share no base class, and Keras calls a damaged file "not found".
        raise RunError(f"{str(run.model)!r} is damaged: {reason(error)}") from error


def _exported_for_now(run: runs.Run, record: dict[str, Any]) -> bytes:
    """The bytes of an exported file for a run that keeps none."""
    from zoo.convert.keras_to_onnx import convert
    from zoo.export import staging

    model = _load_model(run)
    task = record.get("task", "multiclass")
    info = ModelInfo(classes=tuple(record["classes"]), task=task, image=ImageSpec(**record["image"]))
    return staging.serialize(convert(model), info)


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


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _record(run: runs.Run, plan: Plan, registry: Registry, prepared: Prepared) -> dict[str, Any]:
    """The first version of run.json."""
    options, source = plan.options, prepared.source
    # A schedule of a user's file is of no plugin.
    items = [item for item in (plan.architecture, plan.augmentation, plan.schedule) if id(item) in registry.origin]
    used = {str(registry.plugin_of(item)) for item in items}
    resolved = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    bad = sorted(prepared.pixels.bad.items())
    return {
        "schema": runs.SCHEMA,
        "id": run.id,
        "status": "running",
        "created": _now(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "name": plan.name,
        "options": {**resolved, "data": sources.location(options.data), "schedule": plan.schedule.name},
        "architecture": describe(plan.architecture),
        "head": dataclasses.asdict(plan.head),
        "weights": plan.begin,
        "augmentation": {"name": plan.augmentation.name, "parameters": plan.parameters},
        "image": prepared.spec.to_json(),
        "classes": list(source.classes),
        "task": source.task,
        "data": {
            **prepared.describe(),
            "left_out": [{"picture": source.pictures[i].name, "why": why} for i, why in bad],
        },
        "plugins": sorted(used),
        "versions": runs.versions(),
        "phases": [],
        "warnings": [*plan.warnings],
        "seconds": {},
    }


def _train(
    plan: Plan, prepared: Prepared, registry: Registry, run: runs.Run, record: dict[str, Any], reporter: Reporter
) -> keras.Model:
    begun = time.perf_counter()
    model, backbone = plan.build(registry, reporter)
    from zoo.train import engine

    outcome = engine.train(
        *(model, backbone, plan.architecture, plan.phases),
        *(_pictures(prepared), plan.learning(prepared), reporter),
    )
    record["prefix"] = outcome.prefix
    run.write_history(outcome.history)
    with reporter.timing.measure("saving"), runs.replacing(run.model) as temporary:
        model.save(temporary)
    record.update(phases=outcome.phases, best_epoch=outcome.best_epoch, status="trained")
    record["warnings"] += outcome.warnings
    record["seconds"]["train"] = round(time.perf_counter() - begun, 2)
    run.write_json("run.json", record)
    with reporter.timing.measure("drawing curves"):
        _draw_curves(run, record, reporter)
    return model


def _pictures(prepared: Prepared) -> Pictures:
    split = prepared.split
    return Pictures(prepared.pixels.array, prepared.targets, split.train, split.val, prepared.source.task)


def _draw_curves(run: runs.Run, record: dict[str, Any], reporter: Reporter) -> None:
    """Draw curves.png; a trained network is not lost to a picture of its history."""
    from zoo.evaluate import curves

    try:
        curves.draw([curves.of_run(run, record, run.id)], run.folder / curves.FILE)
    except Exception as error:
        # matplotlib, its fonts and a user's matplotlibrc share no base class of errors.
        reporter.warn(f"{curves.FILE} was not drawn: {reason(error)}. `zoo plot {run.folder}` tries again.")
