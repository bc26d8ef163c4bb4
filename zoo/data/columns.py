"""Finds what the columns of a list mean, and turns a table into labeled pictures.

A user may name the columns with --columns. Otherwise the usual names are recognized if they leave no doubt, and what
was assumed is said. `zoo.data.labels` turns cells into class names, and `zoo.data.locate` finds the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.data import column_kinds as kinds
from zoo.data import labels as labeling
from zoo.data import legacy
from zoo.data.column_kinds import EVIDENCE, LABELS, MULTILABEL, PARTS, PATHS, ROLES, WRITTEN
from zoo.data.locate import exists, locate
from zoo.data.names import printable
from zoo.data.splits import part_of
from zoo.data.stored import StoredPicture
from zoo.data.tables import Listing, Row, Table, check_split_classes
from zoo.errors import DataLayout, UsageError

FLAGS = {"true": True, "1": True, "1.0": True, "yes": True, "false": False, "0": False, "0.0": False, "no": False}


@dataclass(frozen=True)
class Roles:
    """Says which columns of a table hold what, as indices of columns.

    Args:
        path: The column of paths, or of picture files.
        label: The columns of class names. Several columns hold a 0 or a 1 per class.
        multilabel: Whether the one column of class names holds several names per picture.
        split: The column of parts, or None.
        is_confirmed: Whether the user named the column of class names, so that an unusual one needs no question.
        assumed: What was assumed without a word of the user.
    """

    path: int
    label: tuple[int, ...]
    multilabel: bool = False
    split: int | None = None
    is_confirmed: bool = False
    assumed: tuple[str, ...] = ()


def parse_columns(columns: Sequence[str]) -> dict[str, str]:
    """Return what --columns says: a dictionary from the meaning of a column to its name.

    Args:
        columns: Parts such as "path=filename".

    Raises:
        UsageError: A part has another form, or a meaning is given twice.
    """
    named: dict[str, str] = {}
    for part in columns:
        role, _, name = (text.strip() for text in part.partition("="))
        if not role or not name or role in named:
            raise UsageError(
                "--columns must name each column once, such as path=filename,label=class,split=set. "
                f"Received: {','.join(columns)!r}."
            )
        named[role] = name
    return named


def read_rows(table: Table, columns: Mapping[str, str], root: Path | None, search: Path | None = None) -> Listing:
    """Turn a table into labeled pictures.

    Args:
        table: The table.
        columns: What the user says about the columns; see `parse_columns`.
        root: The folder from which relative paths count. None means the folder of the list.
        search: See `zoo.data.locate.locate`.

    Raises:
        DataLayout: The columns are not recognized, or a row is not valid. The message names its line and column.
        DataNotFound: The folder `root` does not exist.
        EmptyClass: The validation or test part lacks a class of the train part.
        UsageError: `columns` names a column that the table does not have.
    """
    table, roles = understood(table, columns, root)
    table, encoding = _decoded(table, roles, root)
    texts = [kinds.text(cell) for cell in table.columns[roles.path]]
    stored = table.pictures.get(table.names[roles.path])
    remarks = [*table.remarks, *roles.assumed, *encoding]
    if stored is None:
        _refuse_empty(table, roles.path, texts)
    found = labeling.read_labels(table, roles.label, multilabel=roles.multilabel, is_confirmed=roles.is_confirmed)
    parts = _parts(table, roles.split)
    contents: Sequence[Path | StoredPicture]
    if stored is None:
        located = locate(table, texts, root, search)
        contents, remarks = located.paths, [*remarks, *located.remarks]
    else:
        contents = stored
        texts = _names_of_stored(table, texts)
    rows = list(map(Row, texts, contents, found.names, parts))
    remarks += found.remarks
    if stored is None:
        rows, repeated = labeling.without_repeats(
            table, rows, table.names[roles.label[0]] or str(roles.label[0] + 1), multilabel=found.multilabel
        )
        remarks += repeated
    return Listing(_checked_parts(table, rows, multilabel=found.multilabel), found.multilabel, tuple(remarks))


def cells_of(table: Table, name: str, columns: Mapping[str, str], root: Path | None) -> dict[str, str]:
    """Return the cells of a column by the names of the pictures.

    Args:
        table: The table.
        name: The name of the column, or its number.
        columns: What the user says about the columns; see `parse_columns`.
        root: The folder from which relative paths count. None means the folder of the list.

    Raises:
        DataLayout: The columns are not recognized.
        UsageError: There is no such column.
    """
    table, roles = understood(table, columns, root)
    table, _ = _decoded(table, roles, root)
    found = [i for i, known in enumerate(table.names) if known == name]
    found = found or [i for i, known in enumerate(table.names) if kinds.key(known) == kinds.key(name)]
    if not found and name.isdecimal() and 1 <= int(name) <= len(table.names):
        found = [int(name) - 1]
    if len(found) != 1:
        what = "has no column" if not found else f"has {len(found)} columns called"
        raise UsageError(f"{str(table.path)!r} {what} {name!r}. It has: {kinds.listed(table)}.")
    texts = [kinds.text(cell) for cell in table.columns[roles.path]]
    if table.names[roles.path] in table.pictures:
        texts = _names_of_stored(table, texts)
    return {printable(text): kinds.text(cell) for text, cell in zip(texts, table.columns[found[0]], strict=True)}


def with_header(table: Table, root: Path | None) -> Table:
    """Return a table whose first line counts as a row if it is not a header."""
    if table.headed and any(map(_is_unknown, table.names)) and any(exists(table, name, root) for name in table.names):
        return table.without_header()
    return table


def understood(table: Table, columns: Mapping[str, str], root: Path | None) -> tuple[Table, Roles]:
    """Find out whether a table has a header, and what its columns hold.

    Args:
        table: The table.
        columns: What the user says about the columns; see `parse_columns`.
        root: The folder from which relative paths count. None means the folder of the list.

    Raises:
        DataLayout: The columns are not recognized.
        UsageError: There is no such column.
    """
    table = with_header(table, root)
    return table, _roles(table, columns, root)


def _names_of_stored(table: Table, texts: Sequence[str]) -> list[str]:
    """Return the names of pictures that the table contains: what the list calls them, or the row."""
    return [text or f"{table.path.name}[{table.lines[i]}]" for i, text in enumerate(texts)]


def _is_unknown(name: str) -> bool:
    """Return whether a name of a column is not a usual one, so that it may be data of a list without a header."""
    key = kinds.key(name)
    return key not in (*ROLES, *PATHS, *LABELS, *MULTILABEL, *PARTS)


def _roles(table: Table, columns: Mapping[str, str], root: Path | None) -> Roles:
    """Find which column holds what."""
    if not table.names:
        raise DataLayout(f"the first line of {str(table.path)!r} must name the columns: {WRITTEN}. Received: nothing.")
    given = {role: _named(table, role, name) for role, name in columns.items()}
    if {"label", "labels"} <= given.keys():
        raise UsageError("--columns must name either label or labels, not both.")
    if not table.headed and not given:
        return _without_header(table, root)
    assumed: list[str] = []
    path = given["path"][0] if "path" in given else _find_path(table, root, assumed)
    split = given["split"][0] if "split" in given else _find_split(table, path, assumed)
    role = "labels" if "labels" in given else "label"
    if role in given:
        label = given[role]
        multilabel = role == "labels" and len(label) == 1
        return Roles(path, label, multilabel, split, True, tuple(assumed))
    taken = {path, *([] if split is None else [split])}
    label, multilabel = _find_label(table, taken, path, root, assumed)
    return Roles(path, label, multilabel, split, False, tuple(assumed))


def _named(table: Table, role: str, name: str) -> tuple[int, ...]:
    """Return the columns that a part of --columns names: by name, by number, or several names joined by "+".

    Raises:
        UsageError: There is no such column, or the meaning is not one of `zoo.data.column_kinds.ROLES`.
    """
    if role not in ROLES:
        raise UsageError(
            f"--columns: {role!r} is not something that a column can hold. Allowed: {', '.join(ROLES)}. Write the "
            "meaning first, then the name of your column: path=filename."
        )
    exact = [i for i, known in enumerate(table.names) if known == name]
    found = exact or [i for i, known in enumerate(table.names) if kinds.key(known) == kinds.key(name)]
    if len(found) > 1:
        raise UsageError(
            f"--columns: {str(table.path)!r} has {len(found)} columns called {name!r}. Rename one of them, or give the "
            f"number of the column: {role}={' or '.join(str(i + 1) for i in found)}."
        )
    if found:
        return tuple(found)
    if name.isdecimal() and 1 <= int(name) <= len(table.names):
        return (int(name) - 1,)
    if "+" in name and role in ("label", "labels"):
        return tuple(_named(table, role, part.strip())[0] for part in name.split("+"))
    hint = "" if table.headed else " Its first line is not a header, so give the number of the column, such as 1."
    raise UsageError(f"--columns: {str(table.path)!r} has no column {name!r}. It has: {kinds.listed(table)}.{hint}")


def _without_header(table: Table, root: Path | None) -> Roles:
    """Find the columns of a list whose first line is not a header: a path, a class, and perhaps a part.

    Raises:
        DataLayout: The columns leave doubt.
    """
    count = len(table.names)
    files = [i for i in range(count) if kinds.holds_files(table, i, root)]
    parts = [i for i in range(count) if all(part_of(kinds.text(cell)) for cell in set(table.columns[i]))]
    others = [i for i in range(count) if i not in files and (count == 2 or i not in parts)]
    if len(files) == 1 and len(others) == 1:
        split = parts[0] if count == 3 and parts else None
        order = {files[0]: "path", others[0]: "label", **({} if split is None else {split: "split"})}
        header = ",".join(order[i] for i in range(count))
        said = (
            f"{str(table.path)!r} has no header, so zoo read it as if its first line were {header}. "
            "To be sure, add this line."
        )
        return Roles(files[0], (others[0],), split=split, assumed=(said,))
    cells = ",".join(kinds.text(column[0]) for column in table.columns)
    raise DataLayout(
        f"the first line of {str(table.path)!r} must name the columns: {WRITTEN}. Received: {cells[:200]!r}, which "
        "looks like a picture. Add a header, or give the numbers of the columns: --columns path=1,label=2."
    )


def _find_path(table: Table, root: Path | None, assumed: list[str]) -> int:
    """Return the column of paths or of picture files. What is assumed is appended to `assumed`.

    Raises:
        DataLayout: No column, or more than one, may hold the paths.
    """
    keys = [kinds.key(name) for name in table.names]
    if len(table.pictures) == 1 and "path" not in keys:
        return table.names.index(next(iter(table.pictures)))
    if keys.count("path") == 1:
        return keys.index("path")
    known = sorted((i for i, key in enumerate(keys) if key in PATHS), key=lambda i: PATHS.index(keys[i]))
    if len(known) > 1:
        known = [i for i in known if kinds.holds_files(table, i, root)] or known
    if len(known) > 1 and keys[known[0]] == keys[known[1]]:
        same = [i for i in known if keys[i] == keys[known[0]]]
        raise kinds.question(table, f"{len(same)} columns are called {table.names[same[0]]!r}", root, same)
    if not known:
        known = [i for i in range(len(keys)) if kinds.holds_files(table, i, root)]
        if len(known) > 1:
            raise kinds.question(
                table, f"{' and '.join(table.names[i] for i in known)} may hold the paths", root, known
            )
    if not known:
        raise kinds.question(table, "none of them is called path or holds the paths of pictures", root)
    assumed.append(f"{str(table.path)!r}: zoo reads the paths from the column {table.names[known[0]]!r}.")
    return known[0]


def _find_split(table: Table, path: int, assumed: list[str]) -> int | None:
    """Return the column that says which part each picture belongs to, or None.

    What is assumed is appended to `assumed`.

    Raises:
        DataLayout: Two columns are called split.
    """
    keys = [kinds.key(name) for name in table.names]
    if keys.count("split") > 1:
        raise DataLayout(
            f"{str(table.path)!r} has {keys.count('split')} columns called 'split'. Remove or rename one of them.",
            [("to use one of them", ["--columns", f"split={keys.index('split') + 1}"])],
        )
    if keys.count("split") == 1:
        return keys.index("split")
    for name in PARTS:
        if keys.count(name) == 1 and (column := keys.index(name)) != path:
            cells = {kinds.text(cell).lower() for cell in table.columns[column]} - {""}
            flags = name.startswith("is_") and cells <= FLAGS.keys()
            if cells and (flags or all(map(part_of, cells))):
                assumed.append(f"{str(table.path)!r}: zoo reads the split from the column {table.names[column]!r}.")
                return column
    return None


def _find_label(
    table: Table, taken: set[int], path: int, root: Path | None, assumed: list[str]
) -> tuple[tuple[int, ...], bool]:
    """Return the columns of class names, and whether the one column holds several names per picture.

    Args:
        table: The table.
        taken: The columns that hold something else.
        path: The column of paths.
        root: The folder from which relative paths count. None means the folder of the list.
        assumed: What is assumed is appended.

    Raises:
        DataLayout: No column, or more than one, may hold the class names.
    """
    keys = [kinds.key(name) for name in table.names]
    free = [i for i, name in enumerate(table.names) if i not in taken and not kinds.is_index(table, i, name)]
    exact = [i for i in free if keys[i] in ("label", "labels")]
    if len(exact) > 1:
        same = f"{len(exact)} columns are called {table.names[exact[0]]!r}"
        why = same if keys.count(keys[exact[0]]) > 1 else "a list has one column label or one column labels"
        raise kinds.question(table, why, root, [path], exact)
    if exact:
        return (exact[0],), keys[exact[0]] == "labels"
    known = [i for i in free if keys[i] in LABELS or keys[i] in MULTILABEL]
    if len(known) > 1:
        why = f"{' and '.join(table.names[i] for i in known)} may hold the classes"
        raise kinds.question(table, why, root, [path], known)
    if not known and len(free) > 1 and all(labeling.is_flag_column(table.columns[i]) for i in free):
        twice = [i for i in free if keys.count(keys[i]) > 1]
        if twice:
            raise DataLayout(
                f"{str(table.path)!r} has {keys.count(keys[twice[0]])} columns called {table.names[twice[0]]!r}. "
                "Rename one of them, or remove it."
            )
        names = ", ".join(table.names[i] for i in free[:5]) + (", ..." if len(free) > 5 else "")
        assumed.append(f"{str(table.path)!r}: zoo reads the columns {names} as classes: 1 means that a picture has it.")
        return tuple(free), False
    if not known and len(free) == 1 and len(set(map(kinds.text, table.columns[free[0]]))) > 1:
        known = free
    if not known:
        raise kinds.question(table, "none of them is called label or is the only other column", root, [path])
    column = known[0]
    multilabel = keys[column] in MULTILABEL
    what = "classes" if not multilabel else "classes, of which a picture may have several,"
    assumed.append(f"{str(table.path)!r}: zoo reads the {what} from the column {table.names[column]!r}.")
    return (column,), multilabel


def _decoded(table: Table, roles: Roles, root: Path | None) -> tuple[Table, list[str]]:
    """Decode the cells of a text that is not Unicode, and say which encoding was assumed.

    Returns:
        The table with its paths and class names decoded, and the remark, if there is one.

    Raises:
        DataLayout: The evidence does not decide between the encodings, and paths or class names depend on it.
    """
    if not table.is_legacy:
        return table, []
    used = (roles.path, *roles.label)
    one_hot = len(roles.label) > 1
    cells = {cell for i in roles.label for cell in ([table.names[i]] if one_hot else table.columns[i])}
    names = {cell for cell in cells if not cell.isascii()}
    paths = [cell for cell in table.columns[roles.path] if not cell.isascii()]
    if not names and not paths:
        return table, []
    found = legacy.candidates([*sorted(names), *paths[:1000]])
    fits = {name: sum(_exists_in(table, text, name, root) for text in paths[:EVIDENCE]) for name in legacy.ENCODINGS}
    if any(fits.values()):
        # A file of this name exists, which no guess can rival.
        most = max(fits.values())
        found = [name for name, count in fits.items() if count == most and (name in found or not names)][:1]
    if len(found) != 1:
        seen = "; ".join(f"as {name}: {_shown(names or set(paths), name)}" for name in found)
        raise DataLayout(
            f"{str(table.path)!r} is not in UTF-8, and its encoding is not clear"
            + (f" ({seen})" if seen else "")
            + ". Save it again as CSV with the encoding UTF-8 (in Excel: `CSV UTF-8`)."
        )
    columns = [
        [legacy.decode(cell, found[0]) for cell in column] if i in used else column
        for i, column in enumerate(table.columns)
    ]
    headers = [legacy.decode(name, found[0]) if i in used else name for i, name in enumerate(table.names)]
    remark = (
        f"{str(table.path)!r} is not in UTF-8. zoo read it as {found[0]}: {_shown(names or set(paths), found[0])}. If "
        "this is wrong, save it again as CSV with the encoding UTF-8."
    )
    return replace(table, names=headers, columns=columns), [remark]


def _exists_in(table: Table, text: str, encoding: str, root: Path | None) -> bool:
    try:
        return exists(table, legacy.decode(text, encoding).strip(), root)
    except UnicodeDecodeError:
        return False


def _shown(texts: set[str], encoding: str) -> str:
    """Name up to five texts in an encoding, for messages."""
    chosen = sorted(texts)[:5]
    return ", ".join(repr(legacy.decode(text, encoding).strip()) for text in chosen) + (
        " ..." if len(texts) > 5 else ""
    )


def _refuse_empty(table: Table, column: int, texts: Sequence[str]) -> None:
    """Check that every row has a path.

    Raises:
        DataLayout: A row has none, or its double quotes are not balanced, so that it swallowed others.
    """
    empty = [i for i, text in enumerate(texts) if not text]
    if empty:
        raise DataLayout(
            f"{table.places(empty)}: the column {table.names[column]!r} must not be empty. Write the path of the "
            "picture, or remove the row."
        )
    for i, text in enumerate(texts):
        if "\n" in text:
            raise DataLayout(f"{table.where(i)}: the path goes over several lines. Is a double quote not closed?")


def _parts(table: Table, column: int | None) -> list[str | None]:
    """Return the part of each row: "train", "val" or "test", or None.

    Raises:
        DataLayout: A cell does not mean a part, or only some of the cells are empty.
    """
    if column is None:
        return [None] * len(table)
    cells = [kinds.text(cell).lower() for cell in table.columns[column]]
    distinct = {cell: part_of(cell) for cell in set(cells)}
    name = table.names[column]
    if kinds.key(name).startswith("is_") and distinct.keys() <= FLAGS.keys():
        other = "test" if kinds.key(name) == "is_test" else "val"
        return [other if FLAGS[cell] else "train" for cell in cells]
    wrong = [cell for cell, part in distinct.items() if cell and part is None]
    if wrong:
        row = min(map(cells.index, wrong))
        raise DataLayout(
            f"{table.where(row)}, column {name!r}: the split must be train, val or test. "
            f"Received: {kinds.text(table.columns[column][row])!r}."
        )
    if "" in distinct and len(distinct) > 1:
        rows = [i for i, cell in enumerate(cells) if not cell]
        raise DataLayout(
            f"{str(table.path)!r} gives a split for only some of the pictures. Fill in the column {name} for all, or "
            f"for none. It is empty in {table.places(rows)}."
        )
    return [distinct[cell] for cell in cells]


def _checked_parts(table: Table, rows: list[Row], *, multilabel: bool) -> list[Row]:
    """Check the parts of all rows. A list with only training pictures has no split.

    Raises:
        DataLayout: The split has no train part, or another part has a class that the train part lacks.
        EmptyClass: The validation or test part lacks a class of the train part.
    """
    splits = {row.split for row in rows}
    if splits == {"train"}:
        return [row._replace(split=None) for row in rows]
    if rows and None not in splits:
        if "train" not in splits:
            raise DataLayout(
                f"{str(table.path)!r} has no training pictures. Write train into the column split of some rows."
            )
        check_split_classes(str(table.path), rows, multilabel=multilabel)
    return rows
