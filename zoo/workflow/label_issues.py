"""Writes what the run knows about wrong labels: label_issues.csv, label_issues.html and label_issues.json.

A picture is judged only by a network that was not trained on it: training pictures by a cross-validation, validation
and test pictures by the converted network, as the exported file has it. `zoo.evaluate.label_errors` ranks them, and
`zoo.report.label_issues` draws the page. `zoo.workflow.decisions` applies what the user decides on it.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo import files
from zoo.data import memory
from zoo.data.dataset import Dataset
from zoo.data.decisions import as_text
from zoo.data.tables import SEPARATOR
from zoo.errors import ZooError
from zoo.evaluate import calibration, label_errors
from zoo.evaluate.evaluator import Outputs
from zoo.evaluate.label_errors import LabelErrors
from zoo.reporter import Reporter
from zoo.train import linear_head
from zoo.workflow import head_logits
from zoo.workflow.trained import TrainedModel
from zoo.workflow.trust import TrainingFeatures, Trust

TABLE, PAGE, FIGURES = "label_issues.csv", "label_issues.html", "label_issues.json"
SCHEMA = 1
# How many rows label_issues.json shows with their pictures.
FIRST = 12

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """The pictures that can be judged.

    Args:
        rows: Indices of the pictures in the dataset, int64 (N,).
        parts: "train", "val" or "test" for each picture.
        likely: Probabilities from networks that were not trained on the picture, float64 (N, classes).
        methods: How each part was judged, one clause each.
        missing: Which pictures are not judged, and why; None if all are.
    """

    rows: npt.NDArray[np.int64]
    parts: Sequence[str]
    likely: Array
    methods: Sequence[str] = ()
    missing: str | None = None


@dataclass(frozen=True)
class _Training:
    """Training pictures that were held out, their probabilities, and how they were made."""

    rows: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    likely: Array | None = None
    method: str = ""


def write(
    trained: TrainedModel, fitted: Trust, outputs: Mapping[str, Outputs], reporter: Reporter, *, exported: bool = True
) -> None:
    """Judge the labels of a run, and write the three files into the run folder.

    Nothing here may cost the export: an error becomes a warning, and label_issues.json says why there is no list.

    Args:
        trained: The network with its dataset and its run.
        fitted: What was fitted for the exported file.
        outputs: The probabilities of the exported file for the parts "validation" and "test".
        reporter: Receives one line, or a warning.
        exported: Whether the network is put in place as a file. If not, the texts do not speak of a file.
    """
    try:
        with reporter.timing.measure("wrong labels"):
            judged = judge_run(trained, fitted, outputs, exported=exported)
            _write(trained, judged, reporter)
    except (ZooError, OSError, ValueError, MemoryError) as error:
        reporter.warn(f"the labels were not checked: {error}")
        nothing = {"method": "", "judged": 0, "listed": 0, "expected": None, "missing": str(error), "first": []}
        # The disk may be full.
        with contextlib.suppress(ZooError, OSError):
            for name in (TABLE, PAGE):
                (trained.run.folder / name).unlink(missing_ok=True)
            trained.run.write_json(FIGURES, {"schema": SCHEMA, **nothing})


def judge_run(trained: TrainedModel, fitted: Trust, outputs: Mapping[str, Outputs], *, exported: bool = True) -> Judged:
    """Return the pictures of a run that can be judged, with their probabilities.

    Raises:
        RunError: A file of the run is damaged.
    """
    dataset, task = trained.dataset, trained.record.task
    training = _training(trained, fitted)
    shares = _class_counts(trained)
    rows, parts, likely, methods = [training.rows], ["train"] * len(training.rows), [], []
    likely.append(np.zeros((0, len(dataset.source.classes))) if training.likely is None else training.likely)
    if training.method:
        methods.append(f"training pictures by {training.method}")
    judge = "the exported file" if exported else "the converted network"
    by_file = {
        "val": f"validation pictures by {judge}, which was not trained on them, but chosen by them",
        "test": f"test pictures by {judge}",
    }
    for part, key in (("val", "validation"), ("test", "test")):
        if key in outputs and len(outputs[key].rows):
            rows.append(np.asarray(outputs[key].rows, np.int64))
            parts += [part] * len(rows[-1])
            likely.append(outputs[key].probabilities)
            methods.append(by_file[part])
    values = memory.stacked(likely)
    if shares is not None and task != "multilabel":
        # With --balance, the network says what would hold if all classes were equally frequent.
        values *= shares
        values /= np.maximum(values.sum(axis=1, keepdims=True), 1e-12)
    missing = _missing(len(dataset.split.train) - len(training.rows), bool(training.method))
    return Judged(np.concatenate(rows), parts, values, methods, missing)


def _missing(count: int, held_out: bool) -> str | None:
    """Return which training pictures are not judged, and why."""
    if not count:
        return None
    which = f"{count} training pictures are not judged" if count > 1 else "1 training picture is not judged"
    if held_out:
        return f"{which}, because no network or head was trained without them"
    return f"{which}, because every layer was trained on their labels. `--cv` trains networks without them"


def _class_counts(trained: TrainedModel) -> Array | None:
    """Return the number of training pictures of each class, float64 (classes,), if they were balanced; else None."""
    if not trained.record.options.get("balance"):
        return None
    return np.asarray(trained.dataset.targets[trained.dataset.split.train].sum(axis=0), np.float64)


def _training(trained: TrainedModel, fitted: Trust) -> _Training:
    """Return probabilities for training pictures that were held out, from what judges the most of them."""
    dataset, task, run = trained.dataset, trained.record.task, trained.run
    digests, train = dataset.pixels.digests, dataset.split.train
    of_head, known = run.read_out_of_fold(head_logits.FILE), run.read_out_of_fold()
    head = len(of_head) > len(known)
    by_digest = of_head if head else known
    how = "a cross-validation of the head" if head else "a cross-validation"
    rows = np.array([i for i in train if digests[i] in by_digest], np.int64)
    features = fitted.training
    # The cross-validation of the run may lack single pictures, such as the only ones of their class.
    if (
        features is not None
        and features.frozen
        and len(features.rows) > 2 * len(rows)
        and _affordable(features, dataset)
    ):
        places, logits = _solved(features, dataset, task, trained)
        rows = features.rows[places]
        how = "a cross-validation of a linear head on features that no label has changed"
    elif len(rows):
        logits = np.stack([by_digest[digests[i]] for i in rows])
    if not len(rows):
        return _Training()
    groups = [digests[i] for i in rows]
    scaling = calibration.fit(logits, dataset.targets[rows], task, groups=groups)
    return _Training(rows, scaling.probabilities(logits, task), how)


def _affordable(features: TrainingFeatures, dataset: Dataset) -> bool:
    """Return whether a head on these features can be cross-validated in seconds, and is of use.

    With hardly more than one picture of each class, it would only show that nothing can be learned from the others.
    """
    targets = dataset.targets[features.rows]
    counts = targets.sum(axis=0)
    return head_logits.affordable(features.groups, targets.shape[1]) and 2 * (counts > 1).sum() >= (counts > 0).sum()


def _solved(
    features: TrainingFeatures, dataset: Dataset, task: str, trained: TrainedModel
) -> tuple[npt.NDArray[np.int64], Array]:
    """Return which of the pictures were held out, and their logits by heads that were solved without them."""
    rows, targets = features.rows, dataset.targets[features.rows]
    digests = dataset.pixels.digests
    options: dict[str, Any] = {
        "task": task,
        "copies": [digests[i] for i in rows],
        "seed": int(trained.record.options["seed"]),
    }
    fit = linear_head.solve(features.groups, targets, **options)
    if fit.folds == 1:
        return linear_head.out_of_fold(features.groups, targets, fit.penalty, **options)
    return fit.rows, fit.logits


def _write(trained: TrainedModel, judged: Judged, reporter: Reporter) -> None:
    """Rank the pictures, and write the three files."""
    from zoo.report import label_issues as drawing

    run, source = trained.run, trained.dataset.source
    found = label_errors.judge(judged.likely, trained.dataset.targets[judged.rows], trained.record.task)
    rows = list_rows(trained, judged, found)
    _write_table(trained, rows)
    places = [judged.rows[i] for i in found.listed()]
    thumbnails = drawing.thumbnails(trained.dataset, places)
    figures = {
        "schema": SCHEMA,
        "method": "; ".join(judged.methods),
        "judged": len(judged.rows),
        "parts": {part: judged.parts.count(part) for part in ("train", "val", "test")},
        "listed": len(rows),
        "suspected": sum(row["suspected"] for row in rows),
        "expected": None if found.expected is None else round(found.expected, 1),
        "missing": _not_known(judged, found.expected),
    }
    first = [_for_json(row, thumbnail) for row, thumbnail in zip(rows[:FIRST], thumbnails, strict=False)]
    with files.atomic_write(run.folder / PAGE) as temporary:
        page = drawing.render(
            figures,
            [{**row, "thumbnail": thumbnail} for row, thumbnail in zip(rows, thumbnails, strict=False)],
            run=run,
            name=trained.name,
            classes=source.classes,
            multilabel=source.multilabel,
        )
        temporary.write_text(page, encoding="utf-8")
    run.write_json(FIGURES, {**figures, "first": first})
    reporter.say(summary(figures, str(run.folder / PAGE)))


def _not_known(judged: Judged, expected: float | None) -> str | None:
    """Return what is not known about the labels, and why; None if nothing is missing."""
    if not len(judged.rows):
        return judged.missing or "no picture was held out"
    unsure = "how many labels are wrong cannot be estimated, because the network is seldom sure"
    return "; ".join(each for each in (judged.missing, unsure if expected is None else None) if each) or None


def summary(figures: Mapping[str, Any], page: str) -> str:
    """Return one line about the labels of a run, from the values of label_issues.json."""
    if not figures["judged"]:
        return f"Labels: not checked: {figures['missing']}"
    expected = figures["expected"]
    if expected is None:
        wrong = "the network is too seldom sure to count wrong ones"
    elif expected < 0.5:
        wrong = "hardly any seems to be wrong"
    else:
        wrong = f"about {expected:.0f} of those of {figures['judged']:,} pictures may be wrong"
    return f"Labels: {wrong}; {page} shows the {figures['listed']:,} most doubtful ones"


def list_rows(trained: TrainedModel, judged: Judged, found: LabelErrors) -> list[dict[str, Any]]:
    """Return the listed pictures, the most suspicious first, as dictionaries with the columns of label_issues.csv.

    `class` and `suggested` are lists of names.
    """
    dataset = trained.dataset
    source = dataset.source
    listed = []
    for rank, place in enumerate(found.listed(), 1):
        i = int(judged.rows[place])
        picture = source.pictures[i]
        score = float(found.score[place])
        listed.append(
            {
                "rank": rank,
                "picture": picture.name,
                "sha256": dataset.pixels.digests[i],
                "part": judged.parts[place],
                "class": [source.classes[label] for label in picture.labels],
                "suggested": [source.classes[label] for label in np.flatnonzero(found.suggested[place])],
                "probability_class": round(score, 6),
                "probability_suggested": round(float(found.probability_suggested[place]), 6),
                "score": round(1 - score, 6),
                "suspected": int(found.suspected[place]),
            }
        )
    return listed


def _for_json(row: Mapping[str, Any], thumbnail: str) -> dict[str, Any]:
    """Return a row as label_issues.json has it."""
    return {**{key: value for key, value in row.items() if key != "rank"}, "thumbnail": thumbnail}


def _write_table(trained: TrainedModel, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write label_issues.csv."""
    names = ["rank", "picture", "sha256", "part", "class", "suggested"]
    names += ["probability_class", "probability_suggested", "score", "suspected"]
    with (
        files.atomic_write(trained.run.folder / TABLE) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(names)
        for row in rows:
            joined = {key: SEPARATOR.join(row[key]) for key in ("class", "suggested")}
            values = {**row, **joined}
            writer.writerow([as_text(each) if isinstance(each := values[name], str) else each for name in names])
