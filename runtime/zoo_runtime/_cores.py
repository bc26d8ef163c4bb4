"""Finds out how much of the processor this process may use.

Two things limit it: the affinity (`taskset`, a cpuset), which is a set of cores, and the quota of a control group
(`docker --cpus`, Kubernetes, systemd's CPUQuota), which is processor time per second. Python knows only the first.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator

PROC = "/proc/self"
# Two threads need about 1.13 times the processor time of one for the same picture.
HARDLY = 0.2
# Where the tables of Linux escape characters.
_ESCAPED = {r"\040": " ", r"\011": "\t", r"\012": "\n", r"\134": "\\"}


def usable_cores() -> int:
    """Return the number of processor cores that this process may use: by affinity and by quota, at least 1.

    A quota of 1.5 cores counts as 2: two threads use it up before its period ends and then wait, but get more done than
    one. A quota that is hardly above a whole number counts as that number, because a thread more would only wait.
    The environment variable ZOO_THREADS lowers the number, for programs that share the processor by agreement.
    """
    cores = cores_by_affinity()
    asked = os.environ.get("ZOO_THREADS", "")
    # isdecimal is also true for digits of other scripts, which int reads.
    if asked.isdecimal() and int(asked) > 0:
        cores = min(cores, int(asked))
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota - HARDLY)))


def cores_by_affinity() -> int:
    """Return the number of processor cores on which the system may run this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_limited() -> bool:
    """Return whether this process may use fewer cores than the machine has."""
    return usable_cores() < (os.cpu_count() or 1)


def cpu_quota(proc: str = PROC) -> float | None:
    """Return how many cores' worth of time the control groups of this process grant it, or None for no limit.

    Both versions of control groups are read. The quota of a group holds for the groups inside it, so that the smallest
    counts.

    Args:
        proc: The folder that describes the process, with the files `cgroup` and `mountinfo`.
    """
    quotas: list[float] = []
    with contextlib.suppress(OSError, ValueError):
        for folder, top in _groups(proc):
            while len(folder) >= len(top):
                quotas += _quota_of(folder)
                if folder == top:
                    break
                folder = os.path.dirname(folder)
    return min(quotas, default=None)


def _groups(proc: str) -> Iterator[tuple[str, str]]:
    """Yield the folders of the control groups that limit the process, each with the topmost folder that is visible."""
    groups = {}
    for line in _lines(os.path.join(proc, "cgroup")):
        number, controllers, path = line.split(":", 2)
        if number == "0":
            groups["cgroup2"] = path
        elif "cpu" in controllers.split(","):
            groups["cgroup"] = path
    for line in _lines(os.path.join(proc, "mountinfo")):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in groups or (kind == "cgroup" and "cpu" not in options.split(",")):
            continue
        root, top = (os.path.normpath(_unescaped(field)) for field in before.split(" ")[3:5])
        inside = os.path.relpath(groups[kind], root)
        # A container may see its own group as the top, while its path counts from the top of the machine.
        visible = os.path.normpath(os.path.join(top, inside))
        yield visible if not inside.startswith("..") and os.path.isdir(visible) else top, top


def _quota_of(folder: str) -> list[float]:
    """Return the quota that a control group sets, or an empty list if it sets none."""
    try:
        path = os.path.join(folder, "cpu.max")
        if os.path.exists(path):
            quota, period = _lines(path)[0].split()
        else:
            quota, period = (_lines(os.path.join(folder, f"cpu.cfs_{name}_us"))[0] for name in ("quota", "period"))
        return [int(quota) / int(period)] if int(quota) > 0 else []
    except (OSError, ValueError, IndexError, ZeroDivisionError):
        # Version 2 writes "max" for no limit. The topmost group has no such file.
        return []


def _lines(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="surrogateescape") as stream:
        return stream.read().splitlines()


def _unescaped(text: str) -> str:
    for escaped, character in _ESCAPED.items():
        text = text.replace(escaped, character)
    return text
