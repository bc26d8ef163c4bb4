"""Makes a page that runs an exported file in a browser: finds the file and onnxruntime-web, and writes the folder.

`zoo.export.web_page` writes the page, and `zoo.export.ort_web` reads onnxruntime-web.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from zoo import runs
from zoo.errors import ExportError, RunError, UsageError, WeightsError
from zoo.export import ort_web, web_page
from zoo.pretrained import fetch
from zoo.reporter import Reporter
from zoo.workflow.replaced import EXPORTED_FILE

REGISTRY = "https://registry.npmjs.org"


def registry() -> str:
    """Return the address of the npm registry without a slash at its end: that of npm's settings, or the public one.

    npm reads it from the environment variable npm_config_registry, in any letter case, or from a line
    `registry=ADDRESS` of ~/.npmrc or of the file that npm_config_userconfig names.
    """
    settings = {name.lower(): value for name, value in os.environ.items() if name.lower().startswith("npm_config_")}
    given = settings.get("npm_config_registry", "").strip()
    if not given:
        path = Path(os.path.expanduser(settings.get("npm_config_userconfig") or "~/.npmrc"))
        try:
            lines = re.findall(r"^\s*registry\s*=\s*[\"']?([^\s\"']+)", path.read_text("utf-8", "replace"), re.M)
        except OSError:
            lines = []
        given = lines[-1] if lines else REGISTRY
    if not given.startswith(("https://", "http://")):
        raise UsageError(
            f"npm's setting `registry` must be an address that begins with https://. Received: {given!r}. "
            f"Correct it, such as npm_config_registry={REGISTRY}, or give the package with --ort-web."
        )
    return given.rstrip("/")


def package() -> fetch.OtherFile:
    """Describe the npm package of onnxruntime-web on the npm registry."""
    url = f"{registry()}/{ort_web.PACKAGE}/-/{ort_web.FILENAME}"
    return fetch.OtherFile(url, ort_web.FILENAME, f"sha512:{ort_web.SHA512}", ort_web.BYTES)


def find_engine(given: Path | None, reporter: Reporter) -> ort_web.OrtWeb:
    """Read onnxruntime-web from what the user gave, or from the mirror or the cache, or download it.

    Args:
        given: The npm package, a .tgz file or a folder; None for the version that zoo knows.
        reporter: Receives the progress of a download, and a warning about another version.

    Raises:
        UsageError: What the user gave is not the package.
        ExportError: The package is not available. The message says how to get it.
    """
    if given is not None:
        engine = ort_web.read(given)
        if engine.version != ort_web.VERSION:
            reporter.warn(
                f"{str(given)!r} has onnxruntime-web {engine.version}; zoo is tested with {ort_web.VERSION}. Try the "
                "page before you publish it."
            )
        return engine
    entry = package()
    try:
        with reporter.transfer(
            f"downloading {ort_web.PACKAGE}", fetch.waiting_label(entry, ort_web.PACKAGE)
        ) as progress:
            path = fetch.find_file(entry, progress, reporter.warn)
    except WeightsError as error:
        raise ExportError(
            f"{str(error).rstrip('.')}. The page needs {ort_web.PACKAGE}, which runs the network in the browser. "
            f"Where the npm registry can be reached, `npm pack {ort_web.PACKAGE}@{ort_web.VERSION}` fetches "
            f"{entry.filename}; then add --ort-web {entry.filename} to this command. The environment variable "
            "npm_config_registry names another registry."
        ) from error
    return ort_web.read(path)


def find_exported(what: str, exported: Path, runs_folder: Path) -> tuple[Path, str] | None:
    """Find an exported file that exists already: that of a finished run, or one that the user names.

    Args:
        what: What the user typed: a run, an export, or the path of an exported file or of its folder.
        exported: The folder of exports.
        runs_folder: The folder of runs.

    Returns:
        The path of the file and its name for people. None if the run has no exported file yet, or if nothing has this
        name.
    """
    folder = runs.locate(what, runs_folder)
    if folder:
        if not (folder / EXPORTED_FILE).is_file():
            return None
        try:
            return folder / EXPORTED_FILE, runs.load(folder)[1].name
        except RunError:
            return None
    for place in (Path(what), exported / what):
        if os.path.isfile(place / EXPORTED_FILE):
            return place / EXPORTED_FILE, place.resolve().name
        if os.path.isfile(place):
            return place, place.resolve().parent.name if place.name == EXPORTED_FILE else place.stem
    return None


def write(
    model: Path, folder: Path, engine: ort_web.OrtWeb, reporter: Reporter, *, title: str, replace: bool
) -> dict[str, int]:
    """Write the page for an exported file; see `zoo.export.web_page.write`."""
    with reporter.timing.measure("page"):
        return web_page.write(model, folder, engine, title=title, replace=replace)
