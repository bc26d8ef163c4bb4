"""BatchNorm's moving statistics, measured anew where they lag behind the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend
from zoo.plugin import Phase
from zoo.reporter import Reporter
from zoo.train.batches import PhaseInputs, make_batches
from zoo.train.fitting import BestWeights, regularization_loss
from zoo.train.inputs import TrainingData

if TYPE_CHECKING:
    import keras

LAG_PICTURES = 512
LAG_ALLOWED = 0.10
INITIAL_ALLOWED = 0.01


class BatchNormRecalibration:
    """Makes sure that BatchNorm's moving statistics are those of the training pictures.

    They lag behind the weights where the steps were so few that much of the initial values is left, or where training
    pictures score far lower with them than in training mode, which uses each batch's own. They are then measured anew,
    as the mean over training batches (Wu and Johnson 2021, https://arxiv.org/abs/2105.07576, "precise BatchNorm"), and
    kept in the first case, and in the second if validation loss or training accuracy is better with them.
    """

    def __init__(
        self,
        inputs: PhaseInputs,
        network: keras.Model,
        pictures: TrainingData,
        batching: dict[str, Any],
        seed: int,
        reporter: Reporter,
    ):
        self._trained_part, self._network, self._reporter = inputs.trained_part, network, reporter
        # Shuffled, for training rows stand class by class; whole batches, for each counts alike.
        rows = np.random.default_rng(seed).permutation(pictures.train)[:LAG_PICTURES]
        rows = rows[: len(rows) // batching["batch_size"] * batching["batch_size"] or len(rows)]
        self._sample_rows, self._feed, self._pictures, self._batching = rows, inputs, pictures, batching

    def recalibrate(self, steps: int, history: list[dict[str, Any]], best: BestWeights, phase: Phase) -> list[str]:
        """Settle them after a phase whose best epoch ended after `steps` steps; return a warning if they lag still."""
        keras = backend.start()
        trained_part = self._trained_part
        moving = [x for x in trained_part.layers if isinstance(x, keras.layers.BatchNormalization) and x.trainable]
        if not moving:
            return []
        sample = make_batches(self._feed.validation, self._sample_rows, **self._batching)
        trained = history[best.epoch - 1]["accuracy"]

        def accuracy() -> float:
            return trained_part.evaluate(sample, verbose=0, return_dict=True)["accuracy"]

        momenta = [layer.momentum for layer in moving]
        seen = accuracy()
        unsettled = any(momentum**steps > INITIAL_ALLOWED for momentum in momenta)
        if seen >= trained - LAG_ALLOWED and not unsettled:
            return []
        for index in range(len(sample)):
            for layer in moving:
                layer.momentum = index / (index + 1)
            given = sample[index][0]
            inputs = [
                keras.ops.convert_to_tensor(x, "float32") for x in (given if isinstance(given, tuple) else [given])
            ]
            trained_part(inputs if isinstance(given, tuple) else inputs[0], training=True)
        for layer, momentum in zip(moving, momenta, strict=True):
            layer.momentum = momentum
        validation = make_batches(self._feed.validation, self._pictures.val, **self._batching)
        loss = trained_part.evaluate(validation, verbose=0, return_dict=True)["loss"] - regularization_loss(
            trained_part
        )
        settled = accuracy()
        # Statistics near their initial values give about the same answer for every picture: little loss, no network.
        if unsettled or loss < best.loss or settled > seen:
            self._reporter.say(
                f"  BatchNorm statistics lagged behind the weights (training pictures: {seen:.3f}, in training mode "
                f"{trained:.3f}); measured anew: {settled:.3f}, val loss {loss:.4f}"
            )
            best.loss, best.weights, seen = loss, self._network.get_weights(), settled
        self._network.set_weights(best.weights)
        if seen >= trained - LAG_ALLOWED:
            return []
        warning = (
            f"phase {phase.name!r}: BatchNorm statistics lag behind the weights. Training pictures score {seen:.3f} "
            f"with them and {trained:.3f} in training mode. Train longer, or lower the phase's batch_norm_momentum"
            f"{' or --ema' if phase.ema is not None else ''}."
        )
        self._reporter.warn(warning)
        return [warning]
