"""Puts the model card and the bill of materials beside an exported file, and keeps them right when files are added.

`zoo.report.model_card` and `zoo.report.sbom` write the texts. This module collects the facts and looks after what is
already there:

- Both name the sha256 of the file beside them. They are written after it is in its place, and only if it still is.
- A README.md or sbom.json that the user wrote or edited is not replaced. The new one gets another name.
- If one cannot be written, an old one of zoo is removed, because it would describe another file.
- A smaller file that is added later changes one section in the card of the float32 file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo import runs
from zoo.data import picture_facts
from zoo.data.split import PARTS
from zoo.errors import RunError, WriteError, ZooError
from zoo.evaluate.metrics import interval
from zoo.export.format_metadata import beside, companions, info_in
from zoo.export.variants import VARIANTS, option_words
from zoo.export.weights_digest import weights_sha256
from zoo.files import atomic_write
from zoo.report import markdown, model_card, sbom
from zoo.report.exported_facts import ExportedFacts
from zoo.reporter import Reporter
from zoo.workflow.replaced import EXPORTED_FILE, info_of, variant_path
from zoo.workflow.trained import TrainedModel
from zoo_runtime import ModelInfo

CARD, BILL = "README.md", "sbom.json"
# Where the new text goes if the user has a text of the usual name.
SECOND = {CARD: "MODEL_CARD.md", BILL: "model.cdx.json"}


@dataclass(frozen=True)
class Described:
    """What an export knows about its file besides the metadata of the file.

    Args:
        trained: The network with its dataset and its run.
        metrics: All figures that were measured through the file.
        compared: The comparison of a smaller file with the float32 file; empty for the float32 file.
    """

    trained: TrainedModel
    metrics: Mapping[str, Mapping[str, Any]]
    compared: Mapping[str, Any] = field(default_factory=dict)


def write(path: Path, content: Path | bytes, info: ModelInfo, reporter: Reporter, described: Described | None) -> None:
    """Write card and bill of materials beside an exported file that has just been put in place.

    An error never costs the export: it becomes a warning.

    Args:
        path: The exported file.
        content: Its bytes, or the path of a file with the same bytes. If another program has replaced the exported file
            in the meantime, nothing is written.
        info: The metadata of the file.
        reporter: Receives warnings.
        described: What the export knows about the file. None for a published network.
    """
    with reporter.timing.measure("report"):
        try:
            digest = _sha256(content)
            facts = _facts(path, digest, info, described)
            if _sha256(path) != digest:
                reporter.warn(f"{path} was replaced by another program, so that no model card was written for it.")
                return
            _place(path.parent, facts, reporter)
            _refresh_float32(path, facts)
        except (ZooError, OSError) as error:
            reporter.warn(f"{path.parent / CARD} could not be written: {error} The export itself is complete.")
            _remove_stale(path)


def describe(path: Path) -> ExportedFacts:
    """Return what an exported file says about itself, without its run.

    Raises:
        ModelError: The file cannot be opened.
    """
    return _facts(path, _sha256(path), info_in(path), None)


def _facts(path: Path, digest: str, info: ModelInfo, described: Described | None) -> ExportedFacts:
    """Collect what is known about an exported file."""
    others, compared = companions(path), described.compared if described is not None else {}
    weights = weights_sha256(path) if path.suffix == ".onnx" else str(compared.get("weights_sha256") or "unknown")
    size = sum(each.stat().st_size for each in (path, *others))
    facts = ExportedFacts(path.parent.name, path.name, digest, weights, size, info, _measured(info))
    facts = dataclasses.replace(facts, companions={each.name: _sha256(each) for each in others})
    if described is None:
        return facts
    trained = described.trained
    split, source = trained.dataset.split, trained.dataset.source
    rows = {part: getattr(split, part) for part in PARTS}
    targets = trained.dataset.targets
    return dataclasses.replace(
        facts,
        metrics={part: _with_intervals(figures, info.task) for part, figures in described.metrics.items()},
        record=trained.record,
        counts={
            part: dict(zip(source.classes, map(int, targets[rows[part]].sum(axis=0)), strict=True)) for part in PARTS
        },
        pictures=picture_facts.describe(source.pictures[i] for part in PARTS for i in rows[part]),
        compared=described.compared,
        labels=_labels(trained.run),
        command=_command(trained, info),
        folder=trained.run.folder.parent,
    )


def _labels(run: runs.Run) -> Mapping[str, Any]:
    """Return what is known about wrong labels; empty if the file is missing or damaged."""
    with contextlib.suppress(RunError, OSError):
        values = run.read_json("label_issues.json")
        return values if isinstance(values, dict) else {}
    return {}


def _measured(info: ModelInfo) -> dict[str, dict[str, Any]]:
    """Return the figures in the metadata of a file, by part."""
    parts = {part: figures for part, figures in info.metrics.items() if part != "published"}
    return {part: _with_intervals(figures, info.task) for part, figures in parts.items()}


def _with_intervals(figures: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return figures with the confidence intervals that they lack.

    The metadata of earlier versions have none, and metrics.json has none for the classes.
    """
    completed = dict(figures)
    key = "exact_match" if task == "multilabel" else "accuracy"
    if key in figures and "pictures" in figures and f"{key}_interval" not in figures:
        completed[f"{key}_interval"] = interval(figures[key], figures["pictures"])
    rows = {}
    for name, row in (figures.get("per_class") or {}).items():
        rows[name] = dict(row)
        right = row["recall"] * row["pictures"]
        # Of a class that is never named, precision has no meaning.
        for each, count in (("recall", row["pictures"]), ("precision", row["precision"] and right / row["precision"])):
            if round(count) and f"{each}_interval" not in row:
                rows[name][f"{each}_interval"] = interval(row[each], round(count))
    return {**completed, "per_class": rows} if rows else completed


def _command(trained: TrainedModel, info: ModelInfo) -> list[str]:
    """Return the words of the command that makes the file again from its run."""
    record = trained.record
    height, width = info.image.size
    resized = [height, width] != list(record.image["size"])
    words = ["zoo", "export", record.id]
    words += ["--size", f"{height}x{width}"] if resized else []
    words += option_words(info.precision["kind"]) if info.precision.get("kind") else []
    wanted = (info.trust.get("unknown") or {}).get("precision")
    if (wanted or None) != (record.options.get("wanted_precision") or None):
        words += ["--precision", f"{wanted:g}" if wanted else "none"]
    usual = f"{record.name}-{height}x{width}" if resized else record.name
    return words if trained.name == usual else [*words, "--name", trained.name]


def _place(folder: Path, facts: ExportedFacts, reporter: Reporter) -> None:
    """Write the texts of a file into its folder. If one cannot be written, the other one is all the same."""
    smaller, others = _siblings(folder.parent, facts)
    card, bill = model_card.render(facts, smaller, others), sbom.render(facts)
    try:
        _write_text(folder, CARD, card, markdown.is_ours, reporter)
    finally:
        _write_text(folder, BILL, bill, sbom.is_ours, reporter)


def _write_text(folder: Path, name: str, text: str, is_ours: Callable[[str], bool], reporter: Reporter) -> None:
    """Write a text under its name, or under its second name if the user has a text of the first.

    Raises:
        WriteError: The file cannot be written.
    """
    usual, second = folder / name, folder / SECOND[name]
    if _may_replace(usual, is_ours):
        _write_atomically(usual, text)
        # What was written there beside a text of the user is now out of date.
        if second.is_file() and _may_replace(second, is_ours):
            second.unlink()
        return
    if not _may_replace(second, is_ours):
        raise WriteError(f"{usual} and {second} were written or edited by hand, so that neither is replaced.")
    _write_atomically(second, text)
    reporter.warn(
        f"{usual} was written or edited by hand and is not replaced. It may describe an earlier file: the new text is "
        f"{second}."
    )


def _may_replace(path: Path, is_ours: Callable[[str], bool]) -> bool:
    """Return whether there is no file at a path, or one that zoo wrote and nobody edited."""
    text = _read(path)
    return is_ours(text) if text is not None else not (path.is_symlink() or path.exists())


def _read(path: Path) -> str | None:
    """Return the text of a file; None if there is none, or if it is not text."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError):
        return None


def _write_atomically(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def _remove_stale(file: Path) -> None:
    """Remove texts of zoo that describe another file than the one beside them. Those of the user stay."""
    with contextlib.suppress(OSError):
        digest, folder = _sha256(file), file.parent
        for name, is_ours, digest_in in (
            (CARD, markdown.is_ours, model_card.digest_in),
            (BILL, sbom.is_ours, sbom.digest_in),
        ):
            for path in (folder / name, folder / SECOND[name]):
                text = _read(path)
                if text is not None and is_ours(text) and digest_in(text) != digest:
                    path.unlink()


def _refresh_float32(path: Path, facts: ExportedFacts) -> None:
    """Bring the section about smaller files in the card of the float32 file up to date, after one was written."""
    if facts.kind == "float32":
        return
    name = path.parent.name.removesuffix(f"-{facts.kind}")
    float32 = path.parent.parent / name / EXPORTED_FILE
    for card in (float32.parent / CARD, float32.parent / SECOND[CARD]):
        text = _read(card)
        if text is None or not markdown.is_ours(text) or not float32.is_file():
            continue
        info = info_of(float32)
        if info is None or model_card.digest_in(text) != _sha256(float32):
            continue
        size = float32.stat().st_size
        own = ExportedFacts(name, EXPORTED_FILE, "", "", size, info, _measured(info), folder=facts.folder)
        section = model_card.smaller_section(own, *_siblings(float32.parent.parent, own, facts))
        changed = model_card.with_smaller(text, section)
        if changed is not None:
            _write_atomically(card, changed)


def _siblings(
    exported: Path, facts: ExportedFacts, known: ExportedFacts | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Find the smaller files beside a float32 file.

    Args:
        exported: The folder of exports.
        facts: The float32 file.
        known: A smaller file that has just been made; None if there is none.

    Returns:
        The smaller files of the same run, as `zoo.report.model_card.smaller_section` takes them, and a sentence about
        each of the others.
    """
    smaller: list[dict[str, Any]] = []
    others: list[str] = []
    if facts.kind != "float32":
        return smaller, others
    own = [(variant.name, variant_path(exported, facts.name, variant)) for variant in VARIANTS]
    for kind, path in [*own, *beside(exported, facts.name)]:
        info = info_of(path)
        if info is None or info.precision.get("kind") != kind:
            continue
        label = f"{path.parent.name}/{path.name}"
        run = info.run.get("id")
        if not run or run != facts.info.run.get("id") or info.image != facts.info.image:
            others.append(f"{label} beside it comes from another run ({run}), so that it does not belong to this file.")
            continue
        compared = known.compared if known is not None and known.kind == kind else None
        if compared is None:
            compared = _recorded(path, info, kind, exported, facts)
        smaller.append(
            {
                "path": label,
                "kind": kind,
                "bytes": sum(each.stat().st_size for each in (path, *companions(path))),
                "test": _measured(info).get("test", {}),
                "compared": compared,
            }
        )
    return smaller, others


def _recorded(path: Path, info: ModelInfo, kind: str, exported: Path, facts: ExportedFacts) -> Mapping[str, Any]:
    """Return the comparison that the run folder of a smaller file has; empty if it is not at hand.

    The folder of the run is that of the card's own run, if it is known, or else the usual one beside the exports.
    """
    run = facts.info.run["id"]
    folder = (facts.folder if facts.folder is not None else exported.parent / "runs") / str(run)
    height, width = info.image.size
    for suffix in (kind, f"{height}x{width}-{kind}"):
        own = path.suffix == ".onnx"
        kept = folder / (f"model-{suffix}.onnx" if own else f"{runs.FORMATS}/{suffix}/{path.name}")
        with contextlib.suppress(RunError, OSError):
            if kept.stat().st_size == path.stat().st_size and _sha256(kept) == _sha256(path):
                values = runs.Run(folder).read_json(f"{suffix}.json" if own else f"{runs.FORMATS}/{suffix}.json")
                if isinstance(values, dict) and "milliseconds" in values:
                    return values
    return {}


def _sha256(content: Path | bytes) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
