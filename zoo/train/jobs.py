"""Lets several processes train a network together: process 0 says what is trained, and all others take part.

Process 0 alone decides: it splits the pictures, solves heads, compares phases, and reads and writes safe points. Each
time it trains, it sends the phases, the settings, the pictures' indices and all weights as a job. All others wait for
jobs. So a decision that rounding could turn is taken once, and nothing but training must be equal everywhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import hosts
from zoo.errors import TrainingError
from zoo.hosts import Abandoned, Team
from zoo.plugin import Head, Phase
from zoo.train.progress import NetworkVariables
from zoo.train.safe_points import Values

if TYPE_CHECKING:
    from zoo.train.engine import TrainConfig
    from zoo.train.epochs import BestWeights
    from zoo.train.inputs import TrainingData
    from zoo.train.network import Network

_JOB = "job"
# Settings that process 0 may change for a part of a run; all others come from the command.
_CHANGING = ("label_smoothing", "balance", "keep_best", "precision", "val_logits", "epochs_before")
# The networks of process 0 in the order in which they were first trained. They are kept, so that no number comes again.
_NUMBERS: dict[Network, int] = {}


@dataclass(frozen=True)
class Job:
    """What process 0 trains, as another process hears it.

    Args:
        network: A number of the network, which is equal in trainings that begin with the same one.
        head: The head of the network; None for the one of the run.
        phases: The phases in order.
        config: The settings.
        train: Indices of the training pictures, int64.
        val: Indices of the validation pictures, int64.
    """

    network: int
    head: Head | None
    phases: tuple[Phase, ...]
    config: TrainConfig
    train: np.ndarray
    val: np.ndarray


@contextlib.contextmanager
def announced(network: Network, phases: Sequence[Phase], data: TrainingData, config: TrainConfig) -> Iterator[None]:
    """In process 0: let all others take part in a training inside this context. Elsewhere, nothing happens.

    Args:
        network: The network with all stages.
        phases: The phases in order.
        data: The pictures to train on and to validate with.
        config: The settings.
    """
    team = hosts.current()
    if team is None or not team.leads:
        yield
        return
    facts: dict[str, Any] = {
        "network": _NUMBERS.setdefault(network, len(_NUMBERS)),
        "head": None if network.head is None else dataclasses.asdict(network.head),
        "phases": [dataclasses.asdict(phase) for phase in phases],
        "config": {key: getattr(config, key) for key in _CHANGING},
        "features": None if config.features is None else {"always": config.features.always},
    }
    team.share(_JOB, facts, {"train": data.train, "val": data.val})
    try:
        yield
    except TrainingError:
        # The run may go on without this training.
        team.abandon()
        raise


def serve(config: TrainConfig, train: Callable[[Job], None]) -> None:
    """In another process than 0: take part in all trainings of process 0, until it says that there are no more.

    Args:
        config: The settings of this process.
        train: Takes part in a training.

    Raises:
        HostsError: Another process has ended.
    """
    team = hosts.current()
    while team is not None:
        try:
            message = team.share(_JOB)
            if message.facts is None:
                return
            train(_job(message.facts, message.arrays, config))
        except (Abandoned, TrainingError):
            # Process 0 has the same error, and decides what follows.
            continue


def dismiss() -> None:
    """In process 0: say that there are no more jobs."""
    team = hosts.current()
    if team is not None:
        team.share(_JOB, None)


def _job(facts: Any, arrays: Any, config: TrainConfig) -> Job:
    features = config.features
    if features is not None and facts["features"] is not None:
        features = dataclasses.replace(features, **facts["features"])
    head = facts["head"] and Head(**{key: _fixed(value) for key, value in facts["head"].items()})
    changed = dataclasses.replace(config, **facts["config"], features=features if facts["features"] else None)
    phases = tuple(Phase(**{key: _fixed(value) for key, value in each.items()}) for each in facts["phases"])
    return Job(facts["network"], head, phases, changed, arrays["train"], arrays["val"])


def _fixed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def same_start(variables: NetworkVariables, values: Values | None) -> Values | None:
    """Give all processes the variables of process 0, and return its safe point.

    Args:
        variables: The variables of all networks of the training.
        values: The safe point of process 0, or None. Other processes have none.
    """
    team = _several()
    if team is None:
        return values
    message = team.share("start", None, variables.everything() if team.leads else None)
    if not team.leads:
        variables.assign_all(message.arrays)
    facts, arrays = (None, None) if values is None else (values.facts, values.arrays)
    message = team.share("safe point", facts, arrays)
    if message.facts is None:
        return None
    # Process 0 has checked that the safe point belongs to the network.
    return Values({**message.facts, "layout": variables.layout}, message.arrays)


def same_end(variables: NetworkVariables, network: Network, best: BestWeights, history: list[dict[str, Any]]) -> None:
    """Give all processes what process 0 has after a phase: the variables, the best epoch and the history.

    Args:
        variables: The variables of all networks of the training.
        network: The network of the phase. It has the best weights.
        best: Holds the best weights so far.
        history: The rows of all epochs.
    """
    team = _several()
    if team is None:
        return
    facts = {"loss": best.loss, "epoch": best.epoch, "history": history}
    message = team.share("end of phase", facts, variables.everything() if team.leads else None)
    if not team.leads:
        variables.assign_all(message.arrays)
        history[:] = message.facts["history"]
        best.loss, best.epoch = message.facts["loss"], message.facts["epoch"]
        best.weights = network.logits_model.get_weights()


def _several() -> Team | None:
    team = hosts.current()
    return team if team is not None and team.count > 1 else None
