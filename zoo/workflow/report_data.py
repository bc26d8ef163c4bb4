"""Writes predictions.csv and examples.json into the run folder, from which the report is made.

- predictions.csv has what the exported file says about every test picture and every validation picture.
- examples.json has the worst mistakes and some right answers on test pictures: small pictures, Grad-CAM overlays (see
  `zoo.convert.gradcam`) and the training pictures with the most similar features.

The export does not depend on these files. What goes wrong here becomes a warning.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zoo.convert.gradcam import GradCam, Heat
from zoo.data.dataset import Dataset
from zoo.data.tables import SEPARATOR
from zoo.errors import ConversionFailed, ZooError
from zoo.evaluate import examples
from zoo.evaluate.evaluator import PARTS, Outputs
from zoo.evaluate.examples import Example
from zoo.report import overlay
from zoo.report.overlay import Thumbnail
from zoo.reporter import Reporter
from zoo.workflow.trained import TrainedModel
from zoo.workflow.trust import TrainingFeatures, Trust
from zoo_runtime import PictureError, ZooRuntimeError

if TYPE_CHECKING:
    import onnx

FILE = "examples.json"
SCHEMA = 1
NEAREST_LONGEST = 96
# Seconds after which no other example gets a heat map; and those after which no other picture is decoded from its file.
LIMIT = 2.0
NO_EVIDENCE = "no part of the picture speaks for this class"


def write(
    trained: TrainedModel, raw: onnx.ModelProto, outputs: Mapping[str, Outputs], fitted: Trust, reporter: Reporter
) -> None:
    """Write predictions.csv and examples.json. Of a file that cannot be written, a warning says why.

    Args:
        trained: The network with its dataset and its run.
        raw: The graph of the network, with the outputs `logits` and, if possible, pooled features.
        outputs: The answers of the exported file; see `zoo.evaluate.evaluator.predict_parts`.
        fitted: What was fitted for the graph, with the features of training pictures.
        reporter: Receives warnings.
    """
    run, dataset = trained.run, trained.dataset
    with reporter.timing.measure("report"):
        try:
            run.write_predictions(prediction_rows(outputs, dataset))
        except (ZooError, OSError) as error:
            _failed(trained, "predictions.csv", error, reporter)
        try:
            reduced = bool((trained.record.head or {}).get("reduce", trained.architecture.head.reduce))
            run.write_json(FILE, _Examples(dataset, raw, fitted.training, reduced=reduced).of(outputs["test"]))
        except (ZooError, ZooRuntimeError, OSError, MemoryError) as error:
            _failed(trained, FILE, error, reporter)


def _failed(trained: TrainedModel, name: str, error: Exception, reporter: Reporter) -> None:
    # The file of an earlier export would be about another one.
    with contextlib.suppress(OSError):
        (trained.run.folder / name).unlink(missing_ok=True)
    reporter.warn(f"{name} is not written, so that the report lacks what it has: {str(error) or type(error).__name__}")


def prediction_rows(outputs: Mapping[str, Outputs], dataset: Dataset) -> list[dict[str, Any]]:
    """Return the rows of predictions.csv: for each picture, what is true and what the exported file says.

    Several classes are joined as in pictures.csv. `confidence`, `true_probability`, `second` and `second_probability`
    are empty if a picture may have several classes. `unknown`, `outlier_score` and `outlier` are empty if the file has
    no such threshold or score. Numbers have 6 digits.

    Args:
        outputs: The answers under "validation" and "test"; see `zoo.evaluate.evaluator.predict_parts`.
        dataset: The dataset of the run.
    """
    source, rows = dataset.source, []
    for part, key in PARTS:
        given = outputs.get(key)
        for place, row in enumerate(given.rows if given else ()):
            assert given is not None
            picture, likely = source.pictures[row], given.probabilities[place]
            if source.multilabel:
                chosen = [i for i in range(len(likely)) if likely[i] >= examples.THRESHOLD]
                values = {"predicted": SEPARATOR.join(source.classes[i] for i in chosen)}
                correct = tuple(chosen) == picture.labels
            else:
                best, *others = np.argsort(-likely, kind="stable")
                correct = best == picture.labels[0]
                values = {
                    "predicted": source.classes[best],
                    "confidence": f"{likely[best]:.6g}",
                    "true_probability": f"{likely[picture.labels[0]]:.6g}",
                    "second": source.classes[others[0]],
                    "second_probability": f"{likely[others[0]]:.6g}",
                }
            rows.append(
                {
                    "part": part,
                    "sha256": dataset.pixels.digests[row],
                    "picture": picture.name,
                    "class": source.class_of(picture),
                    "correct": int(correct),
                    **values,
                    **_trust_columns(given, place),
                }
            )
    return rows


def _trust_columns(given: Outputs, place: int) -> dict[str, Any]:
    answers, columns = given.answers, {}
    if answers is not None and answers.unknown is not None:
        columns["unknown"] = str(int(answers.unknown[place]))
    if answers is not None and answers.outlier_score is not None and answers.outlier is not None:
        columns["outlier_score"] = f"{answers.outlier_score[place]:.6g}"
        columns["outlier"] = str(int(answers.outlier[place]))
    return columns


class _Examples:
    """Makes the content of examples.json.

    Args:
        dataset: The dataset of the run.
        raw: The graph of the network.
        training: The pooled features of training pictures; None if there are none.
        reduced: See `zoo.convert.gradcam.GradCam`.
    """

    def __init__(self, dataset: Dataset, raw: onnx.ModelProto, training: TrainingFeatures | None, *, reduced: bool):
        self._dataset, self._training = dataset, training
        self._gradcam: GradCam | None = None
        self._missing: str | None = None
        self._limited: str | None = None
        try:
            self._gradcam = GradCam(raw, reduced=reduced)
            if self._gradcam.missing:
                self._missing = f"the network gives no heat maps: {self._gradcam.missing}"
        except ConversionFailed as error:
            self._missing = str(error)

    def of(self, outputs: Outputs) -> dict[str, Any]:
        """Return the content of examples.json for the test pictures."""
        source, digests = self._dataset.source, self._dataset.pixels.digests
        targets = self._dataset.targets[outputs.rows]
        own = [digests[row] for row in outputs.rows]
        mistakes, right = examples.choose(outputs.probabilities, targets, own, multilabel=source.multilabel)
        heats = self._heats([*mistakes, *right], outputs.rows)
        similar, missing = self._similar(mistakes, heats)
        rows = {int(outputs.rows[each.place]): overlay.LONGEST for each in (*mistakes, *right)}
        small = self._thumbnails(rows)
        near = self._thumbnails({row: NEAREST_LONGEST for found in similar.values() for row, _ in found})

        def entry(each: Example) -> dict[str, Any]:
            row = int(outputs.rows[each.place])
            found = [
                {**self._named(other), "similarity": cosine, "thumbnail": near[other].uri()}
                for other, cosine in similar.get(each.place, ())
            ]
            return {
                **self._described(each, row, outputs),
                **self._drawn(row, small[row], heats.get(each.place), source.classes[each.label]),
                "nearest": found,
            }

        return {
            "schema": SCHEMA,
            "mistakes": [entry(each) for each in mistakes],
            "right": [entry(each) for each in right],
            "gradcam": self._missing is None,
            "gradcam_missing": self._missing or self._limited,
            "nearest_missing": missing,
            "nearest_of": 0 if self._training is None else len(self._training.rows),
            "training_pictures": len(self._dataset.split.train),
        }

    def _heats(self, chosen: Sequence[Example], rows: npt.NDArray[Any]) -> dict[int, Heat]:
        """Return the heat maps by the place of the picture: at least one, and as many as the time allows."""
        heats: dict[int, Heat] = {}
        if self._gradcam is None:
            return heats
        started = time.perf_counter()
        # Some right answers come early, so that a slow network has heat maps for both.
        order = sorted(range(len(chosen)), key=lambda i: (i % examples.MISTAKES, i))
        for i in order:
            if heats and time.perf_counter() - started > LIMIT:
                self._limited = (
                    f"the network is slow, so that only {len(heats)} of {len(chosen)} pictures have a heat map and "
                    "similar training pictures"
                )
                break
            each = chosen[i]
            pixels = np.ascontiguousarray(self._dataset.pixels.array[rows[each.place]])
            try:
                heat = self._gradcam(pixels, each.label)
            except ConversionFailed as error:
                self._missing, self._gradcam = str(error), None
                break
            if heat is None:
                break
            heats[each.place] = heat
        return heats

    def _similar(
        self, mistakes: Sequence[Example], heats: Mapping[int, Heat]
    ) -> tuple[dict[int, list[tuple[int, float]]], str | None]:
        """Return the nearest training pictures by the place of the mistake, or why there are none."""
        if self._training is None:
            return {}, "the exported graph has no pooled features"
        places = [each.place for each in mistakes if each.place in heats]
        vectors = [heats[place].features for place in places]
        known = [vector for vector in vectors if vector is not None]
        if len(known) < len(places) or (mistakes and not places):
            return {}, self._missing or "the exported graph has no pooled features"
        if not known:
            return {}, None
        rows = self._training.rows
        digests = [self._dataset.pixels.digests[row] for row in rows]
        found = examples.nearest(np.stack(known), self._training.groups, digests)
        return {
            place: [(int(rows[i]), round(cosine, 6)) for i, cosine in each]
            for place, each in zip(places, found, strict=True)
        }, None

    def _thumbnails(self, rows: Mapping[int, int]) -> dict[int, Thumbnail]:
        """Return a thumbnail for each row, whose longest side is given. Pixels replace slow or missing files."""
        from concurrent.futures import ThreadPoolExecutor

        source, spec, started = self._dataset.source, self._dataset.spec, time.perf_counter()

        def make(row: int, longest: int) -> Thumbnail:
            picture = source.pictures[row]
            if time.perf_counter() - started < LIMIT:
                with contextlib.suppress(PictureError, ZooError, OSError):
                    return overlay.thumbnail(picture, spec, longest, source.max_pixels)
            return overlay.from_decoded(self._dataset.pixels.array[row], picture, spec, longest)

        with ThreadPoolExecutor() as pool:
            return dict(zip(rows, pool.map(make, rows, rows.values()), strict=True))

    def _named(self, row: int) -> dict[str, Any]:
        picture = self._dataset.source.pictures[row]
        names = [self._dataset.source.classes[label] for label in picture.labels]
        return {"picture": picture.name, "sha256": self._dataset.pixels.digests[row], "class": names}

    def _described(self, each: Example, row: int, outputs: Outputs) -> dict[str, Any]:
        named, answers = self._named(row), outputs.answers
        flags: dict[str, bool | None] = {"unknown": None, "outlier": None}
        if answers is not None:
            for name, values in (("unknown", answers.unknown), ("outlier", answers.outlier)):
                flags[name] = None if values is None else bool(values[each.place])
        return {
            "picture": named["picture"],
            "sha256": named["sha256"],
            "truth": named["class"],
            "said": [self._dataset.source.classes[label] for label in each.said],
            "confidence": each.confidence,
            "true_probability": each.true_probability,
            **flags,
        }

    def _drawn(self, row: int, small: Thumbnail, heat: Heat | None, label: str) -> dict[str, Any]:
        drawn, missing = None, self._missing or self._limited
        if self._missing is None and heat is not None:
            missing = None if heat.map.max() > 0 else NO_EVIDENCE
            if missing is None:
                size = overlay.upright_size(self._dataset.source.pictures[row])
                drawn = overlay.overlay(small, heat.map, size, self._dataset.spec).uri()
        return {
            "thumbnail": small.uri(),
            "overlay": drawn,
            "overlay_class": label,
            "overlay_missing": missing,
        }
