"""Tries faults as a user would meet them, and writes the table of what the user saw into docs/reliability.md.

    python benchmarks/faults.py                   # all faults, about 10 minutes on 2 busy cores
    python benchmarks/faults.py --only 'disk|40'  # those whose group or name matches; the other rows stay

Each fault is a function in a file `faults_*.py` beside this one, registered by the decorator `fault`. It receives a
`Place`, runs the command `zoo` in processes of their own, checks what must hold, and returns the process whose output
the table shows. A check that fails ends the script with exit code 1, and the table is not written.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"
START, END = "<!-- the table of faults begins -->", "<!-- the table of faults ends -->"
LONGEST = 600


@dataclass
class Ran:
    """A finished process: its exit code, and everything that it printed."""

    code: int
    text: str


@dataclass
class Place:
    """A folder of its own for one fault, with pictures and an environment, and ways to run `zoo` in it.

    Args:
        folder: The folder. `cache`, `runs`, `exported` and `photos` are in it.
        environment: The environment variables of processes.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def __post_init__(self) -> None:
        self.cache, self.photos = self.folder / "cache", self.folder / "photos"
        for name in ("ZOO_WEIGHTS_DIR", "ZOO_OFFLINE", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            self.environment.pop(name, None)
        self.environment |= {"ZOO_CACHE": str(self.cache), "KERAS_HOME": str(self.folder / "keras")}
        self.environment |= {"NO_PROXY": "127.0.0.1", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}

    def write_photos(self, per_class: int = 12) -> Path:
        """Write pictures of two classes, bright and dark ones, and return their folder."""
        import numpy as np
        from PIL import Image

        rng = np.random.default_rng(0)
        for level, name in ((150, "bright"), (0, "dark")):
            (self.photos / name).mkdir(parents=True, exist_ok=True)
            for i in range(per_class):
                picture = level + rng.integers(0, 90, (64, 64, 3))
                Image.fromarray(picture.astype(np.uint8)).save(self.photos / name / f"{i}.png")
        return self.photos

    def training(self, network: str, *options: object) -> list[str]:
        """Return the arguments of a short training on the pictures of `write_photos`."""
        places = ["--runs", self.folder / "runs", "--exported", self.folder / "exported"]
        return [
            str(a)
            for a in (
                "finetune",
                network,
                "--data",
                self.write_photos(),
                "--epochs",
                1,
                *places,
                "--allow-chance",
                *options,
            )
        ]

    def start(self, *arguments: object, before: str = "", through: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Start `zoo`. Its output goes to one pipe.

        Args:
            arguments: The arguments of the command.
            before: Python code that the process runs first, to let a fault happen at a certain moment.
            through: A command that starts the process, for example as another user.
        """
        program = ["-m", "zoo"] if not before else ["-c", f"{before}\nfrom zoo import cli\ncli.main()"]
        return subprocess.Popen(
            [*through, sys.executable, *program, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=self.environment,
        )

    def run(self, *arguments: object, before: str = "", through: Sequence[str] = ()) -> Ran:
        """Run `zoo` to its end."""
        return finish(self.start(*arguments, before=before, through=through))

    @contextlib.contextmanager
    def small_disk(self, megabytes: int) -> Iterator[Path]:
        """Provide a folder on a disk of a few megabytes. This needs Linux and the right to mount a file system."""
        disk = self.folder / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", disk], check=True)
        try:
            yield disk
        finally:
            subprocess.run(["umount", disk], check=True)


def finish(process: subprocess.Popen[str]) -> Ran:
    """Wait for a process, and return its exit code and output."""
    text, _ = process.communicate(timeout=LONGEST)
    return Ran(process.returncode, text)


def read_until(process: subprocess.Popen[str], part: str) -> str:
    """Read the output of a process up to the line that contains a text. Return what was read.

    Raises:
        AssertionError: The process ends before it prints the text.
    """
    text = ""
    assert process.stdout is not None
    for line in process.stdout:
        text += line
        if part in line:
            return text
    raise AssertionError(f"{part!r} was not printed:\n{text}")


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: The condition does not hold after so many seconds.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.02)


@dataclass(frozen=True)
class Fault:
    """A fault: its group, its name, the function that tries it, and what the table shows; see `fault`."""

    group: str
    name: str
    attempt: Callable[[Place], Ran]
    shown: str
    silent: str


FAULTS: list[Fault] = []


# Warnings about the drawn pictures and the small networks of the script have nothing to do with a fault.
SHOWN = r"^(error|interrupted|warning: (?!the network has learned|\d+ held-out|schedule head-only keeps))"


def fault(
    group: str, name: str, shown: str = SHOWN, silent: str = "nothing; the command finishes as usual"
) -> Callable[[Callable[[Place], Ran]], Callable[[Place], Ran]]:
    """Register a function that tries a fault.

    Args:
        group: The heading of the table that the row belongs to.
        name: What happens, in the first column of the table.
        shown: A regular expression. The table shows the lines in which it is found. All lines after an error belong
            to it too.
        silent: What the table says if there are no such lines.
    """

    def register(attempt: Callable[[Place], Ran]) -> Callable[[Place], Ran]:
        FAULTS.append(Fault(group, name, attempt, shown, silent))
        return attempt

    return register


def attempted(one: Fault) -> tuple[Fault, Ran | None, str]:
    """Try a fault in a folder of its own. Return what the user saw, or the traceback of a failed check."""
    folder = Path(tempfile.mkdtemp(prefix="zoo-faults-"))
    try:
        ran = one.attempt(Place(folder))
        assert "Traceback" not in ran.text, ran.text
        return one, Ran(ran.code, seen(ran.text, one.shown, folder)), ""
    except Exception:
        return one, None, traceback.format_exc()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def seen(text: str, shown: str, folder: Path) -> str:
    """Return the lines of an output that the table shows, without the folder and the port of this attempt."""
    kept: list[str] = []
    follows = False
    for line in text.splitlines():
        follows = follows or line.startswith("error")
        if (follows or re.search(shown, line)) and line not in kept:
            kept.append(line)
    answer = " ⏎ ".join(kept).replace(str(folder), "/home/me").replace("|", "\\|")
    return re.sub(r"127\.0\.0\.1:\d+", "example.org", answer)


def rows_of(page: str) -> dict[str, str]:
    """Return the rows of the tables of a page, by the name of the fault."""
    lines = page.partition(START)[2].partition(END)[0].splitlines()
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}


def row(one: Fault, ran: Ran) -> str:
    """Return the row of a fault in Markdown."""
    return f"| {one.name} | {f'`{ran.text}`' if ran.text else one.silent} | {ran.code} |"


def table(rows: dict[str, str]) -> str:
    """Return the tables of all groups in Markdown, with those of the given rows whose fault is registered."""
    lines: list[str] = []
    for group in dict.fromkeys(one.group for one in FAULTS):
        lines += [f"\n### {group}\n", "| fault | what the user saw | exit code |", "|---|---|---|"]
        lines += [rows[one.name] for one in FAULTS if one.group == group and one.name in rows]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Try the faults, and write what the user saw into docs/reliability.md. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression: try only matching faults")
    parser.add_argument("--jobs", type=int, default=2, help="how many faults are tried at the same time")
    options = parser.parse_args()
    for path in sorted(Path(__file__).parent.glob("faults_*.py")):
        importlib.import_module(path.stem)
    chosen = [one for one in FAULTS if re.search(options.only, f"{one.group} {one.name}", re.IGNORECASE)]
    page = PAGE.read_text("utf-8")
    rows, failures, lock = rows_of(page) if options.only else {}, [], threading.Lock()

    def attempt(one: Fault) -> None:
        started = time.monotonic()
        _, ran, problem = attempted(one)
        with lock:
            print(f"{'FAILED' if problem else 'ok':6} {time.monotonic() - started:6.1f} s  {one.name}", flush=True)
            if ran is None:
                failures.append(problem)
                print(problem, flush=True)
            else:
                rows[one.name] = row(one, ran)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(attempt, chosen))
    if failures:
        print(f"{len(failures)} of {len(chosen)} faults failed, and {PAGE.name} stays as it is", file=sys.stderr)
    else:
        before, _, rest = page.partition(START)
        PAGE.write_text(f"{before}{START}\n{table(rows)}\n{END}{rest.partition(END)[2]}", "utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    # The files with the faults import this file by its name; as a script, it is another module.
    sys.exit(importlib.import_module("faults").main())
