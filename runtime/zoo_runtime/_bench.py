"""Measurements on the device: from photo to label, the parts, whole processes, folders; and what settings suit it."""

from __future__ import annotations

import base64
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ._errors import PictureNotFound
from ._predictor import Predictor, list_pictures, usable_cores
from ._session import Settings, Tuned, full_providers, model_file, optimize_ahead, write_tuned

SECONDS = 2.0
WARM_UP = 5
FEWEST, MOST = 20, 2000
STARTS = 5
BATCHES = (1, 8)
FOLDER = 128
PAIRS = 100
ROUNDS = 3
# A setting that is quicker by less than this is not worth departing from the usual one for.
WORTH = 0.03

# What a process is told by the system of its own peak; what a parent is told begins with the parent's.
START = """
import json, os, sys
from zoo_runtime import Predictor
Predictor(sys.argv[1], **json.loads(sys.argv[2]))(sys.stdin.buffer.read())
peak = None
try:
    with open("/proc/self/status") as stream:
        peak = next(int(line.split()[1]) * 1024 / 1e6 for line in stream if line.startswith("VmHWM"))
except (OSError, StopIteration):
    try:
        import resource
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    except ImportError:
        pass
print(json.dumps(peak), flush=True)
os._exit(0)
"""


def pictures_for(predictor: Predictor, paths: Sequence[str]) -> list[str | bytes]:
    """The files and folders named, or where none are, the synthetic pictures of the self-test.

    Raises:
        PictureNotFound: There is no picture in what is named, or none in the file.
    """
    found: list[str | bytes] = []
    for path in paths:
        found += list_pictures(path) if os.path.isdir(path) else [path]
    if not paths:
        found = [base64.b64decode(picture["jpeg"]) for picture in predictor.info.selftest.get("pictures", ())]
    if not found:
        raise PictureNotFound("there is no picture to measure with: name files or folders.")
    return found


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p90 and p99 in milliseconds."""
    return {f"p{q}": 1000 * float(np.percentile(seconds, q)) for q in (50, 90, 99)}


def repeat(call: Callable[[Any], Any], items: Iterable[Any], seconds: float = SECONDS) -> list[float]:
    """Seconds of a call, again and again over some items, after a warm-up; as long as `seconds` or so."""
    endless = itertools.cycle(items)
    for _ in range(WARM_UP):
        call(next(endless))
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < MOST and (len(taken) < FEWEST or time.perf_counter() < end):
        item = next(endless)
        begun = time.perf_counter()
        call(item)
        taken.append(time.perf_counter() - begun)
    return taken


def bench(model: str, paths: Sequence[str], *, seconds: float = SECONDS, **options: Any) -> dict[str, Any]:
    """Measure an exported file on this machine.

    Args:
        model: Path of the file, or of the folder that holds it.
        paths: Pictures and folders of pictures; none means the file's own synthetic ones.
        seconds: How long each measurement goes on.
        options: As of `Predictor`.

    Returns:
        settings, pictures, megabytes (of the file), latency, decoding and network {p50, p90, p99 in milliseconds},
        start {seconds, peak_megabytes} of a whole process, throughput [{threads, batch, network: pictures a second}],
        and folder {pictures, per_second, decoding_alone, network_alone}.

    Raises:
        PictureError: A picture cannot be read.
    """
    predictor = Predictor(model, **options)
    sources = pictures_for(predictor, paths)
    decoded = [predictor.decode(source) for source in sources[:FOLDER]]
    batches = [pixels[None] for pixels in decoded]
    return {
        "model": model_file(model),
        "megabytes": os.path.getsize(model_file(model)) / 1e6,
        "settings": predictor.settings.to_json(),
        "pictures": len(sources),
        "latency": percentiles(repeat(predictor, sources, seconds)),
        "decoding": percentiles(repeat(predictor.decode, sources, seconds)),
        "network": percentiles(repeat(predictor.probabilities, batches, seconds)),
        "start": _start(model, sources, options),
        "throughput": _throughput(model, decoded, seconds, options),
        "folder": _folder(predictor, sources, decoded),
    }


def compare(first: str, second: str, paths: Sequence[str], **options: Any) -> dict[str, Any]:
    """Measure two exported files pair by pair: the same picture through the one and then the other.

    Returns:
        For "latency" and "network": ratio (the median of second / first, below 1 where the second is faster), the
        middle half of the ratios, and both medians in milliseconds; equal_labels and pictures.

    Raises:
        PictureError: A picture cannot be read.
    """
    one, other = (Predictor(model, **options) for model in (first, second))
    sources = pictures_for(one, paths)
    labels = [(one(source).label, other(source).label) for source in sources[:FOLDER]]
    pixels = [(one.decode(source)[None], other.decode(source)[None]) for source in sources[:FOLDER]]
    return {
        "latency": _pairs(one, other, [(source, source) for source in sources]),
        "network": _pairs(one.probabilities, other.probabilities, pixels),
        "pictures": len(labels),
        "equal_labels": sum(a == b for a, b in labels),
    }


def tune(
    model: str, *, seconds: float = SECONDS, providers: Sequence[str] | None = None, said: Callable[[str], None]
) -> dict[str, Any]:
    """Find the settings that suit this machine and keep them beside the file, where `Predictor` finds them.

    Threads, spinning and memory are swept, for each provider alike; then the network as onnxruntime optimises it for
    this processor is kept too, where a process opens it faster. What is quicker by less than 3 % is not chosen over
    the usual settings, nor over fewer threads.

    Args:
        model: Path of the file, or of the folder that holds it.
        seconds: How long each setting is measured, over three rounds.
        providers: Where it may run; None means the processor.
        said: Is told of every step.

    Returns:
        settings, ahead (whether the optimised network is used), table [{settings, p50, p90}], file.
    """
    path = model_file(model)
    chosen = [(name,) for name in providers or ("cpu",)]
    full_providers([name for (name,) in chosen])
    candidates = [
        Settings(threads, spinning, arena, place)
        for place in chosen
        for threads in _counts()
        for spinning in ((True, False) if threads > 1 else (True,))
        for arena in (True, False)
    ]
    taken: dict[Settings, list[float]] = {}
    for number in range(ROUNDS):
        said(f"round {number + 1} of {ROUNDS}: {len(candidates)} settings")
        for settings in candidates:
            predictor = _with(path, settings)
            pixels = predictor.decode(pictures_for(predictor, ())[0])[None]
            taken.setdefault(settings, []).extend(repeat(predictor.probabilities, [pixels], seconds / ROUNDS))
    table = [{**settings.to_json(), **percentiles(times)} for settings, times in taken.items()]
    best = min(row["p50"] for row in table)
    good = [settings for settings, row in zip(taken, table, strict=True) if row["p50"] <= best * (1 + WORTH)]
    # Of those, as many threads as there are cores only where fewer do not do, and the usual settings first.
    winner = min(good, key=lambda s: (s.threads or 0, not s.spinning, not s.arena))
    ahead = _ahead(path, winner, said)
    return {
        "settings": winner.to_json(),
        "ahead": ahead is not None,
        "table": table,
        "file": write_tuned(path, Tuned(winner, ahead), table),
    }


def _with(path: str, settings: Settings) -> Predictor:
    """A predictor with exactly these settings, whatever was tuned before."""
    return Predictor(
        path,
        threads=settings.threads,
        providers=settings.providers,
        spinning=settings.spinning,
        arena=settings.arena,
    )


def _counts() -> list[int]:
    """1, 2, 4 ... and the number of cores."""
    cores = usable_cores()
    return sorted({*(2**i for i in range(cores.bit_length()) if 2**i < cores), cores})


def _ahead(path: str, settings: Settings, said: Callable[[str], None]) -> str | None:
    """Keep the optimised network where processes open it faster, pair by pair; remove it where they do not."""
    if settings.providers != ("cpu",):
        return None
    said("the network as it is optimised for this processor")
    ahead = optimize_ahead(path)
    code = (
        "import sys, time, onnxruntime as o; s = o.SessionOptions(); s.log_severity_level = 4\n"
        "if sys.argv[2] == 'ahead': s.graph_optimization_level = o.GraphOptimizationLevel.ORT_DISABLE_ALL\n"
        "t = time.perf_counter(); o.InferenceSession(sys.argv[1], s, providers=['CPUExecutionProvider'])\n"
        "print(time.perf_counter() - t)"
    )
    pairs = []
    for _ in range(2 * STARTS):
        pair = [
            float(
                subprocess.run([sys.executable, "-c", code, *which], capture_output=True, check=True, text=True).stdout
            )
            for which in ((path, "plain"), (ahead, "ahead"))
        ]
        pairs.append(pair[1] / pair[0])
    if statistics.median(pairs) < 1 - WORTH:
        return ahead
    os.remove(ahead)
    return None


def _start(model: str, sources: Sequence[str | bytes], options: dict[str, Any]) -> dict[str, float | None]:
    """From the start of a process to the label of one picture, the median; and its peak memory, where it is told."""
    first = sources[0]
    content = first if isinstance(first, bytes) else _read(first)
    seconds, peaks = [], []
    for _ in range(STARTS + 1):
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", START, os.fspath(model), json.dumps(options)], input=content, capture_output=True
        )
        seconds.append(time.perf_counter() - begun)
        if done.returncode:
            raise RuntimeError(f"a process that labels one picture failed: {done.stderr.decode(errors='replace')}")
        peaks.append(json.loads(done.stdout.splitlines()[-1]))
    peak = max((value for value in peaks if value is not None), default=None)
    return {"seconds": statistics.median(seconds[1:]), "peak_megabytes": peak}


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _throughput(
    model: str, decoded: Sequence[np.ndarray], seconds: float, options: dict[str, Any]
) -> list[dict[str, float]]:
    """Pictures a second of the network alone, by threads and batch."""
    rows = []
    for threads in _counts():
        predictor = Predictor(model, **{**options, "threads": threads})
        for batch in BATCHES:
            pixels = np.stack(list(itertools.islice(itertools.cycle(decoded), batch)))
            taken = repeat(predictor.probabilities, [pixels], seconds / 2)
            rows.append({"threads": threads, "batch": batch, "network": batch / statistics.median(taken)})
    return rows


def _folder(predictor: Predictor, sources: Sequence[str | bytes], decoded: Sequence[np.ndarray]) -> dict[str, float]:
    """Pictures a second over many files, beside the decoder alone and the network alone, each on all threads."""
    from concurrent.futures import ThreadPoolExecutor

    many = list(itertools.islice(itertools.cycle(sources), FOLDER))
    stacks = [np.stack(list(itertools.islice(itertools.cycle(decoded), 8)))] * (FOLDER // 8)
    threads = predictor.settings.threads or usable_cores()

    def rate(work: Callable[[], Any]) -> float:
        best = float("inf")
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - begun)
        return FOLDER / best

    with ThreadPoolExecutor(threads) as pool:
        decoding = rate(lambda: list(pool.map(predictor.decode, many)))
    return {
        "pictures": len(many),
        "per_second": rate(lambda: list(predictor.predict_each(many))),
        "decoding_alone": decoding,
        "network_alone": rate(lambda: [predictor.probabilities(stack) for stack in stacks]),
    }


def _pairs(first: Callable, second: Callable, items: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    endless = itertools.cycle(items)
    taken = []
    for i in range(WARM_UP + PAIRS):
        pair = []
        for call, item in zip((first, second), next(endless), strict=True):
            begun = time.perf_counter()
            call(item)
            pair.append(time.perf_counter() - begun)
        if i >= WARM_UP:
            taken.append(pair)
    ratios = [b / a for a, b in taken]
    return {
        "ratio": statistics.median(ratios),
        "middle_half": [float(np.percentile(ratios, q)) for q in (25, 75)],
        "first": 1000 * statistics.median(a for a, _ in taken),
        "second": 1000 * statistics.median(b for _, b in taken),
    }
