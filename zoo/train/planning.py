"""Decides how many epochs each phase has and which network it trains, and describes phases for messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zoo.plugin import Head, Phase
from zoo.reporter import counted
from zoo.train import exact, freeze
from zoo.train.inputs import TrainingData
from zoo.train.network import Network, truncate

if TYPE_CHECKING:
    from zoo.train.engine import TrainConfig

# The user is warned if the weights after the first step make up more than this fraction of the averaged weights.
FIRST_STEP = 0.1


def with_enough_steps(phase: Phase, pictures: int, batch_size: int) -> Phase:
    """Return a phase with as many epochs as its `min_steps` needs.

    Args:
        phase: The phase.
        pictures: The number of training pictures.
        batch_size: Pictures per training step.
    """
    if phase.min_steps is None:
        return phase
    steps = max(1, -(-pictures // batch_size))
    return dataclasses.replace(phase, epochs=max(phase.epochs, -(-phase.min_steps // steps)))


def networks_of(whole: Network, phases: Sequence[Phase], head: Head, data: TrainingData) -> list[Network]:
    """Return the network of each phase. Phases of the same depth share one network.

    This also checks which layers each phase trains, so that errors appear before training starts.

    Args:
        whole: The network with all stages.
        phases: The phases in order.
        head: The head of networks with fewer stages than `whole`.
        data: The pictures to train on. Their classes determine the outputs of networks with fewer stages.

    Raises:
        UsageError: A phase asks for more stages than its network has.
        UnknownName: A phase names a layer that its network does not have.
    """
    by_depth: dict[int, Network] = {len(whole.architecture.stages): whole}
    networks = []
    for phase in phases:
        depth = phase.depth or len(whole.architecture.stages)
        if depth not in by_depth:
            by_depth[depth] = truncate(whole, depth, head, data.targets.shape[1], data.task)
        network = by_depth[depth]
        networks.append(network)
        freeze.select(network.architecture, network.backbone, phase.train)
    return networks


def extras_of(phase: Phase, data: TrainingData, config: TrainConfig) -> str:
    """Return the part of a phase's message that describes its optional settings; empty if there are none."""
    extras = []
    if phase.clip_norm is not None:
        extras.append(f"gradients clipped to a norm of {phase.clip_norm:g}")
    if phase.ema is not None:
        use = "validated and kept" if len(data.val) else "kept"
        extras.append(f"weights averaged with momentum {phase.ema:g}; the average is {use}")
    if config.balance:
        extras.append("every class counts alike")
    if config.features is not None and config.features.limit == 0:
        extras.append("all layers run in every step")
    return "".join(f"; {extra}" for extra in extras)


def method_of(phase: Phase, head: Head) -> str:
    """Describe how a phase is trained, for the message that announces it."""
    if phase.optimizer != "exact":
        return f"{counted(phase.epochs, 'epoch')}, {phase.optimizer} at {phase.learning_rate:g} ({phase.lr_schedule})"
    why = exact.obstacle(head)
    rate = f"{phase.learning_rate:g} ({phase.lr_schedule})"
    return f"{counted(phase.epochs, 'epoch')}, adam at {rate}; it is not solved, because {why}" if why else "solved"


def average_warning(phase: Phase, steps: int) -> str:
    """Return a warning if a phase has too few steps for its weight averaging (`ema`), else an empty text.

    Keras starts the average with the weights after the first step. At first, these weights are the whole average. Every
    later step multiplies their share of the average by `ema`. The warning appears if their share is above a tenth at
    the end of the phase. For example, with an `ema` of 0.99, it is 0.99 ** 99 = 37 % after 100 steps.

    Args:
        phase: The phase.
        steps: Training steps per epoch.
    """
    share = phase.ema ** (steps * phase.epochs - 1) if phase.ema is not None else 0.0
    if share <= FIRST_STEP:
        return ""
    return (
        f"phase {phase.name!r} has {steps * phase.epochs} steps: {share:.0%} of weights averaged with momentum "
        f"{phase.ema:g} will be those of its first step. Lower --ema."
    )
