"""Carries out the trials of a sweep: each step of a trial is a child process `zoo finetune` or `zoo resume`.

A trial has a folder of its own, so that a crash, a full memory or a lost machine costs this trial alone:

    TRIAL/runs/RUN/       the run, with its safe points
    TRIAL/log.txt         what its processes have printed
    TRIAL/head.json       how the held-out pictures were answered by the solved head,
    TRIAL/folds1.json     and after one fold, and so on. A step is done if, and only if, this file is there.
    TRIAL/trial.json      why the trial failed, and how long it has taken

`zoo.workflow.sweep` and `zoo.workflow.sweep_ray` decide which steps are carried out.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo import runs
from zoo.errors import RunError, WriteError, ZooError
from zoo.evaluate.metrics import interval
from zoo.files import atomic_write
from zoo.runs import run_lock
from zoo.workflow.judging import FILE as HELD_OUT

HEAD = "exact-head"
# How often a process that crashed is started again.
RETRIES = 2
# How long a process has to write its safe point once it is asked to end, in seconds.
GRACE = 60.0
# How long a process that has lost its parent may still hold its run, in seconds.
ORPHAN = 120.0
# zoo ends with these codes after an error that would come again, and with the last one if it cannot even print.
FAILED, UNWRITABLE = (1, 2), 120
# What a write answers if the disk, the quota or the largest size of a file is reached.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# A disk with less than so many bytes is full.
NOTHING = 1 << 16
# What limits the threads of TensorFlow, JAX, PyTorch and NumPy. ZOO_THREADS limits those of zoo and ONNX Runtime.
THREADS = (
    *("ZOO_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC"),
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
)


@dataclass(frozen=True)
class Trial:
    """A network, a picture size and a schedule that are tried together.

    Args:
        network: The name of the network, also with a tag of its weights.
        size: (height, width) of the pictures in pixels. None chooses what suits the data and the weights.
        schedule: The name of a schedule, or the path of its TOML file.
        words: The options of `zoo finetune` for this trial, besides those that the other fields give.
        environment: Environment variables for its processes, besides those of this one.
        threads: On how many threads it is judged. None sets no limit.
    """

    network: str
    size: tuple[int, int] | None
    schedule: str
    words: tuple[str, ...] = field(default=(), repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    threads: int | None = field(default=None, compare=False)

    @property
    def pair(self) -> str:
        """Return the name of network and size, which all schedules share."""
        return f"{self.network}-{size_text(self.size)}" if self.size else self.network

    @property
    def key(self) -> str:
        """Return the name of the trial: that of its folder."""
        return f"{self.pair}-{Path(self.schedule).stem if self.schedule.endswith('.toml') else self.schedule}"


def size_text(size: Sequence[int] | None) -> str:
    """Return a picture size as the user types it: "160" or "120x160"; empty for None."""
    if size is None:
        return ""
    height, width = size
    return str(height) if height == width else f"{height}x{width}"


@dataclass(frozen=True)
class Answers:
    """How a trial has answered held-out pictures in a step.

    Args:
        step: The number of folds that were trained; 0 for the solved head alone.
        accuracy: The fraction of right answers, in 0..1.
        accuracy_interval: The bounds of its 95 % confidence interval.
        loss: The mean cross-entropy.
        training_pictures: The number of pictures in all folds.
        data: A digest of all pictures.
        seconds: How long the step has taken.
        right: For each held-out picture, by its sha256, how right the answer is, in 0..1.
    """

    step: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    loss: float
    training_pictures: int
    data: str
    seconds: float
    right: Mapping[str, float] = field(repr=False)


class TrialFolder:
    """The folder of a trial.

    Args:
        trial: The trial.
        folder: The folder of the sweep.
    """

    def __init__(self, trial: Trial, folder: Path):
        self.trial, self.folder = trial, folder / "trials" / trial.key

    @property
    def log(self) -> Path:
        """Return the path of what the processes of the trial have printed."""
        return self.folder / "log.txt"

    def answers(self, step: int) -> Answers | None:
        """Return the answers of a step; None if it is not done."""
        try:
            return _answers_of(json.loads(self._answers(step).read_text("utf-8")), step)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunError(
                f"{str(self._answers(step))!r} is damaged: {error}. Remove this file, and the same command goes on: "
                "the trial answers the pictures again."
            ) from None

    def latest(self) -> Answers | None:
        """Return the answers of the latest step that is done; None if none is."""
        # A file manager may have left copies such as "folds1 (copy).json".
        found = (re.fullmatch(r"folds([0-9]+)\.json", path.name) for path in self.folder.glob("folds*.json"))
        steps = [int(match[1]) for match in found if match]
        return self.answers(max(steps)) if steps else self.answers(0)

    def facts(self) -> dict[str, Any]:
        """Return what trial.json says: `seconds`; `problem` if the trial has failed; `out` if Ray has stopped it."""
        values: Any = None
        with contextlib.suppress(OSError, ValueError):
            values = json.loads((self.folder / "trial.json").read_text("utf-8"))
        # Nothing that decides is in this file, so that a damaged one ends no sweep.
        facts = values if isinstance(values, dict) else {}
        problem, seconds, out = facts.get("problem"), facts.get("seconds"), facts.get("out")
        return {
            "seconds": float(seconds) if isinstance(seconds, (int, float)) else 0.0,
            "problem": problem if isinstance(problem, str) else None,
            "out": out if isinstance(out, int) else None,
        }

    def note(self, **changes: Any) -> None:
        """Change entries of trial.json.

        Raises:
            WriteError: The file cannot be written.
        """
        write_json(self.folder / "trial.json", {**self.facts(), **changes})

    def run(self, *, finished: bool = True) -> Path | None:
        """Return the folder of the latest run of this trial that can be resumed or is finished; None without one.

        Args:
            finished: Whether a finished run counts.
        """
        parent = self.folder / "runs"
        for name in reversed(runs.names(parent)):
            run = runs.Run(parent / name)
            with contextlib.suppress(RunError):
                record = run.read_record()
                if (run_lock.folder_of(run) / run_lock.REQUEST).is_file() or (finished and record.status == "trained"):
                    return run.folder
        return None

    def is_finished(self) -> bool:
        """Return whether the latest run of this trial is trained on all pictures, exported and evaluated."""
        run = self.run()
        return run is not None and not (run_lock.folder_of(runs.Run(run)) / run_lock.REQUEST).is_file()

    def _answers(self, step: int) -> Path:
        return self.folder / (f"folds{step}.json" if step else "head.json")

    def take_answers(self, step: int, seconds: float) -> Answers:
        """Record the answers that a process has left in its run, and return them.

        Raises:
            RunError: There are none.
            WriteError: They cannot be recorded.
        """
        folder = self.run(finished=False)
        if folder is None:
            raise RunError("its process has left no run.")
        found = runs.Run(folder).read_json(HELD_OUT)
        right = found["right"]
        accuracy = sum(right.values()) / len(right)
        answers = Answers(
            step=step,
            accuracy=accuracy,
            accuracy_interval=tuple(interval(accuracy, len(right))),  # type: ignore[arg-type]
            loss=found["loss"],
            training_pictures=found["training_pictures"],
            data=found["data"],
            seconds=round(seconds, 2),
            right=right,
        )
        write_json(self._answers(step), vars(answers))
        return answers


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file atomically.

    Raises:
        WriteError: It cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")


def _answers_of(values: dict[str, Any], step: int) -> Answers:
    """Return the answers of a file.

    Raises:
        ValueError: They cannot be those of this step.
        TypeError, KeyError, AttributeError: Entries are missing, or of another type.
    """
    answers = Answers(**{**values, "accuracy_interval": tuple(values["accuracy_interval"])})
    right = answers.right.values()
    if answers.step != step or not right or not all(0 <= value <= 1 for value in right):
        raise ValueError(f"it does not hold answers of {step} folds")
    return answers


def is_full(text: str) -> bool:
    """Return whether an error message says that the disk is full."""
    return any(os.strerror(number) in text for number in FULL)


def judge(folder: TrialFolder, step: int, seconds: float | None) -> Answers | None:
    """Carry out a step of a trial, unless it is done.

    Args:
        folder: The folder of the trial.
        step: The number of folds to train; 0 judges the solved head.
        seconds: How long the process may take. It then ends with a safe point. None sets no limit.

    Returns:
        The answers to held-out pictures. None if the time was over, or if the trial has failed; trial.json then has the
        problem.

    Raises:
        KeyboardInterrupt: The user has interrupted the sweep. The process has written its safe point.
        WriteError: The results cannot be written, or the disk is full, which would end all other trials too.
    """
    done = folder.answers(step)
    if done is not None:
        return done
    began = time.monotonic()
    try:
        for attempt in range(RETRIES + 1):
            left = None if seconds is None else seconds - (time.monotonic() - began)
            if left is not None and left <= 0:
                return None
            words = _words(folder, folder.run(finished=False))
            words += ["--hold-out", str(step), "--judge-only"]
            code, problem = _process(folder, words, left, folder.trial.threads)
            if code is None:
                return None
            if code == 0:
                return _checked(folder, step, time.monotonic() - began)
            if is_full(problem):
                raise WriteError(problem)
            if code in FAILED or attempt == RETRIES:
                folder.note(problem=problem)
                return None
        return None
    finally:
        with contextlib.suppress(ZooError):
            folder.note(seconds=round(folder.facts()["seconds"] + time.monotonic() - began, 2))


def finish(folder: TrialFolder, step: int, seconds: float | None) -> str | None:
    """Train a trial on all pictures, export it and evaluate the exported file, unless that is done.

    Args:
        folder: The folder of the trial, which has been judged.
        step: The number of folds that were trained, so that no others are.
        seconds: How long the process may take. It then ends with a safe point. None sets no limit.

    Returns:
        None if the trial is finished, an empty text if the time was over, or else the problem.

    Raises:
        KeyboardInterrupt: The user has interrupted the sweep. The process has written its safe point.
    """
    problem, began = "", time.monotonic()
    for _ in range(RETRIES + 1):
        left = None if seconds is None else seconds - (time.monotonic() - began)
        if left is not None and left <= 0:
            return ""
        words = _words(folder, folder.run())
        code, problem = _process(folder, [*words, "--hold-out", str(step)], left)
        if code is None:
            return ""
        if code == 0:
            return None
        if code in FAILED or is_full(problem):
            break
    return problem


def _checked(folder: TrialFolder, step: int, seconds: float) -> Answers | None:
    """Record the answers of a step. Refuse random weights that nobody asked for."""
    try:
        run = folder.run(finished=False)
        weights: Mapping[str, Any] = runs.Run(run).read_record().weights if run is not None else {}
        wanted = [word for word in folder.trial.words if word.startswith("--weights")]
        if weights.get("random") and not wanted:
            why = weights.get("reason") or "no plugin lists any"
            folder.note(problem=f"no pretrained weights are here: {why}. --weights none tries random ones.")
            return None
        return folder.take_answers(step, seconds)
    except (RunError, KeyError) as error:
        folder.note(problem=f"its process has left no result: {error}")
        return None


def _words(folder: TrialFolder, run: Path | None) -> list[str]:
    """Return the command that continues a run of a trial, or begins a new one."""
    if run is not None:
        _wait_for_orphan(run)
        return ["resume", str(run)]
    if folder.run() is None:
        # What a process leaves that was killed before its first safe point cannot be continued.
        shutil.rmtree(folder.folder / "runs", ignore_errors=True)
    trial = folder.trial
    size = ["--size", size_text(trial.size)] if trial.size else []
    words = ["finetune", trial.network, *trial.words, *size, "--schedule", trial.schedule]
    return [*words, "--runs", str(folder.folder / "runs")]


def _wait_for_orphan(run: Path) -> None:
    """Wait until no process works on a run. One that has lost its parent writes its safe point, and ends."""
    ends = time.monotonic() + ORPHAN
    while run_lock.holder(runs.Run(run)) is not None and time.monotonic() < ends:
        time.sleep(0.5)


def _process(
    folder: TrialFolder, words: Sequence[str], seconds: float | None, threads: int | None = None
) -> tuple[int | None, str]:
    """Run the command `zoo` in a process of its own.

    Returns:
        Its exit code, and its error message. The code is None if the time was over.

    Raises:
        WriteError: What it prints cannot be written.
    """
    limits = {} if threads is None else dict.fromkeys(THREADS, str(threads))
    with contextlib.ExitStack() as stack:
        try:
            folder.folder.mkdir(parents=True, exist_ok=True)
            log = stack.enter_context(folder.log.open("ab", buffering=0))
            log.write(f"\n$ zoo {shlex.join(words)}\n".encode())
            start = log.tell()
        except OSError as error:
            raise WriteError(f"{str(folder.log)!r} cannot be written: {error.strerror or error}.") from error
        # In a session of its own, because Ctrl-C would reach the process twice: from the terminal and from here.
        process = subprocess.Popen(
            [sys.executable, "-m", "zoo.cli.child", *words],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, **folder.trial.environment, **limits},
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            # It may have been done just then.
            return (0, "") if process.returncode == 0 else (None, "")
        except BaseException:
            _end(process)
            raise
        finally:
            if process.stdin is not None:
                process.stdin.close()
    return code, "" if code == 0 else _problem(folder.log, start, code)


def _end(process: subprocess.Popen) -> None:
    """End a process with a safe point, or by force if it takes too long."""
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    except BaseException:
        # Ctrl-C, a second time.
        process.kill()
        raise


def _problem(log: Path, start: int, code: int) -> str:
    """Return the error message in the output of a process, or how the process has ended."""
    with log.open("rb") as stream:
        stream.seek(start)
        lines = stream.read().decode("utf-8", "replace").splitlines()
    for number in range(len(lines) - 1, -1, -1):
        if lines[number].lower().startswith("error: "):
            return "\n".join([lines[number][7:], *lines[number + 1 :]]).strip()
    if code == UNWRITABLE or shutil.disk_usage(log.parent).free < NOTHING:
        # It could not say so, because its output is on the same disk.
        return f"{str(log)!r} cannot be written: {os.strerror(errno.ENOSPC)}. Free some space."
    if code < 0:
        name = signal.Signals(-code).name if -code in [*signal.Signals] else str(-code)
        why = {"SIGKILL": ", as it happens when the memory is full", "SIGBUS": ", as it happens when a disk is full"}
        return f"its process was ended by the signal {name}{why.get(name, '')}. {str(log)!r} has its output."
    return f"its process has ended with the code {code}. {str(log)!r} has its output."


def absolute(text: str) -> str:
    """Return a path that other processes find, whatever their working folder is."""
    return os.path.abspath(os.path.expanduser(text))
