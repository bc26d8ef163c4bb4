"""Finds near-duplicates among decoded pictures: re-saved, resized, mirrored, turned or cropped copies, and bursts.

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
from zoo.data.check.hashes import Orientation
from zoo.data.check.headers import read_header
from zoo.data.pixels import MappedRows, Pixels
from zoo.data.sources import Picture
from zoo.errors import WriteError
from zoo_runtime import ImageSpec

# Pictures with the same details are near-duplicates from this correlation on; docs/data-check.md has the measurements.
SIMILAR = 0.9
# Below this correlation, hardly any shift makes two pictures near-duplicates.
WORTH_ALIGNING = 0.6
# The correlation from which a pair may be the same picture, saved twice.
COPY = 0.985
# Pictures with a side below this many pixels are alike without being copies, such as handwritten digits.
SMALL = 32
SMALL_SIMILAR = 0.999
BLOCK = 256
# The name changes with the rule, so that links by an older rule are not used.
FILE = "links-2.npz"


@dataclass(frozen=True)
class Links:
    """Pairs of near-duplicates, and pictures that show nothing.

    A picture of which byte-equal copies exist is represented by the first of them.

    Args:
        first: Indices of the first pictures, int64 (pairs,), ascending.
        second: Indices of the second pictures, int64 (pairs,), each above that of the first picture.
        score: The correlation of each pair, float32 (pairs,) in 0..1, at the best shift.
        mirrored: Whether the pictures of the pair are mirror images, bool (pairs,).
        turned: How often the first picture, after it is mirrored, must be turned by a quarter counterclockwise, to look
            like the second one; int8 (pairs,).
        copy: Whether both are the same picture, saved twice; bool (pairs,). Otherwise one is a crop, a frame of the
            same burst, has other colors, or is turned.
        blank: Indices of pictures of a single color, int64, ascending.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    score: npt.NDArray[np.float32]
    mirrored: npt.NDArray[np.bool_]
    turned: npt.NDArray[np.int8]
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
    pairs = _candidates(thumbs, rows)
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
    contrast = np.concatenate([reader[block].std(axis=(1, 2), dtype=np.float32) for block in blocks] or [np.zeros(0)])
    reader.release()
    blank = {pixels.digests[i] for i in unique[contrast < 1]}
    return unique[contrast >= similarity.LEAST_CONTRAST], np.array(
        [i for i in pixels.usable if pixels.digests[i] in blank], dtype=np.int64
    )


def _candidates(thumbs: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]) -> hashes.Candidates:
    """Return the pairs of pictures with near hashes, as places in `rows`."""
    reader = MappedRows(thumbs)
    blocks = [rows[start : start + 16 * BLOCK] for start in range(0, len(rows), 16 * BLOCK)]
    signs = {way: np.zeros((len(rows), hashes.BITS), np.int8) for way in (*hashes.UPRIGHT, *hashes.TURNED)}
    gray = np.zeros(len(rows), np.float32)
    for number, block in enumerate(blocks):
        pictures = reader[block]
        places = slice(number * len(blocks[0]), number * len(blocks[0]) + len(block))
        for way, values in hashes.phash(pictures).items():
            signs[way][places] = values
        gray[places] = pictures.mean(axis=(1, 2), dtype=np.float32)
    reader.release()
    return hashes.candidates(signs, gray)


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
    found = [_without_links(blank)]
    for start in range(0, len(pairs.first), BLOCK):
        block = slice(start, start + BLOCK)
        first, second = rows[pairs.first[block]], rows[pairs.second[block]]
        ways = [
            Orientation(bool(mirrored), int(turned))
            for mirrored, turned in zip(pairs.mirrored[block], pairs.turned[block], strict=True)
        ]
        turned = pairs.turned[block] > 0
        score, kept = _alike(reader, first, second, ways, is_small)
        same = np.array([score[k] >= COPY and _same_colors(colors, first[k], second[k], ways[k]) for k in kept], bool)
        # Only the same picture counts if it is turned. But it is not called a copy: it may be meant to be turned.
        real = same | ~turned[kept]
        kept, same = kept[real], (same & ~turned[kept])[real]
        flipped, quarters = pairs.mirrored[block][kept], pairs.turned[block][kept]
        found.append(Links(first[kept], second[kept], score[kept], flipped, quarters, same, blank))
    reader.release()
    colors.release()
    return _joined(found, blank)


def _without_links(blank: npt.NDArray[np.int64]) -> Links:
    empty, no = np.zeros(0, np.int64), np.zeros(0, bool)
    return Links(empty, empty, np.zeros(0, np.float32), no, np.zeros(0, np.int8), no, blank)


def _joined(found: Sequence[Links], blank: npt.NDArray[np.int64]) -> Links:
    """Join links, sort them, and keep one of each pair of pictures."""
    names = [name for name in Links.__dataclass_fields__ if name != "blank"]
    values = {name: np.concatenate([getattr(each, name) for each in found]) for name in names}
    first, second = values["first"], values["second"]
    # Symmetric pictures are alike in several orientations. Upright ones come first, then the best one, and of equal
    # ones the unmirrored one.
    order = np.lexsort((values["mirrored"], -values["score"], values["turned"] > 0, second, first))
    first, second = first[order], second[order]
    new = np.ones(len(first), bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    kept = order[new]
    return Links(**{name: array[kept] for name, array in values.items()}, blank=blank)


def _alike(
    reader: MappedRows,
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
    ways: Sequence[Orientation],
    is_small: Callable[[int], bool],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the score of each pair of a block, and the places of the pairs that are near-duplicates."""
    one, other = reader[first].astype(np.float32), reader[second].astype(np.float32)
    for way in set(ways) - {hashes.UPRIGHT[0]}:
        places = [k for k, each in enumerate(ways) if each == way]
        one[places] = way.of(one[places])
    upright = np.array([way == hashes.UPRIGHT[0] for way in ways])
    turned = np.array([way.turned > 0 for way in ways])
    score = similarity.correlations(one, other)
    small = np.zeros(len(score), bool)
    for place in np.flatnonzero(score >= WORTH_ALIGNING):
        small[place] = is_small(int(first[place])) or is_small(int(second[place]))
    shifted = np.flatnonzero((score >= WORTH_ALIGNING) & (score < SIMILAR) & ~small & ~turned)
    if len(shifted):
        score[shifted] = similarity.aligned(one[shifted], other[shifted])
    likely = np.where(turned, score >= COPY, score >= SIMILAR)
    likely[small] = ((score >= SMALL_SIMILAR) & upright)[small]
    kept = np.flatnonzero(likely)
    if len(kept):
        kept = kept[similarity.same_details(one[kept], other[kept], score[kept]) | small[kept]]
    return score, kept


def _same_colors(reader: MappedRows, i: np.int64, j: np.int64, way: Orientation) -> bool:
    one, other = reader[np.array([i])], reader[np.array([j])]
    return similarity.is_copy(np.ascontiguousarray(way.of(one)[0]), other[0])


def _is_small(picture: Picture) -> bool:
    """Return whether a side of a picture, as it is stored, has less than 32 pixels."""
    if isinstance(picture.content, np.ndarray):
        return min(picture.content.shape[:2]) < SMALL
    header = read_header(picture)
    return header is not None and min(header.size) < SMALL
