"""Measures the speed and memory of an exported file on this machine, and finds the settings that suit the machine.

`bench` measures these things:

- the time from a picture file to its label, the time of decoding alone, and the time of the network alone;
- the time and the memory of a process that starts, loads the exported file and labels one picture;
- the pictures per second of the network alone, and of a list of picture files.

`compare` measures two exported files in alternation. `tune` finds the best settings.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ._busy import OtherPrograms
from ._cores import usable_cores
from ._errors import NotMeasured, NotWritten, PictureError, PictureNotFound, ProviderNotStarted
from ._format import INPUT, OUTPUT
from ._given import is_pattern
from ._listing import STANDARD_INPUT, expand, no_picture_in
from ._onnxruntime import Session
from ._pairs import time_pairs
from ._predictor import Predictor
from ._session import Provider, Settings, full_providers, model_file, open_session, write_tuned

if TYPE_CHECKING:
    import numpy.typing as npt

SECONDS = 2.0
WARM_UP = 5
FEWEST, MOST = 20, 2000
STARTS = 5
BATCHES = (1, 8)
FOLDER = 128
ROUNDS = 3
# Settings that are faster than others by at most this fraction count as equally fast.
WORTH = 0.03

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
        "megabytes": os.path.getsize(model_file(model)) / 1e6,
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


def tune(
    model: str, *, seconds: float = SECONDS, providers: Sequence[str] | None = None, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Find the settings that suit this machine, and save them beside the exported file, where `Predictor` reads them.

    Every combination of threads, spinning and arena (see `Settings`) is measured for each provider, on one picture at a
    time. With one thread, spinning has no effect. There are three rounds, so that other programs on the machine disturb
    all combinations equally.

    A combination counts as better than the default settings if it is more than 3 % faster in each of the three rounds.
    If no combination is better, `tune` chooses the default settings. Otherwise, it considers the fastest of the better
    combinations, and those that are at most 3 % slower than the fastest. Among these, it chooses the one with the
    fewest threads. If the default settings were not measured, the first measured combination takes their place.

    Args:
        model: Path of the file, or of the folder that holds it.
        seconds: How long each combination is measured in all three rounds together, in seconds.
        providers: Execution providers to measure, such as "cpu" or "openvino". None means the processor only.
        progress: Called with a progress message of one line at each round, and when a provider is left out.

    Returns:
        A dictionary with these keys:

        - settings: the chosen settings;
        - usual: whether the chosen settings are the default settings, or the combination that takes their place;
        - table: per combination, its settings and the percentiles p50, p90 and p99 in milliseconds;
        - left_out: maps each provider that could not be measured to the reason;
        - busy: a sentence if other programs disturbed the measurements, and otherwise None;
        - file: the path of the file that holds the settings.

    Raises:
        ModelError: If the file cannot be used, or no provider can run it.
        ValueError: If the installed ONNX Runtime lacks one of the providers.
        NotWritten: If the file's folder is write-protected, or the disk is full.
    """
    path = model_file(model)
    chosen = list(providers or ("cpu",))
    full_providers(chosen)
    usual = Predictor(path, tuned=False)
    folder = os.path.dirname(os.path.abspath(path))
    if not os.access(folder, os.W_OK):
        raise NotWritten(
            f"the tuned settings are saved in {folder!r}, which may not be written to. "
            "Run the command as a user who may, for example with sudo."
        )
    pixels = np.random.default_rng(0).integers(0, 256, (1, *usual.info.image.size, usual.info.image.channels), np.uint8)
    taken: dict[Settings, list[list[float]]] = {}
    left_out: dict[str, str] = {}
    programs = OtherPrograms()
    for number in range(ROUNDS):
        progress(f"round {number + 1} of {ROUNDS}")
        for settings in _candidates(chosen):
            (provider,) = settings.providers
            name = provider if isinstance(provider, str) else provider[0]
            try:
                if name not in left_out:
                    run = partial(_run, open_session(path, settings))
                    taken.setdefault(settings, []).append(repeat(run, [pixels], seconds / ROUNDS))
            except ProviderNotStarted as error:
                left_out[name] = str(error)
                # A provider that failed must not be chosen because of its earlier measurements.
                taken = {other: rounds for other, rounds in taken.items() if other.providers != settings.providers}
                progress(f"{name} is left out: {error}")
    if not taken:
        raise ProviderNotStarted(f"none of {', '.join(chosen)} can run the file on this machine. Try --providers cpu.")
    winner = quickest(taken)
    table = [
        {**settings.to_json(), **percentiles([t for times in rounds for t in times])}
        for settings, rounds in taken.items()
    ]
    return {
        "settings": winner.to_json(),
        "usual": winner == usual_of(taken),
        "table": table,
        "left_out": left_out,
        "busy": programs.warning(),
        "file": write_tuned(path, winner, table),
    }


def _run(session: Session, pixels: npt.NDArray[np.uint8]) -> object:
    return session.run([OUTPUT], {INPUT: pixels})


def quickest(taken: Mapping[Settings, Sequence[Sequence[float]]]) -> Settings:
    """Choose the best of the measured settings, by the rule in the docstring of `tune`.

    Args:
        taken: Maps each of the measured settings to its rounds. A round is a list of the durations of all its calls, in
            seconds.
    """
    usual = usual_of(taken)
    rounds = {settings: [statistics.median(times) for times in taken[settings]] for settings in taken}
    able = [s for s in taken if all(a * (1 + WORTH) < b for a, b in zip(rounds[s], rounds[usual], strict=True))]
    if not able:
        return usual
    whole = {settings: statistics.median([t for times in taken[settings] for t in times]) for settings in able}
    best = min(whole.values())
    good = [settings for settings in able if whole[settings] <= best * (1 + WORTH)]
    return min(good, key=lambda s: (s.threads is None, s.threads or 0, s.spinning is not None, not s.arena))


def usual_of(taken: Iterable[Settings]) -> Settings:
    """Return the default settings if they were measured, and otherwise the first measured settings.

    Args:
        taken: The measured settings, in the order of measurement.
    """
    measured = list(taken)
    return Settings() if Settings() in measured else measured[0]


def _candidates(providers: Sequence[Provider]) -> list[Settings]:
    """Return the settings that `tune` measures: every combination of threads, spinning and arena, for each provider.

    The combinations of a provider follow one another, starting with the default values. With one thread, spinning has
    no effect, and only its default value is measured.
    """
    found = []
    for provider in providers:
        found += [
            Settings(threads, spinning, arena, (provider,))
            for threads in (None, *_counts())
            for spinning in ((None, True, False) if threads != 1 else (None,))
            for arena in (True, False)
        ]
    return found


def _counts() -> list[int]:
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
    for threads in _counts():
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
