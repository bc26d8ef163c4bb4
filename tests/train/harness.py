"""What the tests of training share: pictures that a network can learn, a listener, networks, and one call to train."""

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
    """Keeps messages and warnings.

    Args:
        on_say: Called with every message, or None.
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
    """Return pictures of two classes that differ in brightness; the last quarter validates.

    Args:
        size: (height, width) in pixels.
        channels: 1 or 3.
        count: The number of pictures.
        task: The task.
        noise: Pixels are random below this level.
        step: The bright class is brighter by this.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    noise = rng.integers(0, noise, (count, *size, channels))
    array = (noise + step * labels[:, None, None, None]).astype(np.uint8)
    first = count * 3 // 4
    targets = np.eye(2, dtype="float32")[labels]
    return TrainingData(array, targets, np.arange(first), np.arange(first, count), task)


def build_network(architecture, size, *, seed=0, head: Head | None = None, task="multiclass", random_norms=True):
    """Build a network for two classes, by a seed; `random_norms` also randomizes biases, scales and statistics."""
    backend.start().utils.set_random_seed(seed)
    backbone = build_backbone(architecture, size)
    if random_norms:
        randomize(backbone)
    return assemble(backbone, architecture, head or architecture.head, 2, task=task)


def train(network: Network, phases, data, reporter=None, **config):
    """Train a network in batches of 10 unless `config` says otherwise; its keys are the fields of TrainConfig."""
    config = engine.TrainConfig(**{"batch_size": 10, **config})
    return engine.train(network, phases, data, config, reporter or Listener())


def losses_of(result):
    """Return the training and validation losses of all epochs."""
    return [row[key] for row in result.history for key in ("loss", "val_loss")]


def network_in_phase(name, train, *, size=(64, 64), head=None):
    """Build a network whose layers are set for a phase that trains `train`."""
    network = build_network(registry.load().architecture(name), size, head=head)
    phase = Phase(name="x", train=train, epochs=1, learning_rate=1e-3)
    freeze.set_trainable(network, phase, freeze.layer_defaults(network.model))
    return network


def feature_cache(folder, data, reporter=None, **config):
    """Open a feature cache that is always used."""
    config = FeatureCacheConfig(folder, **{"pictures": "these", "always": True, **config})
    return FeatureCache(config, data.array, data.targets, reporter or Listener())


def phase_inputs(network, data, cache, *, views=None, online=False, later=()):
    """Return what a feature cache makes for a phase."""
    unaltered, model = plain(data.array, data.targets), network.logits_model
    without = PhaseInputs(model, unaltered, unaltered)
    return cache.inputs(
        model, find_cut(model), later, without, train=data.train, val=data.val, views=views, online=online
    )


def with_layer(layer):
    """Return a model from pixels over frozen layers, one of them given, to a trainable layer."""
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
