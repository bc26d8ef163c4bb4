"""Reads what a client sends: never more than the limits allow, and never for longer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from .limits import ClientGone, Limits, Refused, size_text
from .workers import Workers

_MOST_PARTS = 16
HOW = (
    "Send it as a form, curl -F picture=@cat.jpg URL, or the file itself, curl -H 'Content-Type: image/jpeg' "
    "--data-binary @cat.jpg URL"
)


class Held:
    """Counts the bytes of all requests that are being received or wait, and refuses what would be too many.

    Attributes:
        bytes: The bytes that are held now.
        forgotten: The bytes of requests that have ended. Whoever returns their memory to the system sets it to 0.
    """

    def __init__(self, limits: Limits, workers: Workers) -> None:
        self._limits = limits
        self._workers = workers
        self.bytes = 0
        self.forgotten = 0

    @contextlib.contextmanager
    def reading(self, request: Request) -> Iterator[Reading]:
        """Open a context in which the body of a request may be read. It is forgotten at the end of the context."""
        reading = Reading(request, self, self._limits)
        try:
            yield reading
        finally:
            self.bytes -= reading.taken
            self.forgotten += reading.taken

    def check(self, size: int) -> None:
        """Check that some more bytes may be held.

        Raises:
            Refused: If they would be too many.
        """
        if self.bytes + size > self._limits.held:
            limit = size_text(self._limits.held)
            raise self._workers.busy(f"the requests that are being received or wait have more than {limit} together")


class Reading:
    """Reads the body of one request.

    Attributes:
        taken: The number of bytes that were read.
    """

    def __init__(self, request: Request, held: Held, limits: Limits) -> None:
        self._request = request
        self._held = held
        self._limits = limits
        self.taken = 0

    async def body(self) -> bytes:
        """Return the body.

        Raises:
            Refused: If the body is compressed (415), too large (413) or too slow (408), or if too much is held already
                (503).
            ClientGone: If the client has closed the connection.
        """
        encoding = self._request.headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            raise Refused(
                415, "UnsupportedEncoding", f"The body is compressed ({encoding[:40]!r}). Send the file as it is."
            )
        self._check(self._announced())
        chunks = bytearray()
        try:
            async with asyncio.timeout(self._limits.seconds):
                async for chunk in self._request.stream():
                    self._check(len(chunks) + len(chunk))
                    self._held.check(len(chunk))
                    self._held.bytes += len(chunk)
                    self.taken += len(chunk)
                    chunks += chunk
        except TimeoutError:
            raise Refused(
                408,
                "TooSlow",
                f"The request did not arrive within {self._limits.seconds:g} s: {len(chunks):,} bytes came. Send a "
                "smaller picture, or raise --timeout of the service.",
            ) from None
        except ClientDisconnect:
            raise ClientGone from None
        return bytes(chunks)

    def _announced(self) -> int:
        text = self._request.headers.get("content-length", "0")
        return int(text) if text.isdecimal() and len(text) < 16 else 0

    def _check(self, size: int) -> None:
        if size > self._limits.body:
            raise Refused(
                413,
                "RequestTooLarge",
                f"The request has {'' if self._announced() else 'at least '}{size_text(size)}, but the service takes "
                f"at most {size_text(self._limits.body)}. Send a smaller picture, or raise --max-body of the service.",
            )


def media_type(request: Request) -> tuple[str, bytes]:
    """Check the content type of a request with a picture.

    Returns:
        The type in lower case without parameters, such as "image/jpeg", and for a form its boundary.

    Raises:
        Refused: If it is none in which a picture can be sent.
    """
    header = request.headers.get("content-type", "")
    kind, parameters = parse_options_header(header)
    name = kind.decode("latin-1").lower()
    if name == "multipart/form-data":
        boundary = parameters.get(b"boundary", b"")
        if not boundary or len(boundary) > 200:
            raise Refused(400, "BadForm", f"The content type of the form has no boundary. {HOW}.")
        return name, boundary
    if name and not name.startswith("image/") and name != "application/octet-stream":
        raise Refused(
            415,
            "UnsupportedType",
            f"The content type is {name[:100]!r}. Allowed are image/jpeg, image/png and the like, "
            f"application/octet-stream, and multipart/form-data. {HOW}.",
        )
    return name, b""


def picture_in(body: bytes, boundary: bytes) -> bytes:
    """Return the picture of a request.

    Args:
        body: The body.
        boundary: The boundary of a form, or b"" if the body is the picture itself.

    Raises:
        Refused: If there is no picture or more than one, or the form is damaged.
    """
    pictures = _files_of(body, boundary) if boundary else [body]
    if len(pictures) > 1:
        raise Refused(
            400,
            "TooManyPictures",
            f"The form has {len(pictures)} files. Send one picture per request, or several to the path "
            "/v2/models/NAME/infer.",
        )
    if not pictures or not pictures[0]:
        raise Refused(400, "NoPicture", f"The request has no picture. {HOW}.")
    return pictures[0]


def _files_of(body: bytes, boundary: bytes) -> list[bytes]:
    """Return the files of a form. Fields that are not files are ignored, unless there is no file."""
    parts: list[tuple[bool, bytearray]] = []
    field, value = bytearray(), bytearray()
    is_file, is_disposition, finished = False, False, False

    def begin() -> None:
        nonlocal is_file
        is_file = False
        if len(parts) >= _MOST_PARTS:
            raise Refused(400, "BadForm", f"The form has more than {_MOST_PARTS} parts. Send only the picture.")
        parts.append((False, bytearray()))

    def header_end() -> None:
        nonlocal is_file, is_disposition
        is_disposition = bytes(field).lower() == b"content-disposition"
        if is_disposition:
            _, options = parse_options_header(bytes(value))
            is_file = b"filename" in options
            parts[-1] = (is_file, parts[-1][1])
        field.clear()
        value.clear()

    def end() -> None:
        nonlocal finished
        finished = True

    callbacks: Any = {
        "on_part_begin": begin,
        "on_header_field": lambda data, start, stop: field.extend(data[start:stop]),
        "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
        "on_header_end": header_end,
        "on_part_data": lambda data, start, stop: parts[-1][1].extend(memoryview(data)[start:stop]),
        "on_end": end,
    }
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise Refused(400, "BadForm", f"The form cannot be read ({error}). {HOW}.") from None
    if not finished:
        raise Refused(400, "BadForm", f"The form ends too early: its last boundary is missing. {HOW}.")
    files = [bytes(content) for file, content in parts if file]
    # A program may send a picture as a field without a file name.
    return files or [bytes(content) for _, content in parts]
