"""Finds the files of one network for other engines, which stand beside an exported file, and measures all of them.

`zoo export` writes each format into a folder of its own: `exported/cats`, `exported/cats-litert`,
`exported/cats-openvino-int8`. Files belong together if the names of their folders differ only in the engine, and if
they have the same run, classes and picture size.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ._bench import ROUNDS, percentiles, repeat
from ._engine import ENGINES, ONNXRUNTIME, Engine, engine_of, exported_in
from ._errors import EngineNotInstalled, ModelError, NotWritten
from ._format import INPUT, OUTPUT, ModelInfo
from ._onnxruntime import Session
from ._predictor import Predictor
from ._session import Settings, open_session, write_tuned

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def find_beside(path: str) -> list[str]:
    """Return the paths of the exported files for other engines beside an exported file, sorted.

    Args:
        path: Path of the exported file.
    """
    own, folder = engine_of(path), os.path.dirname(os.path.abspath(path))
    found = list[str]()
    for other in [folder, *_folders_beside(folder)]:
        inside = exported_in(other)
        # A folder with several files besides this one is somebody's own, and what it holds is given by its path.
        found += [each for each in inside if engine_of(each) is not own and (other == folder or len(inside) == 1)]
    return sorted(os.path.relpath(each) if not os.path.isabs(path) else each for each in found)


def _folders_beside(folder: str) -> list[str]:
    """Return the folders whose names differ from that of a folder only in the engine, such as `cats-litert`."""
    parent, name = os.path.split(folder)
    try:
        with os.scandir(parent) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except OSError:
        return []
    return [os.path.join(parent, each) for each in names if each != name and _stem(each) == _stem(name)]


def _stem(name: str) -> str:
    """Return the name of a folder without that of an engine: `cats-int8` for `cats-litert-int8`."""
    for engine in ENGINES:
        if engine is not ONNXRUNTIME:
            name = name.replace(f"-{engine.name}", "")
    return name


def measure_beside(
    path: str,
    settings: Settings,
    pixels: npt.NDArray[np.uint8],
    *,
    seconds: float,
    candidates: Callable[[Engine], Sequence[Settings]],
    quickest: Callable[[Mapping[Settings, Sequence[Sequence[float]]]], Settings],
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Measure the files of other engines beside an exported file, in alternation with that file.

    The settings that suit each of them best are saved beside it, if its folder may be written to.

    Args:
        path: Path of the exported file.
        settings: The settings that suit it best.
        pixels: One picture, a uint8 array (1, height, width, channels).
        seconds: How long each combination of settings is measured in all rounds together, in seconds.
        candidates: Returns the settings to measure for an engine.
        quickest: Chooses the best of the measured settings.
        progress: Called with a progress message of one line.

    Returns:
        A dictionary with two keys:

        - files: for each file, and first for `path`, its model, engine, settings, and the percentiles p50, p90 and p99
          in milliseconds. Without other files, it is empty;
        - left_out: maps the path of each file that could not be measured to the reason.
    """
    others, left_out = _others_of(path)
    pairs = [(each, choice) for each in others for choice in candidates(engine_of(each))]
    taken: dict[tuple[str, Settings], list[list[float]]] = {}
    for number in range(ROUNDS if pairs else 0):
        progress(f"other engines, round {number + 1} of {ROUNDS}")
        for each, choice in [(path, settings), *pairs]:
            session = open_session(each, choice)
            times = repeat(partial(_run, session), [pixels], seconds / ROUNDS)
            taken.setdefault((each, choice), []).append(times)
    files = []
    for each in [path, *others] if pairs else []:
        measured = {choice: rounds for (file, choice), rounds in taken.items() if file == each}
        best = quickest(measured)
        row: dict[str, Any] = {"model": each, "engine": engine_of(each).name, "settings": best.to_json()}
        row |= percentiles([time for times in measured[best] for time in times])
        files.append(row)
        if each != path:
            with contextlib.suppress(NotWritten):
                write_tuned(each, best, [{**best.to_json(), "p50": row["p50"]}])
    return {"files": files, "left_out": left_out}


def _run(session: Session, pixels: npt.NDArray[np.uint8]) -> object:
    return session.run([OUTPUT], {INPUT: pixels})


def _others_of(path: str) -> tuple[list[str], dict[str, str]]:
    """Return the files beside a file that hold the same network, and why the others are left out."""
    own = Predictor(path, tuned=False).info
    others: list[str] = []
    left_out: dict[str, str] = {}
    for each in find_beside(path):
        try:
            info = Predictor(each, tuned=False).info
        except EngineNotInstalled as error:
            left_out[each] = str(error)
            continue
        except ModelError as error:
            left_out[each] = f"it cannot be used: {error}"
            continue
        if _identity(own) == _identity(info):
            others.append(each)
        else:
            left_out[each] = "it is from another run, or has other classes, another picture size or precision"
    return others, left_out


def _identity(info: ModelInfo) -> tuple[Any, ...]:
    """Return what is equal for two files of one network with the same precision."""
    precision = info.precision
    # Other formats state the graph that they store. An ONNX file with weights of 16 bits is computed in float32, too.
    graph = precision.get("graph") or precision.get("kind", "float32")
    return info.classes, info.image, info.run.get("id"), "float32" if graph == "fp16" else graph


def fastest_of(files: Sequence[Mapping[str, Any]], worth: float) -> Mapping[str, Any]:
    """Return the fastest of the measured files. The first one stays if no other is faster by more than a fraction.

    Args:
        files: What `measure_beside` returns.
        worth: The fraction.
    """
    best = min(files, key=lambda row: float(row["p50"]))
    return best if best["p50"] * (1 + worth) < files[0]["p50"] else files[0]
