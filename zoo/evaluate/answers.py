"""Holds what an exported file says about pictures besides probabilities, and measures how far that can be trusted.

`zoo.evaluate.evaluator` runs the file. docs/trust.md explains "unknown", the outlier score and the label sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.data import memory
from zoo.evaluate import calibration
from zoo.evaluate.metrics import interval
from zoo_runtime import ModelInfo, Prediction


@dataclass(frozen=True)
class Answers:
    """Holds the answers of an exported file for some pictures.

    Args:
        probabilities: float64 (pictures, classes) in 0..1.
        unknown: Whether the answer is "unknown", bool (pictures,). None if the file has no threshold.
        outlier_score: float64 (pictures,) in 0..2. None if the file has no outlier score.
        outlier: Whether the file calls a picture unlike the training pictures, bool (pictures,). None if it has no
            outlier score.
        sets: Maps each coverage, such as "0.95", to the label sets, bool (pictures, classes). Empty if the file has
            none.
        fitted_on: "validation" if the file was calibrated on the validation pictures, "cross-validation" or "".
    """

    probabilities: npt.NDArray[np.float64]
    unknown: npt.NDArray[np.bool_] | None = None
    outlier_score: npt.NDArray[np.float64] | None = None
    outlier: npt.NDArray[np.bool_] | None = None
    sets: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    fitted_on: str = ""

    @classmethod
    def of(cls, predictions: Iterable[Prediction], info: ModelInfo, most: int) -> Answers:
        """Collect the predictions of a file.

        Args:
            predictions: One for each picture. Each is read once, so that memory holds few of them.
            info: The metadata of the file.
            most: The largest possible number of predictions.
        """
        index = {name: i for i, name in enumerate(info.classes)}
        likely = memory.temporary((most, len(index)), np.float64)
        unknown: list[bool] = []
        scores, outlier = [], []
        sets: dict[str, list[npt.NDArray[np.bool_]]] = {}
        for each in predictions:
            likely[len(unknown)] = np.fromiter(each.probabilities.values(), np.float64, len(index))
            unknown.append(each.unknown)
            scores.append(each.outlier_score)
            outlier.append(each.outlier)
            for coverage, names in each.sets.items():
                members = np.zeros(len(index), bool)
                members[[index[name] for name in names]] = True
                sets.setdefault(coverage, []).append(members)
        scored = bool(scores) and scores[0] is not None
        threshold = (info.trust.get("unknown") or {}).get("threshold")
        return cls(
            likely[: len(unknown)],
            None if threshold is None else np.array(unknown, bool),
            np.array(scores, np.float64) if scored else None,
            np.array(outlier, bool) if scored else None,
            {coverage: np.stack(members) for coverage, members in sets.items()},
            str((info.trust.get("calibration") or {}).get("fitted_on", "")),
        )

    def measure(self, targets: npt.NDArray[Any], *, multilabel: bool) -> dict[str, Any]:
        """Measure on pictures, on which nothing was fitted, what the file promises.

        Args:
            targets: The true classes, (pictures, classes): 1 if the picture has the class, else 0.
            multilabel: Whether a picture may have several classes, or none.

        Returns:
            Entries of metrics.json. Intervals are 95 % confidence intervals.

            - calibration_error: What `zoo.evaluate.calibration.reliability` returns. If the pictures have several
              labels, it is about single decisions: whether a picture has a class.
            - sets: For each coverage: `coverage`, the fraction of pictures whose label set has the true class, its
              `coverage_interval`, and `size`, the mean number of classes in a set. Left out if there are no sets.
            - unknown: `answered`, the fraction of pictures with an answer, and `precision`, the fraction of these
              answers that are right, each with `_interval`. The precision is None without any answer. Left out if the
              file has no threshold.
            - outliers: `flagged`, the fraction of pictures that are called unlike the training pictures, with
              `flagged_interval`. Left out if the file has no outlier score.
        """
        if not len(targets):
            return {}
        task = "multilabel" if multilabel else "multiclass"
        sure, right = calibration.decided(self.probabilities, targets, task)
        per_picture = self.probabilities.shape[1] if multilabel else 1
        figures: dict[str, Any] = {"calibration_error": calibration.reliability(sure, right, per_picture=per_picture)}
        truth = np.asarray(targets).argmax(axis=1)
        if self.sets and not multilabel:
            figures["sets"] = {
                coverage: {
                    **_fraction("coverage", members[np.arange(len(truth)), truth]),
                    "size": float(members.sum(axis=1).mean()),
                }
                for coverage, members in self.sets.items()
            }
        if self.unknown is not None and not multilabel:
            figures["unknown"] = {
                **_fraction("answered", ~self.unknown),
                **_fraction("precision", right[~self.unknown]),
            }
        if self.outlier is not None:
            figures["outliers"] = _fraction("flagged", self.outlier)
        return figures


def _fraction(name: str, members: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return the fraction of members under a name, and its 95 % Wilson interval; None for both if there is nobody."""
    if not len(members):
        return {name: None, f"{name}_interval": None}
    fraction = float(members.mean())
    return {name: fraction, f"{name}_interval": interval(fraction, len(members))}
