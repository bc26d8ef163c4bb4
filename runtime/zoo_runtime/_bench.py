"""Measures the speed and memory of an exported file on this machine.

`bench` measures these things:

- the time from a picture file to its label, the time of decoding alone, and the time of the network alone;
- the time and the memory of a process that starts, loads the exported file and labels one picture;
- the pictures per second of the network alone, and of a list of picture files.

`compare` measures two exported files in alternation.
"""

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
from typing import TYPE_CHECKING, Any

import numpy as np

from ._busy import OtherPrograms
from ._cores import usable_cores
from ._engine import size_of
from ._errors import NotMeasured, PictureError, PictureNotFound
from ._given import is_pattern
from ._listing import STANDARD_INPUT, expand, no_picture_in
from ._pairs import time_pairs
from ._predictor import Predictor
from ._session import model_file

if TYPE_CHECKING:
    import numpy.typing as npt

SECONDS = 2.0
WARM_UP = 5
FEWEST, MOST = 20, 2000
STARTS = 5
BATCHES = (1, 8)
FOLDER = 128
ROUNDS = 3

# The process reports its own peak memory. The value that its parent can query includes the parent's own memory.
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
    """Return the pictures for the measurements.

    Args:
        predictor: Runs the exported file, which contains the synthetic pictures of its self-test.
        paths: Pictures and folders of pictures. If empty, the pictures of the self-test are returned.

    Returns:
        The paths of the pictures, or the bytes of the self-test's JPEGs.

    Raises:
        PictureNotFound: If a path does not exist, a folder cannot be read, or there is no picture.
    """
    for path in paths:
        if path != STANDARD_INPUT and "://" not in path and not is_pattern(path) and not os.path.exists(path):
            raise PictureNotFound(f"{path!r} does not exist.")
    found: list[str | bytes] = [source for _, source in expand(paths)]
    if not paths:
        found = [base64.b64decode(picture["jpeg"]) for picture in predictor.info.selftest.get("pictures", ())]
    if not found:
        if paths:
            raise no_picture_in(paths)
        raise PictureNotFound("the file has no pictures of its own to measure with. Name pictures or folders.")
    return found


def readable(sources: Sequence[str | bytes], *predictors: Predictor) -> tuple[list[tuple[Any, ...]], list[str]]:
    """Select up to 128 pictures, evenly spread over the list, and decode those that can be read.

    Args:
        sources: Paths of pictures, or bytes of picture files.
        predictors: Each predictor decodes every selected picture to the pixels that its network expects.

    Returns:
        A pair of lists. The first list has one tuple per readable picture: its source, and one uint8 array (height,
        width, channels) per predictor. The second list has the error message of each unreadable picture.

    Raises:
        PictureError: If none of the selected pictures can be read.
    """
    found: list[tuple[Any, ...]] = []
    errors: list[PictureError] = []
    count = min(FOLDER, len(sources))
    for i in range(count):
        source = sources[i * len(sources) // count]
        try:
            found.append((source, *[predictor.decode(source) for predictor in predictors]))
        except PictureError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return found, [str(error) for error in errors]


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return a dictionary of the percentiles "p50", "p90" and "p99" of durations, in milliseconds.

    Args:
        seconds: The durations, in seconds.
    """
    return {f"p{q}": 1000 * float(np.percentile(seconds, q)) for q in (50, 90, 99)}


def repeat(call: Callable[[Any], Any], items: Iterable[Any], seconds: float = SECONDS) -> list[float]:
    """Call a function repeatedly, and measure how long each call takes.

    The first five calls only warm up and are not measured.

    Args:
        call: A function of one argument. Its result is ignored.
        items: The arguments of `call`, one per call. After the last argument, the first one follows again.
        seconds: Approximate duration of all measured calls together. However long a call takes, at least 20 and at most
            2000 calls are measured.

    Returns:
        The duration of each measured call, in seconds.
    """
    endless = itertools.cycle(items)
    for _ in range(WARM_UP):
        call(next(endless))
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < MOST and (len(taken) < FEWEST or time.perf_counter() < end):
        item = next(endless)
        started = time.perf_counter()
        call(item)
        taken.append(time.perf_counter() - started)
    return taken


def bench(model: str, paths: Sequence[str], *, seconds: float = SECONDS, **options: Any) -> dict[str, Any]:
    """Measure the speed and memory of an exported file on this machine.

    Args:
        model: Path of the file, or of the folder that holds it.
        paths: Pictures and folders of pictures. At most 128 pictures are used, evenly spread over all of them. If
            empty, the synthetic pictures inside the exported file are used.
        seconds: Approximate duration of each measurement of latency, decoding and network, in seconds. A measurement of
            throughput takes half as long.
        options: Keyword arguments of `Predictor`.

    Returns:
        A dictionary with these keys:

        - model: the path of the exported file;
        - engine: the name of the engine that ran it;
        - megabytes: the size of the exported file;
        - settings: the settings with which the network ran, a dictionary with the fields of `Settings`;
        - pictures: how many pictures were used;
        - named: how many pictures were found in `paths` or inside the exported file;
        - left_out: one message per unreadable picture;
        - latency (the time from a picture file to its label), decoding and network, each {p50, p90, p99} in
          milliseconds;
        - start: {seconds, peak_megabytes} of a whole process that labels one picture;
        - throughput: a list of {threads, batch, network}, where network is in pictures per second;
        - folder: {pictures, per_second, decoding_alone, network_alone}, the last three in pictures per second;
        - busy: a sentence if other programs disturbed the measurements, and otherwise None.

    Raises:
        PictureError: If a path does not exist, a folder cannot be read, or no picture can be decoded.
        ModelError: If the exported file cannot be used. See `Predictor`.
        ValueError: If an option is not allowed. See `Predictor`.
        NotMeasured: If a process that labels one picture fails.
    """
    predictor = Predictor(model, **options)
    named = pictures_for(predictor, paths)
    found, left_out = readable(named, predictor)
    programs = OtherPrograms()
    sources, decoded = map(list, zip(*found, strict=True))
    batches = [pixels[None] for pixels in decoded]
    return {
        "model": model_file(model),
        "engine": predictor.engine,
        "megabytes": size_of(model_file(model)) / 1e6,
        "settings": predictor.settings.to_json(),
        "pictures": len(sources),
        "named": len(named),
        "left_out": left_out,
        "latency": percentiles(repeat(predictor, sources, seconds)),
        "decoding": percentiles(repeat(predictor.decode, sources, seconds)),
        "network": percentiles(repeat(predictor.probabilities, batches, seconds)),
        "start": _start(model, sources, options),
        "throughput": _throughput(model, decoded, seconds, options),
        "folder": _folder(model, predictor, sources, decoded, options),
        "busy": programs.warning(),
    }


def compare(first: str, second: str, paths: Sequence[str], **options: Any) -> dict[str, Any]:
    """Measure the speed of two exported files in alternation, on the same pictures and with the same settings.

    Tuned settings are ignored.

    Args:
        first: Path of the first file, or of the folder that holds it.
        second: Path of the second file, or of the folder that holds it.
        paths: Pictures and folders of pictures. At most 128 pictures are used, evenly spread over all of them. If
            empty, the synthetic pictures inside the first file are used.
        options: Keyword arguments of `Predictor`.

    Returns:
        A dictionary with these keys:

        - latency (the time from a picture file to its label) and network, each {first, second, ratio, middle_half}:
          the median times in milliseconds, their ratio, and two quartiles of the ratio (see `Pairs`);
        - same_classes: whether both files have the same classes in the same order;
        - pictures: how many pictures were used;
        - left_out: one message per unreadable picture;
        - equal_labels: for how many pictures the two files predict the same labels;
        - busy: a sentence if other programs disturbed the measurements, and otherwise None.

    Raises:
        PictureError: If a path does not exist, a folder cannot be read, or no picture can be decoded.
        ModelError: If an exported file cannot be used. See `Predictor`.
        ValueError: If an option is not allowed. See `Predictor`.
    """
    one, other = (Predictor(model, tuned=False, **options) for model in (first, second))
    found, left_out = readable(pictures_for(one, paths), one, other)
    sources = [source for source, *_ in found]
    labels = [(one(source).labels, other(source).labels) for source in sources]
    pixels = [(first_pixels[None], second_pixels[None]) for _, first_pixels, second_pixels in found]
    programs = OtherPrograms()
    return {
        "latency": vars(time_pairs(one, other, [(source, source) for source in sources])),
        "network": vars(time_pairs(one.probabilities, other.probabilities, pixels)),
        "same_classes": one.info.classes == other.info.classes,
        "pictures": len(labels),
        "left_out": left_out,
        "equal_labels": sum(a == b for a, b in labels),
        "busy": programs.warning(),
    }


def thread_counts() -> list[int]:
    """Return the thread counts to measure: the powers of 2 below the number of cores, and the number of cores."""
    cores = usable_cores()
    return sorted({*(2**i for i in range(cores.bit_length()) if 2**i < cores), cores})


def _start(model: str, sources: Sequence[str | bytes], options: dict[str, Any]) -> dict[str, float | None]:
    """Measure the time and the memory of processes that start, load the exported file and label one picture.

    Six processes run, one after another. The time of the first process does not count.

    Args:
        model: Path of the file, or of the folder that holds it.
        sources: Paths of pictures, or bytes of picture files. Each process labels the first of these pictures.
        options: Keyword arguments of `Predictor`.

    Returns:
        A dictionary. `seconds` is the median time of the last five processes. `peak_megabytes` is the largest peak
        memory of any process, or None if the system does not report it.

    Raises:
        NotMeasured: If a process fails.
    """
    first = sources[0]
    content = first if isinstance(first, bytes) else _read(first)
    seconds, peaks = [], []
    for _ in range(STARTS + 1):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", START, os.fspath(model), json.dumps(options)], input=content, capture_output=True
        )
        seconds.append(time.perf_counter() - started)
        if done.returncode:
            last_line = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            ended = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
            raise NotMeasured(f"a process that labels one picture ended with {': '.join([ended, *last_line])}")
        peaks.append(json.loads(done.stdout.splitlines()[-1]))
    peak = max((value for value in peaks if value is not None), default=None)
    return {"seconds": statistics.median(seconds[1:]), "peak_megabytes": peak}


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _throughput(
    model: str, decoded: Sequence[npt.NDArray[np.uint8]], seconds: float, options: dict[str, Any]
) -> list[dict[str, float]]:
    """Measure how many pictures per second the network alone processes, for several thread counts and batch sizes.

    Args:
        model: Path of the file, or of the folder that holds it.
        decoded: Decoded pictures, uint8 arrays (height, width, channels).
        seconds: The value of `seconds` that `bench` received. Each measurement takes about half as long.
        options: Keyword arguments of `Predictor`. `threads` is ignored, because several thread counts are measured.

    Returns:
        One dictionary per measurement, with the keys threads, batch and network (in pictures per second).
    """
    rows = []
    for threads in thread_counts():
        predictor = Predictor(model, **{**options, "threads": threads})
        for batch in BATCHES:
            pixels = np.stack(list(itertools.islice(itertools.cycle(decoded), batch)))
            taken = repeat(predictor.probabilities, [pixels], seconds / 2)
            rows.append({"threads": threads, "batch": batch, "network": batch / statistics.median(taken)})
    return rows


def _folder(
    model: str,
    predictor: Predictor,
    sources: Sequence[str | bytes],
    decoded: Sequence[npt.NDArray[np.uint8]],
    options: dict[str, Any],
) -> dict[str, float]:
    """Measure how fast a predictor labels a list of 128 picture files.

    Decoding alone and the network alone are measured too. Both use the number of threads in `options`, or one thread
    per core, and ignore tuned settings. If there are fewer than 128 pictures, they are repeated. Each value is the best
    of three runs.

    Args:
        model: Path of the file, or of the folder that holds it.
        predictor: Runs the exported file, with tuned settings if there are any.
        sources: Paths of pictures, or bytes of picture files.
        decoded: The decoded pictures, uint8 arrays (height, width, channels).
        options: Keyword arguments of `Predictor`.

    Returns:
        A dictionary. `pictures` is the length of the list. `per_second`, `decoding_alone` and `network_alone` are in
        pictures per second.
    """
    from concurrent.futures import ThreadPoolExecutor

    many = list(itertools.islice(itertools.cycle(sources), FOLDER))
    stacks = [np.stack(list(itertools.islice(itertools.cycle(decoded), 8)))] * (FOLDER // 8)
    threads = options.get("threads") or usable_cores()
    untuned = Predictor(model, **options, tuned=False)

    def rate(work: Callable[[], Any]) -> float:
        best = float("inf")
        for _ in range(ROUNDS):
            started = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - started)
        return FOLDER / best

    with ThreadPoolExecutor(threads) as pool:
        decoding = rate(lambda: list(pool.map(predictor.decode, many)))
    return {
        "pictures": len(many),
        "per_second": rate(lambda: list(predictor.predict_each(many))),
        "decoding_alone": decoding,
        "network_alone": rate(lambda: [untuned.probabilities(stack) for stack in stacks]),
    }
