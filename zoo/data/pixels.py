"""Every picture decoded once, by zoo_runtime's decoder, into a memory-mapped uint8 cache on disk.

The cache is keyed by the digests of the pictures, the image spec and the decoder's version, so that a second run over
the same pictures decodes nothing. It is bounded: the least recently used sets give way.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import mmap
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import zoo_runtime
from zoo import files
from zoo.data.sources import Picture
from zoo.errors import DataError, UnreadablePictures
from zoo_runtime import ImageSpec, PictureError, PictureNotFound

BAD_FRACTION = 0.20
CACHE_BYTES = 8 << 30
CHUNK = 32
# Read or written pages of a mapped file count as the process's memory until they are given back.
RELEASED_BYTES = 128 << 20
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Pixels:
    """Decoded pictures of a source.

    Args:
        array: uint8 array (pictures, height, width, channels), values 0..255, memory-mapped; rows of pictures that
            could not be decoded are black.
        digests: sha256 of each picture, hex; empty where the file could not be read.
        bad: Index of each picture that could not be decoded -> why, beginning with the name of the error.
        cached: Whether an earlier run had decoded them.
        key: Tells these pixels, in their order, from all others.
    """

    array: np.ndarray
    digests: tuple[str, ...]
    bad: dict[int, str]
    cached: bool
    key: str

    @property
    def usable(self) -> list[int]:
        """Indices of the pictures that could be decoded."""
        return [i for i in range(len(self.digests)) if i not in self.bad]


def load_pixels(pictures: Sequence[Picture], spec: ImageSpec, folder: Path, progress: Progress | None = None) -> Pixels:
    """Decode pictures, or find them decoded.

    Args:
        pictures: What to decode.
        spec: Size, channels and way of resizing.
        folder: Where the cache lives.
        progress: Called with (pictures done, pictures in all).

    Returns:
        The pixels.

    Raises:
        DataError: The cache cannot be written, the disk is too small, or a file changed meanwhile.
    """
    digests = digests_of(pictures)
    place = folder / _key(digests, spec)
    found = _find(place, digests)
    if found:
        return found
    try:
        _make_room(folder, len(pictures) * math.prod(spec.size) * spec.channels)
        with files.scratch_folder(folder) as temporary:
            bad = _decode_all(pictures, digests, spec, temporary / "pixels.npy", progress)
            (temporary / "bad.json").write_text(json.dumps(bad), encoding="utf-8")
            _put(temporary, place, digests)
    except OSError as error:
        raise DataError(
            f"the decoded pictures cannot be written to {str(folder)!r}: {error.strerror or error}. "
            "Point ZOO_CACHE to a folder that can be written."
        ) from error
    found = _find(place, digests)
    if found is None:
        raise DataError(f"the decoded pictures in {str(place)!r} cannot be read back; remove that folder.")
    return replace(found, cached=False)


class MappedRows:
    """Rows of a memory-mapped array, whose pages are given back after every 128 MB, so that memory stays bounded.

    Args:
        array: (rows, ...), mapped or not.
    """

    def __init__(self, array: np.ndarray):
        self._array, self._touched = array, 0

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """A copy of some rows: array (len(rows), ...)."""
        values = self._array[rows]
        self.touched(values.nbytes)
        return values

    def touched(self, count: int) -> None:
        """Note that so many bytes were read or written."""
        self._touched += count
        mapped = getattr(self._array, "_mmap", None)
        if self._touched < RELEASED_BYTES or not hasattr(mapped, "madvise"):
            return
        self._touched = 0
        # What was written stays in the system's cache of the file, and gets to the disk from there.
        mapped.madvise(mmap.MADV_DONTNEED)


def digests_of(pictures: Sequence[Picture]) -> list[str]:
    """sha256 of each picture, hex; empty where the file cannot be read."""
    return _in_threads(_digest, pictures)


def check_readable(pictures: Sequence[Picture], bad: Mapping[int, str]) -> None:
    """Raise UnreadablePictures if more than a fifth of the pictures are bad (index -> why), naming the first few."""
    if len(bad) > BAD_FRACTION * len(pictures):
        shown = "\n".join(f"  {pictures[i].name}: {bad[i]}" for i in sorted(bad)[:10])
        more = f"\n  and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise UnreadablePictures(
            f"{len(bad)} of {len(pictures)} pictures cannot be read, more than {BAD_FRACTION:.0%}:\n{shown}{more}\n"
            "Repair or remove them, or check that the path is the right one."
        )


def _in_threads(work: Callable[[Any], Any], items: Sequence[Any], progress: Progress | None = None) -> list[Any]:
    """Apply a function to every item; results in order.

    A thread takes many items at a time: handing over one by one costs a fifth of the speed on photographs, and more
    than half on pictures as small as MNIST's.
    """
    workers = os.cpu_count() or 1
    length = max(1, min(CHUNK, len(items) // (4 * workers)))
    chunks = [items[start : start + length] for start in range(0, len(items), length)]
    results: list[Any] = []
    with ThreadPoolExecutor(workers) as pool:
        # An exception ends `map`, which calls off what has not begun: Ctrl-C does not wait for all that is left.
        for part in pool.map(lambda chunk: [work(item) for item in chunk], chunks):
            results += part
            if progress:
                progress(len(results), len(items))
    return results


def _digest(picture: Picture) -> str:
    try:
        return picture.digest()
    except (OSError, ValueError):
        # ValueError: a CSV may name a path that no file can have.
        return ""


def _decode_all(
    pictures: Sequence[Picture], digests: Sequence[str], spec: ImageSpec, path: Path, progress: Progress | None
) -> dict[int, str]:
    """Decode pictures into an .npy file; return index -> why, of those that cannot be decoded."""
    array = _create(path, (len(pictures), *spec.size, spec.channels))
    rows = MappedRows(array)
    bad: dict[int, str] = {}

    def work(index: int) -> None:
        pixels = _decode(pictures[index], digests[index], spec)
        if isinstance(pixels, str):
            bad[index] = pixels
        else:
            array[index] = pixels
            rows.touched(pixels.nbytes)

    _in_threads(work, range(len(pictures)), progress)
    # A set that is in its place must be whole, after a power cut too.
    array.flush()
    return bad


def _decode(picture: Picture, digest: str, spec: ImageSpec) -> np.ndarray | str:
    """Return the pixels, or why there are none: without the path, for the cache is also found from another one.

    Raises:
        DataError: A file whose digest was taken is another now, or cannot be read any more. What was decoded must not
            be kept under the digest of what it was.
    """
    try:
        if not isinstance(picture.content, Path):
            return zoo_runtime.decode(picture.content, spec)
        with picture.open() as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                raise DataError(f"{picture.name} was changed while it was read. Run again when nothing writes there.")
            stream.seek(0)
            return zoo_runtime.decode(stream, spec)
    except PictureError as error:
        return f"{type(error).__name__}: {error}"
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        if digest:
            raise DataError(f"{picture.name} could be read a moment ago and cannot now: {why}. Run again.") from error
        return f"{PictureNotFound.__name__}: it cannot be read: {why}."


def _create(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Create a memory-mapped uint8 array whose every byte has its place on the disk.

    Raises:
        OSError: The disk is full. Found out while writing to the map, that would kill the process (SIGBUS).
    """
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as stream:
            try:
                os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
            except OSError as error:
                # Some file systems cannot promise space.
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
    return array


def _put(temporary: Path, place: Path, digests: Sequence[str]) -> None:
    try:
        os.replace(temporary, place)
    except OSError:
        # Either another run has just put the same pictures there, or a damaged set is in the way.
        if _find(place, digests) is None:
            shutil.rmtree(place, ignore_errors=True)
            os.replace(temporary, place)


def _key(digests: Sequence[str], spec: ImageSpec) -> str:
    versions = zoo_runtime.versions()
    decoder = [zoo_runtime.__version__, versions["pillow"], versions["libjpeg"]]
    text = json.dumps([digests, spec.to_json(), decoder])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _find(place: Path, digests: Sequence[str]) -> Pixels | None:
    try:
        bad = {int(index): why for index, why in json.loads((place / "bad.json").read_text(encoding="utf-8")).items()}
        array = np.load(place / "pixels.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError, AttributeError):
        return None
    if len(array) != len(digests) or array.dtype != np.uint8:
        return None
    with contextlib.suppress(OSError):
        # Marks the set as used; not allowed where the cache belongs to another user.
        os.utime(place)
    return Pixels(array, tuple(digests), bad, cached=True, key=place.name)


def _make_room(folder: Path, wanted: int) -> None:
    """Remove the least recently used sets until `wanted` bytes more fit the bound and the disk.

    A set that another run has mapped may go too: its pages stay until that run lets go of them.

    Raises:
        DataError: They would not fit the disk even then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sets = files.sets(folder)
    held = sum(size for _, size, _ in sets)
    if shutil.disk_usage(folder).free + held < wanted:
        raise DataError(
            f"the decoded pictures need {files.size_text(wanted)} and {str(folder)!r} has "
            f"{files.size_text(shutil.disk_usage(folder).free)} free. "
            "Point ZOO_CACHE to a larger disk, or use a smaller --size."
        )
    while sets and (held + wanted > CACHE_BYTES or shutil.disk_usage(folder).free < wanted):
        _, size, oldest = sets.pop()
        held -= size
        files.evict(oldest)
