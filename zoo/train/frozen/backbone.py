"""Converts a backbone with the pooling of a head to an ONNX graph once, and keeps this graph for later runs.

The graph computes the features that a linear head reads. A run that finds its graph needs neither Keras nor TensorFlow:
it computes features with the graph, solves the head, and exports graph and head together
(`zoo.convert.linear_head_graph`).

The features that Keras computed for a few drawn pictures are kept with the graph. A later run compares its exported
file with them, although Keras does not run then.

Where Keras computes on a GPU or TPU, or where TensorFlow is not installed, `KerasBackbone` computes the features.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

import zoo_runtime
from zoo import backend, files
from zoo.convert.session import open_session
from zoo.errors import ConversionFailed
from zoo.train.frozen.part import KERAS, ONNXRUNTIME, TOLERANCE, largest_difference

if TYPE_CHECKING:
    import keras

FORMAT = 1
# The cache of graphs takes at most this many bytes.
LIMIT = 2 << 30
DRAWN_PICTURES = 8


@dataclass(frozen=True)
class PooledBackbone:
    """A converted backbone that ends in pooled features.

    Args:
        graph: Input `image`, uint8 [batch, height, width, channels] in 0..255. Outputs `features_0`, `features_1` ...,
            each float32 [batch, n]: the pooled output of the backbone first, then those of lower stages.
        reference: What Keras computed for `drawn_pictures`: one float32 array (pictures, n) for each output.
        key: What the graph was made from, as a digest. "" if it is not kept.
    """

    graph: onnx.ModelProto
    reference: tuple[np.ndarray, ...]
    key: str = ""

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of features of each output."""
        return tuple(each.shape[1] for each in self.reference)

    @property
    def engine(self) -> str:
        """The library that computes the features."""
        return ONNXRUNTIME

    def versions(self) -> list[str]:
        """Return what decides how the features are rounded, besides the graph."""
        return [backend.onnxruntime().__version__, zoo_runtime.__version__]

    def open(self) -> FeatureSession:
        """Return a function that computes the features of a batch."""
        return FeatureSession(self)


@dataclass(frozen=True)
class KerasBackbone:
    """A backbone that ends in pooled features, and that Keras runs.

    Args:
        model: Input float32 (batch, height, width, channels) in 0..255. Outputs as those of `PooledBackbone`.
        key: What the model was made from, as a digest. "" if its features are not kept.
    """

    model: keras.Model
    key: str = ""

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of features of each output."""
        return tuple(output.shape[1] for output in self.model.outputs)

    @property
    def engine(self) -> str:
        """The library that computes the features."""
        return KERAS

    def versions(self) -> list[str]:
        """Return what decides how the features are rounded, besides the model."""
        return [backend.engine(), zoo_runtime.__version__]

    def open(self) -> Callable[[np.ndarray], list[np.ndarray]]:
        """Return a function that computes the features of a batch, uint8 (batch, height, width, channels) in 0..255."""
        keras = backend.start()

        def compute(pixels: np.ndarray) -> list[np.ndarray]:
            with backend.full_float32():
                outputs = self.model.predict_on_batch(pixels.astype("float32"))
            return [np.asarray(each) for each in keras.tree.flatten(outputs)]

        return compute


def drawn_pictures(size: tuple[int, int], channels: int) -> np.ndarray:
    """Draw pictures on which features are compared: smooth colors, edges and noise, the same ones in every call.

    Args:
        size: (height, width) in pixels.
        channels: 1 or 3.

    Returns:
        A uint8 array (8, height, width, channels).
    """
    height, width = size
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    generator = np.random.default_rng(0)
    pictures = []
    for _ in range(DRAWN_PICTURES):
        slopes, levels = generator.uniform(-200, 200, (2, channels)), generator.uniform(0, 255, (2, channels))
        picture = levels[0] + slopes[0] * (x - 0.5)[..., None] + slopes[1] * (y - 0.5)[..., None]
        center, radius = generator.uniform(0.2, 0.8, 2), generator.uniform(0.1, 0.4)
        disk = np.hypot(y - center[0], x - center[1]) < radius
        picture[disk] = levels[1] + 0.3 * (picture[disk] - levels[1])
        picture += generator.normal(0, generator.uniform(0, 40), picture.shape)
        pictures.append(picture.round().clip(0, 255).astype(np.uint8))
    return np.stack(pictures)


def convert(model: keras.Model) -> PooledBackbone:
    """Convert a Keras model that ends in pooled features, and compare the graph with it.

    Args:
        model: Input float32 (batch, height, width, channels) in 0..255, outputs float32 (batch, n).

    Raises:
        ConversionFailed: The model cannot be converted, or the graph computes other features.
        ConverterMissing: TensorFlow or tf2onnx is not installed here.
        WriteError: The folder for temporary files is full.
    """
    from zoo.convert.keras_to_onnx import convert_features

    graph = convert_features(model)
    _, height, width, channels = model.input.shape
    pictures = drawn_pictures((height, width), channels)
    reference = backend.outputs_of(model, pictures.astype("float32"))
    difference = largest_difference(reference, _run(open_session(graph), pictures))
    if not difference <= TOLERANCE:
        raise ConversionFailed(f"onnxruntime's features differ from Keras's by {difference:.1e} of the greatest one.")
    return PooledBackbone(graph, tuple(reference))


def digest_of(identity: Sequence[Any]) -> str:
    """Return the digest under which a graph is kept.

    Args:
        identity: Everything that determines the graph, as values that `repr` describes completely.
    """
    return hashlib.sha256(repr([FORMAT, *identity]).encode()).hexdigest()[:32]


def find(key: str) -> PooledBackbone | None:
    """Return the graph that is kept under a key, or None if there is none or its files are damaged."""
    place = _folder() / key
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError):
        graph, proof = (place / "graph.onnx").read_bytes(), (place / "reference.npz").read_bytes()
        if json.loads((place / "sha256.json").read_text("utf-8")) != [_sha256(graph), _sha256(proof)]:
            return None
        with np.load(io.BytesIO(proof)) as arrays:
            reference = tuple(arrays[f"features_{i}"] for i in range(len(arrays.files)))
        with contextlib.suppress(OSError):
            # The time of the last use cannot be set in another user's cache.
            os.utime(place)
        return PooledBackbone(onnx.load_from_string(graph), reference, key)
    return None


def keep(backbone: PooledBackbone, key: str) -> None:
    """Keep a graph for later runs. If the disk is full or cannot be written, nothing is kept.

    Args:
        backbone: The graph with its reference features.
        key: From `digest_of`.
    """
    folder = _folder()
    graph, stream = backbone.graph.SerializeToString(deterministic=True), io.BytesIO()
    arrays: dict[str, Any] = {f"features_{i}": values for i, values in enumerate(backbone.reference)}
    np.savez(stream, **arrays)
    proof = stream.getvalue()
    with contextlib.suppress(OSError), files.scratch_folder(folder) as temporary:
        size, cached = len(graph) + len(proof), files.sets(folder)
        if size > min(LIMIT, shutil.disk_usage(folder).free + sum(taken for _, taken, _ in cached)):
            return
        files.make_room(cached, size, limit=LIMIT, free=lambda: shutil.disk_usage(folder).free)
        for name, content in (
            ("graph.onnx", graph),
            ("reference.npz", proof),
            ("sha256.json", json.dumps([_sha256(graph), _sha256(proof)]).encode()),
        ):
            (temporary / name).write_bytes(content)
        if (folder / key).exists():
            files.evict(folder / key)
        os.replace(temporary, folder / key)


class FeatureSession:
    """Runs a `PooledBackbone` in ONNX Runtime.

    Args:
        backbone: The graph to run.
    """

    def __init__(self, backbone: PooledBackbone):
        self._session = open_session(backbone.graph)

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Compute the features of a batch.

        Args:
            pixels: uint8 (batch, height, width, channels) in 0..255.

        Returns:
            One float32 array (batch, n) for each output of the graph.

        Raises:
            ConversionFailed: ONNX Runtime cannot run the graph.
        """
        if len(pixels) == 1:
            # See `FrozenPart`: a picture alone would be rounded differently.
            return [values[:1] for values in _run(self._session, np.repeat(pixels, 2, axis=0))]
        return _run(self._session, pixels)


def _run(session: Any, pixels: np.ndarray) -> list[np.ndarray]:
    try:
        return session.run(None, {"image": pixels})
    except Exception as error:
        # The exceptions of ONNX Runtime have no common base class.
        raise ConversionFailed(f"onnxruntime cannot run the graph: {str(error).splitlines()[0]}") from error


def _folder() -> Path:
    return files.cache() / "backbones"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
