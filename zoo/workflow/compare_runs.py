"""Compares finished runs: what differs in settings, data and versions, their figures, and a test on shared pictures.

Everything comes from the files in the run folders, so that no picture is read. Runs are only tested on pictures that
are in the test part of both, and in no other part of either: a network is good at pictures that it was trained on, and
at those that decided about its training. Pictures are recognized by their sha256, so that copies that were saved again
count as other pictures.

`zoo.evaluate.paired` has the test, and `zoo.report.comparison` renders the page.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo import files, runs
from zoo.data.tables import SEPARATOR
from zoo.errors import RunError, UsageError, WriteError
from zoo.evaluate import paired
from zoo.export.paired import drop_bounds
from zoo.report import comparison
from zoo.report.exported_facts import Figure, figures
from zoo.runs import run_lock

PREDICTIONS = "predictions.csv"
# The quantile of the normal distribution for two-sided intervals with 95 % confidence.
TWO_SIDED = 1.959963984540054
# A p-value below this is called a difference.
SIGNIFICANT = 0.05
# Settings that say where things are, or which differ because of other entries.
UNIMPORTANT = ("options.runs", "options.exported", "options.name", "options.export")


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs.

    Args:
        run: The run folder.
        record: The content of run.json.
        metrics: The content of metrics.json; empty if the run was not evaluated.
        parts: For each sha256 of pictures.csv, the parts that the picture is in. Empty if the file is missing.
        answers: The row of predictions.csv for each test picture, by its sha256. None if there is no such file.
        bytes: The size of model.onnx; None if there is none.
        problem: Why there are no answers; "" if there are.
    """

    run: runs.Run
    record: runs.RunRecord
    metrics: Mapping[str, Any]
    parts: Mapping[str, set[str]] = field(repr=False)
    answers: Mapping[str, Mapping[str, str]] | None = field(repr=False)
    bytes: int | None
    problem: str = ""


def compare(folders: Sequence[Path], *, unfinished: bool = False) -> dict[str, Any]:
    """Compare runs. The first one is the one with which the others are compared.

    Args:
        folders: The run folders, at least two.
        unfinished: Whether runs are compared, too, of which the training is not finished.

    Returns:
        A dictionary for JSON with these keys:
            runs: For each run, `label` (a letter), `id`, `folder`, `title`, `status`, `figures` and `bytes`.
            settings, data, versions: Rows with `name` and `values` (one for each run, None where it is not known). Only
                rows that differ are listed.
            equal: The number of rows that are equal in all runs.
            classes: For each class, `name` and `recall` of each run on its own test pictures.
            pairs: For each run but the first, what `_pair` returns.

    Raises:
        UsageError: A run is named twice.
        RunError: A file of a run is missing or damaged.
    """
    loaded = [load(folder, unfinished=unfinished) for folder in _distinct(folders)]
    labels = [label(i) for i in range(len(loaded))]
    pairs = [_pair(loaded[0], each, labels[0], name) for name, each in zip(labels[1:], loaded[1:], strict=True)]
    _correct(pairs)
    settings, data, versions = ([read(each) for each in loaded] for read in (_settings, _data, _versions))
    rows = {"settings": _rows(settings), "data": _rows(data), "versions": _rows(versions)}
    return {
        "runs": [_described(name, each) for name, each in zip(labels, loaded, strict=True)],
        **{name: [row for row in found if not _equal(row)] for name, found in rows.items()},
        "equal": sum(_equal(row) for found in rows.values() for row in found),
        "classes": _classes(loaded),
        "pairs": pairs,
    }


def write(compared: Mapping[str, Any], path: Path, *, chosen: bool) -> None:
    """Write the page of a comparison.

    Args:
        compared: What `compare` returned.
        path: The file.
        chosen: Whether the user named it. Another file than an earlier comparison is then replaced, too.

    Raises:
        UsageError: The file is no comparison, and the user did not name it.
        WriteError: The file cannot be written.
    """
    if not chosen and os.path.lexists(path) and not _is_comparison(path):
        raise UsageError(
            f"{path} is not an earlier comparison of zoo, so that it is not replaced. Add --output FILE.html."
        )
    if not path.parent.is_dir():
        raise WriteError(
            f"the folder {str(path.parent)!r} does not exist. Choose another place with --output FILE.html."
        )
    with files.atomic_write(path) as temporary:
        temporary.write_text(comparison.render(compared), encoding="utf-8")


def _is_comparison(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as stream:
        return comparison.GENERATOR.encode() in stream.read(2000)
    return False


def label(place: int) -> str:
    """Return the letter of a run: A to Z, then R27 and so on."""
    return chr(ord("A") + place) if place < 26 else f"R{place + 1}"


def _distinct(folders: Sequence[Path]) -> list[Path]:
    seen: dict[Path, Path] = {}
    for folder in folders:
        if folder.resolve() in seen:
            raise UsageError(f"the run {folder.name} is named twice. Name different runs to compare them.")
        seen[folder.resolve()] = folder
    return list(folders)


def load(folder: Path, *, unfinished: bool = False) -> ComparedRun:
    """Read the files of a run that a comparison needs.

    Args:
        folder: The run folder.
        unfinished: Whether the training may be unfinished. Such a run may lack its list of pictures.

    Raises:
        RunError: run.json or metrics.json is missing or damaged, or the training did not finish.
    """
    run = runs.Run(folder)
    record = run.read_record()
    state = run_lock.state(run, record)
    if record.status != "trained" and not unfinished:
        raise RunError(f"{str(folder)!r} cannot be compared: its training did not finish (state: {state}).")
    metrics = run.read_json("metrics.json") if (folder / "metrics.json").is_file() else {}
    parts: dict[str, set[str]] = {}
    listed = [] if unfinished and not (folder / "pictures.csv").is_file() else run.pictures()
    for row in listed:
        parts.setdefault(row["sha256"], set()).add(row["part"])
    answers = _answers(run)
    problem = ""
    if state != "finished" and answers is None:
        problem = f"{folder.name} has no answers, because it is not finished (state: {state.partition(':')[0]})."
    elif answers is None:
        again = shlex.join(["zoo", "export", str(folder)])
        problem = f"{folder.name} has no {PREDICTIONS}, because it is from an earlier version. `{again}` adds it."
    size = run.exported.stat().st_size if run.exported.is_file() else None
    return ComparedRun(run, record, metrics, parts, answers, size, problem)


def _answers(run: runs.Run) -> dict[str, dict[str, str]] | None:
    """Return the rows of predictions.csv for test pictures by sha256; copies count once. None if there is no file.

    Raises:
        RunError: The file is damaged.
    """
    rows = run.predictions()
    if not rows:
        return None
    try:
        for row in rows:
            if row["correct"] not in ("0", "1"):
                raise ValueError(f"`correct` must be 0 or 1, not {row['correct']!r}")
            float(row["confidence"] or 0)
    except ValueError as error:
        path = run.folder / PREDICTIONS
        raise RunError(f"{str(path)!r} is damaged: {error}. `zoo export {run.folder}` writes it again.") from None
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["part"] == "test":
            found.setdefault(row["sha256"], row)
    return found


def _described(name: str, each: ComparedRun) -> dict[str, Any]:
    record = each.record
    return {
        "label": name,
        "id": record.id,
        "folder": str(each.run.folder),
        "title": f"{record.architecture['name']} on {record.data['name']}",
        "created": record.created,
        "task": record.task,
        "seconds": record.seconds.get("train"),
        "bytes": each.bytes,
        "figures": [_figure(figure) for figure in figures(each.metrics, record.task)],
    }


def _figure(figure: Figure) -> dict[str, Any]:
    return {
        "key": figure.key,
        "text": figure.text,
        "part": figure.part,
        "value": figure.value,
        "interval": list(figure.interval) if figure.interval else None,
        "pictures": figure.pictures,
    }


def _classes(loaded: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """Return the recall of each class in each run, if the runs were measured and have a class in common."""
    measured = [(each.metrics.get("test") or {}).get("per_class") or {} for each in loaded]
    names = list(dict.fromkeys(name for rows in measured for name in rows))
    return [
        {
            "name": name,
            "recall": [rows[name]["recall"] if name in rows else None for rows in measured],
            "pictures": [rows[name]["pictures"] if name in rows else None for rows in measured],
        }
        for name in names
    ]


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}.{key}") if isinstance(value, Mapping) and value else {f"{prefix}.{key}": value}
    return found


def _settings(each: ComparedRun) -> dict[str, Any]:
    """Return the settings of a run by their names, and what the training made of them."""
    record = each.record
    values = {
        **_flat(record.options, "options"),
        **_flat(record.architecture, "architecture"),
        **_flat(record.head or {}, "head"),
        **_flat({key: record.weights.get(key) for key in ("id", "file", "sha256", "random")}, "weights"),
        **_flat(record.image, "image"),
        "task": record.task,
        "phases": [
            f"{phase.get('name')}: {phase.get('train')}, epochs: {phase['epochs_run']}"
            for phase in record.phases
            if phase.get("epochs_run")
        ],
        "evidence": (record.evidence or {}).get("text"),
    }
    return {key: value for key, value in values.items() if key not in UNIMPORTANT}


def _data(each: ComparedRun) -> dict[str, Any]:
    data = each.record.data
    counts = data.get("counts") or {}
    return {
        "name": data.get("name"),
        "digest": data.get("digest"),
        "split": data.get("split"),
        **{f"{part} pictures": counts.get(part) for part in ("train", "val", "test")},
        "number of classes": len(each.record.classes),
        "classes": list(each.record.classes),
        "unreadable pictures": len(data.get("left_out") or ()),
    }


def _versions(each: ComparedRun) -> dict[str, Any]:
    return {**each.record.versions, "plugins": list(each.record.plugins)}


def _rows(values: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = list(dict.fromkeys(name for each in values for name in each))
    return [{"name": name, "values": [each.get(name) for each in values]} for name in names]


def _equal(row: Mapping[str, Any]) -> bool:
    return all(value == row["values"][0] for value in row["values"])


def _pair(first: ComparedRun, second: ComparedRun, name: str, other: str) -> dict[str, Any]:
    """Compare two runs on the test pictures that both have.

    Returns:
        `first` and `second` (their letters), `problem` (why there is no test, or ""), `notes` (sentences about pictures
        that cannot be used), `result` (what `zoo.evaluate.paired` counted, with the `interval` of the difference; None
        without a test) and `differing` (the pictures on which the answers differ).
    """
    pair: dict[str, Any] = {"first": name, "second": other, "problem": "", "notes": [], "result": None, "differing": []}
    problems = [each.problem for each in (first, second) if each.problem]
    tested = [{sha for sha, parts in each.parts.items() if parts == {"test"}} for each in (first, second)]
    if problems and not tested[0] & tested[1]:
        # Exporting a run again would not help.
        problems = [f"{name} and {other} have no test picture in common that can be used."]
    if first.record.task != second.record.task and "multilabel" in (first.record.task, second.record.task):
        problems = [f"{name} and {other} do different tasks: {first.record.task} and {second.record.task}."]
    if problems:
        return {**pair, "problem": " ".join(problems)}
    assert first.answers is not None and second.answers is not None
    usable, pair["notes"] = _usable(first, second, name, other)
    if not usable:
        return {**pair, "problem": f"{name} and {other} have no test picture in common that can be used."}
    right = [[rows[sha]["correct"] == "1" for sha in usable] for rows in (first.answers, second.answers)]
    answers = paired.count(*right)
    low, high = drop_bounds(answers.only_first, answers.only_second, answers.pictures, TWO_SIDED)
    pair["result"] = {**answers.to_json(), "interval": [-high, -low]}
    order = {(True, False): 0, (False, True): 1, (False, False): 2}
    found = [
        (order[(a, b)], first.answers[sha]["picture"], sha)
        for sha, a, b in zip(usable, *right, strict=True)
        if a != b or (not a and _names(first.answers[sha], "predicted") != _names(second.answers[sha], "predicted"))
    ]
    pair["differing"] = [_differing(first, second, sha, place) for place, _, sha in sorted(found)]
    return pair


def _differing(first: ComparedRun, second: ComparedRun, sha: str, place: int) -> dict[str, Any]:
    assert first.answers is not None and second.answers is not None
    rows = (first.answers[sha], second.answers[sha])
    return {
        "picture": rows[0]["picture"],
        "sha256": sha,
        "class": rows[0]["class"],
        "predicted": [row["predicted"] for row in rows],
        "confidence": [float(row["confidence"]) if row["confidence"] else None for row in rows],
        "right": ("first", "second", "neither")[place],
    }


def _names(row: Mapping[str, str], column: str) -> frozenset[str]:
    """Return the names in a cell, of which several are joined, without their order."""
    return frozenset(filter(None, row[column].split(SEPARATOR)))


def _usable(first: ComparedRun, second: ComparedRun, name: str, other: str) -> tuple[list[str], list[str]]:
    """Return the test pictures on which two runs can be compared, and sentences about those that cannot be used."""
    assert first.answers is not None and second.answers is not None
    notes: list[str] = []
    shared = [sha for sha in first.answers if sha in second.answers]
    trained: set[str] = set()
    for each, tested, this, that in ((first, second, name, other), (second, first, other, name)):
        assert tested.answers is not None
        known = [sha for sha in tested.answers if each.parts.get(sha, set()) & {"train", "val"}]
        trained |= set(known)
        if known:
            notes.append(
                f"{_count(known)} of {that} {_were(known)} used to train {this}, or to decide about its training, and "
                "cannot be used."
            )
    unseen = [sha for sha in shared if sha not in trained]
    usable = [sha for sha in unseen if _names(first.answers[sha], "class") == _names(second.answers[sha], "class")]
    if len(usable) < len(unseen):
        others = unseen[len(usable) :]
        notes.append(f"{_count(others)} {_have(others)} different classes in {name} and {other}, and cannot be used.")
    for answers, this, that in ((first.answers, name, other), (second.answers, other, name)):
        alone = [sha for sha in answers if sha not in shared and sha not in trained]
        if alone:
            notes.append(f"{_count(alone)} of {this} {_are(alone)} no test {_pictures(alone)} of {that}.")
    if set(first.record.classes) != set(second.record.classes):
        notes.append(f"{name} and {other} tell different classes apart, so that their answers are not equally hard.")
    return usable, notes


def _pictures(listed: Sequence[str]) -> str:
    return "picture" if len(listed) == 1 else "pictures"


def _count(listed: Sequence[str]) -> str:
    return f"{len(listed)} test {_pictures(listed)}"


def _were(listed: Sequence[str]) -> str:
    return "was" if len(listed) == 1 else "were"


def _have(listed: Sequence[str]) -> str:
    return "has" if len(listed) == 1 else "have"


def _are(listed: Sequence[str]) -> str:
    return "is" if len(listed) == 1 else "are"


def _correct(pairs: Sequence[dict[str, Any]]) -> None:
    """Add to the result of each pair the p-value that is corrected for the number of tests, and the conclusion."""
    tested = [pair for pair in pairs if pair["result"]]
    corrected = paired.holm([pair["result"]["p_value"] for pair in tested])
    for pair, p_value in zip(tested, corrected, strict=True):
        pair["result"]["corrected_p_value"] = p_value
        pair["conclusion"] = _conclusion(pair, p_value, len(tested))


def _conclusion(pair: Mapping[str, Any], p_value: float, tests: int) -> str:
    """Say in one sentence what the pictures show."""
    result, first, second = pair["result"], pair["first"], pair["second"]
    note = f", corrected for {tests} comparisons" if tests > 1 else ""
    if p_value < SIGNIFICANT:
        better, worse = (second, first) if result["difference"] > 0 else (first, second)
        return f"{better} is better than {worse} ({comparison.p_text(p_value)}{note})."
    if not result["only_first"] + result["only_second"]:
        return f"{first} and {second} are right and wrong on the same pictures."
    return f"These pictures do not show that {first} or {second} is better ({comparison.p_text(p_value)}{note})."
