"""Defines `Reporter`, to which long-running functions send progress messages, warnings and timings.

The base class prints nothing. `zoo.cli.console.ConsoleReporter` prints to the terminal.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence


def joined(texts: Sequence[str], limit: int) -> str:
    """Join the first texts with commas, and say how many more there are than `limit`."""
    return ", ".join(texts[:limit]) + (f" and {len(texts) - limit} more" if len(texts) > limit else "")


def counted(number: int, noun: str) -> str:
    """Return a number followed by a noun in the singular or plural, such as "1 layer" or "2 layers"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class Reporter:
    """Receives progress messages and warnings. This base class ignores them; subclasses override its methods.

    Attributes:
        timing: Measures how long each step takes. The total time is counted from the creation of this reporter.
    """

    def __init__(self) -> None:
        self.timing = Timing()

    def say(self, text: str) -> None:
        """Report in one line of text that a step starts or has finished."""

    def warn(self, text: str) -> None:
        """Report a problem that the user should know about. The work continues."""

    def block(self, title: str, text: str) -> None:
        """Report something that the user must not overlook: a title, and a text of several lines."""

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """Show the progress of a long step until the context ends.

        Args:
            label: Describes the step, such as "decoding pictures".

        Yields:
            A function to call with (done, total): how many items of the step are done, and how many there are.
        """
        yield lambda done, total: None

    @contextlib.contextmanager
    def transfer(self, label: str, waiting: str = "") -> Iterator[Callable[[int, int], None]]:
        """Show the progress of a download until the context ends. Without an override, it is shown as other progress.

        Args:
            label: Describes the download, such as "downloading weights".
            waiting: Says what is done until the first bytes arrive; they may never do. Empty shows the label.

        Yields:
            A function to call with (done, total): how many bytes have arrived, and how many there are. `total` is 0 if
            this is not known.
        """
        with self.progress(label) as progress:
            yield progress


class Timing:
    """Measures how many seconds the steps of a program take. A step can contain inner steps.

    If several steps inside the same outer step have the same name, their durations are added up.

    Attributes:
        started: The value of `time.perf_counter` when this object was created, in seconds.
    """

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self._seconds: dict[tuple[str, ...], float] = {}
        self._open: tuple[str, ...] = ()

    @contextlib.contextmanager
    def measure(self, step: str) -> Iterator[None]:
        """Measure how long the code inside this context takes, and add the time to a step.

        Contexts can be nested. The step of an inner context then belongs to the step of the outer context.

        Args:
            step: The name of the step.
        """
        outer, started = self._open, time.perf_counter()
        self._open = (*outer, step)
        self._seconds.setdefault(self._open, 0.0)
        try:
            yield
        finally:
            self._seconds[(*outer, step)] += time.perf_counter() - started
            self._open = outer

    def add(self, step: str, seconds: float) -> None:
        """Add a duration that the caller has measured to a step.

        If this method is called inside a context of `measure`, the step is an inner step of the context's step.

        Args:
            step: The name of the step.
            seconds: The duration in seconds.
        """
        key = (*self._open, step)
        self._seconds[key] = self._seconds.get(key, 0.0) + seconds

    def rows(self) -> list[tuple[tuple[str, ...], float]]:
        """List all steps in the order in which they first started. Inner steps follow their outer step.

        Returns:
            One pair (names, seconds) per step. `names` leads from the outermost step to the step itself, such as
            ("export", "converting"). `seconds` is the duration of the step.

            If a step takes at least 0.05 s longer than its inner steps together, the difference is listed as an inner
            step "other". By the same rule, the time since `started` that no step covers is listed as an outermost step
            "other".
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
        """Format all steps as a table.

        Each line has the seconds of a step, its share of the total, and its name, indented by depth. The last lines
        show the total and, if the system reports it, the peak memory of the process.
        """
        total = time.perf_counter() - self.started
        lines = [" seconds   share  step"]
        for key, seconds in [*self.rows(), (("in all",), total)]:
            lines.append(f"{seconds:8.2f}  {seconds / total:6.1%}  {'  ' * (len(key) - 1)}{key[-1]}")
        memory = peak_memory()
        return "\n".join([*lines, *([f"Peak memory {memory / 1e9:.2f} GB"] if memory else [])])


def peak_memory() -> int | None:
    """Return the peak memory of this process in bytes, or None if the system does not report it."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS reports bytes, other systems report kilobytes.
    return peak if sys.platform == "darwin" else peak * 1024
