"""Reads and writes settings of `zoo finetune` as a file: a TOML that a user writes, or a run's config.toml or run.json.

The keys of a TOML are the options of `zoo finetune` without their dashes. The command line checks their values, because
the options themselves know what is allowed; see `zoo.cli.config_option`. Three tables can follow:

- `[chosen]`: what zoo chose where the user had asked for nothing. It holds for the same architecture only.
- `[schedule]`: the phases of a schedule that no plugin provides, as in a file for --schedule
- `[run]`: the run that the file repeats, to say if pictures, weights or versions are others now
"""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import backend, files, runs
from zoo.errors import InvalidPluginData, RunError, UsageError
from zoo.plugin import Phase, Schedule
from zoo.plugin.types import RENAMED_FIELDS
from zoo.runs import RunRecord
from zoo.train import schedule as schedule_tools

if TYPE_CHECKING:
    from zoo.config import ResolvedConfig
    from zoo.data.dataset import Dataset

FILE = "config.toml"
# Maps options to the keys of run.json under `options`. These are written in any case, as defaults may change.
ALWAYS = {
    **{"levels": "levels", "augment": "augment", "batch-size": "batch_size"},
    **{"label-smoothing": "label_smoothing", "compute": "precision", "seed": "seed"},
}
# These are written if the user gave them. The second group changes phases.
GIVEN = {
    **{"val-split": "val_split", "group-by": "group_by", "cv": "folds", "name": "name", "cache-size": "cache_size"},
    "log": "loggers",
}
GIVEN_PHASES = {
    **{"epochs": "epochs", "learning-rate": "learning_rates", "optimizer": "optimizer", "rate": "rate"},
    **{"clip-norm": "clip_norm", "ema": "ema", "patience": "patience", "views": "views"},
}
HEAD = {"hidden": "hidden", "dropout": "dropout", "l1": "weight_l1", "l2": "weight_l2", "reduce": "reduce"}
READING = {"classes": "classes", "exclude": "exclude", "columns": "columns", "root": "root"}
READING |= {"max-pixels": "max_pixels", "formats": "formats"}
TABLES = ("chosen", "schedule", "run")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of `zoo finetune` from a file.

    Args:
        path: The file.
        values: Maps an option without its dashes, or "architecture", to its value in the file.
        chosen: What zoo chose where `values` has nothing, in the same form.
        schedule: The schedule that the file contains; None if it contains none.
        recorded: The schedule with the phases that an old run recorded. It is used if no plugin provides the schedule.
        run: The run that the file repeats: `id`, and what is known of its pictures, weights, backend and versions.
        folder: The folder from which relative paths count; None for the current one.
    """

    path: Path
    values: Mapping[str, Any]
    chosen: Mapping[str, Any] = field(default_factory=dict)
    schedule: Schedule | None = None
    recorded: Schedule | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None


def read(text: str, runs_folder: Path = Path("runs")) -> Settings:
    """Read settings from a TOML file, a run.json or a run folder.

    Args:
        text: The path, or the id of a run.
        runs_folder: The folder of runs, where an id is looked up.

    Raises:
        UsageError: The file does not exist, cannot be read, or contains no settings.
        RunError: A run.json is damaged, or a newer version of zoo wrote it.
    """
    path = Path(text).expanduser()
    if not path.exists():
        path = runs.locate(text, runs_folder) or path
    if path.is_dir():
        if not (path / FILE).is_file() and not (path / runs.RECORD).is_file():
            raise UsageError(f"--config {text!r} is a folder without {FILE} or {runs.RECORD}, so that it is not a run.")
        path = path / (FILE if (path / FILE).is_file() else runs.RECORD)
    content = _text(path)
    if path.suffix.lower() == ".json" or content.lstrip().startswith("{"):
        return of_record(path, _record(path, content))
    return _of_toml(path, content)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(
            f"--config {str(path)!r} cannot be read: {why}. Give a TOML file, a run.json or a run."
        ) from None
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UsageError(f"--config {str(path)!r} is in UTF-16. Save it in UTF-8.")
    try:
        # Editors on Windows begin files with a byte order mark, and end lines with two characters.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UsageError(f"--config {str(path)!r} is not a text file in UTF-8. Give a TOML file, a run.json or a run.")
    if not text.strip():
        raise UsageError(f"--config {str(path)!r} is empty. A line such as `batch-size = 16` sets an option.")
    return text


def _record(path: Path, text: str) -> RunRecord:
    try:
        values = json.loads(text)
    except RecursionError:
        raise RunError(f"{str(path)!r} is damaged: it is nested too deeply.") from None
    except ValueError as error:
        raise RunError(f"{str(path)!r} is damaged, or is not JSON: {error}.") from None
    if not isinstance(values, dict) or not {"options", "weights", "image"} <= values.keys():
        raise UsageError(f"--config {str(path)!r} is not a run.json of zoo.")
    try:
        return RunRecord.from_json(values)
    except RunError as error:
        raise RunError(f"{str(path)!r} cannot be read: {error}") from None


def _of_toml(path: Path, text: str) -> Settings:
    try:
        content = tomllib.loads(text)
    except RecursionError:
        raise UsageError(f"--config {str(path)!r} is not a TOML file of settings: it is nested too deeply.") from None
    except tomllib.TOMLDecodeError as error:
        hint = " Put a Windows path into single quotes: 'C:\\photos'." if _has_backslash(text, error) else ""
        # What the parser says of a key that the file has twice.
        hint = hint or (" A key stands in the file twice." if "overwrite" in str(error) else "")
        hint = hint or ' Put texts into double quotes: architecture = "mobilenetv2".'
        raise UsageError(f"--config {str(path)!r} is not a TOML file: {error}.{hint}") from None
    tables = {key: content.pop(key) for key in TABLES if isinstance(content.get(key), dict)}
    for key in ("chosen", "run"):
        if key in content:
            raise UsageError(f"{str(path)!r}: {key} must be a table. Received: {content[key]!r}.")
    schedule = None
    if "schedule" in tables:
        schedule = schedule_tools.parse(tables["schedule"], f"the schedule in {str(path)!r}", path.stem)
    return Settings(
        path=path,
        values=content,
        chosen=tables.get("chosen", {}),
        schedule=schedule,
        run=tables.get("run", {}),
        folder=path.absolute().parent,
    )


def _has_backslash(text: str, error: tomllib.TOMLDecodeError) -> bool:
    """Return whether the line of a syntax error has a backslash in double quotes."""
    number = str(error).partition("line ")[2].partition(",")[0]
    lines = text.splitlines()
    line = lines[int(number) - 1] if number.isdigit() and int(number) <= len(lines) else ""
    return '"' in line and "\\" in line


def of_record(path: Path, record: RunRecord) -> Settings:
    """Return the settings of a run.

    Args:
        path: The file, for messages.
        record: The content of run.json.

    Raises:
        RunError: An entry is missing or has an unexpected form.
    """
    try:
        return _of_record(path, record)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise RunError(f"{str(path)!r} is damaged: {type(error).__name__} {error} in its settings.") from None


def _of_record(path: Path, record: RunRecord) -> Settings:
    options: dict[str, Any] = dict(record.options)
    own, recorded = _schedules(record)
    values: dict[str, Any] = {"architecture": record.architecture["name"], "data": options["data"]}
    values |= {key: value for key, name in READING.items() if (value := (options.get("reading") or {}).get(name))}
    if "formats" in values:
        values["formats"] = ",".join(values["formats"])
    chosen: dict[str, Any] = {}
    _, _, tag = str(options["architecture"]).partition(".")
    known = str(record.weights.get("id") or "").partition(".")[2]
    if options["weights"] != "auto" or tag:
        values["weights"] = tag or options["weights"]
    elif record.weights.get("random") or known:
        chosen["weights"] = known or "none"
    sizes = values if options["size"] else chosen
    sizes["size"] = "x".join(map(str, options["size"] or record.image["size"]))
    (values if options.get("resize") else chosen)["resize"] = options.get("resize") or _resize_of(record)
    values |= {key: options[name] for key, name in ALWAYS.items() if name in options}
    phases = {} if own else GIVEN_PHASES
    values |= {key: value for key, name in {**GIVEN, **phases}.items() if (value := options.get(name)) is not None}
    if own and len(options.get("epochs") or ()) > 1:
        # One number for each phase says that evidence must not leave a phase out.
        values["epochs"] = [phase.epochs for phase in own.phases_for(None)]  # type: ignore[arg-type]
    if (precision := options.get("wanted_precision")) is not None:
        values["precision"] = precision or "none"
    head: dict[str, Any] = options.get("head") or {}
    if "pool" in head:
        values["pool"] = f"{head['pool']}:{head['grid']}" if "grid" in head else head["pool"]
    values |= {key: head[name] for key, name in HEAD.items() if name in head}
    if options.get("keep_best") is False:
        values["keep"] = "last"
    flags = {"balance": options.get("balance"), "allow-chance": record.allow_chance}
    values |= {key: True for key, value in flags.items() if value}
    values |= _exported(record)
    if own is None:
        asked = record.schedule["requested"] if record.schedule else _typed_schedule(record)
        (values if asked else chosen)["schedule"] = options["schedule"]
    return Settings(
        path=path, values=values, chosen=chosen, schedule=own, recorded=recorded, run=_facts(record), folder=None
    )


def _resize_of(record: RunRecord) -> str:
    """Return how the pictures of a run were resized, as a value of --resize."""
    method = str(record.image.get("resize", "squash"))
    return f"crop:{record.image['fraction']:g}" if method == "crop" and "fraction" in record.image else method


def _typed_schedule(record: RunRecord) -> bool:
    """Return whether the command of a run names a schedule. Records of schema 1 do not say it elsewhere."""
    return any(word.split("=")[0] == "--schedule" for word in record.command)


def _exported(record: RunRecord) -> dict[str, Any]:
    """Return the options that say what a run exports, and where to."""
    options = record.options
    values: dict[str, Any] = {} if options["export"] else {"no-export": True}
    for variant in record.variants:
        values[variant["name"]] = True
        values["max-drop"] = round(100 * variant["max_drop"], 9)
        if variant["any_speed"]:
            values[f"{variant['name']}-any-speed"] = True
    folders = {"runs": options["runs"], "exported": options["exported"]}
    return values | {key: value for key, value in folders.items() if value != key}


def _schedules(record: RunRecord) -> tuple[Schedule | None, Schedule | None]:
    """Return the schedule of a run if it came from a file; and the phases that an old run recorded, or None."""
    planned = record.schedule
    if planned is not None:
        return (_schedule(planned, planned["phases"]) if planned["own_file"] else None), None
    if record.status != "trained" or not record.phases:
        return None, None
    facts = {"name": record.options["schedule"], "summary": f"phases of {record.id}"}
    return None, _schedule({**facts, "by_evidence": record.evidence is not None}, record.phases)


def _schedule(facts: Mapping[str, Any], phases: Any) -> Schedule:
    names = set(Phase.__dataclass_fields__)
    made = []
    for phase in phases:
        values = {RENAMED_FIELDS.get(key, key): value for key, value in phase.items()}
        made.append(Phase(**{key: value for key, value in values.items() if key in names}))
    try:
        return Schedule(
            name=facts["name"], summary=facts["summary"], by_evidence=facts["by_evidence"], phases=tuple(made)
        )
    except InvalidPluginData as error:
        raise RunError(f"the phases of the run are not valid: {error}") from None


def _facts(record: RunRecord) -> dict[str, Any]:
    """Return what decides the result of a run besides its settings."""
    facts = {
        "id": record.id,
        "pictures": record.data.get("digest"),
        "weights": record.weights.get("sha256"),
        "backend": record.backend,
        "versions": dict(record.versions),
    }
    return {key: value for key, value in facts.items() if value is not None}


def differences(before: Mapping[str, Any], resolved: ResolvedConfig, dataset: Dataset) -> list[str]:
    """Return in which respects a new run differs from the one whose settings it has.

    Args:
        before: `Settings.run`.
        resolved: The settings of the new run.
        dataset: The pictures of the new run.
    """
    now = {
        "pictures": dataset.digest,
        "weights": resolved.weights.record.get("sha256"),
        "backend": backend.wanted(),
    }
    found = [f"other {key}" for key in ("pictures", "weights") if before.get(key, now[key]) != now[key]]
    if before.get("backend", now["backend"]) != now["backend"]:
        found.append(f"backend {now['backend']} instead of {before['backend']}")
    versions = before.get("versions")
    return found + (runs.changed_versions(versions) if isinstance(versions, dict) else [])


def write(run: runs.Run, record: RunRecord, *, data: str, runs_folder: Path, exported: Path) -> None:
    """Write config.toml, the file that repeats a run, into its folder.

    Args:
        run: The run folder.
        record: The content of run.json.
        data: The absolute path of the pictures, or "digits". A symbolic link in it is not resolved.
        runs_folder: The absolute path of the folder of runs.
        exported: The absolute path of the folder of exports.

    Raises:
        WriteError: The file cannot be written.
    """
    import tomlkit

    # As the file has it: tuples are lists, and None is null.
    settings = of_record(run.folder / FILE, RunRecord.from_json(json.loads(json.dumps(record.to_json()))))
    document = tomlkit.document()
    again = shlex.join(["zoo", "finetune", "--config", str((run.folder / FILE).absolute())])
    document.add(tomlkit.comment("The settings of one run of zoo. This command repeats it:"))
    document.add(tomlkit.comment(f"  {_one_line(again)}"))
    document.add(tomlkit.comment("Options that you type replace those of this file. docs/runs.md explains the file."))
    document.add(tomlkit.nl())
    folders = {"data": data, "runs": str(runs_folder), "exported": str(exported)}
    for key, value in settings.values.items():
        document.add(key, tomlkit.item(folders.get(key, value)))
    chosen = tomlkit.table()
    for key, value in settings.chosen.items():
        chosen.add(key, value)
    if settings.chosen:
        chosen.comment("by zoo, for this architecture; other choices follow if you type another one")
        document.add(tomlkit.nl())
        document.add("chosen", chosen)
    if settings.schedule is not None:
        document.add("schedule", tomlkit.item(schedule_tools.to_toml(settings.schedule)))
    about = tomlkit.item(dict(settings.run))
    about.comment("what is compared when the run is repeated")
    document.add("run", about)
    text = tomlkit.dumps(document)
    with files.atomic_write(run.folder / FILE) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")


def _one_line(text: str) -> str:
    """Return a text without characters that a TOML comment must not contain."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
