"""Finds pairs of pictures whose perceptual hashes are close to each other.

The hash is pHash: the signs of the 8 x 8 lowest frequencies of the picture against their median. It has the same bits
as `imagehash.phash` (Johannes Buchner, BSD licence) on a thumbnail of 32 x 32 pixels. The method is from
https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html. Here all pictures are hashed together, and
the hashes of the mirrored and the turned picture come from the same frequencies, which takes a hundredth of the time.

docs/data-check.md compares it with other hashes.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from zoo_runtime.workshop import usable_cores

BITS = 64
LOWEST = 8
ROWS, COLUMNS = 256, 2048
# The candidates that each picture keeps. Pictures of a camera that does not move are all alike; pairs of each with each
# would not fit into memory, and a few links per picture join them all the same.
NEAREST = 8
# Hashes may differ in so many of 64 bits if there are up to so many pictures, and in `DISTANCE` bits if there are more.
# The number of pairs to compare grows with the square of the pictures, and twofold with each bit.
DISTANCES = ((10_000, 18), (30_000, 16))
DISTANCE = 14
# The same for turned copies. Those that were saved again differ in 4 bits at most, and their mean gray levels by 0.9.
TURNED_DISTANCE = 8
SAME_GRAY = 2.0

Signs = npt.NDArray[np.int8]
Scalar = TypeVar("Scalar", bound=np.generic)


class Orientation(NamedTuple):
    """One of the eight ways in which a copy can be mirrored and turned.

    Args:
        mirrored: Whether the picture is first mirrored from left to right.
        turned: How often it is then turned by a quarter, counterclockwise; 0 to 3.
    """

    mirrored: bool
    turned: int

    def of(self, pictures: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """Return pictures (pictures, height, width, ...) in this orientation. The result may be a view."""
        return np.rot90(pictures[:, :, ::-1] if self.mirrored else pictures, self.turned, axes=(1, 2))


UPRIGHT = tuple(Orientation(mirrored, 0) for mirrored in (False, True))
TURNED = tuple(Orientation(mirrored, turned) for mirrored in (False, True) for turned in (1, 2, 3))


@dataclass(frozen=True)
class Candidates:
    """Pairs of pictures that may be near-duplicates.

    Args:
        first: Indices of the first pictures, int64 (pairs,).
        second: Indices of the second pictures, int64 (pairs,), each above that of the first picture.
        mirrored: Whether the second picture resembles the mirrored first one, bool (pairs,).
        turned: How often the first picture must be turned by a quarter, after it is mirrored; int8 (pairs,).
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    mirrored: npt.NDArray[np.bool_]
    turned: npt.NDArray[np.int8]


def phash(thumbnails: npt.NDArray[np.uint8]) -> dict[Orientation, Signs]:
    """Compute the perceptual hashes of pictures in all eight orientations.

    Args:
        thumbnails: A uint8 array (pictures, 32, 32), gray levels.

    Returns:
        An int8 array (pictures, 64) of -1 and 1 for each orientation.
    """
    import scipy.fft

    plain = scipy.fft.dctn(thumbnails.astype(np.float32), axes=(1, 2))[:, :LOWEST, :LOWEST]
    # Mirroring a picture from left to right turns the sign of every second column of its frequencies, and upside down
    # that of every second row. A quarter turn exchanges rows and columns, and then mirrors upside down.
    signs = np.where(np.arange(LOWEST) % 2, -1, 1).astype(np.float32)
    hashes = {}
    for mirrored in (False, True):
        frequencies = plain * signs if mirrored else plain
        for turned in range(4):
            hashes[Orientation(mirrored, turned)] = _signs(frequencies)
            frequencies = frequencies.transpose(0, 2, 1) * signs[:, None]
    return hashes


def _signs(frequencies: npt.NDArray[np.float32]) -> Signs:
    flat = frequencies.reshape(len(frequencies), BITS)
    return np.where(flat > np.median(flat, axis=1, keepdims=True), 1, -1).astype(np.int8)


def distance_for(count: int) -> int:
    """Return in how many bits the hashes of two of so many pictures may differ."""
    return next((distance for most, distance in DISTANCES if count <= most), DISTANCE)


def candidates(hashes: Mapping[Orientation, Signs], gray: npt.NDArray[np.float32]) -> Candidates:
    """Find all pairs of pictures whose hashes are close, up to `NEAREST` per picture and orientation.

    The number of comparisons grows with the square of the number of pictures. They are products of matrices, block by
    block: 100,000 pictures take about a minute on 2 cores, and the memory does not grow with the pairs.

    Args:
        hashes: The hashes in all orientations; see `phash`.
        gray: The mean gray level of each picture, float32 (pictures,) in 0..255. A turned copy has nearly the level of
            the original, and pictures of other levels are not compared with it.

    Returns:
        The pairs. A pair of pictures may occur several times, in different orientations.
    """
    plain = hashes[UPRIGHT[0]]
    lowest = BITS - 2 * distance_for(len(plain))
    order = np.argsort(gray, kind="stable")
    by_gray, levels = np.ascontiguousarray(plain[order]), gray[order]
    tasks = [(start, way) for start in range(0, len(plain), ROWS) for way in (*UPRIGHT, *TURNED)]

    def work(task: tuple[int, Orientation]) -> Candidates:
        start, way = task
        block = slice(start, start + ROWS)
        if not way.turned:
            first, second = _near(hashes[way][block], plain, start, lowest)
            return _pairs(first, second, way)
        end = int(np.searchsorted(levels, levels[block][-1] + SAME_GRAY, side="right"))
        first, second = _near(hashes[way][order[block]], by_gray[:end], start, BITS - 2 * TURNED_DISTANCE)
        return _pairs(order[first], order[second], way)

    # Threads of our own share the work evenly; those of BLAS wait for one another where other programs run too.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(usable_cores()) as pool:
        found = [_pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), UPRIGHT[0]), *pool.map(work, tasks)]
    return Candidates(
        *(np.concatenate([getattr(each, name) for each in found]) for name in Candidates.__dataclass_fields__)
    )


def _pairs(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], way: Orientation) -> Candidates:
    """Return pairs of one orientation, each with the lower index first."""
    swapped = first > second
    # Two of the quarter turns are undone by the other one. All other orientations are undone by themselves.
    back = way.turned if way.mirrored else -way.turned % 4
    return Candidates(
        np.where(swapped, second, first),
        np.where(swapped, first, second),
        np.full(len(first), way.mirrored),
        np.where(swapped, back, way.turned).astype(np.int8),
    )


def _near(block: Signs, signs: Signs, start: int, lowest: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find the pairs of a block of hashes with all later hashes.

    Args:
        block: The hashes of the block, int8 (rows, 64).
        signs: All hashes, int8 (pictures, 64).
        start: The index of the first hash of the block.
        lowest: The smallest product of two hashes that makes a pair: 64 minus twice the distance.
    """
    rows = block.astype(np.float32)
    kept = [np.zeros((3, 0))]
    for left in range(start, len(signs), COLUMNS):
        products = rows @ signs[left : left + COLUMNS].astype(np.float32).T
        if left < start + len(rows):
            # A picture is paired with later ones only.
            places = np.arange(left, left + products.shape[1])
            products[places[None, :] <= np.arange(start, start + len(rows))[:, None]] = -BITS
        # Most rows have no near hash. Their maximum says so in a tenth of the time of a search.
        likely = np.flatnonzero(products.max(axis=1) >= lowest)
        row, column = np.nonzero(products[likely] >= lowest)
        row = likely[row]
        if len(row) > NEAREST * len(rows) and products.shape[1] > NEAREST:
            column = np.argpartition(products, -NEAREST, axis=1)[:, -NEAREST:].ravel()
            row = np.repeat(np.arange(len(rows)), NEAREST)
            near = products[row, column] >= lowest
            row, column = row[near], column[near]
        kept.append(np.stack([row, column + left, products[row, column]]))
    row, column, product = np.concatenate(kept, axis=1)
    order = np.lexsort((column, -product, row))
    row, column = row[order].astype(np.int64), column[order].astype(np.int64)
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    return row[rank < NEAREST] + start, column[rank < NEAREST]
