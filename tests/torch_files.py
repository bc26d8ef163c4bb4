"""Writes files as `torch.save` does, without PyTorch, and pickles by hand that do what a hostile file does."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
NAMES = {"f4": "FloatStorage", "f8": "DoubleStorage", "f2": "HalfStorage", "i8": "LongStorage", "u2": "BFloat16Storage"}


class Storage:
    """Numbers that several tensors can share."""

    def __init__(self, array: np.ndarray, key: str):
        self.array, self.key, self.kind = array, key, NAMES[array.dtype.str[1:]]


class Call:
    """Is pickled as the call of a function, by its name."""

    def __init__(self, function, *arguments):
        self._reduced = function, arguments

    def __reduce__(self):
        return self._reduced


def torch_module(monkeypatch) -> types.SimpleNamespace:
    """Install an empty PyTorch, because Python's pickler asks for the modules of the names that it writes."""
    utils, root = types.ModuleType("torch._utils"), types.ModuleType("torch")
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        function = types.FunctionType(compile("0", "x", "eval"), {}, name)
        function.__module__, function.__qualname__ = "torch._utils", name
        setattr(utils, name, function)
    for name in NAMES.values():
        setattr(root, name, type(name, (), {"__module__": "torch"}))
    monkeypatch.setitem(sys.modules, "torch", root)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return types.SimpleNamespace(root=root, utils=utils)


def tensor(torch, storage: Storage, shape, strides, offset=0) -> Call:
    import collections

    hooks = Call(collections.OrderedDict)
    return Call(torch.utils._rebuild_tensor_v2, storage, offset, tuple(shape), tuple(strides), False, hooks)


def plain(torch, array: np.ndarray, key: str) -> Call:
    """A tensor of its own, in C order."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return tensor(torch, Storage(array.ravel(), key), array.shape, strides)


def pickled(torch, content, *, legacy: bool = False) -> tuple[bytes, dict[str, np.ndarray]]:
    stream, storages = io.BytesIO(), {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            if not isinstance(item, Storage):
                return None
            storages[item.key] = item.array
            base = ("storage", getattr(torch.root, item.kind), item.key, "cpu", len(item.array))
            return (*base, None) if legacy else base

    Pickler(stream, protocol=2).dump(content)
    return stream.getvalue(), storages


def write_zip(torch, path: Path, content, *, pickle_bytes: bytes | None = None, compression=zipfile.ZIP_STORED) -> Path:
    data, storages = pickled(torch, content)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("net/data.pkl", data if pickle_bytes is None else pickle_bytes)
        archive.writestr("net/byteorder", "little")
        for key, array in storages.items():
            archive.writestr(f"net/data/{key}", array.tobytes())
        archive.writestr("net/version", "3\n")
    return path


def write_legacy(torch, path: Path, content) -> Path:
    data, storages = pickled(torch, content, legacy=True)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickle.dumps(item, protocol=2) for item in (MAGIC, 1001, system)]
    parts += [data, pickle.dumps(sorted(storages), protocol=2)]
    for key in sorted(storages):
        parts += [len(storages[key]).to_bytes(8, "little"), storages[key].tobytes()]
    path.write_bytes(b"".join(parts))
    return path
