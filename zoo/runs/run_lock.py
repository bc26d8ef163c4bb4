"""Shows which runs a process works on: a lock in the run folder, which opens by itself when the process ends.

A run that is not finished has a folder of safe points, `unfinished`. The lock lies in it, so that a finished run leaves
nothing behind. `zoo.workflow.unfinished` fills the folder.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo import runs
from zoo.errors import RunError, WriteError

LOCK, REQUEST = "process.lock", "request.json"
# How often a lock is tried before another process is said to hold it.
ATTEMPTS = 10
# What a file system answers that cannot lock.
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def folder_of(run: runs.Run) -> Path:
    """Return the folder of safe points in a run folder. It has the file REQUEST as long as the run is not finished."""
    return run.folder / runs.UNFINISHED


def state(run: runs.Run, record: runs.RunRecord) -> str:
    """Return the state of a run.

    Args:
        run: The run folder.
        record: The content of run.json.

    Returns:
        "running": a process works on it.
        "interrupted": its process is gone, and the network is not trained; see `zoo resume`.
        "trained": its process is gone. The network is trained and kept, but the export is not finished.
        "finished": all that was asked for is done.
        Else the status in run.json, such as "failed: " and the error.
    """
    if record.status == "trained" and not (folder_of(run) / REQUEST).is_file():
        return "finished"
    if holder(run) is not None:
        return "running"
    return "interrupted" if record.status == "running" else record.status


def holder(run: runs.Run) -> dict[str, Any] | None:
    """Return the process that works on a run: its `pid`, `host` and `since`. None if there is none."""
    path = folder_of(run) / LOCK
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        if _locked(descriptor, shared=True):
            return None
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads(path.read_text("utf-8")))
        return {}
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def hold(run: runs.Run) -> Iterator[None]:
    """Keep other processes away from a run inside this context.

    If the run has no request at the end, it is finished, or its first files could not be written. The lock is then
    removed.

    Raises:
        RunError: Another process works on the run, or has just finished or removed it.
        WriteError: The run folder cannot be written.
    """
    path = folder_of(run) / LOCK
    runs.check_writable(run)
    try:
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise WriteError(
            f"{str(path)!r} cannot be written: {error.strerror}. zoo needs it to work on the run."
        ) from None
    try:
        if not _lock(descriptor):
            raise RunError(in_use(run))
        if not _is_at(path, descriptor):
            raise RunError(f"{str(run.folder)!r} has just been finished or removed by another process.")
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": runs.now()})
        os.ftruncate(descriptor, 0)
        os.write(descriptor, text.encode())
        try:
            yield
        finally:
            _remove_if_useless(path)
    finally:
        os.close(descriptor)


def _remove_if_useless(path: Path) -> None:
    """Remove a lock, and its folder if that is empty, unless the folder has the request of an unfinished run."""
    # Windows cannot remove the lock while it is open. An open lock without a request means nothing.
    if not (path.parent / REQUEST).exists():
        with contextlib.suppress(OSError):
            path.unlink()
            path.parent.rmdir()


def in_use(run: runs.Run) -> str:
    """Return the message that another process works on a run."""
    facts = holder(run) or {}
    who = f"process {facts['pid']} on {facts['host']} (since {facts['since']})" if facts else "another process"
    return f"{str(run.folder)!r} is in use: {who} works on it. Wait for it, or stop it first."


def _lock(descriptor: int) -> bool:
    """Lock an open file for this process alone; return False if another process holds it."""
    for _ in range(ATTEMPTS):
        if _locked(descriptor, shared=False):
            return True
        # `holder` of another process, such as that of `zoo runs`, locks the file for an instant.
        time.sleep(0.02)
    return False


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _locked(descriptor: int, *, shared: bool) -> bool:
    """Lock an open file; return False if another process holds it. Where files cannot be locked, the answer is True."""
    try:
        if os.name == "nt":
            import msvcrt

            # The first byte would be unreadable for others.
            os.lseek(descriptor, 1 << 20, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in UNSUPPORTED
    return True
