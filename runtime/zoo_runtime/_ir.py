"""Reads an OpenVINO model (IR) before OpenVINO opens it, and refuses what exported files never have.

An IR is two files: `model.xml` with the graph and the metadata, and `model.bin` with the weights. The XML is read as
plainly as possible: UTF-8, no document type and no entities, a graph without nested graphs, operators of OpenVINO's own
sets alone, and constants that lie within `model.bin` and have exactly the bytes of their shapes.

The metadata stand under `rt_info`: `<zoo><zoo.classes value="..."/></zoo>`. The entry `zoo.weights_sha256` there has
the SHA-256 of `model.bin`, as a JSON string, so that a signature of `model.xml` covers both.

Source: OpenVINO's documentation of the IR (https://docs.openvino.ai, "OpenVINO IR format").
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import Any

from ._structure import MOST_ELEMENTS, MOST_METADATA, MOST_OF_A_SIZE, BrokenStructure, UnsafeStructure

MOST_XML, MOST_WEIGHTS = 64 * 2**20, 2**31 - 1
WEIGHTS_DIGEST = "zoo.weights_sha256"

_MOST_PARTS, _MOST_DEPTH, _MOST_STATED = 2_000_000, 16, 64
_BITS = {"f64": 64, "f32": 32, "f16": 16, "bf16": 16, "i64": 64, "i32": 32, "i16": 16, "i8": 8, "i4": 4, "u64": 64}
_BITS |= {"u32": 32, "u16": 16, "u8": 8, "u4": 4, "u1": 1, "boolean": 8, "f8e4m3": 8, "f8e5m2": 8, "nf4": 4}
_NESTED = {"If", "Loop", "TensorIterator", "ReadValue", "Assign"}
_RANDOM = {"RandomUniform", "Multinomial"}
_SIZED = {
    "Broadcast",
    "Tile",
    "Pad",
    "Range",
    "OneHot",
    "Interpolate",
    "SpaceToBatch",
    "BatchToSpace",
    "AdaptiveAvgPool",
}
_SIZED |= {"AdaptiveMaxPool", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "Eye", "ScatterNDUpdate"}


@dataclass
class Outline:
    """Holds what the XML of an IR says.

    Args:
        metadata: The metadata entries.
        is_ir: Whether the outermost element is that of an IR.
        constants: Maps the id of a constant to the type, the offset and the size of its bytes.
        edges: Pairs of the ids of layers: where an output goes.
        types: Maps the id of a layer to its type.
    """

    metadata: dict[str, str] = field(default_factory=dict)
    is_ir: bool = False
    constants: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)


def read_xml(content: bytes, weights: int | None = None) -> Outline:
    """Read the XML of an IR.

    Args:
        content: The whole `model.xml`.
        weights: The size of `model.bin` in bytes. None does not check that constants lie within it.

    Raises:
        BrokenStructure: If it is not well-formed, or constants do not fit their shapes or the weights.
        UnsafeStructure: If it has what exported files never have.
    """
    from xml.parsers import expat

    if b"\0" in content or content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise BrokenStructure("it is not UTF-8 text")
    reader = _Reader(weights)
    # Names and values are text as they stand: no external files, and nothing that stands for something else.
    parser = expat.ParserCreate("utf-8")
    parser.StartDoctypeDeclHandler = _refuse_document_type
    parser.EntityDeclHandler = _refuse_document_type
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.buffer_text = True
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise BrokenStructure(f"its XML cannot be read ({error})") from None
    return reader.outline


def check_sizes(outline: Outline, weights: bytes) -> None:
    """Refuse a graph if a constant states a huge size to an operator that makes tensors by size.

    Raises:
        UnsafeStructure: If one does.
    """
    for source, target in outline.edges:
        kind, offset, size = outline.constants.get(source, ("", 0, 0))
        form = {"i32": "i", "i64": "q", "u32": "I", "u64": "Q"}.get(kind)
        if form is None or outline.types.get(target) not in _SIZED:
            continue
        count = size // struct.calcsize(form)
        sizes = struct.unpack_from(f"<{min(count, _MOST_STATED)}{form}", weights, offset)
        if (
            count > _MOST_STATED
            or max(map(abs, sizes), default=0) > MOST_OF_A_SIZE
            or math.prod(abs(each) or 1 for each in sizes) > MOST_ELEMENTS
        ):
            raise UnsafeStructure("a constant that asks for a huge tensor")


def _refuse_document_type(*_: Any) -> None:
    raise UnsafeStructure("a document type or entities in its XML")


class _Reader:
    def __init__(self, weights: int | None) -> None:
        self.outline = Outline()
        self._weights = weights
        self._path: list[str] = []
        self._parts = self._metadata = 0
        self._layer = ""
        self._ids = set[str]()

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS or len(self._path) >= _MOST_DEPTH:
            raise UnsafeStructure(f"more than {_MOST_PARTS:,} parts, or parts inside one another {_MOST_DEPTH} times")
        self._path.append(name)
        path = self._path
        if len(path) == 1:
            self.outline.is_ir = name == "net" and "version" in attributes
        elif path[:2] == ["net", "rt_info"]:
            self._info(name, attributes)
        elif path == ["net", "layers", "layer"]:
            self._start_layer(attributes)
        elif path == ["net", "layers", "layer", "data"]:
            self._data(attributes)
        elif path == ["net", "edges", "edge"]:
            self.outline.edges.append((attributes.get("from-layer", ""), attributes.get("to-layer", "")))
        elif name in ("body", "then_body", "else_body", "net"):
            raise UnsafeStructure("a graph inside another")

    def end(self, _: str) -> None:
        if self._path == ["net"] and not all(a in self._ids and b in self._ids for a, b in self.outline.edges):
            raise BrokenStructure("an edge leads to a layer that does not exist")
        self._path.pop()

    def _info(self, name: str, attributes: dict[str, str]) -> None:
        if name == "runtime_options":
            raise UnsafeStructure("options for OpenVINO")
        if self._path[2:3] != ["zoo"] or len(self._path) != 4:
            return
        value = attributes.get("value")
        if value is None or name in self.outline.metadata:
            raise BrokenStructure(f"the metadata entry {name:.60} has no value, or is there twice")
        self._metadata += len(name) + len(value)
        if self._metadata > MOST_METADATA:
            raise UnsafeStructure(f"more than {MOST_METADATA:,} letters of metadata")
        self.outline.metadata[name] = value

    def _start_layer(self, attributes: dict[str, str]) -> None:
        self._layer, kind, opset = (attributes.get(key, "") for key in ("id", "type", "version"))
        if not self._layer or self._layer in self._ids:
            raise BrokenStructure("a layer has no number, or that of another one")
        self._ids.add(self._layer)
        if not opset.startswith("opset") or not opset[5:].isdecimal():
            raise UnsafeStructure(f"the operator {kind:.40} of {opset[:40] or 'an unknown set'}")
        if kind in _NESTED or kind in _RANDOM:
            raise UnsafeStructure(f"the operator {kind}, whose output does not follow from its inputs alone")
        self.outline.types[self._layer] = kind

    def _data(self, attributes: dict[str, str]) -> None:
        kind = self.outline.types.get(self._layer)
        if kind != "Const":
            return
        try:
            shape = [int(side) for side in attributes.get("shape", "").split(",") if side.strip()]
            offset, size, bits = int(attributes["offset"]), int(attributes["size"]), _BITS[attributes["element_type"]]
        except (KeyError, ValueError):
            raise BrokenStructure("a constant has no shape, type or place") from None
        if any(side < 0 for side in shape) or offset < 0 or size < 0:
            raise BrokenStructure("a constant has an impossible shape or place")
        elements = math.prod(shape)
        if elements > MOST_ELEMENTS:
            raise UnsafeStructure(f"a tensor of more than {MOST_ELEMENTS:,} elements")
        if size != (elements * bits + 7) // 8:
            raise BrokenStructure("a constant has more or fewer bytes than its shape needs")
        if self._weights is not None and offset + size > self._weights:
            raise BrokenStructure("a constant lies beyond the end of the weights")
        self.outline.constants[self._layer] = (attributes["element_type"], offset, size)
