"""Finds the settings and the engine that suit this machine, by measuring all combinations of settings in turn."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ._bench import ROUNDS, SECONDS, percentiles, repeat, thread_counts
from ._beside import fastest_of, measure_beside
from ._busy import OtherPrograms
from ._engine import ONNXRUNTIME, Engine, engine_of
from ._errors import NotWritten, ProviderNotStarted
from ._format import INPUT, OUTPUT
from ._onnxruntime import Session
from ._predictor import Predictor
from ._session import Provider, Settings, full_providers, model_file, open_session, write_tuned

if TYPE_CHECKING:
    import numpy.typing as npt

# Settings that are faster than others by at most this fraction count as equally fast.
WORTH = 0.03


def tune(
    model: str, *, seconds: float = SECONDS, providers: Sequence[str] | None = None, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Find the settings that suit this machine, and save them beside the exported file, where `Predictor` reads them.

    Every combination of threads, spinning and arena (see `Settings`) is measured for each provider, on one picture at a
    time. With one thread, spinning has no effect. For LiteRT and OpenVINO, only the threads are measured. There are
    three rounds, so that other programs on the machine disturb all combinations equally.

    A combination counts as better than the default settings if it is more than 3 % faster in each of the three rounds.
    If no combination is better, `tune` chooses the default settings. Otherwise, it considers the fastest of the better
    combinations, and those that are at most 3 % slower than the fastest. Among these, it chooses the one with the
    fewest threads. If the default settings were not measured, the first measured combination takes their place.

    Then the files of the same network for other engines are measured, if there are any beside the file; see `_beside`.

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
        - file: the path of the file that holds the settings;
        - beside: the figures of the files for other engines, see `measure_beside`, and the key fastest: the path of the
          fastest of all these files. It is the file itself if no other is more than 3 % faster.

    Raises:
        ModelError: If the file cannot be used, or no provider can run it.
        ValueError: If the installed ONNX Runtime lacks one of the providers.
        EngineNotInstalled: If the file needs LiteRT or OpenVINO, which is not installed.
        NotWritten: If the file's folder is write-protected, or the disk is full.
    """
    path = model_file(model)
    chosen, engine = list(providers or ("cpu",)), engine_of(path)
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
        for settings in _candidates(chosen, engine):
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
    file = write_tuned(path, winner, table)
    beside = measure_beside(
        path,
        winner,
        pixels,
        seconds=seconds,
        candidates=partial(_candidates, ("cpu",)),
        quickest=quickest,
        progress=progress,
    )
    return {
        "settings": winner.to_json(),
        "usual": winner == usual_of(taken),
        "table": table,
        "left_out": left_out,
        "busy": programs.warning(),
        "file": file,
        "beside": {**beside, "fastest": fastest_of(beside["files"], WORTH)["model"] if beside["files"] else path},
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


def _candidates(providers: Sequence[Provider], engine: Engine = ONNXRUNTIME) -> list[Settings]:
    """Return the settings that `tune` measures: every combination of threads, spinning and arena, for each provider.

    The combinations of a provider follow one another, starting with the default values. With one thread, spinning has
    no effect, and only its default value is measured. The same holds for what an engine does not use.
    """
    waits, arenas = "spinning" in engine.settings, "arena" in engine.settings
    found = []
    for provider in providers:
        found += [
            Settings(threads, spinning, arena, (provider,))
            for threads in (None, *thread_counts())
            for spinning in ((None, True, False) if threads != 1 and waits else (None,))
            for arena in ((True, False) if arenas else (True,))
        ]
    return found
