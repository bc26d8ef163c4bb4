"""Answers each picture in a folder once: those that are there, and those that come.

The folder is listed again and again, because network drives have no notifications. A file is read when it has not
changed for a while. A picture that cannot be read gets some more time, because it may be written slowly.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .._decode import printable
from .._errors import NotAPicture, NotWritten, PictureError, PictureNotFound
from .._listing import LARGEST_INPUT, list_pictures
from .._predictor import Predictor
from .._rows import answer, answer_text, failure, failure_text, utc
from .frames import Say
from .journal import NAME, Entry, Journal, name_of
from .outputs import Answer, Output, ToFile
from .stop import Stop

POLL = 1.0
"""Seconds between two lists of the folder, at least."""

SETTLED = 2.0
"""Seconds for which a file must not have changed before it is read."""

PATIENCE = 10.0
"""Seconds for which a file must not have changed before it counts as damaged."""

BATCH = 16
BATCH_BYTES = 64 * 2**20
"""The most bytes of pictures that are read at one time. A larger picture is read alone."""

_IDLE_PER_WORK = 4


@dataclass(frozen=True)
class _File:
    """A picture that was not answered yet.

    Args:
        path: Its path.
        key: Its path below the folder.
        size, changed: Its size in bytes, and the time of its last change in nanoseconds.
        since: When it was first seen in this state, on the monotonic clock.
        age: For how many seconds it had not changed then.
    """

    path: str
    key: bytes
    size: int
    changed: int
    since: float
    age: float

    def is_old(self, seconds: float) -> bool:
        """Return whether the file has not changed for some time."""
        return self.age + time.monotonic() - self.since > seconds


class FolderLoop:
    """Answers the pictures of a folder and of the folders in it, until it is asked to stop.

    Args:
        predictor: The network.
        folder: The path of the folder.
        outputs: Where answers go. Files get each answer exactly once, also after a crash. The others get it before it
            is noted in the journal, so that a crash can repeat the last answers there.
        journal: The path of the journal. None means `.zoo-watch.db` in the folder.
        top: How many classes an answer lists; None lists all in JSON, and the label in text.
        say: Called with each message.

    Raises:
        PictureNotFound: If the folder does not exist.
        NotWritten: If the journal cannot be used.
    """

    def __init__(
        self,
        predictor: Predictor,
        folder: str,
        outputs: Sequence[Output],
        *,
        journal: str | None = None,
        top: int | None = None,
        say: Say = lambda _: None,
    ) -> None:
        if not os.path.isdir(folder):
            reason = "does not exist. Make it first"
            if os.path.exists(folder):
                reason = "is a file, not a folder. `zoo-runtime predict` labels it"
            raise PictureNotFound(f"the folder to watch, {folder!r}, {reason}.")
        self._predictor = predictor
        self._folder = folder
        self._files = {
            name_of(output.file.path): output.file
            for output in outputs
            if isinstance(output, ToFile) and output.file.is_regular
        }
        self._outputs = [o for o in outputs if not (isinstance(o, ToFile) and o.file.is_regular)]
        self._journal = Journal(os.path.join(folder, NAME) if journal is None else journal, self._files)
        self._top = top
        self._say = say
        self._told: set[str] = set()
        self._seen: dict[str, _File] = {}
        self._done: dict[str, tuple[int, int]] = {}
        self._looked = self._away = False
        self._answered = 0

    def run(self, stop: Stop, *, once: bool = False) -> None:
        """Run until `stop` is requested or, with `once`, until every picture in the folder is answered.

        Raises:
            NotWritten: If an answer cannot be written.
        """
        try:
            self._status("online")
            while not stop.requested.is_set():
                began = time.monotonic()
                ready = self._ready()
                for files in _batches(ready):
                    if stop.requested.is_set():
                        break
                    self._answer(files)
                if once and not self._seen:
                    break
                # A large folder on a slow disk must not keep the processor busy.
                stop.requested.wait(max(POLL, _IDLE_PER_WORK * (time.monotonic() - began) if not ready else POLL))
        finally:
            self._journal.close()
        self._say("1 picture answered" if self._answered == 1 else f"{self._answered:,} pictures answered")

    def _ready(self) -> list[_File]:
        """List the pictures that were not answered and have not changed for a while."""
        try:
            paths = list_pictures(self._folder, self._refuse)
        except PictureNotFound:
            self._is_away("the folder is gone. Waiting until it is back")
            return []
        if self._journal.is_lost() and not self._has_journal_again():
            return []
        if self._away:
            self._away = False
            self._status("online")
            self._say(f"{printable(self._folder)}: the folder is back")
        now, seen, done = time.monotonic(), {}, {}
        for path in paths:
            try:
                state = os.stat(path)
            except OSError:
                # It was deleted, or is a broken link. There may be a file later.
                continue
            version = state.st_size, state.st_mtime_ns
            if self._done.get(path) == version:
                done[path] = version
                continue
            key = os.fsencode(os.path.relpath(path, self._folder))
            known = self._journal.find(key)
            if known and (known.size, known.changed) == version:
                done[path] = version
                continue
            before = self._seen.get(path)
            is_same = before is not None and (before.size, before.changed) == version
            # The time of a file is believed at the first look alone. A file that comes or changes later can be half
            # written and look old: if the clock is set meanwhile, or if a network drive has another clock.
            age = 0.0 if self._looked else max(0.0, time.time() - state.st_mtime)
            seen[path] = before if before and is_same else _File(path, key, *version, now, age)
        self._seen, self._done, self._looked = seen, done, True
        return [file for file in seen.values() if file.is_old(SETTLED)]

    def _status(self, text: str) -> None:
        for output in self._outputs:
            output.status(text)

    def _is_away(self, reason: str) -> None:
        if not self._away:
            self._away = True
            self._status("no folder")
            self._say(f"{printable(self._folder)}: {reason}")

    def _has_journal_again(self) -> bool:
        """Open the journal that is in the folder now. Return False if the folder is just going or coming."""
        try:
            self._journal.reopen()
        except NotWritten:
            if os.path.isdir(self._folder):
                raise
            return False
        self._seen, self._done = {}, {}
        self._say(f"{printable(self._journal.path)}: the journal was removed or replaced. What it does not know is new")
        return True

    def _refuse(self, path: str, error: PictureError) -> None:
        if path not in self._told:
            self._told.add(path)
            self._say(f"{printable(path)}: {error}")

    def _answer(self, files: Sequence[_File]) -> None:
        """Answer some pictures, and note them. Leave out those that are gone or still change."""
        read = list(self._read(files))
        results = self._predictor.predict_each([data for _, data, _ in read if not isinstance(data, PictureError)])
        answers, entries = [], []
        for file, data, entry in read:
            result = data if isinstance(data, PictureError) else next(results)
            if isinstance(result, PictureError) and not file.is_old(PATIENCE):
                continue
            entries.append(entry)
            line: dict[str, object] = {"time": utc(time.time())}
            if isinstance(result, PictureError):
                line |= failure(file.path, _named(result, file.path))
                answers.append(Answer(line, failure_text(file.path, result), True))
                continue
            line |= answer(file.path, result, self._predictor.info, self._top)
            text = f"{file.path}: {answer_text(result, self._predictor.info, self._top)}"
            picture = data if isinstance(data, bytes) else None
            answers.append(Answer(line, text, False, picture))
        for each in answers:
            for output in self._outputs:
                output.write(each)
        if entries:
            rows = {name: b"".join(file.bytes_of(each.line) for each in answers) for name, file in self._files.items()}
            self._journal.note(entries, rows)
        self._answered += len(answers)
        self._settle([file for file, _, entry in read if entry in entries])

    def _settle(self, files: Sequence[_File]) -> None:
        for file in files:
            self._seen.pop(file.path, None)
            self._done[file.path] = file.size, file.changed

    def _read(self, files: Sequence[_File]) -> Iterator[tuple[_File, bytes | PictureError, Entry]]:
        """Read files. Yield each that did not change meanwhile, and whose content is new."""
        touched: list[tuple[_File, Entry]] = []
        for file in files:
            data: bytes | PictureError
            try:
                with open(file.path, "rb") as stream:
                    before = os.fstat(stream.fileno())
                    too_large = before.st_size > LARGEST_INPUT
                    data = NotAPicture("it has more than 1 GiB, which no picture has.") if too_large else stream.read()
                    after = os.fstat(stream.fileno())
            except FileNotFoundError:
                continue
            except OSError as error:
                data, before, after = PictureNotFound(f"cannot be read: {error.strerror}"), None, None
            if before and after:
                states = {(each.st_size, each.st_mtime_ns) for each in (before, after)}
                if states != {(file.size, file.changed)}:
                    continue
            digest = hashlib.blake2b(data, digest_size=16).digest() if isinstance(data, bytes) else b""
            entry = Entry(file.key, file.size, file.changed, digest)
            known = self._journal.find(file.key)
            if known and digest and known.digest == digest:
                # Only its time has changed, as after `touch` or a copy of the same file.
                touched.append((file, entry))
                continue
            yield file, data, entry
        if touched:
            self._journal.note([entry for _, entry in touched], {})
            self._settle([file for file, _ in touched])


def _batches(files: Sequence[_File]) -> Iterator[list[_File]]:
    """Split files into groups of at most `BATCH` files and `BATCH_BYTES` bytes, so that they fit into the memory."""
    batch: list[_File] = []
    for file in files:
        if batch and (len(batch) == BATCH or sum(each.size for each in batch) + file.size > BATCH_BYTES):
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def _named(error: PictureError, path: str) -> PictureError:
    return type(error)(str(error).replace("the data given: ", f"{printable(path)}: ", 1))
