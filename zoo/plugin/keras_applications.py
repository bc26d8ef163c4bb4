"""What `build` functions are made of: normalisation inside the graph, and the networks of keras.applications.

Plugins reach these names through `zoo.plugin`. Importing this module does not import Keras.
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

# The one table of ImageNet's pixel statistics; plugins reach it through `zoo.plugin`.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of the ImageNet pixels, RGB in 0..1, as torchvision and Keras's "torch" mode use it."""
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
"""Standard deviation of the ImageNet pixels, RGB in 0..1, as torchvision and Keras's "torch" mode use it."""
IMAGENET_MEAN_BGR = (103.939, 116.779, 123.68)
"""Mean of the ImageNet pixels, BGR in 0..255, as Caffe's networks and Keras's "caffe" mode use it."""

KERAS_HEAD = Head(pool="avg", dropout=0.2)
"""The head that most networks of keras.applications do well with; the default of `keras_architecture`."""


def normalize(pixels: keras.KerasTensor, mode: str) -> keras.KerasTensor:
    """Bring pixels from 0..255 to what a family was trained on, with Keras's own layers inside the graph.

    Args:
        pixels: Symbolic float32 tensor (batch, height, width, 3), RGB, in 0..255; grey, with one channel, for the
            modes that treat all channels alike ("tf", "128", "unit", "none").
        mode: "tf" (to -1..1), "torch" (to 0..1, minus the ImageNet mean, over its standard deviation), "caffe" (BGR,
            minus the ImageNet mean); the modes of `keras.applications.imagenet_utils.preprocess_input`. Or "128" (minus
            128, over 128), "unit" (to 0..1) or "none".

    Returns:
        Symbolic float32 tensor of the same shape.

    Raises:
        InvalidPluginData: The mode is another.
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
    """A network of keras.applications under zoo's contract: `build` and `build_classifier` of an Architecture.

    Args:
        name: The function in `keras.applications` ("MobileNetV2").
        mode: How pixels are normalised; see `normalize`.
        options: Further arguments of that function ({"alpha": 0.35}).
        change: Optional, exchanges layers for others; see `rebuild`.
    """

    name: str
    mode: str
    options: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[keras.Layer], keras.Layer | None] | None = None

    def build(self, input_shape: tuple[int, int, int]) -> keras.Model:
        """Build the backbone; see `zoo.plugin.Architecture.build`."""
        return self._changed(input_shape, include_top=False)

    def build_classifier(self, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
        """Build the published classifier, giving logits; see `zoo.plugin.Architecture.build_classifier`."""
        return self._changed(input_shape, include_top=True, classes=classes, classifier_activation=None)

    def published(self, **arguments: Any) -> keras.Model:
        """Call the function of keras.applications; with random weights."""
        import keras

        return getattr(keras.applications, self.name)(weights=None, **self.options, **arguments)

    def read(self, path: Path, like: keras.Model) -> keras.Model:
        """Load a published file into the layout in which it was published.

        Args:
            path: The file.
            like: What `build` or `build_classifier` gave; it tells of size, top and classes.
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
    """Build a network anew with some of its layers exchanged or left out, and flat.

    Args:
        network: A functional model.
        change: `change(layer)` gives the layer that takes a layer's place, the same layer to keep its kind, or None to
            leave out one that hands its input on. Layers inside a Sequential are given one by one.

    Returns:
        The new network, with new random weights.
    """
    import keras

    def changed(layer):
        if isinstance(layer, keras.Sequential):
            return keras.Sequential([changed(inner) for inner in layer.layers], name=layer.name)
        new = change(layer)
        if new is None:
            return keras.layers.Identity(name=layer.name)
        return layer.__class__.from_config(layer.get_config()) if new is layer else new

    def call(layer, *arguments, **options):
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
    """All layers of a model, those of models inside it in the place of these."""
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
    """Copy weights from a published layout to the network that stands for it, layer by layer of the same name.

    Args:
        source: Holds the published weights; networks inside it are looked into.
        target: Gets them: all its layers with weights.
        convert: `convert(layer, arrays)`: the target's layer and the source's arrays -> the target's arrays.

    Raises:
        WeightsIncompatible: A layer is missing, or arrays do not fit.
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
    """Describe a network of keras.applications: its two builders, and the defaults that most of these networks share.

    Args:
        network: Builds the backbone and the published classifier.
        name: What a user types ("densenet121").
        summary: One line for `zoo list`.
        parameters: Number of weights of the backbone, without head and without preprocessing layers.
        stages: Stem first, top last; every layer with weights is in exactly one.
        source: Where the method comes from (paper).
        size: Default height and width in pixels.
        min_size: Smallest height and width in pixels.
        head: The head that this family does best with; by default average pooling and a dropout of 0.2.
        licence: Licence of the code that builds the network; Keras has the Apache License 2.0.
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
