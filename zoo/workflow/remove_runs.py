"""Removes run folders: finds out what would be deleted, and deletes it so that a crash leaves no half of a run.

A run folder is renamed first and then deleted. What a user put into it is not deleted unless that is asked for.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo import runs
from zoo.errors import RunError, UsageError, WriteError
from zoo.runs import run_lock
from zoo.workflow import run_details, run_list
from zoo.workflow.run_list import REMOVED, RUN_NAME

# What zoo writes into a run folder, including the files of variants and those that are being written.
OWN = re.compile(
    r"run\.json|pictures\.csv|history\.csv|curves\.png|model\.keras|model(-int8|-fp16)?\.onnx|head(-logits)?\.npz"
    r"|out-of-fold\.npz|label_issues\.(csv|html|json)|trust\.json|metrics\.json|predictions\.csv|examples\.json"
    r"|report\.html|sample\.\w+|(int8|fp16)\.json|config\.toml|tensorboard|formats|unfinished|\.[0-9a-f]{8}-.+",
    re.DOTALL,
)


@dataclass(frozen=True)
class Removal:
    """What the removal of a run deletes.

    Args:
        folder: The run folder.
        state: The state of the run, as `zoo.workflow.run_list.ListedRun` has it.
        link: Whether the run folder is a symbolic link, of which only the link is removed.
        bytes: The size of what is deleted; 0 for a link.
        resumable: Whether the run is unfinished and could be resumed.
        only_copy: Whether the run folder has the only copy of the exported file.
        exports: The files of the run in the folder of exports, which stay.
        foreign: The names in the run folder that zoo did not make.
    """

    folder: Path
    state: str
    link: bool = False
    bytes: int = 0
    resumable: bool = False
    only_copy: bool = False
    exports: tuple[Path, ...] = ()
    foreign: tuple[str, ...] = ()


def find(requested: Sequence[str], folder: Path, *, failed: bool = False) -> list[Path]:
    """Return the run folders that a user names for removal.

    Args:
        requested: Ids or paths of runs, or the last six characters of ids.
        folder: The folder of runs.
        failed: Whether to add all runs that have failed.

    Raises:
        UsageError: There is no such run, or the path is not a run folder that may be removed.
    """
    found = [_located(text, folder) for text in requested]
    if failed:
        found += [each.folder for each in run_list.read(folder).runs if each.state == "failed"]
    unique = {os.path.abspath(each): each for each in found}
    return list(unique.values())


def _located(text: str, folder: Path) -> Path:
    """Return the run folder that a user names.

    Raises:
        UsageError: There is no such run, or the path is not a run folder.
    """
    for place in (Path(text), folder / text):
        # A folder of which run.json is gone is a run only by its name, and only among runs.
        if RUN_NAME.fullmatch(place.name) and place.parent.absolute() == folder.absolute() and os.path.lexists(place):
            return place
    return runs.find(text, folder)


def plan(place: Path, folder: Path) -> Removal:
    """Find out what the removal of a run deletes. Nothing is changed.

    Args:
        place: The run folder.
        folder: The folder of runs.

    Raises:
        UsageError: The folder is not a run folder that may be removed.
        RunError: A process works on the run.
    """
    run = runs.Run(place)
    if not place.name or place.name == ".." or _is_around(place, Path.cwd()):
        raise UsageError(f"{str(place)!r} is the current folder or holds it. Leave it, and give the name of the run.")
    if _is_around(place, folder):
        raise UsageError(f"{str(place)!r} holds the folder of runs {str(folder)!r}. It is not removed.")
    record = None
    with contextlib.suppress(RunError):
        record = run.read_record()
    among_runs = place.parent.resolve() == folder.resolve()
    if not (among_runs or (record is not None and record.id == place.name)):
        raise UsageError(
            f"{str(place)!r} is not in the folder of runs {str(folder)!r}, and it is not called as its "
            f"{runs.RECORD} says. zoo does not remove it. If it is a run, remove it by hand."
        )
    if record is None and not RUN_NAME.fullmatch(place.name):
        raise UsageError(f"{str(place)!r} has no readable {runs.RECORD}. If it is a run, remove it by hand.")
    if place.is_symlink():
        return Removal(place, "a link", link=True)
    if run_lock.holder(run) is not None:
        raise RunError(run_lock.in_use(run))
    state = run_list.UNREADABLE
    exports: tuple[Path, ...] = ()
    if record is not None:
        state = run_lock.state(run, record).partition(":")[0]
        described = run_details.exported_files(run, record)
        exports = tuple(path for path in described if run_details.is_of_run(run, record, path))
    foreign = _foreign(place)
    return Removal(
        folder=place,
        state=state,
        bytes=run_details.size_of(place) - sum(run_details.size_of_entry(place / name) for name in foreign),
        resumable=state not in ("finished", run_list.UNREADABLE) and (place / runs.UNFINISHED).is_dir(),
        only_copy=run.exported.is_file() and not exports,
        exports=exports,
        foreign=foreign,
    )


def _foreign(place: Path) -> tuple[str, ...]:
    """Return the names in a run folder that zoo did not make."""
    return tuple(sorted(name for name in _listed(place) if not OWN.fullmatch(name)))


def _listed(place: Path) -> list[str]:
    try:
        return os.listdir(place)
    except OSError as error:
        raise RunError(f"{str(place)!r} cannot be read: {error.strerror}. It is not removed.") from None


def _is_around(place: Path, other: Path) -> bool:
    """Return whether a folder is another one, or holds it."""
    here = other.resolve()
    return place.resolve() in (here, *here.parents)


def remove(removal: Removal, *, foreign: bool = False) -> None:
    """Remove a run.

    Args:
        removal: What `plan` returned.
        foreign: Whether to delete those files that zoo did not make, too, that `removal` names. All others stay where
            they are.

    Raises:
        RunError: A process works on the run.
        WriteError: The run folder cannot be removed. If it was renamed before, the message says so.
    """
    place = removal.folder
    try:
        if removal.link:
            place.unlink()
            return
        with _alone(runs.Run(place)):
            gone = place.with_name(f"{REMOVED}{secrets.token_hex(4)}-{place.name}")
            # The user may have put files there since `plan` has looked.
            named = removal.foreign if foreign else ()
            _put_aside(place, gone, [name for name in _foreign(place) if name not in named])
    except OSError as error:
        raise WriteError(f"{str(place)!r} cannot be removed: {error.strerror or error}.") from error
    _delete(gone)


def _put_aside(place: Path, gone: Path, kept: Sequence[str]) -> None:
    """Rename a run folder, and leave those of its files that are kept in a folder with the old name."""
    if not kept:
        os.rename(place, gone)
        return
    # Until the run is renamed, they lie beside it, so that no crash can take them along.
    aside = place.with_name(f"{place.name}.kept-{secrets.token_hex(4)}")
    aside.mkdir()
    try:
        for name in kept:
            os.rename(place / name, aside / name)
        os.rename(place, gone)
    except OSError:
        for name in os.listdir(aside):
            os.rename(aside / name, place / name)
        aside.rmdir()
        raise
    os.rename(aside, place)


@contextlib.contextmanager
def _alone(run: runs.Run) -> Iterator[None]:
    """Keep processes from resuming a run while it is renamed. Windows cannot rename a folder with an open file."""
    if os.name == "nt" or not run_lock.folder_of(run).is_dir():
        if run_lock.holder(run) is not None:
            raise RunError(run_lock.in_use(run))
        yield
        return
    with run_lock.hold(run):
        yield


def leftovers(folder: Path) -> list[Path]:
    """Return the folders of removed runs that a crash has left."""
    with contextlib.suppress(OSError):
        return sorted(path for path in folder.glob(f"{REMOVED}*") if path.is_dir() and not path.is_symlink())
    return []


def delete_leftovers(places: Collection[Path]) -> None:
    """Delete what `leftovers` returned.

    Raises:
        WriteError: A folder cannot be deleted.
    """
    for place in places:
        _delete(place)


def _delete(gone: Path) -> None:
    try:
        shutil.rmtree(gone)
    except OSError as error:
        raise WriteError(
            f"the run is removed, but its files cannot all be deleted: {error.filename}: {error.strerror}. The rest is "
            f"in {str(gone)!r}; `zoo runs rm --leftovers` deletes it when that is possible."
        ) from error
