"""The bounded cache on the disk: its precision, and what gives way to what."""

from __future__ import annotations

import numpy as np
from harness import brightness_pictures, feature_cache, network_in_phase, phase_inputs

from zoo.train.frozen import store
from zoo.train.frozen.cut import find_cut

SIZE = (64, 64)


def test_a_tight_cache_keeps_sixteen_bits_a_number(tmp_path):
    data = brightness_pictures(SIZE, 1)
    network = network_in_phase("mnist_convnet", "last:1")
    cut = find_cut(network.logits_model)
    exact = phase_inputs(network, data, feature_cache(tmp_path / "a", data)).train(0, data.train)[0]
    made = feature_cache(tmp_path / "b", data, limit=int(40 * cut.floats * 2.5))
    close = phase_inputs(network, data, made).train(0, data.train)[0]
    assert made.stats.bytes == 40 * cut.floats * 2 and made.stats.numbers == "16-bit fixed point"
    for a, b in zip(exact, close, strict=True):
        assert 0 < np.abs(a - b).max() / np.abs(a).max() <= 1e-4


def test_no_room_is_made_in_vain(tmp_path):
    rows = np.arange(10)
    cache = store.Cache(tmp_path, limit=10_000)
    (kept,) = cache.open([store.FeatureSetSpec("a", 10, rows, (50,))])
    kept.write(rows, np.ones((10, 50), "float32"))
    kept.finish(rows)
    assert store.Cache(tmp_path, limit=10_000).open([store.FeatureSetSpec("b", 10, rows, (5000,))]) is None
    (found,) = store.Cache(tmp_path, limit=10_000).open([store.FeatureSetSpec("a", 10, rows, (50,))])
    assert len(found.missing(rows)) == 0


def test_other_sets_give_way_to_new_ones(tmp_path):
    data = brightness_pictures(SIZE, 1)
    network = network_in_phase("mnist_convnet", "last:1")
    size = 40 * find_cut(network.logits_model).floats * 4
    for name in ("a", "b", "c"):
        phase_inputs(network, data, feature_cache(tmp_path, data, pictures=name, limit=int(2.5 * size)))
    assert len(list(tmp_path.iterdir())) == 2
    for name, computed in (("c", 0), ("b", 0), ("a", 40)):
        made = feature_cache(tmp_path, data, pictures=name, limit=int(2.5 * size))
        phase_inputs(network, data, made)
        assert made.stats.computed == computed
