"""Shares what several benchmarks need: folders of symbolic links, and processes that are timed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class ProgramFailed(Exception):
    """A program ended with another exit code than 0. The message has the command and the end of its output."""


def link(pictures: Iterable[tuple[Path, str]], folder: Path) -> None:
    """Make symbolic links to pictures in class folders.

    Args:
        pictures: (path of the picture, name of its class) for each picture.
        folder: The folder in which the class folders are created.
    """
    for number, (picture, label) in enumerate(pictures):
        place = folder / label / f"{number:06}{picture.suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(picture)


def timed(command: list[str], folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a process to its end.

    Args:
        command: The program and its arguments.
        folder: The working directory of the process, which also receives its output as a file.
        environment: Variables to add to the environment.

    Returns:
        "seconds" of the process, its peak "memory" in bytes, and its output as "text".

    Raises:
        ProgramFailed: The exit code of the process is not 0.
    """
    log = folder / f"{time.time_ns()}.log"
    started = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    text = log.read_text(errors="replace")
    if status:
        raise ProgramFailed(f"{' '.join(command)} failed:\n{text[-2000:]}")
    return {
        "seconds": time.perf_counter() - started,
        "memory": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "text": text,
    }
