"""Checks architectures, augmentation policies, schedules and loggers against the rules of the plugin API.

Plugin authors call these functions in their tests, and zoo does the same for its own plugins:

    from zoo import testing

    def test_my_network():
        testing.check_architecture(my_plugin.zoo_architectures()[0])

If a check fails, it raises AssertionError, or the ZooError that a user of the plugin would see. The message says what
is wrong.
"""

from __future__ import annotations

import contextlib
import io
import math
import random
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo import backend
from zoo.plugin import Architecture, Augmentation, EpochFigures, LoggedRun, Logger, RunLog, Schedule
from zoo_runtime import ImageSpec, ModelInfo, Predictor

if TYPE_CHECKING:
    import keras
    import onnx

PREPROCESSING = ("Rescaling", "Normalization")
# How long the threads of a logger may run after its logs have ended, in seconds, as those of a command may.
PATIENCE = 5.0


def check_architecture(architecture: Architecture, size: tuple[int, int] | None = None, *, transposes: int = 4) -> None:
    """Check that an architecture meets the requirements of `zoo.plugin.Architecture`.

    The check builds the network twice, saves and loads it, converts it to ONNX, and runs the exported file. It uses
    random weights and synthetic pictures.

    Args:
        architecture: The architecture.
        size: The (height, width) in pixels at which the network is built; None means the smallest that it accepts.
        transposes: The greatest number of Transpose nodes that the converted graph may have. A Transpose copies a whole
            feature map, which costs time on a device.

    Raises:
        AssertionError: The architecture does not meet a requirement.
        ZooError: The network cannot be built or converted, or the converted graph does not compute the same values as
            the network.
    """
    from zoo.convert.keras_to_onnx import convert
    from zoo.export import artifact, parity
    from zoo.train.network import attach_head, build_backbone

    keras = backend.start()
    size = size or (architecture.min_size, architecture.min_size)
    keras.utils.set_random_seed(0)
    backbone = build_backbone(architecture, size)
    assert None not in backbone.output.shape[1:], f"the feature map has no fixed shape: {backbone.output.shape}"
    parameters = sum(layer.count_params() for layer in backbone.layers if layer.__class__.__name__ not in PREPROCESSING)
    assert parameters == architecture.parameters, (
        f"the backbone has {parameters:,} parameters, {architecture.parameters:,} promised"
    )

    names = [layer.name for layer in backbone.layers]
    again = [layer.name for layer in build_backbone(architecture, size).layers]
    assert names == again, f"a second build has other layer names: {sorted(set(again) - set(names))[:5]}"

    randomize(backbone)
    pixels = synthetic_pixels(8, size, architecture.channels, seed=1)
    features = backbone.predict_on_batch(pixels.astype("float32"))
    assert np.isfinite(features).all(), "the feature map is not finite on pixels in 0..255"
    assert np.abs(np.diff(features, axis=0)).max() > 0, "the feature map does not depend on the picture"

    model = attach_head(backbone, architecture.head, 5, architecture.name)
    with tempfile.TemporaryDirectory(prefix="zoo-testing-") as folder:
        path = Path(folder, "model.keras")
        model.save(path)
        loaded = keras.models.load_model(path, compile=False)
    same = np.array_equal(
        model.predict_on_batch(pixels.astype("float32")), loaded.predict_on_batch(pixels.astype("float32"))
    )
    assert same, "a saved and loaded network gives other values"
    # `convert` and `parity.check` raise an error if the graph cannot be converted or gives other values.
    graph = convert(model)
    check_graph(graph, transposes)
    parity.check(model, graph, pixels)

    spec = ImageSpec(size=size, channels=architecture.channels)
    described = {"name": architecture.name}
    info = ModelInfo(classes=tuple("abcde"), task="multiclass", image=spec, architecture=described)
    predictor = Predictor(artifact.serialize(graph, info))
    expected = model.predict_on_batch(pixels.astype("float32"))
    for picture, row in zip(pixels, expected, strict=True):
        result = predictor(picture if architecture.channels == 3 else picture[..., 0])
        assert np.abs(np.array(list(result.probabilities.values())) - row).max() <= 1e-4, "the predictor differs"


def check_graph(graph: onnx.ModelProto, transposes: int = 4) -> None:
    """Check that a converted graph has only standard ONNX operators, and no operators that needlessly cost time.

    Args:
        graph: The graph that `zoo.convert.keras_to_onnx.convert` returned.
        transposes: The greatest number of Transpose nodes that the graph may have, besides three for each attention:
            they sort queries, keys and values by heads, turn the keys, and sort the result by tokens.

    Raises:
        AssertionError: The graph has an input other than `image`, a non-standard operator, or too many Transpose nodes.
            Or a convolution is followed by a BatchNorm, or by a Mul or Add with one constant per channel. The
            converter should have folded such an operator into the weights of the convolution.
    """
    nodes = graph.graph.node
    inputs = [value.name for value in graph.graph.input]
    assert inputs == ["image"], f"the graph's inputs are {inputs}"
    foreign = {f"{node.domain}:{node.op_type}" for node in nodes if node.domain}
    assert not foreign, f"operators that are not ONNX's own: {sorted(foreign)}"
    multiplied = {name for node in nodes if node.op_type == "MatMul" for name in node.input}
    transposes += 3 * sum(node.op_type == "Softmax" and node.output[0] in multiplied for node in nodes)
    count = sum(node.op_type == "Transpose" for node in nodes)
    assert count <= transposes, f"the graph has {count} Transpose nodes; at most {transposes} are allowed"

    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    readers = defaultdict(list)
    for node in nodes:
        for name in node.input:
            readers[name].append(node)
    for node in nodes:
        if node.op_type != "Conv" or len(readers[node.output[0]]) != 1:
            continue
        (reader,) = readers[node.output[0]]
        scales = reader.op_type in ("Mul", "Add") and any(
            math.prod(constants.get(name, ())) == constants[node.input[1]][0] > 1 for name in reader.input
        )
        assert not scales and reader.op_type != "BatchNormalization", f"not folded into its convolution: {reader.name}"


def synthetic_pixels(count: int, size: tuple[int, int], channels: int, seed: int = 0) -> np.ndarray:
    """Draw random pictures that differ from one another in color, coarse pattern and noise.

    Args:
        count: The number of pictures.
        size: (height, width) in pixels.
        channels: 1 or 3.
        seed: The same seed gives the same pictures.

    Returns:
        A uint8 array (count, height, width, channels) in 0..255.
    """
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, channels)).astype(float)
    rows, columns = (np.arange(side) * 4 // side for side in size)
    pictures = coarse[:, rows][:, :, columns] * rng.uniform(0.2, 1, (count, 1, 1, 1))
    noise = rng.normal(0, 20, (count, *size, channels))
    return (pictures + noise).clip(0, 255).astype(np.uint8)


def randomize(model: keras.Model, seed: int = 0, pictures: int = 32, batch_size: int = 32) -> None:
    """Set a network's biases, scales and BatchNorm statistics to values like those of a trained network.

    A comparison of two networks within a tolerance needs such values. With Keras's initial values, many deep networks
    output about 1e-17 everywhere, so that every comparison passes. ConvNeXt multiplies the output of each block by
    1e-6, so that a wrong block would not be noticed.

    This function draws biases, scales and shifts at random. It then measures the BatchNorm statistics on synthetic
    pictures, so that signals neither vanish nor explode, and changes the statistics a little at random.

    Args:
        model: The network; it is changed in place.
        seed: The seed of the random values and of the pictures.
        pictures: The number of synthetic pictures.
        batch_size: The number of pictures per batch; smaller batches need less memory.
    """
    keras = backend.start()
    rng = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        value = np.asarray(weight)
        # A weight whose values are all equal was not drawn at random: zeros are biases or shifts, others are scales.
        if value.size > 1 and not np.ptp(value):
            weight.assign(rng.uniform(0.2, 1, value.shape) if value.any() else rng.normal(0, 0.1, value.shape))
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if not layers:
        return
    kept = [(layer.momentum, layer.trainable) for layer in layers]
    for layer in layers:
        layer.trainable = True
        if layer.gamma is not None:
            # Training makes the scales before an Add small. If the branch outweighs the shortcut, rounding errors grow
            # with depth, and two machines differ by as much as a wrong network would.
            layer.gamma.assign(rng.uniform(0.3, 1, layer.gamma.shape) * (0.3 if _is_added(layer) else 1))
        if layer.beta is not None:
            layer.beta.assign(rng.uniform(-0.4, 0.4, layer.beta.shape))
    _, height, width, channels = model.input.shape
    pixels = synthetic_pixels(pictures, (height, width), channels, seed).astype("float32")
    for index in range(math.ceil(pictures / batch_size)):
        for layer in layers:
            # With this momentum the statistics become the mean over the batches.
            layer.momentum = index / (index + 1)
        model(pixels[index * batch_size : (index + 1) * batch_size], training=True)
    for layer, (momentum, trainable) in zip(layers, kept, strict=True):
        layer.momentum, layer.trainable = momentum, trainable
        deviation = np.sqrt(np.asarray(layer.moving_variance) + layer.epsilon)
        layer.moving_mean.assign_add(0.1 * deviation * rng.uniform(-1, 1, deviation.shape))
        # A channel that hardly varies over these few pictures would be amplified on other pictures, and its rounding
        # errors too.
        floor = np.median(deviation) / 3
        layer.moving_variance.assign(np.maximum(deviation, floor) ** 2 * rng.uniform(0.8, 1.25, deviation.shape))


def _is_added(layer: keras.Layer) -> bool:
    """Return whether a layer's output goes into an Add layer, directly or through Dropout layers."""
    for node in layer._outbound_nodes:
        kind = type(node.operation).__name__
        if kind == "Add" or (kind == "Dropout" and _is_added(node.operation)):
            return True
    return False


def check_augmentation(augmentation: Augmentation, channels: int = 3) -> None:
    """Check that a policy keeps the shapes, dtypes and ranges of its arrays, and that equal seeds give equal pictures.

    Args:
        augmentation: The policy; it is checked with its default parameters.
        channels: The number of channels of the pictures, 1 or 3.

    Raises:
        AssertionError: The policy does not meet a requirement of `zoo.plugin.Augmentation`.
    """
    backend.start()
    policy = augmentation.build(**augmentation.parameters)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 24, 32, channels)).astype("float32")
    labels = np.eye(3, dtype="float32")[[0, 1, 2, 0, 1, 2]]
    seeds = np.arange(6, dtype=np.uint64)
    out, marks = (np.asarray(array) for array in policy(images.copy(), labels.copy(), seeds))
    assert out.shape == images.shape and out.dtype == np.float32, f"pictures became {out.dtype} {out.shape}"
    assert marks.shape == labels.shape and marks.dtype == np.float32, f"labels became {marks.dtype} {marks.shape}"
    assert out.min() >= 0 and out.max() <= 255, f"pixels left 0..255: {out.min()} to {out.max()}"
    assert marks.min() >= 0 and marks.max() <= 1, f"labels left 0..1: {marks.min()} to {marks.max()}"
    assert np.allclose(marks.sum(axis=1), 1, atol=1e-5), "rows of labels no longer sum to 1"
    # Multi-label data: the pictures belong to all classes, to two, to one and to none.
    several = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 1]], "float32")
    _, marks = (np.asarray(array) for array in policy(images.copy(), several.copy(), seeds))
    assert marks.shape == several.shape and marks.dtype == np.float32, f"labels became {marks.dtype} {marks.shape}"
    assert marks.min() >= 0 and marks.max() <= 1, f"multi-hot labels left 0..1: {marks.min()} to {marks.max()}"
    alone, mark = (np.asarray(array) for array in policy(images[:1].copy(), labels[:1].copy(), seeds[:1]))
    assert alone.shape == images[:1].shape and mark.shape == labels[:1].shape, (
        "a batch of one picture got another shape"
    )
    # A policy may ignore its seeds. One that mirrors every picture is an example.
    again, _ = policy(images.copy(), labels.copy(), seeds)
    assert np.array_equal(out, np.asarray(again)), "the same seeds gave other pictures"


def check_schedule(schedule: Schedule, architecture: Architecture) -> None:
    """Check that the phases of a schedule fit an architecture.

    The check builds the network at its smallest size, and selects the layers that each phase would train.

    Args:
        schedule: The schedule.
        architecture: The architecture.

    Raises:
        AssertionError: A phase names stages or layers that do not exist, or the last phase trains a network with fewer
            stages than the architecture has.
        InvalidPluginData: The schedule gives no phases for the architecture, or the network cannot be built.
    """
    from zoo.errors import UsageError
    from zoo.train import schedule as schedule_tools

    try:
        # `show` builds the network and selects, for every phase, the layers that it would train.
        schedule_tools.show(schedule, architecture, size=(architecture.min_size,) * 2, classes=3)
    except UsageError as error:
        raise AssertionError(f"{schedule.name}: {error}") from error


def check_logger(logger: Logger) -> None:
    """Check that a logger takes all that a run hands to it, and leaves alone what decides the result of a run.

    The check logs a run of three epochs that is interrupted, and resumes it. The run folder is a temporary one. A
    logger that needs a server gets one from the environment, as in a real run.

    Args:
        logger: The logger. The modules that it needs must be installed.

    Raises:
        AssertionError: The logger changes the random state of numpy or Python, or files of the run folder; it prints to
            stdout, or its hint is not a single line; or a thread of it runs on, for which Python would wait at its end.
        Exception: The logger itself has failed.
    """
    missing = logger.missing()
    assert not missing, f"{', '.join(missing)} must be installed: {logger.install}"
    parameters: dict[str, str | int | float | bool] = {"architecture": "x", "epochs": 3, "dropout": 0.2, "flip": True}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "runs", "20260131T120000Z-x-abc123")
        folder.mkdir(parents=True)
        files = {folder / name: name.encode() * 9 for name in ("run.json", "model.onnx", "report.html")}
        for path, content in files.items():
            path.write_bytes(content)
        printed, before = io.StringIO(), (random.getstate(), repr(np.random.get_state()))
        threads = set(threading.enumerate())
        with contextlib.redirect_stdout(printed):
            for resumed, epochs in ((False, 2), (True, 3)):
                run = LoggedRun(id=folder.name, folder=folder, parameters=dict(parameters), resumed=resumed)
                _log_run(logger.open(run), epochs, list(files) if resumed else [])
        assert not printed.getvalue(), f"the logger prints to stdout: {printed.getvalue()!r}"
        same = before == (random.getstate(), repr(np.random.get_state()))
        assert same, "the logger changes the random state of Python or numpy"
        changed = [path.name for path, content in files.items() if not path.is_file() or path.read_bytes() != content]
        assert not changed, f"the logger changes files of the run: {', '.join(changed)}"
        _check_threads(threads)


def _check_threads(before: set[threading.Thread]) -> None:
    """Check that no thread is left for which Python waits at its end."""
    end = time.monotonic() + PATIENCE
    left = []
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon:
            thread.join(max(0.0, end - time.monotonic()))
            left += [thread.name] if thread.is_alive() else []
    assert not left, (
        f"the logger leaves threads behind that still run {PATIENCE:.0f} seconds after its logs have ended: "
        f"{', '.join(sorted(left))}. End them in `RunLog.end`; a daemon thread loses what it has not stored."
    )


def _log_run(log: RunLog, epochs: int, files: list[Path]) -> None:
    """Hand epochs to a log and, if there are files, also figures and the files."""
    assert isinstance(log, RunLog), f"open must return a zoo.plugin.RunLog. Received: {log!r}"
    hint = log.hint()
    assert isinstance(hint, str) and "\n" not in hint, f"the hint must be one line of text. Received: {hint!r}"
    for epoch in range(1, epochs + 1):
        held_out = None if epoch == 1 else 1 / epoch
        rest = {"learning_rate": 1e-3, "loss": 1 / epoch, "accuracy": 0.5, "seconds": 0.1}
        log.epoch(EpochFigures(phase="all", epoch=epoch, val_loss=held_out, val_accuracy=held_out, **rest))
    if files:
        log.figures({"test/accuracy": 0.9, "file/bytes": 1e6})
    for path in files:
        log.artifact(path)
    log.end("finished" if files else "interrupted", "")
