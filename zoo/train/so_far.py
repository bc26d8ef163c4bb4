"""Makes the network of an interrupted training, with the best weights so far, without training any further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoo.plugin import Phase
from zoo.train import planning, progress
from zoo.train.engine import TrainConfig
from zoo.train.epochs import BestWeights
from zoo.train.inputs import TrainingData
from zoo.train.network import Network, truncate
from zoo.train.safe_points import TrainingPoints


@dataclass(frozen=True)
class SoFar:
    """What an interrupted training has reached.

    Args:
        network: The network with its best weights. It may have fewer stages than its architecture.
        history: The rows of all epochs; see `zoo.train.engine.TrainResult`.
        phases: The records of the phases, the interrupted one included.
        best_epoch: The number of the epoch whose weights the network has, counted from 1.
    """

    network: Network
    history: list[dict[str, Any]]
    phases: list[dict[str, Any]]
    best_epoch: int


def best_so_far(
    network: Network, phases: Sequence[Phase], data: TrainingData, config: TrainConfig, points: TrainingPoints
) -> SoFar | None:
    """Return the network of an interrupted training with its best weights so far; None if no epoch is finished.

    The arguments are those of `zoo.train.engine.train`.

    Raises:
        RunError: The latest safe point belongs to another network.
    """
    head = config.head or network.architecture.head
    networks = planning.networks_of(network, phases, head, data)
    variables = progress.NetworkVariables([network.model, *(each.model for each in networks)])
    values = points.load()
    if values is None:
        return None
    place, records = progress.read(values)
    reached, best = networks[place.phase], BestWeights(config.keep_best)
    progress.restore(values, best, variables, reached.logits_model)
    if best.weights is None:
        return None
    reached.logits_model.set_weights(best.weights)
    if reached is not network:
        # The layers of an exported network have their usual names.
        depth, classes = len(reached.architecture.stages), data.targets.shape[1]
        renamed = truncate(network, depth, head, classes, data.task, prefix="")
        renamed.model.set_weights(reached.model.get_weights())
        reached = renamed
    return SoFar(reached, records.history, [*records.phases, dict(values.facts["active"])], best.epoch)
