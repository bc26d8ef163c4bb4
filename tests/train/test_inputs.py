"""The inputs of a phase: class weights, the chance level, augmented pictures and views."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from harness import SIZE, Listener, build_network, run

from zoo.plugin import Phase
from zoo.train import inputs


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


def test_only_training_pictures_of_phases_that_augment_are_altered(architecture, pictures):
    network = build_network(architecture, SIZE)
    first = Phase(name="a", train="head", epochs=1, learning_rate=1e-3)
    pipeline = inputs.InputPipeline(pictures, lambda images, labels, seeds: (255 - images, labels), 0, None, Listener())
    pipeline.plan([first, dataclasses.replace(first, augment=False)], [None, None], [network, network])
    rows, given = pictures.train[:4], [pipeline.for_phase(i) for i in (0, 1)]
    altered, unaltered = (each.train(0, rows)[0] for each in given)
    assert np.array_equal(altered, 255.0 - pictures.array[rows]) and np.array_equal(unaltered, pictures.array[rows])
    for each in given:
        assert np.array_equal(each.validation(0, rows)[0], pictures.array[rows])
        assert np.array_equal(each.train(0, rows)[1], pictures.targets[rows])
        assert each.trained_part is network.logits_model
    assert pipeline.stats.computed == 0
