"""VGG16 and VGG19: stacks of 3x3 convolutions, the networks of the classic course.

Source: Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556; layers from keras.applications, digests and
reported accuracies as Keras publishes them (https://keras.io/api/applications/).
"""

from __future__ import annotations

from functools import partial

from zoo.plugin import IMAGENET1K, Architecture, Head, Stage, Weights, hookimpl, normalize

PAPER = "https://arxiv.org/abs/1409.1556"
BASE_URL = "https://storage.googleapis.com/tensorflow/keras-applications/"

# name: (convolutions of each block, parameters without top, top-1, top-5)
NETWORKS = {
    "vgg16": ((2, 2, 3, 3, 3), 14_714_688, 0.713, 0.901),
    "vgg19": ((2, 2, 4, 4, 4), 20_024_384, 0.713, 0.900),
}

# (name, with top): md5, length in bytes
FILES = {
    ("vgg16", False): ("6d6bbae143d832006294945121d1f1fc", 58_889_256),
    ("vgg16", True): ("64373286793e3c8b2b4e3219cbf3544b", 553_467_096),
    ("vgg19", False): ("253f8cb515780f3b799900260a226db6", 80_134_624),
    ("vgg19", True): ("cbe5617147190e668d6c5d5026f83318", 574_710_816),
}


def _stages(convolutions: tuple[int, ...]) -> tuple[Stage, ...]:
    return tuple(
        Stage(f"block{block}", (*(f"block{block}_conv{i}" for i in range(1, count + 1)), f"block{block}_pool"))
        for block, count in enumerate(convolutions, start=1)
    )


def _constructor(name: str):
    import keras

    return {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}[name]


def build(input_shape: tuple[int, int, int], *, name: str):
    """Build the backbone; see `zoo.plugin.Architecture.build`."""
    import keras

    pixels = keras.Input(input_shape, name="image")
    return _constructor(name)(input_tensor=normalize(pixels, "caffe"), include_top=False, weights=None)


def build_classifier(input_shape: tuple[int, int, int], classes: int, *, name: str):
    """Build the published classifier, giving logits; see `zoo.plugin.Architecture.build_classifier`."""
    import keras

    pixels = keras.Input(input_shape, name="image")
    return _constructor(name)(
        input_tensor=normalize(pixels, "caffe"),
        include_top=True,
        weights=None,
        classes=classes,
        classifier_activation=None,
    )


@hookimpl
def zoo_architectures():
    return [
        Architecture(
            name=name,
            summary=f"{sum(convolutions)} convolutions of 3x3: the course's network, large and slow on a device",
            build=partial(build, name=name),
            build_classifier=partial(build_classifier, name=name),
            input_size=(224, 224),
            min_size=32,
            parameters=parameters,
            stages=_stages(convolutions),
            head=Head(pool="avg", dropout=0.5, hidden=(256,)),
            # Without BatchNorm: at 1e-3 the loss on digits stays where it begins.
            learning_rate=1e-4,
            source=PAPER,
            licence="Apache-2.0",
        )
        for name, (convolutions, parameters, _, _) in NETWORKS.items()
    ]


@hookimpl
def zoo_weights():
    for name, (_, _, top1, top5) in NETWORKS.items():
        for includes_top in (False, True):
            digest, length = FILES[name, includes_top]
            filename = f"{name}_weights_tf_dim_ordering_tf_kernels{'' if includes_top else '_notop'}.h5"
            yield Weights(
                architecture=name,
                tag="imagenet1k",
                url=f"{BASE_URL}{name}/{filename}",
                filename=filename,
                hash=f"md5:{digest}",
                bytes=length,
                includes_top=includes_top,
                input_size=(224, 224),
                class_index=IMAGENET1K,
                licence="CC-BY-4.0",
                source="https://www.robots.ox.ac.uk/~vgg/research/very_deep/",
                paper=PAPER,
                top1=top1,
                top5=top5,
            )
