"""Prints how two runs differ, for the command `zoo runs diff`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zoo.cli.table import cut, one_line
from zoo.report.comparison import pair_lines, shown
from zoo.report.figure import SHOWN_SETTINGS
from zoo.reporter import counted

SHOWN = 8
# The longest value that is shown whole; --json has all.
LONGEST = 100
TITLE = 15
PICTURES = {
    "added": "only in B",
    "removed": "only in A",
    "edited": "with other content",
    "relabeled": "with another class",
    "moved": "in another part",
}


def lines(compared: Mapping[str, Any], equal: Mapping[str, bool]) -> Iterator[str]:
    """Return the lines for a terminal.

    Args:
        compared: What `zoo.workflow.run_differences.compare` returns.
        equal: What `zoo.workflow.run_differences.sections` returns for it.
    """
    for each in compared["runs"]:
        state = "" if each["state"] == "finished" else f", {one_line(each['state'].partition(':')[0])}"
        yield f"{each['label']}  {each['id']}  {one_line(each['title'])}{state}"
    yield ""
    pictures = compared["pictures"]
    unknown = "" if pictures is not None else "of the pictures, nothing is known: a run has no pictures.csv"
    details = {
        "configuration": _rows(compared["configuration"]),
        "data": [*_rows(compared["data"]), *_pictures(pictures, ("removed", "added", "edited", "relabeled"))],
        "split": [*_rows(compared["split"]), *_pictures(pictures, ("moved",))],
        "versions": _rows(compared["versions"]),
        "plugins": [f"only in A: {name}" for name in compared["plugins"]["only_first"]]
        + [f"only in B: {name}" for name in compared["plugins"]["only_second"]],
        "result": _figures(compared),
    }
    for name, listed in details.items():
        note = f" ({unknown})" if unknown and name in ("data", "split") else ""
        yield f"{name.capitalize():{TITLE}}{_verdict(compared, equal, name)}{note}"
        for text in listed:
            yield f"    {text}"
    yield f"{'Weights':{TITLE}}{_weights(compared['weights'])}"
    for variant in compared["weights"]["variants"]:
        yield f"    {variant['name']}: {_variant(variant)}"


def _verdict(compared: Mapping[str, Any], equal: Mapping[str, bool], name: str) -> str:
    if name == "result" and not any(each["figures"] for each in compared["runs"]):
        return "not compared"
    return "no difference" if equal[name] else "differs"


def _rows(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    listed = []
    for row in rows:
        first, second = (cut(one_line(shown(value)), LONGEST) for value in row["values"])
        name = SHOWN_SETTINGS.get(row["name"], row["name"].removeprefix("options."))
        listed.append(f"{name}: A {first} | B {second}")
    return listed


def _pictures(pictures: Mapping[str, Sequence[Mapping[str, Any]]] | None, kinds: Sequence[str]) -> list[str]:
    listed = []
    for kind in kinds:
        entries = (pictures or {}).get(kind) or ()
        if not entries:
            continue
        listed.append(f"{counted(len(entries), 'picture')} {PICTURES[kind]}")
        for entry in entries[:SHOWN]:
            change = f": {', '.join(entry['before'])} -> {', '.join(entry['after'])}" if "before" in entry else ""
            listed.append(f"    {one_line(entry['picture'] + change)}")
        if len(entries) > SHOWN:
            listed.append(f"    and {len(entries) - SHOWN} more (--json lists them)")
    return listed


def _figures(compared: Mapping[str, Any]) -> list[str]:
    missing = [each["label"] for each in compared["runs"] if not each["figures"]]
    if missing:
        return [f"not measured: {' and '.join(missing)}"]
    listed = [
        "{} ({}): A {} | B {}".format(row["name"], row["part"], *_numbers(row["values"])) for row in compared["figures"]
    ]
    return [*listed, *(text.strip() for text in pair_lines(compared["pair"]))]


def _numbers(values: Sequence[float | None]) -> list[str]:
    """Format two different numbers with as few digits as show that they differ, but at least four."""
    for digits in range(4, 18):
        texts = ["-" if value is None else f"{value:.{digits}g}" for value in values]
        if texts[0] != texts[1]:
            break
    return texts


def _weights(weights: Mapping[str, Any]) -> str:
    first, second = weights["sha256"]
    if weights["same"] is None:
        missing = " and ".join(name for name, digest in zip("AB", (first, second), strict=True) if digest is None)
        return f"not compared: {missing} {'has' if len(missing) == 1 else 'have'} no exported file"
    if weights["same"]:
        return f"no difference: the exported weights are the same, bit for bit (sha256 {first[:16]})"
    sizes, greatest = weights["arrays"], weights["greatest"]
    if greatest is None:
        text = f"other networks with {sizes[0]} and {sizes[1]} arrays"
    else:
        text = f"{weights['differing']} of {sizes[0]} arrays, by at most {greatest:.2g}"
    return f"the exported weights differ: {text} (sha256 {first[:16]} | {second[:16]})"


def _variant(variant: Mapping[str, Any]) -> str:
    first, second = variant["sha256"]
    if variant["same"] is None:
        return f"only {'A' if second is None else 'B'} has such a file"
    if variant["same"]:
        return f"the same, bit for bit (sha256 {first[:16]})"
    return f"its weights differ (sha256 {first[:16]} | {second[:16]})"
