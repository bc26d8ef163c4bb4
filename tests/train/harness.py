"""Helpers for the tests of training: pictures, a reporter, networks, feature caches, and a function that trains."""

from __future__ import annotations

import numpy as np

from zoo import backend
from zoo.plugin import Head, Phase, normalize, registry
from zoo.reporter import Reporter
from zoo.testing import randomize
from zoo.train import engine, freeze
from zoo.train.batches import PhaseInputs, plain
from zoo.train.frozen.cut import find_cut
from zoo.train.frozen.features import FeatureCache, FeatureCacheConfig
from zoo.train.inputs import TrainingData
from zoo.train.network import Network, assemble, build_backbone

SIZE = (32, 32)


class Listener(Reporter):
    """A reporter that stores messages and warnings in its list `said`.

    Args:
        on_say: Called with the text of every message and warning; None calls nothing.
    """

    def __init__(self, on_say=None):
        super().__init__()
        self.said, self._on_say = [], on_say

    def say(self, text):
        self.said.append(text)
        if self._on_say is not None:
            self._on_say(text)

    warn = say


def brightness_pictures(size, channels=3, count=40, *, task="multiclass", noise=100, step=150):
    """Make pictures of two classes that differ in brightness. The last quarter is for validation.

    Args:
        size: (height, width) in pixels.
        channels: 1 or 3.
        count: The number of pictures.
        task: See `zoo.train.inputs.TrainingData`.
        noise: Pixels of the dark class are random, from 0 to below this level.
        step: This level is added to the pixels of the bright class.

    Returns:
        The pictures as `TrainingData`.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    noise = rng.integers(0, noise, (count, *size, channels))
    array = (noise + step * labels[:, None, None, None]).astype(np.uint8)
    first = count * 3 // 4
    targets = np.eye(2, dtype="float32")[labels]
    return TrainingData(array, targets, np.arange(first), np.arange(first, count), task)


def build_network(architecture, size, *, seed=0, head: Head | None = None, task="multiclass", random_norms=True):
    """Build a network for two classes with random weights.

    Args:
        architecture: The architecture.
        size: (height, width) in pixels.
        seed: The same seed gives the same weights.
        head: The head; None means the architecture's own.
        task: See `zoo.train.inputs.TrainingData`.
        random_norms: Whether biases, and BatchNorm scales and statistics, are random too.
    """
    backend.start().utils.set_random_seed(seed)
    backbone = build_backbone(architecture, size)
    if random_norms:
        randomize(backbone)
    return assemble(backbone, architecture, head or architecture.head, 2, task=task)


def train(network: Network, phases, data, reporter=None, points=None, **config):
    """Train a network with `zoo.train.engine.train`, in batches of 10 by default.

    Args:
        network: The network.
        phases: The phases in order.
        data: The pictures.
        reporter: Receives messages; None discards them.
        points: The safe points of the training; None keeps none.
        config: Fields of `zoo.train.engine.TrainConfig`.
    """
    config = engine.TrainConfig(**{"batch_size": 10, **config})
    return engine.train(network, phases, data, config, reporter or Listener(), points)


def losses_of(result):
    """Return the training loss and the validation loss of every epoch, in one list."""
    return [row[key] for row in result.history for key in ("loss", "val_loss")]


def network_in_phase(name, train, *, size=(64, 64), head=None):
    """Build a network, and set its layers for a phase.

    Args:
        name: The name of the architecture.
        train: The layers that the phase trains, see `zoo.plugin.Phase`.
        size: (height, width) in pixels.
        head: The head; None means the architecture's own.
    """
    network = build_network(registry.load().architecture(name), size, head=head)
    phase = Phase(name="x", train=train, epochs=1, learning_rate=1e-3)
    freeze.set_trainable(network, phase, freeze.layer_defaults(network.model))
    return network


def feature_cache(folder, data, reporter=None, **config):
    """Open a feature cache that is used even if it saves little time.

    Args:
        folder: The folder of the cache.
        data: The pictures.
        reporter: Receives messages; None discards them.
        config: Fields of `zoo.train.frozen.features.FeatureCacheConfig`.
    """
    config = FeatureCacheConfig(folder, **{"pictures": "these", "always": True, **config})
    return FeatureCache(config, data.array, data.targets, reporter or Listener())


def phase_inputs(network, data, cache, *, views=None, online=False, later=()):
    """Return the inputs that a feature cache makes for a phase; see `zoo.train.frozen.features.FeatureCache.inputs`.

    Args:
        network: The network, with its layers set for the phase.
        data: The pictures.
        cache: The feature cache.
        views: Augmented copies of the training pictures that are computed ahead, or None.
        online: Whether the training pictures count as augmented again in every epoch.
        later: The cuts of later phases.
    """
    unaltered, model = plain(data.array, data.targets), network.logits_model
    without = PhaseInputs(model, unaltered, unaltered)
    return cache.inputs(
        model, find_cut(model), later, without, train=data.train, val=data.val, views=views, online=online
    )


def with_layer(layer):
    """Return a small model that contains a given layer. All layers except the last, `logits`, are frozen.

    Args:
        layer: A layer that accepts a tensor (batch, 36, 4).
    """
    keras = backend.start()
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(pixels)
    x = layer(keras.layers.Reshape((36, 4))(x))
    model = keras.Model(pixels, keras.layers.Dense(2, name="logits")(keras.layers.Flatten()(x)))
    for frozen in model.layers[:-1]:
        frozen.trainable = False
    return model


def build_tiny(shape):
    import keras

    x = pixels = keras.Input(shape)
    x = normalize(x, "tf")
    for i in (1, 2, 3):
        x = keras.layers.Conv2D(8, 3, strides=2, use_bias=False, name=f"conv{i}")(x)
        x = keras.layers.BatchNormalization(momentum=0.99, name=f"bn{i}")(x)
        x = keras.layers.ReLU(name=f"relu{i}")(x)
    return keras.Model(pixels, x)


def run(architecture, pictures, *schedule, augment=None, seed=0, batch_size=12, load=lambda model: None, **config):
    """Train; return the model, its weights before and after, the paths of the changed ones, and the result."""
    network = build_network(architecture, SIZE, seed=seed)
    model = network.model
    load(model)
    before = {weight.path: weight.numpy().copy() for weight in model.weights}
    outcome = train(network, schedule, pictures, batch_size=batch_size, seed=seed, augment=augment, **config)
    after = {weight.path: weight.numpy() for weight in model.weights}
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    return model, before, after, changed, outcome


def layers_of(paths):
    return {path.rsplit("/", 1)[0] for path in paths}


def labels_of(pictures):
    return pictures.targets.argmax(axis=1)
