"""Describes a single run: its state and what to do next, settings, data, phases, result, files and exports.

Everything comes from files in the run folder and from the folder of exports. No picture is read.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo import runs
from zoo.errors import RunError
from zoo.runs import run_lock
from zoo.train import safe_points
from zoo.workflow import missing_plugins, run_list

# Settings that say where things are, or that the list shows anyway.
UNSHOWN = ("architecture", "data", "schedule", "runs", "exported")
REPORT = "report.html"


def describe(folder: Path) -> dict[str, Any]:
    """Describe a run.

    Args:
        folder: The run folder.

    Returns:
        A dictionary for JSON with these keys: `id`, `folder`, `state`, `why` (the error of a failed run), `process`
        (who works on it, or None), `next` (sentences with commands), `created`, `network`, `weights`, `task`,
        `settings` (those that are not the default), `data`, `schedule`, `phases`, `best_epoch`, `evidence`, `score`,
        `exports`, `bytes` (of the folder), `versions`, `plugins`, `missing_plugins` (sentences about those that are not
        installed now), `seconds`, `warnings`, `command` (words that start the run again) and `report` (the path of the
        page, or None).

    Raises:
        RunError: run.json is missing, damaged or of another version.
    """
    run = runs.Run(folder)
    record = run.read_record()
    listed = run_list.describe(run, record, time.time())
    try:
        return {
            "id": run.id,
            "folder": str(folder),
            "state": listed.state,
            "why": listed.why,
            "process": run_lock.holder(run),
            "next": list(_next_steps(run, record, listed)),
            "created": record.created,
            "age": listed.age,
            "network": dict(record.architecture),
            "weights": dict(record.weights),
            "task": record.task,
            "settings": _changed_settings(record.options),
            "data": _data(run, record),
            "schedule": listed.schedule,
            "phases": [_phase(each) for each in record.phases or _planned(run)],
            "best_epoch": record.best_epoch,
            "evidence": (record.evidence or {}).get("text"),
            "score": None if listed.score is None else vars(listed.score),
            "exports": _exports(run, record),
            "bytes": size_of(folder),
            "versions": dict(record.versions),
            "plugins": list(record.plugins),
            "missing_plugins": [f"{each}; {each.command}" for each in missing_plugins.missing(record.plugins)],
            "seconds": dict(record.seconds),
            "warnings": list(record.warnings),
            "command": _repeating_file(run) or repeating(record),
            "report": str(folder / REPORT) if (folder / REPORT).is_file() else None,
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{str(folder / runs.RECORD)!r} is damaged: {type(error).__name__}: {error}.") from None


def size_of(folder: Path) -> int:
    """Return the total size of the files in a folder, in bytes. Links are not followed."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            # A running process may remove a file at the same time.
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def size_of_entry(path: Path) -> int:
    """Return the size of a file, a link or a folder, in bytes."""
    return size_of(path) if path.is_dir() and not path.is_symlink() else path.lstat().st_size


def repeating(record: runs.RunRecord) -> list[str]:
    """Return the words of the command that starts a run again; empty if run.json has none."""
    words = list(record.command)
    return ["zoo", *words[1:]] if words[1:2] == ["finetune"] else []


def _repeating_file(run: runs.Run) -> list[str]:
    """Return the words of the command that repeats a run from its file of settings; empty if it has none."""
    path = run.folder / "config.toml"
    return ["zoo", "finetune", "--config", str(path)] if path.is_file() else []


def _next_steps(run: runs.Run, record: runs.RunRecord, listed: run_list.ListedRun) -> Iterator[str]:
    """Say what a user can do with a run in its state."""
    folder, state = str(run.folder), listed.state
    command = {name: f"`{shlex.join(['zoo', name, folder])}`" for name in ("resume", "export", "report")}
    resumable = (run_lock.folder_of(run) / run_lock.REQUEST).is_file()
    again = f"`{shlex.join(repeating(record))}` starts it again." if repeating(record) else ""
    if state == "running":
        yield "It is still running. Ctrl-C in its terminal interrupts it; it can be resumed."
    elif state == "finished":
        if not run.exported.is_file():
            yield f"It has no exported file; {command['export']} makes one."
    elif state == "trained":
        yield f"Its network is trained, but the export is not finished: {command['resume']} finishes it."
    elif not resumable:
        yield f"It has no safe points, so that it cannot be resumed. {again}".rstrip()
    elif state == "failed" and listed.why.startswith("TrainingError"):
        yield f"The training itself failed. Change what the error names, and start a new run. {again}".rstrip()
    else:
        begin = "When the cause is removed, " if state == "failed" else ""
        yield f"{begin}{command['resume']} continues it {safe_points.latest_position(run_lock.folder_of(run))}."
        if any(run_lock.folder_of(run).glob("*.npz")):
            best = shlex.join(["zoo", "export", folder, "--best-so-far"])
            yield f"`{best}` exports the best weights so far."


def _changed_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from the defaults, by their names in run.json."""
    from zoo.config import FinetuneConfig

    usual = json.loads(json.dumps(FinetuneConfig(architecture="", data="").to_json()))
    changed: dict[str, Any] = {}
    for key, value in options.items():
        default = usual.get(key)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            changed |= {f"{key}.{name}": each for name, each in value.items() if each != default.get(name)}
        elif key not in UNSHOWN and value != default:
            changed[key] = value
    return changed


def _data(run: runs.Run, record: runs.RunRecord) -> dict[str, Any]:
    """Return name, path, split and the number of pictures in each part, for all classes and for each."""
    counts: dict[str, dict[str, int]] = {name: {} for name in record.classes}
    # A run that failed early has no list of its pictures.
    with contextlib.suppress(RunError):
        from zoo.data.tables import SEPARATOR

        for row in run.pictures():
            labels = [row["class"]] if row["class"] in counts else row["class"].split(SEPARATOR)
            for label in labels:
                of_class = counts.setdefault(label, {})
                of_class[row["part"]] = of_class.get(row["part"], 0) + 1
    return {
        "name": record.data["name"],
        "place": record.options.get("data"),
        "there": record.options.get("data") == "digits" or os.path.exists(str(record.options.get("data"))),
        "digest": record.data.get("digest"),
        "split": record.data.get("split"),
        "counts": dict(record.data.get("counts") or {}),
        "classes": {name: counts.get(name, {}) for name in counts if name or counts[name]},
        "unreadable": len(record.data.get("left_out") or ()),
    }


def _planned(run: runs.Run) -> list[Mapping[str, Any]]:
    """Return the phases that an unfinished run was asked for; empty if it does not say."""
    with contextlib.suppress(RunError, KeyError, TypeError):
        return list(run.read_json(f"{runs.UNFINISHED}/{run_lock.REQUEST}")["phases"])
    return []


def _phase(values: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("name", "train", "epochs", "epochs_run", "optimizer", "learning_rate", "seconds", "left_out")
    return {key: values[key] for key in keys if values.get(key) is not None}


def _exports(run: runs.Run, record: runs.RunRecord) -> list[dict[str, Any]]:
    """List the exported files on the disk: that of the run folder, and those in the folder of exports.

    Returns:
        Dictionaries with `path`, `bytes` and `same`: whether a file in the folder of exports has the bytes of the one
        in the run folder. If not, another run or a later export has replaced it.
    """
    own = [*sorted(run.folder.glob("model*.onnx")), *sorted(run.folder.glob(f"{runs.FORMATS}/*/*"))]
    found = [{"path": str(path), "bytes": path.stat().st_size, "same": True} for path in own]
    for path in exported_files(run, record):
        # A run that has exported nothing finds the export of an earlier run there.
        if _original(run, record, path).is_file():
            with contextlib.suppress(OSError):
                same = is_of_run(run, record, path)
                found.append({"path": str(path), "bytes": path.stat().st_size, "same": same})
    return found


def is_of_run(run: runs.Run, record: runs.RunRecord, path: Path) -> bool:
    """Return whether a file that `exported_files` returned has the bytes of the one in the run folder."""
    try:
        return filecmp.cmp(_original(run, record, path), path, shallow=False)
    except OSError:
        return False


def _original(run: runs.Run, record: runs.RunRecord, path: Path) -> Path:
    """Return the file in the run folder that was put into the folder of exports."""
    suffix = path.parent.name[len(record.name) :]
    kept = run.folder / f"model{suffix}.onnx"
    return kept if path.name == kept.name or suffix == "" else _of_format(run, suffix[1:], path.name) or kept


def _of_format(run: runs.Run, name: str, file: str) -> Path | None:
    """Return a file of a format in the run folder; None if the run has none."""
    path = run.folder / runs.FORMATS / name / file
    return path if path.is_file() else None


def exported_files(run: runs.Run, record: runs.RunRecord) -> Sequence[Path]:
    """Return the files that carry the name of a run's export in its folder of exports, variants included."""
    folder = Path(str(record.options.get("exported") or "exported"))
    # The path in run.json is relative to the folder in which the command was typed.
    places = [folder] if folder.is_absolute() else [folder, run.folder.absolute().parent.parent / folder]
    names = [(record.name, "model.onnx")]
    names += [(f"{record.name}-{path.stem[6:]}", "model.onnx") for path in sorted(run.folder.glob("model-*.onnx"))]
    names += [
        (f"{record.name}-{path.parent.name}", path.name) for path in sorted(run.folder.glob(f"{runs.FORMATS}/*/*"))
    ]
    for place in places:
        files = [place / name / file for name, file in names if os.path.isfile(place / name / file)]
        if files:
            return files
    return []
