"""Reads a file that lists pictures or contains them, and names the files that it does not read.

`zoo.data.delimited`, `zoo.data.columnar` and `zoo.data.npz` read the formats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from zoo.data.columnar import read_columnar, read_json
from zoo.data.columns import cells_of, parse_columns, read_rows
from zoo.data.delimited import read_delimited
from zoo.data.label_studio import tidied
from zoo.data.npz import read_npz
from zoo.data.reading import Exclusion, LeftOut
from zoo.data.several_tables import JoinedTable, PartList, find, join
from zoo.data.tables import Listing, Table
from zoo.data.tree import Tree
from zoo.errors import DataLayout, UsageError

DELIMITED = (".csv", ".tsv", ".tab", ".txt", ".lst")
JSON = (".json", ".jsonl", ".ndjson")
COLUMNAR = (".parquet", ".pq", ".arrow", ".feather")
ENDINGS = (*DELIMITED, *JSON, *COLUMNAR, ".npz")
LFS_POINTER = b"version https://git-lfs"
_ARRAYS = "Save pictures and labels as plain arrays: np.savez('data.npz', x_train=x, y_train=y)"
_SHEET = "Save the sheet as CSV (in Excel: `CSV UTF-8`), and give that file"
REFUSED = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods", ".numbers"), f"is a spreadsheet. {_SHEET}."),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), "is a database. Export the table with the paths as CSV."),
    **dict.fromkeys((".mat", ".h5", ".hdf5"), f"is a file of arrays that zoo does not read. {_ARRAYS}."),
    **dict.fromkeys(
        (".pkl", ".pickle", ".joblib", ".pt", ".pth"),
        f"is a pickle, which zoo never loads, because it can run programs. {_ARRAYS}.",
    ),
    ".npy": f"holds a single array, but pictures need labels. {_ARRAYS}.",
    **dict.fromkeys(
        (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"),
        "is an archive. Unpack it, and give the folder or the list inside.",
    ),
    **dict.fromkeys((".tfrecord", ".tfrecords"), f"is a TFRecord file, which zoo does not read. {_ARRAYS}."),
}


def read_list(path: Path, *, columns: Sequence[str] = (), root: str | None = None) -> Listing:
    """Read the labeled pictures of a file.

    Args:
        path: The path of the file. Its ending is one of `ENDINGS`.
        columns: What the columns or arrays hold, such as "path=filename". Empty means that the usual names count.
        root: The folder from which relative paths count. None means the folder of the file.

    Raises:
        DataLayout: The file is not such a list. The message names the line and column where one is wrong.
        DataNotFound: The folder `root` does not exist.
        EmptyClass: The validation or test part lacks a class of the train part.
        UsageError: `columns` or `root` does not fit the file.
        OSError: The file cannot be read.
    """
    kind = path.suffix.lower()
    if kind in REFUSED:
        raise DataLayout(f"{str(path)!r} {REFUSED[kind]}")
    if kind not in ENDINGS:
        raise DataLayout(f"{str(path)!r} is a file, but not a list that zoo reads: {', '.join(ENDINGS)}.")
    if not path.is_file():
        # Reading from a pipe might never end.
        raise DataLayout(f"{str(path)!r} is not a regular file. Save the list as a file.")
    with path.open("rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            raise DataLayout(f"{str(path)!r} is a Git LFS pointer and not the file itself. Fetch it: git lfs pull")
    named = parse_columns(columns)
    if kind == ".npz":
        if root is not None:
            raise UsageError("--root cannot be used with an .npz file, because it contains the pictures. Omit it.")
        return read_npz(path, named)
    return read_rows(_table(path), named, _folder(root))


def read_lists(
    root: Path, lists: Sequence[PartList], *, columns: Sequence[str] = (), base: str | None = None
) -> tuple[Listing, list[LeftOut]]:
    """Read a folder in which several lists make up one data set.

    Args:
        root: The folder.
        lists: What `zoo.data.several_tables.find` returned.
        columns: As in `read_list`.
        base: The folder from which relative paths count. None means the folder of each list. If no picture is there,
            the pictures are searched by name in the whole folder.

    Returns:
        The pictures, and the lists that are left out because they have no labels.

    Raises:
        DataLayout: The lists cannot be joined, or one is not valid.
        DataNotFound: The folder `base` does not exist.
        EmptyClass: The validation or test part lacks a class of the train part.
        UsageError: `columns` or `base` does not fit.
        OSError: A file cannot be read.
    """
    table, left_out = _joined(root, lists, parse_columns(columns), base)
    return read_rows(table, _without_split(parse_columns(columns)), _folder(base), root), left_out


def _joined(
    root: Path, lists: Sequence[PartList], columns: Mapping[str, str], base: str | None
) -> tuple[JoinedTable, list[LeftOut]]:
    tables = {file: _table(file, allow_hidden=True) for each in lists for file in each.files}
    return join(root, lists, tables, columns, _folder(base))


def _without_split(columns: Mapping[str, str]) -> dict[str, str]:
    """Return what the user says about columns, without that of the split: the lists themselves are the parts."""
    return {role: name for role, name in columns.items() if role != "split"}


def read_column(path: Path, name: str, *, columns: Sequence[str] = (), root: str | None = None) -> dict[str, str]:
    """Read a column of a list that `read_list` has read.

    Args:
        path: The path of the list, which is not an .npz file, or of a folder of lists.
        name: The name of the column, or its number.
        columns: As in `read_list`.
        root: As in `read_list`.

    Returns:
        A dictionary from the name of each picture to its cell.

    Raises:
        UsageError: The list has no such column.
    """
    named = parse_columns(columns)
    if path.is_dir():
        table, _ = _joined(path, find(Tree(path, Exclusion(()))), named, root)
        return cells_of(table, name, _without_split(named), _folder(root))
    return cells_of(_table(path), name, named, _folder(root))


def _table(path: Path, *, allow_hidden: bool = False) -> Table:
    kind = path.suffix.lower()
    if kind in COLUMNAR:
        return read_columnar(path, allow_hidden=allow_hidden)
    return tidied(read_delimited(path) if kind in DELIMITED else read_json(path))


def _folder(root: str | None) -> Path | None:
    return Path(root).expanduser() if root is not None else None
