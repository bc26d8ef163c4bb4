"""Runs the frozen part of a network, on onnxruntime if possible and on Keras otherwise.

The frozen part runs on Keras if Keras computes on a GPU or TPU, or if the conversion to ONNX fails, as it does where
TensorFlow is not installed. It also runs on Keras if the outputs of onnxruntime differ from those of Keras, or if
onnxruntime fails while it computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend
from zoo.errors import ConversionFailed
from zoo.train import grouped_conv

if TYPE_CHECKING:
    import keras


# The greatest difference accepted, relative to the greatest value of a tensor.
TOLERANCE = 1e-4
ONNXRUNTIME, KERAS = "onnxruntime", "Keras"


def expected_engine() -> str:
    """Return which library will compute a frozen part, if nothing fails: "onnxruntime" or "Keras"."""
    return KERAS if backend.has_accelerator() or backend.missing_converters() else ONNXRUNTIME


class Unsound(Exception):
    """Raised if the outputs of a frozen part cannot be stored for later epochs, because `FrozenPart.sound` is False."""


class FrozenPart:
    """Computes the outputs of the frozen part of a network.

    Args:
        network: The whole network.
        tensors: The tensors of the network that are the outputs of the frozen part.
        sample: Pictures on which the outputs of Keras and of onnxruntime are compared, float32 (pictures, height,
            width, channels) in 0..255.

    Attributes:
        engine: The library that computes the outputs: "onnxruntime" or "Keras".
        note: Why onnxruntime does not compute the outputs, although zoo has tried to use it. Empty in all other cases.
        sound: Whether the outputs have one row per picture, and are the same in training mode and in inference mode.
    """

    def __init__(self, network: keras.Model, tensors: Sequence[keras.KerasTensor], sample: np.ndarray):
        keras = backend.start()
        self._model = keras.Model(network.inputs[0], list(tensors))
        self._session: Any = None
        self.engine, self.note, self.sound = KERAS, "", True
        expected, training = (backend.outputs_of(self._model, sample, training=mode) for mode in (False, True))
        if any(len(values) != len(sample) for values in expected) or largest_difference(expected, training) > TOLERANCE:
            self.sound = False
            return
        if expected_engine() == ONNXRUNTIME:
            self._convert(expected, sample)

    def _convert(self, expected: Sequence[np.ndarray], sample: np.ndarray) -> None:
        """Convert the frozen part to ONNX, and switch to onnxruntime if its outputs match those of Keras.

        Args:
            expected: The outputs that Keras computes for the sample, one array for each output of the frozen part.
            sample: Pictures, float32 (pictures, height, width, channels) in 0..255.
        """
        from zoo.convert.keras_to_onnx import convert_maps
        from zoo.convert.session import open_session

        try:
            with grouped_conv.whole(self._model):
                graph = convert_maps(self._model)
            self._session = open_session(graph)
            difference = largest_difference(expected, self(sample))
        except ConversionFailed as error:
            self.note, self._session = str(error).splitlines()[0], None
            return
        if difference > TOLERANCE:
            self.note = f"onnxruntime's outputs differ from Keras's by {difference:.1e} of their greatest value"
            self._session = None
        elif self._session is not None:
            self.engine = ONNXRUNTIME

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Compute the outputs of the frozen part for a batch of pictures.

        If onnxruntime fails, Keras computes the outputs for this batch and for all later ones.

        Args:
            pixels: The pictures, float32 (pictures, height, width, channels) in 0..255.

        Returns:
            One float32 array (pictures, ...) for each output of the frozen part.
        """
        if len(pixels) == 1:
            # ONNX Runtime multiplies a single row by other code, which rounds differently (ConvNeXt). Features must not
            # depend on how many pictures were missing in the cache.
            return [values[:1] for values in self(np.repeat(pixels, 2, axis=0))]
        if self._session is not None:
            try:
                return self._session.run(None, {self._session.get_inputs()[0].name: pixels})
            except Exception as error:
                # onnxruntime's exceptions share no base class. Keras may succeed where onnxruntime runs out of memory.
                self._session, self.engine = None, KERAS
                self.note = f"onnxruntime failed: {str(error).splitlines()[0]}"
        with backend.full_float32():
            return [np.asarray(values) for values in _as_list(self._model.predict_on_batch(pixels))]


def largest_difference(expected: Sequence[np.ndarray], actual: Sequence[np.ndarray]) -> float:
    """Return the greatest relative difference between two lists of arrays.

    For each pair of arrays, the greatest absolute difference is divided by the greatest absolute value of the expected
    array. NaN counts as infinite.
    """
    worst = 0.0
    for reference, values in zip(expected, actual, strict=True):
        relative = float(np.abs(reference - values).max() / max(float(np.abs(reference).max()), 1e-30))
        worst = max(worst, relative) if np.isfinite(relative) else float("inf")
    return worst


def _as_list(outputs: Any) -> list[Any]:
    """Return the outputs of a model as a list. Keras returns a single output without a list around it."""
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
