"""Builds a TensorFlow function that computes the same as an ONNX graph, for formats that TensorFlow's converter makes.

The graphs are those of `zoo.convert`: convolutions whose weights are constants, pooling, and arithmetic. Quantized
graphs keep their ranges: a pair of QuantizeLinear and DequantizeLinear becomes a FakeQuant operation, which the
converter turns into 8 bits. Other operators are refused.

ONNX puts the channels of a feature map first, TensorFlow puts them last. No feature map is transposed for that: a
tensor remembers which of its axes stands where (`_Tensor.order`), and each operator is translated to the order that its
input has. `zoo_plugins.litert` makes the file of the function.
"""

from __future__ import annotations

import dataclasses
import os
import string
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from zoo import backend
from zoo.errors import ConversionFailed

if TYPE_CHECKING:
    import tensorflow as tf

# The order of (batch, channels, height, width) in a tensor whose channels come last.
CHANNELS_LAST = (0, 3, 1, 2)
Array = npt.NDArray[Any]


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
    return tf


@dataclasses.dataclass(frozen=True)
class _Tensor:
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


def _plain(values: Any) -> _Tensor:
    return _Tensor(values, tuple(range(len(values.shape))))


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

        known: dict[str, _Tensor] = {name: _plain(np.asarray(value)) for name, value in self.constants.items()}
        known[self.model.graph.input[0].name] = _plain(image)
        for node in self.model.graph.node:
            translate = _OPERATORS.get(node.op_type)
            if translate is None or node.domain:
                raise ConversionFailed(
                    f"TensorFlow's converter gets no graph with the operator {node.op_type!r}, which this network has."
                )
            inputs = [known[name] if name else None for name in node.input]
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            context = _Node(node, attributes, len(node.output))
            results = translate(context, *inputs)
            results = results if isinstance(results, list) else [results]
            for name, result in zip(node.output, results, strict=False):
                known[name] = result
        # A list keeps the order of the outputs; a dictionary would be sorted by name.
        return [tf.identity(in_order(known[output.name])) for output in self.model.graph.output]


@dataclasses.dataclass(frozen=True)
class _Node:
    """The node that is translated: its attributes, and the number of its outputs."""

    proto: onnx.NodeProto
    attributes: Mapping[str, Any]
    outputs: int

    def get(self, name: str, default: Any = None) -> Any:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def failed(self, why: str) -> ConversionFailed:
        return ConversionFailed(f"TensorFlow's converter gets no graph with this {self.proto.op_type}: {why}.")


def in_order(tensor: _Tensor) -> Any:
    """Return the values with their axes in the order of the ONNX graph."""
    import tensorflow as tf

    if tensor.order == tuple(range(tensor.rank)):
        return tensor.values
    return tf.transpose(tensor.values, tensor.order)


def as_order(tensor: _Tensor, order: tuple[int, ...]) -> Any:
    """Return the values of a tensor with their axes in a given order. Constants are reshaped to its rank before."""
    import tensorflow as tf

    if tensor.rank < len(order):
        shape = (1,) * (len(order) - tensor.rank)
        if tensor.constant:
            tensor = _plain(tensor.values.reshape(*shape, *tensor.values.shape))
        else:
            values = in_order(tensor)
            for _ in shape:
                values = tf.expand_dims(values, 0)
            tensor = _Tensor(values, tuple(range(len(order))))
    if tensor.order == order:
        return tensor.values
    # Axis order[i] of the result is axis i of the ONNX tensor.
    wanted = [tensor.order[i] for i in np.argsort(order)]
    if tensor.constant:
        return np.ascontiguousarray(tensor.values.transpose(wanted))
    return tf.transpose(tensor.values, wanted)


def _common_order(tensors: Sequence[_Tensor]) -> tuple[int, ...]:
    """Return the order in which tensors are computed together: that of the largest one that has another order."""
    rank = max(each.rank for each in tensors)
    plain = tuple(range(rank))
    candidates = [each for each in tensors if each.rank == rank and not each.constant]
    moved = [each.order for each in candidates if each.order != plain]
    return moved[0] if moved else plain


def _elementwise(compute: Callable[..., Any]) -> Callable[..., _Tensor]:
    """Translate an operator that treats every element alike, with broadcasting."""

    def translate(node: _Node, *inputs: _Tensor) -> _Tensor:
        if all(each.constant for each in inputs):
            return _plain(np.asarray(compute(*(each.values for each in inputs))))
        order = _common_order(inputs)
        return _Tensor(compute(*(as_order(each, order) for each in inputs)), order)

    return translate


def _folded(compute: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def fold(first: Any, *others: Any) -> Any:
        for other in others:
            first = compute(first, other)
        return first

    return fold


def _number(tensor: _Tensor | None) -> float | None:
    return None if tensor is None else float(np.asarray(tensor.values).reshape(-1)[0])


def _clip(node: _Node, x: _Tensor, low: _Tensor | None = None, high: _Tensor | None = None) -> _Tensor:
    import tensorflow as tf

    least = node.get("min") if low is None else _number(low)
    most = node.get("max") if high is None else _number(high)
    values = x.values
    if least == 0 and most == 6:
        values = tf.nn.relu6(values)
    elif least == 0 and most is None:
        values = tf.nn.relu(values)
    else:
        values = values if least is None else tf.maximum(values, np.float32(least))
        values = values if most is None else tf.minimum(values, np.float32(most))
    return _Tensor(values, x.order)


def _cast(node: _Node, x: _Tensor) -> _Tensor:
    import tensorflow as tf

    kind = onnx.helper.tensor_dtype_to_np_dtype(node.get("to"))
    return _plain(x.values.astype(kind)) if x.constant else _Tensor(tf.cast(x.values, kind), x.order)


def _transpose(node: _Node, x: _Tensor) -> _Tensor:
    moved = node.get("perm", tuple(reversed(range(x.rank))))
    if x.constant:
        return _plain(x.values.transpose(moved))
    return _Tensor(x.values, tuple(x.order[i] for i in moved))


def _same_padding(sides: Sequence[int], kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int]) -> bool:
    """Return whether TensorFlow's padding "SAME" puts as many pixels around a picture as an ONNX node says."""
    for i in range(2):
        total = max((-(-sides[i] // strides[i]) - 1) * strides[i] + kernel[i] - sides[i], 0)
        if (pads[i], pads[i + 2]) != (total // 2, total - total // 2):
            return False
    return True


def _window(node: _Node, x: _Tensor, kernel: Sequence[int], fill: float) -> tuple[Any, str, list[int], list[int]]:
    """Return the pixels of a convolution or a pooling with channels last, their padding, strides and dilations."""
    import tensorflow as tf

    strides = list(node.get("strides", [1, 1]))
    dilations = list(node.get("dilations", [1, 1]))
    pads = list(node.get("pads", [0, 0, 0, 0]))
    values = as_order(x, CHANNELS_LAST)
    if node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or x.rank != 4 or node.get("ceil_mode", 0):
        raise node.failed("its padding is not stated in numbers, or it is not about pictures")
    spread = [(side - 1) * dilation + 1 for side, dilation in zip(kernel, dilations, strict=True)]
    if not any(pads):
        return values, "VALID", strides, dilations
    sides = values.shape[1:3]
    if None not in sides and _same_padding(sides, spread, strides, pads):
        return values, "SAME", strides, dilations
    around = [[0, 0], [pads[0], pads[2]], [pads[1], pads[3]], [0, 0]]
    return tf.pad(values, around, constant_values=fill), "VALID", strides, dilations


def _convolution(node: _Node, x: _Tensor, weights: _Tensor, bias: _Tensor | None = None) -> _Tensor:
    import tensorflow as tf

    if not weights.constant:
        raise node.failed("its weights are computed")
    kernel = weights.values
    values, padding, strides, dilations = _window(node, x, kernel.shape[2:], 0.0)
    groups, channels = node.get("group", 1), values.shape[-1]
    if groups == channels and kernel.shape[1] == 1 and groups > 1 and strides[0] == strides[1]:
        shape = (*kernel.shape[2:], channels, kernel.shape[0] // channels)
        depthwise = kernel[:, 0].transpose(1, 2, 0).reshape(shape)
        values = tf.nn.depthwise_conv2d(values, depthwise, [1, *strides, 1], padding, dilations=dilations)
    else:
        values = tf.nn.conv2d(values, kernel.transpose(2, 3, 1, 0), strides, padding, dilations=dilations)
    if bias is not None:
        values = tf.nn.bias_add(values, as_order(bias, (0,)))
    return _Tensor(values, CHANNELS_LAST)


def _pool(kind: str) -> Callable[[_Node, _Tensor], _Tensor]:
    def translate(node: _Node, x: _Tensor) -> _Tensor:
        import tensorflow as tf

        kernel = list(node.get("kernel_shape"))
        lowest = float(np.finfo(np.float32).min) if kind == "MAX" else 0.0
        values, padding, strides, dilations = _window(node, x, kernel, lowest)
        padded = padding == "VALID" and any(node.get("pads", [0]))
        # TensorFlow leaves the padding out of an average.
        if kind == "AVG" and (padded or padding == "SAME") and bool(node.get("count_include_pad", 0)) != padded:
            raise node.failed("its padding counts in another way than TensorFlow's")
        if any(each != 1 for each in dilations):
            raise node.failed("its window has holes")
        if kernel == [1, 1]:
            return _Tensor(values[:, :: strides[0], :: strides[1]], CHANNELS_LAST)
        compute = tf.nn.max_pool2d if kind == "MAX" else tf.nn.avg_pool2d
        return _Tensor(compute(values, kernel, strides, padding), CHANNELS_LAST)

    return translate


def _global_pool(reduce: str) -> Callable[[_Node, _Tensor], _Tensor]:
    def translate(node: _Node, x: _Tensor) -> _Tensor:
        return _reduced(x, range(2, x.rank), True, reduce)

    return translate


def _reduce(reduce: str) -> Callable[..., _Tensor]:
    def translate(node: _Node, x: _Tensor, axes: _Tensor | None = None) -> _Tensor:
        chosen = node.get("axes") if axes is None else [int(i) for i in axes.values]
        chosen = range(x.rank) if chosen is None else [i % x.rank for i in chosen]
        return _reduced(x, chosen, bool(node.get("keepdims", 1)), reduce)

    return translate


def _reduced(x: _Tensor, axes: Sequence[int] | range, keep: bool, reduce: str) -> _Tensor:
    import tensorflow as tf

    compute = {
        "mean": tf.reduce_mean,
        "max": tf.reduce_max,
        "sum": tf.reduce_sum,
        # Square, sum and root are operations of TensorFlow Lite; a norm is not.
        "l2": lambda values, axis, keepdims: tf.sqrt(tf.reduce_sum(tf.square(values), axis=axis, keepdims=keepdims)),
    }[reduce]
    values = compute(x.values, axis=sorted(x.order[i] for i in axes), keepdims=keep)
    if keep:
        return _Tensor(values, x.order)
    left = [x.order[i] for i in range(x.rank) if i not in axes]
    return _Tensor(values, tuple(sorted(left).index(i) for i in left))


def _pad(node: _Node, x: _Tensor, pads: _Tensor | None = None, fill: _Tensor | None = None) -> _Tensor:
    import tensorflow as tf

    if node.get("mode", "constant") != "constant":
        raise node.failed("it does not pad with a constant")
    counts = node.get("pads") if pads is None else [int(i) for i in pads.values]
    around = [[0, 0]] * x.rank
    for i in range(x.rank):
        around[x.order[i]] = [counts[i], counts[i + x.rank]]
    return _Tensor(tf.pad(x.values, around, constant_values=_number(fill) or 0.0), x.order)


def _concat(node: _Node, *inputs: _Tensor) -> _Tensor:
    import tensorflow as tf

    axis = node.get("axis") % inputs[0].rank
    if all(each.constant for each in inputs):
        return _plain(np.concatenate([each.values for each in inputs], axis))
    order = _common_order(inputs)
    return _Tensor(tf.concat([as_order(each, order) for each in inputs], order[axis]), order)


def _reshape(node: _Node, x: _Tensor, shape: _Tensor) -> _Tensor:
    import tensorflow as tf

    if not shape.constant:
        raise node.failed("its shape is computed")
    if x.constant:
        return _plain(x.values.reshape(shape.values))
    sizes = [int(i) for i in shape.values]
    values = in_order(x)
    sizes = [values.shape[i] or -1 if size == 0 else size for i, size in enumerate(sizes)]
    return _plain_of(tf.reshape(values, sizes), len(sizes))


def _plain_of(values: Any, rank: int) -> _Tensor:
    return _Tensor(values, tuple(range(rank)))


def _flatten(node: _Node, x: _Tensor) -> _Tensor:
    import tensorflow as tf

    if node.get("axis", 1) != 1:
        raise node.failed("it flattens from another axis than 1")
    values = in_order(x)
    return _plain_of(tf.reshape(values, [-1, int(np.prod(values.shape[1:]))]), 2)


def _squeeze(node: _Node, x: _Tensor, axes: _Tensor | None = None) -> _Tensor:
    import tensorflow as tf

    chosen = node.get("axes") if axes is None else [int(i) for i in axes.values]
    if chosen is None:
        raise node.failed("its axes are not stated")
    chosen = [i % x.rank for i in chosen]
    if x.constant:
        return _plain(np.squeeze(x.values, tuple(chosen)))
    values = tf.squeeze(x.values, sorted(x.order[i] for i in chosen))
    left = [x.order[i] for i in range(x.rank) if i not in chosen]
    return _Tensor(values, tuple(sorted(left).index(i) for i in left))


def _unsqueeze(node: _Node, x: _Tensor, axes: _Tensor | None = None) -> _Tensor:
    import tensorflow as tf

    chosen = node.get("axes") if axes is None else [int(i) for i in axes.values]
    rank = x.rank + len(chosen)
    chosen = sorted(i % rank for i in chosen)
    if x.constant:
        return _plain(np.expand_dims(x.values, tuple(chosen)))
    values = in_order(x)
    for axis in chosen:
        values = tf.expand_dims(values, axis)
    return _plain_of(values, rank)


def _slice(node: _Node, x: _Tensor, *ranges: _Tensor) -> _Tensor:
    if not all(each.constant for each in ranges):
        raise node.failed("its limits are computed")
    starts, ends = ([int(i) for i in each.values] for each in ranges[:2])
    axes = [int(i) for i in ranges[2].values] if len(ranges) > 2 else list(range(len(starts)))
    steps = [int(i) for i in ranges[3].values] if len(ranges) > 3 else [1] * len(starts)
    taken = [slice(None)] * x.rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        far = abs(end) > 2**31 - 2
        taken[x.order[axis % x.rank]] = slice(start, None if far else end, step)
    return _Tensor(x.values[tuple(taken)], x.order)


def _split(node: _Node, x: _Tensor, sizes: _Tensor | None = None) -> list[_Tensor]:
    import tensorflow as tf

    axis = x.order[node.get("axis", 0) % x.rank]
    parts = node.get("split") if sizes is None else [int(i) for i in sizes.values]
    pieces = tf.split(x.values, node.outputs if parts is None else parts, axis)
    return [_Tensor(piece, x.order) for piece in pieces]


def _matmul(node: _Node, a: _Tensor, b: _Tensor) -> _Tensor:
    import tensorflow as tf

    if b.constant and b.rank == 2 and a.rank > 2 and a.order[-1] != a.rank - 1:
        # One sum over the channels, wherever they stand.
        letters = string.ascii_lowercase[: a.rank]
        before = "".join(letters[list(a.order).index(i)] for i in range(a.rank))
        return _Tensor(
            tf.einsum(f"{before},{letters[-1]}z->{before.replace(letters[-1], 'z')}", a.values, b.values), a.order
        )
    if b.constant and b.rank == 2 and a.order[-1] == a.rank - 1:
        return _Tensor(tf.matmul(a.values, b.values), a.order)
    return _plain_of(tf.matmul(in_order(a), in_order(b)), max(a.rank, b.rank))


def _gemm(node: _Node, a: _Tensor, b: _Tensor, c: _Tensor | None = None) -> _Tensor:
    import tensorflow as tf

    first, second = in_order(a), in_order(b)
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if b.constant:
        second = np.ascontiguousarray(second.T if node.get("transB", 0) else second) * np.float32(alpha)
        values = tf.matmul(first, second, transpose_a=bool(node.get("transA", 0)))
    else:
        values = tf.matmul(first, second, bool(node.get("transA", 0)), bool(node.get("transB", 0))) * alpha
    if c is not None:
        values = values + in_order(c) * np.float32(beta)
    return _plain_of(values, 2)


def _normalized(node: _Node, x: _Tensor, scale: _Tensor, shift: _Tensor, mean: _Tensor, variance: _Tensor) -> _Tensor:
    factor = scale.values / np.sqrt(variance.values + np.float32(node.get("epsilon", 1e-5)))
    shape = (1, -1, *[1] * (x.rank - 2))
    by, plus = (_plain(each.reshape(shape)) for each in (factor, shift.values - mean.values * factor))
    return _Tensor(x.values * as_order(by, x.order) + as_order(plus, x.order), x.order)


def _softmax(node: _Node, x: _Tensor) -> _Tensor:
    import tensorflow as tf

    axis = x.order[node.get("axis", -1) % x.rank]
    return _Tensor(tf.nn.softmax(x.values, axis), x.order)


def _quantize(node: _Node, x: _Tensor, scale: _Tensor, zero: _Tensor | None = None) -> _Tensor:
    """Translate QuantizeLinear: the range of the 8 bits goes into a FakeQuant, and the numbers stay numbers."""
    import tensorflow as tf

    kind = np.dtype(np.uint8) if zero is None else zero.values.dtype
    step, offset = _number(scale), 0.0 if zero is None else _number(zero)
    if x.constant or scale.values.size != 1 or kind not in (np.dtype(np.uint8), np.dtype(np.int8)):
        raise node.failed("its scale differs between channels, or it has more than 8 bits")
    limits = np.iinfo(kind)
    least, most = ((edge - offset) * step for edge in (limits.min, limits.max))  # type: ignore[operator]
    return _Tensor(tf.quantization.fake_quant_with_min_max_args(x.values, least, most), x.order)


def _dequantize(node: _Node, x: _Tensor, scale: _Tensor, zero: _Tensor | None = None) -> _Tensor:
    """Translate DequantizeLinear: weights become numbers, on the steps that they have in the graph."""
    if not x.constant:
        return x
    shape = [1] * x.rank
    if scale.values.size > 1:
        shape[node.get("axis", 1) % x.rank] = -1
    offset = 0 if zero is None else zero.values.reshape(shape).astype(np.int32)
    steps = (x.values.astype(np.int32) - offset).astype(np.float32)
    return _plain(steps * scale.values.reshape(shape).astype(np.float32))


def _constant(node: _Node) -> _Tensor:
    return _plain(numpy_helper.to_array(node.attributes["value"]))


def _simple(name: str) -> Callable[..., _Tensor]:
    """Translate an elementwise operator by the function of that name in `tf.math` or `tf.nn`."""

    def compute(*values: Any) -> Any:
        import tensorflow as tf

        found = getattr(tf.math, name, None) or getattr(tf.nn, name)
        result = found(*values)
        return result.numpy() if all(isinstance(each, np.ndarray) for each in values) else result

    return _elementwise(compute)


def _hard_sigmoid(node: _Node, x: _Tensor) -> _Tensor:
    import tensorflow as tf

    alpha, beta = np.float32(node.get("alpha", 0.2)), np.float32(node.get("beta", 0.5))
    return _Tensor(tf.minimum(tf.maximum(x.values * alpha + beta, np.float32(0)), np.float32(1)), x.order)


def _hard_swish(node: _Node, x: _Tensor) -> _Tensor:
    import tensorflow as tf

    return _Tensor(x.values * tf.nn.relu6(x.values + np.float32(3)) * np.float32(1 / 6), x.order)


def _leaky_relu(node: _Node, x: _Tensor) -> _Tensor:
    import tensorflow as tf

    return _Tensor(tf.nn.leaky_relu(x.values, node.get("alpha", 0.01)), x.order)


def _gelu(node: _Node, x: _Tensor) -> _Tensor:
    import tensorflow as tf

    return _Tensor(tf.nn.gelu(x.values, approximate=node.get("approximate", "none") == "tanh"), x.order)


def _same(node: _Node, x: _Tensor, *_: Any) -> _Tensor:
    return x


_OPERATORS: dict[str, Callable[..., Any]] = {
    **{
        name: _elementwise(_folded(compute))
        for name, compute in {
            "Add": lambda a, b: a + b,
            "Sub": lambda a, b: a - b,
            "Mul": lambda a, b: a * b,
            "Div": lambda a, b: a / b,
            "Sum": lambda a, b: a + b,
        }.items()
    },
    "Max": _simple("maximum"),
    "Min": _simple("minimum"),
    "Pow": _simple("pow"),
    "Neg": _simple("negative"),
    "Exp": _simple("exp"),
    "Log": _simple("log"),
    "Sqrt": _simple("sqrt"),
    "Reciprocal": _simple("reciprocal"),
    "Abs": _simple("abs"),
    "Erf": _simple("erf"),
    "Tanh": _simple("tanh"),
    "Sigmoid": _simple("sigmoid"),
    "Relu": _simple("relu"),
    "Elu": _simple("elu"),
    "Softplus": _simple("softplus"),
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": _leaky_relu,
    "Gelu": _gelu,
    "Cast": _cast,
    "Identity": _same,
    "Dropout": _same,
    "Constant": _constant,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Pad": _pad,
    "Conv": _convolution,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "BatchNormalization": _normalized,
    "Softmax": _softmax,
    "MaxPool": _pool("MAX"),
    "AveragePool": _pool("AVG"),
    "GlobalAveragePool": _global_pool("mean"),
    "GlobalMaxPool": _global_pool("max"),
    "ReduceMean": _reduce("mean"),
    "ReduceMax": _reduce("max"),
    "ReduceSum": _reduce("sum"),
    "ReduceL2": _reduce("l2"),
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
}
