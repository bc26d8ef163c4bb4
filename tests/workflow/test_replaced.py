"""What a new export may replace: the rule, the ways out of a refusal, and what is kept of the old file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
from PIL import Image

from zoo import files
from zoo.data import pixels
from zoo.errors import ExportError, UsageError
from zoo.workflow import replaced
from zoo.workflow.replaced import NewExport
from zoo_runtime import Predictor


def rewritten(source: Path, target: Path, **changes: object) -> Path:
    """Write a copy of an exported file with other metadata; dictionaries are merged."""
    model = onnx.load(source)
    for entry in model.metadata_props:
        key = entry.key.removeprefix("zoo.")
        if key in changes:
            old, new = json.loads(entry.value), changes[key]
            entry.value = json.dumps({**old, **new} if isinstance(new, dict) else new)
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, target)
    return target


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


@pytest.mark.slow
def test_an_export_of_the_same_pictures_is_replaced_and_named(zoo, two_runs):
    place = two_runs / "exported"
    target = place / "shapes" / "model.onnx"
    first = zoo("export", "one")
    assert first.code == 0 and "replaces" not in first.out
    before = target.read_bytes()
    (place / "shapes" / "model.tuned.json").write_text("{}")
    precision = {"kind": "fp16"}
    rewritten(target, place / "shapes-fp16" / "model.onnx", precision=precision)
    # A network that was trained at 32 pixels answers alike at 48.
    assert zoo("export", "one", "--size", "48x40", "--allow-chance").code == 0
    sized = place / "shapes-48x40" / "model.onnx"
    rewritten(sized, place / "shapes-48x40-fp16" / "model.onnx", precision=precision)
    # This is the name of another export, and not of another size of this one.
    rewritten(target, place / "shapes-64x64" / "model.onnx")
    stale = {path: path.read_bytes() for path in place.glob("shapes-*/*")}

    ran = zoo("export", "two")
    assert ran.code == 0, ran.err
    assert Predictor(place / "shapes").info.run["id"] == "two"
    (line,) = [line for line in ran.out.splitlines() if "replaces" in line]
    assert line.startswith("exported/shapes/model.onnx replaces the export of run one, of the same pictures. ")
    accuracy = json.loads((two_runs / "runs" / "one" / "metrics.json").read_text())["test"]["accuracy"]
    assert f"Test accuracy: {accuracy:.2f} (" in line and f" -> {accuracy:.2f} (" in line
    assert "The old file is kept as runs/one/model.onnx." in line
    assert (two_runs / "runs" / "one" / "model.onnx").read_bytes() == before
    assert "Removed exported/shapes/model.tuned.json" in line and "tuned for the earlier file" in line
    # Files that belong to the old export stay, and are named with the command that makes them again.
    warnings = [line for line in ran.err.splitlines() if "comes from another run and is not changed" in line]
    assert [line.split()[1] for line in warnings] == [
        f"exported/{name}/model.onnx" for name in ("shapes-fp16", "shapes-48x40", "shapes-48x40-fp16")
    ]
    assert "`zoo export runs/two --fp16 --name shapes --exported exported`" in warnings[0]
    assert "`zoo export runs/two --size 48x40 --name shapes-48x40 --exported exported`" in warnings[1]
    assert "`zoo export runs/two --size 48x40 --fp16 --name shapes-48x40 --exported exported`" in warnings[2]
    assert {path: path.read_bytes() for path in place.glob("shapes-*/*")} == stale

    again = zoo("export", "two")
    assert again.code == 0 and "replaces" not in again.out and "Removed" not in again.out


@pytest.mark.slow
def test_a_file_that_no_run_folder_has_is_kept_beside_the_new_one(zoo, two_runs):
    target = two_runs / "exported" / "mine" / "model.onnx"
    old = rewritten(two_runs / "runs" / "one" / "model.onnx", target, run={"id": "gone"}).read_bytes()
    ran = zoo("export", "two", "--name", "mine")
    assert ran.code == 0, ran.err
    (kept,) = target.parent.glob("model.replaced-*.onnx")
    assert kept.read_bytes() == old and f"The old file is kept as exported/mine/{kept.name}." in ran.out
    assert "replaces the export of run gone" in ran.out

    foreign = target.read_bytes()[:1000]
    target.write_bytes(foreign)
    ran = zoo("export", "two", "--name", "mine")
    assert ran.code == 2 and "it is not a usable file of zoo" in ran.err and "`--name mine-2`" in ran.err
    assert "Copy the file again" not in ran.err and "  " not in ran.err
    assert target.read_bytes() == foreign
    ran = zoo("export", "two", "--name", "mine", "--replace")
    assert ran.code == 0 and "replaces a file that zoo did not write, or that was damaged" in ran.out
    assert foreign in [path.read_bytes() for path in target.parent.glob("model.replaced-*.onnx")]
    assert Predictor(target).info.run["id"] == "two"


def test_an_export_of_other_pictures_is_refused_before_training(zoo, finished, tmp_path, make_photos):
    run, exported, _ = finished
    place = tmp_path / "exported"
    shutil.copytree(exported / "shapes", place / "shapes")
    before = (place / "shapes" / "model.onnx").read_bytes()
    make_photos(tmp_path / "b" / "photos", 6, seed=1)
    make_photos(tmp_path / "c" / "photos", 6, seed=1)
    (tmp_path / "c" / "photos" / "noise").rename(tmp_path / "c" / "photos" / "snow")
    folders = ("--runs", run.parent, "--exported", place, "--name", "shapes")
    present = set(run.parent.iterdir())

    decoded = len(list((files.cache() / "pixels").glob("*")))
    ran = zoo("finetune", "mnist_convnet", "--data", tmp_path / "b" / "photos", "--size", 32, *folders)
    # The number of pictures differs, so that none is decoded.
    assert "Data:" not in ran.out and len(list((files.cache() / "pixels").glob("*"))) == decoded
    assert ran.code == 2 and f"other pictures than those of {str(tmp_path / 'b' / 'photos')!r}" in ran.err
    assert f"The file is from run {run.name}: 72 pictures of 3 classes ('bars', 'discs', 'noise')" in ran.err
    assert "test accuracy " in ran.err and "`--name shapes-2`" in ran.err and "`--replace`" in ran.err
    # Other classes are found before the pictures are decoded.
    ran = zoo("finetune", "mnist_convnet", "--data", tmp_path / "c" / "photos", "--size", 32, *folders)
    assert ran.code == 2 and "it has other classes than 'bars', 'discs', 'snow'" in ran.err
    assert "Data:" not in ran.out
    ran = zoo("export", "mobilenetv2", "--top", *folders)
    assert ran.code == 2 and "it is not an export of mobilenetv2.imagenet1k" in ran.err
    ran = zoo("finetune", "mnist_convnet", "--no-export", "--replace")
    assert ran.code == 2 and "--replace cannot be given" in ran.err
    assert (place / "shapes" / "model.onnx").read_bytes() == before and set(run.parent.iterdir()) == present


@pytest.fixture
def export_of(zoo, tmp_path, monkeypatch, make_photos):
    """Train on a copy of some photos, and return the words of the same command for other pictures."""
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "photos", 8)
    words = ("finetune", "mnist_convnet", "--size", 32, "--epochs", 1, "--allow-chance", "--name", "mine", "--data")
    ran = zoo(*words, "photos")
    assert ran.code == 0, ran.err
    return words


@pytest.mark.parametrize("kept", [True, False], ids=["run", "no run"])
def test_other_pictures_are_told_apart_before_one_is_decoded(zoo, export_of, tmp_path, monkeypatch, kept):
    """One picture of 24 differs, or has another class; its file has to be read for that."""
    if not kept:
        (run,) = (tmp_path / "runs").iterdir()
        run.rename(tmp_path / "gone")
    shutil.copytree(tmp_path / "photos", tmp_path / "same")
    shutil.copytree(tmp_path / "photos", tmp_path / "edited")
    with next((tmp_path / "edited" / "discs").iterdir()).open("ab") as stream:
        stream.write(b"\0")
    shutil.copytree(tmp_path / "photos", tmp_path / "relabeled")
    bars, discs = (sorted((tmp_path / "relabeled" / name).iterdir())[0] for name in ("bars", "discs"))
    bars.rename(discs.parent / "bar.jpg")
    discs.rename(bars.parent / "disc.jpg")
    monkeypatch.setattr(pixels, "load_pixels", lambda *_: pytest.fail("decoded"))
    for name in ("edited", "relabeled"):
        for words in ((), ("--dry-run",)):
            ran = zoo(*export_of, name, *words)
            assert ran.code == 2 and f"other pictures than those of {str(tmp_path / name)!r}" in ran.err
    ran = zoo(*export_of, "edited", "--dry-run", "--replace")
    assert ran.code == 0 and "Export: exported/mine/model.onnx would be replaced, and the old file kept. " in ran.out
    ran = zoo(*export_of, "same", "--dry-run")
    assert ran.code == 0 and "exported/mine/model.onnx would be replaced" in ran.out and "unreadable" not in ran.out
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    ran = zoo(*export_of, "same")
    assert ran.code == 0 and "of the same pictures" in ran.out


@pytest.mark.parametrize("kept", [True, False], ids=["run", "no run"])
def test_a_file_that_may_be_unreadable_leaves_the_question_open(zoo, export_of, tmp_path, kept):
    if not kept:
        (run,) = (tmp_path / "runs").iterdir()
        run.rename(tmp_path / "gone")
    shutil.copytree(tmp_path / "photos", tmp_path / "damaged")
    (tmp_path / "damaged" / "noise" / "broken.jpg").write_bytes(b"no picture")
    ran = zoo(*export_of, "damaged", "--dry-run")
    assert ran.code == 0 and "Whether the others are the same is known when they are decoded." in ran.out
    ran = zoo(*export_of, "damaged")
    assert ran.code == 0 and "of the same pictures" in ran.out
    # Where it can be read, the pictures are others. That is found after they are decoded.
    shutil.copytree(tmp_path / "photos", tmp_path / "more")
    Image.new("RGB", (40, 40), "red").save(tmp_path / "more" / "noise" / "red.jpg")
    ran = zoo(*export_of, "more")
    assert ran.code == 2 and "Data:" in ran.out and "other pictures than those of" in ran.err


def test_a_dry_run_names_what_would_be_written(zoo, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("finetune", "mnist_convnet", "--size", 32, "--data", photos, "--dry-run")
    ran = zoo(*words, "--int8", "--name", "mine")
    assert ran.code == 0
    assert [line for line in ran.out.splitlines() if line.startswith("Export: ")] == [
        "Export: exported/mine/model.onnx",
        "Export: exported/mine-int8/model.onnx",
    ]
    ran = zoo(*words, "--no-export")
    assert ran.code == 0 and "Export:" not in ran.out
    (tmp_path / "exported" / "mine").mkdir(parents=True)
    (tmp_path / "exported" / "mine" / "model.onnx").write_bytes(b"mine")
    ran = zoo(*words, "--name", "mine")
    assert ran.code == 2 and "it is not a usable file of zoo" in ran.err and "Split: " in ran.out
    assert (tmp_path / "exported" / "mine" / "model.onnx").read_bytes() == b"mine"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_folder_that_has_grown_replaces_its_own_export(zoo, tmp_path, monkeypatch, make_photos, elsewhere):
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "photos", 8)
    arguments = ("finetune", "mnist_convnet", "--size", 32, "--epochs", 1, "--allow-chance", "--data")
    assert zoo(*arguments, "photos").code == 0
    (first,) = (tmp_path / "runs").iterdir()
    if elsewhere:
        # The run was exported again while its pictures were in another folder.
        target = tmp_path / "exported" / "mnist_convnet-photos" / "model.onnx"
        rewritten(target, target, data={"place": "0" * 16})
    shutil.copyfile(next((tmp_path / "photos" / "noise").iterdir()), tmp_path / "photos" / "noise" / "copy.jpg")
    ran = zoo(*arguments, tmp_path / "photos")
    assert ran.code == 0, ran.err
    (line,) = [line for line in ran.out.splitlines() if "replaces" in line]
    assert f"run {first.name}, of the same folder, which had 24 pictures then." in line
    assert "Test accuracy, on other test pictures: " in line
    if not elsewhere:
        assert f"kept as runs/{first.name}/model.onnx" in line
    # The path itself does not leave the machine.
    content = (tmp_path / "exported" / "mnist_convnet-photos" / "model.onnx").read_bytes()
    assert str(tmp_path).encode() not in content


def test_the_rule(finished, tmp_path):
    """Classes must be equal, and either the pictures or their place."""
    run, _, _ = finished
    data = json.loads((run / "run.json").read_text())["options"]["data"]
    # Other tests may have exported the run again from another place.
    place = replaced.fingerprint(data)
    before = rewritten(run / "model.onnx", tmp_path / "before.onnx", data={"place": place})
    info = Predictor(before).info
    new = NewExport("new", tmp_path, info.classes, "multiclass", data, info.data["digest"])

    def refused(kind: str | None = None, **changes: object) -> str:
        path = rewritten(before, tmp_path / "exported" / "x" / "model.onnx", **changes)
        try:
            replaced.check(path, new, kind=kind, replace=False)
        except UsageError as error:
            replaced.check(path, new, kind=kind, replace=True)
            with pytest.raises(ExportError, match="The run is kept: `zoo export"):
                replaced.check(path, new, kind=kind, replace=False, trained=run)
            return str(error)
        return ""

    assert refused() == refused(data={"digest": "other"}) == refused(data={"place": "elsewhere"}) == ""
    assert refused(classes=["noise", "discs", "bars"]) == ""
    assert "other pictures" in refused(data={"digest": "other", "place": "elsewhere"})
    assert "other classes" in refused(classes=["a", "b", "c"])
    assert "its task is multilabel" in refused(task="multilabel")
    assert "not a float32 file" in refused(precision={"kind": "int8"})
    assert "not an int8 file" in refused("int8")
    assert "published network" in refused(run={"id": None})
    # Files of earlier versions have no fingerprint of the place; the run record has the path.
    assert "other pictures" in refused(data={"digest": "other", "place": ""})
    shutil.copytree(run, tmp_path / run.name)
    assert refused(data={"digest": "other", "place": ""}) == ""


@pytest.mark.slow
def test_an_export_that_came_during_the_training_is_not_replaced(zoo, two_runs, monkeypatch):
    """Two runs of different pictures that finish at the same time: the second one is kept in its run folder."""
    monkeypatch.setattr(replaced, "check_targets", lambda *arguments, **options: None)
    target = two_runs / "exported" / "shapes" / "model.onnx"
    other = {"digest": "other", "place": "elsewhere"}
    before = rewritten(two_runs / "runs" / "one" / "model.onnx", target, run={"id": "x"}, data=other).read_bytes()
    ran = zoo("export", "two")
    assert ran.code == 1 and "`zoo export runs/two --exported exported --name shapes-2` exports it beside" in ran.err
    assert target.read_bytes() == before and [path.name for path in target.parent.iterdir()] == ["model.onnx"]
