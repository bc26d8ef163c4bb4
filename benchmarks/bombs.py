"""Makes pictures that are small as files, and that would take minutes or gigabytes to read without bounds.

`benchmarks/hostile_pictures.py` and the tests of the runtime share them. Each is valid, or nearly so.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
from mutations import _chunk as chunk
from mutations import saved
from PIL import Image


def flat(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Return a picture of one color, whose file is small however large it is."""
    return Image.new(mode, (width, height), {"RGB": (90, 120, 60), "RGBA": (90, 120, 60, 200)}.get(mode, 1))


def _before_idat(extra: bytes) -> bytes:
    png = saved(flat(32, 32), "PNG")
    return png[:33] + extra + png[33:]


def _gif(blocks: bytes) -> bytes:
    gif = saved(flat(32, 32, "P"), "GIF")
    place = gif.index(b",\0\0\0\0")
    return gif[:place] + blocks + gif[place:]


def _jpeg(segments: bytes) -> bytes:
    jpeg = saved(flat(64, 64), "JPEG")
    return jpeg[:2] + segments + jpeg[2:]


def _scans(side: int, count: int) -> bytes:
    jpeg = saved(flat(side, side), "JPEG", progressive=True)
    return jpeg[:-2] + jpeg[jpeg.rindex(b"\xff\xda") : -2] * count + b"\xff\xd9"


def _tiff(tags: dict[int, tuple[int, np.ndarray]], data: bytes = b"") -> bytes:
    """Return a TIFF with these tags: numbers mapped to (type, values). The value -1 stands for where `data` begin."""
    begin = 8 + 2 + 12 * len(tags) + 4
    far = {tag: values for tag, (kind, values) in tags.items() if len(values) * (4 if kind == 4 else 2) > 4}
    place, places = begin, {}
    for tag, values in far.items():
        places[tag] = place
        place += len(values) * (4 if tags[tag][0] == 4 else 2)
    out, extra = b"II*\0" + struct.pack("<IH", 8, len(tags)), b""
    for tag, (kind, values) in sorted(tags.items()):
        raw = np.where(values == -1, place, values).astype("<u4" if kind == 4 else "<u2").tobytes()
        out += struct.pack("<HHI", tag, kind, len(values))
        out += struct.pack("<I", places[tag]) if tag in places else raw.ljust(4, b"\0")
        extra += raw if tag in places else b""
    return out + bytes(4) + extra + data


def _strips(count: int) -> bytes:
    one = {256: 32, 257: 32, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1}
    tags = {tag: (4, np.array([value])) for tag, value in one.items()}
    return _tiff({**tags, 273: (4, np.full(count, 8)), 279: (4, np.full(count, 32))})


def _tile(side: int) -> bytes:
    deflated = _megabyte()
    one = {256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: -1, 325: len(deflated)}
    return _tiff({tag: (4, np.array([value])) for tag, value in one.items()}, deflated)


def _tiles_2000(width: int, tile: int) -> bytes:
    data = bytearray(saved(flat(64, 64), "JPEG2000", no_jp2=True))
    place = data.index(b"\xff\x51") + 4
    struct.pack_into(">II", data, place + 2, width, width)
    struct.pack_into(">II", data, place + 18, tile, tile)
    return bytes(data)


def _precincts(side: int) -> bytes:
    data = bytearray(saved(flat(side, side), "JPEG2000", no_jp2=True, num_resolutions=1))
    place = data.index(b"\xff\x52")
    length = int.from_bytes(data[place + 2 : place + 4], "big")
    data[place + 4] |= 1
    body = bytes(data[place + 9] + 1)
    data[place + 2 : place + 4] = struct.pack(">H", length + len(body))
    data[place + 2 + length : place + 2 + length] = body
    return bytes(data)


def _small_blocks() -> bytes:
    data = bytearray(saved(flat(3000, 3000), "JPEG2000", no_jp2=True))
    place = data.index(b"\xff\x52")
    data[place + 10 : place + 12] = b"\0\0"
    return bytes(data)


def _avif_that_lies() -> bytes:
    data = bytearray(saved(flat(4000, 4000), "AVIF", speed=10))
    struct.pack_into(">II", data, data.index(b"ispe") + 8, 64, 64)
    return bytes(data)


def _megabyte() -> bytes:
    return zlib.compress(bytes(1 << 20))


BOMBS: dict[str, Callable[[], bytes]] = {
    "GIF: a million blocks of comments": lambda: _gif(b"!\xfe" + b"\1x" * 1_000_000 + b"\0"),
    "GIF: 400,000 comments": lambda: _gif(b"!\xfe\1x\0" * 400_000),
    "PNG: 2,000 color profiles of 1 MB": lambda: _before_idat(chunk(b"iCCP", b"p\0\0" + _megabyte()) * 2000),
    "PNG: 2,000 texts of 1 MB": lambda: _before_idat(chunk(b"zTXt", b"p\0\0" + _megabyte()) * 2000),
    "PNG: 500,000 chunks": lambda: _before_idat(chunk(b"quUx", b"") * 500_000),
    "PNG: a million empty chunks of data": lambda: _before_idat(chunk(b"IDAT", b"") * 1_000_000),
    "JPEG: 2,000 scans": lambda: _scans(4000, 2000),
    "JPEG: 10 MB of fill bytes": lambda: _jpeg(b"\xff" * 10_000_000),
    "JPEG: a million segments": lambda: _jpeg(b"\xff\xe1\0\2" * 1_000_000),
    "JPEG: a million profiles": lambda: _jpeg(b"\xff\xe2\0\x12ICC_PROFILE\0\1\1xx" * 1_000_000),
    "TIFF: a million strips": lambda: _strips(1_000_000),
    "TIFF: a tile of 30,000 x 30,000": lambda: _tile(30_000),
    "JPEG 2000: 62,500 tiles": lambda: _tiles_2000(9000, 36),
    "JPEG 2000: 65,025 tiles of one pixel": lambda: _tiles_2000(255, 1),
    "JPEG 2000: precincts of one pixel": lambda: _precincts(2000),
    "JPEG 2000: code blocks of 4 x 4": _small_blocks,
    "AVIF: 16 megapixels that claim to be 64 x 64": _avif_that_lies,
    "PPM: 10 MB of comments": lambda: b"P6\n" + b"#\n" * 5_000_000 + b"4 4\n255\n" + bytes(48),
    "PPM: 15 MB of text": lambda: b"P3 1580 1580 255\n" + b"1 " * (1580 * 1580 * 3),
    "PNG: 9,400 x 9,400 with alpha": lambda: saved(flat(9400, 9400, "RGBA"), "PNG"),
    "WebP: 9,400 x 9,400": lambda: saved(flat(9400, 9400), "WEBP", lossless=True, method=0),
    "AVIF: 9,400 x 9,400": lambda: saved(flat(9400, 9400), "AVIF", speed=10),
    "JPEG 2000: 9,400 x 9,400": lambda: saved(flat(9400, 9400), "JPEG2000"),
}
"""Files by what they are."""
