"""Decodes pictures (files, bytes, arrays or Pillow images) to the pixels that a network receives.

Training, evaluation, the parity check and the device all call `decode`, so their pixels are equal bit for bit. The
rules of `decode` are:

- EXIF orientation is applied. Color profiles are ignored. Of an animation, only the first frame is used.
- Palettes are resolved. CMYK and YCbCr become RGB as Pillow converts them.
- A transparent picture is laid over a white background. If every pixel is transparent, the picture is refused.
- 16-bit gray levels are divided by 257 and rounded. If `ImageSpec.levels` is N < 16, they are scaled so that 2**N - 1
  becomes 255; levels above that also become 255. 32-bit integers are first clipped to 16 bits. Of 16-bit colors, and of
  16-bit gray levels with an alpha channel, Pillow reads only the high byte, so N < 16 refuses them.
- Pictures with 32-bit floats or in the Lab color space are refused, because no rule says how to scale them to 0..255.
  So are arithmetic-coded JPEGs, in which damage cannot be found.
- libjpeg can reduce a JPEG to 1/2, 1/4 or 1/8 of its size while decoding it. `decode` uses the smallest of these scales
  at which the picture does not have to be enlarged afterwards, or the full size if there is none. A Pillow image is
  never reduced in this way.
- A truncated file is an error. It never becomes a picture with made-up pixels, whatever a program has set in Pillow. A
  damaged file is an error where its format shows the damage. JPEG does so nearly always, as `zoo_runtime._jpeg`
  explains, and PNG always. WebP, AVIF, HEIC, JPEG 2000 and uncompressed formats have no checksum: bytes that were
  overwritten within a file of the right length cannot be seen there. An image that a program has loaded itself is taken
  as it is.
- The memory for a picture is bounded; see `max_pixels`.

`zoo_runtime._formats` opens and loads files, `zoo_runtime._pixels` converts and resizes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from . import _jpeg
from ._choice import check_formats
from ._errors import CorruptPicture, NotAPicture, PictureNotFound, PictureTooLarge, UnsupportedPicture
from ._format import ImageSpec
from ._formats import SUFFIXES, is_jpeg, load, load_lazy, open_picture
from ._given import accept, not_opened
from ._limit import MAX_PIXELS, check_max_pixels, check_size
from ._pixels import TURNS, finish, highest_level_of, wanted

if TYPE_CHECKING:
    import numpy.typing as npt

Source: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | npt.NDArray[np.uint8] | Image.Image"
)
_Use: TypeAlias = "Callable[[Image.Image, int], npt.NDArray[np.uint8]]"

__all__ = ["SUFFIXES", "Source", "decode", "highest_level", "printable"]

_ORIENTATION = 0x0112


def decode(
    source: Source,
    spec: ImageSpec,
    *,
    max_pixels: int = MAX_PIXELS,
    order: str = "rgb",
    formats: Sequence[str] | None = None,
) -> npt.NDArray[np.uint8]:
    """Decode a picture to the pixels that a network with this spec expects.

    Args:
        source: A path, the bytes of a file, a binary file object (read from its current position), a Pillow image, or
            an array. Arrays are uint8, of shape (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA.
        spec: The target size, the channels and the resizing method.
        max_pixels: The largest accepted width x height of the picture, in pixels of color. What counts is the memory
            that decoding takes, with 4 bytes per pixel of color. A JPEG counts at the scale at which it is decoded. A
            progressive one also needs 2 to 6 bytes for each of its stored pixels. A gray or black-and-white picture
            counts a quarter, and 16 bits count half. Of pictures above the default limit, a process decodes one at a
            time, so that the memory does not grow with the number of threads.
        order: The order of the colors in an array: "rgb", or "bgr" for frames of OpenCV.
        formats: The formats of files that are read, such as ["jpeg", "png"]. None reads `DEFAULT_FORMATS`.

    Returns:
        A uint8 array (height, width, channels), values 0..255, RGB or gray.

    Raises:
        PictureNotFound: If there is no file at the path, or the file cannot be read.
        NotAPicture: If the file is empty, or its format is not supported, or is not among `formats`.
        CorruptPicture: If the file is truncated or damaged, or is made so that it would take very long to read.
        PictureTooLarge: If the picture takes more memory than `max_pixels` allows, has a side of more than 65,535
            pixels, or does not fit into memory.
        UnsupportedPicture: If the pixels are 32-bit floats or Lab, if all of them are transparent, if the picture is an
            arithmetic-coded, lossless or hierarchical JPEG, if `source` is a file that was opened in text mode, or if
            `source` has a type, dtype or shape that is not listed above.
        TypeError: If `max_pixels` is not a number, or `formats` is not a list of names.
        ValueError: If `max_pixels` is not above 0, `order` is neither "rgb" nor "bgr", or a name in `formats` is
            unknown.
    """
    check_max_pixels(max_pixels)
    check_order(order)
    limits = _Limits(max_pixels, check_formats(formats))
    return _read(source, lambda image, orientation: finish(image, spec, orientation), spec, limits, order)


class _Limits(NamedTuple):
    """Holds what a caller allows: the largest picture in pixels of color, and the formats of files."""

    max_pixels: int
    formats: tuple[str, ...]


def check_order(order: object) -> None:
    """Check the value of an argument `order`.

    Raises:
        ValueError: If it is neither "rgb" nor "bgr".
    """
    if order not in ("rgb", "bgr"):
        raise ValueError(f'order must be "rgb" or "bgr". Received: {order!r:.100}.')


def _read(
    source: Source, use: _Use, spec: ImageSpec | None, limits: _Limits, order: str = "rgb"
) -> npt.NDArray[np.uint8]:
    """Load a picture, and return what `use` makes of the image and its EXIF orientation."""
    source = accept(source)
    if isinstance(source, np.ndarray):
        return _guarded("the array", lambda: _from_image(_from_array(source, order), use, spec, limits.max_pixels))
    if isinstance(source, Image.Image):
        return _guarded("the image", lambda: _from_image(source, use, spec, limits.max_pixels))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _guarded("the data given", lambda: _from_stream(io.BytesIO(source), use, spec, limits))
    if isinstance(source, (str, os.PathLike)):
        name = printable(os.fspath(source))
        try:
            with open(source, "rb") as stream:
                return _guarded(name, lambda: _from_stream(stream, use, spec, limits))
        except (OSError, ValueError) as error:
            raise not_opened(os.fspath(source), error) from None
    return _guarded("the file given", lambda: _from_stream(source, use, spec, limits))


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
    except (PictureTooLarge, UnsupportedPicture, CorruptPicture, NotAPicture, PictureNotFound) as error:
        raise type(error)(f"{name}: {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureTooLarge(f"{name}: {error}") from None
    except MemoryError:
        raise PictureTooLarge(f"{name}: needs more memory than this machine has") from None
    except Exception as error:
        # Pillow's parsers raise OSError, SyntaxError, ValueError, struct.error, KeyError, TypeError and more.
        reason = str(error).strip() or type(error).__name__
        raise CorruptPicture(f"{name}: damaged: {reason}") from None


def highest_level(source: Source, *, max_pixels: int = MAX_PIXELS, formats: Sequence[str] | None = None) -> int | None:
    """Return the highest level of a picture with 16-bit gray levels, or None for a picture of another kind.

    Many cameras and scanners store 10, 12 or 14 bits in 16-bit files. If no picture of a set has a level above
    2**N - 1, `ImageSpec(levels=N)` reads them as they are meant. Otherwise, they come out nearly black.

    Args:
        source: A path, the bytes of a file, a binary file object, or a Pillow image.
        max_pixels: The largest accepted picture, as for `decode`. It is loaded at its full size.
        formats: The formats of files that are read, as for `decode`.

    Returns:
        The highest level, 0 to 65,535, or None.

    Raises:
        PictureError: If the picture cannot be read. `decode` lists the subclasses of this error.
        TypeError: If `max_pixels` is not a number, or `formats` is not a list of names.
        ValueError: If `max_pixels` is not above 0, or a name in `formats` is unknown.
    """
    check_max_pixels(max_pixels)
    found: list[int | None] = []

    def look(image: Image.Image, _: int) -> npt.NDArray[np.uint8]:
        found.append(highest_level_of(image))
        return np.zeros(0, np.uint8)

    _read(source, look, None, _Limits(max_pixels, check_formats(formats)))
    return found[0]


def _from_stream(stream: BinaryIO, use: _Use, spec: ImageSpec | None, limits: _Limits) -> npt.NDArray[np.uint8]:
    if not (hasattr(stream, "seekable") and stream.seekable()) or stream.tell() != 0:
        # Pillow's parsers seek to positions counted from the start of the stream.
        stream = io.BytesIO(stream.read())
    max_pixels = limits.max_pixels
    with open_picture(stream, limits.formats) as image:
        jpeg, orientation, extra = None, 1, 0
        if is_jpeg(image):
            # Pillow turns a TIFF while loading it, and then clears the tag. A JPEG's draft size depends on the tag.
            orientation = _orientation(image)
            data = _jpeg.read_file(stream)
            jpeg = data, _jpeg.read_layout(data)
            extra = _jpeg.coefficient_bytes(jpeg[1])
            if spec:
                image.draft(image.mode, wanted(image.size, spec, orientation))
        with check_size(image, max_pixels, extra):
            if spec and spec.levels < 16:
                _refuse_16_bit_colors(image, spec.levels)
            load(image, jpeg)
            if not jpeg:
                check_size(image, max_pixels)
                orientation = _orientation(image)
            return use(image, orientation)


def _from_image(image: Image.Image, use: _Use, spec: ImageSpec | None, max_pixels: int) -> npt.NDArray[np.uint8]:
    with check_size(image, max_pixels):
        if spec and spec.levels < 16:
            _refuse_16_bit_colors(image, spec.levels)
        load_lazy(image)
        return use(image, _orientation(image))


def _refuse_16_bit_colors(image: Any, levels: int) -> None:
    tile = getattr(image, "tile", None)
    arguments = tile[0][3] if tile else ""
    raw_mode = arguments if isinstance(arguments, str) else arguments[0] if arguments else ""
    if isinstance(raw_mode, str) and ";16" in raw_mode and not image.mode.startswith("I"):
        raise UnsupportedPicture(
            f"levels={levels} is defined for gray pictures without an alpha channel only. This one has 16 bits per "
            "channel, of which Pillow reads the high 8. Save it with 8 bits per channel"
        )


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        # Broken EXIF is common and says nothing about the pixels.
        return 1
    return next((turn for turn in TURNS if turn == orientation), 1)


def _from_array(array: npt.NDArray[Any], order: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 3 and array.shape[2] == 4 and not array[:, :, 3].any():
        raise UnsupportedPicture(
            "the fourth channel is 0 everywhere, which means that every pixel is transparent. "
            "If that channel is a filler, as in RGBX frames of a camera, pass array[:, :, :3]"
        )
    array = np.ascontiguousarray(array)
    if order == "bgr" and array.ndim == 3:
        # Pillow swaps the channels while it copies them, which takes a third of the time that numpy takes.
        mode, raw = ("RGB", "BGR") if array.shape[2] == 3 else ("RGBA", "BGRA")
        return Image.frombuffer(mode, (array.shape[1], array.shape[0]), array, "raw", raw, 0, 1)
    return Image.fromarray(array)
