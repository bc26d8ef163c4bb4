"""Splits a stream of JPEGs, one after the other, into pictures: what `rpicam-vid --codec mjpeg` and FFmpeg write.

A JPEG can hold another one, the preview of a camera. So the end is found by reading the segments (ITU-T T.81, annex B),
and not by looking for the bytes of an end marker.
"""

from __future__ import annotations

from typing import BinaryIO

from .._errors import CameraError

LARGEST = 64 * 2**20
_PIECE = 2**16
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})


class JpegPipe:
    """Reads the JPEGs of a binary stream.

    Args:
        stream: The stream. It need not be seekable.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._read = getattr(stream, "read1", stream.read)
        self._data = bytearray()
        self._ended = False

    def read(self) -> tuple[bytes, None] | None:
        """Return the bytes of the next JPEG, and None for its position. None at the end of the stream.

        Bytes between two JPEGs, such as the lines of a multipart stream, are skipped. So is a JPEG that is cut off at
        the end of the stream.

        Raises:
            CameraError: If the stream holds no JPEG within 64 MiB.
        """
        skipped = 0
        while True:
            start = self._data.find(b"\xff\xd8\xff")
            if start >= 0:
                del self._data[:start]
                break
            skipped += max(len(self._data) - 2, 0)
            del self._data[:-2]
            if skipped > LARGEST:
                raise CameraError("standard input holds no JPEG. Give frames as JPEGs, one after the other.")
            if not self._fill(len(self._data) + 1):
                return None
        size = self._size()
        if size is None:
            return None
        picture = bytes(self._data[:size])
        del self._data[:size]
        return picture, None

    def early_end(self, delivered: int) -> str | None:
        """Say that the stream ended within a JPEG, which is not answered. None if it did not."""
        return "it ends within a JPEG, which was left out." if self._data[:3] == b"\xff\xd8\xff" else None

    def close(self) -> None:
        """Leave the stream open: it belongs to the process."""

    def _fill(self, size: int) -> bool:
        """Read until there are `size` bytes. Return False if the stream ends before that."""
        while len(self._data) < size:
            if size > LARGEST:
                raise CameraError("a JPEG on standard input has more than 64 MiB.")
            piece = b"" if self._ended else self._read(_PIECE)
            if not piece:
                self._ended = True
                return False
            self._data += piece
        return True

    def _size(self) -> int | None:
        """Return the number of bytes of the JPEG at the start of the data. None if the stream ends within it."""
        at = 2
        while self._fill(at + 2):
            if self._data[at] != 0xFF:
                # What follows a damaged segment is no marker: go on at the next one.
                at = self._next_marker(at)
                if at < 0:
                    return None
                continue
            marker = self._data[at + 1]
            if marker == 0xFF:
                at += 1
            elif marker == _END:
                return at + 2
            elif marker == _START:
                # The JPEG was cut off, and the next one begins: the decoder will refuse it.
                return at
            elif marker in _WITHOUT_LENGTH or marker == 0:
                at += 2
            elif not self._fill(at + 4):
                return None
            else:
                length = int.from_bytes(self._data[at + 2 : at + 4], "big")
                at += 2 + max(length, 2)
                if marker == _SCAN:
                    at = self._next_marker(at)
                    if at < 0:
                        return None
        return None

    def _next_marker(self, at: int) -> int:
        """Return the position of the next marker behind entropy-coded data; -1 if the stream ends before it."""
        while self._fill(at + 2):
            found = self._data.find(b"\xff", at, len(self._data) - 1)
            if found < 0:
                # The last byte may be the first half of a marker.
                at = len(self._data) - 1
            elif self._data[found + 1] == 0xFF:
                at = found + 1
            elif self._data[found + 1] == 0 or self._data[found + 1] in _WITHOUT_LENGTH:
                at = found + 2
            else:
                return found
        return -1
