"""Processes meet, compare what they do, exchange arrays, and hear of each other's end; here as threads, without JAX."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from processes import free_port

from zoo.errors import HostsError
from zoo.hosts import Abandoned, Place, channel, meeting
from zoo.hosts import team as teams


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setenv(meeting.TIMEOUT, "20")
    monkeypatch.setattr(teams, "LAST", 0.0)


def meet(places, facts):
    """Let processes meet; return a `Team` or an error for each."""

    def one(place, fact):
        try:
            return teams.met(place, fact, lambda text: None)
        except HostsError as error:
            return error

    with ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(one, places, facts))


def places(count, port):
    return [Place(count, index, "127.0.0.1", port) for index in range(count)]


@pytest.fixture
def three():
    team = meet(places(3, free_port()), [{"--seed": "0"}] * 3)
    yield team
    for each in team:
        each.end(None)


def all_do(team, function):
    with ThreadPoolExecutor(len(team)) as pool:
        return list(pool.map(function, team))


def test_they_exchange_facts_and_arrays(three):
    assert all_do(three, lambda each: each.exchange("number", each.index * 10)) == [[0, 10, 20]] * 3
    for message in all_do(three, lambda each: each.share("state", [each.index], {"a": np.float32(each.index + 5)})):
        assert message.facts == [0]
        assert message.arrays["a"].shape == () and message.arrays["a"] == 5
    empty = np.zeros((0, 4), "int64")
    for parts in all_do(three, lambda each: each.gather("f", {"x": np.full((2, each.index), each.index), "e": empty})):
        assert [part["x"].tolist() for part in parts] == [[[], []], [[1], [1]], [[2, 2], [2, 2]]]
        assert parts[2]["e"].shape == (0, 4)


def test_a_signal_for_one_is_one_for_all(three, monkeypatch):
    noted = []
    monkeypatch.setattr(teams.interrupts, "note", noted.append)
    assert all_do(three, lambda each: each.signal_waits(now=True)) == [False] * 3
    monkeypatch.setattr(teams.interrupts, "waiting_number", lambda: 15 * (threading.current_thread().name == "one"))

    def ask(each):
        threading.current_thread().name = "one" if each.index == 1 else "other"
        return each.signal_waits(now=True)

    assert all_do(three, ask) == [True] * 3
    assert noted == [15] * 3


def test_other_facts_are_named(three):
    def compare(each):
        with pytest.raises(HostsError) as error:
            each.require_same("pictures", {"the number of pictures": 100 - each.index // 2, "classes": ["a"]})
        return str(error.value)

    (text, *others) = all_do(three, compare)
    assert "process 2 on" in text and "the number of pictures: 100 in process 0, 99 there" in text
    assert "classes" not in text and others == [text] * 2


def test_the_end_of_one_ends_all(three):
    three[2].end(OSError("the disk is gone"))

    def wait(each):
        with pytest.raises(HostsError) as error:
            each.share("state") if each.index else each.exchange("number", 1)
        return str(error.value)

    texts = all_do(three[:2], wait)
    assert texts == [f"process 2 on {socket.gethostname()!r} has failed: the disk is gone"] * 2


def test_a_training_that_process_0_gives_up(three):
    three[0].abandon()
    with pytest.raises(Abandoned):
        three[1].share("epoch")


@pytest.mark.parametrize(
    ("second", "facts", "words"),
    [
        (Place(2, 1, "127.0.0.1"), {"--seed": "1"}, "--seed: 0 in process 0, 1 there"),
        (Place(2, 1, "127.0.0.1"), {}, "--seed: 0 in process 0, nothing there"),
        (Place(3, 1, "127.0.0.1"), {"--seed": "0"}, "--processes 3, process 0 with 2"),
    ],
)
def test_processes_that_do_not_belong_together(second, facts, words):
    port = free_port()
    second = Place(second.count, second.index, second.host, port)
    for error in meet([Place(2, 0, "127.0.0.1", port), second], [{"--seed": "0"}, facts]):
        assert isinstance(error, HostsError) and words in str(error)


def test_processes_that_do_not_come(monkeypatch):
    monkeypatch.setenv(meeting.TIMEOUT, "0.5")
    (error,) = meet(places(3, free_port())[:1], [{}])
    assert "1 of 3 processes have come. Lacking: 1, 2." in str(error)
    port = free_port()
    (error,) = meet([Place(2, 1, "127.0.0.1", port)], [{}])
    assert f"process 1 cannot reach process 0 at 127.0.0.1:{port}" in str(error) and "firewall" in str(error)


def test_a_port_that_is_not_free():
    port = free_port()
    with meeting._server(Place(2, 0, "127.0.0.1", port + 1)):
        (error,) = meet([Place(2, 0, "127.0.0.1", port)], [{}])
    assert f"port {port + 1} of this host is not free" in str(error)


def test_another_program_calls():
    port = free_port()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(teams.met, Place(2, 0, "127.0.0.1", port), {}, lambda text: None)
        with meeting._connected(Place(2, 1, "127.0.0.1", port), 10) as caller:
            caller.sendall(b"GET / HTTP/1.1\r\n\r\n")
        second = teams.met(Place(2, 1, "127.0.0.1", port), {}, lambda text: None)
    assert first.result().names == second.names == (socket.gethostname(),) * 2
    first.result().end(None)
    second.end(None)


def test_a_process_that_computes_is_heard_and_one_that_was_stopped_is_lost(monkeypatch):
    monkeypatch.setattr(channel, "SILENCE", 0.6)
    monkeypatch.setattr(channel, "PULSE", 0.1)
    team = meet(places(2, free_port()), [{}] * 2)
    # Their main threads compute for longer than a silent process is waited for.
    time.sleep(1.5)
    assert all_do(team, lambda each: each.exchange("number", each.index)) == [[0, 1]] * 2
    # A process that was stopped sends no pulses, and keeps its connection.
    team[1]._channels[0]._closing.set()
    started = time.monotonic()
    with pytest.raises(HostsError, match=r"process 1 on .* is lost: nothing was heard of it for 1 seconds"):
        team[0].exchange("number", 0)
    assert time.monotonic() - started < 10
    for each in team:
        each.end(None)


def test_who_calls_and_says_nothing_delays_nobody():
    port = free_port()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(teams.met, Place(2, 0, "127.0.0.1", port), {}, lambda text: None)
        callers = [meeting._connected(Place(2, 1, "127.0.0.1", port), 10) for _ in range(3)]
        # What it says is too long; it is no process of this training; it is no text.
        callers[1].sendall(channel._FRAME.pack(b"m", channel.LONGEST_FIRST + 1))
        strange = channel.Message("x", {"index": 0, "count": 2, "host": "a", "facts": {}})
        channel.Channel(callers[2], lambda ending: None).send(strange)
        assert [caller.recv(1) for caller in callers[1:]] == [b"", b""]
        started = time.monotonic()
        second = teams.met(Place(2, 1, "127.0.0.1", port), {}, lambda text: None)
        assert time.monotonic() - started < meeting.HELLO / 2
    for each in (first.result(), second, *callers):
        each.close() if isinstance(each, socket.socket) else each.end(None)


def test_arrays_of_objects_are_not_read():
    """They would be pointers into memory."""
    ends = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        left = socket.create_connection(server.getsockname())
        right, _ = server.accept()
    reading = channel.Channel(right, ends.append)
    reading.listen()
    header = b'["label", null, [["a", "|O", [1]]]]'
    left.sendall(channel._FRAME.pack(b"m", len(header)) + header + bytes(8))
    left.close()
    assert reading.gone.wait(10) and [end.how for end in ends] == [channel.LOST] and reading.inbox.empty()


def test_process_0_listens_only_on_the_address_that_it_was_given():
    port = free_port()
    with meeting._server(Place(2, 0, "127.0.0.1", port)) as server:
        assert server.getsockname()[0] == "127.0.0.1"
    # This name may have another address elsewhere, and this address is behind a router.
    for host in ("a-name", "192.0.2.1"):
        with meeting._server(Place(2, 0, host, port)) as server:
            assert server.getsockname()[0] in ("::", "0.0.0.0")


def test_while_process_0_writes_its_last_safe_point_the_end_of_others_does_not_hurry_it(three, monkeypatch):
    monkeypatch.setattr(teams, "GRACE", 0.1)
    monkeypatch.setattr(teams.os, "_exit", lambda code: pytest.fail("the process was ended"))
    monkeypatch.setattr(teams.interrupts, "note", lambda number: None)
    monkeypatch.setattr(teams.interrupts, "send", lambda number: None)
    monkeypatch.setattr(teams.interrupts, "waiting_number", lambda: int(signal.SIGTERM))
    assert all_do(three, lambda each: each.signal_waits(now=True)) == [True] * 3
    three[1].end(KeyboardInterrupt())
    assert three[0]._news.wait(10)
    time.sleep(0.3)
    assert not [each for each in threading.enumerate() if each.name == "end of training"]


@pytest.mark.parametrize("first", [True, False])
def test_the_signal_of_another_process_is_passed_on_unless_this_one_has_had_its_own(three, monkeypatch, first):
    """After the first signal, the next one ends a process at once."""
    sent = []
    monkeypatch.setattr(teams.interrupts, "send", sent.append)
    before = signal.signal(signal.SIGTERM, (lambda *given: None) if first else signal.SIG_DFL)
    try:
        three[1].end(teams.interrupts.Terminated())
        assert three[0]._news.wait(10) and three[2]._news.wait(10)
        time.sleep(0.1)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sent == [signal.SIGTERM] * 2 * first


def test_a_process_that_jax_ends_says_why_and_has_an_exit_code():
    """JAX ends a process by `abort`, in a thread of C++."""
    code = (
        "import ctypes, threading, time\n"
        "from zoo.hosts import Place, aborting, team\n"
        "team.NEWS = 0.1\n"
        "one = team.Team(Place(2, 1, 'a', 1), ('a', 'b'))\n"
        "one.at_end = lambda error: print('noted')\n"
        "aborting.announce(one.aborted)\n"
        "threading.Thread(target=ctypes.CDLL(None).abort).start()\n"
        "time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-uc", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "noted\n")
    assert done.stderr.startswith("error: JAX has ended this process.") and "`zoo resume RUN`" in done.stderr
    again = code.replace("threading.Thread", "aborting.forget()\nthreading.Thread", 1)
    done = subprocess.run([sys.executable, "-uc", again], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGABRT and done.stdout == ""
