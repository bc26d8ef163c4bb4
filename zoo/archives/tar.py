"""Reads the files in a tar archive from front to back, as bytes. Nothing is ever extracted to the disk.

Archives may come from anywhere: names with `..`, links, devices, headers that announce huge sizes, and compressed
files that grow a thousandfold. What a header says is therefore never believed further than `LARGEST`, and nothing is
read into memory before its size is known. The layout of a header is that of POSIX 1003.1 (pax) and of GNU tar;
`tarfile` of the standard library parses the 512 bytes.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from zoo.errors import DamagedArchive

BLOCK = tarfile.BLOCKSIZE
LARGEST = 2**30
"""The largest file that is taken for a picture, in bytes."""

# The largest header of names, in bytes: paths have at most a few thousand.
_LARGEST_HEADER = 2**20
_PIECE = 2**20
# What is unpacked without a look at how well it was compressed, in bytes, and the greatest ratio after that.
_FREE, _RATIO = 2**30, 100
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
# Headers that say more about the file after them.
_OF_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
# These have no content, whatever size their header says.
_EMPTY = (*_LINKS, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
# How files begin that are compressed in ways that zoo does not read.
_OTHERS = {
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7-zip",
}
# Where a header of GNU's sparse files, and a block after it, says whether another block follows.
_MORE, _MORE_AGAIN = 482, 504


class Member(NamedTuple):
    """A file in an archive.

    Args:
        name: Its name, as the archive has it.
        content: Its bytes; None if they are not there.
        problem: Why there are none. Empty if there are, or if the file was not wanted.
    """

    name: str
    content: bytes | None
    problem: str = ""


def members(stream: BinaryIO, wanted: Wanted) -> Iterator[Member]:
    """Yield the files of a tar archive that are wanted, in their order.

    Args:
        stream: The archive, which may be compressed by gzip. It is only read forward.
        wanted: Says by its name whether a file is wanted.

    Raises:
        DamagedArchive: The archive is truncated or damaged, or grows too much. What was yielded before is good.
        OSError: The archive cannot be read, for another reason than its content.
    """
    source = _Source(stream)
    long_name, pax, end = "", {}, 0
    while end < 2:
        block = source.take(BLOCK)
        if not block:
            raise DamagedArchive("its end is missing, so it may have been cut off.")
        if block.count(0) == BLOCK:
            end += 1
            continue
        if end:
            # A lone block of zeros ends an archive too, as GNU tar has it.
            return
        header = _header(block, first=source.taken == len(block))
        if header.type in _OF_NAMES:
            content = source.small(header.size)
            if header.type == tarfile.GNUTYPE_LONGNAME:
                long_name = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif header.type != tarfile.GNUTYPE_LONGLINK:
                pax = _pax(content)
            continue
        name = pax.get("GNU.sparse.name") or pax.get("path") or long_name or header.name
        size = _size(pax.get("size"), header.size)
        sparse = header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in pax)
        long_name, pax = "", {}
        if header.type == tarfile.GNUTYPE_SPARSE:
            source.skip_map(block)
        is_old_folder = header.type == tarfile.AREGTYPE and name.endswith("/")
        is_file = header.type in (*_REGULAR, tarfile.GNUTYPE_SPARSE) and not is_old_folder
        if header.type in _LINKS and wanted(name):
            yield Member(name, None, "is a link to another file of the archive, and holds no picture itself.")
        if header.type in _EMPTY:
            continue
        if not is_file or not wanted(name):
            source.skip(size)
        elif sparse or size > LARGEST:
            source.skip(size)
            why = (
                "is stored as a sparse file." if sparse else f"has {size:,} bytes, and no picture has more than 1 GiB."
            )
            yield Member(name, None, why)
        else:
            content = source.whole(size, name)
            source.skip_padding(size)
            yield Member(name, content)


class Wanted:
    """Says which files of an archive are wanted; a subclass overrides `__call__`."""

    def __call__(self, name: str) -> bool:
        return True


def _header(block: bytes, first: bool) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        for beginning, program in _OTHERS.items():
            if first and block.startswith(beginning):
                raise DamagedArchive(
                    f"it is packed by {program}, and zoo reads tar files that are packed by gzip or not at all."
                ) from None
        if len(block) < BLOCK:
            raise DamagedArchive("it ends in the middle of a header, so it was cut off.") from None
        raise DamagedArchive(f"a header is damaged ({error}).") from None
    if header.size < 0:
        raise DamagedArchive("a header announces a size below zero.")
    return header


def _size(text: str | None, size: int) -> int:
    """Return the size of a file: that of its pax header, if it has one. Sizes of 8 GiB and more are only there."""
    if text is None:
        return size
    if not text.isdecimal() or len(text) > 19:
        raise DamagedArchive(f"a header announces the size {text[:40]!r}.")
    return int(text)


def _pax(content: bytes) -> dict[str, str]:
    """Parse the records of a pax header, each "LENGTH KEY=VALUE" and a line break."""
    records: dict[str, str] = {}
    place = 0
    while place < len(content) and content[place] != 0:
        space = content.find(b" ", place, place + 21)
        digits = content[place:space] if space > place else b""
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = content[space + 1 : place + length - 1].partition(b"=")
        if not equals or length < 5 or place + length > len(content):
            raise DamagedArchive("a pax header is damaged.")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        place += length
    return records


class _Source:
    """Reads the bytes of an archive forward, and unpacks them if they are compressed."""

    def __init__(self, stream: BinaryIO) -> None:
        first = read_fully(stream, 2)
        self._packed = _Counted(stream, first)
        self._is_packed = first == b"\x1f\x8b"
        self._stream: BinaryIO = (
            gzip.GzipFile(fileobj=self._packed, mode="rb") if self._is_packed else self._packed  # type: ignore[assignment]
        )
        self.taken = 0

    def take(self, size: int) -> bytes:
        """Read up to `size` bytes; fewer only at the end of the archive."""
        pieces = []
        while size:
            try:
                piece = self._stream.read(min(size, _PIECE))
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise DamagedArchive(f"its compressed content is cut off or damaged ({error}).") from None
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
            self.taken += len(piece)
            if self._is_packed and self.taken > _FREE and self.taken > _RATIO * self._packed.count:
                raise DamagedArchive(f"it grows to more than {_RATIO} times its size, as no archive of pictures does.")
        return b"".join(pieces)

    def small(self, size: int) -> bytes:
        """Read a header of names with its padding."""
        if size > _LARGEST_HEADER:
            raise DamagedArchive(f"a header of names announces {size:,} bytes.")
        content = self.whole(size, "a header of names")
        self.skip_padding(size)
        return content

    def whole(self, size: int, name: str) -> bytes:
        """Read exactly `size` bytes."""
        content = self.take(size)
        if len(content) < size:
            raise DamagedArchive(f"it ends in the middle of {name!r}, so it was cut off.")
        return content

    def skip(self, size: int) -> None:
        """Read over the content of a file and its padding, piece by piece."""
        left = size
        while left:
            piece = self.take(min(left, _PIECE))
            if not piece:
                raise DamagedArchive("it ends in the middle of a file, so it was cut off.")
            left -= len(piece)
        self.skip_padding(size)

    def skip_padding(self, size: int) -> None:
        self.take(-size % BLOCK)

    def skip_map(self, header: bytes) -> None:
        """Read over the blocks after the header of a sparse file that say where its holes are."""
        more = header[_MORE]
        while more:
            block = self.take(BLOCK)
            if len(block) < BLOCK:
                raise DamagedArchive("it ends in the middle of a header, so it was cut off.")
            more = block[_MORE_AGAIN]


def read_fully(stream: BinaryIO, size: int) -> bytes:
    """Read `size` bytes, or fewer at the end. Streams of servers return less at a time."""
    pieces = []
    while size and (piece := stream.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


class _Counted(io.RawIOBase):
    """Reads a stream whose first bytes were read before, and counts the bytes."""

    def __init__(self, stream: BinaryIO, first: bytes) -> None:
        self._stream, self._first = stream, first
        self.count = len(first)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._first:
            piece, self._first = self._first[:size], self._first[size:]
            return piece
        piece = read_fully(self._stream, size) if size >= 0 else self._stream.read()
        self.count += len(piece)
        return piece
