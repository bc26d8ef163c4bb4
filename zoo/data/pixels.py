"""Decodes each picture once with zoo_runtime, and caches the pixels on the disk.

The cache holds one folder for each list of pictures that was decoded together. Such a folder is called a set. It
contains the pixels as one memory-mapped uint8 array. Its name is a digest of the pictures, the image spec and the
versions of the decoder. A later run on the same pictures therefore decodes nothing.

If the disk is full or the cache cannot be written, the pixels are kept in memory, if they are few enough.

Before a set is written, the least recently used sets are deleted until the cache, including the new set, takes at most
8 GiB. A set that is larger than 8 GiB is written too, after all other sets have been deleted.

`zoo.data.sources` finds the pictures.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

import zoo_runtime
from zoo import files
from zoo.data import set_notes
from zoo.data.in_threads import Progress, in_threads
from zoo.data.memory import MappedRows, create, memory_limit
from zoo.data.sources import Picture
from zoo.errors import DataError, UnreadablePictures
from zoo_runtime import MAX_PIXELS, ImageSpec, PictureError, PictureNotFound, PictureTooLarge
from zoo_runtime.workshop import conversion_advice, format_pixels, parse_pixels, versions, with_option_names

BAD_FRACTION = 0.20
CACHE_BYTES = 8 << 30
NAMED_FILES = 5
# Raise it when the same file gives other pixels or another reason than before, so that older sets are not used again.
DECODER = 5
# Endings of formats that can have 16-bit gray levels, and how many of such files are looked at.
DEEP = frozenset((".png", ".tif", ".tiff", ".pgm", ".pnm", ".jp2", ".j2k", ".jpx"))
DEEP_SAMPLE = 64
# What the reason of a picture that is too large says of the option that reads it.
_ENOUGH = re.compile(r"--max-pixels (\S+) reads it")


@dataclass(frozen=True)
class Pixels:
    """Holds the decoded pixels of a list of pictures.

    Args:
        array: A memory-mapped uint8 array (pictures, height, width, channels), values 0..255. Pictures that could not
            be decoded are black.
        digests: The sha256 of each picture, in hex, or "" if the file could not be read.
        bad: Maps the index of each picture that could not be decoded to the reason. The reason starts with the name of
            the error class.
        cached: True if the pixels were already in the cache, False if they have just been decoded.
        key: The name of the set in the cache. It depends on the pictures, their order and the image spec.
    """

    array: np.ndarray
    digests: tuple[str, ...]
    bad: dict[int, str]
    cached: bool
    key: str

    @property
    def usable(self) -> list[int]:
        """The indices of the pictures that could be decoded, ascending."""
        return [i for i in range(len(self.digests)) if i not in self.bad]


class Limits(NamedTuple):
    """Says which pictures are decoded: the largest in pixels of color, and the formats; None means the common ones."""

    max_pixels: int
    formats: tuple[str, ...] | None = None


def load_pixels(
    pictures: Sequence[Picture],
    spec: ImageSpec,
    folder: Path,
    progress: Progress | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] | None = None,
    warn: Callable[[str], None] | None = None,
    name: str = "",
) -> Pixels:
    """Return the pixels of pictures. Pixels that are not in the cache are decoded and cached first.

    If the cache cannot be written and the pixels are few enough, they are kept in memory instead.

    Args:
        pictures: The pictures.
        spec: The image size, the channels and the resizing method.
        folder: The folder of the cache. It is created if it does not exist.
        progress: Called with (pictures decoded, pictures in total) during decoding; None means no calls.
        max_pixels: The largest picture to decode, in pixels of color; see `zoo_runtime.decode`.
        formats: The formats of picture files to read; see `zoo_runtime.decode`. None means the common ones.
        warn: Called with a text if the cache cannot be written; None means no calls.
        name: The name of the data, which the cache notes.

    Returns:
        The pixels of all pictures, and the reason for each picture that could not be decoded.

    Raises:
        DataError: The pixels fit neither on the disk nor in memory, cannot be written to the cache or read back, or a
            file changed while it was read.
    """
    digests = digests_of(pictures)
    limits = Limits(max_pixels, formats)
    place = folder / _key(digests, spec, limits)
    found = _find(place, digests) or _find_usual(folder, digests, spec, limits)
    if found:
        return found
    try:
        try:
            _decode_and_keep(pictures, digests, spec, limits, place, progress, name)
        except FileNotFoundError:
            # Another program has removed the cache meanwhile.
            _decode_and_keep(pictures, digests, spec, limits, place, progress, name)
    except OSError as error:
        return _in_memory(pictures, digests, spec, limits, place, progress, error, warn)
    found = _find(place, digests)
    if found is None:
        raise DataError(
            f"the decoded pictures in {str(place)!r} cannot be read back. Remove that folder and run again."
        )
    return replace(found, cached=False)


def _decode_and_keep(
    pictures: Sequence[Picture],
    digests: Sequence[str],
    spec: ImageSpec,
    limits: Limits,
    place: Path,
    progress: Progress | None,
    name: str,
) -> None:
    """Decode pictures into a new set of the cache.

    Raises:
        DataError: A file has changed since its digest was computed, or can no longer be read.
        OSError: The set cannot be written, or does not fit on the disk.
    """
    folder = place.parent
    shape = (len(pictures), *spec.size, spec.channels)
    _make_room(folder, math.prod(shape))
    with files.scratch_folder(folder) as temporary:
        array = create(temporary / "pixels.npy", shape)
        bad = _decode_all(pictures, digests, spec, limits, array, progress)
        # A set that is moved to its place in the cache must be complete, even after a power cut.
        array.flush()
        # Windows cannot move a file that is mapped.
        del array
        (temporary / "bad.json").write_text(json.dumps(bad), encoding="utf-8")
        set_notes.write(temporary, name, pictures)
        _put(temporary, place, digests)


def _in_memory(
    pictures: Sequence[Picture],
    digests: Sequence[str],
    spec: ImageSpec,
    limits: Limits,
    place: Path,
    progress: Progress | None,
    error: OSError,
    warn: Callable[[str], None] | None,
) -> Pixels:
    """Decode pictures into memory, because the cache cannot be written.

    Raises:
        DataError: The pixels need too much memory.
    """
    shape = (len(pictures), *spec.size, spec.channels)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "Set ZOO_CACHE to a folder " + ("on a larger disk" if full else "that you may write to")
    reason = f"the decoded pictures cannot be written to {str(place.parent)!r}: {error.strerror or error}"
    if math.prod(shape) > memory_limit():
        raise DataError(f"{reason}. {advice}{', or use a smaller --size' if full else ''}.") from error
    if warn:
        warn(f"{reason}. They stay in memory, and the next run decodes them again. To keep them, s{advice[1:]}.")
    array = np.zeros(shape, np.uint8)
    bad = _decode_all(pictures, digests, spec, limits, array, progress)
    array.flags.writeable = False
    return Pixels(array, tuple(digests), bad, cached=False, key=place.name)


def digests_of(pictures: Sequence[Picture]) -> list[str]:
    """Return the sha256 of each picture, in hex, or "" for a picture whose file cannot be read."""
    return in_threads(_digest, pictures)


def highest_level(pictures: Sequence[Picture], max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return the highest level of the pictures with 16-bit gray levels, and how many of these were looked at.

    At most 64 pictures are looked at, spread over the list. Both numbers are 0 if none has 16 bits.

    Args:
        pictures: Pictures that can be decoded.
        max_pixels: The largest picture to decode, as for `load_pixels`.
    """

    def look(path: Path) -> int | None:
        try:
            return zoo_runtime.highest_level(path, max_pixels=max_pixels, formats=["all"])
        except PictureError:
            return None

    paths = [p.content for p in pictures if isinstance(p.content, Path) and p.content.suffix.lower() in DEEP]
    step = max(1, len(paths) // DEEP_SAMPLE)
    found = [level for level in in_threads(look, paths[::step][:DEEP_SAMPLE]) if level is not None]
    return max(found, default=0), len(found)


def check_readable(pictures: Sequence[Picture], bad: Mapping[int, str]) -> None:
    """Check that at most a fifth of the pictures are unreadable.

    Args:
        pictures: All pictures, readable or not.
        bad: Maps the index of each unreadable picture to the reason.

    Raises:
        UnreadablePictures: More than a fifth are unreadable. The message names the first ten.
    """
    if len(bad) > BAD_FRACTION * len(pictures):
        shown = "\n".join(f"  {pictures[i].name}: {_in_plain_words(bad[i])}" for i in sorted(bad)[:10])
        more = f"\n  and {len(bad) - 10} more" if len(bad) > 10 else ""
        converted = conversion_advice({pictures[i].name: "" for i in bad})
        advice = " ".join(filter(None, (converted, size_advice(bad.values()))))
        if all("which was not asked for; --formats " in why for why in bad.values()):
            advice = "Name these formats with --formats too, or leave the option out."
        raise UnreadablePictures(
            f"{len(bad)} of {len(pictures)} pictures cannot be read, more than {BAD_FRACTION:.0%}:\n{shown}{more}\n"
            + (advice or "Repair or remove these files, or check that the path is the right one.")
        )


def left_out_text(bad: Mapping[str, str], total: int | None = None) -> str:
    """Compose a warning about unreadable files that are left out.

    The warning names up to five files and says how many more there are.

    Args:
        bad: Maps the name of each unreadable file to the reason.
        total: The number of all files, readable or not. If None, the warning does not mention it.

    Returns:
        One line, such as "2 of 75 files are left out: a.jpg: the file is empty; b.jpg: ...".
    """
    count = len(bad)
    of_all = f" of {total}" if total is not None else ""
    files_are = "file is" if count == 1 and total in (None, 1) else "files is" if count == 1 else "files are"
    advice = " ".join(filter(None, (conversion_advice(bad), size_advice(bad.values(), fewest=2))))
    return f"{count}{of_all} {files_are} left out: {named_files(bad)}{f'. {advice}' if advice else ''}".rstrip(".")


def named_files(bad: Mapping[str, str]) -> str:
    """Name up to five unreadable files with their reasons in one line, and say how many more there are.

    Args:
        bad: Maps the name of each unreadable file to the reason.
    """
    named = [f"{name}: {_in_plain_words(why).removesuffix('.')}" for name, why in list(bad.items())[:NAMED_FILES]]
    more = [f"and {len(bad) - NAMED_FILES} more"] if len(bad) > NAMED_FILES else []
    return "; ".join(named + more)


def reason_of(error: PictureError) -> str:
    """Return the reason why a picture cannot be read, for lists and messages.

    It starts with the name of the error class, and it names the option --max-pixels if that reads the picture.
    """
    return f"{type(error).__name__}: {with_option_names(str(error))}"


def larger_limit(why: str) -> int | None:
    """Return the value of --max-pixels that reads a picture; None if the picture is not too large.

    Args:
        why: Why the picture cannot be read, as `reason_of` returns it.
    """
    match = _ENOUGH.search(why)
    return parse_pixels(match[1]) if match else None


def size_advice(reasons: Iterable[str], fewest: int = 1) -> str:
    """Return a sentence with the value of --max-pixels that reads all pictures that are too large.

    Args:
        reasons: The reasons of `Pixels.bad`.
        fewest: If fewer pictures are too large, the text is empty, because their reasons say enough.
    """
    limits = [limit for why in reasons if (limit := larger_limit(why)) is not None]
    if len(limits) < fewest or not limits:
        return ""
    too_large = "the picture that is" if len(limits) == 1 else f"the {len(limits)} pictures that are"
    return f"--max-pixels {format_pixels(max(limits))} reads {too_large} too large."


def _in_plain_words(why: str) -> str:
    """Shorten the reason why a picture cannot be read, for messages to the user.

    The name of the error class and the list of supported formats are removed. Only run.json contains them.

    Args:
        why: The reason, as in `Pixels.bad`.
    """
    name, _, text = why.partition(": ")
    text = text if text and name.isidentifier() else why
    # Several such files stand in one line.
    return re.sub(r"(not a picture in a supported format) \(.*\)", r"\1", text)


def _digest(picture: Picture) -> str:
    try:
        return picture.digest()
    except (OSError, ValueError):
        # ValueError: a CSV may contain a path that no file can have, such as one with a null character.
        return ""


def _decode_all(
    pictures: Sequence[Picture],
    digests: Sequence[str],
    spec: ImageSpec,
    limits: Limits,
    array: np.ndarray,
    progress: Progress | None,
) -> dict[int, str]:
    """Decode pictures into an array.

    Args:
        pictures: The pictures.
        digests: The sha256 of each picture, in hex.
        spec: The image size, the channels and the resizing method.
        limits: The largest picture, and the formats to read.
        array: A uint8 array (pictures, height, width, channels) of zeros.
        progress: Called with (pictures decoded, pictures in total); None means no calls.

    Returns:
        A dictionary that maps the index of each picture that cannot be decoded to the reason.

    Raises:
        DataError: A file has changed since its digest was computed, or can no longer be read.
    """
    rows = MappedRows(array)
    bad: dict[int, str] = {}

    def work(index: int) -> None:
        pixels = _decode(pictures[index], digests[index], spec, limits)
        if isinstance(pixels, str):
            bad[index] = pixels
        else:
            array[index] = pixels
            rows.touched(pixels.nbytes)

    in_threads(work, range(len(pictures)), progress)
    return bad


def _decode(picture: Picture, digest: str, spec: ImageSpec, limits: Limits) -> np.ndarray | str:
    """Return the pixels of a picture, or the reason why it cannot be decoded.

    The reason does not contain the path, because a copy of the picture at another path uses the same cache entry.

    Raises:
        DataError: The file has changed since its digest was computed, or can no longer be read. Its pixels must not be
            stored under the old digest.
    """
    try:
        if isinstance(picture.content, np.ndarray):
            return zoo_runtime.decode(picture.content, spec, max_pixels=limits.max_pixels)
        with picture.open() as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                raise DataError(f"{picture.name} changed while it was read. Run again when nothing writes to it.")
            stream.seek(0)
            return zoo_runtime.decode(stream, spec, max_pixels=limits.max_pixels, formats=limits.formats)
    except PictureError as error:
        # The decoder names a stream, whose path it does not know.
        return reason_of(error).replace(": the file given: ", ": ", 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        if digest:
            message = f"{picture.name} could be read a moment ago, but it cannot be read now: {why}. Run again."
            raise DataError(message) from error
        return f"{PictureNotFound.__name__}: it cannot be read: {why}."


def _put(temporary: Path, place: Path, digests: Sequence[str]) -> None:
    """Move the folder of a finished set to its place in the cache, unless the place already holds the same set.

    A damaged set in this place is replaced.
    """
    try:
        os.replace(temporary, place)
    except OSError:
        # Either another process has just put the same pixels there, or a damaged set is in the way.
        if _find(place, digests) is None:
            shutil.rmtree(place, ignore_errors=True)
            os.replace(temporary, place)


def _key(digests: Sequence[str], spec: ImageSpec, limits: Limits) -> str:
    """Return the name of a set. It is a digest.

    The name depends on the pictures, their order, the image spec, the largest picture, the formats, and the versions of
    zoo_runtime, Pillow, libjpeg and, where it is installed, pillow-heif. `DECODER` changes with the rules of the
    decoder.
    """
    installed = versions()
    decoder = [zoo_runtime.__version__, DECODER, *map(installed.get, ("pillow", "libjpeg", "pillow-heif"))]
    text = json.dumps([digests, spec.to_json(), decoder, *(limit for limit in limits if limit is not None)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _find(place: Path, digests: Sequence[str]) -> Pixels | None:
    """Open a set of the cache and update the time of its last use. Return None if the set is missing or damaged."""
    try:
        bad = {int(index): why for index, why in json.loads((place / "bad.json").read_text(encoding="utf-8")).items()}
        array = np.load(place / "pixels.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError, AttributeError):
        return None
    if len(array) != len(digests) or array.dtype != np.uint8:
        return None
    with contextlib.suppress(OSError):
        # The modification time of the folder is the time of its last use. It cannot be set in another user's cache.
        os.utime(place)
    # `zoo cache prune` keeps the set as long as a part of the array is in use.
    files.mark_used(place, array._mmap)
    return Pixels(array, tuple(digests), bad, cached=True, key=place.name)


def _find_usual(folder: Path, digests: Sequence[str], spec: ImageSpec, limits: Limits) -> Pixels | None:
    """Open the set that was decoded with the default limit, if a larger limit changes nothing."""
    if limits.max_pixels <= MAX_PIXELS:
        return None
    found = _find(folder / _key(digests, spec, Limits(MAX_PIXELS, limits.formats)), digests)
    if found is None or any(why.startswith(PictureTooLarge.__name__) for why in found.bad.values()):
        return None
    return found


def _make_room(folder: Path, needed: int) -> None:
    """Delete the least recently used sets until a new set fits on the disk and within the cache's limit of 8 GiB.

    A new set that is larger than the limit is allowed. All other sets are then deleted.

    A set may be deleted while another process uses it. That process can still read the set, and the disk space is freed
    when the process closes the file.

    Args:
        folder: The folder of the cache. It is created if it does not exist.
        needed: The size of the new set in bytes.

    Raises:
        OSError: The new set would not fit on the disk even if all other sets were deleted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cached = files.sets(folder)
    free = shutil.disk_usage(folder).free
    if free + sum(size for _, size, _ in cached) < needed:
        text = f"{files.size_text(needed)} are needed, and {files.size_text(free)} are free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {text}")
    files.make_room(cached, needed, limit=CACHE_BYTES, free=lambda: shutil.disk_usage(folder).free)
