"""Run folders: made by one process only, written whole or not at all, and read back with clear errors."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import secrets
import threading
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from zoo import files, runs
from zoo.errors import RunError, UsageError, WriteError
from zoo.runs import run_lock


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# --- create ----------------------------------------------------------------------------------------------------------


def test_a_run_folder_is_named_by_time_and_architecture(tmp_path):
    run = runs.create(tmp_path / "not/yet", "vgg16")
    assert re.fullmatch(r"\d{8}T\d{6}Z-vgg16-[0-9a-f]{6}", run.id)
    assert run.folder.parent == tmp_path / "not/yet" and names(run.folder) == []
    assert (run.model.name, run.exported.name) == ("model.keras", "model.onnx")


class Noon(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 1, 12, tzinfo=tz)


def test_a_folder_that_exists_is_never_used(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "datetime", Noon)
    draw = iter(["aaaaaa", "aaaaaa", "aaaaaa", "bbbbbb"])
    monkeypatch.setattr(secrets, "token_hex", lambda size: next(draw))
    first = runs.create(tmp_path, "net")
    (first.folder / "run.json").write_text("mine")
    second = runs.create(tmp_path, "net")
    assert (first.id, second.id) == ("20260101T120000Z-net-aaaaaa", "20260101T120000Z-net-bbbbbb")
    assert (first.folder / "run.json").read_text() == "mine" and names(second.folder) == []


def test_many_at_once_all_get_their_own(tmp_path):
    made = []
    threads = [threading.Thread(target=lambda: made.append(runs.create(tmp_path, "net").id)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 20 and names(tmp_path) == sorted(made)


@pytest.mark.parametrize("parent", ["file", "file/below", "dangling"])
def test_a_parent_that_is_no_folder(tmp_path, parent):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "gone/deep")
    with pytest.raises(
        RunError, match=r"is not a folder; choose another one with --runs|cannot be made.*--runs FOLDER"
    ):
        runs.create(tmp_path / parent, "net")


# --- writing ---------------------------------------------------------------------------------------------------------


def test_json_and_history_come_back(tmp_path):
    run = runs.create(tmp_path, "net")
    value = {"classes": ["Bär", "caf\udce9"], "seed": 3, "share": 0.15}
    run.write_json("run.json", value)
    assert run.read_json("run.json") == value
    assert run.read_history() == []
    (run.folder / "history.csv").write_text("phase,epoch,loss\nhead,1,0.5\nhead,2,0.25\n")
    assert run.read_history() == [
        {"phase": "head", "epoch": "1", "loss": "0.5"},
        {"phase": "head", "epoch": "2", "loss": "0.25"},
    ]
    assert names(run.folder) == ["history.csv", "run.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_in_the_middle_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "model.keras"
    path.write_bytes(b"old")
    with pytest.raises(error), files.atomic_write(path) as temporary:
        temporary.write_bytes(b"ne")
        raise error
    assert path.read_bytes() == b"old" and names(tmp_path) == ["model.keras"]


def test_the_old_file_is_whole_until_the_new_one_is(tmp_path):
    path = tmp_path / "deep/model.keras"
    for content in (b"old", b"new"):
        with files.atomic_write(path) as temporary:
            assert temporary.parent == path.parent and temporary.suffix == ".keras" and not temporary.exists()
            temporary.write_bytes(content)
            assert (path.read_bytes() if path.exists() else None) == (None if content == b"old" else b"old")
        assert path.read_bytes() == content and names(path.parent) == ["model.keras"]


def test_lists_of_numbers_take_one_line_and_come_back(tmp_path):
    run = runs.create(tmp_path, "vgg16")
    value = {"matrix": [[1, 0], [-2.5, 1e-07]], "names": ["[\n  1\n]", "[ 1,  2 ]"], "some": [1, None], "empty": [[]]}
    run.write_json("metrics.json", value)
    assert run.read_json("metrics.json") == value
    text = (run.folder / "metrics.json").read_text()
    assert "    [1, 0],\n    [-2.5, 1e-07]\n" in text and text.count("\n") == 17


def test_what_cannot_be_json_leaves_the_old_file(tmp_path):
    run = runs.create(tmp_path, "net")
    run.write_json("metrics.json", {"accuracy": 1})
    with pytest.raises(TypeError):
        run.write_json("metrics.json", {"accuracy": object()})
    assert run.read_json("metrics.json") == {"accuracy": 1} and names(run.folder) == ["metrics.json"]


def test_nothing_written_is_an_error_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(WriteError, match=r"model\.onnx' cannot be written: No such file"), files.atomic_write(path):
        pass
    assert path.read_bytes() == b"old"


# --- loading ---------------------------------------------------------------------------------------------------------


# What the first version of zoo recorded of a trained run, entry by entry.
OLD_RECORD = {
    "schema": 1,
    "id": "20250101T120000Z-net-aaaaaa",
    "status": "trained",
    "created": "2025-01-01T12:00:00Z",
    "command": ["zoo", "finetune", "net"],
    "name": "net-photos",
    "options": {"seed": 3, "data": "photos"},
    "architecture": {"name": "net"},
    "weights": {"random": True},
    "image": {"size": [32, 32], "channels": 3},
    "classes": ["cat", "dog", "owl"],
    "data": {"digest": "d", "left_out": []},
    "plugins": ["net"],
    "versions": {"python": "3.11.0"},
    "phases": [{"name": "all", "epochs_run": 3}],
    "warnings": [],
    "seconds": {"train": 12.5},
}


def write_run(tmp_path: Path, **changes) -> Path:
    run = runs.create(tmp_path, "net")
    run.write_json("run.json", {**OLD_RECORD, **changes})
    run.model.write_bytes(b"model")
    return run.folder


def test_a_finished_run_loads(tmp_path):
    folder = write_run(tmp_path)
    run, record = runs.load(folder)
    assert run.folder == folder and record.options["seed"] == 3 and record.classes == ["cat", "dog", "owl"]


@pytest.mark.parametrize("content", ["", "{", '{"schema": ', "\xff"])
def test_a_damaged_run_json(tmp_path, content):
    folder = write_run(tmp_path)
    (folder / "run.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(RunError, match=r"run\.json' is damaged"):
        runs.load(folder)


@pytest.mark.parametrize("content", [[], None, {}, {"schema": 99, "status": "trained"}, {"schema": "1"}])
def test_another_schema(tmp_path, content):
    folder = write_run(tmp_path)
    (folder / "run.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"damaged|cannot be read"):
        runs.load(folder)


@pytest.mark.parametrize("status", ["running", "interrupted", "failed: MemoryError", None])
def test_training_that_did_not_finish(tmp_path, status):
    folder = write_run(tmp_path, status=status)
    # No process works on the run.
    said = "interrupted" if status == "running" else status
    with pytest.raises(RunError, match=f"training did not finish .status {said!r}"):
        runs.load(folder)
    with (
        run_lock.hold(runs.Run(folder)),
        pytest.raises(RunError, match=r"in use: process .* exports the network"),
    ):
        runs.load(folder)


def test_a_run_without_its_model(tmp_path):
    folder = write_run(tmp_path)
    (folder / "model.keras").unlink()
    with pytest.raises(RunError, match="did not finish"):
        runs.load(folder)


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_no_run_folder(tmp_path, folder):
    with pytest.raises(RunError, match=r"run\.json' cannot be read: No such file"):
        runs.load(tmp_path / folder)


# --- the record ------------------------------------------------------------------------------------------------------


def test_an_old_record_gets_the_defaults_of_its_time():
    record = runs.RunRecord.from_json(OLD_RECORD)
    assert record.head is None and record.task == "multiclass"
    assert record.augmentation == {"name": "none", "parameters": {}}
    assert record.prefix is None and record.best_epoch is None and record.parity is None and record.others == {}
    assert record.phases == OLD_RECORD["phases"] and record.seconds == {"train": 12.5}
    # Later entries that a record lacks are empty.
    results = ("phases", "warnings", "seconds")
    begun = runs.RunRecord.from_json({key: value for key, value in OLD_RECORD.items() if key not in results})
    assert begun.phases == () and begun.warnings == () and begun.seconds == {}


def test_unknown_entries_are_kept():
    later = {**OLD_RECORD, "temperature": 1.3, "hosts": ["a", "b"]}
    record = runs.RunRecord.from_json(later)
    assert record.others == {"temperature": 1.3, "hosts": ["a", "b"]}
    for each in (record, record.with_status("failed"), record.with_export(parity={}, weights_sha256="0", seconds=1)):
        written = each.to_json()
        assert (written["temperature"], written["hosts"]) == (1.3, ["a", "b"])
        assert list(written)[-2:] == ["temperature", "hosts"]


def test_missing_entries_are_named(tmp_path):
    folder = write_run(tmp_path)
    values = {key: value for key, value in OLD_RECORD.items() if key not in ("classes", "image")}
    (folder / "run.json").write_text(json.dumps(values))
    with pytest.raises(RunError, match=r"run\.json' is damaged: the entries image, classes are missing\."):
        runs.load(folder)
    with pytest.raises(RunError, match=r"the entries image, classes are missing\."):
        runs.RunRecord.from_json(values)
    (folder / "run.json").write_text(json.dumps({**values, "classes": ["cat", "dog"]}))
    with pytest.raises(RunError, match=r"run\.json' is damaged: the entry image is missing\.$"):
        runs.load(folder)


def test_a_real_record_comes_back_as_it_was(finished, tmp_path):
    folder, _, _ = finished
    text = (folder / "run.json").read_text()
    record = runs.Run(folder).read_record()
    assert record.status == "trained" and record.id == folder.name and record.others == {}
    written = record.to_json()
    assert written == json.loads(text) and list(written) == list(json.loads(text))
    copy = runs.create(tmp_path, "net")
    copy.write_record(record)
    assert (copy.folder / "run.json").read_text() == text


def test_changes_give_new_records():
    record = runs.RunRecord.from_json({**OLD_RECORD, "status": "running", "warnings": ["first"]})
    before = json.dumps(record.to_json())
    interrupted = record.with_status("interrupted")
    trained = record.with_training(
        phases=[{"name": "head"}], best_epoch=3, prefix={"reads": 0}, warnings=["second"], seconds=1.234
    )
    exported = trained.with_export(parity={"pictures": 60}, weights_sha256="ab", seconds=2.5)
    assert json.dumps(record.to_json()) == before
    assert (interrupted.status, record.status) == ("interrupted", "running")
    assert trained.status == "trained" and trained.warnings == ["first", "second"] and trained.best_epoch == 3
    assert trained.seconds == {"train": 1.23} and trained.parity is None
    assert exported.seconds == {"train": 1.23, "export": 2.5} and record.seconds == {"train": 12.5}
    assert exported.parity == {"pictures": 60} and "parity" not in trained.to_json()
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.status = "trained"


# --- finding ---------------------------------------------------------------------------------------------------------


def test_a_run_is_found_by_path_or_id(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    for text in (folder.name, str(folder), f"runs/{folder.name}", f"runs/{folder.name}/"):
        assert runs.find(text, Path("runs")).resolve() == folder.resolve()
    assert runs.locate("nothing", Path("runs")) is None and runs.locate("runs", Path("runs")) is None


@pytest.mark.parametrize("text", ["nothing", "runs/nothing", "x" * 5000])
def test_an_unknown_run(tmp_path, monkeypatch, text):
    folders = [write_run(tmp_path / "runs") for _ in range(7)]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        runs.find(text, Path("runs"))
    message = str(caught.value)
    assert f"there is no run {text!r}. Runs in 'runs': … " in message and "runs/runs" not in message
    assert sorted(each.name for each in folders if each.name in message) == runs.names(Path("runs"))[-5:]


def test_a_misspelled_run(tmp_path):
    folder = write_run(tmp_path)
    for text in (folder.name[:-1], f"runs/{folder.name[:-1]}"):
        with pytest.raises(UsageError, match=f"Did you mean {folder.name}"):
            runs.find(text, tmp_path)


def test_a_folder_without_a_record(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError, match=r"is not a run folder: it has no run\.json"):
        runs.find(str(tmp_path / "photos"), tmp_path)
    assert runs.latest(tmp_path) == "none"


def test_versions_are_those_installed():
    import numpy

    found = runs.versions()
    assert found["numpy"] == numpy.__version__ and "finezoo" in found
    assert found["python"].startswith("3.")


def test_pictures_and_their_parts_come_back(tmp_path):
    run = runs.create(tmp_path, "x")
    rows = [
        {"part": part, "class": "a, b", "sha256": f"{part}0", "picture": f'{part} "1".jpg'}
        for part in ("train", "test")
    ]
    run.write_pictures(rows)
    assert run.parts() == {"train0": "train", "test0": "test"}
    (run.folder / "pictures.csv").unlink()
    with pytest.raises(RunError, match=r"pictures\.csv"):
        run.parts()


@pytest.mark.parametrize("folder", ["file/deeper", "file"])
def test_what_cannot_be_a_folder_is_found_out_before(tmp_path, folder):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match=r"is not a folder\. Choose another place with --runs FOLDER\."):
        files.check_writable(tmp_path / folder, "--runs FOLDER")
    files.check_writable(tmp_path / "new" / "deeper", "--runs FOLDER")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [(0, "you have no permission to write to {!r}"), (os.ST_RDONLY, "{!r} is on a read-only file system")],
)
@pytest.mark.parametrize("option", ["--runs", "--exported"])
def test_a_folder_that_cannot_be_written_to_is_found_before_training(
    zoo, photos, tmp_path, monkeypatch, flags, problem, option
):
    """Root may write everywhere, so that the answers of the operating system are replaced."""
    closed = tmp_path / "closed"
    closed.mkdir()
    folders = {"--runs": tmp_path / "runs", "--exported": tmp_path / "exported", option: closed / "new"}
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed and allowed(path, mode))
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=flags))
    ran = zoo("finetune", "mnist_dense", "--data", photos, *(word for pair in folders.items() for word in pair))
    assert ran.code == 1 and f"{problem.format(str(closed))}. Choose another place with {option} FOLDER." in ran.err
    assert "Data:" not in ran.out


def test_a_full_disk_of_runs_names_the_way_out(zoo, photos, tmp_path, monkeypatch):
    replace = os.replace

    def full(source, target):
        if Path(target).name == "pictures.csv":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    folders = ("--runs", tmp_path / "runs", "--exported", tmp_path / "exported")
    ran = zoo("finetune", "mnist_dense", "--data", photos, *folders)
    assert ran.code == 1 and "pictures.csv' cannot be written: No space left on device. Free some space, or" in ran.err
    assert "choose a folder on another disk." in ran.err
