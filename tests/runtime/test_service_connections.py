"""`zoo-runtime serve` on real sockets: slow and rude clients, new files under load, signals, and the command itself."""

# The packages of the service may be missing on a device; what needs them is imported after the question.
# ruff: noqa: E402

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from zoo_runtime.cli import main

for needed in ("starlette", "uvicorn", "prometheus_client", "python_multipart"):
    pytest.importorskip(needed, reason="needs the extra `serve`")

from zoo_runtime._service import server
from zoo_runtime._service.app import Service
from zoo_runtime._service.limits import Limits
from zoo_runtime._service.models import Model

LIMITS = Limits(concurrency=2, body=300_000, seconds=5, head_seconds=0.4, connections=40)


@contextlib.contextmanager
def running(model, limits=LIMITS, **more) -> Iterator[tuple[Service, int]]:
    """Run the service in a thread, and yield it and its port."""
    service = Service({"tiny": Model("tiny", str(model), concurrency=2, options={})}, limits, **more)
    (listening,) = server.bind("127.0.0.1", 0)
    web = server.Server(service)
    # Signals belong to the main thread.
    web.capture_signals = contextlib.nullcontext
    thread = threading.Thread(target=web.run, args=([listening],))
    thread.start()
    try:
        end = time.monotonic() + 10
        while not web.started:
            assert time.monotonic() < end and thread.is_alive()
            time.sleep(0.01)
        yield service, listening.getsockname()[1]
    finally:
        web.should_exit = True
        thread.join(20)
        listening.close()
    assert not thread.is_alive()


@pytest.fixture
def red(pictures) -> bytes:
    return (pictures / "red.jpg").read_bytes()


def head(length: int, more: str = "") -> bytes:
    text = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: {length}\r\n"
    return f"{text}{more}\r\n".encode()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def answer_of(connection: socket.socket) -> tuple[int, dict[str, str], dict]:
    """Read one answer."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return response.status, headers, json.loads(response.read())


def test_a_head_that_does_not_come_ends_the_connection(model, red):
    with running(model) as (_, port), connect(port) as silent, connect(port) as slow, connect(port) as good:
        started = time.monotonic()
        good.sendall(head(len(red)) + red)
        assert answer_of(good)[0] == 200
        with contextlib.suppress(ConnectionError):
            # One byte now and then must not prolong the time.
            for byte in head(5)[:30]:
                slow.sendall(bytes([byte]))
                time.sleep(0.03)
        status, _, answer = answer_of(slow)
        assert status == 408 and answer["error"] == "TooSlow"
        assert silent.recv(1000).startswith(b"HTTP/1.1 408 ") and silent.recv(1) == b""
        assert time.monotonic() - started < 3
        # The connection that asked in time is kept, and asks again: its second head is timed too.
        good.sendall(head(len(red)) + red)
        assert answer_of(good)[0] == 200
        good.sendall(b"POST /pre")
        assert answer_of(good)[0] == 408


def test_a_large_body_sees_its_answer_before_the_connection_ends(model):
    with running(model) as (service, port), connect(port) as client:
        client.sendall(head(0, "Transfer-Encoding: chunked\r\n").replace(b"Content-Length: 0\r\n", b""))
        chunk = b"%x\r\n%s\r\n" % (50_000, b"x" * 50_000)
        for _ in range(9):
            client.sendall(chunk)
        status, headers, answer = answer_of(client)
        assert status == 413 and answer["error"] == "RequestTooLarge" and headers["connection"] == "close"
        assert service.held.bytes == 0


def test_a_client_that_sends_all_before_it_reads_sees_why(model):
    """Python's urllib, for example."""
    with running(model) as (_, port), connect(port) as client:
        client.sendall(head(2_000_000) + b"x" * 2_000_000)
        assert answer_of(client)[0] == 413


def test_an_announced_body_is_not_asked_for(model):
    with running(model) as (_, port), connect(port) as client:
        client.sendall(head(400_000, "Expect: 100-continue\r\n"))
        assert answer_of(client)[0] == 413


def test_two_requests_at_once_on_one_connection(model, red):
    with running(model) as (_, port), connect(port) as client:
        client.sendall((head(len(red)) + red) * 3)
        received = b""
        while received.count(b"HTTP/1.1 ") < 3 or not received.endswith(b"}"):
            received += client.recv(65_536)
        assert received.count(b"HTTP/1.1 200 OK") == 3


def test_a_request_that_says_twice_where_it_ends_is_the_last_on_its_connection(model):
    sent = head(4, "Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n" + b"GET /models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with running(model) as (_, port), connect(port) as client:
        client.sendall(sent)
        status, headers, answer = answer_of(client)
        assert (status, answer["error"], headers["connection"]) == (400, "BadRequest", "close")
        assert not client.recv(1)


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000]
)
def test_what_is_no_request(model, sent):
    with running(model) as (_, port), connect(port) as client:
        client.sendall(sent)
        status, _, answer = answer_of(client)
        assert status == 400 and answer["error"] == "BadRequest"


def test_more_connections_than_allowed(model, red):
    with running(model, replace(LIMITS, connections=3, head_seconds=5)) as (_, port), contextlib.ExitStack() as stack:
        kept = [stack.enter_context(connect(port)) for _ in range(3)]
        time.sleep(0.1)
        status, headers, answer = answer_of(stack.enter_context(connect(port)))
        assert status == 503 and headers["retry-after"] == "5" and answer["error"] == "Busy"
        kept[0].sendall(head(len(red)) + red)
        assert answer_of(kept[0])[0] == 200


def test_a_client_that_goes_while_sending_leaves_nothing_behind(model, red):
    with running(model) as (service, port):
        with connect(port) as client:
            client.sendall(head(len(red)) + red[:500])
            end = time.monotonic() + 5
            while service.held.bytes != 500:
                assert time.monotonic() < end
                time.sleep(0.01)
        end = time.monotonic() + 5
        while service.held.bytes or service.state.requests:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_new_files_under_load_lose_no_request(model, graph, info, red, monkeypatch):
    monkeypatch.setattr("zoo_runtime._service.app._LOOK_SECONDS", 0.02)
    names = ["red", "crimson", "scarlet", "ruby"]
    answers: list[tuple[str, str]] = []
    stop = threading.Event()

    def ask(port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        while not stop.is_set():
            connection.request("POST", "/predict", red, {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            answer = json.loads(response.read())
            answers.append((str(response.status), answer.get("label")))

    with running(model) as (service, port):
        clients = [threading.Thread(target=ask, args=(port,)) for _ in range(6)]
        for client in clients:
            client.start()
        for name in names[1:]:
            new = model.with_name("new")
            new.write_bytes(graph(replace(info, classes=(name, "green", "blue")).to_metadata()))
            new.replace(model)
            end = time.monotonic() + 10
            while service.models["tiny"].current.alone.info.classes[0] != name:
                assert time.monotonic() < end
                time.sleep(0.01)
        time.sleep(0.1)
        stop.set()
        for client in clients:
            client.join(10)
    assert len(answers) > 50 and {status for status, _ in answers} == {"200"}
    assert {label for _, label in answers} == set(names)


# The command, as a process of its own


def until(condition: Callable[[], object]) -> None:
    """Wait until something is so. A busy machine may take its time."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def is_reading(port: int) -> bool:
    """Whether 500 bytes of a request have come."""
    return b"zoo_held_bytes 500.0" in get(port, "/metrics")[1]


@contextlib.contextmanager
def process(*arguments: object, **more) -> Iterator[tuple[subprocess.Popen, int, list[str]]]:
    """Start `zoo-runtime serve`, and yield the process, its port, and the lines that it has printed."""
    code = "from zoo_runtime.cli import run; run()"
    command = [sys.executable, "-c", code, "serve", *map(str, arguments), "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = subprocess.Popen(command, **pipes, **more)
    try:
        lines = []
        while not lines or not lines[-1].startswith("listening at"):
            line = started.stdout.readline()
            assert line, started.stderr.read()
            lines.append(line)
        yield started, int(re.search(r":(\d+)/", lines[-1])[1]), lines
    finally:
        started.kill()
        started.communicate()


def test_running_requests_end_and_new_ones_are_refused(model, red):
    with process(model, "--log-requests") as (service, port, lines), connect(port) as running_, connect(port) as late:
        assert lines[0].startswith("tiny: 3 classes, version ")
        running_.sendall(head(len(red)) + red[:500])
        until(lambda: is_reading(port))
        service.send_signal(signal.SIGTERM)
        until(lambda: get(port, "/v2/health/ready")[0] == 503)
        assert get(port, "/v2/health/live")[0] == 200
        late.sendall(head(len(red)) + red)
        status, headers, answer = answer_of(late)
        assert status == 503 and answer["error"] == "Stopping" and headers["retry-after"] == "5"
        running_.sendall(red[500:])
        assert answer_of(running_)[0] == 200
        out, err = service.communicate(timeout=10)
        assert service.returncode == 0 and err == ""
        logged = [line.split()[2:5] for line in out.splitlines()]
        assert [line for line in logged if line[0] == "POST"] == [
            ["POST", "/predict", "503"],
            ["POST", "/predict", "200"],
        ]


def test_ctrl_c_and_a_second_one(model, red):
    with process(model) as (service, port, _), connect(port) as slow:
        slow.sendall(head(len(red)) + red[:500])
        until(lambda: is_reading(port))
        service.send_signal(signal.SIGINT)
        until(lambda: get(port, "/v2/health/ready")[0] == 503)
        assert service.poll() is None
        started = time.monotonic()
        service.send_signal(signal.SIGINT)
        assert answer_of(slow)[0] == 503
        _, err = service.communicate(timeout=10)
        assert service.returncode == 130 and "Traceback" not in err and time.monotonic() - started < 5


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_sighup_takes_up_a_new_file(model, graph, info, red):
    with process(model, "--no-watch") as (service, port, _):
        new = model.with_name("new")
        new.write_bytes(graph(replace(info, classes=("purple", "green", "blue")).to_metadata()))
        new.replace(model)
        service.send_signal(signal.SIGHUP)
        assert service.stdout.readline().startswith("tiny: a new file answers now, version ")
        with connect(port) as client:
            client.sendall(head(len(red)) + red)
            assert answer_of(client)[2]["label"] == "purple"


def test_a_service_that_is_open_to_the_network_warns_unless_it_has_a_token(model):
    environment = {**os.environ, "ZOO_RUNTIME_TOKEN": "a-very-secret-token"}
    for more, warned in (({}, True), ({"env": environment}, False)):
        with process(model, "--host", "0.0.0.0", **more) as (service, _, lines):
            assert "every network address" in lines[-1]
            service.send_signal(signal.SIGTERM)
            out, err = service.communicate(timeout=10)
            assert ("WARNING: everybody who can reach this machine" in err) is warned and "secret" not in out + err


def test_a_port_in_use(model, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(model), "--port", str(port)]) == 1
    assert capsys.readouterr().err == (
        f"error: port {port} is in use, perhaps by another zoo-runtime serve. Choose another one: --port {port + 1}.\n"
    )
    assert main(["serve", str(model), "--host", "192.0.2.1", "--port", "0"]) == 1
    assert "is not an address of this machine" in capsys.readouterr().err


def test_without_the_extra_the_command_says_what_to_install(model):
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('starlette', 'uvicorn', 'prometheus_client', 'python_multipart'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from zoo_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, "serve", model], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "pip install 'finezoo-runtime[serve]'" in done.stderr and "'finezoo[serve]'" in done.stderr


def test_other_commands_do_not_wait_for_the_packages_of_the_service(model, pictures):
    code = "import sys; from zoo_runtime.cli import main; main(sys.argv[1:]); print(*sys.modules, sep='\\n')"
    command = [sys.executable, "-c", code, "predict", model, pictures / "red.jpg"]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert "onnxruntime" in loaded
    assert not loaded & {"starlette", "uvicorn", "prometheus_client", "asyncio", "zoo_runtime._service"}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_stops_neither_answers_nor_the_search_for_new_files(model, graph, info, red, tmp_path):
    port = free_port()
    command = [sys.executable, "-c", "from zoo_runtime.cli import run; run()", "serve", str(model), "--log-requests"]
    with open("/dev/full", "w") as full, open(tmp_path / "errors", "w+") as errors:
        service = subprocess.Popen([*command, "--port", str(port)], stdout=full, stderr=errors)
        try:
            until(lambda: can_connect(port))
            new = model.with_name("new")
            new.write_bytes(graph(replace(info, classes=("purple", "green", "blue")).to_metadata()))
            new.replace(model)
            until(lambda: b"purple" in get(port, "/models")[1])
        finally:
            service.terminate()
            service.wait(10)
    said = (tmp_path / "errors").read_text()
    assert said.count("the log of requests cannot be written (No space left on device)") == 1
    assert "a new file answers now" in said and "Traceback" not in said


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no such limit")
@pytest.mark.parametrize("soft, hard, warned", [(64, 4096, False), (360, 360, True)])
def test_few_open_files_neither_stop_the_service_nor_fill_the_disk(model, tmp_path, soft, hard, warned):
    import resource

    with open(tmp_path / "errors", "w+") as errors:
        code = "from zoo_runtime.cli import run; run()"
        port = free_port()
        service = subprocess.Popen(
            [sys.executable, "-c", code, "serve", str(model), "--port", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
        )
        try:
            until(lambda: can_connect(port))
            with contextlib.ExitStack() as stack:
                many = [stack.enter_context(connect(port)) for _ in range(400)]
                time.sleep(0.5)
                for client in many[:40]:
                    client.close()
                until(lambda: get(port, "/v2/health/live")[0] == 200)
        finally:
            service.terminate()
            service.wait(10)
    said = (tmp_path / "errors").read_text()
    assert ("only 40 clients can connect" in said) is warned
    assert said.count("\n") == warned, said[:1000]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def can_connect(port: int) -> bool:
    with contextlib.suppress(OSError), connect(port):
        return True
    return False
