"""What the functions of the workshop tell whoever called them.

The base class says nothing; `cli` brings one that prints.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from zoo.timing import Timing


class Reporter:
    """Receives messages and progress; silent unless overridden.

    Attributes:
        timing: Where the time went since it was made.
    """

    def __init__(self) -> None:
        self.timing = Timing()

    def say(self, text: str) -> None:
        """Report a step that is done or begins."""

    def warn(self, text: str) -> None:
        """Report something that the user should know but that stops nothing."""

    def block(self, title: str, text: str) -> None:
        """Report something that must not be overlooked."""

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """Give a function that takes (done, total) while a long step runs."""
        yield lambda done, total: None
