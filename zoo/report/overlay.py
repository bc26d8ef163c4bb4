"""Draws small pictures for pages: thumbnails with the proportions of the picture, and heat maps laid over them.

A heat map covers what the network saw. A network may see a squashed picture, its center, or the picture with black
borders (`zoo_runtime.ImageSpec`); the heat map is put back to where that part is in the picture.
"""

from __future__ import annotations

import base64
import dataclasses
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from zoo.data.check.headers import read_header
from zoo.data.check.thumbnails import without_border
from zoo.data.sources import Picture
from zoo_runtime import MAX_PIXELS, ImageSpec, decode

if TYPE_CHECKING:
    from PIL import Image

LONGEST = 192
# Colors of matplotlib's "inferno" at equal distances (CC0, https://bids.github.io/colormap/). Its lightness rises
# evenly, so that people who do not tell red from green can read it.
INFERNO = np.array(
    [
        [0, 0, 4],
        [31, 12, 72],
        [85, 15, 109],
        [136, 34, 106],
        [186, 54, 85],
        [227, 89, 51],
        [249, 140, 10],
        [249, 201, 50],
        [252, 255, 164],
    ],
    np.float32,
)
# The most that a heat map covers of the picture, and how much of the picture's own color stays under it.
COVER, OWN_COLOR = 0.72, 0.35
# The brightness of the parts of a picture that the network did not see.
OUTSIDE = 0.3
QUALITY = 85

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Thumbnail:
    """A small picture, upright and with the proportions of the picture.

    Args:
        pixels: uint8 (height, width, 3) in 0..255.
        whole: Whether it shows the whole picture. False shows what the network saw alone.
        enlarged: Whether each pixel of the picture is several pixels here.
    """

    pixels: npt.NDArray[np.uint8]
    whole: bool = True
    enlarged: bool = False

    def uri(self) -> str:
        """Return a data URI with the thumbnail as a JPEG."""
        return _uri(self.pixels, sharp=self.enlarged)


def thumbnail(picture: Picture, spec: ImageSpec, longest: int = LONGEST, max_pixels: int = MAX_PIXELS) -> Thumbnail:
    """Decode a picture to a thumbnail. It may be of any format, because the run has read it before.

    A picture of less than half the size is enlarged by a whole number, so that its pixels stay visible.

    Args:
        picture: A file, a stored file or an array.
        spec: How the network's pictures are decoded. The thumbnail has its `levels` alone.
        longest: The longest side in pixels.
        max_pixels: See `zoo_runtime.decode`.

    Raises:
        zoo_runtime.PictureError: The picture cannot be read.
    """
    size, content = upright_size(picture), cast(Any, picture.content)
    if size is None:
        # Pillow alone does not read the header of every format that the decoder reads, such as HEIC.
        square = ImageSpec((longest, longest), resize="pad", levels=spec.levels)
        return Thumbnail(without_border(decode(content, square, max_pixels=max_pixels, formats=["all"])))
    factor = longest // max(size)
    if factor >= 2:
        target = size[1], size[0]
    else:
        scale = longest / max(size)
        target = max(1, round(size[1] * scale)), max(1, round(size[0] * scale))
    own = ImageSpec(target, resize="squash", levels=spec.levels)
    pixels = decode(content, own, max_pixels=max_pixels, formats=["all"])
    if factor >= 2:
        return Thumbnail(pixels.repeat(factor, axis=0).repeat(factor, axis=1), enlarged=True)
    return Thumbnail(pixels)


def from_decoded(pixels: npt.NDArray[np.uint8], picture: Picture, spec: ImageSpec, longest: int = LONGEST) -> Thumbnail:
    """Make a thumbnail of the pixels that the network sees, for a picture whose file is slow to read, or gone.

    Args:
        pixels: The decoded picture, uint8 (height, width, channels) in 0..255.
        picture: The picture, whose header has its proportions. If the file is gone, those of the pixels are taken.
        spec: How the picture was decoded.
        longest: The longest side in pixels.
    """
    from PIL import Image

    height, width = pixels.shape[:2]
    size = upright_size(picture) or (width, height)
    if spec.resize == "pad":
        left, top, right, bottom = _inner(size, spec)
        pixels = pixels[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
    elif spec.resize == "crop":
        size = width, height
    scale = longest / max(size)
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).convert("RGB")
    target = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    return Thumbnail(np.asarray(image.resize(target, Image.Resampling.BILINEAR)), whole=spec.resize != "crop")


def upright_size(picture: Picture) -> tuple[int, int] | None:
    """Return the (width, height) of a picture after its EXIF orientation is applied, or None if it cannot be read."""
    header = read_header(picture)
    if header is None or min(header.size) < 1:
        return None
    return header.size if header.orientation < 5 else (header.size[1], header.size[0])


def overlay(small: Thumbnail, heat: npt.NDArray[Any], size: tuple[int, int] | None, spec: ImageSpec) -> Thumbnail:
    """Lay a heat map over a thumbnail.

    The strongest heat has the same color in every picture. What the network did not see is dark.

    Args:
        small: The thumbnail.
        heat: (height, width), 0 or more, with at least one value above 0.
        size: The (width, height) of the picture, upright. None takes those of the thumbnail.
        spec: What the network saw of the picture.
    """
    from PIL import Image

    height, width = small.pixels.shape[:2]
    size = size or (width, height)
    seen = _seen(size, spec) if small.whole else (0.0, 0.0, 1.0, 1.0)
    left, right = (round(seen[i] * width) for i in (0, 2))
    top, bottom = (round(seen[i] * height) for i in (1, 3))
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    rows, columns = heat.shape
    inner = _inner(size, spec)
    box = inner[0] * columns, inner[1] * rows, inner[2] * columns, inner[3] * rows
    values = Image.fromarray(np.asarray(heat / heat.max(), np.float32))
    enlarged = values.resize((right - left, bottom - top), Image.Resampling.BICUBIC, box)
    strength = np.clip(np.asarray(enlarged), 0, 1)[..., None]
    gray = small.pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    base = OWN_COLOR * small.pixels + (1 - OWN_COLOR) * gray[..., None]
    drawn = OUTSIDE * base
    part = base[top:bottom, left:right]
    cover = COVER * strength**0.7
    drawn[top:bottom, left:right] = part * (1 - cover) + colors(strength[..., 0]) * cover
    return dataclasses.replace(small, pixels=np.clip(drawn.round(), 0, 255).astype(np.uint8))


def colors(strength: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the color of each value in 0..1, float32 (..., 3) in 0..255."""
    places = np.linspace(0, 1, len(INFERNO))
    return np.stack([np.interp(strength, places, INFERNO[:, i]) for i in range(3)], axis=-1).astype(np.float32)


def _seen(size: tuple[int, int], spec: ImageSpec) -> Box:
    """Return the part of a picture that the network sees: left, top, right, bottom as fractions of the picture."""
    if spec.resize != "crop":
        return 0.0, 0.0, 1.0, 1.0
    height, width = spec.size
    scale = max(width / size[0], height / size[1])
    parts = width * spec.fraction / scale / size[0], height * spec.fraction / scale / size[1]
    return 0.5 - parts[0] / 2, 0.5 - parts[1] / 2, 0.5 + parts[0] / 2, 0.5 + parts[1] / 2


def _inner(size: tuple[int, int], spec: ImageSpec) -> Box:
    """Return where a picture is in the network's input: left, top, right, bottom as fractions of the input."""
    if spec.resize != "pad":
        return 0.0, 0.0, 1.0, 1.0
    height, width = spec.size
    scale = min(width / size[0], height / size[1])
    inner_width, inner_height = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    return left / width, top / height, (left + inner_width) / width, (top + inner_height) / height


def _uri(pixels: npt.NDArray[np.uint8], *, sharp: bool) -> str:
    from PIL import Image

    stream = io.BytesIO()
    image: Image.Image = Image.fromarray(pixels)
    # Sharp edges of enlarged pixels need all of their colors.
    image.save(stream, "JPEG", quality=92 if sharp else QUALITY, subsampling=0 if sharp else 2)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
