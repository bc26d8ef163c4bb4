"""Holds a label until another one has won the votes of a time, so that it does not flicker."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from numbers import Real
from typing import Any

FEWEST = 3
"""The fewest votes that decide, because a single frame can be wrong however slowly frames come."""


class Vote:
    """Decides by majority which label a series of frames has.

    Each frame casts a vote for its label; None, "unknown", is a label like any other. The votes of the last `hold`
    seconds count, and at least the last three. A label wins if more than half of these votes are for it. It is then
    held until another label wins. There is no label before the votes span `hold` seconds.

    Args:
        hold: Time that the votes span, in seconds, 0 or more. With 0, each vote decides at once.

    Attributes:
        label: The label that is held; None if it is "unknown", or if there is none yet.
        decided: Whether a label has won yet.

    Raises:
        ValueError: If `hold` is negative or not a finite number.

    Example:

        vote = Vote(0.5)
        for frame in frames("0"):
            print(vote.add(predictor(frame, order="bgr").label))
    """

    def __init__(self, hold: float = 0.5) -> None:
        given: Any = hold
        if not (isinstance(given, Real) and math.isfinite(hold) and hold >= 0):
            raise ValueError(f"hold must be a number of seconds of 0 or more. Received: {hold!r}.")
        self.hold = hold
        self.label: str | None = None
        self.decided = False
        self._votes: deque[tuple[float, str | None]] = deque()
        self._counts: Counter[str | None] = Counter()
        self._since: float | None = None

    def add(self, label: str | None, at: float | None = None) -> str | None:
        """Count the vote of a frame, and return the label that is held.

        Args:
            label: The label of the frame; None for "unknown".
            at: The time of the frame in seconds, on any clock that does not go back. None means now.
        """
        now = time.monotonic() if at is None else at
        if self._since is None or (self._votes and now < self._votes[-1][0]):
            # A video that starts again goes back in time.
            self.clear()
            self._since = now
        self._votes.append((now, label))
        self._counts[label] += 1
        fewest = FEWEST if self.hold else 1
        while len(self._votes) > fewest and self._votes[0][0] <= now - self.hold:
            self._counts[self._votes.popleft()[1]] -= 1
        if len(self._votes) >= fewest and now - self._since >= self.hold:
            best, count = self._counts.most_common(1)[0]
            if 2 * count > len(self._votes):
                self.label, self.decided = best, True
        return self.label

    def clear(self) -> None:
        """Forget all votes, but not the label that is held: call this after frames were missing."""
        self._votes.clear()
        self._counts.clear()
        self._since = None
