"""Answers for pictures with a network that another program runs, such as a file in the format of a plugin of zoo.

Decoding, the names of classes, thresholds and the self-test are those of `Predictor`. Only the numbers come from
elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ._limit import MAX_PIXELS
from ._predictor import Predictor
from ._session import Settings
from ._trust import Trust

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from ._format import ModelInfo

    Run = Callable[[npt.NDArray[np.uint8]], list[npt.NDArray[np.float32]]]


class OtherPredictor(Predictor):
    """A `Predictor` whose outputs another program computes. It runs on one picture or batch at a time.

    Args:
        info: The metadata of the file.
        run: Takes pixels, (batch, height, width, channels), and returns what `Predictor.outputs` returns.
        engine: The name of the engine, for the versions in the self-test.
        max_pixels: As for `Predictor`.
        formats: As for `Predictor`.
    """

    def __init__(
        self,
        info: ModelInfo,
        run: Run,
        *,
        engine: str = "onnxruntime",
        max_pixels: int = MAX_PIXELS,
        formats: Sequence[str] | None = None,
    ) -> None:
        self.info = info
        self.engine = engine
        self.max_pixels = max_pixels
        self.formats = formats
        self.settings = Settings()
        self.drift = None
        self._threads = None
        self._trust = Trust.from_json(info.trust)
        self._network = _OtherNetwork(run)  # type: ignore[assignment]


class _OtherNetwork:
    """Stands in for `zoo_runtime._network.Network`: what `Predictor` calls of it, one call at a time."""

    session = None

    def __init__(self, run: Run) -> None:
        self._run, self._lock = run, threading.Lock()

    def session_for_lists(self, workers: int) -> None:
        return None

    def run(self, session: object, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return self.run_all(session, pixels)[0]

    def run_all(self, session: object, pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        with self._lock:
            return self._run(pixels)
