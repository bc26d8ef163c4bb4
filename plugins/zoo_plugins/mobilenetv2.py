"""Provides MobileNetV2 in six widths: inverted residuals with linear bottlenecks.

Source: Sandler et al. 2018, https://arxiv.org/abs/1801.04381. The layers come from keras.applications. The accuracies
are those reported with the checkpoints (tensorflow/models, research/slim/nets/mobilenet). Weights are published for
22 combinations of width and resolution.
"""

from __future__ import annotations

from zoo.plugin import KerasApplication, Stage, hookimpl, imagenet_weights, keras_architecture

PAPER = "https://arxiv.org/abs/1801.04381"
BASE_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"

# name: (width multiplier, parameters without top)
WIDTHS = {
    "mobilenetv2": (1.0, 2_257_984),
    "mobilenetv2_035": (0.35, 410_208),
    "mobilenetv2_050": (0.5, 706_224),
    "mobilenetv2_075": (0.75, 1_382_064),
    "mobilenetv2_130": (1.3, 3_766_048),
    "mobilenetv2_140": (1.4, 4_363_712),
}

# width multiplier: {resolution in pixels: (top-1, top-5)}
REPORTED = {
    1.0: {224: (0.718, 0.910), 192: (0.707, 0.901), 160: (0.688, 0.890), 128: (0.653, 0.869), 96: (0.603, 0.832)},
    0.35: {224: (0.603, 0.829), 192: (0.582, 0.812), 160: (0.557, 0.791), 128: (0.508, 0.750), 96: (0.455, 0.704)},
    0.5: {224: (0.654, 0.864), 192: (0.639, 0.854), 160: (0.610, 0.832), 128: (0.577, 0.808), 96: (0.512, 0.758)},
    0.75: {224: (0.698, 0.896), 192: (0.687, 0.889), 160: (0.664, 0.873), 128: (0.632, 0.853), 96: (0.588, 0.816)},
    1.3: {224: (0.744, 0.921)},
    1.4: {224: (0.750, 0.925)},
}

# The paper's sequences (table 2) group blocks of equal output width. The numbers are those of Keras's layer names.
SEQUENCES = {
    "sequence2": range(1, 3),
    "sequence3": range(3, 6),
    "sequence4": range(6, 10),
    "sequence5": range(10, 13),
    "sequence6": range(13, 16),
    "sequence7": range(16, 17),
}

STAGES = (
    Stage("stem", ("Conv1", "bn_Conv1")),
    Stage("sequence1", ("expanded_conv_*",)),
    *(Stage(name, tuple(f"block_{block}_*" for block in blocks)) for name, blocks in SEQUENCES.items()),
    Stage("top", ("Conv_1", "Conv_1_bn")),
)


@hookimpl
def zoo_architectures():
    for name, (width, parameters) in WIDTHS.items():
        yield keras_architecture(
            KerasApplication("MobileNetV2", "tf", {"alpha": width}),
            name,
            summary=f"inverted residuals, width {width:g}; small and fast on phones and single-board computers",
            parameters=parameters,
            stages=STAGES,
            source=PAPER,
            learning_rate=3e-3,
        )


@hookimpl
def zoo_weights():
    # Keras publishes no digests of these files. A name without a size means the first entry, so 224 comes first.
    for name, (width, _) in WIDTHS.items():
        for resolution, (top1, top5) in REPORTED[width].items():
            stem = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{width}_{resolution}"
            yield from imagenet_weights(
                name,
                BASE_URL,
                (f"{stem}_no_top.h5", f"{stem}.h5"),
                size=resolution,
                lengths=(9_406_464 if (width, resolution) == (1.0, 224) else None, None),
                licence="Apache-2.0",
                source="https://github.com/tensorflow/models/tree/master/research/slim/nets/mobilenet",
                paper=PAPER,
                top1=top1,
                top5=top5,
            )
