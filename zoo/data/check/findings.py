"""Turns what was measured into findings: what is wrong with the pictures, which ones, and what to do.

`zoo.workflow.data_check` decides the order of the steps. `zoo.report.data_check` and `zoo.cli.data` show the findings.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.data.check.groups import Grouping, same_pictures
from zoo.data.check.headers import Header
from zoo.data.check.near import Links
from zoo.data.check.quality import Quality, odd_shapes, odd_sizes, tiny
from zoo.data.pixels import Pixels, larger_limit, size_advice
from zoo.data.sources import Source
from zoo.reporter import counted
from zoo_runtime.workshop import conversion_advice

# A class with less than this share of the pictures of the largest class is named.
IMBALANCE = 0.2
# With fewer pictures, a class cannot be in all three parts of a split.
FEWEST = 3
LEVELS = ("error", "warning", "note")
IS, HAS = ("is", "are"), ("has", "have")
LOOK = "Look at them, and remove those that do not show their class."
# The part of an advice that is for folders alone.
_QUARANTINE = re.compile(r"[.;] --quarantine [^.]*\.")
# What is said of single pictures: the kind, its level, the verb for one and for several, the rest, and what to do.
POOR = (
    ("blank", "warning", HAS, "a single color and nothing else", "They show nothing. Remove them."),
    ("dark", "note", IS, "very dark", LOOK),
    ("bright", "note", IS, "very bright", LOOK),
    ("blurred", "note", IS, "blurred", LOOK),
    ("low_information", "note", HAS, "few colors or details", LOOK),
    ("tiny", "note", HAS, "a side of less than 32 pixels", f"Networks see little in them. {LOOK}"),
    ("odd_shape", "note", IS, "very long or very tall", "Resizing distorts them; try --resize pad."),
    ("odd_size", "note", IS, "far larger or smaller than most", LOOK),
    (
        *("turned", "note", IS, "stored turned, with an EXIF orientation"),
        "zoo turns them upright. Other programs may not; look whether the labels were given on upright pictures.",
    ),
)


@dataclass(frozen=True)
class Item:
    """One picture, or several that belong together, of a finding.

    Args:
        pictures: Indices of the pictures in the source.
        detail: What is said of them, such as "train, test"; empty if there is nothing to say.
    """

    pictures: tuple[int, ...]
    detail: str = ""


@dataclass(frozen=True)
class Finding:
    """Something that the check found.

    Args:
        kind: A short identifier, such as "copies_across_parts".
        level: "error" (a leak, a contradiction, or an unreadable file: `--strict` fails), "warning" or "note".
        title: What was found, in one sentence.
        advice: What to do about it.
        items: The pictures. Empty for a finding about classes.
        classes: The classes that a finding about classes is about.
    """

    kind: str
    level: str
    title: str
    advice: str
    items: tuple[Item, ...] = ()
    classes: tuple[str, ...] = ()

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the finding for JSON, with the name of every picture."""
        items = [{"pictures": [names[i] for i in item.pictures], "detail": item.detail} for item in self.items]
        return {
            "kind": self.kind,
            "level": self.level,
            "title": self.title,
            "advice": self.advice,
            "items": items,
            "classes": list(self.classes),
        }


@dataclass(frozen=True)
class Checked:
    """Everything that was measured about the pictures of a source.

    Args:
        source: Lists the pictures and their classes.
        pixels: The decoded pictures.
        headers: The header of each picture, None if it cannot be read.
        quality: What the pictures show.
        links: The near-duplicates.
        grouping: The groups that a split would keep together.
        keys: The user's key of each picture; None without `--group-by`.
        copies: The groups of byte-equal pictures, each as ascending indices.
    """

    source: Source
    pixels: Pixels
    headers: Sequence[Header | None]
    quality: Quality
    links: Links
    grouping: Grouping
    keys: Sequence[str | None] | None = None
    copies: tuple[tuple[int, ...], ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        equal: dict[str, list[int]] = {}
        for i in self.pixels.usable:
            equal.setdefault(self.pixels.digests[i], []).append(i)
        object.__setattr__(self, "copies", tuple(tuple(each) for each in equal.values() if len(each) > 1))

    def same(self) -> list[tuple[int, ...]]:
        """Return the groups of pictures that are the same picture; see `zoo.data.check.groups.same_pictures`."""
        return same_pictures(self.pixels.digests, self.pixels.usable, self.links)

    def disagree(self, pictures: Iterable[int]) -> bool:
        """Return whether pictures have different labels."""
        return len({self.source.pictures[i].labels for i in pictures}) > 1

    def apart(self, pictures: Iterable[int]) -> bool:
        """Return whether pictures are in different parts of a given split."""
        return len({self.source.pictures[i].split for i in pictures}) > 1


def find(checked: Checked) -> list[Finding]:
    """Return all findings, the most serious first."""
    found = [
        *_unreadable(checked),
        *_same_pictures(checked),
        *_look_alikes(checked),
        *_groups(checked),
        *_pictures(checked),
        *_classes(checked),
        *(Finding("remark", "warning", remark, "") for remark in checked.source.remarks),
    ]
    if not checked.source.findings.layout:
        # The pictures of a list or of an array cannot be moved.
        found = [dataclasses.replace(each, advice=_QUARANTINE.sub(".", each.advice)) for each in found]
    return sorted(found, key=lambda each: LEVELS.index(each.level))


def _are(count: int, one: str, many: str) -> str:
    return f"1 {one}" if count == 1 else f"{count} {many}"


def _unreadable(checked: Checked) -> list[Finding]:
    bad = checked.pixels.bad
    if not bad:
        return []
    title = _are(len(bad), "file cannot be read and is left out", "files cannot be read and are left out")
    advice = "Repair, convert or remove them; --quarantine DIR moves them away."
    larger = size_advice(bad.values())
    if larger:
        advice = larger if all(map(larger_limit, bad.values())) else f"{larger} {advice}"
    convert = conversion_advice({checked.source.pictures[i].name: why for i, why in bad.items()})
    advice = f"{convert} {advice}" if convert else advice
    return [Finding("unreadable", "error", title, advice, tuple(Item((i,), why) for i, why in sorted(bad.items())))]


def _same_pictures(checked: Checked) -> list[Finding]:
    """Report pictures that are in the source several times, byte for byte or saved again."""
    source = checked.source
    exact = {frozenset(each) for each in checked.copies}
    contradicting: list[Item] = []
    across: list[Item] = []
    equal: list[Item] = []
    again: list[Item] = []
    for group in checked.same():
        if checked.disagree(group):
            contradicting.append(Item(group, _labels(checked, group)))
        if checked.apart(group):
            across.append(Item(group, ", ".join(source.pictures[i].split or "no part" for i in group)))
        if checked.disagree(group) or checked.apart(group):
            continue
        (equal if frozenset(group) in exact else again).append(Item(group))
    texts = (
        (
            "contradicting_labels",
            "error",
            contradicting,
            ("picture has several copies with different labels", "pictures have copies with different labels"),
            "At most one of the labels is right. Keep the right one; --quarantine DIR moves all of them away.",
        ),
        (
            "copies_across_parts",
            "error",
            across,
            ("picture is in several parts of the given split", "pictures are in several parts of the given split"),
            "Figures on them are too good. Keep each in one part; --quarantine DIR keeps the copy in the test part.",
        ),
        (
            "exact_copies",
            "note",
            equal,
            ("picture has byte-equal copies", "pictures have byte-equal copies"),
            "zoo keeps copies on one side of the split. --quarantine DIR moves the extra copies away.",
        ),
        (
            "saved_again",
            "note",
            again,
            (
                "picture is there several times, saved at another quality, size or format, or mirrored",
                "pictures are there several times, saved at another quality, size or format, or mirrored",
            ),
            "zoo keeps them on one side of the split. Look at them; --quarantine leaves them, as they may be frames.",
        ),
    )
    return [
        Finding(kind, level, _are(len(items), *words), advice, tuple(items))
        for kind, level, items, words, advice in texts
        if items
    ]


def _look_alikes(checked: Checked) -> list[Finding]:
    """Report pairs of pictures that are nearly the same: crops, frames of a burst, other colors."""
    links, pictures = checked.links, checked.source.pictures
    same = {i: number for number, group in enumerate(checked.same()) for i in group}
    pairs = [
        (int(i), int(j), f"similarity {links.score[k]:.2f}{_orientation(links, k)}")
        for k, (i, j) in enumerate(zip(links.first, links.second, strict=True))
        if int(i) not in same or same[int(i)] != same.get(int(j))
    ]
    across = [
        Item((i, j), f"{pictures[i].split}, {pictures[j].split}; {text}")
        for i, j, text in pairs
        if checked.apart((i, j))
    ]
    differing = [
        Item((i, j), f"{_labels(checked, (i, j))}; {text}") for i, j, text in pairs if checked.disagree((i, j))
    ]
    others = [Item((i, j), text) for i, j, text in pairs if not (checked.apart((i, j)) or checked.disagree((i, j)))]
    found = []
    if across:
        title = (
            _are(len(across), "pair of look-alikes is", "pairs of look-alikes are") + " in two parts of the given split"
        )
        advice = (
            "Look at them. If they are frames of one burst, or crops or turned copies of one picture, put them into "
            "one part."
        )
        found.append(Finding("look_alikes_across_parts", "warning", title, advice, tuple(across)))
    if differing:
        title = _are(len(differing), "pair of look-alikes has", "pairs of look-alikes have") + " different labels"
        advice = "Look at them. If both show the same, one label is wrong."
        found.append(Finding("look_alikes_with_different_labels", "warning", title, advice, tuple(differing)))
    if others:
        title = (
            _are(len(others), "pair of pictures looks", "pairs of pictures look")
            + " alike: crops, turned copies or frames of a burst"
        )
        advice = "zoo keeps them on one side of the split. --group-by keeps longer series together."
        found.append(Finding("look_alikes", "note", title, advice, tuple(others)))
    if checked.grouping.cut:
        title = f"{counted(checked.grouping.cut, 'group')} of look-alikes would hold more than a quarter of a class"
        advice = (
            "zoo keeps only the most alike of them together. If they are frames of a video or of a camera that does "
            "not move, keep series together with --group-by."
        )
        found.append(Finding("large_groups", "warning", title, advice))
    return found


def _orientation(links: Links, place: int) -> str:
    """Say how the first picture of a pair is mirrored and turned to look like the second one; empty if it is not."""
    mirrored, turned = bool(links.mirrored[place]), int(links.turned[place])
    if mirrored and turned == 2:
        return ", upside down"
    # Degrees are named clockwise, as programs that turn pictures do.
    return (", mirrored" if mirrored else "") + (f", turned by {(4 - turned) * 90} degrees" if turned else "")


def _labels(checked: Checked, pictures: Iterable[int]) -> str:
    source = checked.source
    return ", ".join(repr(source.class_of(source.pictures[i])) for i in pictures)


def _groups(checked: Checked) -> list[Finding]:
    """Report the groups of `--group-by` that are in several parts of a given split."""
    if checked.keys is None:
        return []
    groups: dict[str, list[int]] = {}
    for i in checked.pixels.usable:
        key = checked.keys[i]
        if key is not None:
            groups.setdefault(key, []).append(i)
    torn = [Item(tuple(each), f"group {key!r}") for key, each in groups.items() if checked.apart(each)]
    if not torn:
        return []
    title = (
        _are(len(torn), "group of --group-by is", "groups of --group-by are") + " in several parts of the given split"
    )
    return [
        Finding("groups_across_parts", "error", title, "Put the pictures of each group into one part.", tuple(torn))
    ]


def _pictures(checked: Checked) -> list[Finding]:
    """Report single pictures that are dark, blurred, blank, tiny and the like."""
    quality, headers, bad = checked.quality, checked.headers, checked.pixels.bad
    usable = len(checked.pixels.usable)
    indices = {
        "blank": quality.blank().tolist(),
        "dark": quality.dark().tolist(),
        "bright": quality.light().tolist(),
        "blurred": quality.blurred().tolist(),
        "low_information": quality.uninformative().tolist(),
        "tiny": tiny(headers),
        "odd_shape": odd_shapes(headers),
        "odd_size": odd_sizes(headers),
        "turned": [i for i, header in enumerate(headers) if header and header.orientation != 1],
    }
    found = []
    for kind, level, verbs, what, advice in POOR:
        kept = tuple(Item((i,)) for i in indices[kind] if i not in bad)
        if not kept:
            continue
        title = f"{counted(len(kept), 'picture')} {verbs[len(kept) > 1]} {what}"
        if len(kept) * 2 > usable and level == "note":
            title = f"{len(kept)} of {usable} pictures {verbs[1]} {what}; this is usual in these pictures"
            advice = "There is nothing to do if they are meant to be so."
        modes = [header.mode for item in kept if (header := headers[item.pictures[0]])]
        if kind == "dark" and any(mode.startswith("I") for mode in modes):
            advice = "They have 16 bits. If their levels use fewer, say so with --levels, such as --levels 12."
        found.append(Finding(kind, level, title, advice, kept))
    return found


def _classes(checked: Checked) -> list[Finding]:
    """Report classes with few pictures, and an imbalance between classes."""
    source = checked.source
    counts = Counter(label for i in checked.pixels.usable for label in source.pictures[i].labels)
    found = []
    few = [name for label, name in enumerate(source.classes) if counts[label] < FEWEST]
    if few and all(picture.split is None for picture in source.pictures):
        title = _are(len(few), "class has", "classes have") + f" fewer than {FEWEST} pictures that can be read"
        found.append(
            Finding("few_pictures", "warning", title, "Add pictures, or remove the class.", classes=tuple(few))
        )
    most = max(counts.values(), default=0)
    small = [name for label, name in enumerate(source.classes) if counts[label] < IMBALANCE * most]
    if small:
        title = (
            _are(len(small), "class has", "classes have") + " less than a fifth of the pictures of the largest class"
        )
        advice = "Add pictures of them, or train with --balance."
        found.append(Finding("imbalance", "warning", title, advice, classes=tuple(small)))
    return found


def summary(checked: Checked) -> dict[str, Any]:
    """Describe classes, parts, sizes, formats and modes of the pictures, for JSON."""
    source, bad = checked.source, checked.pixels.bad
    headers = [header for i, header in enumerate(checked.headers) if header and i not in bad]
    parts: dict[str, dict[str, int]] = {name: {"pictures": 0} for name in source.classes}
    for i in checked.pixels.usable:
        picture = source.pictures[i]
        for label in picture.labels:
            row = parts[source.classes[label]]
            row["pictures"] += 1
            if picture.split is not None:
                row[picture.split] = row.get(picture.split, 0) + 1
    shown = [each.size if each.orientation < 5 else each.size[::-1] for each in headers]
    by_area = sorted(shown, key=lambda size: size[0] * size[1])
    sizes = {"smallest": by_area[0], "median": by_area[len(by_area) // 2], "largest": by_area[-1]} if by_area else {}
    return {
        "pictures": len(source.pictures),
        "readable": len(checked.pixels.usable),
        "classes": parts,
        "sizes": {name: f"{width}x{height}" for name, (width, height) in sizes.items()},
        "common_sizes": {f"{width}x{height}": count for (width, height), count in Counter(shown).most_common(5)},
        "formats": _counted(each.format for each in headers),
        "modes": _counted(each.mode for each in headers),
    }


def _counted(values: Iterable[str]) -> Mapping[str, int]:
    return dict(Counter(values).most_common())
