"""Writes the report page of a run from the files of its folder, and adds notes about smaller files to run.json."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo import files, runs
from zoo.errors import RunError
from zoo.export.variants import VariantFile
from zoo.report.content import Content

FILE = "report.html"
# Files that the page links to, if they are there.
LINKED = ("predictions.csv", "label_issues.csv", "label_issues.html")


def write(run: runs.Run) -> Path:
    """Write report.html into the run folder, from the other files of the folder.

    A file that is missing or damaged costs its section of the page, which says so.

    Args:
        run: The run folder. It has at least run.json.

    Returns:
        The path of the page.

    Raises:
        RunError: run.json is missing or damaged.
        WriteError: The page cannot be written.
    """
    from zoo.report import html

    path = run.folder / FILE
    page = html.render(content_of(run))
    with files.atomic_write(path) as temporary:
        # A file name may hold bytes that are not valid text.
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def write_again(folder: Path) -> Path:
    """Write the report page of a finished run again. This needs neither its pictures nor its network.

    Args:
        folder: The run folder.

    Returns:
        The path of the page.

    Raises:
        RunError: run.json is missing or damaged, or training did not finish.
        WriteError: The page cannot be written.
    """
    run = runs.Run(folder)
    record = run.read_record()
    if record.status != "trained":
        raise RunError(
            f"{str(folder)!r}: training did not finish (status {record.status!r}), so there is nothing to report. "
            "Train it to the end first."
        )
    return write(run)


def content_of(run: runs.Run) -> Content:
    """Read the files of a run folder, and compute the figures that only the page shows.

    Args:
        run: The run folder.

    Raises:
        RunError: run.json is missing or damaged.
    """
    problems: dict[str, str] = {}
    record = run.read_record()
    metrics = _read(run, "metrics.json", problems)
    try:
        history = run.read_history()
    except (ValueError, csv.Error) as error:
        problems["history.csv"], history = f"history.csv is damaged: {error}.", []
    present = frozenset(name for name in LINKED if os.path.isfile(run.folder / name))
    try:
        per_class, confusions = figures(run, record, metrics)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problems["metrics.json"] = f"metrics.json is damaged: {type(error).__name__}: {error}."
        metrics, per_class, confusions = {}, [], []
    return Content(
        record=record,
        metrics=metrics,
        history=history,
        trust=_read(run, "trust.json", problems),
        examples=_read(run, "examples.json", problems),
        issues=_read(run, "label_issues.json", problems),
        per_class=per_class,
        confusions=confusions,
        problems=problems,
        links=present,
        exported=run.exported.is_file(),
    )


def figures(
    run: runs.Run, record: runs.RunRecord, metrics: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the figures of each class, and the confusions, on the test pictures; see `zoo.evaluate.per_class`."""
    from zoo.evaluate import per_class

    test = metrics.get("test")
    if not test:
        return [], []
    classes = test["classes"]
    if record.task != "multilabel":
        matrix = test["confusion_matrix"]
        counts = per_class.counts_of_matrix(matrix)
        return per_class.class_figures(classes, counts), per_class.confusions(classes, matrix)
    exact = per_class.counts_of_labels(_test_rows(run), classes)
    return per_class.class_figures(classes, exact or per_class.counts_of_figures(test["per_class"])), []


def _test_rows(run: runs.Run) -> list[dict[str, str]]:
    """Return the rows of the test pictures in predictions.csv; none if the file is missing or damaged."""
    try:
        return [row for row in run.predictions() if row["part"] == "test"]
    except RunError:
        return []


def _read(run: runs.Run, name: str, problems: dict[str, str]) -> dict[str, Any]:
    """Return the content of a JSON file. It is empty if the file is missing or damaged; the latter is a problem."""
    if not os.path.exists(run.folder / name):
        return {}
    try:
        value = run.read_json(name)
    except RunError as error:
        problems[name] = str(error)
        return {}
    if isinstance(value, dict):
        return value
    problems[name] = f"{name} is damaged: it holds a {type(value).__name__} instead of an object."
    return {}


def add_notes(run: runs.Run, variant_files: Sequence[VariantFile]) -> None:
    """Add warnings to run.json and report.html if the pictures cannot tell whether a variant loses too much accuracy.

    Args:
        run: The run folder. Its run.json and report.html have been written.
        variant_files: The variants of the export. Those that were refused get no warning.

    Raises:
        WriteError: A file cannot be written.
    """
    notes = [
        f"{each.figures['too_few']}." for each in variant_files if not each.refusal and each.figures.get("too_few")
    ]
    if notes:
        run.write_record(run.read_record().with_warnings(notes))
        write(run)
