"""Runs the engines that `benchmarks/predict.py` compares, and prepares their files.

`predict.py` runs this file as a script:

    python benchmarks/predict_engines.py serve ENGINE FILES THREADS     measure on request until the input ends
    python benchmarks/predict_engines.py folder ENGINE FILES FOLDER     print the seconds for a folder of pictures
    python benchmarks/predict_engines.py prepare RUN PHOTOGRAPHS FOLDER write LiteRT's files and the pictures

FILES is a JSON object that maps the name of an engine, or "keras", to the path of its network. Its key "side" has the
height and width of the input in pixels, as text.
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

SIZES = {"0.2 MP": (400, 500), "2 MP": (1200, 1667), "12 MP": (3000, 4000)}
PHOTOGRAPHS = 6
CALIBRATION = 128


class Engine:
    """One engine, which turns JPEG bytes into the index of a class.

    Args:
        name: One of `ENGINES` in `predict.py`.
        files: Maps the name of an engine, or "keras", to the path of its network.
        threads: The number of threads.
    """

    def __init__(self, name: str, files: dict[str, str], threads: int):
        self.name, self.files, self.threads = name, files, threads
        from zoo_runtime import Predictor

        self.ours = Predictor(files[name if name.startswith("zoo") else "zoo"], threads=threads, tuned=False)
        self.side = self.ours.info.image.size[0]
        self.network, self.theirs = self._open()

    def decode(self, jpeg: bytes, decoder: str) -> Any:
        return self.theirs(jpeg) if self.theirs and decoder == "theirs" else self.ours.decode(jpeg)[None]

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
    """Answer requests for measurements until the input ends. Requests and answers are lines of JSON.

    Args:
        name: The engine.
        files: The files of the networks, see `Engine`.
        threads: The number of threads, and of cores on which the process may run.
    """
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))
    engine = Engine(name, files, threads)
    out = os.fdopen(os.dup(1), "w")
    # Only answers may reach the requesting process, so the output of libraries is discarded.
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
            started = time.perf_counter()
            if part == "decode":
                engine.decode(jpeg, decoder)
            elif part == "network":
                engine.network(decoded[i])
            else:
                labels.append(engine.label(jpeg, decoder))
            seconds.append(time.perf_counter() - started)
        print(json.dumps({"seconds": seconds, "labels": labels}), file=out, flush=True)


# The shortest program that a user of an engine would write for one picture. Its arguments are the file of the network,
# the side in pixels, and the picture.
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
    """Label all pictures of a folder with the function that an engine offers for that, and print the seconds.

    The time to load the network is not included.

    Args:
        name: The engine.
        files: The files of the networks, see `Engine`. "side" is the height and width of the input in pixels.
        folder: Contains the pictures as .jpg files, also in subfolders.
    """
    paths = sorted(str(path) for path in Path(folder).rglob("*.jpg"))
    side = int(files["side"])
    if name.startswith("zoo"):
        from zoo_runtime import Predictor

        predictor = Predictor(files[name], tuned=False)
        predictor(paths[0])
        started = time.perf_counter()
        labels: list[Any] = [result for _, result in predictor.predict_folder(folder)]
    elif name.startswith("LiteRT"):
        engine = Engine(name, files, os.cpu_count() or 1)
        engine.label(Path(paths[0]).read_bytes(), "theirs")
        started = time.perf_counter()
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
        started = time.perf_counter()
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
        started = time.perf_counter()
        labels = list(model.predict(pictures, verbose=0))
    seconds = time.perf_counter() - started
    assert len(labels) == len(paths), (len(labels), len(paths))
    print(json.dumps(seconds))


def prepare(run: str, photographs: str, target: str) -> None:
    """Write what `predict.py` needs: the network as LiteRT files (float32 and int8), the pictures, and the input size.

    Args:
        run: A run folder.
        photographs: A folder of photographs, for calibration and as pictures to time.
        target: The folder to write to.
    """
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


def photographs_of(folder: str, count: int) -> list[Path]:
    found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    return random.Random(0).sample(found, min(count, len(found)))


def write_pictures(photographs: str, target: Path, sizes: Sequence[str] = tuple(SIZES)) -> None:
    """Save some photographs in each of `SIZES` as JPEG, with a little noise, and one of 12 megapixels as PNG.

    Args:
        photographs: The folder of the photographs.
        target: The folder to write to.
        sizes: Which of `SIZES`.
    """
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for size in sizes:
        height, width = SIZES[size]
        for i, path in enumerate(photographs_of(photographs, PHOTOGRAPHS)):
            image = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
            noisy = np.asarray(image, np.int16) + rng.normal(0, 3, (height, width, 1)).round().astype(np.int16)
            image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
            image.save(picture(target, size, i), quality=90)
    if "12 MP" in sizes:
        image.save(target / "12MP.png")


def picture(folder: Path, size: str, number: int) -> Path:
    return folder / f"{size.replace(' ', '')}-{number}.jpg"


def main() -> None:
    command, *arguments = sys.argv[1:]
    if command == "serve":
        serve(arguments[0], json.loads(arguments[1]), int(arguments[2]))
    elif command == "folder":
        whole_folder(arguments[0], json.loads(arguments[1]), arguments[2])
    else:
        prepare(*arguments)


if __name__ == "__main__":
    main()
