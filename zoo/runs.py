"""The run folder: created exclusively, every file written atomically, loaded back.

`<runs>/<UTC>-<architecture>-<6 hex>/` holds run.json (resolved configuration, versions, plugins, digests), pictures.csv
(which picture served what), history.csv (a row an epoch), curves.png (the same drawn), model.keras, metrics.json,
report.html and model.onnx.
"""

from __future__ import annotations

import contextlib
import csv
import json
import platform
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from zoo.errors import RunError
from zoo.files import atomic_write

SCHEMA = 1
PACKAGES = ("finezoo", "tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "numpy", "pillow", "scikit-learn")


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
            RunError: It is missing or damaged.
        """
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except OSError as error:
            raise RunError(f"{str(self.folder / name)!r} cannot be read: {error.strerror}.") from None
        except ValueError as error:
            raise RunError(f"{str(self.folder / name)!r} is damaged: {error}.") from None

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        """Write history.csv, a row an epoch."""
        self._write_csv("history.csv", rows)

    def write_pictures(self, rows: list[dict[str, str]]) -> None:
        """Write pictures.csv, a row a picture: part, class, sha256, picture."""
        self._write_csv("pictures.csv", rows)

    def parts(self) -> dict[str, str]:
        """sha256 of every picture of the run -> "train", "val" or "test".

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
        """Read history.csv back; empty where there is none."""
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


def load(folder: Path) -> tuple[Run, dict[str, Any]]:
    """Open a run folder that training has finished.

    Returns:
        The run and its run.json.

    Raises:
        RunError: It is no run folder, of another schema, or training did not finish.
    """
    if not (folder / "run.json").is_file():
        hint = "`zoo finetune` prints the folder it makes."
        raise RunError(f"{str(folder)!r} is no run folder: it has no run.json. {hint}")
    run = Run(folder)
    record = run.read_json("run.json")
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise RunError(f"{str(folder)!r} was written by another version of zoo (schema {SCHEMA} is read here).")
    if record.get("status") != "trained" or not run.model.is_file():
        raise RunError(f"{str(folder)!r}: training did not finish (status {record.get('status')!r}). Train again.")
    return run, record


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's result, without importing them."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def now() -> str:
    """Return the present time in UTC, such as "2026-01-31T12:00:00Z"."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
