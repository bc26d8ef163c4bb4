"""A small web page with the latest frame and its answer, from the standard library's server.

It is read-only. It listens at this machine alone unless another address is named. Then everybody in that network can
see what the camera sees. The name in each request is checked, so that pages of strangers in a browser cannot read it:
by DNS rebinding, a stranger's name can lead to an address of this network, but the request still has that name.
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from .._errors import NotWritten
from .._format import ModelInfo
from .frames import Say
from .outputs import Answer
from .sources import Pixels

MOST = 32
"""The most requests at one time. Further ones get 503."""

WIDTH = 960
_TIMEOUT = 10.0
_LONGEST = 60.0
"""Seconds after which a connection ends in any case. Else a client that sends a byte now and then would keep it."""

# Nobody can register names with these endings, or a name without a dot.
_LOCAL_ENDINGS = (".local", ".lan", ".home", ".home.arpa", ".internal", ".localdomain", ".localhost")
_TYPES = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of the value of `--page`: PORT of this machine, or HOST:PORT.

    Raises:
        NotWritten: If it has another form.
    """
    match = re.fullmatch(r"(?:([^:\s]+|\[[0-9A-Fa-f:]+\]):)?(\d{1,5})", text)
    if not match or int(match[2]) > 65535:
        raise NotWritten(f"--page: must be PORT or HOST:PORT, such as 8090 or 0.0.0.0:8090. Received: {text!r}.")
    return (match[1] or "127.0.0.1").strip("[]"), int(match[2])


class Page:
    """Shows answers on a web page.

    Args:
        host, port: The address at which the page is served. Port 0 takes a free one.
        info: The metadata of the model.

    Attributes:
        url: The address of the page.

    Raises:
        NotWritten: If the address is in use or does not exist.
    """

    def __init__(self, host: str, port: int, info: ModelInfo) -> None:
        self._lock = threading.Lock()
        self._state: dict[str, Any] = {"number": 0, "status": "starting", "classes": len(info.classes)}
        self._pixels: Pixels | None = None
        self._jpeg: tuple[int, bytes] | None = None
        try:
            self._server = _Server((host, port), self)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise NotWritten(f"--page {host}:{port}: {reason}. Give another port, such as --page 8091.") from None
        shown = "localhost" if self._server.is_local else host
        self.url = f"http://{shown}:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, name="zoo page", daemon=True).start()

    @classmethod
    def start(cls, address: str, info: ModelInfo, say: Say) -> Page:
        """Serve the page at PORT of this machine, or at HOST:PORT.

        Raises:
            NotWritten: If the address has another form, is in use or does not exist.
        """
        page = cls(*parse_address(address), info)
        say(f"page: {page.url}")
        if not page._server.is_local:
            say("page: everybody in this network can see the camera")
        return page

    def write(self, answer: Answer) -> None:
        """Show an answer. With `--hold`, it is the one whose label has won."""
        self.show(answer, held=answer.line.get("label"))

    def show(self, answer: Answer, **held: object) -> None:
        """Show a frame and its probabilities."""
        line = answer.line
        bars = sorted(line.get("probabilities", {}).items(), key=lambda item: -item[1])[:5]
        with self._lock:
            self._pixels = answer.pixels if answer.pixels is not None else self._pixels
            self._state |= {
                **held,
                "number": self._state["number"] + 1,
                "time": line["time"],
                "path": line["path"],
                "bars": bars,
                "unknown": bool(line.get("unknown")),
                "outlier": bool(line.get("outlier")),
                "error": line.get("message"),
            }

    def status(self, text: str) -> None:
        """Show the state of the source."""
        with self._lock:
            self._state["status"] = text

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()

    def state(self) -> bytes:
        """Return the latest answer as JSON."""
        with self._lock:
            return json.dumps(self._state).encode()

    def jpeg(self) -> bytes | None:
        """Return the latest frame as a JPEG; None if there is none. Each frame is encoded at most once."""
        with self._lock:
            number, pixels = self._state["number"], self._pixels
            if self._jpeg and self._jpeg[0] == number:
                return self._jpeg[1]
        if pixels is None:
            return None
        made = _encode(pixels)
        with self._lock:
            self._jpeg = number, made
        return made


def _encode(pixels: Pixels) -> bytes:
    if isinstance(pixels, bytes):
        opened = Image.open(io.BytesIO(pixels))
        opened.draft("RGB", (WIDTH, WIDTH))
        image = opened.convert("RGB")
    else:
        image = Image.fromarray(np.ascontiguousarray(pixels[:, :, ::-1] if pixels.ndim == 3 else pixels))
    image.thumbnail((WIDTH, WIDTH))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Connections that wait to be accepted. With the default of 5, a browser that opens many waits for seconds.
    request_queue_size = 64
    # Closing must not wait for a browser that keeps its connection.
    block_on_close = False

    def __init__(self, address: tuple[str, int], page: Page) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)
        self.page = page
        self.name = address[0].lower()
        self.free = threading.BoundedSemaphore(MOST)
        self.is_local = ipaddress.ip_address(str(self.server_address[0])).is_loopback

    def server_bind(self) -> None:
        # HTTPServer would look up the name of the machine, which can take seconds without a network.
        import socketserver

        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.free.acquire(blocking=False):
            request.sendall(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        end = threading.Timer(_LONGEST, _end, [request])
        end.daemon = True
        try:
            end.start()
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self.free.release()

    def is_known(self, host: str) -> bool:
        """Return whether a name in a request is one of this machine, and not of a stranger's page."""
        if self.is_local:
            return host in ("localhost", "127.0.0.1", "::1")
        if host and (host == self.name or "." not in host or host.endswith(_LOCAL_ENDINGS)):
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: a browser that closes its connection is no error."""


def _end(connection: Any) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    timeout = _TIMEOUT
    server: _Server
    server_version = "zoo-runtime"
    sys_version = ""

    def do_GET(self) -> None:
        try:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        except ValueError:
            host = ""
        if not self.server.is_known(host):
            where = b"at localhost only" if self.server.is_local else b"at the address of the machine, not at this name"
            self._answer(403, "text/plain", b"This page is served " + where + b".\n")
            return
        path = urlsplit(self.path).path
        if path == "/state.json":
            self._answer(200, "application/json", self.server.page.state())
        elif path == "/frame.jpg":
            try:
                picture = self.server.page.jpeg()
            except (OSError, ValueError, Image.DecompressionBombError):
                picture = None
            if picture is None:
                self._answer(404, "text/plain", b"There is no frame yet.\n")
            else:
                self._answer(200, "image/jpeg", picture)
        elif (name := {"/": "page.html"}.get(path, path[1:])) in _TYPES:
            content = files(__package__).joinpath(name).read_bytes()
            self._answer(200, f"{_TYPES[name]}; charset=utf-8", content)
        else:
            self._answer(404, "text/plain", b"There is no such page.\n")

    def _answer(self, code: int, kind: str, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in _SECURITY.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing for each request."""
