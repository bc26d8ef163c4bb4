"""Recalibration of BatchNorm: why it measures the running averages again, and what it says about it."""

from __future__ import annotations

import numpy as np
import pytest
from harness import SIZE, build_network, run

from zoo.plugin import Phase
from zoo.train import batchnorm, fitting, freeze
from zoo.train.batches import Batching, PhaseInputs, plain
from zoo.train.batchnorm import BatchNormRecalibration
from zoo.train.epochs import BestWeights

PHASE = Phase(name="x", train="all", epochs=1, learning_rate=1e-3, batch_norm="update")


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        (1, "BatchNorm's running averages were still near their initial values after 1 step. zoo measured"),
        (10_000, "averages did not match the weights: training pictures scored 1.000 in training. zoo measured"),
    ],
)
def test_averages_are_measured_again_for_one_of_two_reasons(architecture, pictures, listener, steps, why):
    network = build_network(architecture, SIZE)
    trainable = freeze.set_trainable(network, PHASE, freeze.layer_defaults(network.model))
    norm = network.model.get_layer("bn1")
    norm.moving_mean.assign(np.full(8, 1e4, "float32"))
    model, unaltered = network.logits_model, plain(pictures.array, pictures.targets)
    fitting.compile_for(model, PHASE, 3, trainable.lr_multipliers, "multiclass", 0.0)
    part = PhaseInputs(model, unaltered, unaltered)
    recalibration = BatchNormRecalibration(part, model, pictures, Batching(batch_size=12), 0, listener)
    best = BestWeights(True)
    best.offer(1e9, 1, model)
    warnings = recalibration.recalibrate(steps, 1.0, best, PHASE)
    assert why in listener.said[0] and "Accuracy on training pictures with them: 0.500 before" in listener.said[0]
    # The weights are random, so that no averages can give the accuracy that is claimed here.
    (warning,) = warnings
    assert "phase 'x': BatchNorm's running averages do not match the weights." in warning and warning in listener.said
    assert np.abs(norm.moving_mean.numpy()).max() < 1e3 and best.loss < 1e9
    assert np.array_equal(best.weights[0], model.get_weights()[0])


def test_averages_that_fit_stay(architecture, pictures, listener):
    network = build_network(architecture, SIZE)
    trainable = freeze.set_trainable(network, PHASE, freeze.layer_defaults(network.model))
    model, unaltered = network.logits_model, plain(pictures.array, pictures.targets)
    fitting.compile_for(model, PHASE, 3, trainable.lr_multipliers, "multiclass", 0.0)
    part, before = PhaseInputs(model, unaltered, unaltered), model.get_weights()
    recalibration = BatchNormRecalibration(part, model, pictures, Batching(batch_size=12), 0, listener)
    assert recalibration.recalibrate(10_000, 0.0, BestWeights(True), PHASE) == [] == listener.said
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_averages_that_stay_wrong_are_warned_of_with_options_that_help(architecture, pictures, monkeypatch):
    """No accuracy exceeds that of training by this limit, so that the averages count as wrong."""
    monkeypatch.setattr(batchnorm, "LAG_ALLOWED", -1.5)
    phase = Phase(name="x", train="all", epochs=1, learning_rate=1e-3, batch_norm="update", patience=None)
    (warning,) = run(architecture, pictures, phase)[4].warnings
    assert "more --epochs or a smaller --batch-size. In a TOML schedule, you can also" in warning
