"""Sends pictures to `zoo-runtime serve` from many clients at once, and compares every answer with `Predictor`.

    pip install '.[serve]'
    python benchmarks/serve.py MODEL PICTURES [--clients 64] [--seconds 60]

MODEL is an exported file, and PICTURES a folder, of which 200 pictures are taken evenly. The service runs in a process
of its own with its default settings. The clients run in this process, each on a connection of its own, and ask again as
soon as they have an answer. They take a part of the same cores.

Before and after that, the same pictures go through a bare loop in this process: one thread per core, each of which
decodes a picture as the service does and calls onnxruntime on a single thread. This is what the machine can do without
HTTP. The script prints throughput, latency and processor time per picture of both, and the memory of the service each
ten seconds. On a busy machine, the processor time says more. It exits with 1 if an answer is wrong or lost.

    python benchmarks/serve.py MODEL PICTURES --batches

This compares four ways of running many requests, round by round: one thread of the network per picture ("each"), all
threads for each picture ("every"), all threads only while there is a single request ("service", what the service does),
and batches of up to 8 pictures that have come while the network was busy ("batches").
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

from zoo_runtime import Predictor, list_pictures
from zoo_runtime._cores import usable_cores

PICTURES = 200
WARM_SECONDS = 5.0
LOOP_SECONDS = 10.0
LARGEST_DIFFERENCE = 1e-4


def chosen(folder: str) -> list[bytes]:
    """Return the content of evenly chosen pictures."""
    paths = list_pictures(folder)
    return [Path(path).read_bytes() for path in paths[:: max(1, len(paths) // PICTURES)][:PICTURES]]


def percentiles(seconds: list[float]) -> str:
    """Return the median and the 99th percentile as text."""
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return f"p50 {p50:7.1f} ms  p99 {p99:7.1f} ms"


def memory(process: int) -> float:
    """Return the resident memory of a process in MB. Linux only."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1000


def processor_seconds(process: int) -> float:
    """Return the processor time of a process. Linux only."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bare_loop(predictor: Predictor, model: str, pictures: list[bytes]) -> tuple[float, list[float], float]:
    """Return the pictures per second of the bare loop, the seconds of each picture, and its processor time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    latencies: list[float] = []
    before = time.process_time()
    end = time.perf_counter() + LOOP_SECONDS

    def work(first: int) -> None:
        number = first
        while (started := time.perf_counter()) < end:
            pixels = predictor.decode(pictures[number % len(pictures)])
            session.run(None, {"image": pixels[None]})
            latencies.append(time.perf_counter() - started)
            number += 7

    threads = [threading.Thread(target=work, args=(i * 31,)) for i in range(usable_cores())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(latencies) / LOOP_SECONDS, latencies, (time.process_time() - before) / len(latencies)


class Tally:
    """Counts the answers of all clients."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.answers = 0
        self.wrong: list[str] = []
        self.difference = 0.0

    def add(self, status: int, body: bytes, expected: dict[str, float], seconds: float, *, counts: bool) -> None:
        """Compare an answer with the expected probabilities."""
        self.answers += 1
        if counts:
            self.latencies.append(seconds)
        answer = json.loads(body)
        if status != 200 or answer["probabilities"].keys() != expected.keys():
            self.wrong.append(f"{status} {body[:200]!r}")
            return
        difference = max(abs(answer["probabilities"][name] - value) for name, value in expected.items())
        self.difference = max(self.difference, difference)
        if difference > LARGEST_DIFFERENCE or answer["label"] != max(expected, key=expected.__getitem__):
            self.wrong.append(f"differs by {difference:.2g}: {body[:200]!r}")


async def client(
    port: int,
    number: int,
    requests: list[bytes],
    expected: list[dict[str, float]],
    end: float,
    start: float,
    tally: Tally,
) -> None:
    """Ask again and again on one connection until the time is over."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    picture = number * 13
    while (started := time.perf_counter()) < end:
        picture = (picture + 1) % len(requests)
        writer.write(requests[picture])
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
        body = await reader.readexactly(length)
        seconds = time.perf_counter() - started
        tally.add(int(head[9:12]), body, expected[picture], seconds, counts=started >= start)
    writer.close()


async def load(
    port: int, process: int, clients: int, seconds: float, pictures: list[bytes], expected: list[dict[str, float]]
) -> tuple[Tally, list[float]]:
    """Run all clients. Return what they counted, and the memory of the service each 10 seconds."""
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n"
    requests = [head.format(len(picture)).encode() + picture for picture in pictures]
    tally, start = Tally(), time.perf_counter() + WARM_SECONDS
    end = start + seconds
    running = [
        asyncio.create_task(client(port, number, requests, expected, end, start, tally)) for number in range(clients)
    ]
    sizes: list[float] = []
    await asyncio.sleep(WARM_SECONDS)
    while time.perf_counter() < end - 0.5:
        sizes.append(memory(process))
        await asyncio.sleep(min(10.0, max(0.1, end - 0.5 - time.perf_counter())))
    sizes.append(memory(process))
    # A client that was dropped raises, and so ends the script.
    await asyncio.gather(*running)
    return tally, sizes


def measure(model: str, pictures: list[bytes], clients: int, seconds: float) -> int:
    """Run the service, the clients and the bare loop, and print the figures. Return the exit code."""
    predictor = Predictor(model, threads=1)
    expected = [predictor(picture).probabilities for picture in pictures]
    path = os.path.join(model, "model.onnx") if os.path.isdir(model) else model
    print(f"{len(pictures)} pictures, {usable_cores()} cores, load {os.getloadavg()[0]:.1f}")
    before = bare_loop(predictor, path, pictures)
    command = [sys.executable, "-m", "zoo_runtime.cli", "serve", model, "--port", "0"]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = ""
        while not line.startswith("listening"):
            line = service.stdout.readline()
            if not line:
                return 1
        port = int(re.search(r":(\d+)/", line)[1])
        started, used = memory(service.pid), processor_seconds(service.pid)
        tally, sizes = asyncio.run(load(port, service.pid, clients, seconds, pictures, expected))
        used = processor_seconds(service.pid) - used
    finally:
        service.terminate()
        code = service.wait(30)
    after = bare_loop(predictor, path, pictures)
    loop = (before[0] + after[0]) / 2
    rate = len(tally.latencies) / seconds
    print(f"bare loop      {before[0]:6.1f} and {after[0]:6.1f} per second  {percentiles(before[1] + after[1])}")
    print(f"{clients:3} clients    {rate:6.1f} per second, {rate / loop:.2f} of it  {percentiles(tally.latencies)}")
    print(f"processor time {(before[2] + after[2]) / 2 * 1000:.2f} ms per picture in the loop", end=", ")
    print(f"{used / tally.answers * 1000:.2f} ms in the service")
    print(f"answers        {tally.answers}, of which {len(tally.wrong)} are wrong", end="; ")
    print(f"probabilities differ by at most {tally.difference:.1g}")
    print(f"memory         {started:.0f} MB before the first request", end="; then ")
    print(f"{', '.join(f'{size:.0f}' for size in sizes)} MB")
    print(f"exit code      {code} after SIGTERM; load {os.getloadavg()[0]:.1f}")
    for text in tally.wrong[:5]:
        print(text, file=sys.stderr)
    return 1 if tally.wrong or code else 0


def ways(model: str) -> dict[str, Callable[[bytes], object]]:
    """Return the ways of running requests. Each is called in the thread of a client, and waits for the answer."""
    alone, shared, pool = Predictor(model), Predictor(model, threads=1), ThreadPoolExecutor(usable_cores())
    waiting: queue.Queue[tuple[np.ndarray, list[object], threading.Event]] = queue.Queue()
    admitted = 0
    lock = threading.Lock()

    def as_service(picture: bytes) -> object:
        nonlocal admitted
        with lock:
            admitted += 1
        try:
            return pool.submit(lambda: (alone if admitted == 1 else shared)(picture)).result()
        finally:
            with lock:
                admitted -= 1

    def run_batches() -> None:
        while True:
            items = [waiting.get()]
            while len(items) < 8 and not waiting.empty():
                items.append(waiting.get())
            rows = alone.outputs(np.stack([pixels for pixels, _, _ in items]))[0]
            for row, (_, answer, done) in zip(rows, items, strict=True):
                answer.append(row)
                done.set()

    def in_batches(picture: bytes) -> object:
        answer: list[object] = []
        done = threading.Event()
        waiting.put((pool.submit(alone.decode, picture).result(), answer, done))
        done.wait()
        return answer[0]

    threading.Thread(target=run_batches, daemon=True).start()
    return {
        "each": lambda picture: pool.submit(shared, picture).result(),
        "every": lambda picture: pool.submit(alone, picture).result(),
        "service": as_service,
        "batches": in_batches,
    }


def closed_loop(way: Callable[[bytes], object], clients: int, seconds: float, pictures: list[bytes]) -> list[float]:
    """Let clients ask again and again, and return the seconds of each answer."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    def ask(first: int) -> None:
        number = first
        while (started := time.perf_counter()) < end:
            way(pictures[number % len(pictures)])
            latencies.append(time.perf_counter() - started)
            number += 1

    threads = [threading.Thread(target=ask, args=(i * 7,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies


def compare_batches(model: str, pictures: list[bytes], rounds: int = 5, seconds: float = 2.0) -> None:
    """Print the throughput of each way, and the median over the rounds of its ratio to "each"."""
    named = ways(model)
    for clients in (1, 8, 64):
        found: dict[str, list[list[float]]] = {}
        for _ in range(rounds):
            for name, way in named.items():
                found.setdefault(name, []).append(closed_loop(way, clients, seconds, pictures))
        for name, latencies in found.items():
            ratios = [len(mine) / len(each) for mine, each in zip(latencies, found["each"], strict=True)]
            rate = np.median([len(one) for one in latencies]) / seconds
            everything = [value for one in latencies for value in one]
            print(f"{clients:3} clients  {name:8} {rate:6.0f} per second  ratio {np.median(ratios):.2f}  "
                  f"{percentiles(everything)}", flush=True)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("pictures")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--batches", action="store_true")
    options = parser.parse_args()
    pictures = chosen(options.pictures)
    if options.batches:
        compare_batches(options.model, pictures)
        return 0
    return measure(options.model, pictures, options.clients, options.seconds)


if __name__ == "__main__":
    sys.exit(main())
