"""One wrapper around tf2onnx: a Keras network becomes an ONNX graph with names of ours.

`from_function` with a signature is used because `tf2onnx.convert.from_keras` fails on Sequential models and broke
repeatedly (https://github.com/onnx/tensorflow-onnx/issues/2319). Where Keras computes with another backend, the
conversion runs in a child process on TensorFlow.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from zoo import backend
from zoo.errors import ConversionFailed

if TYPE_CHECKING:
    import keras

OPSET = 17
INPUT, PROBABILITIES, LOGITS = "image", "probabilities", "logits"


def convert(model: keras.Model) -> onnx.ModelProto:
    """Convert a network.

    Args:
        model: One input, float32 (batch, height, width, channels) in 0..255, and layers called `logits` and
            `probabilities`, the latter its output.

    Returns:
        A graph with the input `image`, uint8 [batch, height, width, channels], and the outputs `probabilities` and
        `logits`, float32 [batch, classes].

    Raises:
        ConversionFailed: tf2onnx refuses the network or gives an invalid graph.
    """
    graph = _convert_here(model) if backend.runs_on_tensorflow() else _convert_in_child(model)
    _tidy(graph)
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionFailed(f"tf2onnx gave an invalid graph: {error}") from error
    return graph


def without_logits(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a converted graph whose only output is `probabilities`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    kept = [output for output in copy.graph.output if output.name != LOGITS]
    del copy.graph.output[:]
    copy.graph.output.extend(kept)
    return copy


def _convert_here(model: keras.Model) -> onnx.ModelProto:
    import keras
    import tensorflow as tf
    import tf2onnx

    for name in ("tf2onnx", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    both = keras.Model(model.input, [model.get_layer(PROBABILITIES).output, model.get_layer(LOGITS).output])

    @tf.function(
        input_signature=[tf.TensorSpec((None, *model.input.shape[1:]), tf.uint8, name=INPUT)], jit_compile=False
    )
    def serve(image):
        probabilities, logits = both(tf.cast(image, tf.float32), training=False)
        return {PROBABILITIES: probabilities, LOGITS: logits}

    try:
        with _interrupts_held():
            graph, _ = tf2onnx.convert.from_function(serve, input_signature=serve.input_signature, opset=OPSET)
    except Exception as error:
        # tf2onnx and TensorFlow share no base class of their errors.
        raise ConversionFailed(f"tf2onnx cannot convert the network: {error}") from error
    # Outputs of a dictionary come in the order of its sorted keys, under names of TensorFlow's.
    _rename(graph.graph, {graph.graph.output[0].name: LOGITS, graph.graph.output[1].name: PROBABILITIES})
    _rename(graph.graph, {graph.graph.input[0].name: INPUT})
    return graph


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait: tf2onnx has `except:` clauses that would swallow it, and the export would go on."""
    # Handlers are the main thread's; and who ignores Ctrl-C, as a shell's background jobs do, goes on ignoring it.
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return
    held: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held:
            raise KeyboardInterrupt


def _convert_in_child(model: keras.Model) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="zoo-convert-") as folder:
        source, target = Path(folder, "model.keras"), Path(folder, "model.onnx")
        model.save(source)
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(source), str(target)],
            env={**os.environ, "KERAS_BACKEND": "tensorflow"},
            capture_output=True,
            text=True,
        )
        if done.returncode or not target.exists():
            raise ConversionFailed(f"the conversion in a process of its own failed:\n{done.stderr[-2000:]}")
        return onnx.load(target)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for value in [*graph.input, *graph.output]:
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for ends in (node.input, node.output):
            for i, name in enumerate(ends):
                ends[i] = names.get(name, name)


def _tidy(model: onnx.ModelProto) -> None:
    """Name the batch, drop tf2onnx's guesses at inner shapes and its notes."""
    graph = model.graph
    for value in [*graph.input, *graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
        value.doc_string = ""
    del graph.value_info[:]
    for node in graph.node:
        node.doc_string = ""
    graph.name = "zoo"
    graph.doc_string = model.doc_string = ""


def main(source: str, target: str) -> None:
    """Convert one saved network; run as a process of its own by `_convert_in_child`."""
    keras = backend.start()
    onnx.save(_convert_here(keras.models.load_model(source, compile=False)), target)


if __name__ == "__main__":
    main(*sys.argv[1:])
