"""Fitting one phase: learning rates, clipping, precision, early stopping, the best epoch, and errors of batches."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
from harness import SIZE, Listener, build_network, labels_of, run, train

from zoo import backend
from zoo.errors import TrainingError
from zoo.plugin import Head, Phase
from zoo.train import fitting, inputs
from zoo.train.epochs import BestWeights
from zoo.train.frozen.features import FeatureCacheConfig


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


@pytest.mark.parametrize(("patience", "epochs"), [(1, "1 epoch"), (2, "2 epochs")])
def test_an_early_end_is_reported(architecture, pictures, patience, epochs):
    """All labels in validation are wrong, so that its loss rises from the start."""
    targets = pictures.targets.copy()
    targets[pictures.val] = 1 - targets[pictures.val]
    reporter = Listener()
    phase = Phase(name="x", train="head", epochs=9, learning_rate=0.05, optimizer="sgd", patience=patience)
    run(architecture, dataclasses.replace(pictures, targets=targets), phase, reporter=reporter)
    assert f"  the phase ends early: the validation loss has not improved for {epochs}" in reporter.said


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


@pytest.mark.parametrize(("keep_best", "kept"), [(True, (0.2, 2)), (False, (0.5, 3))])
def test_the_epoch_that_is_kept(keep_best, kept):
    best = BestWeights(keep_best)
    for epoch, loss in enumerate((0.3, 0.2, 0.5), start=1):
        best.offer(loss, epoch, types.SimpleNamespace(get_weights=lambda epoch=epoch: [np.full(2, epoch)]))
    assert (best.loss, best.epoch) == kept and best.weights[0].tolist() == [kept[1]] * 2


@pytest.mark.parametrize(
    ("failed", "error", "message"),
    [
        (
            OSError("stale file handle"),
            TrainingError,
            "features of phase 'x' could not be read: stale file",
        ),
        (ValueError("no such view"), ValueError, "^no such view$"),
        (None, RuntimeError, "^the words of the backend$"),
    ],
)
def test_an_error_of_the_batches_is_raised_as_it_is(failed, error, message):
    phase = Phase(name="x", train="head", epochs=1, learning_rate=1e-3)
    sound, broken = (types.SimpleNamespace(failed=each) for each in (None, failed))
    with pytest.raises(error, match=message), fitting.reading(phase, sound, broken):
        raise RuntimeError("the words of the backend")
