"""Writes what a network cannot do and what it was not tried on, from what is known of its run.

Every line follows from figures or facts of the run. Nothing is said that would be true of any network but for the lines
about people and safety, which no run of zoo can answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.report.exported_facts import ExportedFacts, interval_of
from zoo.report.markdown import Plain, code, escaped
from zoo.reporter import counted

# A class with fewer pictures than these is named.
FEW_TEST, FEW_TRAIN = 20, 50
# A class is poor if fewer of its pictures are recognized, or if so much fewer than of the average class are.
POOR_RECALL, BELOW_AVERAGE = 0.5, 0.15
# An interval that is wider than this is called wide.
WIDE = 0.05
NAMED = 8


def limits(facts: ExportedFacts) -> list[str]:
    """List what is known to be weak."""
    if facts.published:
        return [
            Plain(
                "zoo has checked that this file computes the same as the published network, on pictures that it may "
                "never have been meant for. It has not measured its accuracy; `zoo verify` does."
            ),
            f"It knows its {len(facts.info.classes)} classes only, and names one of them for any picture.",
            *_trust(facts),
        ]
    test = facts.metrics.get("test") or {}
    lines = [*_test_size(test), *_few(facts, test), *_poor(test), *_chance(facts, test), *_trust(facts)]
    return [*lines, *_wrong_labels(facts), *_compared(facts), *_warned(facts)]


def untried(facts: ExportedFacts) -> list[str]:
    """List what the run says nothing about."""
    data, versions = facts.info.data, facts.info.selftest.get("versions") or {}
    lines = []
    if not facts.published:
        seed = facts.info.run.get("seed")
        folds = " Its cross-validation divides the training pictures alone." if _cross_validated(facts) else ""
        lines.append(
            f"Another split or another seed: there was one training, with seed {seed}, and one test part.{folds}"
        )
        lines.append(
            f"Pictures from elsewhere: all of them come from {data.get('name', 'one source')!r}. Other cameras, light, "
            f"backgrounds, distances and seasons were not tried.{_source(facts.pictures)}"
        )
    else:
        lines.append("Your pictures: zoo has not run this file on any that are like yours.")
    if versions.get("machine"):
        lines.append(
            Plain(
                f"Other processors: the file was run on {code(str(versions['machine']))} with onnxruntime "
                f"{escaped(versions.get('onnxruntime', '?'))}. `zoo-runtime check` tells whether a device gives the "
                "same answers."
            )
        )
    lines.append(
        "People: whether it works equally well for different groups of people was not examined. That matters if people "
        "are in the pictures, or are affected by the answers."
    )
    lines.append(
        "Safety: it was not examined for use where a wrong answer can hurt someone, nor against pictures that are made "
        "to deceive it."
    )
    return lines


def _cross_validated(facts: ExportedFacts) -> bool:
    return "cross_validation" in facts.metrics


def _source(pictures: Mapping[str, Any]) -> str:
    if not pictures:
        return ""
    if pictures["formats"] == {"array": pictures["read"]}:
        return " They are arrays rather than files of a camera."
    smallest, largest = (" x ".join(map(str, pictures[key])) for key in ("smallest", "largest"))
    cameras = f" EXIF names {pictures['cameras']} different cameras." if pictures["cameras"] else ""
    which = "They" if pictures["read"] == pictures["of"] else f"Those {pictures['read']} that were looked at"
    if smallest == largest:
        return f" {which} all have {smallest} pixels.{cameras}"
    return f" {which} have {smallest} to {largest} pixels.{cameras}"


def _test_size(test: Mapping[str, Any]) -> list[str]:
    key = "exact_match" if "exact_match" in test else "accuracy"
    interval = interval_of(test, key)
    if interval is None or "pictures" not in test:
        return []
    low, high = interval
    count = f"{test['pictures']} test picture{'s' * (test['pictures'] != 1)}"
    if high - low <= WIDE:
        return []
    return [
        f"The test set is small: with {count}, the true {key.replace('_', ' ')} may lie anywhere between {low:.2f} and "
        f"{high:.2f}."
    ]


def _few(facts: ExportedFacts, test: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    tested = {name: row["pictures"] for name, row in (test.get("per_class") or {}).items()}
    for counts, least, what in ((facts.counts.get("train") or {}, FEW_TRAIN, "training"), (tested, FEW_TEST, "test")):
        few = sorted((name for name in counts if counts[name] < least), key=lambda name: (counts[name], name))
        if few:
            text = _names([f"{name} ({counts[name]})" for name in few])
            lines.append(Plain(f"Fewer than {least} {what} pictures: {text}."))
    return lines


def _poor(test: Mapping[str, Any]) -> list[str]:
    rows = {name: row for name, row in (test.get("per_class") or {}).items() if row["pictures"]}
    if not rows:
        return []
    average = sum(row["recall"] for row in rows.values()) / len(rows)
    limit = max(POOR_RECALL, average - BELOW_AVERAGE)
    poor = sorted(
        (name for name in rows if rows[name]["recall"] < limit), key=lambda name: (rows[name]["recall"], name)
    )
    lines: list[str] = []
    if poor:
        text = _names([f"{name} ({rows[name]['recall']:.2f})" for name in poor])
        lines.append(
            Plain(f"Classes that it often misses, with the part of their pictures that it recognizes: {text}.")
        )
    matrix = test.get("confusion_matrix")
    if matrix:
        names = test["classes"]
        pairs = [(row[j], i, j) for i, row in enumerate(matrix) for j in range(len(row)) if i != j and row[j]]
        if pairs:
            count, i, j = max(pairs, key=lambda pair: (pair[0], -pair[1], -pair[2]))
            total = sum(matrix[i])
            lines.append(
                Plain(
                    f"The most frequent confusion: {count} of {total} of {code(names[i])} are called {code(names[j])}."
                )
            )
    return lines


def _chance(facts: ExportedFacts, test: Mapping[str, Any]) -> list[str]:
    rows = test.get("per_class") or {}
    if not rows or facts.info.task == "multilabel" or not test.get("pictures"):
        return []
    name = max(rows, key=lambda each: rows[each]["pictures"])
    return [
        Plain(
            f"For comparison: answering {code(name)} every time would be right for "
            f"{rows[name]['pictures'] / test['pictures']:.2f} of the test pictures."
        )
    ]


def _trust(facts: ExportedFacts) -> list[str]:
    trust = facts.info.trust
    lines = []
    fitted = trust.get("calibration") or {}
    if not fitted.get("fitted_on"):
        lines.append("Its probabilities are not calibrated: 0.9 need not mean that nine of ten such answers are right.")
    if facts.info.task != "multilabel":
        unknown = trust.get("unknown") or {}
        if unknown.get("threshold") is None:
            lines.append(Plain("It always answers, however unsure it is: no threshold for `unknown` was asked for."))
        else:
            text = f"Answers below a confidence of {unknown['threshold']:.3f} are `unknown`. The promised precision of "
            lines.append(Plain(f"{text}{unknown['precision']:g} holds only for pictures like the training pictures."))
    outliers = trust.get("outliers") or {}
    if outliers:
        measured = (facts.metrics.get("test") or {}).get("outliers") or {}
        flagged = f"{1 - outliers.get('kept', 0.95):.2f} of good ones"
        if measured.get("flagged") is not None:
            flagged = f"{measured['flagged']:.2f} of the test pictures"
        lines.append(
            f"For a picture of something else, it still names a class. The outlier score marks such pictures, and also "
            f"{flagged}. How many it misses was not measured in this run; it hardly recognizes a new "
            "class that looks like a known one, and may miss blurred pictures."
        )
    elif not facts.published:
        lines.append("For a picture of something else, it names a class as well, and has no outlier score to tell.")
    return lines


def _wrong_labels(facts: ExportedFacts) -> list[str]:
    """Return how many labels are estimated to be wrong, if at least one half is, as label_issues.html says it."""
    expected, judged = facts.labels.get("expected"), facts.labels.get("judged")
    if not judged or expected is None or expected < 0.5:
        return []
    return [
        f"About {counted(round(max(1, expected)), 'label')} of {counted(judged, 'picture')} may be wrong, as the "
        "network sees it. Wrong labels teach it mistakes, and make the figures of the test pictures less certain."
    ]


def _compared(facts: ExportedFacts) -> list[str]:
    """Return what a smaller file loses against the float32 file, and whether the pictures are too few to tell."""
    compared = facts.compared
    key = "exact_match" if "exact_match" in compared else "accuracy"
    if key not in compared or f"float32_{key}" not in compared:
        return []
    lost, what = compared[f"float32_{key}"] - compared[key], key.replace("_", " ")
    change = f"is {abs(lost):.4f} {'below' if lost > 0 else 'above'} that" if abs(lost) > 5e-5 else "equals that"
    lines = [f"Computing in {facts.kind}: its {what} on the test pictures {change} of the float32 file."]
    return [*lines, f"{compared['too_few']}."] if compared.get("too_few") else lines


def _warned(facts: ExportedFacts) -> Sequence[str]:
    """Return the warnings of the run. Those about a smaller file are where its figures are."""
    if facts.record is None:
        return []
    own = f"{facts.compared.get('too_few')}."
    return [f"zoo warned: {without_folders(text)}" for text in facts.record.warnings if text != own]


def without_folders(text: str) -> str:
    """Return text on one line, without the folders of absolute paths, which say something about the user."""
    return re.sub(r"(?<![\w:/.~-])(?:[A-Za-z]:)?[/\\](?:[^\s'\"`/\\]+[/\\])+(?=[^\s'\"`])", "", " ".join(text.split()))


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(code, names[:NAMED])) + more
