"""Finds out how much of the machine other programs use while something is measured."""

from __future__ import annotations

import os
import time

# Other programs that use less than so many cores hardly disturb a measurement.
QUIET = 0.2


class OtherPrograms:
    """Observes the other programs of this machine, from its creation on.

    On Linux, their processor time is that of the machine without that of this process and of its ended children. Other
    systems report only the load, a mean of the last minute, so that what is measured counts too.
    """

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._machine, self._own = _machine_seconds(), _own_seconds()
        self._load = load()

    def cores(self) -> float:
        """Return how many cores other programs have used on average since the creation, 0 if that is not known."""
        elapsed = time.perf_counter() - self._began
        machine = _machine_seconds()
        if machine is None or self._machine is None:
            return self._load
        return max(0.0, (machine - self._machine - (_own_seconds() - self._own)) / elapsed)

    def warning(self) -> str | None:
        """Return a sentence about a machine that is too busy for measurements, or None if it is not."""
        cores = self.cores()
        if cores <= QUIET:
            return None
        return (
            f"this machine is busy: other programs used {cores:.1f} of its {os.cpu_count()} cores meanwhile "
            f"(load {load():.1f}). The figures vary and are too slow. Stop those programs, and measure again."
        )


def load() -> float:
    """Return how many programs wanted to run at once, a mean of the last minute. 0 if that is not known."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0


def _machine_seconds() -> float | None:
    """Return the processor time that all programs, and other machines on the same hardware, have used since the start.

    None if the system does not tell.
    """
    try:
        with open("/proc/stat", encoding="ascii") as stream:
            user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, stream.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
