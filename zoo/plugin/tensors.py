"""Puts tensors from a file into a Keras network by the names of its layers. `zoo.plugin.read_tensors` reads the file.

Plugins import `copy_tensors` from `zoo.plugin`. Importing this module imports neither Keras nor numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from zoo.errors import WeightsIncompatible

if TYPE_CHECKING:
    import keras
    import numpy as np

# What PyTorch calls the variables that Keras calls so.
IN_PYTORCH = {
    **{"kernel": "weight", "depthwise_kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"},
    **{"moving_mean": "running_mean", "moving_variance": "running_var", "embeddings": "weight"},
}


def copy_tensors(
    tensors: Mapping[str, np.ndarray],
    target: keras.Model,
    rename: Callable[[str], str] = lambda layer: layer,
) -> None:
    """Copy tensors into the layers of a network, by their names. Nothing changes if one of them is missing.

    A layer "conv1" takes its kernel from the tensor "conv1/kernel" or "conv1.kernel", in Keras's layout, or from
    "conv1.weight", in PyTorch's layout. The kernels of PyTorch are transposed: those of convolutions, with groups too,
    of depthwise and transposed convolutions, and of dense layers. BatchNorm's and LayerNorm's variables have other
    names in PyTorch: weight, bias, running_mean and running_var. Tensors that no layer needs are left out, so that a
    file with a top can fill a network without it.

    Args:
        tensors: The tensors by their names, as `read_tensors` returns them.
        target: The network that receives them.
        rename: Receives the name of a layer, and returns how names of its tensors begin in the file. By default, they
            begin with the name of the layer.

    Raises:
        WeightsIncompatible: A tensor is missing, or it has another shape than the layer needs.
    """
    found = [(layer, _arrays(tensors, layer, rename(layer.name))) for layer in target.layers if layer.weights]
    for layer, arrays in found:
        layer.set_weights(arrays)


def _arrays(tensors: Mapping[str, np.ndarray], layer: keras.Layer, prefix: str) -> list[np.ndarray]:
    """Return the arrays of a layer, in Keras's order and layout."""
    arrays = []
    for variable in layer.weights:
        name, needed = variable.name, tuple(variable.shape)
        own = next((key for key in (f"{prefix}/{name}", f"{prefix}.{name}") if key in tensors), None)
        key = own or f"{prefix}.{IN_PYTORCH.get(name, name)}"
        if key not in tensors:
            raise WeightsIncompatible(_missing(tensors, layer.name, f"{prefix}/{name}", key))
        array = tensors[key]
        if key != own:
            array = _from_pytorch(array, layer, needed)
        if array.shape != needed:
            raise WeightsIncompatible(
                f"layer {layer.name!r} needs an array of shape {needed}, and the file has {key!r} of shape "
                f"{tensors[key].shape}"
            )
        arrays.append(array)
    return arrays


def _from_pytorch(array: np.ndarray, layer: Any, needed: tuple[int, ...]) -> np.ndarray:
    """Return an array of PyTorch in Keras's layout. An array that is no kernel is returned as it is."""
    import keras

    if array.ndim == 2 and len(needed) == 2 and isinstance(layer, keras.layers.Dense):
        return array.T
    if array.ndim == 2 and needed[:2] == (1, 1):
        return array.T[None, None]
    if array.ndim != 4 or len(needed) != 4:
        return array
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        # (channels * multiplier, 1, height, width) -> (height, width, channels, multiplier)
        channels, multiplier = needed[2:]
        if array.shape[0] != channels * multiplier or array.shape[1] != 1:
            return array
        return array.reshape(channels, multiplier, *array.shape[2:]).transpose(2, 3, 0, 1)
    # (out, in, height, width) -> (height, width, in, out); a transposed convolution has both the other way round.
    return array.transpose(2, 3, 1, 0)


def _missing(tensors: Mapping[str, np.ndarray], layer: str, keras_name: str, pytorch_name: str) -> str:
    names = list(tensors)
    shown = ", ".join(name[:60] for name in names[:3])
    wanted = repr(keras_name) if keras_name.replace("/", ".") == pytorch_name else f"{keras_name!r} or {pytorch_name!r}"
    return (
        f"layer {layer!r} needs the tensor {wanted}, and the file has {len(names):,} tensors of other names "
        f"({shown}{' ...' if len(names) > 3 else ''}). A plugin's `load` can give them the names of the layers"
    )
