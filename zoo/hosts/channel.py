"""A connection between two processes: messages of JSON and arrays, and the news that the other end is gone.

Nothing that arrives is run as code, and nothing is unpickled. The connection is neither encrypted nor does it ask for a
password, as JAX's own connections between the processes are not: it belongs into a network of trusted machines.

Each end sends a pulse every few seconds, from a thread of its own. So a process that computes for hours is heard, and
one that was stopped, or whose host has no network, is not.
"""

from __future__ import annotations

import contextlib
import json
import math
import queue
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# How a process has ended.
DONE, FAILED, INTERRUPTED, LOST = "done", "failed", "interrupted", "lost"
_MESSAGE, _END, _PULSE = b"m", b"e", b"p"
_FRAME = struct.Struct(">cQ")
# A longer header is no header: something else than zoo has connected. The first message has options and versions alone.
LONGEST_HEADER, LONGEST_FIRST = 1 << 28, 1 << 20
# Every PULSE seconds, a process says that it exists. One that is silent for SILENCE seconds is lost.
PULSE, SILENCE = 5.0, 60.0
# A host that has lost its power or its network sends nothing. The operating system asks it after IDLE seconds, and
# again each INTERVAL seconds, and gives it up after COUNT questions.
IDLE, INTERVAL, COUNT = 10, 5, 4


@dataclass(frozen=True)
class Message:
    """What one process tells another.

    Args:
        label: What the message is about. Both ends must expect the same.
        facts: Anything that JSON has.
        arrays: Arrays by name.
    """

    label: str
    facts: Any = None
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Ending:
    """How a process has ended.

    Args:
        how: DONE, FAILED, INTERRUPTED or LOST.
        text: The error of a process that has failed, or how a process was lost if that is known.
        number: The signal of a process that was interrupted.
    """

    how: str
    text: str = ""
    number: int = 0


class Channel:
    """The connection to another process. A thread reads what arrives, and another one sends pulses.

    Args:
        connected: The socket.
        ended: Called in the thread with an `Ending`, once, when the other process ends or is lost.

    Attributes:
        inbox: The messages that have arrived.
        gone: Set when the other process does not exist any more.
    """

    def __init__(self, connected: socket.socket, ended: Callable[[Ending], None]):
        self._socket, self._ended = connected, ended
        self._arriving = selectors.DefaultSelector()
        self._until: float | None = None
        self._arriving.register(connected, selectors.EVENT_READ)
        self._writing, self.inbox = threading.Lock(), queue.SimpleQueue[Message]()
        self.gone, self._closing = threading.Event(), threading.Event()
        connected.settimeout(None)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # macOS and Windows name these otherwise, and give a silent host up later.
        for name, seconds in (("TCP_KEEPIDLE", IDLE), ("TCP_KEEPINTVL", INTERVAL), ("TCP_KEEPCNT", COUNT)):
            if hasattr(socket, name):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)

    def listen(self) -> None:
        """Start the threads that read and send pulses."""
        threading.Thread(target=self._read, daemon=True, name="other process").start()
        threading.Thread(target=self._pulse, daemon=True, name="pulse for other process").start()

    def send(self, message: Message) -> None:
        """Send a message. If the other process is gone, nothing happens here: the thread that reads says so."""
        import numpy as np

        # A scalar has the shape () only if it is not made contiguous, which gives it one axis.
        arrays = {key: np.asarray(value) for key, value in message.arrays.items()}
        kinds = [[key, value.dtype.str, list(value.shape)] for key, value in arrays.items()]
        header = json.dumps([message.label, message.facts, kinds]).encode()
        with contextlib.suppress(OSError), self._writing:
            self._socket.sendall(_FRAME.pack(_MESSAGE, len(header)) + header)
            for value in arrays.values():
                if value.nbytes:
                    self._socket.sendall(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)

    def end(self, ending: Ending) -> None:
        """Tell the other process that this one ends."""
        text = json.dumps([ending.how, ending.text, ending.number]).encode()
        # If the other process does not read, its buffer may be full.
        if self._writing.acquire(timeout=1):
            try:
                with contextlib.suppress(OSError):
                    self._socket.sendall(_FRAME.pack(_END, len(text)) + text)
            finally:
                self._writing.release()

    def first(self, seconds: float) -> Message:
        """Read a short message without arrays, before `listen`.

        Raises:
            OSError: None arrives in this time, or something that is no such message.
        """
        self._until = time.monotonic() + seconds
        try:
            kind, length = _FRAME.unpack(self._exactly(_FRAME.size))
            if kind != _MESSAGE or length > LONGEST_FIRST:
                raise ValueError("no message of zoo")
            label, facts, arrays = json.loads(self._exactly(length))
            if arrays:
                raise ValueError("no first message of zoo")
        except (ValueError, TypeError, RecursionError) as error:
            raise OSError(f"another program than zoo answers ({error})") from error
        finally:
            self._until = None
        return Message(label, facts)

    def close(self) -> None:
        """End a connection whose `listen` was not called."""
        self._arriving.close()
        self._socket.close()

    def _read(self) -> None:
        ending = Ending(LOST)
        # Whatever arrives instead of a message, the connection is of no use any more.
        try:
            while True:
                found = self._message(*_FRAME.unpack(self._exactly(_FRAME.size)))
                if isinstance(found, Ending):
                    ending = found
                    break
                if found is not None:
                    self.inbox.put(found)
        except TimeoutError:
            ending = Ending(LOST, f"nothing was heard of it for {SILENCE:.0f} seconds: it was stopped, or hangs")
        except (OSError, ValueError, TypeError, MemoryError, RecursionError):
            pass
        self._closing.set()
        self._ended(ending)
        with contextlib.suppress(OSError):
            while self._socket.recv(1 << 16):
                pass
        self.gone.set()

    def _pulse(self) -> None:
        while not self._closing.wait(PULSE):
            # Whoever writes at this moment is heard by that.
            if self._writing.acquire(blocking=False):
                try:
                    self._socket.sendall(_FRAME.pack(_PULSE, 0))
                except OSError:
                    return
                finally:
                    self._writing.release()

    def _message(self, kind: bytes, length: int) -> Message | Ending | None:
        """Read the rest of a message. Return None for a pulse."""
        if kind == _PULSE and not length:
            return None
        if kind not in (_MESSAGE, _END) or length > LONGEST_HEADER:
            raise ValueError("no message of zoo")
        content = json.loads(self._exactly(length))
        if kind == _END:
            return Ending(*content)
        import numpy as np

        label, facts, kinds = content
        arrays = {}
        for name, dtype, shape in kinds:
            data = self._exactly(math.prod(shape) * np.dtype(dtype).itemsize)
            arrays[name] = np.frombuffer(data, np.dtype(dtype)).reshape(shape)
        return Message(label, facts, arrays)

    def _exactly(self, count: int) -> bytearray:
        """Read a number of bytes.

        Raises:
            OSError: The connection ends before.
            TimeoutError: Nothing arrives for `SILENCE` seconds, or until `first` ends.
        """
        data = bytearray(count)
        view = memoryview(data)
        while view:
            seconds = SILENCE if self._until is None else self._until - time.monotonic()
            if seconds <= 0 or not self._arriving.select(seconds):
                raise TimeoutError("nothing has arrived in time")
            read = self._socket.recv_into(view)
            if not read:
                raise ConnectionResetError("the connection has ended")
            view = view[read:]
        return data
