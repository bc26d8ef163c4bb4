"""Ends the process once a command is done: waits for threads and exit handlers, but not for ever."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from typing import NoReturn

from zoo import hosts

# How long threads that are left over have to end, and after them the exit handlers, in seconds.
PATIENCE = 5.0
# The program that reads the output has gone, or the disk is full. Python ends with this code too.
UNWRITABLE = 120


def end(code: int) -> NoReturn:
    """End the process with an exit code, after its threads, exit handlers and output are finished.

    Python would wait for ever for a thread of a logger that does not end. If such a thread still runs after a few
    seconds, one line names it and its logger, and the process ends. If TensorFlow was imported, the process ends
    without freeing memory: TensorFlow takes a second to free it object by object, and the operating system does so at
    once.
    """
    code = _flushed(code)
    threading.Thread(target=_end_later, args=(code,), daemon=True, name="end of zoo").start()
    try:
        # This is what Python does first at its end. Joining the threads would wait for ever for those of an open pool.
        threading._shutdown()  # type: ignore[attr-defined]
        if hosts.deserted():
            # JAX would wait for processes that are gone.
            os._exit(_flushed(code))
        atexit._run_exitfuncs()
    except KeyboardInterrupt:
        os._exit(_flushed(130))
    code = _flushed(code)
    # Ctrl-C in a text that `exec` runs makes Python end with another code.
    if "tensorflow" in sys.modules or code == 130:
        os._exit(code)
    sys.exit(code)


def _end_later(code: int) -> None:
    """End the process if its threads or its exit handlers take too long. This runs in a daemon thread."""
    pause = threading.Event()
    pause.wait(PATIENCE)
    seconds, left = PATIENCE, _left_over()
    if not left:
        pause.wait(PATIENCE)
        seconds, left = 2 * PATIENCE, _left_over() or ["an exit handler"]
    for name in left:
        print(
            f"warning: {name} still runs {seconds:.0f} seconds after the command has ended. zoo ends without it. What "
            "it has not stored is lost.",
            file=sys.stderr,
        )
    os._exit(_flushed(code))


def _left_over() -> list[str]:
    """Describe the threads for which Python waits at its end, and name the loggers that have started them."""
    logs = sys.modules.get("zoo.workflow.logs")
    found = []
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            logger = logs.logger_of(thread) if logs is not None else ""
            found.append(f"the thread {thread.name!r} of {logger}" if logger else f"the thread {thread.name!r}")
    return found


def _flushed(code: int) -> int:
    """Write what is still to be printed, and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A stream that is closed has nothing left to print.
        with contextlib.suppress(ValueError, AttributeError):
            try:
                stream.flush()
            except OSError:
                code = UNWRITABLE
    return code
