"""Provides Xception: separable convolutions with residual connections.

Source: Chollet 2017, https://arxiv.org/abs/1610.02357. The layers come from keras.applications. Digests and reported
accuracies are those that Keras publishes (https://keras.io/api/applications/).
"""

from __future__ import annotations

from zoo.plugin import KerasApplication, Stage, hookimpl, imagenet_weights, keras_architecture

PAPER = "https://arxiv.org/abs/1610.02357"
BASE_URL = "https://storage.googleapis.com/tensorflow/keras-applications/xception/"
HASHES = ("md5:b0042744bf5b25fce3cb969f33bebb97", "md5:0a58e3b7378bc2990ea3b43d5981f1f6")
LENGTHS = (83_683_744, 91_884_032)

# Keras numbers the convolutions on the residual connections instead of naming them. Block: suffix of its number.
RESIDUAL = {2: "", 3: "_1", 4: "_2", 13: "_3"}


def _stage(block: int) -> Stage:
    layers = [f"block{block}_*"]
    if block in RESIDUAL:
        layers += [f"conv2d{RESIDUAL[block]}", f"batch_normalization{RESIDUAL[block]}"]
    return Stage(f"block{block}", tuple(layers))


@hookimpl
def zoo_architectures():
    yield keras_architecture(
        KerasApplication("Xception", "tf"),
        "xception",
        summary="separable convolutions in 14 blocks; accurate, for powerful devices",
        parameters=20_861_480,
        stages=(_stage(block) for block in range(1, 15)),
        source=PAPER,
        size=299,
        min_size=71,
    )


@hookimpl
def zoo_weights():
    stem = "xception_weights_tf_dim_ordering_tf_kernels"
    return imagenet_weights(
        "xception",
        BASE_URL,
        (f"{stem}_notop.h5", f"{stem}.h5"),
        size=299,
        hashes=HASHES,
        lengths=LENGTHS,
        licence="MIT",
        source="https://github.com/fchollet/deep-learning-models",
        paper=PAPER,
        top1=0.790,
        top5=0.945,
    )
