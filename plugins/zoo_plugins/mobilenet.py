"""Provides MobileNet in four widths: depthwise separable convolutions.

Source: Howard et al. 2017, https://arxiv.org/abs/1704.04861. The layers come from keras.applications. The accuracies
are those reported with the checkpoints (tensorflow/models, research/slim/nets/mobilenet_v1.md). Weights are published
for 16 combinations of width and resolution.
"""

from __future__ import annotations

from zoo.plugin import KerasApplication, Stage, hookimpl, imagenet_weights, keras_architecture

PAPER = "https://arxiv.org/abs/1704.04861"
BASE_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet/"

# name: (width multiplier, its form in file names, parameters without top)
WIDTHS = {
    "mobilenet": (1.0, "1_0", 3_228_864),
    "mobilenet_025": (0.25, "2_5", 218_544),
    "mobilenet_050": (0.5, "5_0", 829_536),
    "mobilenet_075": (0.75, "7_5", 1_832_976),
}

# width multiplier: {resolution in pixels: (top-1, top-5)}
REPORTED = {
    1.0: {224: (0.709, 0.899), 192: (0.700, 0.892), 160: (0.680, 0.877), 128: (0.652, 0.858)},
    0.75: {224: (0.684, 0.882), 192: (0.672, 0.873), 160: (0.653, 0.860), 128: (0.621, 0.839)},
    0.5: {224: (0.633, 0.849), 192: (0.617, 0.836), 160: (0.591, 0.819), 128: (0.563, 0.794)},
    0.25: {224: (0.498, 0.742), 192: (0.477, 0.723), 160: (0.455, 0.703), 128: (0.415, 0.663)},
}

STAGES = (
    Stage("stem", ("conv1", "conv1_bn")),
    *(Stage(f"block{i}", (f"conv_dw_{i}", f"conv_dw_{i}_bn", f"conv_pw_{i}", f"conv_pw_{i}_bn")) for i in range(1, 14)),
)


@hookimpl
def zoo_architectures():
    for name, (width, _, parameters) in WIDTHS.items():
        yield keras_architecture(
            KerasApplication("MobileNet", "tf", {"alpha": width}),
            name,
            summary=f"depthwise separable convolutions, width {width:g}; the simplest graph, for small devices",
            parameters=parameters,
            stages=STAGES,
            source=PAPER,
            learning_rate=3e-3,
        )


@hookimpl
def zoo_weights():
    # Keras publishes no digests of these files. A name without a size means the first entry, so 224 comes first.
    for name, (width, written, _) in WIDTHS.items():
        for resolution, (top1, top5) in REPORTED[width].items():
            stem = f"mobilenet_{written}_{resolution}_tf"
            yield from imagenet_weights(
                name,
                BASE_URL,
                (f"{stem}_no_top.h5", f"{stem}.h5"),
                size=resolution,
                lengths=(17_225_924 if (width, resolution) == (1.0, 224) else None, None),
                licence="Apache-2.0",
                source="https://github.com/tensorflow/models/blob/master/research/slim/nets/mobilenet_v1.md",
                paper=PAPER,
                top1=top1,
                top5=top5,
            )
