"""Defines what an exported file knows about its own answers: when to say "unknown", outliers, and label sets.

The workshop fits these numbers on pictures that the network was not trained on. The file carries them in its metadata
entry `zoo.trust`. The probabilities need nothing from here, because the graph itself calibrates them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OUTLIER_SCORE, FEATURE_NORM = "outlier_score", "feature_norm"


@dataclass(frozen=True)
class Trust:
    """Holds the thresholds of an exported file.

    Args:
        unknown_below: Answers with a lower confidence become "unknown", in 0..1. None never does so.
        outlier_above: Pictures with a larger outlier score are unlike the training pictures, in 0..2. None if the file
            has no outlier score.
        sets: Maps a coverage, such as "0.95", to the probability that a class needs to be in the label set.
    """

    unknown_below: float | None = None
    outlier_above: float | None = None
    sets: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Trust:
        """Read the metadata entry `zoo.trust`; empty for a file of an earlier version.

        Raises:
            ValueError: If an entry does not have the right form.
        """
        unknown = _number("unknown threshold", _object(values, "unknown").get("threshold"), 1.0)
        outlier = _number("outlier threshold", _object(values, "outliers").get("threshold"), 2.0)
        sets = {}
        for coverage, threshold in _object(values, "sets").items():
            value = _number("threshold of a label set", threshold, 1.0)
            if value is None:
                raise ValueError(f"the threshold of the label set {coverage!r} must be a number")
            _check_coverage(coverage)
            sets[coverage] = value
        return cls(unknown, outlier, sets)


def known_coverage(sets: Mapping[str, Any], coverage: float) -> str:
    """Return the key of a coverage among label sets.

    Args:
        sets: Maps each coverage, as a string such as "0.95", to something.
        coverage: The wanted coverage.

    Raises:
        ValueError: If there are no label sets, or none with this coverage. The message says which there are.
    """
    for known in sets:
        if math.isclose(float(known), coverage, abs_tol=1e-9):
            return known
    if not sets:
        raise ValueError(
            "this file has no label sets. They go with networks that give one class per picture, and files of earlier "
            "versions lack them. Export the run again."
        )
    *others, last = sorted(sets, key=float)
    raise ValueError(
        f"the coverage must be {', '.join(others)} or {last}. Received: {coverage!r}."
        if others
        else f"the coverage must be {last}. Received: {coverage!r}."
    )


def _object(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values.get(key) or {}
    if not isinstance(value, dict):
        raise ValueError(f"trust.{key} must be an object. Received: {value!r:.100}")
    return value


def _number(label: str, value: object, largest: float) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= largest:
        raise ValueError(f"the {label} must be a number in 0..{largest:g}. Received: {value!r:.100}")
    return float(value)


def _check_coverage(text: str) -> None:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise ValueError(f"the coverage of a label set must be a number between 0 and 1. Received: {text!r:.100}")
