"""The frozen part of a network, ready to run: on onnxruntime where that is sound and faster, else on Keras."""

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
    """The lower part gives no row a picture, or another one in training: it cannot be computed ahead."""


class FrozenPart:
    """The lower part of a network, ready to run.

    Args:
        network: The whole.
        tensors: What it gives.
        sample: Pictures to compare Keras and onnxruntime on, float32 (pictures, height, width, channels), 0..255.

    Attributes:
        engine: "onnxruntime" or "Keras".
        note: Why it is Keras where it might be the other, or nothing.
        sound: Whether it gives a row a picture, the same in training mode.
    """

    def __init__(self, network: keras.Model, tensors: Sequence[keras.KerasTensor], sample: np.ndarray):
        keras = backend.start()
        self._model = keras.Model(network.inputs[0], list(tensors))
        self._session, self.engine, self.note, self.sound = None, "Keras", "", True
        # Not traced: that takes longer than these few pictures.
        pixels = keras.ops.convert_to_tensor(sample)
        expected, training = (
            [keras.ops.convert_to_numpy(x) for x in _listed(self._model(pixels, training=mode))]
            for mode in (False, True)
        )
        if any(len(values) != len(sample) for values in expected) or _difference(expected, training) > TOLERANCE:
            self.sound = False
            return
        if backend.has_accelerator():
            return
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
            self.note = f"onnxruntime's features differ from Keras's by {difference:.1e} of their greatest value"
            self._session = None
        elif self._session is not None:
            self.engine = "onnxruntime"

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Features of pictures: float32 (pictures, height, width, channels) -> a float32 array for each tensor."""
        if self._session is not None:
            try:
                return self._session.run(None, {self._session.get_inputs()[0].name: pixels})
            except Exception as error:
                # onnxruntime's exceptions share no base class. Memory that it cannot have, Keras may have.
                self._session, self.engine = None, "Keras"
                self.note = f"onnxruntime failed: {str(error).splitlines()[0]}"
        return [np.asarray(values) for values in _listed(self._model.predict_on_batch(pixels))]


def _difference(expected: Sequence[np.ndarray], given: Sequence[np.ndarray]) -> float:
    """The greatest difference over tensors, as a share of the greatest value; not finite counts as infinite."""
    worst = 0.0
    for wanted, values in zip(expected, given, strict=True):
        share = float(np.abs(wanted - values).max() / max(float(np.abs(wanted).max()), 1e-30))
        worst = max(worst, share) if np.isfinite(share) else float("inf")
    return worst


def _listed(outputs: Any) -> list[Any]:
    """Keras gives the one output of a model with a list of one as it is."""
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
