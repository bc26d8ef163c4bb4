"""Reads the cells of a text file with separators, as spreadsheets and other programs write it.

It finds the encoding and the separator. `zoo.data.columns` finds what the columns mean, and `zoo.data.legacy` the
encoding of text that is not Unicode.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import os
import re
import sys
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

from zoo.data.tables import Table
from zoo.errors import DataLayout
from zoo_runtime import SUFFIXES

SEPARATORS = ",;\t|"
SNIFFED_BYTES = 1 << 16
SNIFFED_ROWS = 50
SEP_LINE = re.compile(r"\"?sep=(.)\"?\s*$", re.IGNORECASE)
SIGNATURES = (
    (b"PK\x03\x04", "a zip archive or a workbook of Excel or LibreOffice. Save the sheet as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook. Save the sheet as CSV in UTF-8"),
    (b"\x1f\x8b", "compressed with gzip. Unpack it: gzip -d"),
    (b"PAR1", "a Parquet file. Change its ending to .parquet"),
    (b"ARROW1", "an Arrow file. Change its ending to .arrow"),
    (b"SQLite format 3", "a SQLite database. Save the table as CSV in UTF-8"),
)


def read_delimited(path: Path) -> Table:
    """Read the cells of a .csv, .tsv or .txt file.

    Blank lines and rows that hold only separators are skipped.

    Args:
        path: The path of the file.

    Returns:
        The table. If the first line already describes a picture, the table has no header.

    Raises:
        DataLayout: The file is not text, its quotes are not balanced, or a row has more cells than the header.
        OSError: The file cannot be read.
    """
    encoding = _encoding(path)
    with path.open(encoding=encoding, newline="") as stream:
        try:
            start = stream.read(SNIFFED_BYTES)
        except UnicodeDecodeError as error:
            raise DataLayout(f"{str(path)!r}: the text is damaged: {error}. Save it again as CSV in UTF-8.") from None
        stream.seek(0)
        first = SEP_LINE.match(start.partition("\n")[0])
        if first:
            stream.readline()
        separator = first.group(1) if first else _separator(start)
        nested = "" if separator else _separator(_unquoted(start))
        records = _records(path, stream, separator or nested or ",", 1 if first else 0)
        if nested:
            # Excel writes so if it opened a list with another separator than its own, and saved it.
            records = ((line, next(csv.reader(record, delimiter=nested), [])) for line, record in records)
        return _table(path, records, is_legacy=encoding == "latin-1")


def _encoding(path: Path) -> str:
    """Return the encoding of a text file: a Unicode encoding, or "latin-1" if the text is not Unicode.

    Raises:
        DataLayout: The file is not text.
    """
    with path.open("rb") as stream:
        start = stream.read(SNIFFED_BYTES)
        for signature, what in SIGNATURES:
            if start.startswith(signature):
                raise DataLayout(f"{str(path)!r} is {what}.")
        if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
            return "utf-32"
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        if b"\0" in start:
            # Half of the bytes of ASCII text in UTF-16 are zero: every second one.
            even, odd = start[0::2].count(0), start[1::2].count(0)
            if max(even, odd) > len(start) / 4 > 8 * min(even, odd):
                return "utf-16-le" if odd > even else "utf-16-be"
            raise DataLayout(
                f"{str(path)!r} is not a text file: it contains zero bytes. Save the list as CSV in UTF-8."
            )
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            for block in itertools.chain([start], iter(lambda: stream.read(1 << 20), b"")):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8-sig"


def _separator(start: str) -> str:
    """Return the character that separates the cells, judging by the start of the file.

    It is the one that splits the most of the first rows into as many cells as the first row, which must be two or more.

    Returns:
        One of `SEPARATORS`, or " " if none of them occurs in the first row and every row ends with one word, as in the
        lists of Caffe: "pictures/my cat.jpg 0". "" if there is only one column.
    """
    lines = start.splitlines()
    lines = lines[:-1] if len(start) >= SNIFFED_BYTES else lines
    lines = [line for line in lines[: 4 * SNIFFED_ROWS] if line.strip(SEPARATORS + '" ')]
    best, found = (0.0, 0), ""
    for separator in SEPARATORS:
        rows = list(itertools.islice(_lenient(lines, separator), SNIFFED_ROWS))
        width = len(rows[0]) if rows else 0
        same = sum(len(row) == width for row in rows) / max(len(rows), 1)
        if width > 1 and (same, width) > best:
            best, found = (same, width), separator
    if found:
        return found
    words = [line.rsplit(None, 1) for line in lines]
    return " " if words and all(len(row) == 2 for row in words) and _is_picture(words[0][0]) else ""


def _unquoted(start: str) -> str:
    """Return the first cell of each row without its quotes, if every row has one cell; else ""."""
    rows = [row for row in _lenient(start.splitlines()[:SNIFFED_ROWS], ",") if row]
    return "\n".join(row[0] for row in rows) if all(len(row) == 1 for row in rows) else ""


def _lenient(lines: Iterable[str], separator: str) -> Iterator[list[str]]:
    with_errors = csv.reader(lines, delimiter=separator)
    while True:
        try:
            yield next(with_errors)
        except (StopIteration, csv.Error):
            return


def _records(path: Path, stream: io.TextIOBase, separator: str, before: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line, counted from 1, and the cells of each record.

    Args:
        path: The path of the file, for messages.
        stream: The text, from its first record on.
        separator: What separates cells, from `_separator`.
        before: The number of lines before the first record.
    """
    if separator == " ":
        for number, line in enumerate(stream, before + 1):
            yield number, line.rsplit(None, 1)
        return
    # A cell may be a long description. The default limit is 128 KiB.
    csv.field_size_limit(min(sys.maxsize, 1 << 30))
    reader = csv.reader(stream, delimiter=separator, strict=True)
    start = before + 1
    try:
        for record in reader:
            yield start, record
            start = before + reader.line_num + 1
    except csv.Error as error:
        raise DataLayout(
            f"{str(path)!r}, line {start}: the double quotes are not balanced ({error}). Write a double quote inside a "
            'quoted value twice: "5"" pot".'
        ) from None
    except UnicodeDecodeError as error:
        raise DataLayout(f"{str(path)!r}, near line {start}: the text is damaged: {error}. Save it as UTF-8.") from None


def _table(path: Path, records: Iterator[tuple[int, list[str]]], *, is_legacy: bool) -> Table:
    """Collect the cells by column. The first record is the header, unless it describes a picture."""
    filled: Iterator[tuple[int, list[str]]]
    filled = ((line, record) for line, record in records if not _is_blank(record))
    first = next(filled, None)
    if first is None:
        return Table(path, [], [], [])
    headed = not any(_is_picture(cell) or os.path.isfile(path.parent / cell.strip()) for cell in first[1] if cell)
    if headed:
        names = [cell.strip() for cell in first[1]]
    else:
        names, filled = [str(i + 1) for i in range(len(first[1]))], itertools.chain([first], filled)
    columns: list[list[str]] = [[] for _ in names]
    lines = array("Q")
    while chunk := list(itertools.islice(filled, 4096)):
        lines.extend(line for line, _ in chunk)
        cells = [
            record if len(record) == len(names) else _fit(path, line, record, len(names)) for line, record in chunk
        ]
        for column, values in zip(columns, zip(*cells, strict=True), strict=True):
            column.extend(values)
    return Table(path, names, list(columns), lines, headed=headed, is_legacy=is_legacy)


def _is_blank(record: list[str]) -> bool:
    return not record or (not record[0].strip() and not any(cell.strip() for cell in record))


def _is_picture(cell: str) -> bool:
    """Return whether a cell looks like the path of a picture, by its ending."""
    return os.path.splitext(cell.strip().lower())[1] in SUFFIXES


def _fit(path: Path, line: int, record: list[str], width: int) -> list[str]:
    """Make a record as long as the header. Spreadsheets leave out empty cells at the end of a row, or add some.

    Raises:
        DataLayout: The record has more values than the header has columns.
    """
    if any(cell.strip() for cell in record[width:]):
        raise DataLayout(
            f"{str(path)!r}, line {line}: the row has {len(record)} values for {width} columns. "
            "Put double quotes around values that contain a separator, such as a comma."
        )
    return record[:width] + [""] * (width - len(record))
