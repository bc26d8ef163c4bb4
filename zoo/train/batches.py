"""Batches of pictures for Keras: shuffled, augmented, and decided by (run seed, epoch, picture) alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend
from zoo.data.augment import Augment, picture_seeds
from zoo.data.pixels import MappedRows

if TYPE_CHECKING:
    import keras


# (epoch, indices of pictures) -> what the network takes of them (an array, or a list of arrays), and their targets.
BatchFn = Callable[[int, np.ndarray], tuple[Any, np.ndarray]]


def plain(array: np.ndarray, targets: np.ndarray) -> BatchFn:
    """Pictures as they are.

    Args:
        array: uint8 array (pictures, height, width, channels).
        targets: float32 array (pictures, classes) in 0..1.
    """
    rows = MappedRows(array)
    return lambda epoch, chosen: (rows[chosen], targets[chosen])


def augmented(array: np.ndarray, targets: np.ndarray, augment: Augment, seed: int) -> BatchFn:
    """Pictures altered anew in every epoch: float32 (batch, height, width, channels) in 0..255."""

    rows = MappedRows(array)

    def take(epoch: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return augment(rows[chosen].astype("float32"), targets[chosen], picture_seeds(seed, epoch, chosen))

    return take


def make_batches(
    take: BatchFn,
    rows: np.ndarray,
    *,
    batch_size: int,
    single_unit: bool = False,
    class_weights: np.ndarray | None = None,
    seed: int = 0,
    first_epoch: int = 0,
    shuffle: bool = False,
):
    """Make a `keras.utils.PyDataset`.

    Args:
        take: Gives the pictures of a batch.
        rows: Which pictures, int64 array, rising.
        batch_size: Pictures a batch; the last has what is left, and where it is shuffled, less than a quarter of a
            batch goes with the one before.
        single_unit: Whether the network is binary with one logit, that of the second class.
        class_weights: float32 array (classes,): what a picture of each class counts in the loss; None counts all alike.
            Of a mixture of pictures, the mean by its shares.
        seed: The run's seed.
        first_epoch: Number of the first epoch, counted over the whole run.
        shuffle: Whether each epoch has an order of its own.

    Returns:
        Batches of (what `take` gives, targets): float32 (batch, classes), or (batch, 1) of a single unit; with class
        weights, (.., .., float32 (batch,)). Its attribute `failed` is the error that `take` raised, or None.
    """
    keras = backend.start()

    class Batches(keras.utils.PyDataset):
        def __init__(self) -> None:
            super().__init__(workers=0)
            self.epoch = first_epoch
            # Keras's backends tell an error of this class in words of their own.
            self.failed: Exception | None = None
            self.order = self._order()

        def __len__(self) -> int:
            whole, rest = divmod(len(rows), batch_size)
            # BatchNorm's statistics of a few pictures are noise: in training they go with the batch before.
            alone = rest >= batch_size / 4 or not shuffle or not whole
            return whole + (1 if rest and alone else 0)

        def __getitem__(self, index: int) -> tuple[Any, ...]:
            end = None if index == len(self) - 1 else (index + 1) * batch_size
            try:
                pictures, marks = take(self.epoch, self.order[index * batch_size : end])
            except Exception as error:
                self.failed = error
                raise
            # Keras tells several inputs from one by the tuple.
            pictures = tuple(pictures) if isinstance(pictures, list) else pictures
            batch = pictures, marks[:, 1:] if single_unit else marks
            return batch if class_weights is None else (*batch, (marks @ class_weights).astype("float32"))

        def on_epoch_end(self) -> None:
            self.epoch += 1
            self.order = self._order()

        def _order(self) -> np.ndarray:
            return np.random.default_rng((seed, self.epoch)).permutation(rows) if shuffle else rows

    return Batches()


@dataclass(frozen=True)
class PhaseInputs:
    """What a phase is fitted on.

    Args:
        trained_part: The network from what `train` and `validation` give, to the logits.
        train: Gives training batches.
        validation: Gives batches of pictures as they are.
        kept: Whether training and validation batches are read from the cache.
        rate: Seconds that a picture took when it was computed, in this run or an earlier; 0 if that is not known.
    """

    trained_part: keras.Model
    train: BatchFn
    validation: BatchFn
    kept: tuple[bool, bool] = (False, False)
    rate: float = 0.0
