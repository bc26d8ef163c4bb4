"""Reads a user's key for each picture, which keeps the pictures of an animal, a video or a patient together.

The key comes from the path of the picture by a regular expression, or from a column of the table that lists the
pictures. `zoo.data.check.groups` joins the pictures that have the same key.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data import lists
from zoo.data.labels import MISSING
from zoo.data.reading import ReadingOptions
from zoo.data.sources import Picture, Source
from zoo.errors import EmptyClass, UsageError
from zoo.reporter import Reporter, counted

COLUMN = "column:"
NAMED = 3


def keys_of(
    group_by: str, source: Source, data: str, reporter: Reporter, reading: ReadingOptions | None = None
) -> tuple[str | None, ...]:
    """Return the key of each picture.

    Args:
        group_by: A regular expression, which is searched in the path of each picture, or "column:NAME". If the
            expression has a group in parentheses, the first group is the key, otherwise the whole match. Paths are
            relative to the folder of the pictures; those of a table are as the table has them. Folders end in
            slashes.
        source: The pictures.
        data: The path of the source.
        reporter: Receives the number of groups, and a warning about pictures without a key.
        reading: How the source was read. None means the defaults.

    Returns:
        A key per picture, in the order of the source; None for a picture without a key, which stands alone.

    Raises:
        UsageError: The expression is not valid or matches no picture, the pictures have no paths, or there is no such
            column.
    """
    if group_by.startswith(COLUMN):
        keys = _from_column(group_by.removeprefix(COLUMN), source, data, reading or ReadingOptions())
        what = f"have no value in {group_by!r}"
    else:
        keys = _from_paths(group_by, source.pictures, data)
        what = f"are not matched by --group-by {group_by!r}"
    alone = [picture.name for picture, key in zip(source.pictures, keys, strict=True) if key is None]
    if len(alone) == len(keys):
        shown = ", ".join(repr(path) for path in _paths(source.pictures[:NAMED], data))
        raise UsageError(
            f"--group-by {group_by!r} gives no picture a group. It is searched in paths such as {shown}. An example: "
            r"'([^/]+)_\d+' takes what stands before the last number of a file name."
            if not group_by.startswith(COLUMN)
            else f"--group-by {group_by!r} gives no picture a group, because the column is empty. Name another column."
        )
    if alone:
        more = f" and {len(alone) - NAMED} more" if len(alone) > NAMED else ""
        reporter.warn(
            f"{len(alone)} of {len(keys)} pictures {what}; each of them is a group of its own: "
            f"{', '.join(alone[:NAMED])}{more}."
        )
    reporter.say(summary_line(keys, group_by))
    return keys


def summary(keys: Sequence[str | None]) -> dict[str, Any]:
    """Count the groups that keys make, as run.json and `zoo data show --json` have them.

    Returns:
        `groups` (their number), `pictures` (in them), `alone` (the number of pictures without a key), `smallest` and
        `largest` (the numbers of pictures in these groups), and `largest_key`.
    """
    counts = Counter(key for key in keys if key is not None)
    ((largest_key, largest),) = counts.most_common(1)
    return {
        "groups": len(counts),
        "pictures": counts.total(),
        "alone": len(keys) - counts.total(),
        "smallest": min(counts.values()),
        "largest": largest,
        "largest_key": largest_key,
    }


def summary_line(keys: Sequence[str | None], group_by: str) -> str:
    """Say how many groups keys make, and how large they are."""
    found = summary(keys)
    sizes = sorted({found["smallest"], found["largest"]})
    of = f"of {' to '.join(map(str, sizes))} {'picture' if sizes == [1] else 'pictures'}"
    largest = f"; the largest is {found['largest_key']!r}" if len(sizes) > 1 else ""
    alone = f"; {counted(found['alone'], 'picture')} alone" if found["alone"] else ""
    return f"Groups: {counted(found['groups'], 'group')} by --group-by {group_by!r}, {of}{largest}{alone}"


def check_groups(
    keys: Sequence[str | None], source: Source, usable: Sequence[int], group_by: str, *, validation: bool
) -> None:
    """Check that each class has enough groups for the parts that are drawn from its pictures.

    Args:
        keys: The key of each picture, from `keys_of`.
        source: The pictures.
        usable: Indices of the pictures that can be decoded.
        group_by: What the user gave, for the message.
        validation: Whether a validation part is made.

    Raises:
        EmptyClass: A class has too few groups.
    """
    pictures = source.pictures
    given = {pictures[i].split for i in usable}
    needed = 1 + ("test" not in given) + (validation and "val" not in given)
    groups: dict[int, set[object]] = {}
    for i in usable:
        if pictures[i].split in (None, "train"):
            for label in pictures[i].labels:
                groups.setdefault(label, set()).add(i if keys[i] is None else f"key {keys[i]}")
    scarce = [(source.classes[label], len(own)) for label, own in sorted(groups.items()) if len(own) < needed]
    if scarce and not source.multilabel:
        named = ", ".join(f"{name!r} has {counted(count, 'group')}" for name, count in scarce[:5])
        more = f", and {len(scarce) - 5} more classes have too few" if len(scarce) > 5 else ""
        raise EmptyClass(
            f"--group-by {group_by!r} keeps each group in one part, and every class needs {needed} groups: "
            f"{named}{more}. Add pictures of other groups, or give an expression that makes smaller groups."
        )


def _from_paths(expression: str, pictures: Sequence[Picture], data: str) -> tuple[str | None, ...]:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UsageError(f"--group-by {expression!r} is not a valid regular expression: {error}.") from None
    if all(isinstance(picture.content, np.ndarray) for picture in pictures):
        raise UsageError(f"--group-by needs pictures with paths; those of {data!r} are arrays without names.")
    matches = [pattern.search(path) for path in _paths(pictures, data)]
    return tuple(match.group(1 if pattern.groups else 0) or None if match else None for match in matches)


def _paths(pictures: Sequence[Picture], data: str) -> list[str]:
    """Return the paths of pictures relative to the folder of the source, with slashes between folders."""
    # The names of pictures begin with the normalized path: "photos/" for "./photos".
    root = os.path.join(Path(os.path.expanduser(data)), "")
    inside = [picture.name.removeprefix(root) for picture in pictures]
    return [path.replace(os.sep, "/") for path in inside]


def _from_column(name: str, source: Source, data: str, reading: ReadingOptions) -> tuple[str | None, ...]:
    path = Path(os.path.expanduser(data))
    is_list = path.is_file() or (path.is_dir() and not source.findings.layout)
    if path.suffix.lower() == ".npz" or not is_list:
        raise UsageError(
            f"--group-by {COLUMN}{name} needs a list of pictures; {data!r} is not one. For a folder, give a regular "
            "expression on the path."
        )
    values = lists.read_column(path, name, columns=reading.columns, root=reading.root)
    found = (values.get(picture.name, "") for picture in source.pictures)
    return tuple(value if value and value.lower() not in MISSING else None for value in found)
