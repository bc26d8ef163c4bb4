"""A connection between two processes: messages of JSON and arrays, and the news that the other end is gone.

Nothing that arrives is run as code. The connection is neither encrypted nor does it ask for a password, as JAX's own
connections between the processes are not: it belongs into a network of trusted machines.
"""

from __future__ import annotations

import contextlib
import json
import math
import queue
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# How a process has ended.
DONE, FAILED, INTERRUPTED, LOST = "done", "failed", "interrupted", "lost"
_MESSAGE, _END = b"m", b"e"
_FRAME = struct.Struct(">cQ")
# A longer header is no header: something else than zoo has connected.
LONGEST_HEADER = 1 << 28
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
        text: The error of a process that has failed.
        number: The signal of a process that was interrupted.
    """

    how: str
    text: str = ""
    number: int = 0


class Channel:
    """The connection to another process. A thread reads what arrives.

    Args:
        connected: The socket.
        ended: Called in the thread with an `Ending`, once, when the other process ends or is lost.

    Attributes:
        inbox: The messages that have arrived.
        gone: Set when the other process does not exist any more.
    """

    def __init__(self, connected: socket.socket, ended: Callable[[Ending], None]):
        self._socket, self._ended = connected, ended
        self._writing, self.inbox = threading.Lock(), queue.SimpleQueue[Message]()
        self.gone = threading.Event()
        connected.settimeout(None)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # macOS and Windows name these otherwise, and give a silent host up later.
        for name, seconds in (("TCP_KEEPIDLE", IDLE), ("TCP_KEEPINTVL", INTERVAL), ("TCP_KEEPCNT", COUNT)):
            if hasattr(socket, name):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)

    def listen(self) -> None:
        """Start the thread that reads."""
        threading.Thread(target=self._read, daemon=True, name="other process").start()

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
        """Read a message before `listen`.

        Raises:
            OSError: None arrives in this time, or something that is no message.
        """
        self._socket.settimeout(seconds)
        try:
            message = self._message(*_FRAME.unpack(self._exactly(_FRAME.size)))
        except (ValueError, TypeError, KeyError, MemoryError) as error:
            raise OSError(f"another program than zoo answers ({error})") from error
        finally:
            self._socket.settimeout(None)
        if not isinstance(message, Message):
            raise OSError("the other process has ended")
        return message

    def _read(self) -> None:
        ending = Ending(LOST)
        # Whatever arrives instead of a message, the connection is of no use any more.
        with contextlib.suppress(OSError, ValueError, TypeError, MemoryError):
            while True:
                found = self._message(*_FRAME.unpack(self._exactly(_FRAME.size)))
                if isinstance(found, Ending):
                    ending = found
                    break
                self.inbox.put(found)
        self._ended(ending)
        with contextlib.suppress(OSError):
            while self._socket.recv(1 << 16):
                pass
        self.gone.set()

    def _message(self, kind: bytes, length: int) -> Message | Ending:
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
        """
        data = bytearray(count)
        view = memoryview(data)
        while view:
            read = self._socket.recv_into(view)
            if not read:
                raise ConnectionResetError("the connection has ended")
            view = view[read:]
        return data
