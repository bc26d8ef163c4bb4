"""Opens cameras, streams, videos and pipes of JPEGs, and reads one frame after the other.

OpenCV reads V4L2 cameras, network streams and video files. picamera2 reads the camera of a Raspberry Pi. A pipe of
JPEGs on standard input needs neither. Both packages are imported only when a source needs them.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import stat
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeAlias

from .._errors import CameraError, PictureNotFound
from .._extras import install_line
from .._given import local_path, shortened
from .jpegs import JpegPipe

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Pixels: TypeAlias = "npt.NDArray[np.uint8] | bytes"

STREAMS = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "srt", "udp", "tcp")
OPENCV = "OpenCV is not installed, which reads cameras, streams and videos"
PICAMERA2 = (
    "picamera2 is not installed, which reads the camera of a Raspberry Pi. Run `sudo apt install python3-picamera2`, "
    "and make the virtual environment with `python3 -m venv --system-site-packages`."
)
FORMS = "0, /dev/video0, picamera2, rtsp://HOST/PATH, http://HOST/PATH, a video file, or - for JPEGs on standard input"
PATIENCE = 10.0
"""Seconds after which a stream that sends nothing counts as lost."""

WHOLE = 0.95
"""The part of a video's frames, or of its length, after which its end counts as its end."""


class Capture(Protocol):
    """An open camera, stream or video."""

    def read(self) -> tuple[Pixels, float | None] | None:
        """Return the next frame and its position in the video in seconds, if it has one. None at the end, or if lost.

        A frame is a uint8 array (H, W, 3) BGR, values 0..255, or the bytes of a JPEG.
        """

    def early_end(self, delivered: int) -> str | None:
        """Say that a file ended before its time, after so many frames. None if it did not, or if nobody can tell."""

    def close(self) -> None:
        """Release the camera."""


@dataclass(frozen=True)
class Camera:
    """Names a source of frames.

    Args:
        kind: "device", "picamera2", "stream", "file" or "pipe".
        address: What to open: a number, a path or a URL.
        name: The name in answers and messages. It has no password.
        size: The wanted width and height in pixels, for "device" and "picamera2". None leaves the choice to the camera.
    """

    kind: str
    address: str
    name: str
    size: tuple[int, int] | None = None

    @classmethod
    def parse(cls, text: str, size: tuple[int, int] | None = None) -> Camera:
        """Parse the value of `--camera`.

        Raises:
            CameraError: If it has none of the allowed forms, or there is no such video file.
        """
        if text == "-":
            return cls("pipe", text, text)
        if re.fullmatch(r"picamera2(:\d{1,2})?", text):
            return cls("picamera2", text.partition(":")[2] or "0", text, size)
        if re.fullmatch(r"\d{1,3}", text) or text.startswith("/dev/"):
            return cls("device", text, text, size)
        scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text)
        if scheme and scheme[1].lower() in STREAMS:
            return cls("stream", text, without_password(text))
        try:
            path = local_path(text)
        except PictureNotFound:
            raise CameraError(
                f"{shortened(without_password(text))}: addresses begin with {', '.join(STREAMS)}."
            ) from None
        if not os.path.isfile(path):
            raise CameraError(f"{shortened(text)}: there is no such file. A camera is {FORMS}.")
        return cls("file", path, text)

    @property
    def title(self) -> str:
        """The name in messages: "camera 0", because a lone number reads badly."""
        return f"camera {self.name}" if self.name.isdecimal() else self.name

    @property
    def is_live(self) -> bool:
        """Whether frames come whether they are read or not, so that frames that come too fast must be dropped."""
        if self.kind == "pipe":
            with contextlib.suppress(OSError, ValueError, AttributeError):
                return not stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode)
        return self.kind != "file"

    def open(self) -> Capture:
        """Connect to the source.

        Raises:
            CameraError: If a package is missing, or the source cannot be opened.
        """
        if self.kind == "pipe":
            return JpegPipe(_standard_input())
        if self.kind == "picamera2":
            return _PiCamera(self)
        return _OpenCV(self)


def without_password(text: str) -> str:
    """Return an address with `***` in place of its password."""
    return re.sub(r"(://[^/@\s:]*):[^/\s]*@", r"\1:***@", text)


def _standard_input() -> BinaryIO:
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None or stream.closed:
        raise CameraError("standard input is closed. Give frames with `... | zoo-runtime watch MODEL --camera -`.")
    if stream.isatty():
        raise CameraError(
            "standard input is the keyboard. Give frames with `rpicam-vid -t 0 --codec mjpeg -o - | "
            "zoo-runtime watch MODEL --camera -`."
        )
    return stream  # type: ignore[no-any-return]


def _opencv() -> Any:
    # FFmpeg would print a line for each damaged packet. The value means "quiet"; a value of the user stays.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    try:
        return import_module("cv2")
    except ImportError as error:
        raise CameraError(_missing(f"{OPENCV}. {install_line('camera')}", "cv2", error)) from error


def _missing(message: str, module: str, error: ImportError) -> str:
    """Return what to say if a module is missing, or is there and cannot be imported."""
    is_absent = isinstance(error, ModuleNotFoundError) and error.name == module
    return message if is_absent else f"{module} cannot be imported: {error}."


class _OpenCV:
    """A V4L2 camera, a network stream or a video file, read by OpenCV."""

    def __init__(self, camera: Camera) -> None:
        cv2 = _opencv()
        self._positions = cv2.CAP_PROP_POS_MSEC if camera.kind == "file" else None
        wait = int(PATIENCE * 1000)
        if camera.kind == "stream":
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wait, cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait]
            self._capture = cv2.VideoCapture(camera.address, cv2.CAP_FFMPEG, limits)
        elif camera.kind == "device":
            number = int(camera.address) if camera.address.isdecimal() else camera.address
            self._capture = cv2.VideoCapture(number, cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY)
        else:
            self._capture = cv2.VideoCapture(camera.address)
        self._frames = self._rate = self._position = 0.0
        if not self._capture.isOpened():
            self.close()
            raise CameraError(f"{camera.title}: {_why_not_opened(camera)}")
        if camera.kind == "file":
            self._frames = float(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
            self._rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        if camera.size:
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, camera.size[0])
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, camera.size[1])

    def read(self) -> tuple[Pixels, float | None] | None:
        good, frame = self._capture.read()
        if not good or frame is None:
            return None
        if self._positions is None:
            return frame, None
        self._position = float(self._capture.get(self._positions)) / 1000
        return frame, self._position

    def early_end(self, delivered: int) -> str | None:
        # Some containers have no exact count, so that it is derived from the length and the rate. Then the count of a
        # video with a varying rate is wrong, but the length is not.
        length = self._frames / self._rate if self._rate > 0 else 0.0
        if delivered >= WHOLE * self._frames or self._position >= WHOLE * length:
            return None
        # A video that was trimmed without a new encoding still counts the frames that it hides.
        frames = f"{delivered:,} of about {self._frames:,.0f} frames"
        return f"it ends after {frames}. It may be damaged or cut off, or trimmed without a new encoding."

    def close(self) -> None:
        self._capture.release()


def _why_not_opened(camera: Camera) -> str:
    if camera.kind == "stream":
        return "no stream was received. Check the address, the user and the password, for example with `ffplay ADDRESS`"
    if camera.kind == "file":
        return "cannot be read as a video. `ffmpeg -i FILE video.mp4` converts most videos."
    path = f"/dev/video{camera.address}" if camera.address.isdecimal() else camera.address
    if os.path.exists(path):
        if not os.access(path, os.R_OK | os.W_OK):
            return f"no permission to use {path}. Run `sudo usermod -aG video $USER`, and log in again."
        return f"{path} cannot be opened as a camera. Another program may use it: `fuser -v {path}` shows which one."
    there = sorted(glob.glob("/dev/video*"))
    if not there:
        return (
            "there is no such camera: this machine has no /dev/video*. Plug a camera in. That of a Raspberry Pi's own "
            "connector is `--camera picamera2`."
        )
    return f"there is no such camera. This machine has {', '.join(there[:8])}; `v4l2-ctl --list-devices` names them."


class _PiCamera:
    """The camera of a Raspberry Pi, read by picamera2."""

    def __init__(self, camera: Camera) -> None:
        try:
            module = import_module("picamera2")
        except ImportError as error:
            raise CameraError(_missing(PICAMERA2, "picamera2", error)) from error
        try:
            self._camera = module.Picamera2(int(camera.address))
        except (IndexError, RuntimeError, OSError) as error:
            raise CameraError(
                f"{camera.name}: the camera cannot be opened: {error}. `rpicam-hello --list-cameras` shows the "
                "cameras, and another program may use it."
            ) from None
        try:
            # In libcamera's names, RGB888 is what OpenCV calls BGR.
            main = {"size": camera.size or (640, 480), "format": "RGB888"}
            self._camera.configure(self._camera.create_video_configuration(main=main))
            self._camera.start()
        except (RuntimeError, OSError, ValueError) as error:
            self.close()
            raise CameraError(f"{camera.name}: the camera cannot be started: {error}.") from None

    def read(self) -> tuple[Pixels, float | None] | None:
        try:
            return self._camera.capture_array("main"), None
        except (RuntimeError, OSError):
            return None

    def early_end(self, delivered: int) -> None:
        return None

    def close(self) -> None:
        with contextlib.suppress(RuntimeError, OSError):
            self._camera.stop()
        with contextlib.suppress(RuntimeError, OSError):
            self._camera.close()
