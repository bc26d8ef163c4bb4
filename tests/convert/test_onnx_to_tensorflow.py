"""ONNX graphs as TensorFlow functions: each operator computes what ONNX Runtime computes, in whatever order of axes."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from zoo.convert.onnx_to_tensorflow import function_of
from zoo.errors import ConversionFailed

RNG = np.random.default_rng(0)


def weights(*shape):
    return RNG.normal(0, 1, shape).astype(np.float32)


def graph(nodes, constants, *, size=(9, 11, 3)):
    """Return a graph of nodes (operator, inputs, output, attributes); x has the pixels with channels first."""
    start = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "small"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["x"], perm=[0, 3, 1, 2]),
    ]
    made = [helper.make_node(kind, inputs.split(), [output], **more) for kind, inputs, output, more in nodes]
    ends = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    tensors.append(numpy_helper.from_array(np.array([0.01, 0.02, 0.03], np.float32), "small"))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *size])
    made = helper.make_graph([*start, *made], "test", [image], ends, tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def difference(model, size=(9, 11, 3)):
    """Return the largest difference between ONNX Runtime and the function, relative to the largest value."""
    pixels = RNG.integers(0, 256, (2, *size), dtype=np.uint8)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"image": pixels})
    (got,) = function_of(model)(pixels)
    assert got.shape == expected.shape
    return float(np.abs(got.numpy() - expected).max() / np.abs(expected).max())


def conv(more, kernel, bias=True):
    constants = {"w": kernel, "b": weights(kernel.shape[0])}
    return [("Conv", "x w b" if bias else "x w", "out", more)], constants


CASES = {
    "same padding": conv({"pads": [1, 1, 1, 1]}, weights(4, 3, 3, 3)),
    # Keras pads below and to the right if the stride is 2.
    "uneven padding": conv({"pads": [0, 0, 1, 1], "strides": [2, 2]}, weights(4, 3, 3, 3), bias=False),
    "odd padding": conv({"pads": [2, 0, 1, 3], "strides": [2, 1]}, weights(4, 3, 3, 3)),
    "holes": conv({"pads": [2, 2, 2, 2], "dilations": [2, 2]}, weights(4, 3, 3, 3)),
    "depthwise": conv({"pads": [1, 1, 1, 1], "group": 3}, weights(6, 1, 3, 3)),
    "depthwise, two strides": conv({"group": 3, "strides": [1, 2]}, weights(3, 1, 3, 3)),
    "max pool": ([("MaxPool", "x", "out", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]})], {}),
    "strided": ([("MaxPool", "x", "out", {"kernel_shape": [1, 1], "strides": [2, 2]})], {}),
    "mean pool": ([("AveragePool", "x", "out", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})], {}),
    "squeeze and excite": (
        [
            ("ReduceMean", "x", "m", {"axes": [2, 3], "keepdims": 1}),
            ("Conv", "m w", "n", {}),
            ("HardSigmoid", "n", "h", {"alpha": 1 / 6}),
            ("Mul", "h x", "out", {}),
        ],
        {"w": weights(3, 3, 1, 1)},
    ),
    "broadcasting": (
        [("Add", "x c", "a", {}), ("Sub", "a d", "b", {}), ("Div", "b e", "out", {})],
        {"c": weights(3, 1, 1), "d": weights(11), "e": np.float32(3)},
    ),
    "a token for each picture": (
        [
            ("ReduceMean", "x", "m", {"axes": [2, 3], "keepdims": 0}),
            ("Slice", "m zero one one", "s", {}),
            ("Shape", "s", "n", {}),
            ("ConstantOfShape", "n", "o", {"value": numpy_helper.from_array(np.ones(1, np.float32))}),
            ("MatMul", "o w", "t", {}),
            ("Tile", "t often", "r", {}),
            ("Mul", "r m", "out", {}),
        ],
        {
            **{"zero": np.array([0]), "one": np.array([1]), "often": np.array([1, 3]), "w": weights(1, 1)},
        },
    ),
    "layer norm": (
        [
            ("ReduceMean", "x", "m", {"axes": [1], "keepdims": 1}),
            ("Sub", "x m", "d", {}),
            ("Mul", "d d", "q", {}),
            ("ReduceMean", "q", "v", {"axes": [1], "keepdims": 1}),
            ("Add", "v e", "w", {}),
            ("Sqrt", "w", "s", {}),
            ("Reciprocal", "s", "r", {}),
            ("Mul", "d r", "out", {}),
        ],
        {"e": np.float32(1e-3)},
    ),
    "concat and slice": (
        [
            ("Concat", "x x", "c", {"axis": 1}),
            ("Slice", "c from to along", "s", {}),
            ("Pad", "s p", "out", {}),
        ],
        {
            "from": np.array([1, 2]),
            "to": np.array([5, 2**62]),
            "along": np.array([1, 3]),
            "p": np.array([0, 1, 0, 2, 0, 0, 3, 0]),
        },
    ),
    "flatten": (
        [("Flatten", "x", "f", {}), ("Gemm", "f w b", "out", {"transB": 1})],
        {"w": weights(5, 297), "b": weights(5)},
    ),
    "flatten, channels last": (
        [
            ("Relu", "x", "r", {}),
            ("Transpose", "r", "t", {"perm": [0, 2, 3, 1]}),
            ("Reshape", "t s", "f", {}),
            ("MatMul", "f w", "out", {}),
        ],
        {"s": np.array([-1, 297]), "w": weights(297, 4)},
    ),
    "outlier score": (
        [
            ("ReduceMax", "x", "m", {"axes": [2, 3], "keepdims": 0}),
            ("ReduceL2", "m", "n", {"axes": [1], "keepdims": 1}),
            ("Max", "n e", "d", {}),
            ("Div", "m d", "u", {}),
            ("Cast", "h", "f", {"to": TensorProto.FLOAT}),
            ("MatMul", "u f", "out", {}),
        ],
        {"e": np.float32(1e-12), "h": weights(3, 5).astype(np.float16)},
    ),
    "probabilities of one unit": (
        [
            ("GlobalAveragePool", "x", "g", {}),
            ("Squeeze", "g a", "s", {}),
            ("Neg", "s", "n", {}),
            ("Concat", "n s", "c", {"axis": 1}),
            ("Sigmoid", "c", "p", {}),
            ("Softmax", "p", "out", {"axis": -1}),
        ],
        {"a": np.array([2, 3])},
    ),
    "activations": (
        [
            ("Clip", "x l h", "c", {}),
            ("Erf", "c", "e", {}),
            ("LeakyRelu", "e", "k", {"alpha": 0.2}),
            ("HardSwish", "k", "s", {}),
            ("Exp", "s", "out", {}),
        ],
        {"l": np.float32(-1), "h": np.float32(2)},
    ),
    "batch norm": (
        [("BatchNormalization", "x s b m v", "out", {"epsilon": 1e-3})],
        {"s": weights(3), "b": weights(3), "m": weights(3), "v": np.abs(weights(3)) + 1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operator(name):
    assert difference(graph(*CASES[name])) < 1e-5


def test_ranges_of_8_bits_are_kept():
    nodes = [
        ("QuantizeLinear", "x s z", "q", {}),
        ("DequantizeLinear", "q s z", "d", {}),
        ("DequantizeLinear", "w t y", "f", {"axis": 0}),
        ("Conv", "d f", "out", {}),
    ]
    constants = {"s": np.float32(0.03), "z": np.uint8(10), "w": RNG.integers(-127, 128, (4, 3, 3, 3), np.int8)}
    constants |= {"t": np.array([0.01, 0.02, 0.03, 0.04], np.float32), "y": np.zeros(4, np.int8)}
    model = graph(nodes, constants)
    # A value between two steps may be rounded either way.
    assert difference(model) < 0.01
    plain = graph([("DequantizeLinear", "w t y", "f", {"axis": 0}), ("Conv", "x f", "out", {})], constants)
    operations = {each.type for each in function_of(model).graph.get_operations()}
    assert "FakeQuantWithMinMaxArgs" in operations
    assert "FakeQuantWithMinMaxArgs" not in {each.type for each in function_of(plain).graph.get_operations()}


def test_what_is_not_translated_is_named():
    with pytest.raises(ConversionFailed, match="the operator 'Einsum'"):
        function_of(graph([("Einsum", "x", "out", {"equation": "bchw->bc"})], {}))
    with pytest.raises(ConversionFailed, match="this Conv: its weights are computed"):
        function_of(graph([("Conv", "x x", "out", {})], {}))


FAMILIES = ("mobilenetv3_small", "efficientnet_b0", "convnext_tiny", "resnext50", "nasnet_mobile", "deit_tiny")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("form", ["litert", "openvino"])
def test_families_in_other_formats(name, form, plugins, tmp_path):
    """One network of each kind of graph: its LiteRT file and its OpenVINO IR compute what the ONNX graph computes."""
    pytest.importorskip({"litert": "ai_edge_litert", "openvino": "openvino"}[form])
    from zoo import backend, testing
    from zoo.convert.keras_to_onnx import convert, public
    from zoo.export import artifact
    from zoo.plugin import FormatSource
    from zoo.train.network import attach_head, build_backbone
    from zoo_runtime import ImageSpec, ModelInfo

    keras, architecture = backend.start(), plugins.architecture(name)
    keras.utils.set_random_seed(0)
    size = (architecture.min_size, architecture.min_size)
    backbone = build_backbone(architecture, size)
    testing.randomize(backbone)
    model = convert(attach_head(backbone, architecture.head, 5, architecture.name))
    info = ModelInfo(tuple("abcde"), "multiclass", ImageSpec(size), architecture={"name": name})
    pixels = testing.synthetic_pixels(8, size, 3, seed=1)
    content = artifact.serialize(model, info)
    source = FormatSource(
        onnx=content,
        metadata=info.to_metadata(),
        classes=info.classes,
        calibration=pixels,
        folder=tmp_path,
        tensorflow=lambda: function_of(public(model)),
    )
    found = plugins.format(form)
    found.make(source)
    expected = onnxruntime.InferenceSession(content).run(["probabilities"], {"image": pixels})[0]
    got = found.run(tmp_path)(pixels)["probabilities"]
    assert np.abs(got - expected).max() < 1e-4
