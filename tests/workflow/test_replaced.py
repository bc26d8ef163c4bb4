"""An export that replaces one of another run: what is said, what is removed, and what brings it back."""

from __future__ import annotations

import json
import shutil

import pytest

from zoo_runtime import Predictor


@pytest.fixture
def two_runs(finished, tmp_path, monkeypatch):
    """Two runs that give an export the same name, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        copy = tmp_path / "runs" / name
        shutil.copytree(finished[0], copy)
        record = json.loads((copy / "run.json").read_text())
        (copy / "run.json").write_text(json.dumps({**record, "id": name}))
    return tmp_path


def test_an_export_of_another_run_is_named_with_the_place_of_its_file(zoo, two_runs):
    place = two_runs / "exported"
    first = zoo("export", "one")
    assert first.code == 0 and "replaces" not in first.out
    assert zoo("export", "one", "--fp16", "--max-drop", 100).code == 0
    before = (place / "shapes" / "model.onnx").read_bytes()
    (place / "shapes" / "model.tuned.json").write_text("{}")

    ran = zoo("export", "two")
    assert ran.code == 0, ran.err
    assert Predictor(place / "shapes").info.run["id"] == "two"
    (line,) = [line for line in ran.out.splitlines() if "replaces" in line]
    assert line.startswith(
        "exported/shapes/model.onnx replaces the export of run one. The file of that run is kept as "
    )
    assert "Removed exported/shapes/model.tuned.json" in line and "tuned for the earlier file" in line
    assert (two_runs / "runs" / "one" / "model.onnx").read_bytes() == before and "runs/one/model.onnx" in line
    # A smaller file of the other run stays: nothing may be able to make it again.
    assert "exported/shapes-fp16/model.onnx comes from another run and is not changed" in ran.err
    assert "`zoo export runs/two --fp16 --name shapes --exported exported`" in ran.err
    assert Predictor(place / "shapes-fp16").info.run["id"] == "one"
    files = ["shapes", "shapes-fp16", "shapes-fp16/model.onnx", "shapes/model.onnx"]
    assert sorted(str(path.relative_to(place)) for path in place.rglob("*")) == files

    again = zoo("export", "two")
    assert again.code == 0 and "replaces" not in again.out and "Removed" not in again.out


def test_a_file_of_another_size_or_of_a_run_that_is_gone_is_not_called_kept(zoo, two_runs):
    # A network that was trained at 32 pixels answers alike at 48.
    assert zoo("export", "one", "--size", 48, "--name", "mine", "--allow-chance").code == 0
    ran = zoo("export", "two", "--name", "mine")
    assert ran.code == 0, ran.err
    assert "replaces the export of run one." in ran.out and "kept as" not in ran.out
    shutil.rmtree(two_runs / "runs" / "two")
    ran = zoo("export", "one", "--name", "mine")
    assert "replaces the export of run two." in ran.out and "kept as" not in ran.out
