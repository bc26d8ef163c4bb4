"""Scores a shard, and writes its rows as a Parquet file, which travels in pieces to the process that keeps it."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

from zoo.archives.contents import Picture, pictures_of, unchanged
from zoo.archives.scoring import COLUMNS, Scorer, failure, printable
from zoo.archives.sources import Shard
from zoo.errors import DamagedArchive, DataLayout, ZooError
from zoo_runtime import __version__

# How many pictures are scored together, and how many bytes of them at most.
CHUNK, CHUNK_BYTES = 256, 64 << 20
PIECE_BYTES = 64 << 20
# How many rows, and how many bytes of them, are a row group of the Parquet file: few of them are read quickly.
GROUP, GROUP_BYTES = 32_768, 32 << 20
CLASSES, MODEL, VERSION = "zoo.classes", "zoo.model", "zoo.version"
"""The keys of the Parquet file's metadata: the classes, in the order of the probabilities, as JSON; the SHA-256 of the
exported file; the version of zoo."""


@dataclass
class Figures:
    """Counts what a part holds.

    Args:
        pictures: The number of pictures, each with one row.
        errors: How many of them could not be read.
        unknown: How many have the answer "unknown".
        labels: How many have each label.
        damage: What is wrong with an archive, which then has one row of its own. Empty if nothing is.
        damaged: How many archives are damaged.
        empty: How many archives hold no picture, and are not damaged.
    """

    pictures: int = 0
    errors: int = 0
    unknown: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    damage: str = ""
    damaged: int = 0
    empty: int = 0

    def add(self, other: Figures) -> None:
        """Add the counts of another part. The damage is that of the first damaged one."""
        self.damage = self.damage or other.damage
        self.damaged += other.damaged
        self.empty += other.empty
        self.pictures += other.pictures
        self.errors += other.errors
        self.unknown += other.unknown
        self.labels += other.labels

    def to_json(self) -> dict[str, Any]:
        """Return the figures for a marker."""
        return {**asdict(self), "labels": dict(self.labels)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Figures:
        """Read what `to_json` returned."""
        return cls(**{**values, "labels": Counter(values["labels"])})


def score_shard(scorer: Scorer, shard: Shard, stream: BinaryIO, column: str | None = None) -> Figures:
    """Score all pictures of a shard, and write a Parquet file with their rows.

    Args:
        scorer: Answers what the pictures show.
        shard: The shard.
        stream: Where the Parquet file goes.
        column: As for `zoo.archives.contents.pictures_of`.

    Raises:
        DataNotFound: As for `zoo.archives.contents.unchanged`.
        DataLayout, OSError: As for `zoo.archives.contents.pictures_of`. A damaged archive raises nothing: it gets a row
            with the error.
    """
    figures = Figures()
    with unchanged(shard), _Table(stream, _schema(scorer)) as table:
        try:
            for chunk in _chunks(pictures_of(shard, column)):
                rows = scorer.rows([each.name for each in chunk], [each.source for each in chunk])
                _count(figures, rows)
                table.add(rows)
        except DamagedArchive as error:
            figures.damaged, figures.damage = 1, f"{printable(shard.root)}: {error}"
            row = failure(shard.root, error)
            table.add({name: [row.get(name)] for name in COLUMNS})
    figures.empty = int(not figures.pictures and not figures.damaged)
    return figures


class _Table:
    """Writes rows to a Parquet file, many in a row group.

    Args:
        stream: Where the file goes.
        schema: Its schema, of pyarrow.
    """

    def __init__(self, stream: BinaryIO, schema: Any) -> None:
        import pyarrow.parquet

        self._schema = schema
        self._writer = pyarrow.parquet.ParquetWriter(stream, schema, compression="zstd")
        self._waiting: list[Any] = []

    def add(self, rows: dict[str, list[Any]]) -> None:
        """Add rows, a list for each column."""
        import pyarrow

        self._waiting.append(pyarrow.table(rows, schema=self._schema))
        is_many = sum(table.num_rows for table in self._waiting) >= GROUP
        if is_many or sum(table.nbytes for table in self._waiting) >= GROUP_BYTES:
            self._write()

    def _write(self) -> None:
        import pyarrow

        if self._waiting:
            self._writer.write_table(pyarrow.concat_tables(self._waiting), row_group_size=GROUP)
            self._waiting = []

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            self._write()
        self._writer.close()


def _schema(scorer: Scorer) -> Any:
    import pyarrow

    kinds = {"string": pyarrow.string(), "float": pyarrow.float32(), "boolean": pyarrow.bool_()}
    kinds |= {f"array<{name}>": pyarrow.list_(kind) for name, kind in kinds.items()}
    fields = [pyarrow.field(name, kinds[kind]) for name, kind in COLUMNS.items()]
    about = {CLASSES: json.dumps(list(scorer.info.classes)), MODEL: scorer.digest, VERSION: __version__}
    return pyarrow.schema(fields, metadata=about)


def _chunks(pictures: Iterator[Picture]) -> Iterator[list[Picture]]:
    """Divide pictures into lists that fit into memory. What was read before an error is yielded before it is raised."""
    chunk: list[Picture] = []
    held = 0
    problem: DamagedArchive | None = None
    try:
        for picture in pictures:
            chunk.append(picture)
            held += len(picture.source) if isinstance(picture.source, bytes) else 0
            if len(chunk) == CHUNK or held >= CHUNK_BYTES:
                yield chunk
                chunk, held = [], 0
    except DamagedArchive as error:
        problem = error
    if chunk:
        yield chunk
    if problem is not None:
        raise problem


def _count(figures: Figures, rows: dict[str, list[Any]]) -> None:
    figures.pictures += len(rows["path"])
    figures.errors += sum(error is not None for error in rows["error"])
    figures.unknown += sum(unknown is True for unknown in rows["unknown"])
    # A network with several labels per picture counts each of them.
    figures.labels.update(label for labels in rows["labels"] for label in labels or ())


@dataclass(frozen=True)
class Piece:
    """A piece of the Parquet file of a shard, on its way from a worker.

    Args:
        shard: The id of the shard.
        attempt: Tells two attempts at the same shard apart.
        offset: Where the piece begins in the file, in bytes.
        total: The size of the whole file in bytes.
        data: The bytes.
        figures: The `Figures` of the whole file, as JSON.
        problem: Why the shard could not be scored; then there is no file. Empty if it could.
        again: Whether trying again may help.
    """

    shard: str
    attempt: str
    offset: int = 0
    total: int = 0
    data: bytes = b""
    figures: str = ""
    problem: str = ""
    again: bool = False


def pieces(scorer: Scorer, shard: Shard, column: str | None = None) -> Iterator[Piece]:
    """Score a shard, and yield its Parquet file in pieces that fit into the memory of a process.

    What keeps the whole shard from being read becomes a piece with the problem. It never ends the work on others.
    """
    attempt = os.urandom(8).hex()
    with tempfile.TemporaryFile() as stream:
        try:
            figures = json.dumps(score_shard(scorer, shard, stream, column).to_json())
        except ZooError as error:
            yield Piece(shard.id, attempt, problem=str(error), again=not isinstance(error, DataLayout))
            return
        except Exception as error:
            # Packages of object stores raise errors of their own, without a common base class.
            lines = str(error).strip().splitlines() or ["without a message"]
            problem = f"{shard.root!r}: {type(error).__name__}: {lines[0][:300]}."
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                problem += f" Temporary files are in {tempfile.gettempdir()!r}; TMPDIR names another folder."
            yield Piece(shard.id, attempt, problem=problem, again=True)
            return
        total = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        for offset in range(0, total, PIECE_BYTES):
            yield Piece(shard.id, attempt, offset, total, stream.read(PIECE_BYTES), figures)
