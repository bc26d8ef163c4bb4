"""Builds Keras networks for runs: before training, and again from a solved head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo import backend, runs
from zoo.config import ResolvedConfig
from zoo.errors import DuplicateName, UnknownName
from zoo.files import atomic_write
from zoo.plugin import Architecture, Head
from zoo.plugin.registry import Registry
from zoo.pretrained.fetch import WeightsFile
from zoo.reporter import Reporter
from zoo.workflow.missing_plugins import load_kept, refuse

if TYPE_CHECKING:
    import keras

    from zoo.train.network import Network


def build_network(
    resolved: ResolvedConfig, registry: Registry, reporter: Reporter, head: Head | None = None
) -> Network:
    """Import Keras, build the network of a run, and load the weights that training starts from.

    The seed of the run determines all random weights.

    Args:
        resolved: The settings of the run. They include the architecture, the head, the seed and the weights.
        registry: The loaded plugins.
        reporter: Receives progress messages.
        head: Describes the head; None means the head in `resolved`.

    Returns:
        The network with its head, ready for training.

    Raises:
        WeightsIncompatible: The weights do not fit the network.
        InvalidPluginData: The plugin does not build a network as `zoo.plugin.Architecture` requires.
        InstallationError: Keras cannot be imported.
    """
    start_keras(reporter)
    from zoo.train.network import assemble

    architecture, source = resolved.architecture, resolved.source
    with reporter.timing.measure("building the network"):
        backend.start().utils.set_random_seed(resolved.requested.seed)
        backbone = _with_weights(architecture, resolved.spec.size, resolved.weights.file, registry)
        return assemble(backbone, architecture, head or resolved.head, len(source.classes), task=source.task)


def build_pretrained(
    architecture: Architecture,
    size: tuple[int, int],
    weights: WeightsFile | Path,
    registry: Registry,
    reporter: Reporter,
) -> keras.Model:
    """Import Keras, build a backbone, and load pretrained weights.

    Args:
        architecture: The architecture.
        size: (height, width) in pixels.
        weights: The weights.
        registry: The loaded plugins.
        reporter: Receives progress messages.

    Raises:
        ZooError: The same errors as in `build_network`.
    """
    start_keras(reporter)
    with reporter.timing.measure("building the network"):
        return _with_weights(architecture, size, weights, registry)


def start_keras(reporter: Reporter) -> None:
    """Import Keras with its backend, which takes seconds. Only the first call of a process reports it."""
    if not backend.started():
        reporter.say("Starting Keras")
    with reporter.timing.measure("starting Keras"):
        backend.start()


def _with_weights(
    architecture: Architecture, size: tuple[int, int], weights: WeightsFile | Path | None, registry: Registry
) -> keras.Model:
    from zoo.train.network import build_backbone
    from zoo.train.weights_file import load_weights

    backbone = build_backbone(architecture, size)
    if isinstance(weights, WeightsFile):
        load_weights(backbone, weights.path, weights.entry)
    elif weights is not None:
        load_weights(backbone, weights, layouts=registry.weights_of(architecture.name, top=False))
    return backbone


def trained_model(run: runs.Run, record: runs.RunRecord, registry: Registry, reporter: Reporter) -> keras.Model:
    """Return the trained network of a run. If the run has only its solved head, make model.keras first.

    Raises:
        RunError: model.keras or head.npz is damaged, or the pretrained weights are not available.
        InstallationError: Keras cannot be imported.
        WriteError: model.keras cannot be written.
    """
    if run.model.is_file():
        return load_kept(run, record, registry)
    model = model_of_solved(run, record, registry, reporter)
    with atomic_write(run.model) as temporary:
        model.save(temporary)
    return model


def model_of_solved(run: runs.Run, record: runs.RunRecord, registry: Registry, reporter: Reporter) -> keras.Model:
    """Build the Keras network of a run that has only head.npz: the same weights, bit for bit, as if Keras had run.

    Raises:
        RunError: head.npz is damaged, or the pretrained weights are not available.
        PluginMissing: The plugin that provides the architecture is not installed.
        InstallationError: Keras cannot be imported.
    """
    from zoo.train.network import assemble
    from zoo.workflow.solved import read_head, weights_of

    kernel, bias = read_head(run)
    try:
        architecture = registry.architecture(str(record.architecture["name"]))
    except (UnknownName, DuplicateName) as error:
        refuse(run, record, registry, "has only the head of its network, and the layers below it are missing", error)
    height, width = record.image["size"]
    weights = weights_of(run, record, registry, reporter)
    backbone = build_pretrained(architecture, (height, width), weights, registry, reporter)
    head = Head(**(record.head or {}))
    network = assemble(backbone, architecture, head, len(record.classes), task=record.task)
    network.model.get_layer("logits").set_weights([kernel, bias])
    return network.model
