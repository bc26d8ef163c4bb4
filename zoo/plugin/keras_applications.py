"""Tools that help plugins to build networks: pixel normalization, and adapters for networks of keras.applications.

Plugins import these names from `zoo.plugin`. Importing this module does not import Keras.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
"""The default head of `keras_architecture`, which works well with most networks of keras.applications."""


def normalize(
    pixels: keras.KerasTensor,
    mode: str | None = None,
    *,
    mean: float | Sequence[float] | None = None,
    scale: float | Sequence[float] | None = None,
) -> keras.KerasTensor:
    """Normalize the pixels inside a functional Keras model.

    This function adds only layers of Keras itself, so that a saved network can be loaded without zoo.

    Args:
        pixels: The pixels, a symbolic float32 tensor (batch, height, width, 3), RGB in 0..255. The modes that treat all
            channels alike ("tf", "128", "unit", "none") also accept one channel.
        mode: How pixels are normalized. The modes "tf", "torch" and "caffe" equal those of
            `keras.applications.imagenet_utils.preprocess_input`.
            "tf": scaled to -1..1.
            "torch": scaled to 0..1, minus the ImageNet mean, divided by the ImageNet standard deviation.
            "caffe": channels in the order BGR, minus the ImageNet mean.
            "128": minus 128, divided by 128.
            "unit": scaled to 0..1.
            "none": unchanged.
            None: `mean` and `scale` say how.
        mean: What is subtracted, in levels 0..255: one number, or one per channel. It goes without a mode.
        scale: What the difference is divided by, above 0: one number, or one per channel. It goes without a mode.
            `normalize(pixels, mean=127, scale=128)` gives (pixels - 127) / 128.

    Returns:
        The normalized pixels, a symbolic float32 tensor of the same shape.

    Raises:
        InvalidPluginData: The mode is not one of these, or `mean` and `scale` are not such numbers.
    """
    import keras

    if mode is None or mean is not None or scale is not None:
        return _normalize_by(pixels, mode, mean, scale)

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
        if keras.backend.backend() == "torch":
            # PyTorch has no slices with a negative step.
            blue_green_red = keras.ops.concatenate([pixels[..., i : i + 1] for i in (2, 1, 0)], axis=-1)
        else:
            blue_green_red = pixels[..., ::-1]
        return keras.layers.Rescaling(1.0, offset=offset, name="normalize")(blue_green_red)
    raise InvalidPluginData(f"normalize: mode must be tf, torch, caffe, 128, unit or none. Received: {mode!r}.")


def _normalize_by(
    pixels: keras.KerasTensor, mode: str | None, mean: float | Sequence[float] | None, scale: Any
) -> keras.KerasTensor:
    """Subtract a mean and divide by a scale; see `normalize`."""
    import keras

    if mode is not None or mean is None or scale is None:
        raise InvalidPluginData(
            "normalize: give either a mode, or both mean and scale. "
            f"Received: mode={mode!r}, mean={mean!r}, scale={scale!r}."
        )
    channels = pixels.shape[-1]
    pairs: list[tuple[float, float]] = []
    try:
        means = [float(mean)] * channels if isinstance(mean, (int, float)) else [float(each) for each in mean]
        scales = [float(scale)] * channels if isinstance(scale, (int, float)) else [float(each) for each in scale]
        if len(means) == len(scales) == channels and min(scales) > 0 and all(map(math.isfinite, means + scales)):
            pairs = list(zip(means, scales, strict=True))
    except (TypeError, ValueError):
        pass
    if not pairs:
        raise InvalidPluginData(
            f"normalize: mean and scale must be one number or {channels}, and scale above 0. "
            f"Received: mean={mean!r}, scale={scale!r}."
        )
    if len(set(pairs)) == 1:
        return keras.layers.Rescaling(1 / pairs[0][1], offset=-pairs[0][0] / pairs[0][1], name="normalize")(pixels)
    factors, offsets = [1 / s for _, s in pairs], [-m / s for m, s in pairs]
    return keras.layers.Rescaling(factors, offset=offsets, name="normalize")(pixels)


@dataclass(frozen=True)
class KerasApplication:
    """Builds a network of keras.applications.

    The methods `build` and `build_classifier` can be passed to `Architecture` as the arguments of the same names.

    Args:
        name: The name of the function in `keras.applications` that builds the network ("MobileNetV2").
        mode: How the network normalizes pixels; see `normalize`.
        options: Further keyword arguments for the function in `keras.applications` ({"alpha": 0.35}).
        change: A function that replaces or removes layers of the network; see `rebuild`. None keeps all layers.
    """

    name: str
    mode: str
    options: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[keras.Layer], keras.Layer | None] | None = None

    def build(self, input_shape: tuple[int, int, int]) -> keras.Model:
        """Build the backbone with random weights; see `zoo.plugin.Architecture`.

        Args:
            input_shape: (height, width, channels).
        """
        return self._changed(input_shape, include_top=False)

    def build_classifier(self, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
        """Build the published classifier with random weights. Its output is logits; see `zoo.plugin.Architecture`.

        Args:
            input_shape: (height, width, channels).
            classes: The number of classes.
        """
        return self._changed(input_shape, include_top=True, classes=classes, classifier_activation=None)

    def published(self, **arguments: Any) -> keras.Model:
        """Build the network exactly as keras.applications does, with random weights.

        Args:
            arguments: Arguments of the function in `keras.applications`, in addition to `options`.
        """
        import keras

        network: keras.Model = getattr(keras.applications, self.name)(weights=None, **self.options, **arguments)
        return network

    def read(self, path: Path, like: keras.Model) -> keras.Model:
        """Build the network exactly as keras.applications does, and load a published weights file into it.

        Args:
            path: The weights file.
            like: A network from `build` or `build_classifier`. The returned network has the same input size. If
                `like` has a top, the returned network has a top with the same number of classes.

        Returns:
            The network with the published weights. `copy_weights` can copy them to `like`.
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
    """Build a flat copy of a network in which some layers are replaced or removed.

    Args:
        network: A functional model. It may contain Sequential models; the copy has their layers instead.
        change: `change(layer)` receives each layer of the network, including those inside a Sequential model. It
            returns `layer` itself to keep it, a new layer to replace it, or None to remove it. The input of a removed
            layer becomes the input of the next layer.

    Returns:
        The copy, with new random weights.
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
    """Yield all layers of a model. If a layer is itself a model, yield the layers inside it instead, at any depth."""
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
    """Copy the weights of each layer in `target` from the layer of the same name in `source`.

    Args:
        source: The network with the published weights. It may contain other models; their layers are found too.
        target: The network that receives the weights. For each of its layers with weights, `source` must have a layer
            of the same name.
        convert: `convert(layer, arrays)` receives a layer of `target` and the weights of the layer of the same name in
            `source`. It returns the weights for `layer`. By default, it returns `arrays` unchanged.

    Raises:
        WeightsIncompatible: `source` lacks a layer of `target`.
        ValueError: The arrays do not fit the layer. Keras raises this error.
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
    """Describe a network of keras.applications as an `Architecture`, with defaults that suit most of these networks.

    Args:
        network: Builds the backbone and the published classifier.
        name: The name that a user types ("densenet121").
        summary: One line for `zoo list`.
        parameters: The number of weights of the backbone, without the head and the preprocessing layers.
        stages: The stages from the stem to the top. Every layer with weights must be in exactly one stage.
        source: Where the method comes from, such as the address of the paper.
        size: The default height and width in pixels.
        min_size: The smallest height and width in pixels that the network accepts.
        head: The head that works best with this network. The default is average pooling and a dropout of 0.2.
        licence: The licence of the code that builds the network. The default is Keras's own.
        facts: Other fields of `Architecture`, such as learning_rate, classifier_size and default_schedule.

    Raises:
        InvalidPluginData: A field has a value that is not allowed.
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
