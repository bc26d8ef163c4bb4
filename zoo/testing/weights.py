"""Checks published weights whose file is at hand: its hash, and that it fills the whole network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zoo import backend
from zoo.plugin import Architecture, Weights
from zoo.testing.tools import synthetic_pixels


def check_weights(weights: Weights, architecture: Architecture, path: Path | None = None) -> None:
    """Check that a file of published weights is the described one, and fills every layer of the network.

    Args:
        weights: Describes the file.
        architecture: The architecture that the weights belong to.
        path: The file. None means the copy in the mirror that ZOO_WEIGHTS_DIR names, in zoo's cache or in Keras's.

    Raises:
        AssertionError: The file leaves a layer as it was, or loads values that are not finite.
        WeightsUnavailable: `path` is None, and the file is in none of these places.
        HashMismatch: The file is not the described one.
        WeightsIncompatible: The file does not fit the network.
    """
    from zoo.errors import HashMismatch, WeightsUnavailable
    from zoo.pretrained import fetch
    from zoo.train.network import build_backbone, build_classifier
    from zoo.train.weights_file import load_weights

    if path is None:
        if fetch.find_local(weights) is None:
            raise WeightsUnavailable(f"{weights.filename} is not available locally.")
        path = fetch.find([weights], weights.input_size).path
    elif weights.hash:
        algorithm = weights.hash.partition(":")[0]
        found = f"{algorithm}:{fetch.digest_of(path, algorithm)}"
        if found != weights.hash:
            raise HashMismatch(f"{str(path)!r} has the hash {found}, and the plugin states {weights.hash}.")
    backend.start().utils.set_random_seed(0)
    if weights.includes_top:
        model = build_classifier(architecture, weights.input_size, weights.classes)
    else:
        model = build_backbone(architecture, weights.input_size)
    before = {
        layer.name: [np.asarray(weight).copy() for weight in layer.weights] for layer in model.layers if layer.weights
    }
    load_weights(model, path, weights)
    for name, values in before.items():
        now = [np.asarray(weight) for weight in model.get_layer(name).weights]
        assert all(np.isfinite(value).all() for value in now), f"layer {name!r} gets values that are not finite"
        # A constant layer, such as one that normalizes pixels, may have had its values already.
        drawn = any(value.size > 1 and np.ptp(value) for value in values)
        same = all(np.array_equal(old, new) for old, new in zip(values, now, strict=True))
        assert not (drawn and same), f"the file leaves layer {name!r} at its random values"
    pixels = synthetic_pixels(3, weights.input_size, architecture.channels).astype("float32")
    rows = np.asarray(model(pixels, training=False))
    assert np.isfinite(rows).all(), "with these weights the outputs are not finite"
    assert np.abs(np.diff(rows, axis=0)).max() > 0, "with these weights the outputs do not depend on the picture"
