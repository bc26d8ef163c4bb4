"""Writes history.csv for the tests of curves and reports."""

from __future__ import annotations

import csv


def write_history(folder, rows):
    """Write rows, which all have the same keys, to history.csv in a run folder."""
    with (folder / "history.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
