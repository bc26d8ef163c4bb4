"""The command `zoo-runtime watch`: answers the frames of a camera, or each new picture in a folder."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from .._errors import NotWritten
from .options import add_key, add_model, add_predictor_options, positive, predictor_options

if TYPE_CHECKING:
    from .._predictor import Predictor
    from .._watch.mqtt import Mqtt
    from .._watch.outputs import Output
    from .._watch.sources import Camera

DESCRIPTION = "Label what a camera sees, or each new picture in a folder, until Ctrl-C."
CAMERA_HELP = (
    "0, /dev/video0, picamera2, rtsp://HOST/PATH, a video file, or - for JPEGs on standard input "
    "(default: the environment variable ZOO_CAMERA)"
)
MQTT_HELP = (
    "also publish to a broker: HOST[:PORT]/TOPIC, or mqtts://HOST/TOPIC with TLS; user and password come from "
    "ZOO_MQTT_USER and ZOO_MQTT_PASSWORD, or from --mqtt-login"
)


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_model(command)
    source = command.add_argument_group("what to watch")
    source.add_argument("--camera", metavar="CAMERA", help=CAMERA_HELP)
    source.add_argument("--size", type=_size, metavar="WxH", help="the size of a camera's frames, such as 1280x720")
    source.add_argument(
        "--watch-folder", metavar="DIR", help="label each picture in a folder once, also after a restart"
    )
    source.add_argument("--once", action="store_true", help="end when all pictures of the folder are labeled")
    source.add_argument(
        "--journal", metavar="FILE", help="where labeled pictures are noted (default: DIR/.zoo-watch.db)"
    )
    pick = command.add_argument_group("which frames")
    pick.add_argument("--every", type=positive, metavar="N", default=1, help="answer every n-th frame (default: 1)")
    pick.add_argument("--changed", type=_percent, metavar="P", help="only frames in which P %% of the picture changed")
    pick.add_argument("--fps", type=_rate, metavar="F", help="answer at most F frames per second")
    pick.add_argument(
        "--hold", type=_duration, metavar="TIME", help="show a label when it won the votes of 0.5s, 2s, ..."
    )
    output = command.add_argument_group("where answers go")
    output.add_argument("--json", action="store_true", help="print one JSON object per answer")
    output.add_argument("--top", type=positive, metavar="K", help="show the K likeliest classes")
    output.add_argument("--csv", metavar="FILE", help="also add a row per answer to a table; - prints the table")
    output.add_argument("--jsonl", metavar="FILE", help="also add a JSON object per answer to a file")
    output.add_argument("--mqtt", type=_broker, metavar="BROKER", help=MQTT_HELP)
    output.add_argument("--mqtt-login", metavar="FILE", help="a file with one line, USER:PASSWORD, for --mqtt")
    output.add_argument(
        "--page", type=_page, metavar="PORT", help="also show a page at http://localhost:PORT; HOST:PORT opens it"
    )
    add_predictor_options(command)
    add_key(command)


def run(options: argparse.Namespace) -> int:
    from .._predictor import Predictor
    from .._watch.sources import Camera
    from .._watch.stop import Stop

    address = options.camera or (None if options.watch_folder else os.environ.get("ZOO_CAMERA"))
    _check(options, address)
    camera = Camera.parse(address, options.size) if address else None
    if camera and options.size and camera.kind not in ("device", "picamera2"):
        options.usage(f"--size goes with a USB camera or picamera2. {camera.name} has a size of its own.")
    with Stop() as stop, contextlib.ExitStack() as stack:
        predictor = Predictor(options.model, require_signature=options.require_signature, **predictor_options(options))
        outputs = _outputs(options, predictor, stack)
        if camera:
            _watch_camera(options, camera, predictor, outputs, stop)
        else:
            _watch_folder(options, predictor, outputs, stop)
    # Nobody is there to connect again later, so that these answers are lost.
    return stop.code or int(options.once and any(each.unpublished for each in _brokers(outputs)))


def say(text: str) -> None:
    """Print a message to standard error."""
    print(text, file=sys.stderr, flush=True)


def _watch_camera(
    options: argparse.Namespace, camera: Camera, predictor: Predictor, outputs: list[Output], stop: object
) -> None:
    from .._watch.camera import CameraLoop
    from .._watch.pick import Pick

    pick = Pick(options.every, options.changed, options.fps)
    CameraLoop(predictor, camera, outputs, pick, hold=options.hold, top=options.top, say=say).run(stop)  # type: ignore[arg-type]


def _watch_folder(options: argparse.Namespace, predictor: Predictor, outputs: list[Output], stop: object) -> None:
    from .._watch.folder import FolderLoop

    if options.once:
        for broker in _brokers(outputs):
            broker.require()
    loop = FolderLoop(predictor, options.watch_folder, outputs, journal=options.journal, top=options.top, say=say)
    loop.run(stop, once=options.once)  # type: ignore[arg-type]


def _check(options: argparse.Namespace, camera: str | None) -> None:
    """Refuse options that cannot be meant together."""
    wrong = None
    if bool(camera) == bool(options.watch_folder):
        wrong = "give either --camera or --watch-folder"
    elif options.json and options.csv == "-":
        wrong = "--json and --csv - both print to standard output. Give --csv a file, or leave one of them out"
    elif options.mqtt_login and not options.mqtt:
        wrong = "--mqtt-login goes with --mqtt"
    elif camera:
        given = [name for name in ("once", "journal") if getattr(options, name)]
        wrong = f"--{given[0]} goes with --watch-folder" if given else None
    else:
        names = ("size", "changed", "fps", "hold")
        given = [name for name in names if getattr(options, name) is not None] + ["every"] * (options.every != 1)
        wrong = f"--{given[0]} goes with --camera" if given else None
    if wrong:
        options.usage(f"{wrong}.")


def _outputs(options: argparse.Namespace, predictor: Predictor, stack: contextlib.ExitStack) -> list[Output]:
    from .._watch.outputs import JsonLines, Printed, Table, ToFile

    outputs: list[Output] = []
    if options.csv:
        outputs.append(ToFile(Table(options.csv, predictor.info)))
    if options.jsonl:
        outputs.append(ToFile(JsonLines(options.jsonl)))
    if options.csv != "-":
        outputs.append(Printed(options.json))
    for output in outputs:
        stack.callback(output.close)
    if options.mqtt:
        from .._watch.mqtt import Mqtt

        outputs.append(Mqtt.start(options.mqtt, options.mqtt_login, say))
        stack.callback(outputs[-1].close)
    if options.page:
        from .._watch.page import Page

        outputs.append(Page.start(options.page, predictor.info, say))
        stack.callback(outputs[-1].close)
    return outputs


def _brokers(outputs: list[Output]) -> list[Mqtt]:
    from .._watch.mqtt import Mqtt

    return [output for output in outputs if isinstance(output, Mqtt)]


def _broker(text: str) -> str:
    """Check the form of the value of --mqtt."""
    from .._watch.mqtt import Broker

    return _of_form(text, Broker.parse)


def _page(text: str) -> str:
    """Check the form of the value of --page."""
    from .._watch.page import parse_address

    return _of_form(text, parse_address)


def _of_form(text: str, parse: Callable[[str], object]) -> str:
    try:
        parse(text)
    except NotWritten as error:
        raise argparse.ArgumentTypeError(str(error).partition(": ")[2]) from None
    return text


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"must be a width and a height, such as 1280x720. Received: {text!r}.")
    return int(match[1]), int(match[2])


def _number(text: str, low: float, high: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"must be {what}. Received: {text!r}.")
    return value


def _percent(text: str) -> float:
    return _number(text.removesuffix("%"), 0.1, 100, "a part of the picture in percent, from 0.1 to 100")


def _rate(text: str) -> float:
    return _number(text, 0.001, 1000, "a number of frames per second, from 0.001 to 1000")


def _duration(text: str) -> float:
    """Convert a time such as "0.5s", "500ms" or "2" to seconds."""
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(ms|s|min|h)?", text)
    value = float(match[1]) * {"ms": 0.001, "min": 60, "h": 3600}.get(match[2] or "s", 1) if match else -1
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(
            f"must be a time from 0 to 1 hour, such as 0.5s, 500ms or 2min. Received: {text!r}."
        )
    return value
