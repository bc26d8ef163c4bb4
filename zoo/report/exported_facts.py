"""Holds what is known about an exported file, for its model card and its bill of materials.

`zoo.workflow.model_card` collects it. Nothing here reads a file, and nothing here computes a figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.runs import RunRecord
from zoo_runtime import ModelInfo

# The parts that are measured, as metrics.json calls them, and what people call them.
PARTS = {"test": "test", "validation": "validation", "cross_validation": "cross-validation"}


@dataclass(frozen=True)
class ExportedFacts:
    """What is known about one exported file.

    Args:
        name: The name of the export, which is that of its folder.
        file: The name of the file, such as "model.onnx".
        sha256: The digest of the file, in hex.
        weights_sha256: The digest of its weights, in hex; see `zoo.export.weights_digest`.
        bytes: The size of the file.
        info: The metadata of the file.
        metrics: The figures of each part, measured through this file, as metrics.json has them. An older file has fewer
            figures.
        record: The record of the run. None if it is not at hand, or if a published network was exported.
        counts: The number of pictures of each class, in each of the parts "train", "val" and "test". Empty if unknown.
        pictures: What the headers of the pictures say; see `zoo.data.picture_facts`. Empty if unknown.
        compared: The comparison of a smaller file with the float32 file, as int8.json has it. Empty for other files.
        labels: What is known about wrong labels, as label_issues.json has it. Empty if unknown.
        command: The words of the command that makes this file again from its run. Empty if unknown.
        folder: The folder of runs; None if unknown.
        companions: The names of other files that belong to this one, with their sha256 in hex.
    """

    name: str
    file: str
    sha256: str
    weights_sha256: str
    bytes: int
    info: ModelInfo
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    record: RunRecord | None = None
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    pictures: Mapping[str, Any] = field(default_factory=dict)
    compared: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    command: Sequence[str] = ()
    folder: Path | None = None
    companions: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What sets the file apart from the float32 file: "float32", "int8", "fp16", or the name of a format."""
        return str(self.info.precision.get("kind") or "float32")

    @property
    def numbers(self) -> str:
        """The number format of the file: "float32", "int8" or "fp16"."""
        return str(self.info.precision.get("graph") or self.kind)

    @property
    def engine(self) -> str:
        """The extra of zoo_runtime that runs the file; empty if none is needed."""
        return {".tflite": "litert", ".xml": "openvino"}.get(Path(self.file).suffix, "")

    @property
    def published(self) -> bool:
        """Whether the file is a published network, which zoo has not trained."""
        return not self.info.run.get("id")

    @property
    def title(self) -> str:
        """What the network is, in a few words."""
        architecture = str(self.info.architecture.get("name", "network"))
        if self.published:
            return f"{self.info.weights.get('id') or architecture}, as published"
        return f"{architecture} on {self.info.data.get('name', 'pictures')}"

    @property
    def task(self) -> str:
        """The task in the words of the field."""
        kinds = {"binary": "binary", "multiclass": "multi-class", "multilabel": "multi-label"}
        return f"{kinds[self.info.task]} image classification"


@dataclass(frozen=True)
class Figure:
    """One figure that was measured.

    Args:
        key: A short name for programs, such as "accuracy" or "set_coverage_0.95".
        text: What the figure says, for people.
        value: The figure.
        interval: The bounds of its 95 % confidence interval; None if none was measured.
        part: What it was measured on, as `PARTS` calls it.
        pictures: The number of pictures; None if unknown.
        slice: The class that it belongs to; "" for all.
    """

    key: str
    text: str
    value: float
    interval: tuple[float, float] | None
    part: str
    pictures: int | None
    slice: str = ""


SIMPLE = {
    "exact_match": "exact match: all labels of a picture are right",
    "accuracy": "accuracy",
    "mean_average_precision": "mean average precision",
    "macro_f1": "macro F1",
    "loss": "loss (cross-entropy, nats)",
}


def figures(metrics: Mapping[str, Mapping[str, Any]], task: str) -> list[Figure]:
    """List figures: first those of the test pictures, then those of other parts.

    Args:
        metrics: The content of metrics.json.
        task: "binary", "multiclass" or "multilabel".
    """
    return [figure for part in PARTS if part in metrics for figure in _of_part(metrics[part], part, task)]


def _of_part(measured: Mapping[str, Any], part: str, task: str) -> Iterator[Figure]:
    pictures = measured.get("pictures")
    for key, text in SIMPLE.items():
        if key in measured:
            if key == "accuracy" and task == "multilabel":
                text = "accuracy of single decisions"
            yield Figure(key, text, measured[key], interval_of(measured, key), part, pictures)
    yield from _trust(measured, part, pictures)


def _trust(measured: Mapping[str, Any], part: str, pictures: int | None) -> Iterator[Figure]:
    """List what was measured of calibration, label sets, `unknown` and the outlier score."""
    error = measured.get("calibration_error")
    if error:
        yield Figure(
            "expected_calibration_error",
            "expected calibration error (15 bins)",
            error["expected_calibration_error"],
            interval_of(error, "expected_calibration_error"),
            part,
            pictures,
        )
    for coverage, entry in (measured.get("sets") or {}).items():
        text = f"label sets at {coverage} hold the true class"
        interval = interval_of(entry, "coverage")
        yield Figure(f"set_coverage_{coverage}", text, entry["coverage"], interval, part, pictures)
        text = f"mean size of the label sets at {coverage}"
        yield Figure(f"set_size_{coverage}", text, entry["size"], None, part, pictures)
    unknown = measured.get("unknown") or {}
    for key, text in (("answered", "answered, not unknown"), ("precision", "right, of the answers that are given")):
        if unknown.get(key) is not None:
            yield Figure(f"unknown_{key}", text, unknown[key], interval_of(unknown, key), part, pictures)
    outliers = measured.get("outliers") or {}
    if outliers.get("flagged") is not None:
        text = "flagged as unlike the training pictures"
        yield Figure("outliers_flagged", text, outliers["flagged"], interval_of(outliers, "flagged"), part, pictures)


def class_figures(facts: ExportedFacts) -> list[Figure]:
    """List precision, recall and F1 of each class on the test pictures; empty if they were not measured."""
    rows = (facts.metrics.get("test") or {}).get("per_class") or {}
    return [
        Figure(key, key, row[key], interval_of(row, key), "test", row["pictures"], slice=name)
        for name, row in rows.items()
        for key in ("precision", "recall", "f1")
    ]


def interval_of(values: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    """Return the bounds of the confidence interval of a figure, or None if the values have none."""
    bounds = values.get(f"{key}_interval")
    if bounds is None and key not in SIMPLE:
        bounds = values.get("interval")
    return (float(bounds[0]), float(bounds[1])) if bounds else None
