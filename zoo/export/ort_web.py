"""Reads the files of onnxruntime-web that a page for browsers needs, from its npm package.

The package is a .tgz file as the npm registry has it, or a folder into which it was unpacked, such as
node_modules/onnxruntime-web. `zoo.workflow.web` downloads the package.
"""

from __future__ import annotations

import importlib.util
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import UsageError

PACKAGE = "onnxruntime-web"
# The version that zoo's tests use, and the digest of its .tgz file that the npm registry publishes.
VERSION = "1.30.0"
FILENAME = f"{PACKAGE}-{VERSION}.tgz"
SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
BYTES = 33106585
# The smallest set that runs a network on the processor: the library, and the engine with the script that starts it.
NAMES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
# No file of the package that is needed comes near this size.
LARGEST = 200_000_000


@dataclass(frozen=True)
class OrtWeb:
    """The files of onnxruntime-web for a page.

    Args:
        version: The version of the package.
        files: Maps the name of each file to its bytes: `NAMES`, and the notices of licenses that are at hand.
    """

    version: str
    files: dict[str, bytes]


def read(package: Path) -> OrtWeb:
    """Read the files that a page needs from the npm package.

    Args:
        package: The .tgz file, or the folder into which it was unpacked.

    Raises:
        UsageError: The path does not exist, or is not this package, or the package lacks one of the files.
    """
    try:
        if not package.exists():
            raise ValueError("nothing is there")
        if package.is_dir():
            folder = next(each for each in (package, package / "package", package.parent) if _is_root(each))
            return _read(package, lambda name: (folder / name).read_bytes())
        with tarfile.open(package) as archive:
            return _read(package, lambda name: _member(archive, name))
    except StopIteration:
        reason = "it has no package.json"
    except (KeyError, FileNotFoundError) as error:
        missing = error.filename if isinstance(error, FileNotFoundError) else error.args[0]
        reason = f"{str(missing)!r} is missing"
    except OSError as error:
        reason = error.strerror or str(error)
    except (tarfile.TarError, EOFError, ValueError) as error:
        reason = str(error)
    raise UsageError(
        f"{str(package)!r} is not the npm package {PACKAGE}: {reason}. Give its .tgz file, as `npm pack "
        f"{PACKAGE}@{VERSION}` fetches it, or the folder node_modules/{PACKAGE}."
    )


def _is_root(folder: Path) -> bool:
    return (folder / "package.json").is_file()


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.getmember(f"package/{name}")
    if member.size > LARGEST:
        raise ValueError(f"{name} has {member.size} bytes")
    stream = archive.extractfile(member)
    if stream is None:
        raise KeyError(name)
    return stream.read()


def _read(package: Path, content: Callable[[str], bytes]) -> OrtWeb:
    about = json.loads(content("package.json"))
    name = about.get("name") if isinstance(about, dict) else None
    if name != PACKAGE:
        raise ValueError(f"its package.json names {name!r}")
    found = {each: content(f"dist/{each}") for each in NAMES}
    return OrtWeb(str(about.get("version")), {**found, **_notices()})


def _notices() -> dict[str, bytes]:
    """Return the notices about other projects' code in ONNX Runtime. The npm package lacks them, Python's has them."""
    spec = importlib.util.find_spec("onnxruntime")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / "ThirdPartyNotices.txt"
        if path.is_file():
            return {path.name: path.read_bytes()}
    return {}
