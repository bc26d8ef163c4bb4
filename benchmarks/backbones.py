"""Checks and exports each network at its default input size, and compares its speed with that in Keras.

    python benchmarks/backbones.py                         all networks; prints a table for docs/benchmarks.md
    python benchmarks/backbones.py resnet50 vgg16          some of them
    python benchmarks/backbones.py --json results.jsonl    saves each result; networks with a result are not run again

Each network runs in a separate process. It has random weights (seed 0), BatchNorm statistics of synthetic pictures, and
a head for 5 classes. The script checks the parameter count, the layer names of two builds, the stages, the graph,
parity on 8 pictures, and the predictor's answer for one picture. The graph must have one input, only ONNX's own
operators, at most 4 Transposes, and folded BatchNorm. The columns of the table are:

    parameters   of the backbone
    MB, nodes    size of the exported file, and number of nodes in its graph
    export       seconds of the conversion to ONNX
    difference   max|difference| / max|Keras| on logits
    1, 2         median milliseconds for one picture in ONNX Runtime with 1 and 2 threads
    peak MB      peak memory of a process that loads the file and labels one picture
    Keras/ORT    median time of Keras divided by the better median time of ONNX Runtime; Keras runs the network as a
                 tf.function on all cores, and the engines are measured in turn
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PEAK = """
import re, sys
from zoo_runtime import Predictor
import numpy as np
p = Predictor(sys.argv[1])
h, w = p.info.image.size
p(np.zeros((h, w, 3), "uint8"))
# The figure of getrusage would include the process that started this one.
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) / 1024)
"""
SECONDS = 2.0
ROUNDS = 5


def measure(name: str) -> dict:
    """Check, export and time one network in this process, and return a row of the table.

    Raises:
        AssertionError: A check fails.
    """
    import numpy as np

    from zoo import backend, testing
    from zoo.convert.keras_to_onnx import convert
    from zoo.export import artifact, parity
    from zoo.plugin import registry
    from zoo.train.network import attach_head, build_backbone
    from zoo_runtime import ImageSpec, ModelInfo, Predictor

    keras = backend.start()
    architecture = registry.load().architecture(name)
    size = architecture.input_size
    keras.utils.set_random_seed(0)
    small = build_backbone(architecture, (architecture.min_size, architecture.min_size))
    backbone = build_backbone(architecture, size)
    assert [layer.name for layer in small.layers] == [layer.name for layer in backbone.layers], "layer names differ"
    del small
    parameters = sum(x.count_params() for x in backbone.layers if x.__class__.__name__ not in testing.PREPROCESSING)
    assert parameters == architecture.parameters, f"{parameters:,} parameters, {architecture.parameters:,} promised"
    # The statistics come from pictures of the measured size. Statistics of small feature maps would let the values of
    # large ones explode.
    testing.randomize(backbone, pictures=8, batch_size=8 if size[0] < 450 else 2)
    model = attach_head(backbone, architecture.head, 5, name)

    started = time.perf_counter()
    graph = convert(model)
    export = time.perf_counter() - started
    testing.check_graph(graph)
    pixels = testing.synthetic_pixels(8, size, architecture.channels)
    figures = parity.check(model, graph, pixels)
    info = ModelInfo(
        classes=tuple("abcde"),
        task="multiclass",
        image=ImageSpec(size=size),
        architecture={"name": name},
    )
    data = artifact.serialize(graph, info)
    result = Predictor(data)(pixels[0])
    (row,) = model.predict_on_batch(pixels[:1].astype("float32"))
    assert np.abs(np.array(list(result.probabilities.values())) - row).max() <= 1e-4, "the predictor differs"

    p50 = latencies(model, data, pixels[:1])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(data)
        peak = subprocess.run([sys.executable, "-c", PEAK, path], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {
        "name": name,
        "size": size[0],
        "parameters": parameters,
        "megabytes": len(data) / 1e6,
        "nodes": len(graph.graph.node),
        "transposes": sum(node.op_type == "Transpose" for node in graph.graph.node),
        "export_seconds": export,
        "difference": figures["logits_difference"],
        "ms_1": p50["1"],
        "ms_2": p50["2"],
        "peak_megabytes": float(peak),
        "keras_ratio": p50["keras"] / min(p50["1"], p50["2"]),
    }


def latencies(model: Any, data: bytes, picture: Any) -> dict[str, float]:
    """Time one picture in Keras, and in ONNX Runtime with 1 and 2 threads.

    Args:
        model: The Keras network.
        data: The exported file.
        picture: uint8 array (1, height, width, channels).

    Returns:
        Median times in milliseconds, under the keys "keras", "1" and "2".
    """
    import numpy as np
    import tensorflow as tf

    from zoo import backend

    onnxruntime = backend.onnxruntime()

    def session(threads: int) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    run = {threads: session(threads) for threads in (1, 2)}
    as_float = tf.constant(picture.astype("float32"))
    function = tf.function(lambda x: model(x, training=False), jit_compile=False, reduce_retracing=True)
    sides = {
        "keras": lambda: function(as_float).numpy(),
        "1": lambda: run[1].run(None, {"image": picture}),
        "2": lambda: run[2].run(None, {"image": picture}),
    }
    times: dict[str, list[float]] = {side: [] for side in sides}
    for call in sides.values():
        call()
    for _ in range(ROUNDS):
        for side, call in sides.items():
            end = time.perf_counter() + SECONDS / ROUNDS
            while True:
                before = time.perf_counter()
                call()
                times[side].append(time.perf_counter() - before)
                if time.perf_counter() >= end:
                    break
    return {side: float(np.median(values)) * 1e3 for side, values in times.items()}


def table(rows: list[dict]) -> str:
    """Format the rows as a Markdown table."""
    lines = [
        "| network | size | parameters | MB | nodes | Transposes | export s | difference | 1 thread ms | 2 threads ms "
        "| peak MB | Keras / onnxruntime |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['name']} | {row['size']} | {row['parameters']:,} | {row['megabytes']:.1f} | {row['nodes']} | "
            f"{row['transposes']} | {row['export_seconds']:.1f} | {row['difference']:.0e} | {row['ms_1']:.1f} | "
            f"{row['ms_2']:.1f} | {row['peak_megabytes']:.0f} | {row['keras_ratio']:.1f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks (default: all)")
    parser.add_argument("--json", type=Path, help="file in which each result is saved as a line")
    parser.add_argument("--timeout", type=int, default=1200, help="seconds a network may take (default 1200)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.names[0])))
        return 0

    from zoo.plugin import Architecture, registry

    names = options.names or [item.name for item in registry.load().all(Architecture) if isinstance(item, Architecture)]
    rows = {}
    if options.json and options.json.exists():
        rows = {row["name"]: row for row in map(json.loads, options.json.read_text().splitlines())}
    failed = []
    for name in names:
        if name in rows:
            continue
        try:
            done = subprocess.run(
                [sys.executable, __file__, "--one", name],
                capture_output=True,
                text=True,
                timeout=options.timeout,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            )
            said = (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}; out of memory?"])[-1]
            problem = said if done.returncode else ""
        except subprocess.TimeoutExpired:
            problem = f"took more than {options.timeout} s"
        if problem:
            failed.append(name)
            print(f"{name}: {problem}", file=sys.stderr, flush=True)
            continue
        rows[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
        if options.json:
            with options.json.open("a") as stream:
                stream.write(json.dumps(rows[name]) + "\n")
    print(table([rows[name] for name in names if name in rows]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
