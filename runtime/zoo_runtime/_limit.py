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
# Patterns that are compiled on use, because importing this module must be quick.
_PIXELS = r"(\d{1,15}(?:\.\d+)?)\s*([KMG]?)(?:P|PX|PIXELS?)?"
_ARGUMENT = r"(?<=set by )max_pixels\b|(?<=; )max_pixels=([\d_]+)"
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

    For example, "max_pixels=108_000_000" becomes "--max-pixels 108M".
    """
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
    needed = width * height * _MODE_BYTES.get(image.mode, _COLOR_BYTES) + extra
    if max(width, height) > MAX_SIDE:
        raise PictureTooLarge(f"{width} x {height} has a side of more than {MAX_SIDE} pixels")
    if needed > max_pixels * _COLOR_BYTES:
        equal = -(-needed // _COLOR_BYTES)
        enough = -(-equal // 10**6) * 10**6 if equal > 10**6 else equal
        limit = f"{max_pixels:.0f} pixels, the limit set by max_pixels; max_pixels={enough:_} reads it"
        if needed == width * height * _COLOR_BYTES:
            raise PictureTooLarge(f"{width} x {height} is more than {limit}")
        kind = "as a progressive JPEG" if extra else f"in mode {image.mode}"
        raise PictureTooLarge(
            f"{width} x {height} {kind} takes as much memory as {equal} pixels of color. That is more than {limit}"
        )
    if needed <= MAX_PIXELS * _COLOR_BYTES:
        return contextlib.nullcontext()
    return _LOCKS.setdefault(os.getpid(), threading.Lock())
