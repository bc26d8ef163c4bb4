"""Makes the inputs of each phase: batches of pictures or of outputs of the frozen part, unaltered or augmented."""

from __future__ import annotations

import dataclasses
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
    """The pictures that a network is trained on and validated with.

    Args:
        array: Decoded pictures, a uint8 array (pictures, height, width, channels) in 0..255.
        targets: A uint8 array (pictures, classes), 1 where a picture belongs to a class, else 0.
        train: Indices of the training pictures, int64, in ascending order.
        val: Indices of the validation pictures, int64. They decide early stopping and the best epoch.
        task: "multiclass", "binary" or "multilabel"; see `zoo.train.network.attach_head`.
        copies: A text per picture; pictures with equal texts are copies of one another. None if that is not known.
    """

    array: np.ndarray
    targets: np.ndarray
    train: np.ndarray
    val: np.ndarray
    task: str = "multiclass"
    copies: Sequence[str] | None = None

    def holding_out(self, places: np.ndarray) -> TrainingData:
        """Return the data with some training pictures as the validation part.

        Args:
            places: The places of these pictures in `train`, int64.
        """
        return dataclasses.replace(self, train=np.delete(self.train, places), val=self.train[places])


def class_weights(data: TrainingData) -> np.ndarray:
    """Return class weights that give all classes the same total weight in the loss.

    The weight of a class is pictures / (classes * pictures of the class), counted over the training pictures. If each
    picture has one class, the mean weight of a training picture is 1.

    This is the "balanced" rule of scikit-learn's `compute_class_weight`, after King and Zeng 2001, "Logistic Regression
    in Rare Events Data".

    Returns:
        A float32 array (classes,).
    """
    counts = data.targets[data.train].sum(axis=0)
    return (len(data.train) / (len(counts) * np.maximum(counts, 1))).astype("float32")


def chance_loss(data: TrainingData) -> float:
    """Return the chance level: the loss of a network that always predicts each class's share of the training pictures.

    It is the mean cross-entropy per training picture, in nats. For multilabel tasks, it is the mean binary
    cross-entropy per class.
    """
    shares = data.targets[data.train].mean(axis=0, dtype="float32").astype(float)
    entropies = -shares * np.log(np.maximum(shares, 1e-12))
    if data.task != "multilabel":
        return float(entropies.sum())
    rest = 1 - shares
    return float((entropies - rest * np.log(np.maximum(rest, 1e-12))).mean())


class InputPipeline:
    """Makes a `PhaseInputs` for each phase of one run, and holds the feature cache of the run.

    Args:
        data: The pictures.
        augment: The augmentation policy for training pictures; None leaves them unaltered.
        seed: The seed of the run.
        features: Settings of the feature cache. None turns the cache off; the whole network then runs in every step.
        reporter: Receives progress messages and warnings.
    """

    def __init__(
        self,
        data: TrainingData,
        augment: Augment | None,
        seed: int,
        features: FeatureCacheConfig | None,
        reporter: Reporter,
    ):
        self._data, self._augment, self._seed, self._reporter = data, augment, seed, reporter
        self._features = FeatureCache(features, data.array, data.targets, reporter) if features else None
        self._views: dict[int, BatchFn] = {}

    @property
    def stats(self) -> CacheStats:
        """What the feature cache has computed and read so far. All fields are 0 or empty if the run has no cache."""
        return self._features.stats if self._features else CacheStats()

    def plan(self, phases: Sequence[Phase], cuts: list[Cut | None], networks: list[Network]) -> None:
        """Decide whether the feature cache is used. This must be called before `for_phase`.

        The decision depends on all phases together, because the cache saves more time with more epochs.

        Args:
            phases: The phases in order.
            cuts: The cut of each phase; None for a phase without a frozen part.
            networks: The network of each phase.
        """
        self._phases, self._cuts, self._networks = phases, cuts, networks
        count = len(self._data.train) + len(self._data.val)
        passes = sum(phase.epochs * count for phase, cut in zip(phases, cuts, strict=True) if cut is not None)
        if self._features is None or not self._features.worth(passes - count):
            self._cuts = [None] * len(cuts)

    def for_phase(self, index: int) -> PhaseInputs:
        """Return the inputs of a phase.

        Before this call, `plan` must be called once. Then `zoo.train.freeze.set_trainable` must be called for this
        phase.

        Args:
            index: The index of the phase, counted from 0.
        """
        phase, logits_model, data = self._phases[index], self._networks[index].logits_model, self._data
        unaltered = plain(data.array, data.targets)
        views_ahead, online = None, False
        if self._augment is None or not phase.augment:
            train = unaltered
        elif phase.views is None:
            train, online = augmented(data.array, data.targets, self._augment, self._seed), True
        else:
            views_ahead = views.Views(data.array, data.train, data.targets, self._augment, phase.views, self._seed)
            train = self._computed(views_ahead)
        inputs = PhaseInputs(logits_model, train, unaltered)
        cut = self._cuts[index]
        if cut is None or self._features is None:
            return inputs
        return self._features.inputs(
            logits_model,
            cut,
            self._later(index, cut),
            inputs,
            train=data.train,
            val=data.val,
            views=views_ahead,
            online=online,
        )

    def count(self, inputs: PhaseInputs, epochs: int) -> None:
        """Count the pictures whose features a phase has read from the cache, and add their number to `stats`.

        Args:
            inputs: The inputs of the phase, as `for_phase` returned them.
            epochs: The number of epochs that the phase ran.
        """
        if self._features is not None:
            self._features.count(inputs, epochs * len(self._data.train), epochs * len(self._data.val))

    def _augmentation(self, phase: Phase) -> str | int:
        """Return how a phase augments pictures: "none", "online" (again in every epoch), or its number of views."""
        if self._augment is None or not phase.augment:
            return "none"
        return "online" if phase.views is None else phase.views

    def _later(self, index: int, first: Cut) -> list[Cut]:
        """Return the cuts of later phases whose features can be computed in one pass with those of a given phase.

        The search goes through the later phases in order. It collects the cut of each phase that augments in the same
        way as the given phase, and passes over the other phases. It ends at the first phase with one of these
        properties:

        - The phase has no cut.
        - The phase trains a different network than the given phase.
        - The frozen part of the phase has a layer above the cut of the phase before it. The phase before it may change
          the weights of this layer, so the features cannot be computed yet.

        Args:
            index: The index of the given phase, counted from 0.
            first: The cut of the given phase.

        Returns:
            The collected cuts, in the order of the phases.
        """
        cuts, lowest = [], first.layers
        for other in range(index + 1, len(self._phases)):
            cut = self._cuts[other]
            if cut is None or self._networks[other] is not self._networks[index] or not cut.layers <= lowest:
                break
            lowest = cut.layers
            if self._augmentation(self._phases[other]) == self._augmentation(self._phases[index]):
                cuts.append(cut)
        return cuts

    def _computed(self, requested: views.Views) -> BatchFn:
        """Return a function that reads batches of views (augmented copies of the pictures).

        The returned function takes (epoch, indices of pictures) and returns (pixels, targets). Its first call computes
        all views. Later phases with the same number of views read the same views. If the feature cache already has the
        features of the views, the function is never called.

        Args:
            requested: Describes the views: pictures, augmentation policy, number of views and seed.
        """

        def read(epoch: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            count = requested.count
            if count not in self._views:
                with self._reporter.progress(f"computing {count} views") as progress:
                    self._views[count] = views.compute(requested, folder=files.cache() / "views", progress=progress)
            return self._views[count](epoch, chosen)

        return read
