"""Computes every figure of a report page from the files of a run folder, and compares a page with them.

This is the other half of zoo.report, written apart: nothing is imported from it. Where the folder has predictions.csv,
the figures of the test pictures are counted from its rows.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
import shlex
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

from scipy.stats import binomtest

NONE = "–"


# --- reading a page --------------------------------------------------------------------------------------------------


class Section(HTMLParser):
    """Reads one section: its figures in order, other text, and the points, bars and ticks of its charts."""

    VOID = ("img", "input", "meta", "br")

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.figures: list[list[str]] = []
        self.notes: list[tuple[str, str]] = []
        self.other = ""
        self.charts: list[dict] = []
        self._open: list[tuple[str, str | None]] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in self.VOID:
            return
        self._open.append((tag, None))
        if tag == "svg" and "data-chart" in given:
            self.charts.append(
                {"name": given["data-chart"], "svg": given, "points": [], "bars": [], "ticks": [], "grid": []}
            )
        elif "data-figure" in given and tag == "text" and given.get("class") == "note":
            self.notes.append((given["data-figure"], ""))
            self._open[-1] = (tag, "note")
        elif "data-figure" in given:
            self.figures.append([given["data-figure"], ""])
            self._open[-1] = (tag, "figure")
        elif "data-tick" in given:
            self.charts[-1]["ticks"].append([given["data-tick"], given["x"], given["y"], ""])
            self._open[-1] = (tag, "tick")
        elif "data-grid" in given:
            self.charts[-1]["grid"].append(given["data-grid"])
        elif "data-point" in given:
            self.charts[-1]["points"].append((given["data-point"], float(given["cx"]), float(given["cy"])))
        elif "data-bar" in given:
            self.charts[-1]["bars"].append((given["data-bar"], float(given["height"])))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            self._open.pop()

    def handle_data(self, data):
        kind = next((kind for _, kind in reversed(self._open) if kind), None)
        if kind == "figure":
            self.figures[-1][1] += data
        elif kind == "note":
            self.notes[-1] = (self.notes[-1][0], self.notes[-1][1] + data)
        elif kind == "tick":
            self.charts[-1]["ticks"][-1][3] += data
        else:
            self.other += f" {data}"


def sections(page: str) -> dict[str, str]:
    """Return the markup of each section, and of the header under "top". Pictures are shortened."""
    page = re.sub(r"(data:image/\w+;base64,)[^\"]*", r"\1", page)
    found = dict(re.findall(r'<section id="([\w-]+)"[^>]*>(.*?)</section>', page, re.DOTALL))
    (found["top"],) = re.findall(r'<header class="top">(.*?)</header>', page, re.DOTALL)
    return found


def wrong(markup: str, expected: list[tuple[str, str]], points: dict, notes: list[tuple[str, str]]) -> list[str]:
    """Compare a section with what it should show; return one line for each difference."""
    read = Section(markup)
    found = []
    for kind, all_shown, all_should in (("figure", read.figures, expected), ("phase", read.notes, notes)):
        for i, (shown, should) in enumerate(itertools.zip_longest(all_shown, all_should)):
            if shown is None or should is None or tuple(shown) != should:
                found.append(f"{kind} {i}: {shown} instead of {should}")
    stray = re.sub(r"\bF1\b", "", read.other)
    found += [f"a digit outside of a figure: {text}" for text in re.findall(r".{0,30}\d.{0,30}", stray)]
    drawn: dict[str, list[tuple[float, float]]] = {}
    for chart in read.charts:
        found += [f"chart {chart['name']}: {problem}" for problem in wrong_chart(chart, drawn)]
    for source in drawn.keys() | points.keys():
        places, values = drawn.get(source, []), points.get(source, ())
        if len(places) != len(values) or any(abs(a[0] - b) > a[1] for a, b in zip(places, values, strict=True)):
            found.append(f"point {source}: {drawn.get(source)} instead of {points.get(source)}")
    return found


def wrong_chart(chart: dict, drawn: dict) -> list[str]:
    """Check the ticks of a chart against its axes, and add its points to `drawn`: values with tolerances."""
    axes = {axis: chart["svg"][f"data-{axis}"].split() for axis in "xy"}

    def value(axis: str, place: float) -> float:
        low, high, start, end = map(float, axes[axis][:4])
        part = (place - start) / (end - start)
        return low * (high / low) ** part if "log" in axes[axis] else low + part * (high - low)

    found = []
    grid = Counter(chart["grid"])
    if Counter(kind for kind, *_ in chart["ticks"]) != grid or min(grid["x"], grid["y"]) < 2:
        found.append("ticks are missing")
    for kind, x, y, shown in chart["ticks"]:
        low, high = map(float, axes[kind][:2])
        here = value(kind, float(x) if kind == "x" else float(y) - 4)
        if not re.fullmatch(r"-?[\d.]+(e-?\d+)?", shown) or abs(float(shown) - here) > 0.002 * (high - low):
            found.append(f"tick {shown!r} is at {here}")
    for source, x, y in chart["points"]:
        # Places are rounded to 0.01 of a unit.
        drawn[source] = [
            (value(axis, place), abs(value(axis, place + 0.3) - value(axis, place)))
            for axis, place in (("x", x), ("y", y))
        ]
    for source, height in chart["bars"]:
        drawn[f"bar {source}"] = [(height, 0.01)]
    return found


# --- how figures are written -----------------------------------------------------------------------------------------


def frac(value: float | None, decimals: int = 3) -> str:
    if value is None:
        return NONE
    while decimals < 6 and float(f"{value:.{decimals}f}") in (0, 1) and value not in (0, 1):
        decimals += 1
    return f"{value:.{decimals}f}"


def span(bounds) -> str:
    low, high = bounds
    return f"{low:.2f} to {high:.2f}" if high - low >= 0.1 else f"{low:.3f} to {high:.3f}"


def wilson(hits: int, of: int) -> tuple[float, float]:
    bounds = binomtest(hits, of).proportion_ci(0.95, "wilson")
    return float(bounds.low), float(bounds.high)


def label(name: str) -> str:
    return name if name and name == " ".join(name.split()) and name.isprintable() else repr(name)


def cell(column: str, value: str) -> str:
    form = {"learning_rate": "%.3g", "seconds": "%.1f"}.get(
        column, "%.4f" if "loss" in column or "acc" in column else ""
    )
    if value == "":
        return "-"
    return form % float(value) if form and value not in ("nan", "inf") else value


def setting(value) -> str:
    if value is None or value in ([], {}, ""):
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(setting, value)) if isinstance(value, list) else str(value)


def without_marks(sentence: str) -> str:
    """Return a sentence without the backticks around its commands, as a page shows it."""
    return re.sub("`([^`]+)`", r"\1", sentence)


def text(value) -> str:
    return NONE if value in (None, "") else str(value)


# --- what a page should show -----------------------------------------------------------------------------------------


class Expected:
    """What the page of a run folder should show: `figures`, `points` and `notes` (phases in charts) by section."""

    def __init__(self, folder: Path) -> None:
        def read(name: str) -> dict:
            path = folder / name
            return json.loads(path.read_text("utf-8")) if path.exists() else {}

        self.folder = folder
        self.record, self.metrics, self.trust = read("run.json"), read("metrics.json"), read("trust.json")
        self.examples, self.issues = read("examples.json"), read("label_issues.json")
        with (folder / "history.csv").open(newline="", encoding="utf-8") as stream:
            self.history = list(csv.DictReader(stream))
        self.rows = None
        if (folder / "predictions.csv").exists():
            with (folder / "predictions.csv").open(newline="", encoding="utf-8") as stream:
                self.rows = [row for row in csv.DictReader(stream) if row["part"] == "test"]
        self.several = self.record["task"] == "multilabel"
        self.classes = self.metrics["test"]["classes"]
        self.points: dict[str, dict] = {}
        self.notes: dict[str, list] = {}
        names = [name for name in dir(self) if name.startswith("section_")]
        self.figures = {name.removeprefix("section_").replace("_", "-"): getattr(self, name)() for name in names}
        self.figures = {name: found for name, found in self.figures.items() if found is not None}

    def matrix(self) -> list[list[int]]:
        """Return the confusion matrix, counted from predictions.csv if it exists."""
        if self.rows is None:
            return self.metrics["test"]["confusion_matrix"]
        pairs = Counter((row["class"], row["predicted"]) for row in self.rows)
        return [[pairs[truth, said] for said in self.classes] for truth in self.classes]

    def right(self) -> int:
        """Return how many test pictures are right, counted from predictions.csv if it exists."""
        if self.rows is not None:
            return sum(int(row["correct"]) for row in self.rows)
        test = self.metrics["test"]
        return round(test["exact_match" if self.several else "accuracy"] * test["pictures"])

    def section_top(self):
        title = f"{self.record['architecture']['name']} on {self.record['data']['name']}"
        return [("title", title), ("id", self.record["id"]), ("created", self.record["created"])]

    def section_result(self):
        test, key = self.metrics["test"], "exact_match" if self.several else "accuracy"
        total, right = test["pictures"], self.right()
        found = [(f"test.{key}", frac(right / total)), (f"test.{key}_interval", span(wilson(right, total)))]
        found += [
            ("confidence", "95\u00a0%"),
            (f"test.{key}.wrong", f"{total - right:,}"),
            ("test.pictures", f"{total:,}"),
        ]
        if not (self.folder / "model.onnx").is_file():
            found.append(("not_exported", self.not_exported()))
        if self.several:
            found.append(("test.accuracy", frac(test["accuracy"])))
            found.append(("test.mean_average_precision", frac(test["mean_average_precision"])))
        for part in ("validation", "cross_validation"):
            if figures := self.metrics.get(part):
                hits = round(figures[key] * figures["pictures"])
                found.append((f"{part}.{key}", frac(figures[key])))
                found.append((f"{part}.{key}_interval", span(wilson(hits, figures["pictures"]))))
        found += [("classes", f"{len(self.classes):,}"), ("test.macro_f1", frac(test["macro_f1"]))]
        return [*found, ("test.loss", f"{test['loss']:.4f}")]

    def not_exported(self) -> str:
        """Return why the run folder has no exported file."""
        run, options = self.record["id"], self.record["options"]
        if options["export"] is False:
            return "No file was exported, because --no-export was given."
        if re.search("does no better than chance|nothing of use", " ".join(self.record["warnings"])):
            reason = "No file was exported, because the network has learned nothing of use: see the warnings."
            return f"{reason} zoo export {run} --allow-chance exports it all the same."
        if options["wanted_precision"] and self.trust["unknown"]["threshold"] is None:
            return "No file was exported, because the wanted precision (--precision) cannot be shown: see below."
        return f"The run folder has no exported file. zoo export {run} writes one."

    def section_warnings(self):
        return [(f"warnings.{i}", without_marks(each)) for i, each in enumerate(self.record["warnings"])] or None

    def section_trained(self):
        record, weights = self.record, self.record["weights"]
        found = [("architecture.name", record["architecture"]["name"])]
        if not weights["random"]:
            found.append(("weights", weights.get("id") or weights["file"]))
        found += [
            ("options.schedule", record["options"]["schedule"]),
            ("seconds.train", f"{record['seconds']['train']:.1f} seconds"),
        ]
        if record.get("evidence"):
            found.append(("evidence.text", record["evidence"]["text"]))
        for phase in record["phases"]:
            if phase["moved_layers"]:
                source = f"phases.{phase['name']}"
                found += [(f"{source}.name", phase["name"]), (f"{source}.parameters", f"{phase['moved_parameters']:,}")]
                found.append((f"{source}.layers", str(len(phase["moved_layers"]))))
        found += [(f"data.counts.{part}", f"{record['data']['counts'][part]:,}") for part in ("train", "val", "test")]
        found.append(("data.split", record["data"]["split"]))
        if record["options"].get("group_by"):
            found.append(("options.group_by", record["options"]["group_by"]))
        return found

    def section_curves(self):
        rows = self.history
        solved = [phase["name"] for phase in self.record["phases"] if phase["optimizer"] == "exact"]
        found = [("best_epoch", str(self.record["best_epoch"]))]
        starts = [i for i, row in enumerate(rows) if i == 0 or row["phase"] != rows[i - 1]["phase"]]
        charts = 2 if len(rows) > 1 else 0
        self.notes["curves"] = [(f"history.{i}.phase", rows[i]["phase"]) for i in starts] * charts
        self.points["curves"] = {
            f"history.{i}.{column}": (float(row["epoch"]), float(row[column]))
            for i, row in enumerate(rows)
            for column in ("accuracy", "val_accuracy", "loss", "val_loss")
            if charts and row[column] not in ("", "nan", "inf")
        }
        return found + [
            (
                f"history.{i}.{key}",
                "solved" if key == "learning_rate" and row["phase"] in solved else cell(key, row[key]),
            )
            for i, row in enumerate(rows)
            for key in row
        ]

    def section_confusion(self):
        if self.several:
            return None
        matrix, names = self.matrix(), [label(name) for name in self.classes]
        size, found = len(names), []
        if size <= 20:
            found += [(f"classes.{i}", name) for i, name in enumerate(names)]
            for i, row in enumerate(matrix):
                found.append((f"classes.{i}", names[i]))
                found += [(f"test.confusion_matrix.{i}.{j}", f"{count:,}") for j, count in enumerate(row)]
        pairs = [(-n, -n / sum(row), i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if n and i != j]
        shown = 6 if size <= 20 else 20
        for place, (count, part, i, j) in enumerate(sorted(pairs) if size > 2 else []):
            if place == shown:
                found.append(("confusions.more", str(len(pairs) - shown)))
            found += [(f"classes.{i}", names[i]), (f"classes.{j}", names[j])]
            found += [(f"test.confusion_matrix.{i}.{j}", f"{-count:,}"), (f"confusions.{i}.{j}.fraction", frac(-part))]
        for i, row in enumerate(matrix if size > 20 else []):
            short = names[i] if len(names[i]) <= 22 else names[i][:21] + "…"
            found += [(f"classes.{i}", short)] * 2
            found += [
                (f"test.confusion_matrix.{i}.{j}", f"{names[i]} → {names[j]}: {count}")
                for j, count in enumerate(row)
                if count
            ]
        return found

    def counts(self, i: int) -> tuple[int, int | None, int]:
        """Return (hits, said, true) of a class."""
        name = self.classes[i]
        if self.rows is not None:
            truth = [name in row["class"].split(";") if self.several else name == row["class"] for row in self.rows]
            said = [
                name in row["predicted"].split(";") if self.several else name == row["predicted"] for row in self.rows
            ]
            return sum(a and b for a, b in zip(truth, said, strict=True)), sum(said), sum(truth)
        if not self.several:
            matrix = self.matrix()
            return matrix[i][i], sum(row[i] for row in matrix), sum(matrix[i])
        figures = self.metrics["test"]["per_class"][name]
        hits = round(figures["recall"] * figures["pictures"])
        return hits, round(hits / figures["precision"]) if hits else None, figures["pictures"]

    def section_classes(self):
        found = [("confidence", "95\u00a0%")] + ([("label_threshold", "0.5")] if self.several else [])
        for i, name in enumerate(self.classes):
            hits, said, true = self.counts(i)
            source = f"test.per_class.{name}"
            found.append((f"{source}.name", label(name)))
            for key, of in (
                ("precision", said),
                ("recall", true),
                ("f1", None if said is None else said + true - hits),
            ):
                if not of:
                    found.append((f"{source}.{key}", NONE))
                    continue
                values = [hits / of, *wilson(hits, of)]
                if key == "f1":
                    values = [2 * value / (1 + value) for value in values]
                    assert abs(values[0] - 2 * hits / (said + true)) < 1e-12
                found += [(f"{source}.{key}", frac(values[0])), (f"{source}.{key}_interval", span(values[1:]))]
            found += [(f"{source}.pictures", f"{true:,}"), (f"{source}.said", NONE if said is None else f"{said:,}")]
            found.append((f"{source}.hits", f"{hits:,}"))
        return found

    def pictures(self, key: str):
        if not self.examples:
            return None
        found = [
            (f"examples.{name}_missing", self.examples[f"{name}_missing"])
            for name in ("gradcam", "nearest")
            if self.examples[f"{name}_missing"]
        ]
        overlays = any(each["overlay"] for each in self.examples[key])
        for i, each in enumerate(self.examples[key]):
            source = f"examples.{key}.{i}"
            if overlays and not each["overlay"]:
                reason = each.get("overlay_missing")
                reason = "no heat map" if reason in (None, self.examples["gradcam_missing"]) else reason
                found.append((f"{source}.overlay_missing", reason))
            for part, number in (("said", "confidence"), ("truth", "true_probability")):
                if part == "truth" and sorted(each["said"]) == sorted(each["truth"]):
                    continue
                found += [(f"{source}.{part}.{j}", label(name)) for j, name in enumerate(each[part])]
                found += [(f"{source}.{number}", frac(each[number]))] if each[number] is not None else []
            found.append((f"{source}.picture", each["picture"].rsplit("/", 1)[-1]))
            if each["overlay"] and each["said"] != [each["overlay_class"]]:
                found.append((f"{source}.overlay_class", label(each["overlay_class"])))
            for j, near in enumerate(each["nearest"]):
                found += [(f"{source}.nearest.{j}.class.{k}", label(name)) for k, name in enumerate(near["class"])]
                found.append((f"{source}.nearest.{j}.similarity", frac(near["similarity"], 2)))
        return found

    def section_mistakes(self):
        return self.pictures("mistakes")

    def section_right(self):
        return self.pictures("right")

    def section_calibration(self):
        if not self.trust.get("reliability"):
            return None
        fitted, known = self.trust["calibration"], self.trust["reliability"]
        plain = fitted["method"] == "none"
        found = []
        if not plain:
            found += [("trust.calibration.method", fitted["method"])]
            found += [("trust.calibration.temperature", f"{fitted['temperature']:.3f}")]
            found += [(f"trust.reliability.{key}.loss", f"{known[key]['loss']:.4f}") for key in ("before", "after")]
        found += [
            ("trust.calibration.pictures", f"{fitted['pictures']:,}"),
            ("trust.calibration.fitted_on", fitted["fitted_on"]),
        ]
        diagrams = [("trust.reliability.before", known["before"])]
        diagrams += [] if plain else [("trust.reliability.after", known["after"])]
        test = self.metrics["test"].get("calibration_error")
        diagrams += [("test.calibration_error", test)] if test else []
        for source, each in diagrams:
            found.append((f"{source}.expected_calibration_error", frac(each["expected_calibration_error"])))
            found.append((f"{source}.interval", span(each["interval"])))
        found.append(("confidence", "95\u00a0%"))
        points = self.points["calibration"] = {}
        for source, each in diagrams:
            most = max(bin["decisions"] for bin in each["bins"])
            for i, bin in enumerate(each["bins"]):
                points[f"{source}.{i}"] = (bin["confidence"], bin["accuracy"])
                tall = 44 * math.log(1 + bin["decisions"]) / math.log(1 + most)
                points[f"bar {source}.{i}"] = (round(max(1, tall), 2),)
                found.append((f"{source}.bins.{i}.from", f"{bin['from']:.2f}"))
                found.append((f"{source}.bins.{i}.decisions", f"{bin['decisions']:,}"))
                found += [(f"{source}.bins.{i}.{key}", frac(bin[key])) for key in ("confidence", "accuracy")]
                found.append((f"{source}.bins.{i}.accuracy_interval", span(bin["accuracy_interval"])))
        return found

    def section_unknown(self):
        known = self.trust.get("unknown")
        if self.several or not known:
            return None
        found = []
        if known["threshold"] is not None:
            found = [
                ("trust.unknown.threshold", f"{known['threshold']:.4f}"),
                ("trust.unknown.precision", f"{known['precision']:g}"),
            ]
            found += [("confidence", "95\u00a0%"), ("trust.unknown.coverage", frac(known["coverage"]))]
        elif self.record["options"]["wanted_precision"]:
            found = [("options.wanted_precision", f"{self.record['options']['wanted_precision']:g}")]
        found += [("confidence", "95\u00a0%")]
        self.points["unknown"] = {
            f"trust.unknown.curve.{i}": (each["coverage"], each["precision"]) for i, each in enumerate(known["curve"])
        }
        for i, each in enumerate(known["curve"]):
            source = f"trust.unknown.curve.{i}"
            found.append((f"{source}.threshold", frac(each["threshold"], 4)))
            found += [(f"{source}.{key}", frac(each[key])) for key in ("coverage", "precision", "lower")]
        return found

    def section_checked(self):
        test = self.metrics["test"]
        if not any(test.get(key) for key in ("sets", "unknown", "outliers")):
            return None
        found = [("confidence", "95\u00a0%")]
        for key, each in test.get("sets", {}).items():
            found += [(f"test.sets.{key}", key), (f"test.sets.{key}.coverage", frac(each["coverage"]))]
            found.append((f"test.sets.{key}.coverage_interval", span(each["coverage_interval"])))
            found.append((f"test.sets.{key}.size", f"{each['size']:.2f}"))
        for part, key in (("unknown", "answered"), ("unknown", "precision"), ("outliers", "flagged")):
            if test.get(part):
                found.append((f"test.{part}.{key}", frac(test[part][key])))
                found.append((f"test.{part}.{key}_interval", span(test[part][f"{key}_interval"])))
        if test.get("outliers"):
            found.append(("trust.outliers.kept", frac(1 - self.trust["outliers"]["kept"], 2)))
        return found

    def section_data_check(self):
        data = self.record["data"]
        found = [(f"data.check.lines.{i}", without_marks(line)) for i, line in enumerate(data["check"]["lines"])]
        if data["left_out"]:
            found.append(("data.left_out", str(len(data["left_out"]))))
        for i, each in enumerate(data["left_out"]):
            found += [(f"data.left_out.{i}.picture", each["picture"]), (f"data.left_out.{i}.why", each["why"])]
        return found

    def section_label_issues(self):
        issues = self.issues
        if not issues or not issues["judged"]:
            return None
        found = [("label_issues.judged", f"{issues['judged']:,}")]
        if issues["listed"]:
            if issues["expected"] is not None and issues["expected"] >= 0.5:
                found.insert(0, ("label_issues.expected", f"{issues['expected']:.0f}"))
            found.append(("label_issues.listed", f"{issues['listed']:,}"))
        found.append(("label_issues.method", issues["method"]))
        found += [("label_issues.missing", without_marks(issues["missing"]))] if issues["missing"] else []
        for i, each in enumerate(issues["first"]):
            source = f"label_issues.first.{i}"
            for key in ("class", "suggested"):
                found += [(f"{source}.{key}.{j}", label(name)) for j, name in enumerate(each[key])]
                found.append((f"{source}.probability_{key}", frac(each[f"probability_{key}"])))
            found.append((f"{source}.picture", each["picture"].rsplit("/", 1)[-1]))
        return found

    def section_phases(self):
        found = []
        if self.record["architecture"].get("parameters"):
            found = [("architecture.parameters", f"{self.record['architecture']['parameters']:,}")]
        phases = self.record["phases"]
        for i, each in enumerate(phases):
            source = f"phases.{i}"
            found += [(f"{source}.name", each["name"]), (f"{source}.train", each["train"])]
            found += [(f"{source}.epochs_run", str(each["epochs_run"])), (f"{source}.optimizer", each["optimizer"])]
            if each["optimizer"] != "exact":
                found.append((f"{source}.learning_rate", f"{each['learning_rate']:.3g}"))
            found.append((f"{source}.layers", str(len(each["moved_layers"]))))
            found.append((f"{source}.moved_parameters", f"{each['moved_parameters']:,}"))
            found.append((f"{source}.seconds", f"{each['seconds']:.1f}"))
        for i, each in enumerate(phases):
            source = f"phases.{i}"
            found += [(f"{source}.left_out", each["left_out"])] if "left_out" in each else []
            if solution := each.get("solution"):
                found += [(f"{source}.solution.folds", str(solution["folds"]))]
                found += [(f"{source}.solution.penalty", f"{solution['penalty']:.3g}")]
                found += [(f"{source}.solution.fold_loss", f"{solution['fold_loss']:.4f}")]
            if each["moved_layers"]:
                found.append((f"{source}.name", each["name"]))
            found += [(f"{source}.moved_layers.{j}", name) for j, name in enumerate(each["moved_layers"])]
        return found

    def section_configuration(self):
        record, weights = self.record, self.record["weights"]
        size = " x ".join(map(str, record["image"]["size"]))
        found = [(key, record[key]) for key in ("id", "created", "name", "task")]
        found += [("data.name", record["data"]["name"]), ("data.digest", record["data"]["digest"])]
        found += [
            ("image.size", size),
            *((f"image.{key}", str(record["image"][key])) for key in ("resize", "channels", "filter")),
        ]
        if record["image"]["resize"] == "crop":
            found.append(("image.fraction", str(record["image"]["fraction"])))
        found += [(f"architecture.{key}", text(record["architecture"][key])) for key in ("name", "licence", "source")]
        found.append(("weights", weights.get("id") or weights.get("file") or "random"))
        keys = ("licence", "source", "file", "place", "sha256", "reason")
        found += [(f"weights.{key}", weights[key]) for key in keys if weights.get(key) is not None]
        parity = record.get("parity") or {}
        forms = {"pictures": "{:,}", "tolerance": "{:g}", "top1_equal": "{:,}"}
        for key in (
            "pictures",
            "logits_difference",
            "probabilities_difference",
            "tolerance",
            "top1_equal",
            "calibrated_difference",
            "outlier_difference",
        ):
            if parity.get(key) is not None:
                found.append((f"parity.{key}", forms.get(key, "{:.1e}").format(parity[key])))
        for name, version in record["versions"].items():
            found += [(f"versions.{name}.name", name), (f"versions.{name}", version)]
        found += [(f"plugins.{i}", name) for i, name in enumerate(record["plugins"])]
        found += [
            (f"seconds.{key}", f"{record['seconds'][key]:.1f} seconds")
            for key in ("train", "export")
            if key in record["seconds"]
        ]
        return found + self.settings("options", record["options"]) + self.settings("head", record.get("head") or {})

    def settings(self, source: str, values: dict):
        found = []
        for key, value in values.items():
            if isinstance(value, dict) and value:
                nested = self.settings(f"{source}.{key}", value)
                found += [
                    (name, f"{key}.{shown}" if name.endswith(".name") and shown in name else shown)
                    for name, shown in nested
                ]
            else:
                shown = "--precision" if (source, key) == ("options", "wanted_precision") else key
                found += [(f"{source}.{key}.name", shown), (f"{source}.{key}", setting(value))]
        return found

    def section_repeat(self):
        return [
            ("options.seed", str(self.record["options"]["seed"])),
            ("command", shlex.join(["zoo", *self.record["command"][1:]])),
        ]


def problems(page: str, expected: Expected) -> list[str]:
    """Return all differences between a page and what it should show."""
    found = sections(page)
    lost = expected.figures.keys() - found.keys()
    result = [f"section {name} is missing" for name in lost]
    for name, markup in found.items():
        if name in expected.figures:
            check = wrong(markup, expected.figures[name], expected.points.get(name, {}), expected.notes.get(name, []))
            result += [f"{name}: {line}" for line in check]
    return result
