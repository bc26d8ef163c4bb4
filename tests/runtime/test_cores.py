"""How many cores a process may use: by affinity, and by the quota of its control groups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo_runtime import _cores


def tree(folder: Path, cgroup: str, mounts: dict[str, str], files: dict[str, str]) -> str:
    """Write what Linux shows of control groups below `folder`, and return the folder that stands for /proc/self."""
    proc = folder / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(cgroup)
    lines = ["22 1 8:1 / / rw,relatime - ext4 /dev/vda rw"]
    lines += [f"30 22 0:27 {root} {folder}/{where}" for where, root in mounts.items()]
    (proc / "mountinfo").write_text("\n".join(lines) + "\n")
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return str(proc)


V2 = {"sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw": "/"}
V1 = {
    "sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct": "/",
    "sys/fs/cgroup/memory rw - cgroup cgroup rw,memory": "/",
}
CASES = {
    "docker --cpus=1.5 with version 2": ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
    "no limit with version 2": ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
    "the group above is tighter": (
        "0::/system.slice/camera.service\n",
        V2,
        {
            "sys/fs/cgroup/system.slice/camera.service/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/system.slice/cpu.max": "50000 100000\n",
        },
        0.5,
    ),
    "another period": (
        "0::/a\n",
        V2,
        {"sys/fs/cgroup/a/cpu.max": "10000 20000\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
        0.5,
    ),
    "version 1": (
        "5:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n",
        V1,
        {
            "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/docker/1/cpu.cfs_quota_us": "1\n",
            "sys/fs/cgroup/memory/docker/1/cpu.cfs_period_us": "100000\n",
        },
        1.0,
    ),
    "a container that sees its own group as the top": (
        "4:cpu:/docker/1\n",
        {"sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu": "/docker/1"},
        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
        0.5,
    ),
    "a path that the container does not show": (
        "0::/../../kubepods/1\n",
        V2,
        {"sys/fs/cgroup/cpu.max": "100000 100000\n"},
        1.0,
    ),
    "both versions": (
        "4:cpu:/a\n0::/b\n",
        {
            "sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu": "/",
            "sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw": "/",
        },
        {
            "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/unified/b/cgroup.procs": "",
        },
        2.0,
    ),
    "a mount with a space in its name": (
        "0::/\n",
        {"my\\040groups rw - cgroup2 cgroup2 rw": "/"},
        {"my groups/cpu.max": "75000 100000\n"},
        0.75,
    ),
    "a mount point with a detour": (
        "0::/a\n",
        {"sys/./groups rw - cgroup2 cgroup2 rw": "/"},
        {"sys/groups/a/cpu.max": "50000 100000\n"},
        0.5,
    ),
    "damaged files": ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "soon\n"}, None),
    "damaged tables": ("nonsense\n", V2, {"sys/fs/cgroup/cpu.max": "100000 100000\n"}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_tightest_quota_counts(tmp_path, case):
    cgroup, mounts, files, quota = CASES[case]
    assert _cores.cpu_quota(tree(tmp_path, cgroup, mounts, files)) == quota


def test_no_control_groups(tmp_path):
    assert _cores.cpu_quota(str(tmp_path / "missing")) is None


@pytest.mark.parametrize(
    ("quota", "cores"),
    [(None, 4), (0.05, 1), (0.5, 1), (1.0, 1), (1.2, 1), (1.5, 2), (2.0, 2), (2.9, 3), (3.5, 4), (64.0, 4)],
)
def test_cores_are_those_of_the_affinity_and_of_the_quota(monkeypatch, quota, cores):
    monkeypatch.setattr(_cores, "cores_by_affinity", lambda: 4)
    monkeypatch.setattr(_cores, "cpu_quota", lambda: quota)
    assert _cores.usable_cores() == cores


@pytest.mark.parametrize(("asked", "cores"), [("2", 2), ("9", 4), ("0", 4), ("", 4), ("two", 4), ("-1", 4)])
def test_a_variable_lowers_the_number_of_threads(monkeypatch, asked, cores):
    monkeypatch.setattr(_cores, "cores_by_affinity", lambda: 4)
    monkeypatch.setattr(_cores, "cpu_quota", lambda: None)
    monkeypatch.setenv("ZOO_THREADS", asked)
    assert _cores.usable_cores() == cores


PRINT = "from zoo_runtime._cores import *; print(usable_cores(), cpu_quota(), is_limited())"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity_limits():
    one = min(os.sched_getaffinity(0))
    program = f"import os; os.sched_setaffinity(0, [{one}])\n{PRINT}"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert printed[0] == "1" and printed[2] == str((os.cpu_count() or 1) > 1)


def test_a_real_quota_limits(tmp_path):
    old = Path("/sys/fs/cgroup/cpu/zoo-test-of-quotas")
    new = Path("/sys/fs/cgroup/zoo-test-of-quotas")
    group = old if old.parent.is_dir() else new
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    try:
        if group == old:
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text("50000")
        elif (group / "cpu.max").exists():
            (group / "cpu.max").write_text("50000 100000")
        else:
            pytest.skip("the control groups here have no quotas")
        command = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", sys.executable, "-c", PRINT]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    finally:
        group.rmdir()
    assert printed == ["1", "0.5", str((os.cpu_count() or 1) > 1)]
