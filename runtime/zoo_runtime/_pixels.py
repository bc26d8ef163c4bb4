"""Converts loaded pictures to the pixels that a network receives: 8 bits, one size, upright, RGB or gray.

Pillow resizes rows and columns one after the other, and rounds in between. Up to version 12, it always began with the
rows. From 13 on, it begins with the columns if the height shrinks much more than the width, so that some levels differ
by 1 (https://github.com/python-pillow/Pillow/pull/9549). `resized` keeps the order of 13.0. Where another version would
choose another order, or might, it resizes rows and columns in two calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
from PIL import Image

from ._errors import UnsupportedPicture
from ._format import ImageSpec

if TYPE_CHECKING:
    import numpy.typing as npt

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The newest Pillow whose order of passes is known.
_KNOWN = (13, 0)
# Large pictures are converted in parts of this many pixels, so that memory holds few copies of them.
_PART = 4_000_000
_TRANSPARENT = (
    "every pixel is transparent, so nothing of the picture can be seen. If the colors are right and the alpha channel "
    "is a filler, save it without: Image.open(path).convert('RGBA').convert('RGB').save('new.png')"
)


def finish(image: Image.Image, spec: ImageSpec, orientation: int) -> npt.NDArray[np.uint8]:
    """Convert a loaded image to the pixels that the network receives.

    The image is converted to 8 bits, resized, turned by its EXIF orientation, padded, and converted to RGB or gray. It
    is turned after resizing, because a resized image is usually smaller and therefore faster to turn.

    Args:
        image: The image, not yet turned.
        spec: The target size, the channels and the resizing method.
        orientation: The EXIF orientation, 1 to 8. 1 means that the image is not turned.

    Returns:
        A uint8 array (height, width, channels), values 0..255.

    Raises:
        UnsupportedPicture: If the pixels are 32-bit floats or Lab, or if all of them are transparent.
    """
    image = resized(to_8_bit(image, spec.levels), spec, turned_target(spec, orientation))
    if orientation in TURNS:
        image = image.transpose(TURNS[orientation])
    height, width = spec.size
    if image.size != (width, height):
        padded = Image.new(image.mode, (width, height))
        padded.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        image = padded
    # np.array makes a copy, which the caller may write to.
    pixels = np.array(image.convert("RGB" if spec.channels == 3 else "L"))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def to_8_bit(image: Image.Image, levels: int) -> Image.Image:
    """Convert an image to 8-bit gray (mode L) or RGB.

    Args:
        image: The loaded image.
        levels: The bits of a 16-bit gray level that are used, 8 to 16.

    Raises:
        UnsupportedPicture: If the pixels are 32-bit floats or Lab, or if all of them are transparent.
    """
    mode = image.mode
    if mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if mode in ("F", "LAB"):
        raise UnsupportedPicture(
            f"pixels of mode {mode} have no defined 8-bit range. Save the picture as 8-bit RGB or gray: "
            "scale its darkest level to 0 and its brightest to 255, alike for all pictures"
        )
    if mode.startswith("I"):
        key = image.info.get("transparency")
        return _in_parts(image, "L", lambda part: _from_16_bit(part, levels, key if isinstance(key, int) else None))
    if mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        seen = [False]

        def over_white(part: Image.Image) -> Image.Image:
            over = (part.convert("LA") if mode == "La" else part).convert("RGBA")
            seen[0] = seen[0] or over.getchannel("A").getextrema()[1] != 0
            white = Image.new("RGBA", over.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, over).convert("RGB")

        whole = _in_parts(image, "RGB", over_white)
        if not seen[0]:
            raise UnsupportedPicture(_TRANSPARENT)
        return whole
    target = "L" if mode == "1" else "RGB"
    return _in_parts(image, target, lambda part: part.convert(target))


def _in_parts(image: Image.Image, mode: str, convert: Any) -> Image.Image:
    if image.width * image.height <= _PART:
        converted: Image.Image = convert(image)
        return converted
    whole = Image.new(mode, image.size)
    for top, bottom in _row_ranges(image):
        whole.paste(convert(image.crop((0, top, image.width, bottom))), (0, top))
    return whole


def _row_ranges(image: Image.Image) -> Iterator[tuple[int, int]]:
    step = max(1, _PART // image.width)
    for top in range(0, image.height, step):
        yield top, min(image.height, top + step)


def _from_16_bit(image: Image.Image, levels: int, transparent: int | None) -> Image.Image:
    # "I;16" and its byte orders hold 16 bits. "I" is what older Pillow made of a 16-bit PNG or PGM.
    stored = np.asarray(image)
    if stored.dtype.kind == "i":
        stored = np.clip(stored, 0, 65535)
    converted = _table(levels)[stored]
    if transparent is not None:
        converted[stored == transparent] = 255
    return Image.fromarray(converted)


@cache
def _table(levels: int) -> npt.NDArray[np.uint8]:
    """Return the 8-bit level of each 16-bit level, rounded. Levels above `2**levels - 1` become 255."""
    highest = 2**levels - 1
    stored = np.minimum(np.arange(65536), highest)
    table: npt.NDArray[np.uint8] = ((510 * stored + highest) // (2 * highest)).astype(np.uint8)
    return table


def highest_level_of(image: Image.Image) -> int | None:
    """Return the highest stored level of a loaded 16-bit gray image, or None for an image of another kind."""
    if not image.mode.startswith("I"):
        return None
    ranges = _row_ranges(image)
    return max(int(np.asarray(image.crop((0, top, image.width, bottom))).max()) for top, bottom in ranges)


def wanted(size: tuple[int, int], spec: ImageSpec, orientation: int) -> tuple[int, int]:
    """Return the smallest (width, height) to which a JPEG may be reduced while it is decoded.

    A smaller picture would have to be enlarged afterwards.

    Args:
        size: The (width, height) of the stored picture, before its EXIF orientation is applied.
        spec: The target size and the resizing method.
        orientation: The EXIF orientation, 1 to 8.
    """
    width, height = turned_target(spec, orientation)
    if spec.resize == "squash":
        return width, height
    scales = width / size[0], height / size[1]
    scale = max(scales) / spec.fraction if spec.resize == "crop" else min(scales)
    return math.ceil(size[0] * scale), math.ceil(size[1] * scale)


def turned_target(spec: ImageSpec, orientation: int) -> tuple[int, int]:
    """Return the (width, height) of the network's input, as they are before a picture is turned."""
    height, width = spec.size
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def resized(image: Image.Image, spec: ImageSpec, target: tuple[int, int]) -> Image.Image:
    """Resize an image by the method `spec.resize`.

    "squash" resizes the whole image to the target size. "crop" cuts out the center of the image and resizes the center
    to the target size. "pad" keeps the aspect ratio: it resizes the whole image to the largest size that fits into the
    target size. `finish` then adds the black border.

    Args:
        image: An image of mode L or RGB.
        spec: The resizing method, the fraction for "crop", and the resampling filter.
        target: The target size, (width, height) in pixels.
    """
    width, height = image.size
    filter = _FILTERS[spec.filter]
    scales = target[0] / width, target[1] / height
    if spec.resize == "pad":
        scale = min(scales)
        target = max(1, round(width * scale)), max(1, round(height * scale))
    if spec.resize != "crop":
        return _resize_part(image, target, filter, (0, 0, width, height))
    kept = spec.fraction / max(scales)
    half_width, half_height = target[0] * kept / 2, target[1] * kept / 2
    box = (width / 2 - half_width, height / 2 - half_height, width / 2 + half_width, height / 2 + half_height)
    # Rounding errors must not push the box outside the picture.
    box = (max(0, box[0]), max(0, box[1]), min(width, box[2]), min(height, box[3]))
    return _resize_part(image, target, filter, box)


@cache
def _version() -> tuple[int, int]:
    major, minor = PIL.__version__.split(".")[:2]
    return int(major), int("".join(filter(str.isdigit, minor)) or 0)


def _resize_part(
    image: Image.Image, target: tuple[int, int], filter: Image.Resampling, box: tuple[float, float, float, float]
) -> Image.Image:
    """Resize the part `box` of an image, rows and columns in the order that Pillow 13.0 chooses.

    Args:
        image: An image of mode L or RGB.
        target: The target size, (width, height) in pixels.
        filter: The resampling filter.
        box: (left, top, right, bottom) of the part, in pixels.
    """
    (width, height), (new_width, new_height), (left, top, right, bottom) = image.size, target, box
    columns_first = new_height < height and height - new_height > 2 * (width - new_width)
    pillow = _version()
    if pillow == _KNOWN or (pillow < _KNOWN and not columns_first):
        # One call does the same, and is faster: it leaves out what lies outside the box.
        return image.resize(target, filter, box)
    if columns_first:
        image = image.resize((width, new_height), filter, (0, top, width, bottom))
        return image.resize(target, filter, (left, 0, right, new_height))
    image = image.resize((new_width, height), filter, (left, 0, right, height))
    return image.resize(target, filter, (0, top, new_width, bottom))
