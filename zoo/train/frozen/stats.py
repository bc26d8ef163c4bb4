"""Counts what the feature cache did in a run, for the user and for run.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class CacheStats:
    """Counts and times of the frozen part and its cache in one run. Features are the outputs of the frozen part.

    Args:
        engine: What the frozen part ran on: "onnxruntime" or "Keras".
        computed: Pictures (or views of them) whose features were computed and kept.
        found: Pictures (or views) whose features an earlier run had computed.
        read: How often features were read instead of computed.
        streamed: Pictures whose features were computed and not kept.
        seconds_preparing: Seconds spent on converting the frozen part and comparing it with Keras.
        seconds_computing: Seconds spent on the features that were kept.
        seconds_read: Seconds that the features read would have taken to compute, at the measured speed of their set.
        bytes: Size on the disk of the features computed.
        numbers: How numbers are kept, see `zoo.train.frozen.store.FeatureSet`; empty if none are.
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
        """Return the lines about the frozen part that are printed at the end of training.

        One line says how often features were read, and about how many seconds that saved. Another counts the pictures
        whose features were computed and not kept. A line whose count is 0 is left out.
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
        """Return the fields as run.json records them, with times rounded to milliseconds."""
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()}
