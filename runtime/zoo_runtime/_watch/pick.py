"""Chooses which frames are answered: every n-th, those that changed, and at most so many a second."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .frames import Frame
from .sources import Pixels

if TYPE_CHECKING:
    import numpy.typing as npt

GRID = (32, 24)
CHANGE = 16
"""How far the mean of one color in a cell of the grid must move for the cell to have changed, in levels of 255."""


class Pick:
    """Decides for each frame whether it is answered.

    Args:
        every: Answer every n-th frame, 1 or more.
        changed: Answer only frames in which at least this part of the picture differs from the frame that was answered
            last, in percent, above 0 and at most 100. None answers unchanged frames too.
        fps: The most answers per second, above 0. None means no limit. For a video file, its own time counts.
    """

    def __init__(self, every: int = 1, changed: float | None = None, fps: float | None = None) -> None:
        self.every = every
        self.changed = changed
        self.interval = 1 / fps if fps else 0.0
        self._next_number = 0
        self._next_time: float | None = None
        self._before: npt.NDArray[np.int16] | None = None

    def wait(self, now: float) -> float:
        """Return how many seconds remain before the next answer is due. The frame to take is the latest one then."""
        return 0.0 if self._next_time is None else max(0.0, self._next_time - now)

    def is_due(self, frame: Frame) -> bool:
        """Return whether the turn of a frame has come, by its number and its time. This does not look at its pixels."""
        # A tenth of a frame is allowed for, because clocks and positions are rounded.
        is_early = self._next_time is not None and frame.at < self._next_time - 0.1 * self.interval
        if frame.number < self._next_number or is_early:
            return False
        self._next_number = frame.number + self.every
        if self.interval:
            # Steps of the same length keep the mean rate. After a pause they start anew.
            planned = frame.at if self._next_time is None else max(self._next_time, frame.at - self.interval)
            self._next_time = planned + self.interval
        return True

    def has_changed(self, frame: Frame) -> bool:
        """Return whether a frame differs enough from the one for which this was True last."""
        if self.changed is None:
            return True
        try:
            cells = _cells(frame.pixels)
        except Exception:
            # A frame that Pillow cannot read gets an error as its answer.
            return True
        if self._before is not None:
            moved = np.abs(cells - self._before).max(axis=2) > CHANGE
            if 100 * float(moved.mean()) < self.changed:
                return False
        self._before = cells
        return True


def _cells(pixels: Pixels) -> npt.NDArray[np.int16]:
    """Return the mean colors of the cells of a grid over a frame: int16 (24, 32, 3), values 0..255."""
    width, height = GRID
    if isinstance(pixels, bytes):
        with Image.open(io.BytesIO(pixels)) as image:
            image.draft("RGB", (4 * width, 4 * height))
            small = image.convert("RGB").resize(GRID, Image.Resampling.BOX)
    else:
        # A fraction of the pixels is enough for a mean, and much quicker to read.
        rows, columns = max(1, pixels.shape[0] // (4 * height)), max(1, pixels.shape[1] // (4 * width))
        some = np.ascontiguousarray(pixels[::rows, ::columns])
        small = Image.fromarray(some).convert("RGB").resize(GRID, Image.Resampling.BOX)
    return np.asarray(small, np.int16)
