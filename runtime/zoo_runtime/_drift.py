"""Compares the pictures that a device sees with the training pictures: only numbers are kept, never pictures.

The exported file has the mean and the spread of a few figures over the training pictures. A drift of these figures
often explains why a network answers worse than it did in the workshop: a lamp that failed, dirt on the lens, another
camera, or other things in front of it.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ._errors import CorruptModel

if TYPE_CHECKING:
    import numpy.typing as npt

# The figures of pictures, and those of answers, in the order in which they are printed.
OF_PIXELS = ("brightness", "contrast", "sharpness", "saturation")
OF_ANSWERS = ("confidence", "outlier_score", "feature_norm")
# A figure has drifted if its mean has moved by more than this many standard deviations of the training pictures ...
LARGE_SHIFT = 0.5
# ... and by more than this many standard errors, so that a few pictures cannot show a drift by chance.
CLEAR_SHIFT = 4.0
# From this number of pictures on, every shift that is large enough is also clear enough.
ENOUGH = math.ceil((CLEAR_SHIFT / LARGE_SHIFT) ** 2)
# Of these figures, only a shift in this direction is a drift.
WORSE = {"confidence": -1.0, "outlier_score": 1.0}


@dataclass(frozen=True)
class Shift:
    """Describes how one figure differs from that of the training pictures.

    Args:
        figure: Its name, such as "brightness".
        trained_mean: Its mean over the training pictures.
        trained_deviation: Its standard deviation over the training pictures.
        mean: Its mean over the pictures here.
        deviation: Its standard deviation over the pictures here.
        shift: By how many standard deviations of the training pictures the mean has moved.
        drifted: Whether the shift is large, and too clear to be chance. A higher confidence and a lower outlier score
            are no drift.
    """

    figure: str
    trained_mean: float
    trained_deviation: float
    mean: float
    deviation: float
    shift: float
    drifted: bool


def smallest_shift(pictures: int) -> float:
    """Return by how many standard deviations a mean must have moved so that this number of pictures shows a drift."""
    return max(LARGE_SHIFT, CLEAR_SHIFT / math.sqrt(pictures))


def pixel_figures(pixels: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Return the figures of a decoded picture.

    Args:
        pixels: uint8 (height, width, channels) in 0..255.

    Returns:
        brightness: The mean luma, in 0..1.
        contrast: The standard deviation of the luma, in 0..0.5.
        sharpness: The mean absolute difference between a pixel and the mean of its four neighbors, in 0..1.
        saturation: The mean difference between the largest and the smallest channel, in 0..1; 0 for a gray network.
    """
    # numpy is slow over an axis of three channels.
    channels = [pixels[..., i].astype(np.float32) for i in range(pixels.shape[-1])]
    gray, saturation = channels[0] / 255, 0.0
    if len(channels) == 3:
        red, green, blue = channels
        gray = (0.299 * red + 0.587 * green + 0.114 * blue) / 255
        largest, smallest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
        saturation = float((largest - smallest).mean()) / 255
    around = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:]
    edges = np.abs(gray[1:-1, 1:-1] - around / 4)
    return {
        "brightness": float(gray.mean()),
        "contrast": float(gray.std()),
        "sharpness": float(edges.mean()) if edges.size else 0.0,
        "saturation": saturation,
    }


@dataclass(frozen=True)
class _Counts:
    """What a `DriftCounter` has counted.

    Args:
        pictures: See `DriftCounter`.
        unknown: See `DriftCounter`.
        outliers: See `DriftCounter`.
        sums: For each figure, the number of pictures that have it, its mean, and the sum of squared differences from
            the mean.
    """

    pictures: int = 0
    unknown: int = 0
    outliers: int = 0
    sums: Mapping[str, tuple[int, float, float]] = field(default_factory=dict)


class DriftCounter:
    """Counts figures of pictures and of answers. Several threads may add to it.

    A copy, a pickle and a forked process start with what was counted so far, and then count for themselves.
    """

    def __init__(self) -> None:
        self.__setstate__({"counts": _Counts()})

    def __getstate__(self) -> dict[str, Any]:
        return {"counts": self._counts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The counts are replaced as a whole, so that a fork at any moment finds consistent ones.
        self._counts: _Counts = state["counts"]
        self._lock, self._process = threading.Lock(), os.getpid()

    @property
    def pictures(self) -> int:
        """The number of pictures that were added."""
        return self._counts.pictures

    @property
    def unknown(self) -> int:
        """How many of the answers were "unknown"."""
        return self._counts.unknown

    @property
    def outliers(self) -> int:
        """How many of the pictures were outliers."""
        return self._counts.outliers

    def _locked(self) -> threading.Lock:
        """Return the lock. A forked process gets a new one, because a thread of the old one may have held it."""
        if self._process != os.getpid():
            self._lock, self._process = threading.Lock(), os.getpid()
        return self._lock

    def clear(self) -> None:
        """Start again at zero pictures."""
        with self._locked():
            self._counts = _Counts()

    def add(
        self,
        pixels: npt.NDArray[np.uint8],
        answers: Mapping[str, float],
        *,
        unknown: bool = False,
        outlier: bool = False,
    ) -> None:
        """Add one picture.

        Args:
            pixels: The decoded picture, uint8 (height, width, channels) in 0..255.
            answers: The figures of its answer: "confidence" and, if the file has them, "outlier_score" and
                "feature_norm".
            unknown: Whether the answer was "unknown".
            outlier: Whether the picture was an outlier.
        """
        figures = {**pixel_figures(pixels), **answers}
        with self._locked():
            before = self._counts
            sums = dict(before.sums)
            for name, value in figures.items():
                # Welford's algorithm: the sum of squares itself would lose digits.
                count, mean, squares = sums.get(name, (0, 0.0, 0.0))
                count += 1
                step = value - mean
                mean += step / count
                sums[name] = (count, mean, squares + step * (value - mean))
            self._counts = _Counts(before.pictures + 1, before.unknown + unknown, before.outliers + outlier, sums)

    def summary(self) -> dict[str, Any]:
        """Return the number of pictures, and the mean and the standard deviation of each figure, as JSON values."""
        counts = self._counts
        sums = counts.sums
        ordered = [name for name in (*OF_PIXELS, *OF_ANSWERS) if name in sums]
        return {
            "pictures": counts.pictures,
            "figures": {
                name: {"mean": sums[name][1], "deviation": math.sqrt(sums[name][2] / sums[name][0])} for name in ordered
            },
        }

    def compare(self, trained: Mapping[str, Any]) -> list[Shift]:
        """Compare the pictures that were added with the training pictures.

        Args:
            trained: The entry `drift` of `ModelInfo.trust`.

        Returns:
            A `Shift` for each figure that both have.

        Raises:
            CorruptModel: If the entry is damaged.
        """
        here = self.summary()
        try:
            pairs = [
                (name, values, trained["figures"][name])
                for name, values in here["figures"].items()
                if name in trained["figures"]
            ]
            return [_shift(name, values, other, here["pictures"]) for name, values, other in pairs]
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptModel(f"the file's statistics cannot be read ({error}). Export the file again.") from None


def _shift(name: str, here: Mapping[str, float], trained: Mapping[str, float], pictures: int) -> Shift:
    mean, deviation = float(trained["mean"]), float(trained["deviation"])
    moved = here["mean"] - mean
    # A figure that never changed in training, such as the saturation of gray pictures, drifts with any change.
    shift = moved / deviation if deviation > 1e-9 else 0.0 if abs(moved) < 1e-6 else math.copysign(99.0, moved)
    # Surer answers and pictures that are more alike are no reason to worry. The training pictures themselves have both.
    worse = shift * WORSE.get(name, math.copysign(1.0, shift))
    drifted = worse > smallest_shift(pictures)
    return Shift(name, mean, deviation, here["mean"], here["deviation"], shift, drifted)


def format_shifts(shifts: Sequence[Shift]) -> str:
    """Format shifts as the lines of a table."""
    lines = [f"{'figure':<14} {'training':>20} {'here':>20} {'shift':>8}"]
    for each in shifts:
        trained, here = (
            f"{mean:.4g} +- {deviation:.2g}"
            for mean, deviation in ((each.trained_mean, each.trained_deviation), (each.mean, each.deviation))
        )
        mark = "  DRIFTED" if each.drifted else ""
        lines.append(f"{each.figure:<14} {trained:>20} {here:>20} {each.shift:>+8.2f}{mark}")
    return "\n".join(lines)
