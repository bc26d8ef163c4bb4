"""What a phase trains: layers, statistics of BatchNorm, dropout, and factors on the learning rate."""

from __future__ import annotations

import dataclasses

import pytest
from harness import SIZE, build_network, build_tiny, layers_of, run

from zoo.errors import UnknownName, UsageError
from zoo.plugin import Phase, Stage
from zoo.train import freeze


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


def test_selectors_that_fit_nothing(architecture):
    with pytest.raises(UsageError, match="3 stages"):
        freeze.select(architecture, [], "last:4")
    with pytest.raises(UnknownName, match="Did you mean block_13_expand"):
        freeze.select(architecture, ["block_13_expand", "Conv_1"], "from:block13_expand")


def test_what_trains_is_counted_and_has_its_factors(architecture):
    network = build_network(architecture, SIZE)
    phase = Phase(name="x", train="all", epochs=1, learning_rate=1e-3, layer_decay=0.5)
    trainable = freeze.set_trainable(network, phase, freeze.layer_defaults(network.model))
    assert trainable.layers == ("conv1", "conv2", "conv3", "logits")
    assert trainable.parameters == 3 * 9 * 8 + 2 * (8 * 9 * 8) + 8 * 2 + 2
    assert trainable.total == trainable.parameters + 3 * 4 * 8
    factors = {"conv1/kernel": 0.25, "conv2/kernel": 0.5, "conv3/kernel": 1, "logits/kernel": 1, "logits/bias": 1}
    assert trainable.lr_multipliers == factors
    head = freeze.set_trainable(network, dataclasses.replace(phase, train="head"), freeze.layer_defaults(network.model))
    assert head.layers == ("logits",) and head.parameters == 18
