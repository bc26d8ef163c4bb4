"""The command `zoo-runtime serve`: answers pictures over HTTP."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import select
import shlex
import stat
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .options import (
    FORMATS_HELP,
    MODEL_HELP,
    PROVIDERS_HELP,
    add_key,
    formats,
    pixels,
    positive,
    provider_names,
    seconds,
    threads,
)

if TYPE_CHECKING:
    from .._service.app import Access
    from .._service.limits import Limits
    from .._service.models import Model

DESCRIPTION = "Answer pictures over HTTP, with a page to try it: zoo-runtime serve model.onnx, or NAME=model.onnx ..."
TOKEN_VARIABLE = "ZOO_RUNTIME_TOKEN"
_LONGEST_TOKEN = 4096
_PIPE_SECONDS = 5.0


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("models", nargs="+", metavar="MODEL", help=f"{MODEL_HELP}; NAME=MODEL gives it another name")
    where = command.add_argument_group("where and for whom")
    where.add_argument("--host", default="127.0.0.1", help="address to listen at (default: only this machine)")
    where.add_argument("--port", type=port, default=8000, metavar="N", help="port (default: 8000; 0: a free one)")
    where.add_argument(
        "--token-file", metavar="FILE", help=f"clients must send the token in this file (or in {TOKEN_VARIABLE})"
    )
    where.add_argument(
        "--allow-origin", action="append", default=[], type=origin, metavar="URL", help="a site that may ask"
    )
    where.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a name under which clients reach the service"
    )
    bounds = command.add_argument_group("limits")
    bounds.add_argument("--max-body", type=size, metavar="SIZE", help="the largest request (default: 20M)")
    bounds.add_argument("--max-pixels", type=pixels, metavar="N", help="the largest picture to decode (default: 40M)")
    bounds.add_argument("--formats", type=formats, metavar="F,...", help=FORMATS_HELP)
    bounds.add_argument(
        "--concurrency", type=threads, metavar="N", help="pictures at the same time (default: one per core)"
    )
    bounds.add_argument("--queue", type=whole, default=128, metavar="N", help="requests that wait (default: 128)")
    bounds.add_argument(
        "--timeout", type=seconds, default=30.0, metavar="S", help="for a request, and for its answer (default: 30)"
    )
    running = command.add_argument_group("running")
    running.add_argument(
        "--threads", type=threads, metavar="N", help="threads for a single picture (default: tuned, or one per core)"
    )
    running.add_argument("--providers", type=provider_names, metavar="P,...", help=PROVIDERS_HELP)
    running.add_argument("--log-requests", action="store_true", help="print a line for each request")
    running.add_argument("--no-watch", action="store_true", help="take up new files only after the signal SIGHUP")
    add_key(running)
    running.add_argument("--skip-self-test", action="store_true", help="use files that fail it, or have none")


def run(options: argparse.Namespace) -> int:
    try:
        from .._service import app, models, server
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("starlette", "uvicorn", "prometheus_client", "python_multipart"):
            raise
        from .._extras import install_line

        problem = f"the service needs more packages ({error.name} is missing)."
        print(f"error: {problem} {install_line('serve')}", file=sys.stderr)
        return 1
    try:
        token = read_token(options.token_file)
        names = models.names_of(options.models)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        sockets = server.bind(options.host, options.port)
    except (OSError, UnicodeError) as error:
        print(f"error: {_not_bound(options.host, options.port, error)}", file=sys.stderr)
        return 1
    with contextlib.ExitStack() as stack:
        for one in sockets:
            stack.enter_context(one)
        limits = _limits(options)
        opened = {name: _open(name, path, options, limits) for name, path in names.items()}
        access = app.Access(token, options.allow_origin, options.allow_host)
        log = stack.enter_context(server.request_log(options.log_requests))
        service = app.Service(opened, limits, access, log, watch=not options.no_watch)
        addresses = [one.getsockname() for one in sockets]
        return server.run(service, sockets, lambda: _announce(opened, access, addresses))


def _limits(options: argparse.Namespace) -> Limits:
    from .._cores import usable_cores
    from .._service.limits import Limits
    from .._service.output import say
    from .._service.server import connections_allowed

    limits = Limits(options.concurrency or usable_cores(), queue=options.queue, seconds=options.timeout)
    allowed = connections_allowed(limits.connections)
    if allowed < limits.connections:
        say(
            f"warning: only {allowed} clients can connect at the same time, not {limits.connections}, because the "
            "system allows few open files. Run: ulimit -n 1024.",
            sys.stderr,
        )
        limits = replace(limits, connections=allowed)
    if options.max_body:
        limits = replace(limits, body=options.max_body, held=max(limits.held, 2 * options.max_body))
    return limits


def _open(name: str, path: str, options: argparse.Namespace, limits: Limits) -> Model:
    from .._service.limits import MAX_PIXELS
    from .._service.models import Model

    chosen: dict[str, Any] = {
        "threads": options.threads,
        "providers": options.providers,
        "max_pixels": options.max_pixels or MAX_PIXELS,
        "formats": options.formats,
        "require_signature": options.require_signature,
    }
    return Model(name, path, concurrency=limits.concurrency, options=chosen, self_test=not options.skip_self_test)


def _announce(models: dict[str, Model], access: Access, addresses: list[Any]) -> None:
    """Say what is served where, and warn loudly if strangers can use it."""
    from .._service.access import is_loopback
    from .._service.output import say

    for name, model in models.items():
        info = model.current.alone.info
        say(f"{name}: {len(info.classes)} classes, version {model.current.version}, from {model.path}")
    for address in addresses:
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        everywhere = " (every network address of this machine)" if address[0] in ("0.0.0.0", "::") else ""
        say(f"listening at http://{host}:{address[1]}/{everywhere}")
    if access.token is None and not all(is_loopback(address[0]) for address in addresses):
        say(
            "WARNING: everybody who can reach this machine over the network can use the service, because there is no "
            "token.\n"
            "WARNING: To ask for one: openssl rand -hex 32 > token; chmod 600 token; then add --token-file token.",
            sys.stderr,
        )


def _not_bound(host: str, number: int, error: Exception) -> str:
    import errno

    code = getattr(error, "errno", None)
    if code == errno.EADDRINUSE:
        return (
            f"port {number} is in use, perhaps by another zoo-runtime serve. Choose another one: --port {number + 1}."
        )
    if code == errno.EACCES:
        return f"the system does not allow port {number}. Choose one of 1024 or more, such as --port 8000."
    reason = getattr(error, "strerror", None) or error
    return (
        f"{host!r} is not an address of this machine ({reason}). Use 127.0.0.1 for this machine alone, or 0.0.0.0 for "
        "the network."
    )


def read_token(path: str | None) -> str | None:
    """Return the token that clients must send: from a file or the environment, or None if there is none.

    Raises:
        ValueError: If the file cannot be read, or the token is too short or has characters that a header cannot have.
    """
    from .._service.access import SHORTEST_TOKEN

    if path is None:
        token, place = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
        if token is None:
            return None
    else:
        place = repr(path)
        try:
            token = _first_characters(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"the token file {path!r} cannot be read: {reason}.") from None
    token = token.strip()
    if not SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN or not re.fullmatch(r"[!-~]+", token):
        received = f"more than {_LONGEST_TOKEN}" if len(token) > _LONGEST_TOKEN else f"{len(token)}"
        raise ValueError(
            f"the token in {place} must have {SHORTEST_TOKEN} to {_LONGEST_TOKEN} letters, digits or signs, without "
            f"spaces. Received: {received} characters. Make one: openssl rand -hex 32 > token."
        )
    return token


def _first_characters(path: str) -> str:
    """Return what a token file holds, or more characters than a token may have. Warn if other users can read it.

    Raises:
        OSError: If there is no such file, or it cannot be read.
        ValueError: If it is a device, or a pipe into which nobody writes.
    """
    with open(path, "rb", buffering=0, opener=_without_waiting) as stream:
        mode = os.fstat(stream.fileno()).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise ValueError("it is a device, not a file")
        if stat.S_ISREG(mode) and os.name == "posix" and mode & 0o004:
            print(f"warning: other users can read the token. Run: chmod 600 {shlex.quote(path)}", file=sys.stderr)
        content, end = b"", time.monotonic() + _PIPE_SECONDS
        # Spaces at the end, such as the end of a line, are no part of the token.
        while len(content) <= _LONGEST_TOKEN + 100:
            if stat.S_ISFIFO(mode) and not select.select([stream], [], [], max(0.0, end - time.monotonic()))[0]:
                raise ValueError(f"it is a pipe, and nobody has written a token into it within {_PIPE_SECONDS:g} s")
            part = stream.read(_LONGEST_TOKEN)
            if not part:
                break
            content += part
    return content.decode("ascii", "surrogateescape")


def _without_waiting(path: str, flags: int) -> int:
    """Open a file. Opening a pipe would otherwise wait until somebody writes into it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def port(text: str) -> int:
    """Convert the value of --port."""
    if not (text.isdecimal() and text.isascii()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 65535. Received: {text!r}.")
    return int(text)


def whole(text: str) -> int:
    """Convert a whole number of 0 or more."""
    return 0 if text == "0" else positive(text)


def size(text: str) -> int:
    """Convert a size, such as "20M" or "500k", to bytes."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?) ?([kKMG]?)B?", text.strip())
    number = int(float(match[1]) * {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}[match[2]]) if match else 0
    if not 1000 <= number <= 2 * 10**9:
        raise argparse.ArgumentTypeError(f"must be a size from 1k to 2G, such as 20M. Received: {text!r}.")
    return number


def origin(text: str) -> str:
    """Convert the value of --allow-origin."""
    if not re.fullmatch(r"https?://[^/\s*?#]+", text):
        raise argparse.ArgumentTypeError(
            f"must be an address without a path, such as https://example.org; * is not accepted. Received: {text!r}."
        )
    return text.lower()
