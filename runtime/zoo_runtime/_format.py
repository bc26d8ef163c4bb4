"""Defines the metadata of an exported file, and converts them to and from the entries of the ONNX file.

The ONNX file stores entries in its field `metadata_props`. Each entry maps a key that begins with `zoo.` to a JSON
string. The package `zoo` uses the classes of this module to write the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ._errors import CorruptModel, NotAnExport, UnknownSchema, UnknownTask
from ._trust import Trust

SCHEMA = 1
# A file with `levels` has this schema. Runtimes that do not know them refuse it, instead of reading pictures as black.
SCHEMA_WITH_LEVELS = 2
# A file with `trust` has this schema. Runtimes that do not know it would answer where the file asks for "unknown".
SCHEMA_WITH_TRUST = 3
TASKS = ("binary", "multiclass", "multilabel")
INPUT, OUTPUT = "image", "probabilities"
RESIZES = ("squash", "crop", "pad")
FILTERS = ("bilinear", "bicubic", "lanczos")
PREFIX = "zoo."
DETAILS = ("architecture", "weights", "run", "data", "metrics", "parity", "precision", "trust", "selftest")


@dataclass(frozen=True)
class ImageSpec:
    """Describes how a picture becomes the pixels that the network receives.

    Args:
        size: (height, width) of the network's input in pixels, each 1 to 16384.
        channels: 3 for RGB, or 1 for gray (ITU-R 601-2 luma of the RGB picture).
        resize: How the picture gets the size `size`.
            "squash" resizes the whole picture and ignores the aspect ratio.
            "crop" cuts a rectangle with the aspect ratio of `size` out of the center, and resizes this rectangle.
            "pad" scales the whole picture to the largest size that fits into `size`, and centers it on black.
        fraction: How large the rectangle of "crop" is, in (0, 1]. If 1, it is the largest rectangle that fits into the
            picture. Otherwise, its sides are `fraction` times as long. For example, if `size` is square and `fraction`
            is 0.875, "crop" keeps a square of 350 x 350 pixels of a picture of 500 x 400. "squash" and "pad" ignore
            `fraction`.
        filter: Pillow's resampling filter, with antialiasing: "bilinear", "bicubic" or "lanczos".
        levels: The bits that 16-bit gray pictures use, 8 to 16. For example, 12 scales levels of 0..4095 to 0..255.
            Pictures of 8 bits are not changed.

    Raises:
        ValueError: If a value is not allowed. The message lists the allowed values.
    """

    size: tuple[int, int]
    channels: int = 3
    resize: Literal["squash", "crop", "pad"] = "squash"
    fraction: float = 0.875
    filter: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"
    levels: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(self.size))
        if len(self.size) != 2 or not all(type(side) is int and 0 < side <= 16384 for side in self.size):
            raise ValueError(f"size must be (height, width) in pixels, each 1 to 16384. Received: {self.size!r}.")
        _check_choice("channels", self.channels, (1, 3))
        _check_choice("resize", self.resize, RESIZES)
        _check_choice("filter", self.filter, FILTERS)
        if isinstance(self.fraction, bool) or not isinstance(self.fraction, (int, float)) or not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1. Received: {self.fraction!r}.")
        if type(self.levels) is not int or not 8 <= self.levels <= 16:
            raise ValueError(f"levels must be a number of bits, 8 to 16. Received: {self.levels!r}.")

    def to_json(self) -> dict[str, Any]:
        """Return the spec as a dictionary that `json.dumps` accepts.

        `levels` is left out if it is 16, so that runtimes that do not know it can read the file.
        """
        values = {**asdict(self), "size": list(self.size)}
        if self.levels == 16:
            del values["levels"]
        return values


def _check_choice(label: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        *others, last = map(str, allowed)
        raise ValueError(f"{label} must be {', '.join(others)} or {last}. Received: {value!r}.")


@dataclass(frozen=True)
class ModelInfo:
    """Holds the metadata of an exported file.

    Args:
        classes: Class names, in the order of the network's output.
        task: "binary", "multiclass" or "multilabel". The output always has one probability per class. The probabilities
            of a multi-label network do not sum to 1: a picture may have several labels, or none.
        image: How a picture becomes the pixels that the network receives.
        architecture: Name, source and license of the network.
        weights: Id, file digest, license and source of the pretrained weights. If training started from random weights,
            the value of the key "random" is True.
        run: The id, package versions and seed of the training run.
        data: Name, digest and counts of the pictures of the training run.
        metrics: The metrics on the validation and test pictures. `accuracy_interval` and `exact_match_interval` are the
            bounds of 95 % confidence intervals; files of earlier versions lack them. For published weights that were
            exported without training, these are the published accuracies.
        parity: The largest differences between the outputs of the trained network and of this file.
        precision: Empty if the file stores numbers as float32. Otherwise, the value of the key "kind" is "int8" or
            "fp16", and the other entries say how the file was made.
        trust: How far answers can be trusted: the calibration of the probabilities, the threshold below which an answer
            is "unknown", that of the outlier score, label sets, and statistics of the training pictures. Empty for a
            file of an earlier version, and for published weights.
        selftest: Pictures with their expected pixels and probabilities, for `check`.
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
    trust: dict[str, Any] = field(default_factory=dict)
    selftest: dict[str, Any] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata as entries for the ONNX field `metadata_props`: keys mapped to JSON strings."""
        schema = SCHEMA_WITH_TRUST if self.trust else SCHEMA if self.image.levels == 16 else SCHEMA_WITH_LEVELS
        values = {"schema": schema, "classes": list(self.classes), "task": self.task, "image": self.image.to_json()}
        for key in DETAILS:
            if key != "trust" or self.trust:
                values[key] = getattr(self, key)
        return {PREFIX + key: json.dumps(value, sort_keys=True) for key, value in values.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> ModelInfo:
        """Create a `ModelInfo` from the entries of the ONNX field `metadata_props`.

        Args:
            metadata: Maps keys to strings. Keys that do not begin with `zoo.` are ignored.

        Raises:
            NotAnExport: If there is no entry `zoo.schema`.
            UnknownSchema: If this version of zoo_runtime does not know the number in the entry `zoo.schema`.
            UnknownTask: If there is no entry `zoo.task`, or this version of zoo_runtime does not know the task.
            CorruptModel: If the entry `zoo.classes` or `zoo.image` is missing, or if an entry is not JSON or has a
                value that is not allowed.
        """
        if PREFIX + "schema" not in metadata:
            raise NotAnExport(
                "the file has no zoo metadata, so it was not exported by zoo. "
                "Export a model with `zoo finetune` or `zoo export`."
            )
        values: dict[str, Any] = {}
        for key, text in metadata.items():
            if key.startswith(PREFIX):
                try:
                    values[key.removeprefix(PREFIX)] = json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise CorruptModel(
                        f"the metadata entry {key} is not JSON ({error}). Export the file again."
                    ) from None
        schema = values.pop("schema")
        if schema not in (SCHEMA, SCHEMA_WITH_LEVELS, SCHEMA_WITH_TRUST):
            raise UnknownSchema(
                f"the file has schema {schema!r}, but this runtime reads schemas {SCHEMA} to {SCHEMA_WITH_TRUST}. "
                "Upgrade zoo_runtime on this machine."
            )
        task = values.get("task")
        if task not in TASKS:
            known = ", ".join(TASKS)
            raise UnknownTask(
                f"the file's task is {task!r}, but this runtime knows {known}. Upgrade zoo_runtime on this machine."
            )
        try:
            classes = values["classes"]
            if not isinstance(classes, list) or not all(isinstance(label, str) for label in classes):
                raise ValueError("classes must be a list of names")
            if len(classes) < 2 or len(set(classes)) != len(classes):
                raise ValueError("classes must be two or more different names")
            if not isinstance(values["image"], dict):
                raise ValueError(f"image must be an object. Received: {values['image']!r:.100}")
            image = ImageSpec(**values["image"])
            others = {key: values.get(key, {}) for key in DETAILS}
            for key, value in others.items():
                if not isinstance(value, dict):
                    raise ValueError(f"{key} must be an object. Received: {value!r:.100}")
            Trust.from_json(others["trust"])
            return cls(tuple(classes), task, image, **others)
        except KeyError as error:
            raise CorruptModel(f"the file's metadata lack {error}. Export the file again.") from None
        except (TypeError, ValueError) as error:
            raise CorruptModel(
                f"the file's metadata are invalid: {str(error).rstrip('.')}. Export the file again."
            ) from None
