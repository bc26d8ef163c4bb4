"""Defines the logger `tensorboard`, which writes event files into the folder `tensorboard` of the run folder.

The records are written with TensorBoard's own package. Its higher classes would import TensorFlow, which must stay out
of a process that trains on another backend. The format of the files: a record is the length (8 bytes), a checksum
(4 bytes), an `Event` in the protocol-buffer format, and another checksum (4 bytes).
"""

from __future__ import annotations

import hashlib
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from zoo.plugin import EpochFigures, LoggedRun, Logger, RunLog, hookimpl

FOLDER = "tensorboard"
VERSION = "brain.Event:2"


class TensorBoardLog(RunLog):
    """Writes scalars by epoch, the settings as hyperparameters, and texts that name the files of the run."""

    def __init__(self, run: LoggedRun) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._run, self._last = run, 0
        folder = run.folder / FOLDER
        folder.mkdir(exist_ok=True)
        # What was stored before an interruption, as (tag, step).
        self._stored = {
            (value.tag, event.step)
            for path in sorted(folder.glob("*tfevents*"))
            for event in _events(path, self._event)
            for value in event.summary.value
        }
        import socket

        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time_ns() // 1000}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter((folder / name).open("xb"))
        self._write(file_version=VERSION)
        self._session_start()

    def epoch(self, figures: EpochFigures) -> None:
        self._last = figures.epoch
        self._scalars(figures.metrics(), figures.epoch)

    def figures(self, figures: Mapping[str, float]) -> None:
        self._scalars(figures, self._last)

    def artifact(self, path: Path) -> None:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        text = f"`{path}`  \n{path.stat().st_size:,} bytes, sha256 `{digest}`"
        self._values([self._text(f"files/{path.name}", text)], self._last)

    def end(self, status: Literal["finished", "interrupted", "failed"], why: str) -> None:
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        codes = {"finished": api_pb2.STATUS_SUCCESS, "failed": api_pb2.STATUS_FAILURE}
        ended = plugin_data_pb2.SessionEndInfo(status=codes.get(status, api_pb2.STATUS_UNKNOWN))
        ended.end_time_secs = time.time()
        values = [self._hyperparameters(metadata.SESSION_END_INFO_TAG, session_end_info=ended)]
        if why:
            values.append(self._text("failure", why))
        self._values(values, self._last)
        self._writer.close()

    def hint(self) -> str:
        runs = os.path.relpath(self._run.folder.parent)
        return shlex.join(
            ["tensorboard", "--logdir", runs if not runs.startswith("..") else str(self._run.folder.parent)]
        )

    def _session_start(self) -> None:
        """Write the settings of the run, which TensorBoard shows in its tab HPARAMS."""
        from tensorboard.plugins.hparams import metadata, plugin_data_pb2

        started = plugin_data_pb2.SessionStartInfo(group_name=self._run.id, start_time_secs=time.time())
        for name, value in self._run.parameters.items():
            if isinstance(value, bool):
                started.hparams[name].bool_value = value
            elif isinstance(value, str):
                started.hparams[name].string_value = value
            else:
                started.hparams[name].number_value = value
        self._values([self._hyperparameters(metadata.SESSION_START_INFO_TAG, session_start_info=started)], 0)

    def _hyperparameters(self, tag: str, **content: Any) -> Any:
        from tensorboard.plugins.hparams import metadata, plugin_data_pb2

        described = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**content))
        return self._summary.Value(tag=tag, metadata=described)

    def _text(self, tag: str, text: str) -> Any:
        from tensorboard.compat.proto.summary_pb2 import SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        described = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        return self._summary.Value(
            tag=tag, metadata=described, tensor=TensorProto(dtype=DT_STRING, string_val=[text.encode()])
        )

    def _scalars(self, figures: Mapping[str, float], step: int) -> None:
        self._values([self._summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()], step)

    def _values(self, values: list[Any], step: int) -> None:
        """Write those values that are not stored yet, and flush, so that a killed run keeps them."""
        new = [value for value in values if (value.tag, step) not in self._stored]
        if new:
            self._write(step=step, summary=self._summary(value=new))

    def _write(self, **content: Any) -> None:
        self._writer.write(self._event(wall_time=time.time(), **content).SerializeToString())
        self._writer.flush()


def _events(path: Path, event: Any) -> Iterator[Any]:
    """Yield the events of a file. What a killed process has not finished writing is left out.

    Args:
        path: The path of the event file.
        event: The class of the events.
    """
    content, start = path.read_bytes(), 0
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 8], "little")
        if end + 4 > len(content):
            return
        yield event.FromString(content[start + 12 : end])
        start = end + 4


@hookimpl
def zoo_loggers() -> list[Logger]:
    return [
        Logger(
            name="tensorboard",
            summary="event files in RUN/tensorboard, for `tensorboard --logdir runs`",
            open=TensorBoardLog,
            needs=("tensorboard",),
            install="pip install 'finezoo[tensorboard]'",
        )
    ]
