"""A reporter that the tests of the data share."""

from __future__ import annotations

from zoo.reporter import Reporter


class Heard(Reporter):
    """Keeps what is said in `said`, and warnings in `warned`."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)
