"""The beginning: processes find each other, and check that they were started to do the same."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from zoo.errors import HostsError
from zoo.hosts.channel import Channel, Message
from zoo.hosts.place import Place

# The environment variable that says how long processes wait for each other at the start, in seconds.
TIMEOUT = "ZOO_HOSTS_TIMEOUT"
DEFAULT_TIMEOUT = 300.0
_FACTS = "what is trained"


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], name: str) -> str:
    """Say in what facts of another process differ from those of process 0; empty if they do not.

    Args:
        ours: The facts of process 0.
        theirs: The facts of the other process.
        name: Describes the other process.
    """
    differing = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
    if not differing:
        return ""
    lines = [f"  {key}: {_shown(ours.get(key))} in process 0, {_shown(theirs.get(key))} there" for key in differing[:8]]
    more = [f"  and {len(differing) - 8} more"] if len(differing) > 8 else []
    return "\n".join([f"{name} has others than process 0:", *lines, *more])


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def timeout() -> float:
    text = os.environ.get(TIMEOUT) or str(DEFAULT_TIMEOUT)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise HostsError(f"the environment variable {TIMEOUT} is a number of seconds. Received: {text!r}.")
    return seconds


def meet(
    place: Place, facts: Mapping[str, Any], say: Callable[[str], None]
) -> tuple[list[str], dict[int, socket.socket]]:
    """Connect the processes, and check that they have the same facts.

    Args:
        place: Which process this is.
        facts: What all processes must have in common.
        say: Receives messages in process 0.

    Returns:
        The names of the hosts by index, and the connections to the other processes by their indices.

    Raises:
        HostsError: Some do not come in time, or they do not belong together.
    """
    seconds = timeout()
    hello = {"index": place.index, "count": place.count, "host": socket.gethostname(), "facts": dict(facts)}
    if place.index:
        connected = _connected(place, seconds)
        channel = Channel(connected, lambda ending: None)
        channel.send(Message(_FACTS, hello))
        try:
            answer = channel.first(seconds + 10).facts
        except OSError as error:
            raise HostsError(
                f"process 0 at {place.address} does not answer: {error}. It may have ended: see its messages. Check "
                "that zoo listens there, and no other program."
            ) from error
        if answer["problem"]:
            raise HostsError(answer["problem"])
        return answer["names"], {0: connected}
    sockets, hellos = _gathered(place, hello, seconds, say)
    names = [hellos[index]["host"] for index in range(place.count)]
    _answer(sockets, {"problem": "", "names": names})
    return names, sockets


def _answer(sockets: Mapping[int, socket.socket], facts: Mapping[str, Any]) -> None:
    for each in sockets.values():
        Channel(each, lambda ending: None).send(Message(_FACTS, dict(facts)))


def _connected(place: Place, seconds: float) -> socket.socket:
    """Connect to process 0, which may start later.

    Raises:
        HostsError: It cannot be reached in time.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection((place.host, place.port), timeout=min(10.0, seconds))
        except OSError as error:
            if time.monotonic() >= until:
                raise HostsError(
                    f"process {place.index} cannot reach process 0 at {place.address} after {seconds:.0f} seconds: "
                    f"{error.strerror or error}. Check that process 0 runs, that --coordinator names its host and "
                    "port, and that no firewall is between the hosts."
                ) from error
        time.sleep(0.2)


def _gathered(
    place: Place, hello: Mapping[str, Any], seconds: float, say: Callable[[str], None]
) -> tuple[dict[int, socket.socket], dict[int, dict[str, Any]]]:
    """In process 0: wait for all others. Return their sockets and what they say of themselves, by index.

    Raises:
        HostsError: Some do not come in time, or they do not belong together. They are told.
    """
    sockets: dict[int, socket.socket] = {}
    hellos: dict[int, dict[str, Any]] = {0: dict(hello)}
    until = time.monotonic() + seconds
    with _server(place.port) as server:
        say(f"Waiting for {place.count - 1} more {'process' if place.count == 2 else 'processes'} on port {place.port}")
        while len(hellos) < place.count:
            server.settimeout(max(0.01, until - time.monotonic()))
            try:
                connected, _ = server.accept()
            except TimeoutError:
                lacking = [str(index) for index in range(place.count) if index not in hellos]
                problem = (
                    f"after {seconds:.0f} seconds, {len(hellos)} of {place.count} processes have come. Lacking: "
                    f"{', '.join(lacking)}. Start zoo with the same command on each host, with its own "
                    f"--process-index, and let --coordinator name port {place.port} of {socket.gethostname()!r}."
                )
                break
            # A program that is not zoo may look what listens here.
            with contextlib.suppress(OSError, TypeError, KeyError):
                theirs = Channel(connected, lambda ending: None).first(10.0).facts
                problem = _misfit(hellos, theirs, place)
                if problem:
                    _answer({0: connected}, {"problem": problem})
                    break
                sockets[theirs["index"]], hellos[theirs["index"]] = connected, theirs
                continue
            connected.close()
        else:
            return sockets, hellos
    _answer(sockets, {"problem": problem})
    raise HostsError(problem)


def _misfit(hellos: Mapping[int, Mapping[str, Any]], theirs: Mapping[str, Any], place: Place) -> str:
    """Say why a process does not belong to those that have come; empty if it does."""
    index, host = theirs["index"], theirs["host"]
    if theirs["count"] != place.count:
        count = theirs["count"]
        return f"process {index} on {host!r} was started with --processes {count}, process 0 with {place.count}."
    if index in hellos:
        return (
            f"there are two processes with the index {index}, on {hellos[index]['host']!r} and on {host!r}. Give each "
            "its own --process-index."
        )
    text = difference(hellos[0]["facts"], theirs["facts"], f"process {index} on {host!r}")
    return f"all processes must be started with the same command and the same versions, but {text}" if text else ""


def _server(port: int) -> socket.socket:
    """Return a socket that listens on a port of all addresses of this host.

    Raises:
        HostsError: The port is not free.
    """
    try:
        # JAX's service listens on the next one; better to know now than when all have come.
        for wanted in (port + 1, port):
            if socket.has_dualstack_ipv6():
                server = socket.create_server(("", wanted), family=socket.AF_INET6, dualstack_ipv6=True)
            else:
                server = socket.create_server(("", wanted))
            if wanted != port:
                server.close()
    except OSError as error:
        raise HostsError(
            f"port {wanted} of this host is not free: {error.strerror or error}. Process 0 needs the port of "
            f"--coordinator and the next one. Choose another port for all processes."
        ) from error
    return server
