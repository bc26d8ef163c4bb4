"""Holds tensors whose axes may stand in another order than in the ONNX graph that is translated to TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from zoo.errors import ConversionFailed

# The order of (batch, channels, height, width) in a tensor whose channels come last.
CHANNELS_LAST = (0, 3, 1, 2)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor whose axes may stand in another order than in the ONNX graph.

    Args:
        values: The TensorFlow tensor, or an array if it is a constant.
        order: Axis i of the ONNX tensor is axis order[i] of `values`. A constant has its ONNX order.
    """

    values: Any
    order: tuple[int, ...]

    @property
    def constant(self) -> bool:
        return isinstance(self.values, np.ndarray)

    @property
    def rank(self) -> int:
        return len(self.order)


def plain(values: Any) -> Tensor:
    return Tensor(values, tuple(range(len(values.shape))))


@dataclasses.dataclass(frozen=True)
class Node:
    """The node that is translated: its attributes, and the number of its outputs."""

    proto: onnx.NodeProto
    attributes: Mapping[str, Any]
    outputs: int

    def get(self, name: str, default: Any = None) -> Any:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def failed(self, why: str) -> ConversionFailed:
        return ConversionFailed(f"TensorFlow's converter gets no graph with this {self.proto.op_type}: {why}.")


def in_order(tensor: Tensor) -> Any:
    """Return the values with their axes in the order of the ONNX graph."""
    import tensorflow as tf

    if tensor.order == tuple(range(tensor.rank)):
        return tensor.values
    return tf.transpose(tensor.values, tensor.order)


def as_order(tensor: Tensor, order: tuple[int, ...]) -> Any:
    """Return the values of a tensor with their axes in a given order. Constants are reshaped to its rank before."""
    import tensorflow as tf

    if tensor.rank < len(order):
        shape = (1,) * (len(order) - tensor.rank)
        if tensor.constant:
            tensor = plain(tensor.values.reshape(*shape, *tensor.values.shape))
        else:
            values = in_order(tensor)
            for _ in shape:
                values = tf.expand_dims(values, 0)
            tensor = Tensor(values, tuple(range(len(order))))
    if tensor.order == order:
        return tensor.values
    # Axis order[i] of the result is axis i of the ONNX tensor.
    wanted = [tensor.order[i] for i in np.argsort(order)]
    if tensor.constant:
        return np.ascontiguousarray(tensor.values.transpose(wanted))
    return tf.transpose(tensor.values, wanted)


def common_order(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Return the order in which tensors are computed together: that of the largest one that has another order."""
    rank = max(each.rank for each in tensors)
    plain = tuple(range(rank))
    candidates = [each for each in tensors if each.rank == rank and not each.constant]
    moved = [each.order for each in candidates if each.order != plain]
    return moved[0] if moved else plain


def elementwise(compute: Callable[..., Any]) -> Callable[..., Tensor]:
    """Translate an operator that treats every element alike, with broadcasting."""

    def translate(node: Node, *inputs: Tensor) -> Tensor:
        if all(each.constant for each in inputs):
            return plain(np.asarray(compute(*(each.values for each in inputs))))
        order = common_order(inputs)
        return Tensor(compute(*(as_order(each, order) for each in inputs)), order)

    return translate


def folded(compute: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def fold(first: Any, *others: Any) -> Any:
        for other in others:
            first = compute(first, other)
        return first

    return fold
