"""The frozen prefix: what no phase trains is computed once a picture, by onnxruntime on a processor, and kept.

A phase trains the upper part of a network. The part below is a constant function of the picture (`zoo.train.frozen.cut`
finds where it ends). Its outputs, the features, are computed ahead and read in every epoch; only the upper part is run
and trained, on the very variables of the network. Where pictures are made anew in every epoch, or features would not
fit the cache, the lower part still runs on onnxruntime, batch by batch.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import zoo_runtime
from zoo import backend, files
from zoo.data.augment import picture_seeds
from zoo.data.pixels import MappedRows
from zoo.reporter import Reporter
from zoo.train.batches import BatchFn, PhaseInputs
from zoo.train.frozen.cut import Cut, digest
from zoo.train.frozen.part import FrozenPart, Unsound
from zoo.train.frozen.store import Cache, FeatureSet, Wanted
from zoo.train.views import Views

if TYPE_CHECKING:
    import keras

CHECKED_PICTURES = 8
# Pictures that go through at once: as many as these pixels, and no more than these; memory grows with them.
BATCH_PIXELS, BATCH = 1_600_000, 32
# So many are on the disk for good before the next are computed: an interrupted run keeps them.
FINISHED_TOGETHER = 512
# Where fewer pixels than these need not go through the prefix again, converting it takes longer than it saves:
# MobileNetV2's takes 4 s, in which Keras sends 500 pictures of 224 x 224 through.
WORTH_PIXELS = 25_000_000


@dataclass(frozen=True)
class FeatureCacheConfig:
    """How features are kept.

    Args:
        folder: Of the cache.
        limit: Bytes that it may take; None means the default, 0 turns the prefix off.
        pictures: Tells these decoded pictures, in their order, from all others.
        always: Whether the prefix is used where it saves little, too.
    """

    folder: Path
    limit: int | None = None
    pictures: str = ""
    always: bool = False


# Places in a set, pixels as uint8 (pictures, height, width, channels), and labels where they are kept beside features.
Batch = tuple[np.ndarray, np.ndarray, np.ndarray | None]


@dataclass
class CacheStats:
    """What the prefix did in a run.

    Args:
        engine: What it ran on: "onnxruntime" or "Keras".
        computed: Pictures (or views of them) that went through it and were kept.
        found: Pictures (or views) whose features an earlier run had computed.
        read: How often features were read instead of computed.
        streamed: Pictures that went through it and were not kept.
        seconds_preparing: Converting it and comparing it with Keras.
        seconds_computing: Of those computed and kept.
        seconds_read: What those read would have taken, at the speed at which they, or others of their set, were
            computed.
        bytes: What the computed ones take on the disk.
        numbers: What they are kept as, see `zoo.train.frozen.store.FeatureSet`; empty where none are.
    """

    engine: str = ""
    computed: int = 0
    found: int = 0
    read: int = 0
    streamed: int = 0
    seconds_preparing: float = 0.0
    seconds_computing: float = 0.0
    seconds_read: float = 0.0
    bytes: int = 0
    numbers: str = ""

    def summary_lines(self) -> list[str]:
        """What a user is told at the end of training."""
        lines = []
        if self.read:
            text = f"Frozen prefix: features of {self.computed + self.found:,} pictures were read {self.read:,} times"
            saved = self.seconds_read - self.seconds_computing - self.seconds_preparing
            lines.append(f"{text}; that saved about {saved:.0f} s" if saved >= 1 else text)
        if self.streamed:
            lines.append(f"Frozen prefix: {self.streamed:,} pictures went through it on {self.engine}, not kept")
        return lines

    def to_json(self) -> dict[str, Any]:
        """For run.json."""
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()}


class FeatureCache:
    """Finds, computes and hands out features through one run.

    Args:
        settings: How they are kept.
        array: Decoded pictures, uint8 (pictures, height, width, channels).
        targets: float32 (pictures, classes).
        reporter: Hears what was computed.

    Attributes:
        stats: What it did so far.
    """

    def __init__(self, settings: FeatureCacheConfig, array: np.ndarray, targets: np.ndarray, reporter: Reporter):
        self._settings, self._array, self._targets, self._reporter = settings, array, targets, reporter
        self._cache = Cache(settings.folder, settings.limit)
        # Pictures that nothing tells from others are computed anew in every run.
        self._pictures = settings.pictures or secrets.token_hex(16)
        height, width = array.shape[1:3]
        self._batch = max(1, min(BATCH, BATCH_PIXELS // (height * width)))
        self._keeps = True
        self._filled: set[Path] = set()
        self._lowers: dict[tuple[str, ...], FrozenPart] = {}
        self.stats = CacheStats()

    def worth(self, passes: int) -> bool:
        """Whether the prefix should be used where pictures would go through it so many times."""
        if self._cache.limit == 0:
            return False
        return self._settings.always or passes * self._array[0, ..., 0].size >= WORTH_PIXELS

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
        """Make what a phase is fitted on.

        Args:
            network: From pixels to logits.
            cut: Where it is cut.
            later: Where phases to come cut it that read the same pictures: they go through once for all.
            plain: What the phase would be fitted on without a prefix.
            train: Pictures to learn from, int64, rising.
            val: Pictures to judge by.
            views: Augmented copies to learn from, or None.
            online: Whether `plain.train` alters pictures anew in every epoch.
        """
        keras = backend.start()
        # Weights below the cut stay as they are while a phase lasts.
        self._digests: dict[int, str] = {}
        self._network, self._sample = network, self._array[train[:CHECKED_PICTURES]].astype("float32")
        altered = online or views is not None
        try:
            pictures = self._of_pictures(cut, later, val if altered else np.union1d(train, val))
            of_views = self._of_views(cut, later, views) if views is not None else None
            train_from, validation_from = (of_views if altered else pictures), pictures
            if train_from is None or validation_from is None:
                lower = self._lower_for(cut.tensors)
                if lower.engine == "Keras":
                    # Batch by batch Keras does the same in one piece.
                    return plain
        except Unsound:
            return plain
        return PhaseInputs(
            keras.Model(list(cut.tensors), network.outputs[0]),
            train=train_from[0] if train_from else self._stream(lower, plain.train),
            validation=validation_from[0] if validation_from else self._stream(lower, plain.validation),
            kept=(train_from is not None, validation_from is not None),
            rate=max((found[1] for found in (train_from, validation_from) if found), default=0.0),
        )

    def count(self, inputs: PhaseInputs, train: int, validation: int) -> None:
        """Note that a phase has read so many training and validation pictures."""
        read = sum(count for count, kept in zip((train, validation), inputs.kept, strict=True) if kept)
        self.stats.read += read
        self.stats.seconds_read += read * inputs.rate

    def _of_pictures(self, cut: Cut, later: Sequence[Cut], rows: np.ndarray) -> tuple[BatchFn, float] | None:
        """What reads features of pictures as they are, and the seconds that one took; None if they cannot be kept."""

        rows_of = MappedRows(self._array)

        def batches(missing: np.ndarray) -> Iterator[Batch]:
            for chosen in np.array_split(missing, -(-len(missing) // self._batch)):
                yield chosen, rows_of[chosen], None

        stores = self._stores(cut, later, self._pictures, len(self._array), rows, batches)
        if stores is None:
            return None

        def take(epoch: int, chosen: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
            if any(len(store.missing(chosen)) for store in stores):
                # Training pictures as they are, where a phase reads altered ones; few, and seldom.
                return self._lower_for(cut.tensors)(self._array[chosen].astype("float32")), self._targets[chosen]
            return [store[chosen] for store in stores], self._targets[chosen]

        return take, max(store.seconds_a_row for store in stores)

    def _of_views(self, cut: Cut, later: Sequence[Cut], views: Views) -> tuple[BatchFn, float] | None:
        """What reads features of augmented copies, and the seconds that one took; None if they cannot be kept."""
        # What the policy makes of a few pictures tells it from others: names and parameters outlive its code.
        some = views.rows[:CHECKED_PICTURES]
        made = views.augment(
            views.array[some].astype("float32"), views.targets[some].copy(), picture_seeds(views.seed, 0, some)
        )
        summary_lines = [np.asarray(part).tobytes() for part in (*made, views.rows, views.targets[views.rows])]
        digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in summary_lines)).hexdigest()
        key = repr([self._pictures, digest, views.count, views.seed])

        def batches(missing: np.ndarray) -> Iterator[Batch]:
            return views.generate()

        labels = Wanted(f"labels of {key}", len(views), np.arange(len(views)), (views.targets.shape[1],))
        stores = self._stores(cut, later, key, len(views), np.arange(len(views)), batches, labels)
        if stores is None:
            return None
        *features, targets = stores

        def take(epoch: int, chosen: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
            places = views.place(epoch, chosen)
            return [store[places] for store in features], targets[places]

        return take, max(store.seconds_a_row for store in features)

    def _stores(
        self,
        cut: Cut,
        later: Sequence[Cut],
        pictures: str,
        count: int,
        rows: np.ndarray,
        batches: Callable[[np.ndarray], Iterable[Batch]],
        labels: Wanted | None = None,
    ) -> list[FeatureSet] | None:
        """The sets of a cut's tensors, and of labels, with all rows computed; None if they cannot be kept."""
        if not self._keeps:
            return None
        beside = [labels] if labels else []
        tensors = list({id(x): x for other in (cut, *later) for x in other.tensors}.values())
        opened: list[FeatureSet] = []
        try:
            found = self._cache.open([*self._wanted(tensors, pictures, count, rows), *beside])
            if found is None and later:
                tensors = list(cut.tensors)
                found = self._cache.open([*self._wanted(tensors, pictures, count, rows), *beside])
            if found is None:
                self._reporter.say(
                    f"  frozen prefix: features of {len(rows):,} pictures would take "
                    f"{files.size_text(cut.floats * 2 * len(rows))} or more, and {self._cache.refusal}; "
                    "computed anew in every epoch"
                )
                return None
            opened = found
            self.stats.numbers = opened[0].numbers
            missing = np.unique(np.concatenate([store.missing(rows) for store in opened]))
            if len(missing):
                self._fill(tensors, opened, missing, batches(missing))
            else:
                self._reporter.say(f"  frozen prefix: {len(rows):,} pictures, found computed")
        except OSError as error:
            # What is half-written would fill the disk for nothing.
            self._cache.drop(opened)
            self._keeps = False
            self._reporter.warn(
                f"features cannot be kept in {str(self._cache.folder)!r}: {error.strerror or error}. "
                "They are computed anew in every epoch; ZOO_CACHE names another folder."
            )
            return None
        if not any(store.folder in self._filled for store in opened):
            self.stats.found += len(rows) - len(missing)
        self._filled.update(store.folder for store in opened)
        return [*opened[: len(cut.tensors)], *opened[len(tensors) :]]

    def _wanted(
        self, tensors: Sequence[keras.KerasTensor], pictures: str, count: int, rows: np.ndarray
    ) -> list[Wanted]:
        keras = backend.start()
        engine = ["Keras" if backend.has_accelerator() else backend.onnxruntime().__version__]
        engine += [zoo_runtime.__version__, keras.__version__, keras.backend.backend()]
        return [Wanted(repr([self._digest(x), engine, pictures]), count, rows, tuple(x.shape[1:])) for x in tensors]

    def _fill(
        self,
        tensors: Sequence[keras.KerasTensor],
        stores: Sequence[FeatureSet],
        rows: np.ndarray,
        batches: Iterable[Batch],
    ) -> None:
        """Compute rows of the sets of some tensors; labels that come with them go to the set behind those."""
        lower = self._lower_for(tensors)
        started = time.perf_counter()
        done, waiting = 0, []

        def finish() -> None:
            for store in stores:
                store.finish(np.concatenate(waiting))
            waiting.clear()

        timed = self._reporter.timing.measure("computing the frozen prefix")
        with timed, self._reporter.progress("frozen prefix") as progress:
            for places, pixels, labels in batches:
                values = lower(pixels.astype("float32"))
                for store, rows_of in zip(stores, values if labels is None else [*values, labels], strict=True):
                    store.write(places, rows_of)
                waiting.append(places)
                done += len(places)
                if sum(map(len, waiting)) >= FINISHED_TOGETHER:
                    finish()
                progress(done, len(rows))
        if waiting:
            finish()
        seconds = time.perf_counter() - started
        self.stats.engine = lower.engine
        self.stats.computed += done
        self.stats.seconds_computing += seconds
        size = sum(store.row_bytes for store in stores) * done
        self.stats.bytes += size
        for store in stores:
            store.took(done, seconds)
        self._reporter.say(
            f"  frozen prefix: {done:,} pictures computed in {seconds:.1f} s on {lower.engine}, "
            f"{size / 1e6:,.0f} MB kept as {stores[0].numbers}"
        )

    def _digest(self, tensor: keras.KerasTensor) -> str:
        if id(tensor) not in self._digests:
            self._digests[id(tensor)] = digest(self._network, tensor)
        return self._digests[id(tensor)]

    def _lower_for(self, tensors: Sequence[keras.KerasTensor]) -> FrozenPart:
        """The lower part that gives some tensors; what was prepared before, if it is the same with the same weights.

        Raises:
            Unsound: It gives no row a picture, or another one in training.
        """
        key = tuple(self._digest(tensor) for tensor in tensors)
        if key not in self._lowers:
            started = time.perf_counter()
            with self._reporter.timing.measure("preparing the frozen prefix"):
                lower = self._lowers[key] = FrozenPart(self._network, tensors, self._sample)
            self.stats.seconds_preparing += time.perf_counter() - started
            self.stats.engine = lower.engine
            if lower.note:
                self._reporter.warn(f"the frozen prefix runs on Keras: {lower.note}.")
        if not self._lowers[key].sound:
            raise Unsound
        return self._lowers[key]

    def _stream(self, lower: FrozenPart, take: BatchFn) -> BatchFn:
        """Pictures that another gives, sent through the prefix."""

        def features(epoch: int, chosen: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
            pixels, targets = take(epoch, chosen)
            self.stats.streamed += len(chosen)
            return lower(np.asarray(pixels, "float32")), targets

        return features
