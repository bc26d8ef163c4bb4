"""Tools for `build` functions: normalization inside the graph, and the networks of keras.applications.

Plugins import these names from `zoo.plugin`. Importing this module does not import Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidPluginData, WeightsIncompatible
from zoo.plugin.types import Architecture, Head, Stage

if TYPE_CHECKING:
    import keras
    import numpy as np

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of the ImageNet pixels per channel, RGB in 0..1; torchvision and Keras's "torch" mode use it."""
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
"""Standard deviation of the ImageNet pixels per channel, RGB in 0..1; torchvision and Keras's "torch" mode use it."""
IMAGENET_MEAN_BGR = (103.939, 116.779, 123.68)
"""Mean of the ImageNet pixels per channel, BGR in 0..255; Caffe's networks and Keras's "caffe" mode use it."""

KERAS_HEAD = Head(pool="avg", dropout=0.2)
"""The head that works well with most networks of keras.applications; the default of `keras_architecture`."""


def normalize(pixels: keras.KerasTensor, mode: str) -> keras.KerasTensor:
    """Normalize pixels inside the graph, with Keras's own layers.

    Args:
        pixels: Symbolic float32 tensor (batch, height, width, 3), RGB in 0..255. The modes that treat all channels
            alike ("tf", "128", "unit", "none") also accept one channel.
        mode: What the pixels become.
            "tf": -1..1.
            "torch": scaled to 0..1, minus the ImageNet mean, divided by the ImageNet standard deviation.
            "caffe": BGR, minus the ImageNet mean.
            "128": minus 128, divided by 128.
            "unit": 0..1.
            "none": unchanged.
            The first three equal those of `keras.applications.imagenet_utils.preprocess_input`.

    Returns:
        Symbolic float32 tensor of the same shape.

    Raises:
        InvalidPluginData: The mode is not one of these.
    """
    import keras

    if mode == "none":
        return pixels
    if mode == "tf":
        return keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="normalize")(pixels)
    if mode == "unit":
        return keras.layers.Rescaling(1 / 255, name="normalize")(pixels)
    if mode == "128":
        return keras.layers.Rescaling(1 / 128, offset=-1.0, name="normalize")(pixels)
    if mode == "torch":
        scale = [1 / (255 * deviation) for deviation in IMAGENET_DEVIATION]
        offset = [-mean / deviation for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)]
        return keras.layers.Rescaling(scale, offset=offset, name="normalize")(pixels)
    if mode == "caffe":
        offset = [-mean for mean in IMAGENET_MEAN_BGR]
        return keras.layers.Rescaling(1.0, offset=offset, name="normalize")(pixels[..., ::-1])
    raise InvalidPluginData(f"normalize: mode must be tf, torch, caffe, 128, unit or none. Received: {mode!r}.")


@dataclass(frozen=True)
class KerasApplication:
    """Builds a network of keras.applications; provides `build` and `build_classifier` of an Architecture.

    Args:
        name: Name of the function in `keras.applications` ("MobileNetV2").
        mode: How the network normalizes pixels; see `normalize`.
        options: Further arguments of that function ({"alpha": 0.35}).
        change: `change(layer)`, which replaces layers; see `rebuild`. None keeps them all.
    """

    name: str
    mode: str
    options: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[keras.Layer], keras.Layer | None] | None = None

    def build(self, input_shape: tuple[int, int, int]) -> keras.Model:
        """Build the backbone; see `zoo.plugin.Architecture.build`."""
        return self._changed(input_shape, include_top=False)

    def build_classifier(self, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
        """Build the published classifier, which returns logits; see `zoo.plugin.Architecture.build_classifier`."""
        return self._changed(input_shape, include_top=True, classes=classes, classifier_activation=None)

    def published(self, **arguments: Any) -> keras.Model:
        """Build the network exactly as keras.applications does, with random weights.

        Args:
            arguments: Arguments of the function beside `options`.
        """
        import keras

        network: keras.Model = getattr(keras.applications, self.name)(weights=None, **self.options, **arguments)
        return network

    def read(self, path: Path, like: keras.Model) -> keras.Model:
        """Load a published file into the network in whose layout it was published.

        Args:
            path: The file.
            like: A network from `build` or `build_classifier`; it decides the size, the top and the number of classes.

        Returns:
            The network with the published weights; `copy_weights` copies them to `like`.
        """
        top = {"include_top": True, "classes": like.output.shape[-1]} if len(like.output.shape) == 2 else {}
        layout = self.published(**{"input_shape": like.input.shape[1:], "include_top": False, **top})
        layout.load_weights(path)
        return layout

    def _changed(self, input_shape: tuple[int, int, int], **arguments: Any) -> keras.Model:
        import keras

        pixels = keras.Input(input_shape, name="image")
        network = self.published(input_tensor=normalize(pixels, self.mode), **arguments)
        return rebuild(network, self.change) if self.change else network


def rebuild(network: keras.Model, change: Callable[[keras.Layer], keras.Layer | None]) -> keras.Model:
    """Build a network anew, as a flat model, with some of its layers replaced or removed.

    Args:
        network: A functional model.
        change: `change(layer)` returns the layer that takes the place of a layer. It returns the layer itself to keep
            it, and None to remove a layer that passes its input on unchanged. It receives layers inside a Sequential
            one by one.

    Returns:
        The new network, with new random weights.
    """
    import keras

    def changed(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Sequential):
            return keras.Sequential([changed(inner) for inner in layer.layers], name=layer.name)
        new = change(layer)
        if new is None:
            return keras.layers.Identity(name=layer.name)
        return layer.__class__.from_config(layer.get_config()) if new is layer else new

    def call(layer: keras.Layer, *arguments: Any, **options: Any) -> Any:
        if isinstance(layer, keras.layers.Identity):
            return arguments[0]
        if isinstance(layer, keras.Sequential):
            x = arguments[0]
            for inner in layer.layers:
                x = inner(x)
            return x
        return layer(*arguments, **options)

    return keras.models.clone_model(network, clone_function=changed, call_function=call)


def _flat_layers(model: keras.Model) -> Iterator[keras.Layer]:
    """Yield all layers of a model; a model inside it is replaced by its layers."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _flat_layers(layer)
        else:
            yield layer


def copy_weights(
    source: keras.Model,
    target: keras.Model,
    convert: Callable[[keras.Layer, list[np.ndarray]], list[np.ndarray]] = lambda layer, arrays: arrays,
) -> None:
    """Copy weights from a network in the published layout to zoo's network, between layers of the same name.

    Args:
        source: The network with the published weights. Layers of models inside it are found too.
        target: The network that receives them. All its layers with weights must be in `source`.
        convert: `convert(layer, arrays)` turns the arrays of the source into those of the target's layer. By default
            they stay as they are.

    Raises:
        WeightsIncompatible: `source` lacks a layer.
        ValueError: The arrays do not fit the layer; Keras raises it.
    """
    layers = {layer.name: layer for layer in _flat_layers(source)}
    for layer in target.layers:
        if not layer.weights:
            continue
        if layer.name not in layers:
            raise WeightsIncompatible(f"the file has no layer {layer.name!r}")
        layer.set_weights(convert(layer, layers[layer.name].get_weights()))


def keras_architecture(
    network: KerasApplication,
    name: str,
    *,
    summary: str,
    parameters: int,
    stages: Iterable[Stage],
    source: str,
    size: int = 224,
    min_size: int = 32,
    head: Head = KERAS_HEAD,
    licence: str = "Apache-2.0",
    **facts: Any,
) -> Architecture:
    """Describe a network of keras.applications, with the defaults that most of these networks share.

    Args:
        network: Builds the backbone and the published classifier.
        name: The name that a user types ("densenet121").
        summary: One line for `zoo list`.
        parameters: Number of weights of the backbone, without head and without preprocessing layers.
        stages: The stages from the stem to the top. Every layer with weights must be in exactly one stage.
        source: Where the method comes from (paper).
        size: Default height and width in pixels.
        min_size: Smallest height and width in pixels.
        head: The head that works best with this family; by default average pooling and a dropout of 0.2.
        licence: Licence of the code that builds the network; the default is Keras's own.
        facts: Other fields of `Architecture`: learning_rate, classifier_size, default_schedule.
    """
    return Architecture(
        name=name,
        summary=summary,
        build=network.build,
        build_classifier=network.build_classifier,
        input_size=(size, size),
        min_size=min_size,
        parameters=parameters,
        stages=tuple(stages),
        head=head,
        source=source,
        licence=licence,
        **facts,
    )
