"""What the engines other than ONNX Runtime share: reading a file once, and describing its inputs and outputs."""

from __future__ import annotations

import abc
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ._engine import Engine
from ._errors import ModelNotFound, NotAnExport, ProviderNotStarted
from ._format import INPUT, OUTPUT
from ._trust import FEATURE_NORM, OUTLIER_SCORE

if TYPE_CHECKING:
    import numpy.typing as npt

    from ._onnxruntime import Node
    from ._session import Provider

NAMES = (OUTPUT, OUTLIER_SCORE, FEATURE_NORM)
"""The outputs of an exported file, in order. Files without an outlier score have only the first."""


@dataclass
class FoundNode:
    """Describes an input or output; see `Node`."""

    name: str
    type: str
    shape: Sequence[int | str | None]


@dataclass
class Meta:
    """Holds the metadata entries of a file; see `ModelMeta`."""

    custom_metadata_map: dict[str, str]
    producer_name: str = ""


class PictureByPicture(abc.ABC):
    """The session of an engine that runs the pictures of a batch one by one. Several threads may run it at once.

    A subclass fills `_inputs`, `_outputs`, and the names and places of the outputs.

    Args:
        metadata: The metadata entries of the file.
    """

    def __init__(self, metadata: dict[str, str]) -> None:
        self._meta = Meta(metadata)
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self._inputs: list[Node] = []
        self._outputs: list[Node] = []
        self._names: list[str] = []
        self._places: list[int] = []

    @abc.abstractmethod
    def _worker(self) -> Any:
        """Return a new object that one thread can run."""

    @abc.abstractmethod
    def _run_one(
        self, worker: Any, picture: npt.NDArray[np.uint8], places: Sequence[int]
    ) -> list[npt.NDArray[np.float32]]:
        """Run the network on a batch of one picture. Return copies of the outputs at some places."""

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, npt.NDArray[np.uint8]]
    ) -> list[npt.NDArray[np.float32]]:
        """Run the network on a batch, picture by picture; see `Session`."""
        places = [
            place
            for label, place in zip(self._names, self._places, strict=True)
            if output_names is None or label in output_names
        ]
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        worker = self._worker() if worker is None else worker
        try:
            rows = [self._run_one(worker, picture[None], places) for picture in input_feed[INPUT]]
        finally:
            with self._lock:
                self._idle.append(worker)
        return [np.concatenate(column) for column in zip(*rows, strict=True)]

    def get_inputs(self) -> list[Node]:
        return self._inputs

    def get_outputs(self) -> list[Node]:
        return self._outputs

    def get_modelmeta(self) -> Meta:
        return self._meta

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


def read_whole(path: str, most: int) -> bytes:
    """Read a file once, so that what is checked is what is opened.

    Args:
        path: Path of the file.
        most: The largest size in bytes.

    Raises:
        ModelNotFound: If it cannot be read, or is larger.
    """
    from ._foreign import not_found

    try:
        with open(path, "rb") as stream:
            content = stream.read(most + 1)
    except (OSError, ValueError, MemoryError) as error:
        raise not_found(path, getattr(error, "strerror", None) or error) from None
    if len(content) > most:
        raise ModelNotFound(f"{path!r} has more than {most:,} bytes, so it is no exported file of this kind.")
    return content


def order_outputs(names: Mapping[str, int], places: Sequence[int]) -> tuple[list[str], list[int]]:
    """Bring outputs into the order of `NAMES`.

    Args:
        names: Maps names of outputs to their numbers, as far as the file names them.
        places: The numbers of all outputs, in the order of the file.

    Returns:
        The names and the numbers, in the same order. Without names that are known, the order of the file counts.
    """
    known = {name: names[name] for name in NAMES if names.get(name) in places}
    if OUTPUT in known and len(known) == len(set(places)):
        return list(known), list(known.values())
    labels = [NAMES[i] if i < len(NAMES) else f"output {i}" for i in range(len(places))]
    return labels, list(places)


def refuse_providers(engine: Engine, providers: Sequence[Provider]) -> None:
    """Refuse execution providers other than the processor, on which alone an engine runs.

    Raises:
        ProviderNotStarted: If there are others. The message says so.
    """
    names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
    if names != ["cpu"]:
        raise ProviderNotStarted(
            f"{engine.title} runs {engine.suffix} files on the processor, so providers must be cpu. Received: "
            f"{', '.join(names)}. Other providers run the model.onnx of the same export."
        )


def foreign_file(name: str, engine: Engine) -> NotAnExport:
    """Return the error to raise for a file of another engine without metadata of zoo."""
    return NotAnExport(
        f"{name} is {engine.kind} of another program: it has no zoo metadata, so it was not exported by zoo. Give the "
        f"{engine.file} or the model.onnx that `zoo export RUN` made."
    )
