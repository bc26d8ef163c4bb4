"""Watches a local RTSP stream that is cut twice, and measures memory, latency and reconnections.

    sudo apt install gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly
    python benchmarks/watch_stream.py MODEL --minutes 10

GStreamer, run by the system's Python, serves H.264 with 15 frames per second. Each frame shows the time at which it was
made. `zoo-runtime watch --json` answers the stream in a process of its own. Beside it, this process takes frames from
`zoo_runtime.frames` and rests 0.2 s after each, as a slow program would: if frames were queued, their age would grow.
At a third and at two thirds of the time, the server is killed, and started again after 20 seconds.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import numpy as np

from zoo_runtime import frames

PORT, CELL, BITS, FPS, OFF = 8555, 32, 16, 15, 20
URL = f"rtsp://127.0.0.1:{PORT}/test"
SERVER = f"""
import time, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
WIDTH, CELL = {CELL * BITS}, {CELL}
def frame():
    now = int(time.time() * 1000) % {2**BITS}
    row = b"".join((b"\\xe6" if now >> bit & 1 else b"\\x1e") * CELL for bit in range({BITS}))
    return row * 128
class Factory(GstRtspServer.RTSPMediaFactory):
    def do_create_element(self, url):
        return Gst.parse_launch(
            "( appsrc name=source is-live=true format=time caps=video/x-raw,format=GRAY8,"
            f"width={{WIDTH}},height=128,framerate={FPS}/1 ! videoconvert ! video/x-raw,format=I420 ! "
            "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! rtph264pay name=pay0 pt=96 )")
    def do_configure(self, media):
        source, number = media.get_element().get_by_name("source"), [0]
        def push():
            buffer = Gst.Buffer.new_wrapped(frame())
            buffer.pts = buffer.dts = number[0] * Gst.SECOND // {FPS}
            buffer.duration = Gst.SECOND // {FPS}
            number[0] += 1
            return source.emit("push-buffer", buffer) == Gst.FlowReturn.OK
        GLib.timeout_add(1000 // {FPS}, push)
server = GstRtspServer.RTSPServer.new()
server.set_service("{PORT}")
factory = Factory(); factory.set_shared(True)
server.get_mount_points().add_factory("/test", factory)
server.attach(None)
GLib.MainLoop().run()
"""


def serve() -> subprocess.Popen[bytes]:
    """Start the server."""
    return subprocess.Popen(["/usr/bin/python3", "-c", SERVER], env={"PATH": "/usr/bin:/bin", "HOME": "/tmp"})


def age(frame: np.ndarray) -> float:
    """Return how old a frame is in seconds, by the time that it shows."""
    cells = frame[:96].reshape(96, BITS, CELL, 3).mean(axis=(0, 2, 3)) > 128
    made = sum(int(cell) << bit for bit, cell in enumerate(cells))
    return ((int(time.time() * 1000) - made) % 2**BITS) / 1000


def memory(process: int) -> float:
    """Return the resident memory of a process in MB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) / 1000


def quantiles(values: list[float]) -> str:
    """Return the median, the 95 % quantile and the maximum as text."""
    return "median {:.0f}, 95 % {:.0f}, most {:.0f}".format(*np.quantile(values, [0.5, 0.95, 1]) * 1000)


def main() -> None:
    """Run the measurement and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    length = options.minutes * 60
    server, began = serve(), time.monotonic()
    time.sleep(2)
    command = [sys.executable, "-m", "zoo_runtime.cli", "watch", options.model, "--camera", URL, "--json"]
    watch = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    latencies: list[float] = []
    ages: list[float] = []
    messages: list[str] = []
    ended = threading.Event()

    def read_answers() -> None:
        for line in watch.stdout:
            taken = json.loads(line)["time"].replace("Z", "+00:00")
            latencies.append(time.time() - datetime.fromisoformat(taken).timestamp())

    def read_messages() -> None:
        for line in watch.stderr:
            messages.append(f"{time.monotonic() - began:6.0f} s  {line.rstrip()}")

    def read_slowly() -> None:
        for frame in frames(URL):
            ages.append(age(frame))
            if ended.wait(0.2):
                return

    threads = [threading.Thread(target=each, daemon=True) for each in (read_answers, read_messages, read_slowly)]
    for thread in threads:
        thread.start()
    cuts = [(length / 3, False), (length / 3 + OFF, True), (2 * length / 3, False), (2 * length / 3 + OFF, True)]
    samples: list[tuple[float, float]] = []
    while (now := time.monotonic() - began) < length and watch.poll() is None:
        if cuts and now >= cuts[0][0]:
            if cuts.pop(0)[1]:
                server = serve()
            else:
                server.kill()
                server.wait()
        samples.append((now, memory(watch.pid)))
        time.sleep(1)
    crashed = watch.poll() is not None
    ended.set()
    watch.send_signal(signal.SIGTERM)
    code = watch.wait(20)
    time.sleep(1)
    server.kill()
    tenth = len(samples) // 10
    first, last = (np.median([mb for _, mb in part]) for part in (samples[tenth : 2 * tenth], samples[-tenth:]))
    print("\n".join(messages))
    print(f"ended by itself: {crashed}; exit code after SIGTERM: {code}; answers: {len(latencies)}")
    print(f"memory: {first:.1f} MB in the second tenth of the time, {last:.1f} MB in the last one")
    print(f"from the receipt of a frame to its answer, in ms: {quantiles(latencies)}")
    print(f"age of the frames of a program that rests 0.2 s, in ms: {quantiles(ages)} ({len(ages)} frames)")


if __name__ == "__main__":
    main()
