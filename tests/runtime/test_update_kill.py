"""Kill updates and rollbacks, and show that the device starts with one of the two files, whole, each time."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zoo_runtime import Predictor, check, rollback, update

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="processes are killed by signals"),
]
MOMENTS, SEED = 20, 22


@pytest.fixture
def device(graph, info, tmp_path) -> tuple[Path, list[Path]]:
    """Return the folder of a device that was updated from run 01 to 02, and the paths of the files 01, 02 and 03."""
    paths = []
    for run in ("01", "02", "03"):
        path = tmp_path / run / "model.onnx"
        path.parent.mkdir()
        path.write_bytes(graph(dataclasses.replace(info, run={"id": run}).to_metadata()))
        paths.append(path)
    folder = tmp_path / "device"
    folder.mkdir()
    update(folder, paths[0])
    update(folder, paths[1])
    return folder, paths


def run_of(path: Path) -> str:
    """Open a file as a device does, run its self-test, and return its run."""
    predictor = Predictor(path)
    assert check(predictor).passed
    return predictor.info.run["id"]


# The command itself, which says when it has imported everything and begins with the update.
UPDATE = """
import sys
import onnxruntime
from zoo_runtime.cli import main

print("ready", flush=True)
sys.exit(main(sys.argv[1:]))
"""


def started(folder: Path, new: Path) -> subprocess.Popen:
    """Start an update, and return its process when the update begins."""
    command = [sys.executable, "-c", UPDATE, "update", str(folder), str(new)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout.readline() == b"ready\n"
    return process


def ended(process: subprocess.Popen) -> int:
    with process:
        return process.wait()


def test_twenty_updates_killed_at_random_moments(device, capsys):
    folder, paths = device
    new = {"02": paths[2], "03": paths[1]}
    seconds = []
    for _ in range(3):
        process, begun = started(folder, new[run_of(folder)]), time.perf_counter()
        # Until the new file is in place: what follows, the end of the process, is no part of the update.
        present = (folder / "model.onnx").stat().st_ino
        while (folder / "model.onnx").stat().st_ino == present:
            time.sleep(0.0005)
        seconds.append(time.perf_counter() - begun)
        assert ended(process) == 0
    moments = random.Random(SEED)
    killed = before = after = 0
    for number in range(MOMENTS):
        present = run_of(folder)
        process = started(folder, new[present])
        # Some moments lie behind the exchange of the files, while those beside them are moved.
        moment = moments.uniform(0, 1.2) * sorted(seconds)[1]
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        running = ended(process) == -signal.SIGKILL
        there = sorted(path.name for path in folder.iterdir())
        found = run_of(folder)
        checked = subprocess.run(
            [sys.executable, "-m", "zoo_runtime.cli", "check", str(folder)], capture_output=True, text=True
        )
        with capsys.disabled():
            state = "killed" if running else "done"
            print(f"\n{number:2} {moment * 1000:6.1f} ms {state}: run {present} -> {found}, {', '.join(there)}", end="")
        assert found in ("02", "03") and checked.returncode == 0, checked.stderr
        killed += running
        before += found == present
        after += found != present
    assert killed >= 10 and before >= 3 and before + after == MOMENTS
    assert update(folder, new[run_of(folder)]).changed
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "model.previous.onnx"}


KILLED = """
import os, signal, sys
from zoo_runtime import rollback, update

left = int(sys.argv[1])
names = ("open", "os.rename", "os.link", "os.remove")

def hook(event, arguments):
    global left
    if event in names and sys.argv[2] in str(arguments):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
rollback(sys.argv[2]) if sys.argv[3] == "-" else update(sys.argv[2], sys.argv[3])
"""


@pytest.mark.parametrize("step", ["update", "rollback"])
def test_a_kill_before_any_step_leaves_one_of_the_two(device, step):
    """The process is killed before the first, the second, ... thing that it does with a file of the folder."""
    folder, paths = device
    new = str(paths[2]) if step == "update" else "-"
    for number in range(60):
        runs = {run_of(folder), "03" if step == "update" else run_of(folder / "model.previous.onnx")}
        contents = {path.read_bytes() for path in folder.glob("model*.onnx")}
        previous = (folder / "model.previous.onnx").read_bytes()
        ended = subprocess.run([sys.executable, "-c", KILLED, str(number), str(folder), new], capture_output=True)
        assert run_of(folder) in runs, number
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        lost = contents - {path.read_bytes() for path in folder.glob("model*.onnx")}
        # An update drops the file before the present one. A rollback drops nothing.
        assert lost <= ({previous} if step == "update" else set()), number
        assert not update(folder, folder).changed
        assert {path.name for path in folder.iterdir()} == {"model.onnx", "model.previous.onnx"}
        assert run_of(folder / "model.previous.onnx") != run_of(folder)
        if step == "update" and run_of(folder) == "03":
            rollback(folder)
    assert 8 < number < 59
