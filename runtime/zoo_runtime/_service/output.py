"""Prints what the service says, also where its output has gone: a full disk or a closed pipe must not end anything."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TextIO


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line at once. If that is impossible, print it on standard error; if that is too, go on.

    Args:
        text: The line.
        stream: Where to print it. None means standard output.
    """
    for one in (stream or sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            print(text, file=one, flush=True)
            return


class LogHandler(logging.StreamHandler[TextIO]):
    """Writes the log of requests. It says once that the log cannot be written, not at each request."""

    _failed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            self.stream.write(self.format(record) + self.terminator)
            self.stream.flush()
            self._failed = False
        except (OSError, ValueError) as error:
            if not self._failed:
                reason = getattr(error, "strerror", None) or error
                say(
                    f"warning: the log of requests cannot be written ({reason}). The service goes on answering; lines "
                    "are lost until the log can be written again.",
                    sys.stderr,
                )
            self._failed = True
