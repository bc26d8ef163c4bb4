"""The bounded cache on the disk: its precision, and what gives way to what."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from harness import brightness_pictures, feature_cache, network_in_phase, phase_inputs

from zoo import files
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


CREATE = """
import sys
from pathlib import Path
import numpy as np
from zoo.train.frozen.store import FeatureSet
rows, value = np.arange(200), np.arange(200, dtype="float32")[:, None] + 1
for turn in range(60):
    one = FeatureSet(Path(sys.argv[1]) / str(turn), 200, (1,), False)
    missing = one.missing(rows)
    one.write(missing, value[missing])
    one.finish(missing)
    assert (one[rows] == value).all()
    one.close()
"""


def test_two_processes_that_create_and_fill_the_same_sets(tmp_path):
    """Whatever counts as computed is in the files that later runs find, also where both create a set at once."""
    # What an earlier version left half-created is in the way.
    for turn in range(0, 60, 3):
        (tmp_path / str(turn)).mkdir()
        (tmp_path / str(turn) / "values").write_bytes(b"half")
    command = [sys.executable, "-c", CREATE, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(process.communicate()[1], process.returncode) for process in processes] == [("", 0)] * 2
    rows = np.arange(200)
    for turn in range(60):
        one = store.FeatureSet(tmp_path / str(turn), 200, (1,), False)
        done = np.setdiff1d(rows, one.missing(rows))
        assert np.array_equal(one[done][:, 0], done + 1)
        one.close()
    assert len(list(tmp_path.iterdir())) == 60


def test_a_set_that_is_removed_while_it_is_open_stays_usable(tmp_path):
    rows, values = np.arange(10), np.ones((10, 3), "float32")
    one = store.FeatureSet(tmp_path / "set", 10, (3,), False)
    shutil.rmtree(tmp_path)
    one.write(rows, values)
    one.finish(rows)
    assert np.array_equal(one[rows], values) and len(one.missing(rows)) == 0
    again = store.FeatureSet(tmp_path / "set", 10, (3,), False)
    assert len(again.missing(rows)) == 10
    again.close()
    one.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows does not remove open files")
def test_a_set_is_in_use_until_it_is_closed(tmp_path):
    spec = store.FeatureSetSpec("of pictures 123", 4, np.arange(4), (2,))
    (one,) = store.Cache(tmp_path, 1 << 20).open([spec])
    assert files.in_use(one.folder) and (one.folder / store.KEY).read_text() == "of pictures 123"
    one.close()
    assert not files.in_use(one.folder)
