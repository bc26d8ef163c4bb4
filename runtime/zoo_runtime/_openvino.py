"""Runs OpenVINO models (IR) with OpenVINO, on the processor.

OpenVINO compiles a network for one shape. So a session compiles it for one picture, and runs pictures one by one. That
is faster than a network for any number of pictures. It computes in float32, unless the settings ask for bfloat16:
processors that can compute in bfloat16 would otherwise give other answers than the file was checked with.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._cores import usable_cores
from ._engine import OPENVINO
from ._errors import CorruptModel, ModelError, NotAnExport, ProviderNotStarted, UnsafeModel
from ._format import INPUT
from ._ir import MOST_WEIGHTS, MOST_XML, WEIGHTS_DIGEST, Outline, check_sizes, read_xml
from ._second import weights_of
from ._single import NAMES, FoundNode, PictureByPicture, foreign_file, order_outputs, read_whole, refuse_providers
from ._structure import BrokenStructure, UnsafeStructure

if TYPE_CHECKING:
    import numpy.typing as npt

    from ._session import Provider, Settings

PRECISION = "INFERENCE_PRECISION_HINT"
MOST_STREAMS = 8
"""How many threads may run a network at the same time if each computes its own picture. Each takes memory."""


@functools.cache
def _core() -> Any:
    """Return the one `openvino.Core` of this process, which is never removed.

    A `Core` gives the thread that first compiles with it another stack for signals, and restores the one before when it
    is removed. If two of them are removed in the order in which they were made, that stack is gone, and the next signal
    (Ctrl-C, for example) ends the process with SIGSEGV. OpenVINO 2026.4 does so.
    """
    import openvino

    return openvino.Core()


def version() -> str:
    """Return the version of the installed OpenVINO."""
    return OPENVINO.version() or "unknown"


def open_file(model: str | bytes, settings: Settings, callers: int) -> OpenVINOSession:
    """Check an IR, and open it.

    Args:
        model: Path of its `model.xml`. `model.bin` is beside it.
        settings: `threads`, and `providers`: the processor, with options for OpenVINO if there are any.
        callers: How many threads will run it at the same time.

    Raises:
        ModelNotFound: If one of the two files cannot be read.
        NotAnExport: If it has no metadata of zoo.
        CorruptModel: If it is damaged, the two files do not belong together, or OpenVINO cannot load it.
        UnsafeModel: If it has what exported files never have.
        EngineNotInstalled: If OpenVINO is not installed.
        ProviderNotStarted: If another provider than the processor was asked for, or OpenVINO refuses the options.
    """
    if isinstance(model, bytes):
        raise NotAnExport("an OpenVINO model is two files, so it cannot be given as bytes. Give the path of model.xml.")
    name = repr(model)
    try:
        xml, weights, outline = read_checked(model)
    except BrokenStructure as error:
        raise CorruptModel(f"{name} is damaged: {error}. Copy both files again, or export it again.") from None
    except UnsafeStructure as error:
        raise UnsafeModel(
            f"{name} has {error}. Exported files never have that, so the file was not opened. Export it again, and use "
            "no copy from people you do not trust."
        ) from None
    refuse_providers(OPENVINO, [each if isinstance(each, str) else each[0] for each in settings.providers])
    OPENVINO.load(model)
    threads = settings.threads or usable_cores()
    if threads == 1:
        # Each thread of a program that calls it then has its own, as with ONNX Runtime, and they do not wait in line.
        callers = max(callers, min(usable_cores(), MOST_STREAMS))
    options = {PRECISION: "f32", **_options(settings.providers)}
    return OpenVINOSession(name, (xml, weights), outline.metadata, threads, callers, options)


def read_checked(path: str) -> tuple[bytes, bytes, Outline]:
    """Read the two files of an IR, and check them.

    If both are replaced at that moment, they are read once more; see `_second`.

    Args:
        path: Path of `model.xml`.

    Returns:
        The XML, the weights, and what the XML says.

    Raises:
        ModelNotFound: If one of the two files cannot be read.
        NotAnExport: If it is another kind of XML, or has no metadata of zoo.
        CorruptModel: If the weights are not those of the XML.
        BrokenStructure: If the structure is damaged.
        UnsafeStructure: If it has what exported files never have.
    """
    before = _state(path)
    try:
        return _read_pair(path)
    except (ModelError, BrokenStructure):
        if _state(path) == before:
            raise
        return _read_pair(path)


def _state(path: str) -> tuple[object, ...]:
    """Return what changes if an IR is replaced: the file that `model.xml` is, and where its weights are."""
    try:
        status = os.stat(path)
        return status.st_ino, status.st_mtime_ns, weights_of(path)
    except (OSError, ValueError):
        return ()


def _read_pair(path: str) -> tuple[bytes, bytes, Outline]:
    from ._foreign import refuse_xml

    xml = read_whole(path, MOST_XML)
    weights_path = weights_of(path, xml)
    refuse_xml(path, xml)
    # Whether the file is one of zoo's counts first. Of the others, nothing more is read.
    if b"<zoo.schema" not in xml:
        raise foreign_file(repr(path), OPENVINO)
    size = os.path.getsize(weights_path) if os.path.isfile(weights_path) else None
    outline = read_xml(xml, size)
    if "zoo.schema" not in outline.metadata:
        raise foreign_file(repr(path), OPENVINO)
    weights = read_whole(weights_path, MOST_WEIGHTS)
    if size != len(weights):
        raise BrokenStructure("its weights were written to while they were read")
    digest = outline.metadata.get(WEIGHTS_DIGEST)
    if digest is not None and digest != f'"{hashlib.sha256(weights).hexdigest()}"':
        raise CorruptModel(
            f"{weights_path!r} does not belong to {path!r}: one of the two is from another export, or damaged. Copy "
            "both files again."
        )
    check_sizes(outline, weights)
    return xml, weights, outline


def _options(providers: Sequence[Provider]) -> dict[str, str]:
    """Return the options for OpenVINO that stand beside the processor in the providers of settings."""
    found: dict[str, str] = {}
    for provider in providers:
        if not isinstance(provider, str):
            found |= {key: str(value) for key, value in provider[1].items()}
    return found


class OpenVINOSession(PictureByPicture):
    """Holds a compiled IR. Several threads may run it at the same time.

    Args:
        name: The name of the file, for messages.
        content: The XML and the weights.
        metadata: The metadata entries.
        threads: The number of threads on which one picture is computed.
        callers: How many threads run it at the same time. If it is more than one, each gets `threads` threads.
        options: Options for OpenVINO.

    Raises:
        CorruptModel: If OpenVINO cannot load it.
        ProviderNotStarted: If OpenVINO refuses the options.
    """

    def __init__(
        self,
        name: str,
        content: tuple[bytes, bytes],
        metadata: dict[str, str],
        threads: int,
        callers: int,
        options: Mapping[str, str],
    ) -> None:
        import openvino

        super().__init__(metadata)
        self._name = name
        core = _core()
        try:
            model = core.read_model(*content)
        except Exception as error:
            # OpenVINO raises RuntimeError and others.
            raise self._not_loaded(error) from None
        self._describe(model)
        try:
            # One picture at a time: see the head of this module.
            model.reshape({0: openvino.PartialShape([1, *self._inputs[0].shape[1:]])})
        except Exception as error:
            raise self._not_loaded(error) from None
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads * callers,
            "NUM_STREAMS": callers,
            **options,
        }
        try:
            self._compiled = core.compile_model(model, "CPU", config)
        except Exception as error:
            if set(options) - {PRECISION}:
                raise ProviderNotStarted(f"OpenVINO cannot load {name} with {dict(options)}: {_first(error)}") from None
            raise self._not_loaded(error) from None

    def _describe(self, model: Any) -> None:
        """Take over the names, types and shapes of the inputs and outputs."""
        if len(model.inputs) != 1:
            raise CorruptModel(f"{self._name} has {len(model.inputs)} inputs instead of one. Export it again.")
        names: dict[str, int] = {}
        for place, output in enumerate(model.outputs):
            names |= dict.fromkeys(set(output.get_names()) & set(NAMES), place)
        self._names, self._places = order_outputs(names, range(len(model.outputs)))
        (taken,) = model.inputs
        shape = _shape(taken)
        if isinstance(shape[0], int) and shape[0] != 1:
            raise CorruptModel(f"{self._name} accepts only batches of {shape[0]}. Export it again.")
        self._inputs = [FoundNode(INPUT, _type_of(taken), ["batch", *shape[1:]])]
        self._outputs = [
            FoundNode(label, _type_of(model.outputs[place]), ["batch", *_shape(model.outputs[place])[1:]])
            for label, place in zip(self._names, self._places, strict=True)
        ]

    def _not_loaded(self, error: Exception) -> CorruptModel:
        return CorruptModel(
            f"OpenVINO cannot load {self._name}: {_first(error)}. Copy both files again, or export it again. A newer "
            "OpenVINO may know more: `pip install --upgrade openvino`."
        )

    def _worker(self) -> Any:
        return self._compiled.create_infer_request()

    def _run_one(
        self, worker: Any, picture: npt.NDArray[np.uint8], places: Sequence[int]
    ) -> list[npt.NDArray[np.float32]]:
        results = worker.infer({0: picture})
        return [np.array(results[place]) for place in places]


def _shape(port: Any) -> list[int | str | None]:
    shape = port.get_partial_shape()
    return [side.get_length() if side.is_static else str(side) for side in shape]


def _type_of(port: Any) -> str:
    kind = port.get_element_type().get_type_name()
    return {"u8": "tensor(uint8)", "f32": "tensor(float)"}.get(kind, f"tensor({kind})")


def _first(error: Exception) -> str:
    """Return the line of a message of OpenVINO that says something, without places in C++ files."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return f"{(told or lines or ['no reason given'])[0]:.300}".rstrip(". ")
