"""Builds a TensorFlow function that computes the same as an ONNX graph, for formats that TensorFlow's converter makes.

The graphs are those of `zoo.convert`: convolutions whose weights are constants, pooling, and arithmetic. Quantized
graphs keep their ranges: a pair of QuantizeLinear and DequantizeLinear becomes a FakeQuant operation, which the
converter turns into 8 bits. Other operators are refused.

ONNX puts the channels of a feature map first, TensorFlow puts them last. No feature map is transposed for that: a
tensor remembers which of its axes stands where (`Tensor.order`), and each operator is translated to the order that its
input has. `zoo_plugins.litert` makes the file of the function.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from zoo import backend
from zoo.convert.tensorflow_operators import OPERATORS
from zoo.convert.tensorflow_tensors import Node, Tensor, in_order, plain
from zoo.errors import ConversionFailed

if TYPE_CHECKING:
    import tensorflow as tf


def function_of(model: onnx.ModelProto) -> Any:
    """Return a TensorFlow function that computes the outputs of an ONNX graph.

    Args:
        model: A graph with one input, uint8 [batch, height, width, channels].

    Returns:
        A `tf.ConcreteFunction` with the argument `image`, of the same shape and type. It returns the outputs as a list
        of float32 tensors, in the order of the graph.

    Raises:
        ConversionFailed: The graph has an operator, or a use of one, that is not translated.
    """
    tf = _tensorflow()
    (image,) = model.graph.input
    shape = [dim.dim_value or None for dim in image.type.tensor_type.shape.dim]
    graph = _Graph(model)

    def run(image: Any) -> list[Any]:
        return graph.run(image)

    # Autograph would wrap the errors that are raised here in errors of its own.
    function = tf.function(run, autograph=False)
    return function.get_concrete_function(image=tf.TensorSpec(shape, tf.uint8, name=image.name))


def _tensorflow() -> ModuleType:
    """Import TensorFlow without its notes about the processor, and return it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with backend.without_stderr():
        import tensorflow as tf
    if not backend.started() or backend.wanted() != "tensorflow":
        # TensorFlow only builds a graph here, and would take all memory of a GPU that another backend uses.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")
    return tf


def _in_order(graph: onnx.GraphProto, known: set[str]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes so that each comes after those whose results it needs. The quantizer leaves them in any order.

    Args:
        graph: The graph.
        known: The names of the inputs and constants.

    Raises:
        ConversionFailed: A node needs a result that no node makes.
    """
    waiting, known = list(graph.node), {*known, ""}
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        if not ready:
            raise ConversionFailed(f"the graph has no {next(iter(set(waiting[0].input) - known))!r}.")
        for node in ready:
            known.update(node.output)
            yield node
        done = {id(node) for node in ready}
        waiting = [node for node in waiting if id(node) not in done]


class _Graph:
    """Translates the nodes of a graph one after another.

    Args:
        model: The graph.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}

    def run(self, image: tf.Tensor) -> list[Any]:
        """Build the operations, and return the outputs."""
        import tensorflow as tf

        known: dict[str, Tensor] = {name: plain(np.asarray(value)) for name, value in self.constants.items()}
        known[self.model.graph.input[0].name] = plain(image)
        for node in _in_order(self.model.graph, set(known)):
            translate = OPERATORS.get(node.op_type)
            if translate is None or node.domain:
                raise ConversionFailed(
                    f"TensorFlow's converter gets no graph with the operator {node.op_type!r}, which this network has."
                )
            inputs = [known[name] if name else None for name in node.input]
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            context = Node(node, attributes, len(node.output))
            results = translate(context, *inputs)
            results = results if isinstance(results, list) else [results]
            for name, result in zip(node.output, results, strict=False):
                known[name] = result
        # A list keeps the order of the outputs; a dictionary would be sorted by name.
        return [tf.identity(in_order(known[output.name])) for output in self.model.graph.output]
