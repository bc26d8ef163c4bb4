"""Handles Ctrl-C and the signals SIGTERM and SIGHUP while a run works.

The first signal ends the work: at the next batch if the network trains, otherwise at once. The second one ends the
process without any more work. SIGHUP arrives when the terminal is closed or an ssh connection ends, and often twice; it
ends the work, and the second one is ignored. Under `nohup`, it has no effect. Only the main thread of a program may set
handlers; in other threads nothing changes.

Python runs some functions where no exception can be raised, such as those that importing a module leaves behind. There
it prints "Exception ignored in" and forgets the signal. Here nothing is printed, and the signal arrives again.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM, for example from `kill` or when the machine shuts down."""


class HungUp(Terminated):
    """The process received SIGHUP: its terminal was closed."""


# How long after it was ignored a signal arrives again, in seconds.
AGAIN = 0.01


class _Requests:
    """What the handlers share with the code that works.

    Attributes:
        held: Whether a signal waits for `check` instead of raising an exception at once.
        received: The signal that waits; None if there is none.
    """

    def __init__(self) -> None:
        self.held = False
        self.received: int | None = None


_requests = _Requests()


def _defaults() -> dict[int, Any]:
    """Return the handlers that Python starts with. Only these are replaced: background jobs ignore Ctrl-C."""
    # Windows has no SIGHUP.
    hangup: dict[int, Any] = {signal.SIGHUP: signal.SIG_DFL} if hasattr(signal, "SIGHUP") else {}
    return {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, **hangup}


def exit_code(error: BaseException | None) -> int:
    """Return the exit code of a command that was interrupted: 143 after SIGTERM, 129 after SIGHUP, 130 after Ctrl-C."""
    if isinstance(error, HungUp):
        return 129
    return 143 if isinstance(error, Terminated) else 130


def number_of(error: BaseException | None) -> signal.Signals | None:
    """Return the signal that an exception stands for; None for other exceptions."""
    if not isinstance(error, KeyboardInterrupt):
        return None
    return {129: getattr(signal, "SIGHUP", None), 143: signal.SIGTERM}.get(exit_code(error), signal.SIGINT)


def hidden(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the interruption that has caused an error; None if there is none.

    A module that is interrupted while it is imported can end with an ImportError, or a SystemError.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def send(number: int | None) -> None:
    """Send a signal to the main thread."""
    main = threading.main_thread().ident
    if number is not None and main is not None:
        if hasattr(signal, "pthread_kill"):
            # Unlike `interrupt_main`, this also ends a pause of the main thread.
            signal.pthread_kill(main, number)
        else:
            _thread.interrupt_main(signal.Signals(number))


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Handle Ctrl-C, SIGTERM and SIGHUP inside this context, as the module says.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
        Terminated: SIGTERM or SIGHUP was received.
    """
    taken = {}
    if threading.current_thread() is threading.main_thread():
        taken = {number: own for number, own in _defaults().items() if signal.getsignal(number) == own}

    def receive(number: int, frame: FrameType | None) -> None:
        # The operating system ends the process at the second signal, even if it computes in C++ then.
        for each in taken:
            signal.signal(each, signal.SIG_DFL)
        if number == getattr(signal, "SIGHUP", None):
            signal.signal(number, signal.SIG_IGN)
            _leave_terminal()
        _show_cursor()
        _requests.received = number
        if not _requests.held:
            check()

    for number in taken:
        signal.signal(number, receive)
    outer = sys.unraisablehook

    def ignored(what: Any) -> None:
        number = number_of(what.exc_value)
        if number is None or number not in taken:
            outer(what)
            return
        signal.signal(number, receive)
        again = threading.Timer(AGAIN, send, (number,))
        again.daemon = True
        again.start()

    if taken:
        sys.unraisablehook = ignored
    try:
        yield
    finally:
        if sys.unraisablehook is ignored:
            sys.unraisablehook = outer
        for number, own in taken.items():
            signal.signal(number, own)
        if taken:
            _requests.received = None


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Let the first signal wait for `check`, or for the end of this context."""
    outer, _requests.held = _requests.held, True
    try:
        yield
    finally:
        _requests.held = outer
    check()


@contextlib.contextmanager
def same_handlers() -> Iterator[None]:
    """Restore the handlers of Ctrl-C, SIGTERM and SIGHUP after this context, unless a signal has arrived in it."""
    before = {number: signal.getsignal(number) for number in _defaults()}
    try:
        yield
    finally:
        # After a signal, the next one ends the process.
        if not waiting() and threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                # A handler that was not set from Python is None, and cannot be set again.
                if handler is not None and signal.getsignal(number) != handler:
                    signal.signal(number, handler)


def waiting() -> bool:
    """Return whether a signal waits for `check`."""
    return _requests.received is not None


def waiting_number() -> int:
    """Return the number of the signal that waits for `check`; 0 if none does."""
    return _requests.received or 0


def note(number: int) -> None:
    """Let a signal wait for `check` that another process has received."""
    if _requests.received is None:
        _requests.received = number


def check() -> None:
    """Raise the exception of a signal that waits.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
        Terminated: SIGTERM or SIGHUP was received.
    """
    received, _requests.received = _requests.received, None
    if received is not None:
        if received == signal.SIGINT:
            raise KeyboardInterrupt
        raise Terminated if received == signal.SIGTERM else HungUp


def _leave_terminal() -> None:
    """Discard what would be written to a terminal that was closed: each write would raise an error."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            descriptor = stream.fileno()
            # A terminal that is gone is a character device that no longer says it is one.
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


def _show_cursor() -> None:
    """Show the cursor of the terminal again, which progress bars hide. A second signal leaves no time for it."""
    with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h")
            sys.stderr.flush()
