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
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ._errors import NotMeasured, NotWritten, PictureError, PictureNotFound, ProviderNotStarted
from ._format import INPUT, OUTPUT
from ._pairs import time_pairs
from ._predictor import Predictor, expand, usable_cores
from ._session import Settings, full_providers, model_file, open_session, write_tuned

SECONDS = 2.0
WARM_UP = 5
FEWEST, MOST = 20, 2000
STARTS = 5
BATCHES = (1, 8)
FOLDER = 128
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
        PictureNotFound: A path is not there, or there is no picture in what is named, or none in the file.
    """
    for path in paths:
        if not os.path.exists(path):
            raise PictureNotFound(f"there is nothing at {path!r}.")
    found: list[str | bytes] = list(expand(paths))
    if not paths:
        found = [base64.b64decode(picture["jpeg"]) for picture in predictor.info.selftest.get("pictures", ())]
    if not found:
        where = "in " + ", ".join(map(repr, paths)) if paths else "to measure with: name files or folders"
        raise PictureNotFound(f"there is no picture {where}.")
    return found


def readable(sources: Sequence[str | bytes], *predictors: Predictor) -> tuple[list[tuple[Any, ...]], list[str]]:
    """Of 128 pictures from all over the list, or of all that there are, those that can be read, and why others cannot.

    Returns:
        A picture with what each predictor decodes it to; and the reasons.

    Raises:
        PictureError: None can be read.
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
        paths: Pictures and folders of pictures, of which 128 are taken; none means the file's own synthetic ones.
        seconds: How long each measurement goes on.
        options: As of `Predictor`.

    Returns:
        settings, pictures, named (how many there are), left_out [why a picture is], megabytes (of the file), latency,
        decoding and network {p50, p90, p99 in milliseconds}, start {seconds, peak_megabytes} of a whole process,
        throughput [{threads, batch, network: pictures a second}], and folder {pictures, per_second, decoding_alone,
        network_alone}.

    Raises:
        PictureError: No picture can be read.
        NotMeasured: A process that labels one picture failed.
    """
    predictor = Predictor(model, **options)
    named = pictures_for(predictor, paths)
    found, left_out = readable(named, predictor)
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
    }


def compare(first: str, second: str, paths: Sequence[str], **options: Any) -> dict[str, Any]:
    """Time two exported files by turns, on the same pictures and with the same settings, whatever was tuned for each.

    Args:
        first: Path of the one file, or of the folder that holds it.
        second: Of the other.
        paths: Pictures and folders of pictures; none means the first file's own synthetic ones.
        options: As of `Predictor`.

    Returns:
        For "latency" and "network": first, second (medians in milliseconds), ratio (first / second, the median over
        pairs: above 1 where the second is faster) and middle_half of the ratios; same_classes, equal_labels, pictures,
        left_out [why a picture is].

    Raises:
        PictureError: No picture can be read.
    """
    one, other = (Predictor(model, tuned=False, **options) for model in (first, second))
    found, left_out = readable(pictures_for(one, paths), one, other)
    sources = [source for source, *_ in found]
    labels = [(one(source).labels, other(source).labels) for source in sources]
    pixels = [(first_pixels[None], second_pixels[None]) for _, first_pixels, second_pixels in found]
    return {
        "latency": vars(time_pairs(one, other, [(source, source) for source in sources])),
        "network": vars(time_pairs(one.probabilities, other.probabilities, pixels)),
        "same_classes": one.info.classes == other.info.classes,
        "pictures": len(labels),
        "left_out": left_out,
        "equal_labels": sum(a == b for a, b in labels),
    }


def tune(
    model: str, *, seconds: float = SECONDS, providers: Sequence[str] | None = None, said: Callable[[str], None]
) -> dict[str, Any]:
    """Find the settings that suit this machine and keep them beside the file, where `Predictor` finds them.

    Threads, spinning and memory are swept, for each provider alike, one picture at a time, in three rounds, so that
    what else the machine does disturbs all alike. Settings must be quicker than the usual ones by 3 % in every round to
    be chosen; of those within 3 % of the quickest, those of fewer threads.

    Args:
        model: Path of the file, or of the folder that holds it.
        seconds: How long each setting is measured, over three rounds.
        providers: Where it may run; None means the processor.
        said: Is told of every step.

    Returns:
        settings, usual (whether they are), table [{settings, p50, p90, p99}], left_out {provider: why it could not be
        measured}, file.

    Raises:
        ModelError: No provider can run the file.
        NotWritten: The folder of the file may not be written to.
    """
    path = model_file(model)
    chosen = list(providers or ("cpu",))
    full_providers(chosen)
    usual = Predictor(path, tuned=False)
    folder = os.path.dirname(os.path.abspath(path))
    if not os.access(folder, os.W_OK):
        raise NotWritten(f"what is found is kept in {folder!r}, which may not be written to.")
    pixels = np.random.default_rng(0).integers(0, 256, (1, *usual.info.image.size, usual.info.image.channels), np.uint8)
    taken: dict[Settings, list[list[float]]] = {}
    left_out: dict[str, str] = {}
    for number in range(ROUNDS):
        said(f"round {number + 1} of {ROUNDS}")
        for settings in _candidates(chosen):
            (place,) = settings.providers
            try:
                if place not in left_out:
                    session = open_session(path, settings)
                    times = repeat(lambda batch, s=session: s.run([OUTPUT], {INPUT: batch}), [pixels], seconds / ROUNDS)
                    taken.setdefault(settings, []).append(times)
            except ProviderNotStarted as error:
                left_out[place] = str(error)
                # What was measured of it before it failed is no reason to choose it.
                taken = {other: rounds for other, rounds in taken.items() if other.providers != settings.providers}
                said(f"{place} is left out: {error}")
    if not taken:
        raise ProviderNotStarted(f"none of {', '.join(chosen)} can run the file here.")
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
        "file": write_tuned(path, winner, table),
    }


def quickest(taken: Mapping[Settings, Sequence[Sequence[float]]]) -> Settings:
    """The settings to use, of those measured, in seconds, in several rounds; see `tune`."""
    usual = usual_of(taken)
    rounds = {settings: [statistics.median(times) for times in taken[settings]] for settings in taken}
    able = [s for s in taken if all(a * (1 + WORTH) < b for a, b in zip(rounds[s], rounds[usual], strict=True))]
    if not able:
        return usual
    whole = {settings: statistics.median([t for times in taken[settings] for t in times]) for settings in able}
    best = min(whole.values())
    good = [settings for settings in able if whole[settings] <= best * (1 + WORTH)]
    return min(good, key=lambda s: (s.threads is None, s.threads or 0, not s.spinning, not s.arena))


def usual_of(taken: Iterable[Settings]) -> Settings:
    """What a `Predictor` uses by itself, or where that was not measured, the first."""
    measured = list(taken)
    return Settings() if Settings() in measured else measured[0]


def _candidates(providers: Sequence[str]) -> list[Settings]:
    """The usual settings of each provider, and every other."""
    found = []
    for place in providers:
        found += [
            Settings(threads, spinning, arena, (place,))
            for threads in (None, *_counts())
            for spinning in ((True, False) if threads != 1 else (True,))
            for arena in (True, False)
        ]
    return found


def _counts() -> list[int]:
    """1, 2, 4 ... and the number of cores."""
    cores = usable_cores()
    return sorted({*(2**i for i in range(cores.bit_length()) if 2**i < cores), cores})


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
            said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            ended = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
            raise NotMeasured(f"a process that labels one picture ended with {': '.join([ended, *said])}")
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


def _folder(
    model: str,
    predictor: Predictor,
    sources: Sequence[str | bytes],
    decoded: Sequence[np.ndarray],
    options: dict[str, Any],
) -> dict[str, float]:
    """Pictures a second over many files, beside the decoder alone and the network alone, each on all threads."""
    from concurrent.futures import ThreadPoolExecutor

    many = list(itertools.islice(itertools.cycle(sources), FOLDER))
    stacks = [np.stack(list(itertools.islice(itertools.cycle(decoded), 8)))] * (FOLDER // 8)
    threads = options.get("threads") or usable_cores()
    untuned = Predictor(model, **options, tuned=False)

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
        "network_alone": rate(lambda: [untuned.probabilities(stack) for stack in stacks]),
    }
