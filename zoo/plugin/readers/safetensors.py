"""Reads safetensors files with numpy.

The format is a length, a JSON that describes the tensors, and their bytes. Source:
https://github.com/huggingface/safetensors (Apache-2.0).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import WeightsIncompatible

if TYPE_CHECKING:
    import numpy as np

# Ten thousand tensors need about one megabyte. In memory, a hostile header takes 25 times its length.
LONGEST_HEADER = 8 << 20
LONGEST_NAME = 1000
LARGEST_NUMBER = 1 << 62
# dtype: numpy's name. BF16 is read as uint16 and widened.
DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"},
}
MOST_DIMENSIONS = 32


def read(path: Path) -> Mapping[str, np.ndarray]:
    """Read all tensors of a file; see `zoo.plugin.read_tensors`.

    Raises:
        WeightsIncompatible: The file breaks a rule of the format.
        OSError: The file cannot be read.
    """
    import numpy as np

    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        length = int.from_bytes(stream.read(8), "little")
        if length > size - 8:
            raise _damaged(f"its header claims {length:,} bytes, and the file has {size:,}")
        if length > LONGEST_HEADER:
            raise WeightsIncompatible(
                f"the safetensors file is refused: its header has {length:,} bytes, and at most {LONGEST_HEADER:,} are "
                "read"
            )
        header = _header(stream.read(length))
        data = np.fromfile(stream, np.uint8)
    placed = sorted((_placed(name, entry) for name, entry in header.items()), key=lambda item: item[1:3])
    end = 0
    for name, begin, stop, _, _ in placed:
        if begin != end:
            raise _damaged(f"the bytes of tensor {name!r} begin at {begin:,}, and not at {end:,}")
        end = stop
    if end != len(data):
        raise _damaged(f"its tensors have {end:,} bytes, and the file holds {len(data):,}")
    data.flags.writeable = False
    places = {name: (begin, stop, dtype, shape) for name, begin, stop, dtype, shape in placed}
    arrays = {}
    for name in header:
        begin, stop, dtype, shape = places[name]
        if begin == stop:
            arrays[name] = _empty(name, shape, DTYPES[dtype])
            continue
        array = np.frombuffer(data[begin:stop].tobytes() if begin % 8 else data[begin:stop], DTYPES[dtype])
        arrays[name] = (widened(array) if dtype == "BF16" else array).reshape(shape)
    return arrays


def _empty(name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    import numpy as np

    try:
        return np.zeros(shape, dtype)
    except ValueError:
        # numpy multiplies the other sides.
        raise _damaged(f"tensor {name!r} of shape {shape} is too large for an empty one") from None


def widened(bfloat16: np.ndarray) -> np.ndarray:
    """Return the float32 values of bfloat16 numbers, which are given as uint16. They are the upper halves."""
    import numpy as np

    array = (bfloat16.astype(np.uint32) << 16).view(np.float32)
    array.flags.writeable = False
    return array


def _header(content: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise _damaged("its header names a tensor twice")
        return found

    try:
        header = json.loads(content.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(f"its header is no JSON ({str(error)[:80]})") from None
    if not isinstance(header, dict):
        raise _damaged("its header is no JSON object")
    header.pop("__metadata__", None)
    return header


def _placed(name: str, entry: Any) -> tuple[str, int, int, str, tuple[int, ...]]:
    """Check the description of a tensor.

    Returns:
        Its name, where its bytes begin and end, its dtype, and its shape.
    """
    if len(name) > LONGEST_NAME:
        raise _damaged(f"a tensor has a name of more than {LONGEST_NAME:,} characters")
    if not isinstance(entry, dict):
        raise _damaged(f"tensor {name!r} is not described by an object")
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WeightsIncompatible(
            f"tensor {name!r} of the safetensors file has dtype {str(dtype)[:40]!r}; zoo reads {', '.join(DTYPES)}"
        )
    whole = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else []
    fits = all(type(n) is int and 0 <= n < LARGEST_NUMBER for n in numbers)
    if not whole or not fits or len(numbers) > MOST_DIMENSIONS:
        raise _damaged(f"tensor {name!r} has no shape and offsets of whole numbers")
    import numpy as np

    needed = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if offsets[1] - offsets[0] != needed:
        held = offsets[1] - offsets[0]
        raise _damaged(f"tensor {name!r} of shape {tuple(shape)} needs {needed:,} bytes, and has {held:,}")
    return name, offsets[0], offsets[1], dtype, tuple(shape)


def _damaged(problem: str) -> WeightsIncompatible:
    return WeightsIncompatible(f"the safetensors file is damaged: {problem}")
