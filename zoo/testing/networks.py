"""The checks of architectures. The docstring of each check is the advice that its author reads beside a failure.

`TestedNetwork` builds a network once for all checks. A check that cannot run, because another one fails, raises
`Blocked` and names that other check.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend
from zoo.errors import InvalidPluginData
from zoo.plugin import Architecture, Phase, Stage
from zoo.testing.graphs import check_graph
from zoo.testing.offline import no_network
from zoo.testing.outcomes import Blocked, Skipped
from zoo.testing.tools import randomize, synthetic_pixels

if TYPE_CHECKING:
    import keras

    from zoo.train.network import Network

PREPROCESSING = ("Rescaling", "Normalization")
"""The classes of layers that only normalize pixels. `Architecture.parameters` does not count them."""
CLASSES = 5
# The greatest difference between a picture's features in two batches, relative to the greatest feature.
BATCH_TOLERANCE = 1e-4
# Pixels are in range if they are small, or if their mean is near 0, as those of Caffe's networks.
LARGEST_SCALED, LARGEST_MEAN, SMALLEST_DEVIATION = 16.0, 48.0, 0.02


class TestedNetwork:
    """An architecture and the networks that its checks need. They are built when a check first asks for them.

    Args:
        architecture: The architecture.
        size: The (height, width) in pixels at which the network is built. None means the smallest height that it
            accepts, and a width that is 16 pixels greater.
        transposes: The greatest number of Transpose nodes that the converted graph may have.
    """

    __test__ = False  # pytest would collect the class by its name.

    def __init__(self, architecture: Architecture, size: tuple[int, int] | None = None, transposes: int = 4) -> None:
        self.architecture, self.transposes = architecture, transposes
        least = architecture.min_size
        self.size = size or (least, least + 16)
        self.pixels = synthetic_pixels(8, self.size, architecture.channels, seed=1)

    def built(self, size: tuple[int, int]) -> keras.Model:
        """Build the backbone with random weights, without looking at its stages, which have a check of their own.

        Raises:
            InvalidPluginData: The model breaks the contract of `zoo.plugin.Architecture`, or cannot be built.
            AssertionError: The function that builds the model uses the network.
        """
        from zoo.train.network import build_backbone

        anything = dataclasses.replace(self.architecture, stages=(Stage("all", ("*",)),))
        with no_network(f"{self.architecture.name}: build"):
            return build_backbone(anything, size)

    @functools.cached_property
    def _first(self) -> keras.Model | Exception:
        keras = backend.start()
        keras.utils.set_random_seed(0)
        try:
            return self.built(self.size)
        except Exception as error:
            return error

    def first_build(self) -> keras.Model:
        """Return the backbone as it was built. Its weights are random, or those of `backbone`.

        Raises:
            Exception: The backbone cannot be built.
        """
        if isinstance(self._first, Exception):
            raise self._first
        return self._first

    @functools.cached_property
    def backbone(self) -> keras.Model:
        """The backbone, with values like those of a trained network.

        Raises:
            Blocked: The backbone cannot be built.
        """
        if isinstance(self._first, Exception):
            raise Blocked("build")
        randomize(self._first)
        return self._first

    @functools.cached_property
    def staged(self) -> Architecture | None:
        """The architecture, or None if its stages do not fit its layers."""
        from zoo.train.network import check_stages

        try:
            check_stages(self.architecture, self.backbone)
        except InvalidPluginData:
            return None
        return self.architecture

    @functools.cached_property
    def network(self) -> Network:
        """The backbone with a head for five classes."""
        from zoo.train.network import assemble

        head = self.architecture.head
        # Only a head that pools several stages needs stages.
        architecture = self.staged or dataclasses.replace(self.architecture, stages=(Stage("all", ("*",)),))
        head = head if self.staged else dataclasses.replace(head, stages=1)
        return assemble(self.backbone, architecture, head, CLASSES)

    def answers(self, model: keras.Model, pixels: np.ndarray) -> np.ndarray:
        """Return the outputs of a model for pixels, as a device gets them."""
        return np.asarray(model(pixels.astype("float32"), training=False))

    @functools.cached_property
    def steps(self) -> dict[str, Step]:
        """What one training step changes, for phases that train the head, the last stage and everything.

        Raises:
            Blocked: The stages do not fit the layers, so that a phase does not know what to train.
        """
        network = self.network
        if self.staged is None:
            raise Blocked("stages")
        return {train: take_step(network, train, self.pixels[:4]) for train in ("head", "last:1", "all")}


@dataclasses.dataclass(frozen=True)
class Step:
    """What one training step has changed.

    Args:
        allowed: The names of the layers that the phase trains.
        changed: The names of the layers of which a weight has changed. Statistics of BatchNorm layers do not count.
        statistics: The names of the frozen BatchNorm layers of which any value has changed.
        norms: The number of frozen BatchNorm layers.
    """

    allowed: frozenset[str]
    changed: frozenset[str]
    statistics: frozenset[str]
    norms: int


@contextmanager
def _kept(model: keras.Model) -> Iterator[None]:
    """Restore all weights of a model, and what trains, at the end."""
    values = [np.asarray(weight).copy() for weight in model.weights]
    try:
        yield
    finally:
        for layer in model.layers:
            layer.trainable = True
        for weight, value in zip(model.weights, values, strict=True):
            weight.assign(value)


def take_step(network: Network, train: str, pixels: np.ndarray) -> Step:
    """Train a network for one step, with frozen BatchNorm, and return what has changed. The weights are restored.

    Args:
        network: The network.
        train: What trains besides the head; see `zoo.plugin.Phase`.
        pixels: Pictures, a uint8 array (N, H, W, C) in 0..255.
    """
    from zoo.train import freeze

    keras = backend.start()
    model = network.model
    defaults = freeze.layer_defaults(model)
    with _kept(model):
        phase = Phase(name="step", train=train, epochs=1, learning_rate=1e-3)
        allowed = freeze.set_trainable(network, phase, defaults).layers
        before = {layer.name: [np.asarray(weight).copy() for weight in layer.weights] for layer in model.layers}
        # Adam without its small constant moves every weight that has a gradient, however small the gradient is.
        optimizer = keras.optimizers.Adam(1e-3, epsilon=1e-20)
        network.logits_model.compile(
            optimizer, keras.losses.CategoricalCrossentropy(from_logits=True), run_eagerly=True, jit_compile=False
        )
        labels = np.eye(CLASSES, dtype="float32")[np.arange(len(pixels)) % CLASSES]
        with warnings.catch_warnings():
            # Keras warns about layers without a gradient. The check names them.
            warnings.simplefilter("ignore")
            network.logits_model.train_on_batch(pixels.astype("float32"), labels)
        norms = [each.name for each in model.layers if isinstance(each, keras.layers.BatchNormalization)]
        moved = {name for name, values in before.items() if _differs(model.get_layer(name), values)}
        frozen = [name for name in norms if name not in allowed]
        freeze.restore_dropout(model, defaults)
    statistics = moved & set(frozen)
    return Step(frozenset(allowed), frozenset(moved - statistics), frozenset(statistics), len(frozen))


def _differs(layer: Any, values: list[np.ndarray]) -> bool:
    return any(not np.array_equal(np.asarray(now), old) for now, old in zip(layer.weights, values, strict=True))


def check_build(network: TestedNetwork) -> None:
    """The network is built without the internet, as a flat model with one input and one output.

    `build(input_shape)` returns a functional `keras.Model` of plain layers, without models inside. Its input is
    (height, width, channels), its output a feature map (batch, h, w, features). Download nothing in `build`: pass
    `weights=None` to functions of keras.applications, and describe published files with `Weights`.
    """
    model = network.first_build()
    assert None not in model.output.shape[1:], f"the feature map has no fixed shape: {model.output.shape}"


def check_parameters(network: TestedNetwork) -> None:
    """`parameters` is the number of weights of the backbone.

    Count neither the head nor layers that only normalize pixels. `zoo list` prints the number. Copy the true number
    from the message.
    """
    layers = network.backbone.layers
    parameters = sum(layer.count_params() for layer in layers if layer.__class__.__name__ not in PREPROCESSING)
    promised = network.architecture.parameters
    assert parameters == promised, f"the backbone has {parameters:,} parameters, {promised:,} promised"


def check_layer_names(network: TestedNetwork) -> None:
    """Every build gives the layers the same names.

    Stages, saved files and weights find layers by name. Pass a fixed `name=` to each layer, and keep counters, random
    numbers and the date out of names.
    """
    names = [layer.name for layer in network.backbone.layers]
    again = [layer.name for layer in network.built(network.size).layers]
    assert names == again, f"a second build has other layer names: {sorted(set(again) - set(names))[:5]}"


def check_stages(network: TestedNetwork) -> None:
    """Every layer with weights is in exactly one stage.

    Schedules freeze and unfreeze whole stages. List the stages from the stem to the top. A pattern such as "block5_*"
    takes all layers whose names begin so. A name that no layer has is a mistake too.
    """
    from zoo.train import network as networks

    networks.check_stages(network.architecture, network.backbone)
    places = {layer.name: place for place, layer in enumerate(network.backbone.layers)}
    begins = [
        (min(places[name] for name in names), stage.name)
        for stage in network.architecture.stages
        if (names := _weighted(stage, network.backbone))
    ]
    for (before, below), (after, above) in itertools.pairwise(begins):
        assert before < after, (
            f"stage {above!r} is listed after {below!r}, but the picture passes it first: list stages from the stem to "
            "the top"
        )


def _weighted(stage: Stage, model: keras.Model) -> list[str]:
    """Return the names of the layers of a stage that have weights and do more than normalize pixels."""
    from fnmatch import fnmatchcase

    return [
        layer.name
        for layer in model.layers
        if layer.weights
        and layer.__class__.__name__ not in PREPROCESSING
        and any(fnmatchcase(layer.name, pattern) for pattern in stage.layers)
    ]


def check_input(network: TestedNetwork) -> None:
    """The network takes pictures of two sizes, one at a time or three, and looks at each picture on its own.

    `build` must work for every size from `min_size` on, with the same number of weights. The feature map must be
    finite, depend on the picture, and be the same whatever else is in the batch. Compute all shapes from
    `input_shape`, and never average over the batch axis.
    """
    model, pixels = network.backbone, network.pixels
    three, one = network.answers(model, pixels[:3]), network.answers(model, pixels[:1])
    for rows, count in ((three, 3), (one, 1)):
        expected = (count, *model.output.shape[1:])
        assert rows.shape == expected and rows.dtype == np.float32, (
            f"{count} pictures give a feature map {rows.dtype} {rows.shape}, not float32 {expected}"
        )
        assert np.isfinite(rows).all(), "the feature map is not finite on pixels in 0..255"
    assert np.abs(np.diff(three, axis=0)).max() > 0, "the feature map does not depend on the picture"
    apart = np.abs(three[:1] - one).max() / max(np.abs(three).max(), 1e-12)
    assert apart <= BATCH_TOLERANCE, f"a picture has other features alone than in a batch of three, by {apart:.1%}"
    sums = three.sum(axis=-1)
    assert three.shape[-1] < 2 or three.min() < 0 or np.abs(sums - 1).max() > 1e-3, (
        "the features sum to 1 everywhere: the network ends with the softmax of a head, and zoo adds a head of its own"
    )
    larger = (network.size[0] + 32, network.size[1] + 64)
    other = network.built(larger)
    assert other.output.shape[-1] == model.output.shape[-1], (
        f"the feature map ends with {model.output.shape[-1]} entries at {network.size[0]}x{network.size[1]}, "
        f"and {other.output.shape[-1]} at {larger[0]}x{larger[1]}: features come last, after height and width"
    )
    assert other.count_params() == model.count_params(), (
        f"the network has {other.count_params():,} weights at {larger[0]}x{larger[1]}, "
        f"and {model.count_params():,} at {network.size[0]}x{network.size[1]}"
    )
    rows = network.answers(other, synthetic_pixels(1, larger, network.architecture.channels))
    assert np.isfinite(rows).all(), f"the feature map is not finite at {larger[0]}x{larger[1]} pixels"


def check_normalization(network: TestedNetwork) -> None:
    """The graph itself normalizes the pixels, which are in 0..255.

    A device hands raw pixels to the exported file and knows nothing else. Begin `build` with
    `x = normalize(pixels, "tf")`, or the mode that the weights were trained with. Check that nothing scales twice.
    """
    keras = backend.start()
    model = network.backbone
    weighted = [layer for layer in model.layers if layer.weights and layer.__class__.__name__ not in PREPROCESSING]
    first = weighted[0] if weighted else None
    if isinstance(first, (keras.layers.BatchNormalization, keras.layers.LayerNormalization)):
        return
    reads = first._inbound_nodes[0].input_tensors[0] if first is not None else model.output
    pixels = np.random.default_rng(0).integers(0, 256, network.pixels[:4].shape).astype("uint8")
    values = pixels.astype("float32")
    if reads is not model.input:
        values = network.answers(keras.Model(model.input, reads), pixels)
    where = f"the first layer with weights, {first.name!r}," if first is not None else "the head"
    # Channels may have different means, which would hide that the values of each hardly vary.
    deviation = float(values.std(axis=tuple(range(values.ndim - 1))).max())
    largest, mean = float(np.abs(values).max()), float(np.abs(values.mean()))
    assert largest <= LARGEST_SCALED or mean <= LARGEST_MEAN, (
        f"{where} reads values up to {largest:.0f} with a mean of {mean:.0f}: the pixels are not normalized"
    )
    assert deviation >= SMALLEST_DEVIATION, (
        f"{where} reads values that hardly vary (standard deviation {deviation:.2g}): perhaps pixels are scaled twice"
    )


def check_frozen_batch_norm(network: TestedNetwork) -> None:
    """Frozen BatchNorm layers stay equal, bit for bit, when the rest trains.

    A phase with `batch_norm="frozen"` keeps statistics, scale and shift. Use `keras.layers.BatchNormalization` as it
    is, and let zoo set `trainable`. A layer that updates its statistics anyway spoils pretrained weights.
    """
    steps = network.steps
    if not any(step.norms for step in steps.values()):
        raise Skipped("the network has no BatchNormalization layer")
    for train, step in steps.items():
        assert not step.statistics, (
            f"a step that trains {train!r} changes frozen BatchNorm layers: {_listed(step.statistics)}"
        )


def check_trainable_layers(network: TestedNetwork) -> None:
    """One training step changes exactly the layers that the phase trains.

    The check trains the head, then the last stage, then everything. A layer that does not move gets no gradient, for
    example behind `stop_gradient`. A layer that moves although it is frozen shares a weight, or changes it in `call`.
    """
    for train, step in network.steps.items():
        still, astray = step.allowed - step.changed, step.changed - step.allowed
        assert not still, f"a step that trains {train!r} leaves layers as they were: {_listed(still)}"
        assert not astray, f"a step that trains {train!r} changes layers that are frozen: {_listed(astray)}"


def check_save_load(network: TestedNetwork) -> None:
    """A saved network can be loaded without the plugin, and computes the same, bit for bit.

    Use only Keras's own layers and operations. A class, a lambda or a registered function of yours would be missing
    where the plugin is not installed.
    """
    keras = backend.start()
    model = network.network.model
    own = [f"{layer.name} ({type(layer).__module__})" for layer in model.layers if not _is_keras(type(layer))]
    assert not own, f"layers that are not Keras's own: {_listed(own)}"
    with tempfile.TemporaryDirectory(prefix="zoo-testing-") as folder:
        path = Path(folder, "model.keras")
        model.save(path)
        loaded = keras.models.load_model(path, compile=False)
    same = np.array_equal(network.answers(model, network.pixels), network.answers(loaded, network.pixels))
    assert same, "a saved and loaded network gives other values"


def _is_keras(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "keras"


def check_onnx_parity(network: TestedNetwork) -> None:
    """The exported file computes what the network computes, in `zoo_runtime` too.

    Use operations that have an ONNX counterpart. A graph with an operator that is not ONNX's own, or with many
    Transpose nodes, does not run on devices, or runs slowly there.
    """
    from zoo.convert.keras_to_onnx import convert
    from zoo.export import artifact, parity
    from zoo_runtime import ImageSpec, ModelInfo, Predictor

    architecture, model, pixels = network.architecture, network.network.model, network.pixels
    graph = convert(model)
    check_graph(graph, network.transposes)
    parity.check(model, graph, pixels)
    spec = ImageSpec(size=network.size, channels=architecture.channels)
    described = {"name": architecture.name}
    info = ModelInfo(classes=tuple("abcde"), task="multiclass", image=spec, architecture=described)
    predictor = Predictor(artifact.serialize(graph, info))
    for picture in pixels:
        expected = network.answers(model, picture[None])[0]
        result = predictor(picture if architecture.channels == 3 else picture[..., 0])
        apart = np.abs(np.array(list(result.probabilities.values())) - expected).max()
        assert apart <= 1e-4, f"the probabilities of zoo_runtime differ from Keras's by {apart:.2g}"


def _listed(names: Any, most: int = 5) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


ARCHITECTURE_CHECKS = (
    check_build,
    check_parameters,
    check_layer_names,
    check_stages,
    check_input,
    check_normalization,
    check_frozen_batch_norm,
    check_trainable_layers,
    check_save_load,
    check_onnx_parity,
)


def check_architecture(architecture: Architecture, size: tuple[int, int] | None = None, *, transposes: int = 4) -> None:
    """Check that an architecture meets the requirements of `zoo.plugin.Architecture`.

    The check runs all checks of architectures, and stops at the first that fails. It uses random weights and synthetic
    pictures.

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
    network = TestedNetwork(architecture, size or (architecture.min_size,) * 2, transposes)
    for check in ARCHITECTURE_CHECKS:
        try:
            check(network)
        except Skipped:
            continue
