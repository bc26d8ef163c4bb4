"""Trains through the command line on JAX and PyTorch, and exports: with TensorFlow beside them and without it.

    pytest -m backend tests/backends

runs on every one of the two that is installed. Where TensorFlow is not installed, as in the environments of
`.ci/backends`, a run ends trained. ZOO_WITH_TENSORFLOW then names the Python of an environment of zoo that has
TensorFlow, and the tests export there.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from zoo import backend

pytestmark = pytest.mark.backend

# Kills the process after so many training steps, if there is a number.
STARTER = """
import os, signal, sys
steps, *arguments = sys.argv[1:]
from zoo.train import epochs
if int(steps):
    epochs.PERIOD = 0.0
    end_step, calls = epochs.EpochLog.end_step, []
    def counted(self, batch):
        end_step(self, batch)
        calls.append(batch)
        if len(calls) == int(steps):
            os.kill(os.getpid(), signal.SIGKILL)
    epochs.EpochLog.end_step = counted
from zoo import cli
sys.argv = ["zoo", *arguments]
cli.run()
"""
RANDOM = """
import sys
from zoo import backend
from zoo.plugin import registry
from zoo.train.network import build_backbone
backend.start().utils.set_random_seed(0)
build_backbone(registry.load().architecture(sys.argv[1]), (32, 32)).save(sys.argv[2])
"""
WITH_TENSORFLOW = not backend.missing_converters()


@pytest.fixture(scope="module", params=["jax", "torch"])
def keras_on(request):
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed here")
    return request.param


@pytest.fixture(scope="module")
def python(keras_on, tmp_path_factory):
    """Return a function that runs Python code on the backend, and fails unless it ends with the expected code."""
    cache = tmp_path_factory.mktemp("cache")

    def run(code, *arguments, expected=0, executable=sys.executable, on=keras_on):
        environment = {**os.environ, "KERAS_BACKEND": on, "ZOO_CACHE": str(cache), "ZOO_OFFLINE": "1"}
        words = [executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        print(done.stdout + done.stderr)
        assert done.returncode == expected, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def zoo(python):
    """Return a function that runs the command `zoo` on the backend, and fails unless it ends with the expected code."""
    return lambda *arguments, kill=0, **options: python(STARTER, kill, *arguments, **options)


@pytest.fixture
def train(zoo, tmp_path):
    """Return a function that fine-tunes into `tmp_path`, and returns the run folder and what was printed."""

    def finetune(*arguments, place=tmp_path, **options):
        places = ("--runs", place / "runs", "--exported", place / "exported")
        printed = zoo("finetune", *arguments, *places, expected=0 if WITH_TENSORFLOW else 1, **options)
        if not WITH_TENSORFLOW:
            assert "error: tensorflow and tf2onnx, which convert networks to ONNX, are not installed here." in printed
            assert "The network is trained and kept in" in printed
        return max((place / "runs").iterdir(), key=lambda run: run.stat().st_mtime), printed

    return finetune


@pytest.fixture(scope="module")
def random_weights(python, tmp_path_factory):
    """Return a function that writes random weights of a network to a file, from which a run starts as from others."""
    folder = tmp_path_factory.mktemp("weights")

    def written(name):
        path = folder / f"{name}.keras"
        if not path.exists():
            python(RANDOM, name, path)
        return path

    return written


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """Faint stripes in noise, 2 classes of 40 pictures."""
    folder, rng = tmp_path_factory.mktemp("data") / "stripes", np.random.default_rng(0)
    for label in ("across", "down"):
        (folder / label).mkdir(parents=True)
        for i in range(40):
            wave = 40 * np.sin(2 * np.pi * (np.arange(28) / 6 + rng.random()))
            picture = 128 + (wave[None, :] if label == "down" else wave[:, None]) + rng.normal(0, 40, (28, 28))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / label / f"{i}.png")
    return folder


def arrays_of(run):
    """Return all weights of a run as bytes."""
    found = {}
    with zipfile.ZipFile(run / "model.keras") as archive:
        content = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    content.visititems(
        lambda name, item: found.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
    )
    return found


def exported(run, zoo, place):
    """Return the folder of the exported file of a run, and the accuracy on test pictures. Export it where that is due.

    Without TensorFlow, the run folder is copied, and the environment that ZOO_WITH_TENSORFLOW names exports the copy.
    """
    if not WITH_TENSORFLOW:
        other = os.environ.get("ZOO_WITH_TENSORFLOW")
        if not other:
            pytest.skip("ZOO_WITH_TENSORFLOW does not name a Python whose environment has zoo with TensorFlow")
        copy = shutil.copytree(run, place / "copied" / run.name)
        places = ("--exported", place / "exported", "--allow-chance")
        zoo("export", copy, *places, executable=other, on="tensorflow")
        run = copy
    (file,) = (place / "exported").glob("*/model.onnx")
    record = json.loads((run / "run.json").read_text())
    assert record["parity"]["pictures"] > 0 and record["parity"]["logits_difference"] <= 1e-4
    return file.parent, json.loads((run / "metrics.json").read_text())["test"]["accuracy"]


def test_the_default_job_on_digits(zoo, train, real_weights, tmp_path):
    """The first command of the README, with pretrained weights: its head, its evidence and its file."""
    run, printed = train("mobilenetv2")
    record = json.loads((run / "run.json").read_text())
    assert record["weights"]["id"] == "mobilenetv2.imagenet1k" and "Head: solved on the features of" in printed
    _, accuracy = exported(run, zoo, tmp_path)
    assert accuracy >= 0.95


def test_the_main_job(keras_on, zoo, train, tmp_path):
    """All layers of a MobileNetV2 are trained from random weights on the embedded digits, and the file names a picture.

    Two epochs teach it little, but every part of the job runs.
    """
    options = ("--weights", "none", "--size", 32, "--epochs", 2, "--batch-size", 64)
    options += ("--allow-chance", "--name", "digits")
    run, _ = train("mobilenetv2_035", *options)
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "trained" and record["backend"] == keras_on
    assert len(record["phases"][0]["moved_layers"]) > 50
    with (run / "history.csv").open(newline="") as stream:
        losses = [float(row["loss"]) for row in csv.DictReader(stream)]
    assert len(losses) == 2 and losses[1] < losses[0]
    exported(run, zoo, tmp_path)


def test_a_small_network_learns_the_digits_and_labels_a_picture(zoo, train, tmp_path):
    run, _ = train("mnist_convnet", "--weights", "none", "--size", 28, "--epochs", 3, "--name", "digits")
    file, accuracy = exported(run, zoo, tmp_path)
    assert accuracy >= 0.8
    picture = tmp_path / "three.png"
    Image.fromarray((load_digits().images[3] * 255 / 16).astype(np.uint8)).save(picture)
    answer = json.loads(zoo("predict", file, picture, "--json").splitlines()[-1])
    assert answer["label"] == "3"


def test_fine_tuning_reads_the_features_of_the_frozen_part(train, random_weights):
    arguments = ("mnist_convnet", "--weights", random_weights("mnist_convnet"), "--schedule", "head-only")
    arguments += ("--size", 32, "--epochs", 3, "--cache-size", "200MB", "--allow-chance", "--name", "frozen")
    run, _ = train(*arguments)
    record = json.loads((run / "run.json").read_text())
    assert record["prefix"]["engine"] == ("onnxruntime" if WITH_TENSORFLOW else "Keras")
    assert record["prefix"]["computed"] > 1000 and record["prefix"]["read"] == 3 * record["prefix"]["computed"]
    again, printed = train(*arguments)
    assert "pictures are in the cache already" in printed
    assert arrays_of(again) == arrays_of(run)


def test_the_head_is_solved_exactly(train, random_weights, zoo, tmp_path):
    options = ("--weights", random_weights("mnist_convnet"), "--pool", "avg", "--hidden", "none", "--size", 32)
    run, printed = train("mnist_convnet", *options, "--schedule", "exact-head", "--name", "exact")
    record = json.loads((run / "run.json").read_text())
    assert record["prefix"]["engine"] == ("onnxruntime" if WITH_TENSORFLOW else "Keras")
    assert (run / ("head.npz" if WITH_TENSORFLOW else "model.keras")).is_file()
    assert "Head: solved on" in printed
    _, accuracy = exported(run, zoo, tmp_path)
    # A head on untrained features: chance level is 0.1.
    assert accuracy >= 0.7
    again, printed = train("mnist_convnet", *options, "--schedule", "exact-head", "--name", "exact")
    assert "are in the cache already" in printed
    assert json.loads((again / "run.json").read_text())["phases"][0]["solution"] == record["phases"][0]["solution"]


def test_a_killed_run_ends_in_the_same_bytes(keras_on, train, zoo, stripes, tmp_path):
    arguments = ("mnist_convnet", "--weights", "none", "--data", stripes, "--size", 28, "--dropout", 0.2)
    arguments += ("--epochs", 3, "--batch-size", 8, "--augment", "light", "--allow-chance", "--name", "stripes")
    expected, _ = train(*arguments, place=tmp_path / "alone")
    place = tmp_path / "killed"
    places = ("--runs", place / "runs", "--exported", place / "exported")
    zoo("finetune", *arguments, *places, kill=10, expected=-signal.SIGKILL)
    (run,) = (place / "runs").iterdir()
    request = run / "unfinished" / "request.json"
    content = request.read_text()
    request.write_text(content.replace(f'"{keras_on}"', '"another"'))
    assert "trains on the Keras backend 'another'" in zoo("resume", run, expected=1)
    request.write_text(content)
    zoo("resume", run, expected=0 if WITH_TENSORFLOW else 1)
    assert json.loads((run / "run.json").read_text())["resumed"]
    ours, theirs = arrays_of(run), arrays_of(expected)
    assert ours.keys() == theirs.keys() and [key for key in ours if ours[key] != theirs[key]] == []


CAFFE = """
import numpy as np
from zoo import backend
from zoo.plugin import normalize
keras = backend.start()
pixels = keras.Input((4, 5, 3))
model = keras.Model(pixels, normalize(pixels, "caffe"))
picture = np.random.default_rng(0).uniform(0, 255, (2, 4, 5, 3)).astype("float32")
expected = picture[..., ::-1] - np.array([103.939, 116.779, 123.68], "float32")
assert np.abs(model.predict(picture, verbose=0) - expected).max() < 1e-3
"""


def test_the_pixels_of_resnet_and_vgg_are_those_of_tensorflow(python):
    python(CAFFE)


def test_what_a_backend_cannot_build_is_refused_before_pictures_are_read(zoo, keras_on, tmp_path):
    if keras_on != "torch":
        pytest.skip("all networks can be built on JAX")
    printed = zoo("finetune", "nasnet_mobile", "--runs", tmp_path, expected=2)
    assert "nasnet_mobile cannot be built on the backend 'torch' of Keras" in printed and "pictures of" not in printed


def test_the_installation_is_examined(zoo, keras_on):
    printed = zoo("doctor", expected=0)
    assert f"Keras backend\n  {keras_on} " in printed
    assert ("tensorflow and tf2onnx cannot be found" in printed) is not WITH_TENSORFLOW
