"""Exports published classifiers with their own classes, and checks published weights on ImageNet pictures.

This module decides the order of the steps. `zoo.pretrained` finds the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend, config, files, runs
from zoo.data import pixels as pixel_cache
from zoo.data import sources
from zoo.data.reading import ReadingOptions
from zoo.errors import ExportError, UsageError, WeightsUnavailable
from zoo.evaluate import evaluator, metrics
from zoo.export.parity import PARITY_PICTURES
from zoo.export.variants import VARIANTS
from zoo.plugin import Architecture, Weights
from zoo.plugin.registry import Registry
from zoo.pretrained import fetch, select
from zoo.reporter import Reporter
from zoo.workflow import model_card, replaced
from zoo.workflow.checked_graph import convert_and_check
from zoo.workflow.replaced import EXPORTED_FILE, NewExport
from zoo_runtime import MAX_PIXELS, ImageSpec, ModelInfo, Predictor

if TYPE_CHECKING:
    import onnx


def export_top(
    wanted: str,
    registry: Registry,
    reporter: Reporter,
    *,
    name: str | None,
    exported: Path,
    size: tuple[int, int] | None,
    resize: str | None,
    data: str,
    folder: Path = Path("runs"),
    replace: bool = False,
    reading: ReadingOptions | None = None,
) -> Path:
    """Export a published classifier with its own classes, without training.

    Args:
        wanted: `architecture` or `architecture.tag`.
        registry: The loaded plugins.
        reporter: Receives progress messages and warnings.
        name: The name of the export; None uses `<architecture>-<tag>`.
        exported: The folder of exports.
        size: (height, width) in pixels of the pictures; None means the default of the architecture.
        resize: How pictures are resized, as in `zoo.config.FinetuneConfig`. None means what the weights prefer.
        data: The pictures for the parity check; see `zoo.data.sources`.
        folder: The folder of runs, where the run of a replaced export is looked up.
        replace: True also replaces an export of a run, or of another network.
        reading: How these pictures are read. None means the defaults.

    Returns:
        The path of the exported file.

    Raises:
        UsageError: There is no such published classifier, or it does not take pictures of that size. Or `name` or
            `resize` has a value that is not allowed. Or another export has the name, and `replace` is False.
        WeightsUnavailable: The weights or the class names are not available.
        HashMismatch: A local file is not the published one.
        WeightsIncompatible: The weights file does not fit the network.
        DataError: The pictures cannot be read.
        ExportError: The network cannot be converted, or the converted graph does not compute the same values. Or the
            number of class names is wrong.
        PluginError: More than one plugin provides the architecture or the weights, or the network cannot be built.
        InstallationError: Keras cannot be imported.
        WriteError: The exported file cannot be written.
    """
    architecture, tag = registry.resolve(wanted)
    # Otherwise weights are downloaded first.
    backend.require_converters()
    backend.check()
    size = size or architecture.input_size
    config.image_spec(architecture, size, resize or "squash")
    published = _published(architecture, tag, size, registry)
    target = exported / config.checked_name(name or f"{architecture.name}-{published[0].tag}") / EXPORTED_FILE
    files.check_writable(target.parent, "--exported FOLDER")
    new = NewExport(None, folder, None, "multiclass", weights=published[0].id)
    replaced.check(target, new, replace=replace)
    classes = _fetch_classes(published, reporter)
    weights = _fetch_published(published, size, reporter)
    resize, resampling = select.resizing(resize, weights.entry, reporter)
    spec = config.image_spec(architecture, size, resize, resampling=resampling)
    source = sources.open_source(data, reading=reading, fewest_classes=1)
    reporter.say(f"Checking parity on {min(len(source.pictures), PARITY_PICTURES)} pictures of {data}")
    pixels = _parity_pixels(source.pictures, spec, source.max_pixels, source.formats)
    graph, info = _published_graph(architecture, weights, classes, spec, pixels, reporter)
    from zoo.export import artifact

    replaced.check(target, new, replace=replace)
    earlier = replaced.prepare(target, None, folder)
    content = artifact.serialize(graph, info)
    artifact.place(content, target)
    replaced.report(target, earlier, new, info, reporter)
    model_card.write(target, content, info, reporter, None)
    replaced.warn_of_stale(VARIANTS, exported, target.parent.name, None, reporter)
    return target


def verify(
    wanted: str,
    data: str,
    registry: Registry,
    reporter: Reporter,
    *,
    size: tuple[int, int] | None = None,
    resize: str | None = None,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """Check published weights: find the file, check its hash, and evaluate the converted network on ImageNet pictures.

    Args:
        wanted: `architecture` or `architecture.tag`.
        data: A folder of pictures whose names begin with WordNet identifiers; see `zoo.data.sources.open_identified`.
        registry: The loaded plugins.
        reporter: Receives progress messages and warnings.
        size: (height, width) in pixels of the pictures; None means the default of the architecture.
        resize: How pictures are resized, as in `zoo.config.FinetuneConfig`. None means what the weights prefer.
        max_pixels: The largest picture to decode, in pixels of color; see `zoo_runtime.decode`.
        formats: The formats of picture files to read; see `zoo_runtime.decode`. None means the common ones.

    Returns:
        A dictionary with these keys:
            name: The architecture and the tag.
            weights: The description of the weights, as in the exported file.
            size: The height and width of the pictures in pixels, as a list.
            resize: How the pictures were resized.
            pictures: The number of pictures that were evaluated.
            top1, top5: The accuracy on these pictures, in 0..1.
            top1_interval, top5_interval: The bounds of their 95 % confidence intervals.
            reported_top1, reported_top5: The published accuracy, in 0..1, or None.
            parity: The figures of the parity check; see `zoo.export.parity.check`.
            left_out: Maps the name of each unreadable picture to the reason.

    Raises:
        UsageError: There is no such published classifier, or it does not take pictures of that size. Or `resize` has a
            value that is not allowed.
        WeightsUnavailable: The weights or the class names are not available.
        HashMismatch: A local file is not the published one.
        WeightsIncompatible: The weights file does not fit the network.
        DataError: The names of the pictures do not give their classes, or the pictures cannot be read.
        ExportError: The network cannot be converted, or the converted graph does not compute the same values. Or the
            number of class names is wrong.
        PluginError: More than one plugin provides the architecture or the weights, or the network cannot be built.
        InstallationError: Keras cannot be imported.
    """
    from zoo.export import artifact

    architecture, tag = registry.resolve(wanted)
    # Otherwise weights are downloaded first.
    backend.require_converters()
    backend.check()
    size = size or architecture.input_size
    config.image_spec(architecture, size, resize or "squash")
    sources.identified_folder(data)
    published = _published(architecture, tag, size, registry)
    # Small files come first: a folder of other pictures is refused before a gigabyte is downloaded.
    classes = _fetch_classes(published, reporter)
    pictures = sources.open_identified(data, classes)
    weights = _fetch_published(published, size, reporter)
    resize, resampling = select.resizing(resize, weights.entry, reporter)
    spec = config.image_spec(architecture, size, resize, resampling=resampling)
    pixels = _parity_pixels(pictures, spec, max_pixels, formats)
    graph, info = _published_graph(architecture, weights, classes, spec, pixels, reporter)
    predictor = Predictor(artifact.serialize(graph, info), max_pixels=max_pixels, formats=formats)
    with reporter.progress(f"scoring {len(pictures)} pictures") as progress:
        answers, bad = evaluator.predict(predictor, [picture.content for picture in pictures], progress)
    pixel_cache.check_readable(pictures, bad)
    labels = np.array([picture.labels[0] for i, picture in enumerate(pictures) if i not in bad])
    best = np.argsort(-answers.probabilities, axis=1)[:, :5]
    top1, top5 = float((best[:, 0] == labels).mean()), float((best == labels[:, None]).any(axis=1).mean())
    return {
        "name": weights.entry.id,
        "weights": info.weights,
        "size": list(size),
        "resize": resize,
        "pictures": len(labels),
        "top1": top1,
        "top1_interval": metrics.interval(top1, len(labels)),
        "top5": top5,
        "top5_interval": metrics.interval(top5, len(labels)),
        "reported_top1": weights.entry.top1,
        "reported_top5": weights.entry.top5,
        "parity": info.parity,
        "left_out": {pictures[i].name: why for i, why in bad.items()},
    }


def _published(architecture: Architecture, tag: str | None, size: tuple[int, int], registry: Registry) -> list[Weights]:
    """Return the published weights of a classifier.

    They are sorted by `fetch.by_fit`: the weights whose input size is nearest to `size` come first.

    Args:
        architecture: The architecture of the classifier.
        tag: The tag of the weights. None means the tag of the first weights that the plugins list.
        size: The (height, width) in pixels of the pictures.
        registry: The loaded plugins.

    Raises:
        UsageError: There is no published classifier, or it does not take pictures of that size.
        UnknownName: The architecture has no weights with that tag.
        DuplicateName: Two plugins provide these weights.
    """
    from zoo.train.network import check_size

    registry.check_tag(architecture.name, tag)
    entries = registry.weights_of(architecture.name, tag, top=True)
    entries = [entry for entry in select.first_tag(entries) if entry.class_index]
    if not entries or architecture.build_classifier is None:
        wanted = f"{architecture.name}.{tag}" if tag else architecture.name
        raise UsageError(
            f"{wanted} has no published classifier: no weights with a top and class names. `zoo info {wanted}` shows "
            "the weights that there are."
        )
    check_size(architecture, size)
    fixed = architecture.classifier_size
    if fixed is not None and fixed != size:
        raise UsageError(
            f"the published top of {architecture.name} flattens the feature map, so that it takes pictures of "
            f"{fixed[0]}x{fixed[1]} only. Received: --size {size[0]}x{size[1]}."
        )
    return fetch.by_fit(entries, size)


def _fetch_classes(entries: Sequence[Weights], reporter: Reporter) -> list[str]:
    """Find or download the file that names the classes of a published classifier.

    Returns:
        The class names, in the order of the network's output.

    Raises:
        WeightsUnavailable: The file is not available. The message says how to download it by hand.
        HashMismatch: The local file is not the published one, or it is not a class index.
        ExportError: The file names more or fewer classes than the classifier has.
    """
    index = entries[0].class_index
    # `_published` returns only entries that have a class index.
    assert index is not None
    try:
        with reporter.transfer("downloading class names", fetch.waiting_label(index, "class names")) as progress:
            classes = fetch.read_class_index(fetch.find_file(index, progress, reporter.warn))
    except WeightsUnavailable as error:
        text = f"{error}.\n{fetch.advice(index)}."
        if not fetch.find_local(entries[0]):
            text += f"\nThe weights are not available locally either: {entries[0].url}, as {entries[0].filename}."
        raise WeightsUnavailable(text) from None
    if len(classes) != entries[0].classes:
        raise ExportError(f"{index.filename} names {len(classes)} classes, not {entries[0].classes}.")
    return classes


def _fetch_published(entries: Sequence[Weights], size: tuple[int, int], reporter: Reporter) -> fetch.WeightsFile:
    """Find or download the weights of a published classifier, and report which file is used.

    Args:
        entries: The published weights of the classifier. Those whose input size fits `size` best are preferred.
        size: The (height, width) in pixels of the pictures.
        reporter: Receives the progress of a download, and a message that names the file.

    Raises:
        WeightsUnavailable: The weights are not available. The message says how to download them by hand.
        HashMismatch: A local file is not the published one.
    """
    try:
        waiting = fetch.waiting_label(fetch.by_fit(entries, size)[0], "weights")
        with reporter.transfer("downloading weights", waiting) as progress:
            weights = fetch.find(entries, size, progress, reporter.warn)
    except WeightsUnavailable as error:
        raise WeightsUnavailable(f"{error}.\n{fetch.advice(entries[0])}.") from None
    select.say(weights, reporter)
    return weights


def _parity_pixels(
    pictures: Sequence[sources.Picture],
    spec: ImageSpec,
    max_pixels: int,
    formats: tuple[str, ...] | None = None,
) -> np.ndarray:
    """Decode the pictures for the parity check: every N-th one, up to PARITY_PICTURES in total.

    N is `len(pictures) // PARITY_PICTURES`, but at least 1.

    Returns:
        A uint8 array (pictures, height, width, channels), values 0..255.

    Raises:
        DataError: The pictures cannot be read.
    """
    step = max(1, len(pictures) // PARITY_PICTURES)
    chosen = pictures[::step][:PARITY_PICTURES]
    cache = files.cache() / "pixels"
    pixels = pixel_cache.load_pixels(chosen, spec, cache, max_pixels=max_pixels, formats=formats)
    pixel_cache.check_readable(chosen, pixels.bad)
    return pixels.array[pixels.usable]


def _published_graph(
    architecture: Architecture,
    weights: fetch.WeightsFile,
    classes: Sequence[str],
    spec: ImageSpec,
    pixels: np.ndarray,
    reporter: Reporter,
) -> tuple[onnx.ModelProto, ModelInfo]:
    """Build a published classifier, load its weights, convert it to ONNX, and check its parity on pictures.

    Args:
        architecture: The architecture of the network.
        weights: The weights file of the whole network, including the classification layers.
        classes: Class names, in the order of the network's output.
        spec: How pictures are decoded: their size, their channels and the method of resizing.
        pixels: The decoded pictures for the parity check, as `_parity_pixels` returns them.
        reporter: Receives a message with the parity figures.

    Returns:
        The graph with the outputs `probabilities` and `logits`, and the metadata with parity figures and self-test.

    Raises:
        WeightsIncompatible: The weights do not fit the network.
        InvalidPluginData: The plugin's network cannot be built.
        InstallationError: Keras cannot be imported.
        ConversionFailed: The network cannot be converted, or onnxruntime cannot run the graph.
        ParityFailed: The graph does not compute the same values as the network.
    """
    from zoo.export import artifact
    from zoo.train.network import build_classifier
    from zoo.train.weights_file import load_weights

    backend.start()
    model = build_classifier(architecture, spec.size, weights.entry.classes)
    load_weights(model, weights.path, weights.entry)
    info = ModelInfo(
        classes=tuple(classes),
        task="multiclass",
        image=spec,
        architecture=architecture.describe(),
        weights=select.describe(weights),
        run={"created": runs.now(), "versions": runs.versions()},
        metrics={"published": {"top1": weights.entry.top1, "top5": weights.entry.top5}},
    )
    graph, info = convert_and_check(model, info, pixels, reporter)
    with reporter.timing.measure("self-test"):
        return graph, artifact.with_selftest(graph, info)
