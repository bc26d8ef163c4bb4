"""Finds near-duplicates among decoded pictures: re-saved, resized, mirrored or cropped copies, and frames of a burst.

The links between them are kept beside the decoded pixels in the cache, so that a later run over the same pictures finds
them there. `zoo.data.check.groups` makes groups of them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zoo import files
from zoo.data.check import hashes, similarity, thumbnails
from zoo.data.check.headers import read_header
from zoo.data.pixels import MappedRows, Pixels
from zoo.data.sources import Picture
from zoo.errors import WriteError
from zoo_runtime import ImageSpec

# Hashes may differ in so many of 64 bits. Most pairs with more are different pictures.
DISTANCE = 12
# Pictures are near-duplicates from this correlation on; docs/data-check.md has the measurements.
SIMILAR = 0.93
# Below this correlation, no shift makes two pictures near-duplicates.
WORTH_ALIGNING = 0.5
# The correlation from which a pair may be the same picture, saved twice.
COPY = 0.985
# Pictures with a side below this many pixels are alike without being copies, such as handwritten digits.
SMALL = 32
SMALL_SIMILAR = 0.999
BLOCK = 256
FILE = "links-1.npz"


@dataclass(frozen=True)
class Links:
    """Pairs of near-duplicates, and pictures that show nothing.

    A picture of which byte-equal copies exist is represented by the first of them.

    Args:
        first: Indices of the first pictures, int64 (pairs,), ascending.
        second: Indices of the second pictures, int64 (pairs,), each above that of the first picture.
        score: The correlation of each pair, float32 (pairs,) in 0..1, at the best shift.
        mirrored: Whether the pictures of the pair are mirror images, bool (pairs,).
        copy: Whether both are the same picture, saved twice; bool (pairs,). Otherwise one is a crop, a frame of the
            same burst, or has other colors.
        blank: Indices of pictures of a single color, int64, ascending.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    score: npt.NDArray[np.float32]
    mirrored: npt.NDArray[np.bool_]
    copy: npt.NDArray[np.bool_]
    blank: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first)


def find(pictures: Sequence[Picture], pixels: Pixels, spec: ImageSpec) -> Links:
    """Find the near-duplicates among pictures. If an earlier run has found them, the result comes from the cache.

    Args:
        pictures: The pictures, in the order of `pixels`.
        pixels: The decoded pictures. Those that could not be decoded are left out.
        spec: How the pictures were decoded.
    """
    folder = files.cache() / "pixels" / pixels.key
    kept = _read(folder / FILE, len(pictures))
    if kept is not None:
        return kept
    thumbs = thumbnails.make(pixels, folder, padded=spec.resize == "pad")
    rows, blank = _comparable(thumbs, pixels)
    # Small arrays, such as handwritten digits, are alike in great numbers. Their equal copies have equal digests.
    rows = rows[[not isinstance(pictures[i].content, np.ndarray) or not _is_small(pictures[i]) for i in rows]]
    pairs = hashes.candidates(*_hashes(thumbs, rows), distance=DISTANCE)
    links = _verify(pictures, pixels, thumbs, rows, pairs, blank)
    # A cache that cannot be written to costs time, and nothing else.
    with (
        contextlib.suppress(WriteError),
        files.atomic_write(folder / FILE) as temporary,
        temporary.open("wb") as stream,
    ):
        np.savez(stream, count=len(pictures), **vars(links))
    return links


def _read(path: Path, count: int) -> Links | None:
    """Read links from the cache. Return None if they are missing or damaged."""
    try:
        # numpy leaves a damaged file open that it opened itself.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            if int(arrays["count"]) != count:
                return None
            return Links(**{name: arrays[name] for name in Links.__dataclass_fields__})
    except Exception:
        # The errors that zipfile, zlib and numpy raise for a damaged file have no common base class.
        return None


def _comparable(thumbs: npt.NDArray[np.uint8], pixels: Pixels) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the indices of the pictures to compare, and of the blank ones.

    Byte-equal copies are compared once. Pictures with too little contrast are not compared.
    """
    first = {pixels.digests[i]: i for i in reversed(pixels.usable)}
    unique = np.array(sorted(first.values()), dtype=np.int64)
    reader = MappedRows(thumbs)
    blocks = [unique[start : start + 16 * BLOCK] for start in range(0, len(unique), 16 * BLOCK)]
    contrast = np.concatenate([reader[block].std(axis=(1, 2)) for block in blocks] or [np.zeros(0)])
    blank = {pixels.digests[i] for i in unique[contrast < 1]}
    return unique[contrast >= similarity.LEAST_CONTRAST], np.array(
        [i for i in pixels.usable if pixels.digests[i] in blank], dtype=np.int64
    )


def _hashes(thumbs: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]) -> tuple[hashes.Signs, hashes.Signs]:
    """Return the hashes of some pictures and of their mirror images."""
    reader = MappedRows(thumbs)
    blocks = [rows[start : start + 16 * BLOCK] for start in range(0, len(rows), 16 * BLOCK)]
    parts = [hashes.phash(reader[block]) for block in blocks] or [hashes.phash(thumbs[:0])]
    plain, mirrored = zip(*parts, strict=True)
    return np.concatenate(plain), np.concatenate(mirrored)


def _verify(
    pictures: Sequence[Picture],
    pixels: Pixels,
    thumbs: npt.NDArray[np.uint8],
    rows: npt.NDArray[np.int64],
    pairs: hashes.Candidates,
    blank: npt.NDArray[np.int64],
) -> Links:
    """Keep the candidates whose thumbnails are alike.

    Args:
        pictures: All pictures.
        pixels: The decoded pictures.
        thumbs: The thumbnails, uint8 (pictures, 32, 32).
        rows: The indices of the pictures that were hashed. The pairs are places in this array.
        pairs: The candidates.
        blank: The indices of blank pictures.
    """
    is_small = functools.cache(lambda i: _is_small(pictures[i]))
    reader, colors = MappedRows(thumbs), MappedRows(pixels.array)
    found: list[Links] = []
    for start in range(0, len(pairs.first), BLOCK):
        block = slice(start, start + BLOCK)
        first, second, flipped = rows[pairs.first[block]], rows[pairs.second[block]], pairs.mirrored[block]
        score, kept = _alike(reader, first, second, flipped, is_small)
        first, second, flipped, score = first[kept], second[kept], flipped[kept], score[kept]
        copy = np.array(
            [
                bool(score[k] >= COPY and _same_colors(colors, first[k], second[k], mirror=flipped[k]))
                for k in range(len(kept))
            ],
            bool,
        )
        found.append(Links(first, second, score, flipped, copy, blank))
    return _joined(found, blank)


def _joined(found: Sequence[Links], blank: npt.NDArray[np.int64]) -> Links:
    """Join links, sort them, and keep one of each pair of pictures."""
    if not found:
        empty = np.zeros(0, np.int64)
        return Links(empty, empty, np.zeros(0, np.float32), np.zeros(0, bool), np.zeros(0, bool), blank)
    first = np.concatenate([each.first for each in found])
    second = np.concatenate([each.second for each in found])
    score = np.concatenate([each.score for each in found])
    mirrored = np.concatenate([each.mirrored for each in found])
    copy = np.concatenate([each.copy for each in found])
    # Symmetric pictures are alike both ways; the better one counts, and of equal ones the unmirrored one.
    order = np.lexsort((mirrored, -score, second, first))
    first, second = first[order], second[order]
    new = np.ones(len(first), bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    kept = order[new]
    return Links(first[new], second[new], score[kept], mirrored[kept], copy[kept], blank)


def _alike(
    reader: MappedRows,
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
    flipped: npt.NDArray[np.bool_],
    is_small: Callable[[int], bool],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the score of each pair of a block, and the places of the pairs that are near-duplicates."""
    one, other = reader[first].astype(np.float32), reader[second].astype(np.float32)
    other[flipped] = other[flipped][:, :, ::-1]
    score = similarity.correlations(one, other)
    small = np.zeros(len(score), bool)
    for place in np.flatnonzero(score >= WORTH_ALIGNING):
        small[place] = is_small(int(first[place])) or is_small(int(second[place]))
    shifted = np.flatnonzero((score >= WORTH_ALIGNING) & (score < SIMILAR) & ~small)
    if len(shifted):
        score[shifted] = similarity.aligned(one[shifted], other[shifted])
    kept = np.flatnonzero(np.where(small, (score >= SMALL_SIMILAR) & ~flipped, score >= SIMILAR))
    return score, kept


def _same_colors(reader: MappedRows, i: np.int64, j: np.int64, *, mirror: np.bool_) -> bool:
    one, other = reader[np.array([i, j])]
    return similarity.is_copy(one, other[:, ::-1] if mirror else other)


def _is_small(picture: Picture) -> bool:
    """Return whether a side of a picture, as it is stored, has less than 32 pixels."""
    if isinstance(picture.content, np.ndarray):
        return min(picture.content.shape[:2]) < SMALL
    header = read_header(picture)
    return header is not None and min(header.size) < SMALL
