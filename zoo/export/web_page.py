"""Writes a folder with a page that runs an exported file in a browser, and decides whether it may replace a folder.

The page consists of the files in zoo/export/web, the exported file, onnxruntime-web, and what is made here: the file's
metadata as JSON, and a service worker that knows the digest of every file. Nothing is loaded from other servers.
`docs/browser.md` describes the page.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import html
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zoo_runtime
from zoo import files
from zoo.errors import UsageError, WriteError
from zoo.export.ort_web import OrtWeb
from zoo_runtime import ModelInfo, Predictor

SOURCES = Path(__file__).parent / "web"
MODEL, RECORD, WORKER, START = "model.onnx", "zoo-page.json", "sw.js", "index.html"
SCHEMA = 1
# A message names at most this many files.
NAMED = 5


def check_place(folder: Path, *, replace: bool, info: ModelInfo | None = None) -> None:
    """Check that a page may be written to a folder.

    Args:
        folder: The folder, which need not exist.
        replace: Whether the user gave `--replace`. A page with other classes, or with changed files, is then replaced.
        info: The metadata of the exported file, if they are known yet.

    Raises:
        UsageError: The folder holds something that would be lost.
        WriteError: The folder cannot be written.
    """
    files.check_writable(folder.parent, "--web FOLDER")
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UsageError(f"{str(folder)!r} is a file. Give --web the folder for the page.")
    if folder.resolve() == Path.cwd().resolve():
        raise UsageError("--web replaces the whole folder, so it cannot be the current one. Name a folder in it.")
    present = _content(folder)
    if not present:
        return
    record = _record(folder)
    if record is None:
        raise UsageError(
            f"{str(folder)!r} is not empty, and zoo did not write it: {_listed(present)}. Name another folder with "
            "--web, or remove that one."
        )
    ours = {*record["files"], RECORD}
    added = {name for name in present if name not in ours or (folder / name).is_symlink()}
    if added:
        raise UsageError(
            f"{str(folder)!r} holds files, links or empty folders that are no part of the page, and would be lost: "
            f"{_listed(added)}. Move them elsewhere, or name another folder with --web."
        )
    if replace:
        return
    changed = {name for name in present - {RECORD} if _digest((folder / name).read_bytes()) != record["files"][name]}
    if changed:
        raise UsageError(
            f"files in {str(folder)!r} were changed after zoo wrote them: {_listed(changed)}. `--replace` replaces "
            "them; or name another folder with --web."
        )
    if info is not None and set(record["classes"]) != set(info.classes):
        raise UsageError(
            f"{str(folder)!r} holds a page with other classes ({_listed(record['classes'])}). `--replace` replaces it; "
            "or name another folder with --web."
        )


def _content(folder: Path) -> set[str]:
    """Return what would be lost with a folder: its files, links and empty folders, which get a slash at their end.

    A page has no empty folders. Folders that cannot be read are named, too.
    """
    found = set[str]()

    def add(path: str, end: str = "") -> None:
        found.add(Path(path).relative_to(folder).as_posix() + end)

    for place, folders, names in os.walk(folder, onerror=lambda error: add(error.filename, "/")):
        for name in [*names, *(each for each in folders if os.path.islink(os.path.join(place, each)))]:
            add(os.path.join(place, name))
        if not folders and not names and Path(place) != folder:
            add(place, "/")
    return found


def _record(folder: Path) -> dict[str, Any] | None:
    """Return what zoo recorded about a page, or None if zoo did not write the folder."""
    with contextlib.suppress(OSError, ValueError):
        record = json.loads((folder / RECORD).read_text("utf-8"))
        kinds = {"files": dict, "classes": list}
        if isinstance(record, dict) and all(isinstance(record.get(key), kind) for key, kind in kinds.items()):
            return record
    return None


def _listed(names: Any) -> str:
    shown = sorted(map(str, names))
    more = f" and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
    return ", ".join(shown[:NAMED]) + more


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write(model: Path, folder: Path, engine: OrtWeb, *, title: str, replace: bool) -> dict[str, int]:
    """Write the page for an exported file. An earlier page in the folder is replaced as a whole.

    Args:
        model: The exported file.
        folder: The folder of the page.
        engine: The files of onnxruntime-web.
        title: The heading of the page.
        replace: As for `check_place`.

    Returns:
        The size of each file in bytes, by its name.

    Raises:
        UsageError: As for `check_place`.
        WriteError: The folder cannot be written. The earlier page is kept.
        zoo_runtime.ModelError: The exported file cannot be used.
    """
    info = Predictor(model, tuned=False).info
    content = model.read_bytes()
    folder = Path(os.path.realpath(folder))
    check_place(folder, replace=replace, info=info)
    page = _files(content, info, engine, title)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with files.scratch_folder(folder.parent) as scratch:
            _stage(page, scratch / "page")
            _swap(scratch / "page", folder, scratch / "earlier")
    except OSError as error:
        # A mounted folder, as in a container, cannot be replaced by a rename.
        mounted = " A disk or volume is mounted there: name a folder in it." if error.errno == errno.EBUSY else ""
        raise WriteError(
            f"{str(folder)!r} cannot be written: {error.strerror or error}. An earlier page is unchanged.{mounted}"
        ) from error
    return {name: len(data) for name, data in page.items()}


def _stage(page: Mapping[str, bytes], folder: Path) -> None:
    for name, data in page.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())


def _swap(staged: Path, folder: Path, earlier: Path) -> None:
    """Put a finished folder in its place. If that fails, the earlier folder comes back."""
    there = folder.is_dir()
    if there:
        os.rename(folder, earlier)
    try:
        os.rename(staged, folder)
    except OSError:
        if there:
            os.rename(earlier, folder)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _files(content: bytes, info: ModelInfo, engine: OrtWeb, title: str) -> dict[str, bytes]:
    """Return all files of the page by their names."""
    page = {path.relative_to(SOURCES).as_posix(): path.read_bytes() for path in SOURCES.rglob("*") if path.is_file()}
    start, worker = page.pop(START).decode(), page.pop(WORKER).decode()
    page |= {f"ort/{name}": data for name, data in engine.files.items()}
    page[MODEL] = content
    page["model.json"] = _json(_description(content, info, engine, title))
    page["manifest.webmanifest"] = _json(_manifest(title))
    version = _digest(json.dumps({name: _digest(data) for name, data in page.items()}, sort_keys=True).encode())[:16]
    # The title comes last, because it may contain anything.
    page[START] = start.replace("{version}", version).replace("{title}", html.escape(title)).encode()
    known = {name: _digest(data) for name, data in sorted(page.items())}
    page[WORKER] = f"const EXPORT = {_script({'version': version, 'files': known})};\n\n{worker}".encode()
    known[WORKER] = _digest(page[WORKER])
    page[RECORD] = _json(
        {
            "schema": SCHEMA,
            "zoo": zoo_runtime.__version__,
            "onnxruntime-web": engine.version,
            "run": info.run.get("id"),
            "classes": list(info.classes),
            "files": known,
        }
    )
    return page


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def _script(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True)


def _description(content: bytes, info: ModelInfo, engine: OrtWeb, title: str) -> dict[str, Any]:
    """Return what the page needs to know of the exported file: the file's own metadata, without the self-test."""

    def threshold(key: str) -> float | None:
        return (info.trust.get(key) or {}).get("threshold")

    return {
        "title": title,
        "classes": list(info.classes),
        "task": info.task,
        "image": info.image.to_json(),
        "architecture": info.architecture.get("name"),
        "precision": info.precision.get("kind", "float32"),
        "trust": {
            "unknown_below": threshold("unknown"),
            "outlier_above": threshold("outliers"),
            "sets": dict(info.trust.get("sets") or {}),
        },
        # For the bar that shows how much has been loaded.
        "bytes": {"engine": len(engine.files["ort-wasm-simd-threaded.wasm"]), "model": len(content)},
    }


def _manifest(title: str) -> dict[str, Any]:
    """Return the description with which a phone puts the page on its home screen."""
    return {
        "name": title,
        "short_name": title,
        "start_url": "./",
        "display": "standalone",
        "background_color": "#f5f6f3",
        "theme_color": "#0f6b4f",
        "icons": [{"src": "icon.svg", "sizes": "any", "type": "image/svg+xml"}],
    }
