"""Reads lists that programs write: Parquet, Feather and Arrow files through pyarrow, and JSON by the standard library.

A column may hold picture files themselves, as Hugging Face `datasets` writes them: a struct of the bytes and the path.
These files are not kept in memory; see `zoo.data.stored`. `zoo.data.columns` finds what the columns mean.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from zoo.data.label_studio import is_task, read_tasks
from zoo.data.stored import PictureStore, StoredPicture
from zoo.data.tables import Table
from zoo.errors import DataLayout
from zoo_runtime import SUFFIXES

BATCH = 64
# How pages of a column are read: the default reads a whole row group, which may be the whole file, into memory.
BUFFER_BYTES = 1 << 20


def read_json(path: Path) -> Table:
    """Read a .jsonl or .ndjson file with one object per line, or a .json file with a list of objects.

    A .json file may also hold one object that maps each path to its class, or each class to its paths.

    Raises:
        DataLayout: The file is not such a list. The message names the line.
        OSError: The file cannot be read.
    """
    lines: Sequence[int] | None = None
    remarks: list[str] = []
    try:
        if path.suffix.lower() == ".json":
            with path.open(encoding="utf-8-sig") as stream:
                content, unit = json.load(stream), "entry"
            if isinstance(content, list) and content and all(map(is_task, content)):
                records, lines, remarks = read_tasks(path, content)
            else:
                records = _objects(path, content)
        else:
            numbered = list(_json_lines(path))
            records, lines, unit = [record for _, record in numbered], [line for line, _ in numbered], "line"
    except UnicodeDecodeError as error:
        raise DataLayout(f"{str(path)!r} is not in UTF-8: {error}. Save it again as UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise DataLayout(f"{str(path)!r} is not valid JSON: {error}.") from None
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = [[_cell(record.get(name)) for record in records] for name in names]
    return Table(path, names, columns, lines or range(1, len(records) + 1), unit, remarks=tuple(remarks))


def _json_lines(path: Path) -> Iterator[tuple[int, dict]]:
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataLayout(f"{str(path)!r}, line {number}: this is not valid JSON: {error}.") from None
            if not isinstance(record, dict):
                raise DataLayout(
                    f"{str(path)!r}, line {number}: each line must be an object such as "
                    f'{{"path": "1.jpg", "label": "cat"}}. Received: {line.strip()[:80]!r}.'
                )
            yield number, record


def _objects(path: Path, content: Any) -> list[dict]:
    """Return the objects of a JSON document.

    Raises:
        DataLayout: The document is neither a list of objects nor an object that maps paths to classes.
    """
    if isinstance(content, list) and content and all(isinstance(record, dict) for record in content):
        return content
    values = list(content.values()) if isinstance(content, dict) else []
    if values and all(isinstance(value, list) and all(map(_is_picture, value)) for value in values):
        return [{"path": where, "label": label} for label, several in content.items() for where in several]
    if values and all(_is_label(value) or (isinstance(value, list) and all(map(_is_label, value))) for value in values):
        role = "labels" if any(isinstance(value, list) for value in values) else "label"
        return [{"path": where, role: label} for where, label in content.items()]
    shown = f"an object with {', '.join(map(repr, list(content)[:5]))}" if isinstance(content, dict) else repr(content)
    raise DataLayout(
        f'{str(path)!r} must hold a list of objects such as {{"path": "1.jpg", "label": "cat"}}, or one object such as '
        f'{{"1.jpg": "cat"}} or {{"cat": ["1.jpg"]}}. Received: {shown[:120]}. Annotations of boxes, as COCO writes '
        "them, are not classes of pictures."
    )


def _is_label(value: Any) -> bool:
    return isinstance(value, str | int)


def _is_picture(value: Any) -> bool:
    return isinstance(value, str) and os.path.splitext(value.lower())[1] in SUFFIXES


def _cell(value: Any) -> Any:
    """Return a value as the text of a cell; lists and objects stay what they are."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str | dict):
        return value
    if isinstance(value, list | tuple):
        return [_cell(part) for part in value]
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def read_columnar(path: Path, *, allow_hidden: bool = False) -> Table:
    """Read a .parquet, .arrow or .feather file.

    Args:
        path: The path of the file.
        allow_hidden: Whether the labels of all pictures may be hidden, as those of test parts. Their cells are empty.

    Raises:
        DataLayout: pyarrow is not installed, or the file is not one of these.
        OSError: The file cannot be read.
    """
    try:
        import pyarrow
    except ImportError:
        raise DataLayout(
            f"zoo reads {path.suffix} files such as {str(path)!r} through pyarrow, which is not installed. "
            "Install it: pip install pyarrow"
        ) from None
    with path.open("rb"):
        # An error of the operating system is raised here. pyarrow raises its own.
        pass
    try:
        with _reader(path) as reader:
            return _table(path, reader, allow_hidden)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataLayout(f"{str(path)!r} cannot be read as {path.suffix}: {str(error).rstrip('.')}.") from None


def _reader(path: Path) -> ParquetReader | ArrowReader:
    return ParquetReader(path) if path.suffix.lower() in (".parquet", ".pq") else ArrowReader(path)


class ParquetReader:
    """Reads columns of a Parquet file batch by batch.

    Args:
        path: The path of the file.
    """

    def __init__(self, path: Path):
        import pyarrow.parquet

        self._file = pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)
        self.schema = self._file.schema_arrow
        self.count = self._file.metadata.num_rows

    def values(self, column: str) -> Iterator[Any]:
        """Yield the arrow arrays of a column. A dot leads into a struct: "image.bytes"."""
        for batch in self._file.iter_batches(batch_size=BATCH, columns=[column], use_threads=False):
            yield _inside(batch.column(0), column)

    def __enter__(self) -> ParquetReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


class ArrowReader:
    """Reads columns of an Arrow file or stream, or of a Feather file, batch by batch.

    Args:
        path: The path of the file.
    """

    def __init__(self, path: Path):
        import pyarrow

        self._source = pyarrow.memory_map(os.fspath(path))
        try:
            self._batches = pyarrow.ipc.open_file(self._source)
            self.count = sum(self._batches.get_batch(i).num_rows for i in range(self._batches.num_record_batches))
        except pyarrow.ArrowInvalid:
            # `datasets` writes streams.
            self._batches = pyarrow.ipc.open_stream(self._source)
            self._table = self._batches.read_all()
            self.count = self._table.num_rows
        self.schema = self._batches.schema

    def values(self, column: str) -> Iterator[Any]:
        """Yield the arrow arrays of a column. A dot leads into a struct: "image.bytes"."""
        name = column.partition(".")[0] if column not in self.schema.names else column
        if hasattr(self, "_table"):
            batches = iter(self._table.to_batches())
        else:
            batches = (self._batches.get_batch(i) for i in range(self._batches.num_record_batches))
        for batch in batches:
            yield _inside(batch.column(name), column)

    def __enter__(self) -> ArrowReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._source.close()


def _inside(values: Any, column: str) -> Any:
    """Return the array itself, or the field of its structs that the name of the column ends with."""
    import pyarrow

    if not pyarrow.types.is_struct(values.type):
        return values
    # `field` ignores that a struct itself may be missing; `flatten` does not.
    names = [field.name for field in values.type]
    return values.flatten()[names.index(column.rpartition(".")[2])]


def _table(path: Path, reader: ParquetReader | ArrowReader, allow_hidden: bool) -> Table:
    """Read the cells of all columns but those of picture files."""
    import pyarrow

    class_names = _class_names(reader.schema)
    names, columns, pictures = [], [], {}
    for field in reader.schema:
        inner = {part.name: part.type for part in field.type} if pyarrow.types.is_struct(field.type) else {}
        content = f"{field.name}.bytes" if "bytes" in inner else field.name if _is_binary(field.type) else None
        if content is None and (inner or re.fullmatch(r"__index_level_\d+__", field.name)):
            continue
        cells: list[Any] = [""] * reader.count
        if content is None or "path" in inner:
            cells = [
                _cell(value)
                for part in reader.values(f"{field.name}.path" if inner else field.name)
                for value in part.to_pylist()
            ]
        if content is not None and _has_content(reader, content):
            store = PictureStore(str(path), functools.partial(_contents, path, content))
            pictures[field.name] = [
                StoredPicture(store, i, os.path.splitext(cell)[1].lower()) for i, cell in enumerate(cells)
            ]
        names.append(field.name)
        hidden = allow_hidden and set(map(str, cells)) == {"-1"}
        columns.append([""] * len(cells) if hidden else _named(path, field.name, cells, class_names.get(field.name)))
    return Table(path, names, columns, range(1, reader.count + 1), "row", pictures=pictures)


def _is_binary(kind: Any) -> bool:
    import pyarrow

    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def _has_content(reader: ParquetReader | ArrowReader, column: str) -> bool:
    """Return whether a column has a value in its first rows that are not all missing."""
    return any(part.null_count < len(part) for part in reader.values(column))


def _contents(path: Path, column: str) -> Iterable[bytes | memoryview | None]:
    """Yield the picture files of a column in order, or None where there is none."""
    with _reader(path) as reader:
        for part in reader.values(column):
            for value in part:
                yield memoryview(value.as_buffer()) if value.is_valid else None


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Return the names of the classes of each column of numbers, where Hugging Face `datasets` recorded them."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {
            name: feature["names"]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _named(path: Path, column: str, cells: list[Any], names: list[str] | None) -> list[Any]:
    """Replace the numbers of classes with their names.

    Raises:
        DataLayout: A number has no name. `datasets` writes -1 for pictures without a label.
    """
    if not names:
        return cells
    known = {str(i): str(name) for i, name in enumerate(names)} | {"": ""}
    for row, cell in enumerate(cells):
        if cell not in known:
            why = " -1 stands for a picture without a label." if cell == "-1" else ""
            raise DataLayout(
                f"{str(path)!r}, row {row + 1}, column {column!r}: the class {cell} has no name; the file names 0 to "
                f"{len(names) - 1}.{why} Remove such rows, or use the part of the data that has labels."
            )
    return [known[cell] for cell in cells]
