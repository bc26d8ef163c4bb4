"""Converts a Keras network to an ONNX graph with tf2onnx.

The names of the graph's inputs and outputs do not depend on the network. tf2onnx receives a TensorFlow function with a
signature, because `tf2onnx.convert.from_keras` fails on Sequential models and has broken repeatedly
(https://github.com/onnx/tensorflow-onnx/issues/2319). If the backend of Keras is not TensorFlow, the conversion runs in
a child process that uses TensorFlow. `zoo.convert.optimize` simplifies the graph.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from zoo import backend, interrupts
from zoo.convert.optimize import optimize
from zoo.errors import ConversionFailed

if TYPE_CHECKING:
    import keras

OPSET = 17
# The optimizer passes of tf2onnx that run. ONNX Runtime does the work of the others. On MobileNetV3, the transpose pass
# of tf2onnx fails and leaves 104 Transposes, while ONNX Runtime leaves 1.
TF2ONNX_PASSES = ("fold_constants", "remove_identity")
INPUT, PROBABILITIES, LOGITS = "image", "probabilities", "logits"
FEATURES, OUTLIER_SCORE, FEATURE_NORM = "features", "outlier_score", "feature_norm"


def convert(model: keras.Model, features: keras.KerasTensor | None = None) -> onnx.ModelProto:
    """Convert a classifier to an ONNX graph with logits and probabilities.

    Args:
        model: A network with one input, float32 (batch, height, width, channels) in 0..255. It has layers named
            `logits` and `probabilities`. The output of `probabilities` is the output of the network.
        features: A tensor of the network, float32 (batch, n), that becomes a third output. None makes no such output.

    Returns:
        A graph with the input `image`, uint8 [batch, height, width, channels], and the outputs `logits` and
        `probabilities`. Both outputs are float32 [batch, classes], except that the `logits` of a binary network with a
        single logit are float32 [batch, 1]. If `features` is given, the third output is `features`.

    Raises:
        ConversionFailed: tf2onnx cannot convert the network, or produces an invalid graph.
        ConverterMissing: TensorFlow or tf2onnx is not installed here.
        WriteError: The folder for temporary files is full.
    """
    keras = backend.start()
    names: tuple[str, ...] = (LOGITS, PROBABILITIES)
    outputs = [model.get_layer(name).output for name in names]
    if features is not None:
        names, outputs = (*names, FEATURES), [*outputs, features]
    # The names in the graph start with the name of the model, and Keras would number it over the whole process.
    return _checked(keras.Model(model.input, outputs, name="network"), names, "uint8")


def convert_maps(model: keras.Model) -> onnx.ModelProto:
    """Convert the lower part of a network, whose outputs are feature maps, to an ONNX graph.

    Args:
        model: A network with one input, float32 (batch, height, width, channels) in 0..255, and a list of outputs.

    Returns:
        A graph with the input `image`, float32 [batch, height, width, channels], and the outputs `map_0`, `map_1` ...,
        float32, in the order of the model's outputs.

    Raises:
        ConversionFailed: tf2onnx cannot convert the network, or produces an invalid graph.
        ConverterMissing: TensorFlow or tf2onnx is not installed here.
        WriteError: The folder for temporary files is full.
    """
    return _checked(model, tuple(f"map_{i}" for i in range(len(model.outputs))), "float32")


def convert_features(model: keras.Model) -> onnx.ModelProto:
    """Convert the part of a network below its last layer, whose outputs are pooled features, to an ONNX graph.

    Args:
        model: A network with one input, float32 (batch, height, width, channels) in 0..255, and a list of outputs,
            float32 (batch, n).

    Returns:
        A graph with the input `image`, uint8 [batch, height, width, channels], and the outputs `features_0`,
        `features_1` ..., float32 [batch, n], in the order of the model's outputs.

    Raises:
        ConversionFailed: tf2onnx cannot convert the network, or produces an invalid graph.
        ConverterMissing: TensorFlow or tf2onnx is not installed here.
        WriteError: The folder for temporary files is full.
    """
    return _checked(model, tuple(f"features_{i}" for i in range(len(model.outputs))), "uint8")


def _checked(model: keras.Model, names: tuple[str, ...], pixels: str) -> onnx.ModelProto:
    """Convert a model, then simplify and check the graph.

    Args:
        model: A network with one input and a list of outputs.
        names: The names of the outputs in the graph, in the order of the model's outputs.
        pixels: The dtype of the graph's input, "uint8" or "float32".

    Raises:
        ConversionFailed: tf2onnx cannot convert the network, or produces an invalid graph.
        ConverterMissing: TensorFlow or tf2onnx is not installed here.
        WriteError: The folder for temporary files is full.
    """
    backend.require_converters()
    convert_model = _convert_here if backend.runs_on_tensorflow() else _convert_in_child
    graph = optimize(convert_model(model, names, pixels))
    _tidy(graph)
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionFailed(f"tf2onnx produced an invalid graph: {error}") from error
    return graph


def public(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a graph with the outputs of an exported file alone.

    They are `probabilities` and, if the graph has them, `outlier_score` and `feature_norm`.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    kept = [output for output in copy.graph.output if output.name in (PROBABILITIES, OUTLIER_SCORE, FEATURE_NORM)]
    del copy.graph.output[:]
    copy.graph.output.extend(kept)
    return copy


def _convert_here(model: keras.Model, output_names: tuple[str, ...], pixels: str) -> onnx.ModelProto:
    """Convert a model in this process, in which Keras must run on TensorFlow.

    Args:
        model: A network with one input and a list of outputs.
        output_names: The names of the outputs in the graph, in the order of the model's outputs.
        pixels: The dtype of the graph's input, "uint8" or "float32".

    Raises:
        ConversionFailed: tf2onnx cannot convert the network.
    """
    import keras
    import tensorflow as tf
    from tf2onnx import optimizer, tf_loader, utils
    from tf2onnx.tfonnx import process_tf_graph

    for name in ("tf2onnx", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    variables = {f"variable_{i}": variable for i, variable in enumerate(model.variables)}
    signature = [tf.TensorSpec((None, *model.inputs[0].shape[1:]), pixels, name=INPUT)]
    signature += [tf.TensorSpec(variable.shape, variable.dtype, name=name) for name, variable in variables.items()]

    @tf.function(input_signature=signature, jit_compile=False, autograph=False)
    def serve(image, *values):
        # Weights are inputs during the conversion, because tf2onnx copies a graph and its constants a dozen times.
        with keras.StatelessScope(zip(variables.values(), values, strict=True)):
            outputs = model(tf.cast(image, tf.float32), training=False)
        # TensorFlow sorts the outputs in a dictionary by their keys.
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return {f"{i:06}": output for i, output in enumerate(outputs)}

    # tf2onnx numbers the names that it makes over the whole process, so a second conversion would have other names.
    utils.INTERNAL_NAME = 1
    passes = {name: optimizer._get_optimizers()[name] for name in TF2ONNX_PASSES}
    try:
        with _interrupts_held(), tf.device("/cpu:0"):
            with _plain_grouped_convolutions():
                traced = serve.get_concrete_function()
            names = [tensor.name for tensor in traced.inputs]
            outputs = [tensor.name for tensor in traced.outputs]
            frozen = tf_loader.from_function(traced, names, outputs)
            with tf.Graph().as_default() as tf_graph:
                tf.import_graph_def(frozen, name="")
                graph = process_tf_graph(
                    tf_graph,
                    opset=OPSET,
                    input_names=names,
                    output_names=outputs,
                    custom_op_handlers={"Erfc": (_erfc, [])},
                    continue_on_error=False,
                )
                _pool_channels_first(graph)
                graph = optimizer.optimize_graph(graph, catch_errors=False, optimizers=passes).make_model("zoo")
    except Exception as error:
        # The errors of tf2onnx and TensorFlow have no common base class.
        raise ConversionFailed(f"tf2onnx cannot convert the network: {error}") from error
    _name_ends(graph, output_names, variables)
    return graph


def _name_ends(graph: onnx.ModelProto, output_names: tuple[str, ...], variables: Mapping[str, keras.Variable]) -> None:
    """Give the input and the outputs of a graph their final names, and turn its weights from inputs into constants.

    A suffix such as ":0" is removed from the names of the inputs.

    Args:
        graph: The graph, which is changed in place. Its first input is the picture, and all others are weights.
        output_names: The new names of the outputs, in order.
        variables: Maps the name of each constant to the Keras variable that holds the weights.
    """
    import keras

    given = [value.name for value in graph.graph.output]
    _rename(graph.graph, dict(zip(given, output_names, strict=True)))
    _rename(graph.graph, {value.name: value.name.partition(":")[0] for value in graph.graph.input})
    del graph.graph.input[1:]
    used = {name for node in graph.graph.node for name in node.input}
    graph.graph.initializer.extend(
        onnx.numpy_helper.from_array(keras.ops.convert_to_numpy(variable), name)
        for name, variable in variables.items()
        if name in used
    )


@contextlib.contextmanager
def _plain_grouped_convolutions() -> Iterator[None]:
    """Make TensorFlow trace grouped convolutions as plain operations inside this context.

    On a CPU, TensorFlow's own kernel for grouped convolutions has no gradient. Keras therefore puts these convolutions
    into a function that XLA compiles. In the graph, that function would become a StatefulPartitionedCall.
    """
    import tensorflow as tf
    from keras.src.backend.tensorflow import nn

    class Uncompiled:
        """Replaces the module `tensorflow` inside Keras, so that XLA compiles nothing.

        Keras decorates functions with `tensorflow.function`. If the decorator's argument `jit_compile` is True, XLA
        compiles the function. `Uncompiled.function` then returns the function unchanged. In all other cases it calls
        `tensorflow.function`. All other attributes are those of `tensorflow`.
        """

        def __getattr__(self, name):
            return getattr(tf, name)

        @staticmethod
        def function(*arguments, **options):
            return (lambda f: f) if options.get("jit_compile") else tf.function(*arguments, **options)

    nn.tf = Uncompiled()
    try:
        yield
    finally:
        nn.tf = tf


def _pool_channels_first(graph) -> None:
    """Make global pools read feature maps with channels first.

    A global pool is a mean or a maximum over height and width. This function inserts a Transpose before each pool. If
    the output of the pool still has four dimensions, the function also inserts a Transpose after it.
    `zoo.convert.optimize` then removes pairs of Transposes that cancel out. Without this function, a global mean at the
    end of a network would need a Transpose on each branch that leads to it.
    """
    for node in graph.get_nodes():
        pools = node.type in ("ReduceMean", "ReduceMax") and node.get_attr_value("axes") == [1, 2]
        if not pools or len(graph.get_shape(node.input[0]) or ()) != 4:
            continue
        graph.insert_new_node_on_input(node, "Transpose", node.input[0], perm=[0, 3, 1, 2])
        node.set_attr("axes", [2, 3])
        if node.get_attr_value("keepdims", 1):
            graph.insert_new_node_on_output("Transpose", node.output[0], perm=[0, 2, 3, 1])


def _erfc(context, node, name, arguments) -> None:
    """Convert TensorFlow's Erfc(a) to 1 + Erf(-a), because ONNX does not have Erfc.

    TensorFlow computes GELU(x) as x / 2 * Erfc(a), where a = -x * c and c is the constant sqrt(1/2). In this case, this
    function writes -a as x / (1 / c). ONNX Runtime recognizes and fuses a GELU in the resulting form:

        x / 2 * (1 + Erf(x / (1 / c)))

    tf2onnx calls this function and prescribes its arguments.
    """
    (x,), (y,) = node.input, node.output
    kind, shape = context.get_dtype(y), context.get_shape(y)
    product = node.inputs[0]
    signs = [source for source in product.inputs if source.type == "Neg"] if product.type == "Mul" else []
    context.remove_node(node.name)
    factors = [source for source in product.inputs if source.is_const()] if signs else []
    if factors:
        divisor = context.make_const(
            f"{name}_divisor", (1 / factors[0].get_tensor_value(as_list=False)).astype("float32")
        )
        positive = context.make_node("Div", [signs[0].input[0], *divisor.output], dtypes=[kind], shapes=[shape])
    else:
        positive = context.make_node("Neg", [x], dtypes=[kind], shapes=[shape])
    error_function = context.make_node("Erf", positive.output, dtypes=[kind], shapes=[shape])
    one = context.make_const(f"{name}_one", np.array(1, "float32"))
    context.make_node("Add", [*error_function.output, *one.output], outputs=[y], dtypes=[kind], shapes=[shape])


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the end of this context.

    tf2onnx has bare `except:` clauses. These would swallow the interrupt, and the export would continue.
    """
    with interrupts.handled(), interrupts.held():
        yield


def _convert_in_child(model: keras.Model, output_names: tuple[str, ...], pixels: str) -> onnx.ModelProto:
    """Convert a model in a child process in which Keras runs on TensorFlow. The arguments are those of `_convert_here`.

    Raises:
        ConversionFailed: The child process failed. The message ends with the last 2000 characters of its stderr.
    """
    with tempfile.TemporaryDirectory(prefix="zoo-convert-") as folder:
        source, target = Path(folder, "model.keras"), Path(folder, "model.onnx")
        model.save(source)
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(source), str(target), pixels, *output_names],
            env={**os.environ, "KERAS_BACKEND": "tensorflow"},
            capture_output=True,
            text=True,
        )
        if done.returncode or not target.exists():
            raise ConversionFailed(f"the conversion in a separate process failed:\n{done.stderr[-2000:]}")
        return onnx.load(target)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename tensors of a graph, including its inputs and outputs. `names` maps old names to new ones."""
    for value in [*graph.input, *graph.output]:
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for ends in (node.input, node.output):
            for i, name in enumerate(ends):
                ends[i] = names.get(name, name)


def _tidy(model: onnx.ModelProto) -> None:
    """Name the first dimension of the graph's inputs and outputs `batch`, and remove data that the file does not need.

    The removed data are the shapes of tensors inside the graph, and the descriptions that tf2onnx adds.
    """
    graph = model.graph
    for value in [*graph.input, *graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
        value.doc_string = ""
    del graph.value_info[:]
    for node in graph.node:
        node.doc_string = ""
    graph.name = "zoo"
    graph.doc_string = model.doc_string = ""


def main(source: str, target: str, pixels: str, *output_names: str) -> None:
    """Convert a saved network to ONNX, and write the graph to a file. `_convert_in_child` runs this in a child process.

    Args:
        source: The path of the network, a .keras file.
        target: The path of the .onnx file to write.
        pixels: The dtype of the graph's input, "uint8" or "float32".
        output_names: The names of the outputs in the graph.
    """
    keras = backend.start()
    onnx.save(_convert_here(keras.models.load_model(source, compile=False), output_names, pixels), target)


if __name__ == "__main__":
    main(*sys.argv[1:])
