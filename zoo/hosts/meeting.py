"""The beginning: processes find each other, and check that they were started to do the same."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from zoo.errors import HostsError
from zoo.hosts.channel import Channel, Message
from zoo.hosts.place import Place, address_to_bind

# The environment variable that says how long processes wait for each other at the start, in seconds.
TIMEOUT = "ZOO_HOSTS_TIMEOUT"
DEFAULT_TIMEOUT = 300.0
_FACTS = "what is trained"
# How long a caller has to say who it is, in seconds, and how many callers may be about to.
HELLO, CALLERS = 10.0, 64
# The longest name of a host, in characters.
LONGEST_NAME = 255

# A caller that is zoo: its connection, and what it says of itself.
_Caller = tuple[socket.socket, dict[str, Any]]


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
    # Others send this text, and a terminal obeys some characters.
    text = "".join(each if each.isprintable() else "?" for each in text[:61])
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
        if not isinstance(answer, dict) or not (answer.get("problem") or answer.get("names")):
            raise HostsError(f"another program than zoo answers at {place.address}. Check --coordinator.")
        if answer.get("problem"):
            raise HostsError(str(answer["problem"]))
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
    until, problem = time.monotonic() + seconds, ""
    with _calls(place) as callers:
        say(f"Waiting for {place.count - 1} more {'process' if place.count == 2 else 'processes'} on port {place.port}")
        while len(hellos) < place.count and not problem:
            try:
                connected, theirs = callers.get(timeout=max(0.01, until - time.monotonic()))
            except queue.Empty:
                lacking = [str(index) for index in range(place.count) if index not in hellos]
                problem = (
                    f"after {seconds:.0f} seconds, {len(hellos)} of {place.count} processes have come. Lacking: "
                    f"{', '.join(lacking)}. Start zoo with the same command on each host, with its own "
                    f"--process-index, and let --coordinator name port {place.port} of {socket.gethostname()!r}."
                )
                break
            problem = _misfit(hellos, theirs, place)
            if problem:
                _answer({0: connected}, {"problem": problem})
            else:
                sockets[theirs["index"]], hellos[theirs["index"]] = connected, theirs
    if not problem:
        return sockets, hellos
    _answer(sockets, {"problem": problem})
    raise HostsError(problem)


@contextlib.contextmanager
def _calls(place: Place) -> Iterator[queue.SimpleQueue[_Caller]]:
    """Listen, and yield a queue of the callers that are zoo. What else calls is hung up on, and delays nobody.

    Raises:
        HostsError: The port is not free.
    """
    callers: queue.SimpleQueue[_Caller] = queue.SimpleQueue()
    free, ended = threading.Semaphore(CALLERS), threading.Event()

    def greet(connected: socket.socket) -> None:
        channel = Channel(connected, lambda ending: None)
        try:
            theirs = channel.first(HELLO).facts
        except OSError:
            theirs = None
        finally:
            free.release()
        if _is_hello(theirs) and not ended.is_set():
            callers.put((connected, theirs))
        else:
            channel.close()

    def accept() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                connected, _ = server.accept()
                if free.acquire(blocking=False):
                    threading.Thread(target=greet, args=(connected,), daemon=True, name="caller").start()
                else:
                    connected.close()

    with _server(place) as server:
        server.settimeout(0.1)
        listening = threading.Thread(target=accept, daemon=True, name="callers")
        listening.start()
        try:
            yield callers
        finally:
            ended.set()
            listening.join()


def _is_hello(facts: Any) -> bool:
    """Return whether facts of a caller have the form of those that zoo sends."""
    if not isinstance(facts, dict) or set(facts) != {"index", "count", "host", "facts"}:
        return False
    numbers, host = (facts["index"], facts["count"]), facts["host"]
    return (
        all(type(each) is int for each in numbers)
        and 0 < numbers[0] < numbers[1]
        and isinstance(host, str)
        and len(host) <= LONGEST_NAME
        and isinstance(facts["facts"], dict)
    )


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


def _server(place: Place) -> socket.socket:
    """Return a socket that listens on the port of process 0: on the address that --coordinator gives, or on all.

    Raises:
        HostsError: The port is not free.
    """
    address = address_to_bind(place.host)
    dual = not address and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual or ":" in address else socket.AF_INET
    try:
        # JAX's service listens on the next one; better to know now than when all have come.
        for wanted in (place.port + 1, place.port):
            server = socket.create_server((address, wanted), family=family, dualstack_ipv6=dual)
            if wanted != place.port:
                server.close()
    except OSError as error:
        raise HostsError(
            f"port {wanted} of this host is not free: {error.strerror or error}. Process 0 needs the port of "
            f"--coordinator and the next one. Choose another port for all processes."
        ) from error
    return server
