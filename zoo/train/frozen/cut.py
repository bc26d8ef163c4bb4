"""Finds the cut of a network: the place in its graph where the frozen part ends and the trained part begins.

The frozen part computes the same outputs for a picture in every epoch of a phase. Keras has no public attribute for the
nodes of a network's graph. `_graph` is the only function here that reads the private attribute.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend

if TYPE_CHECKING:
    import keras

# Operations cheap enough to run in every step. They stay above the cut if the cache then holds fewer values.
CHEAP = (
    "Activation",
    "Add",
    "BatchNormalization",
    "Concatenate",
    "Dropout",
    "Flatten",
    "LayerNormalization",
    "Multiply",
    "ReLU",
    "ReLU6",
    "Rescaling",
    "Reshape",
    "ZeroPadding2D",
)


UNKNOWN = "unknown"


@dataclass(frozen=True)
class Cut:
    """The place where a network is divided into a frozen part and a trained part.

    Args:
        tensors: The outputs of the frozen part that the trained part reads, float32 (batch, ...).
        layers: Names of those layers of the frozen part that have weights.
        parameters: The number of parameters of these layers.
    """

    tensors: tuple[keras.KerasTensor, ...]
    layers: frozenset[str]
    parameters: int

    @property
    def floats(self) -> int:
        """The number of values per picture that the frozen part passes to the trained part."""
        return sum(_floats(tensor) for tensor in self.tensors)


def find_cut(network: keras.Model) -> Cut | None:
    """Find the cut of a network: the place where its frozen part ends in a phase.

    The frozen part does not depend on trainable weights, on random numbers such as those of dropout, or on statistics
    that training updates. The cut is as close to the logits as this condition allows. However, cheap operations such as
    activations belong to the trained part if fewer values then cross the cut.

    Args:
        network: The network from pixels to logits. `zoo.train.freeze.set_trainable` must have set its layers for the
            phase.

    Returns:
        The cut, or None in three cases: no layer with weights is frozen, the trained part reads the pixels directly, or
        a tensor at the cut is not float32 or has an unknown shape.
    """
    nodes = _graph(network)
    constant: dict[int, Any] = {id(tensor): None for tensor in network.inputs}
    below = []
    for node in nodes:
        if node.input_tensors and _is_constant(node.operation) and all(id(x) in constant for x in node.input_tensors):
            constant.update({id(tensor): node for tensor in node.outputs})
            below.append(node)
    crossing = {
        id(tensor): tensor
        for node in nodes
        for tensor in node.input_tensors
        if id(tensor) in constant and id(node.outputs[0]) not in constant
    }
    _lower_cut(crossing, constant)
    pixels = {id(tensor) for tensor in network.inputs}
    known = all(tensor.dtype == "float32" and None not in tensor.shape[1:] for tensor in crossing.values())
    if not crossing or pixels & set(crossing) or not known:
        return None
    layers = {node.operation.name: node.operation for node in _ancestors(list(crossing.values()), constant)}
    weighted = {name: layer for name, layer in layers.items() if getattr(layer, "weights", None)}
    parameters = sum(math.prod(weight.shape) for layer in weighted.values() for weight in layer.weights)
    # The tensors are in the order of the graph, so that equal networks are cut into equal models.
    ordered = [tensor for node in below for tensor in node.outputs if id(tensor) in crossing]
    return Cut(tuple(ordered), frozenset(weighted), parameters) if weighted else None


def digest(network: keras.Model, tensor: keras.KerasTensor) -> str:
    """Return a fingerprint of everything that determines the values of a tensor for a given picture.

    It is the sha256, in hex, of the input shapes, of the operations that compute the tensor, and of their settings and
    weights. If one of these operations comes from outside Keras and zoo, every call returns a different fingerprint.

    Args:
        network: The network from pixels to logits.
        tensor: A tensor of this network.
    """
    makers = {id(output): node for node in _graph(network) for output in node.outputs}
    fingerprint = hashlib.sha256(repr([tuple(pixels.shape) for pixels in network.inputs]).encode())
    numbers = {id(pixels): f"pixels{i}" for i, pixels in enumerate(network.inputs)}
    for node in _ancestors([tensor], makers):
        numbers.update({id(output): f"{len(numbers)}.{i}" for i, output in enumerate(node.outputs)})
        text = json.dumps(_describe(node, numbers), sort_keys=True, default=repr)
        # The text cannot identify code from outside Keras and zoo. A random number ensures that no later run reads
        # outputs that an older version of this code computed.
        unknown = UNKNOWN in text or " at 0x" in text
        fingerprint.update((text + secrets.token_hex(16) if unknown else text).encode())
        for weight in getattr(node.operation, "weights", ()):
            fingerprint.update(backend.start().ops.convert_to_numpy(weight).tobytes())
    fingerprint.update(numbers[id(tensor)].encode())
    return fingerprint.hexdigest()


def _graph(network: keras.Model) -> list[Any]:
    """Return the nodes of a functional model, input first. Nodes of input layers are left out.

    A node has the attributes `operation`, `input_tensors`, `outputs` and `arguments`.
    """
    return [
        node
        for depth in sorted(network._nodes_by_depth, reverse=True)
        for node in network._nodes_by_depth[depth]
        if node.input_tensors
    ]


def _is_constant(operation: keras.Operation) -> bool:
    """Return whether an operation computes the same output for the same input in every training step.

    If the operation is a layer that contains other layers, the inner layers are checked too.
    """
    layers = backend.start().layers
    if getattr(operation, "trainable_weights", None):
        return False
    for layer in operation._flatten_layers() if isinstance(operation, layers.Layer) else ():
        if isinstance(layer, layers.BatchNormalization) and layer.trainable:
            return False
        if isinstance(layer, layers.SpectralNormalization):
            # This layer changes its kernel in every training step.
            return False
        if getattr(layer, "_seed_generators", None) and not (isinstance(layer, layers.Dropout) and layer.rate == 0):
            return False
    return True


def _ancestors(tensors: Sequence[keras.KerasTensor], makers: dict[int, Any]) -> list[Any]:
    """Return all nodes that are needed to compute the given tensors.

    Each node follows the nodes whose outputs it reads.

    Args:
        tensors: Tensors of one network.
        makers: Maps the `id` of each tensor to the node that computes it. Inputs of the network are missing or map to
            None.
    """
    nodes: dict[int, Any] = {}
    # Each entry is visited twice: first to push its inputs, then to add its node after the nodes of its inputs.
    stack = [(tensor, False) for tensor in reversed(tensors)]
    while stack:
        tensor, inputs_done = stack.pop()
        node = makers.get(id(tensor))
        if node is None or id(node) in nodes:
            continue
        if inputs_done:
            nodes[id(node)] = node
            continue
        stack.append((tensor, True))
        stack += [(source, False) for source in reversed(node.input_tensors)]
    return list(nodes.values())


def _lower_cut(crossing: dict[int, keras.KerasTensor], makers: dict[int, Any]) -> None:
    """Move the cut closer to the input, past cheap operations, wherever fewer values then cross it.

    Args:
        crossing: Maps the `id` of each tensor at the cut to the tensor. It is changed in place.
        makers: Maps the `id` of each tensor below the cut to the node that computes it, and inputs of the network to
            None.
    """
    lowered = True
    while lowered:
        lowered = False
        for key in list(crossing):
            better = _better_front(key, crossing, makers)
            if better is not None:
                del crossing[key]
                crossing.update(better)
                lowered = True
                break


def _better_front(
    key: int, crossing: dict[int, keras.KerasTensor], makers: dict[int, Any]
) -> dict[int, keras.KerasTensor] | None:
    """Find tensors to put at the cut in place of one tensor, so that fewer values cross the cut.

    The tensors found are closer to the input. Only operations in `CHEAP` are needed to compute the replaced tensor from
    the tensors found.

    Args:
        key: The `id` of the tensor to replace.
        crossing: Maps the `id` of each tensor at the cut to the tensor.
        makers: Maps the `id` of each tensor below the cut to the node that computes it, and inputs of the network to
            None.

    Returns:
        A dict from the `id` of each tensor found to the tensor. None if there are no such tensors.
    """
    tensor = crossing[key]
    best, saved = None, 0
    # The tensors that would cross instead. Each turn of the loop moves them below one more cheap operation.
    front = {key: tensor}
    while True:
        steps = [
            (k, makers[k])
            for k in front
            if k not in crossing or k == key
            if makers[k] is not None and type(makers[k].operation).__name__ in CHEAP
        ]
        if not steps:
            return best
        top, node = steps[0]
        del front[top]
        front.update({id(source): source for source in node.input_tensors})
        if any(makers[k] is None for k in front):
            return best
        added = sum(_floats(t) for k, t in front.items() if k not in crossing or k == key)
        if _floats(tensor) - added > saved:
            best, saved = dict(front), _floats(tensor) - added


def _floats(tensor: keras.KerasTensor) -> int:
    return math.prod(tensor.shape[1:])


def _describe(node: Any, numbers: dict[int, str]) -> dict[str, Any]:
    """Return a description of a node's operation and inputs, for a fingerprint.

    The description contains no names, and no settings that only affect training.

    Args:
        node: A node from `_graph`.
        numbers: Maps the `id` of each tensor computed so far to a string that identifies the tensor in the graph.
    """
    keras = backend.start()
    operation = node.operation
    config: dict[str, Any] = {}
    if isinstance(operation, keras.layers.Layer):
        config = dict(operation.get_config())
        for key in ("name", "trainable", "seed", "rate", "momentum"):
            config.pop(key, None)
        config = {k: v for k, v in config.items() if not k.endswith(("_initializer", "_regularizer", "_constraint"))}
    else:
        # Operations keep their settings as plain attributes.
        config = {k: v for k, v in vars(operation).items() if not k.startswith("_") and k != "name"}

    def text_of(value: Any) -> str:
        if id(value) in numbers:
            return numbers[id(value)]
        if keras.ops.is_tensor(value) or isinstance(value, keras.Variable):
            value = keras.ops.convert_to_numpy(value)
        if isinstance(value, np.ndarray):
            # The `repr` of a large array omits values.
            return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
        return UNKNOWN if callable(value) else repr(value)

    arguments = node.arguments
    kind = type(operation)
    # The code of a class or function from outside Keras and zoo may change while its name stays the same.
    ours = kind.__module__.split(".")[0] in ("keras", "zoo") and not isinstance(operation, keras.layers.Lambda)
    activation = getattr(getattr(operation, "activation", None), "__module__", "keras")
    ours = ours and str(activation).split(".")[0] == "keras"
    return {
        "operation": f"{kind.__module__}.{kind.__name__}" if ours else UNKNOWN,
        "config": keras.tree.map_structure(text_of, config),
        "inputs": [text_of(tensor) for tensor in node.input_tensors],
        "arguments": repr(keras.tree.map_structure(text_of, [list(arguments.args), dict(arguments.kwargs)])),
    }
