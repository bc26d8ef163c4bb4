"""Imports ONNX Runtime, and describes the parts of its interface that zoo_runtime uses.

No other module of zoo_runtime imports ONNX Runtime. ONNX Runtime ships no type information, so the protocols below
declare the types.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Node(Protocol):
    """Declares the attributes of an `onnxruntime.NodeArg`, which describes an input or output of a graph."""

    name: str
    type: str
    shape: Sequence[int | str | None]


class ModelMeta(Protocol):
    """Declares the attribute of an `onnxruntime.ModelMetadata` that holds the entries written by the exporter."""

    custom_metadata_map: dict[str, str]


class Session(Protocol):
    """Declares the methods of an `onnxruntime.InferenceSession` that zoo_runtime calls."""

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, npt.NDArray[np.uint8]]
    ) -> list[npt.NDArray[np.float32]]: ...

    def get_inputs(self) -> list[Node]: ...

    def get_outputs(self) -> list[Node]: ...

    def get_modelmeta(self) -> ModelMeta: ...

    def get_providers(self) -> list[str]: ...


def load() -> ModuleType:
    """Switch off ONNX Runtime's telemetry (except on Windows), import the package, and return the module `onnxruntime`.

    From version 1.29 on, ONNX Runtime sends telemetry about every process to its makers, and writes an identifier to
    the home folder (https://github.com/microsoft/onnxruntime/pull/27379). Setting ORT_DISABLE_TELEMETRY=1 before the
    import prevents both. If the user has already set this variable, its value is kept. On Windows, ONNX Runtime passes
    trace events to the system instead, and the variable does not stop them.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    module: ModuleType = onnxruntime
    return module


def version() -> str:
    """Return the version of the installed ONNX Runtime."""
    return str(load().__version__)


def built_providers() -> list[str]:
    """Return the names of the execution providers in the installed ONNX Runtime, such as "CPUExecutionProvider"."""
    return list(load().get_available_providers())
