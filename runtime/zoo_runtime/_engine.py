"""Names the engines that run exported files: ONNX Runtime, and LiteRT and OpenVINO where they are installed.

An engine is a module with the two functions of `EngineModule`. It opens a file and gives back a `Session`. ONNX Runtime
is the default and the only one that is required. The others are imported when one of their files is opened.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from ._errors import EngineNotInstalled, ModelNotFound
from ._onnxruntime import Session

if TYPE_CHECKING:
    from ._session import Settings

STEM = "model"
"""The name of an exported file in its folder, without its suffix."""


class EngineModule(Protocol):
    """Declares the functions of a module that runs the files of one engine."""

    def open_file(self, model: str | bytes, settings: Settings, callers: int) -> Session:
        """Check and open a file, given as a path or as bytes, so that `callers` threads can run it at once."""
        ...

    def version(self) -> str: ...


@dataclass(frozen=True)
class Engine:
    """Describes an engine. It says nothing about whether the engine is installed.

    Args:
        name: Its name in metadata, settings and figures.
        title: Its name in messages.
        suffix: The suffix of its files, with the dot.
        kind: What messages call one of its files.
        package: The package that it needs, as Python imports it.
        extra: The extra of `finezoo-runtime` that installs it; None if it is always installed.
        module: The module of zoo_runtime that runs it.
        settings: The fields of `Settings` that have an effect.
        companion: The suffix of a second file that belongs to each of its files; None if there is none.
    """

    name: str
    title: str
    suffix: str
    kind: str
    package: str
    extra: str | None
    module: str
    settings: tuple[str, ...]
    companion: str | None = None

    @property
    def file(self) -> str:
        """The name of the exported file in its folder, such as "model.onnx"."""
        return STEM + self.suffix

    def installed(self) -> bool:
        """Return whether the package of the engine is installed. Nothing is imported."""
        from importlib.util import find_spec

        return find_spec(self.package) is not None

    def load(self, model: str | bytes) -> EngineModule:
        """Import the module that runs the engine.

        Args:
            model: The file that is to be opened, for the message.

        Raises:
            EngineNotInstalled: If the package of the engine is missing, or cannot be imported.
        """
        from importlib import import_module

        from ._session import name_of

        try:
            import_module(self.package)
        except ImportError as error:
            from ._extras import install_line

            problem = "is not installed"
            if not isinstance(error, ModuleNotFoundError) or (error.name or "").split(".")[0] != self.package:
                problem = f"cannot be imported ({error})"
            raise EngineNotInstalled(
                f"{name_of(model)} is {self.kind}, which {self.title} runs, but {self.title} {problem}. "
                f"{install_line(self.extra or '')}"
            ) from None
        return cast(EngineModule, import_module(f".{self.module}", __package__))

    def version(self) -> str | None:
        """Return the version of the installed package; None if it is not installed."""
        from importlib import metadata

        if self is ONNXRUNTIME:
            from ._onnxruntime import version

            return version()
        try:
            return metadata.version(self.package.replace("_", "-"))
        except metadata.PackageNotFoundError:
            return None


ONNXRUNTIME = Engine(
    "onnxruntime",
    "ONNX Runtime",
    ".onnx",
    "an ONNX file",
    "onnxruntime",
    None,
    "_session",
    ("threads", "spinning", "arena", "providers"),
)
LITERT = Engine(
    "litert", "LiteRT", ".tflite", "a TensorFlow Lite model", "ai_edge_litert", "litert", "_litert", ("threads",)
)
OPENVINO = Engine(
    "openvino",
    "OpenVINO",
    ".xml",
    "an OpenVINO model",
    "openvino",
    "openvino",
    "_openvino",
    ("threads", "providers"),
    companion=".bin",
)
ENGINES = (ONNXRUNTIME, LITERT, OPENVINO)
"""All engines, the default first."""

FILES = tuple(engine.file for engine in ENGINES)
"""The names that an exported file has in its folder."""


def engine_of(model: str | bytes) -> Engine:
    """Return the engine that runs a file. Files of unknown kinds are given to ONNX Runtime, whose checks name them.

    Args:
        model: Path of the file, or its bytes.
    """
    if isinstance(model, bytes):
        return LITERT if model[4:8] == b"TFL3" else ONNXRUNTIME
    suffix = os.path.splitext(model)[1].lower()
    return next((engine for engine in ENGINES if engine.suffix == suffix), ONNXRUNTIME)


def engine_named(name: str) -> Engine:
    """Return the engine of a name, such as "litert"."""
    return next(engine for engine in ENGINES if engine.name == name)


def companion_of(path: str) -> str | None:
    """Return the path of the second file that belongs to an exported file; None if it is a single file."""
    ending = engine_of(path).companion
    return os.path.splitext(path)[0] + ending if ending else None


def size_of(path: str) -> int:
    """Return the size of an exported file in bytes, with its second file. It is 0 if the file cannot be read."""
    total = 0
    for each in (path, companion_of(path)):
        try:
            total += os.path.getsize(each) if each else 0
        except (OSError, ValueError):
            return 0
    return total


def exported_in(folder: str) -> list[str]:
    """Return the paths of the exported files in a folder, by their names: `model.onnx`, `model.tflite`, `model.xml`."""
    paths = (os.path.join(folder, name) for name in FILES)
    return [path for path in paths if os.path.lexists(path)]


def only_file_in(folder: str) -> str:
    """Return the path of the one exported file in a folder.

    Raises:
        ModelNotFound: If there is none, or there are several.
    """
    found = exported_in(folder)
    if not found:
        from ._foreign import missing_in

        raise missing_in(folder)
    if len(found) > 1:
        *others, last = map(repr, found)
        raise ModelNotFound(
            f"the folder {folder!r} has several exported files: {', '.join(others)} and {last}. "
            "Give the path of one of them."
        )
    return found[0]
