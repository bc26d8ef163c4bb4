"""Decides whether pictures are those of an earlier export, before any of them is decoded.

An export knows how many pictures its run used, and one digest of all of them. The run folder, where it is still there,
has the digest of each. Only pictures that cannot be decoded are missing in both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from zoo import runs
from zoo.data.dataset import digest_of
from zoo.data.names import normalized
from zoo.data.pixels import BAD_FRACTION, digests_of
from zoo.data.sources import Source
from zoo.errors import RunError
from zoo_runtime import ModelInfo

# How many pictures are read first. Each later round reads twice as many as the one before it.
FIRST = 32


def are_same(source: Source, info: ModelInfo, run: runs.Run) -> bool | None:
    """Return whether the pictures of a source, with their classes, are those of an earlier export.

    Files are read, but not decoded. Most sources of other pictures have another number of pictures, and need no
    reading, or are told apart by their first files.

    Args:
        source: The pictures.
        info: The metadata of the earlier export.
        run: The run folder of the earlier export, which may no longer exist.

    Returns:
        None if only decoding can tell: some pictures must then be unreadable, if the others are the same.
    """
    before, now = sum((info.data.get("counts") or {}).values()), len(source.pictures)
    if not before:
        return None
    # So many pictures cannot be decoded, if the others are the same.
    spare = now - before
    if not 0 <= spare <= BAD_FRACTION * now:
        return False
    try:
        left = Counter((row["sha256"], normalized(row["class"])) for row in run.pictures())
    except RunError:
        if spare:
            return None
        return digest_of(source, digests_of(source.pictures), range(now)) == info.data.get("digest")
    unknown = 0
    for rows in _rounds(now):
        pictures = [source.pictures[i] for i in rows]
        for picture, digest in zip(pictures, digests_of(pictures), strict=True):
            key = digest, normalized(source.class_of(picture))
            unknown += left[key] == 0
            left[key] -= left[key] > 0
        if unknown > spare:
            return False
    return None if spare else True


def _rounds(count: int) -> Iterator[Sequence[int]]:
    """Yield the numbers below `count` in rounds of growing size. The first rounds are spread over all numbers."""
    step = max(1, count // FIRST)
    order = [i for start in range(step) for i in range(start, count, step)]
    done, size = 0, FIRST
    while done < count:
        yield order[done : done + size]
        done, size = done + size, 2 * size
