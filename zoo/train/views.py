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
    """Views of some pictures. View k is what epoch k would see online, rounded to whole levels.

    Policies that mix pictures find other partners than online, because the batches differ.

    Args:
        array: Decoded pictures, a uint8 array (pictures, height, width, channels).
        rows: Indices of the pictures to alter, a rising int64 array.
        targets: A float32 array (pictures, classes).
        augment: The policy.
        count: Views per picture.
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
        """Return the places, among all views, of an epoch's views of some pictures."""
        return epoch % self.count * len(self.rows) + np.searchsorted(self.rows, chosen)

    def generate(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Make all views, batch by batch.

        Yields:
            Places among all views; pixels, uint8 (views, height, width, channels); targets, float32 (views, classes).
        """
        for view in range(self.count):
            # Shuffled, because rows stand class by class and policies that mix pictures take neighbors.
            order = np.random.default_rng((self.seed, view)).permutation(len(self.rows))
            for start in range(0, len(order), BATCH):
                chosen = self.rows[order[start : start + BATCH]]
                pictures, labels = self.augment(
                    self.array[chosen].astype("float32"),
                    self.targets[chosen].copy(),
                    picture_seeds(self.seed, view, chosen),
                )
                yield self.place(view, chosen), np.rint(pictures).astype(np.uint8), labels


def compute(views: Views, *, folder: Path, progress: Callable[[int, int], None]) -> BatchFn:
    """Make all views ahead.

    Args:
        views: The views.
        folder: Holds them while they are used. Nothing stays there afterwards.
        progress: Called with (views made, views in all).

    Returns:
        A function that reads them, as uint8.

    Raises:
        TrainingError: They do not fit on the disk.
    """
    shape = (len(views), *views.array.shape[1:])
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(folder).free
    if needed > free:
        raise TrainingError(
            f"{views.count} views of {len(views.rows)} pictures take {files.size_text(needed)}, and {str(folder)!r} "
            f"has {files.size_text(free)} free. Use fewer --views, or leave the option out: "
            "each epoch then makes its own."
        )
    # Unlinked from the start, so that a killed run leaves nothing behind.
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

    def read(epoch: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places = views.place(epoch, chosen)
        return rows[places], targets[places]

    return read
