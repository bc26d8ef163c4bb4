"""Holds a phase that is being trained, with its inputs and batches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.plugin import Phase
from zoo.train import freeze
from zoo.train.batches import PhaseInputs
from zoo.train.network import Network
from zoo.train.progress import Place

if TYPE_CHECKING:
    import keras


@dataclass
class ActivePhase:
    """A phase whose trainable layers are set and whose batches are ready.

    Args:
        index: The index of the phase, counted from 0.
        phase: The phase.
        network: The network of the phase.
        trainable: The layers that the phase trains.
        inputs: The part of the network that the phase trains, and functions that read batches for this part.
        batches: Training batches.
        validation: Validation batches.
        started: The value of `time.perf_counter` at the start of the phase, in seconds. If the phase was interrupted,
            it is as much earlier as the phase took before.
        resumed: Where the phase was interrupted; None if it starts from its beginning.
    """

    index: int
    phase: Phase
    network: Network
    trainable: freeze.TrainableLayers
    inputs: PhaseInputs
    batches: keras.utils.PyDataset
    validation: keras.utils.PyDataset
    started: float
    resumed: Place | None

    def record(self, epochs: int) -> dict[str, Any]:
        """Return the entry of run.json for the phase after a number of epochs."""
        return {
            **self.phase.to_json(),
            "moved_layers": list(self.trainable.layers),
            "moved_parameters": self.trainable.parameters,
            "epochs_run": epochs,
            "seconds": round(time.perf_counter() - self.started, 2),
        }
