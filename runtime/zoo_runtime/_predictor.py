"""Loads an exported file, and predicts the classes of pictures with it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from ._choice import check_formats
from ._cores import usable_cores
from ._decode import Source, check_order, decode
from ._drift import DriftCounter
from ._errors import ModelNotFound, PictureError, ProviderNotStarted
from ._limit import MAX_PIXELS, check_max_pixels
from ._listing import list_pictures
from ._network import Network
from ._onnxruntime import Session
from ._session import Provider, Settings, is_pipe, model_file, read_tuned
from ._signed import signed
from ._trust import Trust, known_coverage

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    import numpy.typing as npt

    _S = TypeVar("_S", bound=Source)

THRESHOLD = 0.5


@dataclass(frozen=True)
class Prediction:
    """Holds the network's prediction for one picture.

    Args:
        label: The likeliest class; None if `unknown` is True.
        confidence: The probability of the likeliest class, in 0..1.
        probabilities: Maps each class name to its probability in 0..1, in the order of `ModelInfo.classes`. The values
            sum to 1, unless the network is multi-label.
        labels: The classes that the network assigns. Normally, this is only the likeliest class. For a multi-label
            network, these are all classes with a probability of 0.5 or more, likeliest first. There can be none. If
            `unknown` is True, there is none.
        unknown: Whether the confidence is too low for the precision that the file was exported for (`--precision`).
            Always False if no precision was asked for.
        outlier_score: How unlike the training pictures the picture is, in 0..2. None if the file has no such score.
        outlier: Whether the score is larger than that of 95 % of pictures like the training pictures. The picture may
            then be of none of the classes, blurred or dark. The label is given all the same.
        feature_norm: The length of the features from which the score was computed. None if the file has no score.
        sets: Maps each coverage, such as "0.95", to the label set; see `labels_at`. Empty if the file has none.
    """

    label: str | None
    confidence: float
    probabilities: dict[str, float]
    labels: tuple[str, ...] = ()
    unknown: bool = False
    outlier_score: float | None = None
    outlier: bool = False
    feature_norm: float | None = None
    sets: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def labels_at(self, coverage: float) -> tuple[str, ...]:
        """Return the label set of the picture: the classes that it may be of, likeliest first.

        For pictures like the training pictures, the set has the true class with at least the stated probability. A set
        with several classes means that the network cannot decide. An empty set means that it has seldom been so unsure.

        Args:
            coverage: The probability: 0.9, 0.95 or 0.99.

        Raises:
            ValueError: If the file has no label sets with this coverage.
        """
        return self.sets[known_coverage(self.sets, coverage)]

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return a pair (class, probability) for each of the `count` likeliest classes, likeliest first."""
        return sorted(self.probabilities.items(), key=lambda item: -item[1])[:count]


class Predictor:
    """Predicts the classes of pictures with one exported file.

    `zoo-runtime tune` saves tuned settings beside the file. A predictor uses them on the machine on which they were
    tuned.

    Args:
        model: Path of the file, or path of the folder that contains it, or the bytes of the file. Beside `model.onnx`,
            which ONNX Runtime runs, it can be `model.tflite` for LiteRT, or `model.xml` (and `model.bin`) for OpenVINO.
        threads: Number of threads, 1 to 256. For a single picture, the network runs on all of them. For a list or
            folder, each thread labels its own pictures. None means one thread per core that the process may use, by its
            affinity (`taskset`) and its quota (`docker --cpus`). If the settings are tuned, None means the tuned number
            for a single picture, but still one per core for a list or folder.
        providers: Execution providers on which the network runs, best first. Each is a name, or a pair of a name and
            options. Names are "cpu", "openvino", "cuda", "tensorrt", "migraphx", "directml", "coreml", "nnapi", "qnn",
            "xnnpack" and "webgpu", and all names that ONNX Runtime uses. A provider that cannot start causes a warning
            if "cpu" is listed too, and otherwise an error. None means the tuned provider, or the processor if nothing
            was tuned. If the tuned provider cannot start, a warning says so, and the processor is used.
        spinning: How idle threads of the network wait: True in a busy loop, False asleep. None means the tuned value,
            or, if nothing was tuned, 10 microseconds in a busy loop and then asleep.
        arena: Whether ONNX Runtime keeps memory for the next picture. None means the tuned value, or True if nothing
            was tuned.
        tuned: Whether to use the tuned settings. If `model` is bytes, there are no tuned settings.
        max_pixels: The largest accepted size of a decoded picture, in pixels of color; see `zoo_runtime.decode`.
        formats: The formats of picture files that are read, such as ("jpeg", "png"); see `zoo_runtime.decode`. None
            means the common ones, `zoo_runtime.DEFAULT_FORMATS`.
        drift: True counts figures of all pictures, such as their brightness, in the attribute `drift`. This takes about
            1 ms per picture.
        require_signature: Path of a public key, whose owner must have signed the file; see `verify_signature`. None
            needs no signature.

    Attributes:
        drift: A `DriftCounter`, or None. `predictor.drift.compare(predictor.info.trust["drift"])` compares its figures
            with those of the training pictures.
        engine: The name of the engine that runs the file: "onnxruntime", "litert" or "openvino".
        info: The metadata of the file, a `ModelInfo`.
        settings: The settings of the network, a `Settings`.
        max_pixels: The argument of this name. It may be changed at any time.
        formats: The names of the formats that are read. They may be changed at any time.

    Raises:
        TypeError: If `max_pixels` is not a number, or `formats` is not a list of names.
        ValueError: If `threads` or `max_pixels` is out of range, `formats` has an unknown name, `providers`
            does not have the form described above, or the installed ONNX Runtime lacks one of the providers.
        ProviderNotStarted: If a provider cannot start and "cpu" is not listed, or if the providers cannot load a file
            that the processor can load.
        ModelNotFound: If there is no file at the path, or the file cannot be read.
        EngineNotInstalled: If the file is for LiteRT or OpenVINO, which is not installed.
        CorruptModel: If the engine cannot load the file, or the file's metadata are damaged or do not fit the graph.
        NotAnExport: If zoo did not export the file.
        UnknownSchema: If this runtime does not know the version of the file's metadata.
        UnknownTask: If the file has no task, or a task that this runtime does not know.
        BadSignature: If the owner of `require_signature` has not signed the file.

    Example:

        predictor = Predictor("exported/mobilenetv2-photos/model.onnx")
        result = predictor("cat.jpg")
        print(result.label, result.confidence)
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        *,
        threads: int | None = None,
        providers: Sequence[Provider] | None = None,
        spinning: bool | None = None,
        arena: bool | None = None,
        tuned: bool = True,
        max_pixels: int = MAX_PIXELS,
        formats: Sequence[str] | None = None,
        drift: bool = False,
        require_signature: str | os.PathLike[str] | None = None,
    ) -> None:
        self.max_pixels = max_pixels
        self.formats = formats
        source = _model_of(model)
        options: dict[str, Any] = {"threads": threads, "providers": providers, "spinning": spinning, "arena": arena}
        given = {key: value for key, value in options.items() if value is not None}
        found = None
        # Without the file, its absence is the error, and not that its tuned settings cannot be used.
        if tuned and not isinstance(source, bytes) and os.path.exists(source):
            found = read_tuned(source)
        self.settings = dataclasses.replace(found or Settings(), **given)
        # Tuned settings are the best for one picture at a time, but may be bad for many pictures on all cores.
        for_many = dataclasses.replace(Settings(), **given)
        self._threads = threads
        with signed(source, require_signature):
            try:
                self._network = Network(source, self.settings, for_many)
            except ProviderNotStarted as error:
                if providers is not None:
                    raise
                # The provider could start when the file was tuned.
                text = f"{error} The tuned settings are ignored. Run `zoo-runtime tune` to tune again."
                warnings.warn(text, stacklevel=2)
                self.settings = dataclasses.replace(self.settings, providers=("cpu",))
                self._network = Network(source, self.settings, for_many)
        self.engine = self._network.engine.name
        self.info = self._network.info()
        self._trust = Trust.from_json(self.info.trust)
        self.drift = DriftCounter() if drift else None

    @property
    def max_pixels(self) -> int:
        """The largest accepted size of a decoded picture, in pixels of color; see `zoo_runtime.decode`."""
        return self._max_pixels

    @max_pixels.setter
    def max_pixels(self, value: int) -> None:
        check_max_pixels(value)
        self._max_pixels = value

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats of picture files that are read, names from `zoo_runtime.FORMATS`."""
        return self._formats

    @formats.setter
    def formats(self, value: Sequence[str] | None) -> None:
        self._formats = check_formats(value)

    @property
    def _workers(self) -> int:
        return self._threads or usable_cores()

    # A list literal of several types is a list of Source; a variable such as list[str] needs the type variable.
    @overload
    def __call__(self, source: list[Source] | tuple[Source, ...], *, order: str = "rgb") -> list[Prediction]: ...

    @overload
    def __call__(self, source: list[_S] | tuple[_S, ...], *, order: str = "rgb") -> list[Prediction]: ...

    @overload
    def __call__(self, source: Source, *, order: str = "rgb") -> Prediction: ...

    def __call__(
        self, source: Source | list[_S] | tuple[_S, ...], *, order: str = "rgb"
    ) -> Prediction | list[Prediction]:
        """Predict the classes of one picture, or of each picture in a list or tuple.

        Args:
            source: A picture in any form that `zoo_runtime.decode` accepts, or a list or tuple of such pictures.
            order: The order of the colors in arrays: "rgb", or "bgr" for frames of OpenCV.

        Returns:
            A Prediction. For a list or tuple, a list with one Prediction per picture, in the same order.

        Raises:
            PictureError: If a picture cannot be read. For a list or tuple, this is the error of the first such picture.
            ValueError: If `order` is neither "rgb" nor "bgr".
        """
        if isinstance(source, (list, tuple)):
            predictions = []
            for result in list(self.predict_each(source, order=order)):
                if isinstance(result, PictureError):
                    raise result
                predictions.append(result)
            return predictions
        check_order(order)
        decoded = self.decode(source) if order == "rgb" else self.decode(source, order=order)
        return self._answers([decoded], self._network.session)[0]  # type: ignore[return-value]

    def predict_each(
        self, sources: Iterable[Source], *, batch_size: int = 8, order: str = "rgb"
    ) -> Iterator[Prediction | PictureError]:
        """Predict the classes of many pictures, in batches. A picture that cannot be read does not stop the others.

        If `sources` is a list or tuple that is longer than one batch, several threads share the work. Their number is
        the argument `threads` of `Predictor`, or the number of usable cores if that is None. Each thread decodes a
        batch and runs the network on it, so that decoding and inference overlap.

        The threads share a second copy of the network, which runs each batch on a single thread. The first such call
        loads this copy, which doubles the memory for the weights. The threads use the first copy instead if the file is
        larger than 100 MB, if there is only one thread, or if the network runs on a provider other than the processor.

        Any other iterable is read batch by batch, so it can be endless, such as the frames of a camera. The next batch
        is read only after all predictions for the current batch have been yielded.

        Args:
            sources: Pictures, each in any form that `zoo_runtime.decode` accepts.
            batch_size: Number of pictures that go through the network at once.
            order: The order of the colors in arrays: "rgb", or "bgr" for frames of OpenCV.

        Yields:
            For each picture, in order, a Prediction, or a PictureError if the picture cannot be read.

        Raises:
            TypeError: If `sources` is one picture instead of many.
            ValueError: If `batch_size` is below 1, or `order` is neither "rgb" nor "bgr".
        """
        check_order(order)
        is_one = isinstance(sources, (str, bytes)) or (isinstance(sources, np.ndarray) and sources.ndim < 4)
        # What has only __getitem__, such as the data sets of other frameworks, can be iterated too.
        if is_one or not (hasattr(sources, "__iter__") or hasattr(sources, "__getitem__")):
            raise TypeError(
                "predict_each takes many pictures, such as a list. For one picture, call the predictor itself: "
                f"predictor(picture). Received: {type(sources).__name__}."
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more. Received: {batch_size}.")
        if isinstance(sources, (list, tuple)) and len(sources) > batch_size:
            return self._share_out(sources, batch_size, order)
        return self._by_turns(iter(sources), batch_size, order)

    def _by_turns(self, sources: Iterator[Source], batch_size: int, order: str) -> Iterator[Prediction | PictureError]:
        """Read and decode one batch at a time, run the network on it, and yield the result for each of its pictures.

        The next batch is read only after all results for the current batch have been yielded.
        """
        with contextlib.ExitStack() as stack:
            pool: ThreadPoolExecutor | None = None
            while batch := list(itertools.islice(sources, batch_size)):
                if len(batch) > 1 and pool is None:
                    pool = stack.enter_context(_pool(self._workers))
                run = pool.map if pool else map
                decoded = run(self._try_decode, batch, itertools.repeat(order))
                yield from self._answers(list(decoded), self._network.session)

    def _share_out(self, sources: Sequence[Source], batch_size: int, order: str) -> Iterator[Prediction | PictureError]:
        """Divide the pictures into batches, and process the batches on several threads.

        Each thread decodes one batch at a time and runs the network on it. The results are yielded in the order of the
        pictures.
        """
        session = self._network.session_for_lists(self._workers)

        def work(start: int) -> list[Prediction | PictureError]:
            decoded = [self._try_decode(source, order) for source in sources[start : start + batch_size]]
            return self._answers(decoded, session)

        starts = iter(range(0, len(sources), batch_size))
        with _pool(self._workers) as pool:
            # The queue is only long enough to keep every thread busy, because answers that wait in it take memory.
            waiting = deque(pool.submit(work, start) for start in itertools.islice(starts, 2 * self._workers))
            try:
                while waiting:
                    answers = waiting.popleft().result()
                    waiting.extend(pool.submit(work, start) for start in itertools.islice(starts, 1))
                    yield from answers
            finally:
                for future in waiting:
                    future.cancel()

    def _answers(
        self, decoded: Sequence[npt.NDArray[np.uint8] | PictureError], session: Session
    ) -> list[Prediction | PictureError]:
        pixels = [item for item in decoded if isinstance(item, np.ndarray)]
        rows = zip(*self._network.run_all(session, np.stack(pixels)), strict=True) if pixels else iter(())
        answers = [item if isinstance(item, PictureError) else self._name(*next(rows)) for item in decoded]
        if self.drift is not None:
            for item, answer in zip(decoded, answers, strict=True):
                if isinstance(item, np.ndarray) and isinstance(answer, Prediction):
                    self.drift.add(item, _figures(answer), unknown=answer.unknown, outlier=answer.outlier)
        return answers

    def predict_folder(
        self, folder: str | os.PathLike[str], *, batch_size: int = 8
    ) -> Iterator[tuple[str, Prediction | PictureError]]:
        """Predict the classes of every picture below a folder (see `list_pictures`), in the order of their paths.

        The errors below are raised when the iteration starts, and not when this method is called.

        Args:
            folder: Path of the folder.
            batch_size: Number of pictures that go through the network at once.

        Yields:
            A pair for each picture: its path, and its Prediction or, if the picture cannot be read, a PictureError.

        Raises:
            PictureNotFound: If the folder does not exist, or if this folder or a folder below it cannot be read.
            ValueError: If `batch_size` is below 1.
        """
        paths = list_pictures(folder)
        yield from zip(paths, self.predict_each(paths, batch_size=batch_size), strict=True)

    def decode(self, source: Source, *, order: str = "rgb") -> npt.NDArray[np.uint8]:
        """Decode a picture to the pixels that this network expects.

        Args:
            source: A picture in any form that `zoo_runtime.decode` accepts.
            order: The order of the colors in arrays: "rgb", or "bgr" for frames of OpenCV.

        Returns:
            A uint8 array (height, width, channels), values 0..255.

        Raises:
            PictureError: If the picture cannot be read. `zoo_runtime.decode` lists the subclasses of this error.
        """
        return decode(source, self.info.image, max_pixels=self._max_pixels, order=order, formats=self._formats)

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Run the network on decoded pictures, and return the probability of each class.

        Args:
            pixels: Decoded pictures, a uint8 array (batch, height, width, channels), values 0..255.

        Returns:
            A float32 array (batch, classes) in 0..1. Each row sums to 1, unless the network is multi-label.

        Raises:
            ValueError: If `pixels` does not have this dtype, or the height, width and channels of the network.
        """
        self._check(pixels)
        return self._network.run(self._network.session, pixels)

    def outputs(self, pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        """Run the network on decoded pictures, and return all outputs of the file.

        Args:
            pixels: As for `probabilities`.

        Returns:
            A list of float32 arrays: the probabilities (batch, classes) and, if the file has them, the outlier scores
            (batch,) and the lengths of the features (batch,).

        Raises:
            ValueError: As for `probabilities`.
        """
        self._check(pixels)
        return self._network.run_all(self._network.session, pixels)

    def _check(self, pixels: npt.NDArray[np.uint8]) -> None:
        wanted = (*self.info.image.size, self.info.image.channels)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != wanted:
            raise ValueError(
                f"pixels must be a uint8 array (batch, {', '.join(map(str, wanted))}). "
                f"Received: {pixels.dtype} {pixels.shape}."
            )

    def _try_decode(self, source: Source, order: str) -> npt.NDArray[np.uint8] | PictureError:
        try:
            # Subclasses of users may override `decode` without the later argument.
            return self.decode(source) if order == "rgb" else self.decode(source, order=order)
        except PictureError as error:
            return error

    def _name(
        self, row: npt.NDArray[np.float32], score: np.float32 | None = None, norm: np.float32 | None = None
    ) -> Prediction:
        best, trust = int(row.argmax()), self._trust
        label, confidence = self.info.classes[best], float(row[best])
        named = dict(zip(self.info.classes, map(float, row), strict=True))
        labels: tuple[str, ...] = (label,)
        if self.info.task == "multilabel":
            labels = tuple(self.info.classes[i] for i in (-row).argsort(kind="stable") if row[i] >= THRESHOLD)
        unknown = trust.unknown_below is not None and confidence < trust.unknown_below
        outlier_score = None if score is None else float(score)
        outlier = outlier_score is not None and trust.outlier_above is not None and outlier_score > trust.outlier_above
        likeliest = (-row).argsort(kind="stable")
        sets = {
            coverage: tuple(self.info.classes[i] for i in likeliest if row[i] >= threshold)
            for coverage, threshold in trust.sets.items()
        }
        return Prediction(
            None if unknown else label,
            confidence,
            named,
            () if unknown else labels,
            unknown,
            outlier_score,
            outlier,
            None if norm is None else float(norm),
            sets,
        )


def _figures(answer: Prediction) -> dict[str, float]:
    """Return the figures of an answer that a `DriftCounter` counts."""
    figures = {"confidence": answer.confidence}
    if answer.outlier_score is not None and answer.feature_norm is not None:
        figures |= {"outlier_score": answer.outlier_score, "feature_norm": answer.feature_norm}
    return figures


def _model_of(model: str | os.PathLike[str] | bytes) -> str | bytes:
    """Return the path of an exported file, or its content if that was given.

    Raises:
        ModelNotFound: If `model` is a folder without an exported file, or bytes that are a path.
        TypeError: If `model` is neither a path nor bytes.
    """
    if isinstance(model, (bytearray, memoryview)):
        model = bytes(model)
    if not isinstance(model, bytes):
        path = model_file(model)
        # A device such as /dev/zero never ends; as a path, it is refused.
        if not is_pipe(path):
            return path
        # A pipe, such as the shell's <(...), can be read only once.
        with contextlib.suppress(OSError), open(path, "rb") as stream:
            return stream.read()
        return path
    if 0 < len(model) < 4096 and b"\0" not in model and os.path.exists(model):
        raise ModelNotFound(f"the bytes given are a path. Pass it as text: os.fsdecode({model!r}).")
    return model


def _pool(threads: int) -> ThreadPoolExecutor:
    # The prediction of one picture needs no threads, and should not wait for this import.
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(threads)
