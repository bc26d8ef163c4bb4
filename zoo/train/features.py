"""The frozen prefix: what no phase trains is computed once a picture, by onnxruntime on a processor, and kept.

A phase trains the upper part of a network. The part below is a constant function of the picture (`zoo.train.prefix`
finds where it ends). Its outputs, the features, are computed ahead and read in every epoch; only the upper part is run
and trained, on the very variables of the network. Where pictures are made anew in every epoch, or features would not
fit the cache, the lower part still runs on onnxruntime, batch by batch.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backend
from zoo.errors import ConversionFailed
from zoo.reporter import Reporter
from zoo.train import grouped, prefix
from zoo.train.batches import Take
from zoo.train.store import Cache, Store
from zoo.train.views import Views

if TYPE_CHECKING:
    import keras

TOLERANCE = 1e-4
CHECKED_PICTURES = 8
BATCH = 32
# Where fewer pixels than these need not go through the prefix again, converting it takes longer than it saves:
# MobileNetV2's takes 4 s, in which Keras sends 500 pictures of 224 x 224 through.
WORTH_PIXELS = 25_000_000


@dataclass(frozen=True)
class Settings:
    """How features are kept.

    Args:
        folder: Of the cache.
        limit: Bytes that it may take; None means the default, 0 turns the prefix off.
        pictures: Tells these decoded pictures, in their order, from all others.
        policy: Tells the augmentation policy and its parameters from all others.
        always: Whether the prefix is used where it saves little, too.
    """

    folder: Path
    limit: int | None = None
    pictures: str = ""
    policy: str = ""
    always: bool = False


class Lower:
    """The lower part of a network, ready to run.

    Args:
        network: The whole.
        tensors: What it gives.
        sample: Pictures to compare Keras and onnxruntime on, float32 (pictures, height, width, channels), 0..255.

    Attributes:
        engine: "onnxruntime" or "Keras".
        note: Why it is Keras where it might be the other, or nothing.
    """

    def __init__(self, network: keras.Model, tensors: Sequence[keras.KerasTensor], sample: np.ndarray):
        keras = backend.start()
        self._model = keras.Model(network.inputs[0], list(tensors))
        self._session, self.engine, self.note = None, "Keras", ""
        if backend.has_accelerator():
            return
        from zoo.convert.keras_to_onnx import convert_maps

        try:
            with grouped.whole(self._model):
                graph = convert_maps(self._model)
            self._session = _session(graph.SerializeToString())
            difference = self._difference(sample)
            if difference <= TOLERANCE:
                self.engine = "onnxruntime"
            else:
                self.note = f"onnxruntime's features differ from Keras's by {difference:.1e} of their greatest value"
        except ConversionFailed as error:
            self.note = str(error).splitlines()[0]
        if self.note:
            self._session = None

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Features of pictures: float32 (pictures, height, width, channels) -> a float32 array for each tensor."""
        if self._session is not None:
            return self._session.run(None, {self._session.get_inputs()[0].name: pixels})
        return [np.asarray(values) for values in _listed(self._model.predict_on_batch(pixels))]

    def _difference(self, sample: np.ndarray) -> float:
        """The greatest difference over tensors, as a share of Keras's greatest value; not finite counts as infinite."""
        keras = backend.start()
        # Not traced: that takes longer than these few pictures.
        expected = self._model(keras.ops.convert_to_tensor(sample), training=False)
        worst = 0.0
        for wanted, given in zip(_listed(expected), self(sample), strict=True):
            wanted = keras.ops.convert_to_numpy(wanted)
            share = float(np.abs(wanted - given).max() / max(float(np.abs(wanted).max()), 1e-30))
            worst = max(worst, share) if share == share else float("inf")
        return worst


def _listed(outputs: Any) -> list[Any]:
    """Keras gives the one output of a model with a list of one as it is."""
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _session(graph: bytes):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # onnxruntime's exceptions share no base class.
        raise ConversionFailed(f"onnxruntime cannot run the graph: {str(error).splitlines()[0]}") from error


@dataclass
class Gain:
    """What the prefix did in a run.

    Args:
        engine: What it ran on: "onnxruntime" or "Keras".
        computed: Pictures (or views of them) that went through it and were kept.
        found: Pictures (or views) that an earlier run had computed.
        read: How often one was read instead of computed.
        streamed: Pictures that went through it and were not kept.
        seconds_preparing: Converting it and comparing it with Keras.
        seconds_computing: Of those computed and kept.
        bytes: What is kept on the disk.
    """

    engine: str = ""
    computed: int = 0
    found: int = 0
    read: int = 0
    streamed: int = 0
    seconds_preparing: float = 0.0
    seconds_computing: float = 0.0
    bytes: int = 0

    def told(self) -> str:
        """What a user is told at the end of training; nothing where the prefix was not used."""
        if not self.read:
            return ""
        once = self.computed + self.found
        text = f"Frozen prefix: {once:,} pictures went through it once and were read {self.read:,} times"
        if not self.computed:
            return text
        rate = self.seconds_computing / self.computed
        saved = (self.read - self.computed) * rate - self.seconds_preparing
        return (
            f"{text}; at {1 / rate:,.0f} pictures/s and {self.seconds_preparing:.1f} s to prepare, {saved:.0f} s saved"
        )

    def to_json(self) -> dict[str, Any]:
        """For run.json."""
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Feed:
    """What a phase is fitted on.

    Args:
        learner: The network from what `train` and `validation` give, to the logits.
        train: Gives training batches.
        validation: Gives batches of pictures as they are.
        kept: Whether batches are read from the cache.
    """

    learner: keras.Model
    train: Take
    validation: Take
    kept: bool = False


class Features:
    """Finds, computes and hands out features through one run.

    Args:
        settings: How they are kept.
        array: Decoded pictures, uint8 (pictures, height, width, channels).
        targets: float32 (pictures, classes).
        reporter: Hears what was computed.

    Attributes:
        gain: What it did so far.
    """

    def __init__(self, settings: Settings, array: np.ndarray, targets: np.ndarray, reporter: Reporter):
        self._settings, self._array, self._targets, self._reporter = settings, array, targets, reporter
        self._cache = Cache(settings.folder, settings.limit)
        # Pictures that nothing tells from others are computed anew in every run.
        self._pictures = settings.pictures or secrets.token_hex(16)
        self._filled: set[Path] = set()
        self.gain = Gain()

    def worth(self, passes: int) -> bool:
        """Whether the prefix should be used where pictures would go through it so many times."""
        if self._cache.limit == 0:
            return False
        return self._settings.always or passes * self._array[0, ..., 0].size >= WORTH_PIXELS

    def feed(
        self,
        network: keras.Model,
        cut: prefix.Cut,
        later: Sequence[prefix.Cut],
        plain: Feed,
        *,
        train: np.ndarray,
        val: np.ndarray,
        views: Views | None,
        online: bool,
    ) -> Feed:
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
        self._network, self._sample = network, self._array[train[:CHECKED_PICTURES]].astype("float32")
        altered = online or views is not None
        try:
            pictures = self._of_pictures(cut, later, val if altered else np.union1d(train, val))
            of_views = self._of_views(cut, later, views) if views is not None else None
        except OSError as error:
            self._reporter.warn(
                f"features cannot be kept in {str(self._cache.folder)!r}: {error.strerror or error}. "
                "They are computed anew in every epoch; ZOO_CACHE names another folder."
            )
            pictures = of_views = None
        streamed = (altered and of_views is None) or pictures is None
        if streamed:
            lower = self._lower_for(cut.tensors)
            if lower.engine == "Keras":
                # Batch by batch Keras does the same in one piece.
                return plain
        learner = keras.Model(list(cut.tensors), network.outputs[0])
        return Feed(
            learner,
            train=(of_views if altered else pictures) or self._stream(lower, plain.train),
            validation=pictures or self._stream(lower, plain.validation),
            kept=not streamed,
        )

    def _of_pictures(self, cut: prefix.Cut, later: Sequence[prefix.Cut], rows: np.ndarray) -> Take | None:
        """What reads features of pictures as they are; they are computed if they are not there."""

        def batches(missing: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for begin in range(0, len(missing), BATCH):
                chosen = missing[begin : begin + BATCH]
                yield chosen, self._array[chosen]

        stores = self._stores(cut, later, self._pictures, len(self._array), rows, batches)
        if stores is None:
            return None
        lower: list[Lower] = []

        def take(epoch: int, chosen: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
            if any(len(store.missing(chosen)) for store in stores):
                # Training pictures as they are, where a phase reads altered ones; few, and seldom.
                lower[:] = lower or [self._lower_for(cut.tensors)]
                return lower[0](self._array[chosen].astype("float32")), self._targets[chosen]
            return [store[chosen] for store in stores], self._targets[chosen]

        return take

    def _of_views(self, cut: prefix.Cut, later: Sequence[prefix.Cut], views: Views) -> Take | None:
        """What reads features of augmented copies."""
        told = [self._pictures, self._settings.policy or secrets.token_hex(16), views.count, views.seed]
        key = repr([*told, views.rows.tolist(), views.targets[views.rows].tolist()])
        rows = np.arange(len(views))
        labels = self._cache.open([(f"labels of {key}", len(views), len(views), (views.targets.shape[1],))])
        if labels is None:
            return None

        def batches(missing: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for places, pixels, targets in views.generate():
                labels[0].write(places, targets)
                yield places, pixels
            labels[0].finish(rows)

        stores = self._stores(cut, later, key, len(views), rows, batches, labels[0])
        if stores is None:
            return None

        def take(epoch: int, chosen: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
            places = views.place(epoch, chosen)
            return [store[places] for store in stores], labels[0][places]

        return take

    def _stores(
        self,
        cut: prefix.Cut,
        later: Sequence[prefix.Cut],
        pictures: str,
        count: int,
        rows: np.ndarray,
        batches,
        beside: Store | None = None,
    ) -> list[Store] | None:
        """The sets of a cut's tensors, with all rows computed; None if they would not fit the cache."""
        tensors = list({id(x): x for other in (cut, *later) for x in other.tensors}.values())
        stores = self._open(tensors, pictures, count, len(rows))
        if stores is None and later:
            tensors = list(cut.tensors)
            stores = self._open(tensors, pictures, count, len(rows))
        if stores is None:
            needed = cut.floats * 2 * len(rows)
            self._reporter.say(
                f"  frozen prefix: features of {len(rows):,} pictures would take {needed / 1e9:.1f} GB or more, and "
                f"--cache-size allows {self._cache.limit / 1e9:.1f} GB; computed anew in every epoch"
            )
            return None
        lacking = [store.missing(rows) for store in [*stores, *([beside] if beside else [])]]
        missing = np.unique(np.concatenate(lacking))
        if len(missing):
            wanted = [i for i, store in enumerate(stores) if beside is not None or len(lacking[i])]
            self._fill([tensors[i] for i in wanted], [stores[i] for i in wanted], missing, batches(missing))
            self.gain.bytes += sum(store.row_bytes for store in stores) * len(missing)
        else:
            self._reporter.say(f"  frozen prefix: {len(rows):,} pictures, found computed")
        places = {store.folder for store in stores}
        if not places <= self._filled:
            self.gain.found += len(rows) - len(missing)
        self._filled |= places
        return stores[: len(cut.tensors)]

    def _open(self, tensors: Sequence[keras.KerasTensor], pictures: str, count: int, needed: int) -> list[Store] | None:
        import onnxruntime

        keras = backend.start()
        engine = ["Keras" if backend.has_accelerator() else onnxruntime.__version__]
        engine += [keras.__version__, keras.backend.backend()]
        return self._cache.open(
            (repr([prefix.digest(self._network, tensor), engine, pictures]), count, needed, tuple(tensor.shape[1:]))
            for tensor in tensors
        )

    def _fill(
        self,
        tensors: Sequence[keras.KerasTensor],
        stores: Sequence[Store],
        rows: np.ndarray,
        batches: Iterable[tuple[np.ndarray, np.ndarray]],
    ) -> None:
        lower = self._lower_for(tensors)
        begun = time.perf_counter()
        done = 0
        with self._reporter.progress("frozen prefix") as progress:
            for places, pixels in batches:
                for store, values in zip(stores, lower(pixels.astype("float32")), strict=True):
                    store.write(places, values)
                done += len(places)
                progress(done, len(rows))
        for store in stores:
            store.finish(rows)
        seconds = time.perf_counter() - begun
        self.gain.computed += done
        self.gain.seconds_computing += seconds
        size = sum(store.row_bytes for store in stores) * done
        self._reporter.say(
            f"  frozen prefix: {done:,} pictures computed in {seconds:.1f} s on {lower.engine}, "
            f"{size / 1e6:,.0f} MB kept"
        )

    def _lower_for(self, tensors: Sequence[keras.KerasTensor]) -> Lower:
        begun = time.perf_counter()
        lower = Lower(self._network, tensors, self._sample)
        self.gain.seconds_preparing += time.perf_counter() - begun
        self.gain.engine = lower.engine
        if lower.note:
            self._reporter.warn(f"the frozen prefix runs on Keras: {lower.note}.")
        return lower

    def _stream(self, lower: Lower, take: Take) -> Take:
        """Pictures that another gives, sent through the prefix."""

        def features(epoch: int, chosen: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
            pixels, targets = take(epoch, chosen)
            self.gain.streamed += len(chosen)
            return lower(np.asarray(pixels, "float32")), targets

        return features
