"""Builds networks from architectures: puts heads on backbones, truncates networks, and changes their input size.

`zoo.train.weights_file` loads weights into networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo import backend
from zoo.errors import InvalidPluginData, RunError, UsageError, ZooError, reason
from zoo.plugin import Architecture, Head

if TYPE_CHECKING:
    import keras


def build_backbone(architecture: Architecture, size: tuple[int, int]) -> keras.Model:
    """Build a backbone with random weights.

    Args:
        architecture: The architecture to build.
        size: The input size (height, width) in pixels.

    Returns:
        A functional model that contains no other models. Its input is float32 (batch, height, width, channels) in
        0..255, and its output is the feature map, float32 (batch, h, w, features).

    Raises:
        UsageError: The size is smaller than the architecture accepts.
        InvalidPluginData: The plugin's model breaks the contract of `Architecture.build`, or cannot be built.
    """
    check_size(architecture, size)
    backend.start()
    with backend.fresh_names():
        model = _single_input(_built(architecture, architecture.build, (*size, architecture.channels)))
    expected = (None, *size, architecture.channels)
    if tuple(model.input.shape) != expected or len(model.output.shape) != 4:
        raise InvalidPluginData(
            f"{architecture.name}: build must return a model from {expected} to a feature map (batch, h, w, features). "
            f"Received: {model.input.shape} -> {model.output.shape}. zoo adds the last pooling and the head itself."
        )
    nested = [layer.name for layer in model.layers if isinstance(layer, backend.start().Model)]
    if nested:
        raise InvalidPluginData(
            f"{architecture.name}: build must return a flat model, so that every layer can be frozen by name. "
            f"Received a model with models inside: {', '.join(nested[:5])}."
        )
    check_stages(architecture, model)
    return model


def _built(architecture: Architecture, build: Callable[..., keras.Model], *arguments: object) -> keras.Model:
    try:
        return build(*arguments)
    except ZooError:
        raise
    except Exception as error:
        raise InvalidPluginData(f"{architecture.name} cannot be built for {arguments[0]}: {reason(error)}") from error


def _single_input(model: keras.Model) -> keras.Model:
    """Return a model of the same layers that takes a single tensor, not a list of one tensor.

    The functions of keras.applications return a model that takes such a list if they are called with `input_tensor`.

    Raises:
        InvalidPluginData: It is no functional model, or it has several inputs or several outputs.
    """
    keras = backend.start()
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise InvalidPluginData(
            f"a network must be a functional keras.Model, made from a keras.Input. Received: {model!r}."
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InvalidPluginData(
            f"{model.name}: a network must have one input and one output. "
            f"Received: {len(model.inputs)} inputs and {len(model.outputs)} outputs."
        )
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def build_classifier(architecture: Architecture, size: tuple[int, int], classes: int) -> keras.Model:
    """Build an architecture's published network with random weights.

    The network includes its top (the published classifier layers).

    Args:
        architecture: The architecture to build.
        size: The input size (height, width) in pixels.
        classes: The number of classes.

    Returns:
        A model whose last two layers are `logits` and `probabilities`, each float32 (batch, classes).

    Raises:
        UsageError: The architecture has no published top, or the size is too small.
        InvalidPluginData: The plugin's model cannot be built, or has several inputs or outputs.
    """
    check_size(architecture, size)
    keras = backend.start()
    if architecture.build_classifier is None:
        raise UsageError(f"{architecture.name} has no published classifier; fine-tune it with `zoo finetune`.")
    with backend.fresh_names():
        build = architecture.build_classifier
        model = _single_input(_built(architecture, build, (*size, architecture.channels), classes))
    logits = keras.layers.Activation("linear", name="logits")(model.output)
    probabilities = keras.layers.Activation("softmax", name="probabilities")(logits)
    return keras.Model(model.input, probabilities, name=architecture.name)


def check_size(architecture: Architecture, size: tuple[int, int]) -> None:
    """Check that an input size is large enough for an architecture.

    Args:
        architecture: The architecture.
        size: (height, width) in pixels.

    Raises:
        UsageError: Height or width is below the architecture's `min_size`.
    """
    if min(size) < architecture.min_size:
        raise UsageError(
            f"{architecture.name} needs pictures of at least {architecture.min_size} x {architecture.min_size} pixels. "
            f"Received: --size {size[0]}x{size[1]}."
        )


def check_stages(architecture: Architecture, backbone: keras.Model) -> None:
    """Check that every layer with weights is in exactly one stage.

    Raises:
        InvalidPluginData: A layer is in no stage or in two stages, or a stage names a layer that does not exist.
    """
    staged = stage_of(architecture, [layer.name for layer in backbone.layers])
    missing = [layer.name for layer in backbone.layers if layer.weights and layer.name not in staged]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise InvalidPluginData(
            f"{architecture.name}: every layer with weights must be in a stage. "
            f"Missing: {', '.join(missing[:5])}{more}."
        )


def attach_head(
    backbone: keras.Model,
    head: Head,
    classes: int,
    name: str,
    *,
    task: str = "multiclass",
    prefix: str = "",
    lower: Sequence[keras.KerasTensor] = (),
) -> keras.Model:
    """Put a head on a backbone.

    Args:
        backbone: A model from `build_backbone`.
        head: Describes the layers of the head.
        classes: The number of classes.
        name: The name of the whole network.
        task: "multiclass", "binary" or "multilabel". A multiclass network ends in a softmax over all classes. A binary
            network has a single logit, which belongs to the second class. A multilabel network has one logit per class.
            In binary and multilabel networks, sigmoids turn the logits into probabilities.
        prefix: A string that is put in front of the names of the head's layers.
        lower: Feature maps inside the backbone that the head pools too; see `lower_maps`.

    Returns:
        The whole network, a model that contains no other models. Its layer `logits` outputs (batch, classes), or
        (batch, 1) if the task is binary. Its last layer, `probabilities`, outputs (batch, classes).
    """
    backend.start()
    # Slices and sums are operations without names, and the backbone may have some too.
    with backend.names_after(operation.name for operation in backbone.operations):
        return _with_head(backbone, head, classes, name, task, prefix, lower)


def pooled(x: keras.KerasTensor, head: Head, name: str) -> keras.KerasTensor:
    """Pool a feature map as a head does.

    Args:
        x: A feature map (batch, h, w, features).
        head: Describes the pooling.
        name: The name of the layer, if the pooling is a layer.

    Returns:
        A tensor (batch, n).
    """
    keras = backend.start()
    if head.pool == "avg":
        return keras.layers.GlobalAveragePooling2D(name=name)(x)
    if head.pool == "max":
        return keras.layers.GlobalMaxPooling2D(name=name)(x)
    if head.pool == "l2norm":
        return keras.ops.sqrt(keras.ops.mean(keras.ops.square(x), axis=(1, 2)) + 1e-12)
    if head.pool == "roi":
        x = _cells(_cells(x, head.grid, axis=1), head.grid, axis=2)
    return keras.layers.Flatten(name=name)(x)


def _with_head(
    backbone: keras.Model,
    head: Head,
    classes: int,
    name: str,
    task: str,
    prefix: str,
    lower: Sequence[keras.KerasTensor],
) -> keras.Model:
    keras = backend.start()
    layers = keras.layers
    x = backbone.output
    if head.reduce:
        x = layers.Conv2D(head.reduce, 1, activation="relu", name=f"{prefix}head_reduce")(x)
    x = pooled(x, head, f"{prefix}head_pool")
    if lower:
        others = [pooled(each, head, f"{prefix}head_pool_{i}") for i, each in enumerate(lower, start=1)]
        x = layers.Concatenate(name=f"{prefix}head_join")([x, *others])
    if head.dropout:
        x = layers.Dropout(head.dropout, name=f"{prefix}head_dropout")(x)

    def penalty():
        return keras.regularizers.L1L2(head.weight_l1, head.weight_l2) if head.weight_l1 or head.weight_l2 else None

    for i, units in enumerate(head.hidden, start=1):
        x = layers.Dense(units, activation="relu", kernel_regularizer=penalty(), name=f"{prefix}head_hidden{i}")(x)
    units = 1 if task == "binary" else classes
    logits = layers.Dense(units, kernel_regularizer=penalty(), name=f"{prefix}logits")(x)
    if task == "binary":
        # sigmoid(-x) and sigmoid(x), because 1 - p rounds a small probability to 0.
        both = layers.Concatenate(name=f"{prefix}both_logits")([-logits, logits])
        probabilities = layers.Activation("sigmoid", name=f"{prefix}probabilities")(both)
    else:
        activation = "sigmoid" if task == "multilabel" else "softmax"
        probabilities = layers.Activation(activation, name=f"{prefix}probabilities")(logits)
    return keras.Model(backbone.input, probabilities, name=name)


def resize(
    model: keras.Model, architecture: Architecture, head: Head, size: tuple[int, int], *, classes: int, task: str
) -> keras.Model:
    """Build a copy of a trained network for another input size, with the same weights.

    Args:
        model: A trained model from `attach_head`.
        architecture: The architecture of the backbone of `model`.
        head: Describes the head of `model`.
        size: The new input size (height, width) in pixels.
        classes: The number of classes.
        task: See `attach_head`.

    Returns:
        The new network. `model` does not change.

    Raises:
        UsageError: The size is too small, or the head flattens the feature map.
    """
    if head.pool == "flatten":
        raise UsageError(
            "a network trained with --pool flatten works at its training size only. Train with --pool roi, which "
            "divides feature maps of any size into the same grid, or with --pool avg."
        )
    resized = assemble(
        build_backbone(architecture, size), architecture, head, classes, task=task, name=model.name
    ).model
    for layer in resized.layers:
        if layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    return resized


def _cells(x: keras.KerasTensor, count: int, axis: int) -> keras.KerasTensor:
    """Divide an axis into `count` cells of nearly equal length, and return the maximum of each cell.

    If the boundary between two cells would split a position, both cells contain this position. For example, 2 cells of
    an axis of length 5 are the positions 0, 1, 2 and the positions 2, 3, 4.

    Args:
        x: A tensor (batch, height, width, features).
        count: The number of cells.
        axis: 1 for height, 2 for width.

    Returns:
        A tensor like `x`, but with `count` values along `axis`.
    """
    from keras import ops

    length = x.shape[axis]
    cells = []
    for i in range(count):
        first, end = i * length // count, -(-(i + 1) * length // count)
        cells.append(ops.max(x[:, first:end] if axis == 1 else x[:, :, first:end], axis=axis, keepdims=True))
    return ops.concatenate(cells, axis=axis)


def load_model(path: Path) -> keras.Model:
    """Load a trained network from a .keras file.

    Args:
        path: The path of the file.

    Raises:
        RunError: The file cannot be loaded, usually because it is damaged.
    """
    keras = backend.start()
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:
        # The errors of Keras, zipfile and h5py share no base class, and Keras reports a damaged file as not found.
        raise RunError(f"{str(path)!r} is damaged: {reason(error)}") from error


def stage_of(architecture: Architecture, layers: Sequence[str]) -> dict[str, int]:
    """Map the name of each layer to the number of its stage. Number 0 is the stem. Layers in no stage are left out.

    Args:
        architecture: Defines the stages.
        layers: The names of all layers of the backbone.

    Raises:
        InvalidPluginData: A stage names layers that do not exist, or a layer is in two stages.
    """
    stages: dict[str, int] = {}
    for i, stage in enumerate(architecture.stages):
        for pattern, members in stage.members(layers).items():
            if not members:
                raise InvalidPluginData(f"{architecture.name}: stages name layers that do not exist: {pattern}.")
            twice = [layer for layer in members if stages.get(layer, i) != i]
            if twice:
                raise InvalidPluginData(f"{architecture.name}: a layer must be in one stage only: {twice[0]}.")
            stages.update(dict.fromkeys(members, i))
    return stages


def output_of_stage(
    model: keras.Model, backbone: Sequence[str], architecture: Architecture, stage: int
) -> keras.KerasTensor:
    """Return the feature map that a stage passes on to the next stage.

    Layers above the stage may read several tensors from it (residual branches, dense blocks). The feature map is the
    last of these tensors in the order of the graph. If a padding layer computes this tensor, the input of the padding
    layer is returned instead.

    Layers without weights may be in no stage. Such a layer counts as part of the stage that computes its input. If its
    inputs come from several stages, it counts as part of the highest one.

    Args:
        model: The whole network.
        backbone: The names of the backbone's layers, input first.
        architecture: Defines the stages.
        stage: The number of the stage; 0 is the stem.

    Raises:
        InvalidPluginData: The layers above the stage read none of its outputs, or the tensor is not a feature map.
    """
    keras = backend.start()
    stages = stage_of(architecture, backbone)
    # Keras has no public access to a network's nodes. Deeper nodes are called first.
    nodes = [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]
    makers = {node.operation.name: node for node in nodes}
    reached: dict[str, int] = {}
    for name, node in makers.items():
        sources = [tensor._keras_history.operation.name for tensor in node.input_tensors]
        reached[name] = max([stages.get(name, -1), *(reached[source] for source in sources)])
    leading = {
        tensor._keras_history.operation.name
        for name, node in makers.items()
        if reached[name] > stage
        for tensor in node.input_tensors
    }
    # A head that pools lower stages also reads vectors.
    maps = {name for name, node in makers.items() if len(node.outputs[0].shape) == 4}
    candidates = [name for name in makers if name in leading and name in maps and reached[name] <= stage]
    last = makers[candidates[-1]] if candidates else None
    # Padding belongs to the convolution after it.
    while last is not None and isinstance(last.operation, keras.layers.ZeroPadding2D):
        last = makers[last.input_tensors[0]._keras_history.operation.name]
    if last is None or len(last.outputs[0].shape) != 4:
        name = architecture.stages[stage].name
        raise InvalidPluginData(f"{architecture.name}: no feature map leads from stage {name!r} to the next.")
    return last.outputs[0]


class Network:
    """A backbone with a head. The backbone has all stages of its architecture, or only the first ones.

    Args:
        model: The Keras model. It has layers named `logits` and `probabilities`, with `prefix` in front of these names.
        backbone: The names of the backbone's layers in the model, input first. All other layers belong to the head.
        architecture: Defines the stages of the backbone.
        prefix: The string in front of the names of the head's layers.
        head: Describes the head; None for a network with fewer stages.

    Attributes:
        logits_model: The model from the input to the logits. Training uses this model.
    """

    def __init__(
        self,
        model: keras.Model,
        backbone: tuple[str, ...],
        architecture: Architecture,
        prefix: str = "",
        head: Head | None = None,
    ):
        self.model, self.backbone, self.architecture, self.prefix = model, backbone, architecture, prefix
        self.head = head
        self.logits_model = _model(model.input, model.get_layer(f"{prefix}logits").output)


def lower_maps(backbone: keras.Model, architecture: Architecture, head: Head) -> list[keras.KerasTensor]:
    """Return the feature maps below the top of a backbone that a head pools, lowest first; see `Head.stages`.

    Args:
        backbone: A model from `build_backbone`, with all stages of the architecture.
        architecture: The architecture of the backbone.
        head: Describes the head.

    Raises:
        UsageError: The head asks for more stages than the architecture has.
        InvalidPluginData: A stage passes on no feature map; see `output_of_stage`.
    """
    count = len(architecture.stages)
    if head.stages > count:
        raise UsageError(f"{architecture.name} has {count} stages; its head asks for {head.stages}.")
    names = [layer.name for layer in backbone.layers]
    return [output_of_stage(backbone, names, architecture, i) for i in range(count - head.stages, count - 1)]


def assemble(
    backbone: keras.Model,
    architecture: Architecture,
    head: Head,
    classes: int,
    *,
    task: str = "multiclass",
    name: str | None = None,
) -> Network:
    """Put a head on a whole backbone, and return the result as a `Network`.

    Args:
        backbone: A model from `build_backbone`, with all stages of the architecture.
        architecture: The architecture of the backbone. The Keras model of the network gets the name of the
            architecture.
        head: Describes the layers of the head.
        classes: The number of classes.
        task: See `attach_head`.
        name: The name of the Keras model. None uses the name of the architecture.

    Raises:
        UsageError: The head asks for more stages than the architecture has.
        InvalidPluginData: The head asks for the feature map of a stage that has none.
    """
    lower = lower_maps(backbone, architecture, head)
    model = attach_head(backbone, head, classes, name or architecture.name, task=task, lower=lower)
    return Network(model, tuple(layer.name for layer in backbone.layers), architecture, head=head)


def truncate(whole: Network, depth: int, head: Head, classes: int, task: str, prefix: str | None = None) -> Network:
    """Build a network that consists of the first stages of another network and a new head.

    The two networks share the layers of these stages, so training one network changes the weights of the other.

    Args:
        whole: The network with all stages.
        depth: The number of stages that the new network has, counted from the stem. It must be smaller than the number
            of stages of `whole`.
        head: Describes the new head. If its pool is "flatten", "roi" is used instead. Feature maps near the stem are
            large, and a flattened one would give the head too many inputs. The new head pools one feature map, whatever
            its `stages` says.
        classes: The number of classes.
        task: See `attach_head`.
        prefix: What the names of the head's layers start with. None means `depthN_`, where N is `depth`.

    Returns:
        The new network.

    Raises:
        InvalidPluginData: The last stage of the new network has no feature map that later stages of `whole` read.
    """
    architecture = dataclasses.replace(whole.architecture, stages=whole.architecture.stages[:depth])
    output = output_of_stage(whole.model, whole.backbone, whole.architecture, depth - 1)
    stem = _model(whole.model.input, output)
    if head.pool == "flatten":
        head = dataclasses.replace(head, pool="roi")
    head = dataclasses.replace(head, stages=1)
    prefix = f"depth{depth}_" if prefix is None else prefix
    model = attach_head(stem, head, classes, architecture.name, task=task, prefix=prefix)
    return Network(model, tuple(layer.name for layer in stem.layers), architecture, prefix)


def _model(pixels: keras.KerasTensor, output: keras.KerasTensor) -> keras.Model:
    """Return a model that computes the tensor `output` of a network from the network's input `pixels`."""
    return backend.start().Model(pixels, output)
