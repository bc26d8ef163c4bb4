"""Reads what the header of a picture file says: format, size, mode and orientation. No pixels are decoded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from zoo.data.sources import Picture
from zoo_runtime import MAX_PIXELS

ORIENTATION = 0x0112


@dataclass(frozen=True)
class Header:
    """What the header of a picture says.

    Args:
        format: Pillow's name of the file format, such as "JPEG", or "array" for a picture that is not a file.
        size: (width, height) in pixels as stored, before the orientation is applied.
        mode: Pillow's name of the pixel format, such as "RGB", "L" or "CMYK".
        orientation: The EXIF orientation, 1 to 8. 1 means that the picture is stored upright.
    """

    format: str
    size: tuple[int, int]
    mode: str
    orientation: int = 1


@contextlib.contextmanager
def any_size() -> Iterator[None]:
    """Let Pillow open pictures of any size inside this context.

    Pillow warns above 89 million pixels and refuses above 179 million, although a header takes no memory. The context
    applies to all threads.
    """
    from PIL import Image

    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def read_header(picture: Picture) -> Header | None:
    """Return what the header of a picture says, or None if it cannot be read."""
    from PIL import Image

    if isinstance(picture.content, np.ndarray):
        height, width = picture.content.shape[:2]
        return Header("array", (width, height), "RGB" if picture.content.shape[2:] == (3,) else "L")
    try:
        with picture.open() as stream, Image.open(stream) as image:
            # Of a PNG, Pillow loads all pixels to see whether EXIF follows them, unless the base class is asked.
            small = image.width * image.height <= MAX_PIXELS
            exif = image.getexif() if small else Image.Image.getexif(image)
            orientation = exif.get(ORIENTATION, 1)
            fits = isinstance(orientation, int) and 1 <= orientation <= 8
            return Header(image.format or "unknown", image.size, image.mode, orientation if fits else 1)
    except Exception:
        # Pillow's parsers raise OSError, SyntaxError, ValueError, struct.error and more. The decoder says why.
        return None
