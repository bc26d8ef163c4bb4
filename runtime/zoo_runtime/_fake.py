"""A stand-in for `Predictor` in the tests of programs that use it. It reads no model and needs no ONNX Runtime."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ._choice import check_formats
from ._decode import Source, check_order
from ._errors import PictureError
from ._format import ImageSpec, ModelInfo
from ._limit import MAX_PIXELS
from ._predictor import Prediction, Predictor
from ._session import Settings
from ._trust import Trust

if TYPE_CHECKING:
    import numpy.typing as npt

Answer: TypeAlias = "str | Mapping[str, float] | Prediction | PictureError"
Answers: TypeAlias = "Answer | Sequence[Answer] | Callable[[Any], Answer] | None"

SURE = 0.9


class FakePredictor(Predictor):
    """Answers as told, with the methods and attributes of `Predictor`, for the tests of your own program.

    Args:
        answers: What it answers. None gives each picture an answer that depends on its bytes, its pixels or the name of
            its file alone. A class name, such as "cats", is the answer for every picture. A dictionary of probabilities
            in 0..1 by class is one too; classes that it leaves out get 0. A `Prediction` is returned as it is, so that
            a test can have an unknown picture or an outlier. A `PictureError` is raised, or yielded by `predict_each`.
            A list has one answer per picture, in order, and begins again at its end. A function is called with each
            picture and returns its answer.
        classes: The class names.
        task: "binary", "multiclass" or "multilabel".
        size: (height, width) of the pixels that `decode` returns, each 1 to 16384.
        decodes: Whether it decodes each picture first, so that a file that is missing or damaged is the same error as
            with a `Predictor`. If False, it opens no file.
        max_pixels: As for `Predictor`.
        formats: As for `Predictor`.

    Attributes:
        calls: The pictures that it was given, in order.
        drift: None.
        info: A `ModelInfo` with the classes, the task and the size.
        settings: The default `Settings`.

    Raises:
        TypeError: If an answer has another type.
        ValueError: If an answer names a class that is not among `classes`, or a probability is outside 0..1.

    Example:

        predictor = FakePredictor("cats", classes=["cats", "dogs"])
        assert predictor("any.jpg").label == "cats"
        predictor = FakePredictor(["cats", PictureNotFound("gone.jpg: cannot be read")], classes=["cats", "dogs"])
        first, second = predictor.predict_each(["a.jpg", "gone.jpg"])
        assert first.label == "cats" and isinstance(second, PictureNotFound)
        unsure = Prediction(None, 0.5, {"cats": 0.5, "dogs": 0.5}, unknown=True)
        assert FakePredictor(unsure)("any.jpg").unknown

    It has no file, so `zoo_runtime.check` refuses it.
    """

    def __init__(
        self,
        answers: Answers = None,
        *,
        classes: Sequence[str] = ("cats", "dogs"),
        task: str = "multiclass",
        size: tuple[int, int] = (224, 224),
        decodes: bool = False,
        max_pixels: int = MAX_PIXELS,
        formats: Sequence[str] | None = None,
    ) -> None:
        described = ModelInfo(tuple(classes), task, ImageSpec(size))
        # The same rules as for a file: at least two different names, and a known task.
        self.info = ModelInfo.from_metadata(described.to_metadata())
        self.settings = Settings()
        self.max_pixels = max_pixels
        self.formats = check_formats(formats)
        self.drift = None
        self.calls: list[Any] = []
        self._threads = 1
        self._trust = Trust.from_json({})
        self._decodes = decodes
        self._answers_given = answers
        if answers is not None and not callable(answers):
            listed: list[Any] = list(answers) if isinstance(answers, (list, tuple)) else [answers]
            if not listed:
                raise ValueError("answers must have at least one answer. Received: an empty list.")
            for answer in listed:
                self._made(answer)
            self._answers_given = listed

    def __call__(self, source: Any, *, order: str = "rgb") -> Any:
        """Answer for one picture, or for each picture of a list or tuple, as `Predictor` does.

        Args:
            source: A picture in any form that `zoo_runtime.decode` accepts, or a list or tuple of such pictures.
            order: The order of the colors in arrays: "rgb", or "bgr" for frames of OpenCV.

        Returns:
            A Prediction. For a list or tuple, a list with one Prediction per picture, in the same order.

        Raises:
            PictureError: If that is the answer, or if the picture is decoded and cannot be read.
            ValueError: If `order` is neither "rgb" nor "bgr".
        """
        if isinstance(source, (list, tuple)):
            return super().__call__(source, order=order)
        check_order(order)
        answer = self._answer(source, order)
        if isinstance(answer, PictureError):
            raise answer
        return answer

    def _by_turns(self, sources: Iterator[Source], batch_size: int, order: str) -> Iterator[Prediction | PictureError]:
        for source in sources:
            yield self._answer(source, order)

    def _share_out(self, sources: Sequence[Source], batch_size: int, order: str) -> Iterator[Prediction | PictureError]:
        yield from self._by_turns(iter(sources), batch_size, order)

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return probabilities that depend on the pixels alone.

        Args:
            pixels: Decoded pictures, a uint8 array (batch, height, width, channels), values 0..255.

        Returns:
            A float32 array (batch, classes) in 0..1. Each row sums to 1, unless the task is "multilabel".

        Raises:
            ValueError: If `pixels` does not have this dtype, or the height, width and channels of `info.image`.
        """
        self._check(pixels)
        return np.stack([self._drawn(each.tobytes()) for each in pixels])

    def outputs(self, pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        """Return the probabilities as the only output.

        Args:
            pixels: As for `probabilities`.

        Returns:
            A list with the float32 array (batch, classes) that `probabilities` returns.

        Raises:
            ValueError: As for `probabilities`.
        """
        return [self.probabilities(pixels)]

    def _answer(self, source: Any, order: str) -> Prediction | PictureError:
        self.calls.append(source)
        pixels = self._try_decode(source, order) if self._decodes else None
        if isinstance(pixels, PictureError):
            return pixels
        given: Any = self._answers_given
        if given is None:
            return self._name(self._drawn(_content(source) if pixels is None else pixels.tobytes()))
        answer = given(source) if callable(given) else given[(len(self.calls) - 1) % len(given)]
        return self._made(answer)

    def _made(self, answer: Any) -> Prediction | PictureError:
        """Return what a `Predictor` would return for an answer, or yield."""
        if isinstance(answer, PictureError):
            return answer
        if isinstance(answer, Prediction):
            named = {*answer.probabilities, *answer.labels, *([] if answer.label is None else [answer.label])}
            self._check_classes(sorted(named))
            return answer
        if not isinstance(answer, (str, Mapping)):
            raise TypeError(
                "an answer must be the name of a class, a dictionary of probabilities by class, a Prediction or a "
                f"PictureError. Received: {answer!r:.100}."
            )
        return self._name(self._row(answer))

    def _check_classes(self, names: Iterable[str]) -> None:
        classes = self.info.classes
        unknown = [name for name in names if name not in classes]
        if unknown:
            raise ValueError(f"answers must be of the classes {', '.join(classes)}. Received: {unknown[0]!r}.")

    def _row(self, answer: str | Mapping[str, float]) -> npt.NDArray[np.float32]:
        """Return the probabilities of an answer, a float32 array (classes,)."""
        classes = self.info.classes
        if isinstance(answer, str):
            rest = 0.0 if self.info.task == "multilabel" else (1 - SURE) / (len(classes) - 1)
            answer = {answer: SURE, **{name: rest for name in classes if name != answer}}
        self._check_classes(answer)
        row = np.array([answer.get(name, 0) for name in classes], np.float64)
        if not ((row >= 0) & (row <= 1)).all():
            raise ValueError(f"probabilities must be in 0..1. Received: {dict(answer)!r}.")
        return row.astype(np.float32)

    def _drawn(self, content: bytes) -> npt.NDArray[np.float32]:
        """Return probabilities that depend on some bytes alone, a float32 array (classes,)."""
        seed = int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
        drawn = np.random.default_rng(seed).random(len(self.info.classes))
        shares = drawn if self.info.task == "multilabel" else drawn / drawn.sum()
        return shares.astype(np.float32)


def _content(source: Any) -> bytes:
    """Return the bytes on which the answer for a picture depends, without opening a file."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsencode(os.path.basename(os.fspath(source)))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    return np.asarray(source).tobytes() if hasattr(source, "__array_interface__") else repr(type(source)).encode()
