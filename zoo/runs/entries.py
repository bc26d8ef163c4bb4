"""Types of the nested entries of run.json. `zoo.runs.record.RunRecord` has the entries at the top.

A TypedDict is a plain dictionary at run time. Keys that are `NotRequired` depend on the run, or are missing in
records of earlier versions. `head`, `image` and `prefix` have no type here: they are the fields of `zoo.plugin.Head`,
`zoo_runtime.ImageSpec` and `zoo.train.frozen.stats.CacheStats`. `run.schema.json`, beside this file, says the same to
other programs; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict


class Options(TypedDict):
    """What was asked for: what `zoo.config.FinetuneConfig.to_json` returns, with the place of the pictures as `data`.

    `schedule` is the name of the schedule that was used. A weights file is recorded by its absolute path.
    """

    architecture: str
    data: str
    weights: str
    size: Sequence[int] | None
    resize: str | None
    schedule: str
    augment: str
    epochs: Sequence[int] | None
    batch_size: int
    learning_rates: Sequence[float] | None
    optimizer: str | None
    val_split: float | None
    seed: int
    name: str | None
    runs: str
    exported: str
    export: bool
    rate: NotRequired[str | None]
    clip_norm: NotRequired[float | None]
    ema: NotRequired[float | None]
    head: NotRequired[dict[str, Any]]
    label_smoothing: NotRequired[float]
    balance: NotRequired[bool]
    patience: NotRequired[int | None]
    keep_best: NotRequired[bool]
    precision: NotRequired[str]
    views: NotRequired[int | None]
    cache_size: NotRequired[int | None]
    folds: NotRequired[int | None]
    levels: NotRequired[int]
    group_by: NotRequired[str | None]
    reading: NotRequired[dict[str, Any]]
    wanted_precision: NotRequired[float | None]
    loggers: NotRequired[Sequence[str]]


class Architecture(TypedDict):
    """The facts that `zoo.plugin.Architecture.describe` returns."""

    name: str
    parameters: int
    source: str
    licence: str


class Weights(TypedDict):
    """The weights that training started from. `sha256` is missing if they are random.

    `origin` says where files come from that have no plain address, such as "hf:...". `commercial_use` is False if the
    licence forbids it, and missing otherwise.
    """

    random: bool
    id: str | None
    reason: NotRequired[str]
    file: NotRequired[str]
    url: NotRequired[str | None]
    origin: NotRequired[str]
    package: NotRequired[str]
    sha256: NotRequired[str]
    place: NotRequired[str]
    input_size: NotRequired[Sequence[int]]
    wanted_input_size: NotRequired[Sequence[int]]
    licence: NotRequired[str]
    commercial_use: NotRequired[bool]
    source: NotRequired[str]


class Augmentation(TypedDict):
    """An augmentation policy and its parameters."""

    name: str
    parameters: dict[str, Any]


class LeftOut(TypedDict):
    """A picture that could not be read."""

    picture: str
    why: str


class Data(TypedDict):
    """The pictures. `counts` maps "train", "val" and "test" to their numbers.

    The entry is what `zoo.data.dataset.Dataset.describe` returns, the unreadable files, and the findings of the data
    check.
    """

    name: str
    digest: str
    counts: dict[str, int]
    split: str
    left_out: Sequence[LeftOut]
    check: NotRequired[dict[str, Any]]


class Phase(TypedDict):
    """The settings of a phase, as `zoo.plugin.Phase.to_json` returns them, and what it did.

    `left_out` says why it was not trained. The entries of `Schedule` have the settings alone.
    """

    name: str
    train: str
    epochs: int
    learning_rate: float
    optimizer: str
    rate: str
    rate_decay: float
    batch_norm: str
    batch_norm_momentum: float | None
    augment: bool
    views: int | None
    patience: int | None
    depth: NotRequired[int | None]
    clip_norm: NotRequired[float | None]
    ema: NotRequired[float | None]
    enough: NotRequired[float | None]
    min_steps: NotRequired[int | None]
    moved_layers: NotRequired[Sequence[str]]
    moved_parameters: NotRequired[int]
    epochs_run: NotRequired[int]
    seconds: NotRequired[float]
    solution: NotRequired[dict[str, Any]]
    left_out: NotRequired[str]


class Schedule(TypedDict):
    """The schedule of a run, with the phases that were planned before the training.

    `requested` says whether the user named the schedule, and `own_file` whether it came from a file.
    """

    name: str
    summary: str
    by_evidence: bool
    requested: bool
    own_file: bool
    phases: Sequence[Phase]


class Variant(TypedDict):
    """A smaller file that was asked for, with its limits; see `zoo.export.variants.AcceptanceLimits`."""

    name: str
    max_drop: float
    any_speed: bool
