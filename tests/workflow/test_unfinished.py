"""Interrupted runs: what they say, how they continue to the same bytes, what is refused, and how they are exported."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from zoo import backend, files, runs
from zoo.runs import run_lock
from zoo.train import epochs
from zoo.train.safe_points import SafePoints
from zoo.workflow import carry_out, unfinished
from zoo_runtime import Predictor

QUICK = ("--size", 28, "--epochs", 3, "--batch-size", 16, "--weights", "none", "--allow-chance", "--name", "shapes")


@pytest.fixture(scope="module")
def data(photos, tmp_path_factory):
    """A copy of the pictures, which a test may change."""
    return shutil.copytree(photos, tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture
def train(zoo, data, tmp_path):
    """Return a function that trains mnist_convnet with dropout, and returns the run folder and what was printed."""

    def run(place, *options):
        folders = ("--runs", tmp_path / place / "runs", "--exported", tmp_path / place / "exported")
        ran = zoo("finetune", "mnist_convnet", "--data", data, *QUICK, "--dropout", 0.3, *folders, *options)
        (found,) = (tmp_path / place / "runs").iterdir()
        return found, ran

    return run


def raise_at(patch, owner, name, number, raised):
    """Call `raised` instead of returning from the given call of a function."""
    function, calls = getattr(owner, name), []

    def counted(*arguments, **options):
        value = function(*arguments, **options)
        calls.append(1)
        if len(calls) == number:
            raised()
        return value

    patch.setattr(owner, name, counted)


def interrupt():
    raise KeyboardInterrupt


def weights_of(run):
    # zoo sets up Keras when it starts it, so that a test must not import it first.
    model = backend.start().models.load_model(run / "model.keras", compile=False)
    return [weight.tobytes() for weight in model.get_weights()]


def epochs_of(run):
    with (run / "history.csv").open(newline="") as stream:
        return [int(row["epoch"]) for row in csv.DictReader(stream)]


def status_of(run):
    return json.loads((run / "run.json").read_text())["status"]


def test_an_interrupted_run_is_exported_as_it_stands_and_resumed_to_the_same_bytes(zoo, train, data, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(carry_out, "export_model", lambda *arguments, **options: interrupt())
        alone, ran = train("alone")
    assert ran.code == 130 and f"`zoo resume {alone}` finishes the export." in ran.err
    assert run_lock.state(*opened(alone)) == status_of(alone) == "trained"
    assert sorted(path.name for path in (alone / "unfinished").iterdir()) == ["process.lock", "request.json"]
    with monkeypatch.context() as patch:
        raise_at(patch, SafePoints, "save", 2, interrupt)
        run, ran = train("stopped")
    assert ran.code == 130 and f"`zoo resume {run}` continues it after epoch 2" in ran.err
    assert status_of(run) == "interrupted" == run_lock.state(*opened(run))
    ran = zoo("export", run)
    assert ran.code == 1 and f"Resume it: `zoo resume {run}`" in ran.err and "--best-so-far" in ran.err

    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    exported = run.parent.parent / "so-far"
    ran = zoo("export", run, "--best-so-far", "--exported", exported)
    again = f"`zoo export {run} --best-so-far --exported {exported} --allow-chance` exports it all the same"
    assert ran.code == 1 and "has learned nothing" in ran.err and again in ran.err
    ran = zoo("export", run, "--best-so-far", "--allow-chance", "--exported", exported)
    assert ran.code == 0, ran.err
    assert "the training is unfinished: 2 epochs" in ran.err and "accuracy" in ran.out
    info = Predictor(exported / "shapes-unfinished" / "model.onnx").info
    assert "unfinished" in info.run["unfinished"] and info.metrics["test"]["accuracy"] >= 0
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before

    with run_lock.hold(runs.Run(run)):
        ran = zoo("resume", run)
        assert ran.code == 1 and f"is in use: process {os.getpid()} on" in ran.err
        assert run_lock.state(*opened(run)) == "running"
    changed = data / "bars" / "bars000.jpg"
    content = changed.read_bytes()
    shutil.copy(data / "discs" / "discs000.jpg", changed)
    ran = zoo("resume", run)
    changed.write_bytes(content)
    assert ran.code == 1 and "its pictures have changed" in ran.err and "1 was edited (bars/bars000.jpg)" in ran.err

    ran = zoo("finetune", "--resume", run)
    assert ran.code == 0, ran.err
    assert "continues after epoch 2" in ran.out and (run.parent.parent / "exported" / "shapes" / "model.onnx").exists()
    assert weights_of(run) == weights_of(alone) and epochs_of(run) == [1, 2, 3]
    assert not (run / "unfinished").exists() and status_of(run) == "trained"
    assert run_lock.state(*opened(run)) == "finished"
    ran = zoo("resume", run)
    assert ran.code == 0 and "is finished; there is nothing to resume" in ran.out and f"`zoo export {run}`" in ran.out


def opened(run):
    return runs.Run(run), runs.Run(run).read_record()


def closed(patch, folder):
    """Take the right to write to a folder. Root may write everywhere, so that the system's answer is replaced."""
    allowed = os.access
    patch.setattr(os, "access", lambda path, mode: path != folder and allowed(path, mode))


def test_a_run_of_another_user_is_not_exported(zoo, finished, tmp_path, monkeypatch):
    run = shutil.copytree(finished[0], tmp_path / "theirs")
    before = sorted((path.name, path.stat().st_mtime_ns) for path in run.iterdir())
    closed(monkeypatch, run)
    ran = zoo("export", run, "--exported", tmp_path / "exported")
    assert ran.code == 1 and f"Copy the run to a folder of your own, and use the copy: cp -r {run} FOLDER" in ran.err
    assert sorted((path.name, path.stat().st_mtime_ns) for path in run.iterdir()) == before
    assert not (tmp_path / "exported").exists()


def test_sigterm_and_a_full_disk(zoo, train, monkeypatch):
    with monkeypatch.context() as patch:
        # The signal arrives at the end of the first epoch. The training ends after the next batch.
        raise_at(patch, epochs.EpochLog, "start_epoch", 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        run, ran = train("stopped", "--no-export")
    assert ran.code == 143 and "terminated" in ran.err and "after batch 1 of epoch 2" in ran.err

    atomic_write = files.atomic_write

    @contextlib.contextmanager
    def full(path):
        with atomic_write(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield

    with monkeypatch.context() as patch:
        # run.json is written by other means, and stays writable.
        patch.setattr(files, "atomic_write", full)
        ran = zoo("resume", run)
    assert ran.code == 1 and "No space left on device. Free some space" in ran.err
    assert f"When the cause is removed, `zoo resume {run}` continues it after batch 1 of epoch 2." in ran.err
    assert status_of(run).startswith("failed: WriteError")
    with monkeypatch.context() as patch:
        closed(patch, run)
        ran = zoo("resume", run)
    assert ran.code == 1 and f"you have no permission to write to {str(run)!r}" in ran.err
    assert f"use the copy: cp -r {run} FOLDER" in ran.err
    ran = zoo("resume", run)
    assert ran.code == 0, ran.err
    assert (
        "continues after batch 1 of epoch 2" in ran.out
        and epochs_of(run) == [1, 2, 3]
        and (run / "report.html").exists()
    )
    assert not (run.parent.parent / "exported").exists()


def test_a_run_whose_process_is_gone_is_shown_as_interrupted(tmp_path):
    run = runs.Run(tmp_path)
    code = (
        "import sys; from pathlib import Path; from zoo import runs; from zoo.runs import run_lock\n"
        "with run_lock.hold(runs.Run(Path(sys.argv[1]))): print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"held\n"
        assert run_lock.holder(run)["pid"] == process.pid
    finally:
        process.kill()
        process.communicate()
    assert run_lock.holder(run) is None


def test_a_glance_at_a_run_does_not_keep_a_process_away_from_it(tmp_path):
    run = runs.Run(tmp_path)
    with run_lock.hold(run):
        # The lock of a run that is not finished stays.
        (run_lock.folder_of(run) / run_lock.REQUEST).write_text("{}")
    with (run_lock.folder_of(run) / run_lock.LOCK).open() as stream:
        fcntl = pytest.importorskip("fcntl")
        fcntl.flock(stream, fcntl.LOCK_SH)
        # As `holder` does, but slower.
        release = threading.Timer(0.05, fcntl.flock, (stream, fcntl.LOCK_UN))
        release.start()
        with run_lock.hold(run):
            pass
        release.join()


@pytest.mark.slow
def test_a_run_that_another_process_finished_meanwhile_is_not_trained_again(zoo, train, monkeypatch):
    with monkeypatch.context() as patch:
        raise_at(patch, SafePoints, "save", 1, interrupt)
        run, ran = train("raced")
    assert ran.code == 130

    load, other = unfinished.load_again, []

    def slowly(*arguments, **options):
        loaded = load(*arguments, **options)
        if not other:
            other.append(1)
            other.append(zoo("resume", run))
        return loaded

    monkeypatch.setattr(unfinished, "load_again", slowly)
    ran = zoo("resume", run)
    assert other[1].code == 0, other[1].err
    assert ran.code == 1 and "another process has continued" in ran.err and "Traceback" not in ran.err
    assert status_of(run) == "trained" and not (run / "unfinished").exists()


def test_a_run_of_an_older_version_has_no_safe_points(zoo, finished, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "old")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "running"}))
    ran = zoo("resume", run)
    assert ran.code == 1 and "has no safe points (status 'running'): an older version of zoo made it" in ran.err
    assert "`zoo finetune mobilenetv2_035 --data " in ran.err


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--cv", 3), ("--schedule", "grow", "--cv", 2)], ids=["folds", "growing folds"])
def test_a_cross_validation_continues_in_its_fold(zoo, train, monkeypatch, options):
    alone, ran = train("alone", *options, "--epochs", 2)
    assert ran.code == 0, ran.err
    run = None
    for number in (3, 2):
        with monkeypatch.context() as patch:
            raise_at(patch, SafePoints, "save", number, interrupt)
            if run is None:
                run, ran = train("stopped", *options, "--epochs", 2)
            else:
                ran = zoo("resume", run)
        assert ran.code == 130 and "of fold" in ran.err
    ran = zoo("export", run, "--best-so-far")
    assert ran.code == 1 and "has no network yet that could be exported" in ran.err
    ran = zoo("resume", run)
    assert ran.code == 0, ran.err
    assert weights_of(run) == weights_of(alone)
    assert (run / "out-of-fold.npz").read_bytes() == (alone / "out-of-fold.npz").read_bytes()
