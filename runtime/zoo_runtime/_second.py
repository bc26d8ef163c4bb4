"""Finds the second file of an exported file, `model.bin` of an OpenVINO model, and replaces both as if they were one.

`model.xml` states the SHA-256 of its weights. While the two files are replaced, the weights of the old and of the new
file also lie in the folder under names that hold this digest, such as `model.0a1b2c3d4e5f6071.bin`, and these names
count first. So the exchange is the one rename of `model.xml`, whose weights are there before and after it:

1. The new weights are copied to their name with the digest, and flushed to the disk. `_update` then checks the copy.
2. The present weights, and those before them, get their names with the digest too.
3. `_update` exchanges `model.xml`.
4. `model.bin` and `model.previous.bin` are replaced, each by a rename. Then the names with digests are removed.

If a step is not reached, the next update or rollback makes up for it. Files of other engines are single files, and
nothing here happens.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable

from ._engine import companion_of, engine_of
from ._sidecars import Place

_STATED = re.compile(rb'<zoo\.weights_sha256 value="(?:&quot;)?([0-9a-f]{64})(?:&quot;)?"')
_NAMED = re.compile(r"model\.[0-9a-f]{16}\.bin(\.part)?")
_MOST_XML = 64 * 2**20

Copy = Callable[[str, str], None]


def weights_of(path: str, xml: bytes | None = None) -> str:
    """Return the path of the second file of an exported file.

    Args:
        path: Path of the exported file, whose engine has second files.
        xml: Its content. None reads it.
    """
    digest = _digest_in(path) if xml is None else _stated(xml)
    if digest is not None:
        named = _named(path, digest)
        if os.path.isfile(named):
            return named
    return companion_of(path) or path


def bring(place: Place, incoming: str, source: str, copy: Copy) -> None:
    """Copy the second file of a new file into the folder of a device, under its name with the digest.

    Args:
        place: The folder.
        incoming: Path of the copy of the new file, in the folder.
        source: Path of the new file.
        copy: Copies a file, and flushes the copy to the disk.

    Raises:
        CorruptModel: If the file does not state the digest of its second file, or states another one.
        ModelNotFound: If the second file cannot be read.
    """
    from ._errors import CorruptModel

    if not _has_second(place):
        return
    digest = _digest_in(incoming)
    if digest is None:
        raise CorruptModel(
            f"{source!r} does not state which weights belong to it, so it cannot be installed safely. Export it again."
        )
    named = _named(incoming, digest)
    second = weights_of(source)
    copy(second, f"{named}.part")
    if _sha256(f"{named}.part") != digest:
        _remove(f"{named}.part")
        raise CorruptModel(
            f"{second!r} does not belong to {source!r}: one of the two is from another export, or damaged. Copy both "
            "files again."
        )
    os.replace(f"{named}.part", named)


def keep(place: Place, duplicate: Copy) -> None:
    """Give the weights of the present file, and of the one before it, their names with the digest.

    Args:
        place: The folder.
        duplicate: Gives a file a second name.
    """
    if not _has_second(place):
        return
    for name in (place.current, place.previous):
        path = os.path.join(place, name)
        digest, beside = _digest_in(path), companion_of(path) or path
        # What is damaged must not get a name that promises its content.
        if digest is not None and not os.path.exists(_named(path, digest)) and _sha256(beside) == digest:
            duplicate(beside, _named(path, digest))


def settle(place: Place, duplicate: Copy) -> None:
    """Put the weights of both files beside them, under their usual names, and remove the names with digests.

    Args:
        place: The folder. Its exported files have their final names.
        duplicate: Gives a file a second name.
    """
    if not _has_second(place):
        return
    for name in (place.current, place.previous):
        path = os.path.join(place, name)
        beside, digest = companion_of(path) or path, _digest_in(path)
        named = _named(path, digest) if digest is not None else ""
        if digest is not None and os.path.isfile(named) and not _same(named, beside):
            _remove(f"{beside}.part")
            duplicate(named, f"{beside}.part")
            os.replace(f"{beside}.part", beside)
            # os.replace does nothing if both are names of one file.
            _remove(f"{beside}.part")
            # Its signature was that of other weights. That of model.xml covers both files.
            _remove(f"{beside}.sig")
        if not os.path.exists(path):
            _remove(beside)
    for name in os.listdir(place):
        if _NAMED.fullmatch(name):
            _remove(os.path.join(place, name))


def _has_second(place: Place) -> bool:
    return engine_of(place.current).companion is not None


def _named(path: str, digest: str) -> str:
    return os.path.join(os.path.dirname(path), f"model.{digest[:16]}.bin")


def _digest_in(path: str) -> str | None:
    """Return the SHA-256 of the weights that an exported file states; None if it states none, or cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        if os.path.isfile(path):
            with open(path, "rb") as stream:
                return _stated(stream.read(_MOST_XML))
    return None


def _stated(xml: bytes) -> str | None:
    found = _STATED.search(xml)
    return found[1].decode() if found else None


def _sha256(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def _same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
