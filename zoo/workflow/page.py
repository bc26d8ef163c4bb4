"""Writes the report page of a run, and adds what was learned about the smaller files to the run record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo import files, runs
from zoo.export.variants import VariantFile


def write(run: runs.Run, record: runs.RunRecord, metrics: Mapping[str, Any]) -> None:
    """Write report.html into the run folder.

    Args:
        run: The run folder.
        record: The content of run.json.
        metrics: The content of metrics.json.

    Raises:
        WriteError: The file cannot be written.
    """
    from zoo.report import curves, html

    with files.atomic_write(run.folder / "report.html") as temporary:
        drawn = (run.folder / curves.FILE).is_file()
        page = html.render(record, metrics, run.read_history(), curves=curves.FILE if drawn else None)
        temporary.write_text(page, encoding="utf-8")


def add_notes(run: runs.Run, metrics: Mapping[str, Any], variant_files: Sequence[VariantFile]) -> None:
    """Add warnings to run.json and report.html if the pictures cannot tell whether a variant loses too much accuracy.

    Args:
        run: The run folder. Its run.json and report.html have been written.
        metrics: The content of metrics.json.
        variant_files: The variants of the export. Those that were refused get no warning.

    Raises:
        WriteError: A file cannot be written.
    """
    notes = [
        f"{each.figures['too_few']}." for each in variant_files if not each.refusal and each.figures.get("too_few")
    ]
    if notes:
        record = run.read_record().with_warnings(notes)
        run.write_record(record)
        write(run, record, metrics)
