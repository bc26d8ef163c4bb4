"""Finds out how two runs differ: settings, pictures, split, versions, plugins, result, and the exported weights.

`zoo.workflow.compare_runs` compares settings and figures of any number of runs, and tests them on shared test
pictures. This module adds what only makes sense for two: which pictures changed, and whether the weights are equal.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo import runs
from zoo.runs import run_lock
from zoo.workflow import compare_runs

PLUGINS = "plugins"
# The same pictures can be split in several ways, so that the sizes of the parts belong to the split.
SPLIT = ("split", "train pictures", "val pictures", "test pictures")
# The settings that say which pictures are read.
READING = ("options.data", "options.reading")


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Compare two runs, which need not be finished.

    Args:
        first: A run folder.
        second: Another run folder.

    Returns:
        A dictionary for JSON with these keys:
            runs, classes, pair: As `zoo.workflow.compare_runs.compare` returns them; `pair` for the two. Each of
                `runs` also has `state`.
            configuration, data, split, versions: Rows with `name` and `values`, only those that differ.
            plugins: The plugins that only one run has: `only_first` and `only_second`.
            pictures: `added`, `removed`, `edited`, `relabeled` and `moved`: each a list of dictionaries with
                `picture`, and with `before` and `after` for other classes or parts. None if a run has no list.
            figures: Rows with `name`, `part` and `values`, only those that differ.
            weights: What `weights` returns.

    Raises:
        UsageError: A run is named twice.
        RunError: A file of a run is missing or damaged.
    """
    folders = (first, second)
    compared = compare_runs.compare(folders, unfinished=True)
    records = [runs.Run(folder).read_record() for folder in folders]
    for each, folder, record in zip(compared["runs"], folders, records, strict=True):
        each["state"] = run_lock.state(runs.Run(folder), record)
    own = [set(record.plugins) for record in records]
    (pair,) = compared["pairs"]
    settings = compared["settings"]
    if records[0].weights.get("sha256") and records[0].weights.get("sha256") == records[1].weights.get("sha256"):
        # A repeated run asks for the weights by name that zoo chose for the first one.
        settings = [row for row in settings if row["name"] != "options.weights"]
    pictures = _pictures(folders)
    # What the evidence says is a result, and the digest says no more than the pictures do.
    noise = {"evidence", *(["digest"] if pictures is not None and any(pictures.values()) else [])}
    return {
        "runs": compared["runs"],
        "classes": compared["classes"],
        "configuration": [row for row in settings if not row["name"].startswith(READING) and row["name"] not in noise],
        "data": [row for row in settings if row["name"].startswith(READING)]
        + [row for row in compared["data"] if row["name"] not in SPLIT and row["name"] not in noise],
        "split": [row for row in compared["data"] if row["name"] in SPLIT],
        "versions": [row for row in compared["versions"] if row["name"] != PLUGINS],
        "plugins": {"only_first": sorted(own[0] - own[1]), "only_second": sorted(own[1] - own[0])},
        "pictures": pictures,
        "figures": _figures(compared["runs"]),
        "pair": pair,
        "weights": weights(*folders),
    }


def _pictures(folders: Sequence[Path]) -> dict[str, list[dict[str, Any]]] | None:
    """Return how the pictures of the second run differ from those of the first one; see `compare`."""
    listed = []
    for folder in folders:
        if not (folder / "pictures.csv").is_file():
            return None
        listed.append(_by_content(runs.Run(folder).pictures()))
    before, after = listed
    added = {sha: after[sha] for sha in after if sha not in before}
    removed = {sha: before[sha] for sha in before if sha not in after}
    # A file with the same name and other content was edited, or another picture has taken its name.
    names = {name for entry in removed.values() for name in entry["picture"]}
    edited = {name for entry in added.values() for name in entry["picture"]} & names

    def alone(entries: Mapping[str, Mapping[str, set[str]]]) -> list[dict[str, Any]]:
        return [{"picture": name} for entry in entries.values() for name in sorted(entry["picture"] - edited)]

    def changed(key: str) -> list[dict[str, Any]]:
        return [
            {
                "picture": min(after[sha]["picture"]),
                "before": sorted(before[sha][key]),
                "after": sorted(after[sha][key]),
            }
            for sha in before
            if sha in after and before[sha][key] != after[sha][key]
        ]

    return {
        "added": alone(added),
        "removed": alone(removed),
        "edited": [{"picture": name} for name in sorted(edited)],
        "relabeled": changed("class"),
        "moved": changed("part"),
    }


def _by_content(rows: Sequence[Mapping[str, str]]) -> dict[str, dict[str, set[str]]]:
    """Return names, classes and parts of each picture by its sha256. Copies are one picture."""
    found: dict[str, dict[str, set[str]]] = {}
    for row in rows:
        entry = found.setdefault(row["sha256"], {"picture": set(), "class": set(), "part": set()})
        for key, values in entry.items():
            values.add(row[key])
    return found


def _figures(described: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures that differ between two runs, as exact numbers."""
    from zoo.report.comparison import figure_rows

    rows = []
    for row in figure_rows(described):
        values = [None if figure is None else figure["value"] for figure in row["values"]]
        if values[0] != values[1]:
            rows.append({"name": row["text"], "part": row["part"], "values": values})
    return rows


def weights(first: Path, second: Path) -> dict[str, Any]:
    """Compare the weights in the exported files of two run folders, bit for bit.

    Returns:
        A dictionary with these keys:
            sha256: For each file, what `zoo.export.weights_digest.weights_sha256` returns; None without a file.
            same: Whether these are equal; None if a file is missing.
            arrays: How many arrays each file has, or None.
            differing: How many of the arrays with the same name differ.
            greatest: The greatest difference of a number; None unless both files have the same names and shapes.
            variants: For each smaller file that a run has, such as int8: its `name`, and `sha256` and `same` as above.

    Raises:
        RunError: A file is damaged.
    """
    import numpy as np

    from zoo.export.weights_digest import weights_sha256

    files = [runs.Run(folder).exported for folder in (first, second)]
    digests = [weights_sha256(path) if path.is_file() else None for path in files]
    tensors = [_tensors(path) if path.is_file() else None for path in files]
    result: dict[str, Any] = {
        "sha256": digests,
        "same": None,
        "arrays": [None if each is None else len(each) for each in tensors],
        "differing": None,
        "greatest": None,
        "variants": _variants((first, second)),
    }
    before, after = tensors
    if before is None or after is None:
        return result
    result["same"] = result["sha256"][0] == result["sha256"][1]
    differing = [name for name in before if name in after and before[name].tobytes() != after[name].tobytes()]
    result["differing"] = len(differing)
    if {name: each.shape for name, each in before.items()} == {name: each.shape for name, each in after.items()}:
        numbers = [np.abs(before[name].astype("f8") - after[name].astype("f8")) for name in differing]
        result["greatest"] = max((float(each.max()) for each in numbers if each.size), default=None)
    return result


def _variants(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Compare the weights of the smaller files of two run folders; see `weights`."""
    from zoo.export.weights_digest import weights_sha256

    found = [{path.stem: path for path in folder.glob("model-*.onnx")} for folder in folders]
    rows = []
    for stem in sorted({*found[0], *found[1]}):
        digests = [weights_sha256(each[stem]) if stem in each else None for each in found]
        same = digests[0] == digests[1] if None not in digests else None
        rows.append({"name": stem.removeprefix("model-"), "sha256": digests, "same": same})
    recorded = [{path.stem: path for path in folder.glob(f"{runs.FORMATS}/*.json")} for folder in folders]
    for name in sorted({*recorded[0], *recorded[1]}):
        digests = [_recorded_digest(each.get(name)) for each in recorded]
        rows.append(
            {"name": name, "sha256": digests, "same": digests[0] == digests[1] if None not in digests else None}
        )
    return rows


def _recorded_digest(figures: Path | None) -> str | None:
    """Return the digest of the weights of a file in the format of a plugin, which its figures have."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return str(json.loads(figures.read_text("utf-8"))["weights_sha256"]) if figures else None
    return None


def _tensors(path: Path) -> dict[str, Any]:
    """Return the arrays in an exported file, which is an ONNX file, by their names."""
    import onnx

    return {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}


def sections(compared: Mapping[str, Any]) -> dict[str, bool]:
    """Return, for each section, whether the two runs are equal in it.

    Args:
        compared: What `compare` returned.
    """
    pictures = compared["pictures"] or {}
    equal: dict[str, Callable[[], bool]] = {
        "configuration": lambda: not compared["configuration"],
        "data": lambda: not compared["data"] and not any(pictures.get(key) for key in pictures if key != "moved"),
        "split": lambda: not compared["split"] and not pictures.get("moved"),
        "versions": lambda: not compared["versions"],
        "plugins": lambda: not any(compared["plugins"].values()),
        "result": lambda: not compared["figures"],
        "weights": lambda: all(row["same"] is True for row in (compared["weights"], *compared["weights"]["variants"])),
    }
    return {name: test() for name, test in equal.items()}
