"""Yields the frames of a camera, always the latest one, and connects again if the camera or the stream is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .._errors import CameraError
from .sources import Camera, Capture, Pixels

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before the first attempt to connect again, and the most. Each wait is twice as long as the one before it."""

STEADY = 10.0
"""Seconds after which a connection counts as good, so that the next loss starts with the first wait again."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Frame:
    """One frame.

    Args:
        pixels: A uint8 array (H, W, 3) BGR, values 0..255, or the bytes of a JPEG.
        number: Counts the frames that the source delivered, from 0.
        at: When the frame was received, in seconds: the position in a video file, and else the monotonic clock.
        taken: When the frame was received, in seconds since 1970.
        position: The position in a video file in seconds; None for what is live.
        connection: Counts how often the source was connected, from 0.
    """

    pixels: Pixels
    number: int
    at: float
    taken: float
    position: float | None
    connection: int


class Video:
    """Reads every frame of a video file in order.

    Args:
        camera: The file.
        say: Called with a sentence if the file ends before its time.

    Attributes:
        dropped: The number of frames that were dropped; always 0.
        delivered: The number of frames that were read.
    """

    def __init__(self, camera: Camera, say: Say) -> None:
        self.dropped = 0
        self.delivered = 0
        self._camera = camera
        self._say = say
        self._capture = camera.open()

    def next(self, timeout: float) -> Frame | None:
        """Return the next frame; None at the end. It does not wait."""
        taken, now = time.time(), time.monotonic()
        found = self._capture.read()
        if found is None:
            if self.delivered and (early := self._capture.early_end(self.delivered)):
                self._say(f"{self._camera.title}: {early}")
            return None
        pixels, position = found
        self.delivered += 1
        return Frame(pixels, self.delivered - 1, now if position is None else position, taken, position, 0)

    @property
    def has_ended(self) -> bool:
        """Whether `next` returns None because nothing is left."""
        return True

    def close(self) -> None:
        """Close the file."""
        self._capture.close()


class Live:
    """Reads frames on a thread of its own, and keeps only the latest one, so that no answer is about an old frame.

    Args:
        camera: The source.
        say: Called with a sentence when the source is lost and when it is back.

    Attributes:
        dropped: The number of frames that were replaced by a later one before anybody took them.
        delivered: The number of frames that the source delivered.

    Raises:
        CameraError: If a package is missing, or a camera at this machine cannot be opened. A stream from the network
            may come later, so that `next` waits for it.
    """

    def __init__(self, camera: Camera, say: Say) -> None:
        self.dropped = 0
        self.delivered = 0
        self._camera = camera
        self._say = say
        self._ready = threading.Condition()
        self._latest: Frame | None = None
        self._error: CameraError | None = None
        self._ended = False
        self._closing = threading.Event()
        # A wrong number is more likely than a camera that is not there yet. A server may start later than the device.
        capture = None if camera.kind == "stream" else camera.open()
        self._thread = threading.Thread(target=self._run, args=(capture,), name="zoo frames", daemon=True)
        self._thread.start()

    def next(self, timeout: float) -> Frame | None:
        """Wait for a frame that was not returned yet, at most `timeout` seconds. Return None if there is none.

        Raises:
            CameraError: If the source cannot work, however long one waits.
        """
        with self._ready:
            self._ready.wait_for(lambda: self._latest or self._ended or self._error, timeout)
            frame, self._latest = self._latest, None
            if frame is None and self._error:
                raise self._error
            return frame

    @property
    def has_ended(self) -> bool:
        """Whether no frame will come any more: the pipe was closed."""
        return self._ended and self._latest is None

    def close(self) -> None:
        """Release the camera. A camera that does not answer is left behind after two seconds."""
        self._closing.set()
        self._thread.join(2)

    def _run(self, capture: Capture | None) -> None:
        connection, wait, lost = 0, FIRST_WAIT, False
        try:
            while not self._closing.is_set():
                try:
                    capture = capture or self._camera.open()
                    if lost:
                        self._say(f"{self._camera.title}: connected again")
                    started, reason, lost = time.monotonic(), "the connection was lost", True
                    self._read(capture, connection)
                    connection += 1
                    wait = FIRST_WAIT if time.monotonic() - started > STEADY else wait
                except CameraError as error:
                    # Without the package, no attempt can succeed.
                    if isinstance(error.__cause__, ImportError) or self._camera.kind == "pipe":
                        raise
                    reason, lost = str(error).removeprefix(f"{self._camera.title}: ").rstrip("."), True
                except Exception as error:
                    # Drivers raise errors of their own, such as cv2.error.
                    first = next(iter(str(error).strip().splitlines()), "").rstrip(".")
                    reason, lost = f"{type(error).__name__}: {first}", True
                finally:
                    if capture is not None:
                        capture.close()
                    capture = None
                if self._camera.kind == "pipe" or self._closing.is_set():
                    break
                self._say(f"{self._camera.title}: {reason}. Trying again in {wait:g} s.")
                self._closing.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT)
        except CameraError as error:
            self._error = error
        finally:
            with self._ready:
                self._ended = True
                self._ready.notify_all()

    def _read(self, capture: Capture, connection: int) -> None:
        """Keep the latest frame until the source is lost or closed."""
        while not self._closing.is_set() and (found := capture.read()) is not None:
            with self._ready:
                self.dropped += self._latest is not None
                self._latest = Frame(found[0], self.delivered, time.monotonic(), time.time(), None, connection)
                self.delivered += 1
                self._ready.notify_all()


def open_frames(camera: Camera, say: Say) -> Video | Live:
    """Start to read a source: every frame of a file, and the latest frame of everything else.

    Raises:
        CameraError: If a package is missing, or a camera or a file cannot be opened.
    """
    return Live(camera, say) if camera.is_live else Video(camera, say)


def frames(camera: str | int, *, size: tuple[int, int] | None = None, say: Say | None = None) -> Iterator[Pixels]:
    """Yield the frames of a camera, a stream or a video file, for `predictor(frame, order="bgr")`.

    What is live is read on a thread of its own. Each frame is the latest one, and those that came while your program
    was busy are dropped. A lost camera or stream is connected again after 0.5 s, 1 s, 2 s and so on up to 30 s. Every
    frame of a file is yielded. The camera is released when the iteration ends or the generator is closed.

    Args:
        camera: 0 or "/dev/video0", "picamera2", an address such as "rtsp://HOST/PATH", the path of a video file, or "-"
            for JPEGs on standard input.
        size: The wanted width and height of a camera's frames in pixels. None means 640 x 480 for "picamera2", and the
            camera's own choice for others.
        say: Called with a sentence when a camera is lost or is back, or when a video ends before its time, for example
            `print`. None says nothing.

    Yields:
        Frames: uint8 arrays (H, W, 3) BGR, values 0..255. From "-", the bytes of JPEGs.

    Raises:
        CameraError: If a package is missing, or the camera cannot be opened.
    """
    source = open_frames(Camera.parse(str(camera), size), say or (lambda _: None))
    try:
        while True:
            frame = source.next(1.0)
            if frame is not None:
                yield frame.pixels
            elif source.has_ended:
                return
    finally:
        source.close()
