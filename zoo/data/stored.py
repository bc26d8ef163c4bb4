"""Reads picture files that a table contains, such as the image column of a Parquet file, one at a time.

The files of such a table are compressed together, so that no single one can be read alone. They are unpacked once per
process, in the order of the table, into a temporary file on the disk of the cache. Memory therefore stays flat,
whatever the size of the table. `zoo.data.columnar` finds the tables.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from array import array
from collections.abc import Callable, Iterable
from typing import IO

from zoo import files
from zoo.errors import DataError

NOTHING = -1


class PictureStore:
    """Holds the picture files of one column of a table, and unpacks them when the first one is read.

    Args:
        name: The path of the table, for messages.
        contents: Returns the bytes of each picture file in order, or None for a row without a picture. It is called
            once.
    """

    def __init__(self, name: str, contents: Callable[[], Iterable[bytes | memoryview | None]]):
        self._name, self._contents = name, contents
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._starts, self._sizes = array("q"), array("q")

    def read(self, row: int) -> bytes:
        """Return the bytes of the picture file of a row. Several threads may call this method at the same time.

        Raises:
            OSError: The row has no picture.
            DataError: The table cannot be read, or its pictures do not fit on the disk of the cache.
        """
        with self._lock:
            if self._file is None:
                self._file = self._unpack()
            if self._sizes[row] == NOTHING:
                raise OSError(f"the table has no picture in row {row + 1}")
            self._file.seek(self._starts[row])
            return self._file.read(self._sizes[row])

    def _unpack(self) -> IO[bytes]:
        folder = files.cache()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # The operating system removes the file when the process ends, however it ends.
            unpacked = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        except OSError as error:
            raise DataError(
                f"the pictures of {self._name!r} cannot be unpacked into {str(folder)!r}: {error.strerror or error}. "
                "Set ZOO_CACHE to a folder that you may write to."
            ) from error
        starts, sizes, end = array("q"), array("q"), 0
        try:
            for content in self._contents():
                starts.append(end)
                sizes.append(NOTHING if content is None else len(content))
                if content is not None:
                    end += unpacked.write(content)
            unpacked.flush()
        except OSError as error:
            unpacked.close()
            raise DataError(
                f"the pictures of {self._name!r} cannot be unpacked into {str(folder)!r}: {error.strerror or error}. "
                "They need as much space there as the table. Set ZOO_CACHE to a folder on a larger disk."
            ) from error
        self._starts, self._sizes = starts, sizes
        weakref.finalize(self, unpacked.close)
        return unpacked


class StoredPicture:
    """Refers to a picture file inside a table.

    `zoo_runtime.decode` accepts it like an open file: `read` returns the whole content. Unlike an open file, it has no
    position, so it can be read again.

    Args:
        store: The pictures of the table.
        row: The row of the picture, counted from 0.
        suffix: The ending of a file with this content, such as ".png". "" if it is not known.
    """

    __slots__ = ("_row", "_store", "suffix")

    def __init__(self, store: PictureStore, row: int, suffix: str = ""):
        self._store, self._row, self.suffix = store, row, suffix

    def read(self) -> bytes:
        """Return the bytes of the picture file.

        Raises:
            OSError: The row has no picture.
            DataError: The table cannot be read, or its pictures do not fit on the disk of the cache.
        """
        return self._store.read(self._row)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(row={self._row}, suffix={os.fspath(self.suffix)!r})"
