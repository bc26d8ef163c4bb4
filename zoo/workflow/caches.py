"""Lists what zoo's cache holds, and removes parts of it that no process uses.

Only what zoo made is removed: sets of decoded pictures and of features, converted networks, downloaded weights, and
what killed processes left. Everything else in the cache folder is named and stays. `zoo.files` has the marks of use.
"""

from __future__ import annotations

import ast
import contextlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo import files
from zoo.errors import WriteError
from zoo.plugin.registry import Registry

PICTURES, FEATURES, NETWORKS, WEIGHTS, DOWNLOADS, LEFTOVERS = (
    "pictures",
    "features",
    "networks",
    "weights",
    "downloads",
    "leftovers",
)
KINDS = (PICTURES, FEATURES, NETWORKS, WEIGHTS, DOWNLOADS, LEFTOVERS)
# The subfolders with sets, and the files that prove that a folder is a set.
SETS = {
    PICTURES: ("pixels", ("pixels.npy", "bad.json")),
    FEATURES: ("features", ("values", "done", "spans")),
    NETWORKS: ("backbones", ("graph.onnx", "sha256.json")),
}
WEIGHTS_FOLDER = "weights"
OTHER_FOLDERS = (WEIGHTS_FOLDER, "views")
# What `zoo cache prune` removes if nothing is named: what was computed and has not been used for so long.
USUAL_SECONDS = 30 * 24 * 3600.0
SET_NAME = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class Entry:
    """One thing that the cache holds, which is kept or removed as a whole.

    Args:
        kind: One of `KINDS`.
        path: The folder of a set, or the file.
        bytes: The size on the disk.
        used: The time of the last use, in seconds since the epoch.
        about: What it is, for people.
        in_use: Whether a process uses it.
        loss: What a removal loses for good; "" if zoo makes or downloads it again.
    """

    kind: str
    path: Path
    bytes: int
    used: float
    about: str
    in_use: bool = False
    loss: str = ""


@dataclass(frozen=True)
class CacheContent:
    """What the cache folder holds.

    Args:
        folder: The cache folder, which need not exist.
        entries: What zoo keeps there.
        foreign: What zoo did not make, each with what it seems to be. zoo does not remove it.
        problems: Folders that cannot be read, each with the reason.
        limits: The greatest size of each kind that is limited, in bytes.
    """

    folder: Path
    entries: tuple[Entry, ...]
    foreign: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)


def read(registry: Registry) -> CacheContent:
    """List what the cache folder holds. Nothing is changed.

    Args:
        registry: The loaded plugins, which say what weights files are, and whether zoo can download them again.
    """
    folder = files.cache()
    entries: list[Entry] = []
    foreign: dict[str, str] = {}
    problems: dict[str, str] = {}
    known = {name for name, _ in SETS.values()} | set(OTHER_FOLDERS)
    for path in _listed(folder, problems):
        if path.name not in known:
            foreign[str(path)] = "zoo did not make it"
    for kind, (name, proof) in SETS.items():
        for path in _listed(folder / name, problems):
            entry = _set_entry(kind, path, proof)
            if isinstance(entry, Entry):
                entries.append(entry)
            elif entry:
                foreign[str(path)] = entry
    names = _data_names(entries)
    entries = [_with_data(entry, names) for entry in entries]
    published = _published(registry)
    for path in _listed(folder / WEIGHTS_FOLDER, problems):
        entry = _weights_entry(path, published)
        if isinstance(entry, Entry):
            entries.append(entry)
        elif entry:
            foreign[str(path)] = entry
    entries += _unfinished(folder / WEIGHTS_FOLDER, problems)
    entries.sort(key=lambda each: (KINDS.index(each.kind), -each.used, each.path))
    return CacheContent(folder, tuple(entries), foreign, problems, _limits())


def _limits() -> dict[str, int]:
    from zoo.data import pixels
    from zoo.train.frozen import backbone, store

    return {PICTURES: pixels.CACHE_BYTES, FEATURES: store.DEFAULT_BYTES, NETWORKS: backbone.LIMIT}


def _listed(folder: Path, problems: dict[str, str]) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        problems[str(folder)] = error.strerror or str(error)
        return []


def _set_entry(kind: str, path: Path, proof: Collection[str]) -> Entry | str:
    """Describe a set; return a text about something that zoo did not make, or "" about what is being written."""
    if path.is_symlink():
        return "a link"
    if path.name.startswith(files.SCRATCH):
        return _leftover(path)
    if not path.is_dir():
        return "zoo did not make it"
    names = {each.name for each in _listed(path, {})}
    if not SET_NAME.fullmatch(path.name) or not names & set(proof):
        return "zoo did not make it"
    return Entry(kind, path, _size(path), _changed(path), _about(kind, path), files.in_use(path))


def _leftover(path: Path) -> Entry | str:
    """Describe a temporary folder, which is a leftover if nothing has been written to it for an hour."""
    times = [_changed(path), *(_changed(each) for each in _listed(path, {}))]
    if time.time() - max(times) <= files.LEFTOVER_SECONDS:
        return ""
    return Entry(LEFTOVERS, path, _size(path), max(times), "left by a process that was killed")


def _size(path: Path) -> int:
    """Return the bytes that a file or a folder takes on the disk. Files of features have holes."""
    total = 0
    for each in [path] if not path.is_dir() else path.rglob("*"):
        with contextlib.suppress(OSError):
            status = each.lstat()
            total += min(status.st_size, getattr(status, "st_blocks", status.st_size) * 512)
    return total


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _about(kind: str, path: Path) -> str:
    if kind == PICTURES:
        return _about_pictures(path)
    if kind == FEATURES:
        # `done` has one byte for each row.
        rows = [(path / name).stat().st_size for name in ("values", "done") if (path / name).is_file()]
        return f"{rows[1]} rows of {rows[0] // rows[1]} bytes" if len(rows) == 2 and rows[1] else "damaged"
    return "a backbone, converted for onnxruntime"


def _about_pictures(path: Path) -> str:
    shape = _npy_shape(path / "pixels.npy")
    size = "" if shape is None else f"{shape[0]} pictures, {shape[1]}x{shape[2]}"
    notes = _notes(path)
    data = str(notes.get("data") or "")
    place = f" ({notes['place']})" if notes.get("place") else ""
    return f"{data}: {size}{place}" if data else size or "damaged"


def _notes(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return dict(json.loads((path / "about.json").read_text("utf-8")))
    return {}


def _npy_shape(path: Path) -> tuple[int, ...] | None:
    """Read the shape of an array of four dimensions from the head of its file, without numpy."""
    with contextlib.suppress(OSError, ValueError, SyntaxError, KeyError, TypeError):
        with path.open("rb") as stream:
            head = stream.read(400)
        shape = ast.literal_eval(head[head.index(b"{") : head.index(b"}") + 1].decode("latin-1"))["shape"]
        return tuple(map(int, shape)) if len(shape) == 4 else None
    return None


def _data_names(entries: Collection[Entry]) -> dict[str, str]:
    """Return the names of the data for the names of the sets of decoded pictures."""
    found = {each.path.name: str(_notes(each.path).get("data") or "") for each in entries if each.kind == PICTURES}
    return {key: name for key, name in found.items() if name}


def _with_data(entry: Entry, names: Mapping[str, str]) -> Entry:
    """Add to a set of features the name of the data, if the set says of which pictures it was made."""
    if entry.kind != FEATURES:
        return entry
    with contextlib.suppress(OSError, ValueError):
        text = (entry.path / "key").read_text("utf-8")
        for key in SET_NAME.findall(text):
            if key in names:
                return Entry(**{**vars(entry), "about": f"{names[key]}: {entry.about}"})
    return entry


def _published(registry: Registry) -> dict[str, str]:
    """Return what the published files are, by their names."""
    from zoo.export import ort_web
    from zoo.plugin import Weights

    found: dict[str, list[str]] = {}
    for each in registry.all(Weights):
        found.setdefault(each.filename, []).append(each.id)
        if each.class_index is not None:
            found[each.class_index.filename] = ["class names"]
    found[ort_web.FILENAME] = [f"{ort_web.PACKAGE}, for pages"]
    return {name: ", ".join(dict.fromkeys(ids)) for name, ids in found.items()}


def _weights_entry(path: Path, published: Mapping[str, str]) -> Entry | str:
    """Describe a file among the weights; return a text about something that zoo did not make, or "" about its tools."""
    if path.is_symlink():
        return "a link"
    if path.name.startswith(files.SCRATCH):
        return _leftover(path)
    if path.is_dir():
        return "" if path.name == ".downloads" else "zoo did not make it"
    if path.name.endswith(".sha256"):
        # It stays when the file is removed, so that the next download is compared with it.
        return ""
    about = published.get(path.name, "")
    if not path.with_name(path.name + ".sha256").is_file():
        return f"put there by hand{f': {about}' if about else ''}"
    loss = "" if about else "no installed plugin knows it, so that zoo cannot download it again"
    if about and files.offline():
        loss = "ZOO_OFFLINE forbids to download it again"
    status = path.lstat()
    used = max(status.st_mtime, status.st_atime)
    return Entry(WEIGHTS, path, _size(path), used, about or "unknown weights", files.in_use(path), loss)


def _unfinished(folder: Path, problems: dict[str, str]) -> Iterator[Entry]:
    """Describe the unfinished downloads."""
    for path in _listed(folder / ".downloads", problems):
        if path.suffix in (".lock", ".json") or path.is_symlink() or not path.is_file():
            continue
        running = files.in_use(path.with_name(path.name + ".lock"))
        yield Entry(DOWNLOADS, path, _size(path), _changed(path), "an unfinished download, which continues", running)


def choose(
    content: CacheContent, kinds: Collection[str], older_than: float | None, now: float | None = None
) -> list[Entry]:
    """Choose what to remove. What is in use is never chosen.

    Args:
        content: What `read` returned.
        kinds: The kinds to remove. If it is empty, those that zoo computes again are chosen if they have not been used
            for 30 days, or for `older_than`.
        older_than: Only what has not been used for so many seconds; None means any age if kinds are named.
        now: The current time in seconds since the epoch; None reads the clock.

    Returns:
        The entries to remove. Leftovers are always among them.
    """
    now = time.time() if now is None else now
    if not kinds:
        kinds = (PICTURES, FEATURES, NETWORKS)
        older_than = USUAL_SECONDS if older_than is None else older_than
    return [
        each
        for each in content.entries
        if not each.in_use
        and (each.kind == LEFTOVERS or (each.kind in kinds and (older_than is None or now - each.used > older_than)))
    ]


def remove(entries: Collection[Entry]) -> tuple[int, dict[str, str]]:
    """Remove entries of the cache. Those that a process has begun to use meanwhile stay.

    Returns:
        The number of bytes that were freed, and the reason for each path that could not be removed.
    """
    freed, problems = 0, {}
    removers: dict[str, Callable[[Path], None]] = {WEIGHTS: _remove_file, DOWNLOADS: _remove_download}
    for each in entries:
        try:
            if files.in_use(each.path):
                problems[str(each.path)] = "a process uses it"
                continue
            removers.get(each.kind, _remove_set)(each.path)
            freed += each.bytes
        except FileNotFoundError:
            # Another process has removed it.
            continue
        except (OSError, WriteError) as error:
            problems[str(each.path)] = getattr(error, "strerror", None) or str(error)
    return freed, problems


def _remove_set(path: Path) -> None:
    # It checks that the folder can be renamed, which `evict` does not say.
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise WriteError(f"you have no permission to write to {str(path.parent)!r}")
    if path.name.startswith(files.SCRATCH):
        shutil.rmtree(path)
        return
    files.evict(path)
    if os.path.lexists(path):
        raise WriteError("it cannot be renamed")


def _remove_file(path: Path) -> None:
    path.unlink()


def _remove_download(path: Path) -> None:
    """Remove an unfinished download, unless a process continues it."""
    import filelock

    lock = filelock.FileLock(path.with_name(path.name + ".lock"), mode=0o666)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise WriteError("a process is downloading it") from None
    try:
        path.unlink()
        path.with_name(path.name + ".json").unlink(missing_ok=True)
    finally:
        lock.release()


def totals(content: CacheContent) -> dict[str, int]:
    """Return the total size of each kind in bytes, of those that there are."""
    return {
        kind: sum(each.bytes for each in content.entries if each.kind == kind)
        for kind in KINDS
        if any(each.kind == kind for each in content.entries)
    }


def free(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist."""
    there = Path(os.path.abspath(folder))
    while not there.is_dir() and there != there.parent:
        there = there.parent
    try:
        return shutil.disk_usage(there).free
    except OSError:
        return 0


def parse_age(text: str) -> float:
    """Return the seconds of an age such as "30d", "12h" or "2w".

    Raises:
        ValueError: It has another form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(h|d|w)", text.strip().lower())
    if not match:
        raise ValueError(text)
    seconds = float(match[1]) * {"h": 3600, "d": 86400, "w": 7 * 86400}[match[2]]
    if not math.isfinite(seconds):
        raise ValueError(text)
    return seconds
