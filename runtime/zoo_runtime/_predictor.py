"""Predictor: an exported file, loaded once, that turns pictures into labels."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnxruntime

from ._decode import MAX_PIXELS, SUFFIXES, Source, decode
from ._errors import CorruptModel, ModelNotFound, PictureError, PictureNotFound
from ._format import INPUT, OUTPUT, ModelInfo

MAX_THREADS = 256
THRESHOLD = 0.5


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
        threads: Threads of the network and of decoding; None leaves it to onnxruntime (one a core).
        providers: onnxruntime execution providers, best first; None means the CPU.
        max_pixels: Bound on a picture's width x height.

    Attributes:
        info: What the file says of itself, a `ModelInfo`.

    Raises:
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
        providers: Sequence[str] | None = None,
        max_pixels: int = MAX_PIXELS,
    ):
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise ValueError(f"threads must be 1 to {MAX_THREADS}. Received: {threads}.")
        available = onnxruntime.get_available_providers()
        if not set(providers or ()) <= set(available):
            raise ValueError(f"providers must be of {', '.join(available)}. Received: {list(providers or ())}.")
        self._threads = threads
        self._max_pixels = max_pixels
        self._session = _open_session(model, threads, providers)
        try:
            metadata = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise CorruptModel(f"the file's metadata are not UTF-8: {error}") from None
        self.info = ModelInfo.from_metadata(metadata)
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

        Args:
            sources: Pictures, see `decode`.
            batch_size: Pictures that go through the network at once.

        Yields:
            A Prediction or a PictureError for each picture, in order.

        Raises:
            ValueError: A batch of less than one picture.
        """
        if isinstance(sources, (str, bytes)):
            raise TypeError("predict_each takes many pictures; call the predictor itself for one.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more. Received: {batch_size}.")
        sources = iter(sources)
        with ThreadPoolExecutor(self._threads or os.cpu_count()) as pool:
            while batch := list(itertools.islice(sources, batch_size)):
                decoded = list(pool.map(self._try_decode, batch))
                pixels = [item for item in decoded if isinstance(item, np.ndarray)]
                rows = iter(self.probabilities(np.stack(pixels))) if pixels else iter(())
                for item in decoded:
                    yield item if isinstance(item, PictureError) else self._name(next(rows))

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
        return self._session.run([OUTPUT], {INPUT: pixels})[0]

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


def _open_session(
    model: str | os.PathLike | bytes, threads: int | None, providers: Sequence[str] | None
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    if isinstance(model, bytes):
        content, name = model, "the bytes given"
    else:
        model = os.fsdecode(model)
        if os.path.isdir(model):
            model = os.path.join(model, "model.onnx")
        name = repr(model)
        try:
            with open(model, "rb") as stream:
                # onnxruntime opens no file whose name is not UTF-8; Python marks such bytes with these characters.
                content = stream.read() if any("\udc80" <= letter <= "\udcff" for letter in model) else model
        except (OSError, ValueError) as error:
            raise ModelNotFound(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    try:
        return onnxruntime.InferenceSession(content, options, providers=list(providers or ["CPUExecutionProvider"]))
    except Exception as error:
        # onnxruntime's exceptions share no base class.
        raise CorruptModel(f"onnxruntime cannot load {name}: {str(error).splitlines()[0]}") from None


def list_pictures(folder: str | os.PathLike) -> list[str]:
    """Every file below a folder whose name ends as a picture's does, sorted; hidden files and folders are left out.

    Raises:
        PictureNotFound: There is no such folder, or one below it may not be read.
    """
    root = os.fsdecode(folder)
    if not os.path.isdir(root):
        raise PictureNotFound(f"there is no folder {root!r}.")

    def refuse(error: OSError) -> None:
        raise PictureNotFound(f"{error.filename!r} cannot be read: {error.strerror}.")

    # Links are followed, as in training, but no folder is entered twice.
    seen = {os.path.realpath(root)}

    def is_new(path: str) -> bool:
        real = os.path.realpath(path)
        return real not in seen and not seen.add(real)

    found = []
    for parent, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        folders[:] = [n for n in sorted(folders) if not n.startswith(".") and is_new(os.path.join(parent, n))]
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES:
                found.append(os.path.join(parent, name))
    return sorted(found)
