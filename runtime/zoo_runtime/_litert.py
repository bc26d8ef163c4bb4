"""Runs .tflite files with LiteRT, the successor of TensorFlow Lite.

An interpreter of LiteRT runs one batch at a time, and keeps its memory. So a session holds one interpreter for each
thread that uses it at the same time, and runs pictures one by one: its graphs often have a fixed batch of one, and
larger batches are no faster on a processor.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._cores import usable_cores
from ._engine import LITERT
from ._errors import CorruptModel, UnsafeModel
from ._format import INPUT
from ._single import FoundNode, PictureByPicture, foreign_file, order_outputs, read_whole, refuse_providers
from ._structure import BrokenStructure, UnsafeStructure
from ._tflite import MOST_BYTES, Graph, read_graph, read_metadata

if TYPE_CHECKING:
    import numpy.typing as npt

    from ._session import Settings


_QUIET = threading.Lock()


def version() -> str:
    """Return the version of the installed LiteRT."""
    return LITERT.version() or "unknown"


def open_file(model: str | bytes, settings: Settings, callers: int) -> LiteRTSession:
    """Check a .tflite file, and open it.

    Args:
        model: Path of the file, or its bytes.
        settings: `threads` and `providers`. LiteRT ignores the others.
        callers: Not used, because every thread gets an interpreter of its own.

    Raises:
        ModelNotFound: If the file cannot be read.
        NotAnExport: If it has no metadata of zoo.
        CorruptModel: If it is damaged, or LiteRT cannot load it.
        UnsafeModel: If it has what exported files never have.
        EngineNotInstalled: If LiteRT is not installed.
        ProviderNotStarted: If a provider other than the processor was asked for.
    """
    from ._session import name_of

    name = name_of(model)
    content = model if isinstance(model, bytes) else read_whole(model, MOST_BYTES)
    try:
        metadata = read_metadata(content)
        if "zoo.schema" not in metadata:
            raise foreign_file(name, LITERT)
        graph = read_graph(content)
    except BrokenStructure as error:
        raise CorruptModel(f"{name} is damaged: {error}. Copy the file again, or export it again.") from None
    except UnsafeStructure as error:
        raise UnsafeModel(
            f"{name} has {error}. Exported files never have that, so the file was not opened. Export it again, and use "
            "no copy from people you do not trust."
        ) from None
    refuse_providers(LITERT, settings.providers)
    LITERT.load(model)
    return LiteRTSession(name, content, graph, metadata, settings.threads or usable_cores())


class LiteRTSession(PictureByPicture):
    """Holds an open .tflite file. Several threads may run it at the same time.

    Args:
        name: The name of the file, for messages.
        content: The whole file.
        graph: Its inputs and outputs.
        metadata: Its metadata entries.
        threads: The number of threads on which each interpreter runs.

    Raises:
        CorruptModel: If LiteRT cannot load it, or its input is not one picture of uint8.
    """

    def __init__(self, name: str, content: bytes, graph: Graph, metadata: dict[str, str], threads: int) -> None:
        super().__init__(metadata)
        self._name = name
        self._content = content
        self._threads = threads
        first = self._worker()
        if len(graph.inputs) != 1:
            raise CorruptModel(f"{name} has {len(graph.inputs)} inputs instead of one. Export it again.")
        try:
            (taken,) = first.get_input_details()
            outputs = {int(each["index"]): each for each in first.get_output_details()}
        except UnicodeDecodeError:
            raise CorruptModel(f"{name} is damaged: a name in it is not text. Copy the file again.") from None
        self._taken = int(taken["index"])
        self._shape = tuple(map(int, taken["shape"]))
        if self._shape[:1] != (1,):
            raise CorruptModel(f"{name} accepts only batches of {self._shape[:1]}, instead of one. Export it again.")
        self._inputs = [FoundNode(INPUT, _type_of(taken), ["batch", *self._shape[1:]])]
        self._names, self._places = order_outputs(graph.names, graph.outputs)
        self._outputs = [
            FoundNode(label, _type_of(outputs[place]), ["batch", *map(int, outputs[place]["shape"][1:])])
            for label, place in zip(self._names, self._places, strict=True)
        ]
        self._idle.append(first)

    def _run_one(
        self, worker: Any, picture: npt.NDArray[np.uint8], places: Sequence[int]
    ) -> list[npt.NDArray[np.float32]]:
        worker.set_tensor(self._taken, picture)
        worker.invoke()
        # `get_tensor` copies, because the next picture overwrites the output.
        return [worker.get_tensor(place) for place in places]

    def _worker(self) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        try:
            with _quiet():
                made = Interpreter(model_content=self._content, num_threads=self._threads)
                made.allocate_tensors()
        except (ValueError, RuntimeError, MemoryError) as error:
            reason = str(error).strip().splitlines()[:1]
            raise CorruptModel(
                f"LiteRT cannot load {self._name}: {(reason or ['no reason given'])[0]:.300}. Copy the file again, or "
                "export it again. A newer LiteRT may know more: `pip install --upgrade ai-edge-litert`."
            ) from None
        return made


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discard what LiteRT writes to standard error. It reports there which parts it uses, as if that were a problem."""
    with _QUIET, contextlib.ExitStack() as stack:
        # Standard error can be closed.
        with contextlib.suppress(OSError):
            kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 2)
            os.dup2(nothing, 2)
            os.close(nothing)
        yield


def _type_of(details: Mapping[str, Any]) -> str:
    kind = np.dtype(details["dtype"])
    return "tensor(float)" if kind == np.float32 else f"tensor({kind})"
