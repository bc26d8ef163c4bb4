"""Trains, or computes features, as users of Keras write it. Other benchmarks start this program and time it.

    python benchmarks/keras_user.py guide FOLDER ARCH WEIGHTS SIZE SEED [EPOCHS,EPOCHS]
    python benchmarks/keras_user.py features FOLDER ARCH WEIGHTS SIZE FILE

`guide` is https://keras.io/guides/transfer_learning/: `image_dataset_from_directory`, flip and rotation layers, and a
backbone called with training=False. It trains the head at 1e-3 for 3 epochs, then the upper part of the backbone at
1e-5 for 2 epochs, in batches of 32. The upper part begins at layer 100 of MobileNetV2's 154, and at the same fraction
of other backbones. Then it evaluates the network on the test pictures, and saves it in the working directory as
guide.keras. FOLDER has train/, test/ and perhaps val/, each with class folders.

`features` writes the pooled features of all pictures in FOLDER, in the order of their names, to FILE. The pictures are
read by `image_dataset_from_directory`, which resizes without antialiasing, and scaled by `preprocess_input`. FILE is an
.npz file with "features", float32 (pictures, features), and "seconds_per_picture".

ARCH is one of `NETWORKS`. WEIGHTS is the file that keras.applications publishes for it, without the top. Each mode
prints one line of JSON at its end.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

# The names of zoo -> (function of keras.applications, module with its preprocess_input, width).
NETWORKS = {
    "mobilenet_025": ("MobileNet", "mobilenet", 0.25),
    "mobilenet_050": ("MobileNet", "mobilenet", 0.5),
    "mobilenet_075": ("MobileNet", "mobilenet", 0.75),
    "mobilenet": ("MobileNet", "mobilenet", 1.0),
    "mobilenetv2_035": ("MobileNetV2", "mobilenet_v2", 0.35),
    "mobilenetv2_050": ("MobileNetV2", "mobilenet_v2", 0.5),
    "mobilenetv2_075": ("MobileNetV2", "mobilenet_v2", 0.75),
    "mobilenetv2": ("MobileNetV2", "mobilenet_v2", 1.0),
}
HEAD_EPOCHS, TOP_EPOCHS = 3, 2
FROZEN_FRACTION = 100 / 154
BATCH = 32


def build_backbone(architecture: str, weights: str, size: int, **options: Any) -> keras.Model:
    """Return the pretrained network of keras.applications, without its top."""
    import keras

    function, _, width = NETWORKS[architecture]
    build = getattr(keras.applications, function)
    return build((size, size, 3), alpha=width, include_top=False, weights=weights, **options)


def build_guide(backbone: keras.Model, size: int, units: int) -> keras.Model:
    """Return the network of the guide: augmentation, scaling, backbone and head.

    Args:
        backbone: The pretrained network.
        size: Height and width of the input in pixels.
        units: The number of logits.
    """
    import keras

    augment = keras.Sequential([keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.1)])
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(augment(inputs))
    x = keras.layers.GlobalAveragePooling2D()(backbone(x, training=False))
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(inputs, keras.layers.Dense(units)(x))


def run_guide(folder: Path, architecture: str, weights: str, size: int, seed: int, epochs: tuple[int, int]) -> None:
    """Train and evaluate by the guide's recipe, and print one line of JSON.

    Args:
        folder: Has train/, test/ and perhaps val/, each with class folders.
        architecture: A key of `NETWORKS`.
        weights: The path of the published file without the top.
        size: Height and width of the input in pixels.
        seed: Decides the initial head, the order of the pictures and their augmentation.
        epochs: Epochs of the head, and of the upper part of the backbone.
    """
    import keras

    keras.utils.set_random_seed(seed)
    binary = sum(path.is_dir() for path in (folder / "train").iterdir()) == 2
    options = {"image_size": (size, size), "batch_size": BATCH, "seed": seed, "verbose": False}
    options["label_mode"] = "binary" if binary else "int"

    def load(part: str) -> Any:
        return keras.utils.image_dataset_from_directory(folder / part, shuffle=part == "train", **options)

    train, test = load("train"), load("test")
    val = load("val") if (folder / "val").is_dir() else None
    base = build_backbone(architecture, weights, size)
    base.trainable = False
    model = build_guide(base, size, 1 if binary else len(train.class_names))

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.started = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            seconds.append(time.perf_counter() - self.started)

    seconds: list[float] = []

    def fit(rate: float, count: int) -> None:
        loss = keras.losses.BinaryCrossentropy if binary else keras.losses.SparseCategoricalCrossentropy
        metric = keras.metrics.BinaryAccuracy(threshold=0.0) if binary else keras.metrics.SparseCategoricalAccuracy()
        model.compile(optimizer=keras.optimizers.Adam(rate), loss=loss(from_logits=True), metrics=[metric])
        model.fit(train, epochs=count, validation_data=val, callbacks=[Clock()], verbose=0)

    fit(1e-3, epochs[0])
    base.trainable = True
    for layer in base.layers[: round(FROZEN_FRACTION * len(base.layers))]:
        layer.trainable = False
    fit(1e-5, epochs[1])
    accuracy = model.evaluate(test, verbose=0)[1]
    model.save("guide.keras")
    print(json.dumps({"accuracy": accuracy, "epochs": seconds}))


def compute_features(folder: Path, architecture: str, weights: str, size: int, file: Path) -> None:
    """Write the pooled features of all pictures in a folder, and the seconds per picture, to an .npz file."""
    import keras

    _, module, _ = NETWORKS[architecture]
    preprocess = getattr(keras.applications, module).preprocess_input
    pictures = keras.utils.image_dataset_from_directory(
        folder, labels=None, shuffle=False, image_size=(size, size), batch_size=BATCH, verbose=False
    )
    model = build_backbone(architecture, weights, size, pooling="avg")
    parts, seconds, started = [], 0.0, time.perf_counter()
    for batch in pictures:
        parts.append(model.predict_on_batch(preprocess(batch)))
        # The first batch is left out, because it includes tracing.
        if len(parts) > 1:
            seconds += time.perf_counter() - started
        started = time.perf_counter()
    features = np.concatenate(parts).astype("float32")
    rate = seconds / (len(features) - len(parts[0])) if len(parts) > 1 else float("nan")
    np.savez(file, features=features, seconds_per_picture=rate)
    print(json.dumps({"pictures": len(features), "seconds_per_picture": rate}))


def main() -> None:
    if len(sys.argv) not in (7, 8) or sys.argv[1] not in ("guide", "features") or sys.argv[3] not in NETWORKS:
        sys.exit(__doc__)
    mode, folder, architecture, weights, size, last, *epochs = sys.argv[1:]
    if mode == "features":
        compute_features(Path(folder), architecture, weights, int(size), Path(last))
        return
    head, top = map(int, epochs[0].split(",")) if epochs else (HEAD_EPOCHS, TOP_EPOCHS)
    run_guide(Path(folder), architecture, weights, int(size), int(last), (head, top))


if __name__ == "__main__":
    main()
