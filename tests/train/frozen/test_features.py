"""The feature cache: features are what Keras computes, are kept, are found again, and never change a result."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import threading
import types

import numpy as np
import pytest
from harness import (
    Listener,
    brightness_pictures,
    build_network,
    feature_cache,
    losses_of,
    network_in_phase,
    phase_inputs,
    train,
)

from zoo import backend
from zoo.errors import HostsError, TrainingError
from zoo.hosts import Place, Team
from zoo.plugin import Phase, registry
from zoo.train import views
from zoo.train.frozen import features as feature_module
from zoo.train.frozen import store
from zoo.train.frozen.cut import find_cut
from zoo.train.frozen.features import FeatureCacheConfig

SIZE = (64, 64)


def train_named(name, data, phases, **config):
    """Train an architecture; return the result and the weights."""
    network = build_network(registry.load().architecture(name), data.array.shape[1:3], task=data.task)
    return train(network, phases, data, **config), network.model.get_weights()


CUTS = [
    ("mnist_convnet", "head", 1, None),
    ("mnist_convnet", "last:1", 1, None),
    ("mnist_convnet", "last:2", 1, None),
    # After the global pool; in front of the expansion of a residual block; between two.
    ("mobilenetv2_035", "head", 1, 1280),
    ("mobilenetv2_035", "from:block_13_expand", 1, 4 * 4 * 32),
    ("mobilenetv2_035", "from:block_8_depthwise", 2, None),
    *(
        pytest.param(*cut, marks=pytest.mark.slow)
        for cut in (
            ("resnet50", "head", 1, 2048),
            ("resnet50", "last:1", 1, 4 * 4 * 1024),
            ("resnet50", "from:conv4_block3_2_conv", 2, None),
            ("densenet121", "head", 1, 1024),
            ("densenet121", "last:1", None, None),
            ("densenet121", "from:conv4_block10_1_conv", None, None),
            ("resnext50", "last:1", None, None),
            ("nasnet_mobile", "last:1", None, None),
        )
    ),
]


@pytest.mark.parametrize(("name", "train", "tensors", "floats"), CUTS)
def test_features_and_the_first_step_are_what_the_whole_network_gives(tmp_path, name, train, tensors, floats):
    import tensorflow as tf

    keras = backend.start()
    channels = registry.load().architecture(name).channels
    data = brightness_pictures(SIZE, channels)
    # Without dropout, which would drop other units in the second of two steps.
    network = network_in_phase(
        name, train, head=dataclasses.replace(registry.load().architecture(name).head, dropout=0)
    )
    cut = find_cut(network.logits_model)
    if tensors is not None:
        assert len(cut.tensors) == tensors
    assert floats is None or cut.floats == floats
    trainable = {layer.name for layer in network.logits_model.layers if layer.trainable_weights}
    assert cut.layers and not cut.layers & trainable
    made = phase_inputs(network, data, feature_cache(tmp_path, data))
    assert (
        made.kept == (True, True)
        and {layer.name for layer in made.trained_part.layers if layer.trainable_weights} == trainable
    )

    chosen = data.train[:8]
    read, targets = made.train(0, chosen)
    lower = keras.Model(network.logits_model.inputs[0], list(cut.tensors))
    pixels = tf.constant(data.array[chosen].astype("float32"))
    whole = lower(pixels)
    for expected, received in zip(whole if isinstance(whole, list) else [whole], read, strict=True):
        assert np.abs(received - expected).max() / np.abs(expected).max() <= 1e-4

    def step(model, inputs):
        with tf.GradientTape() as tape:
            loss = keras.losses.CategoricalCrossentropy(from_logits=True)(targets, model(inputs, training=True))
        weights = network.logits_model.trainable_weights
        return float(loss), [float(tf.norm(g)) for g in tape.gradient(loss, [w.value for w in weights])]

    whole, part = step(network.logits_model, pixels), step(made.trained_part, [tf.constant(x) for x in read])
    assert part[0] == pytest.approx(whole[0], rel=1e-3)
    greatest = max(whole[1])
    assert part[1] == pytest.approx(whole[1], rel=1e-3, abs=1e-6 * greatest)


SCHEDULE = (
    Phase(name="head", train="head", epochs=2, learning_rate=1e-3),
    Phase(name="top", train="last:1", epochs=2, learning_rate=1e-3),
    Phase(name="all", train="all", epochs=1, learning_rate=1e-4),
)


@pytest.mark.slow
def test_training_is_the_same_with_and_without_and_found_features_change_no_bit(tmp_path):
    data, listener = brightness_pictures(SIZE, 1), Listener()
    without, _ = train_named("mnist_convnet", data, SCHEDULE, features=None)
    config = FeatureCacheConfig(tmp_path, pictures="these", always=True)
    first, weights = train_named("mnist_convnet", data, SCHEDULE, features=config, reporter=listener)
    assert losses_of(first) == pytest.approx(losses_of(without), rel=1e-3)
    computed = [text for text in listener.said if "pictures were computed in" in text]
    assert len(computed) == 1 and "the features of 40 pictures" in computed[0], "once for both phases"
    assert any(text.startswith("Frozen part: features of 40 pictures were read 160 times") for text in listener.said)
    assert (
        first.cache_stats["computed"] == 40
        and first.cache_stats["read"] == 160
        and first.cache_stats["engine"] == "onnxruntime"
    )
    assert first.cache_stats["numbers"] == "float32"
    listener.said.clear()
    second, again = train_named("mnist_convnet", data, SCHEDULE, features=config, reporter=listener)
    assert (
        second.cache_stats["computed"] == 0
        and second.cache_stats["found"] == 40
        and second.cache_stats["seconds_preparing"] == 0
    )
    # What it would have taken is known from the first run.
    assert second.cache_stats["seconds_read"] > 0 and second.cache_stats["seconds_computing"] == 0
    assert losses_of(second) == losses_of(first)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(weights, again, strict=True))


def brighter(images, labels, seeds):
    return np.clip(images + (seeds % np.uint64(50)).astype("float32")[:, None, None, None], 0, 255), labels


@pytest.mark.slow
@pytest.mark.parametrize("count", [None, 2])
def test_altered_pictures_go_through_the_frozen_part_too(tmp_path, count):
    data = brightness_pictures(SIZE, 1)
    schedule = [dataclasses.replace(phase, views=count) for phase in SCHEDULE]
    without, _ = train_named("mnist_convnet", data, schedule, features=None, augment=brighter)
    config = FeatureCacheConfig(tmp_path, pictures="these", always=True)
    result, _ = train_named("mnist_convnet", data, schedule, features=config, augment=brighter)
    assert losses_of(result) == pytest.approx(losses_of(without), rel=1e-3)
    if count is None:
        # What is made anew in every epoch is not kept; validation pictures are.
        assert result.cache_stats["streamed"] >= 4 * 30 and result.cache_stats["computed"] == 10
    else:
        assert result.cache_stats["streamed"] == 0 and result.cache_stats["computed"] == 2 * 30 + 10
        again, _ = train_named("mnist_convnet", data, schedule, features=config, augment=brighter)
        assert losses_of(again) == losses_of(result) and again.cache_stats["computed"] == 0
        darker = train_named(
            "mnist_convnet", data, schedule, features=config, augment=lambda *x: brighter(x[0] / 2, *x[1:])
        )
        assert darker[0].cache_stats["computed"] == 60 and darker[0].cache_stats["found"] == 10


def test_features_that_do_not_fit_are_computed_in_every_epoch(tmp_path):
    data, listener = brightness_pictures(SIZE, 1), Listener()
    without, _ = train_named("mnist_convnet", data, SCHEDULE[1:2], features=None)
    config = FeatureCacheConfig(tmp_path, limit=1000, pictures="these", always=True)
    result, _ = train_named("mnist_convnet", data, SCHEDULE[1:2], features=config, reporter=listener)
    assert any(re.search(r"take \d[\d.]* [GMk]B or more, and --cache-size allows \d", text) for text in listener.said)
    assert result.cache_stats["computed"] == 0 and result.cache_stats["streamed"] >= 60
    assert losses_of(result) == pytest.approx(losses_of(without), rel=1e-3)


def test_a_broken_cache_folder_costs_speed_only(tmp_path):
    data, listener = brightness_pictures(SIZE, 1), Listener()
    without, _ = train_named("mnist_convnet", data, SCHEDULE[:1], features=None)
    (tmp_path / "file").touch()
    config = FeatureCacheConfig(tmp_path / "file" / "features", pictures="these", always=True)
    result, _ = train_named("mnist_convnet", data, SCHEDULE[:1], features=config, reporter=listener)
    assert any("cannot be kept in" in text and "ZOO_CACHE" in text for text in listener.said)
    assert losses_of(result) == pytest.approx(losses_of(without), rel=1e-3)


def test_a_disk_that_fills_up_is_left_as_it_was(tmp_path, monkeypatch):
    data, listener = brightness_pictures(SIZE, 1), Listener()
    without, _ = train_named("mnist_convnet", data, SCHEDULE[:2], features=None)
    whole = store.FeatureSet.write
    calls = []

    def write(self, rows, values):
        calls.append(len(rows))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        whole(self, rows, values)

    monkeypatch.setattr(store.FeatureSet, "write", write)
    config = FeatureCacheConfig(tmp_path, pictures="these", always=True)
    result, _ = train_named("mnist_convnet", data, SCHEDULE[:2], features=config, reporter=listener)
    assert len([text for text in listener.said if "No space left" in text]) == 1 and list(tmp_path.iterdir()) == []
    assert result.cache_stats["computed"] == 0 and result.cache_stats["streamed"] > 0
    assert losses_of(result) == pytest.approx(losses_of(without), rel=1e-3)


def test_features_that_another_program_cuts_short_are_said_to_be(tmp_path):
    class Cutter(Listener):
        def say(self, text):
            if text.startswith("  epoch   1"):
                for path in tmp_path.glob("*/values"):
                    os.truncate(path, 1000)

    config = FeatureCacheConfig(tmp_path, pictures="these", always=True)
    with pytest.raises(TrainingError, match=r"(?s)features of phase 'head' could not be read: .*values.*command again"):
        train_named("mnist_convnet", brightness_pictures(SIZE, 1), SCHEDULE, features=config, reporter=Cutter())
    whole, _ = train_named("mnist_convnet", brightness_pictures(SIZE, 1), SCHEDULE, features=config)
    assert whole.cache_stats["computed"] == 40


# Keras fetches the first two batches itself, the others inside TensorFlow.
@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ZeroDivisionError("a policy's own"), (ZeroDivisionError, "^a policy's own$")),
        (OSError(5, "Input/output error"), (TrainingError, r"could not be read: .*Input/output error")),
    ],
)
def test_an_error_of_a_batch_keeps_its_own_words(first, error, expected):
    calls = []

    def failing(images, labels, seeds):
        calls.append(len(images))
        if len(calls) > first:
            raise error
        return images, labels

    with pytest.raises(expected[0], match=expected[1]):
        train_named("mnist_convnet", brightness_pictures(SIZE, 1), SCHEDULE, features=None, augment=failing)
    assert len(calls) == first + 1


def test_a_set_that_was_half_removed_is_computed_anew(tmp_path):
    data = brightness_pictures(SIZE, 1)
    config = FeatureCacheConfig(tmp_path, pictures="these", always=True)
    first, _ = train_named("mnist_convnet", data, SCHEDULE[:1], features=config)
    (folder,) = tmp_path.iterdir()
    (folder / "values").unlink()
    second, _ = train_named("mnist_convnet", data, SCHEDULE[:1], features=config)
    assert second.cache_stats["computed"] == 40 and losses_of(second) == losses_of(first)


def test_what_an_interrupted_run_computed_is_found(tmp_path, monkeypatch):
    data = brightness_pictures(SIZE, 1)
    network = network_in_phase("mnist_convnet", "last:1")
    monkeypatch.setattr(feature_module, "FINISHED_TOGETHER", 10)
    monkeypatch.setattr(feature_module, "BATCH", 10)
    whole = feature_module.FrozenPart.__call__
    calls = []

    def call(self, pixels):
        calls.append(len(pixels))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(self, pixels)

    # The first call compares with Keras.
    monkeypatch.setattr(feature_module.FrozenPart, "__call__", call)
    with pytest.raises(KeyboardInterrupt):
        phase_inputs(network, data, feature_cache(tmp_path, data))
    monkeypatch.setattr(feature_module.FrozenPart, "__call__", whole)
    made = feature_cache(tmp_path, data)
    phase_inputs(network, data, made)
    assert made.stats.found == 20 and made.stats.computed == 20


def test_features_that_onnxruntime_and_keras_computed_are_kept_apart(tmp_path, monkeypatch):
    """They differ in their last bits, so that training would give other weights than the library that it began with."""
    data, network = brightness_pictures(SIZE, 1), network_in_phase("mnist_convnet", "last:1")
    first = feature_cache(tmp_path, data)
    phase_inputs(network, data, first)
    assert (first.stats.engine, first.stats.computed) == ("onnxruntime", 40)
    monkeypatch.setattr(backend, "CONVERTERS", ("no_such_converter",))
    without = feature_cache(tmp_path, data)
    phase_inputs(network, data, without)
    assert (without.stats.engine, without.stats.computed, without.stats.found) == ("Keras", 40, 0)
    monkeypatch.setattr(backend, "CONVERTERS", ("tensorflow", "tf2onnx"))
    again = feature_cache(tmp_path, data)
    phase_inputs(network, data, again)
    assert (again.stats.computed, again.stats.found) == (0, 40)


def test_if_onnxruntime_fails_on_the_way_all_features_are_those_of_keras(tmp_path, monkeypatch):
    data, network = brightness_pictures(SIZE, 1), network_in_phase("mnist_convnet", "last:1")
    monkeypatch.setattr(backend, "CONVERTERS", ("no_such_converter",))
    made = phase_inputs(network, data, feature_cache(tmp_path / "keras", data))
    (expected,), _ = made.train(0, data.train)
    monkeypatch.setattr(backend, "CONVERTERS", ("tensorflow", "tf2onnx"))
    monkeypatch.setattr(feature_module, "BATCH", 10)
    whole, calls = feature_module.FrozenPart.__call__, []

    def call(self, pixels):
        calls.append(len(pixels))
        # The first call compares with Keras.
        if len(calls) == 3 and self._session is not None:
            self._session = types.SimpleNamespace(get_inputs=lambda: [types.SimpleNamespace(name="x")])
        return whole(self, pixels)

    monkeypatch.setattr(feature_module.FrozenPart, "__call__", call)
    cache = feature_cache(tmp_path / "both", data)
    (read,), _ = phase_inputs(network, data, cache).train(0, data.train)
    assert cache.stats.engine == "Keras" and cache.stats.computed == 40
    # After the comparison: one batch on onnxruntime, the one that failed, and all four again.
    assert len(calls) == 7
    # Keras computes in batches of another size here.
    assert np.abs(read - expected).max() <= 1e-6 * np.abs(expected).max()


def test_if_onnxruntime_fails_in_one_of_two_processes_both_end_and_keep_nothing_of_keras(tmp_path, monkeypatch):
    """Two threads stand for two processes. They compute 40 pictures in turns of two batches of 5."""
    data = brightness_pictures(SIZE, 1)
    networks = [network_in_phase("mnist_convnet", "last:1") for _ in range(2)]
    with socket.create_server(("127.0.0.1", 0)) as server:
        left = socket.create_connection(server.getsockname())
        right, _ = server.accept()
    teams = [Team(Place(2, index, "host", 1), ("a", "b")) for index in range(2)]
    teams[0].connect({1: left})
    teams[1].connect({0: right})
    monkeypatch.setattr("zoo.hosts.team.LAST", 0.0)
    monkeypatch.setattr("zoo.train.frozen.together._several", lambda: teams[int(threading.current_thread().name)])
    monkeypatch.setattr(feature_module, "BATCH", 5)
    # Rows are kept after each turn, as if there were many.
    monkeypatch.setattr(feature_module, "FINISHED_TOGETHER", 1)
    whole, calls = feature_module.FrozenPart.__call__, []

    def call(self, pixels):
        if threading.current_thread().name == "1":
            calls.append(len(pixels))
            if len(calls) == 3:
                self._session = types.SimpleNamespace(get_inputs=lambda: [types.SimpleNamespace(name="x")])
        return whole(self, pixels)

    monkeypatch.setattr(feature_module.FrozenPart, "__call__", call)
    errors = {}

    def take_part(index):
        try:
            phase_inputs(networks[index], data, feature_cache(tmp_path / str(index), data))
        except HostsError as error:
            errors[index] = str(error)
            teams[index].end(error)

    threads = [threading.Thread(target=take_part, args=(index,), name=str(index), daemon=True) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert "onnxruntime failed" in errors[1] and "--cache-size 0" in errors[1]
    assert errors[0] == f"process 1 on 'b' has failed: {errors[1]}"
    monkeypatch.setattr("zoo.train.frozen.together._several", lambda: None)
    for index in range(2):
        cache = feature_cache(tmp_path / str(index), data)
        phase_inputs(networks[index], data, cache)
        # The first call compares with Keras, the second one is the first turn.
        assert (cache.stats.engine, cache.stats.found, cache.stats.computed) == ("onnxruntime", 10, 30)


@pytest.mark.slow
def test_features_of_layers_that_a_phase_between_trains_are_computed_anew(tmp_path):
    """Those for the third phase, computed in the first, would be those of untrained weights."""
    data = brightness_pictures(SIZE, 1)
    schedule = [
        Phase(name=train_, train=train_, epochs=1, learning_rate=1e-2)
        for train_ in ("head", "last:3", "last:1", "head")
    ]
    without, _ = train_named("mnist_convnet", data, schedule, features=None)
    config = FeatureCacheConfig(tmp_path, pictures="these", always=True)
    result, _ = train_named("mnist_convnet", data, schedule, features=config)
    assert losses_of(result) == pytest.approx(losses_of(without), rel=2e-3)
    assert result.cache_stats["computed"] >= 80


@pytest.mark.slow
def test_growing_and_moving_statistics_are_the_same_with_it(tmp_path):
    """BatchNorm above the cut moves its statistics; what was grown before is below it."""
    data = brightness_pictures((48, 48), count=60)
    moving = {"batch_norm": "update", "batch_norm_momentum": 0.5, "learning_rate": 1e-3, "optimizer": "sgd"}
    schedule = [Phase(name=f"stage {depth}", train="last:1", depth=depth, epochs=1, **moving) for depth in (1, 2, 3)]
    without, before = train_named("mobilenetv2_035", data, schedule, features=None)
    config = FeatureCacheConfig(tmp_path, pictures="these", always=True)
    result, after = train_named("mobilenetv2_035", data, schedule, features=config)
    assert losses_of(result) == pytest.approx(losses_of(without), rel=5e-3) and result.cache_stats["read"] > 0
    for a, b in zip(before, after, strict=True):
        assert np.abs(a - b).max() <= 0.05 * max(1e-3, np.abs(a).max())


def test_pictures_that_were_not_computed_are_never_read_as_nothing(tmp_path):
    data = brightness_pictures(SIZE, 1)
    network = network_in_phase("mnist_convnet", "last:1")
    half = dataclasses.replace(data, train=data.train[:10])
    made = phase_inputs(network, half, feature_cache(tmp_path, data))
    (read,), _ = made.validation(0, data.train[8:14])
    (whole,), _ = phase_inputs(network, data, feature_cache(tmp_path / "other", data)).validation(0, data.train[8:14])
    assert np.abs(read - whole).max() <= 1e-4 * np.abs(whole).max() and np.abs(read[-1]).max() > 0
    # Another split needs others: only those are computed.
    rest = feature_cache(tmp_path, data)
    phase_inputs(network, data, rest)
    assert rest.stats.computed == 20 and rest.stats.found == 20


def test_views_that_mix_labels_bring_them(tmp_path):
    data = brightness_pictures(SIZE, 1)

    def mixed(images, labels, seeds):
        # The brightness that a picture has says which labels belong to it.
        share = np.linspace(0, 0.4, len(images), dtype="float32")[:, None]
        return np.full_like(images, 1) * share[..., None, None] * 500, labels * (1 - share) + share / 2

    network = network_in_phase("mnist_convnet", "last:1")
    made = feature_cache(tmp_path, data)
    wanted = views.Views(data.array, data.train, data.targets, mixed, 2, 0)
    read, got = phase_inputs(network, data, made, views=wanted).train(3, data.train[:4])
    expected = {}
    for places, pixels, labels in wanted.generate():
        expected.update({int(place): (p, label) for place, p, label in zip(places, pixels, labels, strict=True)})
    chosen = [expected[int(place)] for place in wanted.place(3, data.train[:4])]
    assert np.array_equal(got, [label for _, label in chosen]) and len({label.tobytes() for _, label in chosen}) == 4
    lower = feature_module.FrozenPart(
        network.logits_model, find_cut(network.logits_model).tensors, data.array[:4].astype("float32")
    )
    (direct,) = lower(np.stack([p for p, _ in chosen]).astype("float32"))
    assert np.abs(read[0] - direct).max() <= 1e-4 * np.abs(direct).max()


@pytest.mark.slow
def test_from_the_command(zoo, photos, tmp_path):
    arguments = ("finetune", "mnist_convnet", "--data", photos, "--size", 32, "--schedule", "head-only")
    arguments += ("--allow-chance",)
    folders = ("--runs", tmp_path / "runs", "--exported", tmp_path / "exported", "--epochs", 3)
    ran = zoo(*arguments, *folders, "--cache-size", "50MB")
    assert ran.code == 0, ran.err
    assert "frozen part: the features of 60 pictures were computed in" in ran.out and "were read 180 times" in ran.out
    (run,) = (tmp_path / "runs").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert record["prefix"]["computed"] == 60 and record["options"]["cache_size"] == 50_000_000
    ran = zoo(*arguments, *folders, "--cache-size", "50MB")
    assert "the features of 60 pictures are in the cache already" in ran.out
    ran = zoo(*arguments, *folders, "--cache-size", 0)
    assert ran.code == 0 and "frozen part" not in ran.out.lower()
    ran = zoo(*arguments, *folders, "--cache-size", "lots")
    assert ran.code == 2 and "such as 500MB, 8GB or 0" in ran.err
