"""Defines `RunRecord`, the content of run.json: the request of a run, its data and its results."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from zoo.errors import RunError
from zoo.runs import entries

SCHEMA = 2
# Entries that to_json leaves out if they are None, because the run does not have them (yet).
LATER = ("head", "schedule", "backend", "prefix", "best_epoch", "evidence", "parity", "weights_sha256")
OBJECTS = (
    *("options", "architecture", "head", "weights", "augmentation", "image", "data", "versions", "schedule"),
    *("seconds", "prefix", "evidence", "parity"),
)
LISTS = ("command", "classes", "plugins", "variants", "resumed", "phases", "warnings")


def latest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a run.json file of this or an earlier schema in the form of this schema.

    Raises:
        RunError: The schema is not a number, or it is newer than this one.
    """
    schema = values.get("schema")
    if type(schema) is not int or schema < 1:
        raise RunError(f"it does not say which schema it has (1 to {SCHEMA}). Received: {schema!r}.")
    if schema > SCHEMA:
        versions = values.get("versions")
        writer = f"finezoo {versions.get('finezoo', '?')}" if isinstance(versions, dict) else "a newer version of zoo"
        raise RunError(
            f"{writer} wrote it with schema {schema}, and this version reads schemas 1 to {SCHEMA}. Update zoo: "
            "`pip install --upgrade finezoo`."
        )
    changed = dict(values)
    for migrate in MIGRATIONS[schema - 1 :]:
        changed = migrate(changed)
    return {**changed, "schema": SCHEMA}


def _from_1(values: dict[str, Any]) -> dict[str, Any]:
    """Add what schema 2 records besides: the smaller files that were asked for, as the command line names them.

    Schema 1 says nothing about the planned phases and the backend.
    """
    command = values.get("command")
    words = [str(word) for word in command] if isinstance(command, list) else []
    if words[1:2] != ["finetune"]:
        return values
    drop = 0.01
    for i, word in enumerate(words):
        text = word.partition("=")[2] if word.startswith("--max-drop=") else (words[i + 1 :] or [""])[0]
        if word.split("=")[0] == "--max-drop":
            with contextlib.suppress(ValueError):
                drop = float(text) / 100
    variants = [
        {"name": name, "max_drop": drop, "any_speed": f"--{name}-any-speed" in words}
        for name in ("int8", "fp16")
        if f"--{name}" in words
    ]
    return {"variants": variants, "allow_chance": "--allow-chance" in words, **values}


# The function at index i turns schema i + 1 into schema i + 2.
MIGRATIONS = (_from_1,)


def _check_type(name: str, value: Any) -> None:
    """Refuse an entry that is a list where an object is expected, or the like."""
    kind: type = dict if name in OBJECTS else list
    if (name in OBJECTS or name in LISTS) and not isinstance(value, kind) and not (value is None and name in LATER):
        expected = "an object" if kind is dict else "a list"
        raise RunError(f"the entry {name} must be {expected}. Received: {str(value)[:60]!r}.")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The content of run.json: the request of a run, its data and its results.

    A record is immutable. The methods whose names start with `with_` return changed copies.

    Each argument except `others` is an entry of run.json. If the argument has a default, the entry can be missing from
    the file: the run does not have this result yet, or an older version of zoo wrote the file. `zoo.runs.entries` has
    the types of nested entries, and `run.schema.json` in the same folder is the JSON Schema of the file.

    Args:
        id: The name of the run folder.
        status: "running", "trained", "interrupted", or "failed: " followed by the type and the text of the error.
        created: When the run was created, in UTC, such as "2026-01-31T12:00:00Z".
        command: The words of the command line that started the run.
        name: The name of the export.
        options: What `zoo.config.FinetuneConfig.to_json` returns for the user's request. But `data` is the absolute
            path of the pictures or "digits", and `schedule` is the name of the schedule that was used.
        architecture: The facts that `zoo.plugin.Architecture.describe` returns.
        weights: The description of the weights that training started from: the field `record` of
            `zoo.pretrained.select.StartingWeights`.
        augmentation: The name of the augmentation policy and its parameters.
        image: How pictures are decoded: the fields of `zoo_runtime.ImageSpec`.
        classes: Class names, in the order of the network's output.
        data: What `zoo.data.dataset.Dataset.describe` returns. In addition, `left_out` lists the unreadable files, each
            with the reason.
        plugins: The plugins that provided the architecture, the published weights, the augmentation policy, the
            schedule and the loggers, each as a string with its name, distribution and version.
        versions: The versions of Python and of packages; see `versions`.
        head: The fields of the network's `zoo.plugin.Head`. None means the architecture's default head.
        task: "multiclass", "binary" or "multilabel".
        schedule: The schedule with the phases that were planned. None in records of schema 1.
        backend: The Keras backend that trains. None in records of schema 1.
        variants: The smaller files that were asked for.
        allow_chance: Whether a network that has learned nothing was to be exported too.
        resumed: When the run was resumed, in UTC, in order.
        phases: For each phase, its settings, the layers that it trained, its number of epochs and its duration in
            seconds. If a phase was skipped, also the reason.
        warnings: The warnings about random weights, about training and about what the network has learned. The reporter
            showed them to the user, too.
        seconds: Maps "train" and "export" to the durations of these steps, in seconds.
        prefix: Counts and times of the frozen part; see `zoo.train.frozen.stats.CacheStats`. None before training ends.
        best_epoch: The number of the epoch whose weights model.keras contains, counted over all phases from 1. None
            before training ends.
        evidence: What held-out pictures said about training more layers; see `zoo.train.evidence`. None if the schedule
            trains all its phases.
        parity: The dictionary that `zoo.export.parity.check` returns. None before the export.
        weights_sha256: The sha256 of the weights of the exported file, in hex; see `zoo.export.weights_digest`. The
            same command with the same seed gives the same one. None before the export.
        others: The entries of run.json that this version of zoo does not know. `to_json` returns them unchanged.
    """

    id: str
    status: str
    created: str
    command: Sequence[str]
    name: str
    options: entries.Options
    architecture: entries.Architecture
    head: Mapping[str, Any] | None = None
    weights: entries.Weights
    augmentation: entries.Augmentation = field(default_factory=lambda: entries.Augmentation(name="none", parameters={}))
    image: Mapping[str, Any]
    classes: Sequence[str]
    task: str = "multiclass"
    data: entries.Data
    plugins: Sequence[str]
    versions: Mapping[str, str]
    schedule: entries.Schedule | None = None
    backend: str | None = None
    variants: Sequence[entries.Variant] = ()
    allow_chance: bool = False
    resumed: Sequence[str] = ()
    phases: Sequence[entries.Phase] = ()
    warnings: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    prefix: Mapping[str, Any] | None = None
    best_epoch: int | None = None
    evidence: Mapping[str, Any] | None = None
    parity: Mapping[str, Any] | None = None
    weights_sha256: str | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunRecord:
        """Make a record from the content of a run.json file of this or an earlier schema.

        Missing entries get their default values.

        Raises:
            RunError: A newer version of zoo wrote the file, an entry that has no default is missing, or an entry has
                the wrong type.
        """
        values = latest(values)
        known = {each.name: each for each in dataclasses.fields(cls) if each.name != "others"}
        missing = [
            name
            for name, each in known.items()
            if name not in values and each.default is each.default_factory is dataclasses.MISSING
        ]
        if missing:
            what = f"entry {missing[0]} is" if len(missing) == 1 else f"entries {', '.join(missing)} are"
            raise RunError(f"the {what} missing.")
        for name in known.keys() & values.keys():
            _check_type(name, values[name])
        others = {key: value for key, value in values.items() if key not in known and key != "schema"}
        return cls(**{name: values[name] for name in known if name in values}, others=others)

    def to_json(self) -> dict[str, Any]:
        """Return the content of run.json. The entries in `LATER` are left out if they are None."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "others"}
        return {
            "schema": SCHEMA,
            **{name: value for name, value in values.items() if value is not None or name not in LATER},
            **self.others,
        }

    def with_status(self, status: str) -> RunRecord:
        """Return a copy of this record with another status."""
        return dataclasses.replace(self, status=status)

    def with_training(
        self,
        *,
        phases: Sequence[Mapping[str, Any]],
        best_epoch: int,
        prefix: Mapping[str, Any],
        warnings: Sequence[str],
        seconds: float,
        head: Mapping[str, Any] | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> RunRecord:
        """Return a copy of this record with the results of training, and the status "trained".

        Args:
            phases: As in `RunRecord`.
            best_epoch: As in `RunRecord`.
            prefix: As in `RunRecord`.
            warnings: The warnings of the training. They are added to those of this record.
            seconds: The duration of the training in seconds.
            head: The fields of the head, if training chose another one. None keeps those of this record.
            evidence: As in `RunRecord`.
        """
        return dataclasses.replace(
            self,
            status="trained",
            phases=cast(Sequence[entries.Phase], phases),
            best_epoch=best_epoch,
            prefix=prefix,
            warnings=[*self.warnings, *warnings],
            seconds={**self.seconds, "train": round(seconds, 2)},
            head=self.head if head is None else head,
            evidence=evidence,
        )

    def with_export(
        self, *, parity: Mapping[str, Any], weights_sha256: str, seconds: float, warnings: Sequence[str] = ()
    ) -> RunRecord:
        """Return a copy of this record with the results of the export.

        Args:
            parity: As in `RunRecord`.
            weights_sha256: As in `RunRecord`.
            seconds: The duration of the export in seconds.
            warnings: The warnings of the export; see `with_warnings`.
        """
        took = {**self.seconds, "export": round(seconds, 2)}
        record = dataclasses.replace(self, parity=parity, weights_sha256=weights_sha256, seconds=took)
        return record.with_warnings(warnings)

    def with_warnings(self, warnings: Sequence[str]) -> RunRecord:
        """Return a copy of this record with more warnings. Those that it already has are not repeated."""
        new = [text for text in warnings if text not in self.warnings]
        return dataclasses.replace(self, warnings=[*self.warnings, *new])
