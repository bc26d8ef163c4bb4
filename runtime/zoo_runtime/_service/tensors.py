"""Reads a JSON request with pixels in little memory.

Python's objects take up to 27 times as much memory as their JSON: 20 MB of `{},` took 500 MB, in each thread. The
numbers of `data` are therefore cut out before the rest becomes objects, and the rest may have few values.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from typing import TYPE_CHECKING, Any

import numpy as np

from .limits import Refused

if TYPE_CHECKING:
    import numpy.typing as npt

MOST_VALUES = 10_000
"""How many commas, colons and opening brackets a request may have besides a list of numbers called "data"."""

_DATA = re.compile(rb'(?<!\\)"data"\s*:\s*(\[[\[\]0-9,\s.eE+-]*\])')
_WHITESPACE = b" \t\r\n"
_DIGITS_TO_0 = bytes.maketrans(b"123456789", b"0" * 9)
_BRACKETS_TO_SPACES = bytes.maketrans(b"[]", b"  ")
_PIECE = 1 << 16


class Numbers:
    """The numbers of `data`, still as text.

    Args:
        text: A JSON list, flat or nested, with nothing but numbers.
    """

    def __init__(self, text: bytes) -> None:
        self._text = text

    def pixels(self, shape: list[int]) -> npt.NDArray[np.uint8]:
        """Return the numbers as an array of this shape.

        Args:
            shape: Four whole numbers above 0: pictures, height, width, channels.

        Raises:
            Refused: If they are not as many, are nested otherwise, or are not whole numbers in 0..255.
        """
        wanted = math.prod(shape)
        outline = self._text.translate(_DIGITS_TO_0, _WHITESPACE)
        count = 0 if not re.search(rb"[^\[\]]", outline[:1000]) else outline.count(b",") + 1
        flat = outline.rfind(b"[") == 0
        if count != wanted and flat:
            raise _bad(f"'data' has {count} numbers, but 'shape' {shape} asks for {wanted}.")
        skeleton = outline.translate(None, b"0.eE+-")
        expected = b"[" + b"," * (wanted - 1) + b"]" if flat else count == wanted and _nested(shape)
        if skeleton != expected or b"0[" in outline or b"]0" in outline:
            raise _bad("'data' must be a list of numbers, flat or nested as 'shape' says.")
        del outline, skeleton, expected
        return np.frombuffer(self._levels(), np.uint8).reshape(shape)

    def _levels(self) -> bytearray:
        """Return the numbers as bytes. A few at a time become objects, so that there are never many."""
        values, start = bytearray(), 0
        while start < len(self._text):
            comma = self._text.find(b",", start + _PIECE)
            stop = comma if comma >= 0 else len(self._text)
            try:
                piece = json.loads(b"[%s]" % self._text[start:stop].translate(_BRACKETS_TO_SPACES))
            except ValueError as error:
                raise _bad(f"The request is not JSON: in 'data', {error!s:.200}.") from None
            if not all(type(value) is int and 0 <= value <= 255 for value in piece):
                raise not_levels()
            values += bytes(piece)
            start = stop + 1
        return values


def parsed(body: bytes) -> Any:
    """Return the objects of a JSON request. In place of a list of numbers called "data", it has `Numbers`.

    Raises:
        Refused: If it is not JSON (400), or has too many values besides (413).
    """
    found = _DATA.search(body)
    rest, place = body, ""
    if found:
        place = secrets.token_hex(16)
        rest = b'%s"data": "%s"%s' % (body[: found.start()], place.encode(), body[found.end() :])
    values = sum(rest.count(sign) for sign in (b",", b":", b"[", b"{"))
    if values > MOST_VALUES:
        raise Refused(
            413,
            "TooManyValues",
            f"The request has more than {MOST_VALUES:,} values besides the whole numbers in 'data'. Send only the "
            "input 'image': its 'data' must be a list of whole numbers, or of base64 texts of picture files.",
        )
    try:
        request = json.loads(rest)
    except (ValueError, RecursionError) as error:
        text = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
        raise _bad(f"The request is not JSON: {text:.200}.") from None
    if found:
        _put(request, place, Numbers(found[1]))
    return request


def _put(request: Any, place: str, numbers: Numbers) -> None:
    """Put the numbers where they were cut out, if that is an input."""
    inputs = request.get("inputs") if isinstance(request, dict) else None
    for entry in inputs if isinstance(inputs, list) else ():
        if isinstance(entry, dict) and entry.get("data") == place:
            entry["data"] = numbers


def not_levels() -> Refused:
    """Return the error for numbers that are no levels of pixels."""
    return _bad("'data' must hold whole numbers from 0 to 255: the datatype is UINT8.")


def _nested(shape: list[int]) -> bytes:
    """Return the brackets and commas of a nested list of this shape."""
    text = b""
    for side in reversed(shape):
        text = b"[" + b",".join([text] * side) + b"]"
    return text


def _bad(message: str) -> Refused:
    return Refused(400, "BadRequest", message)
