"""Reads decisions.csv, the decisions of a user about doubtful labels, and applies them to a list of pictures.

`zoo.report.label_issues` draws the page that writes such files. `zoo.workflow.decisions` finds the run and its
pictures, and writes the new list.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.data.delimited import read_delimited
from zoo.data.labels import one_line
from zoo.data.names import listed
from zoo.data.tables import SEPARATOR, Table
from zoo.errors import DataError

COLUMNS = ("run", "sha256", "picture", "class", "action", "label")
NEEDED = ("sha256", "action")
ACTIONS = ("keep", "relabel", "remove")
# A cell that begins with one of these is a formula for a spreadsheet.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
FEWEST_CLASSES = 2


@dataclass(frozen=True)
class Decision:
    """What a user decided about one picture.

    Args:
        where: The line of the file, for messages.
        run: The id of the run whose page the user saw; "" if the file does not say it.
        sha256: The sha256 of the picture, in hex.
        picture: The name of the picture; "" if the file does not say it.
        given: The classes that the page showed, joined by semicolons; None if the file does not say it.
        action: "keep", "relabel" or "remove".
        label: The new classes as the file has them, joined by semicolons; "" unless the action is "relabel".
    """

    where: str
    run: str
    sha256: str
    picture: str
    given: str | None
    action: str
    label: str = ""


@dataclass(frozen=True)
class Entry:
    """A picture of a run.

    Args:
        picture: Its name in pictures.csv.
        sha256: Its sha256, in hex.
        part: "train", "val" or "test".
        labels: The names of its classes.
    """

    picture: str
    sha256: str
    part: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Applied:
    """The pictures after the decisions.

    Args:
        entries: The pictures that remain.
        kept: The number of pictures that the user decided to keep as they are.
        relabeled: The pictures that got other classes, with their new ones.
        removed: The pictures that were removed.
        remarks: Warnings for the user.
    """

    entries: Sequence[Entry]
    kept: int
    relabeled: Sequence[Entry]
    removed: Sequence[Entry]
    remarks: Sequence[str] = ()


def as_text(text: str) -> str:
    """Return a text for a cell that no spreadsheet takes for a formula: an apostrophe stands before such a text."""
    return f"'{text}" if text.startswith(FORMULA) else text


def from_text(cell: str) -> str:
    """Return what `as_text` was given."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


def read(path: Path) -> tuple[list[Decision], list[str]]:
    """Read decisions.csv, also if a spreadsheet has saved it with another separator or encoding.

    Args:
        path: The path of the file.

    Returns:
        The decisions, and remarks about how the file was read.

    Raises:
        DataError: The file is not such a list, or a row is not a decision.
    """
    try:
        table = read_delimited(path)
    except FileNotFoundError:
        raise DataError(
            f"there is no file {str(path)!r}. Download decisions.csv from label_issues.html in the run folder."
        ) from None
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from None
    remarks = []
    if table.is_legacy:
        decoded = [[cell.encode("latin-1").decode("cp1252", "replace") for cell in cells] for cells in table.columns]
        table = dataclasses.replace(table, columns=decoded)
        remarks.append(f"{str(path)!r} is not in UTF-8. It is read as Windows-1252; check names with accents.")
    columns = {name.strip().lower(): cells for name, cells in zip(table.names, table.columns, strict=True)}
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        found = ", ".join(map(repr, table.names[:8])) or "nothing"
        raise DataError(
            f"{str(path)!r} is not a file of decisions: it has no column {' and '.join(map(repr, missing))}. It has "
            f"{found}. label_issues.html downloads such a file, with the columns {', '.join(COLUMNS)}."
        )
    return [_decision(table, columns, row) for row in range(len(table))], remarks


def _decision(table: Table, columns: Mapping[str, Sequence[str]], row: int) -> Decision:
    """Return one row as a decision."""

    def cell(name: str) -> str:
        return from_text(one_line(columns[name][row])) if name in columns else ""

    where, action, label = table.where(row), cell("action").lower(), cell("label")
    if action not in ACTIONS:
        nearest = difflib.get_close_matches(action, ACTIONS, n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise DataError(f"{where}: the action must be keep, relabel or remove. Received: {cell('action')!r}.{hint}")
    if action != "relabel" and label and label != cell("class"):
        raise DataError(
            f"{where}: the action is {action}, but there is a label {label!r}. Write relabel, or remove the label."
        )
    given = cell("class") if "class" in columns else None
    label = label if action == "relabel" else ""
    # A file name may begin with a blank or have two in a row.
    picture = from_text(columns["picture"][row]) if "picture" in columns else ""
    return Decision(where, cell("run"), cell("sha256").lower(), picture, given, action, label)


def apply(
    decisions: Sequence[Decision], entries: Sequence[Entry], classes: Sequence[str], *, multilabel: bool, run: str
) -> Applied:
    """Apply decisions to the pictures of a run.

    A decision also holds for byte-equal copies with the same label, unless they have decisions of their own.

    Args:
        decisions: The decisions.
        entries: The pictures of the run.
        classes: The names of the classes of the run.
        multilabel: Whether a picture may have several classes, or none.
        run: The id of the run, for messages.

    Raises:
        DataError: A decision is about a picture that the run does not have, or that had another class. Two decisions
            contradict each other. A class does not exist. Too few classes would remain.
    """
    _check_run(decisions, run)
    places: dict[str, list[int]] = defaultdict(list)
    for i, entry in enumerate(entries):
        places[entry.sha256].append(i)
    names = _Names(classes)
    chosen: dict[int, tuple[Decision, tuple[str, ...] | None]] = {}
    unknown = []
    for decision in decisions:
        own = _meant(decision, places[decision.sha256], entries)
        if not own:
            unknown.append(decision)
            continue
        for i in own:
            labels = _labels(decision, entries[i], names, multilabel)
            before = chosen.setdefault(i, (decision, labels))
            if before[1] != labels:
                raise DataError(
                    f"{decision.where}: {entries[i].picture!r} has two decisions, {_said(*before)} and "
                    f"{_said(decision, labels)}. Remove one of the rows; the first one is {before[0].where}."
                )
    if unknown:
        raise DataError(_unknown(unknown, entries, run))
    copied = _for_copies(chosen, places, entries)
    return _result(entries, {**copied, **{i: labels for i, (_, labels) in chosen.items()}}, chosen, copied)


def _check_run(decisions: Sequence[Decision], run: str) -> None:
    others = sorted({each.run for each in decisions if each.run and each.run != run})
    if others:
        raise DataError(
            f"the decisions are about the run {listed(others)}, not {run}. Name it with --run, or leave --run out."
        )


def _meant(decision: Decision, places: Sequence[int], entries: Sequence[Entry]) -> list[int]:
    """Return which of the byte-equal pictures at `places` a decision is about: all, if it names none of them."""
    named = [i for i in places if entries[i].picture == decision.picture]
    if named or not decision.picture:
        return named or list(places)
    # The picture was moved, or a spreadsheet has changed its name.
    given = [i for i in places if decision.given is None or SEPARATOR.join(entries[i].labels) == decision.given]
    return given or list(places)


class _Names:
    """Finds the class that a cell names, also if a spreadsheet has changed it."""

    def __init__(self, classes: Sequence[str]):
        self._classes = classes
        self._exact = {one_line(name): name for name in classes}
        self._loose: dict[str, list[str]] = defaultdict(list)
        for name in classes:
            self._loose[self._key(name)].append(name)

    @staticmethod
    def _key(name: str) -> str:
        """Return a name without what spreadsheets change: 01 becomes 1, and True becomes TRUE."""
        text = one_line(name).casefold()
        return str(int(text)) if text.isascii() and text.isdigit() else text

    def find(self, text: str, where: str) -> str:
        """Return the class that a text names.

        Raises:
            DataError: There is no such class.
        """
        if text in self._exact:
            return self._exact[text]
        alike = self._loose.get(self._key(text), [])
        if len(alike) == 1:
            return alike[0]
        nearest = difflib.get_close_matches(text, self._classes, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise DataError(
            f"{where}: the run has no class {text!r}.{hint} Its classes are {listed(self._classes)}. "
            "For a new class, change the new list afterwards."
        )


def _labels(decision: Decision, entry: Entry, names: _Names, multilabel: bool) -> tuple[str, ...] | None:
    """Return the classes that a picture has after a decision; None if it is removed.

    Raises:
        DataError: The decision does not fit the picture.
    """
    joined = SEPARATOR.join(entry.labels)
    if decision.given is not None and decision.given != one_line(joined):
        parts = decision.given.split(SEPARATOR) if multilabel else [decision.given]
        if {names.find(part, decision.where) for part in parts if part} != set(entry.labels):
            raise DataError(
                f"{decision.where}: {entry.picture!r} has the label {joined!r} in the run, not {decision.given!r}. The "
                "decisions are about another run. Name it with --run."
            )
    if decision.action == "remove":
        return None
    if decision.action == "keep":
        return entry.labels
    if multilabel:
        several = [names.find(part.strip(), decision.where) for part in decision.label.split(SEPARATOR) if part.strip()]
        return tuple(dict.fromkeys(several))
    if not decision.label:
        raise DataError(f"{decision.where}: relabel needs a label. Write the name of a class, or keep or remove.")
    return (names.find(decision.label, decision.where),)


def _said(decision: Decision, labels: tuple[str, ...] | None) -> str:
    return repr(SEPARATOR.join(labels)) if decision.action == "relabel" and labels is not None else decision.action


def _unknown(decisions: Sequence[Decision], entries: Sequence[Entry], run: str) -> str:
    """Compose the error message for decisions about pictures that the run does not have."""
    first = decisions[0]
    count = f"{len(decisions)} decisions are" if len(decisions) > 1 else "a decision is"
    if any(entry.picture == first.picture for entry in entries):
        why = f"the run has {first.picture!r}, but its content was different (sha256)"
    else:
        why = f"the run has no picture with the sha256 {first.sha256[:12]!r} ({first.picture or 'no name'})"
    return (
        f"{count} not about pictures of {run}: {first.where}: {why}. Name the run whose page you used with --run, or "
        "remove these rows."
    )


def _for_copies(
    chosen: Mapping[int, tuple[Decision, tuple[str, ...] | None]],
    places: Mapping[str, Sequence[int]],
    entries: Sequence[Entry],
) -> dict[int, tuple[str, ...] | None]:
    """Return the classes of byte-equal copies that have no decision of their own.

    Raises:
        DataError: Copies would have different labels, because their decisions differ.
    """
    copied: dict[int, tuple[str, ...] | None] = {}
    for i, (decision, labels) in chosen.items():
        for other in places[entries[i].sha256]:
            if other not in chosen:
                if entries[other].labels == entries[i].labels:
                    copied[other] = labels
            elif labels is not None and chosen[other][1] not in (None, labels):
                raise DataError(
                    f"{chosen[other][0].where}: {entries[other].picture!r} is a copy of {entries[i].picture!r}, but "
                    f"their decisions differ: {_said(*chosen[other])} and {_said(decision, labels)}. Give both the "
                    "same label, or remove one."
                )
    return copied


def _result(
    entries: Sequence[Entry],
    after: Mapping[int, tuple[str, ...] | None],
    chosen: Mapping[int, tuple[Decision, tuple[str, ...] | None]],
    copied: Mapping[int, tuple[str, ...] | None],
) -> Applied:
    """Return the pictures after the decisions, with warnings."""
    kept, relabeled, removed, remarks, result = 0, [], [], [], []
    for i, entry in enumerate(entries):
        labels = after.get(i, entry.labels)
        if labels is None:
            removed.append(entry)
            continue
        new = dataclasses.replace(entry, labels=labels)
        result.append(new)
        if set(labels) != set(entry.labels):
            relabeled.append(new)
        elif i in chosen:
            kept += 1
    changed = [i for i, labels in copied.items() if labels is None or set(labels) != set(entries[i].labels)]
    if changed:
        what = "1 copy" if len(changed) == 1 else f"{len(changed)} copies"
        names = listed([entries[i].picture for i in changed], 3)
        remarks.append(f"the decisions also hold for {what} of these pictures: {names}.")
    tests = sum(entry.part == "test" for entry in (*relabeled, *removed))
    if tests:
        what = "1 test picture is" if tests == 1 else f"{tests} test pictures are"
        remarks.append(
            f"{what} relabeled or removed, so that test figures from the new list cannot be compared with those of "
            "this run. `zoo evaluate` with the new list gives comparable figures for the earlier export."
        )
    remarks += _check_classes(entries, result)
    return Applied(result, kept, relabeled, removed, remarks)


def _check_classes(before: Sequence[Entry], after: Sequence[Entry]) -> list[str]:
    """Return warnings about classes without pictures.

    Raises:
        DataError: Fewer than two classes remain.
    """
    counts = Counter(label for entry in after for label in entry.labels)
    gone = sorted({label for entry in before for label in entry.labels} - counts.keys())
    if len(counts) < FEWEST_CLASSES:
        raise DataError(
            f"only {listed(counts) or 'no class'} would have pictures after these decisions; training needs "
            "2 classes or more."
        )
    return [f"no picture is left of {listed(gone)}; the new list has no such class."] if gone else []
