"""Test where the answers of `zoo-runtime watch` go: an MQTT broker (amqtt), and the local page."""

from __future__ import annotations

import http.client
import io
import json
import queue
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from zoo_runtime import NotWritten
from zoo_runtime._watch.mqtt import Broker, Mqtt, login
from zoo_runtime._watch.outputs import Answer
from zoo_runtime._watch.page import Page
from zoo_runtime.cli import main

paho = pytest.importorskip("paho.mqtt.client", reason="needs the extra [mqtt]")
pytest.importorskip("amqtt", reason="needs amqtt, which pip install 'finezoo[test]' brings")

BROKER = """
import asyncio, sys
from amqtt.broker import Broker
async def serve():
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": sys.argv[2] == "open"}}
    listeners = {"default": {"type": "tcp", "bind": f"127.0.0.1:{sys.argv[1]}"}}
    await Broker({"listeners": listeners, "plugins": plugins}).start()
    await asyncio.sleep(1000)
asyncio.run(serve())
"""


def until(condition: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def broker() -> Iterator[Callable[..., subprocess.Popen]]:
    """Return a function that starts a broker at a port."""
    started = []

    def start(port: int, access: str = "open") -> subprocess.Popen:
        command = [sys.executable, "-c", BROKER, str(port), access]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        until(lambda: is_listening(port))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def listen(port: int, topic: str) -> tuple[paho.Client, queue.Queue]:
    found: queue.Queue = queue.Queue()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = lambda _, __, message: found.put((message.topic, message.payload.decode()))
    client.on_connect = lambda *_: client.subscribe(topic, qos=1)
    subscribed = threading.Event()
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert subscribed.wait(15)
    return client, found


def answer(number: int) -> Answer:
    line = {"time": "2026-11-27T10:00:00.000Z", "path": "0", "label": "red", "frame": number}
    pixels = np.full((48, 64, 3), (20, 10, 220), np.uint8)
    return Answer({**line, "probabilities": {"red": 0.9, "<b>": 0.1}}, "red 0.9", False, pixels)


def test_answers_reach_the_broker_and_wait_while_it_is_away(broker):
    port = free_port()
    process = broker(port)
    client, found = listen(port, "home/#")
    messages: list[str] = []
    mqtt = Mqtt.start(f"127.0.0.1:{port}/home/door", None, messages.append)
    assert found.get(timeout=10) == ("home/door/status", "online")
    mqtt.write(answer(1))
    topic, payload = found.get(timeout=10)
    assert topic == "home/door" and json.loads(payload)["label"] == "red" and json.loads(payload)["frame"] == 1
    mqtt.status("no camera")
    assert found.get(timeout=10) == ("home/door/status", "no camera")
    client.loop_stop()
    process.kill()
    process.wait()
    until(lambda: any("was lost" in message for message in messages))
    mqtt.write(answer(2))
    # The second client keeps the broker from a message that nobody has subscribed to yet.
    broker(port)
    until(lambda: sum("mqtt: connected" in message for message in messages) == 2, 30)
    mqtt.close()


def test_a_broker_that_starts_later_gets_what_waited(broker):
    port, messages = free_port(), []
    mqtt = Mqtt.start(f"mqtt://127.0.0.1:{port}/a/b", None, messages.append)
    mqtt.write(answer(7))
    until(lambda: any("cannot be reached" in message for message in messages))
    broker(port)
    client, found = listen(port, "a/b")
    assert json.loads(found.get(timeout=20)[1])["frame"] == 7
    client.loop_stop()
    mqtt.close()


def test_once_labels_nothing_while_the_broker_is_away(broker, model, pictures, capsys, monkeypatch):
    # A damaged picture is tried again until it is as old as this.
    monkeypatch.setattr("zoo_runtime._watch.folder.PATIENCE", 0.5)
    port = free_port()
    command = ["watch", str(model), "--watch-folder", str(pictures), "--once", "--mqtt", f"127.0.0.1:{port}/a"]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert not printed.out
    assert f"no connection to 127.0.0.1:{port}. No picture was labeled; try again later." in printed.err
    broker(port)
    client, found = listen(port, "a")
    assert main(command) == 0
    count = len(capsys.readouterr().out.splitlines())
    assert count > 1
    assert len({json.loads(found.get(timeout=10)[1])["path"] for _ in range(count)}) == count
    client.loop_stop()


def test_what_was_not_published_at_the_end_is_said(broker, monkeypatch):
    monkeypatch.setattr("zoo_runtime._watch.mqtt._FAREWELL", 0.2)
    port, messages = free_port(), []
    mqtt = Mqtt.start(f"127.0.0.1:{port}/a", None, messages.append)
    mqtt.write(answer(1))
    mqtt.write(answer(2))
    mqtt.close()
    assert messages[-1] == "mqtt: 2 messages were not published, because the program ends"
    broker(port)
    monkeypatch.setattr("zoo_runtime._watch.mqtt._FAREWELL", 5)
    again, messages = Mqtt.start(f"127.0.0.1:{port}/a", None, lambda text: messages.append(text)), []
    again.write(answer(3))
    again.close()
    assert not any("not published" in message for message in messages)


def test_the_last_will_says_offline(broker):
    port = free_port()
    broker(port)
    client, found = listen(port, "x/status")
    code = (
        "import sys, os, time; from zoo_runtime._watch.mqtt import Mqtt; "
        "m = Mqtt.start(sys.argv[1], None, print); time.sleep(1); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, f"127.0.0.1:{port}/x"], stdout=subprocess.DEVNULL)
    assert [found.get(timeout=15)[1] for _ in range(2)] == ["online", "offline"]
    client.loop_stop()


def test_a_refused_login_is_said(broker):
    port, messages = free_port(), []
    broker(port, "closed")
    mqtt = Mqtt.start(f"127.0.0.1:{port}/a", None, messages.append)
    until(lambda: any("refuses the connection" in message or "was lost" in message for message in messages))
    mqtt.close()


def test_the_address_of_a_broker():
    assert Broker.parse("pi/a/b") == Broker("pi", 1883, "a/b", False)
    assert Broker.parse("mqtts://pi.local/a") == Broker("pi.local", 8883, "a", True)
    assert Broker.parse("mqtt://[::1]:99/a") == Broker("::1", 99, "a", False)
    for text in ("pi", "pi/", "pi:0/a", "pi:99999/a", "http://pi/a", "pi/a/#"):
        with pytest.raises(NotWritten, match="--mqtt"):
            Broker.parse(text)
    for text in ("ann:secret@pi/a", "mqtt://ann:secret@pi/a"):
        with pytest.raises(NotWritten, match="ZOO_MQTT_USER") as raised:
            Broker.parse(text)
        assert "secret" not in str(raised.value)


def test_the_login(tmp_path, monkeypatch):
    monkeypatch.delenv("ZOO_MQTT_USER", raising=False)
    assert login(None) is None
    monkeypatch.setenv("ZOO_MQTT_USER", "ann")
    monkeypatch.setenv("ZOO_MQTT_PASSWORD", "p:w")
    assert login(None) == ("ann", "p:w")
    file = tmp_path / "login"
    file.write_text("bob:s:1\n")
    assert login(str(file)) == ("bob", "s:1")
    file.write_text("bob\n")
    with pytest.raises(NotWritten, match="USER:PASSWORD"):
        login(str(file))


@pytest.fixture
def page(info) -> Iterator[Page]:
    made = Page("127.0.0.1", 0, info)
    yield made
    made.close()


def test_the_page_shows_the_latest_frame(page):
    page.status("online")
    page.write(answer(1))
    page.write(answer(2))
    with urllib.request.urlopen(page.url + "state.json", timeout=5) as response:
        state = json.load(response)
        assert "no-store" in response.headers["Cache-Control"]
    assert state["number"] == 2 and state["held"] == "red" and state["bars"] == [["red", 0.9], ["<b>", 0.1]]
    with urllib.request.urlopen(page.url + "frame.jpg", timeout=5) as response:
        red, green, blue = np.asarray(Image.open(io.BytesIO(response.read()))).mean((0, 1))
    assert red > 200 and green < 40 and blue < 50
    for name in ("", "page.css", "page.js"):
        with urllib.request.urlopen(page.url + name, timeout=5) as response:
            assert len(response.read()) > 500 and "default-src 'none'" in response.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("method", "path", "host", "code"),
    [
        ("GET", "/", "localhost", 200),
        ("GET", "/", "evil.example", 403),
        ("GET", "/frame.jpg", "localhost", 404),
        ("GET", "/../page.py", "localhost", 404),
        ("GET", "/page.py", "localhost", 404),
        ("POST", "/", "localhost", 501),
    ],
)
def test_the_page_answers_nothing_else(page, method, path, host, code):
    connection = http.client.HTTPConnection("127.0.0.1", page._server.server_address[1], timeout=5)
    connection.request(method, path, headers={"Host": host})
    assert connection.getresponse().status == code
    connection.close()


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("192.168.1.7:8090", 200),
        ("[fe80::1]:8090", 200),
        ("pi:8090", 200),
        ("pi.local", 200),
        ("pi.home.arpa", 200),
        ("evil.example", 403),
        ("pi.evil.example:8090", 403),
        ("192.168.1.7.evil.example", 403),
        ("", 403),
        ("[", 403),
    ],
)
def test_a_page_for_the_network_is_not_for_the_pages_of_strangers(info, host, code):
    """By DNS rebinding, a stranger's name leads to an address of this network."""
    page = Page("0.0.0.0", 0, info)
    connection = http.client.HTTPConnection("127.0.0.1", page._server.server_address[1], timeout=5)
    try:
        connection.request("GET", "/state.json", headers={"Host": host})
        assert connection.getresponse().status == code
    finally:
        connection.close()
        page.close()


def test_a_client_that_sends_slowly_loses_its_place(page, monkeypatch):
    monkeypatch.setattr("zoo_runtime._watch.page._LONGEST", 0.3)
    with socket.create_connection(("127.0.0.1", page._server.server_address[1]), timeout=5) as slow:
        slow.sendall(b"GET / HT")
        assert slow.recv(1) == b""


def test_many_connections_do_not_stop_the_page(page):
    port = page._server.server_address[1]
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
    time.sleep(0.3)
    for each in idle:
        each.close()
    time.sleep(0.3)
    page.write(answer(1))
    assert urllib.request.urlopen(page.url + "state.json", timeout=5).status == 200


def test_the_address_of_the_page(info, page):
    for text in ("x", "70000", "0.0.0.0"):
        with pytest.raises(NotWritten, match="--page"):
            Page.start(text, info, lambda _: None)
    with pytest.raises(NotWritten, match="Give another port"):
        Page.start(str(page._server.server_address[1]), info, lambda _: None)
