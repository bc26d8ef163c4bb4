"""Holds the counts and times of the feature cache in one run, which the user sees and run.json records."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class CacheStats:
    """Counts and times of the frozen part and its cache in one run. Features are the outputs of the frozen part.

    Args:
        engine: What the frozen part ran on: "onnxruntime" or "Keras"; empty if it was not needed.
        computed: Pictures, or views of them, whose features this run computed and kept.
        found: Pictures, or views of them, whose features an earlier run had computed.
        read: How often the features of a picture were read from the cache.
        streamed: How often the features of a picture were computed and not kept.
        seconds_preparing: Seconds spent on converting the frozen part and comparing it with Keras.
        seconds_computing: Seconds spent on computing the features that were kept.
        seconds_read: Estimated seconds that it would have taken to compute features each time they were read.
        bytes: Size on the disk of the features that this run computed.
        numbers: The number format of the cached features: "float32" or "16-bit fixed point"; empty if none are kept.
    """

    engine: str = ""
    computed: int = 0
    found: int = 0
    read: int = 0
    streamed: int = 0
    seconds_preparing: float = 0.0
    seconds_computing: float = 0.0
    seconds_read: float = 0.0
    bytes: int = 0
    numbers: str = ""

    def summary_lines(self) -> list[str]:
        """Return up to two lines about the frozen part, to be printed at the end of training.

        The first line says how often features were read. It adds the number of seconds saved if this is at least 1. The
        second line counts the pictures whose features were computed and not kept. A line is left out if its count is 0.
        """
        lines = []
        if self.read:
            text = f"Frozen part: features of {self.computed + self.found:,} pictures were read {self.read:,} times"
            saved = self.seconds_read - self.seconds_computing - self.seconds_preparing
            lines.append(f"{text}; that saved about {saved:.0f} s" if saved >= 1 else text)
        if self.streamed:
            lines.append(f"Frozen part: {self.streamed:,} pictures were computed on {self.engine}, and not kept")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return the fields for run.json, with times rounded to milliseconds."""
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()}
