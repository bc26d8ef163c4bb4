"""Reads the classes of pictures from the exports of Label Studio: CSV, JSON-MIN and JSON.

The formats are described at https://labelstud.io/guide/export. An export has one entry per task, or per task and
annotator. It also holds columns about the annotation, which are never classes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from zoo.data.tables import Table
from zoo.errors import DataLayout

# The columns that CSV and JSON-MIN exports add to the data and the answers.
ADDED = frozenset({"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"})
_ALWAYS = frozenset({"annotation_id", "created_at", "updated_at", "lead_time"})
_UPLOADED = re.compile(r"/?data/upload/(?:\d+/)?(?P<name>[^/]+)")
_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")
_LOCAL = "/data/local-files/?d="
_ADVICE = "Export from Label Studio as JSON or CSV from a project whose labeling interface has <Choices>"


def is_export(names: Sequence[str]) -> bool:
    """Return whether a list with columns of these names is a CSV or JSON-MIN export of Label Studio."""
    return set(names) >= _ALWAYS


def tidied(table: Table) -> Table:
    """Return a CSV or JSON-MIN export without the columns that Label Studio adds. Other tables stay as they are.

    Several choices of one picture, which the export writes as {"choices": [...]}, become lists.

    Raises:
        DataLayout: A column holds regions of pictures, such as boxes.
    """
    if not is_export(table.names):
        return table
    kept = [i for i, name in enumerate(table.names) if name not in ADDED]
    columns = [[_choices(table, row, i, cell) for row, cell in enumerate(table.columns[i])] for i in kept]
    remark = f"{str(table.path)!r} is an export of Label Studio; zoo leaves out its columns about the annotation."
    return replace(table, names=[table.names[i] for i in kept], columns=columns, remarks=(*table.remarks, remark))


def _choices(table: Table, row: int, column: int, cell: Any) -> Any:
    """Return the choices of a cell as a list, and other cells unchanged."""
    value = cell
    if isinstance(cell, str) and cell[:1] in ("{", "["):
        try:
            value = json.loads(cell)
        except ValueError:
            return cell
    if isinstance(value, dict) and isinstance(value.get("choices"), list):
        return [str(choice) for choice in value["choices"]]
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        raise DataLayout(
            f"{table.where(row)}: the column {table.names[column]!r} holds regions of pictures, as Label Studio writes "
            f"boxes. zoo learns classes of whole pictures. {_ADVICE}."
        )
    return cell


def is_task(record: Any) -> bool:
    """Return whether an object is a task of a JSON export: it has the data and the annotations."""
    return (
        isinstance(record, dict)
        and isinstance(record.get("data"), dict)
        and isinstance(record.get("annotations", record.get("completions")), list)
    )


def read_tasks(path: Path, tasks: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[int], list[str]]:
    """Return one record per picture of a JSON export: its data, and its choices.

    Args:
        path: The path of the file, for messages.
        tasks: The entries of the file.

    Returns:
        The records; the number of each one's entry, counted from 1; and what was left out.

    Raises:
        DataLayout: The export has no choices, has several questions, or annotators disagree.
    """
    records, lines, bare, questions = [], [], 0, set[str]()
    kinds = set[str]()
    for number, task in enumerate(tasks, 1):
        answers: list[tuple[str, ...]] = []
        for annotation in task.get("annotations", task.get("completions")) or ():
            if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
                continue
            results = [each for each in annotation.get("result") or () if isinstance(each, dict)]
            kinds |= {str(each.get("type")) for each in results}
            chosen = [each for each in results if each.get("type") == "choices"]
            questions |= {str(each.get("from_name")) for each in chosen}
            if chosen:
                answers.append(tuple(str(name) for each in chosen for name in each.get("value", {}).get("choices", ())))
        if len(set(map(frozenset, answers))) > 1:
            shown = " and ".join(repr(", ".join(each)) for each in dict.fromkeys(answers))
            raise DataLayout(
                f"{str(path)!r}, entry {number}: the annotations of this task disagree: {shown}. Keep one of them in "
                "Label Studio, and export again."
            )
        if answers and answers[0]:
            data = {key: value for key, value in task["data"].items() if isinstance(value, str) and key != "label"}
            records.append({**data, "label": list(answers[0])})
            lines.append(number)
        else:
            bare += 1
    _check(path, questions, kinds, len(records))
    several = any(len(record["label"]) > 1 for record in records)
    for record in records:
        # A list means that a picture may have several classes.
        record["label"] = record["label"] if several else record["label"][0]
    remarks = [f"{str(path)!r}: {bare} of {len(tasks)} tasks have no choice. zoo leaves them out."] if bare else []
    return records, lines, remarks


def _check(path: Path, questions: set[str], kinds: set[str], count: int) -> None:
    """Check that an export has one question.

    Raises:
        DataLayout: It has none, or several.
    """
    if not count:
        found = f"its annotations are of the kind {', '.join(sorted(kinds))}" if kinds else "no task has an annotation"
        raise DataLayout(
            f"{str(path)!r} is an export of Label Studio, but {found}. zoo learns classes of whole pictures. {_ADVICE}."
        )
    if len(questions) > 1:
        raise DataLayout(
            f"{str(path)!r} is an export of Label Studio with {len(questions)} questions: "
            f"{', '.join(sorted(questions))}. Export it as CSV, which has a column for each of them, and choose one "
            "with --columns label=NAME."
        )


def local_path(text: str) -> str:
    """Return the path inside an address of a file that Label Studio serves from a local folder; else the text."""
    return unquote(text.removeprefix(_LOCAL)) if text.startswith(_LOCAL) else text


def uploaded_name(text: str) -> str | None:
    """Return the name that an uploaded file had before Label Studio put eight random digits before it.

    Args:
        text: A path of the export, such as /data/upload/3/1a2b3c4d-cat.jpg.

    Returns:
        None if the path is not of this form.
    """
    match = _UPLOADED.fullmatch(text)
    if match is None or not _PREFIX.match(match["name"]):
        return None
    return _PREFIX.sub("", unquote(match["name"]), count=1)
