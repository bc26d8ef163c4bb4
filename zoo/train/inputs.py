"""What each phase is fitted on: pictures or their features, as they are or altered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoo import files
from zoo.data.augment import Augment
from zoo.plugin import Phase
from zoo.reporter import Reporter
from zoo.train import views
from zoo.train.batches import BatchFn, PhaseInputs, augmented, plain
from zoo.train.frozen.cut import Cut
from zoo.train.frozen.features import CacheStats, FeatureCache, FeatureCacheConfig
from zoo.train.network import Network


@dataclass(frozen=True)
class TrainingData:
    """What the network learns from and is judged by while it trains.

    Args:
        array: uint8 array (pictures, height, width, channels), values 0..255.
        targets: float32 array (pictures, classes), 1 where a picture is of a class, else 0.
        train: Indices to learn from, int64 array.
        val: Indices for early stopping and the choice of the best epoch, int64 array.
        task: "multiclass", "binary" or "multilabel"; see `zoo.train.network.attach_head`.
    """

    array: np.ndarray
    targets: np.ndarray
    train: np.ndarray
    val: np.ndarray
    task: str = "multiclass"


def class_weights(pictures: TrainingData) -> np.ndarray:
    """Weights that make every class count alike: pictures / (classes * pictures of the class), 1 on average.

    The "balanced" rule of scikit-learn's `compute_class_weight`, after King and Zeng 2001, "Logistic Regression in Rare
    Events Data".

    Returns:
        float32 array (classes,).
    """
    counts = pictures.targets[pictures.train].sum(axis=0)
    return (len(pictures.train) / (len(counts) * np.maximum(counts, 1))).astype("float32")


def chance_loss(pictures: TrainingData) -> float:
    """Mean cross-entropy, in nats, of answers that are the classes' shares of the training pictures."""
    shares = pictures.targets[pictures.train].mean(axis=0).astype(float)
    entropies = -shares * np.log(np.maximum(shares, 1e-12))
    if pictures.task != "multilabel":
        return float(entropies.sum())
    rest = 1 - shares
    return float((entropies - rest * np.log(np.maximum(rest, 1e-12))).mean())


class InputPipeline:
    """What each phase is fitted on: pictures or their features, as they are or altered."""

    def __init__(
        self,
        pictures: TrainingData,
        augment: Augment | None,
        seed: int,
        features: FeatureCacheConfig | None,
        reporter: Reporter,
    ):
        self._pictures, self._augment, self._seed, self._reporter = pictures, augment, seed, reporter
        self._features = features and FeatureCache(features, pictures.array, pictures.targets, reporter)
        self._views: dict[int, BatchFn] = {}

    @property
    def stats(self) -> CacheStats:
        """What the frozen prefix did."""
        return self._features.stats if self._features else CacheStats()

    def plan(self, schedule: Sequence[Phase], cuts: list[Cut | None], stretches: list[Network]) -> None:
        """Decide whether the prefix is used, from all phases."""
        self._schedule, self._cuts, self._networks = schedule, cuts, stretches
        count = len(self._pictures.train) + len(self._pictures.val)
        passes = sum(phase.epochs * count for phase, cut in zip(schedule, cuts, strict=True) if cut is not None)
        if self._features is None or not self._features.worth(passes - count):
            self._cuts = [None] * len(cuts)

    def of(self, index: int) -> PhaseInputs:
        """What a phase is fitted on; its layers are set."""
        phase, now, pictures = self._schedule[index], self._networks[index], self._pictures
        cut, reading = self._cuts[index], self._reading(phase)
        as_they_are = plain(pictures.array, pictures.targets)
        made_ahead = None
        if reading == "online":
            train = augmented(pictures.array, pictures.targets, self._augment, self._seed)
        elif reading == "plain":
            train = as_they_are
        else:
            made_ahead = views.Views(
                pictures.array, pictures.train, pictures.targets, self._augment, phase.views, self._seed
            )
            train = self._computed(made_ahead)
        inputs = PhaseInputs(now.logits_model, train, as_they_are)
        if cut is None:
            return inputs
        return self._features.inputs(
            *(now.logits_model, cut, self._later(index), inputs),
            **{"train": pictures.train, "val": pictures.val, "views": made_ahead, "online": reading == "online"},
        )

    def count(self, inputs: PhaseInputs, epochs: int) -> None:
        """Note that a phase has read its features in so many epochs."""
        if self._features is not None:
            self._features.count(inputs, epochs * len(self._pictures.train), epochs * len(self._pictures.val))

    def _reading(self, phase: Phase) -> str | int:
        """ "plain", "online", or how many views are made ahead."""
        if self._augment is None or not phase.augment:
            return "plain"
        return "online" if phase.views is None else phase.views

    def _later(self, index: int) -> list[Cut]:
        """Where the phases to come cut the network that read the same, as long as nothing below is trained before."""
        found, lowest = [], self._cuts[index].layers
        for other in range(index + 1, len(self._schedule)):
            cut = self._cuts[other]
            if cut is None or self._networks[other] is not self._networks[index] or not cut.layers <= lowest:
                break
            lowest = cut.layers
            if self._reading(self._schedule[other]) == self._reading(self._schedule[index]):
                found.append(cut)
        return found

    def _computed(self, wanted: views.Views) -> BatchFn:
        """Views as pixels, made when the first batch is wanted: their features may be there already."""

        def take(epoch: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if wanted.count not in self._views:
                with self._reporter.progress(f"computing {wanted.count} views") as progress:
                    self._views[wanted.count] = views.compute(wanted, folder=files.cache() / "views", progress=progress)
            return self._views[wanted.count](epoch, chosen)

        return take
