"""Defines the logger `history`, which writes history.csv in the run folder. Every run has it.

zoo itself reads history.csv again: for curves, for the report, and to see whether a network has learned anything.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import secrets

from zoo.plugin import EpochFigures, LoggedRun, Logger, RunLog, hookimpl


class History(RunLog):
    """Writes all rows of history.csv anew after each epoch, so that the file never has a gap or a row twice."""

    def __init__(self, run: LoggedRun) -> None:
        self._path = run.folder / "history.csv"
        self._rows: list[EpochFigures] = []

    def epoch(self, figures: EpochFigures) -> None:
        self._rows.append(figures)
        # zoo removes files with such a name if the process is killed here.
        temporary = self._path.with_name(f".{secrets.token_hex(4)}-{self._path.name}")
        try:
            with temporary.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, [each.name for each in dataclasses.fields(figures)])
                writer.writeheader()
                writer.writerows(map(dataclasses.asdict, self._rows))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, self._path)
        finally:
            temporary.unlink(missing_ok=True)


@hookimpl
def zoo_loggers() -> list[Logger]:
    return [Logger(name="history", summary="history.csv in the run folder; always written", open=History)]
