"""Measures what a picture shows: brightness, sharpness, information, size and shape.

The definitions and thresholds of brightness, information, shape and size are those of cleanvision 0.3.7 (Apache-2.0,
https://github.com/cleanlab/cleanvision), `image_property.py` and `image_property_issue_manager.py`. They are computed
here on zoo's own decoded pixels, because cleanvision decodes each file once more and needs pandas.

Three rules differ. The size of a picture must also differ by a factor of 3 from the usual one. Blank and tiny pictures
have findings of their own. And the blur is that of Crete, Dolmiere, Ladret and Nicolas 2007, "The blur effect:
perception and estimation with a new no-reference perceptual blur metric": none of the 12 cats and dogs that
cleanvision's rule named was blurred. docs/data-check.md has the measurements.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from zoo import files
from zoo.data.check.headers import Header
from zoo.data.pixels import MappedRows, Pixels
from zoo.errors import WriteError
from zoo_runtime.workshop import usable_cores

if TYPE_CHECKING:
    from PIL import Image

Floats = npt.NDArray[np.float32]

DARK = 0.32
LIGHT = 0.95
ODD_SHAPE = 0.35
LOW_INFORMATION, PER_BIT = 0.3, 0.1
# Photographs of 96 x 96 pixels had less, and 0.73 to 0.95 after a Gaussian blur of 2 % of their side.
BLURRED = 0.7
BLUR_WINDOW = 5
IQR_FACTOR, SIZE_FACTOR = 3.0, 3.0
TINY = 32
# Blocks of 32 take a third longer: they do not fit into the cache of a processor.
BLOCK = 16
# The name changes with the rules, so that values by older rules are not used.
FILE = "quality-1.npy"


@dataclass(frozen=True)
class Quality:
    """What was measured, one value per picture. Pictures that could not be decoded have NaN.

    Args:
        brightest: The brightness that 99 % of the pixels do not exceed, float32 (pictures,) in 0..1.
        darkest: The brightness that 5 % of the pixels do not exceed, float32 (pictures,) in 0..1.
        information: The entropy of the color histogram in bits, times 0.1, float32 (pictures,).
        blur: The share of the differences between neighboring pixels that stays if the picture is blurred, float32
            (pictures,) in 0..1, in the more blurred direction. A high value means blurred.
        contrast: The standard deviation of the gray levels, float32 (pictures,) in 0..127.5.
    """

    brightest: Floats
    darkest: Floats
    information: Floats
    blur: Floats
    contrast: Floats

    def dark(self) -> npt.NDArray[np.int64]:
        """Return the indices of pictures that are dark nearly everywhere."""
        return np.flatnonzero((self.brightest < DARK) & ~self._flat())

    def light(self) -> npt.NDArray[np.int64]:
        """Return the indices of pictures that are white nearly everywhere."""
        return np.flatnonzero((self.darkest > LIGHT) & ~self._flat())

    def blank(self) -> npt.NDArray[np.int64]:
        """Return the indices of pictures of a single color."""
        return np.flatnonzero(self._flat())

    def blurred(self) -> npt.NDArray[np.int64]:
        """Return the indices of blurred pictures."""
        return np.flatnonzero((self.blur > BLURRED) & ~self._flat())

    def uninformative(self) -> npt.NDArray[np.int64]:
        """Return the indices of pictures with few colors, which are not blank."""
        return np.flatnonzero((self.information < LOW_INFORMATION) & ~self._flat())

    def _flat(self) -> npt.NDArray[np.bool_]:
        return self.contrast < 1


def measure(pixels: Pixels, folder: Path, progress: Callable[[int, int], None] | None = None) -> Quality:
    """Measure decoded pictures. If an earlier check has measured them, the result comes from the cache.

    Args:
        pixels: The decoded pictures.
        folder: The folder of the set in the pixel cache. If it cannot be written to, nothing is kept.
        progress: Called with (pictures measured, pictures in total); None means no calls.
    """
    shape = (len(pixels.digests), 5)
    values = _read(folder / FILE, shape)
    if values is None:
        values = _measure_all(pixels, shape, progress)
        # A cache that cannot be written to costs time, and nothing else.
        with (
            contextlib.suppress(WriteError),
            files.atomic_write(folder / FILE) as temporary,
            temporary.open("wb") as stream,
        ):
            np.save(stream, values)
    return Quality(*(np.ascontiguousarray(column) for column in values.T))


def _read(path: Path, shape: tuple[int, int]) -> Floats | None:
    """Read values from the cache. Return None if they are missing or damaged."""
    with contextlib.suppress(OSError, ValueError, EOFError):
        values = np.load(path, allow_pickle=False)
        if isinstance(values, np.ndarray) and values.shape == shape and values.dtype == np.float32:
            return values
    return None


def _measure_all(pixels: Pixels, shape: tuple[int, int], progress: Callable[[int, int], None] | None) -> Floats:
    """Return the values of all pictures, float32 (pictures, 5)."""
    values = np.full(shape, np.nan, np.float32)
    rows = MappedRows(pixels.array)
    usable = np.array(pixels.usable, np.int64)
    blocks = [usable[start : start + BLOCK] for start in range(0, len(usable), BLOCK)]

    def work(block: npt.NDArray[np.int64]) -> int:
        values[block] = _measured(rows[block])
        return len(block)

    with ThreadPoolExecutor(usable_cores()) as pool:
        done = 0
        for count in pool.map(work, blocks):
            done += count
            if progress:
                progress(done, len(usable))
    rows.release()
    return values


def _measured(pictures: npt.NDArray[np.uint8]) -> Floats:
    """Return the values of some pictures, float32 (pictures, 5), in the order of the fields of `Quality`."""
    colors = pictures.astype(np.float32)
    # A gray picture has one channel; its brightness is its gray level.
    shares = np.array([0.241, 0.691, 0.068] if pictures.shape[3] == 3 else [1.0], np.float32)
    brightness = np.sqrt((colors * colors) @ shares).reshape(len(pictures), -1) / 255
    brightest, darkest = np.percentile(brightness, (99, 5), axis=1)
    others = [_of_one(picture) for picture in pictures]
    information = [min(1.0, PER_BIT * image.entropy()) for image, _ in others]
    gray = np.stack([each for _, each in others])
    contrast = gray.std(axis=(1, 2))
    blur = np.maximum(_blur(gray), _blur(gray.transpose(0, 2, 1)))
    return np.column_stack([brightest, darkest, information, blur, contrast]).astype(np.float32)


def _of_one(picture: npt.NDArray[np.uint8]) -> tuple[Image.Image, Floats]:
    """Return a picture as a Pillow image, and its gray levels, float32 (height, width)."""
    from PIL import Image

    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    return image, np.asarray(image.convert("L"), np.float32)


def _blur(gray: Floats) -> Floats:
    """Return the blur of gray pictures from left to right, float32 (pictures,) in 0..1.

    Args:
        gray: Gray levels, float32 (pictures, height, width).
    """
    width = gray.shape[2]
    padded = np.pad(gray, [(0, 0), (0, 0), (BLUR_WINDOW // 2, BLUR_WINDOW // 2)], mode="edge")
    blurred = sum(padded[:, :, k : k + width] for k in range(BLUR_WINDOW)) / np.float32(BLUR_WINDOW)
    differences = np.abs(np.diff(gray, axis=2))
    lost = np.maximum(0, differences - np.abs(np.diff(blurred, axis=2)))
    whole = differences.sum(axis=(1, 2))
    return np.asarray((whole - lost.sum(axis=(1, 2))) / np.maximum(whole, 1e-6), np.float32)


def odd_shapes(headers: Sequence[Header | None]) -> list[int]:
    """Return the indices of pictures whose longer side is more than 2.9 times as long as the shorter one."""
    return [i for i, header in enumerate(headers) if header and min(header.size) < ODD_SHAPE * max(header.size)]


def tiny(headers: Sequence[Header | None]) -> list[int]:
    """Return the indices of pictures with a side of less than 32 pixels."""
    return [i for i, header in enumerate(headers) if header and min(header.size) < TINY]


def odd_sizes(headers: Sequence[Header | None]) -> list[int]:
    """Return the indices of pictures that are far larger or far smaller than most.

    The measure is the square root of the area. It is odd if it lies more than 3 interquartile ranges outside the middle
    half of all pictures, and is a third or three times the median, or beyond that.
    """
    sides = np.array([np.sqrt(h.size[0] * h.size[1]) if h else np.nan for h in headers])
    if not np.isfinite(sides).any():
        return []
    low, middle, high = np.nanpercentile(sides, (25, 50, 75))
    reach = IQR_FACTOR * (high - low)
    outside = (sides < low - reach) | (sides > high + reach)
    far = (sides * SIZE_FACTOR <= middle) | (sides >= middle * SIZE_FACTOR)
    return [int(i) for i in np.flatnonzero(outside & far)]
