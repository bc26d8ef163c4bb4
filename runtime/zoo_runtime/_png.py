"""Checks the structure of a PNG: its checksums, whether all of its rows are there, and how many parts it has.

Pillow does not compare the checksums of coded data, and leaves rows black that the coded data lack. It expands every
color profile of a file, and reads chunk by chunk, so that a small file could keep it busy for minutes.
"""

from __future__ import annotations

import io
import math
import zlib
from typing import Any, BinaryIO

import numpy as np

from ._errors import CorruptPicture

# A picture has one color profile, and Pillow takes 2 ms to expand the beginning of each.
_MOST_PROFILES = 10
_MOST_OTHERS = 20_000
# 4 GB in the usual chunks of 8 kB.
_MOST_CHUNKS = 500_000
_PIECE = 1 << 20
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Left, top, step to the right and step down of the seven passes of an interlaced picture.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def refuse_endless(stream: BinaryIO) -> None:
    """Raise CorruptPicture if a PNG has so many chunks or color profiles that reading them would take long."""
    profiles = others = chunks = 0
    stream.seek(8)
    while len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
        chunks += 1
        profiles += head[4:] == b"iCCP"
        others += head[4:] not in (b"IDAT", b"fdAT", b"fcTL")
        if profiles > _MOST_PROFILES or others > _MOST_OTHERS or chunks > _MOST_CHUNKS:
            what = "color profiles" if profiles > _MOST_PROFILES else "chunks"
            raise CorruptPicture(f"it has more {what} than any usual picture, and would take very long to read")
        stream.seek(int.from_bytes(head[:4], "big") + 4, io.SEEK_CUR)


def check_checksums(stream: BinaryIO) -> None:
    """Raise CorruptPicture if a checksum of the coded data is wrong. Pillow does not compare them."""
    place = stream.tell()
    stream.seek(8)
    while len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
        length = int.from_bytes(head[:4], "big")
        if head[4:] != b"IDAT":
            stream.seek(length + 4, io.SEEK_CUR)
            continue
        data, checksum = stream.read(length), stream.read(4)
        # Pillow refuses data that end early, and says so. A file that lacks only the last checksum is complete.
        if len(checksum) == 4 and zlib.crc32(data, zlib.crc32(b"IDAT")) != int.from_bytes(checksum, "big"):
            raise CorruptPicture("a checksum of the coded data is wrong")
    stream.seek(place)


def check_rows(stream: BinaryIO, image: Any) -> None:
    """Raise CorruptPicture if the coded data of a loaded PNG have fewer rows than the picture.

    Pillow leaves the other rows black. So the data are counted only if the last row is black, or if the picture is
    interlaced, because then the last row may have pixels of earlier passes.

    Args:
        stream: The file, at any position.
        image: The loaded image, with its stored width and height.
    """
    place = stream.tell()
    stream.seek(16)
    header = stream.read(13)
    width, height = image.size
    if not header[12] and np.asarray(image.crop((0, height - 1, width, height))).any():
        stream.seek(place)
        return
    bits = header[8] * _CHANNELS.get(header[9], 4)
    left = _coded_bytes(width, height, bits, bool(header[12]))
    inflater = zlib.decompressobj()
    stream.seek(8)
    while left > 0 and len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
        length = int.from_bytes(head[:4], "big")
        if head[4:] != b"IDAT":
            stream.seek(length + 4, io.SEEK_CUR)
            continue
        data = stream.read(length)
        stream.seek(4, io.SEEK_CUR)
        while data and left > 0 and not inflater.eof:
            left -= len(inflater.decompress(data, _PIECE))
            data = inflater.unconsumed_tail
    if left > 0:
        left -= len(inflater.flush())
    stream.seek(place)
    if left > 0:
        raise CorruptPicture("the coded data end before the picture does")


def _coded_bytes(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Return how many bytes the rows of a picture have before compression, with one byte for the filter of each row.

    Args:
        width: In pixels.
        height: In pixels.
        bits: The bits of a pixel, with all of its channels.
        interlaced: Whether the rows come in seven passes.
    """
    total = 0
    for left, top, right, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = math.ceil((width - left) / right), math.ceil((height - top) / down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total
