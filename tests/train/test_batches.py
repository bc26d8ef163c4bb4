"""Batches and views: what is in them, in which order, and what seeds decide."""

from __future__ import annotations

import numpy as np
import pytest
from harness import brightness_pictures

from zoo.data.augment import picture_seeds
from zoo.errors import HostsError, TrainingError
from zoo.train import inputs
from zoo.train.batches import augmented, make_batches, plain


@pytest.fixture(scope="module")
def pictures():
    return brightness_pictures((32, 32), count=48)


def test_a_few_pictures_too_many_for_whole_batches_go_with_the_last(pictures):
    take = plain(pictures.array, pictures.targets)
    batches = make_batches(take, np.arange(25), batch_size=12, seed=0, shuffle=True)
    assert [len(batches[i][0]) for i in range(len(batches))] == [12, 13]
    unshuffled = make_batches(take, np.arange(25), batch_size=12)
    assert [len(unshuffled[i][0]) for i in range(len(unshuffled))] == [12, 12, 1]


def test_order_and_augmentation_depend_on_seed_epoch_and_picture_alone(pictures):
    seen = []

    def spy(images, labels, seeds):
        seen.append(seeds)
        return images, labels

    def epoch(seed, number, batch_size):
        seen.clear()
        batches = make_batches(
            augmented(pictures.array, pictures.targets, spy, seed),
            pictures.train,
            batch_size=batch_size,
            seed=seed,
            first_epoch=number,
            shuffle=True,
        )
        given = np.concatenate([batches[i][0] for i in range(len(batches))])
        return given, np.concatenate(seen)

    first, seeds = epoch(0, 0, 10)
    again, seeds_again = epoch(0, 0, 7)
    assert np.array_equal(first, again) and np.array_equal(seeds, seeds_again)
    assert not np.array_equal(first, epoch(0, 1, 10)[0]) and not np.array_equal(first, epoch(1, 0, 10)[0])
    assert len(set(seeds.tolist())) == len(pictures.train)
    assert set(seeds.tolist()) & set(epoch(0, 1, 10)[1].tolist()) == set()
    assert picture_seeds(5, 2, np.array([7]))[0] == picture_seeds(5, 2, np.array([3, 7]))[1]


def test_views_are_what_the_first_epochs_would_see(pictures, tmp_path):
    from zoo.train import views

    def shifted(images, labels, seeds):
        return np.clip(images + (seeds % np.uint64(50)).astype("float32")[:, None, None, None], 0, 255), labels

    rows = pictures.train[3:20]
    done = []
    computed = views.compute(
        views.Views(pictures.array, rows, pictures.targets, shifted, 2, 5),
        folder=tmp_path / "views",
        progress=lambda *counts: done.append(counts),
    )
    assert done[-1] == (34, 34) and list((tmp_path / "views").iterdir()) == []
    common = {"batch_size": 4, "seed": 5, "shuffle": True}
    for epoch in range(4):
        ahead = make_batches(computed, rows, first_epoch=epoch, **common)
        afresh = augmented(pictures.array, pictures.targets, shifted, 5)
        online = make_batches(afresh, rows, first_epoch=epoch, **common)
        equal = [np.array_equal(ahead[i][0], np.rint(online[i][0])) for i in range(len(ahead))]
        assert all(equal) if epoch < 2 else not any(equal)
        assert all(np.array_equal(ahead[i][1], online[i][1]) for i in range(len(ahead)))


@pytest.mark.parametrize(("team", "kind"), [(None, TrainingError), ("a team", HostsError)])
def test_views_that_do_not_fit_the_disk_are_refused(pictures, tmp_path, monkeypatch, team, kind):
    """Of several processes, the others have room, so that no error of training ends them too."""
    from zoo.train import views

    monkeypatch.setattr("zoo.hosts.current", lambda: team)
    with pytest.raises(kind, match="fewer --views"):
        views.compute(
            views.Views(pictures.array, pictures.train, pictures.targets, lambda *given: given[:2], 10**10, 0),
            folder=tmp_path,
            progress=lambda *counts: None,
        )


def test_balanced_weights_make_every_class_count_alike():
    """Over the training pictures the weights of each class sum to the same, and are 1 on average."""
    targets = np.zeros((60, 3), "float32")
    targets[:40, 0] = targets[40:55, 1] = targets[55:, 2] = 1
    uneven = inputs.TrainingData(np.zeros((60, 4, 4, 3), np.uint8), targets, np.arange(0, 60, 2), np.arange(1, 60, 2))
    weights = inputs.class_weights(uneven)
    counts = targets[::2].sum(axis=0)
    assert counts.tolist() == [20, 8, 2] and (weights * counts).tolist() == pytest.approx([10, 10, 10])
    # Of a mixture, by its shares; a single unit keeps the weights of both its classes.
    mixed = np.array([[0.5, 0.5, 0], [0, 0, 1]], "float32")
    (batch,) = [*make_batches(lambda epoch, rows: (rows, mixed), np.arange(2), batch_size=2, class_weights=weights)]
    assert batch[2].tolist() == pytest.approx([(0.5 + 1.25) / 2, 5]) and batch[2].dtype == np.float32
    (batch,) = [
        *make_batches(
            lambda epoch, rows: (rows, mixed[:, :2]),
            np.arange(2),
            batch_size=2,
            single_unit=True,
            class_weights=np.array([3, 1], "float32"),
        )
    ]
    assert batch[1].shape == (2, 1) and batch[2].tolist() == [2, 0]
