"""Runs the service with uvicorn until a signal comes, and guards connections against slow clients."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import socket
import sys
import time
from asyncio import TimerHandle, Transport
from collections.abc import Callable, Iterator
from logging.handlers import QueueHandler, QueueListener
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .app import Service
from .limits import Limits
from .output import LogHandler

_KEEP_ALIVE_SECONDS = 15
_WRITE_SECONDS = 30.0
# asyncio accepts this many connections in one step. The refused ones are closed a few steps later.
_BACKLOG = 64
_BEING_REFUSED = 4 * _BACKLOG
# What the process opens besides connections: its libraries, new files, and the output.
_OTHER_FILES = 64


def connection_type(limits: Limits) -> type[H11Protocol]:
    """Return a class of connections that keep these limits.

    uvicorn has no limit for the time in which the head of a request must arrive, nor for that in which a client takes
    an answer: a client that sends one byte now and then could hold a connection for ever.
    """

    class Connection(H11Protocol):
        _head_timer: TimerHandle | None = None
        _write_timer: TimerHandle | None = None

        def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                message = f"The service has {limits.connections} open connections, and takes no more. Ask again later."
                transport.write(_plain_answer(503, "Service Unavailable", "Busy", message, "retry-after: 5\r\n"))
                transport.close()
                return
            self._await_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()
            elif self._head_timer is None:
                self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            self.resume_writing()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            message = f"This is not a valid request of HTTP/1.1, or its head is larger than 64 kB. ({msg})"
            self.transport.write(_plain_answer(400, "Bad Request", "BadRequest", message))
            self.transport.close()

        def pause_writing(self) -> None:
            self._write_timer = self.loop.call_later(_WRITE_SECONDS, self.transport.abort)
            super().pause_writing()

        def resume_writing(self) -> None:
            if self._write_timer is not None:
                self._write_timer.cancel()
                self._write_timer = None
            super().resume_writing()

        def on_response_complete(self) -> None:
            self._stop_waiting()
            super().on_response_complete()

        def _await_head(self) -> None:
            self._head_timer = self.loop.call_later(limits.head_seconds, self._head_is_late)

        def _stop_waiting(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _head_is_late(self) -> None:
            message = f"The head of the request did not arrive within {limits.head_seconds:g} s."
            self.transport.write(_plain_answer(408, "Request Timeout", "TooSlow", message))
            self.transport.close()

    return Connection


def _plain_answer(status: int, phrase: str, error: str, message: str, more: str = "") -> bytes:
    """Return a whole answer for a connection on which no request could be read."""
    body = json.dumps({"error": error, "message": message})
    head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{more}"
    return f"{head}connection: close\r\n\r\n{body}".encode()


class Server(uvicorn.Server):
    """Ends after a signal: first, running requests are answered and new ones get 503; then connections close.

    Args:
        service: The service.
        started: Called once, when clients can connect.

    Attributes:
        signal: The signal that ended it. None if there was none.
    """

    def __init__(self, service: Service, started: Callable[[], None] = lambda: None) -> None:
        config = uvicorn.Config(
            service.app,
            http=connection_type(service.limits),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
            backlog=_BACKLOG,
        )
        super().__init__(config)
        self._service = service
        self._say_started = started
        self._end = 0.0
        self.signal: int | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while the service runs. uvicorn would raise them again at its end; an exit code says more."""
        handlers = {signal.SIGINT: self._stop, signal.SIGTERM: self._stop}
        if hasattr(signal, "SIGHUP"):
            handlers[signal.SIGHUP] = self._look_again
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and say so."""
        await super().startup(sockets)
        self._say_started()

    def _stop(self, number: int, _: FrameType | None) -> None:
        state = self._service.state
        if state.draining:
            # Who asks twice does not want to wait.
            self._end = 0.0
            return
        self.signal = number
        self._end = time.monotonic() + self._service.limits.seconds
        state.draining = True

    def _look_again(self, number: int, _: FrameType | None) -> None:
        self._service.state.look_again = True

    async def on_tick(self, counter: int) -> bool:
        """Return whether the server shall end. uvicorn asks ten times a second."""
        state = self._service.state
        if state.draining and (not state.requests or time.monotonic() > self._end):
            return True
        return await super().on_tick(counter)


def connections_allowed(wanted: int) -> int:
    """Return how many connections may be open, so that the process never has more files open than the system allows.

    asyncio would then write a traceback for each connection that it cannot accept, thousands in a second. The limit of
    the process is raised, if the system allows it.

    Args:
        wanted: The number of connections, 1 or more.

    Returns:
        `wanted`, or less where the system allows fewer open files; at least 1.
    """
    try:
        import resource
    except ImportError:
        return wanted
    needed = wanted + _BEING_REFUSED + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _BEING_REFUSED - _OTHER_FILES))


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind a socket to each address of a host, without listening yet.

    Args:
        host: An address or a name.
        port: 0 chooses a free port, the same for all addresses.

    Raises:
        OSError: If there is no such address, the port is taken, or the system does not allow it.
    """
    sockets: list[socket.socket] = []
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            sockets.append(one)
            if os.name == "posix":
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            chosen = sockets[0].getsockname()[1] if port == 0 and len(sockets) > 1 else port
            try:
                one.bind((address[0], chosen, *address[2:]))
            except OSError:
                # `localhost` has two addresses, of which a machine without IPv6 lacks one.
                if len(sockets) == 1:
                    raise
                sockets.pop().close()
    except OSError:
        for one in sockets:
            one.close()
        raise
    return sockets


@contextlib.contextmanager
def request_log(wanted: bool) -> Iterator[Callable[[str], None] | None]:
    """Open the log of requests. A thread writes it, so that a slow disk or terminal does not delay answers.

    Yields:
        A function that logs a line on standard output, or None if no log is wanted.
    """
    if not wanted:
        yield None
        return
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    logger = logging.Logger("zoo_runtime.serve", logging.INFO)
    logger.addHandler(QueueHandler(lines))
    listener = QueueListener(lines, LogHandler(sys.stdout))
    listener.start()
    try:
        yield logger.info
    finally:
        listener.stop()


def run(service: Service, sockets: list[socket.socket], started: Callable[[], None]) -> int:
    """Run the service until a signal comes.

    Args:
        service: The service.
        sockets: Where it listens.
        started: Called once, when clients can connect.

    Returns:
        The exit code: 0 after SIGTERM, and 130 after Ctrl-C, as other commands.
    """
    errors = logging.StreamHandler(sys.stderr)
    errors.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    errors.setLevel(logging.ERROR)
    log = logging.getLogger("uvicorn.error")
    log.addHandler(errors)
    log.propagate = False
    server = Server(service, started)
    try:
        server.run(sockets)
    finally:
        log.removeHandler(errors)
    return 130 if server.signal == signal.SIGINT else 0
