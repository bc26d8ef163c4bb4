"""What the report page is made from: the files of a run folder, and the figures that were computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.runs import RunRecord


@dataclass(frozen=True, kw_only=True)
class Content:
    """Everything that the page shows.

    Args:
        record: The content of run.json.
        metrics: The content of metrics.json; empty if the network was not evaluated.
        history: The rows of history.csv, one per epoch.
        trust: The content of trust.json; empty if there is none.
        examples: The content of examples.json; empty if there is none.
        issues: The content of label_issues.json; empty if there is none.
        per_class: What `zoo.evaluate.per_class.class_figures` returns for the test pictures.
        confusions: What `zoo.evaluate.per_class.confusions` returns for the test pictures.
        problems: Why a file of the run folder cannot be shown, by its name.
        links: The names of files in the run folder that the page may link to.
        exported: Whether the run folder has an exported file.
    """

    record: RunRecord
    metrics: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    trust: Mapping[str, Any] = field(default_factory=dict)
    examples: Mapping[str, Any] = field(default_factory=dict)
    issues: Mapping[str, Any] = field(default_factory=dict)
    per_class: Sequence[Mapping[str, Any]] = ()
    confusions: Sequence[Mapping[str, Any]] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    links: frozenset[str] = frozenset()
    exported: bool = True

    @property
    def test(self) -> Mapping[str, Any]:
        """The metrics on the test pictures; empty if there are none."""
        return self.metrics.get("test") or {}

    @property
    def held_out(self) -> str:
        """What pictures are called that are neither trained with nor test pictures: "validation" or "held-out"."""
        return "validation" if self.record.data["counts"].get("val") else "held-out"

    @property
    def multilabel(self) -> bool:
        """Whether a picture may have several labels."""
        return self.record.task == "multilabel"


@dataclass(frozen=True)
class Missing:
    """A section that cannot be shown.

    Args:
        text: Why, and what adds it.
    """

    text: str
