"""The main functions: finetune, export, evaluate. Only the order of steps; each step lives in the package it names."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend, paths, runs, weights
from zoo.data import pixels as pixel_cache
from zoo.data import sources
from zoo.data import split as splitting
from zoo.errors import DataError, ExportError, RunError, UsageError, WeightsUnavailable, ZooError
from zoo.plugin import Architecture, Augmentation, Phase, Schedule
from zoo.registry import Registry
from zoo.reporter import Reporter
from zoo.train import phases as phase_tools
from zoo_runtime import ImageSpec, ModelInfo, Predictor

if TYPE_CHECKING:
    import keras
    import onnx

RANDOM_SCHEDULE = "scratch"
PARITY_PICTURES = 64


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user asks of `finetune`.

    Args:
        architecture: `name` or `name.tag`.
        data: A path, or "digits"; see `zoo.data.sources`.
        weights: "auto", "none", a tag, or a path.
        size: (height, width) in pixels; None means what suits the data, else the weights.
        resize: "squash", "crop", "crop:FRACTION" or "pad".
        schedule: Name; None means the architecture's default, or `scratch` on random weights.
        augment: Name of the augmentation policy.
        epochs: See `zoo.train.phases.override`.
        batch_size: Pictures a step.
        learning_rates: See `zoo.train.phases.override`.
        optimizer: For all phases; None leaves it to the schedule.
        val_split: Fraction taken as validation; None means the default.
        seed: Decides split, initial weights, order and augmentation.
        name: Of the export; None means `<architecture>-<data name>`.
        runs: Where the run folder is made.
        exported: Where the export is put.
        export: Whether to put it there.
    """

    architecture: str
    data: str = "digits"
    weights: str = "auto"
    size: tuple[int, int] | None = None
    resize: str = "squash"
    schedule: str | None = None
    augment: str = "none"
    epochs: tuple[int, ...] | None = None
    batch_size: int = 32
    learning_rates: tuple[float, ...] | None = None
    optimizer: str | None = None
    val_split: float | None = None
    seed: int = 0
    name: str | None = None
    runs: Path = Path("runs")
    exported: Path = Path("exported")
    export: bool = True


@dataclass(frozen=True)
class Result:
    """What `finetune` and `export_run` leave behind.

    Args:
        run: The run folder.
        metrics: The content of metrics.json.
        exported: The exported file, or None.
        sample: A picture to try it on.
    """

    run: runs.Run
    metrics: dict[str, Any]
    exported: Path | None
    sample: Path


@dataclass(frozen=True)
class Prepared:
    """Pictures ready to be learnt from: source -> pixels -> split."""

    source: sources.Source
    spec: ImageSpec
    pixels: pixel_cache.Pixels
    split: splitting.Split
    labels: np.ndarray = field(repr=False)

    @property
    def digest(self) -> str:
        """sha256 over every usable picture's digest and class, whatever their order and paths."""
        rows = sorted(f"{self.pixels.digests[i]} {self.source.classes[self.labels[i]]}" for i in self.pixels.usable)
        return hashlib.sha256("\n".join(rows).encode("utf-8", "surrogateescape")).hexdigest()

    def contents(self, rows: Sequence[int]) -> list[object]:
        """Paths or arrays of some pictures."""
        return [self.source.pictures[i].content for i in rows]

    def describe(self) -> dict[str, Any]:
        """For run.json and the exported file."""
        parts = {part: len(getattr(self.split, part)) for part in ("train", "val", "test")}
        return {"name": self.source.name, "digest": self.digest, "counts": parts, "split": self.split.how}


def finetune(options: Options, registry: Registry, reporter: Reporter) -> Result:
    """Fine-tune a network on a user's pictures, export it and judge the exported file.

    Args:
        options: What is wanted.
        registry: The loaded plugins.
        reporter: Hears of every step.

    Returns:
        Run folder, metrics, exported file.

    Raises:
        ZooError: With what to do about it. What was in place before stays in place.
    """
    architecture, tag = registry.resolve(options.architecture)
    augmentation = registry.augmentation(options.augment)
    source = sources.open_source(options.data)
    name = options.name or f"{architecture.name}-{source.name}"
    if sources.short_name(name) != name:
        raise UsageError(f"--name may hold letters, digits, '.', '_' and '-'. Received: {name!r}.")
    asked = options.schedule or architecture.default_schedule
    _phases(registry.schedule(asked), architecture, options)

    found, origin = _choose_weights(architecture, tag, options, source, registry, reporter)
    schedule = registry.schedule(options.schedule or (RANDOM_SCHEDULE if origin["random"] else asked))
    phases = _phases(schedule, architecture, options)
    if origin["random"]:
        reporter.say(f"Weights: random, schedule {schedule.name}")
        if any(phase.train != "all" for phase in phases):
            reporter.warn(f"schedule {schedule.name} keeps layers frozen that have random weights; expect little.")
    size = _size(architecture, options, source, origin)
    spec = _spec(architecture, size, options.resize)

    prepared = _prepare(source, spec, options, reporter)
    run = runs.create(options.runs, architecture.name)
    reporter.say(f"Run folder {run.folder}")
    record = _record(run, options, architecture, registry, augmentation, schedule, origin, prepared)
    run.write_json("run.json", record)
    left_out = record["data"]["left_out"]
    if left_out:
        reporter.warn(
            f"{len(left_out)} of {len(source.pictures)} files are left out; {run.folder}/run.json lists them."
        )
    try:
        model = _train(architecture, found, prepared, phases, options, registry, run, record, reporter)
        return _export(
            model, architecture, prepared, run, record, name, options.exported if options.export else None, reporter
        )
    except BaseException as error:
        if record["status"] == "running":
            interrupted = isinstance(error, KeyboardInterrupt)
            record["status"] = "interrupted" if interrupted else f"failed: {type(error).__name__}: {error}"
            run.write_json("run.json", record)
        raise


def export_run(
    folder: Path, registry: Registry, reporter: Reporter, *, name: str | None, exported: Path, data: str | None = None
) -> Result:
    """Export a finished run again, with the same checks.

    Args:
        folder: The run folder.
        registry: The loaded plugins.
        reporter: Hears of every step.
        name: Of the export; None means the run's own.
        exported: Where it is put.
        data: Where the run's pictures are now; None means where they were.

    Returns:
        As `finetune`.

    Raises:
        RunError: No finished run is there, or its pictures have changed.
    """
    run, record = runs.load(folder)
    architecture = registry.architecture(record["architecture"]["name"])
    options = _options_of(record, data)
    prepared = _prepare(sources.open_source(options.data), ImageSpec(**record["image"]), options, reporter)
    if prepared.digest != record["data"]["digest"]:
        raise RunError(
            f"the pictures at {options.data!r} are not those that {run.id} was trained on, so that neither parity nor "
            "test figures would mean anything. Give the folder that holds them with --data."
        )
    keras = backend.start()
    model = keras.models.load_model(run.model, compile=False)
    return _export(model, architecture, prepared, run, record, name or record["name"], exported, reporter)


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
    from zoo.train.model import build_classifier, load_weights

    architecture, tag = registry.resolve(wanted)
    size = size or architecture.input_size
    entries = registry.weights_of(architecture.name, tag, top=True)
    entries = [entry for entry in entries if entry.tag == entries[0].tag and entry.class_index]
    if not entries:
        raise UsageError(
            f"{wanted} has no published weights with a top and class names; `zoo info {wanted}` shows them."
        )
    name = name or f"{architecture.name}-{entries[0].tag}"
    if sources.short_name(name) != name:
        raise UsageError(f"--name may hold letters, digits, '.', '_' and '-'. Received: {name!r}.")
    try:
        with reporter.progress("downloading weights") as progress:
            found = weights.find(entries, size, progress)
        with reporter.progress("downloading class names") as progress:
            classes = weights.read_class_index(weights.find_file(found.entry.class_index, progress))
    except WeightsUnavailable as error:
        raise WeightsUnavailable(f"{error}.\n{weights.advice(entries[0])}") from None
    _say_found(found, reporter)
    if len(classes) != found.entry.classes:
        raise ExportError(
            f"{found.entry.class_index.filename} names {len(classes)} classes, not {found.entry.classes}."
        )
    spec = _spec(architecture, size, resize)
    pictures = sources.open_source(data).pictures
    step = max(1, len(pictures) // PARITY_PICTURES)
    chosen = pictures[::step][:PARITY_PICTURES]
    reporter.say(f"Parity is checked on {len(chosen)} pictures of {data}")
    pixels = pixel_cache.load_pixels(chosen, spec, paths.cache() / "pixels")
    backend.start()
    model = build_classifier(architecture, size, found.entry.classes)
    load_weights(model, found.path, found.entry)
    origin = _origin(found)
    info = ModelInfo(
        classes=tuple(classes),
        task="multiclass",
        image=spec,
        architecture=_describe(architecture),
        weights=origin,
        run={"created": _now(), "versions": runs.versions()},
        metrics={"published": {"top1": found.entry.top1, "top5": found.entry.top5}},
    )
    graph, info = _checked_graph(model, info, pixels.array[pixels.usable], reporter)
    from zoo.export import staging

    target = exported / name / "model.onnx"
    staging.place(staging.serialize(graph, info), target)
    return target


def evaluate(
    model: Path, registry: Registry, reporter: Reporter, *, data: str | None, part: str | None
) -> dict[str, Any]:
    """Judge an exported file on pictures.

    Args:
        model: An exported file, or a run folder.
        registry: The loaded plugins.
        reporter: Hears of progress.
        data: Pictures; None means the run's own.
        part: "train", "val", "test" or "all"; None means the test part where the pictures have a given split (or are
            the run's own), else all.

    Returns:
        As `zoo.evaluate.metrics.measure`.

    Raises:
        UsageError: No pictures are given for a file.
        DataError: The pictures have a class that the network does not know.
    """
    from zoo.evaluate import metrics

    record = None
    file = model
    if model.is_dir():
        run, record = runs.load(model)
        file = run.exported
    predictor = Predictor(file if file.is_file() or record is None else _exported_for_now(run, record))
    if record is None and data is None:
        raise UsageError("give the pictures with --data; only a run folder remembers its own.")
    if data is None:
        options = _options_of(record, None)
        prepared = _prepare(sources.open_source(options.data), ImageSpec(**record["image"]), options, reporter)
        if prepared.digest != record["data"]["digest"]:
            raise RunError(f"the pictures at {options.data!r} have changed since the run; give others with --data.")
        source, part = prepared.source, part or "test"
        rows = prepared.pixels.usable if part == "all" else list(getattr(prepared.split, part))
    else:
        source = sources.open_source(data)
        given = any(picture.split for picture in source.pictures)
        part = part or ("test" if any(picture.split == "test" for picture in source.pictures) else "all")
        if part != "all" and not given:
            raise UsageError(f"{data!r} has no given split; leave --part out to judge all of it.")
        rows = [i for i, picture in enumerate(source.pictures) if part in ("all", picture.split)]
        if not rows:
            raise DataError(f"{data!r} has no pictures in its {part} part.")
    unknown = sorted(set(source.classes) - set(predictor.info.classes))
    if unknown:
        raise DataError(
            f"the network does not know {', '.join(unknown[:5])}; it knows {', '.join(predictor.info.classes[:10])}."
        )
    index = {label: i for i, label in enumerate(predictor.info.classes)}
    labels = np.array([index[source.classes[source.pictures[i].label]] for i in rows])
    with reporter.progress(f"evaluating {part}") as progress:
        probabilities = metrics.predict(predictor, [source.pictures[i].content for i in rows], progress)
    return metrics.measure(probabilities, labels, predictor.info.classes)


def _exported_for_now(run: runs.Run, record: dict[str, Any]) -> bytes:
    """The bytes of an exported file for a run that keeps none."""
    from zoo.convert.keras_to_onnx import convert
    from zoo.export import staging

    model = backend.start().models.load_model(run.model, compile=False)
    info = ModelInfo(classes=tuple(record["classes"]), task="multiclass", image=ImageSpec(**record["image"]))
    return staging.serialize(convert(model), info)


def resolve_model(text: str, exported: Path, runs_folder: Path) -> Path:
    """Turn what a user typed into a file or run folder: a path, an export's name, or a run's id.

    Raises:
        UsageError: Nothing of that name is there.
    """
    candidates = [Path(text), exported / text, runs_folder / text]
    for path in candidates:
        if path.is_file() or (path / "run.json").is_file():
            return path
        if (path / "model.onnx").is_file():
            return path / "model.onnx"
    names = sorted(p.parent.name for p in exported.glob("*/model.onnx"))
    raise UsageError(
        f"there is no exported file, export or run called {text!r}. "
        f"Exports in {str(exported)!r}: {', '.join(names) or 'none'}."
    )


def _phases(schedule: Schedule, architecture: Architecture, options: Options) -> tuple[Phase, ...]:
    """The schedule's phases as the user wants them, every selector checked before anything long begins."""
    phases = phase_tools.override(
        schedule.phases_for(architecture),
        epochs=options.epochs,
        learning_rates=options.learning_rates,
        optimizer=options.optimizer,
    )
    layers = [layer for stage in architecture.stages for layer in stage.layers]
    for phase in phases:
        if phase.train.startswith("last:"):
            phase_tools.select(architecture, layers, phase.train)
    return phases


def _choose_weights(
    architecture: Architecture,
    tag: str | None,
    options: Options,
    source: sources.Source,
    registry: Registry,
    reporter: Reporter,
) -> tuple[weights.Found | Path | None, dict[str, Any]]:
    """Find the weights that training begins from; also say what run.json and the exported file record of them."""
    wish = options.weights
    if tag and wish not in ("auto", tag):
        raise UsageError(f"{options.architecture} asks for {tag!r} and --weights for {wish!r}; give one of them.")
    if wish == "none":
        return None, {"random": True, "id": None, "reason": "--weights none"}
    if wish not in ("auto", tag) and _is_path(wish):
        path = Path(wish).expanduser()
        if not path.is_file():
            raise WeightsUnavailable(f"there is no weights file at {wish!r}.")
        reporter.say(f"Weights: {path}")
        return path, {
            "random": False,
            "id": None,
            "file": path.name,
            "sha256": weights.digest_of(path),
            "place": "path",
        }
    explicit = tag or (wish if wish != "auto" else None)
    if explicit:
        registry.check_tag(architecture.name, explicit)
    entries = registry.weights_of(architecture.name, explicit, top=False)
    entries = [entry for entry in entries if entry.tag == entries[0].tag]
    if not entries:
        reason = f"no plugin lists pretrained weights of {architecture.name}"
        _say_random(architecture, reason, "", reporter)
        return None, {"random": True, "id": None, "reason": reason}
    size = options.size or source.size or entries[0].input_size
    try:
        with reporter.progress("downloading weights") as progress:
            found = weights.find(entries, size, progress)
    except WeightsUnavailable as error:
        wanted = weights.by_fit(entries, size)[0]
        if explicit:
            raise WeightsUnavailable(f"{wanted.id}: {error}.\n{weights.advice(wanted)}") from None
        _say_random(architecture, str(error), weights.advice(wanted), reporter)
        return None, {"random": True, "id": None, "reason": str(error)}
    _say_found(found, reporter)
    return found, _origin(found)


def _is_path(text: str) -> bool:
    return "/" in text or "\\" in text or text.endswith((".h5", ".keras")) or Path(text).is_file()


def _say_random(architecture: Architecture, reason: str, advice: str, reporter: Reporter) -> None:
    text = f"{architecture.name} starts from RANDOM weights, because {reason}.\n"
    text += f"It will need more pictures and epochs; the default schedule is now {RANDOM_SCHEDULE!r}.\n"
    if advice:
        text += f"To start from pretrained weights: {advice[0].lower()}{advice[1:]}"
    reporter.block("NO PRETRAINED WEIGHTS", text.rstrip())


def _say_found(found: weights.Found, reporter: Reporter) -> None:
    reporter.say(f"Weights: {found.entry.id} ({found.entry.filename}, from the {found.place})")
    if found.entry is not found.wanted:
        height, width = found.wanted.input_size
        reporter.warn(
            f"the weights trained at {height}x{width} could not be had ({found.reason}); those trained at "
            f"{found.entry.input_size[0]}x{found.entry.input_size[1]} are used."
        )


def _origin(found: weights.Found) -> dict[str, Any]:
    entry = found.entry
    return {
        "random": False,
        "id": entry.id,
        "file": entry.filename,
        "sha256": found.sha256,
        "place": found.place,
        "input_size": list(entry.input_size),
        "wanted_input_size": list(found.wanted.input_size),
        "licence": entry.licence,
        "source": entry.source,
    }


def _size(
    architecture: Architecture, options: Options, source: sources.Source, origin: dict[str, Any]
) -> tuple[int, int]:
    from zoo.train.model import check_size

    size = options.size or source.size or tuple(origin.get("input_size") or architecture.input_size)
    check_size(architecture, size)
    return size


def _spec(architecture: Architecture, size: tuple[int, int], resize: str) -> ImageSpec:
    way, _, fraction = resize.partition(":")
    try:
        kept = {"fraction": float(fraction)} if fraction else {}
        if kept and way != "crop":
            raise ValueError("only crop takes a fraction")
        return ImageSpec(size=size, channels=architecture.channels, resize=way, **kept)
    except ValueError as error:
        raise UsageError(f"--resize must be squash, crop, crop:FRACTION or pad, --size in pixels: {error}.") from None


def _prepare(source: sources.Source, spec: ImageSpec, options: Options, reporter: Reporter) -> Prepared:
    begun = time.perf_counter()
    with reporter.progress("decoding pictures") as progress:
        pixels = pixel_cache.load_pixels(source.pictures, spec, paths.cache() / "pixels", progress)
    pixel_cache.check_readable(source.pictures, pixels)
    split = splitting.split(
        source.pictures,
        pixels.digests,
        pixels.usable,
        source.classes,
        seed=options.seed,
        val_share=options.val_split,
    )
    labels = np.array([picture.label for picture in source.pictures], dtype=np.int64)
    seconds = time.perf_counter() - begun
    decoded = "found decoded" if pixels.cached else f"decoded in {seconds:.1f} s"
    reporter.say(
        f"Data: {source.name}, {len(pixels.usable)} pictures of {len(source.classes)} classes, {decoded}; "
        f"{len(split.train)} to train on, {len(split.val)} to validate, {len(split.test)} to test ({split.how})"
    )
    _warn_of_contradictions(source, pixels, reporter)
    return Prepared(source, spec, pixels, split, labels)


def _warn_of_contradictions(source: sources.Source, pixels: pixel_cache.Pixels, reporter: Reporter) -> None:
    """The same picture under two classes teaches nothing right; the user should know."""
    first: dict[str, int] = {}
    pairs = []
    for i in pixels.usable:
        other = first.setdefault(pixels.digests[i], i)
        if source.pictures[other].label != source.pictures[i].label:
            pairs.append(f"{source.pictures[other].name} = {source.pictures[i].name}")
    if pairs:
        reporter.warn(f"{len(pairs)} pictures stand in two classes: {'; '.join(pairs[:3])}. Remove one of each pair.")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _describe(architecture: Architecture) -> dict[str, Any]:
    return {
        "name": architecture.name,
        "parameters": architecture.parameters,
        "source": architecture.source,
        "licence": architecture.licence,
    }


def _record(
    run: runs.Run,
    options: Options,
    architecture: Architecture,
    registry: Registry,
    augmentation: Augmentation,
    schedule: Schedule,
    origin: dict[str, Any],
    prepared: Prepared,
) -> dict[str, Any]:
    """The first version of run.json."""
    pictures = prepared.source.pictures
    used = {str(registry.plugin_of(item)) for item in (architecture, augmentation, schedule)}
    resolved = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    where = options.data if options.data == "digits" else str(Path(options.data).expanduser().resolve())
    return {
        "schema": runs.SCHEMA,
        "id": run.id,
        "status": "running",
        "created": _now(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "name": options.name or f"{architecture.name}-{prepared.source.name}",
        "options": {**resolved, "data": where, "schedule": schedule.name},
        "architecture": _describe(architecture),
        "weights": origin,
        "image": prepared.spec.to_json(),
        "classes": list(prepared.source.classes),
        "data": {
            **prepared.describe(),
            "left_out": [{"picture": pictures[i].name, "why": why} for i, why in sorted(prepared.pixels.bad.items())],
        },
        "plugins": sorted(used),
        "versions": runs.versions(),
        "phases": [],
        "warnings": [],
        "seconds": {},
    }


def _options_of(record: dict[str, Any], data: str | None) -> Options:
    """The options of an earlier run that decide its pictures."""
    kept = record["options"]
    return Options(
        architecture=kept["architecture"],
        data=data or kept["data"],
        val_split=kept["val_split"],
        seed=kept["seed"],
    )


def _train(
    architecture: Architecture,
    found: weights.Found | Path | None,
    prepared: Prepared,
    phases: Sequence[Phase],
    options: Options,
    registry: Registry,
    run: runs.Run,
    record: dict[str, Any],
    reporter: Reporter,
) -> keras.Model:
    begun = time.perf_counter()
    reporter.say("Starting Keras")
    keras = backend.start()
    from zoo.train import engine
    from zoo.train.model import attach_head, build_backbone, load_weights

    keras.utils.set_random_seed(options.seed)
    backbone = build_backbone(architecture, prepared.spec.size)
    if isinstance(found, Path):
        load_weights(backbone, found)
    elif found is not None:
        load_weights(backbone, found.path, found.entry)
    classes = prepared.source.classes
    model = attach_head(backbone, architecture.head, len(classes), architecture.name)
    policy = registry.augmentation(options.augment)
    outcome = engine.train(
        model,
        [layer.name for layer in backbone.layers],
        architecture,
        phases,
        engine.Pictures(prepared.pixels.array, prepared.labels, prepared.split.train, prepared.split.val, len(classes)),
        batch_size=options.batch_size,
        seed=options.seed,
        augment=None if policy.name == "none" else policy.build(**policy.parameters),
        reporter=reporter,
    )
    run.write_history(outcome.history)
    with runs.replacing(run.model) as temporary:
        model.save(temporary)
    record.update(phases=outcome.phases, best_epoch=outcome.best_epoch, status="trained")
    record["warnings"] += outcome.warnings
    record["seconds"]["train"] = round(time.perf_counter() - begun, 2)
    run.write_json("run.json", record)
    return model


def _export(
    model: keras.Model,
    architecture: Architecture,
    prepared: Prepared,
    run: runs.Run,
    record: dict[str, Any],
    name: str,
    exported: Path | None,
    reporter: Reporter,
) -> Result:
    """Convert, check, judge and put in place. Nothing is replaced before every check has passed."""
    from zoo.evaluate import metrics as judging
    from zoo.evaluate import report
    from zoo.export import staging

    begun = time.perf_counter()
    reporter.say("Exporting to ONNX")
    split = prepared.split
    info = ModelInfo(
        classes=prepared.source.classes,
        task="multiclass",
        image=prepared.spec,
        architecture=_describe(architecture),
        weights=record["weights"],
        run={key: record[key] for key in ("id", "created", "versions", "plugins")}
        | {"seed": record["options"]["seed"]},
        data=prepared.describe(),
    )
    # Pictures that training did not learn from come first: a network is surest of those it knows.
    chosen = np.concatenate([split.val, split.train])[: max(PARITY_PICTURES, min(256, len(split.val)))]
    graph, info = _checked_graph(model, info, prepared.pixels.array[chosen], reporter)

    predictor = Predictor(staging.serialize(graph, info))
    metrics = {}
    for part, key in (("val", "validation"), ("test", "test")):
        rows = getattr(split, part)
        with reporter.progress(f"evaluating {key}") as progress:
            probabilities = judging.predict(predictor, prepared.contents(rows), progress)
        metrics[key] = judging.measure(probabilities, prepared.labels[rows], prepared.source.classes)
    summary = {
        key: {label: metrics[key][label] for label in ("accuracy", "macro_f1", "loss", "pictures")} for key in metrics
    }
    data = staging.serialize(graph, dataclasses.replace(info, metrics=summary))
    run.write_json("metrics.json", metrics)
    target = None
    if exported is not None:
        staging.place(data, run.exported)
        target = exported / name / "model.onnx"
        try:
            staging.copy(run.exported, target)
        except OSError as error:
            raise ExportError(
                f"{str(target)!r} cannot be written: {error.strerror}. The run is kept; "
                f"`zoo export {run.folder} --exported FOLDER` puts its export elsewhere."
            ) from error
    record["seconds"]["export"] = round(time.perf_counter() - begun, 2)
    record["parity"] = info.parity
    run.write_json("run.json", record)
    with runs.replacing(run.folder / "report.html") as temporary:
        temporary.write_text(report.render(record, metrics, run.read_history()), encoding="utf-8")
    return Result(run, metrics, target, _sample(prepared, run))


def _checked_graph(
    model: keras.Model, info: ModelInfo, pixels: np.ndarray, reporter: Reporter
) -> tuple[onnx.ModelProto, ModelInfo]:
    from zoo.convert.keras_to_onnx import convert
    from zoo.export import parity, staging

    graph = convert(model)
    figures = parity.check(model, graph, pixels)
    reporter.say(
        f"Parity with Keras on {figures['pictures']} pictures: logits differ by {figures['logits_difference']:.1e}, "
        f"probabilities by {figures['probabilities_difference']:.1e} of their greatest value "
        f"(allowed {figures['tolerance']:g})"
    )
    return graph, staging.with_selftest(graph, dataclasses.replace(info, parity=figures))


def _sample(prepared: Prepared, run: runs.Run) -> Path:
    """A test picture to try the export on; arrays are written out for that."""
    content = prepared.source.pictures[int(prepared.split.test[0])].content
    if isinstance(content, Path):
        return content
    from PIL import Image

    path = run.folder / "sample.png"
    image = content[:, :, 0] if content.ndim == 3 and content.shape[2] == 1 else content
    Image.fromarray(image).save(path)
    return path


__all__ = [
    "Options",
    "Prepared",
    "Result",
    "ZooError",
    "evaluate",
    "export_run",
    "export_top",
    "finetune",
    "resolve_model",
]
