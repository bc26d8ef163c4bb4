"""Kills runs with SIGKILL at 20 moments, resumes them, and compares the bytes with those of a run left alone.

`pytest tests/end_to_end/test_kill.py -m slow -s` prints the moments. The environment variable ZOO_KILL_SEED draws other
ones. KERAS_BACKEND=jax does the same on JAX.
"""

from __future__ import annotations

import csv
import io
import os
import random
import signal
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import onnx
import pytest
from PIL import Image

# Starts `zoo`, and kills the process some seconds after the n-th call of a function.
STARTER = """
import functools, importlib, os, signal, sys, threading, time
target, nth, delay, *arguments = sys.argv[1:]
if target:
    module, _, path = target.partition(":")
    owner = importlib.import_module(module)
    *outer, name = path.split(".")
    for each in outer:
        owner = getattr(owner, each)
    function, calls = getattr(owner, name), []
    def die():
        time.sleep(float(delay))
        os.kill(os.getpid(), signal.SIGKILL)
    @functools.wraps(function)
    def counted(*args, **options):
        calls.append(1)
        if len(calls) == int(nth):
            threading.Thread(target=die, daemon=True).start()
        return function(*args, **options)
    setattr(owner, name, counted)
if os.environ.get("ZOO_KILL_PERIOD"):
    from zoo.train import epochs
    epochs.PERIOD = float(os.environ["ZOO_KILL_PERIOD"])
from zoo import cli
sys.argv = ["zoo", *arguments]
cli.run()
"""
EVIDENCE = """
by_evidence = true

[[phase]]
name = "head"
train = "head"
epochs = 1
learning_rate = 1e-3
optimizer = "exact"
augment = false

[[phase]]
name = "top"
train = "all"
epochs = 12
learning_rate = 1e-3
ema = 0.9
"""
STEP, WRITE = "zoo.train.epochs:EpochLog.end_step", "zoo.train.safe_points:SafePoints.write"
# What is going on, the function, the range of n, and the longest delay in seconds. After a delay that is too long, the
# work of the next moment is done already.
EVIDENCE_MOMENTS = [
    ("decoding pictures", "zoo.data.pixels:_decode", (1, 100), 0.01),
    ("converting the backbone", "zoo.convert.keras_to_onnx:convert_features", (1, 1), 0.2),
    ("computing the frozen part", "zoo.train.frozen.backbone:FeatureSession.__call__", (1, 3), 0.01),
    ("solving the head", "zoo.train.evidence:choose_head", (1, 1), 0.02),
    ("writing the head", WRITE, (1, 1), 0.001),
    ("a fold of the cross-validation", STEP, (1, 400), 0.02),
    ("a safe point in a fold", WRITE, (2, 8), 0.004),
    ("the choice of phases", "zoo.train.evidence:Trials._decided", (1, 1), 0.02),
    ("the last training", "zoo.train.evidence:Trials.refit", (1, 1), 0.5),
    ("saving the network", "zoo.workflow.by_evidence:_write_network", (1, 1), 0.1),
    ("drawing curves", "zoo.report.curves:draw", (1, 1), 0.1),
    ("the export", "zoo.workflow.finished_graph:finish_graph", (1, 1), 0.1),
    ("writing the report", "zoo.workflow.page:write", (1, 1), 0.02),
]
SCRATCH_MOMENTS = [
    ("an epoch", STEP, (1, 16), 0.02),
    ("a safe point", WRITE, (1, 4), 0.004),
    ("validation", "zoo.train.epochs:EpochLog.start_validation", (1, 2), 0.02),
    ("the end of training", "zoo.files:atomic_write", (9, 12), 0.02),
]
GROW_MOMENTS = [
    ("a change of phase", "zoo.train.freeze:set_trainable", (6, 8), 0.05),
    ("a safe point", WRITE, (2, 5), 0.004),
    ("an epoch", STEP, (1, 20), 0.02),
]
SCHEDULES = [("evidence", EVIDENCE_MOMENTS), ("scratch", SCRATCH_MOMENTS), ("grow", GROW_MOMENTS)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Faint stripes in noise. Random features tell some of them apart, and training tells apart more."""
    folder, rng = tmp_path_factory.mktemp("data") / "stripes", np.random.default_rng(0)
    for label in ("across", "down"):
        (folder / label).mkdir(parents=True)
        for i in range(60):
            wave = 19 * np.sin(2 * np.pi * (np.arange(28) / 6 + rng.random()))
            picture = 128 + (wave[None, :] if label == "down" else wave[:, None]) + rng.normal(0, 60, (28, 28))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / label / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def weights(pictures, tmp_path_factory):
    """Random weights in a file, so that the head is solved on them."""
    from zoo import backend
    from zoo.plugin import registry
    from zoo.train.network import build_backbone

    backend.start().utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.keras"
    build_backbone(registry.load().architecture("mnist_convnet"), (28, 28)).save(path)
    return path


def start(arguments, cache, target="", nth=1, delay=0.0, period=""):
    environment = {**os.environ, "ZOO_CACHE": str(cache), "ZOO_OFFLINE": "1", "ZOO_KILL_PERIOD": period}
    words = [sys.executable, "-c", STARTER, target, str(nth), str(delay), *map(str, arguments)]
    return subprocess.run(words, env=environment, capture_output=True, text=True)


def continue_or_start(place, arguments):
    """Return the arguments that a user would type after an interruption."""
    runs = [path.parent for path in place.glob("runs/*/run.json")]
    assert len(runs) <= 1, "an interrupted run is continued, not started again"
    return ["resume", runs[0]] if runs else arguments


def arrays_of(run):
    """Return the bytes of all weights of a run, of its exported graph and of its out-of-fold logits."""
    found = {}
    if (run / "model.keras").is_file():
        with zipfile.ZipFile(run / "model.keras") as archive:
            content = h5py.File(io.BytesIO(archive.read("model.weights.h5")))

        def keep(name, item):
            if isinstance(item, h5py.Dataset):
                found[name] = item[()].tobytes()

        content.visititems(keep)
    for name in ("head.npz", "out-of-fold.npz"):
        if (run / name).is_file():
            with np.load(run / name) as arrays:
                found.update({f"{name} {key}": arrays[key].tobytes() for key in arrays.files})
    graph = onnx.load(run / "model.onnx")
    del graph.metadata_props[:]
    found["graph"] = graph.SerializeToString(deterministic=True)
    return found


def history_of(run):
    with (run / "history.csv").open(newline="") as stream:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(stream)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "moments"),
    [
        pytest.param(name, moments, id=name, marks=pytest.mark.every if name == "grow" else ())
        for name, moments in SCHEDULES
    ],
)
def test_a_killed_run_ends_in_the_same_bytes(pictures, weights, tmp_path, schedule, moments):
    seed = int(os.environ.get("ZOO_KILL_SEED", "0"))
    rng = random.Random(f"{schedule} {seed}")
    (tmp_path / "evidence.toml").write_text(EVIDENCE)
    options = {
        "evidence": [
            *("mnist_convnet", "--weights", weights, "--schedule", tmp_path / "evidence.toml", "--size", 28),
            *("--pool", "avg", "--hidden", "none"),
        ],
        "scratch": ["mobilenet_025", "--weights", "none", "--augment", "light", "--epochs", 5, "--size", 32],
        "grow": ["mnist_convnet", "--weights", "none", "--schedule", "grow", "--size", 28, "--dropout", 0.2],
    }[schedule]
    common = ["finetune", *options, "--data", pictures, "--batch-size", 8, "--allow-chance", "--name", "shapes"]

    def command(place):
        return [*common, "--runs", place / "runs", "--exported", place / "exported"]

    alone = tmp_path / "alone"
    done = start(command(alone), alone / "cache")
    assert done.returncode == 0, done.stderr
    place = tmp_path / "killed"
    # In two of the schedules, every batch is a safe point.
    period = "" if schedule == "evidence" else "0"
    for label, target, (first, last), longest in moments:
        nth, delay = rng.randint(first, last), rng.uniform(0, longest)
        done = start(continue_or_start(place, command(place)), place / "cache", target, nth, delay, period)
        print(f"{schedule}: killed during {label}: {delay * 1000:.1f} ms after call {nth} of {target}")
        assert done.returncode == -signal.SIGKILL, (label, done.returncode, done.stdout, done.stderr)
        for path in place.glob("runs/*/run.json"):
            assert (path.parent / "unfinished" / "request.json").is_file()
    done = start(continue_or_start(place, command(place)), place / "cache")
    assert done.returncode == 0, done.stderr
    (expected,), (run,) = (list(each.glob("runs/*")) for each in (alone, place))
    assert not (run / "unfinished").exists()
    ours, theirs = arrays_of(run), arrays_of(expected)
    assert ours.keys() == theirs.keys() and [key for key in ours if ours[key] != theirs[key]] == []
    assert history_of(run) == history_of(expected)
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in expected.iterdir())
