"""What the functions of the workshop tell whoever called them.

The base class says nothing; `cli` brings one that prints.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator


class Reporter:
    """Receives messages and progress; silent unless overridden.

    Attributes:
        timing: Where the time went since it was made.
    """

    def __init__(self) -> None:
        self.timing = Timing()

    def say(self, text: str) -> None:
        """Report a step that is done or begins."""

    def warn(self, text: str) -> None:
        """Report something that the user should know but that stops nothing."""

    def block(self, title: str, text: str) -> None:
        """Report something that must not be overlooked."""

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """Give a function that takes (done, total) while a long step runs."""
        yield lambda done, total: None


class Timing:
    """Seconds of nested steps, in the order in which they first began. Steps of one name add up.

    Attributes:
        started: What `time.perf_counter` gave when it was made.
    """

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self._seconds: dict[tuple[str, ...], float] = {}
        self._open: tuple[str, ...] = ()

    @contextlib.contextmanager
    def measure(self, step: str) -> Iterator[None]:
        """Count what runs inside as a step, within the one that is open."""
        outer, started = self._open, time.perf_counter()
        self._open = (*outer, step)
        self._seconds.setdefault(self._open, 0.0)
        try:
            yield
        finally:
            self._seconds[(*outer, step)] += time.perf_counter() - started
            self._open = outer

    def add(self, step: str, seconds: float) -> None:
        """Count seconds as a step within the one that is open."""
        key = (*self._open, step)
        self._seconds[key] = self._seconds.get(key, 0.0) + seconds

    def rows(self) -> list[tuple[tuple[str, ...], float]]:
        """(step within step, seconds), outer steps before those inside; what no step covers is called "other"."""
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
        """A line a step: seconds, share of all, name, indented by depth; at the end the whole and the memory."""
        total = time.perf_counter() - self.started
        lines = [" seconds   share  step"]
        for key, seconds in [*self.rows(), (("in all",), total)]:
            lines.append(f"{seconds:8.2f}  {seconds / total:6.1%}  {'  ' * (len(key) - 1)}{key[-1]}")
        memory = peak_memory()
        return "\n".join([*lines, *([f"Peak memory {memory / 1e9:.2f} GB"] if memory else [])])


def peak_memory() -> int | None:
    """Bytes of memory that this process has held at most; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
