"""Describes the rows of a feature set: one per picture, or per view of a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from zoo.train.frozen.store import FeatureSetSpec

# Indices of rows, their pixels as uint8 (rows, height, width, channels), and their labels if labels are kept too.
Batch = tuple[np.ndarray, np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class Rows:
    """The rows of a feature set that a phase needs.

    Args:
        key: A string that identifies the pictures or views.
        count: The number of all rows of the set, including those that the phase does not need.
        needed: Indices of the rows that the phase needs, int64.
        batches: A function that takes the indices of missing rows, and returns the pixels of these rows in batches. For
            views, it returns the pixels of all rows, because all of them are computed again.
        labels: Describes the set of labels that is stored along with the features; None if no labels are stored.
    """

    key: str
    count: int
    needed: np.ndarray
    batches: Callable[[np.ndarray], Iterable[Batch]]
    labels: FeatureSetSpec | None = None
