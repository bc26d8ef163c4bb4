"""Looks after the files beside an exported file when it is replaced: signature, tuned settings, model card, sbom.json.

Each of them belongs to one exported file, so it moves with that file: `README.md` becomes `model.previous.README.md`.
They are moved one after the other, behind the exported file itself. A device does not need them to start, and a reader
can see to which file each belongs: card and bill of materials name its digest, tuned settings its size and time.

The signature is different, because a device may refuse a file without one. While the files are exchanged,
`model.onnx.sig` holds the signatures of both.
"""

from __future__ import annotations

import contextlib
import hashlib
import os

from ._session import tuned_file
from ._signature import MOST_BYTES, SUFFIX

# Texts of an export that name the digest of its file.
TEXTS = ("README.md", "sbom.json")
_LARGEST_TEXT = 2**22


def _kept(name: str) -> str:
    """Return the name that a file beside the exported file gets with the previous one: `model.previous.README.md`."""
    return f"model.previous.{name.removeprefix('model.')}"


class Place(str):
    """Path of a device's folder. It also knows the names of the files in it.

    Args:
        path: Path of the folder.
        suffix: The suffix of the exported file: ".onnx" or ".tflite".

    Attributes:
        current: The name of the present file.
        previous: That of the file before it.
        incoming: That of a new file while it is checked.
        swap: The second name of the present file while it is replaced.
        signature: That of the signature of the present file.
        tuned: That of its tuned settings.
    """

    def __new__(cls, path: str, suffix: str = ".onnx") -> Place:
        place = super().__new__(cls, path)
        place.current, place.previous = f"model{suffix}", f"model.previous{suffix}"
        place.incoming, place.swap = f"model.incoming{suffix}", f"model.swap{suffix}"
        place.signature = place.current + SUFFIX
        place.tuned = os.path.basename(tuned_file(place.current))
        return place

    current: str
    previous: str
    incoming: str
    swap: str
    signature: str
    tuned: str

    def unfinished(self) -> list[str]:
        """Return the names of files that were being written when an update or a rollback was killed."""
        names = (self.signature, self.tuned, *TEXTS)
        return [f"{each}.part" for name in names for each in (name, _kept(name))]


def of(model: str) -> str | None:
    """Return the path of the signature of an exported file; None if it has none."""
    path = model + SUFFIX
    return path if os.path.isfile(path) else None


def sign_both(place: Place, signature: str | None) -> None:
    """Add the signature of the next file to that of the present one, before the files are exchanged.

    Args:
        place: The folder.
        signature: Path of the signature of the next file; None if it has none.
    """
    if signature is None:
        return
    present = _read(os.path.join(place, place.signature), MOST_BYTES)
    added = _read(signature, MOST_BYTES)
    if added and added not in present:
        _write(os.path.join(place, place.signature), added.rstrip() + b"\n" + present)


def sign_previous(place: Place) -> None:
    """Put the signatures of both files beside the previous one, too, before it gets its name.

    A `rollback` that requires a signature then works after a power failure at any moment.
    """
    _put(_previous(place, place.signature), _read(os.path.join(place, place.signature), 2 * MOST_BYTES))


def signature_of_previous(place: Place) -> bytes:
    """Return the signature beside the previous file; nothing if there is none."""
    return _read(_previous(place, place.signature), MOST_BYTES)


def after_update(place: Place, source: str) -> list[str]:
    """Put the files beside a new file in the place of those beside the old one, which are kept.

    Args:
        place: The folder, with the old file as `model.previous.onnx`.
        source: Path of the new file.

    Returns:
        What a user should know, in sentences.
    """
    notes = []
    tuned = os.path.join(place, place.tuned)
    if os.path.exists(tuned):
        os.replace(tuned, _previous(place, place.tuned))
        notes.append(
            f"The settings that were tuned for the old file do not hold for the new one: `zoo-runtime tune {place}`."
        )
    added, both = _read(source + SUFFIX, MOST_BYTES), _read(os.path.join(place, place.signature), 2 * MOST_BYTES)
    # The signatures of the old file are what was there before `sign_both`.
    old = both.removeprefix(added.rstrip() + b"\n") if added else both
    _put(_previous(place, place.signature), b"" if old == added else old)
    _put(os.path.join(place, place.signature), added)
    before, now = _digest(os.path.join(place, place.previous)), _digest(os.path.join(place, place.current))
    for name in TEXTS:
        path = os.path.join(place, name)
        text = _read(path, _LARGEST_TEXT)
        if text and before not in text:
            # It is the user's own, or already that of the new file.
            continue
        _put(_previous(place, name), text)
        new = _read(os.path.join(os.path.dirname(source), name), _LARGEST_TEXT)
        _put(path, new if now in new else b"")
    return notes


def after_interruption(place: Place) -> list[str]:
    """Exchange the texts beside the two exported files if an update or a rollback was killed before it did that."""
    for name in TEXTS:
        path, previous = os.path.join(place, name), _previous(place, name)
        text = _read(path, _LARGEST_TEXT)
        if text and _digest(os.path.join(place, place.previous)) in text:
            other = _read(previous, _LARGEST_TEXT)
            _put(previous, text)
            _put(path, other if _digest(os.path.join(place, place.current)) in other else b"")
    return []


def after_rollback(place: Place, back: bytes) -> list[str]:
    """Exchange the files beside the two exported files, after these were exchanged.

    Args:
        place: The folder.
        back: The signature that was beside the previous file, which is the present one now.

    Returns:
        What a user should know, in sentences.
    """
    both = _read(os.path.join(place, place.signature), 2 * MOST_BYTES)
    left = both.removeprefix(back.rstrip() + b"\n") if back else both
    _put(_previous(place, place.signature), left)
    _put(os.path.join(place, place.signature), back)
    left_digest = _digest(os.path.join(place, place.previous))
    for name in (place.tuned, *TEXTS):
        path, previous = os.path.join(place, name), _previous(place, name)
        text = _read(path, _LARGEST_TEXT)
        if name in TEXTS and text and left_digest not in text:
            continue
        other = _read(previous, _LARGEST_TEXT)
        if text == other:
            continue
        _put(previous, text)
        _put(path, other)
    return []


def _previous(place: Place, name: str) -> str:
    """Return the path of a file beside the previous exported file, such as `model.previous.tuned.json`."""
    return os.path.join(place, _kept(name))


def equal(path: str, other: str) -> bool:
    """Return whether two files exist and have the same content."""
    sizes = [os.path.getsize(each) for each in (path, other) if os.path.isfile(each)]
    return len(sizes) == 2 and sizes[0] == sizes[1] and _digest(path) == _digest(other)


def _digest(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest().encode()
    except OSError:
        # No text contains this.
        return b"\0"


def take_over_signature(place: Place, source: str, *, checked: bool) -> None:
    """Put the signature of an equal file beside the present one.

    Args:
        place: The folder of the present file.
        source: Path of the equal file.
        checked: Whether its signature is valid for the key that is required. If not, a signature that is there stays.
    """
    present = os.path.join(place, place.signature)
    added = _read(source + SUFFIX, MOST_BYTES)
    if added and (checked or not _read(present, MOST_BYTES)):
        _put(present, added)


def _read(path: str, most: int) -> bytes:
    """Return the content of a small file; nothing if it does not exist or cannot be read, or is a pipe."""
    with contextlib.suppress(OSError, ValueError):
        if os.path.isfile(path):
            with open(path, "rb") as stream:
                return stream.read(most)
    return b""


def _put(path: str, content: bytes) -> None:
    """Write a file in one step. Without content, it is removed."""
    if content:
        if content != _read(path, len(content) + 1):
            _write(path, content)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def _write(path: str, content: bytes) -> None:
    temporary = f"{path}.part"
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
