"""1,000 classes from folder to exported file, with 20,000 and with 100,000 pictures; and 2 classes of 5 pictures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from zoo_runtime import Predictor

CLASSES = 1000
# Starts `zoo`, and prints the largest memory of its own that the process had, in bytes. Pages of mapped files are left
# out, because the operating system drops them when memory is short.
STARTER = """
import re, threading, time
from pathlib import Path
from zoo import cli
peak = 0
def watch():
    global peak
    while True:
        (kilobytes,) = re.findall(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())
        peak = max(peak, 1024 * int(kilobytes))
        time.sleep(0.05)
threading.Thread(target=watch, daemon=True).start()
try:
    cli.main()
finally:
    print("PEAK", peak, flush=True)
"""


def write_pictures(folder, per_class, start=0):
    """Write pictures of 32 x 32 gray pixels: each is half the pattern of its class, and half a pattern of its own."""
    for label in range(CLASSES):
        rng = np.random.default_rng([label, start])
        own = np.random.default_rng(label).integers(0, 256, (8, 8))
        place = folder / f"class{label:04}"
        place.mkdir(parents=True, exist_ok=True)
        for i, coarse in enumerate((own + rng.integers(0, 256, (per_class, 8, 8))) // 2, start):
            picture = Image.fromarray(coarse.astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
            picture.save(place / f"{i:04}.jpg", quality=80)


SCRATCH = ("mnist_convnet", "--weights", "none", "--batch-size", 128, "--epochs", 1)


def train(place, data, *network):
    """Train in a process of its own. Return its output and its peak of its own memory in bytes."""
    words = [
        "finetune",
        *network,
        "--data",
        data,
        "--size",
        32,
        "--runs",
        place / "runs",
        "--exported",
        place / "exported",
        "--name",
        "many",
        "--allow-chance",
    ]
    ran = subprocess.run(
        [sys.executable, "-c", STARTER, *map(str, words)],
        env={**os.environ, "ZOO_CACHE": str(place / "cache")},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr
    return ran.stdout, int(re.search(r"PEAK (\d+)", ran.stdout)[1])


@pytest.mark.slow
@pytest.mark.every
def test_memory_of_a_thousand_classes(tmp_path):
    data = tmp_path / "data"
    write_pictures(data, 20)
    _, few = train(tmp_path / "few", data, *SCRATCH)
    write_pictures(data, 80, start=20)
    text, many = train(tmp_path / "many", data, *SCRATCH)
    print(f"peak memory: {few / 1e9:.2f} GB with 20,000 pictures, {many / 1e9:.2f} GB with 100,000")
    assert f"100000 pictures of {CLASSES} classes" in text and "more classes, with an F1 of at least" in text
    # One byte per class for the labels, and blocks of answers; pixels, features and answers are mapped from files.
    assert many < 1.3e9 and (many - few) / 80_000 < 5e3
    exported = tmp_path / "many" / "exported" / "many" / "model.onnx"
    (run,) = (tmp_path / "many" / "runs").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["pictures"] == 15_000 and metrics["test"]["accuracy"] > 0.2
    assert (run / "metrics.json").stat().st_size < 8e6
    assert len(Predictor(exported)(data / "class0000" / "0000.jpg").probabilities) == CLASSES
    assert (run / "report.html").stat().st_size < 8e6


@pytest.mark.slow
def test_the_head_of_a_thousand_classes_is_solved(tmp_path):
    data = tmp_path / "data"
    write_pictures(data, 12)
    head = ("mnist_convnet", "--weights", "none", "--schedule", "exact-head", "--hidden", "none", "--pool", "avg")
    text, peak = train(tmp_path, data, *head)
    print(f"peak memory: {peak / 1e9:.2f} GB")
    (run,) = (tmp_path / "runs").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    # One of five folds was held out. Chance is 0.001, and the features are those of random weights.
    assert metrics["cross_validation"]["pictures"] == 2000 and "held out in one fold" in text
    assert metrics["test"]["accuracy"] > 0.2 and peak < 1.5e9


def write_few(folder):
    rng = np.random.default_rng(0)
    for level, name in ((150, "bright"), (0, "dark")):
        (folder / name).mkdir(parents=True)
        for i in range(5):
            Image.fromarray((level + rng.integers(0, 90, (40, 40, 3))).astype(np.uint8)).save(
                folder / name / f"{i}.png"
            )


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--schedule", "head-only"), ("--cv", 2), ("--schedule", "fine-tune")])
def test_ten_pictures_are_enough(zoo, tmp_path, options):
    write_few(tmp_path / "data")
    places = ("--runs", tmp_path / "runs", "--exported", tmp_path / "exported", "--name", "few")
    words = ("--weights", "none", "--epochs", 3, "--size", 28, "--allow-chance", *options)
    ran = zoo("finetune", "mnist_convnet", "--data", tmp_path / "data", *words, *places)
    assert ran.code == 0, ran.err
    answer = Predictor(tmp_path / "exported" / "few" / "model.onnx")(tmp_path / "data" / "dark" / "0.png")
    assert set(answer.probabilities) == {"bright", "dark"}
