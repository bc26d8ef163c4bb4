"""Lets Ctrl-C, SIGTERM and SIGHUP end a loop after the answer that is being written."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

INTERRUPTED = 130


class Stop:
    """A context in which signals ask a loop to end. A second signal ends the process as usual.

    Attributes:
        requested: Set as soon as a signal has come.
        code: The exit code: 130 after Ctrl-C, as in all commands, and 0 after SIGTERM or SIGHUP, because a service
            that was told to stop and has stopped did not fail.
    """

    def __init__(self) -> None:
        self.requested = threading.Event()
        self.code = 0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                # A signal that is ignored, as by nohup, stays ignored.
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._asked)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._restore()

    def _asked(self, number: int, _: FrameType | None) -> None:
        self.code = INTERRUPTED if number == signal.SIGINT else 0
        self.requested.set()
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()
