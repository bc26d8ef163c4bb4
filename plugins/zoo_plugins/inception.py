"""Provides InceptionV3 and InceptionResNetV2: parallel convolutions of several sizes.

Only InceptionResNetV2 has residual connections.

Sources: Szegedy et al. 2015, https://arxiv.org/abs/1512.00567, and 2016, https://arxiv.org/abs/1602.07261. The layers
come from keras.applications. Digests and reported accuracies are those that Keras publishes
(https://keras.io/api/applications/).
"""

from __future__ import annotations

from zoo.plugin import KerasApplication, Stage, hookimpl, imagenet_weights, keras_architecture

PAPER_V3, PAPER_RESNET = "https://arxiv.org/abs/1512.00567", "https://arxiv.org/abs/1602.07261"
BASE_URL = "https://storage.googleapis.com/tensorflow/keras-applications/"

# Keras numbers most of the convolutions instead of naming them. Stage: first and last number.
V3_NUMBERS = {
    "stem": (0, 4),
    "mixed0": (5, 11),
    "mixed1": (12, 18),
    "mixed2": (19, 25),
    "mixed3": (26, 29),
    "mixed4": (30, 39),
    "mixed5": (40, 49),
    "mixed6": (50, 59),
    "mixed7": (60, 69),
    "mixed8": (70, 75),
    "mixed9": (76, 84),
    "mixed10": (85, 93),
}
RESNET_NUMBERS = {
    "stem": (0, 4),
    "mixed_5b": (5, 11),
    "block35": (12, 71),
    "mixed_6a": (72, 75),
    "block17": (76, 155),
    "mixed_7a": (156, 162),
    "block8": (163, 202),
}


def _numbered(first: int, last: int) -> tuple[str, ...]:
    suffixes = [f"_{i}" if i else "" for i in range(first, last + 1)]
    return tuple(f"{kind}{suffix}" for suffix in suffixes for kind in ("conv2d", "batch_normalization"))


V3_STAGES = tuple(Stage(name, _numbered(*numbers)) for name, numbers in V3_NUMBERS.items())
RESNET_STAGES = (
    *(
        Stage(name, (*_numbered(*numbers), *((f"{name}_*_conv",) if name.startswith("block") else ())))
        for name, numbers in RESNET_NUMBERS.items()
    ),
    Stage("conv_7b", ("conv_7b", "conv_7b_bn")),
)


@hookimpl
def zoo_architectures():
    yield keras_architecture(
        KerasApplication("InceptionV3", "tf"),
        "inceptionv3",
        summary="eleven inception blocks",
        parameters=21_802_784,
        stages=V3_STAGES,
        source=PAPER_V3,
        size=299,
        min_size=75,
    )
    yield keras_architecture(
        KerasApplication("InceptionResNetV2", "tf"),
        "inceptionresnetv2",
        summary="forty inception blocks with residual connections; accurate, for servers",
        parameters=54_336_736,
        stages=RESNET_STAGES,
        source=PAPER_RESNET,
        size=299,
        min_size=75,
    )


@hookimpl
def zoo_weights():
    stem = "inception_v3_weights_tf_dim_ordering_tf_kernels"
    yield from imagenet_weights(
        "inceptionv3",
        f"{BASE_URL}inception_v3/",
        (f"{stem}_notop.h5", f"{stem}.h5"),
        size=299,
        hashes=("md5:bcbd6486424b2319ff4ef7d526e38f63", "md5:9a0d58056eeedaa3f26cb7ebd46da564"),
        lengths=(87_910_968, 96_112_376),
        licence="Apache-2.0",
        source="https://github.com/tensorflow/models/tree/master/research/slim",
        paper=PAPER_V3,
        top1=0.779,
        top5=0.937,
    )
    stem = "inception_resnet_v2_weights_tf_dim_ordering_tf_kernels"
    yield from imagenet_weights(
        "inceptionresnetv2",
        f"{BASE_URL}inception_resnet_v2/",
        (f"{stem}_notop.h5", f"{stem}.h5"),
        size=299,
        hashes=("md5:d19885ff4a710c122648d3b5c3b684e4", "md5:e693bd0210a403b3192acc6073ad2e96"),
        lengths=(219_055_592, None),
        licence="Apache-2.0",
        source="https://github.com/tensorflow/models/tree/master/research/slim",
        paper=PAPER_RESNET,
        top1=0.803,
        top5=0.953,
    )
