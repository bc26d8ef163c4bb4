"""Checks the pictures of a run before it trains: leaks, contradicting labels, near-duplicates and blank pictures.

It needs the decoded pixels alone, and its findings are kept beside them, so that a later run gets them at once.
`zoo.data.check.findings` makes the full check of `zoo data check`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.data.check.groups import Grouping, same_pictures
from zoo.data.check.near import Links
from zoo.data.group_by import summary as group_summary
from zoo.data.pixels import Pixels
from zoo.data.sources import Source
from zoo.reporter import counted, joined

NAMED = 3
# How many pictures or groups of each kind run.json names.
RECORDED = 100


@dataclass(frozen=True)
class QuickCheck:
    """What the check before a training found.

    Args:
        notes: Lines about what was done, for the user.
        warnings: Lines about what the user should mend.
        record: The findings as run.json has them.
    """

    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)


def check(
    source: Source,
    pixels: Pixels,
    links: Links,
    grouping: Grouping,
    data: str,
    keys: Sequence[str | None] | None = None,
) -> QuickCheck:
    """Check the pictures of a run.

    Args:
        source: Lists the pictures and their classes.
        pixels: The decoded pictures.
        links: The near-duplicates among them.
        grouping: The groups that stay together.
        data: The path of the pictures and the options with which they are read, quoted for a shell.
        keys: The user's key of each picture; see `zoo.data.group_by.keys_of`. None if there are no keys.
    """
    pictures, digests = source.pictures, pixels.digests
    command = f"`zoo data check {data}` lists them"
    across, torn = _across_parts(source, links), _torn_groups(source, pixels, keys)
    same = same_pictures(digests, pixels.usable, links)
    # Byte-equal copies with different labels have a warning of their own.
    differing = [group for group in same if len({pictures[i].labels for i in group}) > 1]
    contradicting = [group for group in differing if len({digests[i] for i in group}) > 1]
    blank = [pictures[i].name for i in links.blank]
    warnings = []
    if across:
        warnings.append(
            f"{_near_duplicates_are(len(across))} in two parts of the given split: "
            f"{_named(source, across, parts=True)}. The test figures are too good if the network was trained on nearly "
            f"the same pictures. Remove them from one part. {command}."
        )
    if torn:
        warnings.append(
            f"{counted(len(torn), 'group')} of --group-by {'are' if len(torn) > 1 else 'is'} in two parts of the given "
            f"split: {joined(list(map(repr, torn)), NAMED)}. The test figures are then too good. Move the pictures of "
            "each group into one part, or remove the split; zoo then makes one that keeps groups together."
        )
    if contradicting:
        what = "1 picture is there" if len(contradicting) == 1 else f"{len(contradicting)} pictures are there"
        warnings.append(
            f"{what} several times, with different labels: {_named(source, contradicting)}. At most one of the labels "
            f"is right. {command}."
        )
    if blank:
        warnings.append(
            f"{counted(len(blank), 'picture')} {'has' if len(blank) == 1 else 'have'} a single color and nothing else: "
            f"{joined(blank, NAMED)}. Remove them, or replace them. {command}."
        )
    notes = _notes(source, grouping, command)
    record: dict[str, Any] = {
        "near_duplicates": {
            "pictures": sum(map(len, grouping.linked)),
            "groups": [[pictures[i].name for i in members] for members in grouping.linked[:RECORDED]],
            "number_of_groups": len(grouping.linked),
            "groups_cut": grouping.cut,
        },
        "across_parts": _pairs(source, across),
        **({} if keys is None else {"group_by": group_summary(keys)}),
        "groups_across_parts": torn[:RECORDED],
        "contradicting": _pairs(source, contradicting),
        "blank": blank[:RECORDED],
        "exact_copies": len(pixels.usable) - len({digests[i] for i in pixels.usable}),
        "lines": [*warnings, *notes],
    }
    return QuickCheck(tuple(notes), tuple(warnings), record)


def _notes(source: Source, grouping: Grouping, command: str) -> list[str]:
    """Return lines that say which pictures are kept together."""
    notes = []
    if grouping.linked:
        held, many = sum(map(len, grouping.linked)), len(grouping.linked)
        drawn = all(picture.split is None for picture in source.pictures)
        kept = ("; it stays" if many == 1 else "; each group stays") + " on one side of the split" if drawn else ""
        notes.append(f"Near-duplicates: {held} pictures in {counted(many, 'group')}{kept}. {command}.")
    if grouping.cut:
        notes.append(
            f"Look-alikes: {counted(grouping.cut, 'group')} would hold too many pictures of a class. Only the most "
            "alike stay together. If they are frames of a video, keep them together with --group-by."
        )
    return notes


def _near_duplicates_are(count: int) -> str:
    return "1 pair of near-duplicates is" if count == 1 else f"{count} pairs of near-duplicates are"


def _across_parts(source: Source, links: Links) -> list[tuple[int, int]]:
    pictures = source.pictures
    pairs = zip(links.first, links.second, strict=True)
    return [(int(i), int(j)) for i, j in pairs if pictures[i].split != pictures[j].split]


def _torn_groups(source: Source, pixels: Pixels, keys: Sequence[str | None] | None) -> list[str]:
    """Return the keys of pictures that are in several parts of a given split."""
    parts: dict[str, set[str | None]] = {}
    for i in pixels.usable:
        key = keys[i] if keys is not None else None
        if key is not None:
            parts.setdefault(key, set()).add(source.pictures[i].split)
    return [key for key, own in parts.items() if len(own) > 1]


def _named(source: Source, pairs: Sequence[Sequence[int]], *, parts: bool = False) -> str:
    """Name the first pairs or groups in one line, with their parts or classes, and say how many more there are."""
    texts = []
    for pair in pairs[:NAMED]:
        names = [
            f"{source.pictures[i].name} ({source.pictures[i].split if parts else source.class_of(source.pictures[i])})"
            for i in pair
        ]
        texts.append(" = ".join(names))
    return "; ".join(texts) + (f" and {len(pairs) - NAMED} more" if len(pairs) > NAMED else "")


def _pairs(source: Source, pairs: Sequence[Sequence[int]]) -> list[list[str]]:
    return [[source.pictures[i].name for i in pair] for pair in pairs[:RECORDED]]
