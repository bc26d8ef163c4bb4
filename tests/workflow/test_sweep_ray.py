"""`zoo sweep --ray`: trials on Ray Tune, on this computer and on two machines of which one is killed."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zoo.workflow.sweep_trials import Trial, TrialFolder

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'finezoo[ray]'")
pytest.importorskip("ray.tune", reason="Ray Tune is not installed: pip install 'finezoo[ray]'")

pytestmark = pytest.mark.slow
WORDS = (
    *("--networks", "mnist_convnet", "--weights", "none", "--schedules", "scratch", "--epochs", "2", "--cv", "2"),
    *("--batch-size", "128", "--ray", "--trial-cpus", "1"),
)


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Return a function that starts `zoo sweep` as a process in a folder of its own. Nothing outlives the test."""
    monkeypatch.chdir(tmp_path)
    # A path of a socket may have 107 characters, which those of pytest exceed.
    monkeypatch.setenv("RAY_TMPDIR", "/tmp" if len(str(tmp_path)) > 40 else str(tmp_path))
    processes = []

    def start(*words: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "zoo", "sweep", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def rows(folder):
    return list(csv.DictReader((folder / "leaderboard.csv").open()))


def children(folder):
    """Return the processes of trials that work now, by the trial: those that hold the lock of a run."""
    from zoo import runs
    from zoo.runs import run_lock

    found = {}
    for path in folder.glob("trials/*/runs/*/unfinished"):
        holder = run_lock.holder(runs.Run(path.parent))
        if holder:
            found[path.parents[2].name] = holder["pid"]
    return found


def wait_for(condition, process, seconds=120):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and process.poll() is None:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"it did not come to it: {process.communicate()[0] if process.poll() is not None else ''}")


def node_of(pid, nodes):
    """Return the node whose raylet is an ancestor of a process."""
    ancestors = set()
    while pid > 1:
        ancestors.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return next(node for node in nodes if any(each.pid in ancestors for each in raylets(node)))


def raylets(node):
    return [each.process for each in node.all_processes["raylet"]]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the test looks processes up in /proc")
def test_a_killed_node_costs_nothing(started, tmp_path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        other = cluster.add_node(num_cpus=1)
        process = started(*WORDS, "--sizes", "20,22,24", "--address", cluster.address, "--output", "out")
        folder = tmp_path / "out"

        def of_the_other():
            for name, pid in children(folder).items():
                if (
                    list((folder / "trials" / name).glob("runs/*/unfinished/fold1.epoch*"))
                    and node_of(pid, [cluster.head_node, other]) is other
                ):
                    return name, pid
            return None

        name, pid = wait_for(of_the_other, process)
        done = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/folds*.json")}
        cluster.remove_node(other, allow_graceful=False)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
    finally:
        cluster.shutdown()
    # The process of the killed worker has ended, and its trial went on from its safe point.
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    log = (folder / "trials" / name / "log.txt").read_text()
    assert log.count("$ zoo finetune") == 1 and log.count("$ zoo resume") >= 1 and "Resuming run" in log
    killed = TrialFolder(Trial("mnist_convnet", (int(name.split("-")[1]),) * 2, "scratch"), folder).answers(1)
    # Each trial is done, once: it has one run, one row, and the answers that were there were not made again.
    found = rows(folder)
    assert sorted(row["size"] for row in found) == ["20", "22", "24"]
    assert {row["state"] for row in found} <= {"winner", "close", "behind", "out"}
    for row in found:
        assert len(list((folder / "trials" / row["name"]).glob("runs/*/run.json"))) == 1
        assert row["pictures"] == ("764" if row["folds"] == "1" else "1528")
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in done.items())
    assert sum(row["state"] == "winner" for row in found) == 1
    # The killed trial has the answers that it has without Ray and without a kill.
    words = next(line for line in log.splitlines() if line.startswith("$ zoo finetune")).split()[2:]
    words[words.index("--runs") + 1] = "alone"
    subprocess.run([sys.executable, "-m", "zoo", *words], check=True, capture_output=True, timeout=240)
    (alone,) = tmp_path.glob("alone/*/unfinished/held-out.json")
    assert json.loads(alone.read_text())["right"] == killed.right and killed.step == 1
