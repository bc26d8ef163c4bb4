"""Test `zoo-runtime watch` with cameras: real videos through OpenCV, pipes of JPEGs, votes, and lost connections."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from zoo_runtime import CameraError, Predictor, Vote, decode, frames
from zoo_runtime._watch import frames as reading
from zoo_runtime._watch.frames import Frame, Live
from zoo_runtime._watch.jpegs import JpegPipe
from zoo_runtime._watch.pick import Pick
from zoo_runtime._watch.sources import Camera
from zoo_runtime.cli import main

RED, GREEN, BLUE = (20, 10, 220), (20, 210, 30), (220, 20, 10)
"""Colors as OpenCV orders them: blue, green, red."""


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """Write a video of 3 seconds with 10 frames per second: red, one green frame, red, then blue from 1.5 s on."""
    cv2 = pytest.importorskip("cv2", reason="needs the extra [camera]")
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(30):
        color = GREEN if number == 7 else RED if number < 15 else BLUE
        writer.write(np.full((48, 64, 3), color, np.uint8))
    writer.release()
    return path


@pytest.fixture
def watch(model, capsys):
    """Return a function that runs `zoo-runtime watch`. It returns the exit code and the lines of both outputs."""

    def run(*arguments: object) -> tuple[int, list[str], list[str]]:
        code = main(["watch", str(model), *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return run


def jpeg(color: tuple[int, int, int], **options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 48), color[::-1]).save(out, "JPEG", **options)
    return out.getvalue()


# order="bgr"


@pytest.mark.parametrize("channels", [3, 4])
def test_bgr_gives_the_pixels_of_rgb(model, info, channels):
    rgb = np.random.default_rng(0).integers(1, 256, (50, 70, channels), np.uint8)
    bgr = rgb[:, :, [2, 1, 0, 3][:channels]]
    assert np.array_equal(decode(bgr, info.image, order="bgr"), decode(rgb, info.image))
    assert not np.array_equal(decode(bgr, info.image), decode(rgb, info.image))
    predictor = Predictor(model)
    assert predictor(bgr, order="bgr") == predictor(rgb)
    many = list(predictor.predict_each([bgr] * 20, order="bgr"))
    assert [each.label for each in many] == [predictor(rgb).label] * 20
    assert list(predictor.predict_each(iter([bgr] * 3), order="bgr"))[2].label == many[0].label


def test_bgr_leaves_gray_arrays_and_files_alone(model, info, pictures):
    gray = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
    assert np.array_equal(decode(gray, info.image, order="bgr"), decode(gray, info.image))
    assert Predictor(model)(pictures / "red.jpg", order="bgr").label == "red"
    with pytest.raises(ValueError, match=r'must be "rgb" or "bgr".*\'BGR\''):
        Predictor(model)(gray, order="BGR")
    with pytest.raises(ValueError, match="order"):
        Predictor(model).predict_each([gray], order="grb")


# Videos


def test_every_frame_of_a_video_is_answered(watch, video):
    code, out, err = watch("--camera", video, "--json")
    lines = [json.loads(line) for line in out]
    assert code == 0 and err == ["30 frames, 30 answered, 0 dropped"]
    assert [line["label"] for line in lines] == ["red"] * 7 + ["green"] + ["red"] * 7 + ["blue"] * 15
    assert [line["frame"] for line in lines] == list(range(30))
    assert [line["position"] for line in lines[:3]] == pytest.approx([0, 0.1, 0.2], abs=0.11)
    assert all(line["path"] == str(video) and line["time"].endswith("Z") for line in lines)


def test_a_label_is_held_until_another_one_has_won(watch, video):
    code, out, _ = watch("--camera", video, "--hold", "500ms", "--json")
    lines = [json.loads(line) for line in out]
    assert code == 0 and [line["label"] for line in lines] == ["red", "blue"]
    # Five frames lie in half a second, so that the third blue one has the majority.
    assert 0.4 <= lines[0]["position"] <= 0.7 and 1.6 <= lines[1]["position"] <= 1.9


def test_a_vote_without_a_winner_is_said(watch, video):
    code, out, err = watch("--camera", video, "--hold", "1h")
    assert code == 0 and out == [] and err[0].startswith("no label has won: the votes did not span 3600 s")


def test_a_video_has_a_size_of_its_own(watch, video, capsys):
    with pytest.raises(SystemExit) as stopped:
        watch("--camera", video, "--size", "640x480")
    assert stopped.value.code == 2 and "--size goes with a USB camera or picamera2" in capsys.readouterr().err


def test_every_nth_changed_and_fps(watch, video):
    frames_of = lambda *options: [json.loads(s)["frame"] for s in watch("--camera", video, "--json", *options)[1]]  # noqa: E731
    assert frames_of("--every", 10) == [0, 10, 20]
    assert frames_of("--changed", 50) == [0, 7, 8, 15]
    assert frames_of("--fps", 2) == [0, 5, 10, 15, 20, 25]


def test_frames_of_a_video_in_a_program(model, video):
    predictor, vote = Predictor(model), Vote(0)
    labels = [vote.add(predictor(frame, order="bgr").label) for frame in frames(str(video))]
    assert labels == ["red"] * 7 + ["green"] + ["red"] * 7 + ["blue"] * 15


def test_the_table_of_a_video_and_of_pictures_have_the_same_columns(watch, video, model, pictures, tmp_path, capsys):
    table = tmp_path / "answers.csv"
    assert watch("--camera", video, "--every", 10, "--csv", table)[0] == 0
    # A row that a crash cut off is removed.
    with open(table, "a") as stream:
        stream.write("2026-11-27T10:00:00")
    odd = pictures / "two\nlines,.jpg"
    os.rename(pictures / "red.jpg", odd)
    assert main(["predict", str(model), str(odd), str(pictures / "damaged.jpg"), "--csv", str(table)]) == 1
    rows = list(csv.DictReader(table.open()))
    assert len(table.read_text().splitlines()) == 6 and len(rows) == 5
    assert [row["label"] for row in rows] == ["red", "red", "blue", "red", ""]
    assert rows[3]["path"] == str(odd).replace("\n", "\\n") and rows[4]["error"] == "CorruptPicture"
    assert float(rows[2]["p_blue"]) == float(rows[2]["confidence"]) > 0.9
    capsys.readouterr()
    assert main(["predict", str(model), str(odd), "--csv", "-"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_table_of_something_else_is_left_alone(watch, video, tmp_path):
    for content in ("name,price\ncat,3\n", "a letter without a line break"):
        other = tmp_path / "other.csv"
        other.write_text(content)
        code, out, err = watch("--camera", video, "--csv", other)
        assert code == 1 and out == [] and "Give the name of a new file" in err[0]
        assert other.read_text() == content


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_an_error(watch, video):
    code, _, err = watch("--camera", video, "--jsonl", "/dev/full")
    assert code == 1 and "/dev/full cannot be written: No space left" in err[-1]


# Votes


def test_a_vote_needs_its_time_and_a_majority():
    vote = Vote(1.0)
    assert [vote.add("cat", at) for at in (0, 0.4, 0.8)] == [None] * 3 and not vote.decided
    assert vote.add("cat", 1.2) == "cat"
    assert [vote.add("dog", 1.4), vote.add("dog", 1.6)] == ["cat", "cat"]
    assert vote.add("dog", 1.7) == "dog"
    # Unknown is a label like any other: it must win too.
    assert vote.add(None, 1.9) == "dog" and vote.decided
    assert [vote.add(None, 2.0 + 0.1 * n) for n in range(9)][-1] is None and vote.decided


def test_without_a_majority_the_label_stays():
    vote = Vote(1.0)
    for number in range(20):
        vote.add("cat", number / 10)
    assert {vote.add("abc"[n % 3], 2 + n / 10) for n in range(60)} == {"cat"}


def test_slow_frames_need_two_of_three_votes():
    vote = Vote(0.5)
    assert [vote.add(label, at) for at, label in enumerate("aaababb")] == [None, None, *"aaabb"]


def test_votes_from_before_a_gap_do_not_count():
    vote = Vote(0.5)
    for number in range(10):
        vote.add("cat", number / 10)
    vote.clear()
    assert vote.label == "cat"
    assert [vote.add("dog", 100 + n / 10) for n in range(7)][-1] == "dog"
    for hold in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="hold"):
            Vote(hold)


# Pipes of JPEGs


class Trickle(io.RawIOBase):
    """A stream that gives a few bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data, self._step = io.BytesIO(data), step

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(self._step)


@pytest.mark.parametrize("step", [1, 7, 10**6])
def test_a_pipe_is_split_into_jpegs(step):
    preview = jpeg(BLUE)
    nested = jpeg(RED, exif=b"Exif\0\0" + preview, restart_marker_blocks=1)
    pictures = [jpeg(RED), nested, jpeg(GREEN, progressive=True), jpeg(BLUE, quality=100)]
    data = b"--boundary\r\n\r\n" + pictures[0] + b"\r\n--boundary\r\n" + b"".join(pictures[1:]) + pictures[0][:300]
    pipe, found = JpegPipe(Trickle(data, step)), []
    while picture := pipe.read():
        found.append(picture[0])
    assert found == pictures


def test_a_jpeg_that_was_cut_off_does_not_hide_the_next_one():
    whole, cut = jpeg(RED), jpeg(GREEN, quality=100)[:-40]
    pipe = JpegPipe(io.BytesIO(whole + cut + whole + whole))
    assert [pipe.read()[0] for _ in range(4)] == [whole, cut, whole, whole] and pipe.read() is None
    noise = np.random.default_rng(0).bytes(200_000)
    pipe = JpegPipe(io.BytesIO(noise + whole))
    while picture := pipe.read():
        last = picture[0]
    assert last.endswith(whole[-100:])


def test_watching_standard_input(model, tmp_path):
    """A pipe is live: frames may be dropped, but the last one is answered. A file is read frame by frame."""
    stream = b"".join([jpeg(RED), jpeg(GREEN, quality=100)[:-40], jpeg(BLUE)])
    command = [sys.executable, "-m", "zoo_runtime.cli", "watch", str(model), "--camera", "-", "--json"]
    ran = subprocess.run(command, input=stream, capture_output=True, timeout=60)
    assert ran.returncode == 0 and json.loads(ran.stdout.splitlines()[-1])["label"] == "blue"
    ran = subprocess.run(command, input=jpeg(RED), capture_output=True, timeout=60)
    assert ran.stderr.decode().splitlines()[-1].startswith("1 frame, 1 answered, 0 dropped")
    (tmp_path / "clip.mjpeg").write_bytes(stream)
    with open(tmp_path / "clip.mjpeg", "rb") as file:
        ran = subprocess.run(command, stdin=file, capture_output=True, timeout=60)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line.get("label", line.get("error")) for line in lines] == ["red", "CorruptPicture", "blue"]
    (tmp_path / "cut.mjpeg").write_bytes(stream[:-40])
    with open(tmp_path / "cut.mjpeg", "rb") as file:
        ran = subprocess.run(command, stdin=file, capture_output=True, timeout=60)
    assert len(ran.stdout.splitlines()) == 2 and ran.stderr.startswith(b"-: it ends within a JPEG")


# Live cameras


class FakeCapture:
    """A camera that gives numbered frames, and is lost after some of them."""

    def __init__(self, frames_left: int, pause: float) -> None:
        self._left, self._pause = frames_left, pause

    def read(self):
        time.sleep(self._pause)
        self._left -= 1
        return None if self._left < 0 else (np.zeros((4, 4, 3), np.uint8), None)

    def close(self) -> None:
        pass


def test_frames_are_dropped_and_not_queued(monkeypatch):
    monkeypatch.setattr(Camera, "open", lambda self: FakeCapture(10_000, 0.005))
    live = Live(Camera.parse("0"), lambda _: None)
    try:
        taken = []
        for _ in range(5):
            taken.append(live.next(1))
            assert time.monotonic() - taken[-1].at < 0.05
            time.sleep(0.1)
        assert live.dropped > 20 and live.delivered - live.dropped <= 6
        assert [frame.number for frame in taken] == sorted({frame.number for frame in taken})
    finally:
        live.close()


def test_a_lost_camera_is_connected_again_with_longer_waits(monkeypatch):
    attempts = []

    def open_camera(self):
        attempts.append(time.monotonic())
        if len(attempts) == 3:
            raise RuntimeError("the driver failed")
        if 2 <= len(attempts) <= 4:
            raise CameraError(f"{self.name}: no stream was received.")
        return FakeCapture(3 if len(attempts) == 1 else 10_000, 0.001)

    monkeypatch.setattr(Camera, "open", open_camera)
    monkeypatch.setattr(reading, "FIRST_WAIT", 0.05)
    messages: list[str] = []
    live = Live(Camera.parse("rtsp://user:secret@host/x"), messages.append)
    deadline = time.monotonic() + 10
    while (frame := live.next(1)) is None or frame.connection == 0:
        assert time.monotonic() < deadline
    live.close()
    gaps = np.diff(attempts)
    assert len(gaps) == 4 and all(later > 1.5 * earlier for earlier, later in itertools.pairwise(gaps[1:]))
    assert messages[0].endswith("the connection was lost. Trying again in 0.05 s.")
    assert messages[1].endswith("no stream was received. Trying again in 0.1 s.")
    assert messages[2].endswith("RuntimeError: the driver failed. Trying again in 0.2 s.")
    assert messages[-1] == "rtsp://user:***@host/x: connected again"
    assert not any("secret" in message for message in messages)


class FakePicamera2:
    """The documented part of picamera2.Picamera2 that is used."""

    log: ClassVar[list[object]] = []

    def __init__(self, number: int) -> None:
        if number > 0:
            raise IndexError("list index out of range")

    def create_video_configuration(self, main):
        return {"main": main}

    def configure(self, configuration):
        self.log.append(configuration["main"])

    def start(self):
        self.log.append("start")

    def capture_array(self, name):
        assert name == "main"
        return np.full((480, 640, 3), RED, np.uint8)

    def stop(self):
        self.log.append("stop")

    def close(self):
        self.log.append("close")


def test_the_camera_of_a_raspberry_pi(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "picamera2", types.SimpleNamespace(Picamera2=FakePicamera2))
    FakePicamera2.log.clear()
    stream = frames("picamera2", size=(640, 480))
    assert Predictor(model)(next(stream), order="bgr").label == "red"
    stream.close()
    # RGB888 of libcamera is stored as blue, green, red.
    assert FakePicamera2.log == [{"size": (640, 480), "format": "RGB888"}, "start", "stop", "close"]
    with pytest.raises(CameraError, match=r"picamera2:1: .*list-cameras"):
        next(frames("picamera2:1"))


@pytest.mark.parametrize(
    ("camera", "module", "words"),
    [
        ("picamera2", "picamera2", "apt install python3-picamera2"),
        ("0", "cv2", "pip install 'finezoo-runtime[camera]'"),
        ("rtsp://h/x", "cv2", "pip install 'finezoo-runtime[camera]'"),
    ],
)
def test_a_missing_package_is_named(watch, monkeypatch, camera, module, words):
    monkeypatch.setitem(sys.modules, module, None)
    code, out, err = watch("--camera", camera)
    assert code == 1 and out == [] and words in err[-1]


@pytest.mark.parametrize(
    ("camera", "words"),
    [
        ("97", "error: camera 97: there is no such camera"),
        ("gone.mp4", "there is no such file"),
        ("ftp://host/x", "addresses begin with rtsp"),
        ("concat:a|b", "there is no such file"),
    ],
)
def test_a_camera_that_is_not_there(watch, camera, words):
    if camera.isdigit():
        pytest.importorskip("cv2", reason="needs the extra [camera]")
    code, _, err = watch("--camera", camera)
    assert code == 1 and words in err[-1] and err[-1].startswith("error: ")


def test_a_file_that_is_no_video(watch, tmp_path):
    pytest.importorskip("cv2", reason="needs the extra [camera]")
    (tmp_path / "x.mp4").write_text("no video")
    assert "cannot be read as a video" in watch("--camera", tmp_path / "x.mp4")[2][-1]


def test_a_video_that_stops_early_is_said(watch, video, tmp_path):
    whole, cut = video.read_bytes(), tmp_path / "cut.avi"
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    code, out, err = watch("--camera", cut, "--json")
    assert code == 0 and 5 < len(out) < 25
    assert err[0].startswith(f"{cut}: it ends after {len(out)} of about 30 frames.") and len(err) == 2
    assert len(watch("--camera", video)[2]) == 1
    said: list[str] = []
    assert len(list(frames(str(cut), say=said.append))) == len(out) and len(said) == 1


# Which frames


def at(number: int, seconds: float, pixels: np.ndarray | None = None) -> Frame:
    return Frame(np.zeros((48, 64, 3), np.uint8) if pixels is None else pixels, number, seconds, 0, None, 0)


def test_a_small_change_and_noise_are_no_change():
    pick = Pick(changed=2)
    base = np.full((480, 640, 3), 100, np.uint8)
    noise = base + np.random.default_rng(0).integers(0, 15, base.shape, np.uint8)
    corner, larger = base.copy(), base.copy()
    corner[:40, :40] = 0
    larger[:120, :120] = 0
    assert [pick.has_changed(at(n, n, p)) for n, p in enumerate((base, noise, corner, larger, larger, base))] == [
        *(True, False, False, True, False, True),
    ]


def test_fps_keeps_the_mean_rate():
    pick = Pick(fps=10)
    due = [n / 30 for n in range(300) if pick.is_due(at(n, n / 30))]
    assert 98 <= len(due) <= 101


# Signals


@pytest.mark.skipif(os.name == "nt", reason="no such signals there")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_signals_end_cleanly(model, tmp_path, number, code):
    table = tmp_path / "t.csv"
    command = [sys.executable, "-m", "zoo_runtime.cli", "watch", str(model), "--camera", "-", "--csv", str(table)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background of a shell ignores Ctrl-C, and so would the process.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    process.stdin.buffer.write(jpeg(RED))
    process.stdin.buffer.flush()
    assert "red" in process.stdout.readline()
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code and "1 answered" in err and "Traceback" not in err
    assert len(table.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--camera", "0", "--watch-folder", "x"],
        ["--camera", "0", "--once"],
        ["--watch-folder", "x", "--hold", "1s"],
        ["--watch-folder", "x", "--every", "2"],
        ["--camera", "0", "--hold", "soon"],
        ["--camera", "0", "--changed", "0"],
        ["--camera", "0", "--fps", "0"],
        ["--camera", "0", "--size", "640"],
        ["--camera", "0", "--json", "--csv", "-"],
        ["--camera", "0", "--mqtt-login", "x"],
        ["--camera", "0", "--mqtt", "abc"],
        ["--camera", "0", "--mqtt", "ann:secret@pi/a"],
        ["--camera", "0", "--page", "abc"],
        ["--camera", "0", "--page", "70000"],
    ],
)
def test_wrong_usage(arguments, monkeypatch, capsys):
    monkeypatch.delenv("ZOO_CAMERA", raising=False)
    with pytest.raises(SystemExit) as stopped:
        main(["watch", "model.onnx", *arguments])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.startswith("usage: zoo-runtime watch") and "secret" not in said
