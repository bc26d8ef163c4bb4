"""Measures networks of timm in ONNX Runtime, to choose which ones zoo should have.

The two steps may run in two environments. The first one needs torch, timm and onnx, the second one onnxruntime alone:

    python benchmarks/timm_latency.py export /tmp/graphs repvit_m0_9 hgnetv2_b0
    python benchmarks/timm_latency.py time /tmp/graphs

Weights are random. RepViT's branches are fused, as its authors do for inference. Networks take turns, and the least
time counts, because other programs only add time.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

SIZE = 224
ROUNDS = 20


def export(folder: Path, names: list[str]) -> None:
    import timm
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        model = timm.create_model(name).eval()
        if hasattr(model, "fuse"):
            model.fuse()
        pixels = torch.zeros(1, 3, SIZE, SIZE)
        torch.onnx.export(model, pixels, folder / f"{name}.onnx", dynamo=False, opset_version=17)


def measure(folder: Path) -> None:
    import onnxruntime

    pixels = np.random.default_rng(0).normal(0, 1, (1, 3, SIZE, SIZE)).astype("float32")
    paths = sorted(folder.glob("*.onnx"))
    least: dict[str, list[float]] = {path.stem: [] for path in paths}
    for threads in (1, 2):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin while they wait take time from those that compute, if the machine is busy.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        sessions = {path.stem: onnxruntime.InferenceSession(path, options) for path in paths}
        times: dict[str, list[float]] = {name: [] for name in sessions}
        for _ in range(ROUNDS):
            for name, session in sessions.items():
                start = time.perf_counter()
                session.run(None, {session.get_inputs()[0].name: pixels})
                times[name].append(1000 * (time.perf_counter() - start))
        for name, values in times.items():
            least[name].append(min(values))
    for path in paths:
        one, two = least[path.stem]
        print(f"{path.stem:28} {one:6.1f} ms {two:6.1f} ms {path.stat().st_size / 1e6:6.1f} MB")


if __name__ == "__main__":
    command, target, *given = sys.argv[1:]
    export(Path(target), given) if command == "export" else measure(Path(target))
