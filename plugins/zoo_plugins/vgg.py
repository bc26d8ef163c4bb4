"""Provides VGG16 and VGG19, the networks of the classic course: stacks of 3x3 convolutions.

Source: Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556. The layers come from keras.applications. Digests
and reported accuracies are those that Keras publishes (https://keras.io/api/applications/).
"""

from __future__ import annotations

from zoo.plugin import Head, KerasApplication, Stage, hookimpl, imagenet_weights, keras_architecture

PAPER = "https://arxiv.org/abs/1409.1556"
BASE_URL = "https://storage.googleapis.com/tensorflow/keras-applications/"

# name: (name in Keras, convolutions of each block, parameters without top, top-1, top-5)
NETWORKS = {
    "vgg16": ("VGG16", (2, 2, 3, 3, 3), 14_714_688, 0.713, 0.901),
    "vgg19": ("VGG19", (2, 2, 4, 4, 4), 20_024_384, 0.713, 0.900),
}

# name: md5 without and with top, length in bytes without and with top
FILES = {
    "vgg16": (
        ("md5:6d6bbae143d832006294945121d1f1fc", "md5:64373286793e3c8b2b4e3219cbf3544b"),
        (58_889_256, 553_467_096),
    ),
    "vgg19": (
        ("md5:253f8cb515780f3b799900260a226db6", "md5:cbe5617147190e668d6c5d5026f83318"),
        (80_134_624, 574_710_816),
    ),
}


@hookimpl
def zoo_architectures():
    for name, (keras_name, convolutions, parameters, _, _) in NETWORKS.items():
        yield keras_architecture(
            KerasApplication(keras_name, "caffe"),
            name,
            summary=f"{sum(convolutions)} convolutions of 3x3, from the classic course; large, and slow on a device",
            parameters=parameters,
            stages=(Stage(f"block{i}", (f"block{i}_*",)) for i in range(1, 6)),
            source=PAPER,
            head=Head(pool="avg", dropout=0.5, hidden=(256,)),
            # The published top flattens the feature map, which fixes its size.
            classifier_size=(224, 224),
            # VGG has no BatchNorm: at 1e-3 the loss on digits never falls below its initial value.
            learning_rate=1e-4,
        )


@hookimpl
def zoo_weights():
    for name, (_, _, _, top1, top5) in NETWORKS.items():
        hashes, lengths = FILES[name]
        stem = f"{name}_weights_tf_dim_ordering_tf_kernels"
        yield from imagenet_weights(
            name,
            f"{BASE_URL}{name}/",
            (f"{stem}_notop.h5", f"{stem}.h5"),
            size=224,
            hashes=hashes,
            lengths=lengths,
            licence="CC-BY-4.0",
            source="https://www.robots.ox.ac.uk/~vgg/research/very_deep/",
            paper=PAPER,
            top1=top1,
            top5=top5,
        )
