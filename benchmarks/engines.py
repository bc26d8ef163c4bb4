"""Compares `zoo_runtime` with the engines that it uses, called directly: the network alone, one picture at a time.

Usage:

    python benchmarks/engines.py exported/NAME exported/NAME-litert exported/NAME-openvino ...

Each file is run by `Predictor.probabilities` and by its engine, called as a program without zoo would, on the same
pixels. First both get one thread, and the time of the processor counts, which other programs hardly change. Then the
time on the clock counts: `zoo_runtime` has its default settings, and the engine has its own, or one thread per core.
Here the two run in alternating blocks with a pause before each, because idle threads of an engine may spin for
milliseconds, in which they would hold up the other one. Figures are medians in milliseconds, and the ratio is that of
each two blocks. A ratio above 1 means that `zoo_runtime` is faster.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zoo_runtime import Predictor
from zoo_runtime.workshop import usable_cores

PAIRS = 100
# Blocks of each function, calls in a block, and of these the first ones, which do not count.
BLOCKS, CALLS, FIRST = 25, 12, 4
# Seconds before a block.
PAUSE = 0.05


def direct(model: str, engine: str, threads: int | None) -> Callable[[Any], Any]:
    """Return a function that runs a file in its engine, as a program without zoo would.

    Args:
        model: Path of the file.
        engine: The name of the engine.
        threads: The number of threads. None means the default of the engine.
    """
    if engine == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda pixels: session.run(["probabilities"], {"image": pixels})
    if engine == "litert":
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model, num_threads=threads)
        interpreter.allocate_tensors()
        taken, given = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

        def run(pixels: Any) -> Any:
            interpreter.set_tensor(taken, pixels)
            interpreter.invoke()
            return interpreter.get_tensor(given)

        return run
    import openvino

    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    request = openvino.Core().compile_model(model, "CPU", config).create_infer_request()
    return lambda pixels: request.infer({0: pixels})


def processor_time(first: Callable[[Any], Any], second: Callable[[Any], Any], pixels: Any) -> list[float]:
    """Return the median time of the processor that a call of each of two functions takes, in milliseconds."""
    taken: list[list[float]] = [[], []]
    for _ in range(PAIRS):
        for times, call in zip(taken, (first, second), strict=True):
            call(pixels)
            started = time.process_time()
            call(pixels)
            times.append(1000 * (time.process_time() - started))
    return [statistics.median(times) for times in taken]


def in_blocks(
    first: Callable[[Any], Any], second: Callable[[Any], Any], pixels: Any
) -> tuple[float, float, list[float]]:
    """Return the median times of a call of two functions on the clock, in milliseconds, and the ratios of blocks."""
    medians: list[list[float]] = [[], []]
    for _ in range(BLOCKS):
        for found, call in zip(medians, (first, second), strict=True):
            time.sleep(PAUSE)
            times = []
            for _ in range(CALLS):
                started = time.perf_counter()
                call(pixels)
                times.append(1000 * (time.perf_counter() - started))
            found.append(statistics.median(times[FIRST:]))
    ratios = [one / other for one, other in zip(*medians, strict=True)]
    return statistics.median(medians[0]), statistics.median(medians[1]), ratios


def file_of(path: str) -> str:
    """Return the exported file of a folder, or the file itself."""
    inside = [Path(path, name) for name in ("model.onnx", "model.tflite", "model.xml")]
    return str(next((each for each in inside if each.exists()), path))


def main() -> None:
    print(f"{usable_cores()} cores; load {os.getloadavg()[0]:.1f}")
    print(f"{'file':<34} {'engine called':<16} {'engine':>8} {'zoo':>8} {'ratio':>7}  middle half")
    for path in sys.argv[1:]:
        predictor = Predictor(path, tuned=False)
        shape = (1, *predictor.info.image.size, predictor.info.image.channels)
        pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        alone = Predictor(path, tuned=False, threads=1).probabilities
        one, other = processor_time(direct(file_of(path), predictor.engine, 1), alone, pixels)
        print(f"{Path(path).name:<34} {'1 thread, CPU':<16} {one:8.2f} {other:8.2f} {one / other:7.2f}", flush=True)
        for threads in (None, usable_cores()):
            peer = direct(file_of(path), predictor.engine, threads)
            one, other, ratios = in_blocks(peer, predictor.probabilities, pixels)
            low, middle, high = statistics.quantiles(ratios, n=4)
            label = "by default" if threads is None else f"{threads} threads"
            print(
                f"{Path(path).name:<34} {label:<16} {one:8.2f} {other:8.2f} {middle:7.2f}  {low:.2f} to {high:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
