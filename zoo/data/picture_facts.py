"""Describes pictures by what their headers say: formats, sizes and cameras. No pixels are decoded.

`zoo.data.check.headers` reads the header of one picture for the data check. The camera comes from EXIF; only the number
of different cameras is returned, because their names say something about the people who took the pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from zoo.data.check.headers import any_size
from zoo.data.sources import Picture

# More headers take time and change little.
MOST = 512
MAKE, MODEL = 0x010F, 0x0110


def describe(pictures: Iterable[Picture]) -> dict[str, Any]:
    """Describe pictures, or an equally spaced part of them if there are more than `MOST`.

    Returns:
        `read` (the number of headers that could be read), `of` (the number of pictures), `formats` (Pillow's name of
        each format and how often it occurs), `smallest`, `median` and `largest` ([width, height] in pixels, ordered by
        area), `with_camera` (the number of pictures whose EXIF names a camera) and `cameras` (the number of different
        ones). Empty if no header can be read.
    """
    listed = list(pictures)
    places = {round(place) for place in np.linspace(0, len(listed) - 1, min(MOST, len(listed)))}
    with any_size():
        read = [header for header in (_header(listed[place]) for place in sorted(places)) if header is not None]
    if not read:
        return {}
    sizes = sorted((size for _, size, _ in read), key=lambda size: (size[0] * size[1], size))
    cameras = [camera for _, _, camera in read if camera]
    return {
        "read": len(read),
        "of": len(listed),
        "formats": dict(sorted(Counter(format for format, _, _ in read).items())),
        "smallest": list(sizes[0]),
        "median": list(sizes[len(sizes) // 2]),
        "largest": list(sizes[-1]),
        "with_camera": len(cameras),
        "cameras": len(set(cameras)),
    }


def _header(picture: Picture) -> tuple[str, tuple[int, int], str] | None:
    """Return format, (width, height) as stored, and the camera of a picture; None if its header cannot be read."""
    from PIL import Image

    if isinstance(picture.content, np.ndarray):
        height, width = picture.content.shape[:2]
        return "array", (width, height), ""
    try:
        with picture.open() as stream, Image.open(stream) as image:
            # Of a PNG, Pillow loads all pixels to see whether EXIF follows them, unless the base class is asked.
            exif = Image.Image.getexif(image)
            camera = " ".join(str(exif.get(tag, "")).strip("\0 ") for tag in (MAKE, MODEL)).strip()
            return image.format or "unknown", image.size, camera
    except Exception:
        # Pillow's parsers raise OSError, SyntaxError, ValueError, struct.error and more.
        return None
