"""Exceptions by which a check says that it cannot run here. They are no failures."""

from __future__ import annotations


class Skipped(Exception):
    """A check has nothing to look at, or a file or a module that it needs is not available. The text says which."""


class Blocked(Skipped):
    """A check cannot run because another check fails.

    Args:
        check: The name of the other check.
    """

    def __init__(self, check: str) -> None:
        super().__init__(f"the check {check!r} has failed")
