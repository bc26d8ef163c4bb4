"""Checks the structure of a TIFF: whether all of its strips or tiles are there, and whether they hold what they should.

libtiff fills what is missing with gray or black. Pillow reads the tags of the header without a bound on their number.
"""

from __future__ import annotations

import importlib
import io
import math
import os
import zlib
from typing import Any, BinaryIO

from . import _jpeg
from ._errors import CorruptPicture

_COMPRESSION, _JPEG_TABLES, _NEW_JPEG = 259, 347, 7
_WIDTH, _HEIGHT, _ROWS_PER_STRIP, _SAMPLES, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 278, 277, 284, 322, 323
_BITS = 258
_DEFLATE = (8, 32946)
_PIECE = 1 << 20
# Offsets and lengths of strips, and of tiles.
_PARTS = ((273, 279), (324, 325))
# The tags that describe the pixels. Pillow turns their values into Python objects.
_OF_PIXELS = range(254, 701)
_AS_BYTES = (1, 2, 6, 7)
# 65,535 rows, each in a strip of its own, of two colors. They take 1 s.
_MOST_VALUES = 2 * 65_536
_MOST_TAGS = 4096


def refuse_endless(stream: BinaryIO) -> None:
    """Raise CorruptPicture if the header of a TIFF has so many values that reading them would take long.

    A header that is damaged in another way is left to Pillow.
    """
    end = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    prefix = stream.read(16)
    order = "little" if prefix.startswith(b"II") else "big"
    is_big = int.from_bytes(prefix[2:4], order) == 43  # type: ignore[arg-type]

    def number(data: bytes) -> int:
        return int.from_bytes(data, order)  # type: ignore[arg-type]

    stream.seek(min(number(prefix[8:16]) if is_big else number(prefix[4:8]), end))
    count = number(stream.read(8 if is_big else 2))
    if count > _MOST_TAGS:
        raise CorruptPicture(f"its header has {count:,} tags, more than any usual picture")
    size = 20 if is_big else 12
    entries = stream.read(count * size)
    for start in range(0, len(entries), size):
        tag, kind = number(entries[start : start + 2]), number(entries[start + 2 : start + 4])
        values = number(entries[start + 4 : start + (12 if is_big else 8)])
        if tag in _OF_PIXELS and kind not in _AS_BYTES and values > _MOST_VALUES:
            raise CorruptPicture(f"tag {tag} of its header has {values:,} values, more than any usual picture")


def part_bytes(tags: Any) -> int:
    """Return the memory in bytes that libtiff needs for a strip or a tile of a TIFF."""
    samples = _one(tags, _SAMPLES, 1) if _one(tags, _PLANAR, 1) == 1 else 1
    bits = max(_numbers(tags, _BITS) or (1,)) * samples
    width, height = _one(tags, _TILE_WIDTH, 0), _one(tags, _TILE_HEIGHT, 0)
    if not width or not height:
        width = _one(tags, _WIDTH, 0)
        height = min(_one(tags, _ROWS_PER_STRIP, 2**32 - 1), _one(tags, _HEIGHT, 0))
    return width * height * bits // 8


def check(stream: BinaryIO, image: Any) -> None:
    """Check the parts of a TIFF before it is loaded.

    Raises:
        CorruptPicture: If a strip or a tile is missing, is a JPEG that ends early, or has a wrong checksum.
    """
    tags = image.tag_v2
    place = stream.tell()
    _check_parts(tags)
    compression = tags.get(_COMPRESSION)
    if compression == _NEW_JPEG:
        _check_jpegs(stream, tags)
    elif compression in _DEFLATE:
        _check_deflate(stream, image)
    stream.seek(place)


def _layout(tags: Any) -> tuple[int, int, int, int]:
    """Return (width of a part, height of a part, parts beside one another, parts below one another), in pixels."""
    width, height = _one(tags, _WIDTH, 0), _one(tags, _HEIGHT, 0)
    part = _one(tags, _TILE_WIDTH, 0), _one(tags, _TILE_HEIGHT, 0)
    if not all(part):
        part = width, min(_one(tags, _ROWS_PER_STRIP, 2**32 - 1) or height, height)
    return *part, math.ceil(width / max(1, part[0])), math.ceil(height / max(1, part[1]))


def _check_parts(tags: Any) -> None:
    """Raise CorruptPicture if there are fewer strips or tiles than the picture needs, or one has no place."""
    *_, across, down = _layout(tags)
    needed = across * down * (_one(tags, _SAMPLES, 1) if _one(tags, _PLANAR, 1) == 2 else 1)
    offsets = _numbers(tags, _PARTS[0][0]) or _numbers(tags, _PARTS[1][0])
    if len(offsets) < needed or not all(offsets[:needed]):
        found = sum(map(bool, offsets[:needed]))
        raise CorruptPicture(f"only {found:,} of the {needed:,} parts of the picture are there")


def _check_jpegs(stream: BinaryIO, tags: Any) -> None:
    """Raise CorruptPicture if a strip or tile is a JPEG that ends early, or that is too small for its place."""
    tables = bytes(tags.get(_JPEG_TABLES, b""))
    width, height, across, _ = _layout(tags)
    is_tiled, whole = bool(_one(tags, _TILE_WIDTH, 0)), _one(tags, _HEIGHT, 0)
    for offsets, lengths in _PARTS:
        for i, (offset, length) in enumerate(zip(_numbers(tags, offsets), _numbers(tags, lengths), strict=False)):
            stream.seek(offset)
            part = stream.read(length)
            if len(part) < length or not part.startswith(b"\xff\xd8"):
                raise CorruptPicture(_jpeg.ENDS_EARLY)
            data = tables[:-2] + part[2:] if tables else part
            try:
                image = importlib.import_module("PIL.JpegImagePlugin").JpegImageFile(io.BytesIO(data))
            except SyntaxError:
                # Pillow knows no JPEG of 2 channels, for example. libtiff has the last word.
                continue
            rows = height if is_tiled else min(height, whole - i // max(1, across) * height)
            if _one(tags, _PLANAR, 1) == 1 and (image.width < width or image.height < rows):
                raise CorruptPicture(
                    f"a part of {image.width} x {image.height} pixels stands where {width} x {rows} are needed"
                )
            _jpeg.load(image, data, _jpeg.read_layout(data))


def _check_deflate(stream: BinaryIO, image: Any) -> None:
    """Raise CorruptPicture if a checksum of a strip or tile is wrong. libtiff stops before it reads them."""
    # The pixels of the whole picture, with 4 channels of 8 bytes, bound what the parts can expand to.
    left = 32 * image.width * image.height + _PIECE
    for offsets, lengths in _PARTS:
        for offset, length in zip(_numbers(image.tag_v2, offsets), _numbers(image.tag_v2, lengths), strict=False):
            stream.seek(offset)
            data, inflater = stream.read(length), zlib.decompressobj()
            try:
                while data and not inflater.eof and left > 0:
                    left -= len(inflater.decompress(data, _PIECE))
                    data = inflater.unconsumed_tail
            except zlib.error:
                raise CorruptPicture("a checksum of the coded data is wrong, or they are damaged") from None


def _numbers(tags: Any, tag: int) -> tuple[int, ...]:
    value = tags.get(tag, ())
    return value if isinstance(value, tuple) else (value,)


def _one(tags: Any, tag: int, default: int) -> int:
    """Return the whole number of a tag, or the default if there is none."""
    value = (_numbers(tags, tag) or (default,))[0]
    return value if isinstance(value, int) else default
