"""Replaces the exported file in a folder of a device by a new one, keeps the old one, and goes back to it.

A folder holds `model.onnx`, the present file, and `model.previous.onnx`, the one before. Files of LiteRT end in
`.tflite` in all these names. A device that loses power or is killed at any moment must start with one of the two,
whole. So each step is one rename, which file systems with a journal do completely or not at all:

1. The new file is copied to `model.incoming.onnx` and flushed to the disk. This copy is checked, not the original.
2. The present file gets a second name, `model.swap.onnx`.
3. `model.incoming.onnx` is renamed to `model.onnx`.
4. `model.swap.onnx` is renamed to `model.previous.onnx`.

Going back renames `model.previous.onnx` to `model.onnx` in step 3. The next command finishes what was interrupted: a
`model.swap.onnx` with the content of `model.onnx` is removed (step 3 was not reached), and any other is renamed as in
step 4. `_sidecars` looks after the other files of the folder, and `_second` after the `model.bin` of an OpenVINO model.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass

from . import _second, _sidecars
from ._engine import ENGINES, ONNXRUNTIME, Engine, engine_of, exported_in
from ._errors import ModelError, ModelNotFound, NotUpdated
from ._format import ModelInfo
from ._place import locked, written
from ._predictor import Predictor
from ._selftest import CheckResult, check
from ._session import regular_model_file
from ._sidecars import Place
from ._signature import PublicKey, check_signature, load_public_key

_CHUNK = 2**20
_NAMED = 6


@dataclass(frozen=True)
class Updated:
    """What `update` or `rollback` has done.

    Args:
        changed: Whether another file is in place now. False if the new file is equal to the present one.
        file: Path of the present file.
        previous: Path of the file before it, to which `rollback` goes back; None if there is none.
        info: The metadata of the present file.
        before: The metadata of the file before it; None if there is none, or it cannot be used.
        selftest: The result of the self-test of the present file on this machine.
        signed_by: The fingerprint of the key whose signature was checked; None if none was asked for.
        notes: What else a user should know, in sentences.
    """

    changed: bool
    file: str
    previous: str | None
    info: ModelInfo
    before: ModelInfo | None
    selftest: CheckResult
    signed_by: str | None = None
    notes: tuple[str, ...] = ()


def update(
    folder: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    require_signature: str | os.PathLike[str] | None = None,
    allow_other_classes: bool = False,
    not_older: bool = False,
) -> Updated:
    """Put a new exported file in the place of the one in a folder, after checking that it works on this machine.

    The old file is kept as `model.previous.onnx`. At every moment, `model.onnx` is one of the two files, whole. A
    program that has opened the old file goes on with it until it makes a new `Predictor`.

    Args:
        folder: Path of the folder that holds `model.onnx`. It may be empty: then the file is installed.
        new: Path of the new file, or of the folder of its export. It is copied, and stays.
        require_signature: Path of a public key, whose owner must have signed the new file; see `verify_signature`. None
            needs no signature.
        allow_other_classes: True also accepts a file with other classes, or with the same classes in another order.
        not_older: True refuses a file whose run is older than that of the present file.

    Returns:
        What was done.

    Raises:
        NotUpdated: If the new file fails its self-test, has other classes, or is older. Or the folder does not exist,
            or another process updates it.
        ModelError: If the new file cannot be used; see `Predictor`. The classes `BadSignature` and `UnsafeModel` are
            among these errors.
        NotWritten: If the folder is write-protected, or the disk is full.
    """
    source = regular_model_file(new)
    place = _folder(folder, engine_of(source))
    key = None if require_signature is None else load_public_key(os.fsdecode(require_signature))
    current, incoming = os.path.join(place, place.current), os.path.join(place, place.incoming)
    _refuse_own_names(place, source)
    with locked(place), written(place, source):
        _finish_interrupted(place)
        try:
            _refuse_other_kinds(source)
            _copy(source, incoming)
            _second.bring(place, incoming, source, _copy)
            signed_by = check_signature(incoming, key, shown=source, signature=f"{source}.sig") if key else None
            predictor, result = _tested(incoming, source)
            before = _info_of(current)
            same = _sidecars.equal(incoming, current)
            notes = [] if same else _compared(before, predictor.info, source, allow_other_classes, not_older)
            if os.path.exists(current) and before is None:
                notes.append("The file before it could not be used.")
            if same:
                _sidecars.take_over_signature(place, source, checked=key is not None)
            else:
                _keep_owner(current, incoming)
                _second.keep(place, _duplicate)
                _swap(place, incoming, _sidecars.of(source))
                notes += _beside(place, _sidecars.after_update, place, source)
        finally:
            _remove(incoming)
            _settle(place)
    return Updated(
        not same, current, _existing(place, place.previous), predictor.info, before, result, signed_by, (*notes,)
    )


def rollback(folder: str | os.PathLike[str], *, require_signature: str | os.PathLike[str] | None = None) -> Updated:
    """Exchange the exported file in a folder and the one before it. A second call exchanges them again.

    Args:
        folder: Path of the folder that holds `model.onnx` and `model.previous.onnx`.
        require_signature: As for `update`, for the file to go back to.

    Returns:
        What was done.

    Raises:
        NotUpdated: If there is no file to go back to, or it fails its self-test. Or the folder does not exist, or
            another process updates it.
        ModelError: If the file to go back to cannot be used.
        NotWritten: If the folder is write-protected, or the disk is full.
    """
    path = os.fsdecode(folder)
    engines = [engine for engine in ENGINES if os.path.exists(os.path.join(path, f"model.previous{engine.suffix}"))]
    place = _folder(folder, engines[0] if engines else ONNXRUNTIME)
    key: PublicKey | None = None if require_signature is None else load_public_key(os.fsdecode(require_signature))
    current, previous = os.path.join(place, place.current), os.path.join(place, place.previous)
    with locked(place), written(place):
        _finish_interrupted(place)
        if not os.path.exists(previous):
            raise NotUpdated(
                f"{place!r} has no {place.previous}, so there is nothing to go back to. `zoo-runtime update` keeps the "
                "file that it replaces under this name."
            )
        signed_by = check_signature(previous, key) if key else None
        predictor, result = _tested(previous, previous)
        before, signature = _info_of(current), _sidecars.signature_of_previous(place)
        try:
            _second.keep(place, _duplicate)
            _swap(place, previous, _sidecars.of(previous))
        finally:
            _settle(place)
        notes = _beside(place, _sidecars.after_rollback, place, signature)
    return Updated(
        True, current, _existing(place, place.previous), predictor.info, before, result, signed_by, (*notes,)
    )


# Checks


def _folder(folder: str | os.PathLike[str], engine: Engine) -> Place:
    """Check the folder of a device.

    Args:
        folder: Path of the folder.
        engine: The engine of the new file.

    Raises:
        NotUpdated: If there is no folder, or it has a file of another engine.
    """
    path = os.fsdecode(folder)
    if os.path.isfile(path):
        raise NotUpdated(
            f"{path!r} is a file. Give the folder of the device first, then the new file: "
            "`zoo-runtime update DIR NEW.onnx`."
        )
    if not os.path.isdir(path):
        raise NotUpdated(f"there is no folder {path!r}. Give the folder that holds {engine.file}, or make it first.")
    others = [os.path.basename(found) for found in exported_in(path) if engine_of(found) is not engine]
    if others:
        raise NotUpdated(
            f"{path!r} holds {others[0]}, but the new file is {engine.kind} ({engine.file}). A program would not know "
            "which of the two to open. Install it into a folder of its own."
        )
    return Place(path, engine.suffix)


def _refuse_own_names(place: Place, source: str) -> None:
    """Refuse a new file with a name that an update itself uses: what an interrupted one left there is removed."""
    for name in (place.incoming, place.swap, f"{place.swap}.part"):
        # Not by identity: after an interrupted update, one file may have two of these names.
        if os.path.realpath(source) == os.path.join(os.path.realpath(place), name):
            raise NotUpdated(
                f"{source!r} has a name that updates use for files on the way, and remove. Rename it, such as to "
                "new.onnx, and give that."
            )


def _refuse_other_kinds(source: str) -> None:
    """Refuse a file that is obviously no exported file, before it is copied. A pipe can be read only once."""
    from ._foreign import refuse_foreign

    if engine_of(source) is not ONNXRUNTIME:
        # Their engines read a file whole, and check it then.
        return
    with contextlib.suppress(OSError):
        if not stat.S_ISFIFO(os.stat(source).st_mode):
            refuse_foreign(source)


def _tested(path: str, shown: str) -> tuple[Predictor, CheckResult]:
    """Open a file and run its self-test.

    Args:
        path: Path of the file.
        shown: The path for messages.
    """
    try:
        predictor = Predictor(path, tuned=False)
        result = check(predictor)
    except ModelError as error:
        raise type(error)(str(error).replace(repr(path), repr(shown))) from None
    if not result.passed:
        raise NotUpdated(
            f"{shown!r} fails its self-test on this machine: probabilities differ by "
            f"{result.probability_difference:.2g} (allowed {result.tolerance:g}). The present file stays. "
            f"`zoo-runtime check {shown}` says more."
        )
    return predictor, result


def _info_of(path: str) -> ModelInfo | None:
    """Return the metadata of a file; None if there is none, or it cannot be used."""
    try:
        return Predictor(path, tuned=False).info
    except ModelError:
        return None


def _compared(
    before: ModelInfo | None, info: ModelInfo, new: str, allow_other_classes: bool, not_older: bool
) -> list[str]:
    """Compare a new file with the present one, and return what else has changed, in sentences.

    Raises:
        NotUpdated: If the new file has other classes or is older, and that is not allowed.
    """
    if before is None:
        return []
    if info.classes != before.classes and not allow_other_classes:
        lost = [name for name in before.classes if name not in info.classes]
        added = [name for name in info.classes if name not in before.classes]
        words = [f"{_names(added)} new"] if added else []
        words += [f"{_names(lost)} gone"] if lost else []
        what = " and ".join(words) or "the same classes in another order"
        raise NotUpdated(
            f"{new!r} has other classes than the present file: {what}. A program that uses the classes may then do the "
            "wrong thing. Add --allow-other-classes if that is what you want."
        )
    there, here = str(info.run.get("created", "")), str(before.run.get("created", ""))
    # Times in this form, such as 2026-11-24T10:43:39Z, sort as text.
    if not_older and here and there < here:
        when = f"is from a run of {there}" if there else "does not say when it was trained"
        raise NotUpdated(
            f"{new!r} {when}, but the present file is from a run of {here}. `zoo-runtime rollback` goes back to the "
            "file before; leave out --not-older to install an older one."
        )
    changes = [
        ("task", before.task, info.task),
        ("picture size", _size(before), _size(info)),
        ("channels", before.image.channels, info.image.channels),
        ("way of resizing", before.image.resize, info.image.resize),
        ("precision", before.precision.get("kind", "float32"), info.precision.get("kind", "float32")),
        ("classes", _names(before.classes), _names(info.classes)),
    ]
    return [f"The {what} changed from {old} to {now}." for what, old, now in changes if old != now]


def _names(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


def _size(info: ModelInfo) -> str:
    return f"{info.image.size[0]} x {info.image.size[1]}"


# Files


def _swap(place: Place, new: str, signature: str | None) -> None:
    """Put a checked file in place of the present one, in the steps that the head of this module describes.

    Args:
        place: The folder.
        new: Path of the checked file, in the folder.
        signature: Path of its signature; None if it has none.
    """
    current, swap = os.path.join(place, place.current), os.path.join(place, place.swap)
    replaces = os.path.exists(current)
    try:
        if replaces:
            _duplicate(current, swap)
        _sidecars.sign_both(place, signature)
        _sync_folder(place)
        os.replace(new, current)
    except OSError:
        _remove(swap)
        _remove(f"{swap}.part")
        raise
    _sync_folder(place)
    if replaces:
        _keep_old(place)
        _sync_folder(place)


def _keep_old(place: Place) -> None:
    """Give the file that was replaced its name, with a signature beside it from the start."""
    # Without room for it, the update is still done: the files beside the old one then say so.
    with contextlib.suppress(OSError):
        _sidecars.sign_previous(place)
    _replace(os.path.join(place, place.swap), os.path.join(place, place.previous))


def _beside(place: Place, move: Callable[..., list[str]], *arguments: str | bytes) -> list[str]:
    """Move the files beside the exported files. That they cannot be moved is no reason to fail: the update is done."""
    try:
        return move(*arguments)
    except OSError as error:
        return [
            f"The other files in {place!r}, such as README.md, could not all be replaced: {error.strerror or error}."
        ]


def _finish_interrupted(place: Place) -> None:
    """Finish an update or a rollback that was killed."""
    current, swap = os.path.join(place, place.current), os.path.join(place, place.swap)
    for leftover in (place.incoming, f"{place.swap}.part", *place.unfinished()):
        _remove(os.path.join(place, leftover))
    if os.path.exists(swap):
        if not os.path.exists(current):
            os.replace(swap, current)
        elif _sidecars.equal(swap, current):
            _remove(swap)
        else:
            _keep_old(place)
        _sync_folder(place)
    _settle(place)
    _beside(place, _sidecars.after_interruption, place)


def _settle(place: Place) -> None:
    """Give second files their usual names. Until that is done, their names with digests count; see `_second`."""
    if engine_of(place.current).companion:
        with contextlib.suppress(OSError):
            _second.settle(place, _duplicate)
            _sync_folder(place)


def _keep_owner(present: str, new: str) -> None:
    """Let a new file be readable for those who can read the present one: a service need not run as who updates."""
    with contextlib.suppress(OSError):
        status = os.stat(present)
        # Only root may give a file to somebody else.
        if hasattr(os, "chown") and (status.st_uid, status.st_gid) != (os.stat(new).st_uid, os.stat(new).st_gid):
            with contextlib.suppress(OSError):
                os.chown(new, status.st_uid, status.st_gid)
        os.chmod(new, status.st_mode & 0o777)


def _duplicate(path: str, copy: str) -> None:
    """Give a file a second name. Where the file system has no such names (FAT), copy it.

    A symbolic link is followed: it could lead to the very name that the file is to have, or to one that changes.
    """
    try:
        os.link(os.path.realpath(path), copy)
    except OSError as error:
        if error.errno in (errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            raise
        _copy(path, f"{copy}.part")
        # FAT and network shares often refuse to set times and rights.
        with contextlib.suppress(OSError):
            shutil.copystat(path, f"{copy}.part")
        os.replace(f"{copy}.part", copy)


def _replace(path: str, target: str) -> None:
    os.replace(path, target)
    # Nothing happens if both are names of one file.
    _remove(path)


def _copy(source: str, target: str) -> None:
    """Copy a file, and flush the copy to the disk.

    Raises:
        ModelNotFound: If the file cannot be read.
        OSError: If the copy cannot be written.
    """
    try:
        reading = open(source, "rb")  # noqa: SIM115 - errors of reading and of writing are told apart
    except (OSError, ValueError) as error:
        from ._foreign import not_found

        raise not_found(source, getattr(error, "strerror", None) or error) from None
    with reading, open(target, "wb") as writing:
        while True:
            try:
                chunk = reading.read(_CHUNK)
            except OSError as error:
                raise ModelNotFound(f"{source!r} cannot be read: {error.strerror}. Copy the file again.") from None
            if not chunk:
                break
            writing.write(chunk)
        writing.flush()
        os.fsync(writing.fileno())
        # What is checked next is then read from the disk, and not from memory.
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                os.posix_fadvise(writing.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _sync_folder(place: Place) -> None:
    """Make the names of the files in a folder survive a power failure."""
    # Windows cannot open folders, and some network file systems cannot flush them.
    with contextlib.suppress(OSError):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def _existing(place: Place, name: str) -> str | None:
    path = os.path.join(place, name)
    return path if os.path.exists(path) else None
