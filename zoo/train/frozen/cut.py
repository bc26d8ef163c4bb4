"""Where a phase's network can be cut: what lies below is a constant function of the picture, what lies above trains.

Everything that is read here of a network's graph, and that Keras offers no public way to, is read in `_graph`.
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

# What these compute from a tensor is cheap, so that it may be computed anew in every step if less is kept by that.
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
    """Where a network is cut.

    Args:
        tensors: What crosses from the constant part to the rest, float32 (batch, ...).
        layers: Names of the layers with weights below the cut.
        parameters: Their weights, in numbers.
    """

    tensors: tuple[keras.KerasTensor, ...]
    layers: frozenset[str]
    parameters: int

    @property
    def floats(self) -> int:
        """How many numbers cross, a picture."""
        return sum(_floats(tensor) for tensor in self.tensors)


def find_cut(network: keras.Model) -> Cut | None:
    """Cut a network whose layers are set for a phase.

    Below the cut is what no trainable weight, no moving statistic and no dropout has a part in. Of the places to cut
    there, the highest is taken, but for steps that cost next to nothing and would only make more numbers cross.

    Args:
        network: From pixels to logits; `trainable` and dropout rates are set.

    Returns:
        The cut, or None where nothing with weights is constant.
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
    _lower(crossing, constant)
    pixels = {id(tensor) for tensor in network.inputs}
    known = all(tensor.dtype == "float32" and None not in tensor.shape[1:] for tensor in crossing.values())
    if not crossing or pixels & set(crossing) or not known:
        return None
    layers = {node.operation.name: node.operation for node in _ancestors(list(crossing.values()), constant)}
    weighted = {name: layer for name, layer in layers.items() if getattr(layer, "weights", None)}
    parameters = sum(math.prod(weight.shape) for layer in weighted.values() for weight in layer.weights)
    # In the order of the graph, so that equal networks are cut into equal models.
    ordered = [tensor for node in below for tensor in node.outputs if id(tensor) in crossing]
    return Cut(tuple(ordered), frozenset(weighted), parameters) if weighted else None


def digest(network: keras.Model, tensor: keras.KerasTensor) -> str:
    """sha256 of everything that decides a tensor's values for a picture: operations below it, settings, weights."""
    makers = {id(output): node for node in _graph(network) for output in node.outputs}
    found = hashlib.sha256(repr([tuple(pixels.shape) for pixels in network.inputs]).encode())
    numbers = {id(pixels): f"pixels{i}" for i, pixels in enumerate(network.inputs)}
    for node in _ancestors([tensor], makers):
        numbers.update({id(output): f"{len(numbers)}.{i}" for i, output in enumerate(node.outputs)})
        told = json.dumps(_described(node, numbers), sort_keys=True, default=repr)
        # What says nothing about what it computes is found by nobody.
        unknown = UNKNOWN in told or " at 0x" in told
        found.update((told + secrets.token_hex(16) if unknown else told).encode())
        for weight in getattr(node.operation, "weights", ()):
            found.update(backend.start().ops.convert_to_numpy(weight).tobytes())
    found.update(numbers[id(tensor)].encode())
    return found.hexdigest()


def _graph(network: keras.Model) -> list[Any]:
    """Nodes of a functional model, input first. A node has `operation`, `input_tensors`, `outputs`, `arguments`."""
    return [
        node
        for depth in sorted(network._nodes_by_depth, reverse=True)
        for node in network._nodes_by_depth[depth]
        if node.input_tensors
    ]


def _is_constant(operation: keras.Operation) -> bool:
    """Whether an operation gives the same for the same input in training too; layers inside it count."""
    layers = backend.start().layers
    if getattr(operation, "trainable_weights", None):
        return False
    for layer in operation._flatten_layers() if isinstance(operation, layers.Layer) else ():
        if isinstance(layer, layers.BatchNormalization) and layer.trainable:
            return False
        if isinstance(layer, layers.SpectralNormalization):
            # Its kernel moves in training.
            return False
        if getattr(layer, "_seed_generators", None) and not (isinstance(layer, layers.Dropout) and layer.rate == 0):
            return False
    return True


def _ancestors(tensors: Sequence[keras.KerasTensor], makers: dict[int, Any]) -> list[Any]:
    """The nodes that tensors are computed by, input first."""
    found: dict[int, Any] = {}
    # Each entry is visited twice: to go down from it, and, when what it needs stands in the list, to stand behind it.
    waiting = [(tensor, False) for tensor in reversed(tensors)]
    while waiting:
        tensor, ready = waiting.pop()
        node = makers.get(id(tensor))
        if node is None or id(node) in found:
            continue
        if ready:
            found[id(node)] = node
            continue
        waiting.append((tensor, True))
        waiting += [(source, False) for source in reversed(node.input_tensors)]
    return list(found.values())


def _lower(crossing: dict[int, keras.KerasTensor], makers: dict[int, Any]) -> None:
    """Let tensors cross below cheap steps wherever fewer numbers cross by that; changes `crossing`."""
    lowered = True
    while lowered:
        lowered = False
        for key, tensor in list(crossing.items()):
            best, gain = None, 0
            # Tensors that would have to cross instead of this one, step by step down through cheap operations.
            front = {key: tensor}
            while True:
                steps = [
                    (k, makers[k])
                    for k in front
                    if k not in crossing or k == key
                    if makers[k] is not None and type(makers[k].operation).__name__ in CHEAP
                ]
                if not steps:
                    break
                top, node = steps[0]
                del front[top]
                front.update({id(source): source for source in node.input_tensors})
                if any(makers[k] is None for k in front):
                    break
                more = sum(_floats(t) for k, t in front.items() if k not in crossing or k == key)
                if _floats(tensor) - more > gain:
                    best, gain = dict(front), _floats(tensor) - more
            if best is not None:
                del crossing[key]
                crossing.update(best)
                lowered = True
                break


def _floats(tensor: keras.KerasTensor) -> int:
    return math.prod(tensor.shape[1:])


def _described(node: Any, numbers: dict[int, str]) -> dict[str, Any]:
    """What an operation is and what it is applied to, without names and without what only training reads."""
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

    def told(value: Any) -> str:
        if id(value) in numbers:
            return numbers[id(value)]
        if keras.ops.is_tensor(value) or isinstance(value, keras.Variable):
            value = keras.ops.convert_to_numpy(value)
        if isinstance(value, np.ndarray):
            # Printed, a large array is cut short.
            return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
        return UNKNOWN if callable(value) else repr(value)

    arguments = node.arguments
    kind = type(operation)
    # The code of a class or function of somebody else's may be another tomorrow, under the same name.
    ours = kind.__module__.split(".")[0] in ("keras", "zoo") and not isinstance(operation, keras.layers.Lambda)
    activation = getattr(getattr(operation, "activation", None), "__module__", "keras")
    ours = ours and str(activation).split(".")[0] == "keras"
    return {
        "operation": f"{kind.__module__}.{kind.__name__}" if ours else UNKNOWN,
        "config": keras.tree.map_structure(told, config),
        "inputs": [told(tensor) for tensor in node.input_tensors],
        "arguments": repr(keras.tree.map_structure(told, [list(arguments.args), dict(arguments.kwargs)])),
    }
