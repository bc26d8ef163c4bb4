"""Bounds the memory that a picture takes: what `max_pixels` and the option `--max-pixels` mean.

`zoo_runtime._decode` asks this module before it loads the pixels of a picture.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from ._errors import PictureTooLarge

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 89_478_485
"""The largest accepted size of a decoded picture, in pixels of color. It is Pillow's own limit: 358 MB of memory."""

# Resizing a row of 80 million pixels, which fits in a file of 78 kB, takes 1.3 GB for the filter alone.
MAX_SIDE = 65_535

# Pillow keeps a pixel of color in 4 bytes.
_COLOR_BYTES = 4
_MODE_BYTES = {"1": 1, "L": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
# The most memory that a picture of `MAX_PIXELS` may take, with what its decoder and its conversion to RGB need.
_MOST_BYTES = 500_000_000
# Measured bytes per pixel of whole files, with all copies that live at the same time (benchmarks/hostile_pictures.py).
_WHOLE_BYTES = {"WEBP": 15.3, "JPEG2000": 18.6, "AVIF": 9.0, "HEIF": 7.1}
# Black and white becomes gray. Alpha is laid over white, and CMYK and the like become RGB, in a second picture.
_CONVERTED = {"1": 2.1, "L": 1.0, "I;16": 3.0, "I;16L": 3.0, "I;16B": 3.0, "I;16N": 3.0, "RGB": 4.0, "P": 5.1}
_TWO_PICTURES = 8.6
# Patterns that are compiled on use, because importing this module must be quick.
_PIXELS = r"(\d{1,15}(?:\.\d+)?)\s*([KMG]?)(?:P|PX|PIXELS?)?"
_ARGUMENT = r"(?<=set by )max_pixels\b|(?<=; )max_pixels=([\d_]+)"
_FORMATS_ARGUMENT = r"(?<=; )formats=\(([^()]*)\)"
_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
# A lock for each process. A forked process must not wait for a thread that it does not have.
_LOCKS: dict[int, threading.Lock] = {}


def parse_pixels(text: str) -> int:
    """Parse a number of pixels, such as "200000000", "200M" or "1.5G".

    Raises:
        ValueError: If the text has another form, or the number is below 1. The message says what is allowed.
    """
    match = re.fullmatch(_PIXELS, text.strip().replace("_", ""), re.IGNORECASE)
    pixels = int(float(match[1]) * _FACTORS[match[2].upper()]) if match else 0
    if pixels < 1:
        raise ValueError(f"must be a number of pixels of 1 or more, such as 200M or 200000000. Received: {text!r}.")
    return pixels


def format_pixels(pixels: int) -> str:
    """Return a number of pixels as a text that `parse_pixels` turns into the same number, such as "200M"."""
    return str(pixels) if pixels % 10**6 else f"{pixels // 10**6}M"


def with_option_names(message: str) -> str:
    """Return the message of an error with the options of the commands in place of the arguments of `Predictor`.

    For example, "max_pixels=108_000_000" becomes "--max-pixels 108M", and "formats=('jpeg', 'png')" becomes
    "--formats jpeg,png".
    """
    message = re.sub(_FORMATS_ARGUMENT, lambda m: f"--formats {re.sub('[^a-z0-9,]', '', m[1]).strip(',')}", message)
    return re.sub(_ARGUMENT, lambda m: "--max-pixels" + (f" {format_pixels(int(m[1]))}" if m[1] else ""), message)


def check_max_pixels(value: Any) -> None:
    """Check the value of an argument `max_pixels`.

    Raises:
        TypeError: If the value is not a number, such as the text "200M".
        ValueError: If the number is not above 0.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        example = 200_000_000
        with contextlib.suppress(ValueError):
            # The options of the commands take a text.
            example = parse_pixels(value) if isinstance(value, str) else example
        raise TypeError(
            f"max_pixels must be a number, such as {example:_}, or be left out for the default. "
            f"Received: {value!r:.100}."
        )
    if not value > 0:
        raise ValueError(f"max_pixels must be above 0. Received: {value!r}.")


def check_size(image: Image.Image, max_pixels: int, extra: int = 0) -> AbstractContextManager[Any]:
    """Check that a picture may be loaded.

    Args:
        image: An image that is about to be loaded, with the size that `Image.draft` has chosen.
        max_pixels: The limit, in pixels of color.
        extra: Memory in bytes that the decoder needs besides the picture.

    Returns:
        A context in which the picture is loaded and resized. It lets one picture at a time take more memory than
        `MAX_PIXELS` allows, because a program or a command may decode pictures in many threads.

    Raises:
        PictureTooLarge: If the picture takes too much memory. The message has a limit that is high enough.
    """
    width, height = image.size
    kept = width * height * _MODE_BYTES.get(image.mode, _COLOR_BYTES) + extra
    whole = _whole_bytes(image)
    # Below the most memory, `max_pixels` means the picture alone, as a program expects that knows its size.
    needed = max(kept, whole * MAX_PIXELS * _COLOR_BYTES // _MOST_BYTES) if whole > _MOST_BYTES else kept
    if max(width, height) > MAX_SIDE:
        raise PictureTooLarge(f"{width} x {height} has a side of more than {MAX_SIDE} pixels")
    if needed > max_pixels * _COLOR_BYTES:
        equal = -(-needed // _COLOR_BYTES)
        enough = -(-equal // 10**6) * 10**6 if equal > 10**6 else equal
        limit = f"{max_pixels:.0f} pixels, the limit set by max_pixels; max_pixels={enough:_} reads it"
        if needed == width * height * _COLOR_BYTES:
            raise PictureTooLarge(f"{width} x {height} is more than {limit}")
        kind = "as a progressive JPEG" if extra else f"in mode {image.mode}"
        if image.format in _WHOLE_BYTES:
            kind = f"as {image.format}"
        raise PictureTooLarge(
            f"{width} x {height} {kind} takes as much memory as {equal} pixels of color. That is more than {limit}"
        )
    if needed <= MAX_PIXELS * _COLOR_BYTES:
        return contextlib.nullcontext()
    return _LOCKS.setdefault(os.getpid(), threading.Lock())


def _whole_bytes(image: Any) -> int:
    """Return the most memory in bytes that the file of an opened image takes while it is decoded.

    An image that a program has loaded itself counts as nothing, because its memory is there already.
    """
    if image.format is None:
        return 0
    pixels = image.width * image.height
    per_pixel = _CONVERTED.get(image.mode, _TWO_PICTURES)
    if "transparency" in image.info and image.mode in ("L", "RGB"):
        per_pixel = _TWO_PICTURES
    parts = 0
    if image.format == "TIFF" and hasattr(image, "tag_v2"):
        from . import _tiff

        parts = _tiff.part_bytes(image.tag_v2)
    return int(pixels * max(per_pixel, _WHOLE_BYTES.get(image.format, 0))) + parts
