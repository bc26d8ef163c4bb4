"""Test `zoo.archives.scoring`, which every engine calls: rows of bytes, paths and nothing, and what it imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from zoo.archives.scoring import COLUMNS, SPARK_TYPES, Scorer
from zoo_runtime import Predictor


def test_bytes_paths_and_missing_pictures(model, folder):
    path = folder / "000" / "000001.jpg"
    scorer = Scorer((model / "model.onnx").read_bytes())
    pictures = [str(path), path.read_bytes(), bytearray(path.read_bytes()), None, float("nan"), b"no picture"]
    rows = scorer.rows(["a", "b", "c", "d", "e", "f"], pictures)
    assert list(rows) == list(COLUMNS) and rows["path"] == ["a", "b", "c", "d", "e", "f"]
    answer = Predictor(model)(path)
    assert rows["probabilities"][:4] == [list(answer.probabilities.values())] * 3 + [None]
    assert rows["label"] == [answer.label] * 3 + [None] * 3
    assert rows["unknown"] == [False] * 3 + [None] * 3
    assert rows["error"] == [None] * 3 + ["NotAPicture"] * 3
    assert rows["message"][5].startswith("f: ")
    assert len(SPARK_TYPES.split(", ")) == len(COLUMNS)


def test_a_name_for_each_picture(model):
    with pytest.raises(ValueError, match="Received: 1 and 2"):
        Scorer(model).rows(["a"], [b"", b""])


def test_it_knows_no_engine_and_nothing_heavy():
    names = ("ray", "pyspark", "pandas", "pyarrow", "fsspec", "tensorflow", "keras", "click", "pluggy")
    code = f"import sys, zoo.archives.scoring; print([name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
