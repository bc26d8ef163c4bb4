"""Parity: an export that computes something else must fail, however it differs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from zoo import backend
from zoo.convert.keras_to_onnx import convert, public
from zoo.errors import ConversionFailed, ParityFailed
from zoo.export import parity
from zoo.plugin import Head, registry
from zoo.testing import check_graph, randomize, synthetic_pixels
from zoo.train.network import attach_head, build_backbone

RNG = np.random.default_rng(0)
PIXELS = synthetic_pixels(70, (32, 32), 3)


@pytest.fixture(scope="module")
def model():
    architecture = registry.load().architecture("mobilenetv2_035")
    backend.start().utils.set_random_seed(0)
    backbone = build_backbone(architecture, (32, 32))
    randomize(backbone)
    return attach_head(backbone, architecture.head, 4, "test")


@pytest.fixture(scope="module")
def graph(model):
    return convert(model)


def broken(graph, change):
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    change(copy.graph)
    return copy


def test_a_good_graph_passes_with_figures(model, graph):
    figures = parity.check(model, graph, PIXELS)
    assert figures["pictures"] == 70 and figures["top1_equal"] == 70
    assert 0 < figures["logits_difference"] < 1e-4 and figures["probabilities_difference"] < 1e-4


def test_names_and_shapes_are_ours(graph):
    def shape(value):
        return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]

    assert [(i.name, i.type.tensor_type.elem_type, shape(i)) for i in graph.graph.input] == [
        ("image", onnx.TensorProto.UINT8, ["batch", 32, 32, 3])
    ]
    assert {o.name: shape(o) for o in graph.graph.output} == {"logits": ["batch", 4], "probabilities": ["batch", 4]}
    assert [o.name for o in public(graph).graph.output] == ["probabilities"]
    assert {opset.version for opset in graph.opset_import if not opset.domain} == {17}
    names = [name for node in graph.graph.node for name in (*node.input, *node.output)]
    assert not [name for name in names if name.startswith("unk__") or name == "Identity:0"]


def scale_a_weight(factor):
    def change(graph):
        kernels = [w for w in graph.initializer if len(w.dims) == 2]
        kernels[-1].CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(kernels[-1]) * np.float32(factor), kernels[-1].name)
        )

    return change


def swap_classes(graph):
    for node in graph.node:
        if "logits" in node.output:
            node.output[0] = "unswapped"
    order = numpy_helper.from_array(np.array([1, 0, 2, 3]), "order")
    graph.initializer.append(order)
    graph.node.append(onnx.helper.make_node("Gather", ["unswapped", "order"], ["logits"], axis=1))


@pytest.mark.parametrize("factor", [1.001, 0.0, np.nan])
def test_another_weight_fails(model, graph, factor):
    with pytest.raises(ParityFailed):
        parity.check(model, broken(graph, scale_a_weight(factor)), PIXELS)


def test_a_missing_op_fails(model, graph):
    def unsupported(graph):
        graph.node[0].op_type = "StatefulPartitionedCall"

    with pytest.raises(ConversionFailed, match="onnxruntime cannot run"):
        parity.check(model, broken(graph, unsupported), PIXELS)


def test_a_second_input_fails(model, graph):
    def add(graph):
        graph.input.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1]))

    with pytest.raises(ConversionFailed, match="one input"):
        parity.check(model, broken(graph, add), PIXELS)


def test_a_fixed_batch_fails(model, graph):
    def fix(graph):
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    with pytest.raises(ConversionFailed):
        parity.check(model, broken(graph, fix), PIXELS)


LOGITS = RNG.normal(size=(70, 4)).astype("float32") * 5


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def compare(logits, reference=LOGITS):
    return parity.compare(reference, logits, softmax(reference), softmax(logits))


def test_logits_are_compared_where_the_softmax_hides_a_difference():
    sure = LOGITS + np.array([400, 0, 0, 0], "float32")
    wrong = sure + np.array([0, 40, 0, 0], "float32")
    assert np.array_equal(softmax(sure), softmax(wrong))
    with pytest.raises(ParityFailed, match="logits differ"):
        compare(wrong, sure)


def test_the_tolerance_is_relative_to_the_largest_logit():
    scale = np.abs(LOGITS).max()
    assert compare(LOGITS + np.float32(0.9e-4 * scale))["logits_difference"] == pytest.approx(0.9e-4, rel=0.02)
    with pytest.raises(ParityFailed, match="logits differ"):
        compare(LOGITS + np.float32(1.2e-4 * scale))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def of_one_unit(x):
    return np.hstack([sigmoid(-x), sigmoid(x)])


@pytest.mark.parametrize(
    ("columns", "activation", "options"),
    [(4, softmax, {}), (1, of_one_unit, {}), (3, sigmoid, {"multilabel": True})],
)
def test_probabilities_must_be_those_of_the_logits(columns, activation, options):
    """For a confident network, they may differ from Keras by more than the logits do. A wrong head still fails."""
    sure = LOGITS[:, :columns] * 5
    sure[0] = 0
    moved = sure.copy()
    moved[0, 0] += np.float32(0.9e-4 * np.abs(sure).max())
    there, here = activation(sure), activation(moved)
    assert parity.compare(sure, moved, there, here, **options)["probabilities_difference"] > 5e-4
    for wrong in (here + np.float32(1.5e-5), np.rint(here * 255) / 255, np.zeros_like(here), here * np.nan):
        with pytest.raises(ParityFailed, match="those of its logits"):
            parity.compare(sure, moved, there, wrong, **options)


def test_a_graph_that_ignores_pictures_that_hardly_differ_fails():
    rng = np.random.default_rng(0)
    logits = np.array([20, -3, -3, 1.0]) + rng.uniform(-1, 1, (20, 4)) * 1.7e-3
    constant = np.tile(logits.mean(axis=0), (20, 1))
    with pytest.raises(ParityFailed, match="as much as the pictures do"):
        parity.compare(logits, constant, softmax(logits), softmax(constant))
    parity.compare(logits, logits + 1e-5, softmax(logits), softmax(logits + 1e-5))


def test_constant_and_infinite_logits_fail():
    with pytest.raises(ParityFailed, match="same logits for every picture"):
        compare(np.tile(LOGITS[:1], (70, 1)), np.tile(LOGITS[:1], (70, 1)))
    bad = LOGITS.copy()
    bad[3, 2] = np.nan
    with pytest.raises(ParityFailed, match="not finite"):
        compare(bad)
    with pytest.raises(ParityFailed, match="not finite"):
        compare(LOGITS, bad)


def test_swapped_classes_fail(model, graph):
    with pytest.raises(ParityFailed):
        parity.check(model, broken(graph, swap_classes), PIXELS)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda graph: graph.input.add(name="mean"), "inputs are"),
        (lambda graph: graph.node[1].__setattr__("domain", "com.microsoft"), "not ONNX's own"),
        (lambda graph: graph.node.extend([onnx.helper.make_node("Transpose", ["x"], ["y"])] * 4), "5 Transpose nodes"),
    ],
)
def test_the_graph_check_finds_what_devices_do_not_run(graph, change, problem):
    check_graph(graph)
    with pytest.raises(AssertionError, match=problem):
        check_graph(broken(graph, change))


def test_every_batch_norm_behind_a_convolution_is_folded(graph):
    """MobileNetV2 has one behind each of its 52 convolutions. The graph check notices one that is not folded."""
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 52 and all(len(node.input) == 3 for node in convolutions)

    def unfold(copy):
        position, node = next((i, node) for i, node in enumerate(copy.node) if node.op_type == "Conv")
        channels = next(tensor.dims[0] for tensor in copy.initializer if tensor.name == node.input[1])
        copy.initializer.append(numpy_helper.from_array(np.ones((channels, 1, 1), "float32"), "scale"))
        result, node.output[0] = node.output[0], "unscaled"
        copy.node.insert(position + 1, onnx.helper.make_node("Mul", ["unscaled", "scale"], [result], name="bn"))

    with pytest.raises(AssertionError, match="not folded into its convolution: bn"):
        check_graph(broken(graph, unfold))


def test_grouped_convolutions_and_gelu_are_plain_operators():
    """On a CPU, Keras compiles the first with XLA, and writes the second with Erfc, which ONNX does not have."""
    keras = backend.start()
    pixels = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, activation="gelu")(pixels)
    x = keras.layers.Conv2D(8, 3, groups=4)(x)
    x = keras.layers.Conv2D(8, 3, groups=8)(x)
    network = attach_head(keras.Model(pixels, x), Head(), 4, "grouped")
    converted = convert(network)
    groups = [attribute.i for node in converted.graph.node for attribute in node.attribute if attribute.name == "group"]
    assert groups == [1, 4, 8]
    check_graph(converted)
    assert parity.check(network, converted, PIXELS)["logits_difference"] < 1e-5
    # Keras itself is as it was.
    assert network.predict_on_batch(PIXELS[:2].astype("float32")).shape == (2, 4)


def test_one_unit_and_several_labels_are_decided_class_by_class():
    logits = RNG.normal(size=(30, 1)).astype("float32") * 5
    both = np.hstack([-logits, logits])
    probabilities = 1 / (1 + np.exp(-both))
    assert parity.compare(logits, logits, probabilities, probabilities)["top1_equal"] == 30
    with pytest.raises(ParityFailed, match="those of its logits"):
        parity.compare(logits, logits, probabilities[:, ::-1], probabilities[:, ::-1])
    several = RNG.normal(size=(30, 3)).astype("float32") * 5
    probabilities = 1 / (1 + np.exp(-several))
    assert parity.compare(several, several, probabilities, probabilities, multilabel=True)["top1_equal"] == 30
    order = [1, 0, 2]
    with pytest.raises(ParityFailed, match="those of its logits"):
        parity.compare(several, several, probabilities[:, order], probabilities[:, order], multilabel=True)


@pytest.mark.parametrize("body", ["a dense layer over a map", "squeeze-and-excite of dense layers"])
def test_shapes_of_several_unknown_numbers_are_left_computed(body):
    """A dense layer over a map reshapes to [batch * height * width, channels] and back."""
    keras = backend.start()
    pixels = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=2)(pixels)
    if body.startswith("a"):
        x = keras.layers.Dense(6, activation="relu")(x)
    else:
        weights = keras.layers.Dense(8, activation="sigmoid")(keras.layers.GlobalAveragePooling2D(keepdims=True)(x))
        x = keras.layers.Multiply()([x, weights])
    network = attach_head(keras.Model(pixels, x), Head(pool="flatten"), 4, "dense")
    converted = convert(network)
    assert parity.check(network, converted, PIXELS)["logits_difference"] < 1e-5


def test_flattening_is_one_node(model):
    """Compilers for accelerators refuse a Reshape whose target shape is computed."""
    backbone = backend.start().Model(model.input, model.get_layer("out_relu").output)
    converted = convert(attach_head(backbone, Head(pool="flatten"), 4, "flat"))
    kinds = [node.op_type for node in converted.graph.node]
    assert "Reshape" in kinds and not {"Shape", "Squeeze", "Unsqueeze", "Concat"} & set(kinds)
