"""Compares pairs of pictures that have nearly the same perceptual hash.

A hash of 64 bits is only a first sieve: pictures with little contrast have nearly the same hash by chance. Thumbnails
are therefore compared by their correlation. A cropped picture or the next frame of a burst is shifted and enlarged a
little. It is compared at several shifts and enlargements, and the best one counts.

Two pictures with one large dark and one large bright area correlate too, whatever they show. Their details are
therefore compared as well: the gray levels against those around them, with the same contrast everywhere.
docs/data-check.md has the measurements behind the thresholds.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from zoo.data.check.thumbnails import SIDE

Floats = npt.NDArray[np.float32]

# Pictures whose gray levels vary less than this (standard deviation, of 255) have nothing to compare.
LEAST_CONTRAST = 3.0
MARGIN = 2
WINDOWS = (SIDE - 1, SIDE - 2)
# The distance, in pixels of a thumbnail, over which the mean and the contrast of the surroundings are taken, and the
# contrast in levels of 255 below which details count less.
AROUND, FAINT = 3.0, 2.0
# The smallest correlation of the details of near-duplicates. Of different pictures with two areas, 99 % have less.
SAME_DETAILS = 0.85
# Pictures whose details have less contrast have nothing but noise there. They need this correlation as a whole.
NO_DETAILS, SMOOTH_SIMILAR = 3.0, 0.96
GRID = 16
# The largest mean and the largest single difference of the 16 x 16 mean colors of two copies, in levels of 255.
COPY_MEAN, COPY_MOST = 4.0, 24.0


def normalized(pictures: Floats) -> Floats:
    """Give pictures the mean 0 and the length 1, so that the sum of a product is their correlation.

    Args:
        pictures: float32 (pictures, height, width).
    """
    centered = pictures - pictures.mean(axis=(1, 2), keepdims=True)
    lengths = np.sqrt((centered * centered).sum(axis=(1, 2)))
    return np.asarray(centered / np.maximum(lengths, 1e-6)[:, None, None], np.float32)


def correlations(first: Floats, second: Floats) -> Floats:
    """Return the correlation of each pair of pictures, float32 (pairs,) in -1..1.

    Args:
        first: float32 (pairs, height, width).
        second: float32 (pairs, height, width).
    """
    return _products(normalized(first), normalized(second))


def _products(first: Floats, second: Floats) -> Floats:
    return np.asarray(np.einsum("nij,nij->n", first, second), np.float32)


def aligned(first: Floats, second: Floats) -> Floats:
    """Return the highest correlation of each pair of thumbnails over small shifts and enlargements.

    The shifts are up to 2 of 32 pixels in both directions. The enlargements are up to 7 %, of either picture.

    Args:
        first: float32 (pairs, 32, 32).
        second: float32 (pairs, 32, 32).
    """
    best = correlations(first, second)
    inner = SIDE - 2 * MARGIN
    for one, other in ((first, second), (second, first)):
        center = normalized(one[:, MARGIN : MARGIN + inner, MARGIN : MARGIN + inner])
        for y in range(2 * MARGIN + 1):
            for x in range(2 * MARGIN + 1):
                shifted = normalized(other[:, y : y + inner, x : x + inner])
                best = np.maximum(best, _products(center, shifted))
        whole = normalized(one)
        for size in WINDOWS:
            enlarge = _enlargement(size)
            for y in range(SIDE - size + 1):
                for x in range(SIDE - size + 1):
                    window = np.asarray(enlarge @ other[:, y : y + size, x : x + size] @ enlarge.T, np.float32)
                    best = np.maximum(best, _products(whole, normalized(window)))
    return best


def same_details(first: Floats, second: Floats, score: Floats) -> npt.NDArray[np.bool_]:
    """Return whether the thumbnails of each pair have the same details, bool (pairs,).

    Args:
        first: float32 (pairs, 32, 32).
        second: float32 (pairs, 32, 32).
        score: The correlation of each pair, float32 (pairs,). It decides where pictures have no details.
    """
    one, strength = _details(first)
    other, strength_of_other = _details(second)
    alike = correlations(one, other)
    unsure = np.flatnonzero(alike < SAME_DETAILS)
    if len(unsure):
        alike[unsure] = aligned(one[unsure], other[unsure])
    smooth = np.minimum(strength, strength_of_other) < NO_DETAILS
    return np.asarray((alike >= SAME_DETAILS) | (smooth & (score >= SMOOTH_SIMILAR)))


def _details(pictures: Floats) -> tuple[Floats, Floats]:
    """Return the details of pictures, with the same contrast everywhere, and their contrast before that.

    Args:
        pictures: float32 (pictures, height, width).
    """
    from scipy.ndimage import gaussian_filter

    reach = (0, AROUND, AROUND)
    details = pictures - gaussian_filter(pictures, reach)
    contrast = np.sqrt(gaussian_filter(details * details, reach))
    return details / (contrast + np.float32(FAINT)), details.std(axis=(1, 2))


@functools.cache
def _enlargement(size: int) -> Floats:
    """Return the matrix (32, size) that enlarges `size` pixels to 32 by linear interpolation."""
    places = np.clip((np.arange(SIDE) + 0.5) * size / SIDE - 0.5, 0, size - 1)
    left = np.minimum(places.astype(int), size - 2)
    matrix = np.zeros((SIDE, size), np.float32)
    matrix[np.arange(SIDE), left] = 1 - (places - left)
    matrix[np.arange(SIDE), left + 1] += places - left
    return matrix


def is_copy(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> bool:
    """Return whether two decoded pictures are the same picture, saved twice: at another quality, size or format.

    Crops, frames of a burst, and the same picture in other colors or another brightness are not copies.

    Args:
        first: uint8 (height, width, channels).
        second: uint8 (height, width, channels), mirrored already if the pictures are mirror images.
    """
    difference = np.abs(_mean_colors(first) - _mean_colors(second))
    return float(difference.mean()) <= COPY_MEAN and float(difference.max()) <= COPY_MOST


def _mean_colors(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the mean colors of 16 x 16 areas of a picture, float32 (16, 16) or (16, 16, 3)."""
    from PIL import Image

    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else np.ascontiguousarray(picture))
    return np.asarray(image.resize((GRID, GRID), Image.Resampling.BOX, reducing_gap=1.0), np.float32)
