"""Reads the pictures of a shard one after the other: files, members of a tar file, or cells of a Parquet file.

Nothing is decoded here. What cannot be read becomes an error in the place of the picture, so that none is lost.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

from zoo.archives import tar
from zoo.archives.scoring import printable
from zoo.archives.sources import Shard
from zoo.archives.stores import Disk, Store, is_address, store_of
from zoo.errors import DamagedArchive, DataLayout, DataNotFound
from zoo_runtime import SUFFIXES, NotAPicture, PictureError, PictureNotFound

LARGEST = tar.LARGEST
# How many files of an object store are read ahead, because each of them has to be waited for.
AHEAD = 16
# Pictures are taken from Parquet files so many at a time, through buffers of so many bytes.
CELLS, BUFFER_BYTES = 16, 1 << 20


class Picture(NamedTuple):
    """A picture that is to be scored.

    Args:
        name: Its name in the answers; no other picture of the archive has the same.
        source: Its path, the bytes of its file, or the error that kept it from being read.
    """

    name: str
    source: str | bytes | PictureError


def pictures_of(shard: Shard, column: str | None = None) -> Iterator[Picture]:
    """Yield the pictures of a shard, in their order.

    Args:
        shard: The shard.
        column: The column of a Parquet file that holds the pictures; None finds it.

    Raises:
        DamagedArchive: The archive is truncated or damaged. The pictures that were yielded before are good.
        DataLayout: A Parquet file has no column of pictures, or several.
        OSError: The store cannot be read now; trying again may help.
    """
    store = store_of(shard.root)
    if shard.kind == "tar":
        yield from _in_tar(shard, store)
    elif shard.kind == "parquet":
        yield from _in_parquet(shard, store, column)
    elif isinstance(store, Disk):
        for path in shard.paths:
            yield Picture(path, path)
    else:
        yield from _in_store(shard, store)


@contextlib.contextmanager
def unchanged(shard: Shard) -> Iterator[None]:
    """Check that files of this machine stay as they are while they are scored, because their rows are final.

    Raises:
        DataNotFound: The archive or the folder cannot be reached from this machine. Or an archive was written to: what
            seems to be damage may only be what is not written yet. Or pictures are gone that were there when the folder
            was listed, because a disk was lost for example.
    """
    if is_address(shard.root):
        yield
        return
    if not os.path.exists(shard.root):
        import socket

        raise DataNotFound(
            f"{shard.root!r} does not exist on the machine {socket.gethostname()}. All machines of a cluster must see "
            "the pictures at the same path: use a shared folder, or an object store such as s3://."
        )
    _refuse_lost(shard.paths)
    disk = Disk()
    before = "" if shard.paths else disk.entry(shard.root).stamp
    yield
    _refuse_lost(shard.paths)
    if before and disk.entry(shard.root).stamp != before:
        raise DataNotFound(f"{shard.root!r} was changed while it was read. Give the command again when it is finished.")


def _refuse_lost(paths: Sequence[str]) -> None:
    lost = [path for path in paths if not os.path.lexists(path)]
    if lost:
        raise DataNotFound(
            f"{len(lost)} of {len(paths)} pictures are gone since the folder was listed, such as {lost[0]!r}. Check "
            "the disk, and give the command again."
        )


def _in_store(shard: Shard, store: Store) -> Iterator[Picture]:
    """Read the files of an object store, several at a time."""

    def read(path: str) -> Picture:
        try:
            with store.open(path) as stream:
                content = tar.read_fully(stream, LARGEST + 1)
        except FileNotFoundError:
            return Picture(path, PictureNotFound(f"{path}: it was there when the folder was listed, and is gone."))
        if len(content) > LARGEST:
            return Picture(path, NotAPicture(f"{path}: has more than 1 GiB, which no picture has."))
        return Picture(path, content)

    paths = iter(shard.paths)
    with ThreadPoolExecutor(AHEAD) as pool:
        waiting = deque(pool.submit(read, path) for path in islice(paths, AHEAD))
        try:
            while waiting:
                picture = waiting.popleft().result()
                waiting.extend(pool.submit(read, path) for path in islice(paths, 1))
                yield picture
        finally:
            for future in waiting:
                future.cancel()


class _Pictures(tar.Wanted):
    """Wants the members whose names end as those of pictures, except hidden ones such as ._1.jpg of macOS."""

    def __call__(self, name: str) -> bool:
        base = name.rpartition("/")[2]
        return not base.startswith(".") and os.path.splitext(base)[1].lower() in SUFFIXES


def _in_tar(shard: Shard, store: Store) -> Iterator[Picture]:
    seen: Counter[str] = Counter()
    with store.open(shard.root) as stream:
        for member in tar.members(stream, _Pictures()):
            # Two names of different bytes may be the same in the answers.
            shown = printable(member.name)
            seen[shown] += 1
            again = f"#{seen[shown]}" if seen[shown] > 1 else ""
            name = f"{shard.root}/{member.name}{again}"
            yield Picture(name, NotAPicture(f"{name}: {member.problem}") if member.content is None else member.content)


def _in_parquet(shard: Shard, store: Store, column: str | None) -> Iterator[Picture]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataLayout("zoo reads Parquet through pyarrow, which is not installed: pip install pyarrow") from None
    with store.open_anywhere(shard.root) as opened:
        stream = _Watched(opened)
        row = 0
        try:
            file = pyarrow.parquet.ParquetFile(stream, pre_buffer=False, buffer_size=BUFFER_BYTES)
            chosen = column_of(file.schema_arrow, shard.root, column)
            for batch in file.iter_batches(batch_size=CELLS, columns=[chosen], use_threads=False):
                for cell in batch.column(batch.schema.get_field_index(chosen)):
                    name = f"{shard.root}#{row}"
                    yield Picture(name, _cell(name, cell.as_py()))
                    row += 1
        except (pyarrow.ArrowException, OSError) as error:
            if stream.problem is not None:
                raise stream.problem from None
            raise DamagedArchive(f"it cannot be read as Parquet after row {row}: {_line(error)}.") from None


class _Watched:
    """A stream that keeps the error of a disk or a network. pyarrow raises the same kinds if a file is damaged.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.problem: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        """Read as the stream does."""
        try:
            return self._stream.read(size)
        except Exception as error:
            self.problem = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def column_of(schema: Any, path: str, column: str | None) -> str:
    """Return the column of a Parquet file that holds pictures.

    Args:
        schema: The schema of the file, of pyarrow.
        path: The path of the file, for messages.
        column: The column that the user chose; None takes the only one of bytes, or the one called `image`.

    Raises:
        DataLayout: There is no such column, or there are several.
    """
    able = [field.name for field in schema if _holds_bytes(field.type)]
    twice = {name for name in able if schema.names.count(name) > 1}
    if twice and (column in twice or column is None):
        raise DataLayout(f"{path!r} has several columns called {min(twice)!r}. Write it again with different names.")
    if column is not None and column in able:
        return column
    if column is None and (len(able) == 1 or "image" in able):
        return "image" if "image" in able else able[0]
    which = f"Columns of bytes: {', '.join(able)}." if able else f"It has {', '.join(schema.names[:12])}."
    if column is not None:
        raise DataLayout(f"{path!r} has no column {column!r} with the bytes of pictures. {which}")
    if able:
        raise DataLayout(f"{path!r} has several columns of bytes. Choose one: --column {able[0]}. {which}")
    raise DataLayout(f"{path!r} has no column with the bytes of pictures. {which} Leave this file out of the source.")


def _holds_bytes(kind: Any) -> bool:
    """Return whether a column has bytes, also as categories, or in structs as the package `datasets` writes them."""
    from pyarrow import types

    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if types.is_dictionary(kind):
        kind = kind.value_type
    return any(is_so(kind) for is_so in (types.is_binary, types.is_large_binary, types.is_binary_view))


def _cell(name: str, value: Any) -> bytes | PictureError:
    """Return the picture in a cell: its bytes, also inside a struct, as the package `datasets` writes them."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, bytes):
        return content if len(content) <= LARGEST else NotAPicture(f"{name}: has more than 1 GiB, as no picture has.")
    return NotAPicture(f"{name}: the cell is empty.")


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
