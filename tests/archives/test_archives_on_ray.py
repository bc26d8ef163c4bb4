"""Test `zoo predict --out --ray`: one machine, two nodes of which one is lost, a server, and pictures that end workers.

Each test starts a Ray of its own, in a folder of its own, and ends it.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("ray.data", reason="Ray Data is not installed")

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def place_of_ray(monkeypatch):
    """Give Ray a folder of its own. Its sockets lie there, and their paths must be short."""
    folder = tempfile.mkdtemp(prefix="zoo-ray-", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def test_two_workers_answer_as_one_process(zoo, model, folder, tmp_path, answers):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    zoo("predict", model, folder, "--out", alone, "--slice", 8)
    command = [sys.executable, "-m", "zoo", "predict", model, folder, "--out", shared, "--slice", "8", "--ray"]
    ran = subprocess.run([*command, "--workers", "2"], capture_output=True, text=True)
    assert ran.returncode == 1 and "27 pictures in 4 parts, of which 3 could not be read" in ran.stdout
    # Lines that Ray prints for itself stay away.
    assert "2 workers" in ran.stdout and ran.stderr == ""
    assert answers(alone) == answers(shared)
    # The next command goes on where another engine has stopped.
    (next((shared / "_done").iterdir())).unlink()
    ran = zoo("predict", model, folder, "--out", shared, "--slice", 8)
    assert "of them now" in ran.out and answers(alone) == answers(shared)


# Starts a cluster of two nodes with one processor each, prints its address, and ends one of them when it is told to.
# A node that is ended takes its workers with it.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(second, allow_graceful=False)
print("gone", flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


@pytest.mark.parametrize("count", [2000, pytest.param(20_000, marks=pytest.mark.every)])
def test_a_lost_node_loses_no_picture(model, tmp_path, make_pictures, answers, count):
    make_pictures(tmp_path / "photos", count)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "zoo", "predict", model, tmp_path / "photos", "--out", out, "--ray"]
    pipes = {"stdout": subprocess.PIPE, "text": True}
    # Its directory and its PYTHONPATH are not those of the command, so that zoo has to travel to the workers.
    elsewhere = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, cwd=tmp_path, env=elsewhere, **pipes
    )
    try:
        address = cluster.stdout.readline().strip()
        options = ["--address", address, "--slice", str(count // 20)]
        scoring = subprocess.Popen([*command, *options], stderr=subprocess.STDOUT, **pipes)
        while len(list(out.glob("part-*"))) < 4 and scoring.poll() is None:
            time.sleep(0.05)
        assert scoring.poll() is None, scoring.stdout.read()
        cluster.stdin.write("\n")
        cluster.stdin.flush()
        assert cluster.stdout.readline() == "gone\n"
        before = len(list(out.glob("part-*")))
        printed, _ = scoring.communicate(timeout=600)
        assert scoring.returncode == 0, printed
        # It was in the midst of the work, and both nodes worked.
        assert before < 20 and "2 workers" in printed and f"Scored     {count:,} pictures in 20 parts" in printed
    finally:
        cluster.stdin.close()
        cluster.wait(timeout=60)
    rows = answers(out)
    assert len(rows) == count and not any(row["error"] for row in rows.values())
    assert {Path(path).name for path in rows} == {f"{number:06}.jpg" for number in range(count)}


def test_a_server(zoo, model, folder, tmp_path, answers, printed):
    pytest.importorskip("aiohttp", reason="aiohttp is not installed, through which fsspec reads http://")
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = f"http://127.0.0.1:{server.server_port}"
        ran = zoo("predict", model, f"{source}/", "--out", tmp_path / "out", "--ray", "--workers", 1)
        server.shutdown()
    assert ran.code == 1 and "27 pictures in 1 part, of which 3" in ran.out, ran.err
    rows, expected = answers(tmp_path / "out"), printed(folder)
    for path, line in expected.items():
        row = rows[path.replace(str(folder), source)]
        assert row["error"] == line.get("error")
        assert row["probabilities"] == (None if row["error"] else list(line["probabilities"].values()))


@pytest.mark.every
def test_a_picture_that_ends_its_worker_is_reported(zoo, model, folder, tmp_path, answers, monkeypatch):
    from zoo.archives import on_ray

    # Ray sends a class that is defined in a function to the workers as it is.
    class Dying(on_ray.ShardScorer):
        def pieces(self, shard):
            for piece in super().pieces(shard):
                if not piece.problem and shard.paths[0].endswith("000008.jpg"):
                    os.kill(os.getpid(), signal.SIGKILL)
                yield piece

    monkeypatch.setattr(on_ray.OnRay, "actor", Dying)
    ran = zoo("predict", model, folder, "--out", tmp_path / "out", "--slice", 8, "--ray", "--workers", 1)
    assert ran.code == 1 and "#1 is not scored: its worker was lost 4 times" in ran.err, ran.err
    assert "Not done   1 part" in ran.out and len(answers(tmp_path / "out")) == 19
    monkeypatch.undo()
    assert "27 pictures" in zoo("predict", model, folder, "--out", tmp_path / "out", "--slice", 8).out


def test_addresses_and_numbers_that_cannot_be(zoo, model, folder, tmp_path):
    # Not "auto", which might find a cluster of somebody else.
    ran = zoo("predict", model, folder, "--out", tmp_path / "out", "--ray", "--address", "127.0.0.1:1")
    assert ran.code == 2 and "Ray cannot be reached at the address '127.0.0.1:1'" in ran.err
    assert not ray.is_initialized()
