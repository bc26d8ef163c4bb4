"""Who may ask: the name of the host, the origin of a page, and the token.

A page of a stranger that a browser on this machine has opened can send requests to addresses of this machine, and to
others of its network. Three things stop it:

- By DNS rebinding, a stranger's name, such as evil.example, first leads to the stranger and then to 127.0.0.1. The
  browser then takes the service for a part of the stranger's page. But the request still names evil.example as its
  host. Hosts are therefore only accepted as addresses, which cannot be bound again, as names of this machine, and as
  names that `--allow-host` lists.
- Without rebinding, a browser says from which origin a POST comes. Only the service's own page and the origins of
  `--allow-origin` may send some.
- No answer carries a CORS header, unless `--allow-origin` names the origin, so a page cannot read it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .limits import Refused

SHORTEST_TOKEN = 16
# The page itself holds no secrets, and has to ask for the token; health is asked by programs that start services.
_OPEN = ("/v2/health/live", "/v2/health/ready")


class Hosts:
    """Refuses requests that name a host which is not this machine.

    Args:
        app: What to ask next.
        names: Names that are accepted besides those of this machine. "*" accepts all.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self._app = app
        given = {name.lower() for name in names}
        own = socket.gethostname().lower()
        self._all = "*" in given
        self._names = given | {"localhost", own, f"{own}.local"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._all:
            host = Headers(scope=scope).get("host", "")
            if host and not self._is_known(_hostname(host)):
                raise Refused(
                    421,
                    "UnknownHost",
                    f"This service does not answer for the host {host[:100]!r}. Use the address of the machine, or "
                    f"start the service with --allow-host {_hostname(host)[:100]}.",
                )
        await self._app(scope, receive, send)

    def _is_known(self, name: str) -> bool:
        if name in self._names or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _hostname(host: str) -> str:
    """Return the host of a header without its port, and an address of IPv6 without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


class Guard:
    """Refuses requests without the token, and those that the page of another origin sends.

    Args:
        app: What to ask next.
        token: The token that clients must send. None lets everybody ask.
        origins: Origins, such as "https://example.org", whose pages may send requests.
        open_paths: Paths that need no token besides those of health: the page.
    """

    def __init__(self, app: ASGIApp, token: str | None, origins: Iterable[str], open_paths: Iterable[str]) -> None:
        self._app = app
        self._digest = None if token is None else _digest(token)
        self._origins = {origin.lower() for origin in origins}
        self._open = {*_OPEN, *open_paths}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            self._check_origin(scope["method"], headers)
            if self._digest is not None and scope["path"] not in self._open:
                self._check_token(headers)
        await self._app(scope, receive, send)

    def _check_origin(self, method: str, headers: Headers) -> None:
        origin = headers.get("origin", "").lower()
        if method in ("GET", "HEAD", "OPTIONS") or not origin or origin in self._origins:
            return
        if _netloc(origin) != headers.get("host", "").lower():
            raise Refused(
                403,
                "ForeignOrigin",
                f"A page of {origin[:100]!r} may not use this service. Start it with --allow-origin {origin[:100]} to "
                "allow that.",
            )

    def _check_token(self, headers: Headers) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Digests have the same length, so that the time of the comparison says nothing about the token.
        if scheme.lower() == "bearer" and hmac.compare_digest(_digest(given.strip()), self._digest or b""):
            return
        what = "is wrong" if given else "is missing"
        raise Refused(
            401,
            "Unauthorized",
            f"The token {what}. Send it as a header: -H 'Authorization: Bearer TOKEN'.",
            {"WWW-Authenticate": "Bearer"},
        )


def _netloc(origin: str) -> str | None:
    """Return host and port of an origin. None if it is no address, such as "null" or "http://[a"."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach an IP address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
