"""Moves files of a data folder out of the way, and moves them back. Nothing is deleted or overwritten.

The folder of moved files has a list, quarantine.csv: from where, to where, why and when. A row is written before its
file is moved, so that the list is complete even if the program is killed.
"""

from __future__ import annotations

import csv
import errno
import os
import re
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from zoo import files
from zoo.data.check.findings import Checked
from zoo.data.names import listed
from zoo.data.pixels import larger_limit
from zoo.data.reading import Exclusion, ReadingOptions
from zoo.errors import DataNotFound, UsageError, WriteError
from zoo_runtime.workshop import is_quarantine

LIST = "quarantine.csv"
COLUMNS = ("moved_from", "moved_to", "reason", "time")
# Of copies in several parts, the one in the test part stays, so that a benchmark keeps its test pictures.
PARTS = {"test": 0, "val": 1, "train": 2, None: 3}
# Names of copies, without their endings, in the languages of Windows, macOS, Linux desktops and Google Drive.
_COPY = re.compile(
    r"[\s_-]?\(\d+\)$|[\s_-]copy([\s_-]?\d+)?$|\(copy( \d+)?\)$|^copy (\(\d+\) )?of "
    r"|[\s_-](kopie|copie|copia|cópia|kopi|kopia|копия|kópia|kopya)([\s_-]?\d+)?$"
    r"|^(kopie von|copie de|copia de|cópia de|copia di|kopie van|kopi av|kopi af|kopia|копия)\s|副本|コピー|복사본",
    re.IGNORECASE,
)
# What os.link raises where files cannot be linked: on another disk, or on a file system without links.
NO_LINK = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES, errno.ENOSYS)


@dataclass(frozen=True)
class Restored:
    """What was moved back.

    Args:
        moved: The paths of the files that are back.
        missing: The paths in the quarantine that do not exist any more.
        occupied: The original paths at which there is another file now. Their files stay in the quarantine.
    """

    moved: tuple[str, ...]
    missing: tuple[str, ...]
    occupied: tuple[str, ...]


def choose(checked: Checked) -> dict[int, str]:
    """Choose the pictures to move away.

    These are unreadable files, pictures that have copies with another label, and extra copies: byte-equal ones, and
    copies of any kind of a picture in another part of a given split. Of byte-equal copies, the one with the plain name
    stays. Of copies in several parts, the one in the test part stays. Copies in one class that were saved again and
    look-alikes, such as frames of a burst, always stay: zoo cannot tell the first from the second with certainty.
    Pictures that a larger --max-pixels reads stay too.

    Returns:
        A dictionary from the index of each picture to the reason.
    """
    names = [picture.name for picture in checked.source.pictures]
    reasons = {i: f"cannot be read: {why}" for i, why in checked.pixels.bad.items() if larger_limit(why) is None}
    for group in checked.same():
        if checked.disagree(group):
            others = {i: [names[j] for j in group if j != i] for i in group}
            reasons |= {i: f"has a copy with another label: {'; '.join(others[i][:3])}" for i in group}
            continue
        kept = min(group, key=lambda i: _rank(checked, i))
        here = checked.source.pictures[kept].split
        reasons |= {i: f"copy of {names[kept]}" for i in group if checked.source.pictures[i].split != here}
        first: dict[str, int] = {}
        for i in sorted(set(group) - reasons.keys(), key=lambda i: _rank(checked, i)):
            before = first.setdefault(checked.pixels.digests[i], i)
            reasons |= {i: f"copy of {names[before]}"} if before != i else {}
    return reasons


def is_named_as_copy(name: str) -> bool:
    """Return whether a file is named as programs name copies: "x (1).jpg", "x copy.jpg", "Kopie von x.jpg"."""
    return _COPY.search(os.path.splitext(unicodedata.normalize("NFC", name))[0]) is not None


def _rank(checked: Checked, i: int) -> tuple[int, int, int, bool, int, int]:
    """Return a value that is lowest for the copy to keep: by part, pixels, size of the file, name, and place."""
    header, picture = checked.headers[i], checked.source.pictures[i]
    area = header.size[0] * header.size[1] if header else 0
    size = os.path.getsize(picture.content) if isinstance(picture.content, Path) else 0
    name = os.path.basename(picture.name)
    return PARTS[picture.split], -area, -size, is_named_as_copy(name), len(name), i


def check_folder(data: Path, folder: Path, reading: ReadingOptions | None = None) -> None:
    """Check that files of a data folder can be moved to a folder.

    Args:
        data: The data folder.
        folder: The folder to move files to.
        reading: How the data are read. A folder that it excludes may be inside the data folder.

    Raises:
        UsageError: The pictures are not a folder of files, or the quarantine is where zoo would read it as pictures. Or
            it is a folder that has something else, such as runs, exports or the data folder.
    """
    if not data.is_dir():
        raise lists_stay(data)
    root, there = data.resolve(), folder.resolve()
    inside = there.is_relative_to(root)
    below = there.relative_to(root) if inside else Path()
    exclusion = Exclusion(reading.exclude if reading else ())
    unread = any(part.startswith(".") for part in below.parts) or any(
        exclusion(each, folder=True) for each in (below, *below.parents[:-1])
    )
    if root == there or (inside and not unread):
        raise UsageError(
            f"--quarantine {str(folder)!r} is inside {str(data)!r}, so that zoo would read the moved files as "
            f"pictures. Name a folder elsewhere, or a hidden one, such as {str(data / '.quarantine')!r}, or exclude "
            "the folder with --exclude."
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--quarantine {str(folder)!r} is not a folder.")
    _check_use(root, folder)


def lists_stay(data: Path) -> UsageError:
    """Create the error for data whose pictures are named by lists."""
    what = "is read by its lists" if data.is_dir() else "is not a folder"
    return UsageError(
        f"--quarantine moves files of a folder of classes, and {str(data)!r} {what}. A list would name files that are "
        "no longer there. `zoo data check --json` names the pictures; remove their rows from the list."
    )


def _check_use(root: Path, folder: Path) -> None:
    """Check that a folder is new, empty or a quarantine.

    Raises:
        UsageError: The folder contains the data, is where zoo writes runs, exports or its cache, or has other files.
    """
    there = folder.resolve()
    advice = "Name a new folder, such as ../quarantine."
    if root.is_relative_to(there):
        raise UsageError(f"--quarantine {str(folder)!r} contains the data {str(root)!r}. {advice}")
    if is_quarantine(folder):
        return
    for own, what in ((Path("runs"), "runs"), (Path("exported"), "exports"), (files.cache(), "its cache")):
        if there.is_relative_to(own.resolve()):
            raise UsageError(f"--quarantine {str(folder)!r} is where zoo writes {what}. {advice}")
    try:
        inside = [name for name in os.listdir(folder) if not name.startswith(".")]
    except FileNotFoundError:
        return
    if inside:
        raise UsageError(
            f"--quarantine {str(folder)!r} is not empty, and not a quarantine of zoo: it has {listed(inside, 3)}. "
            f"{advice}"
        )


def move(data: Path, folder: Path, reasons: Mapping[Path, str]) -> list[tuple[str, str]]:
    """Move files of a data folder to another folder, where they keep their relative paths.

    Args:
        data: The data folder.
        folder: The folder to move them to. It is created if necessary.
        reasons: Maps the path of each file to the reason.

    Returns:
        Pairs (from, to) of absolute paths.

    Raises:
        WriteError: A file cannot be moved. The list has those that were.
    """
    moved = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source, reason in reasons.items():
            start = Path(os.path.abspath(source))
            relative = (
                start.relative_to(os.path.abspath(data)) if start.is_relative_to(os.path.abspath(data)) else start.name
            )
            target = _free(Path(os.path.abspath(folder)) / relative)
            target.parent.mkdir(parents=True, exist_ok=True)
            _append(folder / LIST, (str(start), str(target), reason, datetime.now(UTC).isoformat(timespec="seconds")))
            _move(start, target)
            moved.append((str(start), str(target)))
    except OSError as error:
        named = error.filename or folder
        raise WriteError(
            f"{os.fspath(named)!r} cannot be moved: {error.strerror or error}. {len(moved)} files were moved; "
            f"{str(folder / LIST)!r} lists them."
        ) from error
    return moved


def restore(folder: Path) -> Restored:
    """Move all files of a quarantine back to where they were. The list keeps the rows of files that stay.

    Raises:
        DataNotFound: The folder has no list, or it is not where it was when the files were moved to it.
        WriteError: A file cannot be moved.
    """
    path = folder / LIST
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
            rows = list(csv.DictReader(stream))
    except csv.Error as error:
        raise DataNotFound(f"{str(path)!r} is damaged: {error}.") from None
    except OSError as error:
        raise DataNotFound(
            f"{str(folder)!r} is not a quarantine: {str(path)!r} cannot be read: {error.strerror}."
        ) from None
    if rows and not {"moved_from", "moved_to"} <= rows[0].keys():
        raise DataNotFound(f"{str(path)!r} is not a list of moved files: its first line must be {','.join(COLUMNS)}.")
    # A row is cut short if the program was killed while it wrote it. Its file was not moved yet.
    rows = [row for row in rows if row["moved_from"] and row["moved_to"]]
    _check_place(folder, rows)
    moved, missing, occupied, left = [], [], [], []
    try:
        for row in rows:
            start, target = Path(row["moved_from"]), Path(row["moved_to"])
            if not os.path.lexists(target):
                # If a file is at its old place, it was moved back by hand, or never moved.
                missing += [] if os.path.lexists(start) else [str(target)]
            elif os.path.lexists(start):
                occupied.append(str(start))
                left.append(row)
            else:
                start.parent.mkdir(parents=True, exist_ok=True)
                _move(target, start)
                moved.append(str(start))
        _rewrite(path, left)
    except OSError as error:
        raise WriteError(
            f"{os.fspath(error.filename or folder)!r} cannot be moved back: {error.strerror or error}. Run the command "
            "again when that is mended; it goes on with the files that are left."
        ) from error
    return Restored(tuple(moved), tuple(missing), tuple(occupied))


def _check_place(folder: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Check that the quarantine was not renamed or moved as a whole, which would make all its files seem gone.

    Raises:
        DataNotFound: No file is where the list says, but the folder has files.
    """
    if any(os.path.lexists(row["moved_to"]) for row in rows) or all(os.path.lexists(row["moved_from"]) for row in rows):
        return
    if any(name != LIST for _, _, names in os.walk(folder) for name in names):
        raise DataNotFound(
            f"none of the {len(rows)} files that {str(folder / LIST)!r} lists is where it was moved to, such as "
            f"{rows[0]['moved_to']!r}. If you renamed or moved the folder {str(folder)!r}, move it back first. Its "
            "list was not changed."
        )


def _free(path: Path) -> Path:
    """Return a path at which there is nothing: the given one, or the same with a number before the ending."""
    number, tried = 1, path
    while os.path.lexists(tried):
        number += 1
        tried = path.with_name(f"{path.stem} ({number}){path.suffix}")
    return tried


def _move(start: Path, target: Path) -> None:
    """Move a file without ever replacing another one, also to another disk.

    Raises:
        OSError: There is something at `target`, or the file cannot be moved. It is then still at `start`.
    """
    if start.is_symlink():
        link = os.readlink(start)
        os.symlink(link if os.path.isabs(link) else os.path.abspath(start.parent / link), target)
        _remove(start, target)
        return
    try:
        os.link(start, target)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        # Opening with "x" fails if there is a file.
        try:
            with start.open("rb") as source, target.open("xb") as copy:
                shutil.copyfileobj(source, copy)
                copy.flush()
                os.fsync(copy.fileno())
        except FileExistsError:
            raise
        except OSError:
            target.unlink(missing_ok=True)
            raise
        shutil.copystat(start, target)
    _remove(start, target)


def _remove(start: Path, target: Path) -> None:
    """Remove a file that is at both places from the first one. If that fails, remove it from the second one."""
    try:
        start.unlink()
    except OSError:
        target.unlink()
        raise


def _append(path: Path, row: Sequence[str]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.writer(stream)
        writer.writerows([COLUMNS, row] if new else [row])
        stream.flush()
        os.fsync(stream.fileno())


def _rewrite(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write the list anew with the rows of the files that are still in the quarantine."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)
