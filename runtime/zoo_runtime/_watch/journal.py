"""Remembers which pictures of a folder were answered, and makes files of answers exact after a crash.

The journal is a SQLite database. One transaction notes the answered pictures together with the rows that are about to
be written. Then the rows are added to their files, and a second transaction forgets them. After a crash in between, the
next start compares the noted rows with the end of each file, and adds the missing ones (a "transactional outbox").
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from .._errors import NotWritten
from .outputs import JsonLines, Table

NAME = ".zoo-watch.db"
_VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS pictures (path BLOB PRIMARY KEY, size INTEGER, changed INTEGER, digest BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pending (file TEXT PRIMARY KEY, position INTEGER, rows BLOB);
"""


@dataclass(frozen=True)
class Entry:
    """What the journal knows about a picture.

    Args:
        path: The path below the folder, as the bytes of the file system.
        size: The size in bytes.
        changed: The time of the last change in nanoseconds.
        digest: The BLAKE2b digest of its content.
    """

    path: bytes
    size: int
    changed: int
    digest: bytes


class Journal:
    """The journal of one folder. Only one process can have it open.

    Args:
        path: The path of the database. It is made if it does not exist.
        files: The files of answers, by a name that stays the same at the next start.

    Raises:
        NotWritten: If the journal cannot be written, is damaged, or is open in another process.
    """

    def __init__(self, path: str, files: Mapping[str, Table | JsonLines]) -> None:
        self.path = path
        self._files = files
        self._start()

    def reopen(self) -> None:
        """Open the journal that is at the path now, and make one if there is none.

        Raises:
            NotWritten: See `Journal`.
        """
        self.close()
        self._start()

    def _start(self) -> None:
        self._file: tuple[int, int] | None = None
        self._open()
        try:
            self._file = self._identity()
            self._recover()
        except BaseException:
            self.close()
            raise

    def is_lost(self) -> bool:
        """Return whether the file was removed or replaced, so that what is noted would be forgotten."""
        return self._file is None or self._identity() != self._file

    def _identity(self) -> tuple[int, int] | None:
        try:
            state = os.stat(self.path)
        except OSError:
            return None
        return state.st_dev, state.st_ino

    def _open(self) -> None:
        try:
            # An absolute path is never one of the names that SQLite treats otherwise, such as ":memory:".
            self._base = sqlite3.connect(os.path.abspath(self.path), timeout=1.0, isolation_level=None)
            self._base.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._base.execute("PRAGMA synchronous = FULL")
            self._base.execute("BEGIN EXCLUSIVE")
            version = self._base.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise NotWritten(f"{self.path}: a newer zoo-runtime made this journal. Give another --journal FILE.")
            for statement in _TABLES.strip().splitlines():
                self._base.execute(statement)
            self._base.execute(f"PRAGMA user_version = {_VERSION}")
            self._base.execute("COMMIT")
        except sqlite3.Error as error:
            raise NotWritten(self._why(error)) from None

    def _why(self, error: sqlite3.Error) -> str:
        text = str(error)
        if "locked" in text:
            return (
                f"{self.path} is in use: another zoo-runtime watches this folder. Stop it, or give this one its own "
                "--journal FILE; it then labels every picture again."
            )
        if "not a database" in text or "malformed" in text:
            return f"{self.path} is damaged: {text}. Remove it; all pictures are then labeled again."
        if "unable to open" in text or "readonly" in text:
            text = self._reason() or text
        return f"{self.path} cannot be written: {text}. `--journal FILE` names another place."

    def _reason(self) -> str | None:
        """Return why the system does not open the file for writing: SQLite does not say it. None if it does open it."""
        if not os.path.isdir(os.path.dirname(os.path.abspath(self.path))):
            return "its folder does not exist"
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644))
        except OSError as error:
            return error.strerror
        return None

    def find(self, path: bytes) -> Entry | None:
        """Return the entry of a picture.

        Raises:
            NotWritten: If the journal is damaged.
        """
        try:
            found = self._base.execute(
                "SELECT path, size, changed, digest FROM pictures WHERE path = ?", (path,)
            ).fetchone()
        except sqlite3.Error as error:
            raise NotWritten(self._why(error)) from None
        return Entry(*found) if found else None

    def note(self, entries: Sequence[Entry], rows: Mapping[str, bytes]) -> None:
        """Note pictures as answered, and add their rows to the files: all of it or, after a crash, at the next start.

        Args:
            entries: The pictures.
            rows: For each file, the bytes to add.

        Raises:
            NotWritten: If the journal or a file cannot be written.
        """
        try:
            self._base.execute("BEGIN")
            self._base.executemany(
                "INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?)",
                [(each.path, each.size, each.changed, each.digest) for each in entries],
            )
            for name, data in rows.items():
                self._files[name].follow()
                position = self._files[name].size()
                self._base.execute("INSERT OR REPLACE INTO pending VALUES (?, ?, ?)", (name, position, data))
            self._base.execute("COMMIT")
            for name, data in rows.items():
                self._files[name].append(data, sync=True)
            self._forget(rows)
        except sqlite3.Error as error:
            raise NotWritten(self._why(error)) from None

    def _forget(self, names: Mapping[str, object]) -> None:
        if names:
            self._base.execute("BEGIN")
            self._base.executemany("DELETE FROM pending WHERE file = ?", [(name,) for name in names])
            self._base.execute("COMMIT")

    def _recover(self) -> None:
        """Add the rows that were noted, but had not reached their file."""
        try:
            for name, position, data in self._base.execute("SELECT file, position, rows FROM pending").fetchall():
                if name not in self._files:
                    # They wait until this file is given again.
                    continue
                file = self._files[name]
                # Each row has a time and a path, so that no two are equal. A row that was cut off is gone already.
                there = set(file.read(position, max(0, file.size() - position)).splitlines(keepends=True))
                missing = b"".join(line for line in data.splitlines(keepends=True) if line not in there)
                file.append(missing, sync=True)
                self._forget({name: None})
        except sqlite3.Error as error:
            raise NotWritten(self._why(error)) from None

    def close(self) -> None:
        """Close the database."""
        with suppress(sqlite3.Error):
            self._base.close()


def name_of(path: str) -> str:
    """Return the name under which the journal knows a file of answers."""
    return os.path.abspath(path).encode("utf-8", "backslashreplace").decode()
