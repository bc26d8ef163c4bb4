"""Refuses downloads while a plugin builds its network, also those that a cache of an earlier download would hide."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

# Python cannot remove an audit hook, so there is a single one, which does nothing while no check is running.
_EVENTS = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "http.client.connect"}
# What is running, and what it has asked the network for.
_watching: list[tuple[str, list[str]]] = []
_lock = threading.Lock()
_hooked = False


class NetworkUsed(AssertionError):
    """A plugin tried to use the network where it must not."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in _EVENTS:
        # The first argument of socket.connect is the socket, the second one is the address.
        target = arguments[1] if event == "socket.connect" and len(arguments) > 1 else arguments[0]
        if isinstance(target, (str, bytes)) and event == "socket.connect":
            return  # A socket of this machine.
        what, used = _watching[-1]
        used.append(f"{what} uses the network: it asks for {target!r}")
        raise NetworkUsed(used[-1])


@contextlib.contextmanager
def no_network(what: str) -> Iterator[None]:
    """Refuse connections, look-ups of names and `keras.utils.get_file` inside this context.

    Args:
        what: What is running, for the message, such as "tinynet: build".

    Raises:
        NetworkUsed: The code inside tried to use the network, whatever it did with the error.
    """
    global _hooked
    from keras.src.utils import file_utils

    used: list[str] = []

    def refuse(fname: Any = None, origin: Any = None, **options: Any) -> None:
        used.append(f"{what} downloads {origin or fname} with keras.utils.get_file")
        raise NetworkUsed(used[-1])

    with _lock:
        if not _hooked:
            sys.addaudithook(_audit)
            _hooked = True
    _watching.append((what, used))
    try:
        with mock.patch.object(file_utils, "get_file", refuse), mock.patch("keras.utils.get_file", refuse):
            yield
    except Exception:
        # Other packages turn the refusal into errors of their own, which do not name the reason.
        if used:
            raise NetworkUsed(used[0]) from None
        raise
    finally:
        _watching.pop()
    if used:
        raise NetworkUsed(used[0])
