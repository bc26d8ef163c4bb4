"""Reads state dicts that `torch.save` wrote, as a zip archive or in the form before PyTorch 1.6, without PyTorch.

`zoo.plugin.readers.unpickler` reads the pickles; here the numbers are found. Source of the formats:
torch/serialization.py of PyTorch (BSD-3-Clause).
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from zoo.errors import WeightsIncompatible
from zoo.plugin.readers import unpickler
from zoo.plugin.readers.safetensors import widened
from zoo.plugin.readers.unpickler import Storage, Tensor

if TYPE_CHECKING:
    import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
# A pickle holds names and shapes, not numbers.
LONGEST_PICKLE = 256 << 20
DEEPEST = 16
MOST_ITEMS = 2_000_000
# One long key above many short ones would make as many long names.
LONGEST_NAME = 1000
WRAPPERS = ("state_dict", "model_state_dict", "model")


def read(path: Path) -> Mapping[str, np.ndarray]:
    """Read all tensors of a file; see `zoo.plugin.read_tensors`.

    Raises:
        WeightsIncompatible: The file is damaged, or it holds something else than tensors.
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        if stream.read(2) == b"PK":
            return _of_archive(stream)
        stream.seek(0)
        return _of_pickles(stream)


def _of_archive(stream: IO[bytes]) -> Mapping[str, np.ndarray]:
    size = stream.seek(0, 2)
    try:
        with zipfile.ZipFile(stream) as archive:
            members = {info.filename: info for info in archive.infolist()}
            (pickle,) = [name for name in members if re.fullmatch(r"[^/]+/data\.pkl|data\.pkl", name)] or [""]
            if not pickle:
                raise WeightsIncompatible("the archive has no data.pkl; torch.save did not write it")
            folder = pickle.removesuffix("data.pkl")
            if f"{folder}constants.pkl" in members or any(name.startswith(f"{folder}code/") for name in members):
                raise WeightsIncompatible(
                    "it is a TorchScript program, which holds code. Save the state dict alone: "
                    "torch.save(model.state_dict(), ...)"
                )
            _check_members(archive, size)
            order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in members else b"little"
            content = unpickler.read(io.BytesIO(archive.read(pickle)))

            def numbers(storage: Storage) -> np.ndarray:
                name = f"{folder}data/{storage.key}"
                if name not in members:
                    raise WeightsIncompatible(f"the archive has no storage {storage.key[:60]!r}")
                return _bytes(archive.read(name))

            return _arrays(content, numbers, order.strip() == b"little")
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, RuntimeError, KeyError) as error:
        # A member that claims to lie before the start of the file raises OSError.
        raise WeightsIncompatible(f"the archive is damaged ({str(error)[:80]})") from None


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse an archive whose members are larger than the file, or compressed. PyTorch compresses nothing."""
    total = 0
    names = set()
    for info in archive.infolist():
        if info.filename in names:
            raise WeightsIncompatible(f"the archive has two members {info.filename[:60]!r}")
        names.add(info.filename)
        total += info.file_size
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise WeightsIncompatible(
                f"the archive's member {info.filename[:60]!r} is compressed, and torch.save compresses nothing"
            )
        if info.filename.endswith(".pkl") and info.file_size > LONGEST_PICKLE:
            raise WeightsIncompatible(f"{info.filename[:60]!r} has {info.file_size:,} bytes, too many for names")
    if total > size:
        raise WeightsIncompatible(f"the members of the archive have {total:,} bytes, and the file has {size:,}")


def _of_pickles(stream: IO[bytes]) -> Mapping[str, np.ndarray]:
    """Read the older form: five pickles, then the length and the numbers of each storage."""
    size = stream.seek(0, 2)
    stream.seek(0)
    head = io.BytesIO(stream.read(min(size, LONGEST_PICKLE)))
    if unpickler.read(head) != MAGIC or unpickler.read(head) != PROTOCOL:
        raise WeightsIncompatible("it is a pickle that torch.save did not write; only state dicts of PyTorch are read")
    system = unpickler.read(head)
    content, keys = unpickler.read(head), unpickler.read(head)
    little = isinstance(system, dict) and system.get("little_endian") is True
    if not little or not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise WeightsIncompatible("the file comes from a big-endian machine, or it is damaged")
    widths = {storage.key: _width(storage.dtype) for storage in _storages(content)}
    places: dict[str, tuple[int, int]] = {}
    at = head.tell()
    for key in keys:
        stream.seek(at)
        count = int.from_bytes(stream.read(8), "little")
        length = count * widths.get(key, 1)
        if key not in widths or key in places or at + 8 + length > size:
            raise WeightsIncompatible(
                f"storage {key[:60]!r} claims {count:,} numbers, which the file does not hold; it is damaged or cut off"
            )
        places[key] = (at + 8, length)
        at += 8 + length

    def numbers(storage: Storage) -> np.ndarray:
        if storage.key not in places:
            raise WeightsIncompatible(f"the file has no storage {storage.key[:60]!r}")
        begin, length = places[storage.key]
        stream.seek(begin)
        return _bytes(stream.read(length))

    return _arrays(content, numbers, little)


def _bytes(content: bytes) -> np.ndarray:
    import numpy as np

    # numpy refuses an empty buffer.
    return np.frombuffer(content, np.uint8) if content else np.zeros(0, np.uint8)


def _width(dtype: str) -> int:
    import numpy as np

    return 2 if dtype == "bf16" else np.dtype(dtype).itemsize


def _arrays(content: Any, numbers: Callable[[Storage], np.ndarray], little: bool) -> Mapping[str, np.ndarray]:
    """Return the arrays of all tensors in a content.

    Args:
        content: What `unpickler.read` returned.
        numbers: Returns the bytes of a storage's root.
        little: Whether the numbers are little-endian.
    """
    import numpy as np

    roots: dict[str, tuple[str, np.ndarray]] = {}

    def root(storage: Storage) -> np.ndarray:
        if storage.key not in roots:
            raw = numbers(storage)
            width = _width(storage.dtype)
            if len(raw) % width:
                raise WeightsIncompatible(f"storage {storage.key[:60]!r} is cut off")
            dtype = np.dtype("u2" if storage.dtype == "bf16" else storage.dtype)
            array = raw.view(dtype.newbyteorder("<" if little else ">"))
            roots[storage.key] = storage.dtype, widened(array) if storage.dtype == "bf16" else array
        held, array = roots[storage.key]
        if held != storage.dtype:
            raise WeightsIncompatible(f"storage {storage.key[:60]!r} has two types of numbers")
        return array

    found = {}
    for name, tensor in _named(_unwrapped(content)):
        if name in found:
            raise WeightsIncompatible(f"it holds two tensors {name[:80]!r}")
        found[name] = _view(name, tensor, root(tensor.storage))
    if not found:
        raise WeightsIncompatible("it holds no tensors")
    return found


def _view(name: str, tensor: Tensor, numbers: np.ndarray) -> np.ndarray:
    """Return a tensor as a read-only view of the numbers of its root storage."""
    import numpy as np

    storage, empty = tensor.storage, 0 in tensor.shape
    reach = sum((side - 1) * stride for side, stride in zip(tensor.shape, tensor.strides, strict=True))
    last = 0 if empty else tensor.offset + reach + 1
    # A stride of 0 could make a few numbers into billions.
    if last > storage.count or storage.offset + storage.count > len(numbers) or math.prod(tensor.shape) > storage.count:
        raise WeightsIncompatible(
            f"tensor {name[:80]!r} of shape {tensor.shape} reaches beyond its storage of {storage.count:,} numbers"
        )
    if empty:
        return _empty(name, tensor.shape, numbers.dtype)
    part = numbers[storage.offset + tensor.offset : storage.offset + storage.count]
    strides = tuple(stride * part.itemsize for stride in tensor.strides)
    return np.lib.stride_tricks.as_strided(part, tensor.shape, strides, writeable=False)


def _empty(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    import numpy as np

    try:
        return np.zeros(shape, dtype)
    except ValueError:
        # numpy multiplies the other sides.
        raise WeightsIncompatible(f"tensor {name[:80]!r} of shape {shape} is too large for an empty one") from None


def _unwrapped(content: Any) -> Any:
    """Return the state dict in a checkpoint, which has an optimizer's state and the like beside it."""
    if isinstance(content, dict) and not any(isinstance(value, Tensor) for value in content.values()):
        for name in WRAPPERS:
            with contextlib.suppress(StopIteration):
                next(_named(content.get(name)))
                return content[name]
    return content


def _named(content: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the description of every tensor in nested dictionaries, lists and tuples.

    Raises:
        WeightsIncompatible: They are nested too deep, or they hold each other so that they have no end.
    """
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    seen = 0
    while waiting:
        name, item, depth = waiting.pop()
        if isinstance(item, Tensor):
            yield name or "tensor", item
            continue
        if not isinstance(item, (dict, list, tuple)):
            continue
        # One list can stand in another a thousand times, and that one in a third.
        seen += len(item)
        if depth > DEEPEST or seen > MOST_ITEMS:
            raise WeightsIncompatible(f"its dictionaries are nested more than {DEEPEST} deep, or have too many entries")
        pairs = list(item.items() if isinstance(item, dict) else enumerate(item))
        if len(name) > LONGEST_NAME:
            raise WeightsIncompatible(f"it has a name of more than {LONGEST_NAME:,} characters")
        waiting += [(f"{name}.{key}" if name else str(key), value, depth + 1) for key, value in reversed(pairs)]


def _storages(content: Any) -> Iterator[Storage]:
    for _, tensor in _named(content):
        yield tensor.storage
