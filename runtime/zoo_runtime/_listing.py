"""Finds the pictures that paths stand for: files, folders, patterns such as `photos/*.jpg`, and standard input.

Training reads the same files of a folder. `_kinds` decides which files are pictures, and `_own` which folders zoo
wrote.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from ._decode import SUFFIXES
from ._errors import NotAPicture, PictureError, PictureNotFound
from ._given import is_address, is_pattern, local_path, shortened
from ._kinds import advice_on, is_picture, is_readable
from ._own import is_written_by_zoo

IGNORED = frozenset(
    {
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "picasa.ini",
        "icon\r",
        "__macosx",
        "@eadir",
        "#recycle",
        "@recycle",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "lost.dir",
        "__pycache__",
    }
)
"""Names of files and folders that file managers and archivers leave behind, in lower case.

They are neither pictures nor classes, and are left out without a word, as hidden files are.
"""

STANDARD_INPUT = "-"
LARGEST_INPUT = 2**30
_PIECE = 2**20

Refuse = Callable[[str, PictureError], None]


class PassedOver:
    """Counts the files in folders that are not pictures, or that zoo cannot read.

    Attributes:
        endings: Maps each ending, such as ".txt", to the number of files. "" stands for names without an ending.
        own: The folders that were left out because zoo wrote them.
    """

    def __init__(self) -> None:
        self.endings: Counter[str] = Counter()
        self.own: list[str] = []
        self._lost: Counter[str] = Counter()

    def __bool__(self) -> bool:
        """Return whether something was passed over."""
        return bool(self.endings or self.own)

    def add(self, name: str, *, is_lost: bool = True) -> None:
        """Count a file.

        Args:
            name: Its name without folders.
            is_lost: False if the same picture stands beside the file in a format that zoo reads.
        """
        ending = os.path.splitext(name)[1].lower()
        self.endings[ending if 1 < len(ending) <= 12 else ""] += 1
        if is_lost:
            self._lost[ending] += 1

    def __str__(self) -> str:
        """Return the counts as text, most frequent first, such as "12 .txt, 3 .mov". No files give an empty string."""
        rows = sorted(self.endings.items(), key=lambda item: (-item[1], item[0]))
        parts = [f"{count:,} {ending or 'without an ending'}" for ending, count in rows[:8]]
        if rows[8:]:
            parts.append(f"{sum(count for _, count in rows[8:]):,} others")
        if self.own:
            more = f" and {len(self.own) - 3} more" if len(self.own) > 3 else ""
            parts.append(f"what zoo wrote ({', '.join(self.own[:3])}{more})")
        return ", ".join(parts)

    def advice(self) -> str:
        """Say how to convert the pictures that zoo cannot read, and that no other file stands for. May be empty."""
        return advice_on(dict(sorted(self._lost.items())))


def is_ignored(name: str) -> bool:
    """Return whether a file or folder is left out without a word, judging by its name.

    These are hidden files and folders, whose names begin with a dot, and those in `IGNORED`.
    """
    return name.startswith(".") or name.lower() in IGNORED


def no_picture_in(paths: Iterable[str], passed_over: PassedOver | None = None) -> PictureNotFound:
    """Create the error to raise if `paths` contain no picture.

    Args:
        paths: The paths, as the user gave them.
        passed_over: The files that were not taken for pictures.
    """
    others = f" Passed over: {passed_over}. {passed_over.advice()}".rstrip() if passed_over else ""
    return PictureNotFound(
        f"no picture was found in {', '.join(map(repr, paths))}.{others} "
        "The names of pictures end in .jpg, .png, .webp or another supported ending."
    )


def expand(
    paths: Iterable[str],
    refuse: Refuse | None = None,
    passed_over: PassedOver | None = None,
    *,
    allow_url: bool = False,
) -> Iterator[tuple[str, Any]]:
    """Yield the pictures that paths stand for.

    A file stands for itself, whatever its ending, and so does a path that does not exist. A folder stands for every
    picture below it (see `list_pictures`). A pattern, such as `photos/*.jpg`, stands for the files and folders that
    match it. `-` stands for the picture on standard input.

    Args:
        paths: The paths.
        refuse: Called as `refuse(path, error)` for a folder or standard input that cannot be read, an address such as
            https://, and a pattern that matches nothing. If None, the error is raised.
        passed_over: Counts the files in folders, and those that match a pattern, that are not taken for pictures.
        allow_url: Whether http:// and https:// addresses stand for pictures. They are downloaded when they are read.

    Yields:
        For each picture, its name in answers and messages, and what to decode: the path twice, "-" and the bytes of
        standard input, or an address and a file object that downloads it.

    Raises:
        PictureError: If something cannot be read and `refuse` is None.
    """
    read = False
    for path in paths:
        try:
            if path == STANDARD_INPUT:
                content, read = standard_input(read), True
                yield path, content
                continue
            if is_address(path):
                if not allow_url:
                    raise PictureNotFound(
                        f"{shortened(path)}: an address, not a file. Download the picture first, and give its path, "
                        "or use `zoo-runtime predict --allow-url`."
                    )
                from ._url import Download, without_password

                yield without_password(path), Download(path)
                continue
            local = local_path(path)
            several = is_pattern(local)
            names = _matching(local) if several else [local]
        except PictureError as error:
            if refuse is None:
                raise
            refuse(path, error)
            continue
        for name in names:
            if os.path.isdir(name):
                for picture in list_pictures(name, refuse, passed_over=passed_over):
                    yield picture, picture
            elif not several or _is_listed(name, (), passed_over):
                yield name, name


def _matching(pattern: str) -> list[str]:
    import glob

    given = set(os.path.normpath(pattern).split(os.sep))
    names = sorted(
        name
        for name in glob.glob(_with_literal_folders(pattern), recursive=True)
        if not any(is_ignored(part) for part in os.path.normpath(name).split(os.sep) if part not in given)
    )
    if not names:
        raise PictureNotFound(f"{pattern!r} matches no file.")
    return names


def _with_literal_folders(pattern: str) -> str:
    """Escape the leading folders of a pattern that exist as they are written, such as `photos [2020]`."""
    import glob

    folder, rest = pattern, ""
    while folder and not os.path.lexists(folder):
        folder, name = os.path.split(folder)
        rest = os.path.join(name, rest) if rest or not name else name
    return os.path.join(glob.escape(folder), rest) if folder else pattern


def _is_listed(path: str, beside: Collection[str], passed_over: PassedOver | None) -> bool:
    """Return whether a file in a folder is taken for a picture. Count it if not.

    Args:
        path: The path of the file.
        beside: The names of all files in its folder, in lower case.
        passed_over: Counts the files that are not taken for pictures.
    """
    base = os.path.basename(path)
    if is_ignored(base):
        return False
    # Pipes and devices are not pictures, and reading from them might never end.
    is_file = os.path.isfile(path) or not os.path.exists(path)
    # HEIC files are listed even if they cannot be read, so that each of them gets a line that says what to install.
    known = is_readable(path) or os.path.splitext(base)[1].lower() in SUFFIXES
    is_meant = is_file and is_picture(path, beside)
    if is_meant and known:
        return True
    if passed_over is not None:
        passed_over.add(base, is_lost=is_meant)
    return False


def standard_input(read: bool = False) -> bytes:
    """Read the picture on standard input.

    Args:
        read: Whether it was read before. Then nothing is left of it.

    Raises:
        PictureNotFound: If standard input is a terminal, is closed, or was read before.
        NotAPicture: If it is empty, or has more than 1 GiB.
    """
    stream = getattr(sys.stdin, "buffer", None)
    if read:
        raise PictureNotFound("standard input can be read only once, so give - only once.")
    if stream is None or stream.closed:
        raise PictureNotFound("standard input is closed. Give a picture with `... - < cat.jpg`.")
    if stream.isatty():
        raise PictureNotFound("standard input is the keyboard. Give a picture with `... - < cat.jpg`.")
    pieces: list[bytes] = []
    size = 0
    try:
        while piece := stream.read(_PIECE):
            pieces.append(piece)
            size += len(piece)
            if size > LARGEST_INPUT:
                raise NotAPicture("standard input has more than 1 GiB, which no picture has.")
    except OSError as error:
        raise PictureNotFound(f"standard input cannot be read: {error.strerror}.") from None
    if not size:
        raise NotAPicture("standard input is empty.")
    return b"".join(pieces)


def list_pictures(
    folder: str | os.PathLike[str], refuse: Refuse | None = None, *, passed_over: PassedOver | None = None
) -> list[str]:
    """List every picture below a folder: the files that training would read, see `is_picture`.

    These are files whose names end in one of `SUFFIXES`, and files with unknown endings, or none, that begin like a
    picture. Hidden files and folders are left out, and so are those that file managers leave behind (`IGNORED`), and
    what zoo wrote, such as run folders with their charts. Links are followed, but each folder is listed only once.

    Args:
        folder: Path of the folder.
        refuse: Called as `refuse(path, error)` for each folder that cannot be read. If None, the error is raised.
        passed_over: Counts the files that are left out because they are not pictures.

    Returns:
        The sorted paths.

    Raises:
        PictureNotFound: If `folder` does not exist, or if `refuse` is None and `folder` or a folder below it cannot be
            read.
    """
    root = os.fsdecode(folder)
    if not os.path.isdir(root):
        if os.path.exists(root):
            raise PictureNotFound(f"{root!r} is a file, not a folder. For one picture, call predictor(picture).")
        raise PictureNotFound(f"the folder {root!r} does not exist. Check the path.")

    def failed(error: OSError) -> None:
        refusal = PictureNotFound(f"{error.filename!r} cannot be read: {error.strerror}.")
        if refuse is None:
            raise refusal
        refuse(error.filename, refusal)

    # Links are followed, as in training, but each folder is entered only once.
    seen = {os.path.realpath(root)}

    def is_new(path: str) -> bool:
        real = os.path.realpath(path)
        known = real in seen
        seen.add(real)
        return not known

    found = []
    for parent, folders, files in os.walk(root, onerror=failed, followlinks=True):
        folders[:] = [n for n in sorted(folders) if not is_ignored(n) and is_new(os.path.join(parent, n))]
        own = [name for name in folders if is_written_by_zoo(os.path.join(parent, name))]
        folders[:] = [name for name in folders if name not in own]
        if passed_over is not None:
            passed_over.own += [os.path.join(parent, name) for name in own]
        beside = {name.lower() for name in files}
        paths = [os.path.join(parent, name) for name in files]
        found += [path for path in paths if _is_listed(path, beside, passed_over)]
    return sorted(found)
