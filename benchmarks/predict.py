"""Times the prediction from JPEG bytes to a label in zoo_runtime, LiteRT, OpenVINO, Keras `predict` and a tf.function.

    pip install '.[benchmark]'
    python benchmarks/predict.py RUN PHOTOGRAPHS [--rounds 10] [--threads 1,2]

RUN is a run folder with model.keras, model.onnx and model-int8.onnx (`zoo export RUN --int8 --int8-any-speed`), so that
all engines run the same trained network. PHOTOGRAPHS is a folder of training pictures, with which LiteRT's int8 file is
calibrated. The timed pictures are some of these photographs, resized to 0.2, 2 and 12 megapixels. A little noise (seed
0) makes them resemble pictures of a camera. They are saved as JPEG of quality 90.

Each engine has a process of its own, which runs until all rounds are done. A round measures all engines in turn. The
engines other than zoo_runtime are measured twice: with the decoder of zoo_runtime ("ours"), and with the decoder that
their users usually choose ("theirs"):

- LiteRT (ai-edge-litert): Pillow's `Image.open(...).convert("RGB").resize(...)`, as in its examples
- OpenVINO, on the same .onnx files: OpenCV's `imdecode` and `resize`, as in its notebooks
- Keras: `keras.utils.load_img` and `model.predict`
- a tf.function: `tf.io.decode_jpeg` and `tf.image.resize`

The second part measures whole processes, from their start to the first label, with their peak memory. In the third
part, each engine labels a folder of photographs with the function that it offers for this purpose. The last part prints
sizes and a limit: the operations of the network, divided by the operations per second of a matrix product on this
machine.

`--only formats` prints another table: every file that the run has, in ONNX and in the formats of `--as`, through
zoo_runtime and the engine of the file, with its accuracy on the test pictures, its size and its speed.

    zoo export RUN --as int8,litert,litert-int8,openvino,openvino-fp16,openvino-int8 --int8-any-speed
    python benchmarks/predict.py RUN PHOTOGRAPHS --only formats
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from predict_engines import FIRST_LABEL, PHOTOGRAPHS, SIZES, photographs_of, picture, write_pictures

SCRIPT = Path(__file__).with_name("predict_engines.py")
FOLDER = 512
ENGINES = (
    *("zoo", "zoo int8", "LiteRT", "LiteRT int8", "OpenVINO", "OpenVINO f32", "OpenVINO int8"),
    *("Keras predict", "tf.function"),
)
DISTRIBUTIONS = {
    "zoo": ("onnxruntime", "numpy", "pillow"),
    "LiteRT": ("ai-edge-litert", "numpy", "pillow"),
    "OpenVINO": ("openvino", "numpy", "opencv-python-headless"),
    "Keras predict": ("tensorflow", "pillow"),
}


class Process:
    """A process that runs one engine and answers requests for measurements.

    Args:
        name: One of `ENGINES`.
        files: Maps the name of an engine, or "keras", to the path of its network.
        threads: The number of threads of the engine.
    """

    def __init__(self, name: str, files: dict[str, str], threads: int):
        command = [sys.executable, str(SCRIPT), "serve", name, json.dumps(files), str(threads)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quiet())
        assert process.stdin and process.stdout
        self.process, self._questions, self._answers = process, process.stdin, process.stdout
        self._read()

    def ask(self, pictures: list[str], decoder: str, part: str) -> dict[str, Any]:
        self._questions.write(json.dumps({"pictures": pictures, "decoder": decoder, "part": part}) + "\n")
        self._questions.flush()
        return self._read()

    def _read(self) -> Any:
        line = self._answers.readline()
        if not line:
            raise SystemExit(f"a process ended: {self.process.args!r}")
        return json.loads(line)

    def end(self) -> None:
        self._questions.close()
        self.process.wait()


def quiet() -> dict[str, str]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"}


def sides() -> list[tuple[str, str]]:
    found = []
    for engine in ENGINES:
        found += [(engine, "ours")] if engine.startswith("zoo") else [(engine, "theirs"), (engine, "ours")]
    return found


def percentiles(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return "  ".join(f"{1000 * ordered[min(len(ordered) - 1, int(q * len(ordered)))]:7.2f}" for q in (0.5, 0.9, 0.99))


def measure_latency(files: dict[str, str], pictures: dict[str, list[str]], threads: int, rounds: int) -> None:
    processes = {name: Process(name, files, threads) for name in ENGINES}
    labels = {}
    for warm in pictures.values():
        for name, decoder in sides():
            labels[name, decoder, warm[0]] = processes[name].ask(warm, decoder, "all")["labels"]
    taken: dict[tuple, list[float]] = {}
    for _ in range(rounds):
        for size, paths in pictures.items():
            for name, decoder in sides():
                parts: tuple[str, ...] = ("all", "network") if size == "0.2 MP" else ("all",)
                parts += ("decode",) if name in ("zoo", "LiteRT", "OpenVINO f32", "tf.function") else ()
                for part in parts:
                    answer = processes[name].ask(paths, decoder, part)
                    taken.setdefault((name, decoder, size, part), []).extend(answer["seconds"])
    for process in processes.values():
        process.end()
    print(f"\n{threads} thread{'s' if threads > 1 else ''}, milliseconds: p50 p90 p99 of {rounds * PHOTOGRAPHS}")
    print(f"{'':15} {'decoder':8}" + "".join(f"{size:>28}" for size in pictures) + f"{'network alone':>28}")
    for name, decoder in sides():
        cells = [percentiles(taken[name, decoder, size, "all"]) for size in pictures]
        cells.append(percentiles(taken[name, decoder, "0.2 MP", "network"]))
        same = sum(
            labels[name, decoder, paths[0]][i] == labels["zoo", "ours", paths[0]][i]
            for paths in pictures.values()
            for i in range(len(paths))
        )
        count = sum(map(len, pictures.values()))
        note = "" if same == count else f"   ({same} of {count} labels as zoo's)"
        print(f"{name:15} {decoder:8}" + "".join(f"{cell:>28}" for cell in cells) + note)
    print("decoder alone, p50 p90 p99")
    for name, decoder in (("zoo", "ours"), ("LiteRT", "theirs"), ("OpenVINO f32", "theirs"), ("tf.function", "theirs")):
        cells = [percentiles(taken[name, decoder, size, "decode"]) for size in pictures]
        print(f"{'of ' + name:24}" + "".join(f"{cell:>28}" for cell in cells))


def run(command: list[str]) -> tuple[float, float, str]:
    """Run a process, and stop the script if it fails.

    Returns:
        The seconds from the start of the process to its last line of output, its peak memory in MB (10^6 bytes), and
        this line.
    """
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=quiet())
        assert process.stdout
        lines = [(line, time.perf_counter() - started) for line in process.stdout]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        if process.returncode or not lines:
            raise SystemExit(f"{command} exits with {process.returncode}: {errors.read().decode()[-2000:]}")
    line, seconds = lines[-1]
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, line.decode()


def measure_start(files: dict[str, str], pictures: dict[str, list[str]], png: str, rounds: int) -> None:
    def command(name: str, picture: str) -> list[str]:
        (program,) = [code for engine, code in FIRST_LABEL.items() if name.startswith(engine)]
        file = files.get(name) or files["zoo int8" if name.endswith("int8") else "zoo"]
        if name == "Keras predict":
            file = files["keras"]
        return [sys.executable, "-c", program, file, files["side"], picture]

    names = [name for name in ENGINES if name not in ("OpenVINO f32", "tf.function")]
    columns = {size: paths[0] for size, paths in pictures.items()} | {"12 MP PNG": png}
    taken: dict[tuple[str, str], list[tuple[float, float, str]]] = {}
    for i in range(rounds + 1):
        for name in names:
            for column, path in columns.items():
                result = run(command(name, path))
                if i:
                    taken.setdefault((name, column), []).append(result)
    print(f"\nfrom the start of a process to the first label, seconds (median of {rounds}); peak memory, MB")
    print(f"{'':15}" + "".join(f"{column:>20}" for column in columns))
    for name in names:
        cells = [
            f"{statistics.median(t[0] for t in taken[name, c]):.3f} {max(t[1] for t in taken[name, c]):8.0f}"
            for c in columns
        ]
        print(f"{name:15}" + "".join(f"{cell:>20}" for cell in cells))


def measure_folder(files: dict[str, str], folder: Path, rounds: int) -> None:
    count = len(list(folder.rglob("*.jpg")))
    names = [name for name in ENGINES if name not in ("OpenVINO f32", "tf.function")]
    best: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name in names:
            text = run([sys.executable, str(SCRIPT), "folder", name, json.dumps(files), str(folder)])[2]
            best.setdefault(name, []).append(float(text.split()[-1]))
    print(f"\na folder of {count} photographs, pictures a second (best of {rounds}), loading not counted")
    for name in names:
        print(f"{name:15} {count / min(best[name]):8.0f}")


def files_of(run: Path) -> dict[str, Path]:
    """Return the main files of a run: ONNX, its variants, and the other formats."""
    found = {"zoo": run / "model.onnx"}
    found |= {f"zoo {path.stem.removeprefix('model-')}": path for path in sorted(run.glob("model-*.onnx"))}
    for folder in sorted(run.glob("formats/*/")):
        (main,) = (path for path in folder.iterdir() if path.suffix in (".tflite", ".xml"))
        found[f"zoo {folder.name}"] = main
    return found


def test_pictures(run: Path) -> tuple[list[str], list[int]]:
    """Return the paths of the test pictures of a run, and the indices of their classes."""
    import csv

    record = json.loads((run / "run.json").read_text("utf-8"))
    with (run / "pictures.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["part"] == "test"]
    root = Path(record["options"]["data"])
    return [str(root / row["picture"]) for row in rows], [record["classes"].index(row["class"]) for row in rows]


def measure_formats(run: Path, pictures: list[str], threads: list[int], rounds: int) -> None:
    """Print the table of all files of a run: accuracy, size, and medians of the times.

    Args:
        run: The run folder.
        pictures: Photographs of 0.2 megapixels to time.
        threads: The numbers of threads to time with.
        rounds: How often each file is timed, all files in turn.
    """
    files, (tested, classes) = files_of(run), test_pictures(run)
    paths = {name: str(path) for name, path in files.items()}
    taken: dict[tuple[str, int, str], list[float]] = {}
    right = {}
    for count in threads:
        processes = {name: Process(name, paths, count) for name in files}
        if not right:
            for name, process in processes.items():
                labels = process.ask(tested, "ours", "all")["labels"]
                right[name] = sum(a == b for a, b in zip(labels, classes, strict=True))
        for process in processes.values():
            process.ask(pictures, "ours", "network")
        for _ in range(rounds):
            for name, process in processes.items():
                for part in ("network", "all"):
                    taken.setdefault((name, count, part), []).extend(process.ask(pictures, "ours", part)["seconds"])
        for process in processes.values():
            process.end()
    timed = [(count, part) for count in threads for part in ("network", "all")]
    print(f"\n{len(tested)} test pictures; milliseconds per picture, p50 of {rounds * len(pictures)}")
    heads = [f"{'from JPEG' if part == 'all' else 'network'}, {count} thr." for count, part in timed]
    print(f"{'file':16} {'MB':>6} {'accuracy':>9} " + "".join(f"{head:>19}" for head in heads))
    for name, path in files.items():
        size = sum(each.stat().st_size for each in path.parent.glob("*") if each.stem == path.stem) / 1e6
        size = path.stat().st_size / 1e6 if path.suffix == ".onnx" else size
        cells = [f"{1000 * statistics.median(taken[name, count, part]):19.2f}" for count, part in timed]
        label = "onnx" if name == "zoo" else name.removeprefix("zoo ")
        print(f"{label:16} {size:6.2f} {right[name] / len(tested):9.4f} " + "".join(cells))


def operations(path: str) -> float:
    """Count the multiplications and additions that a network needs for one picture, in units of 10^9.

    Args:
        path: The .onnx file.
    """
    import onnx
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(onnx.load(path)).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    count = 0
    for node in graph.node:
        kernel = next((weights[name] for name in node.input[1:2] if name in weights), None)
        if node.op_type == "Conv" and kernel:
            height, width = (dim.dim_value for dim in shapes[node.output[0]][2:])
            count += 2 * height * width * kernel[0] * kernel[1] * kernel[2] * kernel[3]
        elif node.op_type in ("Gemm", "MatMul") and kernel:
            count += 2 * kernel[0] * kernel[1]
    return count / 1e9


def matrix_peak() -> float:
    """Measure how many 10^9 operations per second a product of float32 matrices reaches on all cores."""
    import numpy as np

    a = np.random.default_rng(0).random((2048, 2048), dtype=np.float32)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started)
    return 2 * 2048**3 / best / 1e9


def installed_size(names: tuple[str, ...]) -> float | None:
    """Return the size of some distributions with all their dependencies, in MB (10^6 bytes).

    Args:
        names: The names of the distributions.

    Returns:
        The size, or None if one of `names` is not installed.
    """
    import re

    waiting, seen, total = list(names), set(), 0
    while waiting:
        name = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in seen:
            continue
        seen.add(key)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            # A dependency that only other systems need is not installed, and does not count.
            if name in names:
                return None
            continue
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            total += path.stat().st_size if path.is_file() else 0
        for requirement in distribution.requires or ():
            if "extra ==" not in requirement:
                waiting += re.findall(r"^[\w.-]+", requirement)
    return total / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("photographs")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", choices=["latency", "start", "folder", "sizes", "formats"], help="measure this alone")
    parser.add_argument("--threads", type=lambda text: [int(t) for t in text.split(",")], default=[1, 2])
    options = parser.parse_args()
    if options.only == "formats":
        with tempfile.TemporaryDirectory() as folder:
            write_pictures(options.photographs, Path(folder), ["0.2 MP"])
            pictures = [str(picture(Path(folder), "0.2 MP", i)) for i in range(PHOTOGRAPHS)]
            measure_formats(options.run, pictures, options.threads, options.rounds)
        return
    for name in ("model.keras", "model.onnx", "model-int8.onnx"):
        if not (options.run / name).is_file():
            parser.error(f"{str(options.run)!r} has no {name}; make it with `zoo export RUN --int8 --int8-any-speed`")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # This runs in a separate process, because the peak memory of a child includes that of its parent at the start.
        subprocess.run(
            [sys.executable, str(SCRIPT), "prepare", str(options.run), options.photographs, folder],
            check=True,
            env=quiet(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        files = {
            "zoo": str(options.run / "model.onnx"),
            "zoo int8": str(options.run / "model-int8.onnx"),
            "LiteRT": str(root / "float32.tflite"),
            "LiteRT int8": str(root / "int8.tflite"),
            "keras": str(options.run / "model.keras"),
        }
        files["side"] = (root / "side").read_text()
        pictures = {size: [str(picture(root, size, i)) for i in range(PHOTOGRAPHS)] for size in SIZES}
        if options.only in (None, "latency"):
            for threads in options.threads:
                measure_latency(files, pictures, threads, options.rounds)
        if options.only in (None, "start"):
            measure_start(files, pictures, str(root / "12MP.png"), options.rounds)
        if options.only in (None, "folder"):
            many = root / "folder"
            many.mkdir()
            for path in photographs_of(options.photographs, FOLDER):
                (many / path.name).write_bytes(path.read_bytes())
            measure_folder(files, many, 3)
        if options.only in (None, "sizes"):
            print_sizes(files)


def print_sizes(files: dict[str, str]) -> None:
    print("\nfiles, MB")
    for name in ("zoo", "zoo int8", "LiteRT", "LiteRT int8", "keras"):
        print(f"{name:15} {os.path.getsize(files[name]) / 1e6:8.1f}")
    print("\ninstalled, with all that is needed, MB")
    for name, distributions in DISTRIBUTIONS.items():
        size = installed_size(distributions)
        shown = "not installed" if size is None else f"{size:8.0f}"
        print(f"{name:15} {shown}   {', '.join(distributions)}")
    work, peak = operations(files["zoo"]), matrix_peak()
    print(f"\nlimit: {work:.2f} x 10^9 operations at {peak:.0f} x 10^9 a second: {1000 * work / peak:.2f} ms")


if __name__ == "__main__":
    main()
