"""Hands the settings, epochs and figures of a run to its loggers. A logger that fails is named once and switched off.

The loggers are plugins; see `zoo.plugin.Logger`. The logger `history` is the exception to both rules: every run has it,
and if it fails, the run fails, because zoo reads history.csv again.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import math
import os
import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from zoo import backend, interrupts, runs
from zoo.config import ResolvedConfig
from zoo.data.dataset import Dataset
from zoo.errors import WriteError, reason
from zoo.evaluate import metrics as metric_tools
from zoo.plugin import EpochFigures, LoggedRun, Logger, RunLog
from zoo.plugin.registry import Registry
from zoo.reporter import Reporter

if TYPE_CHECKING:
    from zoo.workflow.export import ExportResult

HISTORY = "history"
# Options that name places or that other parameters state more exactly.
LEFT_OUT = ("runs", "exported", "export", "head", "loggers", "epochs", "learning_rates", "architecture", "weights")

# The threads that loggers have started and that need not have ended, and the loggers that have started them.
_THREADS: weakref.WeakKeyDictionary[threading.Thread, str] = weakref.WeakKeyDictionary()


def logger_of(thread: threading.Thread) -> str:
    """Describe the logger that has started a thread; an empty text if none has."""
    return _THREADS.get(thread, "")


@dataclass
class _Open:
    """A log that is open, with its logger."""

    logger: Logger
    log: RunLog


class RunLogs:
    """The open logs of one run.

    Args:
        run: The run folder.
        registry: The loaded plugins.
        reporter: Receives a warning if a logger fails.

    Attributes:
        warnings: The warnings about loggers that have failed, for run.json.
        hints: For each log, the name of its logger and what the user can type or open to see it.
    """

    def __init__(self, run: runs.Run, registry: Registry, reporter: Reporter) -> None:
        self._run, self._registry, self._reporter = run, registry, reporter
        self._history: RunLog | None = None
        self._open: list[_Open] = []
        self.warnings: list[str] = []
        self.hints: list[tuple[str, str]] = []

    def open(self, loggers: tuple[Logger, ...], parameters: Mapping[str, Any], *, resumed: bool) -> None:
        """Open a log for each logger, and the log of `history`.

        Args:
            loggers: The loggers that the user named.
            parameters: The settings of the run; see `parameters_of`.
            resumed: Whether the run was interrupted and continues now.

        Raises:
            PluginError: The logger `history` is missing, or two plugins provide it.
        """
        folder = self._run.folder.absolute()

        def described() -> LoggedRun:
            # Each logger has a dictionary of its own, so that none can change those of others.
            return LoggedRun(id=self._run.id, folder=folder, parameters=dict(parameters), resumed=resumed)

        self._history = self._registry.logger(HISTORY).open(described())
        for logger in loggers:
            log = self._call(logger, _opened, logger, described())
            if log is not None:
                self._open.append(_Open(logger, log))
        for each in list(self._open):
            hint = self._ask(each, _hint)
            if hint:
                self.hints.append((each.logger.name, hint))
                self._reporter.say(f"Logging to {each.logger.name}: {hint}")

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Log an epoch.

        Args:
            row: A row of history.csv; see `zoo.train.engine.TrainResult`.

        Raises:
            WriteError: history.csv cannot be written.
        """
        figures = EpochFigures(**row)
        if self._history is not None:
            try:
                self._history.epoch(figures)
            except OSError as error:
                path = self._run.folder / "history.csv"
                full = " Free some space." if error.errno == errno.ENOSPC else ""
                raise WriteError(f"{str(path)!r} cannot be written: {error.strerror or error}.{full}") from error
        self._each(functools.partial(_log_epoch, figures))

    def earlier(self) -> None:
        """Log the epochs of a training that an earlier process has finished, as history.csv has them.

        history.csv itself does not change.
        """
        with contextlib.suppress(ValueError, TypeError):
            rows = [_figures_of(row) for row in self._run.read_history()]
            for figures in rows:
                self._each(functools.partial(_log_epoch, figures))

    def exported(self, result: ExportResult, record: runs.RunRecord) -> None:
        """Log the figures of the exported files, and the files.

        Args:
            result: The files and metrics of the export.
            record: The content of run.json after the export.
        """
        figures = figures_of(result, record)
        self._each(lambda log: log.figures(dict(figures)))
        for path in _files(result):
            self._each(functools.partial(_log_artifact, path))

    def end(self, error: BaseException | None = None) -> None:
        """Close the logs.

        Args:
            error: What has ended the run; None if it is finished.
        """
        status: Literal["finished", "interrupted", "failed"] = "finished"
        why = ""
        if isinstance(error, KeyboardInterrupt):
            status = "interrupted"
        elif error is not None:
            status, why = "failed", f"{type(error).__name__}: {error}"
        self._each(lambda log: log.end(status, why))
        self._open = []

    def _each(self, action: Callable[[RunLog], None]) -> None:
        for each in list(self._open):
            self._ask(each, action)

    def _ask(self, each: _Open, action: Callable[[RunLog], Any]) -> Any:
        """Call a function with a log. If it fails, switch the log off and return None."""
        failures = len(self.warnings)
        result = self._call(each.logger, action, each.log)
        if len(self.warnings) > failures:
            self._open.remove(each)
            self.hints = [(name, hint) for name, hint in self.hints if name != each.logger.name]
        return result

    def _call(self, logger: Logger, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of a logger. If it fails, warn and return None.

        What it prints goes to stderr. It leaves the random state of the process, its current folder and its handlers
        of signals as they were. A signal of the user waits until the function has ended, so that the function cannot
        swallow it.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM was received.
        """
        who = f"logger {logger.name!r} of plugin {self._registry.plugin_of(logger)}"
        with interrupts.held(), _same_state(), _noted_threads(who), contextlib.redirect_stdout(_ToStderr()):
            try:
                with self._reporter.timing.measure("loggers"):
                    return function(*arguments)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                text = f"{who} has failed and is switched off for this run: {reason(error)}"
                self.warnings.append(text)
                self._reporter.warn(text)
                return None


def _opened(logger: Logger, run: LoggedRun) -> RunLog:
    log = logger.open(run)
    if not isinstance(log, RunLog):
        raise TypeError(f"open must return a zoo.plugin.RunLog. Received: {log!r}.")
    return log


def _log_epoch(figures: EpochFigures, log: RunLog) -> None:
    log.epoch(figures)


def _log_artifact(path: Path, log: RunLog) -> None:
    log.artifact(path)


def _hint(log: RunLog) -> str:
    """Return the hint of a log as one line."""
    return " ".join(str(log.hint()).split())


class _ToStderr(io.TextIOBase):
    """Writes to stderr. A logger that closes it does not close stderr."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return sys.stderr.encoding

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def fileno(self) -> int:
        return sys.stderr.fileno()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


@contextlib.contextmanager
def _same_state() -> Iterator[None]:
    """Restore after this context what a logger can change for the whole process.

    This is the random state of Python and numpy (Keras takes seeds from that of Python), the current folder, because
    paths of runs can be relative, and the handlers of signals, which write a safe point.
    """
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            # The current folder may have been removed.
            stack.callback(os.chdir, os.getcwd())
        stack.enter_context(interrupts.same_handlers())
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


@contextlib.contextmanager
def _noted_threads(who: str) -> Iterator[None]:
    """Note which threads are started inside this context, so that the end of the process can name their logger."""
    before = set(threading.enumerate())
    try:
        yield
    finally:
        _THREADS.update({thread: who for thread in threading.enumerate() if thread not in before})


def _figures_of(row: Mapping[str, str]) -> EpochFigures:
    """Return a row of history.csv as figures."""

    def number(name: str) -> float | None:
        return float(row[name]) if row.get(name) else None

    numbers = ("learning_rate", "loss", "accuracy", "val_loss", "val_accuracy", "seconds")
    values: dict[str, Any] = {name: number(name) for name in numbers}
    return EpochFigures(phase=row["phase"], epoch=int(row["epoch"]), **values)


def parameters_of(resolved: ResolvedConfig, dataset: Dataset, record: runs.RunRecord) -> dict[str, Any]:
    """Return the settings of a run for loggers: a flat dictionary from names to texts, numbers and booleans.

    Settings without a value are left out. Lists become texts.
    """
    split = dataset.split
    values: dict[str, Any] = {
        "architecture": resolved.architecture.name,
        "weights": record.weights.get("id") or record.weights.get("file") or "random",
        **{key: value for key, value in record.options.items() if key not in LEFT_OUT},
        "name": resolved.name,
        "size": "x".join(map(str, record.image["size"])),
        "task": record.task,
        "classes": len(record.classes),
        "pictures": {part: len(getattr(split, part)) for part in ("train", "val", "test")},
        "data_digest": record.data.get("digest"),
        "head": record.head or {},
        "backend": backend.wanted(),
        "zoo": record.versions.get("finezoo"),
        "keras": record.versions.get("keras"),
    }
    keys = ("name", "train", "epochs", "learning_rate", "optimizer", "lr_schedule")
    for number, phase in enumerate(resolved.phases, 1):
        values[f"phase{number}"] = {key: getattr(phase, key) for key in keys}
    return dict(_flat(values, ""))


def _flat(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{before}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        elif isinstance(value, (str, bool, int, float)):
            yield key, value
        elif value is not None and not (isinstance(value, (list, tuple)) and not value):
            yield key, ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def figures_of(result: ExportResult, record: runs.RunRecord) -> dict[str, float]:
    """Return the figures of the exported files of a run: a flat dictionary from names to finite numbers."""
    values: dict[str, Any] = {part: metric_tools.summary(figures) for part, figures in result.metrics.items()}
    values |= {"parity": record.parity or {}, "best_epoch": record.best_epoch}
    values["training"] = {"seconds": record.seconds.get("train")}
    if result.run.exported.is_file() and result.refusal is None:
        values["file"] = {"bytes": result.run.exported.stat().st_size}
    for variant_file, path in result.variants:
        figures, name = variant_file.figures, variant_file.variant.name
        parts = {part: metric_tools.summary(each) for part, each in variant_file.metrics.items()}
        sizes = {key: figures.get(key) for key in ("bytes", "milliseconds", "speedup")}
        values[name] = {**parts, "file": sizes, "exported": path is not None}
    return dict(_numbers(values, ""))


def _numbers(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        # The whole figure has the name of its group.
        key = before.rstrip("/") if name == "expected_calibration_error" else f"{before}{name}"
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{key}/")
        elif name.endswith("interval") and isinstance(value, (list, tuple)) and len(value) == 2:
            low = key.removesuffix("interval").rstrip("_/")
            yield from _numbers({f"{low}_low": value[0], f"{low}_high": value[1]}, "")
        elif isinstance(value, (bool, int, float, np.number)) and math.isfinite(value):
            yield key, float(value)


def _files(result: ExportResult) -> list[Path]:
    """Return the files of the run folder that belong to this export, as absolute paths."""
    run = result.run
    names = ["curves.png", "report.html"]
    if result.exported is not None:
        names.insert(0, run.exported.name)
    names += [f"model-{each.variant.name}.onnx" for each, path in result.variants if path is not None]
    names += [
        f"{runs.FORMATS}/{each.variant.name}/{name}"
        for each, path in result.variants
        if path is not None
        for name in each.files
    ]
    return [path for name in names if (path := run.folder.absolute() / name).is_file()]
