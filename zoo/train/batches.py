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


# (epoch, indices of pictures) -> the network's inputs for them (an array, or a list of arrays), and their targets.
BatchFn = Callable[[int, np.ndarray], tuple[Any, np.ndarray]]


def plain(array: np.ndarray, targets: np.ndarray) -> BatchFn:
    """Return a function that gives batches of unaltered pictures with their targets.

    Args:
        array: Decoded pictures, a uint8 array (pictures, height, width, channels).
        targets: A float32 array (pictures, classes) in 0..1.
    """
    rows = MappedRows(array)
    return lambda epoch, chosen: (rows[chosen], targets[chosen])


def augmented(array: np.ndarray, targets: np.ndarray, augment: Augment, seed: int) -> BatchFn:
    """Return a function that alters pictures in every epoch.

    Args:
        array: Decoded pictures, a uint8 array (pictures, height, width, channels).
        targets: A float32 array (pictures, classes) in 0..1.
        augment: The policy.
        seed: The run's seed.

    Returns:
        The function; its pictures are float32 (batch, height, width, channels) in 0..255.
    """
    rows = MappedRows(array)

    def read(epoch: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return augment(rows[chosen].astype("float32"), targets[chosen], picture_seeds(seed, epoch, chosen))

    return read


@dataclass(frozen=True)
class Batching:
    """How pictures are put into batches, the same in all phases of a run.

    Args:
        batch_size: Pictures per batch. The last batch has the rest. If batches are shuffled and the rest is less than a
            quarter of a batch, it joins the batch before.
        single_unit: Whether the network is binary with one logit, that of the second class.
        class_weights: Weight of a picture of each class in the loss, a float32 array (classes,). None weighs all
            alike. A mixture of pictures gets the mean by its shares.
    """

    batch_size: int
    single_unit: bool = False
    class_weights: np.ndarray | None = None


def make_batches(
    read: BatchFn,
    rows: np.ndarray,
    *,
    batch_size: int,
    single_unit: bool = False,
    class_weights: np.ndarray | None = None,
    seed: int = 0,
    first_epoch: int = 0,
    shuffle: bool = False,
) -> keras.utils.PyDataset:
    """Make the batches of a set of pictures.

    Args:
        read: Gives the inputs and targets of a batch.
        rows: Indices of the pictures, a rising int64 array.
        batch_size: See `Batching`, as for the next two.
        single_unit: Whether the network is binary with one logit.
        class_weights: A float32 array (classes,), or None.
        seed: The run's seed.
        first_epoch: Number of the first epoch, counted over the whole run.
        shuffle: Whether each epoch has an order of its own.

    Returns:
        Batches of (what `read` gives, targets). Targets are float32 (batch, classes), or (batch, 1) for a single unit.
        With class weights there is a third item, float32 (batch,). `failed` is the error that `read` raised, or None.
    """
    base: Any = backend.start().utils.PyDataset

    class Batches(base):
        def __init__(self) -> None:
            super().__init__(workers=0)
            self.epoch = first_epoch
            # Keras's backends report an error of this class in their own words.
            self.failed: Exception | None = None
            self.order = self._order()

        def __len__(self) -> int:
            return _number_of_batches(len(rows), batch_size, shuffle)

        def __getitem__(self, index: int) -> tuple[Any, ...]:
            end = None if index == len(self) - 1 else (index + 1) * batch_size
            try:
                inputs, targets = read(self.epoch, self.order[index * batch_size : end])
            except Exception as error:
                self.failed = error
                raise
            # Keras takes a tuple for several inputs, and anything else for one.
            inputs = tuple(inputs) if isinstance(inputs, list) else inputs
            batch = inputs, targets[:, 1:] if single_unit else targets
            return batch if class_weights is None else (*batch, (targets @ class_weights).astype("float32"))

        def on_epoch_end(self) -> None:
            self.epoch += 1
            self.order = self._order()

        def _order(self) -> np.ndarray:
            return np.random.default_rng((seed, self.epoch)).permutation(rows) if shuffle else rows

    return Batches()


def _number_of_batches(pictures: int, batch_size: int, shuffle: bool) -> int:
    whole, rest = divmod(pictures, batch_size)
    # BatchNorm's statistics of a few pictures are noise, so in training they join the batch before.
    alone = rest >= batch_size / 4 or not shuffle or not whole
    return whole + (1 if rest and alone else 0)


@dataclass(frozen=True)
class PhaseInputs:
    """The part of the network that a phase trains, and the batches that it is trained and validated on.

    Args:
        trained_part: The network from the batches (pictures or outputs of the frozen part) to the logits.
        train: Gives training batches.
        validation: Gives batches of unaltered pictures, or their outputs of the frozen part.
        kept: Whether training batches, and validation batches, are read from the feature cache.
        rate: Seconds that computing the features of a picture took, in this run or an earlier one; 0 if unknown.
    """

    trained_part: keras.Model
    train: BatchFn
    validation: BatchFn
    kept: tuple[bool, bool] = (False, False)
    rate: float = 0.0
