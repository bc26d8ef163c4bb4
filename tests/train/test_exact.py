"""Phases with the optimizer "exact": the head is solved on the training pictures, exported, and recorded."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from harness import SIZE, build_network, train

from zoo.errors import InvalidPluginData
from zoo.plugin import Head, Phase
from zoo.testing import randomize
from zoo.train import linear_head

EXACT = Phase(name="head", train="head", epochs=2, learning_rate=1e-3, optimizer="exact", augment=False)


def features_of(network, pictures, rows):
    import keras

    pool = keras.Model(network.model.input, network.model.get_layer("head_pool").output)
    return np.asarray(pool.predict_on_batch(pictures.array[rows].astype("float32")))


def test_the_head_is_that_of_scipy_on_the_features_of_training_pictures(architecture, pictures):
    network = build_network(architecture, SIZE)
    randomize(network.model)
    features = features_of(network, pictures, pictures.train)
    below = [layer.get_weights() for layer in network.model.layers if layer.name != "logits"]
    result = train(network, [EXACT], pictures)
    expected = linear_head.solve([features], pictures.targets[pictures.train])
    kernel, bias = network.model.get_layer("logits").get_weights()
    assert np.abs(kernel - expected.kernel).max() < 1e-3 * np.abs(expected.kernel).max()
    assert np.abs(bias - expected.bias).max() < 1e-3 * max(1, np.abs(expected.bias).max())
    after = [layer.get_weights() for layer in network.model.layers if layer.name != "logits"]
    assert all(np.array_equal(a, b) for x, y in zip(below, after, strict=True) for a, b in zip(x, y, strict=True))
    (row,), (record,) = result.history, result.phases
    assert result.best_epoch == 1 and record["epochs_run"] == 1 and record["moved_layers"] == ["logits"]
    assert record["solution"]["folds"] == 5 and record["solution"]["penalty"] == pytest.approx(expected.penalty)
    assert record["solution"]["fold_loss"] == pytest.approx(expected.loss, rel=1e-2)
    logits = np.asarray(network.logits_model.predict_on_batch(pictures.array[pictures.val].astype("float32")))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = pictures.targets[pictures.val] > 0
    assert row["val_loss"] == pytest.approx(-np.log(probabilities[truth]).mean(), rel=1e-2, abs=1e-7)
    assert row["val_accuracy"] == pytest.approx((logits.argmax(axis=1) == truth.argmax(axis=1)).mean())


@pytest.mark.parametrize("config", [{}, {"label_smoothing": 0.2}, {"balance": True}])
def test_gradients_go_on_from_the_solved_head(architecture, pictures, listener, config):
    network = build_network(architecture, SIZE)
    randomize(network.model)
    top = Phase(name="top", train="last:1", epochs=1, learning_rate=1e-5)
    if "balance" in config:
        # A rare class in training, and it alone in validation, so that its weight multiplies the loss.
        rare = pictures.targets[:, 1] > 0
        train_rows = np.array([*pictures.train[~rare[pictures.train]], *pictures.train[rare[pictures.train]][:4]])
        val = pictures.val[rare[pictures.val]]
        pictures = dataclasses.replace(pictures, train=np.sort(train_rows), val=val)
    result = train(network, [EXACT, top], pictures, reporter=listener, **config)
    # At so low a rate, the loss of the first epoch is about the one at which the solved head left it.
    assert result.history[1]["val_loss"] == pytest.approx(result.history[0]["val_loss"], rel=0.05, abs=1e-6)
    assert [row["epoch"] for row in result.history] == [1, 2]


def test_a_head_with_hidden_layers_is_trained_and_that_is_said(architecture, pictures, listener):
    head = Head(hidden=(4,))
    network = build_network(architecture, SIZE, head=head)
    result = train(network, [EXACT], pictures, head=head, reporter=listener)
    assert len(result.history) == 2 and "solution" not in result.phases[0]
    assert any("adam at 0.001 (constant); it is not solved, because it has hidden layers" in x for x in listener.said)


@pytest.mark.parametrize("changes", [{"train": "all"}, {"augment": True}])
def test_only_phases_of_the_head_on_unaltered_pictures_are_exact(changes):
    values = {"name": "x", "train": "head", "augment": False, **changes}
    with pytest.raises(InvalidPluginData, match="'exact' needs train = 'head' and augment = false"):
        Phase(epochs=1, learning_rate=1e-3, optimizer="exact", **values)


@pytest.mark.slow
def test_the_schedule_from_the_command_line(zoo, photos, tmp_path):
    folders = ("--runs", tmp_path / "runs", "--exported", tmp_path / "exported")
    command = ("finetune", "mobilenetv2_035", "--data", photos, "--size", 32, "--weights", "none", *folders)
    weights = []
    for name in ("one", "two"):
        ran = zoo(*command, "--schedule", "exact-head", "--name", name)
        assert ran.code == 0, ran.err
        assert "Head: solved on the features of the top" in ran.out
        weights.append((tmp_path / "exported" / name / "model.onnx").stat().st_size)
    first, second = sorted((tmp_path / "runs").iterdir())
    records = [json.loads((run / "run.json").read_text()) for run in (first, second)]
    assert records[0]["phases"][0]["solution"] == records[1]["phases"][0]["solution"]
    assert (first / "history.csv").read_text().splitlines()[1].startswith("head,1,0.0,")
    assert zoo("plot", first, "--output", tmp_path / "curves.png").code == 0
    assert zoo(*command, "--schedule", "exact-head", "--augment", "light").code == 2
