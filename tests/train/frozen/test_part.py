"""The frozen part: when it may run ahead."""

from __future__ import annotations

import types

import numpy as np
from harness import brightness_pictures, feature_cache, network_in_phase, phase_inputs, with_layer

from zoo import backend
from zoo.train.batches import PhaseInputs, plain
from zoo.train.frozen.cut import find_cut
from zoo.train.frozen.part import FrozenPart


def test_what_differs_in_training_and_tells_nobody_is_trained_in_one_piece(tmp_path):
    keras = backend.start()

    class Secret(keras.layers.Layer):
        def call(self, x, training=False):
            return x * 2 if training else x

    data = brightness_pictures((8, 8))
    model = with_layer(Secret())
    cut = find_cut(model)
    unchanged = PhaseInputs(model, plain(data.array, data.targets), plain(data.array, data.targets))
    options = {"train": data.train, "val": data.val, "views": None, "online": False}
    made = feature_cache(tmp_path, data)
    assert made.inputs(model, cut, [], unchanged, **options) is unchanged
    assert made.stats.computed == 0
    assert not FrozenPart(model, cut.tensors, data.array[:4].astype("float32")).sound


def test_the_frozen_part_runs_on_onnxruntime_and_falls_back_to_keras():
    """The outputs of both are the same, and a failure of onnxruntime costs speed only."""
    data, network = brightness_pictures((64, 64), 1), network_in_phase("mnist_convnet", "last:1")
    pixels = data.array[:4].astype("float32")
    part = FrozenPart(network.logits_model, find_cut(network.logits_model).tensors, pixels)
    assert (part.engine, part.note, part.sound) == ("onnxruntime", "", True)
    (fast,) = part(pixels)

    def fail(*arguments):
        raise RuntimeError("no memory")

    part._session = types.SimpleNamespace(get_inputs=lambda: [types.SimpleNamespace(name="image")], run=fail)
    (slow,) = part(pixels)
    assert part.engine == "Keras" and part.note == "onnxruntime failed: no memory"
    assert np.abs(slow).max() > 0 and np.abs(fast - slow).max() <= 1e-4 * np.abs(slow).max()


def test_a_backend_without_accelerators_says_so_in_its_own_way(monkeypatch):
    keras = backend.start()

    def raising(kind=None):
        raise RuntimeError(f"Unknown backend: {kind!r} requested")

    monkeypatch.setattr(keras.distribution, "list_devices", raising)
    assert backend.has_accelerator() is False


def test_the_times_of_the_frozen_part_have_its_name(tmp_path, listener):
    data = brightness_pictures((28, 28), 1)
    cache = feature_cache(tmp_path, data, listener)
    phase_inputs(network_in_phase("mnist_convnet", "head", size=(28, 28)), data, cache)
    steps = [path[-1] for path, _ in listener.timing.rows()]
    assert {"preparing the frozen part", "computing the frozen part"} <= set(steps)
