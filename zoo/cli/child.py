"""Runs the command `zoo` as the child of another process: `python -m zoo.cli.child finetune ...`.

The child ends when its parent does, however that ends: its standard input is then closed. It ends as after `kill`, with
a safe point, so that another process can continue its run.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

# How long a child has to write its safe point after its parent has gone, in seconds.
PATIENCE = 60.0


def _end_with_parent() -> None:
    """Wait until the standard input is closed, and end this process. This runs in a daemon thread."""
    # Not through sys.stdin: the lock of its buffer would keep the process from ending.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(143)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True, name="parent").start()
    sys.argv[0] = "zoo"
    from zoo.cli import run

    run()
