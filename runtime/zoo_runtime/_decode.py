"""Decodes pictures (files, bytes, arrays or Pillow images) to the pixels that a network receives.

Training, evaluation, the parity check and the device all call `decode`, so their pixels are equal bit for bit. The
rules of `decode` are:

- EXIF orientation is applied. Color profiles are ignored. Of an animation, only the first frame is used.
- Palettes are resolved. CMYK and YCbCr become RGB as Pillow converts them.
- A transparent picture is laid over a white background.
- 16-bit gray levels are divided by 257 and rounded. 32-bit integers are clipped to 16 bits, and then divided by 257 and
  rounded. Of 16-bit colors, and of 16-bit gray levels with an alpha channel, Pillow reads only the high byte.
- Pictures with 32-bit floats or in the Lab color space are refused, because no rule says how to scale them to 0..255.
- libjpeg can reduce a JPEG to 1/2, 1/4 or 1/8 of its size while decoding it. `decode` uses the smallest of these scales
  at which the picture does not have to be enlarged afterwards, or the full size if there is none. A Pillow image is
  never reduced in this way.
- A truncated or damaged file is an error. It never becomes a picture with made-up pixels, with one exception: a JPEG
  that was cut and then given an end marker. Such a JPEG can be accepted if it is progressive, or if only its last block
  (8 or 16 pixels square) is damaged.

The last rule requires that Pillow's global switch `ImageFile.LOAD_TRUNCATED_IMAGES` stays off.
"""

from __future__ import annotations

import importlib
import io
import math
import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from PIL import Image

from ._errors import CorruptPicture, NotAPicture, PictureTooLarge, UnsupportedPicture
from ._format import ImageSpec
from ._given import accept, contents, not_opened

if TYPE_CHECKING:
    import numpy.typing as npt

Source: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | npt.NDArray[np.uint8] | Image.Image"
)

MAX_PIXELS = 89_478_485
"""The largest accepted width x height, in pixels. It is Pillow's own limit: a quarter of a GiB as RGB."""

# Resizing a row of 80 million pixels, which fits in a file of 78 kB, takes 1.3 GB for the filter alone.
MAX_SIDE = 65_535

# Other formats are left out: some need an external program (EPS), and the parsers of others are little tested.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000", "ICO", "TGA", "DIB")
JPEG = b"\xff\xd8\xff"
_ENDINGS = "jpg jpeg jpe jfif mpo png apng gif bmp dib ppm pgm pbm pnm webp tif tiff avif jp2 j2k jpx ico tga"
SUFFIXES = frozenset(f".{ending}" for ending in _ENDINGS.split())
"""File name endings of the supported formats, in lower case."""

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
_NOISE = bytes(range(1, 255)) * 2


def decode(source: Source, spec: ImageSpec, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decode a picture to the pixels that a network with this spec expects.

    Args:
        source: A path, the bytes of a file, a binary file object (read from its current position), a Pillow image, or
            an array. Arrays are uint8, of shape (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA.
        spec: The target size, the channels and the resizing method.
        max_pixels: The largest accepted width x height of the stored picture, in pixels.

    Returns:
        A uint8 array (height, width, channels), values 0..255, RGB or gray.

    Raises:
        PictureNotFound: If there is no file at the path, or the file cannot be read.
        NotAPicture: If the file is empty, or its format is not supported.
        CorruptPicture: If the file is truncated or damaged.
        PictureTooLarge: If the picture has more than `max_pixels` pixels or a side of more than 65,535 pixels, or if it
            does not fit into memory.
        UnsupportedPicture: If the pixels are 32-bit floats or Lab, if `source` is a file that was opened in text mode,
            or if `source` has a type, dtype or shape that is not listed above.
    """
    source = accept(source)
    if isinstance(source, np.ndarray):
        return _guarded("the array", lambda: _finish(_from_array(source), spec, 1, max_pixels))
    if isinstance(source, Image.Image):
        return _guarded("the image", lambda: _from_image(source, spec, max_pixels))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _guarded("the data given", lambda: _from_stream(io.BytesIO(source), spec, max_pixels))
    if isinstance(source, (str, os.PathLike)):
        name = printable(os.fspath(source))
        try:
            with open(source, "rb") as stream:
                return _guarded(name, lambda: _from_stream(stream, spec, max_pixels))
        except (OSError, ValueError) as error:
            raise not_opened(os.fspath(source), error) from None
    return _guarded("the file given", lambda: _from_stream(source, spec, max_pixels))


def printable(name: str | bytes) -> str:
    """Return a file name as a string that can be printed, even if the name is not valid UTF-8.

    Each byte that is not valid UTF-8 becomes an escape sequence, such as `\\udce9` for the byte 0xE9.
    """
    return os.fsdecode(name).encode("utf-8", "backslashreplace").decode()


def _guarded(name: str, work: Callable[[], npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Call a function that decodes with Pillow, and turn every exception into a `PictureError`.

    Args:
        name: The name of the picture. The error message starts with it.
        work: The function to call. The file that it decodes can be malicious.

    Returns:
        The array that `work` returns.
    """
    try:
        return work()
    except (PictureTooLarge, UnsupportedPicture, CorruptPicture, NotAPicture) as error:
        raise type(error)(f"{name}: {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureTooLarge(f"{name}: {error}") from None
    except MemoryError:
        raise PictureTooLarge(f"{name}: needs more memory than this machine has") from None
    except Exception as error:
        # Pillow's parsers raise OSError, SyntaxError, ValueError, struct.error, KeyError, TypeError and more.
        reason = str(error).strip() or type(error).__name__
        raise CorruptPicture(f"{name}: damaged: {reason}") from None


def _from_stream(stream: BinaryIO, spec: ImageSpec, max_pixels: int) -> npt.NDArray[np.uint8]:
    if not (hasattr(stream, "seekable") and stream.seekable()) or stream.tell() != 0:
        # Pillow's parsers seek to positions counted from the start of the stream.
        stream = io.BytesIO(stream.read())
    with _open(stream) as image:
        _check_pixels(image, max_pixels)
        drafted = image.format in ("JPEG", "MPO")
        # Pillow turns a TIFF while loading it, and then clears the tag. A JPEG's draft size depends on the tag.
        orientation = _orientation(image) if drafted else 1
        if drafted:
            wanted = _wanted(image.size, spec, orientation)
            image.draft(image.mode, wanted)
        _load(image)
        if drafted and not image.info.get("progressive") and _grey_corner(image):
            _refuse_missing_end(stream, image, wanted)
        if not drafted:
            _check_pixels(image, max_pixels)
            orientation = _orientation(image)
        return _finish(image, spec, orientation, max_pixels)


def _from_image(image: Image.Image, spec: ImageSpec, max_pixels: int) -> npt.NDArray[np.uint8]:
    _check_pixels(image, max_pixels)
    _load(image)
    return _finish(image, spec, _orientation(image), max_pixels)


def _open(stream: BinaryIO) -> Image.Image:
    """Open a picture file as `Image.open` does, but without a limit on its size and with more precise errors.

    `Image.open` warns above 89 megapixels and refuses above 179, whatever `max_pixels` says. This function accepts any
    size, and the caller then calls `_check_pixels`. If a parser accepts the format but refuses the file, such as a
    truncated TIFF, `Image.open` only says "cannot identify image file". The errors of this function state the parser's
    reason.

    Raises:
        NotAPicture: If the file is empty, or its format is not supported.
        CorruptPicture: If the parser of the file's format refuses the file.
        UnsupportedPicture: If the stream was opened in text mode.
    """
    prefix = stream.read(16)
    if isinstance(prefix, str):
        raise UnsupportedPicture("opened as text; open the file in binary mode, with 'rb'")
    if not prefix:
        raise NotAPicture("the file is empty")
    prefix = prefix.ljust(16, b"\0")
    if prefix.startswith(JPEG):
        # Loading only this parser takes a fifth of the time, which matters if a process labels one picture.
        importlib.import_module("PIL.JpegImagePlugin")
    else:
        Image.preinit()
    refusal = None
    for name in FORMATS:
        if name not in Image.OPEN:
            Image.init()
        if name not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[name]
        accepted = accept is None or accept(prefix)
        if isinstance(accepted, str):
            raise NotAPicture(f"this Pillow was built without {name} support ({accepted})")
        if accepted:
            stream.seek(0)
            try:
                return factory(stream, "")
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                # The parser of a format without a signature (TGA) tries every file, so its refusal means nothing.
                if accept is not None:
                    refusal = refusal or str(error).strip() or type(error).__name__
    stream.seek(0)
    if _is_heic(stream.read(64)):
        raise NotAPicture("a HEIC picture, as iPhones save them, which is not supported. Convert it to JPEG")
    if refusal:
        raise CorruptPicture(f"damaged: {refusal}")
    stream.seek(0)
    what = contents(stream.read(64))
    raise NotAPicture(f"{what + ', ' if what else ''}not a picture in a supported format ({', '.join(FORMATS)})")


def _is_heic(prefix: bytes) -> bool:
    """Return whether a file that starts with `prefix` is a HEIC picture.

    HEIC and AVIF share a container format, which starts with a list of brands. Some brands occur only in HEIC files.
    """
    end = min(int.from_bytes(prefix[:4], "big"), len(prefix))
    brands = {prefix[start : start + 4] for start in (8, *range(16, end, 4))}
    return prefix[4:8] == b"ftyp" and bool(brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})


def _load(image: Image.Image) -> None:
    """Load the pixels of an image, and correct the transparent gray level or color of a PNG.

    A PNG can declare one gray level or color as transparent. Pillow scales the pixels to 8 bits, but not the declared
    level or color. This function scales the declared level or color too.
    """
    key = image.info.get("transparency")
    tile = getattr(image, "tile", None)
    if image.format == "PNG" and tile:
        raw_mode = tile[0][3]
        if isinstance(key, int) and raw_mode in ("L;2", "L;4"):
            image.info["transparency"] = key * (85 if raw_mode == "L;2" else 17)
        elif isinstance(key, tuple) and raw_mode == "RGB;16B":
            image.info["transparency"] = tuple(level >> 8 for level in key)
    image.load()


def _check_pixels(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise PictureTooLarge(f"{width} x {height} is more than {max_pixels} pixels, the limit set by max_pixels")
    if max(width, height) > MAX_SIDE:
        raise PictureTooLarge(f"{width} x {height} has a side of more than {MAX_SIDE} pixels")


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        # Broken EXIF is common and says nothing about the pixels.
        return 1
    return next((turn for turn in _TURNS if turn == orientation), 1)


def _grey_corner(image: Image.Image) -> bool:
    """Return whether the bottom-right pixel is mid-gray, the level with which libjpeg fills missing pixels.

    For CMYK pictures, this always returns True.
    """
    width, height = image.size
    corner = image.crop((width - 1, height - 1, width, height))
    # CMYK is too rare to need its own rule.
    return image.mode == "CMYK" or abs(corner.convert("L").tobytes()[0] - 128) <= 2


def _refuse_missing_end(stream: BinaryIO, image: Image.Image, wanted: tuple[int, int]) -> None:
    """Raise CorruptPicture if the data of a JPEG end too early, although an end marker follows.

    libjpeg fills the missing pixels with gray and only warns, and Pillow drops that warning. To detect missing pixels,
    the JPEG is decoded again with noise in front of the end marker. The noise changes the last pixels of an incomplete
    picture, but no pixel of a complete one.

    Args:
        stream: The JPEG file, opened in binary mode.
        image: The picture that was decoded from the file.
        wanted: The (width, height) that was passed to `Image.draft`.
    """
    stream.seek(0)
    data = stream.read()
    end = data.rfind(b"\xff\xd9")
    if end < 0:
        return
    # The zero byte cancels the first half of a marker. A picture that was cut between two restart intervals waits for
    # the next restart marker, so all of them follow, starting with the one that is due.
    _, due = max((data.rfind(bytes((0xFF, 0xD0 + number)), 0, end), number + 1) for number in range(8))
    padding = b"\0" + b"".join(_NOISE + bytes((0xFF, 0xD0 + (due + count) % 8)) for count in range(8))
    with _open(io.BytesIO(data[:end] + padding + data[end:])) as second:
        second.draft(image.mode, wanted)
        second.load()
        if second.tobytes() != image.tobytes():
            raise CorruptPicture("the file ends before the picture does")


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(array))


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit gray (mode L) or RGB.

    Raises:
        UnsupportedPicture: If the pixels are 32-bit floats or Lab.
    """
    mode = image.mode
    if mode.startswith("I"):
        # "I;16" and its byte orders hold 16 bits. "I" is what older Pillow made of a 16-bit PNG or PGM.
        stored = np.asarray(image)
        levels = ((np.clip(stored, 0, 65535).astype(np.int32) + 128) // 257).astype(np.uint8)
        if isinstance(image.info.get("transparency"), int):
            levels[stored == image.info["transparency"]] = 255
        return Image.fromarray(levels)
    if mode in ("F", "LAB"):
        raise UnsupportedPicture(f"pixels of mode {mode} have no defined 8-bit range. Save the picture as 8-bit RGB")
    if mode == "La":
        image = image.convert("LA")
    if mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    if mode == "1":
        return image.convert("L")
    return image if mode in ("L", "RGB") else image.convert("RGB")


def _wanted(size: tuple[int, int], spec: ImageSpec, orientation: int) -> tuple[int, int]:
    """Return the smallest (width, height) to which a JPEG may be reduced while it is decoded.

    A smaller picture would have to be enlarged afterwards.

    Args:
        size: The (width, height) of the stored picture, before its EXIF orientation is applied.
        spec: The target size and the resizing method.
        orientation: The EXIF orientation, 1 to 8.
    """
    width, height = _turned_target(spec, orientation)
    if spec.resize == "squash":
        return width, height
    scales = width / size[0], height / size[1]
    scale = max(scales) / spec.fraction if spec.resize == "crop" else min(scales)
    return math.ceil(size[0] * scale), math.ceil(size[1] * scale)


def _turned_target(spec: ImageSpec, orientation: int) -> tuple[int, int]:
    height, width = spec.size
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def _finish(image: Image.Image, spec: ImageSpec, orientation: int, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Convert a loaded image to the pixels that the network receives.

    The image is converted to 8 bits, resized, turned by its EXIF orientation, padded, and converted to RGB or gray. It
    is turned after resizing, because a resized image is usually smaller and therefore faster to turn.

    Args:
        image: The image, not yet turned.
        spec: The target size, the channels and the resizing method.
        orientation: The EXIF orientation, 1 to 8. 1 means that the image is not turned.
        max_pixels: The largest accepted width x height of `image`, in pixels.

    Returns:
        A uint8 array (height, width, channels), values 0..255.

    Raises:
        PictureTooLarge: If the image has more than `max_pixels` pixels or a side of more than 65,535 pixels.
        UnsupportedPicture: If the pixels are 32-bit floats or Lab.
    """
    _check_pixels(image, max_pixels)
    image = _resized(_to_8_bit(image), spec, _turned_target(spec, orientation))
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    height, width = spec.size
    if image.size != (width, height):
        padded = Image.new(image.mode, (width, height))
        padded.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        image = padded
    # np.array makes a copy, which the caller may write to.
    pixels = np.array(image.convert("RGB" if spec.channels == 3 else "L"))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _resized(image: Image.Image, spec: ImageSpec, target: tuple[int, int]) -> Image.Image:
    """Resize an image by the method `spec.resize`.

    "squash" resizes the whole image to the target size. "crop" cuts out the center of the image and resizes the center
    to the target size. "pad" keeps the aspect ratio: it resizes the whole image to the largest size that fits into the
    target size. `_finish` then adds the black border.

    Args:
        image: An image of mode L or RGB.
        spec: The resizing method, the fraction for "crop", and the resampling filter.
        target: The target size, (width, height) in pixels.
    """
    width, height = image.size
    filter = _FILTERS[spec.filter]
    if spec.resize == "squash":
        return image.resize(target, filter)
    scales = target[0] / width, target[1] / height
    if spec.resize == "pad":
        scale = min(scales)
        return image.resize((max(1, round(width * scale)), max(1, round(height * scale))), filter)
    kept = spec.fraction / max(scales)
    half_width, half_height = target[0] * kept / 2, target[1] * kept / 2
    box = (width / 2 - half_width, height / 2 - half_height, width / 2 + half_width, height / 2 + half_height)
    # Rounding errors must not push the box outside the picture.
    box = (max(0, box[0]), max(0, box[1]), min(width, box[2]), min(height, box[3]))
    return image.resize(target, filter, box=box)
