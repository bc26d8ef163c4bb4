"""Reads the structure and the metadata of a .tflite file before LiteRT opens it, and refuses what exports never have.

A .tflite file is a FlatBuffer. Its tables refer to one another by offsets, which LiteRT follows without checking them.
So this module follows all of them first. It also checks that every number which names a tensor, a buffer or an operator
exists, that constants have exactly the bytes of their shapes, and that every tensor is computed before it is used.

The metadata are in a ZIP archive behind the FlatBuffer: `zoo.json`, an object of keys and JSON text, and `labels.txt`.

Sources: LiteRT's schema (https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/schema/schema.fbs),
FlatBuffers' internals (https://flatbuffers.dev/internals), TensorFlow Lite's metadata (https://ai.google.dev/edge/litert).
"""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ._own import METADATA
from ._structure import MOST_ELEMENTS, MOST_METADATA, MOST_OF_A_SIZE, BrokenStructure, UnsafeStructure

LABELS = "labels.txt"
MOST_BYTES = 2**31 - 1
"""The largest FlatBuffer."""

MOST_PARTS = 100_000
_MOST_RANK, _MOST_STATED = 8, 64
_MOST_ENTRIES, _MOST_DIRECTORY = 16, 4096
_ZIP_END, _ZIP_END_SIZE, _MOST_COMMENT = b"PK\5\6", 22, 65_535

# The bits of an element by the number of its type. Text (5), resources (13) and variants (14) are not there.
_BITS = {0: 32, 1: 16, 2: 32, 3: 8, 4: 64, 6: 8, 7: 16, 8: 64, 9: 8, 10: 64, 11: 128, 12: 64, 15: 32, 16: 16, 17: 4}
_BITS |= {18: 16, 19: 2, 20: 4}

# The operators that are accepted: those of image classifiers that compute an output from their inputs alone. Control
# flow, variables, hash tables, random numbers, text, custom operators and those of StableHLO are not among them.
_OPERATORS = {0, 1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14, 17, 18, 19, 20, 21, 22, 23, 25, 26, 28, 34, 36, 37, 38, 39, 40}
_OPERATORS |= {41, 42, 43, 45, 47, 49, 50, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 69, 70, 71, 72}
_OPERATORS |= {73, 74, 75, 76, 77, 78, 79, 81, 82, 83, 84, 86, 87, 88, 89, 90, 91, 92, 93, 94, 95, 97, 98, 99, 100, 101}
_OPERATORS |= {102, 104, 106, 108, 110, 111, 114, 116, 117, 123, 126, 128, 130, 140, 145, 150, 152, 158}

# Operators that make a tensor of a size which constant inputs state: resizing, padding, tiling, filling and the like.
_SIZED = {23, 34, 37, 38, 60, 67, 69, 94, 97, 100, 130}
# Options of operators that are numbers from 1 on: the type of the options, then (field, default) of each number.
_POSITIVE = {
    1: (5, ((1, 0), (2, 0), (3, 0), (4, 0))),
    3: (1, ((1, 0), (2, 0), (4, 1), (5, 1))),
    4: (2, ((1, 0), (2, 0), (5, 1), (6, 1))),
    12: (5, ((1, 0), (2, 0), (3, 0), (4, 0))),
    17: (5, ((1, 0), (2, 0), (3, 0), (4, 0))),
    67: (49, ((1, 0), (2, 0))),
}
# Options that have a list of numbers of 4 bytes: the type of the options, and the field.
_LISTS = {8: 5, 17: 0, 30: 0}


@dataclass(frozen=True)
class Graph:
    """Holds what the structure of a file says about its inputs and outputs.

    Args:
        inputs: The numbers of the tensors that are inputs.
        outputs: The numbers of the tensors that are outputs, in the order of the file.
        names: Maps names of outputs to numbers of tensors, by the file's signature. Empty if it has none.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    names: dict[str, int]


# Metadata


def read_metadata(content: bytes) -> dict[str, str]:
    """Return the metadata entries of a .tflite file; empty if it has none.

    Args:
        content: The whole file.

    Raises:
        BrokenStructure: If the archive is damaged, or the entries are not text.
        UnsafeStructure: If the archive has many parts, or very large ones.
    """
    start = content.rfind(_ZIP_END, max(0, len(content) - _ZIP_END_SIZE - _MOST_COMMENT))
    if start < 0 or start + _ZIP_END_SIZE > len(content):
        return {}
    count, size = struct.unpack_from("<HI", content, start + 10)
    if count > _MOST_ENTRIES or size > _MOST_DIRECTORY:
        raise UnsafeStructure(f"more than {_MOST_ENTRIES} parts behind the network")
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if METADATA not in archive.namelist():
                return {}
            # The stated size of a part may be wrong, so at most this much is unpacked.
            with archive.open(METADATA) as part:
                text = part.read(MOST_METADATA + 1)
        if len(text) > MOST_METADATA:
            raise UnsafeStructure(f"more than {MOST_METADATA:,} bytes of metadata")
        entries = json.loads(text)
    except UnsafeStructure:
        raise
    except Exception as error:
        # zipfile raises errors of many kinds for damaged archives.
        raise BrokenStructure(f"its metadata cannot be read ({type(error).__name__}: {error})") from None
    if not isinstance(entries, dict) or not all(isinstance(value, str) for value in entries.values()):
        raise BrokenStructure(f"its part {METADATA} is not an object of keys and text")
    return entries


def with_labels(content: bytes, metadata: dict[str, str], labels: Sequence[str]) -> bytes:
    """Return a .tflite file with metadata behind its network, in the place of those that it has.

    Equal arguments give equal bytes.

    Args:
        content: The file.
        metadata: The entries, from `ModelInfo.to_metadata`.
        labels: The names of the classes, for other programs: one per line of `labels.txt`.
    """
    import zipfile

    parts = {METADATA: json.dumps(metadata, sort_keys=True, indent=0), LABELS: "".join(f"{name}\n" for name in labels)}
    stream = io.BytesIO(_without_archive(content))
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(zipfile.ZipInfo(name), text.encode(), zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _without_archive(content: bytes) -> bytes:
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return content[: min((part.header_offset for part in archive.infolist()), default=len(content))]
    except zipfile.BadZipFile:
        return content


# Structure


def read_graph(content: bytes) -> Graph:
    """Read the structure of a .tflite file.

    Args:
        content: The whole file.

    Returns:
        Its inputs and outputs.

    Raises:
        BrokenStructure: If an offset leads out of the file, or a number names something that does not exist.
        UnsafeStructure: If the file has what exported files never have: several graphs, custom operators, control flow,
            variables, data outside of the file, or a huge tensor.
    """
    try:
        return _Reader(content).model()
    except (struct.error, IndexError):
        raise BrokenStructure("an offset leads out of the file") from None


class _Table:
    """A table of a FlatBuffer, whose offsets are checked when they are followed."""

    def __init__(self, content: bytes, position: int) -> None:
        self._content, self._position = content, position
        vtable = position - _number(content, position, "<i")
        length, size = _number(content, vtable, "<H"), _number(content, vtable + 2, "<H")
        if position % 4 or vtable % 2 or length < 4 or length % 2 or size < 4:
            raise BrokenStructure("a table is damaged")
        _inside(content, vtable, length)
        _inside(content, position, size)
        self._offsets = struct.unpack_from(f"<{length // 2 - 2}H", content, vtable + 4)
        self._size = size

    def place(self, field: int, width: int) -> int:
        """Return the position of a field of `width` bytes; 0 if the table does not have it."""
        offset = self._offsets[field] if field < len(self._offsets) else 0
        if offset and (offset < 4 or offset + width > self._size or (self._position + offset) % width):
            raise BrokenStructure("a field leads out of its table")
        return self._position + offset if offset else 0

    def number(self, field: int, form: str, default: int = 0) -> int:
        place = self.place(field, struct.calcsize(form))
        return _number(self._content, place, form) if place else default

    def child(self, field: int) -> _Table | None:
        place = self.place(field, 4)
        return _Table(self._content, place + _number(self._content, place, "<I")) if place else None

    def vector(self, field: int, width: int) -> tuple[int, int]:
        """Return the position and the length of a list of elements of `width` bytes; (0, 0) if it is missing."""
        place = self.place(field, 4)
        if not place:
            return 0, 0
        start = place + _number(self._content, place, "<I")
        count = _number(self._content, start, "<I")
        if start % 4 or (start + 4) % width:
            raise BrokenStructure("a list is not aligned")
        _inside(self._content, start + 4, count * width)
        return start + 4, count

    def numbers(self, field: int, form: str = "i") -> tuple[int, ...]:
        start, count = self.vector(field, struct.calcsize(form))
        if count > MOST_PARTS:
            raise UnsafeStructure(f"a list of more than {MOST_PARTS:,} numbers")
        return struct.unpack_from(f"<{count}{form}", self._content, start)

    def children(self, field: int) -> list[_Table]:
        start, count = self.vector(field, 4)
        if count > MOST_PARTS:
            raise UnsafeStructure(f"more than {MOST_PARTS:,} parts")
        places = range(start, start + 4 * count, 4)
        return [_Table(self._content, place + _number(self._content, place, "<I")) for place in places]

    def text(self, field: int) -> str:
        start, count = self.vector(field, 1)
        if self._content[start + count : start + count + 1] != b"\0" and start:
            raise BrokenStructure("a text has no end")
        return self._content[start : start + count].decode("utf-8", "replace")


class _Reader:
    """Reads one file."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._buffers: list[tuple[int, int]] = []
        self._constants: dict[int, tuple[int, int, int]] = {}
        """Maps the number of a constant tensor to its type and to the position and length of its bytes."""

    def model(self) -> Graph:
        if self._content[4:8] != b"TFL3":
            raise BrokenStructure("it does not begin like a TensorFlow Lite model")
        if len(self._content) > MOST_BYTES:
            raise UnsafeStructure("more than 2 GB")
        model = _Table(self._content, _number(self._content, 0, "<I"))
        if model.number(0, "<I") != 3:
            raise BrokenStructure(f"it has the format {model.number(0, '<I')} of TensorFlow Lite instead of 3")
        if model.vector(8, 4)[1] or model.vector(9, 4)[1]:
            raise UnsafeStructure("weights in other files")
        self._buffers = [self._buffer(buffer) for buffer in model.children(4)]
        codes = [self._code(code) for code in model.children(1)]
        graphs = model.children(2)
        if len(graphs) != 1:
            raise UnsafeStructure(f"{len(graphs)} graphs instead of one")
        model.text(3)
        model.numbers(5)
        for entry in model.children(6):
            entry.text(0)
            entry.number(1, "<I")
        inputs, outputs, count = self._graph(graphs[0], codes)
        return Graph(inputs, outputs, self._names(model, count))

    def _buffer(self, buffer: _Table) -> tuple[int, int]:
        # Files above 2 GB have bytes behind the FlatBuffer, which these two fields place. 1 stands for nothing.
        if buffer.number(1, "<Q") > 1 or buffer.number(2, "<Q") > 1:
            raise UnsafeStructure("weights outside of the FlatBuffer")
        return buffer.vector(0, 1)

    def _code(self, code: _Table) -> int:
        number = max(code.number(0, "<b"), code.number(3, "<i"))
        if code.text(1) or number not in _OPERATORS:
            what = f"{code.text(1)!r:.60}" if code.text(1) else f"number {number}"
            raise UnsafeStructure(f"the operator {what} of TensorFlow Lite")
        return number

    def _graph(self, graph: _Table, codes: list[int]) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        tensors = graph.children(0)
        for number, tensor in enumerate(tensors):
            self._tensor(number, tensor)
        inputs, outputs = graph.numbers(1), graph.numbers(2)
        graph.text(4)
        known = {*self._constants, *inputs}
        if len(known) != len(self._constants) + len(inputs):
            raise BrokenStructure("an input is a constant, or is there twice")
        for operator in graph.children(3):
            self._operator(operator, codes, len(tensors), known)
        if not all(0 <= number < len(tensors) and number in known for number in (*inputs, *outputs)):
            raise BrokenStructure("an input or output does not exist")
        return inputs, outputs, len(tensors)

    def _tensor(self, number: int, tensor: _Table) -> None:
        shape, kind, buffer = tensor.numbers(0), tensor.number(1, "<b"), tensor.number(2, "<I")
        signature = tensor.numbers(7)
        tensor.text(3)
        bits = _BITS.get(kind)
        if bits is None:
            raise UnsafeStructure("text or other things than numbers in a tensor")
        if tensor.number(5, "<b") or tensor.place(6, 4) or tensor.vector(9, 4)[1] or tensor.number(10, "<I"):
            raise UnsafeStructure("a variable, a sparse tensor or a tensor in another file")
        if len(shape) > _MOST_RANK or any(side < 0 for side in shape) or any(side < -1 for side in signature):
            raise BrokenStructure("a tensor has an impossible shape")
        if signature and len(signature) != len(shape):
            raise BrokenStructure("a tensor has two different shapes")
        elements = math.prod(shape)
        if elements > MOST_ELEMENTS:
            raise UnsafeStructure(f"a tensor of more than {MOST_ELEMENTS:,} elements")
        if not buffer < len(self._buffers):
            raise BrokenStructure("a tensor has no buffer")
        start, length = self._buffers[buffer]
        if length:
            if length != (elements * bits + 7) // 8:
                raise BrokenStructure("a tensor has more or fewer bytes than its shape needs")
            self._constants[number] = (kind, start, length)
        quantization = tensor.child(4)
        if quantization:
            self._quantization(quantization, shape)

    def _quantization(self, quantization: _Table, shape: tuple[int, ...]) -> None:
        for field in (0, 1):
            quantization.vector(field, 4)
        (_, scales), (_, zeros) = quantization.vector(2, 4), quantization.vector(3, 8)
        if quantization.number(4, "<B") or quantization.place(5, 4):
            raise UnsafeStructure("a quantization of another maker")
        axis = quantization.number(6, "<i")
        if not 0 <= axis < max(1, len(shape)) or (scales > 1 and scales != shape[axis]) or zeros not in (0, 1, scales):
            raise BrokenStructure("a quantization does not fit its tensor")

    def _operator(self, operator: _Table, codes: list[int], count: int, known: set[int]) -> None:
        index = operator.number(0, "<I")
        if index >= len(codes):
            raise BrokenStructure("an operator does not exist")
        inputs, outputs = operator.numbers(1), operator.numbers(2)
        if not all(-1 <= number < count and (number == -1 or number in known) for number in inputs):
            raise BrokenStructure("an operator has an input that nothing computes")
        if not all(0 <= number < count and number not in known for number in outputs):
            raise BrokenStructure("an operator has an output that is already there")
        if len(set(outputs)) != len(outputs) or not inputs or not outputs:
            raise BrokenStructure("an operator has no inputs, or no outputs of its own")
        operator.vector(7, 1)
        if operator.vector(5, 1)[1] or operator.vector(8, 4)[1] or operator.number(10, "<Q"):
            raise UnsafeStructure("an operator with options of another maker")
        if operator.number(11, "<B") or operator.place(12, 4):
            raise UnsafeStructure("an operator of StableHLO")
        self._options(operator, codes[index])
        if codes[index] in _SIZED:
            self._sizes(inputs)
        known.update(outputs)

    def _options(self, operator: _Table, code: int) -> None:
        kind, options = operator.number(3, "<B"), operator.child(4)
        if options and kind in _LISTS:
            options.numbers(_LISTS[kind])
        needed, numbers = _POSITIVE.get(code, (kind, ()))
        if numbers and (options is None or kind != needed):
            raise BrokenStructure("an operator has no options, or those of another one")
        if options and any(not 1 <= options.number(field, "<i", given) <= MOST_OF_A_SIZE for field, given in numbers):
            raise BrokenStructure("an operator has an impossible step or window")

    def _sizes(self, inputs: tuple[int, ...]) -> None:
        """Refuse an operator if its constant whole numbers state a huge size."""
        for number in inputs:
            kind, start, length = self._constants.get(number, (0, 0, 0))
            form = {2: "i", 4: "q"}.get(kind)
            if form is None:
                continue
            values = length // struct.calcsize(form)
            sizes = struct.unpack_from(f"<{min(values, _MOST_STATED)}{form}", self._content, start)
            # Pads are added to a side; the other numbers are sides or factors.
            if (
                values > _MOST_STATED
                or max(map(abs, sizes), default=0) > MOST_OF_A_SIZE
                or math.prod(abs(size) or 1 for size in sizes) > MOST_ELEMENTS
            ):
                raise UnsafeStructure("a constant that asks for a huge tensor")

    def _names(self, model: _Table, count: int) -> dict[str, int]:
        found: dict[str, int] = {}
        for signature in model.children(7):
            if signature.number(4, "<I"):
                raise BrokenStructure("a signature is of another graph")
            signature.text(2)
            for field in (0, 1):
                for entry in signature.children(field):
                    name, tensor = entry.text(0), entry.number(1, "<I")
                    if tensor >= count:
                        raise BrokenStructure("a signature names a tensor that does not exist")
                    if field == 1:
                        found.setdefault(name, tensor)
        return found


def _number(content: bytes, position: int, form: str) -> int:
    if position < 0:
        raise BrokenStructure("an offset leads out of the file")
    value: int = struct.unpack_from(form, content, position)[0]
    return value


def _inside(content: bytes, start: int, length: int) -> None:
    if start < 0 or start + length > len(content):
        raise BrokenStructure("a part reaches beyond the end of the file")
