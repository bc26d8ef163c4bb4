"""Prepares the sections of the report page about the result: figures, confusions, pictures, calibration, thresholds.

Each function takes the content of the page and returns the variables of its template, a `Missing` with the reason, or
None if the section makes no sense for the run. Nothing is computed here but how a value is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.report import charts
from zoo.report.content import Content, Missing
from zoo.report.figure import Figure, class_name, count, fraction, interval, number, prose, shown, text

# A confusion matrix of more classes is a heat map without figures.
TABLE = 20
# How many confusions are listed before the others are folded away: below a table, and with a heat map.
LISTED_BELOW_TABLE, LISTED = 6, 20
# The probability from which a label is said, where a picture may have several.
LABEL_THRESHOLD = 0.5
# No line may end between the number and its sign.
CONFIDENCE = Figure("confidence", "95\u00a0%")
PICTURE = re.compile(r"data:image/(jpeg|png|webp);base64,[A-Za-z0-9+/=\s]+")


def again(content: Content) -> str:
    """Return the command that writes the missing files of a run."""
    return f"`zoo export {content.record.id}` adds this section."


def result(content: Content) -> Mapping[str, Any] | Missing:
    """Return the figures of the first section: accuracy or exact match, and what it was measured on."""
    test = content.test
    if not test:
        problem = content.problems.get("metrics.json")
        return Missing(problem or f"This run has not been evaluated: it has no metrics.json. {again(content)}")
    key = "exact_match" if "exact_match" in test else "accuracy"
    name = key.replace("_", " ")
    parts = [("validation", "Validation pictures"), ("cross_validation", "Cross-validation")]
    others = [
        {
            "name": heading,
            "value": fraction(f"{part}.{key}", content.metrics[part][key]),
            "interval": interval(f"{part}.{key}_interval", content.metrics[part].get(f"{key}_interval")),
        }
        for part, heading in parts
        if content.metrics.get(part)
    ]
    return {
        "name": name,
        "value": fraction(f"test.{key}", test[key]),
        "interval": interval(f"test.{key}_interval", test[f"{key}_interval"]) if f"{key}_interval" in test else None,
        "pictures": count("test.pictures", test["pictures"]),
        "wrong": count(f"test.{key}.wrong", test["pictures"] - round(test[key] * test["pictures"])),
        "confidence": CONFIDENCE,
        "single": fraction("test.accuracy", test["accuracy"]) if content.multilabel else None,
        "average": fraction("test.mean_average_precision", test.get("mean_average_precision")),
        "macro": fraction("test.macro_f1", test.get("macro_f1")),
        "loss": number("test.loss", test.get("loss"), "{:.4f}"),
        "others": others,
        "classes": count("classes", len(test["classes"])),
        "predictions": "predictions.csv" in content.links,
        "exported": content.exported,
        "not_exported": None if content.exported else prose("not_exported", _not_exported(content)),
        "threshold": (content.trust.get("unknown") or {}).get("threshold") is not None,
    }


def _not_exported(content: Content) -> str:
    """Return why the run folder has no exported file, as far as the files of the run say it."""
    options, known = content.record.options, content.trust.get("unknown") or {}
    if options.get("export") is False:
        return "No file was exported, because `--no-export` was given."
    if any("nothing of use" in each or "does no better than chance" in each for each in content.record.warnings):
        return (
            "No file was exported, because the network has learned nothing of use: see the warnings. "
            f"`zoo export {content.record.id} --allow-chance` exports it all the same."
        )
    if options.get("wanted_precision") and known.get("threshold") is None:
        return "No file was exported, because the wanted precision (`--precision`) cannot be shown: see below."
    return f"The run folder has no exported file. `zoo export {content.record.id}` writes one."


def confusion(content: Content) -> Mapping[str, Any] | Missing | None:
    """Return the confusion matrix: as a table with figures, or as a heat map if there are many classes."""
    test = content.test
    if content.multilabel or not test:
        return None
    matrix, classes = test["confusion_matrix"], test["classes"]
    names = [class_name(f"classes.{i}", name) for i, name in enumerate(classes)]
    rows = [
        {
            "truth": class_name(f"classes.{each['row']}", each["truth"]),
            "said": class_name(f"classes.{each['column']}", each["said"]),
            "count": count(f"test.confusion_matrix.{each['row']}.{each['column']}", each["count"]),
            "fraction": fraction(f"confusions.{each['row']}.{each['column']}.fraction", each["fraction"]),
        }
        for each in content.confusions
    ]
    few = len(classes) <= TABLE
    listed = LISTED_BELOW_TABLE if few else LISTED
    return {
        "classes": names,
        "upright": len(classes) <= 4 and max(map(len, classes)) <= 14,
        "short": max(map(len, classes)) <= 3,
        "table": [_matrix_row(i, row) for i, row in enumerate(matrix)] if few else None,
        "heat": None if few else charts.heat_map([name.text for name in names], matrix),
        "first": rows[:listed],
        "more": rows[listed:],
        "number_more": count("confusions.more", max(0, len(rows) - listed)),
    }


def _matrix_row(i: int, row: Sequence[int]) -> list[dict[str, Any]]:
    """Return the cells of a row: the figure, its share of the row for the color, and whether it is right."""
    total = max(1, sum(row))
    return [
        {
            "figure": count(f"test.confusion_matrix.{i}.{j}", value),
            "share": f"{value / total:.2f}",
            "kind": ("hit" if i == j else "miss") if value else "zero",
        }
        for j, value in enumerate(row)
    ]


def classes(content: Content) -> Mapping[str, Any] | Missing | None:
    """Return precision, recall and F1 of each class with their intervals."""
    if not content.test:
        return None
    rows = []
    for each in content.per_class:
        source = f"test.per_class.{each['name']}"
        row: dict[str, Any] = {"name": class_name(f"{source}.name", each["name"])}
        for key in ("precision", "recall", "f1"):
            row[key] = fraction(f"{source}.{key}", each[key])
            row[f"{key}_interval"] = interval(f"{source}.{key}_interval", each[f"{key}_interval"])
        for key in ("pictures", "said", "hits"):
            row[key] = count(f"{source}.{key}", each[key])
        rows.append(row)
    threshold = Figure("label_threshold", f"{LABEL_THRESHOLD:g}") if content.multilabel else None
    return {"rows": rows, "threshold": threshold, "confidence": CONFIDENCE, "tall": len(rows) > TABLE}


def mistakes(content: Content) -> Mapping[str, Any] | Missing | None:
    """Return the worst mistakes, with their pictures."""
    return _pictures(content, "mistakes", "The network made no mistake on the test pictures.")


def right(content: Content) -> Mapping[str, Any] | Missing | None:
    """Return some pictures on which the network is right."""
    return _pictures(content, "right", "The network is right on none of the test pictures.")


def _pictures(content: Content, key: str, none: str) -> Mapping[str, Any] | Missing | None:
    """Return the examples of examples.json under a key."""
    if not content.test:
        return None
    if not content.examples:
        return Missing(content.problems.get("examples.json") or f"This run has no examples.json. {again(content)}")
    known = content.examples.get("gradcam_missing")
    found = [_example(f"examples.{key}.{i}", each, known) for i, each in enumerate(content.examples[key])]
    reasons = [(name, content.examples.get(f"{name}_missing")) for name in ("gradcam", "nearest")]
    return {
        "none": none,
        "pictures": found,
        "reasons": [prose(f"examples.{name}_missing", reason) for name, reason in reasons if reason],
        "overlays": any(each["overlay"] for each in found),
        "neighbors": any(each["nearest"] for each in found),
    }


def _example(source: str, each: Mapping[str, Any], known: str | None) -> dict[str, Any]:
    """Return the variables of one picture. `known` says why pictures lack a heat map, and stands above all of them."""
    missing = each.get("overlay_missing")
    alone = missing if missing and missing != known else "no heat map"
    return {
        "thumbnail": picture(each.get("thumbnail")),
        "overlay": picture(each.get("overlay")),
        "overlay_missing": prose(f"{source}.overlay_missing", alone),
        "overlay_class": class_name(f"{source}.overlay_class", each.get("overlay_class") or ""),
        "picture": text(f"{source}.picture", file_name(each["picture"])),
        "path": each["picture"],
        "right": sorted(each["truth"]) == sorted(each["said"]),
        "evident": [each.get("overlay_class")] == each["said"],
        "truth": [class_name(f"{source}.truth.{i}", name) for i, name in enumerate(each["truth"])],
        "said": [class_name(f"{source}.said.{i}", name) for i, name in enumerate(each["said"])],
        "confidence": _probability(f"{source}.confidence", each.get("confidence")),
        "true_probability": _probability(f"{source}.true_probability", each.get("true_probability")),
        "unknown": bool(each.get("unknown")),
        "outlier": bool(each.get("outlier")),
        "nearest": [
            {
                "thumbnail": picture(near.get("thumbnail")),
                "path": near["picture"],
                "class": [class_name(f"{source}.nearest.{i}.class.{j}", name) for j, name in enumerate(near["class"])],
                "similarity": fraction(f"{source}.nearest.{i}.similarity", near.get("similarity"), 2),
            }
            for i, near in enumerate(each.get("nearest") or ())
        ],
    }


def _probability(source: str, value: float | None) -> Figure | None:
    return None if value is None else Figure(source, shown(value))


def picture(uri: Any) -> str | None:
    """Return a picture in a data URI; None if the text is something else, such as an address in the network."""
    return uri if isinstance(uri, str) and PICTURE.fullmatch(uri) else None


def file_name(path: str) -> str:
    """Return the last part of a picture's name."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or path


def calibration(content: Content) -> Mapping[str, Any] | Missing | None:
    """Return the reliability diagrams before and after calibration, and on the test pictures."""
    known = content.trust.get("reliability")
    if not known:
        if content.trust:
            return Missing("Too few pictures were held out to show how far the probabilities can be trusted.")
        return Missing(content.problems.get("trust.json") or f"This run has no trust.json. {again(content)}")
    fitted = content.trust["calibration"]
    plain = fitted["method"] == "none"
    heading = "On the held-out pictures" if plain else "Before calibration"
    tables = [("before", heading, "trust.reliability.before", known["before"])]
    if not plain:
        tables.append(("after", "After calibration", "trust.reliability.after", known["after"]))
    if content.test.get("calibration_error"):
        tables.append(("test", "On the test pictures", "test.calibration_error", content.test["calibration_error"]))
    return {
        "method": text("trust.calibration.method", fitted["method"]),
        "plain": plain,
        "temperature": number("trust.calibration.temperature", fitted["temperature"], "{:.3f}"),
        "fitted_on": text("trust.calibration.fitted_on", fitted["fitted_on"]),
        "pictures": count("trust.calibration.pictures", fitted["pictures"]),
        "loss_before": number("trust.reliability.before.loss", known["before"].get("loss"), "{:.4f}"),
        "loss_after": number("trust.reliability.after.loss", known["after"].get("loss"), "{:.4f}"),
        "worse": known["after"]["expected_calibration_error"] > known["before"]["expected_calibration_error"],
        "confidence": CONFIDENCE,
        "diagrams": [_reliability(*each) for each in tables],
    }


def _reliability(name: str, heading: str, source: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return one reliability diagram with its table."""
    return {
        "heading": heading,
        "chart": charts.reliability(f"reliability-{name}", source, figures["bins"]),
        "error": fraction(f"{source}.expected_calibration_error", figures["expected_calibration_error"]),
        "interval": interval(f"{source}.interval", figures["interval"]),
        "bins": [
            {
                "from": number(f"{source}.bins.{i}.from", each["from"], "{:.2f}"),
                "decisions": count(f"{source}.bins.{i}.decisions", each["decisions"]),
                "confidence": fraction(f"{source}.bins.{i}.confidence", each["confidence"]),
                "accuracy": fraction(f"{source}.bins.{i}.accuracy", each["accuracy"]),
                "interval": interval(f"{source}.bins.{i}.accuracy_interval", each["accuracy_interval"]),
            }
            for i, each in enumerate(figures["bins"])
        ],
    }


def unknown(content: Content) -> Mapping[str, Any] | Missing | None:
    """Return the curve of coverage and precision, and the chosen threshold."""
    if content.multilabel:
        return None
    known = content.trust.get("unknown")
    if not known:
        return None
    threshold, wanted = known.get("threshold"), known.get("precision")
    asked = content.record.options.get("wanted_precision") if threshold is None else None
    curve = known.get("curve") or ()
    return {
        "chart": charts.coverage(curve, known.get("coverage") if threshold is not None else None, wanted or asked),
        "chosen": threshold is not None,
        "threshold": number("trust.unknown.threshold", threshold, "{:.4f}"),
        "wanted": number("trust.unknown.precision", wanted, "{:g}"),
        "coverage": fraction("trust.unknown.coverage", known.get("coverage")),
        "asked": number("options.wanted_precision", asked, "{:g}") if asked else None,
        "confidence": CONFIDENCE,
        "curve": [
            {
                key: fraction(f"trust.unknown.curve.{i}.{key}", each[key], 4 if key == "threshold" else 3)
                for key in ("threshold", "coverage", "precision", "lower")
            }
            for i, each in enumerate(curve)
        ],
    }


def checked(content: Content) -> Mapping[str, Any] | Missing | None:
    """Return what the test pictures say of label sets, `unknown` and outliers."""
    test = content.test
    if not test or not content.trust:
        return None
    present = [key for key in ("sets", "unknown", "outliers") if test.get(key)]
    if not present:
        return Missing(f"The test pictures have not been measured for this. {again(content)}")
    rows = [
        {
            "name": Figure(f"test.sets.{key}", key),
            "coverage": fraction(f"test.sets.{key}.coverage", each["coverage"]),
            "interval": interval(f"test.sets.{key}.coverage_interval", each.get("coverage_interval")),
            "size": number(f"test.sets.{key}.size", each.get("size"), "{:.2f}"),
        }
        for key, each in (test.get("sets") or {}).items()
    ]
    answers, outliers = test.get("unknown") or {}, test.get("outliers") or {}
    kept = (content.trust.get("outliers") or {}).get("kept")
    return {
        "confidence": CONFIDENCE,
        "sets": rows,
        "answers": [
            {
                "name": heading,
                "value": fraction(f"test.{part}.{key}", figures[key]),
                "interval": interval(f"test.{part}.{key}_interval", figures.get(f"{key}_interval")),
            }
            for part, figures, key, heading in (
                ("unknown", answers, "answered", "Pictures that get an answer"),
                ("unknown", answers, "precision", "Right answers among those given"),
                ("outliers", outliers, "flagged", "Pictures flagged as unlike the training pictures"),
            )
            if figures.get(key) is not None
        ],
        "expected": fraction("trust.outliers.kept", 1 - kept, 2) if kept and outliers else None,
    }
