"""Computes Grad-CAM heat maps with an ONNX graph: where in a picture the network saw evidence for a class.

Source: Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391. The feature map is the last one, which the backbone
passes on to the head. Each of its channels is weighted with the mean gradient of the class's logit over the positions.
The heat is the weighted sum over the channels where it is positive, and 0 elsewhere.

Neither Keras nor TensorFlow is needed: ONNX Runtime computes the map and the values of the head, and
`zoo.convert.head_gradients` the gradient. It is exact, as in Keras, also for heads with hidden layers.

What a heat map does not show:

- It is as coarse as the last map, such as 7 x 7 for a picture of 224 x 224 pixels, and smooth only because it is
  enlarged. A position also sees its surroundings, up to the whole picture.
- A head that flattens the map knows positions, but the mean gradient does not. Its heat is less exact.
- A head may read maps of earlier stages too. What these add is not in the heat.
- It shows where there is evidence for the class, not whether the evidence is good. Calibration changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from zoo.convert.head_gradients import REDUCING, RESHAPING, attribute, axes_of, backward
from zoo.convert.keras_to_onnx import INPUT, LOGITS
from zoo.convert.optimize import drop_unused
from zoo.convert.session import open_session
from zoo.convert.trust_graph import features_of
from zoo.errors import ConversionFailed

if TYPE_CHECKING:
    import onnxruntime

# Operators with which a head reads a feature map.
READING = {*REDUCING, *RESHAPING, "Transpose", "Slice"}
# Tensors with more numbers are weights, whose values say nothing about shapes.
LARGEST_SHAPE = 64


@dataclass(frozen=True)
class Heat:
    """Holds the heat map of one picture.

    Args:
        map: float32 (height, width) of the feature map, 0 or more, in the unit of the logit. All 0 if no position has
            evidence for the class.
        features: The pooled features of the picture, float32 (n,). None if the graph does not have them.
    """

    map: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32] | None


class GradCam:
    """Computes heat maps and pooled features with the graph of a network.

    Args:
        graph: A graph with the outputs `logits` and, if possible, pooled features; see
            `zoo.convert.keras_to_onnx.convert`. Its probabilities are not used.
        reduced: Whether the head has a 1x1 convolution of its own (`zoo.plugin.Head.reduce`), whose map is not used.

    Attributes:
        missing: Why the graph gives no heat maps, as the end of a sentence. None if it does.

    Raises:
        ConversionFailed: ONNX Runtime cannot run the graph.
    """

    def __init__(self, graph: onnx.ModelProto, *, reduced: bool = False):
        self.missing: str | None = None
        self._features = features_of(graph)
        self._head: _Head | None = None
        try:
            self._head = _Head.find(graph, reduced=reduced)
        except ConversionFailed as error:
            self.missing = str(error)
        names = [*([self._features] if self._features else []), *(self._head.computed if self._head else [])]
        self._names = list(dict.fromkeys([LOGITS, *names]))
        self._session = _session(graph, self._names)

    def __call__(self, pixels: npt.NDArray[np.uint8], label: int) -> Heat | None:
        """Return the heat map of a picture for a class; None if the graph gives no heat maps and no features.

        Args:
            pixels: The picture as the network receives it, uint8 (height, width, channels) in 0..255.
            label: The number of the class. In a binary network with one logit, the evidence for class 0 is what lowers
                the logit.

        Raises:
            ConversionFailed: ONNX Runtime cannot run the graph, or an operator of the head has no gradient here.
        """
        try:
            outputs = self._session.run(self._names, {INPUT: pixels[None]})
        except Exception as error:
            # The exceptions of ONNX Runtime have no common base class.
            raise ConversionFailed(f"onnxruntime cannot run the graph: {str(error).splitlines()[0]}") from error
        values = dict(zip(self._names, outputs, strict=True))
        features = values[self._features][0] if self._features else None
        if self._head is None:
            return None if features is None else Heat(np.zeros((1, 1), np.float32), features)
        return Heat(self._head.heat(values, label), features)


@dataclass(frozen=True)
class _Head:
    """The part of a graph from the last feature map to the logits.

    Args:
        map: The name of the last feature map.
        channels: The axis of its channels: 1 or 3.
        nodes: The nodes that depend on the map, in order.
        constants: The constants that they read.
        computed: The tensors that they read or write and that ONNX Runtime computes; the map is among them.
    """

    map: str
    channels: int
    nodes: Sequence[NodeProto]
    constants: Mapping[str, npt.NDArray[Any]]
    computed: Sequence[str]

    @classmethod
    def find(cls, model: onnx.ModelProto, *, reduced: bool) -> _Head:
        """Find the last feature map of a graph and what leads from it to the logits.

        Raises:
            ConversionFailed: There is no feature map that says where something is. The message says why.
        """
        graph = model.graph
        shapes, makers = _shapes(model), {name: node for node in graph.node for name in node.output}
        initializers = {tensor.name: tensor for tensor in graph.initializer}
        maps = _maps_read(LOGITS, makers, shapes, reduced=reduced)
        if not maps:
            raise ConversionFailed("its head reads no feature map")
        # The map of the last stage is the one that is computed from those of all other stages.
        above = {name: _ancestors(name, makers) for name in maps}
        last = max(maps, key=lambda name: len(above[name]))
        if not any(makers[name].op_type == "Conv" for name in above[last] if name in makers):
            raise ConversionFailed("it has no convolutions, so that its last feature map is the picture itself")
        if shapes[last][1:].count(1) > 1:
            raise ConversionFailed("its last feature map has a single position at this picture size")
        known = {last}
        nodes = [node for node in graph.node if _follows(node, known)]
        useful = _ancestors(LOGITS, makers)
        nodes = [node for node in nodes if set(node.output) & useful]
        read = {name for node in nodes for name in (*node.input, *node.output) if name}
        constants = {name: numpy_helper.to_array(initializers[name]) for name in read if name in initializers}
        constants |= _constant_nodes(makers[name] for name in read if name in makers)
        channels = _channel_axis(last, nodes, shapes, constants)
        return cls(last, channels, nodes, constants, [last, *sorted(read - {last} - constants.keys())])

    def heat(self, values: Mapping[str, npt.NDArray[Any]], label: int) -> npt.NDArray[np.float32]:
        """Return the heat map of one picture, float32 (height, width); see `GradCam`."""
        units = values[LOGITS].shape[1]
        start = np.zeros((1, units))
        start[0, min(label, units - 1)] = -1 if units == 1 and label == 0 else 1
        everything = {**self.constants, **values}
        gradient = np.moveaxis(backward(self.nodes, everything, LOGITS, self.map, start)[0], self.channels - 1, -1)
        activations = np.moveaxis(np.asarray(values[self.map][0], np.float64), self.channels - 1, -1)
        weights = gradient.mean(axis=(0, 1))
        return np.maximum(activations @ weights, 0).astype(np.float32)


def _session(graph: onnx.ModelProto, names: Sequence[str]) -> onnxruntime.InferenceSession:
    """Open a graph in ONNX Runtime with these tensors as outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    kept = {output.name: output for output in model.graph.output}
    del model.graph.output[:]
    for name in names:
        # ONNX Runtime finds the types and shapes of the others itself.
        model.graph.output.append(kept.get(name, onnx.ValueInfoProto(name=name)))
    drop_unused(model.graph)
    return open_session(model)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of a graph, with 0 for the batch, where onnx can infer them."""
    skeleton = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = skeleton.graph
    graph.name = "shapes"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims, dtype=np.int64) <= LARGEST_SHAPE:
            graph.initializer.append(tensor)
        else:
            # Weights of hundreds of megabytes are not copied to infer shapes.
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    inferred = onnx.shape_inference.infer_shapes(skeleton).graph
    return {
        value.name: tuple(each.dim_value for each in value.type.tensor_type.shape.dim)
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
        if value.type.tensor_type.HasField("shape") and value.type.tensor_type.elem_type != TensorProto.UNDEFINED
    }


def _maps_read(
    name: str, makers: Mapping[str, NodeProto], shapes: Mapping[str, tuple[int, ...]], *, reduced: bool
) -> list[str]:
    """Return the feature maps from which a tensor of the head is computed, without the maps below them.

    Args:
        name: The name of the tensor.
        makers: Maps the name of each computed tensor to the node that computes it.
        shapes: The shapes of the tensors.
        reduced: See `GradCam`.

    Raises:
        ConversionFailed: The shape of a tensor is not known.
    """
    node = makers.get(name)
    if node is None:
        return [name] if name == INPUT else []
    if name not in shapes and node.op_type != "Constant":
        raise ConversionFailed(f"the shape of its tensor {name!r} is not known")
    below = list(dict.fromkeys(each for each in node.input if each))
    if node.op_type in RESHAPING and len(shapes[name]) == 4 and len(shapes.get(below[0], ())) == 3:
        # The tokens of a transformer, which are laid out as a map. Below are its blocks, which have no maps.
        return [name]
    squared = node.op_type == "Pow" or (node.op_type == "Mul" and len(below) == 1)
    passed_on = len(shapes.get(name, ())) != 4 or squared or node.op_type in READING
    if passed_on or node.op_type == "Concat":
        found = [each for other in below for each in _maps_read(other, makers, shapes, reduced=reduced)]
        found = list(dict.fromkeys(found))
        # Pieces of one map are joined again. Several maps that are joined are the outputs of branches.
        return found if passed_on or len(found) == 1 else [name]
    maker = makers.get(below[0]) if reduced and node.op_type == "Relu" else None
    if maker is not None and maker.op_type == "Transpose":
        maker = makers.get(maker.input[0])
    if maker is not None and maker.op_type == "Conv":
        return _maps_read(maker.input[0], makers, shapes, reduced=False)
    return [name]


def _ancestors(name: str, makers: Mapping[str, NodeProto]) -> set[str]:
    """Return the names of the tensors from which a tensor is computed, and its own name."""
    found, waiting = {name}, [name]
    while waiting:
        node = makers.get(waiting.pop())
        new = [] if node is None else [each for each in node.input if each not in found]
        found.update(new)
        waiting += new
    return found


def _follows(node: NodeProto, known: set[str]) -> bool:
    """Return whether a node reads one of the tensors in `known`. Its outputs are then added to them."""
    if known.isdisjoint(node.input):
        return False
    known.update(node.output)
    return True


def _constant_nodes(nodes: Iterable[NodeProto]) -> dict[str, npt.NDArray[Any]]:
    """Return the values of those nodes that are constants."""
    return {
        node.output[0]: numpy_helper.to_array(attribute(node, "value", None))
        for node in nodes
        if node.op_type == "Constant"
    }


def _channel_axis(
    name: str,
    nodes: Sequence[NodeProto],
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, npt.NDArray[Any]],
) -> int:
    """Return the axis of the channels of a feature map, 1 or 3: the one that every pool of the head keeps.

    A head that flattens the map reads it with channels last, as Keras has it.
    """
    for axis in (1, 3):
        places = {name: axis}
        for node in nodes:
            if node.input[0] not in places or node.op_type not in (*READING, "Conv", "Concat", "Mul", "Pow", "Relu"):
                continue
            place, shape = places[node.input[0]], shapes[node.input[0]]
            reduces = node.op_type in REDUCING
            over = axes_of(node, [constants.get(each) for each in node.input], len(shape)) if reduces else ()
            flattened = node.op_type in ("Reshape", "Flatten") and shape[1:].count(1) < 2
            if place in over or (flattened and place != 3) or (node.op_type == "Conv" and place != 1):
                break
            if node.op_type == "Transpose":
                places[node.output[0]] = list(attribute(node, "perm", (3, 2, 1, 0))).index(place)
            elif len(shapes[node.output[0]]) == 4:
                places[node.output[0]] = place
        else:
            return axis
    raise ConversionFailed("the axes of its last feature map are not known")
