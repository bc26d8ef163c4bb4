"""Runs the frozen part of a network: on onnxruntime where that is sound and faster, else on Keras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend
from zoo.errors import ConversionFailed
from zoo.train import grouped_conv

if TYPE_CHECKING:
    import keras


TOLERANCE = 1e-4


class Unsound(Exception):
    """The frozen part cannot be computed ahead: `FrozenPart.sound` is False."""


class FrozenPart:
    """The frozen part of a network, ready to run.

    Args:
        network: The whole network.
        tensors: The outputs of the frozen part.
        sample: Pictures to compare Keras and onnxruntime on, float32 (pictures, height, width, channels) in 0..255.

    Attributes:
        engine: "onnxruntime" or "Keras".
        note: Why it runs on Keras although onnxruntime might be faster; empty in all other cases.
        sound: Whether it gives one row per picture, and the same in training mode.
    """

    def __init__(self, network: keras.Model, tensors: Sequence[keras.KerasTensor], sample: np.ndarray):
        keras = backend.start()
        self._model = keras.Model(network.inputs[0], list(tensors))
        self._session: Any = None
        self.engine, self.note, self.sound = "Keras", "", True
        # Called without tracing, which would take longer than these few pictures.
        pixels = keras.ops.convert_to_tensor(sample)
        expected, training = (
            [keras.ops.convert_to_numpy(x) for x in _as_list(self._model(pixels, training=mode))]
            for mode in (False, True)
        )
        if any(len(values) != len(sample) for values in expected) or _difference(expected, training) > TOLERANCE:
            self.sound = False
            return
        if not backend.has_accelerator():
            self._convert(expected, sample)

    def _convert(self, expected: Sequence[np.ndarray], sample: np.ndarray) -> None:
        """Convert the frozen part, and switch to onnxruntime if its outputs for the sample match those of Keras.

        Args:
            expected: The outputs of Keras for the sample.
            sample: Pictures, float32 (pictures, height, width, channels) in 0..255.
        """
        from zoo.convert.keras_to_onnx import convert_maps
        from zoo.convert.session import open_session

        try:
            with grouped_conv.whole(self._model):
                graph = convert_maps(self._model)
            self._session = open_session(graph)
            difference = _difference(expected, self(sample))
        except ConversionFailed as error:
            self.note, self._session = str(error).splitlines()[0], None
            return
        if difference > TOLERANCE:
            self.note = f"onnxruntime's outputs differ from Keras's by {difference:.1e} of their greatest value"
            self._session = None
        elif self._session is not None:
            self.engine = "onnxruntime"

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Compute the features of pictures.

        Args:
            pixels: float32 (pictures, height, width, channels) in 0..255.

        Returns:
            A float32 array (pictures, ...) for each tensor.
        """
        if self._session is not None:
            try:
                return self._session.run(None, {self._session.get_inputs()[0].name: pixels})
            except Exception as error:
                # onnxruntime's exceptions share no base class. Keras may succeed where it runs out of memory.
                self._session, self.engine = None, "Keras"
                self.note = f"onnxruntime failed: {str(error).splitlines()[0]}"
        return [np.asarray(values) for values in _as_list(self._model.predict_on_batch(pixels))]


def _difference(expected: Sequence[np.ndarray], actual: Sequence[np.ndarray]) -> float:
    """Return the greatest difference over tensors, relative to the greatest value; NaN counts as infinite."""
    worst = 0.0
    for reference, values in zip(expected, actual, strict=True):
        relative = float(np.abs(reference - values).max() / max(float(np.abs(reference).max()), 1e-30))
        worst = max(worst, relative) if np.isfinite(relative) else float("inf")
    return worst


def _as_list(outputs: Any) -> list[Any]:
    """Return outputs as a list: Keras returns the only output of a model without one."""
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
