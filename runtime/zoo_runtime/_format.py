"""The exported file's metadata: keys, meaning, reading. Writing is the workshop's part, with the same classes.

Every value is JSON text under a key that begins with `zoo.` in the ONNX file's metadata_props.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ._errors import CorruptModel, NotAnExport, UnknownSchema, UnknownTask

SCHEMA = 1
TASKS = ("binary", "multiclass", "multilabel")
INPUT, OUTPUT = "image", "probabilities"
RESIZES = ("squash", "crop", "pad")
FILTERS = ("bilinear", "bicubic", "lanczos")
PREFIX = "zoo."
DETAILS = ("architecture", "weights", "run", "data", "metrics", "parity", "precision", "selftest")


@dataclass(frozen=True)
class ImageSpec:
    """How a picture becomes the network's pixels.

    Args:
        size: (height, width) in pixels.
        channels: 3 for RGB, 1 for grey (ITU-R 601-2 luma of the RGB picture).
        resize: "squash" (to size, whatever the aspect), "crop" (the shorter side to size / fraction, then the
            centre) or "pad" (the whole picture, centred on black).
        fraction: Of "crop": the share of the shorter side that is kept, in (0, 1].
        filter: Pillow's resampling filter, with antialiasing: "bilinear", "bicubic" or "lanczos".

    Raises:
        ValueError: A value is not allowed.
    """

    size: tuple[int, int]
    channels: int = 3
    resize: Literal["squash", "crop", "pad"] = "squash"
    fraction: float = 0.875
    filter: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(self.size))
        if len(self.size) != 2 or not all(type(side) is int and 0 < side <= 16384 for side in self.size):
            raise ValueError(f"size must be (height, width) in pixels, each 1 to 16384. Received: {self.size!r}.")
        for label, allowed in (("channels", (1, 3)), ("resize", RESIZES), ("filter", FILTERS)):
            if getattr(self, label) not in allowed:
                choices = ", ".join(map(str, allowed))
                raise ValueError(f"{label} must be one of {choices}. Received: {getattr(self, label)!r}.")
        if isinstance(self.fraction, bool) or not isinstance(self.fraction, (int, float)) or not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1. Received: {self.fraction!r}.")

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, for JSON."""
        return {**asdict(self), "size": list(self.size)}


@dataclass(frozen=True)
class ModelInfo:
    """What an exported file says of itself.

    Args:
        classes: Class names, in the order of the network's output.
        task: "binary", "multiclass" or "multilabel"; the output is one probability a class in any case. Those of a
            multi-label network do not sum to 1: a picture may be of several classes, or of none.
        image: How pictures become pixels.
        architecture: Name, source and licence of the network.
        weights: What training began from: id, file digest, licence, source; or that it began from random weights.
        run: Identity of the training run, versions, seed.
        data: Name, digest and counts of the pictures.
        metrics: Figures on the test pictures.
        parity: Greatest differences between the trained network and this file.
        precision: How numbers are stored, where that is not float32: `kind` is "int8" or "fp16", and how it was made.
        selftest: Pictures, digests and expected probabilities for `check`.
    """

    classes: tuple[str, ...]
    task: str
    image: ImageSpec
    architecture: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    precision: dict[str, Any] = field(default_factory=dict)
    selftest: dict[str, Any] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        """The entries of metadata_props: key -> JSON text."""
        values = {"schema": SCHEMA, "classes": list(self.classes), "task": self.task, "image": self.image.to_json()}
        for key in DETAILS:
            values[key] = getattr(self, key)
        return {PREFIX + key: json.dumps(value, sort_keys=True) for key, value in values.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> ModelInfo:
        """Read metadata_props back.

        Raises:
            NotAnExport: There is no `zoo.schema`.
            UnknownSchema: A schema that this version does not know.
            UnknownTask: A task that this version does not know.
            CorruptModel: A key is missing or cannot be read.
        """
        if PREFIX + "schema" not in metadata:
            raise NotAnExport(
                "the file has no zoo metadata; it was not exported by zoo. "
                "Export one with `zoo finetune` or `zoo export`."
            )
        values: dict[str, Any] = {}
        for key, text in metadata.items():
            if key.startswith(PREFIX):
                try:
                    values[key.removeprefix(PREFIX)] = json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise CorruptModel(f"metadata {key} is not JSON: {error}") from None
        schema = values.pop("schema")
        if schema != SCHEMA:
            raise UnknownSchema(
                f"the file has schema {schema!r}, this runtime reads schema {SCHEMA}. "
                "Upgrade zoo_runtime on this machine."
            )
        task = values.get("task")
        if task not in TASKS:
            known = ", ".join(TASKS)
            raise UnknownTask(f"the file's task is {task!r}, this runtime knows {known}. Upgrade zoo_runtime.")
        try:
            classes = values["classes"]
            if not isinstance(classes, list) or not all(isinstance(label, str) for label in classes):
                raise ValueError("classes must be a list of names")
            if len(classes) < 2 or len(set(classes)) != len(classes):
                raise ValueError("classes must be two or more different names")
            image = ImageSpec(**values["image"])
            others = {key: values.get(key, {}) for key in DETAILS}
            for key, value in others.items():
                if not isinstance(value, dict):
                    raise ValueError(f"{key} must be an object. Received: {value!r:.100}.")
            return cls(tuple(classes), task, image, **others)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptModel(f"the file's metadata do not hold together: {error}") from None
