"""Computes gradients of logits with respect to the feature map that a head reads, from the ONNX graph and numpy alone.

The nodes of a head are few: pools, dense layers, a 1x1 convolution. Each has a rule here that carries the gradient of
its output back to one of its inputs. The values of all tensors come from ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

from zoo.errors import ConversionFailed

Array = npt.NDArray[Any]
# (node, index of the input, values of all inputs, value of the output, gradient of the output) -> gradient of the input
Rule = Callable[[NodeProto, int, list[Array], Array, Array], Array]


def backward(nodes: Sequence[NodeProto], values: Mapping[str, Array], logits: str, wanted: str, start: Array) -> Array:
    """Return the gradient of a weighted sum of logits with respect to a feature map, in the shape of the map.

    Args:
        nodes: The nodes that lead from the map to the logits, in an order in which each stands after those it reads.
        values: The value of every tensor that these nodes read or write, and of their constants.
        logits: The name of the logits.
        wanted: The name of the map.
        start: The weights of the logits, (pictures, units).

    Raises:
        ConversionFailed: There is no rule for the operator of a node.
    """
    gradients: dict[str, Array] = {logits: np.asarray(start, np.float64)}
    active = {wanted, *(name for node in nodes for name in node.output)}
    for node in reversed(nodes):
        gradient = gradients.get(node.output[0])
        if gradient is None:
            continue
        rule = RULES.get(node.op_type)
        if rule is None:
            raise ConversionFailed(
                f"the head of the network has the operator {node.op_type}, which has no gradient here."
            )
        inputs = [np.asarray(values[name]) for name in node.input if name]
        for i, name in enumerate(node.input):
            if name in active:
                part = rule(node, i, inputs, np.asarray(values[node.output[0]]), gradient)
                gradients[name] = gradients[name] + part if name in gradients else part
    return gradients[wanted]


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """Return the value of an attribute of a node, or the default if the node does not have it."""
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def axes_of(node: NodeProto, constants: Sequence[Array | None], rank: int) -> tuple[int, ...]:
    """Return the axes over which a node reduces or pools, each from 0.

    Args:
        node: A node of one of the operators in `REDUCING`.
        constants: The values of the inputs of the node, where they are known.
        rank: The number of axes of the first input.
    """
    if node.op_type.startswith("Global"):
        return tuple(range(2, rank))
    given = attribute(node, "axes", None)
    if given is None and len(constants) > 1 and constants[1] is not None:
        given = constants[1].tolist()
    return tuple(range(rank)) if given is None else tuple(axis % rank for axis in given)


def _like(gradient: Array, value: Array) -> Array:
    """Sum a gradient over the axes along which a value was repeated."""
    while gradient.ndim > value.ndim:
        gradient = gradient.sum(axis=0)
    repeated = tuple(i for i, length in enumerate(value.shape) if length == 1 and gradient.shape[i] > 1)
    return np.asarray(gradient.sum(axis=repeated, keepdims=True))


def _reshaped(node: NodeProto, i: int, inputs: list[Array], output: Array, gradient: Array) -> Array:
    return gradient.reshape(inputs[0].shape)


def _transposed(node: NodeProto, i: int, inputs: list[Array], output: Array, gradient: Array) -> Array:
    order = attribute(node, "perm", list(range(gradient.ndim))[::-1])
    return gradient.transpose(np.argsort(order))


def _times(node: NodeProto, i: int, inputs: list[Array], output: Array, gradient: Array) -> Array:
    return _like(gradient * inputs[1 - i], inputs[i])


def _divided(node: NodeProto, i: int, inputs: list[Array], output: Array, gradient: Array) -> Array:
    first, second = (each.astype(np.float64) for each in inputs)
    return _like(gradient / second if i == 0 else -gradient * first / second**2, inputs[i])


def _power(node: NodeProto, i: int, inputs: list[Array], output: Array, gradient: Array) -> Array:
    base, exponent = inputs[0].astype(np.float64), inputs[1]
    return np.asarray(gradient * exponent * base ** (exponent - 1))


def _product(node: NodeProto, i: int, inputs: list[Array], output: Array, gradient: Array) -> Array:
    return np.asarray(gradient @ inputs[1].T if i == 0 else inputs[0].T @ gradient)


def _gemm(node: NodeProto, i: int, inputs: list[Array], output: Array, gradient: Array) -> Array:
    if i == 2:
        return _like(gradient * attribute(node, "beta", 1.0), inputs[2])
    kernel = inputs[1] if attribute(node, "transB", 0) else inputs[1].T
    return np.asarray(gradient @ kernel * attribute(node, "alpha", 1.0))


def _joined(node: NodeProto, i: int, inputs: list[Array], output: Array, gradient: Array) -> Array:
    axis = attribute(node, "axis", 0) % gradient.ndim
    before = sum(each.shape[axis] for each in inputs[:i])
    return np.take(gradient, np.arange(before, before + inputs[i].shape[axis]), axis=axis)


def _sliced(node: NodeProto, i: int, inputs: list[Array], output: Array, gradient: Array) -> Array:
    whole = np.zeros(inputs[0].shape)
    starts, ends = inputs[1].tolist(), inputs[2].tolist()
    axes = inputs[3].tolist() if len(inputs) > 3 else range(len(starts))
    steps = inputs[4].tolist() if len(inputs) > 4 else [1] * len(starts)
    places = [slice(None)] * whole.ndim
    for axis, first, end, step in zip(axes, starts, ends, steps, strict=True):
        places[axis] = slice(first, end, step)
    whole[tuple(places)] = gradient
    return whole


def _reduced(node: NodeProto, i: int, inputs: list[Array], output: Array, gradient: Array) -> Array:
    value = inputs[0]
    axes = axes_of(node, inputs, value.ndim)
    shape = [1 if axis in axes else length for axis, length in enumerate(value.shape)]
    gradient = gradient.reshape(shape)
    if "Max" in node.op_type:
        # Keras shares the gradient between equal maxima, as those of a map that is 0 everywhere.
        largest = value == output.reshape(shape)
        return np.asarray(gradient * largest / largest.sum(axis=axes, keepdims=True))
    count = 1 if node.op_type == "ReduceSum" else np.prod([value.shape[axis] for axis in axes])
    return np.broadcast_to(gradient / count, value.shape)


def _convolved(node: NodeProto, i: int, inputs: list[Array], output: Array, gradient: Array) -> Array:
    kernel = inputs[1]
    if i or kernel.shape[2:] != (1, 1) or attribute(node, "group", 1) != 1:
        raise ConversionFailed("the head of the network has a convolution that is not 1x1, which has no gradient here.")
    return np.einsum("bohw,oc->bchw", gradient, kernel[:, :, 0, 0], optimize=True)


REDUCING = ("ReduceMean", "ReduceSum", "ReduceMax", "GlobalAveragePool", "GlobalMaxPool")
RESHAPING = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
RULES: dict[str, Rule] = {
    **dict.fromkeys(RESHAPING, _reshaped),
    **dict.fromkeys(REDUCING, _reduced),
    "Transpose": _transposed,
    "Relu": lambda node, i, inputs, output, gradient: gradient * (output > 0),
    "Sqrt": lambda node, i, inputs, output, gradient: gradient / (2 * output.astype(np.float64)),
    "Add": lambda node, i, inputs, output, gradient: _like(gradient, inputs[i]),
    "Sub": lambda node, i, inputs, output, gradient: _like(-gradient if i else gradient, inputs[i]),
    "Mul": _times,
    "Div": _divided,
    "Pow": _power,
    "MatMul": _product,
    "Gemm": _gemm,
    "Concat": _joined,
    "Slice": _sliced,
    "Conv": _convolved,
}
