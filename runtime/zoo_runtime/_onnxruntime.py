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
    """Describes an input or output of a graph."""

    name: str
    type: str
    shape: Sequence[int | str | None]


class ModelMeta(Protocol):
    """Describes the metadata of a model file. `custom_metadata_map` holds the entries that its exporter wrote."""

    custom_metadata_map: dict[str, str]


class Session(Protocol):
    """Describes an `onnxruntime.InferenceSession`."""

    def run(
        self, output_names: Sequence[str], input_feed: Mapping[str, npt.NDArray[np.uint8]]
    ) -> list[npt.NDArray[np.float32]]: ...

    def get_inputs(self) -> list[Node]: ...

    def get_outputs(self) -> list[Node]: ...

    def get_modelmeta(self) -> ModelMeta: ...

    def get_providers(self) -> list[str]: ...


def load() -> ModuleType:
    """Import ONNX Runtime with its telemetry switched off, and return the module.

    From 1.29 on, ONNX Runtime reports every process to its makers and writes an identifier to the home folder
    (https://github.com/microsoft/onnxruntime/pull/27379). The environment variable ORT_DISABLE_TELEMETRY=1 prevents
    both if it is set before the import. If the user has already set this variable, its value stays.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    module: ModuleType = onnxruntime
    return module


def version() -> str:
    """Return the version of the installed ONNX Runtime."""
    return str(load().__version__)


def built_providers() -> list[str]:
    """Return the execution providers that the installed ONNX Runtime was built with, such as "CPUExecutionProvider"."""
    return list(load().get_available_providers())
