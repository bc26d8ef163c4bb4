"""From JPEG bytes to a label: zoo_runtime beside LiteRT, OpenVINO, Keras `predict` and a tf.function, in one run.

    pip install '.[benchmark]'
    python benchmarks/predict.py RUN PHOTOGRAPHS [--rounds 10] [--threads 1,2]

RUN is a run folder with model.keras, model.onnx and model-int8.onnx (`zoo export RUN --int8 --int8-any-speed`): one
trained network for all. PHOTOGRAPHS is a folder of training pictures: LiteRT's int8 file is calibrated on them, and
some are enlarged to 0.2, 2 and 12 megapixels, with a little noise, as a camera has it, and saved as JPEG of quality 90
(seed 0).

Each engine is a process that stays; they take turns, one measurement each, a round through all of them after the other.
Every engine but ours is measured with the decoder that its users take, and with ours:

- LiteRT (ai-edge-litert): Pillow's `Image.open(...).convert("RGB").resize(...)`, as its examples do
- OpenVINO, on the same .onnx files: OpenCV's `imdecode` and `resize`, as its notebooks do
- Keras: `keras.utils.load_img` and `model.predict`
- a tf.function: `tf.io.decode_jpeg` and `tf.image.resize`

Then whole processes: from their start to the first label, and their peak memory. Then a folder of photographs, by what
each offers for that. At last sizes, and the limit: operations of the network over what a matrix product reaches here.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

SIZES = {"0.2 MP": (400, 500), "2 MP": (1200, 1667), "12 MP": (3000, 4000)}
PHOTOGRAPHS = 6
FOLDER = 512
CALIBRATION = 128
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


# What runs in the processes


class Engine:
    """One engine: from JPEG bytes to the index of a class."""

    def __init__(self, name: str, files: dict[str, str], threads: int):
        self.name, self.files, self.threads = name, files, threads
        from zoo_runtime import Predictor

        self.ours = Predictor(files["zoo int8" if name == "zoo int8" else "zoo"], threads=threads, tuned=False)
        self.side = self.ours.info.image.size[0]
        self.network, self.theirs = self._open()

    def decode(self, jpeg: bytes, decoder: str) -> Any:
        return self.ours.decode(jpeg)[None] if decoder == "ours" else self.theirs(jpeg)

    def label(self, jpeg: bytes, decoder: str) -> int:
        import numpy as np

        if self.name.startswith("zoo"):
            return self.ours.info.classes.index(self.ours(jpeg).label)
        return int(np.asarray(self.network(self.decode(jpeg, decoder)))[0].argmax())

    def _open(self) -> tuple[Callable, Callable | None]:
        if self.name.startswith("zoo"):
            return self.ours.probabilities, None
        if self.name.startswith("LiteRT"):
            return self._litert()
        if self.name.startswith("OpenVINO"):
            return self._openvino()
        return self._keras()

    def _litert(self) -> tuple[Callable, Callable]:
        import numpy as np
        from ai_edge_litert.interpreter import Interpreter
        from PIL import Image

        interpreter = Interpreter(self.files[self.name], num_threads=self.threads)
        interpreter.allocate_tensors()
        taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

        def network(pixels: Any) -> Any:
            interpreter.set_tensor(taken["index"], pixels.astype(taken["dtype"]))
            interpreter.invoke()
            return interpreter.get_tensor(given["index"])

        def theirs(jpeg: bytes) -> Any:
            image = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((self.side, self.side))
            return np.asarray(image)[None]

        return network, theirs

    def _openvino(self) -> tuple[Callable, Callable]:
        import cv2
        import numpy as np

        cv2.setNumThreads(self.threads)
        request = open_vino(self.name, self.files, self.threads).create_infer_request()

        def network(pixels: Any) -> Any:
            return request.infer({0: pixels})[0]

        def theirs(jpeg: bytes) -> Any:
            image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            return cv2.cvtColor(cv2.resize(image, (self.side, self.side)), cv2.COLOR_BGR2RGB)[None]

        return network, theirs

    def _keras(self) -> tuple[Callable, Callable]:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(self.threads)
        import keras
        import numpy as np

        model = keras.models.load_model(self.files["keras"], compile=False)
        if self.name == "Keras predict":

            def load(jpeg: bytes) -> Any:
                image = keras.utils.load_img(io.BytesIO(jpeg), target_size=(self.side, self.side))
                return keras.utils.img_to_array(image)[None]

            return lambda pixels: model.predict(np.asarray(pixels, "float32"), verbose=0), load

        @tf.function(input_signature=[tf.TensorSpec((None, self.side, self.side, 3), tf.float32)])
        def serve(pixels: Any) -> Any:
            return model(pixels, training=False)

        def decode(jpeg: bytes) -> Any:
            return tf.image.resize(tf.io.decode_jpeg(jpeg, channels=3), (self.side, self.side))[None]

        return lambda pixels: serve(tf.cast(pixels, tf.float32)).numpy(), decode


def open_vino(name: str, files: dict[str, str], threads: int) -> Any:
    import openvino

    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if name == "OpenVINO f32":
        options["INFERENCE_PRECISION_HINT"] = "f32"
    return openvino.Core().compile_model(files["zoo int8" if name.endswith("int8") else "zoo"], "CPU", options)


def serve(name: str, files: dict[str, str], threads: int) -> None:
    """Answer the measurements that are asked for, a line each, until the input ends."""
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))
    engine = Engine(name, files, threads)
    out = os.fdopen(os.dup(1), "w")
    # What libraries print goes nowhere, and nothing but answers to the one who asks.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    print(json.dumps("ready"), file=out, flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        jpegs = [Path(path).read_bytes() for path in ask["pictures"]]
        decoder, part = ask["decoder"], ask["part"]
        decoded = [engine.decode(jpeg, decoder) for jpeg in jpegs] if part == "network" else []
        seconds, labels = [], []
        for i, jpeg in enumerate(jpegs):
            begun = time.perf_counter()
            if part == "decode":
                engine.decode(jpeg, decoder)
            elif part == "network":
                engine.network(decoded[i])
            else:
                labels.append(engine.label(jpeg, decoder))
            seconds.append(time.perf_counter() - begun)
        print(json.dumps({"seconds": seconds, "labels": labels}), file=out, flush=True)


# The shortest program that a user of an engine writes for one picture: sys.argv is the file, the side and the picture.
FIRST_LABEL = {
    "zoo": """
import sys
from zoo_runtime import Predictor
print(Predictor(sys.argv[1])(sys.argv[3]).label, flush=True)
""",
    "LiteRT": """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
interpreter = Interpreter(sys.argv[1])
interpreter.allocate_tensors()
taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
image = Image.open(sys.argv[3]).convert("RGB").resize((int(sys.argv[2]),) * 2)
interpreter.set_tensor(taken["index"], np.asarray(image)[None].astype(taken["dtype"]))
interpreter.invoke()
print(interpreter.get_tensor(given["index"]).argmax(), flush=True)
""",
    "OpenVINO": """
import sys
import cv2
import openvino
model = openvino.Core().compile_model(sys.argv[1], "CPU")
image = cv2.resize(cv2.imread(sys.argv[3]), (int(sys.argv[2]),) * 2)
print(model(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)[None])[0].argmax(), flush=True)
""",
    "Keras predict": """
import sys
import keras
model = keras.models.load_model(sys.argv[1], compile=False)
image = keras.utils.load_img(sys.argv[3], target_size=(int(sys.argv[2]),) * 2)
print(model.predict(keras.utils.img_to_array(image)[None], verbose=0).argmax(), flush=True)
""",
}


def whole_folder(name: str, files: dict[str, str], folder: str) -> None:
    """Label all pictures of a folder by what an engine offers for that; prints seconds, without loading."""
    paths = sorted(str(path) for path in Path(folder).rglob("*.jpg"))
    side = int(files["side"])
    if name.startswith("zoo"):
        from zoo_runtime import Predictor

        predictor = Predictor(files[name], tuned=False)
        predictor(paths[0])
        begun = time.perf_counter()
        labels = [result.label for _, result in predictor.predict_folder(folder)]
    elif name.startswith("LiteRT"):
        engine = Engine(name, files, os.cpu_count() or 1)
        engine.label(Path(paths[0]).read_bytes(), "theirs")
        begun = time.perf_counter()
        labels = [engine.label(Path(path).read_bytes(), "theirs") for path in paths]
    elif name.startswith("OpenVINO"):
        import cv2
        import numpy as np
        import openvino

        options = {"PERFORMANCE_HINT": "THROUGHPUT"}
        model = openvino.Core().compile_model(files["zoo int8" if name.endswith("int8") else "zoo"], "CPU", options)
        queue = openvino.AsyncInferQueue(model)
        labels = []
        model(np.zeros((1, side, side, 3), np.uint8))
        queue.set_callback(lambda request, _: labels.append(request.get_output_tensor(0).data.argmax()))
        begun = time.perf_counter()
        for path in paths:
            image = cv2.resize(cv2.imread(path), (side, side))
            queue.start_async({0: cv2.cvtColor(image, cv2.COLOR_BGR2RGB)[None]})
        queue.wait_all()
    else:
        import keras

        model = keras.models.load_model(files["keras"], compile=False)
        pictures = keras.utils.image_dataset_from_directory(
            folder, labels=None, image_size=(side, side), shuffle=False, verbose=False
        )
        model.predict(pictures.take(1), verbose=0)
        begun = time.perf_counter()
        labels = list(model.predict(pictures, verbose=0))
    seconds = time.perf_counter() - begun
    assert len(labels) == len(paths), (len(labels), len(paths))
    print(json.dumps(seconds))


def prepare(run: str, photographs: str, target: str) -> None:
    """LiteRT's files of the run's network, by TensorFlow's converter, and the pictures; prints the network's side."""
    import keras
    import tensorflow as tf

    from zoo_runtime import Predictor

    predictor = Predictor(f"{run}/model.onnx")
    model = keras.models.load_model(f"{run}/model.keras", compile=False)
    Path(target, "float32.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    chosen = photographs_of(photographs, CALIBRATION)

    def pictures() -> Iterator[list]:
        for path in chosen:
            yield [predictor.decode(path)[None].astype("float32")]

    converter.representative_dataset = pictures
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    Path(target, "int8.tflite").write_bytes(converter.convert())
    write_pictures(photographs, Path(target))
    Path(target, "side").write_text(str(predictor.info.image.size[0]))


# What runs them


def photographs_of(folder: str, count: int) -> list[Path]:
    found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    return random.Random(0).sample(found, min(count, len(found)))


def write_pictures(photographs: str, target: Path) -> None:
    """Some photographs at each size, as JPEG and one of 12 megapixels as PNG."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for size, (height, width) in SIZES.items():
        for i, path in enumerate(photographs_of(photographs, PHOTOGRAPHS)):
            image = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
            noisy = np.asarray(image, np.int16) + rng.normal(0, 3, (height, width, 1)).round().astype(np.int16)
            image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
            image.save(picture(target, size, i), quality=90)
    image.save(target / "12MP.png")


def picture(folder: Path, size: str, number: int) -> Path:
    return folder / f"{size.replace(' ', '')}-{number}.jpg"


class Process:
    """A process that holds an engine and answers measurements."""

    def __init__(self, name: str, files: dict[str, str], threads: int):
        command = [sys.executable, __file__, "--serve", name, json.dumps(files), str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quiet())
        self._read()

    def ask(self, pictures: list[str], decoder: str, part: str) -> dict[str, Any]:
        self.process.stdin.write(json.dumps({"pictures": pictures, "decoder": decoder, "part": part}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a process ended: {self.process.args}")
        return json.loads(line)

    def end(self) -> None:
        self.process.stdin.close()
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
                parts = ("all", "network") if size == "0.2 MP" else ("all",)
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
    """Run a process; return seconds to its last line, its peak memory in MB (10^6 bytes), and that line."""
    with tempfile.TemporaryFile() as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=quiet())
        lines = [(line, time.perf_counter() - begun) for line in process.stdout]
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
            text = run([sys.executable, __file__, "--folder", name, json.dumps(files), str(folder)])[2]
            best.setdefault(name, []).append(float(text.split()[-1]))
    print(f"\na folder of {count} photographs, pictures a second (best of {rounds}), loading not counted")
    for name in names:
        print(f"{name:15} {count / min(best[name]):8.0f}")


def operations(path: str) -> float:
    """Multiplications and additions of a network for one picture, in units of 10^9."""
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
    """What a product of float32 matrices reaches on all cores, in 10^9 operations a second."""
    import numpy as np

    a = np.random.default_rng(0).random((2048, 2048), dtype=np.float32)
    best = float("inf")
    for _ in range(10):
        begun = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - begun)
    return 2 * 2048**3 / best / 1e9


def installed_size(names: tuple[str, ...]) -> float | None:
    """Bytes of distributions and of all that they need, in MB; None where one of them is not installed."""
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
            # What is needed by some other system alone is not here either.
            if name in names:
                return None
            continue
        for file in distribution.files or ():
            path = Path(distribution.locate_file(file))
            total += path.stat().st_size if path.is_file() else 0
        for requirement in distribution.requires or ():
            if "extra ==" not in requirement:
                waiting.append(re.match(r"[\w.-]+", requirement)[0])
    return total / 1e6


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        return serve(sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]))
    if sys.argv[1:2] == ["--folder"]:
        return whole_folder(sys.argv[2], json.loads(sys.argv[3]), sys.argv[4])
    if sys.argv[1:2] == ["--prepare"]:
        return prepare(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("photographs")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", choices=["latency", "start", "folder", "sizes"], help="measure this alone")
    parser.add_argument("--threads", type=lambda text: [int(t) for t in text.split(",")], default=[1, 2])
    options = parser.parse_args()
    for name in ("model.keras", "model.onnx", "model-int8.onnx"):
        if not (options.run / name).is_file():
            parser.error(f"{str(options.run)!r} has no {name}; see above how it is made")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # In a process of its own: a child begins with its parent's peak of memory, so this one stays small.
        subprocess.run(
            [sys.executable, __file__, "--prepare", str(options.run), options.photographs, folder],
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
