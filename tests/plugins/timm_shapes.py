"""The names and shapes of the tensors in files of timm, for networks that Keras builds."""

from __future__ import annotations

from timm_files import convolution


def norm(name, channels):
    """The tensors of a BatchNorm."""
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def layer_norm(name, channels):
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def biased(name, *shape):
    """The tensors of a convolution or a dense layer with a bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def densenet121():
    shapes = convolution("features.conv0", "features.norm0", 64, 3, 7)
    channels = 64
    for block, count in enumerate((6, 12, 24, 16), start=1):
        for layer in (f"features.denseblock{block}.denselayer{i}" for i in range(1, count + 1)):
            shapes |= norm(f"{layer}.norm1", channels)
            shapes |= convolution(f"{layer}.conv1", f"{layer}.norm2", 128, channels, 1)
            shapes |= {f"{layer}.conv2.weight": (32, 128, 3, 3)}
            channels += 32
        if block < 4:
            shapes |= norm(f"features.transition{block}.norm", channels)
            shapes |= {f"features.transition{block}.conv.weight": (channels // 2, channels, 1, 1)}
            channels //= 2
    return {**shapes, **norm("features.norm5", channels), **biased("classifier", 1000, channels)}


def resnext50():
    shapes = convolution("conv1", "bn1", 64, 3, 7)
    inputs = 64
    for layer, (width, count) in enumerate(zip((128, 256, 512, 1024), (3, 4, 6, 3), strict=True), start=1):
        for block in range(count):
            own = f"layer{layer}.{block}"
            shapes |= convolution(f"{own}.conv1", f"{own}.bn1", width, inputs, 1)
            shapes |= convolution(f"{own}.conv2", f"{own}.bn2", width, width // 32, 3)
            shapes |= convolution(f"{own}.conv3", f"{own}.bn3", 2 * width, width, 1)
            if block == 0:
                shapes |= convolution(f"{own}.downsample.0", f"{own}.downsample.1", 2 * width, inputs, 1)
            inputs = 2 * width
    return {**shapes, **biased("fc", 1000, inputs)}


def convnext_tiny():
    widths = (96, 192, 384, 768)
    shapes = {**biased("stem.0", 96, 3, 4, 4), **layer_norm("stem.1", 96)}
    for stage, (width, count) in enumerate(zip(widths, (3, 3, 9, 3), strict=True)):
        if stage:
            before = widths[stage - 1]
            shapes |= layer_norm(f"stages.{stage}.downsample.0", before)
            shapes |= biased(f"stages.{stage}.downsample.1", width, before, 2, 2)
        for block in (f"stages.{stage}.blocks.{i}" for i in range(count)):
            shapes |= {f"{block}.gamma": (width,), **biased(f"{block}.conv_dw", width, 1, 7, 7)}
            shapes |= layer_norm(f"{block}.norm", width)
            shapes |= biased(f"{block}.mlp.fc1", 4 * width, width)
            shapes |= biased(f"{block}.mlp.fc2", width, 4 * width)
    return {**shapes, **layer_norm("head.norm", widths[-1]), **biased("head.fc", 1000, widths[-1])}


def inverted(block, inputs, expanded, outputs, kernel, squeezed):
    """The tensors of an inverted bottleneck with squeeze-and-excite, which expands unless it has as many channels."""
    expands = expanded != inputs
    shapes = convolution(f"{block}.conv_pw", f"{block}.bn1", expanded, inputs, 1) if expands else {}
    shapes |= convolution(f"{block}.conv_dw", f"{block}.bn{1 + expands}", expanded, 1, kernel)
    shapes |= biased(f"{block}.se.conv_reduce", squeezed, expanded, 1, 1)
    shapes |= biased(f"{block}.se.conv_expand", expanded, squeezed, 1, 1)
    last = f"{block}.conv_pw{'l' * expands}"
    return shapes | convolution(last, f"{block}.bn{2 + expands}", outputs, expanded, 1)


def efficientnet_ends(stem, last, top):
    """The tensors before and after the blocks."""
    first, head = convolution("conv_stem", "bn1", stem, 3, 3), convolution("conv_head", "bn2", top, last, 1)
    return {**first, **head, **biased("classifier", 1000, top)}


def efficientnet_b0():
    """Table 1 of the paper: expansion, output channels, blocks and side of the kernel of each stage."""
    shapes, inputs = efficientnet_ends(32, 320, 1280), 32
    rows = [(1, 16, 1, 3), (6, 24, 2, 3), (6, 40, 2, 5), (6, 80, 3, 3), (6, 112, 3, 5), (6, 192, 4, 5), (6, 320, 1, 3)]
    for stage, (expansion, outputs, count, kernel) in enumerate(rows):
        for block in (f"blocks.{stage}.{i}" for i in range(count)):
            shapes |= inverted(block, inputs, expansion * inputs, outputs, kernel, inputs // 4)
            inputs = outputs
    return shapes


def efficientnetv2_s():
    """Table 4 of the paper: expansion, output channels and blocks of each stage. The first three are fused."""
    shapes, inputs = efficientnet_ends(24, 256, 1280), 24
    rows = [(1, 24, 2), (4, 48, 4), (4, 64, 4), (4, 128, 6), (6, 160, 9), (6, 256, 15)]
    for stage, (expansion, outputs, count) in enumerate(rows):
        for block in (f"blocks.{stage}.{i}" for i in range(count)):
            expanded = expansion * inputs
            if stage == 0:
                shapes |= convolution(f"{block}.conv", f"{block}.bn1", outputs, inputs, 3)
            elif stage < 3:
                shapes |= convolution(f"{block}.conv_exp", f"{block}.bn1", expanded, inputs, 3)
                shapes |= convolution(f"{block}.conv_pwl", f"{block}.bn2", outputs, expanded, 1)
            else:
                shapes |= inverted(block, inputs, expanded, outputs, 3, inputs // 4)
            inputs = outputs
    return shapes
