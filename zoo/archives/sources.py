"""Finds the pictures of an archive, and divides them into shards: the pieces of work that are done as a whole.

A tar file and a Parquet file are a shard each. The pictures of a folder are divided into slices of its sorted list.
Everything is found while the work goes on, so that the names of all pictures are never in memory together.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from zoo.archives.stores import (
    PARQUETS,
    TARS,
    Entry,
    Store,
    holds_answers,
    is_address,
    store_of,
    without_scheme,
)
from zoo.errors import DataNotFound, UsageError
from zoo_runtime import SUFFIXES
from zoo_runtime.workshop import is_picture, is_readable

SLICE = 1000
"""How many pictures of a folder are a shard, if the user does not say so."""

# Compressed in ways that zoo does not read.
OTHER_TARS = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".zip", ".7z", ".rar")


@dataclass(frozen=True)
class Shard:
    """A piece of work, which one worker does from its first picture to its last.

    Args:
        kind: "tar", "parquet" or "pictures".
        name: What it is called: the path of the archive, or the folder and the number of the slice.
        root: The archive or the folder: a path or an address.
        fingerprint: Tells whether the files have changed.
        paths: The paths of the pictures of a slice. Empty for an archive.
    """

    kind: str
    name: str
    root: str
    fingerprint: str
    paths: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """What the files of this shard are called; the same name has the same id on every machine."""
        return hashlib.sha256(self.name.encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def to_json(self) -> str:
        """Return the shard as text that can be sent to a worker."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Shard:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        return cls(**{**values, "paths": tuple(values["paths"])})


@dataclass
class PassedOver:
    """Counts the files that are neither pictures nor archives, by their endings."""

    endings: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        rows = sorted(self.endings.items(), key=lambda item: (-item[1], item[0]))[:8]
        return ", ".join(f"{count:,} {ending or 'without an ending'}" for ending, count in rows)


def roots_of(words: Sequence[str]) -> list[str]:
    """Return what the user's words stand for: absolute paths and addresses of folders, archives and pictures.

    Args:
        words: Paths, addresses, and patterns such as `photos/*.tar`.

    Raises:
        DataNotFound: There is nothing at a path, or nothing matches a pattern.
        UsageError: A word is of a kind that cannot be read, or one lies inside another, so that pictures would be
            scored twice.
        InstallationError: A package is missing.
    """
    roots: list[str] = []
    for word in words:
        if word == "-":
            raise UsageError("--out takes folders and archives. Leave --out out to label a picture on standard input.")
        place = _place(word)
        store = store_of(place)
        exists = not is_address(place) and os.path.lexists(place)
        found = [place]
        if not exists and any(sign in place for sign in "*?["):
            found = store.matching(place)
            if not found:
                raise DataNotFound(f"nothing matches {word!r}. Check the pattern.")
        for root in found:
            _refuse_kind(root, store.is_folder(root))
        roots += found
    _refuse_overlaps(roots)
    return roots


def _place(word: str) -> str:
    """Return the absolute path or the address that a word of the user stands for."""
    if "::" in word.partition("://")[0]:
        # It is not repeated: the part behind may hold a password.
        raise UsageError("zoo does not take addresses in addresses, with '::'. Give the one behind it.")
    if word.startswith("file://"):
        return os.path.abspath(without_scheme(word))
    if not is_address(word):
        return os.path.abspath(os.path.expanduser(word))
    place = word.rstrip("/")
    # memory:// alone is the whole store.
    return place if is_address(place) else word


def _refuse_kind(root: str, is_folder: bool) -> None:
    """Refuse what exists and cannot be scored.

    Raises:
        UsageError: It is an archive of another kind, a folder of answers, or a pipe or device.
    """
    if is_folder:
        if not is_address(root) and holds_answers(root):
            raise UsageError(f"{root!r} is a folder of answers, which `zoo predict --out` wrote. Give the pictures.")
    elif root.lower().endswith(OTHER_TARS):
        raise UsageError(
            f"{root!r} is an archive of a kind that zoo does not read. It reads .tar, .tar.gz and .parquet. "
            "Unpack it, and give the folder."
        )
    elif not is_address(root) and not os.path.isfile(root):
        raise UsageError(f"{root!r} is neither a file nor a folder. --out cannot read it again after an interruption.")


def _refuse_overlaps(roots: Sequence[str]) -> None:
    ordered = sorted(f"{root.rstrip('/')}/" for root in roots)
    for before, after in pairwise(ordered):
        if after.startswith(before):
            raise UsageError(
                f"{after[:-1]!r} is given twice, or is inside {before[:-1]!r}: its pictures would be scored twice. "
                "Give it once."
            )


def shards_of(roots: Sequence[str], size: int = SLICE, passed_over: PassedOver | None = None) -> Iterator[Shard]:
    """Yield the shards of an archive, in an order that is always the same.

    Args:
        roots: What `roots_of` returned.
        size: How many pictures of a folder are a shard.
        passed_over: Counts the files that are neither pictures nor archives.

    Raises:
        DataNotFound: A folder cannot be read.
    """
    passed_over = PassedOver() if passed_over is None else passed_over
    singles: list[tuple[Store, Entry]] = []
    for root in roots:
        store = store_of(root)
        if store.is_folder(root):
            yield from _folder(store, root, size, passed_over)
        elif kind := _kind(root):
            yield _archive(kind, store.entry(root))
        else:
            singles.append((store, store.entry(root)))
    for start in range(0, len(singles), size):
        entries = [entry for _, entry in singles[start : start + size]]
        yield _slice("pictures", entries[0].path.rpartition("/")[0], start // size, entries)


def _folder(store: Store, root: str, size: int, passed_over: PassedOver) -> Iterator[Shard]:
    waiting: list[Entry] = []
    number = 0
    for entry in store.walk(root):
        if kind := _kind(entry.path):
            yield _archive(kind, entry)
        elif _is_meant(entry):
            waiting.append(entry)
            if len(waiting) == size:
                yield _slice(root, root, number, waiting)
                waiting, number = [], number + 1
        else:
            passed_over.endings[os.path.splitext(entry.path)[1].lower()[:12]] += 1
    if waiting:
        yield _slice(root, root, number, waiting)


def _kind(path: str) -> str:
    lower = path.lower()
    return "tar" if lower.endswith(TARS) else "parquet" if lower.endswith(PARQUETS) else ""


def _is_meant(entry: Entry) -> bool:
    """Return whether a file is a picture, as in training and on the device. In an object store, its name decides."""
    ending = os.path.splitext(entry.path)[1].lower()
    if is_address(entry.path):
        return ending in SUFFIXES
    return (is_readable(entry.path) or ending in SUFFIXES) and is_picture(entry.path, entry.beside)


def _archive(kind: str, entry: Entry) -> Shard:
    return Shard(kind, entry.path, entry.path, entry.stamp)


def _slice(name: str, root: str, number: int, entries: Sequence[Entry]) -> Shard:
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(f"{entry.path}\0{entry.stamp}\0".encode("utf-8", "surrogateescape"))
    paths = tuple(entry.path for entry in entries)
    return Shard("pictures", f"{name}#{number}", root, digest.hexdigest()[:32], paths)
