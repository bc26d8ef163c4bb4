"""Bounds the time that the header of a GIF or a PPM takes. Pillow reads both in small steps, without a bound."""

from __future__ import annotations

import os
import re
from typing import BinaryIO

from ._errors import CorruptPicture, UnsupportedPicture

# 25 MB of comments in usual blocks.
_MOST_BLOCKS = 100_000
_LONGEST_HEADER = 16_384
_PPM = rb"P[1-7fFy](?:\s++|#[^\r\n]*+[\r\n])*+\d++(?:\s++|#[^\r\n]*+[\r\n])*+\d++"
_LARGEST_TEXT = 10_000_000


def refuse_endless_gif(stream: BinaryIO) -> None:
    """Raise CorruptPicture if a GIF has very many blocks of comments and the like before its first picture."""
    stream.seek(10)
    flags = (stream.read(1) or b"\0")[0]
    stream.seek(13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0))
    blocks = 0
    while stream.read(1) == b"!":
        stream.read(1)
        while length := (stream.read(1) or b"\0")[0]:
            stream.seek(length, os.SEEK_CUR)
            blocks += 1
            if blocks > _MOST_BLOCKS:
                raise CorruptPicture(f"more than {_MOST_BLOCKS:,} blocks of comments stand before the picture")
        blocks += 1
        if blocks > _MOST_BLOCKS:
            raise CorruptPicture(f"more than {_MOST_BLOCKS:,} blocks of comments stand before the picture")


def refuse_endless_ppm(stream: BinaryIO) -> None:
    """Refuse a PPM with a very long header, or one whose pixels are text and very many.

    Raises:
        CorruptPicture: If width and height do not stand within the first 16 kB.
        UnsupportedPicture: If the pixels are text, and the file has more than 10 MB.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    start = stream.read(_LONGEST_HEADER)
    if len(start) == _LONGEST_HEADER and not re.match(_PPM, start):
        raise CorruptPicture(f"its width and height are not within the first {_LONGEST_HEADER:,} bytes")
    if start[:2] in (b"P1", b"P2", b"P3") and size > _LARGEST_TEXT:
        raise UnsupportedPicture(
            f"a PPM of {size:,} bytes whose pixels are text, which takes long to read. At most {_LARGEST_TEXT:,} bytes "
            "are read. Convert it: magick old.ppm new.png"
        )
