"""Augmented views computed ahead: K copies of every training picture, altered once and read again in later epochs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo import files
from zoo.data.augment import Augment, picture_seeds
from zoo.data.pixels import MappedRows
from zoo.errors import TrainingError
from zoo.train.batches import BatchFn

BATCH = 32


@dataclass(frozen=True)
class Views:
    """Views of some pictures: view k is what epoch k would see online, rounded to whole levels.

    Policies that mix pictures find other partners, for the batches are others.

    Args:
        array: uint8 array (pictures, height, width, channels).
        rows: Which pictures, int64 array, rising.
        targets: float32 array (pictures, classes).
        augment: The policy.
        count: Views a picture.
        seed: The run's seed.
    """

    array: np.ndarray
    rows: np.ndarray
    targets: np.ndarray
    augment: Augment
    count: int
    seed: int

    def __len__(self) -> int:
        return self.count * len(self.rows)

    def place(self, epoch: int, chosen: np.ndarray) -> np.ndarray:
        """Where an epoch's views of some pictures stand among all views."""
        return epoch % self.count * len(self.rows) + np.searchsorted(self.rows, chosen)

    def generate(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Make all of them: their places, pixels as uint8 (views, height, width, channels), targets as float32."""
        for view in range(self.count):
            # Shuffled, for rows stand class by class, and policies that mix pictures take what stands beside.
            order = np.random.default_rng((self.seed, view)).permutation(len(self.rows))
            for begin in range(0, len(order), BATCH):
                chosen = self.rows[order[begin : begin + BATCH]]
                pictures, labels = self.augment(
                    self.array[chosen].astype("float32"),
                    self.targets[chosen].copy(),
                    picture_seeds(self.seed, view, chosen),
                )
                yield self.place(view, chosen), np.rint(pictures).astype(np.uint8), labels


def compute(views: Views, *, folder: Path, progress: Callable[[int, int], None]) -> BatchFn:
    """Make all views ahead.

    Args:
        views: Which.
        folder: Where they are kept while they are used; nothing is left there after.
        progress: Called with (views made, views in all).

    Returns:
        What gives them, as uint8.

    Raises:
        TrainingError: The disk has no room for them.
    """
    shape = (len(views), *views.array.shape[1:])
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(folder).free
    if needed > free:
        raise TrainingError(
            f"{views.count} views of {len(views.rows)} pictures take {files.size_text(needed)} and {str(folder)!r} has "
            f"{files.size_text(free)} free. Ask for fewer --views, or none: each epoch then makes its own."
        )
    # Unlinked from the beginning: a killed run leaves nothing behind.
    with tempfile.TemporaryFile(dir=folder) as file:
        pixels = np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
    rows = MappedRows(pixels)
    targets = np.empty((len(views), views.targets.shape[1]), "float32")
    done = 0
    for places, pictures, labels in views.generate():
        pixels[places], targets[places] = pictures, labels
        rows.touched(pictures.nbytes)
        done += len(places)
        progress(done, len(views))

    def take(epoch: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places = views.place(epoch, chosen)
        return rows[places], targets[places]

    return take
