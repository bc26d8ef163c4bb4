"""The loggers of zoo: what the real libraries read back from a run, from a resumed one, and without a server."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import pytest

from zoo import testing
from zoo.plugin import EpochFigures, LoggedRun, Logger, registry


def epoch(number: int) -> EpochFigures:
    figures = {"learning_rate": 0.1, "loss": 1 / number, "accuracy": 0.5, "seconds": 0.25}
    return EpochFigures(phase="all", epoch=number, val_loss=None, val_accuracy=None, **figures)


def described(tmp_path, *, resumed: bool = False) -> LoggedRun:
    folder = tmp_path / "runs" / "20260131T120000Z-x-abc123"
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {"architecture": "x", "seed": 0, "dropout": 0.5, "flip": True, "command": "long " * 200}
    return LoggedRun(id=folder.name, folder=folder, parameters=parameters, resumed=resumed)


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    """Read a TensorBoard folder with TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {tag: [(each.step, each.value) for each in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def hyperparameters(folder) -> dict[str, object]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    reader = EventAccumulator(str(folder))
    reader.Reload()
    content = reader.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    values = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}


def mlflow_runs(runs):
    """Return MLflow's client for the local store of a folder of runs, and the runs of the experiment "zoo"."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow' / 'mlflow.db'}")
    return client, client.search_runs([client.get_experiment_by_name("zoo").experiment_id])


@pytest.mark.parametrize("name", ["history", "mlflow", "tensorboard"])
def test_a_logger_keeps_the_rules(name):
    (case,) = testing.plugin_cases(name, only=["logger"])
    outcome = case.outcome()
    if outcome.state == "skipped":
        pytest.skip(outcome.text)
    assert outcome.state == "passed", outcome.text


def test_the_example_of_the_page_works(install_plugin, tmp_path, zoo):
    page = (Path(__file__).resolve().parents[2] / "docs" / "loggers.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    install_plugin("results", code)
    logger = registry.load().logger("results")
    testing.check_logger(logger)
    log = logger.open(described(tmp_path))
    log.figures({"test/accuracy": 0.75})
    log.end("finished", "")
    line = (tmp_path / "runs" / "results.csv").read_text().strip()
    assert line == f"{described(tmp_path).id},x,0.75"
    assert "a line per run" in zoo("list", "loggers").out


def test_tensorboard_continues_without_a_gap_or_a_double_step(plugins, tmp_path):
    logger, folder = plugins.logger("tensorboard"), described(tmp_path).folder / "tensorboard"
    log = logger.open(described(tmp_path))
    for number in (1, 2, 3):
        log.epoch(epoch(number))
    # The process is killed here, while it writes a record.
    (path,) = folder.iterdir()
    with path.open("ab") as stream:
        stream.write((200).to_bytes(8, "little") + b"torn")
    log = logger.open(described(tmp_path, resumed=True))
    for number in (1, 2, 3, 4, 5):
        log.epoch(epoch(number))
    log.figures({"test/accuracy": 0.75})
    log.end("finished", "")
    read = scalars(folder)
    assert [step for step, _ in read["loss/train"]] == [1, 2, 3, 4, 5]
    assert read["loss/train"][3][1] == 0.25 and read["test/accuracy"] == [(5, 0.75)]
    assert "loss/validation" not in read
    found = hyperparameters(folder)
    assert found["architecture"] == "x" and found["dropout"] == 0.5 and found["flip"] is True


def test_mlflow_continues_the_same_run_in_a_local_database(plugins, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    logger = plugins.logger("mlflow")
    log = logger.open(described(tmp_path))
    for number in (1, 2):
        log.epoch(epoch(number))
    log.end("interrupted", "")
    runs = tmp_path / "runs"
    client, (stored,) = mlflow_runs(runs)
    assert stored.info.status == "KILLED"
    log = logger.open(described(tmp_path, resumed=True))
    file = described(tmp_path).folder / "model.onnx"
    file.write_bytes(b"onnx")
    for number in (1, 2, 3):
        log.epoch(epoch(number))
    log.figures({f"test/figure{i}": i for i in range(150)})
    log.artifact(file)
    log.end("failed", "TrainingError: the loss is nan")
    _, (stored,) = mlflow_runs(runs)
    assert [each.step for each in client.get_metric_history(stored.info.run_id, "loss/train")] == [1, 2, 3]
    assert stored.info.run_name == described(tmp_path).id and stored.info.status == "FAILED"
    assert stored.data.params["dropout"] == "0.5" and len(stored.data.params["command"]) == 500
    assert stored.data.metrics["test/figure149"] == 149
    assert stored.data.tags["zoo.failure"] == "TrainingError: the loss is nan"
    assert [each.path for each in client.list_artifacts(stored.info.run_id)] == ["model.onnx"]
    # MLflow's own defaults would put files into the current folder.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
    assert log.hint() == f"mlflow ui --backend-store-uri sqlite:///{runs}/mlflow/mlflow.db"


def test_mlflow_gives_up_on_a_server_that_is_down_and_shows_no_password(plugins, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    started = time.perf_counter()
    with pytest.raises(Exception, match=r"127\.0\.0\.1") as raised:
        plugins.logger("mlflow").open(described(tmp_path))
    assert time.perf_counter() - started < 15
    assert "secret" not in str(raised.value)
    assert not (tmp_path / "runs" / "mlflow").exists()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_missing_extra_is_an_error_with_the_line_that_installs_it(zoo, monkeypatch, tmp_path, name):
    monkeypatch.setitem(sys.modules, name, None)
    ran = zoo("finetune", "mnist_dense", "--log", name, "--runs", tmp_path / "runs")
    assert ran.code == 2 and f"Install it: pip install 'finezoo[{name}]'" in ran.err
    assert not (tmp_path / "runs").exists()
    listed = {row["name"]: row["installed"] for row in json.loads(zoo("list", "loggers", "--json").out)}
    assert listed[name] is False and listed["history"] is True
    assert f"no; run `pip install 'finezoo[{name}]'`" in zoo("info", name).out


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "none"}, "'none' stands for no logger"),
        ({"needs": "mlflow"}, "names of modules"),
        ({"needs": ("mlflow",)}, "install must be a text"),
        ({"open": None}, "open must be a function"),
    ],
)
def test_the_fields_of_a_logger_are_checked(changes, problem):
    from zoo.errors import InvalidPluginData

    with pytest.raises(InvalidPluginData, match=problem):
        Logger(**{"name": "mine", "summary": "s", "open": print, **changes})
