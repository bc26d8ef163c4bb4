"""Counts the features that one run computes and reads, and the seconds that this takes.

Features are the outputs of the frozen part of a network. zoo prints a summary at the end of training, and run.json
records all counts and times.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class CacheStats:
    """What one run computed with the frozen part of the network and read from the feature cache.

    Below, "picture" means a picture or a view (an augmented copy) of a picture.

    Args:
        engine: The library that computed the outputs of the frozen part: "onnxruntime" or "Keras". It is empty if the
            run did not have to compute any.
        computed: The number of pictures whose features this run computed and wrote to the cache.
        found: The number of pictures whose features were in the cache already, from an earlier run.
        read: The number of pictures whose features were read from the cache, added up over all epochs.
        streamed: The number of pictures whose features were computed without the cache, added up over all epochs.
        seconds_preparing: Seconds spent on converting the frozen part to ONNX and comparing its outputs with Keras's.
        seconds_computing: Seconds spent on computing the features that were written to the cache.
        seconds_read: The estimated seconds that the run would have needed to compute the features counted in `read`.
        bytes: The size on the disk of the features that this run computed.
        numbers: The number format of the cached features: "float32" or "16-bit fixed point". It is empty if the run
            used no cached features.
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
        """Return the summary for the end of training: a list of up to two lines.

        The first line is, for example, "Frozen part: features of 75 pictures were read 750 times in all, 10 times
        each; that saved about 12 s". Here 75 is the sum of `computed` and `found`, 750 is `read`, and 12 s is the time
        that the cache saved. Savings below one second are not shown. The first line is left out if `read` is 0.

        The second line shows `streamed`, and is left out if `streamed` is 0.
        """
        lines = []
        if self.read:
            pictures = self.computed + self.found
            each = f", {self.read / pictures:.0f} times each" if pictures and self.read >= 2 * pictures else ""
            text = f"Frozen part: features of {pictures:,} pictures were read {self.read:,} times in all{each}"
            saved = self.seconds_read - self.seconds_computing - self.seconds_preparing
            lines.append(f"{text}; that saved about {saved:.0f} s" if saved >= 1 else text)
        if self.streamed:
            lines.append(f"Frozen part: {self.streamed:,} pictures were computed on {self.engine}, and not kept")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return all fields as a dict for run.json, with times in seconds rounded to three decimals."""
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()}
