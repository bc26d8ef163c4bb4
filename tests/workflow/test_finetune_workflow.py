"""The steps of fine-tuning: what training may see, its settings, and what a failure leaves behind."""

from __future__ import annotations

import json

import numpy as np
import pytest

from zoo import config
from zoo.config import FinetuneConfig
from zoo.reporter import Reporter
from zoo.testing import randomize
from zoo.train.network import build_backbone
from zoo.workflow import finetune as workflow


def request(photos, **others):
    values = {"architecture": "mnist_convnet", "data": str(photos), "size": (28, 28), "weights": "none"}
    return FinetuneConfig(**{**values, **others})


def test_training_sees_all_pictures_but_those_of_the_test(plugins, photos):
    resolved = config.resolve(request(photos, val_split=0.25, seed=3), plugins, Reporter())
    dataset = workflow.load_dataset(resolved, Reporter())
    data = workflow.training_data(dataset)
    test = set(dataset.split.test.tolist())
    assert len(data.train) + len(data.val) + len(test) == 72 and len(test) == 12
    assert not test & {*data.train.tolist(), *data.val.tolist()} and not set(data.train.tolist()) & set(
        data.val.tolist()
    )
    assert data.array.shape == (72, 28, 28, 1) and data.task == "multiclass"
    for rows in (data.train, data.val):
        counts = data.targets[rows].sum(axis=0)
        assert counts.max() == counts.min() > 0
    again = workflow.load_dataset(resolved, Reporter()).split
    assert np.array_equal(again.train, data.train) and np.array_equal(again.val, data.val)


@pytest.mark.parametrize(("cache_size", "always"), [(None, False), (0, True), (10**6, True)])
def test_settings_of_training_come_from_the_request(plugins, photos, cache_size, always):
    asked = request(
        photos, cache_size=cache_size, batch_size=7, seed=5, keep_best=False, label_smoothing=0.1, balance=True
    )
    resolved = config.resolve(asked, plugins, Reporter())
    settings = workflow.train_config(resolved, workflow.load_dataset(resolved, Reporter()))
    assert (settings.batch_size, settings.seed, settings.keep_best) == (7, 5, False)
    assert (settings.label_smoothing, settings.balance, settings.augment) == (0.1, True, None)
    # A size that the user gives also decides that the cache is used.
    assert (settings.features.limit, settings.features.always) == (cache_size, always)


def test_a_failure_is_recorded_and_nothing_is_exported(plugins, photos, tmp_path, monkeypatch):
    from zoo.train import engine

    def fail(*arguments, **options):
        raise MemoryError("no room")

    monkeypatch.setattr(engine, "train", fail)
    asked = request(photos, runs=tmp_path / "runs", exported=tmp_path / "exported")
    with pytest.raises(MemoryError):
        workflow.finetune(asked, plugins, Reporter())
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "run.json").read_text())["status"] == "failed: MemoryError: no room"
    assert sorted(path.name for path in run.iterdir()) == ["config.toml", "pictures.csv", "run.json", "unfinished"]
    assert not (tmp_path / "exported").exists()


def test_files_of_equal_arrays_give_equal_networks_whatever_their_format(plugins, photos, tmp_path):
    """Head and all: reading a file draws no random numbers."""
    backbone = build_backbone(plugins.architecture("mnist_convnet"), (28, 28))
    randomize(backbone)
    networks = []
    for name in ("weights.keras", "weights.h5"):
        backbone.save(tmp_path / name)
        resolved = config.resolve(request(photos, weights=str(tmp_path / name), seed=4), plugins, Reporter())
        networks.append(workflow.build_network(resolved, plugins, Reporter()).model.get_weights())
    assert all(a.tobytes() == b.tobytes() for a, b in zip(*networks, strict=True))
    loaded = zip(backbone.get_weights(), networks[0], strict=False)
    assert all(np.array_equal(a, b) for a, b in loaded) and len(networks[0]) > len(backbone.get_weights())
