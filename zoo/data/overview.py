"""Describes what would be read from a source: the layout, the classes, the counts, and what is left out.

Every training prints this before pictures are decoded. `zoo data show` and `zoo finetune --dry-run` print it and stop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.data import group_by as grouping
from zoo.data import split as splitting
from zoo.data.names import printable, quoted
from zoo.data.pixels import check_readable
from zoo.data.reading import LeftOut
from zoo.data.sources import Source
from zoo.errors import EmptyClass, UnreadablePictures
from zoo.reporter import Reporter, counted
from zoo_runtime.workshop import conversion_advice, is_readable

# How many classes and how many files are named.
_NAMED_CLASSES = 10
_NAMED_PATHS = 5
_NAMED_MISSING = 3


def report(source: Source, reporter: Reporter) -> None:
    """Report how a source was understood, and warn about what is not used.

    Args:
        source: The source.
        reporter: Receives the messages and warnings.
    """
    for line in lines(source):
        reporter.say(line)
    for remark in source.remarks:
        reporter.warn(remark)


def show(source: Source, split: dict[str, Any], reporter: Reporter) -> None:
    """Report how a source was understood and how it would be split, without a training.

    Args:
        source: The source.
        split: What `expected_split` returns.
        reporter: Receives the messages and warnings.
    """
    report(source, reporter)
    show_split(source, split, reporter)


def show_split(source: Source, split: dict[str, Any], reporter: Reporter) -> None:
    """Report which pictures cannot be read, and how a source would be split; see `show`."""
    unreadable = unreadable_line(source)
    if unreadable:
        reporter.warn(unreadable)
    if "problem" not in split:
        parts = split["counts"]
        val = f"{parts['val']} to validate, " if parts["val"] else ""
        # Near-duplicates are found only when pictures are decoded. They stay together where zoo draws the split.
        given = all(picture.split for i, picture in enumerate(source.pictures) if i not in source.missing)
        about = "" if given else "about "
        reporter.say(f"Split: {about}{parts['train']} to train on, {val}{parts['test']} to test ({split['how']})")


def lines(source: Source) -> list[str]:
    """Describe a source in a few lines: the layout, the pictures of each class, and what is left out."""
    layout = f" ({source.findings.layout})" if source.findings.layout else ""
    head = (
        f"{counted(len(source.pictures) - len(source.missing), 'picture')} of {_classes(len(source.classes))}{layout}:"
    )
    found = [head, *_class_lines(source)]
    if source.multilabel:
        bare = sum(not each.labels for i, each in enumerate(source.pictures) if i not in source.missing)
        found += [f"  {counted(bare, 'picture')} without a label"] if bare else []
    found += [f"Missing: {missing}"] if (missing := missing_line(source)) else []
    reasons: dict[str, list[LeftOut]] = {}
    for each in source.findings.left_out:
        reasons.setdefault(each.why, []).append(each)
    found += [f"Left out: {_paths(items)} ({why})" for why, items in reasons.items()]
    if source.findings.passed_over:
        endings = sorted(source.findings.passed_over.items(), key=lambda item: -item[1])
        more = f" and {len(endings) - 10} other endings" if len(endings) > 10 else ""
        found.append(
            f"Passed over, because they are not pictures: {', '.join(f'{n} {e}' for e, n in endings[:10])}{more}"
        )
    return found


def _classes(number: int) -> str:
    return "1 class" if number == 1 else f"{number} classes"


def _paths(items: Sequence[LeftOut]) -> str:
    """Name what is left out, with the numbers of pictures."""
    shown = [
        quoted(each.path) + (f" with {counted(each.pictures, 'picture')}" if each.pictures else "")
        for each in items[:_NAMED_PATHS]
    ]
    more = f" and {len(items) - _NAMED_PATHS} more" if len(items) > _NAMED_PATHS else ""
    return ", ".join(shown) + more


def counts(source: Source) -> dict[str, Counter[str | None]]:
    """Return the number of pictures of each class in each part. The part is None if the source has no split.

    Pictures whose files do not exist are not counted.
    """
    found: dict[str, Counter[str | None]] = {name: Counter() for name in source.classes}
    for i, picture in enumerate(source.pictures):
        if i in source.missing:
            continue
        for label in picture.labels:
            found[source.classes[label]][picture.split] += 1
    return found


def _class_lines(source: Source) -> list[str]:
    """Return the number of pictures of up to ten classes: in one line, or in a table if the source has a split."""
    found = counts(source)
    shown = list(found)[:_NAMED_CLASSES]
    totals = {name: parts.total() for name, parts in found.items()}
    more = ""
    if len(found) > len(shown):
        fewest, most = min(totals, key=lambda name: totals[name]), max(totals, key=lambda name: totals[name])
        more = (
            f"and {len(found) - len(shown)} more (fewest: {quoted(fewest)} {totals[fewest]}, "
            f"most: {quoted(most)} {totals[most]})"
        )
    parts = [part for part in splitting.PARTS if any(part in each for each in found.values())]
    if not parts:
        text = ", ".join(f"{quoted(name)} {totals[name]}" for name in shown)
        return [f"  {text}{' ' if more else ''}{more}"] if shown else []
    width = max(len(quoted(name)) for name in shown)
    table = ["  " + " " * width + "".join(f"{part:>8}" for part in parts)]
    table += [f"  {quoted(name):{width}}" + "".join(f"{found[name][part]:>8}" for part in parts) for name in shown]
    return [*table, *([f"  {more}"] if more else [])]


def expected_split(
    source: Source,
    *,
    seed: int,
    val_fraction: float | None,
    validation: bool,
    group_by: str | None = None,
    keys: Sequence[str | None] | None = None,
) -> dict[str, Any]:
    """Return the split that a training would make, if no picture is damaged and none is a copy of another.

    Pictures of kinds that zoo cannot read, and those that do not exist, are in no part.

    Args:
        source: The source.
        seed: The seed of the split.
        val_fraction: The fraction of validation pictures; see `zoo.data.split.split`.
        validation: Whether there is a validation part.
        group_by: The value of --group-by, for messages. None if it is not given.
        keys: The key of each picture; see `zoo.data.group_by.keys_of`. None without --group-by.

    Returns:
        `counts` (the number of pictures in each part) and `how` (how the split is made). Or `problem`, a text that says
        why no split can be made.

    Raises:
        UsageError: `val_fraction` is given, but the source has a validation part.
    """
    pictures = source.pictures
    unread = {i for i, each in enumerate(pictures) if isinstance(each.content, Path) and not is_readable(each.content)}
    bad = {
        i: "it does not exist" if i in source.missing else "zoo cannot read its format" for i in unread | source.missing
    }
    rows = [i for i in range(len(pictures)) if i not in bad]
    alone = [str(row) for row in range(len(pictures))]
    groups = (
        alone if keys is None else [own if key is None else f"key {key}" for own, key in zip(alone, keys, strict=True)]
    )
    try:
        check_readable(pictures, bad)
        if keys is not None and group_by is not None:
            grouping.check_groups(keys, source, rows, group_by, validation=validation)
        split = splitting.split(
            pictures,
            alone,
            rows,
            source.classes,
            seed=seed,
            val_fraction=val_fraction,
            validation=validation,
            groups=groups,
        )
    except (EmptyClass, UnreadablePictures) as error:
        return {"problem": str(error)}
    how = split.how if group_by is None else f"{split.how}, grouped by {group_by!r}"
    return {"counts": {part: len(getattr(split, part)) for part in splitting.PARTS}, "how": how}


def unreadable_line(source: Source) -> str:
    """Name the pictures of kinds that zoo cannot read, and how to convert them. Empty if there are none."""
    paths = [picture.content for picture in source.pictures if isinstance(picture.content, Path)]
    return conversion_advice({str(path): "" for path in paths if not is_readable(path)})


def missing_line(source: Source) -> str:
    """Say how many files do not exist, and name some. Empty if all exist."""
    rows = sorted(source.missing)
    if not rows:
        return ""
    shown = ", ".join(quoted(source.pictures[i].name) for i in rows[:_NAMED_MISSING])
    more = ", such as " if len(rows) > _NAMED_MISSING else ": "
    return (
        f"{len(rows)} of {counted(len(source.pictures), 'file')} {'does' if len(rows) == 1 else 'do'} not exist"
        f"{more}{shown}"
    )


def to_json(source: Source) -> dict[str, Any]:
    """Return how a source was understood, as `zoo data show --json` prints it."""
    findings = source.findings
    return {
        "name": source.name,
        "task": source.task,
        "layout": findings.layout,
        "pictures": len(source.pictures) - len(source.missing),
        "missing": [source.pictures[i].name for i in sorted(source.missing)],
        "classes": {
            name: {"pictures": parts.total(), **{part: parts[part] for part in splitting.PARTS if parts[part]}}
            for name, parts in counts(source).items()
        },
        "left_out": [
            {"path": printable(each.path), "why": each.why, "pictures": each.pictures} for each in findings.left_out
        ],
        "passed_over": dict(findings.passed_over),
        "remarks": [*source.remarks, *filter(None, [unreadable_line(source)])],
    }
