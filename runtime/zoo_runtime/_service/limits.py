"""The bounds of the service, and the error with which a request is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MAX_PIXELS = 40_000_000
"""The default of `--max-pixels` here, in pixels of color: 160 MB of memory for each picture that is being decoded."""

KB, MB = 1000, 1_000_000


@dataclass(frozen=True)
class Limits:
    """Bounds what clients can take of the machine.

    Args:
        concurrency: How many pictures are decoded and classified at the same time, each in a thread. 1 or more.
        body: The largest request, in bytes.
        held: The largest sum of all requests that are being received or wait, in bytes.
        queue: How many requests may wait for a thread. 0 or more.
        seconds: The longest time for receiving a request, and again for answering it.
        head_seconds: The longest time for receiving the head of a request.
        connections: How many connections may be open.
        pictures: How many pictures one request of the Open Inference Protocol may have.
    """

    concurrency: int
    body: int = 20 * MB
    held: int = 200 * MB
    queue: int = 128
    seconds: float = 30.0
    head_seconds: float = 10.0
    connections: int = 512
    pictures: int = 64


class Refused(Exception):
    """Ends a request with an error.

    Args:
        status: The HTTP status code, 400 to 599.
        error: The kind of error, one word, such as "CorruptPicture".
        message: What is wrong, what was received, what is allowed, and what to do.
        headers: More headers of the answer.
    """

    def __init__(self, status: int, error: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error = error
        self.message = message
        self.headers = dict(headers or {})


class ClientGone(Exception):
    """The client has closed the connection, so that nobody reads an answer."""


def size_text(size: int) -> str:
    """Return a number of bytes as text, such as "20 MB"."""
    for unit, factor in (("MB", MB), ("kB", KB)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}".replace(".0 ", " ")
    return f"{size} bytes"
