"""Run the lines for Spark that docs/archives.md shows, as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "archives.md"


@pytest.mark.slow
def test_the_lines_of_the_page(zoo, model, folder, tmp_path, answers, printed):
    pytest.importorskip("pyspark", reason="pyspark is not installed")
    if shutil.which("java") is None:
        pytest.skip("Java is not installed")
    (lines,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    values = f"MODEL, SOURCE, OUT = {str(model / 'model.onnx')!r}, {str(folder)!r}, {str(tmp_path / 'out')!r}"
    lines, count = re.subn(r"^MODEL, SOURCE, OUT = .*$", lambda _: values, lines, flags=re.MULTILINE)
    assert count == 1
    # The statements from the import of pandas on, without the line of names.
    assert sum(bool(line.strip()) for line in lines.split("MODEL, SOURCE")[1].splitlines()[1:]) == 10
    script = tmp_path / "on_spark.py"
    script.write_text(lines)
    settings = "--master local[2] --conf spark.ui.enabled=false --conf spark.driver.host=127.0.0.1 pyspark-shell"
    done = subprocess.run(
        [sys.executable, script],
        env={**__import__("os").environ, "PYSPARK_SUBMIT_ARGS": settings, "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {path.removeprefix("file:"): row for path, row in answers(tmp_path / "out").items()}
    expected = {path: line for path, line in printed(folder).items() if path.endswith(".jpg")}
    # Spark leaves out hidden files, as zoo does.
    assert rows.keys() == expected.keys() and len(rows) == 26
    for path, line in expected.items():
        assert rows[path]["error"] == line.get("error")
        if "label" in line:
            assert rows[path]["label"] == line["label"]
            assert rows[path]["probabilities"] == list(line["probabilities"].values())
