"""Augmented views computed ahead: K copies of every training picture, altered once and read again in later epochs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.errors import TrainingError
from zoo.train.batches import Augment, picture_seeds

BATCH = 32


@dataclass(frozen=True)
class Views:
    """Views of some pictures.

    Args:
        pixels: uint8 array (views, pictures, height, width, channels), memory-mapped.
        targets: float32 array (views, pictures, classes).
    """

    pixels: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)


def compute(
    array: np.ndarray,
    rows: np.ndarray,
    targets: np.ndarray,
    augment: Augment,
    *,
    count: int,
    seed: int,
    folder: Path,
    progress: Callable[[int, int], None],
) -> Views:
    """Alter every picture `count` times; view k is what epoch k would see online, rounded to whole levels.

    Policies that mix pictures find other partners, for the batches are others.

    Args:
        array: uint8 array (pictures, height, width, channels).
        rows: Which pictures, int64 array, rising.
        targets: float32 array (pictures, classes).
        augment: The policy.
        count: Views a picture.
        seed: The run's seed.
        folder: Where the views are kept while they are used; nothing is left there after.
        progress: Called with (pictures done, pictures in all).

    Returns:
        Views of `rows`, in their order.

    Raises:
        TrainingError: The disk has no room for them.
    """
    shape = (count, len(rows), *array.shape[1:])
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(folder).free
    if needed > free:
        raise TrainingError(
            f"{count} views of {len(rows)} pictures take {needed / 1e9:.1f} GB and {str(folder)!r} has "
            f"{free / 1e9:.1f} GB free. Ask for fewer --views, or none: each epoch then makes its own."
        )
    # Unlinked from the beginning: a killed run leaves nothing behind.
    with tempfile.TemporaryFile(dir=folder) as file:
        pixels = np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
    marks = np.empty((count, len(rows), targets.shape[1]), "float32")
    for view in range(count):
        # Shuffled, for rows stand class by class, and policies that mix pictures take what stands beside.
        order = np.random.default_rng((seed, view)).permutation(len(rows))
        for begin in range(0, len(order), BATCH):
            places = order[begin : begin + BATCH]
            chosen = rows[places]
            pictures, labels = augment(
                array[chosen].astype("float32"), targets[chosen].copy(), picture_seeds(seed, view, chosen)
            )
            pixels[view, places] = np.rint(pictures).astype(np.uint8)
            marks[view, places] = labels
            progress(view * len(rows) + begin + len(places), count * len(rows))
    return Views(pixels, marks)
