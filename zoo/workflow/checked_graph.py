"""Makes the graph of a trained network and checks it: the graph must compute what the network computes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from zoo import backend
from zoo.reporter import Reporter
from zoo.workflow import solved
from zoo.workflow.solved import SolvedNetwork
from zoo_runtime import ModelInfo

if TYPE_CHECKING:
    import keras
    import onnx


def convert_and_check(
    model: keras.Model,
    info: ModelInfo,
    pixels: np.ndarray,
    reporter: Reporter,
    *,
    allow_constant: bool = False,
    features: keras.KerasTensor | None = None,
) -> tuple[onnx.ModelProto, ModelInfo]:
    """Convert a network to an ONNX graph, and check its parity with the network on pictures.

    Args:
        model: A network with the layers `logits` and `probabilities`.
        info: The metadata for the exported file, without parity figures and self-test.
        pixels: Decoded pictures, a uint8 array (N, H, W, C) in 0..255.
        reporter: Receives a message with the parity figures.
        allow_constant: True accepts a network that computes the same for every picture.
        features: Pooled features of the network, which the graph then has as a third output; None leaves them out.

    Returns:
        The graph with the outputs `probabilities` and `logits`, and the metadata with parity figures.

    Raises:
        ConversionFailed: The network cannot be converted, or onnxruntime cannot run the graph.
        ParityFailed: The graph does not compute the same values as the network.
        ConstantOutput: The network computes the same for every picture, and `allow_constant` is False.
    """
    from zoo.convert.keras_to_onnx import convert
    from zoo.export import parity

    with reporter.timing.measure("converting"):
        graph = convert(model, features)
    with reporter.timing.measure("checking parity"), backend.full_float32():
        multilabel = info.task == "multilabel"
        figures = parity.check(model, graph, pixels, multilabel=multilabel, allow_constant=allow_constant)
    reporter.say(
        f"Parity with Keras on {figures['pictures']} pictures: logits differ by at most "
        f"{figures['logits_difference']:.1e} of the largest logit (allowed {figures['tolerance']:g}), probabilities by "
        f"{figures['probabilities_difference']:.1e}"
    )
    return graph, dataclasses.replace(info, parity=figures)


def join_and_check(
    network: SolvedNetwork, info: ModelInfo, pixels: np.ndarray, reporter: Reporter, *, allow_constant: bool
) -> tuple[onnx.ModelProto, ModelInfo]:
    """Put a solved head on its converted backbone, and check the graph.

    The arguments and results are like those of `convert_and_check`. `zoo.workflow.solved.check` says with what the
    graph is compared.
    """
    with reporter.timing.measure("joining backbone and head"):
        graph = network.graph()
    with reporter.timing.measure("checking parity"):
        figures = solved.check(network, graph, pixels, allow_constant=allow_constant)
    reporter.say(
        f"Parity on {figures['pictures']} pictures with the features of the backbone and the head in 64 bits: logits "
        f"differ by at most {figures['logits_difference']:.1e} of the largest logit (allowed "
        f"{figures['tolerance']:g}). On {figures['drawn_pictures']} drawn pictures, with features that Keras computed: "
        f"{figures['drawn_logits_difference']:.1e}"
    )
    return graph, dataclasses.replace(info, parity=figures)
