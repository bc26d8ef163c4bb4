"""Which head is chosen, and what has to be shown before more is trained."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

from zoo.plugin import Head
from zoo.train import evidence, linear_head
from zoo.train.evidence import choose_head

OPTIONS = {"task": "multiclass", "copies": None, "weights": None, "label_smoothing": 0.0, "folds": None, "seed": 0}


def features(count: int, informative: int, noise: int, seed: int = 0):
    """Return features of 3 classes, of which only the first ones say anything, and one-hot targets."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), count)
    centres = np.random.default_rng(99).normal(0, 1, (3, informative))
    values = rng.normal(0, 1.5, (3 * count, informative + noise))
    values[:, :informative] += centres[labels]
    return values.astype("float32"), np.eye(3, dtype="float32")[labels]


def test_lower_stages_are_read_only_if_held_out_pictures_gain_from_it():
    top, targets = features(40, 6, 30)
    useful, _ = features(40, 12, 0, seed=1)
    useless, _ = features(40, 0, 60, seed=2)
    chosen = choose_head([top, useful], targets, Head(), **OPTIONS)
    assert (chosen.head.stages, chosen.groups, list(chosen.others)) == (2, 2, [1])
    assert chosen.fit.kernel.shape == (48, 3) and chosen.fit.loss < chosen.others[1]
    chosen = choose_head([top, useless], targets, Head(), **OPTIONS)
    assert (chosen.head.stages, chosen.groups, list(chosen.others)) == (1, 1, [2])
    assert chosen.fit.kernel.shape == (36, 3) and chosen.fit.loss <= chosen.others[2]


def test_both_heads_hold_out_the_same_pictures_where_only_one_problem_is_large(monkeypatch):
    top, targets = features(40, 6, 30)
    useful, _ = features(40, 12, 0, seed=1)
    monkeypatch.setattr(linear_head, "LARGE", 120 * 40 * 3)
    monkeypatch.setattr(evidence, "CLEAR", 100.0)
    fit = choose_head([top, useful], targets, Head(), **OPTIONS).fit
    assert (fit.folds, len(fit.fold_heads), len(fit.losses)) == (1, 1, 24)
    # A user who asks for folds gets all of them.
    fit = choose_head([top, useful], targets, Head(), **{**OPTIONS, "folds": 4}).fit
    assert (fit.folds, len(fit.fold_heads), len(fit.losses)) == (4, 4, 120)


def test_errors_are_counted_in_the_folds_that_would_be_held_out():
    top, targets = features(30, 2, 10)
    fit = choose_head([top], targets, Head(), **OPTIONS).fit
    wrong = fit.logits.argmax(axis=1) != targets.argmax(axis=1)
    assert evidence.errors_of(fit, targets, "multiclass") == (wrong.sum(), 90)
    first = fit.fold_of < 2
    assert evidence.errors_of(fit, targets, "multiclass", 2) == (wrong[first].sum(), first.sum())


@pytest.mark.parametrize(("stages", "read"), [(1, 1), (2, 2), (3, 2), (9, 4), (14, 5)])
def test_more_stages(stages, read):
    assert evidence.more_stages(stages) == read


def test_a_penalty_of_the_user_reads_the_top_alone():
    top, targets = features(20, 6, 10)
    chosen = choose_head([top, top], targets, dataclasses.replace(Head(), weight_l2=0.01), **OPTIONS)
    assert (chosen.groups, chosen.fit.penalty) == (1, 0.02)


def test_a_head_that_an_earlier_version_recorded_is_read():
    """It had rows of NaN for pictures that were not held out, and no list of the others."""
    top, targets = features(20, 6, 0)
    chosen = choose_head([top], np.pad(targets, ((0, 0), (0, 1))), Head(), **OPTIONS | {"folds": 3})
    fit = dataclasses.replace(chosen.fit, rows=chosen.fit.rows[1:], logits=chosen.fit.logits[1:])
    fit = dataclasses.replace(fit, losses=fit.losses[1:], fold_of=np.where(np.arange(60) == 0, -1, fit.fold_of))
    stored = evidence.to_values(dataclasses.replace(chosen, fit=fit))
    arrays = {name: values for name, values in stored.arrays.items() if name != "rows"}
    arrays |= {name: np.concatenate([arrays[name][:1] * np.nan, arrays[name]]) for name in ("logits", "losses")}
    read = evidence.from_values(dataclasses.replace(stored, arrays=arrays)).fit
    for name in ("rows", "logits", "losses"):
        assert np.array_equal(getattr(read, name), getattr(fit, name))


def test_a_large_head_is_solved_in_the_thread_that_receives_signals(monkeypatch):
    """Leaving a pool of threads waits for them, and a large head takes minutes."""
    top, targets = features(20, 6, 0)
    monkeypatch.setattr(evidence.head_blocks, "LARGEST", 0)
    threads = []

    def interrupted(*_, **__):
        threads.append(threading.current_thread())
        raise KeyboardInterrupt

    monkeypatch.setattr(linear_head, "solve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        choose_head([top, top], targets, Head(), **OPTIONS)
    assert threads == [threading.main_thread()]
