"""Evaluation: which file or run a name means, and which pictures a network is evaluated on."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from zoo.errors import UsageError


def test_a_model_is_found_by_path_name_or_run(finished, tmp_path):
    from zoo.workflow.evaluate import resolve_model

    run, exported, _ = finished
    folders = (exported, run.parent)
    file = exported / "shapes" / "model.onnx"
    for text in ("shapes", str(exported / "shapes"), str(file)):
        assert resolve_model(text, *folders) == resolve_model(text, *folders, to_predict=True) == file
    for text in (run.name, str(run)):
        assert resolve_model(text, *folders) == run
        assert resolve_model(text, *folders, to_predict=True) == run / "model.onnx"
    assert resolve_model(f"{run.name}/model.onnx", *folders) == run / "model.onnx"
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("model.onnx"))
    assert resolve_model(str(copy), *folders) == copy
    with pytest.raises(UsageError, match="has no exported file; `zoo export"):
        resolve_model(str(copy), *folders, to_predict=True)
    with pytest.raises(UsageError, match=r"Did you mean shapes\?"):
        resolve_model("shape", *folders)


def test_a_run_folder_is_preferred_to_an_export_of_its_name_where_the_user_is_in_its_folder(
    finished, zoo, tmp_path, monkeypatch
):
    """The name is a path first; the name of an export comes next, and the id of a run last."""
    from zoo.workflow.evaluate import resolve_model

    run, exported, _ = finished
    (tmp_path / "exported").mkdir()
    shutil.copytree(exported / "shapes", tmp_path / "exported" / "same")
    monkeypatch.chdir(tmp_path)
    folders = (Path("exported"), Path("runs"))
    shutil.copytree(run, tmp_path / "runs" / "same")
    assert resolve_model("same", *folders) == Path("exported/same/model.onnx")
    shutil.copytree(run, tmp_path / "same", ignore=shutil.ignore_patterns("model.onnx"))
    assert resolve_model("same", *folders) == Path("same")
    with pytest.raises(UsageError, match="the run 'same' has no exported file; `zoo export same`"):
        resolve_model("same", *folders, to_predict=True)
    shutil.copyfile(run / "model.onnx", tmp_path / "same" / "model.onnx")
    assert resolve_model("same", *folders) == Path("same")
    assert resolve_model("same", *folders, to_predict=True) == Path("same/model.onnx")
    # Only a run knows its own test pictures without --data and without the folder of runs.
    ran = zoo("evaluate", "same", "--runs", tmp_path / "none")
    assert ran.code == 0 and "Test pictures of photos: 12" in ran.out, ran.err


@pytest.fixture
def renamed(photos, tmp_path):
    """The pictures of the finished run under other names, so that they come in another order."""
    folder = tmp_path / "renamed"
    for path in sorted(photos.rglob("*.jpg")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        target = folder / path.parent.name / f"{digest[:12]}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return folder


def same(one, other) -> bool:
    """Whether metrics come from the same pictures; sums may be in another order."""
    return one["confusion_matrix"] == other["confusion_matrix"] and one["loss"] == pytest.approx(other["loss"])


def test_a_run_is_evaluated_on_its_own_test_pictures_wherever_they_are(finished, zoo, renamed, tmp_path, monkeypatch):
    """A new split would make most of the test pictures ones that the network was trained on."""
    from zoo.evaluate import evaluator

    run, exported, _ = finished
    with (run / "pictures.csv").open(newline="") as stream:
        test = {row["sha256"] for row in csv.DictReader(stream) if row["part"] == "test"}
    assert len(test) == 12
    evaluated = []
    predict = evaluator.predict

    def recording(predictor, contents, progress=None):
        evaluated.append({hashlib.sha256(Path(content).read_bytes()).hexdigest() for content in contents})
        return predict(predictor, contents, progress)

    monkeypatch.setattr(evaluator, "predict", recording)
    copy = tmp_path / "runs" / run.name
    shutil.copytree(run, copy)
    before = json.loads((copy / "metrics.json").read_text())["test"]
    assert zoo("export", copy, "--data", renamed, "--exported", tmp_path / "exported").code == 0
    assert evaluated[1] == test
    assert same(json.loads((copy / "metrics.json").read_text())["test"], before)

    evaluated.clear()
    folders = ("--runs", run.parent, "--exported", exported)
    for model in (run, "shapes"):
        ran = zoo("evaluate", model, "--data", renamed, *folders)
        assert ran.code == 0 and "Test pictures of renamed: 12" in ran.out and "warning" not in ran.err
    assert evaluated == [test, test]
    ran = zoo("evaluate", "shapes", *folders)
    assert "Test pictures of photos: 12" in ran.out
    ran = zoo("evaluate", "shapes", "--data", renamed, "--part", "all", *folders)
    assert "60 of these 72 pictures were used to train or select the network" in ran.err
    # Without its run, a file only knows that these are the pictures of its run, but not their parts.
    ran = zoo("evaluate", exported / "shapes", "--data", renamed, "--runs", tmp_path / "none")
    assert "All pictures of renamed: 72" in ran.out and "pictures that the network was trained and tested on" in ran.err


def test_swapped_pictures_of_a_given_split_stay_what_they_were(zoo, photos, tmp_path):
    data = tmp_path / "given"
    for i, path in enumerate(sorted(photos.rglob("*.jpg"))):
        target = data / ("test" if i % 3 == 0 else "train") / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    folders = ("--runs", tmp_path / "runs", "--exported", tmp_path / "exported")
    arguments = ("--size", 32, "--epochs", 1, "--name", "given", "--allow-chance")
    assert zoo("finetune", "mnist_convnet", "--data", data, *arguments, *folders).code == 0
    (run,) = (tmp_path / "runs").iterdir()
    before = json.loads(zoo("evaluate", run, "--json").out)
    (data / "train").rename(data / "was")
    (data / "test").rename(data / "train")
    (data / "was").rename(data / "test")
    after = json.loads(zoo("evaluate", run, "--json").out)
    assert same(after, before) and after["pictures"] == 24


def test_evaluate_leaves_out_unreadable_files_and_names_them(zoo, finished, photos, tmp_path):
    _, exported, _ = finished
    data = tmp_path / "one"
    shutil.copytree(photos / "discs", data / "discs")
    (data / "discs" / "zz.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    ran = zoo("evaluate", "shapes", "--data", data, "--exported", exported, "--runs", tmp_path / "none")
    assert ran.code == 0, ran.err
    assert "1 of 25 files is left out: " in ran.err
    assert "discs/zz.jpg: damaged" in ran.err and ran.err.count("zz.jpg") == 1
    assert ", 24 pictures" in ran.out
    for path in list((data / "discs").iterdir())[:8]:
        path.write_bytes(b"?")
    ran = zoo("evaluate", "shapes", "--data", data, "--exported", exported, "--runs", tmp_path / "none")
    assert ran.code == 1 and "more than 20%" in ran.err
