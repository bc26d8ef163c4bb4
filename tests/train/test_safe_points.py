"""Safe points: an interrupted training ends in the same bytes; what is damaged is not used."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal

import numpy as np
import pytest
from harness import SIZE, Listener, build_network, train

from zoo import interrupts
from zoo.errors import RunError, WriteError
from zoo.plugin import Head, Phase
from zoo.train import epochs, safe_points
from zoo.train.frozen.features import FeatureCacheConfig
from zoo.train.safe_points import SafePoints, Values

HEAD = Head(pool="avg", dropout=0.3)
SCHEDULE = (
    Phase(name="stem", train="last:1", depth=1, epochs=1, learning_rate=1e-3, batch_norm="update"),
    Phase(name="top", train="last:2", epochs=3, learning_rate=1e-2, lr_schedule="cosine", ema=0.5, patience=None),
    Phase(name="all", train="all", epochs=2, learning_rate=1e-3, layer_decay=0.5, batch_norm="update", clip_norm=1.0),
)


# The number of training batches in an epoch.
BATCHES = 3


class Killed(Exception):
    """Stands for the end of the process."""


def trained(architecture, pictures, points=None, schedule=SCHEDULE, **config):
    network = build_network(architecture, SIZE, head=HEAD, random_norms=False)
    options = {"batch_size": 12, "head": HEAD, **config}
    result = train(network, schedule, pictures, points=points, **options)
    return network.model.get_weights(), result


@pytest.fixture(scope="module")
def alone(architecture, pictures):
    return trained(architecture, pictures)


@pytest.fixture
def ctrl_c():
    """Give Ctrl-C its usual meaning. Background jobs ignore it."""
    outer = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, outer)


@contextlib.contextmanager
def killed_at(monkeypatch, place):
    """Write a safe point after every batch, and kill the training after the one at a place, (epochs, batches)."""
    save = SafePoints.save

    def save_and_die(self, name, number, values, batches=0):
        save(self, name, number, values, batches)
        self.wait()
        if (number, batches) == place:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(SafePoints, "save", save_and_die)
        patch.setattr(epochs, "PERIOD", 0)
        yield


def check_resumed(architecture, pictures, folder, expected):
    """Resume a training from its safe points, and compare it with one that was left alone."""
    weights, result = trained(architecture, pictures, SafePoints(folder, Listener()).training("phases"))
    weights_alone, alone = expected
    assert [a.tobytes() for a in weights] == [b.tobytes() for b in weights_alone]
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4, 5, 6]
    for ours, theirs in zip(result.history, alone.history, strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    assert [each["name"] for each in result.phases] == ["stem", "top", "all"]
    assert (result.best_epoch, result.warnings) == (alone.best_epoch, alone.warnings)
    assert [each["epochs_run"] for each in result.phases] == [1, 3, 2]


@pytest.mark.parametrize("done", [2, 4], ids=["averages", "end of a phase"])
@pytest.mark.parametrize(
    "batches", [pytest.param(0, id="between epochs", marks=pytest.mark.slow), pytest.param(1, id="within an epoch")]
)
def test_a_training_that_was_killed_ends_in_the_same_bytes(
    architecture, pictures, alone, tmp_path, monkeypatch, done, batches
):
    points = SafePoints(tmp_path, Listener())
    with killed_at(monkeypatch, (done, batches)):
        trained(architecture, pictures, points.training("phases"))
    within = f".batch{batches:06}" if batches else ""
    assert [path.name for path in tmp_path.iterdir()] == [f"phases.epoch{done:06}{within}.npz"]
    assert points.position() == (f"after batch {batches} of epoch {done + 1}" if batches else f"after epoch {done}")
    check_resumed(architecture, pictures, tmp_path, alone)


@pytest.mark.parametrize("epoch", [3, 6], ids=["averages", "last"])
def test_ctrl_c_ends_a_validation_at_its_next_batch(
    architecture, pictures, alone, tmp_path, monkeypatch, ctrl_c, epoch
):
    begun, ended, start, end = [], [], epochs.EpochLog.start_validation, epochs.EpochLog.end_validation

    def start_and_press(log):
        start(log)
        begun.append(log)
        if len(begun) == epoch:
            os.kill(os.getpid(), signal.SIGINT)

    def note_and_end(log):
        ended.append(log)
        end(log)

    points = SafePoints(tmp_path, Listener())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), interrupts.handled():
        patch.setattr(epochs.EpochLog, "start_validation", start_and_press)
        patch.setattr(epochs.EpochLog, "end_validation", note_and_end)
        trained(architecture, pictures, points.training("phases"))
    assert len(ended) == epoch - 1
    assert points.position() == f"after batch {BATCHES} of epoch {epoch}"
    check_resumed(architecture, pictures, tmp_path, alone)


def test_frozen_layers_are_not_saved_and_another_network_is_refused(architecture, pictures, tmp_path):
    schedule = (Phase(name="head", train="head", epochs=1, learning_rate=1e-3),)
    trained(architecture, pictures, SafePoints(tmp_path, Listener()).training("phases"), schedule)
    values = SafePoints(tmp_path, Listener()).latest("phases")
    shapes = sorted(array.shape for name, array in values.arrays.items() if name.startswith("variable"))
    # The bias and the kernel of the head, and the random state of dropout.
    assert [shape for shape in shapes if len(shape) > 1 or shape != (2,)] == [(8, 2)] and len(shapes) == 3
    network = build_network(architecture, SIZE, head=dataclasses.replace(HEAD, hidden=(4,)))
    with pytest.raises(RunError, match="belongs to another network"):
        train(network, schedule, pictures, points=SafePoints(tmp_path, Listener()).training("phases"))


def test_a_damaged_safe_point_is_not_used(tmp_path):
    points = SafePoints(tmp_path, Listener())
    for number in (1, 2):
        points.write(tmp_path / f"phases.epoch{number:06}.npz", Values({"n": number}, {"a": np.arange(100.0)}))
    path = tmp_path / "phases.epoch000002.npz"
    content = bytearray(path.read_bytes())
    content[content.find(np.arange(100.0).tobytes()) + 400] ^= 1
    path.write_bytes(content)
    listener = Listener()
    assert SafePoints(tmp_path, listener).latest("phases").facts == {"n": 1}
    assert "is damaged and is not used" in listener.said[0]
    path.write_bytes(content[:200])
    assert SafePoints(tmp_path, Listener()).latest("phases").facts == {"n": 1}


def test_the_safe_point_before_is_kept_until_the_new_one_is_proven(tmp_path, monkeypatch):
    points, values = SafePoints(tmp_path, Listener()), Values({}, {"a": np.ones(3)})

    def save(number):
        points.save("phases", number, values)
        points.wait()

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    save(1)
    with monkeypatch.context() as patch:
        patch.setattr(safe_points.files.os, "fsync", fail)
        with pytest.raises(WriteError, match="No space left on device"):
            save(2)
    assert [path.name for path in tmp_path.iterdir()] == ["phases.epoch000001.npz"]
    with monkeypatch.context() as patch:
        patch.setattr(safe_points, "_whole", lambda path: False)
        with pytest.raises(WriteError, match="cannot be read back"):
            save(2)
    assert (tmp_path / "phases.epoch000001.npz").exists()
    save(3)
    assert [path.name for path in tmp_path.iterdir()] == ["phases.epoch000003.npz"]


PHASE = Phase(name="all", train="all", epochs=4, learning_rate=1e-3, batch_norm="update", batch_norm_momentum=0.9)
OPTIONS = {
    "online augmentation": ({"augment": True}, {}),
    "views": ({"augment": True, "features": True}, {"train": "last:1", "views": 3, "batch_norm": "frozen"}),
    "features": ({"features": True}, {"train": "last:2", "batch_norm": "frozen", "optimizer": "rmsprop"}),
    "bfloat16": ({"precision": "bfloat16"}, {"lr_schedule": "one-cycle", "optimizer": "adamw"}),
    "last epoch": ({"keep_best": False, "balance": True, "label_smoothing": 0.1}, {"optimizer": "sgd"}),
    "early stopping": ({}, {"patience": 1, "learning_rate": 0.3, "epochs": 8}),
    "averages of all steps": ({}, {"ema": 0.9, "clip_norm": 0.5, "layer_decay": 0.3}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_a_training_with_options_ends_in_the_same_bytes(architecture, pictures, plugins, tmp_path, monkeypatch, name):
    config, changes = dict(OPTIONS[name][0]), OPTIONS[name][1]
    light = plugins.augmentation("light")
    if config.pop("augment", None):
        config["augment"] = light.build(**light.parameters)
    cached = config.pop("features", None)
    schedule = (dataclasses.replace(PHASE, **changes), dataclasses.replace(PHASE, name="more", epochs=1))

    def run(points=None, place="features"):
        features = {"features": FeatureCacheConfig(tmp_path / place, pictures="these", always=True)} if cached else {}
        return trained(architecture, pictures, points, schedule, **config, **features)

    expected, whole = run(place="others")
    assert len(whole.history) > 2
    for place in ((0, 1), (1, 0), (1, 2), (2, 1)):
        with killed_at(monkeypatch, place):
            run(SafePoints(tmp_path / "unfinished", Listener()).training("phases"))
    weights, result = run(SafePoints(tmp_path / "unfinished", Listener()).training("phases"))
    assert [a.tobytes() for a in weights] == [b.tobytes() for b in expected]
    assert [{**row, "seconds": 0} for row in result.history] == [{**row, "seconds": 0} for row in whole.history]
