"""Lets a process say why it ends when C++ code ends it with `abort`, as JAX does if it cannot reach another process.

Python's own signal handlers would never run then, because `abort` does not return to Python. The handler here is one of
C. It calls Python in the thread that ends, and waits there while another thread says why.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable
from typing import Any

# How long the end of the process waits for the callback, in seconds.
PATIENCE = 90.0
# C calls the handler, so that it must exist as long as the process.
_kept: list[Any] = []


def announce(callback: Callable[[], None]) -> None:
    """Call a function in a thread of its own before `abort` ends this process, until `forget` is called.

    Args:
        callback: Says why the process ends, and ends it. If it returns, `abort` goes on.
    """
    begun, done = threading.Event(), threading.Event()

    def speak() -> None:
        begun.wait()
        callback()
        done.set()

    def aborted(number: int) -> None:
        begun.set()
        done.wait(PATIENCE)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    try:
        install = ctypes.CDLL(None).signal
    except (OSError, TypeError, AttributeError):
        # Windows has no such function there, and JAX does not train in several processes on it.
        return
    install.argtypes, install.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    _kept.append(handler)
    threading.Thread(target=speak, daemon=True, name="end by JAX").start()
    install(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))


def forget() -> None:
    """Let `abort` end this process without a word again."""
    if _kept and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
