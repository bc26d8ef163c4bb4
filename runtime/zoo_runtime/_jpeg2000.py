"""Checks the structure of a JPEG 2000 file: whether all tiles are there, and into how many pieces it is divided.

OpenJPEG leaves a missing tile black. It also makes an object for each tile, precinct and code block before it decodes
anything, so that a file of 100 bytes could take all memory.

The source is ITU-T T.800, annex A. Numbers are big-endian.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import BinaryIO

from ._errors import CorruptPicture

_DAMAGED = "its codestream is damaged"
_SOC, _SOT, _SOD, _EOC, _SIZ, _COD, _COC = 0xFF4F, 0xFF90, 0xFF93, 0xFFD9, 0xFF51, 0xFF52, 0xFF53
# 8,192 tiles take 100 MB.
_MOST_TILES = 8_192
_MOST_TILE_PARTS = 100_000
# Precincts and code blocks. A photograph of 27 megapixels in the usual blocks of 64 x 64 has 20,000.
_MOST_PIECES = 500_000
_MOST_LAYERED = 4_000_000
_LARGEST_FILE = 2**30


@dataclass(frozen=True)
class _Size:
    """Describes the picture and its tiles, as the segment SIZ does. All numbers are pixels of the reference grid."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    tiles: int
    components: int


def check(stream: BinaryIO) -> None:
    """Check the structure of a JPEG 2000 file before it is loaded.

    Raises:
        CorruptPicture: If a tile is missing, the structure is damaged, or the picture is divided into so many pieces
            that decoding it would take very much memory.
    """
    if stream.seek(0, os.SEEK_END) > _LARGEST_FILE:
        raise CorruptPicture(f"the file has more than {_LARGEST_FILE:,} bytes")
    stream.seek(0)
    data = stream.read()
    stream.seek(0)
    place = _codestream(data)
    size: _Size | None = None
    found: set[int] = set()
    parts = 0
    while place + 4 <= len(data):
        marker, length = _number(data, place, 2), _number(data, place + 2, 2)
        if marker == _EOC:
            break
        if marker == _SOC:
            place += 2
            continue
        if marker == _SIZ:
            size = _read_size(data[place + 4 : place + 2 + length])
        elif size is None:
            raise CorruptPicture(_DAMAGED)
        elif marker in (_COD, _COC):
            _check_pieces(data[place + 4 : place + 2 + length], size, marker)
        elif marker == _SOT:
            parts += 1
            if parts > _MOST_TILE_PARTS:
                raise CorruptPicture(f"it has more than {_MOST_TILE_PARTS:,} parts")
            found.add(_number(data, place + 4, 2))
            place = _end_of_part(data, place, size)
            continue
        place += 2 + max(2, length)
    if size is None:
        raise CorruptPicture(_DAMAGED)
    missing = size.tiles - len(found & set(range(size.tiles)))
    if missing:
        raise CorruptPicture(f"{missing:,} of the {size.tiles:,} tiles of the picture are missing")


def _codestream(data: bytes) -> int:
    """Return where the codestream begins: at once, or within a box of that name."""
    if data.startswith(b"\xff\x4f\xff\x51"):
        return 0
    place = 0
    while place + 8 <= len(data):
        length, kind = _number(data, place, 4), data[place + 4 : place + 8]
        header = 16 if length == 1 else 8
        if kind == b"jp2c":
            return place + header
        length = _number(data, place + 8, 8) if length == 1 else length
        if length < header:
            break
        place += length
    raise CorruptPicture(_DAMAGED)


def _number(data: bytes, place: int, count: int) -> int:
    return int.from_bytes(data[place : place + count], "big")


def _read_size(body: bytes) -> _Size:
    if len(body) < 36:
        raise CorruptPicture(_DAMAGED)
    right, bottom, left, top, width, height, tiles_left, tiles_top = (_number(body, at, 4) for at in range(2, 34, 4))
    if not (width and height and right > left and bottom > top) or tiles_left > left or tiles_top > top:
        raise CorruptPicture(_DAMAGED)
    tiles = -(-(right - tiles_left) // width) * -(-(bottom - tiles_top) // height)
    if tiles > _MOST_TILES:
        raise CorruptPicture(f"it is divided into {tiles:,} tiles. At most {_MOST_TILES:,} are read")
    return _Size(right - left, bottom - top, width, height, tiles, _number(body, 34, 2))


def _check_pieces(body: bytes, size: _Size, marker: int) -> None:
    """Raise CorruptPicture if the segment COD or COC divides the picture into too many precincts and code blocks."""
    layers = 1
    if marker == _COD:
        has_precincts, layers, body = bool(body[:1] and body[0] & 1), _number(body, 2, 2), body[5:]
    else:
        body = body[1 if size.components < 257 else 2 :]
        has_precincts, body = bool(body[:1] and body[0] & 1), body[1:]
    if len(body) < 5:
        raise CorruptPicture(_DAMAGED)
    levels, block = min(body[0], 32), (body[1] & 15) + (body[2] & 15) + 4
    precincts = blocks = 0
    for resolution in range(levels + 1):
        scale = levels - resolution
        code = body[5 + resolution] if has_precincts and len(body) > 5 + resolution else 0xFF
        area = (_scaled(size.tile_width, size.width, scale), _scaled(size.tile_height, size.height, scale))
        across, down = (-(-side // 2**bits) for side, bits in zip(area, (code & 15, code >> 4), strict=True))
        precincts += size.tiles * size.components * across * down
        # A block is at most as large as its precinct.
        block_bits = min(block, max(0, (code & 15) + (code >> 4) - (2 if resolution else 0)))
        blocks += size.tiles * size.components * -(-area[0] * area[1] // 2**block_bits)
    if precincts + blocks > _MOST_PIECES or precincts * layers > _MOST_LAYERED:
        raise CorruptPicture("it is divided into so many pieces that it would take very much memory")


def _scaled(tile: int, whole: int, levels: int) -> int:
    return -(-min(tile, whole) // (1 << levels))


def _end_of_part(data: bytes, place: int, size: _Size) -> int:
    """Check the segments of a part of a tile. Return where the part ends."""
    length = _number(data, place + 6, 4)
    end = place + length if length else len(data)
    if length and length < 14:
        raise CorruptPicture(_DAMAGED)
    at = place + 12
    while at + 4 <= min(end, len(data)):
        marker = _number(data, at, 2)
        if marker == _SOD:
            break
        segment = _number(data, at + 2, 2)
        if marker in (_COD, _COC):
            _check_pieces(data[at + 4 : at + 2 + segment], size, marker)
        at += 2 + max(2, segment)
    return end
