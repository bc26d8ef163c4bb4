"""An export that replaces one of another run: what is said, what is removed, and what brings it back."""

from __future__ import annotations

import json
import shlex
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


def test_an_export_of_another_run_is_named_with_the_command_that_brings_it_back(zoo, two_runs):
    place = two_runs / "exported"
    first = zoo("export", "one")
    assert first.code == 0 and "replaces" not in first.out
    assert zoo("export", "one", "--fp16", "--max-drop", 100).code == 0
    (place / "shapes" / "model.tuned.json").write_text("{}")

    ran = zoo("export", "two")
    assert ran.code == 0, ran.err
    assert Predictor(place / "shapes").info.run["id"] == "two"
    (line,) = [line for line in ran.out.splitlines() if "replaces" in line]
    assert line.startswith("exported/shapes/model.onnx replaces the export of run one. `zoo export runs/one` brings")
    assert "Removed exported/shapes/model.tuned.json" in line and "tuned for the earlier file" in line
    assert "Removed exported/shapes-fp16" in line and "`zoo export runs/one --fp16` makes it again" in line
    assert sorted(str(path.relative_to(place)) for path in place.rglob("*")) == ["shapes", "shapes/model.onnx"]

    again = zoo("export", "two")
    assert again.code == 0 and "replaces" not in again.out and "Removed" not in again.out
    command = line.partition("`zoo ")[2].partition("`")[0]
    assert zoo(*shlex.split(command)).code == 0
    assert Predictor(place / "shapes").info.run["id"] == "one"


def test_the_command_names_what_differs_from_the_defaults(zoo, two_runs):
    options = ("--name", "mine", "--exported", "my exports")
    # A network that was trained at 32 pixels answers alike at 48.
    refused = zoo("export", "one", "--size", 48, *options)
    assert refused.code == 1 and "`zoo export runs/one --size 48x48 --allow-chance`" in refused.err
    assert zoo("export", "one", "--size", 48, "--allow-chance", *options).code == 0
    ran = zoo("export", "two", *options)
    assert ran.code == 0, ran.err
    assert "`zoo export runs/one --size 48x48 --name mine --exported 'my exports'` brings that one back" in ran.out


def test_a_smaller_file_of_a_run_that_is_gone_stays_with_a_warning(zoo, two_runs):
    assert zoo("export", "one", "--fp16", "--max-drop", 100).code == 0
    shutil.rmtree(two_runs / "runs" / "one")
    ran = zoo("export", "two")
    assert ran.code == 0 and "shapes-fp16/model.onnx comes from another run, which is not in 'runs'" in ran.err
    assert "`zoo export runs/two --fp16` makes the file of this run" in ran.err
    assert (two_runs / "exported" / "shapes-fp16" / "model.onnx").is_file()
