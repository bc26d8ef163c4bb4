"""Finds pairs of pictures whose perceptual hashes are close to each other.

The hash is pHash: the signs of the 8 x 8 lowest frequencies of the picture against their median. It has the same bits
as `imagehash.phash` (Johannes Buchner, BSD licence) on a thumbnail of 32 x 32 pixels. The method is from
https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html. Here all pictures are hashed together, and
the hash of the mirrored picture comes from the same frequencies, which takes a hundredth of the time.

docs/data-check.md compares it with other hashes.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

BITS = 64
LOWEST = 8
ROWS, COLUMNS = 256, 2048
# The candidates that each picture keeps. Pictures of a camera that does not move are all alike; pairs of each with each
# would not fit into memory, and a few links per picture join them all the same.
NEAREST = 8

Signs = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Candidates:
    """Pairs of pictures that may be near-duplicates.

    Args:
        first: Indices of the first pictures, int64 (pairs,).
        second: Indices of the second pictures, int64 (pairs,), each above that of the first picture.
        mirrored: Whether the first picture resembles the mirrored second one, bool (pairs,).
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    mirrored: npt.NDArray[np.bool_]


def phash(thumbnails: npt.NDArray[np.uint8]) -> tuple[Signs, Signs]:
    """Compute the perceptual hashes of pictures and of their mirror images.

    Args:
        thumbnails: A uint8 array (pictures, 32, 32), gray levels.

    Returns:
        Two int8 arrays (pictures, 64) of -1 and 1.
    """
    import scipy.fft

    frequencies = scipy.fft.dctn(thumbnails.astype(np.float32), axes=(1, 2))[:, :LOWEST, :LOWEST]
    # Mirroring a picture from left to right turns the sign of every second column of its frequencies.
    mirror = np.where(np.arange(LOWEST) % 2, -1, 1).astype(np.float32)
    return _signs(frequencies), _signs(frequencies * mirror)


def _signs(frequencies: npt.NDArray[np.float32]) -> Signs:
    flat = frequencies.reshape(len(frequencies), BITS)
    return np.where(flat > np.median(flat, axis=1, keepdims=True), 1, -1).astype(np.int8)


def candidates(plain: Signs, mirrored: Signs, *, distance: int) -> Candidates:
    """Find all pairs of hashes that differ in at most `distance` bits, up to `NEAREST` per picture and orientation.

    The number of comparisons grows with the square of the number of pictures. They are products of matrices, block by
    block: 100,000 pictures take about a minute on 2 cores, and the memory does not grow with the pairs.

    Args:
        plain: The hashes of the pictures, int8 (pictures, 64) of -1 and 1.
        mirrored: The hashes of their mirror images, int8 (pictures, 64).
        distance: The greatest number of different bits.

    Returns:
        The pairs, in the order of their first picture. Each pair of pictures occurs once or twice, plain and mirrored.
    """
    tasks = [
        (start, signs, flipped)
        for start in range(0, len(plain), ROWS)
        for signs, flipped in ((plain, False), (mirrored, True))
    ]
    lowest = BITS - 2 * distance

    def work(task: tuple[int, Signs, bool]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], bool]:
        start, signs, flipped = task
        return *_near(signs[start : start + ROWS].astype(np.float32), plain, start, lowest), flipped

    empty = np.zeros(0, np.int64)
    # Threads of our own share the work evenly; those of BLAS wait for one another where other programs run too.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = [(empty, empty, False), *pool.map(work, tasks)]
    return Candidates(
        np.concatenate([first for first, _, _ in found]),
        np.concatenate([second for _, second, _ in found]),
        np.concatenate([np.full(len(first), flipped) for first, _, flipped in found]),
    )


def _near(
    rows: npt.NDArray[np.float32], signs: Signs, start: int, lowest: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find the pairs of a block of hashes with all later hashes.

    Args:
        rows: The hashes of the block, float32 (rows, 64).
        signs: All hashes, int8 (pictures, 64).
        start: The index of the first hash of the block.
        lowest: The smallest product of two hashes that makes a pair: 64 minus twice the distance.
    """
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
