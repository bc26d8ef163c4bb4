"""The outermost layer: errors become JSON, every answer is counted and may be logged, and connections end in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._print import one_line
from .limits import ClientGone, Limits, Refused
from .metrics import Metrics
from .output import say

if TYPE_CHECKING:
    from .app import State

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# How long and how much of a refused request is still read; see `_drain`.
_DRAIN_SECONDS = 5.0
_DRAIN_BODIES = 10


class Edge:
    """Wraps the service.

    Args:
        app: What to ask next.
        state: Whether the service is about to end, and how many requests it is answering.
        limits: How much of a refused request is still read.
        metrics: Counts the answers.
        log: Called with one line per request. None logs nothing.
        routes: The paths. Answers are counted by route, because a client must not be able to create any number of
            time series.
    """

    def __init__(
        self,
        app: ASGIApp,
        state: State,
        limits: Limits,
        metrics: Metrics,
        log: Callable[[str], None] | None,
        routes: Sequence[Route],
    ) -> None:
        self._app = app
        self._state = state
        self._limits = limits
        self._metrics = metrics
        self._log = log
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self._limits, closing=self._state.draining)
        started = time.perf_counter()
        self._state.requests += 1
        try:
            await self._answer(scope, exchange)
        finally:
            self._state.requests -= 1
            self._record(scope, exchange, time.perf_counter() - started)

    async def _answer(self, scope: Scope, exchange: Exchange) -> None:
        try:
            exchange.check_framing()
            # Who watches the service still wants to know how it ends.
            if self._state.draining and scope["path"] not in ("/v2/health/live", "/metrics"):
                raise Refused(503, "Stopping", "The service is stopping. Ask again later.", {"Retry-After": "5"})
            await self._app(scope, exchange.receive, exchange.send)
        except ClientGone:
            exchange.gone = True
        except Refused as error:
            # The frames of the error hold the body, which must not be kept while the client is slow to read the answer.
            error.__traceback__ = error.__context__ = None
            await exchange.refuse(error)
        except asyncio.CancelledError:
            if not self._state.draining:
                raise
            # The server cancels what has not ended in time, and then ends without waiting for the client.
            await exchange.refuse(
                Refused(503, "Stopping", "The service has stopped before the answer was ready."), drain=False
            )
        except HTTPException as error:
            await exchange.refuse(Refused(error.status_code, "HttpError", str(error.detail), error.headers))
        except Exception:
            say(f"error: a fault of the service itself:\n{traceback.format_exc()}", sys.stderr)
            if exchange.status is not None:
                raise
            message = "The service has a fault. Its standard error says more; please report it."
            await exchange.refuse(Refused(500, "InternalError", message))

    def _record(self, scope: Scope, exchange: Exchange, seconds: float) -> None:
        path = next((route.path for route in self._routes if route.path_regex.match(scope["path"])), "other")
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "OPTIONS") else "other"
        code = "gone" if exchange.status is None else str(exchange.status)
        self._metrics.requests.labels(method, path, code).inc()
        self._metrics.request_seconds.labels(path).observe(seconds)
        if self._log is not None:
            client = scope["client"][0] if scope.get("client") else "-"
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            line = f"{now} {client} {scope['method']} {scope['path']} {code} {seconds * 1000:.1f} ms {exchange.note}"
            self._log(one_line(line.rstrip()))


class Exchange:
    """One request and its answer.

    Attributes:
        status: The status code of the answer; None before there is one.
        gone: Whether the client has closed the connection.
        note: What the log says besides: the kind of an error.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits, *, closing: bool) -> None:
        headers = Headers(scope=scope)
        self._scope = scope
        self._receive = receive
        self._send = send
        self._limits = limits
        self._closing = closing
        # A proxy in front may follow the length while the server follows the chunks, so that what one of them takes for
        # the end of the body is the next request of the other (RFC 9112, section 6.1).
        self._framed_twice = "content-length" in headers and "transfer-encoding" in headers
        self._complete = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        self.status: int | None = None
        self.gone = False
        self.note = ""

    def check_framing(self) -> None:
        """Check that the request says once where its body ends.

        Raises:
            Refused: If it says so twice. The connection is closed after the answer.
        """
        if self._framed_twice:
            self._closing = True
            raise Refused(
                400, "BadRequest", "The request has both Content-Length and Transfer-Encoding. Send one of the two."
            )

    async def receive(self) -> Message:
        """Receive a message of the server, and remember whether the body is complete."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._complete = not message.get("more_body", False)
        else:
            self.gone = True
        return message

    async def send(self, message: Message) -> None:
        """Send a message to the server, with the headers that all answers have."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("Cache-Control", "no-store")
            if self._closing or not self._complete:
                headers["Connection"] = "close"
        elif not message.get("more_body", False) and not self._complete and not self.gone:
            await self._send({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _drain(self) -> None:
        """Read some more of a request that has been refused, before the connection is closed.

        A system that closes a connection with unread data resets it, and the client may then never see the answer.
        """
        left = _DRAIN_BODIES * self._limits.body
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._complete and not self.gone and left > 0:
                    left -= len((await self.receive()).get("body", b""))

    async def refuse(self, error: Refused, *, drain: bool = True) -> None:
        """Answer with an error: in the form of the protocol below /v2, and elsewhere in that of `predict --json`.

        Args:
            error: The error.
            drain: Whether to read some more of the request before the connection is closed.
        """
        if self.gone or self.status is not None:
            return
        if not drain:
            self._complete = self._closing = True
        self.note = error.error
        answer = {"error": error.error, "message": error.message}
        if self._scope["path"].partition("/v2")[0] == "" and self._scope["path"][3:4] in ("", "/"):
            answer = {"error": error.message}
        body = json.dumps(answer).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **error.headers}
        raw = [(name.lower().encode(), value.encode("utf-8", "replace")) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": error.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})
