"""Predictor: loads an exported file once, and then turns pictures into labels."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from ._decode import MAX_PIXELS, SUFFIXES, Source, decode
from ._errors import CorruptModel, ModelError, PictureError, PictureNotFound, ProviderNotStarted
from ._format import INPUT, OUTPUT, ModelInfo
from ._onnxruntime import Session
from ._session import Provider, Settings, model_file, open_session, read_tuned

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    import numpy.typing as npt

    _S = TypeVar("_S", bound=Source)

THRESHOLD = 0.5
# Bytes of the largest file whose network is opened a second time for lists.
LARGEST_TWICE = 100_000_000


@dataclass(frozen=True)
class Prediction:
    """The network's answer for one picture.

    Args:
        label: The likeliest class.
        confidence: Its probability, in 0..1.
        probabilities: Class name -> probability in 0..1, in the order of the file's classes. They sum to 1, unless the
            network is multi-label.
        labels: The classes that apply. This is the likeliest one, except for a multi-label network: there it is every
            class with a probability of 0.5 or more, likeliest first, and may be empty.
    """

    label: str
    confidence: float
    probabilities: dict[str, float]
    labels: tuple[str, ...] = ()

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the `count` likeliest classes with their probabilities, likeliest first."""
        return sorted(self.probabilities.items(), key=lambda item: -item[1])[:count]


class Predictor:
    """Runs one exported file.

    `zoo-runtime tune` saves settings beside the file. They apply on the machine on which they were tuned.

    Args:
        model: Path of the file (or of the folder that holds it as `model.onnx`), or its bytes.
        threads: Number of threads, 1 to 256, for the network and for lists and folders. None means one per core; for
            the network alone, a tuned number comes first.
        providers: Where the network runs, best first: names such as "cpu", "openvino", "cuda", "tensorrt", "coreml",
            "nnapi", "qnn", "xnnpack", ONNX Runtime's own names, or pairs of a name and options. If "cpu" is among
            them, another that cannot be started costs a warning; otherwise it is an error. None means the tuned
            provider, or else the processor.
        spinning: Whether idle threads of the network wait in a busy loop. None means the tuned value, or else True.
        arena: Whether the network keeps its memory between pictures. None means the tuned value, or else True.
        tuned: Whether tuned settings replace the defaults.
        max_pixels: Upper limit on a picture's width x height.

    Attributes:
        info: What the file says about itself, a `ModelInfo`.
        settings: How the network runs, a `Settings`.

    Raises:
        ValueError: If `threads` or `max_pixels` is out of range, or the installed ONNX Runtime lacks a provider.
        ProviderNotStarted: If a provider cannot run on this machine.
        ModelNotFound: If there is no file at the path.
        CorruptModel: If ONNX Runtime cannot load the file.
        NotAnExport: If zoo did not export the file.
        UnknownSchema: If the file was exported for a newer runtime.
        UnknownTask: If this runtime does not know the file's task.

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
    ) -> None:
        if not max_pixels > 0:
            raise ValueError(f"max_pixels must be above 0. Received: {max_pixels!r}.")
        self._model = model if isinstance(model, bytes) else model_file(model)
        options: dict[str, Any] = {"threads": threads, "providers": providers, "spinning": spinning, "arena": arena}
        given = {key: value for key, value in options.items() if value is not None}
        found = read_tuned(self._model) if tuned and not isinstance(self._model, bytes) else None
        self.settings = dataclasses.replace(found or Settings(), **given)
        # Tuned settings are the best for one picture at a time, which says nothing about many on all cores.
        self._for_many = dataclasses.replace(Settings(), **given)
        self._workers = threads or usable_cores()
        self._max_pixels = max_pixels
        self._bytes = len(self._model) if isinstance(self._model, bytes) else _size(self._model)
        try:
            self._session = open_session(self._model, self.settings)
        except ProviderNotStarted as error:
            if providers is not None:
                raise
            # The provider could start when the file was tuned.
            warnings.warn(
                f"{error} The tuned settings are ignored. Run `zoo-runtime tune` to tune again.", stacklevel=2
            )
            self.settings = dataclasses.replace(self.settings, providers=("cpu",))
            self._session = open_session(self._model, self.settings)
        self._single: Session | None = None
        self._lock = threading.Lock()
        # Not every provider lets two threads into one session; DirectML does not.
        self._run_lock: contextlib.AbstractContextManager[object] = (
            contextlib.nullcontext() if self.settings.providers == ("cpu",) else threading.Lock()
        )
        self.info = ModelInfo.from_metadata(_metadata(self._session))
        self._check_graph()

    @overload
    def __call__(self, source: list[_S] | tuple[_S, ...]) -> list[Prediction]: ...

    @overload
    def __call__(self, source: Source) -> Prediction: ...

    def __call__(self, source: Source | list[_S] | tuple[_S, ...]) -> Prediction | list[Prediction]:
        """Predict one picture, or a list or tuple of pictures.

        Args:
            source: A picture (see `decode`), or a list or tuple of them.

        Returns:
            A Prediction, or a list of them in the same order.

        Raises:
            PictureError: If a picture cannot be read. For a list, this is the error of the first such picture.
        """
        if isinstance(source, (list, tuple)):
            predictions = []
            for result in list(self.predict_each(source)):
                if isinstance(result, PictureError):
                    raise result
                predictions.append(result)
            return predictions
        return self._name(self.probabilities(self.decode(source)[None])[0])

    def predict_each(self, sources: Iterable[Source], *, batch_size: int = 8) -> Iterator[Prediction | PictureError]:
        """Predict many pictures. A picture that cannot be read yields its error, and the rest goes on.

        A list or tuple of more than one batch is shared out among threads. Each thread decodes a batch and runs it, so
        that decoding and inference overlap. The first such list opens the network a second time, with one thread, and
        so takes the memory of its weights again; files above 100 MB are not opened twice. From any other iterable, such
        as a camera's stream, the next batch is taken only after the batch before it has been answered.

        Args:
            sources: Pictures, see `decode`.
            batch_size: Number of pictures that go through the network at once.

        Yields:
            A Prediction or a PictureError per picture, in order.

        Raises:
            TypeError: If `sources` is one picture instead of many.
            ValueError: If `batch_size` is below 1.
        """
        if isinstance(sources, (str, bytes)) or (isinstance(sources, np.ndarray) and sources.ndim < 4):
            raise TypeError(
                "predict_each takes many pictures. For one picture, call the predictor itself: predictor(picture)."
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more. Received: {batch_size}.")
        if isinstance(sources, (list, tuple)) and len(sources) > batch_size:
            return self._share_out(sources, batch_size)
        return self._by_turns(iter(sources), batch_size)

    def _by_turns(self, sources: Iterator[Source], batch_size: int) -> Iterator[Prediction | PictureError]:
        """Decode a batch, run it, yield its answers, and only then take the next batch."""
        with contextlib.ExitStack() as stack:
            pool: ThreadPoolExecutor | None = None
            while batch := list(itertools.islice(sources, batch_size)):
                if len(batch) > 1 and pool is None:
                    pool = stack.enter_context(_pool(self._workers))
                decoded = pool.map(self._try_decode, batch) if pool else map(self._try_decode, batch)
                yield from self._answers(list(decoded), self._session)

    def _share_out(self, sources: Sequence[Source], batch_size: int) -> Iterator[Prediction | PictureError]:
        """Decode and run each batch in one of the threads."""
        session = self._single_session()

        def work(start: int) -> list[Prediction | PictureError]:
            decoded = [self._try_decode(source) for source in sources[start : start + batch_size]]
            return self._answers(decoded, session)

        starts = iter(range(0, len(sources), batch_size))
        with _pool(self._workers) as pool:
            # Only as many batches are queued as keep every thread busy: an answer that nobody takes holds memory.
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
        rows = iter(self._run(session, np.stack(pixels))) if pixels else iter(())
        return [item if isinstance(item, PictureError) else self._name(next(rows)) for item in decoded]

    def _single_session(self) -> Session:
        """Return the network with one thread, for threads that each run their own pictures.

        This is the session that is already open in three cases: with a single thread, with a provider other than the
        processor, and for large networks. A large network would take its memory twice, and keeps all threads busy with
        one picture anyway.
        """
        if (
            (self._workers == 1 and self.settings.threads in (None, 1))
            or self.settings.providers != ("cpu",)
            or self._bytes > LARGEST_TWICE
        ):
            return self._session
        with self._lock:
            if self._single is None:
                self._single = self._session
                # The file may have been replaced since it was opened. The new one must not answer for the old one.
                with contextlib.suppress(ModelError):
                    session = open_session(self._model, dataclasses.replace(self._for_many, threads=1))
                    if _metadata(session) == _metadata(self._session):
                        self._single = session
                if isinstance(self._model, bytes):
                    self._model = b""
            return self._single

    def predict_folder(
        self, folder: str | os.PathLike[str], *, batch_size: int = 8
    ) -> Iterator[tuple[str, Prediction | PictureError]]:
        """Predict every picture below a folder (see `list_pictures`), in the order of their paths.

        Yields:
            The path, and a Prediction or the PictureError that says why there is none.

        Raises:
            PictureNotFound: If the folder does not exist.
        """
        paths = list_pictures(folder)
        yield from zip(paths, self.predict_each(paths, batch_size=batch_size), strict=True)

    def decode(self, source: Source) -> npt.NDArray[np.uint8]:
        """Decode a picture for this network.

        Returns:
            uint8 array (height, width, channels), values 0..255.

        Raises:
            PictureError: If the picture cannot be read. See `zoo_runtime.decode` for each kind.
        """
        return decode(source, self.info.image, max_pixels=self._max_pixels)

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Run the network on pixels that are already decoded.

        Args:
            pixels: uint8 array (batch, height, width, channels), values 0..255, as `decode` returns them.

        Returns:
            float32 array (batch, classes). Rows sum to 1, unless the network is multi-label.

        Raises:
            ValueError: If the array has another shape or dtype.
        """
        wanted = (*self.info.image.size, self.info.image.channels)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != wanted:
            raise ValueError(
                f"pixels must be a uint8 array (batch, {', '.join(map(str, wanted))}). "
                f"Received: {pixels.dtype} {pixels.shape}."
            )
        return self._run(self._session, pixels)

    def _run(self, session: Session, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with self._run_lock:
            return session.run([OUTPUT], {INPUT: pixels})[0]

    def _try_decode(self, source: Source) -> npt.NDArray[np.uint8] | PictureError:
        try:
            return self.decode(source)
        except PictureError as error:
            return error

    def _name(self, row: npt.NDArray[np.float32]) -> Prediction:
        best = int(row.argmax())
        named = dict(zip(self.info.classes, map(float, row), strict=True))
        labels: tuple[str, ...] = (self.info.classes[best],)
        if self.info.task == "multilabel":
            labels = tuple(self.info.classes[i] for i in (-row).argsort(kind="stable") if row[i] >= THRESHOLD)
        return Prediction(self.info.classes[best], float(row[best]), named, labels)

    def _check_graph(self) -> None:
        """Raise CorruptModel unless the graph's inputs and outputs match the metadata."""
        inputs = [(node.name, node.type, list(node.shape[1:])) for node in self._session.get_inputs()]
        wanted = [(INPUT, "tensor(uint8)", [*self.info.image.size, self.info.image.channels])]
        outputs = [(node.name, node.type, list(node.shape[1:])) for node in self._session.get_outputs()]
        if inputs != wanted or outputs != [(OUTPUT, "tensor(float)", [len(self.info.classes)])]:
            raise CorruptModel(
                f"the file's graph does not match its metadata. Inputs: {inputs}, outputs: {outputs}. "
                "Export the file again."
            )
        batch = self._session.get_inputs()[0].shape[0]
        if isinstance(batch, int):
            raise CorruptModel(
                f"the file's graph accepts only batches of {batch}, but zoo exports accept any. Export the file again."
            )


def _size(path: str) -> int:
    """Return the size of a file in bytes, or 0 if there is none: opening it raises the error."""
    try:
        return os.path.getsize(path)
    except (OSError, ValueError):
        return 0


def _metadata(session: Session) -> dict[str, str]:
    try:
        return session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise CorruptModel(f"the file's metadata are not UTF-8 text ({error}). Export the file again.") from None


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pool(threads: int) -> ThreadPoolExecutor:
    # One picture needs no threads, and should not wait for this import.
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(threads)


def no_picture_in(paths: Iterable[str]) -> PictureNotFound:
    """Return the error for paths in which no picture was found."""
    return PictureNotFound(
        f"no picture was found in {', '.join(map(repr, paths))}. "
        "The names of pictures end in .jpg, .png, .webp or another supported ending."
    )


Refuse = Callable[[str, PictureNotFound], None]


def expand(paths: Iterable[str], refuse: Refuse | None = None) -> Iterator[str]:
    """Yield each file as named, and for a folder every picture below it (see `list_pictures`)."""
    for path in paths:
        if os.path.isdir(path):
            yield from list_pictures(path, refuse)
        else:
            yield path


def list_pictures(folder: str | os.PathLike[str], refuse: Refuse | None = None) -> list[str]:
    """List every picture below a folder: the files whose names end in one of `SUFFIXES`.

    Hidden files and folders are left out.

    Args:
        folder: Its path.
        refuse: Called with the path of a subfolder that may not be read, and the error. If None, the error is raised.

    Returns:
        The sorted paths.

    Raises:
        PictureNotFound: If the folder does not exist, or a folder may not be read.
    """
    root = os.fsdecode(folder)
    if not os.path.isdir(root):
        raise PictureNotFound(f"the folder {root!r} does not exist.")

    def failed(error: OSError) -> None:
        refusal = PictureNotFound(f"{error.filename!r} cannot be read: {error.strerror}.")
        if refuse is None:
            raise refusal
        refuse(error.filename, refusal)

    # Links are followed, as in training, but each folder is entered only once.
    seen = {os.path.realpath(root)}

    def is_new(path: str) -> bool:
        real = os.path.realpath(path)
        known = real in seen
        seen.add(real)
        return not known

    found = []
    for parent, folders, files in os.walk(root, onerror=failed, followlinks=True):
        folders[:] = [n for n in sorted(folders) if not n.startswith(".") and is_new(os.path.join(parent, n))]
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                found.append(os.path.join(parent, name))
    return sorted(found)
