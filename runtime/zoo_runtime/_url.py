"""Downloads a picture from a web address, for `predict --allow-url`. Nothing else in this package reads addresses.

An address on the command line may lead into the local network, because cameras with a snapshot page are there. A
redirect may not lead from the internet into it: a stranger's server could otherwise make this machine read the pages of
its own network. The address of the connection itself is checked, so that a name that changes its meaning does not help.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import ipaddress
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ._errors import NotAPicture, PictureNotFound, PictureTooLarge
from ._version import __version__

LARGEST = 64 * 2**20
"""The largest download in bytes."""

DEADLINE = 30.0
"""The longest download in seconds, with all its redirects."""

REDIRECTS = 5
_PIECE = 2**16


class Download(io.RawIOBase):
    """A picture at a web address, as a file object. It is downloaded when it is read.

    Args:
        address: The address, http:// or https://. It may hold a user and a password, which only its host gets.
        deadline: The longest download in seconds.
    """

    def __init__(self, address: str, deadline: float = DEADLINE) -> None:
        self.name = without_password(address)
        self._address = address
        self._deadline = deadline

    def seekable(self) -> bool:
        """Return False."""
        return False

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the bytes of the picture.

        Raises:
            PictureNotFound: If the server cannot be reached or answers with an error, a redirect is not allowed, or the
                download takes too long.
            PictureTooLarge: If there are more than 64 MiB.
            NotAPicture: If there is nothing.
        """
        policy = _Policy(time.monotonic() + self._deadline)
        # A server that sends a byte now and then meets every time limit of the system, in the head of its answer too.
        timer = threading.Timer(self._deadline, policy.end)
        timer.daemon = True
        timer.start()
        try:
            return self._read(policy)
        except urllib.error.HTTPError as error:
            raise PictureNotFound(f"the server answered {error.code} {error.reason}.".replace(" .", ".")) from None
        except urllib.error.URLError as error:
            reason = "it takes too long" if policy.has_ended else _reason(error.reason)
            raise PictureNotFound(f"cannot be downloaded: {reason}.") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = "it takes too long" if policy.has_ended else _reason(error)
            raise PictureNotFound(f"cannot be downloaded: {reason}.") from None
        finally:
            timer.cancel()

    def _read(self, policy: _Policy) -> bytes:
        request = _request(self._address)
        handlers = [_Redirects(policy), _Http(policy), _Https(policy)]
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            *handlers,
        ):
            opener.add_handler(handler)
        with opener.open(request, timeout=self._deadline) as answer:
            length = answer.headers.get("Content-Length", "")
            if length.isdecimal() and int(length) > LARGEST:
                raise PictureTooLarge(f"{int(length):,} bytes are more than the {LARGEST:,} that are downloaded.")
            pieces: list[bytes] = []
            size = 0
            while piece := answer.read1(_PIECE):
                pieces.append(piece)
                size += len(piece)
                if size > LARGEST:
                    raise PictureTooLarge(f"it has more than the {LARGEST:,} bytes that are downloaded.")
                policy.check_time()
            policy.check_time()
        if length.isdecimal() and size < int(length):
            raise PictureNotFound(f"only {size:,} of {int(length):,} bytes were received.")
        if not size:
            raise NotAPicture("the answer of the server is empty.")
        return b"".join(pieces)


def without_password(text: str) -> str:
    """Return an address with `***` in place of its password."""
    return re.sub(r"(://[^/@\s:]*):[^/\s]*@", r"\1:***@", text)


def _request(address: str) -> urllib.request.Request:
    parts = urlsplit(address)
    if not parts.hostname:
        raise ValueError("the address names no host")
    try:
        _ = parts.port
    except ValueError:
        # The system would take another port, the remainder of a division by 65536.
        raise ValueError("the port in the address must be a number from 1 to 65535") from None
    host = parts.netloc.rpartition("@")[2]
    # Characters that must not stand in an address, such as spaces, are common in what people paste.
    path, query = (quote(text, safe="/%:=&?~#+!$,;'@()*[]") for text in (parts.path or "/", parts.query))
    headers = {"User-Agent": f"zoo-runtime/{__version__}", "Accept": "image/*", "Accept-Encoding": "identity"}
    request = urllib.request.Request(urlunsplit((parts.scheme, host, path, query, "")), headers=headers)
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        # urllib leaves this header out when it follows a redirect.
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(login).decode())
    return request


class _Policy:
    """What holds for all connections of one download."""

    def __init__(self, until: float) -> None:
        self._until = until
        self._is_public: bool | None = None
        self._socket: socket.socket | None = None
        self.has_ended = False

    def end(self) -> None:
        """End the connection, so that whatever waits for it fails."""
        self.has_ended = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # Not the method of `SSLSocket`, which must not be called while another thread reads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def check_time(self) -> float:
        """Return the seconds that are left."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("it takes too long")
        return left

    def check_peer(self, connection: http.client.HTTPConnection, is_proxied: bool) -> None:
        """Refuse a connection into the local network after one to the internet. A proxy decides for itself."""
        self._socket = connection.sock
        if is_proxied:
            return
        peer = ipaddress.ip_address(connection.sock.getpeername()[0].partition("%")[0])
        mapped = getattr(peer, "ipv4_mapped", None)
        is_public = (mapped or peer).is_global
        if self._is_public and not is_public:
            connection.close()
            raise PictureNotFound("it redirects from the internet into the local network, which is not followed.")
        self._is_public = is_public


def _connected(base: type[http.client.HTTPConnection], policy: _Policy, is_proxied: bool) -> Any:
    class Connection(base):  # type: ignore[valid-type, misc]
        def connect(self) -> None:
            self.timeout = policy.check_time()
            super().connect()
            policy.check_peer(self, is_proxied)

    return Connection


class _Http(urllib.request.HTTPHandler):
    def __init__(self, policy: _Policy) -> None:
        super().__init__()
        self._policy = policy

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_connected(http.client.HTTPConnection, self._policy, request.has_proxy()), request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, policy: _Policy) -> None:
        super().__init__()
        self._policy = policy

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        is_proxied = request.has_proxy() or bool(getattr(request, "_tunnel_host", None))
        base = _connected(http.client.HTTPSConnection, self._policy, is_proxied)
        return self.do_open(base, request, context=ssl.create_default_context())


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = REDIRECTS

    def http_error_302(self, request: Any, file: Any, code: int, message: str, headers: Any) -> Any:
        scheme = urlsplit(headers.get("Location") or headers.get("URI") or "").scheme
        if scheme not in ("", "http", "https"):
            raise PictureNotFound(f"it redirects to {scheme}://, which is not followed.")
        return super().http_error_302(request, file, code, message, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302  # type: ignore[assignment]

    def __init__(self, policy: _Policy) -> None:
        super().__init__()
        self._policy = policy

    def redirect_request(self, request: Any, file: Any, code: int, message: str, headers: Any, target: str) -> Any:
        self._policy.check_time()
        parts = urlsplit(target)
        if urlsplit(request.full_url).scheme == "https" and parts.scheme == "http":
            raise PictureNotFound("it redirects from https:// to http://, which is not followed.")
        return super().redirect_request(request, file, code, message, headers, target)


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "it takes too long"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of the server is not valid: {error.verify_message}"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
