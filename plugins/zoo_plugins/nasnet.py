"""Provides NASNet-A, mobile and large: networks of cells that were found by architecture search.

Source: Zoph et al. 2017, https://arxiv.org/abs/1707.07012. The layers come from keras.applications. Digests and
reported accuracies are those that Keras publishes (https://keras.io/api/applications/).
"""

from __future__ import annotations

from zoo.plugin import KerasApplication, Stage, hookimpl, imagenet_weights, keras_architecture

PAPER = "https://arxiv.org/abs/1707.07012"
BASE_URL = "https://storage.googleapis.com/tensorflow/keras-applications/nasnet/"

# name: (name in Keras, size in pixels, normal cells of each block, parameters without top, top-1, top-5)
NETWORKS = {
    "nasnet_mobile": ("NASNetMobile", 224, 4, 4_269_716, 0.744, 0.919),
    "nasnet_large": ("NASNetLarge", 331, 6, 84_916_818, 0.825, 0.960),
}

# name: md5 without and with top
HASHES = {
    "nasnet_mobile": ("md5:1ed92395b5b598bdda52abe5c0dbfd63", "md5:020fb642bf7360b370c678b08e0adf61"),
    "nasnet_large": ("md5:d81d89dc07e6e56530c4e77faddd61b5", "md5:11577c9a518f0070763c2b964a382f17"),
}

# name: length in bytes without top
LENGTHS = {"nasnet_mobile": 19_993_432, "nasnet_large": 343_610_240}


def _cell(number: int, first: bool) -> tuple[str, ...]:
    """Return the names or patterns of the layers of a normal cell.

    Args:
        number: The number of the cell in Keras's layer names.
        first: Whether the cell is the first one of its block. It then has two convolutions that resize the output of an
            earlier cell. The other cells have one.
    """
    adjust = (f"adjust_conv_1_{number}", f"adjust_conv_2_{number}") if first else (f"adjust_conv_projection_{number}",)
    return (
        *adjust,
        f"adjust_bn_{number}",
        f"normal_conv_1_{number}",
        f"normal_bn_1_{number}",
        f"separable_conv_*_normal_*_{number}",
    )


def _stages(cells: int) -> tuple[Stage, ...]:
    """Return the stages: the stem and three blocks. The second and the third block start with a reduction cell.

    Args:
        cells: The number of normal cells of each block.
    """
    stages = [Stage("stem", ("stem_conv1", "stem_bn1", "*_stem_1", "*_stem_2"))]
    for block in range(3):
        numbers = range(cells) if not block else range(block * cells + 1, (block + 1) * cells + 1)
        layers = [layer for i, number in enumerate(numbers) for layer in _cell(number, first=i == 0)]
        if block:
            layers.insert(0, f"*_reduce_{block * cells}")
        stages.append(Stage(f"block{block + 1}", tuple(layers)))
    return tuple(stages)


@hookimpl
def zoo_architectures():
    for name, (keras_name, size, cells, parameters, _, _) in NETWORKS.items():
        trait = "many small operations" if size == 224 else "large and accurate"
        yield keras_architecture(
            KerasApplication(keras_name, "tf"),
            name,
            summary=f"{3 * cells} cells found by architecture search; {trait}",
            parameters=parameters,
            stages=_stages(cells),
            source=PAPER,
            size=size,
            # Keras refuses to build NASNet on PyTorch.
            backends=("tensorflow", "jax"),
        )


@hookimpl
def zoo_weights():
    for name, (_, size, _, _, top1, top5) in NETWORKS.items():
        published = name.replace("nasnet_", "NASNet-")
        yield from imagenet_weights(
            name,
            BASE_URL,
            (f"{name}_no_top.h5", f"{name}.h5"),
            published_as=(f"{published}-no-top.h5", f"{published}.h5"),
            size=size,
            hashes=HASHES[name],
            lengths=(LENGTHS[name], None),
            licence="Apache-2.0",
            source="https://github.com/tensorflow/models/tree/master/research/slim/nets/nasnet",
            paper=PAPER,
            top1=top1,
            top5=top5,
        )
