"""Checks loggers: a run that is interrupted and resumed, with a temporary run folder."""

from __future__ import annotations

import contextlib
import io
import random
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from zoo.plugin import EpochFigures, LoggedRun, Logger, RunLog

# How long the threads of a logger may run after its logs have ended, in seconds, as those of a command may.
PATIENCE = 5.0


def check_logger(logger: Logger) -> None:
    """Check that a logger takes all that a run hands to it, and leaves alone what decides the result of a run.

    The check logs a run of three epochs that is interrupted, and resumes it. The run folder is a temporary one. A
    logger that needs a server gets one from the environment, as in a real run.

    Args:
        logger: The logger. The modules that it needs must be installed.

    Raises:
        AssertionError: The logger changes the random state of numpy or Python, or files of the run folder; it prints to
            stdout, or its hint is not a single line; or a thread of it runs on, for which Python would wait at its end.
        Exception: The logger itself has failed.
    """
    missing = logger.missing()
    assert not missing, f"{', '.join(missing)} must be installed: {logger.install}"
    parameters: dict[str, str | int | float | bool] = {"architecture": "x", "epochs": 3, "dropout": 0.2, "flip": True}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "runs", "20260131T120000Z-x-abc123")
        folder.mkdir(parents=True)
        files = {folder / name: name.encode() * 9 for name in ("run.json", "model.onnx", "report.html")}
        for path, content in files.items():
            path.write_bytes(content)
        printed, before = io.StringIO(), (random.getstate(), repr(np.random.get_state()))
        threads = set(threading.enumerate())
        with contextlib.redirect_stdout(printed):
            for resumed, epochs in ((False, 2), (True, 3)):
                run = LoggedRun(id=folder.name, folder=folder, parameters=dict(parameters), resumed=resumed)
                _log_run(logger.open(run), epochs, list(files) if resumed else [])
        assert not printed.getvalue(), f"the logger prints to stdout: {printed.getvalue()!r}"
        same = before == (random.getstate(), repr(np.random.get_state()))
        assert same, "the logger changes the random state of Python or numpy"
        changed = [path.name for path, content in files.items() if not path.is_file() or path.read_bytes() != content]
        assert not changed, f"the logger changes files of the run: {', '.join(changed)}"
        _check_threads(threads)


def _check_threads(before: set[threading.Thread]) -> None:
    """Check that no thread is left for which Python waits at its end."""
    end = time.monotonic() + PATIENCE
    left = []
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon:
            thread.join(max(0.0, end - time.monotonic()))
            left += [thread.name] if thread.is_alive() else []
    assert not left, (
        f"the logger leaves threads behind that still run {PATIENCE:.0f} seconds after its logs have ended: "
        f"{', '.join(sorted(left))}. End them in `RunLog.end`; a daemon thread loses what it has not stored."
    )


def _log_run(log: RunLog, epochs: int, files: list[Path]) -> None:
    """Hand epochs to a log and, if there are files, also figures and the files."""
    assert isinstance(log, RunLog), f"open must return a zoo.plugin.RunLog. Received: {log!r}"
    hint = log.hint()
    assert isinstance(hint, str) and "\n" not in hint, f"the hint must be one line of text. Received: {hint!r}"
    for epoch in range(1, epochs + 1):
        held_out = None if epoch == 1 else 1 / epoch
        rest = {"learning_rate": 1e-3, "loss": 1 / epoch, "accuracy": 0.5, "seconds": 0.1}
        log.epoch(EpochFigures(phase="all", epoch=epoch, val_loss=held_out, val_accuracy=held_out, **rest))
    if files:
        log.figures({"test/accuracy": 0.9, "file/bytes": 1e6})
    for path in files:
        log.artifact(path)
    log.end("finished" if files else "interrupted", "")
