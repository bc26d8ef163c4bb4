"""Test `zoo-runtime update` and `rollback`: what is put in place, what is kept, and what is refused."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil

import numpy as np
import onnx
import pytest

import zoo_runtime
from zoo_runtime import (
    CorruptModel,
    ModelInfo,
    ModelNotFound,
    NotAnExport,
    NotUpdated,
    NotWritten,
    Predictor,
    UnknownSchema,
    UnsafeModel,
    check,
    rollback,
    update,
)
from zoo_runtime.cli import main


def variation(graph, info: ModelInfo, run: str, **changes: object) -> bytes:
    """Return the tiny exported file of another run."""
    changed = dataclasses.replace(info, run={"id": run, "created": f"2026-11-{run}T00:00:00Z"}, **changes)
    return graph(changed.to_metadata(), classes=len(changed.classes), size=changed.image.size)


@pytest.fixture
def files(graph, info, tmp_path):
    """Write the files of three runs into folders 01, 02 and 03, with the texts of an export, and return their paths."""
    paths = []
    for run in ("01", "02", "03"):
        path = tmp_path / run / "model.onnx"
        path.parent.mkdir()
        path.write_bytes(variation(graph, info, run))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (path.parent / "README.md").write_text(f"card of {run}, sha256 {digest}")
        (path.parent / "sbom.json").write_text(json.dumps({"sha256": digest}))
        paths.append(path)
    return paths


@pytest.fixture
def device(tmp_path, files):
    """Return the folder of a device, with the first file."""
    folder = tmp_path / "device"
    folder.mkdir()
    update(folder, files[0])
    return folder


def run_of(path) -> str:
    predictor = Predictor(path)
    assert check(predictor).passed
    return predictor.info.run["id"]


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_first_file_is_installed(device, files):
    assert run_of(device) == "01"
    assert names(device) == ["README.md", "model.onnx", "sbom.json"]
    assert (device / "model.onnx").read_bytes() == files[0].read_bytes()


def test_an_update_keeps_the_old_file_and_rollback_exchanges_them(device, files):
    result = update(device, files[1])
    assert (result.changed, result.info.run["id"], result.before.run["id"]) == (True, "02", "01")
    assert run_of(device) == "02" and run_of(device / "model.previous.onnx") == "01"
    assert (device / "README.md").read_text().startswith("card of 02")
    assert (device / "model.previous.README.md").read_text().startswith("card of 01")
    for expected, other in (("01", "02"), ("02", "01"), ("01", "02")):
        assert rollback(device).info.run["id"] == expected
        assert run_of(device) == expected and run_of(device / "model.previous.onnx") == other
        assert (device / "README.md").read_text().startswith(f"card of {expected}")
        assert (device / "model.previous.README.md").read_text().startswith(f"card of {other}")
    update(device, files[2].parent)
    assert run_of(device) == "03" and run_of(device / "model.previous.onnx") == "01"
    texts = ["README.md", "sbom.json", "model.previous.README.md", "model.previous.sbom.json"]
    assert names(device) == sorted(["model.onnx", "model.previous.onnx", *texts])
    assert files[2].exists()


def test_the_present_file_is_no_update(device, files):
    update(device, files[1])
    for same in (files[1], device, device / "model.onnx"):
        assert not update(device, same).changed
    assert run_of(device / "model.previous.onnx") == "01"


def test_a_file_in_the_folder_can_be_the_new_one(device, files):
    update(device, files[1])
    assert update(device, device / "model.previous.onnx").info.run["id"] == "01"
    assert run_of(device / "model.previous.onnx") == "02"


@pytest.mark.parametrize("rights", ["kept", "refused"])
def test_a_file_system_without_links_gets_copies(device, files, monkeypatch, rights):
    def refusing(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refusing)
    if rights == "refused":
        # Such file systems also have no rights and owners, and only some take times.
        for step in ("chmod", "chown", "utime"):
            monkeypatch.setattr(os, step, refusing)
    modified = (device / "model.onnx").stat().st_mtime_ns
    update(device, files[1])
    assert run_of(device) == "02" and run_of(device / "model.previous.onnx") == "01"
    assert rights == "refused" or (device / "model.previous.onnx").stat().st_mtime_ns == modified
    rollback(device)
    assert run_of(device) == "01" and not [name for name in names(device) if "swap" in name or "part" in name]


@pytest.mark.parametrize("name", ["model.incoming.onnx", "model.swap.onnx"])
def test_a_new_file_with_a_name_of_ours_is_refused_and_not_removed(device, files, name):
    new = device / name
    new.write_bytes(files[1].read_bytes())
    with pytest.raises(NotUpdated, match="Rename it"):
        update(device, new)
    assert new.read_bytes() == files[1].read_bytes() and run_of(device) == "01"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights")
def test_a_new_file_can_be_read_by_those_who_read_the_old_one(device, files):
    """Root updates with strict defaults, and a service runs as somebody else."""
    (device / "model.onnx").chmod(0o644)
    group = max(os.getgroups() or [os.getgid()])
    os.chown(device / "model.onnx", -1, group)
    earlier = os.umask(0o077)
    try:
        update(device, files[1])
    finally:
        os.umask(earlier)
    status = (device / "model.onnx").stat()
    assert status.st_mode & 0o777 == 0o644 and status.st_gid == group


@pytest.mark.parametrize("target", ["release/v1.onnx", "model.previous.onnx"])
def test_a_link_is_replaced_and_its_file_kept(device, files, target):
    """A present file that is a symbolic link, even one to the name under which it is kept."""
    (device / "release").mkdir()
    os.rename(device / "model.onnx", device / target)
    os.symlink(target, device / "model.onnx")
    update(device, files[1])
    assert run_of(device) == "02" and run_of(device / "model.previous.onnx") == "01"
    rollback(device)
    assert run_of(device) == "01" and run_of(device / "model.previous.onnx") == "02"


def test_a_file_that_is_mounted_itself_stays(device, files, monkeypatch):
    real = os.replace

    def busy(source, target):
        if os.path.basename(target) == "model.onnx":
            raise OSError(errno.EBUSY, "Device or resource busy")
        real(source, target)

    monkeypatch.setattr(os, "replace", busy)
    with pytest.raises(NotWritten, match="mount its folder instead"):
        update(device, files[1])
    assert run_of(device) == "01" and names(device) == ["README.md", "model.onnx", "sbom.json"]


def test_texts_of_the_user_stay(device, files):
    (device / "README.md").write_text("my own notes")
    update(device, files[1])
    rollback(device)
    assert (device / "README.md").read_text() == "my own notes"


def test_tuned_settings_stay_with_their_file(device, files):
    tuned = device / "model.tuned.json"
    zoo_runtime._session.write_tuned(str(device / "model.onnx"), zoo_runtime.Settings(threads=1), [])
    assert Predictor(device).settings.threads == 1
    assert any("zoo-runtime tune" in note for note in update(device, files[1]).notes)
    assert Predictor(device).settings.threads is None and not tuned.exists()
    rollback(device)
    assert Predictor(device).settings.threads == 1


def other_classes(graph, info, path, **changes):
    selftest = {**info.selftest}
    changed = dataclasses.replace(info, **changes)
    predictor = Predictor(graph(changed.to_metadata(), classes=len(changed.classes)))
    jpegs = [__import__("base64").b64decode(picture["jpeg"]) for picture in selftest["pictures"]]
    path.write_bytes(variation(graph, changed, "04", selftest=zoo_runtime.record(predictor, jpegs)))
    return path


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("red", "green", "blue", "pink"), "'pink' new"),
        (("red", "green", "cyan"), "'cyan' new and 'blue' gone"),
        (("green", "red", "blue"), "the same classes in another order"),
    ],
)
def test_other_classes_are_refused_unless_allowed(device, graph, info, tmp_path, classes, words):
    new = other_classes(graph, info, tmp_path / "new.onnx", classes=classes)
    with pytest.raises(NotUpdated, match=f"{words}.*--allow-other-classes"):
        update(device, new)
    assert run_of(device) == "01" and names(device) == ["README.md", "model.onnx", "sbom.json"]
    notes = update(device, new, allow_other_classes=True).notes
    assert any("classes changed from 'red', 'green', 'blue' to" in note for note in notes)


def test_a_new_task_is_said(device, graph, info, tmp_path):
    new = other_classes(graph, info, tmp_path / "new.onnx", task="multilabel")
    assert "The task changed from multiclass to multilabel." in update(device, new).notes


def test_an_older_run_is_refused_on_request(device, files):
    update(device, files[2])
    with pytest.raises(NotUpdated, match=r"run of 2026-11-02T.*run of 2026-11-03T"):
        update(device, files[1], not_older=True)
    assert not update(device, files[2], not_older=True).changed
    assert update(device, files[1]).changed


def test_what_is_no_exported_file_changes_nothing(device, files, tmp_path, graph, info):
    whole = files[1].read_bytes()
    model = onnx.load_from_string(whole)
    unsafe = graph(info.to_metadata(), weights_in="secret.bin")
    wrong = onnx.load_from_string(whole)
    wrong.graph.initializer[0].raw_data = np.full((3, 3), 0.01, np.float32).tobytes()
    model.metadata_props[[entry.key for entry in model.metadata_props].index("zoo.schema")].value = "99"
    cases = [
        (whole[:-50], CorruptModel, "is cut off"),
        (b"", CorruptModel, "is empty"),
        (b"<html>", NotAnExport, "a web page"),
        (b"PK\3\4rest", NotAnExport, "a ZIP archive"),
        (unsafe, UnsafeModel, "external data"),
        (model.SerializeToString(), UnknownSchema, "99"),
        (wrong.SerializeToString(), NotUpdated, "fails its self-test"),
    ]
    for content, kind, words in cases:
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(kind, match=words) as caught:
            update(device, tmp_path / "bad.onnx")
        assert "incoming" not in str(caught.value) and str(tmp_path / "device" / "model") not in str(caught.value)
        assert run_of(device) == "01" and names(device) == ["README.md", "model.onnx", "sbom.json"]


def test_a_missing_file_or_folder(device, files, tmp_path):
    with pytest.raises(ModelNotFound, match=r"nowhere\.onnx"):
        update(device, tmp_path / "nowhere.onnx")
    with pytest.raises(NotUpdated, match="there is no folder"):
        update(tmp_path / "nowhere", files[1])
    with pytest.raises(NotUpdated, match="Give the folder of the device first"):
        update(files[1], device)
    with pytest.raises(NotUpdated, match=r"no model\.previous\.onnx"):
        rollback(device)


def test_a_damaged_present_file_is_replaced(device, files):
    (device / "model.onnx").write_bytes(files[0].read_bytes()[:-100])
    result = update(device, files[1])
    assert result.before is None and run_of(device) == "02"
    with pytest.raises(CorruptModel, match="is cut off"):
        rollback(device)
    assert run_of(device) == "02"


def test_a_missing_present_file_comes_back(device, files):
    update(device, files[1])
    (device / "model.onnx").unlink()
    rollback(device)
    assert run_of(device) == "01"


def test_two_updates_at_once(device, files):
    held = os.open(device, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(NotUpdated, match="another process is updating"):
        update(device, files[1])
    os.close(held)
    assert update(device, files[1]).changed


def full(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("free", "words"),
    [(0, r"0.1 MB are needed, and 0.0 MB are free"), (2**20, r"1.0 MB are free, which is not enough for .* copies")],
)
def test_a_full_disk_changes_nothing(device, files, monkeypatch, free, words):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(2**30, 2**30 - free, free))
    with files[1].open("ab") as stream:
        # A string of the producer, so that the file has a size worth naming.
        stream.write(b"\x12\xa0\x8d\x06" + b"x" * 100_000)
    for step in ("fsync", "link"):
        with monkeypatch.context() as patch, pytest.raises(NotWritten, match=f"{words}.*Free some space"):
            patch.setattr(os, step, full)
            update(device, files[1])
        assert run_of(device) == "01" and names(device) == ["README.md", "model.onnx", "sbom.json"]


def test_a_full_disk_leaves_no_copy_of_the_present_file(device, files, monkeypatch):
    """A file system without links, with room for the new file but not for a copy of the present one."""
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EPERM, "not permitted")))
    real, calls = os.fsync, []

    def second(*arguments: int) -> None:
        calls.append(arguments)
        real(*arguments) if len(calls) == 1 else full()

    monkeypatch.setattr(os, "fsync", second)
    with pytest.raises(NotWritten, match="not enough for the files beside it and for copies"):
        update(device, files[1])
    assert run_of(device) == "01" and names(device) == ["README.md", "model.onnx", "sbom.json"]


def test_a_rollback_on_a_full_disk_does_not_ask_for_the_size_of_the_file(device, files, monkeypatch):
    update(device, files[1])
    monkeypatch.setattr(os, "link", full)
    with pytest.raises(NotWritten, match="files beside it") as raised:
        rollback(device)
    assert "needed" not in str(raised.value) and run_of(device) == "02"


def test_what_a_killed_command_left_beside_the_files_is_cleaned_up(device, files):
    """It was killed after the exchange, while it moved the texts."""
    update(device, files[1])
    for name in ("model.onnx.sig.part", "model.previous.README.md.part", "README.md.part", "model.tuned.json.part"):
        (device / name).write_bytes(b"half")
    for name in ("README.md", "sbom.json"):
        kept = device / f"model.previous.{name}"
        (device / name).write_bytes(kept.read_bytes())
        kept.unlink()
    assert not update(device, files[1]).changed
    assert not [name for name in names(device) if name.endswith(".part")]
    assert "card of 01" in (device / "model.previous.README.md").read_text() and not (device / "README.md").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_pipes_beside_the_new_file_do_not_stop_an_update(device, files):
    for name in ("model.onnx.sig", "sbom.json"):
        files[1].with_name(name).unlink(missing_ok=True)
        os.mkfifo(files[1].with_name(name))
    assert update(device, files[1]).changed and not (device / "model.onnx.sig").exists()


def test_a_folder_that_cannot_be_written(tmp_path, files, open_pictures, unprivileged):
    folder = open_pictures.parent / "device"
    folder.mkdir(mode=0o555)
    new = folder / "new.onnx"
    new.write_bytes(files[1].read_bytes())
    new.chmod(0o444)
    with unprivileged(), pytest.raises(NotWritten, match="as the user who owns the folder"):
        update(folder, new)


def test_files_are_flushed_before_they_get_their_names(device, files, monkeypatch):
    """A power failure must not leave a name without its content."""
    steps = []
    real = {name: getattr(os, name) for name in ("fsync", "replace", "link")}

    def recorded(name):
        def call(*arguments):
            shown = [os.path.basename(each) for each in arguments if not isinstance(each, int)]
            if isinstance(arguments[0], int):
                shown = [os.path.basename(os.readlink(f"/proc/self/fd/{arguments[0]}"))]
            steps.append((name, *shown))
            return real[name](*arguments)

        return call

    for name in real:
        monkeypatch.setattr(os, name, recorded(name))
    update(device, files[1])
    end = steps.index(("replace", "model.swap.onnx", "model.previous.onnx"))
    assert steps[: end + 2] == [
        ("fsync", "model.incoming.onnx"),
        ("link", "model.onnx", "model.swap.onnx"),
        ("fsync", "device"),
        ("replace", "model.incoming.onnx", "model.onnx"),
        ("fsync", "device"),
        ("replace", "model.swap.onnx", "model.previous.onnx"),
        ("fsync", "device"),
    ]


@pytest.mark.parametrize("step", ["update", "rollback"])
@pytest.mark.parametrize("number", range(4))
def test_an_interrupted_exchange_is_finished_by_the_next_command(device, files, monkeypatch, step, number):
    """`test_update_kill.py` kills processes instead."""

    class Stopped(BaseException):
        pass

    left = number

    def stopping(path: str, target: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stopped
        real(path, target)

    real = os.replace
    update(device, files[1])
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopping)
        with pytest.raises(Stopped):
            update(device, files[2]) if step == "update" else rollback(device)
    present = run_of(device)
    assert present == ("02" if number == 0 else "03" if step == "update" else "01")
    assert not update(device, device).changed
    assert (
        run_of(device) == present
        and run_of(device / "model.previous.onnx") == {"01": "02", "02": "01", "03": "02"}[present]
    )
    assert "model.swap.onnx" not in names(device)


def test_the_commands(device, files, capsys):
    assert main(["update", str(device), str(files[1])]) == 0
    out = capsys.readouterr().out
    assert "self-test      passed" in out and f"now            {device / 'model.onnx'}: run 02" in out
    assert f"kept           {device / 'model.previous.onnx'}: run 01" in out
    assert f"`zoo-runtime rollback {device}`" in out
    assert main(["rollback", str(device), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["changed"], printed["run"], printed["run_before"]) == (True, "01", "02")
    assert main(["update", str(device), str(files[0])]) == 0
    assert "is this file already" in capsys.readouterr().out
    assert main(["update", str(device), str(device / "nothing.onnx")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="this system has no /dev/zero")
def test_a_device_that_never_ends_is_not_read(device):
    for use in (Predictor, lambda path: update(device, path)):
        with pytest.raises(ModelNotFound, match="a pipe or a device"):
            use("/dev/zero")
    assert run_of(device) == "01"
