"""Progress messages, warnings and timing: the interface through which long functions report to their caller.

The base class is silent; `zoo.cli.console` has the one that prints.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 layer" or "2 layers"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class Reporter:
    """Receives progress messages and warnings. Does nothing unless its methods are overridden.

    Attributes:
        timing: The seconds that each step has taken since this reporter was created.
    """

    def __init__(self) -> None:
        self.timing = Timing()

    def say(self, text: str) -> None:
        """Report that a step starts or is finished."""

    def warn(self, text: str) -> None:
        """Report something that the user should know although the work continues."""

    def block(self, title: str, text: str) -> None:
        """Report something that the user must not overlook, as a title and a text of several lines."""

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """Show the progress of a long step. The function that it provides is called with (done, total)."""
        yield lambda done, total: None


class Timing:
    """Measures the seconds of nested steps. Steps of the same name inside the same outer step add up.

    Attributes:
        started: The value of `time.perf_counter` when the measurement started.
    """

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self._seconds: dict[tuple[str, ...], float] = {}
        self._open: tuple[str, ...] = ()

    @contextlib.contextmanager
    def measure(self, step: str) -> Iterator[None]:
        """Measure the block as a step, inside the step that is being measured now."""
        outer, started = self._open, time.perf_counter()
        self._open = (*outer, step)
        self._seconds.setdefault(self._open, 0.0)
        try:
            yield
        finally:
            self._seconds[(*outer, step)] += time.perf_counter() - started
            self._open = outer

    def add(self, step: str, seconds: float) -> None:
        """Add seconds to a step, inside the step that is being measured now."""
        key = (*self._open, step)
        self._seconds[key] = self._seconds.get(key, 0.0) + seconds

    def rows(self) -> list[tuple[tuple[str, ...], float]]:
        """List all steps in the order in which they first started, each outer step before those inside it.

        Returns:
            For each step, its path from the outermost step and its seconds. Time that no inner step covers is listed
            as "other" if it is 0.05 s or more.
        """
        total = time.perf_counter() - self.started
        rows = []

        def walk(outer: tuple[str, ...], seconds: float) -> None:
            inner = [key for key in self._seconds if key[:-1] == outer]
            for key in inner:
                rows.append((key, self._seconds[key]))
                walk(key, self._seconds[key])
            rest = seconds - sum(self._seconds[key] for key in inner)
            if inner and rest >= 0.05:
                rows.append(((*outer, "other"), rest))

        walk((), total)
        return rows

    def table(self) -> str:
        """Format the steps as a table with one line per step: seconds, share of the total, and name, indented by depth.

        The last lines show the total and, where the system reports it, the peak memory of the process.
        """
        total = time.perf_counter() - self.started
        lines = [" seconds   share  step"]
        for key, seconds in [*self.rows(), (("in all",), total)]:
            lines.append(f"{seconds:8.2f}  {seconds / total:6.1%}  {'  ' * (len(key) - 1)}{key[-1]}")
        memory = peak_memory()
        return "\n".join([*lines, *([f"Peak memory {memory / 1e9:.2f} GB"] if memory else [])])


def peak_memory() -> int | None:
    """Return the peak memory of this process in bytes; None if the system does not report it."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS reports bytes, other systems report kilobytes.
    return peak if sys.platform == "darwin" else peak * 1024
