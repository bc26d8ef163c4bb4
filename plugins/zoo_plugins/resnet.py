"""Provides ResNet and ResNetV2: residual networks of 50, 101 and 152 layers.

ResNet applies normalization and activation after each convolution, ResNetV2 before it.

Sources: He et al. 2015, https://arxiv.org/abs/1512.03385, and 2016, https://arxiv.org/abs/1603.05027. The layers come
from keras.applications. Digests and reported accuracies are those that Keras publishes
(https://keras.io/api/applications/).
"""

from __future__ import annotations

from zoo.plugin import KerasApplication, Stage, hookimpl, imagenet_weights, keras_architecture

PAPER, PAPER_V2 = "https://arxiv.org/abs/1512.03385", "https://arxiv.org/abs/1603.05027"
BASE_URL = "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"

# name: (name in Keras, parameters without top, top-1, top-5)
NETWORKS = {
    "resnet50": ("ResNet50", 23_587_712, 0.749, 0.921),
    "resnet101": ("ResNet101", 42_658_176, 0.764, 0.928),
    "resnet152": ("ResNet152", 58_370_944, 0.766, 0.931),
    "resnet50v2": ("ResNet50V2", 23_564_800, 0.760, 0.930),
    "resnet101v2": ("ResNet101V2", 42_626_560, 0.772, 0.938),
    "resnet152v2": ("ResNet152V2", 58_331_648, 0.780, 0.942),
}

# name: md5 without and with top
HASHES = {
    "resnet50": ("md5:4d473c1dd8becc155b73f8504c6f6626", "md5:2cb95161c43110f7111970584f804107"),
    "resnet101": ("md5:88cf7a10940856eca736dc7b7e228a21", "md5:f1aeb4b969a6efcfb50fad2f0c20cfc5"),
    "resnet152": ("md5:ee4c566cf9a93f14d82f913c2dc6dd0c", "md5:100835be76be38e30d865e96f2aaae62"),
    "resnet50v2": ("md5:fac2f116257151a9d068a22e544a4917", "md5:3ef43a0b657b3be2300d5770ece849e0"),
    "resnet101v2": ("md5:c0ed64b8031c3730f411d2eb4eea35b5", "md5:6343647c601c52e1368623803854d971"),
    "resnet152v2": ("md5:ed17cf2e0169df9d443503ef94b23b33", "md5:a49b44d1979771252814e80f8ec446f9"),
}

# name: length in bytes without and with top, where known
LENGTHS = {
    "resnet50": (94_765_736, 102_967_424),
    "resnet101": (171_446_536, None),
    "resnet152": (234_698_864, None),
    "resnet50v2": (94_668_760, None),
    "resnet101v2": (171_317_808, None),
    "resnet152v2": (234_545_216, None),
}


def _stages(name: str) -> tuple[Stage, ...]:
    # In version 2, a BatchNorm layer follows the last block.
    last = ("conv5_*", "post_*") if name.endswith("v2") else ("conv5_*",)
    return (*(Stage(f"conv{i}", (f"conv{i}_*",)) for i in range(1, 5)), Stage("conv5", last))


@hookimpl
def zoo_architectures():
    for name, (keras_name, parameters, _, _) in NETWORKS.items():
        second = name.endswith("v2")
        layers = name.removeprefix("resnet").removesuffix("v2")
        trait = " with pre-activation; a solid all-rounder" if second else "; the reference all-rounder"
        yield keras_architecture(
            KerasApplication(keras_name, "tf" if second else "caffe"),
            name,
            summary=f"residual network of {layers} layers{trait}",
            parameters=parameters,
            stages=_stages(name),
            source=PAPER_V2 if second else PAPER,
        )


@hookimpl
def zoo_weights():
    for name, (_, _, top1, top5) in NETWORKS.items():
        second = name.endswith("v2")
        stem = f"{name}_weights_tf_dim_ordering_tf_kernels"
        yield from imagenet_weights(
            name,
            BASE_URL,
            (f"{stem}_notop.h5", f"{stem}.h5"),
            size=224,
            hashes=HASHES[name],
            lengths=LENGTHS[name],
            # Version 1 was converted from the authors' Caffe files. Version 2 comes from TensorFlow's, hence -1..1.
            licence="Apache-2.0" if second else "MIT",
            source="https://github.com/tensorflow/models/blob/master/research/slim/nets/resnet_v2.py"
            if second
            else "https://github.com/KaimingHe/deep-residual-networks",
            paper=PAPER_V2 if second else PAPER,
            top1=top1,
            top5=top5,
        )
