"""Runs the command `zoo`: as the script `zoo`, and when Python is started with `python -m zoo`.

Nothing is imported here but what Ctrl-C needs. `zoo.cli` takes a tenth of a second, and has no handlers before it is
there.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """End the process after Ctrl-C, as `zoo.cli` does later. An exception could be lost in a module being imported."""
    os.write(2, b"interrupted\n")
    os._exit(130)


def run() -> NoReturn:
    """Run the command that the user typed, and end the process with its exit code."""
    # A job in the background ignores Ctrl-C, and a program that calls this may have a handler of its own.
    own = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if own:
        signal.signal(signal.SIGINT, _leave)
    from zoo import cli

    if own:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.run()


if __name__ == "__main__":
    run()
