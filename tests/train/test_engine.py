"""Training: what moves, what stays to the bit, what seeds decide."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest
from harness import SIZE, build_network, labels_of, layers_of, run, train

from zoo import backend
from zoo.plugin import Phase, registry
from zoo.train import inputs


@pytest.mark.slow
def test_pretrained_batch_norm_keeps_its_statistics_in_every_phase_of_the_default_schedule(plugins, pictures):
    """The same on MobileNetV2 itself, whose statistics Keras 3 would move."""
    network = plugins.architecture("mobilenetv2_035")
    model, before, after, changed, _ = run(network, pictures, *plugins.schedule("full").phases_for(network)[-1:])
    norms = {layer.name for layer in model.layers if type(layer).__name__ == "BatchNormalization"}
    assert len(norms) == 52 and not layers_of(changed) & norms
    assert all(np.array_equal(before[path], after[path]) for path in before if "moving_" in path)
    assert len(layers_of(changed)) == 53


def test_same_seed_same_bytes_another_seed_others(architecture, pictures):
    light = registry.load().augmentation("light")
    augment = light.build(**light.parameters)
    phase = Phase(name="x", train="last:2", epochs=2, learning_rate=1e-3, lr_schedule="cosine")
    results = [run(architecture, pictures, phase, augment=augment, seed=seed)[2] for seed in (3, 3, 4)]
    assert all(np.array_equal(results[0][path], results[1][path]) for path in results[0])
    assert not np.array_equal(results[0]["logits/kernel"], results[2]["logits/kernel"])


def test_the_average_of_weights_is_judged_and_kept(architecture, pictures):
    """One step an epoch: after three, m * (m * w1 + (1 - m) * w2) + (1 - m) * w3."""
    one_batch = inputs.TrainingData(pictures.array, pictures.targets, pictures.train[:12], pictures.val)
    options = {"name": "x", "train": "all", "learning_rate": 0.01, "optimizer": "sgd", "patience": None}
    weights, averages = [], {}
    for epochs in (1, 2, 3):
        _, _, after, _, outcome = run(architecture, one_batch, Phase(**options, epochs=epochs))
        assert outcome.best_epoch == epochs
        weights.append(after)
    model, _, after, changed, outcome = run(architecture, one_batch, Phase(**options, epochs=3, ema=0.75))
    assert outcome.best_epoch == 3
    for path in changed:
        first, second, third = (each[path].astype("float64") for each in weights)
        averages[path] = 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third
        np.testing.assert_allclose(after[path], averages[path], rtol=1e-4, atol=1e-6)
    assert any(not np.allclose(averages[path], weights[2][path], rtol=1e-3) for path in changed)
    # What was judged is what was kept.
    pixels, targets = pictures.array[pictures.val].astype("float32"), pictures.targets[pictures.val]
    probabilities = np.asarray(model(pixels))
    loss = -np.log((probabilities * targets).sum(axis=1)).mean()
    assert outcome.history[-1]["val_loss"] == pytest.approx(loss, rel=1e-4)


@pytest.mark.slow
def test_a_phase_is_skipped_if_the_network_is_good_enough(architecture, pictures, listener):
    def phases_run(enough, **others):
        schedule = (
            Phase(name="head", train="head", epochs=20, learning_rate=0.05),
            Phase(name="top", train="last:1", epochs=1, learning_rate=1e-4, skip_below_loss=enough),
        )
        network = build_network(architecture, SIZE)
        outcome = train(network, schedule, pictures, listener, batch_size=12, **others)
        trained = [phase["name"] for phase in outcome.phases if phase["epochs_run"]]
        assert ["left_out" in phase for phase in outcome.phases] == [False, trained == ["head"]]
        return trained, min(row["val_loss"] for row in outcome.history[:20])

    ran, loss = phases_run(None)
    assert ran == ["head", "top"] and 1e-6 < loss < 0.17
    assert phases_run(loss * 0.9)[0] == ["head", "top"] and not any("skipped" in text for text in listener.said)
    assert phases_run(loss * 1.1)[0] == ["head"]
    why = f"the validation loss is {loss:.4f}, and at most {loss * 1.1:.2g} is good enough"
    assert f"Phase 2/2 top: skipped: {why}" in listener.said
    # Classes' weights change what a loss means.
    assert phases_run(loss * 1.5, balance=True)[0] == ["head", "top"]


def test_an_average_over_too_few_steps_is_warned_of(architecture, pictures):
    """Three steps an epoch: after six, 0.99^5 of the average are the first step's weights."""
    head = Phase(name="head", train="head", epochs=2, learning_rate=1e-3, ema=0.99)
    (warning,) = run(architecture, pictures, head)[4].warnings
    assert "'head' has 6 steps: 95%" in warning and "--ema" in warning
    assert run(architecture, pictures, dataclasses.replace(head, epochs=9, ema=0.9))[4].warnings == []


def test_the_average_goes_with_statistics_that_move(architecture, pictures):
    """Statistics are not averaged: they must still fit the averaged weights."""
    phase = Phase(
        name="x", train="all", epochs=12, learning_rate=3e-3, batch_norm="update", batch_norm_momentum=0.9, ema=0.8
    )
    model, _, _, changed, outcome = run(architecture, pictures, phase)
    assert any("moving_mean" in path for path in changed)
    answers = np.asarray(model(pictures.array[pictures.val].astype("float32"))).argmax(axis=1)
    right = (answers == labels_of(pictures)[pictures.val]).mean()
    assert right >= 0.9 and outcome.history[outcome.best_epoch - 1]["val_accuracy"] == pytest.approx(right)


def test_running_averages_that_are_out_of_date_are_measured_again(architecture, pictures, listener):
    """With a momentum near 1 they stay far from the pictures' own statistics, and the training would not show."""

    def displace(model):
        for i in (1, 2, 3):
            model.get_layer(f"bn{i}").moving_mean.assign_add(np.full(8, 50.0, "float32"))

    phase = Phase(
        name="x",
        train="all",
        epochs=6,
        learning_rate=1e-2,
        batch_norm="update",
        batch_norm_momentum=0.9999,
        patience=None,
    )
    network = build_network(architecture, SIZE)
    model = network.model
    displace(model)
    outcome = train(network, [phase], pictures, listener, batch_size=12)
    assert outcome.history[-1]["val_accuracy"] <= 0.6 and outcome.warnings == []
    said = next(text for text in listener.said if "measured these averages again" in text)
    # The accuracy with such averages can exceed the training accuracy, so the message must not call it too low.
    assert "were still near their initial values after " in said and "did not match" not in said
    means = np.concatenate([model.get_layer(f"bn{i}").moving_mean.numpy() for i in (1, 2, 3)])
    assert np.abs(means).max() < 10
    assert model.get_layer("bn1").momentum == 0.9999
    rows = model.predict_on_batch(pictures.array[pictures.val].astype("float32"))
    assert (rows.argmax(axis=1) == labels_of(pictures)[pictures.val]).mean() >= 0.9


def test_statistics_are_measured_over_all_classes_though_rows_stand_class_by_class(architecture, pictures):
    """Batches of one class each would lose the variance between the classes."""
    order = np.argsort(labels_of(pictures), kind="stable")
    by_class = dataclasses.replace(
        pictures,
        array=pictures.array[order],
        targets=pictures.targets[order],
        train=np.r_[0:18, 24:42],
        val=np.r_[18:24, 42:48],
    )
    # Of a first layer alone, the weights of which stay: what its statistics should be is known.
    phase = Phase(
        name="x",
        train="all",
        epochs=1,
        learning_rate=1e-9,
        batch_norm="update",
        batch_norm_momentum=0.999,
        optimizer="sgd",
        patience=None,
    )
    model, *_ = run(architecture, by_class, phase, batch_size=12)
    keras = backend.start()
    maps = keras.Model(model.input, model.get_layer("conv1").output).predict_on_batch(
        by_class.array[by_class.train].astype("float32")
    )
    ratio = model.get_layer("bn1").moving_variance.numpy() / maps.var(axis=(0, 1, 2))
    assert ratio.min() > 0.8 and ratio.max() < 1.2


def test_a_phase_that_does_not_win_leaves_the_statistics_of_the_one_that_did(architecture, pictures):
    targets = pictures.targets.copy()
    targets[pictures.val[:4]] = 1 - targets[pictures.val[:4]]
    pictures = dataclasses.replace(pictures, targets=targets)
    head = Phase(name="head", train="head", epochs=5, learning_rate=1e-3, patience=None)
    worse = Phase(
        name="all",
        train="all",
        epochs=2,
        learning_rate=9.0,
        optimizer="sgd",
        batch_norm="update",
        batch_norm_momentum=0.999,
        patience=None,
    )
    _, before, after, _, outcome = run(architecture, pictures, head, worse)
    assert outcome.best_epoch <= 5
    for path in before:
        if "moving" in path:
            assert before[path].tobytes() == after[path].tobytes(), path


def test_history_and_run_record_of_a_finished_run(finished):
    run, _, _ = finished
    record = json.loads((run / "run.json").read_text())
    with (run / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert record["status"] == "trained"
    assert [int(row["epoch"]) for row in rows] == list(range(1, 26))
    losses = [float(row["val_loss"]) for row in rows]
    assert losses[record["best_epoch"] - 1] == min(losses)
    assert max(float(row["learning_rate"]) for row in rows) <= record["phases"][0]["learning_rate"]
