"""Defines the logger `mlflow`, which stores runs on the server of MLFLOW_TRACKING_URI, or in a local database.

The local database is `mlflow/mlflow.db` in the folder of runs. MLflow no longer recommends plain files as a store.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from zoo.plugin import EpochFigures, LoggedRun, Logger, RunLog, hookimpl

FOLDER, EXPERIMENT, TAG = "mlflow", "zoo", "zoo.run"
# MLflow accepts so many parameters and metrics in one request.
BATCH = 100
# Older servers refuse longer values of parameters.
LONGEST_VALUE = 500
STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
# Without limits, MLflow tries for minutes to reach a server that is down. It also sends usage statistics to its makers
# and announces its tables in the terminal. What the user has set counts.
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """Set the environment variables in `DEFAULTS` inside this context, except those that the user has set.

    The text of an error in this context has no password: run.json records it.
    """
    new = {name: value for name, value in DEFAULTS.items() if name not in os.environ}
    os.environ.update(new)
    secret = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", "")).netloc.rpartition("@")[0]
    try:
        yield
    except Exception as error:
        if secret and secret in str(error):
            raise RuntimeError(str(error).replace(f"{secret}@", "")) from None
        raise
    finally:
        for name in new:
            os.environ.pop(name, None)


class MLflowLog(RunLog):
    """Stores settings as parameters, figures by epoch and of the exported files as metrics, and files as artifacts."""

    def __init__(self, run: LoggedRun) -> None:
        with _settings():
            from mlflow import MlflowClient

            self._uri = os.environ.get("MLFLOW_TRACKING_URI", "")
            local = run.folder.parent / FOLDER
            self._local = not self._uri
            self._uri = self._uri or _database(local)
            with _lock(local) if self._local else contextlib.nullcontext():
                self._client = MlflowClient(tracking_uri=self._uri)
                self._experiment = self._experiment_id(local)
            stored = self._stored(run) if run.resumed else None
            if stored is None:
                stored = self._client.create_run(self._experiment, tags={TAG: run.id}, run_name=run.id)
            self._id, self._last = stored.info.run_id, 0
            self._client.update_run(self._id, status="RUNNING")
            self._log_parameters({key: run.parameters[key] for key in run.parameters if key not in stored.data.params})
            # The epochs that were stored before an interruption. An epoch is stored in one request.
            history = self._client.get_metric_history(self._id, "loss/train") if run.resumed else []
            self._steps = {each.step for each in history}

    def epoch(self, figures: EpochFigures) -> None:
        self._last = figures.epoch
        if figures.epoch not in self._steps:
            self._log_metrics(figures.metrics())

    def figures(self, figures: Mapping[str, float]) -> None:
        self._log_metrics(figures)

    def artifact(self, path: Path) -> None:
        with _settings():
            self._client.log_artifact(self._id, str(path))

    def end(self, status: Literal["finished", "interrupted", "failed"], why: str) -> None:
        with _settings():
            if why:
                self._client.set_tag(self._id, "zoo.failure", why[:LONGEST_VALUE])
            self._client.set_terminated(self._id, STATUS[status])

    def hint(self) -> str:
        if not self._local:
            address = urlsplit(self._uri)
            # A user and a password can stand before the host.
            place = address._replace(netloc=address.netloc.rpartition("@")[2]).geturl()
            return f"{place.rstrip('/')}/#/experiments/{self._experiment}/runs/{self._id}"
        return shlex.join(["mlflow", "ui", "--backend-store-uri", self._uri])

    def _experiment_id(self, local: Path) -> str:
        """Return the id of the experiment that MLFLOW_EXPERIMENT_NAME names, or of "zoo". Create it if necessary."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        # MLflow's default place is the current folder.
        place = (local / "artifacts").as_uri() if self._local else None
        return str(self._client.create_experiment(name, artifact_location=place))

    def _stored(self, run: LoggedRun) -> Any:
        """Return MLflow's run of a run that was interrupted; None if it has none in this store."""
        found = self._client.search_runs([self._experiment], f"tags.`{TAG}` = '{run.id}'", max_results=1)
        return found[0] if found else None

    def _log_parameters(self, parameters: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        values = [Param(name, str(value)[:LONGEST_VALUE]) for name, value in parameters.items()]
        for start in range(0, len(values), BATCH):
            self._client.log_batch(self._id, params=values[start : start + BATCH])

    def _log_metrics(self, figures: Mapping[str, float]) -> None:
        with _settings():
            from mlflow.entities import Metric

            now = time.time_ns() // 1_000_000
            values = [Metric(name, float(value), now, self._last) for name, value in figures.items()]
            for start in range(0, len(values), BATCH):
                self._client.log_batch(self._id, metrics=values[start : start + BATCH])


def _database(folder: Path) -> str:
    """Return the address of the local database, as MLflow takes it."""
    folder.mkdir(exist_ok=True)
    return f"sqlite:///{(folder / 'mlflow.db').as_posix()}"


def _lock(folder: Path) -> Any:
    """Return a lock, so that only one process creates the tables of the local database."""
    from filelock import FileLock

    return FileLock(folder / ".lock", timeout=60)


@hookimpl
def zoo_loggers() -> list[Logger]:
    return [
        Logger(
            name="mlflow",
            summary="MLflow: the server of MLFLOW_TRACKING_URI, or RUNS/mlflow/mlflow.db",
            open=MLflowLog,
            needs=("mlflow",),
            install="pip install 'finezoo[mlflow]'",
        )
    ]
