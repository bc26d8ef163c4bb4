"""Class names and paths keep their characters in the C locale, where Python would read and print ASCII only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

MODEL = Path(__file__).parents[2] / "exported" / "mobilenetv2_035-digits" / "model.onnx"


@pytest.fixture
def in_c_locale(tmp_path):
    """Return a function that runs a module's command in the C locale, and returns exit code, stdout and stderr."""
    data = tmp_path / "звери"
    for label in ("собаки", "猫"):
        (data / label).mkdir(parents=True)
        Image.new("RGB", (9, 9), (200, 0, 0)).save(data / label / "é.png")

    def run(module: str, *words: object) -> tuple[int, str, str]:
        environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "", "LANG": "C"}
        code = f"import sys; from {module} import run as command; sys.exit(command())"
        if module == "zoo.cli":
            code = "from zoo.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)], cwd=tmp_path, env=environment, capture_output=True
        )
        return done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8")

    return run


def test_zoo_reads_and_prints_names_of_all_scripts(in_c_locale, tmp_path):
    code, _, err = in_c_locale("zoo.cli", "evaluate", MODEL, "--data", "звери")
    assert code == 1 and "the network does not know 'собаки', '猫'." in err
    code, out, _ = in_c_locale("zoo.cli", "augment", "preview", "none", "--data", "звери", "--output", "ряд.png")
    assert code == 0 and "Sheet      ряд.png" in out and (tmp_path / "ряд.png").is_file()


def test_the_runtime_prints_paths_of_all_scripts(in_c_locale):
    code, out, _ = in_c_locale("zoo_runtime.cli", "predict", MODEL, "звери/猫/é.png", "--json")
    assert code == 0 and json.loads(out)["path"] == "звери/猫/é.png"
    assert in_c_locale("zoo_runtime.cli", "predict", MODEL, "звери/猫/é.png")[1].startswith("звери/猫/é.png")
