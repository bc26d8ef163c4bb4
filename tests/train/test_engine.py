"""Training: what moves, what stays to the bit, what seeds decide."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest
from harness import Listener, brightness_pictures, build_network, train

from zoo import backend
from zoo.errors import TrainingError, UnknownName, UsageError
from zoo.plugin import Architecture, Head, Phase, Stage, normalize, registry
from zoo.train import batchnorm, freeze, inputs
from zoo.train.frozen.features import FeatureCacheConfig

SIZE = (32, 32)


def build_tiny(shape):
    import keras

    x = pixels = keras.Input(shape)
    x = normalize(x, "tf")
    for i in (1, 2, 3):
        x = keras.layers.Conv2D(8, 3, strides=2, use_bias=False, name=f"conv{i}")(x)
        x = keras.layers.BatchNormalization(momentum=0.99, name=f"bn{i}")(x)
        x = keras.layers.ReLU(name=f"relu{i}")(x)
    return keras.Model(pixels, x)


@pytest.fixture(scope="module")
def architecture():
    """Three stages of convolution and BatchNorm: what MobileNetV2 has, in a hundredth of the time."""
    return Architecture(
        name="tiny",
        summary="three convolutions",
        build=build_tiny,
        input_size=SIZE,
        min_size=32,
        parameters=1,
        stages=tuple(Stage(f"stage{i}", (f"conv{i}", f"bn{i}")) for i in (1, 2, 3)),
        source="here",
        licence="MIT",
    )


@pytest.fixture(scope="module")
def pictures():
    return brightness_pictures(SIZE, count=48)


def labels_of(pictures):
    return pictures.targets.argmax(axis=1)


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


@pytest.mark.parametrize("selector", ["head", "last:1", "last:2", "from:relu2", "all"])
def test_a_phase_moves_what_it_names_and_nothing_else(architecture, pictures, selector):
    """To the bit: above all BatchNorm's statistics, which Keras 3 moves under `training=False`."""
    phase = Phase(name="x", train=selector, epochs=1, learning_rate=1e-2, optimizer="sgd")
    _, _, _, changed, outcome = run(architecture, pictures, phase)
    expected = {
        "head": [],
        "last:1": ["conv3"],
        "last:2": ["conv2", "conv3"],
        "from:relu2": ["conv3"],
        "all": ["conv1", "conv2", "conv3"],
    }[selector] + ["logits"]
    assert layers_of(changed) == set(expected)
    assert list(outcome.phases[0]["moved_layers"]) == expected


def test_pretrained_batch_norm_keeps_its_statistics_in_every_phase_of_the_default_schedule(plugins, pictures):
    """The same on MobileNetV2 itself, whose statistics Keras 3 would move."""
    network = plugins.architecture("mobilenetv2_035")
    model, before, after, changed, _ = run(network, pictures, *plugins.schedule("full").phases_for(network)[-1:])
    norms = {layer.name for layer in model.layers if type(layer).__name__ == "BatchNormalization"}
    assert len(norms) == 52 and not layers_of(changed) & norms
    assert all(np.array_equal(before[path], after[path]) for path in before if "moving_" in path)
    assert len(layers_of(changed)) == 53


def test_update_moves_the_statistics_and_sets_their_momentum(architecture, pictures):
    phase = Phase(
        name="x", train="all", epochs=1, learning_rate=1e-3, batch_norm="update", batch_norm_momentum=0.5, patience=None
    )
    model, _, _, changed, _ = run(architecture, pictures, phase)
    assert {"bn1/moving_mean", "bn3/moving_variance", "bn1/gamma"} <= changed
    assert model.get_layer("bn1").momentum == 0.5


def test_a_frozen_base_drops_nothing_out(architecture, pictures):
    """`fit` calls the base in training mode too; frozen, it must still be a constant function of the picture."""

    def with_dropout(rate):
        def build(shape):
            import keras

            base = build_tiny(shape)
            return keras.Model(base.input, keras.layers.Dropout(rate, name="drop3")(base.output))

        last = Stage("stage3", ("conv3", "bn3", "drop*"))
        return dataclasses.replace(architecture, build=build, stages=(*architecture.stages[:2], last))

    head = Phase(name="x", train="head", epochs=1, learning_rate=1e-2)
    losses = {}
    for rate in (0.2, 0.8):
        for selector in ("head", "last:1"):
            phase = dataclasses.replace(head, train=selector)
            model, _, _, _, outcome = run(with_dropout(rate), pictures, phase)
            losses[rate, selector] = outcome.history[0]["loss"]
            assert model.get_layer("drop3").rate == rate
    assert losses[0.2, "head"] == losses[0.8, "head"]
    assert losses[0.2, "last:1"] != losses[0.8, "last:1"]


def test_trained_layers_train_again_after_a_frozen_phase(architecture, pictures):
    """Changing `trainable` without compiling anew would silently train the old set."""
    first = Phase(name="a", train="head", epochs=1, learning_rate=1e-2, optimizer="sgd")
    second = Phase(name="b", train="last:1", epochs=1, learning_rate=1e-2, optimizer="sgd")
    # The last epoch is kept, because the first phase may have the best one.
    _, _, _, changed, outcome = run(architecture, pictures, first, second, keep_best=False)
    assert layers_of(changed) == {"conv3", "logits"} and outcome.best_epoch == 2
    assert [phase["moved_layers"] for phase in outcome.phases] == [["logits"], ["conv3", "logits"]]
    assert [row["epoch"] for row in outcome.history] == [1, 2]
    assert [row["phase"] for row in outcome.history] == ["a", "b"]


def test_same_seed_same_bytes_another_seed_others(architecture, pictures):
    light = registry.load().augmentation("light")
    augment = light.build(**light.parameters)
    phase = Phase(name="x", train="last:2", epochs=2, learning_rate=1e-3, lr_schedule="cosine")
    results = [run(architecture, pictures, phase, augment=augment, seed=seed)[2] for seed in (3, 3, 4)]
    assert all(np.array_equal(results[0][path], results[1][path]) for path in results[0])
    assert not np.array_equal(results[0]["logits/kernel"], results[2]["logits/kernel"])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
def test_rate_decay_scales_the_step_of_lower_stages(architecture, pictures, optimizer):
    """The update is scaled, not the gradient, which Adam would undo: a step a stage down is a tenth."""
    steps = {}
    one_batch = inputs.TrainingData(pictures.array, pictures.targets, pictures.train[:12], pictures.val)
    for decay in (1.0, 0.1):
        phase = Phase(name="x", train="last:2", epochs=1, learning_rate=1e-3, optimizer=optimizer, layer_decay=decay)
        _, before, after, _, _ = run(architecture, one_batch, phase)
        steps[decay] = {path: np.abs(after[path] - before[path]).mean() for path in ("conv3/kernel", "conv2/kernel")}
    assert steps[0.1]["conv3/kernel"] == pytest.approx(steps[1.0]["conv3/kernel"], rel=1e-3)
    # Decoupled weight decay is not scaled; it is 0.4 % of the learning rate times weights below 1.
    assert steps[0.1]["conv2/kernel"] == pytest.approx(0.1 * steps[1.0]["conv2/kernel"], rel=0.02)


@pytest.mark.parametrize(
    ("rate", "rising", "first", "last"), [("cosine", 0.1, 0.01, 0.01), ("one-cycle", 0.3, 0.04, 1e-4)]
)
def test_the_rate_rises_and_falls(architecture, pictures, rate, rising, first, last):
    """In every epoch's row stands the rate after its last step."""
    phase = Phase(name="x", train="head", epochs=10, learning_rate=1e-3, lr_schedule=rate, patience=None)
    history = run(architecture, pictures, phase)[4].history
    steps = -(-len(pictures.train) // 12)
    warmup = int(10 * steps * rising)
    for epoch, row in enumerate(history, start=1):
        done = epoch * steps
        if done < warmup:
            expected = first + (1 - first) * done / warmup
        else:
            share = (done - warmup) / (10 * steps - warmup)
            expected = last + (1 - last) * (1 + np.cos(np.pi * share)) / 2
        assert row["learning_rate"] == pytest.approx(1e-3 * expected, rel=1e-4)


def test_gradients_are_clipped(architecture, pictures):
    """One step of SGD moves all weights together by the rate times the norm, where the gradient is greater."""
    one_batch = inputs.TrainingData(pictures.array, pictures.targets, pictures.train[:12], pictures.val)
    moved = {}
    for norm in (None, 1e-3, 1e6):
        phase = Phase(name="x", train="all", epochs=1, learning_rate=0.1, optimizer="sgd", clip_norm=norm)
        _, before, after, _, _ = run(architecture, one_batch, phase)
        moved[norm] = np.sqrt(sum(float(((after[path] - before[path]) ** 2).sum()) for path in before))
    assert moved[1e-3] == pytest.approx(1e-4, rel=1e-2)
    assert moved[None] == pytest.approx(moved[1e6], rel=1e-6) and moved[None] > 1e-3


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


def test_the_loss_of_guessing(pictures):
    """Entropy: ln 2 of two even classes; of one in ten, less; of labels of their own, the mean over them."""
    assert inputs.chance_loss(pictures) == pytest.approx(np.log(2), rel=1e-3)
    targets = np.eye(2, dtype="float32")[(np.arange(40) % 10 == 0).astype(int)]
    rare = inputs.TrainingData(np.zeros((40, 4, 4, 3), np.uint8), targets, np.arange(40), np.arange(1))
    assert inputs.chance_loss(rare) == pytest.approx(0.325, abs=1e-3)
    several = inputs.TrainingData(
        rare.array, np.tile([1.0, 0.0], (40, 1)).astype("float32"), rare.train, rare.val, "multilabel"
    )
    several.targets[::2] = [1, 1]
    assert inputs.chance_loss(several) == pytest.approx(np.log(2) / 2, rel=1e-3)


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


def test_layers_compute_in_bfloat16_while_they_train_and_only_then(architecture, pictures, tmp_path):
    seen = {}
    network = build_network(architecture, SIZE)
    model = network.model

    def note(text):
        if text.startswith("  epoch"):
            seen[int(text.split()[1])] = {layer.name: layer.compute_dtype for layer in model.layers}

    schedule = (
        Phase(name="top", train="last:1", epochs=1, learning_rate=1e-3),
        Phase(name="all", train="all", epochs=5, learning_rate=1e-2, patience=None),
    )
    features = FeatureCacheConfig(folder=tmp_path, always=True)
    config = {"batch_size": 12, "precision": "bfloat16", "features": features}
    outcome = train(network, schedule, pictures, Listener(note), **config)
    low = {epoch: {name for name, kind in kinds.items() if kind == "bfloat16"} for epoch, kinds in seen.items()}
    # What is below the cut is computed by onnxruntime, in float32.
    assert "conv3" in low[1] and "conv2" not in low[1]
    assert {"conv1", "conv2", "conv3", "head_pool"} <= low[6] and not {"logits", "normalize"} & low[6]
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert {str(weight.dtype) for weight in model.weights} == {"float32"}
    _, _, _, _, exact = run(architecture, pictures, *schedule)
    first, same = outcome.history[0]["loss"], exact.history[0]["loss"]
    assert first != same and first == pytest.approx(same, rel=0.02)
    assert outcome.history[-1]["val_accuracy"] >= 0.9


def test_keeps_the_best_epoch_and_stops_early(architecture, pictures):
    """Wrong labels in validation punish a network that grows sure; it must end with the weights of the best epoch."""
    targets = pictures.targets.copy()
    targets[pictures.val[:4]] = 1 - targets[pictures.val[:4]]
    pictures = dataclasses.replace(pictures, targets=targets)
    phase = Phase(name="x", train="head", epochs=30, learning_rate=0.05, optimizer="sgd", patience=3)
    model, _, _, _, outcome = run(architecture, pictures, phase)
    losses = [row["val_loss"] for row in outcome.history]
    assert outcome.best_epoch == int(np.argmin(losses)) + 1
    assert len(losses) < 30 and len(losses) == outcome.best_epoch + 3
    assert losses[-1] > 1.1 * min(losses), "the last epoch must be worse for this to test anything"
    logits_model = backend.start().Model(model.input, model.get_layer("logits").output)
    logits = logits_model.predict_on_batch(pictures.array[pictures.val].astype("float32"))
    shifted = logits - logits.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(12), labels_of(pictures)[pictures.val]] - np.log(np.exp(shifted).sum(axis=1))
    assert -chosen.mean() == pytest.approx(min(losses), rel=1e-3, abs=1e-5)


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_rate(architecture, pictures):
    phase = Phase(name="wild", train="all", epochs=9, learning_rate=99.0, optimizer="sgd", patience=None)
    head = Head(hidden=(64, 64, 64))
    with pytest.raises(TrainingError, match=r"99 .*'wild'.*--learning-rate 9\.9"):
        run(dataclasses.replace(architecture, head=head), pictures, phase, batch_size=4)


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


def test_averages_that_stay_wrong_are_warned_of_with_options_that_help(architecture, pictures, monkeypatch):
    """No accuracy exceeds that of training by this limit, so that the averages count as wrong."""
    monkeypatch.setattr(batchnorm, "LAG_ALLOWED", -1.5)
    phase = Phase(name="x", train="all", epochs=1, learning_rate=1e-3, batch_norm="update", patience=None)
    (warning,) = run(architecture, pictures, phase)[4].warnings
    assert "more --epochs or a smaller --batch-size. In a TOML schedule, you can also" in warning


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


def test_selectors_that_fit_nothing(architecture):
    with pytest.raises(UsageError, match="3 stages"):
        freeze.select(architecture, [], "last:4")
    with pytest.raises(UnknownName, match="Did you mean block_13_expand"):
        freeze.select(architecture, ["block_13_expand", "Conv_1"], "from:block13_expand")


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


def test_views_are_computed_once_and_take_turns(architecture, pictures):
    """Two views of 36 pictures are altered once, and the third epoch sees the first again."""
    seen = []

    def spy(images, labels, seeds):
        seen.append(len(images))
        return np.clip(images + (seeds % np.uint64(50)).astype("float32")[:, None, None, None], 0, 255), labels

    phase = Phase(name="x", train="head", epochs=5, learning_rate=1e-3, views=2)
    run(architecture, pictures, phase, augment=spy)
    assert sum(seen) == 2 * 36
    seen.clear()
    run(architecture, pictures, dataclasses.replace(phase, views=None), augment=spy)
    # Keras looks at a batch before the first step.
    assert sum(seen) >= 5 * 36
