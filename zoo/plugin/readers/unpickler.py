"""Reads the pickles of PyTorch's state dicts, and nothing else that a pickle can say.

A pickle is a program for a small machine, which can call any function. This machine has no functions at all: it knows
the few instructions that `torch.save` writes for dictionaries of tensors. It makes only dictionaries, lists, tuples,
texts, numbers, and descriptions of tensors. Everything else is refused by name.

`pickletools.genops` of the standard library splits the bytes into instructions; it runs none of them. Source of the
format: Lib/pickletools.py of CPython, and torch/serialization.py.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from zoo.errors import WeightsIncompatible

# A network of ten thousand tensors needs half a million.
MOST_INSTRUCTIONS = 2_000_000
MOST_DIMENSIONS = 32
# A short pickle can name the same long list again and again, and have it copied each time.
MOST_COPIED = 200_000
LARGEST_NUMBER = 1 << 62
# The names of numbers in numpy, by the names that PyTorch gives to storages. BFloat16 is read as uint16 and widened.
STORAGES = {
    **{"FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "BFloat16Storage": "bf16"},
    **{"LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1"},
    "BoolStorage": "?",
}


@dataclass(frozen=True)
class Name:
    """A function or class that a pickle names. It stays a name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Storage:
    """Numbers in the file, of which tensors are parts.

    Args:
        key: The key of the root storage.
        dtype: The name of the numbers in numpy, or "bf16".
        count: How many numbers there are.
        offset: At which number of the root storage this one begins.
    """

    key: str
    dtype: str
    count: int
    offset: int = 0


@dataclass(frozen=True)
class Tensor:
    """A part of a storage. Offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


ORDERED = Name("collections", "OrderedDict")
REBUILD = Name("torch._utils", "_rebuild_tensor_v2")
OLD_REBUILD = Name("torch._utils", "_rebuild_tensor")
PARAMETER = Name("torch._utils", "_rebuild_parameter")
SIZE = Name("torch", "Size")
DEVICE = Name("torch", "device")
ALLOWED = {ORDERED, REBUILD, OLD_REBUILD, PARAMETER, SIZE, DEVICE, *(Name("torch", name) for name in STORAGES)}
_MARK = object()


def read(stream: IO[bytes]) -> Any:
    """Read one pickle. The stream then stands behind it.

    Args:
        stream: A seekable stream in memory.

    Returns:
        Dictionaries, lists, tuples, texts, bytes, numbers, None, `Tensor`, `Storage` and `Name`, nested.

    Raises:
        WeightsIncompatible: The pickle is damaged, or it says something that a state dict does not need.
    """
    machine = _Machine()
    try:
        for count, (code, value, _) in enumerate(pickletools.genops(stream)):
            if count > MOST_INSTRUCTIONS:
                raise WeightsIncompatible(f"its pickle has more than {MOST_INSTRUCTIONS:,} instructions")
            if machine.run(code.name, value):
                return machine.result()
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise WeightsIncompatible(f"its pickle is damaged ({str(error)[:80] or type(error).__name__})") from None
    raise WeightsIncompatible("its pickle has no end")


class _Machine:
    """The stack and the memory of the small machine."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memory: dict[int, Any] = {}
        self._copied = 0

    def result(self) -> Any:
        if len(self._stack) != 1:
            raise ValueError("the stack does not hold one value at the end")
        return self._stack[0]

    def run(self, code: str, value: Any) -> bool:
        """Carry out one instruction. Return whether it is the last one."""
        if code == "STOP":
            return True
        if code in _VALUES:
            self._stack.append(value)
        elif code in _CONSTANTS:
            self._stack.append(_CONSTANTS[code]())
        elif code in ("PROTO", "FRAME"):
            pass
        elif code in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memory[value] = self._top()
        elif code == "MEMOIZE":
            self._memory[len(self._memory)] = self._top()
        elif code in ("BINGET", "LONG_BINGET", "GET"):
            self._stack.append(self._memory[value])
        else:
            step = _STEPS.get(code)
            if step is None:
                raise WeightsIncompatible(
                    f"its pickle has the instruction {code}, which no file of tensors needs; it was not carried out"
                )
            step(self, value)
        return False

    def _top(self) -> Any:
        return self._stack[-1]

    def _pop(self) -> Any:
        item = self._stack.pop()
        if item is _MARK:
            raise ValueError("a value is missing")
        return item

    def _to_mark(self) -> list[Any]:
        """Take everything above the last mark from the stack, and the mark too."""
        items = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def tuple_of(self, count: int | None) -> None:
        items = self._to_mark() if count is None else [self._pop() for _ in range(count)][::-1]
        self._stack.append(tuple(items))

    def list_of_marked(self) -> None:
        self._stack.append(self._to_mark())

    def append(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise ValueError("something is appended to what is no list")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not dict or len(items) % 2:
            raise ValueError("an entry is set in what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int)):
                # The text of a key is not shown: nested tuples could make it endless.
                raise WeightsIncompatible(f"its pickle has a dictionary with a {type(key).__name__} as a key")
            target[key] = value

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name is no text")
        named = Name(module, name)
        if named not in ALLOWED and not _is_dtype(named):
            raise WeightsIncompatible(
                f"its pickle names {str(named)[:100]}, which is no part of a tensor; nothing of it was run. Save the "
                "state dict alone, or a safetensors file: torch.save(model.state_dict(), ...)"
            )
        self._stack.append(named)

    def storage(self) -> None:
        """Replace the persistent id on the stack by the storage that it means."""
        item = self._pop()
        if type(item) is not tuple or len(item) not in (5, 6) or item[0] != "storage":
            raise ValueError("a persistent id is no storage")
        _, kind, key, _, count, *view = item
        if type(kind) is not Name or kind.name not in STORAGES or not _counts(count) or not isinstance(key, str):
            raise ValueError("a storage is not described by type, key and length")
        offset = 0
        if view and view[0] is not None:
            _, offset, count = view[0]
            if not _counts(offset, count):
                raise ValueError("a view of a storage is not described by whole numbers")
        self._stack.append(Storage(key, STORAGES[kind.name], count, offset))

    def reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if type(function) is not Name or type(arguments) is not tuple:
            raise ValueError("something is called that has no name")
        if function == ORDERED:
            self._copied += len(arguments[0]) if arguments else 0
            if self._copied > MOST_COPIED:
                raise WeightsIncompatible(f"its pickle copies more than {MOST_COPIED:,} entries")
            self._stack.append(_dictionary(arguments))
        elif function in (REBUILD, OLD_REBUILD):
            self._stack.append(_tensor(arguments))
        elif function == PARAMETER and arguments and isinstance(arguments[0], Tensor):
            self._stack.append(arguments[0])
        elif function == SIZE and len(arguments) == 1 and _is_shape(arguments[0]):
            self._stack.append(tuple(arguments[0]))
        elif function == DEVICE:
            self._stack.append("device")
        else:
            raise ValueError(f"{function} is called in a way that makes no tensor")

    def build(self) -> None:
        """Leave out the attributes of a dictionary: a state dict has the versions of its layers there."""
        self._pop()
        if type(self._top()) is not dict:
            raise WeightsIncompatible("its pickle sets attributes of something that is no dictionary of tensors")

    def pop_mark(self) -> None:
        self._to_mark()


def _is_dtype(named: Name) -> bool:
    """Return whether a name is a dtype such as torch.float32, which newer files have beside tensors."""
    return named.module == "torch" and named.name.rstrip("0123456789") in ("float", "bfloat", "int", "uint", "bool")


def _counts(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < LARGEST_NUMBER for value in values)


def _is_shape(value: Any) -> bool:
    return type(value) in (tuple, list) and len(value) <= MOST_DIMENSIONS and _counts(*value)


def _dictionary(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if not arguments:
        return {}
    pairs = [tuple(pair) for pair in arguments[0]]
    if len(arguments) != 1 or not all(len(pair) == 2 and isinstance(pair[0], (str, int)) for pair in pairs):
        raise ValueError("a dictionary is not made of pairs")
    return dict(pairs)


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    storage, offset, shape, strides = arguments[:4]
    fits = isinstance(storage, Storage) and _counts(offset) and _is_shape(shape) and _is_shape(strides)
    if not fits or type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise ValueError("a tensor is not described by storage, offset, shape and strides")
    return Tensor(storage, offset, shape, strides)


_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "SHORT_BINSTRING", "BINSTRING"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False},
    **{"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "MARK": lambda: _MARK},
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "TUPLE": lambda machine, _: machine.tuple_of(None),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": lambda machine, _: machine.list_of_marked(),
    "APPEND": lambda machine, _: machine.append([machine._pop()]),
    "APPENDS": lambda machine, _: machine.append(machine._to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine._pop(), machine._pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine._to_mark()),
    "GLOBAL": lambda machine, value: machine.name(*value.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*[machine._pop(), machine._pop()][::-1]),
    "BINPERSID": lambda machine, _: machine.storage(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
    "POP": lambda machine, _: machine._stack.pop() and None,
    "POP_MARK": lambda machine, _: machine.pop_mark(),
}
