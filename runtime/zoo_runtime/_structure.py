"""Reads the structure of an ONNX file before ONNX Runtime opens it, and refuses what an exported file never has.

ONNX Runtime is a large program in C++, and a graph can ask it for much: to read other files, to run operators of other
vendors, or to fill the memory. An exported file needs none of that. So this module reads the file first, as strictly as
possible: every message has only the fields that are listed here. The bytes of tensors are skipped, so that a large file
takes no longer than a small one.

Sources: ONNX (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) and Protocol Buffers
(https://protobuf.dev/programming-guides/encoding). `SECURITY.md` says what is promised, and what is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import BinaryIO

DOMAINS = (b"", b"ai.onnx")
"""The domains of operators that exported files use: ONNX itself, by its two names."""

MOST_FIELDS = 1_000_000
MOST_NESTED = 8
MOST_METADATA = 16 * 2**20
MOST_DIMENSIONS = 64
MOST_ELEMENTS = 2**28
"""The largest tensor that a constant of the graph may ask for. As float32, it takes 1 GiB."""
MOST_OF_A_SIZE = 65_535
MOST_STATED = 64
"""The most numbers with which a constant may state a size: the sides of a tensor, or its pads."""

# How much of a file is read at once, in bytes. Tensors are skipped, so a larger window would be read in vain.
_WINDOW = 8192
_LONGEST_HEADER = 20
_LONGEST_NAME = 4096
_SMALL = 64

# The tag of a field is its number * 8 + its wire type: 0 for a number, 2 for bytes and messages, 5 and 1 for floats of
# 4 and 8 bytes. Repeated numbers may be written one by one or packed, so they have two tags.
_MODEL = {8, 18, 26, 34, 40, 50, 58, 66, 114, 162, 202}
_GRAPH, _METADATA, _TRAINING, _FUNCTIONS = 58, 114, 162, 202
_IN_ENTRY, _KEY = {10, 18}, 10
_IN_GRAPH = {10, 18, 42, 82, 90, 98, 106, 114, 122, 130}
_NODE, _INITIALIZER, _SPARSE_INITIALIZER = 10, 42, 122
_IN_NODE = {10, 18, 26, 34, 42, 50, 58, 66, 74}
_INPUT, _OUTPUT, _OPERATOR, _ATTRIBUTE, _DOMAIN, _OVERLOAD = 10, 18, 34, 42, 58, 66
_IN_ATTRIBUTE = {10, 21, 24, 34, 42, 50, 58, 61, 64, 66, 74, 82, 90, 106, 114, 122, 160, 178, 186}
_NAME, _INT, _TENSOR, _SUBGRAPH, _INTS, _PACKED_INTS, _TENSORS, _SUBGRAPHS = 10, 24, 42, 50, 64, 66, 82, 90
_FLOATS = (21, 58, 61)
_SPARSE, _SPARSES = 178, 186
_IN_TENSOR = {8, 10, 16, 34, 37, 40, 42, 50, 56, 58, 66, 74, 81, 82, 88, 90, 98, 106, 112, 130}
_DIM, _DIMS, _TYPE, _TENSOR_NAME, _RAW, _EXTERNAL, _LOCATION = 8, 10, 16, 66, 74, 106, 112
# Fields of a tensor that hold its elements, and how many of them fit into a byte at most.
_TYPED = {34: 1 / 4, 37: 1, 40: 1, 42: 1, 50: 1, 56: 1, 58: 1, 81: 1, 82: 1 / 8, 88: 1, 90: 1}

# The bits of an element, by the number of its type. Text (8) has none.
_BITS = dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8) | dict.fromkeys((4, 5, 10, 16), 16)
_BITS |= dict.fromkeys((1, 6, 12), 32) | dict.fromkeys((7, 11, 13, 14), 64) | {15: 128}
_BITS |= {21: 4, 22: 4, 23: 4, 25: 2, 26: 2, 8: 0}

# The letters with which `struct` reads elements: of raw bytes by the number of their type, of the typed fields by tag.
_LETTERS = {1: "f", 5: "h", 6: "i", 7: "q", 10: "e", 11: "d"}
_TYPED_LETTERS = {34: "f", 37: "f", 81: "d", 82: "d"}

# Attributes whose numbers are sizes, and those of them whose numbers are multiplied: the output has as many elements.
_SIZES = {b"pads", b"output_shape", b"output_padding", b"kernel_shape", b"strides", b"dilations", b"shape", b"repeats"}
_SIZES |= {b"sample_size", b"output_height", b"output_width", b"pooled_shape", b"ngram_indexes"}
_SHAPES = {b"shape", b"output_shape", b"repeats", b"pooled_shape", b"strides", b"dilations", b"output_padding"}
# Operators that make a tensor of a size that inputs state, and the numbers of these inputs.
_SIZED = {b"ConstantOfShape": (0,), b"Expand": (1,), b"Tile": (1,), b"Pad": (1,), b"OneHot": (1,), b"Range": (0, 1, 2)}
# The factors are input 1 of Upsample and of the first Resize, and input 2 later. The size of the output is input 3.
_SIZED |= {b"Resize": (1, 2, 3), b"Upsample": (1,), b"MaxUnpool": (2,), b"CenterCropPad": (1,), b"Col2Im": (1,)}
_SIZED |= {b"AffineGrid": (1,), b"DFT": (1,), b"MelWeightMatrix": (0, 1)}
_SIZED |= {b"HannWindow": (0,), b"HammingWindow": (0,), b"BlackmanWindow": (0,)}


class BrokenStructure(Exception):
    """The bytes do not have the form of an exported file: they are damaged, cut off, or of another kind."""


class UnsafeStructure(Exception):
    """The file has something that exported files never have. The text says what, such as "external data"."""


def read_structure(stream: BinaryIO, size: int) -> None:
    """Read the structure of an ONNX file, and raise an error if an exported file cannot have it.

    Args:
        stream: The file. It must be possible to seek in it.
        size: The size of the file in bytes.

    Raises:
        BrokenStructure: If a field is unknown or reaches beyond its end, if a tensor has fewer or more bytes than its
            shape needs, or if there is no graph.
        UnsafeStructure: If the file has external data, functions, training information, sparse tensors, operators of
            other domains, deeply nested graphs, very much metadata, or a constant that asks for a huge tensor.
    """
    try:
        _Reader(stream, size).model()
    except IndexError:
        raise BrokenStructure("it ends within a number") from None


class _Reader:
    """Reads one file. Positions are counted in bytes from the start of the file."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self._window, self._base = b"", 0
        self._fields_left = MOST_FIELDS
        self._harmless: set[bytes] = set()
        # Small constant tensors: the type, and the fields of the elements. Nested graphs may use a name again, so that
        # a name can stand for several.
        self._constants: dict[bytes, list[tuple[int, list[tuple[int, int, int]]]]] = {}
        # Constant tensors with more numbers than a shape can have.
        self._long: set[bytes] = set()
        # Constants that are numbers of an attribute.
        self._numbers: dict[bytes, list[list[float]]] = {}
        # Operators whose output has a size that inputs state, with the names of these inputs.
        self._sized: set[tuple[bytes, tuple[bytes, ...]]] = set()

    def model(self) -> None:
        graphs = metadata = 0
        keys = set[bytes]()
        for tag, start, end in self._fields(0, self._size, _MODEL, "model"):
            if tag == _GRAPH:
                graphs += 1
                self._graph(start, end, 0)
            elif tag == _METADATA:
                metadata += end - start
                if metadata > MOST_METADATA:
                    raise UnsafeStructure(f"more than {MOST_METADATA:,} bytes of metadata")
                entry = [
                    self._text(first, last)
                    for tag, first, last in self._fields(start, end, _IN_ENTRY, "metadata")
                    if tag == _KEY
                ]
                if len(entry) != 1 or entry[0] in keys:
                    raise BrokenStructure("a metadata entry has no key, or the key of another entry")
                keys.update(entry)
            elif tag == _FUNCTIONS:
                raise UnsafeStructure("functions of its own")
            elif tag == _TRAINING:
                raise UnsafeStructure("a second graph for training")
        if graphs != 1:
            raise BrokenStructure(f"it has {graphs} graphs")
        for operator, inputs in self._sized:
            self._check_sized(operator, inputs)

    def _graph(self, start: int, end: int, depth: int) -> None:
        if depth > MOST_NESTED:
            raise UnsafeStructure(f"graphs that are nested more than {MOST_NESTED} times")
        for tag, first, last in self._fields(start, end, _IN_GRAPH, "graph"):
            if tag == _NODE:
                self._node(first, last, depth)
            elif tag == _INITIALIZER:
                self._tensor(first, last, None, initializer=True)
            elif tag == _SPARSE_INITIALIZER:
                raise UnsafeStructure("sparse tensors")

    def _node(self, start: int, end: int, depth: int) -> None:
        operator = domain = b""
        inputs, outputs, attributes = [], [], []
        for tag, first, last in self._fields(start, end, _IN_NODE, "node"):
            if tag == _INPUT:
                inputs.append((first, last))
            elif tag == _ATTRIBUTE:
                attributes.append((first, last))
            elif tag == _OPERATOR:
                operator = self._text(first, last)
            elif tag == _OUTPUT:
                outputs.append((first, last))
            elif tag == _DOMAIN:
                domain = self._text(first, last)
            elif tag == _OVERLOAD and last > first:
                raise UnsafeStructure("functions of its own")
        if domain not in DOMAINS:
            raise UnsafeStructure(f"operators of another maker ({_shown(domain)}.{_shown(operator)})")
        constant = self._text(*outputs[0]) if operator == b"Constant" and outputs else None
        for first, last in attributes:
            self._attribute(first, last, depth, constant)
        if operator in _SIZED:
            places = _SIZED[operator]
            self._sized.add((operator, tuple(self._text(*inputs[at]) for at in places if at < len(inputs))))

    def _attribute(self, start: int, end: int, depth: int, constant: bytes | None) -> None:
        """Read an attribute of a node.

        Args:
            start: Its position.
            end: The position behind it.
            depth: How deeply the graph of the node is nested.
            constant: The output of the node if it is a constant, else None.
        """
        small = constant is None and end - start <= _SMALL
        if small:
            # Many nodes have the same attributes, such as strides of [1, 1].
            content = self._bytes(start, end)
            if content in self._harmless:
                return
        name, numbers, floats, nested = b"", list[int](), list[float](), False
        for tag, first, last in self._fields(start, end, _IN_ATTRIBUTE, "attribute"):
            if tag == _NAME:
                name = self._text(first, last)
            elif tag in (_INT, _INTS):
                numbers.append(_signed(first))
            elif tag == _PACKED_INTS:
                numbers += self._packed(first, last)
            elif tag in _FLOATS:
                floats += self._unpacked("f", first, last)
            elif tag in (_TENSOR, _TENSORS):
                nested = True
                self._tensor(first, last, constant)
            elif tag in (_SUBGRAPH, _SUBGRAPHS):
                nested = True
                self._graph(first, last, depth + 1)
            elif tag in (_SPARSE, _SPARSES):
                raise UnsafeStructure("sparse tensors")
        asked = _product(numbers) if name in _SHAPES else _padded(numbers) if name == b"pads" else 0.0
        if name == b"scales":
            asked = _product(floats)
        if asked > MOST_ELEMENTS or (name in _SIZES and max(numbers, default=0) > MOST_OF_A_SIZE):
            raise UnsafeStructure(
                f"an attribute {name.decode()} that asks for a huge tensor ({(numbers or floats)[:8]})"
            )
        if constant is not None and (numbers or floats):
            # The type of the attribute says which of the two counts.
            self._numbers.setdefault(constant, []).extend([[*numbers], floats])
        if small and not nested:
            self._harmless.add(content)

    def _tensor(self, start: int, end: int, constant: bytes | None, *, initializer: bool = False) -> None:
        """Read a tensor, and compare its shape with its bytes.

        Args:
            start: Its position.
            end: The position behind it.
            constant: The name under which nodes refer to it, if it is the value of a constant; else None.
            initializer: Whether nodes refer to it by its own name.
        """
        dims, kind, name, raw = list[int](), 0, constant, None
        elements_at_most, places = 0.0, list[tuple[int, int, int]]()
        for tag, first, last in self._fields(start, end, _IN_TENSOR, "tensor"):
            if tag == _DIM:
                dims.append(_signed(first))
            elif tag == _DIMS:
                dims += self._packed(first, last)
            elif tag == _TYPE:
                kind = first
            elif tag == _TENSOR_NAME and initializer:
                name = self._text(first, last)
            elif tag == _RAW:
                if raw is not None:
                    raise BrokenStructure("a tensor has its bytes twice")
                raw = (first, last)
                places.append((tag, first, last))
            elif tag == _EXTERNAL or (tag == _LOCATION and first != 0):
                raise UnsafeStructure("external data, which is read from another file")
            elif tag in _TYPED:
                elements_at_most += (last - first) * _TYPED[tag] if tag & 7 == 2 and tag != 50 else 1
                # Empty fields would fill the places of those with numbers.
                if len(places) <= _SMALL and (tag & 7 != 2 or last > first):
                    places.append((tag, first, last))
        if len(dims) > MOST_DIMENSIONS or min(dims, default=0) < 0 or kind not in _BITS:
            raise BrokenStructure(f"a tensor has the type {kind} and the shape {dims[:8]}, which no tensor can have")
        elements = math.prod(dims)
        if raw is not None:
            needed, there = -(-elements * _BITS[kind] // 8), raw[1] - raw[0]
            # Text is never stored as raw bytes.
            wrong = needed != there or not _BITS[kind]
        else:
            # Numbers of less than a byte may share one.
            wrong = elements > elements_at_most * (8 // min(8, _BITS[kind] or 8))
        if wrong:
            raise BrokenStructure(f"a tensor of the shape {dims[:8]} does not have the bytes that this shape needs")
        if name is not None and elements > MOST_STATED:
            self._long.add(name)
        elif name is not None and places:
            self._constants.setdefault(name, []).append((kind, places))

    def _check_sized(self, operator: bytes, inputs: Sequence[bytes]) -> None:
        """Check a node whose output gets a size that an input states, if that input is a constant.

        Raises:
            UnsafeStructure: If the output would have more than `MOST_ELEMENTS`.
        """
        if not self._long.isdisjoint(inputs):
            raise UnsafeStructure(f"a constant of more than {MOST_STATED} numbers with which {operator.decode()} works")
        stated = [self._values(name) for name in inputs]
        asked = [0.0]
        if operator == b"Range":
            first, last, step = ([number for values in each for number in values] for each in (*stated, [], [], [])[:3])
            steps = [abs(number) for number in step if number]
            if first and last and steps:
                asked.append(max(max(last) - min(first), max(first) - min(last)) / min(steps))
        elif operator == b"MelWeightMatrix":
            asked.append(math.prod(max(map(_product, each), default=0.0) for each in stated))
        else:
            for values in (values for each in stated for values in each):
                # A pad is added to a side, and the depth of OneHot is a side. The other sides are not known.
                longest = max(values, default=0.0) / MOST_OF_A_SIZE * MOST_ELEMENTS
                asked.append(longest if operator in (b"Pad", b"OneHot") else _product(values))
                asked.append(_padded(values) if operator == b"Pad" else 0.0)
        # Written so that a number that is none (NaN) is refused, too.
        if not all(number <= MOST_ELEMENTS for number in asked):
            raise UnsafeStructure(f"a constant with which {operator.decode()} makes a huge tensor")

    def _values(self, name: bytes) -> list[list[float]]:
        """Return the numbers of the small constant tensors that have a name."""
        if len(self._numbers.get(name, ())) + len(self._constants.get(name, ())) > _SMALL:
            raise UnsafeStructure(f"more than {_SMALL} constants of one name")
        found = list(self._numbers.get(name, ()))
        for kind, places in self._constants.get(name, ()):
            numbers: list[float] = []
            for tag, start, end in places:
                if tag == _RAW or tag in _TYPED_LETTERS:
                    numbers += self._unpacked(
                        _LETTERS.get(kind, "") if tag == _RAW else _TYPED_LETTERS[tag], start, end
                    )
                elif kind in (5, 6, 7):
                    numbers += self._packed(start, end) if tag & 7 == 2 else [_signed(start)]
            found.append(numbers)
        return found

    # Bytes

    def _fields(self, start: int, end: int, known: set[int], where: str) -> Iterator[tuple[int, int, int]]:
        """Yield the fields of a message.

        Args:
            start: The position of the message.
            end: The position behind it.
            known: The tags that it may have.
            where: The name of the message, for errors.

        Yields:
            (tag, position, position behind the content) of a field of bytes or of a float, and (tag, value, 0) of a
            whole number.
        """
        position = start
        window, base = self._window, self._base
        while position < end:
            at = position - base
            if at < 0 or at + _LONGEST_HEADER > len(window):
                window, base = self._at(position)
                at = position - base
            tag = window[at]
            at += 1
            if tag > 127:
                tag, at = _varint(window, at - 1)
            self._fields_left -= 1
            if tag not in known:
                raise BrokenStructure(f"its {where} has the unknown field {tag >> 3} of the wire type {tag & 7}")
            if self._fields_left < 0:
                raise UnsafeStructure(f"more than {MOST_FIELDS:,} parts")
            wire = tag & 7
            value, second = 0, 0
            if wire in (0, 2):
                value = window[at]
                at += 1
                if value > 127:
                    value, at = _varint(window, at - 1)
            position = base + at
            if wire == 2:
                value, second = position, position + value
                position = second
            elif wire:
                value, second = position, position + (4 if wire == 5 else 8)
                position = second
            if position > end:
                raise BrokenStructure(f"a part of its {where} is longer than the {where}")
            yield tag, value, second

    def _at(self, position: int) -> tuple[bytes, int]:
        """Return bytes of the file in which a field header at a position is whole, and the position of the first."""
        at = position - self._base
        if at < 0 or at + min(_LONGEST_HEADER, self._size - position) > len(self._window):
            self._window, self._base = self._read(position, _WINDOW), position
        return self._window, self._base

    def _text(self, start: int, end: int) -> bytes:
        """Return a name.

        Raises:
            BrokenStructure: If it is so long that it is none.
        """
        if end - start > _LONGEST_NAME:
            raise BrokenStructure(f"a name has {end - start:,} bytes")
        return self._bytes(start, end)

    def _bytes(self, start: int, end: int) -> bytes:
        at = start - self._base
        if at >= 0 and end - self._base <= len(self._window):
            return self._window[at : end - self._base]
        return self._read(start, end - start)

    def _read(self, position: int, count: int) -> bytes:
        self._stream.seek(position)
        return self._stream.read(count)

    def _packed(self, start: int, end: int) -> list[int]:
        if end - start > 10 * _SMALL:
            self._fields_left -= end - start
            if self._fields_left < 0:
                raise UnsafeStructure(f"more than {MOST_FIELDS:,} parts")
        content, at, numbers = self._bytes(start, end), 0, []
        while at < len(content):
            number, at = _varint(content, at)
            numbers.append(_signed(number))
        return numbers

    def _unpacked(self, letter: str, start: int, end: int) -> list[float]:
        """Return at most the first 64 numbers of the bytes at a position; none without a letter of `struct`."""
        import struct

        if not letter:
            return []
        size = struct.calcsize(letter)
        count = min(_SMALL, (end - start) // size)
        return [float(value) for value in struct.unpack(f"<{count}{letter}", self._bytes(start, start + count * size))]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at an index, and the index behind it.

    Raises:
        IndexError: If the data end within the number.
        BrokenStructure: If it has more than 64 bits.
    """
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise BrokenStructure("a number has more than 64 bits")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _product(values: Sequence[float]) -> float:
    return math.prod(max(0.0, value) for value in values) if values else 0.0


def _padded(pads: Sequence[float]) -> float:
    """Return how many elements a tensor has at least after padding: first all pads at the start, then those at the end.

    Each side is taken as 1, because it is not known.
    """
    half = len(pads) // 2
    return math.prod(1.0 + max(0.0, first + last) for first, last in zip(pads[:half], pads[half:], strict=False))


def _shown(name: bytes) -> str:
    text = name[:60].decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)
