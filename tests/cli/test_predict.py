"""Test the words of `zoo predict` and `zoo evaluate`: their order, standard input, and the limit on pixels."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FILE = Path(__file__).resolve().parents[2] / "exported" / "mobilenetv2_035-digits" / "model.onnx"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Make a folder with an export called digits-net and a folder of pictures the current one, and return it."""
    (tmp_path / "exported" / "digits-net").mkdir(parents=True)
    shutil.copy(FILE, tmp_path / "exported" / "digits-net" / "model.onnx")
    (tmp_path / "my pictures").mkdir()
    for name in ("1.png", "2.png"):
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "my pictures" / name)
    (tmp_path / "my pictures" / "notes.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("predict 'my pictures/1.png' digits-net", "predict digits-net 'my pictures/1.png'"),
        ("predict 'my pictures' --top 2 exported/digits-net", "predict exported/digits-net --top 2 'my pictures'"),
        ("predict 'my pictures' digits-net --json", "predict digits-net 'my pictures' --json"),
        ("evaluate 'my pictures' --data digits-net", "evaluate digits-net --data 'my pictures'"),
        (
            "evaluate 'my pictures' exported/digits-net/model.onnx",
            "evaluate exported/digits-net/model.onnx --data 'my pictures'",
        ),
    ],
)
def test_swapped_words_show_the_right_command(zoo, here, typed, meant):
    ran = zoo(*shlex.split(typed))
    assert ran.code == 2 and ran.out == "" and f"`zoo {meant}`" in ran.err


def test_words_in_the_right_order_are_not_refused(zoo, here):
    """A name of an export comes before a folder of pictures with the same name."""
    os.rename("my pictures", "digits-net")
    assert zoo("predict", "digits-net", "digits-net").code == 0
    ran = zoo("predict", "digits-net/1.png", "digits-net/2.png")
    assert ran.code == 1 and "is a picture, not an exported file" in ran.err


def test_a_folder_is_described(zoo, here):
    ran = zoo("predict", "exported", "my pictures/1.png")
    assert ran.code == 2 and f"It holds {os.path.join('exported', 'digits-net')!r}: give that folder." in ran.err
    ran = zoo("predict", "my pictures", "my pictures/1.png")
    assert ran.code == 2 and "It holds pictures" in ran.err


def test_standard_input_and_files_that_are_passed_over(zoo, here, monkeypatch):
    content = Path("my pictures/1.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    ran = zoo("predict", "digits-net", "-", "my pictures")
    assert ran.code == 0 and [line.split(":")[0] for line in ran.out.splitlines()] == [
        "-",
        os.path.join("my pictures", "1.png"),
        os.path.join("my pictures", "2.png"),
    ]
    assert ran.err == "passed over: 1 .txt\n"


def test_the_limit_on_pixels(zoo, here):
    ran = zoo("predict", "digits-net", "my pictures/1.png", "--max-pixels", "599")
    assert ran.code == 1 and "--max-pixels" in ran.err and ran.out == ""
    assert zoo("predict", "digits-net", "my pictures/1.png", "--max-pixels", "0.6k").code == 0
    ran = zoo("predict", "digits-net", "my pictures/1.png", "--max-pixels", "large")
    assert ran.code == 2 and "such as 200M" in ran.err
