"""The run folder: creates it, writes each of its files atomically, reads them back, and finds runs by name.

`<runs>/<UTC>-<architecture>-<6 hex>/` holds run.json (see `RunRecord`), pictures.csv (the part, class and digest of
every picture), history.csv (one row per epoch), curves.png (the history drawn), model.keras, metrics.json, report.html
and model.onnx.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import difflib
import json
import os
import platform
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from zoo.errors import RunError, UsageError
from zoo.files import atomic_write

SCHEMA = 1
RECORD = "run.json"
PACKAGES = ("finezoo", "tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "numpy", "pillow", "scikit-learn")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The content of run.json: the request of a run, its data, and its results.

    A record is never changed: `with_training`, `with_export` and `with_status` return new ones. Older versions of zoo
    did not record every entry. The default of such an entry describes what those versions did.

    Args:
        id: The name of the run folder.
        status: "running", "trained", "interrupted" or "failed: ...".
        created: Time in UTC; see `now`.
        command: The command line.
        name: The name of the export.
        options: The request; see `zoo.config.FinetuneConfig.to_json`.
        architecture: See `zoo.plugin.Architecture.describe`.
        weights: The weights that training started from; see `zoo.pretrained.select.StartingWeights`.
        augmentation: Name and parameters of the policy.
        image: How pictures are decoded; see `zoo_runtime.ImageSpec`.
        classes: Class names, in the order of the network's output.
        data: Name, digest, counts, split and unreadable files of the dataset.
        plugins: The plugins that the run used.
        versions: See `versions`.
        head: The fields of `zoo.plugin.Head`; None means those of the architecture's head.
        task: "multiclass", "binary" or "multilabel".
        phases: For each phase its settings, the layers that it trained, its epochs and seconds.
        warnings: Warnings that the user has seen.
        seconds: Seconds of "train" and "export".
        prefix: Counts and times of the frozen part; see `zoo.train.frozen.stats.CacheStats`.
        best_epoch: The epoch whose weights were kept, counted over the run from 1.
        parity: See `zoo.export.parity.check`.
        others: Entries that this version does not know; they are kept.
    """

    id: str
    status: str
    created: str
    command: Sequence[str]
    name: str
    options: Mapping[str, Any]
    architecture: Mapping[str, Any]
    head: Mapping[str, Any] | None = None
    weights: Mapping[str, Any]
    augmentation: Mapping[str, Any] = field(default_factory=lambda: {"name": "none", "parameters": {}})
    image: Mapping[str, Any]
    classes: Sequence[str]
    task: str = "multiclass"
    data: Mapping[str, Any]
    plugins: Sequence[str]
    versions: Mapping[str, str]
    phases: Sequence[Mapping[str, Any]] = ()
    warnings: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    prefix: Mapping[str, Any] | None = None
    best_epoch: int | None = None
    parity: Mapping[str, Any] | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunRecord:
        """Read the content of a run.json.

        Entries that are missing get the value of older versions, which did not record them.

        Raises:
            RunError: Entries are missing that every version records.
        """
        known = {each.name: each for each in dataclasses.fields(cls) if each.name != "others"}
        missing = [
            name
            for name, each in known.items()
            if name not in values and each.default is each.default_factory is dataclasses.MISSING
        ]
        if missing:
            what = f"entry {missing[0]} is" if len(missing) == 1 else f"entries {', '.join(missing)} are"
            raise RunError(f"the {what} missing.")
        others = {key: value for key, value in values.items() if key not in known and key != "schema"}
        return cls(**{name: values[name] for name in known if name in values}, others=others)

    def to_json(self) -> dict[str, Any]:
        """Return the content of run.json. Results that are not known yet are left out."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "others"}
        later = ("head", "prefix", "best_epoch", "parity")
        return {
            "schema": SCHEMA,
            **{name: value for name, value in values.items() if value is not None or name not in later},
            **self.others,
        }

    def with_status(self, status: str) -> RunRecord:
        """Return the record with another status."""
        return dataclasses.replace(self, status=status)

    def with_training(
        self,
        *,
        phases: Sequence[Mapping[str, Any]],
        best_epoch: int,
        prefix: Mapping[str, Any],
        warnings: Sequence[str],
        seconds: float,
    ) -> RunRecord:
        """Return the record of a run that has been trained; warnings are added to those before."""
        return dataclasses.replace(
            self,
            status="trained",
            phases=phases,
            best_epoch=best_epoch,
            prefix=prefix,
            warnings=[*self.warnings, *warnings],
            seconds={**self.seconds, "train": round(seconds, 2)},
        )

    def with_export(self, *, parity: Mapping[str, Any], seconds: float) -> RunRecord:
        """Return the record of a run that has been exported."""
        return dataclasses.replace(self, parity=parity, seconds={**self.seconds, "export": round(seconds, 2)})


@dataclass(frozen=True)
class Run:
    """A run folder."""

    folder: Path

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def model(self) -> Path:
        """The trained network, as Keras saves it."""
        return self.folder / "model.keras"

    @property
    def exported(self) -> Path:
        """The exported file."""
        return self.folder / "model.onnx"

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file atomically."""
        with atomic_write(self.folder / name) as temporary:
            temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run.

        Raises:
            RunError: The file is missing or damaged.
        """
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except OSError as error:
            raise RunError(f"{str(self.folder / name)!r} cannot be read: {error.strerror}.") from None
        except ValueError as error:
            raise RunError(f"{str(self.folder / name)!r} is damaged: {error}.") from None

    def write_record(self, record: RunRecord) -> None:
        """Write run.json."""
        self.write_json(RECORD, record.to_json())

    def read_record(self) -> RunRecord:
        """Read run.json.

        Raises:
            RunError: The file is missing, damaged, or of another schema.
        """
        values = self.read_json(RECORD)
        if not isinstance(values, dict) or values.get("schema") != SCHEMA:
            raise RunError(
                f"{str(self.folder)!r} was written by another version of zoo (schema {SCHEMA} is read here)."
            )
        try:
            return RunRecord.from_json(values)
        except RunError as error:
            raise RunError(f"{str(self.folder / RECORD)!r} is damaged: {error}") from None

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        """Write history.csv, one row per epoch."""
        self._write_csv("history.csv", rows)

    def write_pictures(self, rows: list[dict[str, str]]) -> None:
        """Write pictures.csv, one row per picture: part, class, sha256, picture."""
        self._write_csv("pictures.csv", rows)

    def parts(self) -> dict[str, str]:
        """Return the part of every picture of the run: its sha256 -> "train", "val" or "test".

        Raises:
            RunError: pictures.csv is missing or damaged.
        """
        path = self.folder / "pictures.csv"
        try:
            with path.open(newline="", encoding="utf-8") as stream:
                return {row["sha256"]: row["part"] for row in csv.DictReader(stream)}
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise RunError(f"{str(path)!r} cannot be read: {error}.") from None

    def _write_csv(self, name: str, rows: list[dict[str, Any]]) -> None:
        with (
            atomic_write(self.folder / name) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def read_history(self) -> list[dict[str, str]]:
        """Read the rows of history.csv; return an empty list if the file cannot be opened."""
        try:
            with (self.folder / "history.csv").open(newline="", encoding="utf-8") as stream:
                return list(csv.DictReader(stream))
        except OSError:
            return []


def create(parent: Path, architecture: str) -> Run:
    """Create a run folder that did not exist before.

    Raises:
        RunError: The folder cannot be made.
    """
    while True:
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        folder = parent / f"{now}-{architecture}-{secrets.token_hex(3)}"
        try:
            folder.mkdir(parents=True, exist_ok=False)
        except FileExistsError:
            if parent.is_dir():
                continue
            raise RunError(f"{str(parent)!r} is not a folder; choose another --runs.") from None
        except OSError as error:
            raise RunError(f"the run folder {str(folder)!r} cannot be made: {error.strerror}.") from None
        return Run(folder)


def locate(text: str, folder: Path) -> Path | None:
    """Return the run folder that a user means by a path or by a run's id, or None.

    Args:
        text: What the user typed.
        folder: The folder of runs.
    """
    for place in (Path(text), folder / text):
        # Not Path.is_file, which raises on names that are too long and folders that may not be entered.
        if os.path.isfile(place / RECORD):
            return place
    return None


def find(text: str, folder: Path) -> Path:
    """Return the run folder that a user means by a path or by a run's id.

    Args:
        text: What the user typed.
        folder: The folder of runs.

    Raises:
        UsageError: There is no such run.
    """
    found = locate(text, folder)
    if found:
        return found
    if os.path.isdir(text):
        raise UsageError(
            f"{text!r} is not a run folder: it has no {RECORD}. `zoo finetune` prints the folder it makes."
        )
    nearest = difflib.get_close_matches(Path(text).name, names(folder), n=1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    raise UsageError(f"there is no run {text!r}.{hint} Runs in {str(folder)!r}: {latest(folder)}.")


def names(folder: Path) -> list[str]:
    """Return the names of all runs in a folder, the oldest first."""
    return sorted(path.parent.name for path in folder.glob(f"*/{RECORD}"))


def latest(folder: Path, count: int = 5) -> str:
    """List the latest runs in a folder for a message; "none" if there are none."""
    all_names = names(folder)
    return ("… " if len(all_names) > count else "") + (", ".join(all_names[-count:]) or "none")


def load(folder: Path) -> tuple[Run, RunRecord]:
    """Open a run folder whose training has finished.

    Returns:
        The run and its record.

    Raises:
        RunError: The folder has no run.json, or one that is damaged or of another schema, or training did not finish.
    """
    run = Run(folder)
    record = run.read_record()
    if record.status != "trained" or not run.model.is_file():
        raise RunError(f"{str(folder)!r}: training did not finish (status {record.status!r}). Train again.")
    return run, record


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a run's result, without importing them."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def now() -> str:
    """Return the present time in UTC, such as "2026-01-31T12:00:00Z"."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
