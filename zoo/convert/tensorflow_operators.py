"""Translates each ONNX operator that the graphs of zoo have to TensorFlow; see `zoo.convert.onnx_to_tensorflow`."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from zoo.convert.tensorflow_tensors import (
    CHANNELS_LAST,
    Node,
    Tensor,
    as_order,
    common_order,
    elementwise,
    folded,
    in_order,
    plain,
)


def _number(tensor: Tensor | None) -> float | None:
    return None if tensor is None else float(np.asarray(tensor.values).reshape(-1)[0])


def _clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
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
    return Tensor(values, x.order)


def _cast(node: Node, x: Tensor) -> Tensor:
    import tensorflow as tf

    kind = onnx.helper.tensor_dtype_to_np_dtype(node.get("to"))
    return plain(x.values.astype(kind)) if x.constant else Tensor(tf.cast(x.values, kind), x.order)


def _transpose(node: Node, x: Tensor) -> Tensor:
    moved = node.get("perm", tuple(reversed(range(x.rank))))
    if x.constant:
        return plain(x.values.transpose(moved))
    return Tensor(x.values, tuple(x.order[i] for i in moved))


def _same_padding(sides: Sequence[int], kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int]) -> bool:
    """Return whether TensorFlow's padding "SAME" puts as many pixels around a picture as an ONNX node says."""
    for i in range(2):
        total = max((-(-sides[i] // strides[i]) - 1) * strides[i] + kernel[i] - sides[i], 0)
        if (pads[i], pads[i + 2]) != (total // 2, total - total // 2):
            return False
    return True


def _window(node: Node, x: Tensor, kernel: Sequence[int], fill: float) -> tuple[Any, str, list[int], list[int]]:
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


def _convolution(node: Node, x: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
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
    return Tensor(values, CHANNELS_LAST)


def _pool(kind: str) -> Callable[[Node, Tensor], Tensor]:
    def translate(node: Node, x: Tensor) -> Tensor:
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
            return Tensor(values[:, :: strides[0], :: strides[1]], CHANNELS_LAST)
        compute = tf.nn.max_pool2d if kind == "MAX" else tf.nn.avg_pool2d
        return Tensor(compute(values, kernel, strides, padding), CHANNELS_LAST)

    return translate


def _global_pool(reduce: str) -> Callable[[Node, Tensor], Tensor]:
    def translate(node: Node, x: Tensor) -> Tensor:
        return _reduced(x, range(2, x.rank), True, reduce)

    return translate


def _reduce(reduce: str) -> Callable[..., Tensor]:
    def translate(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = node.get("axes") if axes is None else [int(i) for i in axes.values]
        chosen = range(x.rank) if chosen is None else [i % x.rank for i in chosen]
        return _reduced(x, chosen, bool(node.get("keepdims", 1)), reduce)

    return translate


def _reduced(x: Tensor, axes: Sequence[int] | range, keep: bool, reduce: str) -> Tensor:
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
        return Tensor(values, x.order)
    left = [x.order[i] for i in range(x.rank) if i not in axes]
    return Tensor(values, tuple(sorted(left).index(i) for i in left))


def _pad(node: Node, x: Tensor, pads: Tensor | None = None, fill: Tensor | None = None) -> Tensor:
    import tensorflow as tf

    if node.get("mode", "constant") != "constant":
        raise node.failed("it does not pad with a constant")
    counts = node.get("pads") if pads is None else [int(i) for i in pads.values]
    around = [[0, 0]] * x.rank
    for i in range(x.rank):
        around[x.order[i]] = [counts[i], counts[i + x.rank]]
    return Tensor(tf.pad(x.values, around, constant_values=_number(fill) or 0.0), x.order)


def _concat(node: Node, *inputs: Tensor) -> Tensor:
    import tensorflow as tf

    axis = node.get("axis") % inputs[0].rank
    if all(each.constant for each in inputs):
        return plain(np.concatenate([each.values for each in inputs], axis))
    order = common_order(inputs)
    return Tensor(tf.concat([as_order(each, order) for each in inputs], order[axis]), order)


def _reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    import tensorflow as tf

    if not shape.constant:
        raise node.failed("its shape is computed")
    if x.constant:
        return plain(x.values.reshape(shape.values))
    sizes = [int(i) for i in shape.values]
    values = in_order(x)
    sizes = [values.shape[i] or -1 if size == 0 else size for i, size in enumerate(sizes)]
    return _plain_of(tf.reshape(values, sizes), len(sizes))


def _plain_of(values: Any, rank: int) -> Tensor:
    return Tensor(values, tuple(range(rank)))


def _flatten(node: Node, x: Tensor) -> Tensor:
    import tensorflow as tf

    if node.get("axis", 1) != 1:
        raise node.failed("it flattens from another axis than 1")
    values = in_order(x)
    return _plain_of(tf.reshape(values, [-1, int(np.prod(values.shape[1:]))]), 2)


def _shape(node: Node, x: Tensor) -> Tensor:
    import tensorflow as tf

    if node.get("start", 0) or node.get("end") is not None:
        raise node.failed("it asks for a part of a shape")
    return plain(np.array(x.values.shape, np.int64)) if x.constant else plain(tf.shape(in_order(x), tf.int64))


def _constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    import tensorflow as tf

    given = node.get("value")
    value = np.zeros(1, np.float32) if given is None else numpy_helper.to_array(given)
    if shape.constant:
        return plain(np.full(shape.values, value[0], value.dtype))
    return _plain_of(tf.fill(in_order(shape), value[0]), int(shape.values.shape[0]))


def _tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    import tensorflow as tf

    if not repeats.constant:
        raise node.failed("how often it repeats is computed")
    if x.constant:
        return plain(np.tile(x.values, repeats.values))
    return _plain_of(tf.tile(in_order(x), repeats.values), x.rank)


def _squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    import tensorflow as tf

    chosen = node.get("axes") if axes is None else [int(i) for i in axes.values]
    if chosen is None:
        raise node.failed("its axes are not stated")
    chosen = [i % x.rank for i in chosen]
    if x.constant:
        return plain(np.squeeze(x.values, tuple(chosen)))
    values = tf.squeeze(x.values, sorted(x.order[i] for i in chosen))
    left = [x.order[i] for i in range(x.rank) if i not in chosen]
    return Tensor(values, tuple(sorted(left).index(i) for i in left))


def _unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    import tensorflow as tf

    chosen = node.get("axes") if axes is None else [int(i) for i in axes.values]
    rank = x.rank + len(chosen)
    chosen = sorted(i % rank for i in chosen)
    if x.constant:
        return plain(np.expand_dims(x.values, tuple(chosen)))
    values = in_order(x)
    for axis in chosen:
        values = tf.expand_dims(values, axis)
    return _plain_of(values, rank)


def _slice(node: Node, x: Tensor, *ranges: Tensor) -> Tensor:
    if not all(each.constant for each in ranges):
        raise node.failed("its limits are computed")
    starts, ends = ([int(i) for i in each.values] for each in ranges[:2])
    axes = [int(i) for i in ranges[2].values] if len(ranges) > 2 else list(range(len(starts)))
    steps = [int(i) for i in ranges[3].values] if len(ranges) > 3 else [1] * len(starts)
    taken = [slice(None)] * x.rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        far = abs(end) > 2**31 - 2
        taken[x.order[axis % x.rank]] = slice(start, None if far else end, step)
    return Tensor(x.values[tuple(taken)], x.order)


def _split(node: Node, x: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
    import tensorflow as tf

    axis = x.order[node.get("axis", 0) % x.rank]
    parts = node.get("split") if sizes is None else [int(i) for i in sizes.values]
    pieces = tf.split(x.values, node.outputs if parts is None else parts, axis)
    return [Tensor(piece, x.order) for piece in pieces]


def _matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    import tensorflow as tf

    if b.constant and b.rank == 2 and a.rank > 2 and a.order[-1] != a.rank - 1:
        # One sum over the channels, wherever they stand.
        letters = string.ascii_lowercase[: a.rank]
        before = "".join(letters[list(a.order).index(i)] for i in range(a.rank))
        return Tensor(
            tf.einsum(f"{before},{letters[-1]}z->{before.replace(letters[-1], 'z')}", a.values, b.values), a.order
        )
    if b.constant and b.rank == 2 and a.order[-1] == a.rank - 1:
        return Tensor(tf.matmul(a.values, b.values), a.order)
    return _plain_of(tf.matmul(in_order(a), in_order(b)), max(a.rank, b.rank))


def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
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


def _normalized(node: Node, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    factor = scale.values / np.sqrt(variance.values + np.float32(node.get("epsilon", 1e-5)))
    shape = (1, -1, *[1] * (x.rank - 2))
    by, plus = (plain(each.reshape(shape)) for each in (factor, shift.values - mean.values * factor))
    return Tensor(x.values * as_order(by, x.order) + as_order(plus, x.order), x.order)


def _softmax(node: Node, x: Tensor) -> Tensor:
    import tensorflow as tf

    axis = x.order[node.get("axis", -1) % x.rank]
    return Tensor(tf.nn.softmax(x.values, axis), x.order)


def _quantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Translate QuantizeLinear: the range of the 8 bits goes into a FakeQuant, and the numbers stay numbers."""
    import tensorflow as tf

    kind = np.dtype(np.uint8) if zero is None else zero.values.dtype
    step, offset = _number(scale), 0.0 if zero is None else _number(zero)
    if x.constant or scale.values.size != 1 or kind not in (np.dtype(np.uint8), np.dtype(np.int8)):
        raise node.failed("its scale differs between channels, or it has more than 8 bits")
    limits = np.iinfo(kind)
    least, most = ((edge - offset) * step for edge in (limits.min, limits.max))  # type: ignore[operator]
    return Tensor(tf.quantization.fake_quant_with_min_max_args(x.values, least, most), x.order)


def _dequantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """Translate DequantizeLinear: weights become numbers, on the steps that they have in the graph."""
    if not x.constant:
        return x
    shape = [1] * x.rank
    if scale.values.size > 1:
        shape[node.get("axis", 1) % x.rank] = -1
    offset = 0 if zero is None else zero.values.reshape(shape).astype(np.int32)
    steps = (x.values.astype(np.int32) - offset).astype(np.float32)
    return plain(steps * scale.values.reshape(shape).astype(np.float32))


def _constant(node: Node) -> Tensor:
    return plain(numpy_helper.to_array(node.attributes["value"]))


def _simple(name: str) -> Callable[..., Tensor]:
    """Translate an elementwise operator by the function of that name in `tf.math` or `tf.nn`."""

    def compute(*values: Any) -> Any:
        import tensorflow as tf

        found = getattr(tf.math, name, None) or getattr(tf.nn, name)
        result = found(*values)
        return result.numpy() if all(isinstance(each, np.ndarray) for each in values) else result

    return elementwise(compute)


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    import tensorflow as tf

    alpha, beta = np.float32(node.get("alpha", 0.2)), np.float32(node.get("beta", 0.5))
    return Tensor(tf.minimum(tf.maximum(x.values * alpha + beta, np.float32(0)), np.float32(1)), x.order)


def _hard_swish(node: Node, x: Tensor) -> Tensor:
    import tensorflow as tf

    return Tensor(x.values * tf.nn.relu6(x.values + np.float32(3)) * np.float32(1 / 6), x.order)


def _leaky_relu(node: Node, x: Tensor) -> Tensor:
    import tensorflow as tf

    return Tensor(tf.nn.leaky_relu(x.values, node.get("alpha", 0.01)), x.order)


def _gelu(node: Node, x: Tensor) -> Tensor:
    import tensorflow as tf

    return Tensor(tf.nn.gelu(x.values, approximate=node.get("approximate", "none") == "tanh"), x.order)


def _same(node: Node, x: Tensor, *_: Any) -> Tensor:
    return x


OPERATORS: dict[str, Callable[..., Any]] = {
    **{
        name: elementwise(folded(compute))
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
    "Shape": _shape,
    "ConstantOfShape": _constant_of_shape,
    "Tile": _tile,
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
