"""Data classes for formats: what a plugin provides, and what zoo hands to it to make one file.

Plugins import the classes from `zoo.plugin`. `zoo.export.formats` calls them: it makes the files in a folder of its
own, runs them on real pictures, compares the answers with those of the ONNX files, and only then puts them in place.
Importing this module imports neither numpy nor onnx.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from zoo.plugin.checks import require, require_name, require_text
from zoo.plugin.loggers import missing_modules

Graph = Literal["float32", "fp16", "int8"]
"""What a file computes: in float32; in float32 with weights of 16 bits; or in 8 bits, as zoo's int8 search found it."""

Runner = Callable[[Any], Mapping[str, Any]]
"""Runs a file: takes pixels, a uint8 array (batch, height, width, channels) in 0..255, and returns each output of the
ONNX graph under its name, float32 arrays (batch, ...). `probabilities` is (batch, classes)."""


@dataclass(frozen=True, kw_only=True)
class FormatSource:
    """What a format makes its files from.

    Args:
        onnx: The bytes of the ONNX file that zoo exports for this network and `Format.graph`. Its input is `image`,
            uint8 (batch, height, width, channels) in 0..255; normalization is inside. Its outputs are `probabilities`
            and, for many networks, `outlier_score` and `feature_norm`. An int8 graph has pairs of QuantizeLinear and
            DequantizeLinear.
        metadata: The metadata of the file, which every format must carry: names such as "zoo.classes" to texts.
        classes: The names of the classes, in the order of the probabilities.
        calibration: Training pictures for a format that measures ranges itself, a uint8 array (N, height, width,
            channels) in 0..255 with at most 128 pictures.
        folder: An empty folder for the files.
        tensorflow: Returns the same graph as a `tf.ConcreteFunction` with the argument `image`, for converters that
            start from TensorFlow. It returns the outputs as a list. The pairs of an int8 graph are FakeQuant
            operations. It raises a ZooError if the graph has an operator that is not translated.
    """

    onnx: bytes
    metadata: Mapping[str, str]
    classes: tuple[str, ...]
    calibration: Any
    folder: Path
    tensorflow: Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Format:
    """Describes a format of exported files. `zoo export RUN --as NAME` and `zoo finetune --as NAME` make it.

    zoo calls `make` for an empty folder and `run` for the folder that `make` filled. It then classifies the validation
    and test pictures of the run with the file. The file is refused, with the figures, in three cases: it loses more
    accuracy than the user allows, its answers differ from those of the ONNX file by more than `tolerance`, or an error
    occurs. Nothing of a refused file is put in place, and other files are not affected.

    Args:
        name: The name that a user types ("litert-int8"). The folder of the export ends in it.
        summary: One line for `zoo list`.
        file: The name of the main file, such as "model.tflite". `make` must write it.
        graph: Which graph of the network the format stores: "float32", "fp16" or "int8".
        make: `make(source)` writes the files into the folder of a `FormatSource`. It may raise any exception. None
            stands for the ONNX file itself, which zoo writes; then `run` is None too.
        run: `run(folder)` opens the files, and returns a function from pixels to the outputs; see `Runner`.
        tolerance: How far a probability may differ from that of the ONNX file of the same graph on real pictures, in
            0..1. None means that only the accuracy counts, which suits 8 bits.
        needs: The modules that must be installed, by the names under which they are imported.
        install: The command that installs them, such as "pip install 'finezoo[litert]'". An error shows it if a module
            is missing.
        same_bytes: Whether `make` promises to write the same bytes whenever it gets the same source. `zoo check` then
            asks for that.

    Raises:
        InvalidPluginData: A field has a value that is not allowed.
    """

    name: str
    summary: str
    file: str
    graph: Graph = "float32"
    make: Callable[[FormatSource], None] | None = None
    run: Callable[[Path], Runner] | None = None
    tolerance: float | None = None
    needs: tuple[str, ...] = ()
    install: str = ""
    same_bytes: bool = False

    def __post_init__(self) -> None:
        require_name(self, self.name)
        require_text(self, "summary", self.summary)
        plain = isinstance(self.file, str) and re.fullmatch(r"\w[\w-]*(\.[\w-]+)+", self.file, re.ASCII)
        require(bool(plain), self, "file must be the name of a file, such as 'model.tflite'", self.file)
        require(self.graph in get_args(Graph), self, f"graph must be one of {', '.join(get_args(Graph))}", self.graph)
        callables = self.make is None or callable(self.make), self.run is None or callable(self.run)
        require(callables[0], self, "make must be a function", self.make)
        require(callables[1], self, "run must be a function", self.run)
        require((self.make is None) == (self.run is None), self, "make and run go together", self.run)
        number = isinstance(self.tolerance, int | float) and not isinstance(self.tolerance, bool)
        fits = self.tolerance is None or (number and 0 < float(self.tolerance or 0) <= 1)
        require(fits, self, "tolerance must be above 0 and at most 1, or None", self.tolerance)
        modules = not isinstance(self.needs, str) and all(isinstance(each, str) and each for each in self.needs)
        require(modules, self, "needs must be names of modules", self.needs)
        object.__setattr__(self, "needs", tuple(self.needs))
        if self.needs:
            require_text(self, "install", self.install)
        require(isinstance(self.install, str), self, "install must be a text", self.install)
        require(isinstance(self.same_bytes, bool), self, "same_bytes must be True or False", self.same_bytes)

    def missing(self) -> list[str]:
        """Return those of `needs` that are not installed. No module is imported."""
        return missing_modules(self.needs)
