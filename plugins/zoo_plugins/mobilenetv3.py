"""Provides MobileNetV3, large and small: inverted residuals with squeeze-and-excite and hard swish.

The minimalistic networks have neither squeeze-and-excite nor hard swish, and use only 3x3 kernels. This suits
accelerators and int8.

Source: Howard et al. 2019, https://arxiv.org/abs/1905.02244. The layers come from keras.applications, and the digests
are those that Keras publishes. The top-1 accuracies come from the table in keras.applications and from
tensorflow/models, research/slim/nets/mobilenet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.plugin import KerasApplication, Stage, hookimpl, imagenet_weights, keras_architecture, rebuild

if TYPE_CHECKING:
    import keras

PAPER = "https://arxiv.org/abs/1905.02244"
BASE_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v3/"

# name: (name in Keras, width multiplier, minimalistic, parameters without top, top-1)
NETWORKS = {
    "mobilenetv3_small": ("MobileNetV3Small", 1.0, False, 939_120, 0.681),
    "mobilenetv3_small_075": ("MobileNetV3Small", 0.75, False, 583_160, 0.654),
    "mobilenetv3_small_minimalistic": ("MobileNetV3Small", 1.0, True, 441_000, 0.619),
    "mobilenetv3_large": ("MobileNetV3Large", 1.0, False, 2_996_352, 0.756),
    "mobilenetv3_large_075": ("MobileNetV3Large", 0.75, False, 1_808_736, 0.733),
    "mobilenetv3_large_minimalistic": ("MobileNetV3Large", 1.0, True, 1_437_608, 0.723),
}

# name: md5 without and with top
HASHES = {
    "mobilenetv3_small": ("md5:d3e8ec802a04aa4fc771ee12a9a9b836", "md5:8768d4c2e7dee89b9d02b2d03d65d862"),
    "mobilenetv3_small_075": ("md5:ebdb5cc8e0b497cd13a7c275d475c819", "md5:cb65d4e5be93758266aa0a7f2c6708b7"),
    "mobilenetv3_small_minimalistic": ("md5:cde8136e733e811080d9fcd8a252f7e4", "md5:99cd97fb2fcdad2bf028eb838de69e37"),
    "mobilenetv3_large": ("md5:07fb09a5933dd0c8eaafa16978110389", "md5:59e551e166be033d707958cf9e29a6a7"),
    "mobilenetv3_large_075": ("md5:40af19a13ebea4e2ee0c676887f69a2e", "md5:765b44a33ad4005b3ac83185abf1d0eb"),
    "mobilenetv3_large_minimalistic": ("md5:ec5221f64a2f6d1ef965a614bdae7973", "md5:675e7b876c45c57e9e63e6d90a36599c"),
}

# name: length in bytes without top, where known
LENGTHS = {"mobilenetv3_large": 12_683_000, "mobilenetv3_small": 4_334_752}

# Each sequence groups blocks of equal output width, by their numbers in Keras's layer names. Block 0 is a sequence of
# its own.
SEQUENCES = {
    "MobileNetV3Small": (range(1, 3), range(3, 6), range(6, 8), range(8, 11)),
    "MobileNetV3Large": (range(1, 3), range(3, 6), range(6, 10), range(10, 12), range(12, 15)),
}


def _stages(keras_name: str, minimalistic: bool) -> tuple[Stage, ...]:
    first = ["expanded_conv_depthwise*", "expanded_conv_project*"]
    if keras_name == "MobileNetV3Small" and not minimalistic:
        first.append("expanded_conv_squeeze_excite*")
    sequences = SEQUENCES[keras_name]
    return (
        Stage("stem", ("conv", "conv_bn")),
        Stage("sequence1", tuple(first)),
        *(
            Stage(f"sequence{i}", tuple(f"expanded_conv_{block}_*" for block in blocks))
            for i, blocks in enumerate(sequences, start=2)
        ),
        Stage("top", ("conv_1", "conv_1_bn")),
    )


class _Network(KerasApplication):
    def build_classifier(self, input_shape: tuple[int, int, int], classes: int) -> keras.Model:
        """Build the published classifier, which ends in logits; see `zoo.plugin.Architecture.build_classifier`.

        Keras gives the name `logits` to the last convolution. zoo needs this name for another layer, so the convolution
        is renamed to `predictions_conv`.
        """

        def rename(layer):
            if layer.name != "logits":
                return layer
            return layer.__class__.from_config({**layer.get_config(), "name": "predictions_conv"})

        return rebuild(super().build_classifier(input_shape, classes), rename)


@hookimpl
def zoo_architectures():
    for name, (keras_name, width, minimalistic, parameters, _) in NETWORKS.items():
        options = {"alpha": width, "minimalistic": minimalistic, "include_preprocessing": False}
        trait = "3x3 kernels and ReLU only, suited to int8" if minimalistic else "squeeze-and-excite and hard swish"
        yield keras_architecture(
            _Network(keras_name, "tf", options),
            name,
            summary=f"{keras_name[-5:].lower()} version, width {width:g}; {trait}",
            parameters=parameters,
            stages=_stages(keras_name, minimalistic),
            source=PAPER,
            learning_rate=3e-3,
        )


@hookimpl
def zoo_weights():
    for name, (keras_name, width, minimalistic, _, top1) in NETWORKS.items():
        kind = keras_name[-5:].lower() + ("_minimalistic" if minimalistic else "")
        stem = f"weights_mobilenet_v3_{kind}_224_{width}_float"
        yield from imagenet_weights(
            name,
            BASE_URL,
            (f"{stem}_no_top_v2.h5", f"{stem}.h5"),
            size=224,
            hashes=HASHES[name],
            lengths=(LENGTHS.get(name), None),
            licence="Apache-2.0",
            source="https://github.com/tensorflow/models/tree/master/research/slim/nets/mobilenet",
            paper=PAPER,
            top1=top1,
        )
