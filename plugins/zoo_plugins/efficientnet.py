"""Provides EfficientNet and EfficientNetV2: inverted residuals with squeeze-and-excite, in several sizes.

The sizes differ in depth, width and resolution.

Sources: Tan and Le 2019, https://arxiv.org/abs/1905.11946, and 2021, https://arxiv.org/abs/2104.00298. The layers come
from keras.applications. Digests and reported accuracies are those that Keras publishes
(https://keras.io/api/applications/).

The networks differ from Keras's graph in two ways, neither of which changes the result:

- `normalize` replaces Keras's preprocessing layers. One of those layers stores ImageNet's means as weights. Another one
  exists only if Keras's argument `weights` is "imagenet".
- The pooling of squeeze-and-excite keeps the pooled dimensions, so that no reshape is needed to restore them. The
  exported graph then has one pooling and two convolutions per squeeze-and-excite.

Better weights than Keras's come from timm (https://huggingface.co/timm), converted from those that the authors trained
on more pictures: the first version as a noisy student (Xie et al. 2019, https://arxiv.org/abs/1911.04252) of JFT-300M,
the second one on ImageNet-21k. Those of tf_efficientnetv2_b3 do not fit: they expect other pixels than Keras's.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.plugin import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    KerasApplication,
    Stage,
    Weights,
    copy_tensors,
    copy_weights,
    hookimpl,
    imagenet_weights,
    keras_architecture,
    read_tensors,
    timm_weights,
)

if TYPE_CHECKING:
    import keras

PAPER, PAPER_V2 = "https://arxiv.org/abs/1905.11946", "https://arxiv.org/abs/2104.00298"
BASE_URL = "https://storage.googleapis.com/keras-applications/"
BASE_URL_V2 = "https://storage.googleapis.com/tensorflow/keras-applications/efficientnet_v2/"

# variant: (size in pixels, parameters without top, top-1, top-5)
NETWORKS = {
    "b0": (224, 4_049_564, 0.771, 0.933),
    "b1": (240, 6_575_232, 0.791, 0.944),
    "b2": (260, 7_768_562, 0.801, 0.949),
    "b3": (300, 10_783_528, 0.816, 0.957),
    "b4": (380, 17_673_816, 0.829, 0.964),
    "b5": (456, 28_513_520, 0.836, 0.967),
    "b6": (528, 40_960_136, 0.840, 0.968),
    "b7": (600, 64_097_680, 0.843, 0.970),
}

# variant: (size in pixels, blocks, parameters without top, top-1, top-5)
NETWORKS_V2 = {
    "b0": (224, 6, 5_919_312, 0.787, 0.943),
    "b1": (240, 6, 6_931_124, 0.798, 0.950),
    "b2": (260, 6, 8_769_374, 0.805, 0.951),
    "b3": (300, 6, 12_930_622, 0.820, 0.958),
    "s": (384, 6, 20_331_360, 0.839, 0.967),
    "m": (480, 7, 53_150_388, 0.853, 0.974),
    "l": (480, 7, 117_746_848, 0.857, 0.975),
}

# variant: md5 without and with top
HASHES = {
    "b0": ("md5:50bc09e76180e00e4465e1a485ddc09d", "md5:902e53a9f72be733fc0bcb005b3ebbac"),
    "b1": ("md5:74c4e6b3e1f6a1eea24c589628592432", "md5:1d254153d4ab51201f1646940f018540"),
    "b2": ("md5:111f8e2ac8aa800a7a99e3239f7bfb39", "md5:b15cce36ff4dcbd00b6dd88e7857a6ad"),
    "b3": ("md5:af6d107764bb5b1abb91932881670226", "md5:ffd1fdc53d0ce67064dc6a9c7960ede0"),
    "b4": ("md5:ebc24e6d6c33eaebbd558eafbeedf1ba", "md5:18c95ad55216b8f92d7e70b3a046e2fc"),
    "b5": ("md5:38879255a25d3c92d5e44e04ae6cec6f", "md5:ace28f2a6363774853a83a0b21b9421a"),
    "b6": ("md5:9ecce42647a20130c1f39a5d4cb75743", "md5:165f6e37dce68623721b423839de8be5"),
    "b7": ("md5:cbcfe4450ddf6f3ad90b1b398090fe4a", "md5:8c03f828fec3ef71311cd463b6759d99"),
}
HASHES_V2 = {
    "b0": ("md5:893217f2bb855e2983157299931e43ff", "md5:21ecbf6da12460d5c40bb2f29ceb2188"),
    "b1": ("md5:0e80663031ca32d657f9caa404b6ec37", "md5:069f0534ff22adf035c89e2d9547a9dc"),
    "b2": ("md5:1dfe2e7a5d45b6632553a8961ea609eb", "md5:424e49f28180edbde1e94797771950a7"),
    "b3": ("md5:f6abf7b5849ac99a89b50dd3fd532856", "md5:1f1fc43bd98a6e4fd8fdfd551e02c7a0"),
    "s": ("md5:af0682fb74e8c54910f2d4393339c070", "md5:e1d88a8495beba45748fedd0cecbe016"),
    "m": ("md5:1b8dc055df72dde80d614482840fe342", "md5:a3bf6aa3276309f4fc6a34aa114c95cd"),
    "l": ("md5:b0b66b5c863aef5b46e8608fe1711615", "md5:27e6d408b53c7ebc868fefa357689935"),
}

# variant: length in bytes without top
LENGTHS = {
    "b0": 16_705_208,
    "b1": 27_018_416,
    "b2": 31_790_344,
    "b3": 43_941_136,
    "b4": 71_686_520,
    "b5": 115_263_384,
    "b6": 165_234_480,
    "b7": 258_076_736,
}
LENGTHS_V2 = {
    "b0": 24_274_472,
    "b1": 28_456_008,
    "b2": 35_839_040,
    "b3": 52_606_240,
    "s": 82_420_632,
    "m": 214_201_816,
    "l": 473_176_280,
}

STUDENT = "https://arxiv.org/abs/1911.04252"
# variant: (crop, top-1, top-5) of timm's tf_efficientnet_VARIANT.ns_jft_in1k, from its results/results-imagenet.csv.
STUDENTS = {
    "b0": (0.875, 0.7867, 0.94374),
    "b1": (0.882, 0.81394, 0.95736),
    "b2": (0.89, 0.82378, 0.96254),
    "b3": (0.904, 0.84056, 0.96918),
    "b4": (0.922, 0.85162, 0.9747),
    "b5": (0.934, 0.86088, 0.97754),
    "b6": (0.942, 0.86456, 0.97884),
    "b7": (0.949, 0.8684, 0.98094),
}
# variant: (top-1, top-5) of timm's tf_efficientnetv2_VARIANT.in21k_ft_in1k, from the same file.
FROM_21K = {"s": (0.84288, 0.97252), "m": (0.86, 0.97946), "l": (0.86802, 0.98136)}
# variant: (commit, file) where a commit is known.
COMMITS = {
    "b2": ("90b07ca77bad354512ba5b225c3704f055318973", "pytorch_model.bin"),
    "s": ("497adf871095dc43180dc61db9d3588b379280e9", "pytorch_model.bin"),
    "m": ("9a2df5ebd3e594d89fd4c635fd6c0db92592a147", "model.safetensors"),
}
UNKNOWN = ("main", "model.safetensors")

# What timm calls the layers of a block, by the kind of the block: inverted bottleneck, the first ones of version 1 that
# do not expand, fused, and fused without expansion.
SQUEEZE = {"se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand"}
PARTS = {
    "conv_pwl": {
        **{"expand_conv": "conv_pw", "expand_bn": "bn1", "dwconv": "conv_dw", "dwconv2": "conv_dw", "bn": "bn2"},
        **{"project_conv": "conv_pwl", "project_bn": "bn3", **SQUEEZE},
    },
    "conv_dw": {"dwconv": "conv_dw", "bn": "bn1", "project_conv": "conv_pw", "project_bn": "bn2", **SQUEEZE},
    "conv_exp": {"expand_conv": "conv_exp", "expand_bn": "bn1", "project_conv": "conv_pwl", "project_bn": "bn2"},
    "conv": {"project_conv": "conv", "project_bn": "bn1"},
}


def change(layer: keras.Layer) -> keras.Layer | None:
    """Replace, remove or keep one layer of Keras's network. `zoo.plugin.rebuild` calls this function for every layer.

    Args:
        layer: A layer of the network that keras.applications builds.

    Returns:
        For the pooling of squeeze-and-excite, a new layer that replaces it. For a preprocessing layer, and for the
        reshape of squeeze-and-excite, None, which removes it. For any other layer, `layer` itself, which stays.
    """
    import keras

    if isinstance(layer, keras.layers.Normalization) or layer.name.startswith("rescaling"):
        return None
    if layer.name.endswith("_se_squeeze"):
        return keras.layers.GlobalAveragePooling2D(keepdims=True, name=layer.name)
    if layer.name.endswith("_se_reshape"):
        return None
    return layer


class _Network(KerasApplication):
    """Builds one network of EfficientNet's first version, such as EfficientNetB0, and loads its published weights.

    The published weights files also contain the weights of Keras's preprocessing layers. zoo's network does not have
    these layers.
    """

    def load(self, model: keras.Model, path: Path) -> None:
        """Load a published weights file.

        The file also contains the weights of Keras's preprocessing layers. They are checked, but not loaded.

        zoo converts every error of a `load` function to WeightsIncompatible before the user sees it.

        Args:
            model: A network from `build` or `build_classifier`. It normalizes pixels with `normalize`, and does not
                have Keras's preprocessing layers.
            path: The .h5 file.

        Raises:
            ValueError: The mean or the standard deviation in the file differs from the value that `normalize` uses.
                Or an array in the file does not fit its layer.
            WeightsIncompatible: The file lacks a layer.
        """
        import keras
        import numpy as np

        layout = self.read(path, model)
        for layer in layout.layers:
            if isinstance(layer, keras.layers.Normalization):
                mean, variance = (np.asarray(array).reshape(-1) for array in layer.get_weights()[:2])
                # Published files contain standard deviations where variances belong. Keras's graph therefore divides
                # by their square roots twice (https://github.com/tensorflow/tensorflow/issues/49930).
                same_mean = np.allclose(mean, IMAGENET_MEAN, atol=1e-3)
                if not (same_mean and np.allclose(variance, IMAGENET_DEVIATION, atol=1e-3)):
                    raise ValueError(
                        f"the file normalizes pixels by mean {mean} and deviation {variance}; "
                        f"expected are ImageNet's {IMAGENET_MEAN} and {IMAGENET_DEVIATION}"
                    )
        copy_weights(layout, model)


def load_timm(model: keras.Model, path: Path) -> None:
    """Load a weights file in the layout of timm.

    Args:
        model: A network from `build` or `build_classifier`.
        path: The safetensors file, or a state dict of PyTorch.

    Raises:
        WeightsIncompatible: A tensor is missing, or has another shape than the layer needs.
    """
    tensors = read_tensors(path)
    copy_tensors(tensors, model, lambda layer: tensor_name(layer, tensors))


def tensor_name(layer: str, tensors: Container[str]) -> str:
    """Return how timm names a layer: "blocks.3.0.conv_pw" for "block4a_expand_conv".

    Args:
        layer: The name of a layer here.
        tensors: The names of the tensors in the file, which tell the kind of the block.
    """
    match = re.fullmatch(r"block(\d)([a-z])_(\w+)", layer)
    if not match:
        single = {"stem_conv": "conv_stem", "stem_bn": "bn1", "top_conv": "conv_head", "top_bn": "bn2"}
        return single.get(layer, "classifier")
    block = f"blocks.{int(match[1]) - 1}.{ord(match[2]) - ord('a')}"
    kinds = ("conv_exp", "conv_pwl", "conv_dw")
    kind = next((kind for kind in kinds if f"{block}.{kind}.weight" in tensors), "conv")
    return f"{block}.{PARTS[kind].get(match[3], match[3])}"


def _stages(blocks: int) -> tuple[Stage, ...]:
    return (
        Stage("stem", ("stem_*",)),
        *(Stage(f"block{i}", (f"block{i}*",)) for i in range(1, blocks + 1)),
        Stage("top", ("top_conv", "top_bn")),
    )


def _version1(variant: str) -> _Network:
    return _Network(f"EfficientNet{variant.upper()}", "torch", change=change)


def _version2(variant: str) -> KerasApplication:
    # This is what Keras's preprocessing layers do: ImageNet's means for B0 to B3, and -1..1 for S, M and L.
    mode = "torch" if variant.startswith("b") else "128"
    return KerasApplication(f"EfficientNetV2{variant.upper()}", mode, {"include_preprocessing": False}, change)


@hookimpl
def zoo_architectures():
    for variant, (size, parameters, _, _) in NETWORKS.items():
        yield keras_architecture(
            _version1(variant),
            f"efficientnet_{variant}",
            summary=f"inverted residuals with squeeze-and-excite, scaled to {size} pixels; learns well in few epochs",
            parameters=parameters,
            stages=_stages(7),
            source=PAPER,
            size=size,
        )
    for variant, (size, blocks, parameters, _, _) in NETWORKS_V2.items():
        yield keras_architecture(
            _version2(variant),
            f"efficientnetv2_{variant}",
            summary=f"inverted residuals, some of them fused, with squeeze-and-excite, scaled to {size} pixels",
            parameters=parameters,
            stages=_stages(blocks),
            source=PAPER_V2,
            size=size,
        )


@hookimpl
def zoo_weights():
    for variant, (size, _, top1, top5) in NETWORKS.items():
        yield from imagenet_weights(
            f"efficientnet_{variant}",
            BASE_URL,
            (f"efficientnet{variant}_notop.h5", f"efficientnet{variant}.h5"),
            size=size,
            hashes=HASHES[variant],
            lengths=(LENGTHS[variant], None),
            load=_version1(variant).load,
            licence="Apache-2.0",
            source="https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet",
            paper=PAPER,
            top1=top1,
            top5=top5,
        )
    for variant, (size, _, _, top1, top5) in NETWORKS_V2.items():
        yield from imagenet_weights(
            f"efficientnetv2_{variant}",
            BASE_URL_V2,
            (f"efficientnetv2-{variant}_notop.h5", f"efficientnetv2-{variant}.h5"),
            size=size,
            hashes=HASHES_V2[variant],
            lengths=(LENGTHS_V2[variant], None),
            licence="Apache-2.0",
            source="https://github.com/google/automl/tree/master/efficientnetv2",
            paper=PAPER_V2,
            top1=top1,
            top5=top5,
        )
    yield from _timm_weights()


def _timm_weights() -> Iterator[Weights]:
    for variant, (crop, top1, top5) in STUDENTS.items():
        revision, file = COMMITS.get(variant, UNKNOWN)
        yield timm_weights(
            f"efficientnet_{variant}",
            f"tf_efficientnet_{variant}.ns_jft_in1k",
            tag="ns_jft_in1k",
            revision=revision,
            file=file,
            size=NETWORKS[variant][0],
            crop=crop,
            load=load_timm,
            licence="Apache-2.0",
            source="Google, a noisy student of JFT-300M",
            paper=STUDENT,
            top1=top1,
            top5=top5,
        )
    for variant, (top1, top5) in FROM_21K.items():
        revision, file = COMMITS.get(variant, UNKNOWN)
        yield timm_weights(
            f"efficientnetv2_{variant}",
            f"tf_efficientnetv2_{variant}.in21k_ft_in1k",
            tag="in21k_ft_in1k",
            revision=revision,
            file=file,
            size=NETWORKS_V2[variant][0],
            crop=1.0,
            load=load_timm,
            licence="Apache-2.0",
            source="Google, pretrained on ImageNet-21k",
            paper=PAPER_V2,
            top1=top1,
            top5=top5,
        )
