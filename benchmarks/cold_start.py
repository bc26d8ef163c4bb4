"""Times `zoo-runtime predict` from its start to its label, and measures its peak memory.

    python benchmarks/cold_start.py MODEL [--rounds 20]

MODEL is an exported file. Pictures of 0.2, 2 and 12 megapixels are made with a fixed seed: noise over coarse colors,
saved as JPEG. They are harder to decode than most photographs. Each row of the table measures whole processes. Each
round measures all rows in turn.

The row "parts alone" is the minimum: it only imports onnxruntime, numpy and Pillow, and opens the session. No program
that uses these libraries can be faster. The column "ratio" compares each row with it. Telemetry of onnxruntime is off
in all rows, unless ORT_DISABLE_TELEMETRY is set to another value.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = {"0.2 MP": (400, 500), "2 MP": (1200, 1667), "12 MP": (3000, 4000)}
FLOOR = "import numpy, PIL.Image, onnxruntime, sys; onnxruntime.InferenceSession(sys.argv[1])"


def write_picture(path: Path, size: tuple[int, int]) -> None:
    """Save a picture of coarse colors with fine noise as JPEG.

    Args:
        path: The file to write.
        size: (height, width) in pixels.
    """
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        size[::-1], Image.Resampling.BICUBIC
    )
    noisy = np.asarray(coarse, np.int16) + rng.integers(-12, 13, (*size, 3), dtype=np.int16)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def measure(command: list[str]) -> tuple[float, float]:
    """Run a process, and return its duration in seconds and its peak memory in MB (10^6 bytes).

    Raises:
        SystemExit: The process fails.
    """
    environment = {"ORT_DISABLE_TELEMETRY": "1", **os.environ}
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} exits with {process.returncode}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        for name, size in SIZES.items():
            write_picture(options.write / f"{name}.jpg", size)
        return
    script = Path(sys.executable).with_name("zoo-runtime")
    with tempfile.TemporaryDirectory() as folder:
        commands = {"parts alone": [sys.executable, "-c", FLOOR, os.fspath(options.model)]}
        # In a separate process, because memory that a child inherits from this one would count as the child's peak.
        subprocess.run([sys.executable, __file__, "--write", folder, options.model], check=True)
        for name in SIZES:
            path = Path(folder, f"{name}.jpg")
            commands[f"predict, {name}"] = [os.fspath(script), "predict", os.fspath(options.model), os.fspath(path)]
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for number in range(options.rounds + 1):
            for name, command in commands.items():
                result = measure(command)
                if number:  # the first round only fills the file cache
                    found[name].append(result)
    print(f"{options.model}, {os.cpu_count()} cores, {options.rounds} rounds")
    print(f"{'':18}{'seconds':>9}{'least':>8}{'most':>8}{'ratio':>8}{'peak MB':>9}")
    for name, results in found.items():
        times = [seconds for seconds, _ in results]
        ratio = statistics.median(
            own / floor for (own, _), (floor, _) in zip(results, found["parts alone"], strict=True)
        )
        memory = max(peak for _, peak in results)
        print(f"{name:18}{statistics.median(times):9.3f}{min(times):8.3f}{max(times):8.3f}{ratio:8.2f}{memory:9.1f}")


if __name__ == "__main__":
    main()
