"""Creates run folders, reads and writes their files, and finds runs by path or id. Files are written atomically.

A run folder is called `<time in UTC>-<architecture>-<6 hex digits>`. Its folder `unfinished` holds what `zoo resume`
needs. When the run is finished, that folder is gone, and the run folder holds these files:

- run.json: the run record, see `RunRecord`
- config.toml: the settings, with which `zoo finetune --config` repeats the run
- pictures.csv: the part (train, val or test), class, sha256, name and group (near-duplicates) of every picture
- history.csv: one row per epoch
- curves.png: a plot of the accuracy and the loss in history.csv
- model.keras: the trained network; or head.npz, its solved head, from which model.keras is made when it is needed
- out-of-fold.npz: the logits of pictures that were held out in cross-validation, if the run used it
- head-logits.npz: out-of-fold logits of the solved head for all training pictures, if out-of-fold.npz has fewer
- label_issues.csv, label_issues.html, label_issues.json: the pictures whose labels are probably wrong
- trust.json: the calibration and the thresholds of the exported file, and the figures behind them
- metrics.json: the metrics on the validation and test pictures
- predictions.csv: what the exported file says about every test picture and every validation picture
- examples.json: mistakes and right answers with small pictures, Grad-CAM overlays and similar training pictures
- report.html: the report page, made from the other files
- model.onnx: the exported file; missing if the user requested no export

`zoo.workflow.export` adds the files of variants, such as model-int8.onnx and int8.json. If the pictures come from an
array instead of files, it also adds sample.png, a test picture.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import json
import os
import platform
import re
import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from zoo.errors import RunError, UsageError, WriteError
from zoo.files import atomic_write, why_not_writable
from zoo.runs.record import SCHEMA, RunRecord

RECORD, UNFINISHED = "run.json", "unfinished"
# The folder of the files in the formats of plugins, with their figures.
FORMATS = "formats"
OUT_OF_FOLD = "out-of-fold.npz"
# The columns of predictions.csv.
PREDICTION_COLUMNS = (
    "part",
    "sha256",
    "picture",
    "class",
    "predicted",
    "correct",
    "confidence",
    "true_probability",
    "second",
    "second_probability",
    "unknown",
    "outlier_score",
    "outlier",
)
PACKAGES = ("finezoo", "tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "numpy", "pillow", "scikit-learn")

# A list of numbers as `json.dumps` indents it. Strings have no line breaks in JSON, so none can look like it.
NUMBERS = re.compile(r"\[\n([-+.\deE,\s]+)\]")


@dataclass(frozen=True)
class Run:
    """A run folder, with methods that read and write its files.

    Args:
        folder: The path of the folder.
    """

    folder: Path

    @property
    def id(self) -> str:
        """The name of the run folder, which identifies the run."""
        return self.folder.name

    @property
    def model(self) -> Path:
        """The path of model.keras, the trained network. The file exists once training has finished."""
        return self.folder / "model.keras"

    @property
    def solved_head(self) -> Path:
        """The path of head.npz: the solved head, if that is all that was trained and model.keras is not made yet."""
        return self.folder / "head.npz"

    @property
    def exported(self) -> Path:
        """The path of model.onnx, the exported file. The file need not exist."""
        return self.folder / "model.onnx"

    def write_json(self, name: str, value: Any) -> None:
        """Write a value to a JSON file in the run folder, atomically. Lists of numbers take one line each.

        Raises:
            WriteError: The file cannot be written.
        """
        with atomic_write(self.folder / name) as temporary:
            temporary.write_text(_json_text(value), encoding="utf-8")

    def read_json(self, name: str) -> Any:
        """Read a JSON file in the run folder.

        Raises:
            RunError: The file is missing or damaged.
        """
        path = self.folder / name
        if path.exists() and not path.is_file():
            # Reading a named pipe would never end.
            raise RunError(f"{str(path)!r} cannot be read: it is not a file.")
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except RecursionError:
            raise RunError(f"{str(path)!r} is damaged: it is nested too deeply.") from None
        except OSError as error:
            raise RunError(f"{str(self.folder / name)!r} cannot be read: {error.strerror}.") from None
        except ValueError as error:
            raise RunError(f"{str(self.folder / name)!r} is damaged: {error}.") from None

    def write_record(self, record: RunRecord) -> None:
        """Write run.json.

        Raises:
            WriteError: The file cannot be written.
        """
        self.write_json(RECORD, record.to_json())

    def read_record(self) -> RunRecord:
        """Read run.json.

        Raises:
            RunError: The file is missing or damaged, or a newer version of zoo wrote it.
        """
        path, values = self.folder / RECORD, self.read_json(RECORD)
        if not isinstance(values, dict):
            raise RunError(f"{str(path)!r} is damaged: it must hold a JSON object.")
        try:
            return RunRecord.from_json(values)
        except RunError as error:
            schema = values.get("schema")
            if type(schema) is int and schema > SCHEMA:
                raise RunError(f"{str(path)!r} cannot be read: {error}") from None
            raise RunError(f"{str(path)!r} is damaged: {error}") from None

    def write_out_of_fold(self, digests: Sequence[str], logits: Any, name: str = OUT_OF_FOLD) -> None:
        """Write logits of held-out pictures.

        Args:
            digests: The sha256 of each picture, in hex.
            logits: float array (pictures, units). Each row comes from a network that has not seen the picture.
            name: The name of the file.

        Raises:
            WriteError: The file cannot be written.
        """
        import numpy as np

        with atomic_write(self.folder / name) as temporary, temporary.open("wb") as stream:
            np.savez(stream, sha256=np.array(digests), logits=np.asarray(logits, "float32"))

    def read_out_of_fold(self, name: str = OUT_OF_FOLD) -> dict[str, Any]:
        """Return logits of held-out pictures: the sha256 of each picture -> a float32 array (units,).

        The dictionary is empty if there is no such file.

        Raises:
            RunError: The file is damaged.
        """
        import zipfile

        import numpy as np

        path = self.folder / name
        try:
            with np.load(path) as arrays:
                return dict(zip(arrays["sha256"].tolist(), arrays["logits"], strict=True))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise RunError(f"{str(path)!r} is damaged: {error}.") from None

    def write_pictures(self, rows: list[dict[str, str]]) -> None:
        """Write pictures.csv.

        Args:
            rows: One row per picture, at least one, as `zoo.data.dataset.Dataset.listed` returns them.

        Raises:
            WriteError: The file cannot be written.
        """
        self._write_csv("pictures.csv", rows)

    def parts(self) -> dict[str, str]:
        """Return, for the sha256 of each picture in hex, "train", "val" or "test". Raises what `pictures` raises."""
        return {row["sha256"]: row["part"] for row in self.pictures()}

    def pictures(self) -> list[dict[str, str]]:
        """Return the rows of pictures.csv; see `write_pictures`. Runs of earlier versions lack the key group.

        Raises:
            RunError: pictures.csv is missing or damaged.
        """
        path = self.folder / "pictures.csv"
        try:
            # Spreadsheets write a byte order mark.
            with path.open(newline="", encoding="utf-8-sig") as stream:
                keys = ("part", "class", "sha256", "picture")
                return [{key: row[key] for key in (*keys, *({"group"} & row.keys()))} for row in csv.DictReader(stream)]
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise RunError(f"{str(path)!r} cannot be read: {error}.") from None

    def write_predictions(self, rows: list[dict[str, Any]]) -> None:
        """Write predictions.csv.

        Args:
            rows: One row per picture, with keys in `PREDICTION_COLUMNS`. Those that a row lacks are left empty.

        Raises:
            WriteError: The file cannot be written.
        """
        self._write_csv("predictions.csv", rows, PREDICTION_COLUMNS)

    def predictions(self) -> list[dict[str, str]]:
        """Return the rows of predictions.csv, with the keys in `PREDICTION_COLUMNS`.

        The list is empty if there is no such file, as in runs of earlier versions.

        Raises:
            RunError: The file is damaged.
        """
        path = self.folder / "predictions.csv"
        try:
            # Spreadsheets write a byte order mark.
            with path.open(newline="", encoding="utf-8-sig") as stream:
                return [{key: row[key] for key in PREDICTION_COLUMNS} for row in csv.DictReader(stream)]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise RunError(f"{str(path)!r} cannot be read: {error}.") from None

    def _write_csv(self, name: str, rows: list[dict[str, Any]], columns: Sequence[str] = ()) -> None:
        with (
            atomic_write(self.folder / name) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.DictWriter(stream, columns or list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def read_history(self) -> list[dict[str, str]]:
        """Return the rows of history.csv, one per epoch, or an empty list if the file cannot be opened."""
        try:
            with (self.folder / "history.csv").open(newline="", encoding="utf-8") as stream:
                return list(csv.DictReader(stream))
        except OSError:
            return []


def _json_text(value: Any) -> str:
    """Return a value as indented JSON. Lists of numbers take one line each, because a confusion matrix may be large."""
    text = NUMBERS.sub(lambda numbers: f"[{' '.join(numbers[1].split())}]", json.dumps(value, indent=2))
    return text + "\n"


def create(parent: Path, architecture: str) -> Run:
    """Create a new run folder.

    Args:
        parent: The folder of runs; it is created if necessary.
        architecture: The name of the architecture, which becomes a part of the folder's name.

    Raises:
        RunError: The folder cannot be created.
    """
    while True:
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        folder = parent / f"{now}-{architecture}-{secrets.token_hex(3)}"
        try:
            folder.mkdir(parents=True, exist_ok=False)
        except FileExistsError:
            if parent.is_dir():
                continue
            raise RunError(f"{str(parent)!r} is not a folder; choose another one with --runs FOLDER.") from None
        except OSError as error:
            raise RunError(
                f"the run folder {str(folder)!r} cannot be made: {error.strerror}. Choose another place with "
                "--runs FOLDER."
            ) from None
        return Run(folder)


def locate(text: str, folder: Path) -> Path | None:
    """Return the path of the run folder that a user names, or None if there is none.

    Args:
        text: The path of a run folder, the id of a run, or the last six characters of an id.
        folder: The folder of runs, where an id is looked up.

    Raises:
        UsageError: Several ids end in these six characters.
    """
    for place in (Path(text), folder / text):
        # Path.is_file raises an error for names that are too long, and for folders without permission to enter.
        if os.path.isfile(place / RECORD):
            return place
    if not re.fullmatch("[0-9a-f]{6}", text):
        return None
    found = [name for name in names(folder) if name.endswith(f"-{text}")]
    if len(found) > 1:
        raise UsageError(f"{text!r} is the end of several runs: {', '.join(found)}. Give the whole name.")
    return folder / found[0] if found else None


def find(text: str, folder: Path) -> Path:
    """Return the path of the run folder that a user names.

    Args:
        text: The path of a run folder, the id of a run, or the last six characters of an id.
        folder: The folder of runs, where an id is looked up.

    Raises:
        UsageError: There is no such run, or there are several.
    """
    found = locate(text, folder)
    if found:
        return found
    if os.path.isdir(text):
        raise UsageError(
            f"{text!r} is not a run folder: it has no {RECORD}. `zoo finetune` prints the folder it makes."
        )
    nearest = difflib.get_close_matches(Path(text).name, names(folder), n=1)
    if nearest == [text]:
        raise UsageError(f"{text!r} is not a run folder: its {RECORD} is not a file.")
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    raise UsageError(f"there is no run {text!r}.{hint} Runs in {str(folder)!r}: {latest(folder)}.")


def names(folder: Path) -> list[str]:
    """Return the ids of all runs in a folder of runs, oldest first."""
    return sorted(path.parent.name for path in folder.glob(f"*/{RECORD}"))


def latest(folder: Path, count: int = 5) -> str:
    """List the ids of the latest runs for a message.

    Args:
        folder: The folder of runs.
        count: The greatest number of ids.

    Returns:
        The ids separated by commas, oldest first, or "none". The string begins with "… " if there are more runs.
    """
    all_names = names(folder)
    return ("… " if len(all_names) > count else "") + (", ".join(all_names[-count:]) or "none")


def load(folder: Path) -> tuple[Run, RunRecord]:
    """Open the folder of a run whose training has finished.

    Args:
        folder: The run folder.

    Returns:
        The run and its record.

    Raises:
        RunError: run.json is missing or damaged, a newer version of zoo wrote it, or training did not finish.
    """
    # The lock knows runs, too.
    from zoo.runs import run_lock

    run = Run(folder)
    record = run.read_record()
    if record.status != "trained" or not (run.model.is_file() or run.solved_head.is_file()):
        words = list(record.command)
        command = shlex.join(words) if words[:2] == ["zoo", "finetune"] else "zoo finetune"
        begin, advice = "Start it again", f"`{command}`"
        if (folder / UNFINISHED).is_dir():
            begin, words = "Resume it", ["zoo", "export", str(folder), "--best-so-far"]
            advice = f"`{shlex.join(['zoo', 'resume', str(folder)])}`, or export it as it is: `{shlex.join(words)}`"
        if run_lock.holder(run) is not None:
            export = shlex.join(["zoo", "export", str(folder), "--best-so-far"])
            raise RunError(f"{run_lock.in_use(run)} `{export}` exports the network as it is now.")
        status = "interrupted" if record.status == "running" else record.status
        raise RunError(f"{str(folder)!r}: training did not finish (status {status!r}). {begin}: {advice}.")
    return run, record


def check_writable(run: Run) -> None:
    """Check that this user may write to a run folder.

    Raises:
        WriteError: The run belongs to another user, or is on a read-only file system.
    """
    problem = why_not_writable(run.folder)
    if problem:
        raise WriteError(
            f"{str(run.folder)!r} {problem}. zoo keeps figures in the run. Copy the run to a folder of your own, and "
            f"use the copy: cp -r {shlex.quote(str(run.folder))} FOLDER"
        )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that influence the result of a run.

    The packages are not imported. Packages that are not installed are left out.

    Returns:
        A dictionary from "python" and the names of the packages to their versions.
    """
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def changed_versions(before: Mapping[str, str]) -> list[str]:
    """Return which versions differ from those that a run recorded, such as ["keras 3.15.0 -> 3.15.1"]."""
    current = versions()
    return [
        f"{name} {before.get(name, 'missing')} -> {current.get(name, 'missing')}"
        for name in sorted({*before, *current})
        if before.get(name) != current.get(name)
    ]


def now() -> str:
    """Return the current time in UTC, such as "2026-01-31T12:00:00Z"."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
