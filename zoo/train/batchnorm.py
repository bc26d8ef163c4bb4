"""Recalibrates BatchNorm: measures its running averages of mean and variance again if they do not match the weights.

Source: Wu and Johnson 2021, https://arxiv.org/abs/2105.07576, "precise BatchNorm".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zoo import backend
from zoo.plugin import Phase
from zoo.reporter import Reporter, counted
from zoo.train.batches import Batching, PhaseInputs, make_batches
from zoo.train.epochs import BestWeights, regularization_loss
from zoo.train.inputs import TrainingData

if TYPE_CHECKING:
    import keras

LAG_PICTURES = 512
LAG_ALLOWED = 0.10
INITIAL_ALLOWED = 0.01


class BatchNormRecalibration:
    """Measures the running averages of the BatchNorm layers again if these averages are out of date.

    The averages are out of date in either of two cases:

    - The phase has so few steps up to its best epoch that the values from before the phase still make up more than a
      hundredth of the averages.
    - The accuracy on training pictures with the averages is more than 0.1 below the accuracy in training mode. Training
      mode uses the statistics of each batch instead of the averages.

    In both cases, new averages are measured: the means of the batch statistics over up to 512 training pictures. In the
    first case, the new averages are always kept. In the second case, they are kept if they improve the validation loss,
    or the accuracy on these training pictures.

    Args:
        inputs: The part of the network that the phase trains, and functions that read batches for this part.
        network: The network up to the logits.
        data: The pictures of the run.
        batching: The settings for grouping pictures into batches.
        seed: The seed of the run, which decides the choice of training pictures.
        reporter: Receives progress messages and warnings.
    """

    def __init__(
        self,
        inputs: PhaseInputs,
        network: keras.Model,
        data: TrainingData,
        batching: Batching,
        seed: int,
        reporter: Reporter,
    ):
        self._trained_part, self._network, self._reporter = inputs.trained_part, network, reporter
        # The indices are shuffled because they are sorted by class. An incomplete batch is left out, because all
        # batches have the same weight in the mean.
        rows = np.random.default_rng(seed).permutation(data.train)[:LAG_PICTURES]
        rows = rows[: len(rows) // batching.batch_size * batching.batch_size or len(rows)]
        self._sample = make_batches(inputs.validation, rows, **vars(batching))
        self._validation = make_batches(inputs.validation, data.val, **vars(batching))

    def recalibrate(self, steps: int, train_accuracy: float, best: BestWeights, phase: Phase) -> list[str]:
        """Measure the running averages of the BatchNorm layers again after a phase, if these averages are out of date.

        Before this call, the network must have the weights in `best`. The call may change the weights in `best`. After
        the call, the network again has the weights in `best`.

        Args:
            steps: The number of training steps of the phase up to the end of its best epoch.
            train_accuracy: The accuracy on training pictures in the best epoch, measured in training mode, in 0..1.
            best: Holds the best weights so far. If the new averages are kept, `best` gets the weights and the
                validation loss of the network with these averages.
            phase: The phase that has just been trained.

        Returns:
            A list with one warning if the accuracy on training pictures is still more than 0.1 below `train_accuracy`.
            Otherwise, an empty list.
        """
        keras = backend.start()
        layers = [
            layer
            for layer in self._trained_part.layers
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        ]
        if not layers:
            return []
        accuracy = self._evaluate(self._sample)["accuracy"]
        near_initial = any(layer.momentum**steps > INITIAL_ALLOWED for layer in layers)
        if accuracy >= train_accuracy - LAG_ALLOWED and not near_initial:
            return []
        self._measure(layers)
        loss = float("nan")
        if len(self._validation):
            loss = self._evaluate(self._validation)["loss"] - regularization_loss(self._trained_part)
        measured = self._evaluate(self._sample)["accuracy"]
        # With averages near their initial values, the network gives about the same answer for all pictures. The loss
        # can be low although the network is useless.
        if near_initial or loss < best.loss or measured > accuracy:
            if near_initial:
                why = f"were still near their initial values after {counted(steps, 'step')}"
            else:
                why = f"did not match the weights: training pictures scored {train_accuracy:.3f} in training"
            self._reporter.say(
                f"  BatchNorm's running averages {why}. zoo measured these averages again. "
                f"Accuracy on training pictures with them: {accuracy:.3f} before, {measured:.3f} now"
                f"{f'; val loss {loss:.4f}' if len(self._validation) else ''}"
            )
            best.loss, best.weights, accuracy = loss, self._network.get_weights(), measured
        self._network.set_weights(best.weights)
        if accuracy >= train_accuracy - LAG_ALLOWED:
            return []
        warning = (
            f"phase {phase.name!r}: BatchNorm's running averages do not match the weights. Training pictures score "
            f"{accuracy:.3f} with them, and {train_accuracy:.3f} during training. The exported network will answer "
            "worse than it trained. Train for more steps, with more --epochs or a smaller --batch-size"
            f"{', or lower --ema' if phase.ema is not None else ''}. "
            "In a TOML schedule, you can also lower batch_norm_momentum."
        )
        self._reporter.warn(warning)
        return [warning]

    def _evaluate(self, batches: keras.utils.PyDataset) -> dict[str, float]:
        return self._trained_part.evaluate(batches, verbose=0, return_dict=True)

    def _measure(self, layers: list[keras.layers.BatchNormalization]) -> None:
        """Set the running averages of the given layers to the means of the batch statistics over `self._sample`."""
        keras = backend.start()
        momenta = [layer.momentum for layer in layers]
        for index in range(len(self._sample)):
            for layer in layers:
                layer.momentum = index / (index + 1)
            batch = self._sample[index][0]
            inputs = [
                keras.ops.convert_to_tensor(x, "float32") for x in (batch if isinstance(batch, tuple) else [batch])
            ]
            self._trained_part(inputs if isinstance(batch, tuple) else inputs[0], training=True)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
