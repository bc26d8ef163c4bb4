"""Computes the outputs of the frozen part once per picture, and reads them from a cache in later epochs.

A phase trains the upper part of a network. The frozen part below it gives the same outputs for a picture in every
epoch. In this package, these outputs are called "features". `zoo.train.frozen.cut` finds where the frozen part ends.

Features are computed before the phase trains. Then only the upper part runs in every step. It shares its variables with
the whole network. If pictures are augmented in every epoch, or features do not fit in the cache, the frozen part runs
batch by batch in every epoch. This saves time only if onnxruntime runs it. If onnxruntime cannot be used, Keras runs
the whole network instead.
"""

from __future__ import annotations

import hashlib
import secrets
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import zoo_runtime
from zoo import backend, files
from zoo.data.augment import picture_seeds
from zoo.data.memory import MappedRows
from zoo.reporter import Reporter
from zoo.train.batches import BatchFn, PhaseInputs
from zoo.train.frozen import together
from zoo.train.frozen.cut import Cut, digest
from zoo.train.frozen.part import KERAS, FrozenPart, Unsound, expected_engine
from zoo.train.frozen.rows import Batch, Rows
from zoo.train.frozen.stats import CacheStats
from zoo.train.frozen.store import Cache, FeatureSet, FeatureSetSpec
from zoo.train.views import Views

if TYPE_CHECKING:
    import keras

CHECKED_PICTURES = 8
# A batch holds at most BATCH pictures and about BATCH_PIXELS pixels, because memory grows with both.
BATCH_PIXELS, BATCH = 1_600_000, 32
# Features are flushed to the disk after this many rows, so that an interrupted run does not lose them.
FINISHED_TOGETHER = 512
# The cache is used if the frozen part can skip at least this many pixels. With fewer, converting the frozen part takes
# longer than the cache saves. Converting that of MobileNetV2 takes 4 s, in which Keras computes 500 pictures of 224 x
# 224.
WORTH_PIXELS = 25_000_000


@dataclass(frozen=True)
class FeatureCacheConfig:
    """Settings of the feature cache: its folder, its size limit, and when it is used.

    Args:
        folder: The folder of the cache.
        limit: The greatest size of the cache in bytes; 0 turns the cache off. None means the default of
            `zoo.train.frozen.store.Cache`.
        pictures: A fingerprint of the decoded pictures in their order. If it is empty, other runs cannot use the
            features.
        always: Whether the cache is used even if it saves little time.
    """

    folder: Path
    limit: int | None = None
    pictures: str = ""
    always: bool = False


class FeatureCache:
    """Computes the features that one run needs, stores them in the cache, and reads them during training.

    One object serves all phases of the run.

    Args:
        config: The settings of the cache.
        array: Decoded pictures, a uint8 array (pictures, height, width, channels).
        targets: An array (pictures, classes) of any type, with values in 0..1.
        reporter: Receives progress messages and warnings.

    Attributes:
        stats: What the run has computed and read so far.
    """

    def __init__(self, config: FeatureCacheConfig, array: np.ndarray, targets: np.ndarray, reporter: Reporter):
        self._config, self._array, self._targets, self._reporter = config, array, targets, reporter
        self._cache = Cache(config.folder, config.limit)
        # Without a fingerprint, features are computed again in every run.
        self._pictures = config.pictures or secrets.token_hex(16)
        height, width = array.shape[1:3]
        self._batch = max(1, min(BATCH, BATCH_PIXELS // (height * width)))
        self._writable = True
        self._filled: set[Path] = set()
        self._parts: dict[tuple[str, ...], FrozenPart] = {}
        # Features that another library computed differ in their last bits, and are kept apart.
        self._engine: str | None = None
        self.stats = CacheStats()

    def worth(self, passes: int) -> bool:
        """Return whether the cache should be used.

        This is the case if the limit of the cache is not 0, and either the cache saves enough time or `always` is set.

        Args:
            passes: The number of times that the cache spares computing the frozen part, over all pictures. With 100
                pictures and 10 epochs, this is 900: each picture is computed once, and read in the other 9 epochs.
        """
        if self._cache.limit == 0:
            return False
        return self._config.always or passes * self._array[0, ..., 0].size >= WORTH_PIXELS

    def inputs(
        self,
        network: keras.Model,
        cut: Cut,
        later: Sequence[Cut],
        plain: PhaseInputs,
        *,
        train: np.ndarray,
        val: np.ndarray,
        views: Views | None,
        online: bool,
    ) -> PhaseInputs:
        """Return inputs for training only the part of the network above the cut, on features instead of pictures.

        This computes the features that are missing in the cache. Features that the cache cannot store are computed
        batch by batch while the phase trains.

        Args:
            network: The network from pixels to logits.
            cut: The cut of this phase.
            later: The cuts of later phases that read the same pictures. Their features are computed in the same pass.
            plain: The inputs of the phase without the cache: the whole network, and functions that read batches of
                pictures.
            train: Indices of the training pictures, int64, in ascending order.
            val: Indices of the validation pictures, int64.
            views: Describes the views of the training pictures; None if the phase has no views.
            online: Whether `plain.train` augments the training pictures again in every epoch.

        Returns:
            The part of the network above the cut, and functions that read batches of features. In two cases, `plain` is
            returned instead, so that the phase trains without the cache:

            - `FrozenPart.sound` is False.
            - The cache cannot store the features, and Keras computes the frozen part. Computing features batch by batch
              would then save nothing.
        """
        # Weights below the cut do not change within a phase, so fingerprints are computed once per phase.
        self._digests: dict[int, str] = {}
        self._network, self._sample = network, self._array[train[:CHECKED_PICTURES]].astype("float32")
        altered = online or views is not None
        part = None
        try:
            from_pictures = self._read_pictures(cut, later, val if altered else np.union1d(train, val))
            from_views = self._read_views(cut, later, views) if views is not None else None
            from_train = from_views if altered else from_pictures
            if from_train is None or from_pictures is None:
                part = self._part_for(cut.tensors)
                if part.engine == "Keras":
                    # There is nothing to save: Keras does the same work when it runs the whole network.
                    return plain
        except Unsound:
            return plain
        return PhaseInputs(
            _above(network, cut),
            train=from_train[0] if from_train else self._stream(part, plain.train),
            validation=from_pictures[0] if from_pictures else self._stream(part, plain.validation),
            kept=(from_train is not None, from_pictures is not None),
            rate=max((reader[1] for reader in (from_train, from_pictures) if reader), default=0.0),
        )

    def count(self, inputs: PhaseInputs, train: int, validation: int) -> None:
        """Count the pictures whose features a phase has read from the cache, and add their number to `stats`.

        The seconds that this saved are added too. Pictures whose features were not in the cache do not count.

        Args:
            inputs: The inputs of the phase.
            train: The number of training pictures that the phase has read, added up over its epochs.
            validation: The number of validation pictures that the phase has read, added up over its epochs.
        """
        read = sum(count for count, kept in zip((train, validation), inputs.kept, strict=True) if kept)
        self.stats.read += read
        self.stats.seconds_read += read * inputs.rate

    def _read_pictures(self, cut: Cut, later: Sequence[Cut], rows: np.ndarray) -> tuple[BatchFn, float] | None:
        """Open the features of unaltered pictures, and compute those that are missing.

        Args:
            cut: The cut of this phase.
            later: The cuts of later phases that read the same pictures.
            rows: Indices of the pictures, int64.

        Returns:
            A function that reads batches of features, and the mean seconds to compute the features of one picture. None
            if the features cannot be stored in the cache.

        Raises:
            Unsound: `FrozenPart.sound` is False.
        """
        pixels = MappedRows(self._array)

        def batches(missing: np.ndarray) -> Iterator[Batch]:
            for chosen in np.array_split(missing, -(-len(missing) // self._batch)):
                yield chosen, pixels[chosen], None

        sets = self._open_filled(cut, later, Rows(self._pictures, len(self._array), rows, batches))
        if sets is None:
            return None

        def read(epoch: int, chosen: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
            targets = self._targets[chosen].astype("float32")
            if any(len(feature_set.missing(chosen)) for feature_set in sets):
                # A phase that augments keeps no features of unaltered training pictures. Only the recalibration of
                # BatchNorm reads a few of them.
                return self._part_for(cut.tensors)(self._array[chosen].astype("float32")), targets
            return [feature_set[chosen] for feature_set in sets], targets

        return read, max(feature_set.seconds_a_row for feature_set in sets)

    def _read_views(self, cut: Cut, later: Sequence[Cut], views: Views) -> tuple[BatchFn, float] | None:
        """Open the features of the views of the training pictures. Compute all of them if any are missing.

        Args:
            cut: The cut of this phase.
            later: The cuts of later phases that read the same views.
            views: Describes the views.

        Returns:
            A function that reads batches of features, and the mean seconds to compute the features of one view. None if
            the features cannot be stored in the cache.

        Raises:
            Unsound: `FrozenPart.sound` is False.
        """
        key = self._key_of_views(views)

        def batches(missing: np.ndarray) -> Iterator[Batch]:
            return views.generate()

        labels = FeatureSetSpec(f"labels of {key}", len(views), np.arange(len(views)), (views.targets.shape[1],))
        sets = self._open_filled(cut, later, Rows(key, len(views), np.arange(len(views)), batches, labels))
        if sets is None:
            return None
        *features, targets = sets

        def read(epoch: int, chosen: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
            places = views.place(epoch, chosen)
            return [feature_set[places] for feature_set in features], targets[places]

        return read, max(feature_set.seconds_a_row for feature_set in features)

    def _key_of_views(self, views: Views) -> str:
        """Return a string that identifies the views in the cache.

        The string contains a digest of a few augmented pictures instead of the name of the policy. The reason is that
        the code of a policy can change while its name stays the same.
        """
        some = views.rows[:CHECKED_PICTURES]
        pictures, labels = views.array[some].astype("float32"), views.targets[some].astype("float32")
        altered = views.augment(pictures, labels, picture_seeds(views.seed, 0, some))
        # Keys that earlier versions made were of float32.
        known = views.targets[views.rows].astype("float32")
        parts = [np.asarray(part).tobytes() for part in (*altered, views.rows, known)]
        fingerprint = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
        return repr([self._pictures, fingerprint, views.count, views.seed])

    def _open_filled(self, cut: Cut, later: Sequence[Cut], rows: Rows) -> list[FeatureSet] | None:
        """Open the feature sets of a cut, and compute the rows that are missing.

        Args:
            cut: The cut of this phase.
            later: The cuts of later phases that read the same pictures.
            rows: The rows that the phase needs.

        Returns:
            One set per tensor of `cut`, followed by the set of labels if `rows` has labels. None if the features cannot
            be stored in the cache.

        Raises:
            Unsound: `FrozenPart.sound` is False.
        """
        if not self._writable:
            return None
        opened: list[FeatureSet] = []
        try:
            tensors, sets = self._open(cut, later, rows)
            if sets is None:
                return None
            opened = sets
            self.stats.numbers = opened[0].numbers
            missing = np.unique(np.concatenate([feature_set.missing(rows.needed) for feature_set in opened]))
            missing = together.missing_in_any(missing, rows.count)
            if len(missing):
                if not self._fill(tensors, opened, missing, rows.batches(missing)):
                    return self._open_filled(cut, later, rows)
            else:
                self._reporter.say(
                    f"  frozen part: the features of {len(rows.needed):,} pictures are in the cache already"
                )
        except OSError as error:
            # A half-written set would only take up space on the disk.
            self._cache.drop(opened)
            together.refuse(error, self._cache.folder)
            self._writable = False
            self._reporter.warn(
                f"features cannot be kept in {str(self._cache.folder)!r}: {error.strerror or error}. "
                "They are computed again in every epoch, which takes longer. To keep them, let the environment "
                "variable ZOO_CACHE name another folder."
            )
            return None
        if not any(feature_set.folder in self._filled for feature_set in opened):
            self.stats.found += len(rows.needed) - len(missing)
        self._filled.update(feature_set.folder for feature_set in opened)
        for feature_set in opened[len(cut.tensors) : len(tensors)]:
            # Later phases open their own.
            feature_set.close()
        return [*opened[: len(cut.tensors)], *opened[len(tensors) :]]

    def _open(
        self, cut: Cut, later: Sequence[Cut], rows: Rows
    ) -> tuple[list[keras.KerasTensor], list[FeatureSet] | None]:
        """Open the feature sets of this phase and of later phases.

        If not all sets fit in the cache, only the sets of this phase are opened.

        Returns:
            The tensors whose sets were opened, and a list of these sets. The list holds one set per tensor, followed by
            the set of labels if `rows` has labels. If even the sets of this phase do not fit, the user gets a message.
            The result is then the tensors of this phase, and None instead of the list.
        """
        labels = [rows.labels] if rows.labels else []
        tensors = list({id(x): x for other in (cut, *later) for x in other.tensors}.values())
        sets = together.if_all_have_room(self._cache.open([*self._specs(tensors, rows), *labels]))
        if sets is None and later:
            tensors = list(cut.tensors)
            sets = together.if_all_have_room(self._cache.open([*self._specs(tensors, rows), *labels]))
        if sets is None:
            count = len(rows.needed)
            self._reporter.say(
                f"  frozen part: the features of {count:,} pictures would take "
                f"{files.size_text(cut.floats * 2 * count)} or more, and {self._cache.refusal}; "
                "they are computed again in every epoch"
            )
        return tensors, sets

    def _specs(self, tensors: Sequence[keras.KerasTensor], rows: Rows) -> list[FeatureSetSpec]:
        keras = backend.start()
        self._engine = self._engine or expected_engine()
        engine = [backend.engine() if self._engine == KERAS else backend.onnxruntime().__version__]
        engine += [zoo_runtime.__version__, keras.__version__, keras.backend.backend()]
        return [
            FeatureSetSpec(repr([self._digest(x), engine, rows.key]), rows.count, rows.needed, tuple(x.shape[1:]))
            for x in tensors
        ]

    def _fill(
        self,
        tensors: Sequence[keras.KerasTensor],
        sets: Sequence[FeatureSet],
        rows: np.ndarray,
        batches: Iterable[Batch],
    ) -> bool:
        """Compute rows of feature sets and write them to the disk.

        Args:
            tensors: The tensors whose values are the features.
            sets: One set per tensor, followed by the set of labels if there is one.
            rows: Indices of the missing rows, int64.
            batches: Batches from `Rows.batches`. They contain at least these rows, with labels if `sets` has a set of
                labels.

        Returns:
            False if another library than that of the sets computes. The sets are then closed; those of the other
            library must be opened.
        """
        part = self._part_for(tensors)
        together.require_same_engine(part.engine)
        if part.engine != self._engine:
            self._leave(sets, part.engine)
            return False
        started = time.perf_counter()
        done = 0
        unfinished: list[np.ndarray] = []

        def finish() -> None:
            for feature_set in sets:
                feature_set.finish(np.concatenate(unfinished))
            unfinished.clear()

        def compute(pixels: np.ndarray) -> list[np.ndarray]:
            values = part(pixels.astype("float32"))
            if part.engine != self._engine:
                # Other processes would take these values for those of the first library.
                together.refuse_other_engine(part.note)
            return values

        timed = self._reporter.timing.measure("computing the frozen part")
        with timed, self._reporter.progress("frozen part") as progress:
            for places, values, labels in together.computed(batches, compute):
                if part.engine != self._engine:
                    break
                for feature_set, new in zip(sets, values if labels is None else [*values, labels], strict=True):
                    feature_set.write(places, new)
                unfinished.append(places)
                done += len(places)
                if sum(map(len, unfinished)) >= FINISHED_TOGETHER:
                    finish()
                progress(done, len(rows))
        if unfinished:
            finish()
        if part.engine != self._engine:
            self._leave(sets, part.engine)
            return False
        seconds = time.perf_counter() - started
        self.stats.engine = part.engine
        self.stats.computed += done
        self.stats.seconds_computing += seconds
        size = sum(feature_set.row_bytes for feature_set in sets) * done
        self.stats.bytes += size
        for feature_set in sets:
            feature_set.add_timing(done, seconds)
        self._reporter.say(
            f"  frozen part: the features of {done:,} pictures were computed in {seconds:.1f} s on {part.engine}, "
            f"{size / 1e6:,.0f} MB kept as {sets[0].numbers}"
        )
        return True

    def _leave(self, sets: Sequence[FeatureSet], engine: str) -> None:
        """Close the sets of one library, because another one computes from now on."""
        self._engine = engine
        for feature_set in sets:
            feature_set.close()

    def _digest(self, tensor: keras.KerasTensor) -> str:
        if id(tensor) not in self._digests:
            self._digests[id(tensor)] = digest(self._network, tensor)
        return self._digests[id(tensor)]

    def _part_for(self, tensors: Sequence[keras.KerasTensor]) -> FrozenPart:
        """Return a `FrozenPart` that computes the given tensors.

        It is created once, and used again as long as the fingerprints of the tensors stay the same.

        Raises:
            Unsound: `FrozenPart.sound` is False.
        """
        key = tuple(self._digest(tensor) for tensor in tensors)
        if key not in self._parts:
            started = time.perf_counter()
            with self._reporter.timing.measure("preparing the frozen part"):
                part = self._parts[key] = FrozenPart(self._network, tensors, self._sample)
            self.stats.seconds_preparing += time.perf_counter() - started
            self.stats.engine = part.engine
            if part.note:
                self._reporter.warn(f"the frozen part runs on Keras, which is slower: {part.note}.")
        if not self._parts[key].sound:
            raise Unsound
        return self._parts[key]

    def _stream(self, part: FrozenPart | None, read: BatchFn) -> BatchFn:
        """Return a function that reads batches of pictures and computes their features without the cache.

        Args:
            part: Computes the features. It is never None: the caller creates the part before it calls this method.
            read: Reads batches of pictures.
        """
        assert part is not None

        def features(epoch: int, chosen: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
            pixels, targets = read(epoch, chosen)
            self.stats.streamed += len(chosen)
            return part(np.asarray(pixels, "float32")), targets

        return features


# For each network: its part above each cut, so that cross-validation does not trace the same part for every fold.
_PARTS: weakref.WeakKeyDictionary[keras.Model, dict[tuple[int, ...], keras.Model]] = weakref.WeakKeyDictionary()


def _above(network: keras.Model, cut: Cut) -> keras.Model:
    """Return the part of a network above a cut. It is the same model in every call with the same cut."""
    parts = _PARTS.setdefault(network, {})
    key = tuple(id(tensor) for tensor in cut.tensors)
    if key not in parts:
        parts[key] = backend.start().Model(list(cut.tensors), network.outputs[0])
    return parts[key]
