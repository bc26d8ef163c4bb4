"""Makes a gray thumbnail of each decoded picture, on which pictures are compared.

The thumbnails are kept beside the decoded pixels in the cache, so that a later run makes none.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zoo.data.pixels import MappedRows, Pixels
from zoo_runtime.workshop import usable_cores

SIDE = 32
# The name changes with the rule, so that thumbnails by an older rule are not used.
FILE = "thumbnails-1.npy"
BLOCK = 64


def make(pixels: Pixels, folder: Path, *, padded: bool) -> npt.NDArray[np.uint8]:
    """Return the thumbnail of each picture. Thumbnails that are not in the cache are made first.

    Args:
        pixels: The decoded pictures.
        folder: The folder of the set in the pixel cache. If it cannot be written to, nothing is kept.
        padded: Whether the pictures have black borders that zoo added. They are cut off, because pictures with the same
            borders would look alike.

    Returns:
        A uint8 array (pictures, 32, 32), gray levels. It is memory-mapped if the cache can be written to.
    """
    count = len(pixels.digests)
    path = folder / FILE
    with contextlib.suppress(OSError, ValueError, EOFError):
        kept = np.load(path, mmap_mode="r")
        if kept.shape == (count, SIDE, SIDE) and kept.dtype == np.uint8:
            return kept
    temporary = folder / f".{secrets.token_hex(4)}-{FILE}"
    try:
        array: npt.NDArray[np.uint8] = np.lib.format.open_memmap(temporary, "w+", np.uint8, (count, SIDE, SIDE))
    except (OSError, ValueError):
        array = np.zeros((count, SIDE, SIDE), np.uint8)
    _fill(array, pixels, padded=padded)
    if isinstance(array, np.memmap):
        with contextlib.suppress(OSError):
            array.flush()
            os.replace(temporary, path)
        temporary.unlink(missing_ok=True)
    return array


def _fill(array: npt.NDArray[np.uint8], pixels: Pixels, *, padded: bool) -> None:
    rows = MappedRows(pixels.array)
    written = MappedRows(array)

    def work(start: int) -> None:
        places = np.arange(start, min(start + BLOCK, len(array)))
        for place, picture in zip(places, rows[places], strict=True):
            array[place] = thumbnail(without_border(picture) if padded else picture)
        written.touched(array[places[0] : places[-1] + 1].nbytes)

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(work, range(0, len(array), BLOCK)))
    rows.release()
    written.release()


def thumbnail(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the gray thumbnail of a decoded picture.

    Args:
        picture: A uint8 array (height, width, 3) RGB or (height, width, 1) gray.

    Returns:
        A uint8 array (32, 32): each value is the mean of an area of the picture.
    """
    from PIL import Image

    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    # Reducing first by a whole number takes half the time, and the result is nearly the same.
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=1.0).convert("L"))


def without_border(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Cut off black rows and columns at the edges of a picture. A picture that is black everywhere stays as it is."""
    bright = picture.max(axis=2) > 0
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    if not len(rows):
        return picture
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
