"""Writes answers to standard output, tables and files of JSON lines.

Rows are added to a file that exists. A row that a crash cut off is removed first, so that every line is whole.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import stat
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .._errors import NotWritten
from .._format import ModelInfo
from .._rows import columns, one_line, row
from .sources import Pixels

SYNC = 1.0
"""Seconds between two times at which rows are forced to the disk. A power cut loses at most the rows of that time."""


@dataclass(frozen=True)
class Answer:
    """One answer, ready to be written.

    Args:
        line: The answer as a JSON object, see `zoo_runtime._rows`, with its time.
        text: The answer as one line of text.
        failed: Whether the picture could not be read, so that `line` has an error.
        pixels: The frame, for outputs that show it.
    """

    line: dict[str, Any]
    text: str
    failed: bool = False
    pixels: Pixels | None = None


class Output(Protocol):
    """Receives answers."""

    def write(self, answer: Answer) -> None:
        """Write an answer."""

    def status(self, text: str) -> None:
        """Say how the source is: "online", "no camera", "no folder" or "offline"."""

    def close(self) -> None:
        """Write what waits, and release everything."""


class Printed:
    """Prints answers to standard output, and errors to standard error unless the output is JSON."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def write(self, answer: Answer) -> None:
        if self._as_json:
            print(json.dumps(answer.line), flush=True)
        else:
            print(one_line(answer.text), file=sys.stderr if answer.failed else sys.stdout, flush=True)

    def status(self, text: str) -> None:
        """Do nothing, because messages say it."""

    def close(self) -> None:
        """Do nothing."""


class _File:
    """A file to which lines are added.

    Args:
        path: The path; "-" is standard output.
        header: The first line of the file, or no bytes.

    Raises:
        NotWritten: If the file cannot be written, or begins with another header.
    """

    def __init__(self, path: str, header: bytes = b"") -> None:
        self.path = path
        self.header = header
        self._synced = time.monotonic()
        if path == "-":
            self._file = -1
            self._owned = self.is_regular = False
        else:
            self._open()
        self._start()

    def _open(self) -> None:
        with self._explained():
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
            self._file = os.open(self.path, flags, 0o644)
        self._owned = True
        self.is_regular = stat.S_ISREG(os.fstat(self._file).st_mode)

    def follow(self) -> None:
        """Begin a new file if this one was removed or renamed, as people and logrotate do: else rows would be lost."""
        if not self.is_regular:
            return
        try:
            there = os.path.samestat(os.stat(self.path), os.fstat(self._file))
        except OSError:
            there = False
        if not there:
            self.close()
            self._open()
            self._start()

    def _start(self) -> None:
        if not self.is_regular:
            self.append(self.header)
            return
        with self._explained():
            end = self.size()
            whole = self._end_of_last_line(end)
            if whole < end and (whole or not self.header.startswith(self.read(0, end))):
                # A file without a line break is not of this form, unless it is a part of the header.
                self._check_header()
            if whole < end:
                os.ftruncate(self._file, whole)
            if whole:
                self._check_header()
            else:
                self.append(self.header)

    def _check_header(self) -> None:
        if self.header and self.read(0, len(self.header)) != self.header:
            raise NotWritten(
                f"{self.path}: its first line is not that of this table. Its rows may be those of other classes, or it "
                "is another file. Give the name of a new file."
            )

    def _end_of_last_line(self, end: int) -> int:
        """Return the position behind the last line break."""
        while end > 0:
            start = max(0, end - 2**16)
            found = self.read(start, end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
        return 0

    def size(self) -> int:
        """Return the size of the file in bytes."""
        return os.fstat(self._file).st_size

    def read(self, start: int, count: int) -> bytes:
        """Return bytes of the file."""
        os.lseek(self._file, start, os.SEEK_SET)
        pieces = b""
        while len(pieces) < count and (piece := os.read(self._file, count - len(pieces))):
            pieces += piece
        return pieces

    def append(self, data: bytes, *, sync: bool = False) -> None:
        """Add bytes, and force them to the disk if `sync` is True or the last time was long ago."""
        if self._file < 0:
            sys.stdout.write(data.decode())
            sys.stdout.flush()
            return
        with self._explained():
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
            if self.is_regular and (sync or time.monotonic() - self._synced >= SYNC):
                os.fsync(self._file)
                self._synced = time.monotonic()

    def close(self) -> None:
        """Force what was written to the disk."""
        if not self._owned:
            return
        self._owned = False
        with contextlib.suppress(OSError):
            if self.is_regular:
                os.fsync(self._file)
        os.close(self._file)

    @contextlib.contextmanager
    def _explained(self) -> Any:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            place = os.path.dirname(os.path.abspath(self.path))
            why = f"there is no folder {place!r}; make it first" if not os.path.isdir(place) else error.strerror
            raise NotWritten(f"{self.path} cannot be written: {why}.") from None


class Table(_File):
    """A table of answers as CSV (RFC 4180 with line feeds), UTF-8, with one header.

    Args:
        path: The path of the file; "-" is standard output.
        info: The metadata of the model, whose classes are columns.
    """

    def __init__(self, path: str, info: ModelInfo) -> None:
        self._columns = columns(info)
        super().__init__(path, _csv(self._columns))

    def bytes_of(self, line: Mapping[str, Any]) -> bytes:
        """Return an answer as bytes to append."""
        return _csv(row(line, self._columns))

    def write(self, line: Mapping[str, Any]) -> None:
        """Add the row of an answer."""
        self.follow()
        self.append(self.bytes_of(line))


class JsonLines(_File):
    """A file of answers, one JSON object per line."""

    def bytes_of(self, line: Mapping[str, Any]) -> bytes:
        """Return an answer as bytes to append."""
        return (json.dumps(line) + "\n").encode()

    def write(self, line: Mapping[str, Any]) -> None:
        """Add the line of an answer."""
        self.follow()
        self.append(self.bytes_of(line))


class ToFile:
    """Writes answers to a table or a file of JSON lines."""

    def __init__(self, file: Table | JsonLines) -> None:
        self.file = file

    def write(self, answer: Answer) -> None:
        self.file.write(answer.line)

    def status(self, text: str) -> None:
        """Do nothing, because a table has rows of answers alone."""

    def close(self) -> None:
        self.file.close()


def _csv(cells: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    # A file name need not be valid text.
    return text.getvalue().encode("utf-8", "backslashreplace")
