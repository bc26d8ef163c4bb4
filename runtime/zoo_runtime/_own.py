"""Recognizes what zoo wrote itself, so that its charts are not read as pictures: runs, exports and quarantines."""

from __future__ import annotations

import json
import mmap
import os

from ._engine import LITERT, engine_of, exported_in
from ._kinds import is_picture

METADATA = "zoo.json"
"""The part of a .tflite file that has the metadata."""


def is_written_by_zoo(folder: str | os.PathLike[str]) -> bool:
    """Return whether zoo wrote a folder: a run, an export, a quarantine, or a folder of nothing else.

    Args:
        folder: Path of the folder. The names of files and folders do not matter, only what is in them.
    """
    path = os.fspath(folder)
    if is_output(path):
        return True
    try:
        with os.scandir(path) as entries:
            inside = [entry for entry in entries if not entry.name.startswith(".")]
        folders = [entry.path for entry in inside if entry.is_dir()]
    except OSError:
        return False
    return bool(folders) and len(folders) == len(inside) and all(map(is_output, folders))


def is_output(folder: str) -> bool:
    """Return whether a folder is a run, an export or a quarantine."""
    return _is_run(folder) or _is_export(folder) or is_quarantine(folder)


def is_quarantine(folder: str | os.PathLike[str]) -> bool:
    """Return whether `zoo data check --quarantine` moved files into a folder, by the first line of its list."""
    try:
        with open(os.path.join(folder, "quarantine.csv"), "rb") as stream:
            return stream.read(100).removeprefix(b"\xef\xbb\xbf").startswith(b"moved_from,moved_to,")
    except OSError:
        return False


def _is_run(folder: str) -> bool:
    """Return whether a folder is a run folder, by what its run.json has."""
    path = os.path.join(folder, "run.json")
    if not os.path.isfile(path):
        return False
    try:
        with open(path, encoding="utf-8") as stream:
            values = json.load(stream)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"schema", "id", "status", "options"} <= values.keys()


def _is_export(folder: str) -> bool:
    """Return whether a folder is an export, by the metadata of its file. It has no pictures but a sample."""
    try:
        if not any(map(_has_metadata, exported_in(folder))):
            return False
        with os.scandir(folder) as entries:
            return sum(entry.is_dir() or is_picture(entry.path) for entry in entries) <= 1
    except (OSError, ValueError):
        return False


def _has_metadata(path: str) -> bool:
    """Return whether a file has metadata of zoo."""
    if not os.path.isfile(path) or not os.path.getsize(path):
        return False
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # In a .tflite file, the metadata are packed, and only the name of their part is readable.
        return content.rfind(METADATA.encode() if engine_of(path) is LITERT else b"zoo.schema") >= 0
