"""Makes the batches that Keras trains on: shuffled, augmented, and reproducible from the seed of the run.

The seed and the epoch decide the order of the pictures. The random numbers for augmenting a picture depend on the seed,
the epoch and the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend
from zoo.data.augment import Augment, picture_seeds
from zoo.data.memory import MappedRows

if TYPE_CHECKING:
    import keras


# A function of (epoch, indices of pictures). It returns the network's inputs for these pictures (one array, or a list
# of arrays) and their targets.
BatchFn = Callable[[int, np.ndarray], tuple[Any, np.ndarray]]


def plain(array: np.ndarray, targets: np.ndarray) -> BatchFn:
    """Return a function that reads batches of unaltered pictures and their targets.

    Args:
        array: Decoded pictures, a uint8 array (pictures, height, width, channels).
        targets: An array (pictures, classes) of any type, with values in 0..1.

    Returns:
        A function of (epoch, indices of pictures). It returns these pictures, uint8 (batch, height, width, channels) in
        0..255, and their targets, float32 (batch, classes).
    """
    rows = MappedRows(array)
    return lambda epoch, chosen: (rows[chosen], targets[chosen].astype("float32"))


def augmented(array: np.ndarray, targets: np.ndarray, augment: Augment, seed: int) -> BatchFn:
    """Return a function that reads batches of pictures and augments them with new random numbers in every epoch.

    Args:
        array: Decoded pictures, a uint8 array (pictures, height, width, channels).
        targets: An array (pictures, classes) of any type, with values in 0..1.
        augment: The augmentation policy.
        seed: The seed of the run.

    Returns:
        A function of (epoch, indices of pictures). It returns the augmented pictures, float32 (batch, height, width,
        channels) in 0..255, and their targets, float32 (batch, classes).
    """
    rows = MappedRows(array)

    def read(epoch: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pictures, labels = rows[chosen].astype("float32"), targets[chosen].astype("float32")
        return augment(pictures, labels, picture_seeds(seed, epoch, chosen))

    return read


@dataclass(frozen=True)
class Batching:
    """Settings for grouping pictures into batches, the same in all phases of a run.

    Args:
        batch_size: Pictures per batch. The pictures that remain at the end form a smaller batch. If pictures are
            shuffled and fewer than a quarter of a batch remain, they join the previous batch instead.
        single_unit: Whether the network is binary and has one logit, which belongs to the second class.
        class_weights: The weight of each class in the loss, a float32 array (classes,). None weights all pictures
            equally. A picture of a single class has the weight of this class. In general, each class weight is
            multiplied by the picture's target for the class, and the sum is the weight of the picture.
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
    """Return a Keras dataset that reads the given pictures in batches.

    Args:
        read: A function of (epoch, indices of pictures). It returns the inputs and targets of a batch.
        rows: Indices of the pictures, an int64 array.
        batch_size: See `Batching`.
        single_unit: See `Batching`.
        class_weights: See `Batching`.
        seed: The seed of the run, which decides the order of shuffled pictures.
        first_epoch: The number of the first epoch, counted from 0 over the whole run.
        shuffle: True shuffles the pictures again in every epoch. False keeps the order of `rows`.

    Returns:
        A Keras dataset of batches (inputs, targets). The inputs are as `read` returns them, but a list becomes a tuple.
        Targets are float32 (batch, classes), or (batch, 1) for a single unit. If there are class weights, each batch
        has a third item: the weights of its pictures, float32 (batch,). The attribute `failed` of the dataset is the
        error that `read` raised, or None. The method `rest` returns a dataset without the
        first batches of the epoch. `size` returns the number of pictures of a batch, and `part` some of its pictures,
        which are read alone.
    """
    base: Any = backend.start().utils.PyDataset

    class Batches(base):
        def __init__(self, epoch: int, first: int = 0) -> None:
            super().__init__(workers=0)
            self.epoch, self.first = epoch, first
            # Keras's backends replace an error of this class by one of their own, so the original is kept here.
            self.failed: Exception | None = None
            self.order = self._order()

        def __len__(self) -> int:
            return _number_of_batches(len(rows), batch_size, shuffle) - self.first

        def __getitem__(self, index: int) -> tuple[Any, ...]:
            return self.part(index, slice(None))

        def size(self, index: int) -> int:
            return len(self._rows(index))

        def part(self, index: int, part: slice) -> tuple[Any, ...]:
            try:
                inputs, targets = read(self.epoch, self._rows(index)[part])
            except Exception as error:
                self.failed = error
                raise
            # Keras treats a tuple as several inputs, and any other type as one input.
            inputs = tuple(inputs) if isinstance(inputs, list) else inputs
            batch = inputs, targets[:, 1:] if single_unit else targets
            return batch if class_weights is None else (*batch, (targets @ class_weights).astype("float32"))

        def _rows(self, index: int) -> np.ndarray:
            is_last = index == len(self) - 1
            index += self.first
            return self.order[index * batch_size : None if is_last else (index + 1) * batch_size]

        def rest(self, first: int) -> Batches:
            return Batches(self.epoch, first)

        def on_epoch_end(self) -> None:
            self.epoch += 1
            self.order = self._order()

        def _order(self) -> np.ndarray:
            return np.random.default_rng((seed, self.epoch)).permutation(rows) if shuffle else rows

    return Batches(first_epoch)


def _number_of_batches(pictures: int, batch_size: int, shuffle: bool) -> int:
    whole, rest = divmod(pictures, batch_size)
    # BatchNorm statistics of only a few pictures are noise, so in training these pictures join the previous batch.
    alone = rest >= batch_size / 4 or not shuffle or not whole
    return whole + (1 if rest and alone else 0)


@dataclass(frozen=True)
class PhaseInputs:
    """The part of the network that a phase trains, and the functions that read its batches.

    `train` and `validation` are functions of (epoch, indices of pictures). They return (inputs, targets).

    Args:
        trained_part: The model that computes the logits from the inputs of a batch. If it is the whole network, the
            inputs are pictures. If it is the part above the cut, the inputs are outputs of the frozen part.
        train: Reads a training batch. Its pictures are augmented if the phase augments.
        validation: Reads a batch of unaltered pictures, or of the outputs of the frozen part for unaltered pictures.
        kept: A pair of bools: whether `train` reads from the feature cache, and whether `validation` reads from it.
        rate: How many seconds the frozen part takes to compute its outputs for one picture, as measured in this run or
            an earlier one; 0 if unknown.
    """

    trained_part: keras.Model
    train: BatchFn
    validation: BatchFn
    kept: tuple[bool, bool] = (False, False)
    rate: float = 0.0
