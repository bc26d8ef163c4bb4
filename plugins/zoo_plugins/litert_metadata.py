"""Writes the metadata of TensorFlow Lite: what the input of a .tflite file is, and which file in it has the labels.

Android's and MediaPipe's tools read them. The layout is the schema `metadata_schema.fbs`, version 1.0.0, of
https://github.com/tensorflow/tflite-support (Apache-2.0). The numbers below are the positions of its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# The positions of fields in their tables.
MODEL = {"name": 0, "description": 1, "subgraphs": 3, "parser": 7}
SUBGRAPH = {"inputs": 2, "outputs": 3}
TENSOR = {"name": 0, "description": 1, "content": 3, "process_units": 4, "stats": 5, "files": 6}
CONTENT = {"kind": 0, "properties": 1}
FEATURE, IMAGE = 1, 2
IMAGE_PROPERTIES = {"color_space": 0}
RGB, GRAYSCALE = 1, 2
PROCESS_UNIT = {"kind": 0, "options": 1}
NORMALIZATION = 1
NORMALIZATION_OPTIONS = {"mean": 0, "deviation": 1}
STATS = {"max": 0, "min": 1}
FILE = {"name": 0, "description": 1, "kind": 2}
AXIS_LABELS = 2

DESCRIPTIONS = {
    "probabilities": "One number in 0..1 per class, in the order of the labels.",
    "outlier_score": "How unlike the training pictures the picture is, in 0..2.",
    "feature_norm": "The length of the features of the picture.",
}


def tflite_metadata(name: str, channels: int, outputs: Sequence[str], labels: str) -> bytes:
    """Return the content of the buffer TFLITE_METADATA.

    Args:
        name: The name of the network.
        channels: 3 for color, 1 for gray.
        outputs: The names of the outputs, in order.
        labels: The name of the file with the labels, which belong to the output `probabilities`.
    """
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    tables = _Tables(builder)
    picture = tables.table(
        TENSOR,
        name="image",
        description=f"A decoded picture, values 0 to 255, {'red, green and blue' if channels == 3 else 'gray'}.",
        content=_content(
            tables, IMAGE, tables.table(IMAGE_PROPERTIES, color_space=RGB if channels == 3 else GRAYSCALE)
        ),
        # The network normalizes its input itself.
        process_units=tables.vector([_normalization(tables, 0.0, 1.0)]),
        stats=tables.table(STATS, max=tables.floats([255.0]), min=tables.floats([0.0])),
    )
    given = []
    for output in outputs:
        fields: dict[str, Any] = {"name": output, "description": DESCRIPTIONS.get(output, output)}
        fields["content"] = _content(tables, FEATURE, tables.table({}))
        if output == "probabilities":
            file = tables.table(FILE, name=labels, description="The classes, one a line.", kind=AXIS_LABELS)
            fields["files"] = tables.vector([file])
        given.append(tables.table(TENSOR, **fields))
    graph = tables.table(SUBGRAPH, inputs=tables.vector([picture]), outputs=tables.vector(given))
    root = tables.table(
        MODEL,
        name=name,
        description="An image classifier, fine-tuned with zoo.",
        subgraphs=tables.vector([graph]),
        parser="1.0.0",
    )
    builder.Finish(root, b"M001")
    return bytes(builder.Output())


class _Place(int):
    """The place of a table or a list in the buffer."""


class _Tables:
    """Writes tables, lists and texts into a flatbuffer. What a table refers to must be written before it."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder

    def table(self, positions: Mapping[str, int], **fields: Any) -> _Place:
        """Write a table. A field is a text, a small number, or the place of what was written before."""
        builder = self._builder
        ready = {
            key: _Place(builder.CreateString(value)) if isinstance(value, str) else value
            for key, value in fields.items()
        }
        builder.StartObject(max(positions.values(), default=-1) + 1)
        for key, value in ready.items():
            write: Callable[..., None] = (
                builder.PrependUOffsetTRelativeSlot if isinstance(value, _Place) else builder.PrependInt8Slot
            )
            write(positions[key], value, 0)
        return _Place(builder.EndObject())

    def vector(self, places: Sequence[_Place]) -> _Place:
        """Write a list of tables."""
        self._builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            self._builder.PrependUOffsetTRelative(place)
        return _Place(self._builder.EndVector())

    def floats(self, values: Sequence[float]) -> _Place:
        """Write a list of numbers."""
        self._builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            self._builder.PrependFloat32(value)
        return _Place(self._builder.EndVector())


def _content(tables: _Tables, kind: int, properties: _Place) -> _Place:
    return tables.table(CONTENT, kind=kind, properties=properties)


def _normalization(tables: _Tables, mean: float, deviation: float) -> _Place:
    options = tables.table(NORMALIZATION_OPTIONS, mean=tables.floats([mean]), deviation=tables.floats([deviation]))
    return tables.table(PROCESS_UNIT, kind=NORMALIZATION, options=options)
