"""The learning-rate range test: what it suggests, and that it leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json
import shlex
import weakref

import numpy as np
import pytest
from harness import Listener, brightness_pictures, build_network
from PIL import Image

from zoo.plugin import Architecture, Head, Phase, Stage, normalize
from zoo.train import engine, lr_find

SIZE = (16, 16)
RANGE_TEST = lr_find.RangeTestConfig(1e-5, 10.0, 60)


def build_plain(shape):
    import keras

    x = pixels = keras.Input(shape)
    x = normalize(x, "tf")
    for i in (1, 2):
        x = keras.layers.Conv2D(8, 3, strides=2, use_bias=False, name=f"conv{i}")(x)
        x = keras.layers.BatchNormalization(name=f"bn{i}")(x)
        x = keras.layers.ReLU(name=f"relu{i}")(x)
    return keras.Model(pixels, x)


ARCHITECTURE = Architecture(
    name="plain",
    summary="two convolutions",
    build=build_plain,
    input_size=SIZE,
    min_size=16,
    parameters=1,
    stages=tuple(Stage(f"stage{i}", (f"conv{i}", f"bn{i}")) for i in (1, 2)),
    head=Head(dropout=0.2),
    source="here",
    licence="MIT",
)
HEAD = Phase(name="head", train="head", epochs=4, learning_rate=0.1)
TOP = Phase(name="top", train="last:1", epochs=1, learning_rate=1e-3, lr_schedule="cosine", ema=0.9)


@pytest.fixture(scope="module")
def pictures():
    """Pictures that brightness tells apart, except one in eight, whose label is wrong."""
    data = brightness_pictures(SIZE, count=96, noise=120, step=100)
    targets = np.where(np.arange(96)[:, None] % 8 == 5, 1 - data.targets, data.targets)
    return dataclasses.replace(data, targets=targets)


def find(pictures, *schedule, range_test=RANGE_TEST, **config):
    """Return the tests, and for each array of weights whether it is as before."""
    network = build_network(ARCHITECTURE, SIZE, random_norms=False)
    before = network.model.get_weights()
    config = engine.TrainConfig(batch_size=12, **config)
    tests = engine.lr_find(network, schedule, pictures, config, Listener(), range_test)
    return tests, [np.array_equal(a, b) for a, b in zip(before, network.model.get_weights(), strict=True)]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop"])
def test_every_optimizer_leaves_weights_as_they_were(pictures, optimizer):
    (test,), same = find(pictures, dataclasses.replace(HEAD, optimizer=optimizer, clip_norm=1.0))
    assert all(same) and all(np.isfinite(test.changes))
    assert min(test.changes) < -0.03


def test_the_rates_and_what_is_suggested(pictures):
    (test,), same = find(pictures, HEAD)
    assert all(same)
    assert test.phase == "head" and test.rates[0] == pytest.approx(1e-5)
    assert np.allclose(np.diff(np.log(test.rates)), np.log(1e6) / 59)
    assert len(test.rates) == len(test.changes) and all(np.isfinite(test.changes))
    # At the lowest rates nothing has moved yet; the loss falls later.
    assert abs(test.changes[0]) < 0.15 and min(test.changes) < -0.1
    assert test.suggestion == pytest.approx(test.rates[int(np.argmin(test.changes))] / 10, rel=0.05)


def test_moving_statistics_are_as_before(pictures):
    (test,), same = find(pictures, dataclasses.replace(TOP, batch_norm="update"))
    assert all(same) and min(test.changes) < -0.1


def test_the_same_seed_gives_the_same_and_another_does_not(pictures):
    first, again, other = (find(pictures, HEAD, seed=seed)[0][0].changes for seed in (0, 0, 1))
    assert first == again and first != other


def test_a_later_phase_is_tested_from_what_those_before_have_learnt(pictures):
    (head, top), same = find(pictures, HEAD, TOP)
    (alone,), _ = find(pictures, TOP)
    # From random weights the whole loss can be learnt; after the head little is left.
    assert min(alone.changes) < min(top.changes) - 0.05
    assert (head.phase, top.phase) == ("head", "top") and not all(same)


def test_a_test_ends_where_the_loss_diverges(pictures):
    (test,), same = find(pictures, HEAD, range_test=lr_find.RangeTestConfig(1e-3, 99.0, 200))
    assert all(same) and len(test.rates) < 200 and test.rates[-1] < 99
    assert test.changes[-1] > 1
    # The cliff at the end must not hide the dip before it.
    assert test.suggestion == pytest.approx(test.rates[int(np.argmin(test.changes))] / 10, rel=0.05)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_dip_is_found_where_everything_moves_and_then_diverges(pictures, optimizer):
    phase = Phase(name="all", train="all", epochs=1, learning_rate=1e-3, optimizer=optimizer, batch_norm="update")
    (test,), same = find(pictures, phase, range_test=lr_find.RangeTestConfig(1e-5, 99.0, 150))
    assert all(same) and len(test.rates) < 150
    assert test.suggestion == pytest.approx(test.rates[int(np.argmin(test.changes))] / 10, rel=0.05)


def test_batches_are_not_held(pictures, monkeypatch):
    """A pass over all of a large set must not take its memory."""
    made = []

    def augment(images, labels, seeds):
        made.append(weakref.ref(images))
        assert sum(reference() is not None for reference in made) <= 4
        return images, labels

    find(pictures, HEAD, augment=augment)
    assert len(made) >= 60


def test_balance_and_smoothed_labels_are_part_of_the_loss(pictures):
    uneven = dataclasses.replace(pictures, train=np.setdiff1d(np.arange(72), np.arange(1, 72, 4)))
    losses = [find(uneven, HEAD, **given)[0][0].changes for given in ({}, {"balance": True}, {"label_smoothing": 0.2})]
    assert len(set(losses)) == 3


RATES = np.geomspace(1e-6, 1, 121)
NOISE = np.random.default_rng(1).normal(0, 0.01, 121)


def test_the_lowest_point_of_a_dip():
    dip = -np.exp(-(((np.log10(RATES) + 2) / 0.7) ** 2)) + (RATES > 0.1) * (RATES - 0.1) * 4
    found = lr_find.suggest("head", RATES, dip + NOISE)
    assert found.suggestion == pytest.approx(1e-3, rel=0.35)
    assert "lowest at 0.0" in found.note and "a tenth" in found.note


def test_where_it_only_rises_a_third_of_where_it_begins():
    rise = (RATES > 1e-3) * np.log10(RATES / 1e-3).clip(0)
    found = lr_find.suggest("top", RATES, rise + NOISE)
    assert 0.5e-3 / 3 < found.suggestion < 2.5e-3 / 3
    assert "no rate lowers the loss" in found.note


def test_nothing_is_suggested_where_nothing_moves():
    found = lr_find.suggest("top", RATES, NOISE)
    assert found.suggestion is None and "no rate changes the loss; try higher rates" in found.note


def test_what_diverges_at_once_sends_nobody_further_up():
    found = lr_find.suggest("top", RATES[:1], np.zeros(1), diverged=True)
    assert found.suggestion is None and "try lower rates" in found.note
    falling = lr_find.suggest("top", RATES, -RATES + NOISE, diverged=True)
    assert falling.suggestion == pytest.approx(0.1) and "try" not in falling.note


def test_a_loss_that_still_falls_says_so():
    found = lr_find.suggest("head", RATES, -RATES + NOISE)
    assert found.suggestion == pytest.approx(0.1) and "still falls" in found.note


@pytest.mark.parametrize("count", [1, 2, 7, 200])
def test_smoothing_keeps_length_constants_and_places(count):
    smoothed, error = lr_find.smooth(np.full(count, 3.0))
    assert len(smoothed) == count and np.allclose(smoothed, 3) and error == pytest.approx(0, abs=1e-12)
    spike = np.zeros(count)
    spike[count // 2] = 1
    assert int(np.argmax(lr_find.smooth(spike)[0])) == count // 2


def test_the_command(zoo, photos, tmp_path):
    picture = tmp_path / "found.png"
    asked = ("lr-find", "mnist_convnet", "--data", photos, "--size", 32, "--batch-size", 16, "--steps", 30)
    ran = zoo(*asked, "--output", picture)
    assert ran.code == 0, ran.err
    assert "Phase 1/1" in ran.out and f"Picture    {picture}" in ran.out
    (line,) = [line for line in ran.out.splitlines() if line.startswith("Use ")]
    assert f"zoo finetune mnist_convnet --data {photos} --size 32x32 --batch-size 16 --learning-rate " in line
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG" and drawn.width > 600
    assert not (tmp_path / "runs").exists()

    as_json = zoo(*asked, "--output", picture, "--json")
    (test,) = json.loads(as_json.out)
    assert set(test) == {"phase", "rates", "changes", "suggestion", "note", "lowers_loss"}
    assert f"{test['suggestion']:g}" in line


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (NOISE, "no rate was found for scratch"),
        ((RATES > 1e-3) * np.log10(RATES / 1e-3).clip(0) + NOISE, "no rate lowers the loss"),
    ],
    ids=["no change", "only rises"],
)
def test_no_command_is_printed_if_no_rate_lowers_the_loss(zoo, photos, tmp_path, monkeypatch, changes, why):
    suggest = lr_find.suggest
    monkeypatch.setattr(lr_find, "suggest", lambda phase, *_: suggest(phase, RATES, changes))
    ran = zoo("lr-find", "mnist_dense", "--data", photos, "--size", 32, "--steps", 20, "--output", tmp_path / "a.png")
    assert ran.code == 0, ran.err
    (line,) = [line for line in ran.out.splitlines() if line.startswith("Use ")]
    assert (
        f"the rates of the schedule, because {why}. " in line
        and "--steps 300" in line
        and "zoo finetune mnist" not in line
    )


@pytest.mark.slow
def test_what_is_printed_to_use_can_be_typed(zoo, photos, tmp_path):
    """With the schedule that was tested, a phase that is left out, and options of every kind."""
    schedule = tmp_path / "three phases.toml"
    phases = (("a", "head"), ("b", "last:1"), ("c", "all"))
    shape = '[[phase]]\nname = "{}"\ntrain = "{}"\nepochs = 1\nlearning_rate = 1e-3\n'
    schedule.write_text("".join(shape.format(*phase) for phase in phases))
    options = [
        *("--data", photos, "--weights", "none", "--size", "32x40", "--schedule", schedule, "--epochs", "0,1,1"),
        *("--pool", "roi:2", "--hidden", "8,4", "--balance", "--batch-size", 16, "--cache-size", "50MB"),
    ]
    ran = zoo("lr-find", "mnist_convnet", *options, "--steps", 30, "--output", tmp_path / "found.png")
    assert ran.code == 0, ran.err
    (line,) = [line for line in ran.out.splitlines() if line.startswith("Use ")]
    typed = shlex.split(line)[2:]
    assert typed[-1].count(",") == 2 and {"32x40", "roi:2", "8,4", "0,1,1", "50000000", "--balance"} <= set(typed)
    trained = zoo(*typed, "--allow-chance", "--runs", tmp_path / "runs", "--exported", tmp_path / "exported")
    assert trained.code == 0, trained.err
    (run,) = (tmp_path / "runs").iterdir()
    used = [phase["learning_rate"] for phase in json.loads((run / "run.json").read_text())["phases"]]
    assert used == [float(rate) for rate in typed[-1].split(",")[1:]]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--lowest", 1, "--highest", 0.1), "--lowest must be below --highest"),
        (("--output", "found.jpg"), "must end in .png"),
        (("--steps", 3), "must be a whole number from 20 to 10000. Received: '3'"),
        (("--schedule", "nowhere.toml"), "cannot be read"),
    ],
)
def test_wrong_usage(zoo, photos, options, told):
    ran = zoo("lr-find", "mnist_convnet", "--data", photos, *options)
    assert ran.code == 2 and told in ran.err
