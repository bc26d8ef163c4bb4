"""Grad-CAM without Keras: graphs built by hand, whose evidence is known to lie in one place."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from zoo.convert.gradcam import GradCam
from zoo.errors import ConversionFailed

SIDE, CELL = 64, 8
CORNERS = {"top left": (0, 0), "top right": (0, 1), "bottom left": (1, 0), "bottom right": (1, 1)}
CHANNELS = 4


def graph_of(nodes, weights, *, size=(SIDE, SIDE), units=2):
    """Return a graph: image -> nodes -> logits. The image becomes `pixels`, float32 [batch, 3, height, width]."""
    start = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["pixels"], perm=[0, 3, 1, 2]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *size, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", units])
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph([*start, *nodes], "by hand", [image], [logits], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def colors_kernel():
    """Return a kernel whose channels are the mean red, green and blue of a cell, and the mean brightness."""
    kernel = np.zeros((CHANNELS, 3, CELL, CELL), np.float32)
    for i in range(3):
        kernel[i, i] = 1 / 255 / CELL**2
    kernel[3] = 1 / 255 / 3 / CELL**2
    return kernel


CONVOLUTION = helper.make_node("Conv", ["pixels", "kernel"], ["map"], strides=[CELL, CELL], kernel_shape=[CELL, CELL])
POOL = helper.make_node("ReduceMean", ["map"], ["features"], axes=[2, 3], keepdims=0)
# Class 0 is red that is not bright, and class 1 is green that is not bright.
DENSE = np.array([[3, -2], [-2, 3], [-2, -2], [-0.5, -0.5]], np.float32)


def red_and_green(corner):
    """Return a picture with a red square in a corner and a green one in the opposite corner, on gray noise."""
    picture = np.random.default_rng(1).integers(40, 60, (SIDE, SIDE, 3)).astype(np.uint8)
    row, column = corner
    for place, channel in (((row, column), 0), ((1 - row, 1 - column), 1)):
        rows, columns = (slice(3 * SIDE // 4, SIDE) if each else slice(0, SIDE // 4) for each in place)
        picture[rows, columns] = 0
        picture[rows, columns, channel] = 250
    return picture


def peak(heat):
    """Return the corner in which the largest value of a heat map is, and the fraction of the heat in that quarter."""
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    corner = int(row >= heat.shape[0] // 2), int(column >= heat.shape[1] // 2)
    half = heat.shape[0] // 2
    quarter = heat[corner[0] * half : (corner[0] + 1) * half, corner[1] * half : (corner[1] + 1) * half]
    return corner, quarter.sum() / heat.sum()


@pytest.mark.parametrize("corner", CORNERS.values(), ids=CORNERS)
@pytest.mark.parametrize("head", ["linear", "hidden", "one logit", "maximum", "joined"])
def test_heat_is_where_the_evidence_is(corner, head):
    """The head decides by the color alone, and each class has its color in one corner alone."""
    nodes, weights, units = [CONVOLUTION, POOL], {"kernel": colors_kernel(), "dense": DENSE}, 2
    last = "features"
    if head == "maximum":
        nodes[1] = helper.make_node("GlobalMaxPool", ["map"], ["maxima"])
        nodes.append(helper.make_node("Flatten", ["maxima"], ["features"], axis=1))
    elif head == "hidden":
        nodes += [
            helper.make_node("Gemm", ["features", "hidden", "bias"], ["products"]),
            helper.make_node("Relu", ["products"], ["activations"]),
        ]
        weights |= {"hidden": np.concatenate([np.eye(4), -np.eye(4)], 1).astype(np.float32)}
        weights |= {"bias": np.full(8, 0.01, np.float32), "dense": np.concatenate([DENSE, -DENSE])}
        last = "activations"
    elif head == "one logit":
        weights["dense"], units = DENSE[:, 1:] - DENSE[:, :1], 1
    elif head == "joined":
        # The pixels stand for the map of a lower stage, which says the opposite of the last map.
        nodes += [
            helper.make_node("ReduceMean", ["pixels"], ["lower"], axes=[2, 3], keepdims=0),
            helper.make_node("Concat", ["lower", "features"], ["joined"], axis=1),
        ]
        weights["dense"] = np.concatenate([-9 * DENSE[:3], DENSE])
        last = "joined"
    nodes.append(helper.make_node("MatMul", [last, "dense"], ["logits"]))
    gradcam = GradCam(graph_of(nodes, weights, units=units))
    assert gradcam.missing is None
    opposite = 1 - corner[0], 1 - corner[1]
    for label, expected in ((0, corner), (1, opposite)):
        heat = gradcam(red_and_green(corner), label).map
        assert heat.shape == (SIDE // CELL, SIDE // CELL)
        found, share = peak(heat)
        assert found == expected and share > (0.9 if head == "one logit" else 0.99)


def test_pooled_features_come_with_the_heat():
    graph = graph_of(
        [CONVOLUTION, POOL, helper.make_node("MatMul", ["features", "dense"], ["logits"])],
        {"kernel": colors_kernel(), "dense": DENSE},
    )
    graph.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", CHANNELS]))
    picture = red_and_green((0, 0))
    features = GradCam(graph)(picture, 0).features
    assert features == pytest.approx([*picture.mean(axis=(0, 1)) / 255, picture.mean() / 255], abs=1e-5)


def test_no_evidence_gives_no_heat():
    """A picture that is gray everywhere speaks against both classes."""
    dense = -np.abs(DENSE)
    nodes = [CONVOLUTION, POOL, helper.make_node("MatMul", ["features", "dense"], ["logits"])]
    heat = GradCam(graph_of(nodes, {"kernel": colors_kernel(), "dense": dense}))(red_and_green((0, 0)), 0).map
    assert heat.max() == 0


def test_networks_without_a_usable_map_say_why():
    flatten = helper.make_node("Flatten", ["pixels"], ["flat"], axis=1)
    dense = np.ones((SIDE * SIDE * 3, 2), np.float32)
    gradcam = GradCam(graph_of([flatten, helper.make_node("MatMul", ["flat", "dense"], ["logits"])], {"dense": dense}))
    assert "no convolutions" in gradcam.missing and gradcam(red_and_green((0, 0)), 0) is None

    nodes = [CONVOLUTION, POOL, helper.make_node("MatMul", ["features", "dense"], ["logits"])]
    weights = {"kernel": colors_kernel(), "dense": DENSE}
    gradcam = GradCam(graph_of(nodes, weights, size=(CELL, CELL)))
    assert "a single position at this picture size" in gradcam.missing


def test_an_operator_without_a_rule_is_named():
    nodes = [CONVOLUTION, POOL, helper.make_node("Tanh", ["features"], ["bounded"])]
    nodes.append(helper.make_node("MatMul", ["bounded", "dense"], ["logits"]))
    gradcam = GradCam(graph_of(nodes, {"kernel": colors_kernel(), "dense": DENSE}))
    with pytest.raises(ConversionFailed, match="operator Tanh"):
        gradcam(red_and_green((0, 0)), 0)
