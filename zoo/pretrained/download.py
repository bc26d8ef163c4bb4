"""Transfers a file from a server, and continues a transfer that broke off, in this process or in an earlier one.

An unfinished file is kept in the folder `.downloads` beside the final place, with a small JSON file that says which
version of the file on the server it is a part of. A server that supports it sends only the rest; otherwise the
transfer starts from the beginning. `zoo.pretrained.fetch` checks the finished file and gives it its final name.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from zoo import files
from zoo.pretrained import network

if TYPE_CHECKING:
    import requests

READ_SECONDS = 30
# The waits before further attempts. A transfer fails after one attempt more in a row that brings nothing new.
WAITS = (1.0, 2.0, 4.0, 8.0)
# The longest wait that a server may ask for.
LONGEST_WAIT = 60.0
CHUNK = 1 << 15
CLOSED = "the server closed the connection"
# A power cut can lose or damage what was written last, so that only bytes that were flushed to the disk are kept.
SYNCED_BYTES = 4 << 20
# Another process that downloads the same file and makes no progress for this long is no longer waited for.
PATIENCE_SECONDS = 3 * READ_SECONDS
FOLDER = ".downloads"
# Where no size is published, a file that is larger is no weights file.
LARGEST_FILE = 50 << 30
# A file may be twice as large as was published, and this much more, before its hash is checked.
HARMLESS = 16 << 20
LEFTOVER_SECONDS = 14 * 24 * 3600
Progress = Callable[[int, int], None]
Say = Callable[[str], None]


class TransferError(Exception):
    """A transfer has failed. The text is one line without a full stop at its end."""


class _BrokenOff(Exception):
    """An attempt has failed, and another one may succeed.

    Args:
        reason: Why it has failed.
        wait: How many seconds the server asks to wait, or None.
    """

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


@dataclass
class _Origin:
    """Describes the file on the server of which an unfinished file is a part.

    Args:
        url: The address.
        validator: The ETag or the date of the last change, as the server sent it, or "".
        total: The size of the whole file in bytes, or 0 if the server does not say.
        kept: The number of bytes that are surely on the disk.
    """

    url: str
    validator: str = ""
    total: int = 0
    kept: int = 0


class Transfer:
    """Downloads one file to a path, in as many attempts as make sense.

    Args:
        url: The address of the file.
        path: The path of the unfinished file. A part that is there already is continued if that is safe.
        checked: Whether a published hash will prove the finished file. If not, a part is continued only if the server
            confirms that the file has not changed.
        progress: A function to call with (bytes received, bytes in total), or None.
        say: A function that receives a line of text when an attempt fails and another one follows, or None.
        headers: Further headers of the request. A token is not sent on to another server that the first one names.
        most: The most bytes to receive, so that a server that never stops cannot fill the disk.

    Attributes:
        resumed: Whether the file consists of parts of several attempts.
        md5: The MD5 of the file in hex, if the server sends it; else "".
    """

    def __init__(
        self,
        url: str,
        path: Path,
        *,
        checked: bool,
        progress: Progress | None,
        say: Say | None,
        headers: Mapping[str, str] | None = None,
        most: int = LARGEST_FILE,
    ):
        self._most = most
        self._headers = dict(headers or {})
        self._path, self._checked, self._progress, self._say = path, checked, progress, say
        self._notes = path.with_name(path.name + ".json")
        self._origin = self._earlier(url)
        self.resumed, self.md5 = self._origin.kept > 0, ""
        self._resumable, self._done = True, self._origin.kept

    def run(self) -> None:
        """Download the file.

        Raises:
            TransferError: The file cannot be downloaded, or it does not fit on the disk.
            OSError: The unfinished file cannot be written.
        """
        fruitless, most = 0, self._origin.kept
        while True:
            try:
                return self._attempt()
            except _BrokenOff as broken:
                fruitless = 0 if self._origin.kept > most else fruitless + 1
                most = max(most, self._origin.kept)
                if fruitless > len(WAITS):
                    raise TransferError(str(broken)) from broken
                wait = WAITS[max(0, fruitless - 1)] if broken.wait is None else broken.wait
                if wait > LONGEST_WAIT:
                    raise TransferError(f"{broken}, and it asks to wait {wait:.0f} s") from broken
                if self._say:
                    self._say(f"{self._path.name}: {broken}; trying again{f' in {wait:.0f} s' if wait else ''}.")
                time.sleep(wait)

    def discard(self) -> None:
        """Remove the unfinished file, so that the next transfer starts from the beginning."""
        self._origin, self._done = _Origin(self._origin.url), 0
        self.resumed = False
        for path in (self._path, self._notes):
            path.unlink(missing_ok=True)

    def _earlier(self, url: str) -> _Origin:
        """Read what an earlier process has left. Return an origin with `kept` 0 if nothing of it can be used."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            origin = _Origin(**json.loads(self._notes.read_text("utf-8")))
            size = self._path.stat().st_size
            if origin.url == url and 0 < origin.kept <= size and (origin.validator or self._checked):
                return origin
        return _Origin(url)

    def _attempt(self) -> None:
        import requests
        import urllib3

        headers = {**self._headers, "Accept-Encoding": "identity"}
        if self._origin.kept:
            headers["Range"] = f"bytes={self._origin.kept}-"
            if self._origin.validator:
                headers["If-Range"] = self._origin.validator
        try:
            timeout = (network.CONNECT_SECONDS, READ_SECONDS)
            with requests.get(self._origin.url, headers=headers, stream=True, timeout=timeout) as response:
                if self._accept(response):
                    self._receive(response)
        except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
            raise TransferError(network.explain(error)) from error
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
            urllib3.exceptions.HTTPError,
        ) as error:
            raise _BrokenOff(self._broken_text(network.explain(error))) from error
        except requests.RequestException as error:
            raise TransferError(network.explain(error)) from error

    def _broken_text(self, reason: str) -> str:
        if "IncompleteRead" in reason:
            reason = CLOSED
        elif "timed out" in reason:
            reason = f"timed out: nothing came for {READ_SECONDS} s"
        total = self._origin.total
        of_all = f" of {files.size_text(total)}" if total else ""
        return f"the transfer broke off after {files.size_text(self._done)}{of_all} ({reason})"

    def _accept(self, response: requests.Response) -> bool:
        """Look at the head of an answer, and decide at which byte its content begins.

        Returns:
            Whether the content is to be received. It is not if the file is complete already.

        Raises:
            _BrokenOff: The server cannot answer now, or what it sends does not continue the unfinished file.
            TransferError: The server refuses.
        """
        status, sent = response.status_code, response.headers
        encoded = sent.get("Content-Encoding", "identity").lower() not in ("", "identity")
        part = re.fullmatch(r"bytes (?:(\d{1,18})-\d{1,18}|\*)/(\d{1,18}|\*)", sent.get("Content-Range", "").strip())
        if status == 416 and part and part[2] == str(self._origin.kept):
            return False
        if status == 416 or status == 206:
            start, total = (int(each or "-1") if each != "*" else 0 for each in part.groups()) if part else (-1, 0)
            same = start == self._origin.kept and (not self._origin.total or total in (0, self._origin.total))
            if status == 416 or encoded or not same or self._changed(sent):
                self.discard()
                raise _BrokenOff("the file on the server has changed, so the transfer starts from the beginning", 0.0)
            self._origin.total = self._origin.total or total
            self.resumed = True
        elif status == 200:
            self.resumed = False
            # The length of a compressed answer is not that of the file.
            length = sent.get("Content-Length", "") if not encoded else ""
            self._origin = _Origin(self._origin.url, "" if encoded else _validator(sent))
            self._origin.total = int(length) if re.fullmatch(r"[0-9]{1,18}", length) else 0
            self._refuse_endless(self._origin.total)
        elif status in network.TEMPORARY:
            raise _BrokenOff(network.status_text(status), network.retry_after(sent))
        else:
            raise TransferError(network.status_text(status))
        self.md5 = "" if encoded else _md5_of(sent) or self.md5
        self._resumable = not encoded
        return True

    def _changed(self, headers: Any) -> bool:
        """Return whether the head of a continued transfer names another version of the file than that of its start."""
        now = _validator(headers)
        return bool(self._origin.validator and now and now != self._origin.validator)

    def _receive(self, response: requests.Response) -> None:
        """Append the content of an answer to the unfinished file."""
        origin = self._origin
        _check_room(self._path.parent, origin.total - origin.kept)
        self._done = synced = origin.kept
        with self._path.open("r+b" if origin.kept else "wb") as stream:
            stream.seek(origin.kept)
            stream.truncate()
            try:
                for chunk in _chunks(response) if self._resumable else response.iter_content(CHUNK):
                    stream.write(chunk)
                    self._done += len(chunk)
                    self._refuse_endless(self._done)
                    if self._progress:
                        self._progress(self._done, max(self._done, origin.total) if origin.total else 0)
                    if self._done - synced >= SYNCED_BYTES:
                        self._sync(stream)
                        synced = self._done
            finally:
                # This runs also if Ctrl-C ends the transfer.
                self._sync(stream)
        if self._done < origin.total:
            raise _BrokenOff(self._broken_text(CLOSED))

    def _refuse_endless(self, size: int) -> None:
        if size > self._most:
            self.discard()
            raise TransferError(f"the server sends more than {files.size_text(self._most)}, so this is not the file")

    def _sync(self, stream: IO[bytes]) -> None:
        """Flush the unfinished file to the disk, and record how long it is."""
        stream.flush()
        os.fsync(stream.fileno())
        self._origin.kept = self._done
        if not self._resumable or not (self._origin.validator or self._checked):
            # Nothing can prove that another answer continues this one.
            self._origin.kept = 0
            return
        draft = self._notes.with_name(f"{self._notes.name}.{os.urandom(4).hex()}")
        try:
            draft.write_text(json.dumps(asdict(self._origin)), encoding="utf-8")
            os.replace(draft, self._notes)
        finally:
            draft.unlink(missing_ok=True)


def most_of(published: int | None) -> int:
    """Return how many bytes of a file are received at most.

    Args:
        published: The size of the file in bytes, as its publisher states it; None if it is not known.
    """
    return 2 * published + HARMLESS if published else LARGEST_FILE


@contextlib.contextmanager
def alone(path: Path, say: Say | None) -> Iterator[Path]:
    """Let one process at a time download a file, and provide the path at which its unfinished file is kept.

    A process that comes later waits. It downloads by itself if the first one makes no progress for PATIENCE_SECONDS, or
    if the file system has no locks. A lock ends with its process, so that a killed process blocks nobody.

    Args:
        path: The final path of the file.
        say: A function that receives a line of text if this process must wait, or None.

    Yields:
        The path of the unfinished file.

    Raises:
        OSError: The folder cannot be written.
    """
    import filelock

    folder = path.parent / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    unfinished = folder / path.name
    # Several users may share a cache.
    lock = filelock.FileLock(folder / f"{path.name}.lock", mode=0o666)
    try:
        held = _acquire(lock, unfinished, say)
    except NotImplementedError:
        held = False
    try:
        if held:
            yield unfinished
        else:
            with files.scratch_folder(path.parent) as own:
                yield own / path.name
    finally:
        if held:
            lock.release()


def _acquire(lock: Any, unfinished: Path, say: Say | None) -> bool:
    """Wait for a lock. Return False if its owner makes no progress with the unfinished file."""
    import filelock

    seen, since, waiting = -2, time.monotonic(), False
    while True:
        try:
            lock.acquire(timeout=1 if waiting else 0, poll_interval=0.1)
            return True
        except filelock.Timeout:
            if say and not waiting:
                say(f"{unfinished.name}: another process is downloading it; waiting for that.")
            waiting = True
        size = unfinished.stat().st_size if unfinished.exists() else -1
        if size != seen:
            seen, since = size, time.monotonic()
        elif time.monotonic() - since > PATIENCE_SECONDS:
            return False


def _remove_leftovers(folder: Path) -> None:
    """Remove unfinished files that nobody has continued for two weeks."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if path.suffix != ".lock" and time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                path.unlink()


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """Read an uncompressed answer piece by piece, as it arrives.

    `iter_content` collects whole chunks, and loses the last one if the transfer breaks off.
    """
    read = getattr(response.raw, "read1", None)
    if read is None:
        # urllib3 before version 2.2.
        yield from response.iter_content(CHUNK)
        return
    while chunk := read(CHUNK, decode_content=False):
        yield chunk


def sync_folder(folder: Path) -> None:
    """Flush the names of the files in a folder to the disk, so that a power cut does not undo a move."""
    # Windows cannot open folders, and some file systems cannot flush them.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        text = f"{files.size_text(needed)} are needed, and {files.size_text(free)} are free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {text}")


def _validator(headers: Any) -> str:
    """Return what identifies the version of a file in the head of an answer, or "".

    A weak ETag does not promise that the bytes are equal.
    """
    tag = headers.get("ETag", "").strip()
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "").strip()


def _md5_of(headers: Any) -> str:
    """Return the MD5 of a whole file, in hex, from the header of Google Cloud Storage, where Keras's weights lie."""
    match = re.search(r"\bmd5=([A-Za-z0-9+/]{22}==)", headers.get("x-goog-hash", ""))
    return base64.b64decode(match[1]).hex() if match else ""
