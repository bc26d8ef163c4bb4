"""The same command with the same seed gives the same weights, whatever the threads, the place and the order of files.

`pytest tests/end_to_end/test_determinism.py -m slow -s` prints the sha256 of each way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.data import in_threads
from zoo.export.weights_digest import weights_sha256

QUICK = ("--size", 28, "--epochs", 2, "--batch-size", 8, "--weights", "none", "--dropout", 0.3, "--name", "shapes")
# Starts `zoo` with a number of decoding threads, and lists folders backwards if that number is odd.
STARTER = """
import os, sys
from zoo import cli
from zoo.data import in_threads
threads, *arguments = sys.argv[1:]
if int(threads):
    in_threads.usable_cores = lambda: int(threads)
if int(threads) % 2:
    scandir, listdir = os.scandir, os.listdir
    class Backwards:
        def __init__(self, path): self.entries = list(scandir(path))[::-1]
        def __enter__(self): return iter(self.entries)
        def __exit__(self, *error): pass
        def __iter__(self): return iter(self.entries)
        def close(self): pass
    os.scandir, os.listdir = Backwards, lambda path=".": listdir(path)[::-1]
sys.argv = ["zoo", *arguments]
cli.run()
"""


@pytest.mark.slow
def test_another_place_and_other_decoding_threads_give_the_same_weights(zoo, photos, tmp_path, monkeypatch):
    digests = []
    for place, threads in (("here", 1), ("there", 5)):
        monkeypatch.setenv("ZOO_CACHE", str(tmp_path / place / "cache"))
        monkeypatch.setattr(in_threads, "usable_cores", lambda threads=threads: threads)
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        data = photos if place == "here" else os.path.relpath(photos)
        ran = zoo("finetune", "mnist_convnet", "--data", data, *QUICK, "--allow-chance")
        assert ran.code == 0, ran.err
        digests.append(weights_sha256(Path("exported", "shapes", "model.onnx")))
        (run,) = Path("runs").iterdir()
        assert json.loads((run / "run.json").read_text())["weights_sha256"] == digests[-1]
    assert digests[0] == digests[1]


THREADS, NO_CACHE = "one thread in TensorFlow", "no feature cache"
# What differs, the number of decoding threads, environment variables, and options.
WAYS = [
    ("as before", 0, {}, ()),
    # Several things at once: equal bytes clear all of them.
    ("one decoding thread, another hash seed", 1, {"PYTHONHASHSEED": "7"}, ()),
    (
        "seven decoding threads, folders listed backwards, another language and time zone",
        *(7, {"LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Apia"}, ()),
    ),
    ("the same cache", 0, {"ZOO_CACHE": "cache of the first"}, ()),
    # The sums of TensorFlow come in another order, and Keras computes the frozen layers in place of ONNX Runtime.
    (THREADS, 0, {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}, ()),
    (NO_CACHE, 0, {}, ("--cache-size", 0)),
]
SCHEDULES = [("scratch", ()), ("head-only", ("--schedule", "head-only", "--cache-size", "50MB"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        pytest.param(name, options, id=name, marks=pytest.mark.every if name == "head-only" else ())
        for name, options in SCHEDULES
    ],
)
def test_everything_else_may_differ(photos, tmp_path, schedule, options):
    digests = {}
    for number, (what, threads, environment, more) in enumerate(WAYS):
        place = tmp_path / f"place {number}"
        place.mkdir()
        variables = {**os.environ, "ZOO_CACHE": str(tmp_path / "cache" / str(number)), **environment}
        if what == "the same cache":
            variables["ZOO_CACHE"] = str(tmp_path / "cache" / "0")
        words = ["finetune", "mnist_convnet", "--data", photos, *QUICK, "--allow-chance", *options, *more]
        ran = subprocess.run(
            [sys.executable, "-c", STARTER, str(threads), *map(str, words)],
            env=variables,
            cwd=place,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
        digests[what] = weights_sha256(place / "exported" / "shapes" / "model.onnx")
        print(f"{schedule}: {what}: {digests[what]}")
    # docs/reliability.md says that these two may give other weights.
    without = digests.pop(NO_CACHE)
    del digests[THREADS]
    assert len(set(digests.values())) == 1, digests
    assert schedule != "scratch" or without in digests.values()
