"""The loop over the frames of a camera: which are answered, what the votes say, and where the answers go."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from .._errors import CameraError, PictureError
from .._predictor import Prediction, Predictor
from .._rows import answer, answer_text, failure, failure_text, utc
from .frames import LONGEST_WAIT, Frame, Live, Say, Video, open_frames
from .outputs import Answer, Output
from .pick import Pick
from .sources import Camera
from .stop import Stop
from .vote import Vote

STEP = 0.2
"""Seconds after which a waiting loop looks whether it was asked to stop."""

SILENCE = 10.0
"""Seconds without a frame after which a message says so."""

_LATENCIES = 100_000


class CameraLoop:
    """Answers the frames of a camera until it ends, or until the loop is asked to stop.

    Args:
        predictor: The network.
        camera: The source of the frames.
        outputs: Where answers go.
        pick: Which frames are answered.
        hold: Seconds of `Vote`. Then only changes of the label are written. None writes every answer.
        top: How many classes an answer lists; None lists all in JSON, and the label in text.
        say: Called with each message.
    """

    def __init__(
        self,
        predictor: Predictor,
        camera: Camera,
        outputs: Sequence[Output],
        pick: Pick,
        *,
        hold: float | None = None,
        top: int | None = None,
        say: Say = lambda _: None,
    ) -> None:
        self._predictor = predictor
        self._camera = camera
        self._outputs = outputs
        self._pick = pick
        self._vote = None if hold is None else Vote(hold)
        self._top = top
        self._tell = say
        self._answers: dict[str | None, Answer] = {}
        self._latest: Prediction | None = None
        self._held: object = self
        self._connection = 0
        self._answered = 0
        self._heard = 0.0
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)

    def run(self, stop: Stop) -> None:
        """Run until the source ends or `stop` is requested. Then say how many frames were answered.

        Raises:
            CameraError: If the source cannot be opened, or had no frame.
            NotWritten: If an answer cannot be written.
        """
        source = open_frames(self._camera, self._say)
        self._heard = time.monotonic()
        try:
            self._status("online")
            while not stop.requested.is_set():
                frame = self._next(source, stop)
                if frame is not None:
                    self._heard = time.monotonic()
                    self._take(frame)
                elif source.has_ended:
                    break
                elif time.monotonic() - self._heard > SILENCE:
                    self._say(f"{self._camera.title}: no frame has come for {SILENCE:.0f} s")
                    self._heard = time.monotonic()
        finally:
            source.close()
        if not source.delivered and not stop.requested.is_set():
            raise CameraError(f"{self._camera.title}: it holds no frame.")
        if self._vote and not self._vote.decided and self._answered:
            self._say(
                f"no label has won: the votes did not span {self._vote.hold:g} s, or none had more than half of them"
            )
        self._say(self._summary(source))

    def _next(self, source: Video | Live, stop: Stop) -> Frame | None:
        if self._camera.is_live and (wait := self._pick.wait(time.monotonic())):
            stop.requested.wait(min(wait, STEP))
            if wait > STEP:
                return None
        return source.next(STEP)

    def _take(self, frame: Frame) -> None:
        if frame.connection != self._connection:
            self._connection = frame.connection
            self._status("online")
            if self._vote:
                self._vote.clear()
        if not self._pick.is_due(frame):
            return
        if self._pick.has_changed(frame):
            self._predict(frame)
        elif self._vote and self._latest is not None:
            # What has not changed has the label that it had.
            self._cast(self._latest, frame)

    def _predict(self, frame: Frame) -> None:
        name = self._camera.name
        line: dict[str, object] = {"time": utc(frame.taken), "path": name, "frame": frame.number}
        text = "" if frame.position is None else f"{frame.position:.2f} s: "
        if frame.position is not None:
            line["position"] = round(frame.position, 3)
        try:
            result = self._predictor(frame.pixels, order="bgr")
        except PictureError as error:
            self._write(Answer({**line, **failure(name, error)}, failure_text(name, error), True, frame.pixels))
            return
        self._latencies.append(time.time() - frame.taken)
        self._answered += 1
        self._latest = result
        full = answer(name, result, self._predictor.info, self._top)
        shown = f"{line['time'] if not text else name} {text}{answer_text(result, self._predictor.info, self._top)}"
        made = Answer({**line, **full}, shown, False, frame.pixels)
        if not self._vote:
            self._write(made)
            return
        self._answers[self._voted(result)] = made
        self._cast(result, frame)
        for output in self._outputs:
            getattr(output, "show", lambda _: None)(made)

    def _cast(self, result: Prediction, frame: Frame) -> None:
        """Count the vote of a frame, and write the latest answer with the winning label if another one has won."""
        assert self._vote
        self._vote.add(self._voted(result), frame.at)
        if self._vote.decided and self._vote.label != self._held:
            self._held = self._vote.label
            self._write(self._answers[self._vote.label])

    def _voted(self, result: Prediction) -> str | None:
        """Return what a frame votes for: its label or, of a multi-label network, the names of all its labels."""
        if self._predictor.info.task != "multilabel":
            return result.label
        return None if result.unknown else ", ".join(sorted(result.labels))

    def _write(self, made: Answer) -> None:
        for output in self._outputs:
            output.write(made)

    def _say(self, text: str) -> None:
        if "Trying again" in text:
            # The reason was said, so that silence needs no message of its own.
            self._heard = time.monotonic() + LONGEST_WAIT
            self._status("no camera")
        self._tell(text)

    def _status(self, text: str) -> None:
        for output in self._outputs:
            output.status(text)

    def _summary(self, source: Video | Live) -> str:
        frames = "1 frame" if source.delivered == 1 else f"{source.delivered:,} frames"
        text = f"{frames}, {self._answered:,} answered, {source.dropped:,} dropped"
        if self._latencies and self._camera.is_live:
            times = sorted(self._latencies)
            middle, late = times[len(times) // 2], times[min(len(times) - 1, len(times) * 95 // 100)]
            text += f"; an answer took {1000 * middle:.0f} ms (median), {1000 * late:.0f} ms (95 %)"
        return text
