"""Publishes answers to an MQTT broker with paho-mqtt.

TOPIC gets each answer as a JSON object with quality of service 1. TOPIC/status gets "online", "no camera", "no folder"
or "offline", retained; the broker itself sends "offline" if this process dies (the "last will").
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from dataclasses import dataclass
from typing import Any

from .._errors import NotWritten
from .._extras import install_line
from .frames import Say
from .outputs import Answer

MISSING = "paho-mqtt is not installed, which publishes answers."
FORM = "HOST[:PORT]/TOPIC or mqtts://HOST[:PORT]/TOPIC"
QUEUE = 1000
"""How many answers wait while the broker cannot be reached. Further ones are lost, and counted."""

PATIENCE = 10.0
"""How long `--once` waits for the broker, in seconds."""

_FAREWELL = 3.0


@dataclass(frozen=True)
class Broker:
    """Where answers go.

    Args:
        host, port: The address of the broker.
        topic: The topic of the answers.
        tls: Whether the connection is encrypted, and the broker's certificate checked.
    """

    host: str
    port: int
    topic: str
    tls: bool

    @classmethod
    def parse(cls, text: str) -> Broker:
        """Parse the value of `--mqtt`.

        Raises:
            NotWritten: If it has another form, or contains a user or a password.
        """
        match = re.fullmatch(r"(?:(mqtts?)://)?(\[[0-9A-Fa-f:.]+\]|[^/:@\s\[\]]+)(?::(\d{1,5}))?/(\S.*)", text)
        if not match and "@" in text.partition("/")[0] + text.partition("://")[2].partition("/")[0]:
            raise NotWritten(
                "--mqtt: every user of this machine can read the command line, so it must not hold a password. Set "
                "ZOO_MQTT_USER and ZOO_MQTT_PASSWORD, or give --mqtt-login FILE with one line, USER:PASSWORD."
            )
        if not match or not 0 < int(match[3] or 1) < 65536:
            raise NotWritten(f"--mqtt: the broker must have the form {FORM}. Received: {text!r}.")
        topic = match[4]
        if "#" in topic or "+" in topic or len(topic.encode()) > 60_000:
            raise NotWritten(f"--mqtt: a topic to publish to has no # or +. Received: {topic[:100]!r}.")
        tls = match[1] == "mqtts"
        return cls(match[2].strip("[]"), int(match[3] or (8883 if tls else 1883)), topic, tls)


def login(file: str | None) -> tuple[str, str | None] | None:
    """Return user and password: from a file with one line, USER:PASSWORD, or from the environment. None if not given.

    Raises:
        NotWritten: If the file cannot be read, or has another form.
    """
    if file is None:
        user = os.environ.get("ZOO_MQTT_USER")
        return (user, os.environ.get("ZOO_MQTT_PASSWORD")) if user else None
    try:
        with open(file, encoding="utf-8") as stream:
            user, colon, password = stream.read(10_000).strip("\r\n").partition(":")
    except (OSError, UnicodeDecodeError) as error:
        raise NotWritten(
            f"--mqtt-login {file}: {getattr(error, 'strerror', None) or 'it is not a text file'}."
        ) from None
    if not user or not colon or "\n" in password:
        raise NotWritten(f"--mqtt-login {file}: it must hold one line, USER:PASSWORD.")
    return user, password


class Mqtt:
    """Publishes answers. Connects in the background, and again after each loss (see `Broker`)."""

    def __init__(self, broker: Broker, client: Any, say: Say) -> None:
        self._broker = broker
        self._client = client
        self._say = say
        self._status = "online"
        self._lost = 0
        self._refused: str | None = None
        self._closing = False
        self._lock = threading.Lock()
        self._waiting = 0
        self._first_answer = threading.Event()
        self.unpublished = 0
        """How many messages the broker had not confirmed when this object was closed."""

    @classmethod
    def start(cls, address: str, login_file: str | None, say: Say) -> Mqtt:
        """Start to connect to a broker. A broker that cannot be reached yet is tried again and again.

        Raises:
            NotWritten: If paho-mqtt is missing, or the address or the login cannot be used.
        """
        broker, user = Broker.parse(address), login(login_file)
        try:
            from paho.mqtt import client as paho
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError:
            raise NotWritten(f"{MISSING} {install_line('mqtt')}") from None
        client = paho.Client(CallbackAPIVersion.VERSION2)
        mqtt = cls(broker, client, say)
        client.will_set(f"{broker.topic}/status", "offline", qos=1, retain=True)
        client.reconnect_delay_set(1, 60)
        client.max_queued_messages_set(QUEUE)
        if user:
            client.username_pw_set(*user)
        if broker.tls:
            client.tls_set()
        client.on_connect = mqtt._connected
        client.on_connect_fail = mqtt._failed
        client.on_disconnect = mqtt._disconnected
        client.on_publish = mqtt._published
        client.connect_async(broker.host, broker.port)
        client.loop_start()
        return mqtt

    def require(self) -> None:
        """Wait for the connection.

        Raises:
            NotWritten: If the broker cannot be reached, refuses the connection, or does not answer for 10 seconds.
        """
        self._first_answer.wait(PATIENCE)
        if not self._client.is_connected():
            self._closing = True
            broker = f"{self._broker.host}:{self._broker.port}"
            raise NotWritten(f"--mqtt: there is no connection to {broker}. No picture was labeled; try again later.")

    def write(self, answer: Answer) -> None:
        """Publish an answer."""
        if not self._publish(self._broker.topic, json.dumps(answer.line)):
            self._lost += 1
            if self._lost == 1:
                self._say(f"mqtt: {QUEUE} answers wait for the broker; further ones are not published")

    def status(self, text: str) -> None:
        """Publish the state of the source."""
        self._status = text
        if self._client.is_connected():
            self._publish(f"{self._broker.topic}/status", text, retain=True)

    def close(self) -> None:
        """Wait some seconds for what was not sent yet, publish "offline", and disconnect. Say what was not sent."""
        self._closing = True
        end = time.monotonic() + _FAREWELL
        left = self.unpublished = self._wait(end) + self._lost
        if left:
            self._say(
                f"mqtt: {left:,} message{'s were' if left > 1 else ' was'} not published, because the program ends"
            )
        if self._client.is_connected():
            self._publish(f"{self._broker.topic}/status", "offline", retain=True)
            self._wait(end)
        self._client.disconnect()
        self._client.loop_stop()

    def _publish(self, topic: str, text: str, *, retain: bool = False) -> bool:
        """Publish a text. Return False if too many wait already."""
        with self._lock:
            self._waiting += 1
        # The other codes only say that there is no connection yet: the message waits for it.
        is_taken = bool(self._client.publish(topic, text, qos=1, retain=retain).rc != 15)
        if not is_taken:
            self._published()
        return is_taken

    def _published(self, *_: object) -> None:
        with self._lock:
            self._waiting -= 1

    def _wait(self, end: float) -> int:
        """Wait until the broker has confirmed everything, or a time has come. Return how many messages are left."""
        while self._waiting > 0 and time.monotonic() < end:
            time.sleep(0.02)
        return max(0, self._waiting)

    def _connected(self, client: Any, _: object, __: object, reason: Any, ___: object) -> None:
        if reason.is_failure:
            if str(reason) != self._refused:
                self._refused = str(reason)
                self._say(f"mqtt: {self._broker.host} refuses the connection: {reason}. Trying to connect again.")
            self._first_answer.set()
            return
        self._refused = None
        lost = f"; {self._lost:,} answers were not published" if self._lost else ""
        self._lost = 0
        self._say(f"mqtt: connected to {self._broker.host}:{self._broker.port}{lost}")
        self._publish(f"{self._broker.topic}/status", self._status, retain=True)
        self._first_answer.set()

    def _failed(self, _: object, __: object) -> None:
        if self._refused is None:
            self._refused = "unreachable"
            self._say(f"mqtt: {self._broker.host}:{self._broker.port} cannot be reached. Trying to connect again.")
        self._first_answer.set()

    def _disconnected(self, _: object, __: object, ___: object, reason: Any, ____: object) -> None:
        if not self._closing and self._refused is None:
            self._refused = "lost"
            self._say(f"mqtt: the connection to {self._broker.host} was lost. Trying to connect again.")
