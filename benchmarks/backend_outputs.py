"""Checks that networks compute the same on another backend of Keras, and take a training step there.

    KERAS_BACKEND=tensorflow python benchmarks/backend_outputs.py FOLDER [NETWORK...]
    KERAS_BACKEND=torch python benchmarks/backend_outputs.py FOLDER [NETWORK...]

The first command writes the outputs of each network for 4 drawn pictures to FOLDER/NETWORK.npz. Weights are drawn by
numpy, so that they are the same in every environment. Every other command compares with the file: the greatest
difference, relative to the greatest output. Without names, one small network of each family is taken. Last, each
network gets a head and takes one step of Adam; the loss must be finite.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo import backend
from zoo.plugin import registry
from zoo.testing.tools import synthetic_pixels
from zoo.train.network import assemble, build_backbone

if TYPE_CHECKING:
    import keras

NETWORKS = (
    *("mnist_dense", "mnist_convnet", "catsdogs_convnet", "mobilenet_025", "mobilenetv2_035", "mobilenetv3_small"),
    *("mobilenetv3_small_minimalistic", "mobilenetv4_conv_small", "hgnetv2_b0", "deit_tiny", "dinov2_small"),
    *("resnet50", "resnet50v2", "vgg16", "convnext_tiny", "efficientnet_b0", "efficientnetv2_b0", "densenet121"),
    *("xception", "inceptionv3", "resnext50", "nasnet_mobile", "inceptionresnetv2"),
)
CLASSES = 3


def draw(model: keras.Model) -> None:
    """Set all weights to numbers that keep the outputs in a range that is neither 0 nor very large."""
    for i, variable in enumerate(model.variables):
        generator, shape = np.random.default_rng([i, 7]), tuple(variable.shape)
        name = variable.path.rpartition("/")[2]
        if "seed" in name:
            continue
        if len(shape) > 1:
            values = generator.normal(0, 1, shape) / np.sqrt(max(1, np.prod(shape[:-1])))
        elif name in ("gamma", "moving_variance", "scale"):
            values = generator.uniform(0.5, 1.5, shape)
        else:
            values = generator.normal(0, 0.1, shape)
        variable.assign(values.astype("float32"))


def check(name: str, folder: Path) -> str:
    """Return what one network computes here, as text."""
    keras, architecture = backend.start(), registry.load().architecture(name)
    keras.utils.set_random_seed(0)
    size = (architecture.min_size, architecture.min_size + 16)
    model = build_backbone(architecture, size)
    draw(model)
    pixels = synthetic_pixels(4, size, architecture.channels, seed=1).astype("float32")
    outputs, path = np.asarray(model.predict_on_batch(pixels)), folder / f"{name}.npz"
    if path.exists():
        expected = np.load(path)["outputs"]
        text = f"differs by {np.abs(outputs - expected).max() / np.abs(expected).max():.1e}"
    else:
        np.savez(path, outputs=outputs)
        text = "written"
    network = assemble(model, architecture, architecture.head, CLASSES).logits_model
    network.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True), jit_compile="auto")
    loss = float(network.train_on_batch(pixels, np.eye(CLASSES, dtype="float32")[[0, 1, 2, 0]]))
    assert np.isfinite(loss), f"{name}: the loss is {loss}"
    return text


def main() -> None:
    """Check the networks one after the other, and print a line for each."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or NETWORKS:
        started = time.perf_counter()
        try:
            text = check(name, folder)
        except Exception as error:
            # The errors of three backends share no base class, and the other networks are still to be checked.
            text = f"FAILED: {type(error).__name__}: {str(error).splitlines()[0]}"
        print(f"{backend.engine()}  {name:32} {text} ({time.perf_counter() - started:.0f} s)", flush=True)
        backend.start().utils.clear_session()


if __name__ == "__main__":
    main()
