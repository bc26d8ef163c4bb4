"""Lists the files of a folder: which are pictures, which are not, and which zoo wrote itself.

`zoo.data.folders` decides which folders are classes.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from zoo import files
from zoo.data.names import printable
from zoo.data.reading import Exclusion
from zoo.errors import DataLayout
from zoo_runtime import SUFFIXES
from zoo_runtime.workshop import IGNORED, is_picture, is_written_by_zoo


@dataclass(frozen=True)
class Listing:
    """Lists what is directly in a folder, without what is ignored, excluded or zoo's own.

    Args:
        folders: The folders, sorted.
        pictures: The files that are pictures, readable or not, sorted.
        others: The number of other files, by the ending of their names, such as ".txt", or "pipe or device".
    """

    folders: tuple[Path, ...]
    pictures: tuple[Path, ...]
    others: Counter[str]


class Tree:
    """Reads a folder and the folders in it, each at most once.

    Args:
        root: The folder.
        exclusion: Says which files and folders are left out.

    Attributes:
        own: What zoo wrote: the paths of run folders, exports, caches and quarantines, relative to `root`.
    """

    def __init__(self, root: Path, exclusion: Exclusion) -> None:
        self.root, self.exclusion = root, exclusion
        self.own: list[str] = []
        self._listings: dict[Path, Listing] = {}
        self._below: dict[Path, list[Path]] = {}

    def listing(self, folder: Path) -> Listing:
        """List what is directly in a folder.

        Raises:
            OSError: The folder cannot be read.
        """
        if folder not in self._listings:
            self._listings[folder] = self._read(folder)
        return self._listings[folder]

    def _read(self, folder: Path) -> Listing:
        folders, pictures, others = [], [], Counter[str]()
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        names = {entry.name.lower() for entry in found}
        for entry in found:
            path = folder / entry.name
            if entry.name.startswith(".") or entry.name.lower() in IGNORED:
                continue
            is_loop = _is_loop(entry)
            is_folder = not is_loop and entry.is_dir()
            if self.exclusion.patterns and self.exclusion(path.relative_to(self.root), folder=is_folder):
                continue
            if is_folder:
                if self._is_own(path):
                    self.own.append(f"{path.relative_to(self.root).as_posix()}/")
                else:
                    folders.append(path)
            # Pipes and devices exist but are not files; reading from them might never end.
            elif is_loop or entry.is_file() or (entry.is_symlink() and not path.exists()):
                if is_picture(path, names):
                    pictures.append(path)
                else:
                    others[path.suffix.lower() or "without an ending"] += 1
            else:
                others["pipe or device"] += 1
        return Listing(tuple(sorted(folders)), tuple(sorted(pictures)), others)

    def folders(self, folder: Path) -> tuple[Path, ...]:
        """List the folders directly in a folder that is expected to hold class folders.

        Raises:
            DataLayout: A link is broken, and may have led to a folder. Its class would be missing without a warning.
            OSError: The folder cannot be read.
        """
        listing = self.listing(folder)
        for path in listing.pictures:
            if path.suffix.lower() not in SUFFIXES and path.is_symlink() and not path.exists():
                raise DataLayout(
                    f"{str(path)!r} is a broken link: {os.readlink(path)!r} does not exist. Repair or remove the link."
                )
        return listing.folders

    def live(self, folder: Path) -> list[Path]:
        """List the folders directly in a folder that have pictures in them, at any depth."""
        return [each for each in self.listing(folder).folders if next(self._walk(each), None) is not None]

    def pictures(self, folder: Path) -> list[Path]:
        """List the pictures in a folder, at any depth.

        Links are followed, but each folder is entered only once, and a folder that contains this one is never entered.
        Broken links are listed, so that they are reported with the unreadable pictures.

        Raises:
            OSError: A folder cannot be read. Its pictures would otherwise be missing without a warning.
        """
        if folder not in self._below:
            self._below[folder] = sorted(self._walk(folder))
        return self._below[folder]

    def _walk(self, folder: Path) -> Iterator[Path]:
        real = Path(os.path.realpath(folder))
        seen = {str(real), *map(str, real.parents)}
        waiting = [folder]
        while waiting:
            listing = self.listing(waiting.pop())
            yield from listing.pictures
            for inner in listing.folders:
                place = os.path.realpath(inner)
                if place not in seen:
                    seen.add(place)
                    waiting.append(inner)

    def others(self, folder: Path) -> Counter[str]:
        """Return the number of files in a folder that are not pictures, at any depth, by ending."""
        listing = self.listing(folder)
        return sum((self.others(each) for each in listing.folders if not each.is_symlink()), Counter(listing.others))

    def excluded_in(self, folder: Path) -> bool:
        """Return whether something in a folder is left out, because it matches --exclude or because zoo wrote it."""
        return any(path.startswith(self.shown(folder)) for path in (*self.exclusion.left_out, *self.own))

    def shown(self, folder: Path) -> str:
        """Return the path of a folder relative to the root, with a slash at its end."""
        return f"{printable(folder.relative_to(self.root).as_posix())}/"

    def passed_over(self) -> Counter[str]:
        """Return the number of files that are not pictures, by ending, in all folders that were read."""
        # A folder may have been read twice, once through a link.
        listings = {os.path.realpath(folder): listing for folder, listing in self._listings.items()}
        return sum((listing.others for listing in listings.values()), Counter[str]())

    @cached_property
    def _cache(self) -> str:
        return os.path.realpath(files.cache())

    def _is_own(self, folder: Path) -> bool:
        """Return whether zoo wrote a folder: a run, an export, a quarantine, a folder of nothing else, or the cache."""
        return is_written_by_zoo(folder) or os.path.realpath(folder) == self._cache


def _is_loop(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a link that leads to itself, so that it is as good as a broken one."""
    try:
        entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return True
    return False
