"""Loggers of a run: what they receive, and that none of them can end the run or change its result."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys

import onnx
import pytest

PLUGIN = '''
import json, os, random, signal, sys, threading, time
import numpy as np
from zoo.plugin import Logger, RunLog, hookimpl

class Recorder(RunLog):
    def __init__(self, run):
        self.path = run.folder / "record.jsonl"
        self.note("open", [run.resumed, dict(run.parameters)])
        if os.environ.get("BLOCK"):
            (run.folder / "history.csv").mkdir()

    def note(self, event, value):
        with self.path.open("a") as stream:
            stream.write(json.dumps([event, value]) + "\\n")

    def epoch(self, figures):
        self.note("epoch", vars(figures))
        if figures.epoch == int(os.environ.get("INTERRUPT", "0")):
            raise KeyboardInterrupt

    def figures(self, figures):
        self.note("figures", dict(figures))
        figures.clear()

    def artifact(self, path):
        self.note("artifact", [path.name, path.is_absolute(), path.is_file()])

    def end(self, status, why):
        self.note("end", [status, why])

    def hint(self):
        return "cat record.jsonl"

class Noisy(RunLog):
    """Prints, and sets all random states that it finds."""

    def __init__(self, run):
        run.parameters["seed"] = "changed"
        self.epoch(None)

    def epoch(self, figures):
        import keras
        print("NOISE")
        keras.utils.set_random_seed(12345)
        random.seed(7)
        np.random.seed(7)

class Global(RunLog):
    """Changes what belongs to the whole process."""

    def epoch(self, figures):
        os.chdir(os.sep)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.stdout.close()

class Sending(RunLog):
    """Never ends the thread that sends figures."""

    def __init__(self):
        threading.Thread(target=time.sleep, args=(600,), name="sender").start()

    def end(self, status, why):
        time.sleep(6)
        print("all is sent")

class AtEpoch(RunLog):
    def epoch(self, figures):
        sys.exit("bye at epoch")

class AtEnd(RunLog):
    def end(self, status, why):
        class Odd(BaseException):
            def __str__(self): raise RuntimeError
        raise Odd

    def hint(self):
        return "never\\nmind"

def at_open(run):
    import nothing_of_that_name

@hookimpl
def zoo_loggers():
    kinds = {"recorder": Recorder, "noisy": Noisy, "at_open": at_open, "no_log": lambda run: 5}
    kinds |= {"at_epoch": lambda run: AtEpoch(), "at_end": lambda run: AtEnd()}
    kinds |= {"global": lambda run: Global(), "sending": lambda run: Sending()}
    loggers = [Logger(name=name, summary="a test", open=opened) for name, opened in kinds.items()]
    return [*loggers, Logger(name="absent", summary="s", open=at_open, needs=("no.such",), install="pip install such")]
'''
QUICK = ("--size", 28, "--epochs", 3, "--batch-size", 16, "--weights", "none", "--allow-chance", "--name", "shapes")


@pytest.fixture
def train(zoo, photos, tmp_path, install_plugin, monkeypatch):
    """Return a function that trains mnist_convnet with dropout, and returns the run folder and what was printed."""
    install_plugin("logs", PLUGIN, "zoo-logs")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(place, *options):
        folders = ("--runs", tmp_path / place / "runs", "--exported", tmp_path / place / "exported")
        ran = zoo("finetune", "mnist_convnet", "--data", photos, *QUICK, "--dropout", 0.3, *folders, *options)
        (found,) = [*(tmp_path / place / "runs").glob("*/run.json"), *tmp_path.glob("runs/*/run.json")]
        return found.parent, ran

    return run


def graph_of(run) -> str:
    """Return the sha256 of the exported graph with its weights, without the metadata, which names the run."""
    graph = onnx.load(run / "model.onnx")
    del graph.metadata_props[:]
    return hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()


def record_of(run) -> list[tuple[str, object]]:
    return [tuple(json.loads(line)) for line in (run / "record.jsonl").read_text().splitlines()]


def history_of(run) -> list[dict[str, str]]:
    with (run / "history.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_loggers_receive_the_run_and_cannot_change_or_end_it(train):
    plain, ran = train("plain")
    assert ran.code == 0 and "Log  " not in ran.out
    names = "recorder, noisy,at_open,at_epoch,at_end,no_log,history"
    run, ran = train("logged", "--log", names, "--log", "recorder", "--fp16")
    assert ran.code == 0, ran.err
    assert graph_of(run) == graph_of(plain)
    assert "NOISE" not in ran.out and "NOISE" in ran.err
    assert "Log        recorder: cat record.jsonl" in ran.out and "Log        at_end" not in ran.out

    said = [line for line in ran.err.splitlines() if "switched off" in line]
    warnings = json.loads((run / "run.json").read_text())["warnings"]
    for name, why in {
        "at_open": "No module named 'nothing_of_that_name'",
        "no_log": "open must return a zoo.plugin.RunLog",
        "at_epoch": "SystemExit: bye at epoch",
        "at_end": "Odd",
    }.items():
        (line,) = [each for each in said if f"logger '{name}' of plugin logs (zoo-logs 1.2)" in each]
        assert why in line
        assert len([each for each in warnings if f"logger '{name}'" in each]) == 1
    assert len(said) == 4

    events = record_of(run)
    kinds = [kind for kind, _ in events]
    assert kinds == ["open", *["epoch"] * 3, "figures", *["artifact"] * 4, "end"]
    resumed, parameters = events[0][1]
    assert not resumed and parameters["architecture"] == "mnist_convnet" and parameters["batch_size"] == 16
    assert parameters["seed"] == 0 and parameters["head.dropout"] == 0.3 and parameters["pictures.train"] > 20
    for (_, figures), row in zip(events[1:4], history_of(run), strict=True):
        assert {key: "" if value is None else str(value) for key, value in figures.items()} == row
    figures = events[4][1]
    metrics = json.loads((run / "metrics.json").read_text())
    assert figures["test/accuracy"] == metrics["test"]["accuracy"]
    assert figures["test/accuracy_low"] == metrics["test"]["accuracy_interval"][0]
    assert figures["test/calibration_error"] == metrics["test"]["calibration_error"]["expected_calibration_error"]
    assert figures["file/bytes"] == (run / "model.onnx").stat().st_size
    assert figures["fp16/file/bytes"] == (run / "model-fp16.onnx").stat().st_size and figures["fp16/exported"] == 1
    assert 0 <= figures["parity/logits_difference"] <= 1e-4
    names = ["model.onnx", "curves.png", "report.html", "model-fp16.onnx"]
    assert [value for kind, value in events if kind == "artifact"] == [[name, True, True] for name in names]
    assert events[-1] == ("end", ["finished", ""])
    record = json.loads((run / "run.json").read_text())
    assert record["options"]["loggers"] == ["recorder", "noisy", "at_open", "at_epoch", "at_end", "no_log", "history"]
    assert "logs (zoo-logs 1.2)" in record["plugins"]


def test_a_logger_cannot_move_the_run_or_swallow_a_signal(train, tmp_path, monkeypatch):
    from zoo.train.epochs import EpochLog

    monkeypatch.chdir(tmp_path)
    end_step, steps = EpochLog.end_step, []

    def interrupted(self, batch):
        steps.append(batch)
        if self.first == 0 and len(self._history) == 1:
            signal.raise_signal(signal.SIGTERM)
        end_step(self, batch)

    monkeypatch.setattr(EpochLog, "end_step", interrupted)
    _, ran = train("moved", "--log", "global", "--runs", "runs")
    assert ran.code == 143, ran.err
    assert os.getcwd() == str(tmp_path) and not sys.stderr.closed
    assert "continues it after batch 1 of epoch 2" in ran.err and "switched off" not in ran.err


def test_a_resumed_run_goes_on_in_its_logs(zoo, train, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with monkeypatch.context() as patch:
        patch.setenv("BLOCK", "1")
        run, ran = train("cut", "--log", "tensorboard,mlflow,recorder")
    # Unlike those of other loggers, an error of history.csv ends the run.
    assert ran.code == 1 and f"'{run}/history.csv' cannot be written: Is a directory" in ran.err
    assert ran.err.count("logger 'mlflow'") == 1 and "Connection refused" in ran.err
    status, why = record_of(run)[-1][1]
    assert status == "failed" and why.startswith("WriteError: ")
    (run / "history.csv").rmdir()
    with monkeypatch.context() as patch:
        patch.setenv("INTERRUPT", "2")
        ran = zoo("resume", run)
    assert ran.code == 130
    assert [int(row["epoch"]) for row in history_of(run)] == [1, 2]
    assert record_of(run)[-1] == ("end", ["interrupted", ""])
    ran = zoo("resume", run)
    assert ran.code == 0, ran.err
    assert ran.err.count("logger 'mlflow'") == 1
    events = record_of(run)
    second = max(i for i, (kind, _) in enumerate(events) if kind == "open")
    assert events[second][1][0] is True and events[second][1][1] == events[0][1][1]
    assert [value["epoch"] for kind, value in events[second:] if kind == "epoch"] == [1, 2, 3]
    assert [int(row["epoch"]) for row in history_of(run)] == [1, 2, 3]
    reader = EventAccumulator(str(run / "tensorboard"))
    reader.Reload()
    assert [each.step for each in reader.Scalars("loss/validation")] == [1, 2, 3]
    assert [each.step for each in reader.Scalars("test/accuracy")] == [3]
    assert "files/model.onnx" in reader.Tags()["tensors"]
    warnings = json.loads((run / "run.json").read_text())["warnings"]
    assert len([each for each in warnings if "logger 'mlflow'" in each]) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tensorbord", "Did you mean tensorboard"),
        ("", "a name is empty"),
        ("tensorboard,,mlflow", "a name is empty"),
        ("none,mlflow", "'none' cannot stand beside other names"),
        ("absent", "--log absent needs no.such, which is not installed. Install it: pip install such"),
    ],
)
def test_wrong_names_of_loggers_are_errors_before_anything_is_done(
    zoo, install_plugin, tmp_path, photos, value, message
):
    install_plugin("logs", PLUGIN, "zoo-logs")
    for options in ((), ("--dry-run",)):
        ran = zoo("finetune", "mnist_dense", "--data", photos, "--runs", tmp_path / "runs", "--log", value, *options)
        assert ran.code == 2 and message in ran.err
    assert not (tmp_path / "runs").exists()


def test_none_and_history_are_accepted(zoo, photos):
    for value in ("none", "history", " history , history"):
        ran = zoo("finetune", "mnist_dense", "--data", photos, "--dry-run", "--log", value)
        assert ran.code == 0, ran.err


@pytest.mark.slow
def test_a_logger_cannot_keep_the_process_from_ending(photos, tmp_path, install_plugin):
    install_plugin("logs", PLUGIN, "zoo-logs")
    words = ["finetune", "mnist_convnet", "--data", photos, *QUICK, "--epochs", 1, "--log", "sending", "--no-export"]
    words = [sys.executable, "-m", "zoo.cli", *map(str, words), "--runs", str(tmp_path / "runs")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    (warning,) = [line for line in done.stderr.splitlines() if "still runs" in line]
    named = "the thread 'sender' of logger 'sending' of plugin logs (zoo-logs 1.2)"
    assert warning.startswith(f"warning: {named} still runs 5 seconds after the command has ended.")
    # `end` has all the time that it needs.
    assert "all is sent" in done.stderr
    (record,) = tmp_path.glob("runs/*/run.json")
    assert json.loads(record.read_text())["status"] == "trained" and not (record.parent / "unfinished").exists()
