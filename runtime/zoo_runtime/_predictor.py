"""Predictor: an exported file, loaded once, that turns pictures into labels."""

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
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from ._decode import MAX_PIXELS, SUFFIXES, Source, decode
from ._errors import CorruptModel, ModelError, PictureError, PictureNotFound, ProviderNotStarted
from ._format import INPUT, OUTPUT, ModelInfo
from ._session import Provider, Settings, model_file, open_session, read_tuned

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

THRESHOLD = 0.5
LARGEST_TWICE = 100_000_000


@dataclass(frozen=True)
class Prediction:
    """What the network says of one picture.

    Args:
        label: The likeliest class.
        confidence: Its probability, in 0..1.
        probabilities: Class name -> probability in 0..1, in the order of the file's classes; they sum to 1, unless
            the network is multi-label.
        labels: The classes that the picture is of: the likeliest one; of a multi-label network every class with a
            probability of 0.5 or more, likeliest first, and maybe none.
    """

    label: str
    confidence: float
    probabilities: dict[str, float]
    labels: tuple[str, ...] = ()

    def top(self, count: int) -> list[tuple[str, float]]:
        """The `count` likeliest classes with their probabilities, likeliest first."""
        return sorted(self.probabilities.items(), key=lambda item: -item[1])[:count]


class Predictor:
    """Runs one exported file.

    Args:
        model: Path of the file (or of the folder that holds it as `model.onnx`), or its bytes.
        threads: Threads of the network and of what is done with lists and folders, 1 to 256; None means one a core,
            for the network what was tuned.
        providers: Where the network runs, best first: names such as "cpu", "openvino", "cuda", "tensorrt", "coreml",
            "nnapi", "qnn", "xnnpack", or onnxruntime's own, or pairs of a name and options. Where "cpu" is among them,
            another that cannot be started costs a warning, else it is an error. None means what was tuned, else the
            processor.
        spinning: Whether threads of the network wait by spinning; None means what was tuned, else True.
        arena: Whether the network keeps its memory; None means what was tuned, else True.
        tuned: Whether settings that were tuned for this file on this machine are used where none are given.
        max_pixels: Bound on a picture's width x height.

    What was tuned is kept beside the file by `zoo-runtime tune`, and holds for the machine that it was tuned on.

    Attributes:
        info: What the file says of itself, a `ModelInfo`.
        settings: How the network is run, a `Settings`.

    Raises:
        ValueError: Threads or `max_pixels` out of range, or a provider that the installed onnxruntime does not have.
        ProviderNotStarted: A provider cannot work on this machine.
        ModelNotFound: No file at the path.
        CorruptModel: onnxruntime cannot load it.
        NotAnExport: Not a file that zoo exported.
        UnknownSchema: Exported for a newer runtime.
        UnknownTask: A task that this runtime does not know.

    Example:

        predictor = Predictor("exported/mobilenetv2-photos/model.onnx")
        result = predictor("cat.jpg")
        print(result.label, result.confidence)
    """

    def __init__(
        self,
        model: str | os.PathLike | bytes,
        *,
        threads: int | None = None,
        providers: Sequence[Provider] | None = None,
        spinning: bool | None = None,
        arena: bool | None = None,
        tuned: bool = True,
        max_pixels: int = MAX_PIXELS,
    ):
        if not max_pixels > 0:
            raise ValueError(f"max_pixels must be above 0. Received: {max_pixels!r}.")
        self._model = model if isinstance(model, bytes) else model_file(model)
        given = {"threads": threads, "providers": providers, "spinning": spinning, "arena": arena}
        given = {key: value for key, value in given.items() if value is not None}
        found = read_tuned(self._model) if tuned and not isinstance(self._model, bytes) else None
        self.settings = dataclasses.replace(found or Settings(), **given)
        # What was tuned is best for one picture at a time, and need not be for many.
        self._for_many = dataclasses.replace(Settings(), **given)
        # What is best for one picture need not be for many, on all cores.
        self._workers = threads or usable_cores()
        self._max_pixels = max_pixels
        self._bytes = len(model) if isinstance(model, bytes) else _size(self._model)
        try:
            self._session = open_session(self._model, self.settings)
        except ProviderNotStarted as error:
            if providers is not None:
                raise
            # It was tuned when the provider could start.
            warnings.warn(f"{error} What was tuned is left alone; `zoo-runtime tune` tunes anew.", stacklevel=2)
            self.settings = dataclasses.replace(self.settings, providers=("cpu",))
            self._session = open_session(self._model, self.settings)
        self._single: onnxruntime.InferenceSession | None = None
        self._lock = threading.Lock()
        # Not every provider lets two threads into one session; DirectML does not.
        self._run_lock = contextlib.nullcontext() if self.settings.providers == ("cpu",) else threading.Lock()
        self.info = ModelInfo.from_metadata(_metadata(self._session))
        self._check_graph()

    def __call__(self, source: Source | Sequence[Source]) -> Prediction | list[Prediction]:
        """Predict one picture, or a list or tuple of pictures.

        Args:
            source: A picture (see `decode`), or a list or tuple of them.

        Returns:
            A Prediction, or a list of them in the same order.

        Raises:
            PictureError: A picture cannot be read; of a list, the first such.
        """
        if isinstance(source, (list, tuple)):
            results = list(self.predict_each(source))
            for result in results:
                if isinstance(result, PictureError):
                    raise result
            return results
        return self._name(self.probabilities(self.decode(source)[None])[0])

    def predict_each(self, sources: Iterable[Source], *, batch_size: int = 8) -> Iterator[Prediction | PictureError]:
        """Predict many pictures; what cannot be read comes out as its error, and the rest goes on.

        A list or tuple of more than a batch is shared out: each thread decodes a batch and runs it, so that decoding
        and inference overlap and no thread waits for another. Of anything else, such as a camera's stream, no picture
        is taken before those of the batch before it are answered. The first such list opens the network once more,
        with one thread, which takes the memory of its weights again; of files above 100 MB it does not.

        Args:
            sources: Pictures, see `decode`.
            batch_size: Pictures that go through the network at once.

        Yields:
            A Prediction or a PictureError for each picture, in order.

        Raises:
            TypeError: One picture instead of many.
            ValueError: A batch of less than one picture.
        """
        if isinstance(sources, (str, bytes)) or (isinstance(sources, np.ndarray) and sources.ndim < 4):
            raise TypeError("predict_each takes many pictures; call the predictor itself for one.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more. Received: {batch_size}.")
        if isinstance(sources, (list, tuple)) and len(sources) > batch_size:
            return self._share_out(sources, batch_size)
        return self._by_turns(iter(sources), batch_size)

    def _by_turns(self, sources: Iterator[Source], batch_size: int) -> Iterator[Prediction | PictureError]:
        """Decode a batch, run it, answer, and only then take the next."""
        with contextlib.ExitStack() as stack:
            decode_all = map
            while batch := list(itertools.islice(sources, batch_size)):
                if len(batch) > 1 and decode_all is map:
                    decode_all = stack.enter_context(_pool(self._workers)).map
                yield from self._answers(list(decode_all(self._try_decode, batch)), self._session)

    def _share_out(self, sources: Sequence[Source], batch_size: int) -> Iterator[Prediction | PictureError]:
        """Batches in as many threads as there are to use, each decoding and running its own."""
        session = self._single_session()

        def work(begin: int) -> list[Prediction | PictureError]:
            decoded = [self._try_decode(source) for source in sources[begin : begin + batch_size]]
            return self._answers(decoded, session)

        begins = iter(range(0, len(sources), batch_size))
        with _pool(self._workers) as pool:
            # No more is under way than keeps every thread at work: an answer that nobody has taken yet holds memory.
            waiting = deque(pool.submit(work, begin) for begin in itertools.islice(begins, 2 * self._workers))
            try:
                while waiting:
                    answers = waiting.popleft().result()
                    waiting.extend(pool.submit(work, begin) for begin in itertools.islice(begins, 1))
                    yield from answers
            finally:
                for future in waiting:
                    future.cancel()

    def _answers(
        self, decoded: Sequence[np.ndarray | PictureError], session: onnxruntime.InferenceSession
    ) -> list[Prediction | PictureError]:
        pixels = [item for item in decoded if isinstance(item, np.ndarray)]
        rows = iter(self._run(session, np.stack(pixels))) if pixels else iter(())
        return [item if isinstance(item, PictureError) else self._name(next(rows)) for item in decoded]

    def _single_session(self) -> onnxruntime.InferenceSession:
        """The network with one thread, for threads that each run their own pictures.

        It is the session that there is where one thread is all, elsewhere than on the processor, and of large networks,
        which would take their memory twice and keep all threads at work with one picture.
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
                # The file may have been replaced since it was opened, and must not answer for the one before.
                with contextlib.suppress(ModelError):
                    session = open_session(self._model, dataclasses.replace(self._for_many, threads=1))
                    if _metadata(session) == _metadata(self._session):
                        self._single = session
                if isinstance(self._model, bytes):
                    self._model = b""
            return self._single

    def predict_folder(
        self, folder: str | os.PathLike, *, batch_size: int = 8
    ) -> Iterator[tuple[str, Prediction | PictureError]]:
        """Predict every picture below a folder (see `list_pictures`), in the order of their paths.

        Yields:
            The path, and a Prediction or the PictureError that says why there is none.

        Raises:
            PictureNotFound: There is no such folder.
        """
        paths = list_pictures(folder)
        yield from zip(paths, self.predict_each(paths, batch_size=batch_size), strict=True)

    def decode(self, source: Source) -> np.ndarray:
        """Decode a picture for this network: uint8 array (height, width, channels). Raises as `decode`."""
        return decode(source, self.info.image, max_pixels=self._max_pixels)

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Run the network alone.

        Args:
            pixels: uint8 array (batch, height, width, channels), as `decode` gives them.

        Returns:
            float32 array (batch, classes); rows sum to 1, unless the network is multi-label.

        Raises:
            ValueError: An array of another shape or dtype.
        """
        wanted = (*self.info.image.size, self.info.image.channels)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != wanted:
            raise ValueError(f"pixels must be uint8 (batch, {wanted}). Received: {pixels.dtype} {pixels.shape}.")
        return self._run(self._session, pixels)

    def _run(self, session: onnxruntime.InferenceSession, pixels: np.ndarray) -> np.ndarray:
        with self._run_lock:
            return session.run([OUTPUT], {INPUT: pixels})[0]

    def _try_decode(self, source: Source) -> np.ndarray | PictureError:
        try:
            return self.decode(source)
        except PictureError as error:
            return error

    def _name(self, row: np.ndarray) -> Prediction:
        best = int(row.argmax())
        named = dict(zip(self.info.classes, map(float, row), strict=True))
        labels: tuple[str, ...] = (self.info.classes[best],)
        if self.info.task == "multilabel":
            labels = tuple(self.info.classes[i] for i in (-row).argsort(kind="stable") if row[i] >= THRESHOLD)
        return Prediction(self.info.classes[best], float(row[best]), named, labels)

    def _check_graph(self) -> None:
        """Raise CorruptModel unless inputs and outputs are what the metadata say."""
        inputs = [(node.name, node.type, node.shape[1:]) for node in self._session.get_inputs()]
        wanted = [(INPUT, "tensor(uint8)", [*self.info.image.size, self.info.image.channels])]
        outputs = [(node.name, node.type, node.shape[1:]) for node in self._session.get_outputs()]
        if inputs != wanted or outputs != [(OUTPUT, "tensor(float)", [len(self.info.classes)])]:
            raise CorruptModel(f"the file's graph is not what its metadata say. Inputs {inputs}, outputs {outputs}.")
        batch = self._session.get_inputs()[0].shape[0]
        if isinstance(batch, int):
            raise CorruptModel(f"the file's graph takes only batches of {batch}; an export of zoo takes any.")


def _size(path: str) -> int:
    """Bytes of a file; 0 where there is none, which opening it will say."""
    try:
        return os.path.getsize(path)
    except (OSError, ValueError):
        return 0


def _metadata(session: onnxruntime.InferenceSession) -> dict[str, str]:
    try:
        return session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise CorruptModel(f"the file's metadata are not UTF-8: {error}") from None


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pool(threads: int) -> ThreadPoolExecutor:
    # The import is a part of the start that one picture does not need.
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(threads)


Refuse = Callable[[str, PictureNotFound], None]


def expand(paths: Iterable[str], refuse: Refuse | None = None) -> Iterator[str]:
    """Files as they are named, and for a folder every picture below it (see `list_pictures`)."""
    for path in paths:
        if os.path.isdir(path):
            yield from list_pictures(path, refuse)
        else:
            yield path


def list_pictures(folder: str | os.PathLike, refuse: Refuse | None = None) -> list[str]:
    """Every file below a folder whose name ends as a picture's does, sorted; hidden files and folders are left out.

    Args:
        folder: Its path.
        refuse: Called with the path of a folder that may not be read, and the error, which is raised where it is None.

    Raises:
        PictureNotFound: There is no such folder, or one may not be read.
    """
    root = os.fsdecode(folder)
    if not os.path.isdir(root):
        raise PictureNotFound(f"there is no folder {root!r}.")

    def failed(error: OSError) -> None:
        refusal = PictureNotFound(f"{error.filename!r} cannot be read: {error.strerror}.")
        if refuse is None:
            raise refusal
        refuse(error.filename, refusal)

    # Links are followed, as in training, but no folder is entered twice.
    seen = {os.path.realpath(root)}

    def is_new(path: str) -> bool:
        real = os.path.realpath(path)
        return real not in seen and not seen.add(real)

    found = []
    for parent, folders, files in os.walk(root, onerror=failed, followlinks=True):
        folders[:] = [n for n in sorted(folders) if not n.startswith(".") and is_new(os.path.join(parent, n))]
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                found.append(os.path.join(parent, name))
    return sorted(found)
