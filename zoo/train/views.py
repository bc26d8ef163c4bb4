"""Computes views in advance: K augmented copies of every training picture.

Each epoch of the phase reads one of the K views of every picture. View 0 is read again after view K - 1.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo import files, hosts
from zoo.data.augment import Augment, picture_seeds
from zoo.data.memory import MappedRows
from zoo.errors import HostsError, TrainingError
from zoo.train.batches import BatchFn

BATCH = 32


@dataclass(frozen=True)
class Views:
    """Describes the views of some pictures: K augmented copies of each picture.

    Without views, every picture would be augmented again in every epoch. View k of a picture is like the augmented
    picture of epoch k, because both use the same random numbers. There are two differences:

    - The pixels of a view are rounded to whole numbers.
    - A policy such as mixup mixes each picture with another picture of its batch. The batches in which views are
      computed differ from the batches of an epoch. A picture is therefore mixed with a different picture.

    Args:
        array: Decoded pictures, a uint8 array (pictures, height, width, channels).
        rows: Indices of the pictures to augment, an int64 array in ascending order.
        targets: The targets of all pictures, an array (pictures, classes) of any type, with values in 0..1.
        augment: The augmentation policy.
        count: Views per picture (K).
        seed: The seed of the run.
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
        """Return the indices of the views that an epoch reads for the given pictures.

        Epoch e reads view e modulo `count` of each picture. For example, if `count` is 3, epochs 0 to 4 read the views
        0, 1, 2, 0 and 1.

        Args:
            epoch: The number of the epoch, counted from 0.
            chosen: Indices of the pictures, int64. Each must be in `rows`.

        Returns:
            One index per picture, int64 (len(chosen),). An index counts from 0 through all views: first view 0 of
            every picture in the order of `rows`, then view 1 of every picture, and so on. For example, if `rows` has
            100 pictures, view 1 of the first picture has the index 100.
        """
        return epoch % self.count * len(self.rows) + np.searchsorted(self.rows, chosen)

    def generate(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Compute all views, batch by batch.

        Yields:
            For each batch: the indices of its views, numbered as in `place`, int64 (batch,); the pixels of these views,
            uint8 (batch, height, width, channels); and their targets, float32 (batch, classes).
        """
        for view in range(self.count):
            # The rows are shuffled because they are sorted by class, and policies mix pictures of the same batch.
            order = np.random.default_rng((self.seed, view)).permutation(len(self.rows))
            for start in range(0, len(order), BATCH):
                chosen = self.rows[order[start : start + BATCH]]
                pictures, labels = self.augment(
                    self.array[chosen].astype("float32"),
                    self.targets[chosen].astype("float32"),
                    picture_seeds(self.seed, view, chosen),
                )
                yield self.place(view, chosen), np.rint(pictures).astype(np.uint8), labels


def compute(views: Views, *, folder: Path, progress: Callable[[int, int], None]) -> BatchFn:
    """Compute all views, and write their pixels to a temporary file.

    Args:
        views: Describes the views to compute.
        folder: The folder of the temporary file; it is created if it does not exist. The file is deleted when the
            returned function is no longer used.
        progress: Called with the number of views computed so far, and the number of all views.

    Returns:
        A function of (epoch, indices of pictures). For each picture, it returns the view that belongs to the epoch: the
        pixels, uint8 (batch, height, width, channels), and the targets, float32 (batch, classes).

    Raises:
        TrainingError: The views do not fit on the disk. If several processes train together, it is a HostsError.
    """
    shape = (len(views), *views.array.shape[1:])
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(folder).free
    if needed > free:
        # Other processes have room, and would wait for this one.
        kind = TrainingError if hosts.current() is None else HostsError
        raise kind(
            f"{views.count} views of {len(views.rows)} pictures take {files.size_text(needed)}, and {str(folder)!r} "
            f"has {files.size_text(free)} free. Use fewer --views, or leave the option out: "
            "each epoch then makes its own."
        )
    # The temporary file has no name in the folder, so a killed run leaves nothing behind.
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
