"""Checks HDF5 files before anybody reads them, and reads their arrays.

HDF5 can name other files (external links, external storage, virtual datasets), load code for filters, and describe
arrays that are far larger than the file. Weights files of Keras need none of that. h5py and Keras follow all of it.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from zoo.errors import WeightsIncompatible

if TYPE_CHECKING:
    import h5py
    import numpy as np

DEEPEST = 100
MOST_OBJECTS = 500_000
# How many times larger than the file its arrays may be if they are compressed. Weights hardly compress at all.
LARGEST_RATIO = 50
# Below this size, nothing is too large.
HARMLESS = 16 << 20
# deflate, shuffle, fletcher32, szip, and lzf: these are part of h5py, so that no code is loaded for them.
FILTERS = {1, 2, 3, 4, 32000}
# That of a network of a thousand layers has less than a megabyte. As objects, its text takes many times the memory.
LONGEST_CONFIG = 8 << 20


def check(file: Path | IO[bytes]) -> None:
    """Refuse an HDF5 file that names other files, needs other code, or claims more than it holds.

    Args:
        file: The path, or a stream with the content of the file.

    Raises:
        WeightsIncompatible: The file is refused, or it is damaged.
    """
    import h5py

    size = os.stat(file).st_size if isinstance(file, Path) else file.seek(0, 2)
    try:
        with h5py.File(file, "r") as opened:
            total = 0
            for name, item in _objects(opened):
                _check_attributes(name, item, size)
                if isinstance(item, h5py.Dataset):
                    total += _checked_size(name, item, size)
            if total > max(HARMLESS, LARGEST_RATIO * size):
                raise _refused(f"its arrays take {total:,} bytes, and the file has {size:,}")
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsIncompatible(f"the file is damaged, or it is not a weights file ({text[:200]})") from None


def check_archive(path: Path) -> None:
    """Check the members of a .keras archive that zoo reads: config.json and model.weights.h5.

    Raises:
        WeightsIncompatible: A member is refused, or the archive is damaged.
    """
    content = archive_members(path)
    check(io.BytesIO(content["model.weights.h5"]))


def archive_members(path: Path) -> dict[str, bytes]:
    """Read config.json and model.weights.h5 of a .keras archive. No other member is read, and no file is written.

    Raises:
        WeightsIncompatible: A member is missing, or far larger than the archive. Or the archive is damaged.
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        try:
            return _members(stream)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
            # A member that claims to lie before the start of the file raises OSError.
            text = str(error)[:100]
        raise WeightsIncompatible(f"the file is damaged, or it is not a weights file ({text})")


def _members(archived: IO[bytes]) -> dict[str, bytes]:
    size = archived.seek(0, 2)
    found = {}
    with zipfile.ZipFile(archived) as archive:
        for name, most in (("config.json", LONGEST_CONFIG), ("model.weights.h5", None)):
            try:
                info = archive.getinfo(name)
            except KeyError:
                raise WeightsIncompatible(f"the archive has no {name}; Keras did not save it") from None
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise WeightsIncompatible(f"{name} is compressed in a way that Keras does not use")
            limit = max(HARMLESS, LARGEST_RATIO * size) if most is None else most
            if info.file_size > limit:
                raise _too_large(f"{name} has {info.file_size:,} bytes", size, most)
            with archive.open(info) as stream:
                # The size that a member claims need not be true.
                found[name] = stream.read(limit + 1)
            if len(found[name]) > limit:
                raise _too_large(f"{name} has more than {limit:,} bytes", size, most)
    return found


def _too_large(what: str, size: int, most: int | None) -> WeightsIncompatible:
    return _refused(f"{what}, and " + (f"the archive has {size:,}" if most is None else f"at most {most:,} are read"))


def read(path: Path) -> Mapping[str, np.ndarray]:
    """Read all arrays of a file; see `zoo.plugin.read_tensors`.

    Raises:
        WeightsIncompatible: The file is refused, or it is damaged.
        OSError: The file cannot be read.
    """
    import h5py
    import numpy as np

    check(path)
    arrays = {}
    with h5py.File(path, "r") as file:
        for name, item in _objects(file):
            if isinstance(item, h5py.Dataset) and item.dtype.kind in "biufc" and item.shape is not None:
                try:
                    array = np.asarray(item[()])
                except (OSError, RuntimeError, ValueError) as error:
                    # A filter notices only now that its bytes are damaged.
                    raise WeightsIncompatible(f"the array {name[:100]!r} is damaged ({str(error)[:100]})") from None
                array.flags.writeable = False
                arrays[name] = array
    return arrays


def _objects(file: h5py.File) -> Iterator[tuple[str, Any]]:
    """Yield the path and the object of everything in a file, each once. Only plain links are followed.

    Raises:
        WeightsIncompatible: There is another kind of link, or there are too many objects.
    """
    import h5py

    waiting: list[tuple[str, Any, int]] = [("", file, 0)]
    seen = {_address(file)}
    while waiting:
        name, item, depth = waiting.pop()
        yield name or "/", item
        if not isinstance(item, h5py.Group):
            continue
        if depth >= DEEPEST or len(seen) + len(item) > MOST_OBJECTS:
            raise _refused(f"it has more than {DEEPEST} levels of groups, or more than {MOST_OBJECTS:,} objects")
        for key in reversed(list(item.keys())):
            path = f"{name}/{key}" if name else key
            link = item.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise _refused(f"{path[:100]!r} is a link to another file")
            if not isinstance(link, h5py.HardLink):
                raise _refused(f"{path[:100]!r} is a soft link, which Keras does not write")
            child = item.get(key)
            if child is None:
                raise _refused(f"{path[:100]!r} cannot be opened")
            address = _address(child)
            if address not in seen:
                seen.add(address)
                waiting.append((path, child, depth + 1))


def _address(item: Any) -> Any:
    import h5py

    return h5py.h5o.get_info(item.id).addr


def _check_attributes(name: str, item: Any, size: int) -> None:
    import h5py

    for i in range(h5py.h5a.get_num_attrs(item.id)):
        attribute = h5py.h5a.open(item.id, index=i)
        _check_dtype(f"an attribute of {name[:100]!r}", attribute.dtype)
        taken = math.prod(attribute.shape or ()) * attribute.dtype.itemsize
        if taken > max(HARMLESS, size):
            raise _refused(f"an attribute of {name[:100]!r} claims {taken:,} bytes")


def _checked_size(name: str, item: h5py.Dataset, size: int) -> int:
    """Check one array, and return how many bytes it takes in memory."""
    if item.external or item.is_virtual:
        raise _refused(f"the array {name[:100]!r} is in another file")
    _check_dtype(f"the array {name[:100]!r}", item.dtype)
    properties = item.id.get_create_plist()
    filters = {properties.get_filter(i)[0] for i in range(properties.get_nfilters())}
    if not filters <= FILTERS:
        raise _refused(f"the array {name[:100]!r} has the filter {max(filters - FILTERS)}, which needs other code")
    needed: int
    needed, held = math.prod(item.shape or ()) * item.dtype.itemsize, item.id.get_storage_size()
    chunk = math.prod(item.chunks or ()) * item.dtype.itemsize if item.chunks else 0
    if chunk > max(HARMLESS, 4 * needed, LARGEST_RATIO * size):
        raise _refused(f"the array {name[:100]!r} has chunks of {chunk:,} bytes")
    if needed > max(HARMLESS if filters else 1 << 16, (LARGEST_RATIO if filters else 1) * max(held, 1)):
        raise _refused(f"the array {name[:100]!r} of shape {item.shape} claims {needed:,} bytes, and holds {held:,}")
    if needed and held > size:
        raise _refused(f"the array {name[:100]!r} claims {held:,} bytes, and the file has {size:,}")
    return needed


def _check_dtype(what: str, dtype: np.dtype) -> None:
    import h5py

    # Texts of any length are allowed: Keras writes the names of layers so. Lists of any length and references are not.
    if dtype.kind not in "biufcSUVO?" or (dtype.kind == "O" and h5py.check_string_dtype(dtype) is None):
        raise _refused(f"{what} holds {dtype}, and no numbers or texts")
    if dtype.hasobject and dtype.kind != "O":
        raise _refused(f"{what} holds objects inside records")


def _refused(problem: str) -> WeightsIncompatible:
    return WeightsIncompatible(f"the HDF5 file is refused: {problem}")
