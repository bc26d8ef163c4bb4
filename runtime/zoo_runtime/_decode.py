"""The one decoder: from a file, bytes or an array to the network's pixels.

Training, evaluation, the parity check and the device all call `decode`, so that their pixels are equal bit for bit.

What is defined here, once:

- EXIF orientation is applied. Colour profiles are ignored. The first frame of an animation is taken.
- Palettes are resolved; CMYK and YCbCr become RGB as Pillow converts them.
- Transparent pixels are laid over white.
- 16-bit greys are divided by 257 and rounded; 32-bit integers count as 16-bit and are clipped to that range.
- 32-bit floats and Lab have no defined range and are refused.
- JPEGs are decoded at the smallest of libjpeg's scales (1, 1/2, 1/4, 1/8) that is not below the size wanted.
- A truncated or damaged file is an error, never a picture with made-up pixels.
"""

from __future__ import annotations

import io
import math
import os
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from ._errors import CorruptPicture, NotAPicture, PictureNotFound, PictureTooLarge, UnsupportedPicture
from ._format import ImageSpec

Source = "str | os.PathLike | bytes | bytearray | memoryview | BinaryIO | np.ndarray | Image.Image"

MAX_PIXELS = 89_478_485
"""Bound on width x height, in pixels: Pillow's own, a quarter of a GiB as RGB."""

# Only these formats: others are drawings that need a program of their own (EPS), or parsers that few have tested.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000", "ICO", "TGA", "DIB")
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .bmp .dib .ppm .pgm .pbm .pnm .webp .tif .tiff .avif .jp2 .j2k .jpx "
    ".ico .tga".split()
)
"""File endings of the formats that are read, in lower case."""

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


def decode(source: Source, spec: ImageSpec, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a picture to the pixels that a network with this spec takes.

    Args:
        source: A path, the bytes of a file, a binary file object, a uint8 array (H, W), (H, W, 1), (H, W, 3) RGB or
            (H, W, 4) RGBA, or a Pillow image.
        spec: Size, channels and way of resizing.
        max_pixels: Bound on width x height of the stored picture, in pixels.

    Returns:
        uint8 array (height, width, channels), values 0..255, RGB or grey.

    Raises:
        PictureNotFound: No file at the path, or it may not be read.
        NotAPicture: The file is empty or of no format that is read.
        CorruptPicture: The file is truncated or damaged.
        PictureTooLarge: More than `max_pixels`.
        UnsupportedPicture: Pixels without a defined 8-bit meaning.
    """
    if isinstance(source, np.ndarray):
        return _finish(_from_array(source), spec, 1, max_pixels)
    if isinstance(source, Image.Image):
        return _guarded("the image", lambda: _finish(source, spec, _orientation(source), max_pixels))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_stream(io.BytesIO(source), "the bytes given", spec, max_pixels)
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        try:
            with open(name, "rb") as stream:
                return _from_stream(stream, _quoted(name), spec, max_pixels)
        except OSError as error:
            raise PictureNotFound(f"{_quoted(name)} cannot be read: {error.strerror or error}.") from None
    if hasattr(source, "read"):
        stream = source
        if not (hasattr(stream, "seekable") and stream.seekable()):
            stream = io.BytesIO(stream.read())
        return _from_stream(stream, "the file given", spec, max_pixels)
    raise UnsupportedPicture(
        f"a picture is a path, bytes, a binary file, a uint8 array or a Pillow image. Received: {type(source).__name__}."
    )


def _quoted(name: str | bytes) -> str:
    return os.fsdecode(name).encode("utf-8", "backslashreplace").decode()


def _guarded(name: str, work):
    """Run Pillow on a file that may be hostile: whatever its parsers raise becomes one of our errors."""
    try:
        return work()
    except (PictureTooLarge, UnsupportedPicture, CorruptPicture, NotAPicture) as error:
        raise type(error)(f"{name}: {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureTooLarge(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise NotAPicture(f"{name} is not a picture in a format that is read here ({', '.join(FORMATS)}).") from None
    except MemoryError:
        raise PictureTooLarge(f"{name} needs more memory than there is.") from None
    except Exception as error:
        # Pillow's parsers raise OSError, SyntaxError, ValueError, struct.error, KeyError, TypeError and more.
        reason = str(error).strip() or type(error).__name__
        raise CorruptPicture(f"{name} is damaged: {reason}") from None


def _from_stream(stream: BinaryIO, name: str, spec: ImageSpec, max_pixels: int) -> np.ndarray:
    def work() -> np.ndarray:
        start = stream.tell()
        if not stream.read(1):
            raise NotAPicture("the file is empty")
        stream.seek(start)
        with Image.open(stream, formats=FORMATS) as image:
            _check_pixels(image, max_pixels)
            drafted = image.format in ("JPEG", "MPO")
            # TIFF turns itself while loading and then says so; JPEG has to be asked first, for the draft's size.
            orientation = _orientation(image) if drafted else 1
            if drafted:
                image.draft(image.mode, _wanted(image.size, spec, orientation))
            image.load()
            if drafted and not image.info.get("progressive") and _flat_corner(image):
                _refuse_missing_end(stream, start, image)
            if not drafted:
                _check_pixels(image, max_pixels)
                orientation = _orientation(image)
            return _finish(image, spec, orientation, max_pixels)

    return _guarded(name, work)


def _check_pixels(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise PictureTooLarge(f"{width} x {height} is more than {max_pixels} pixels")


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:
        # Broken EXIF is common and says nothing about the pixels.
        return 1


def _flat_corner(image: Image.Image) -> bool:
    """Whether the last pixels are all alike, as they are where libjpeg had to make them up."""
    width, height = image.size
    extremes = image.crop((max(0, width - 4), max(0, height - 4), width, height)).getextrema()
    return all(low == high for low, high in (extremes if isinstance(extremes[0], tuple) else (extremes,)))


def _refuse_missing_end(stream: BinaryIO, start: int, image: Image.Image) -> None:
    """Raise if the coded data end before the picture does, though an end marker follows.

    libjpeg fills the rest with one colour and only warns, which Pillow does not pass on. Data put in front of the end
    marker are skipped when the picture was complete, and change its last pixels when it was not.
    """
    stream.seek(start)
    data = stream.read()
    end = data.rfind(b"\xff\xd9")
    if end < 0:
        return
    longer = data[:end] + bytes(range(1, 255)) * 4 + data[end:]
    with Image.open(io.BytesIO(longer), formats=("JPEG",)) as second:
        second.draft(image.mode, image.size)
        second.load()
        if second.size == image.size and second.tobytes() != image.tobytes():
            raise CorruptPicture("the file ends before the picture does")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8:
        raise UnsupportedPicture(
            f"an array must be uint8 with values 0..255. Received: {array.dtype}; scale it and use .astype('uint8')."
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise UnsupportedPicture(
            f"an array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). Received: {array.shape}."
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Bring any mode to L or RGB."""
    mode = image.mode
    if mode.startswith("I"):
        # "I;16" and its byte orders hold 16 bits; "I" holds what a 16-bit PNG or PGM gave on older Pillow.
        levels = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if mode in ("F", "LAB"):
        raise UnsupportedPicture(f"pixels of mode {mode} have no defined 8-bit range; save the picture as 8-bit RGB")
    if mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    if mode == "1":
        return image.convert("L")
    return image if mode in ("L", "RGB") else image.convert("RGB")


def _wanted(size: tuple[int, int], spec: ImageSpec, orientation: int) -> tuple[int, int]:
    """Smallest (width, height), as stored, from which the spec's pixels can be made without enlarging."""
    width, height = _turned_target(spec, orientation)
    if spec.resize == "squash":
        return width, height
    scales = width / size[0], height / size[1]
    scale = max(scales) / spec.fraction if spec.resize == "crop" else min(scales)
    return math.ceil(size[0] * scale), math.ceil(size[1] * scale)


def _turned_target(spec: ImageSpec, orientation: int) -> tuple[int, int]:
    height, width = spec.size
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def _finish(image: Image.Image, spec: ImageSpec, orientation: int, max_pixels: int) -> np.ndarray:
    """8 bits -> size -> upright -> channels. Turning comes after resizing, where it is cheap."""
    _check_pixels(image, max_pixels)
    image = _resized(_to_8_bit(image), spec, _turned_target(spec, orientation))
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    pixels = np.asarray(image.convert("RGB" if spec.channels == 3 else "L"))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _resized(image: Image.Image, spec: ImageSpec, target: tuple[int, int]) -> Image.Image:
    width, height = image.size
    filter = _FILTERS[spec.filter]
    if spec.resize == "squash":
        return image.resize(target, filter)
    scales = target[0] / width, target[1] / height
    if spec.resize == "crop":
        kept = spec.fraction / max(scales)
        half_width, half_height = target[0] * kept / 2, target[1] * kept / 2
        box = (width / 2 - half_width, height / 2 - half_height, width / 2 + half_width, height / 2 + half_height)
        # Rounding must not put the box a hair outside the picture.
        box = (max(0, box[0]), max(0, box[1]), min(width, box[2]), min(height, box[3]))
        return image.resize(target, filter, box=box)
    scale = min(scales)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    padded = Image.new(image.mode, target)
    padded.paste(image.resize(inner, filter), ((target[0] - inner[0]) // 2, (target[1] - inner[1]) // 2))
    return padded
