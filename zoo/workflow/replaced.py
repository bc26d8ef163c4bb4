"""Decides whether a new export may replace the file at its place, keeps the old file, and reports what was replaced.

The rule: a new export replaces an earlier one without being asked to if both have the same classes, and either the same
pictures or the same place of the pictures. A folder that has grown therefore replaces its own export, and another
folder of the same name does not. The option `--replace` replaces any file. An old file that no run folder holds is kept
beside the new one.

Variants and exports of another picture size that come from an earlier run are stale: a user could mistake them for
files of the new run. They are kept, with a warning.

The settings that `zoo-runtime tune` measured for the replaced file are removed, and so is its signature.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo import files, runs
from zoo.data.names import listed, normalized
from zoo.data.sources import Source
from zoo.errors import ExportError, RunError, UsageError
from zoo.export import variants as kinds
from zoo.export.format_metadata import companions, info_in
from zoo.export.variants import Variant, VariantRequest
from zoo.reporter import Reporter
from zoo.workflow.earlier_pictures import are_same
from zoo.workflow.signing import signature_path
from zoo_runtime import ModelError, ModelInfo
from zoo_runtime.workshop import format_accuracy

EXPORTED_FILE = "model.onnx"
# The names of exports of another size end in this: shapes-128x128.
SIZE = re.compile(r"(\d+)x(\d+)")
# A message names at most this many classes.
NAMED = 6


@dataclass(frozen=True)
class NewExport:
    """What is known about a new export before its file is made.

    Args:
        run: The id of the run. None if a published network is exported.
        runs: The folder of runs, where the runs of earlier exports are looked up.
        classes: The class names. None if they are not known yet.
        task: "binary", "multiclass" or "multilabel".
        data: The place of the pictures, as `zoo.data.sources.location` returns it; None for a published network.
        digest: The digest of the pictures; see `zoo.data.dataset.Dataset.digest`. None before they are decoded.
        weights: The id of the weights, if a published network is exported.
        source: The pictures, if they are not decoded yet. They are compared with those of the present file as far as
            that is possible without decoding. None makes no such comparison.
    """

    run: str | None
    runs: Path
    classes: Sequence[str] | None
    task: str
    data: str | None = None
    digest: str | None = None
    weights: str | None = None
    source: Source | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Present:
    """The file that is at the place of a new export.

    Args:
        path: The path of the file.
        info: Its metadata. None if zoo did not write the file, or it cannot be read.
        problem: Why there is no metadata; empty otherwise.
    """

    path: Path
    info: ModelInfo | None
    problem: str = ""


def fingerprint(data: str) -> str:
    """Return a fingerprint of the place of pictures, which the exported file stores instead of the path.

    Args:
        data: What `zoo.data.sources.location` returns.
    """
    text = unicodedata.normalize("NFC", data).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:16]


def variant_path(exported: Path, name: str, variant: Variant) -> Path:
    """Return the path of a variant of an export in the folder of exports, such as `NAME-VARIANT/model.onnx`."""
    return exported / f"{name}-{variant.name}" / variant.file


def present_at(path: Path) -> Present | None:
    """Return the file at the place of an export, or None if there is none."""
    if not path.is_file():
        return None
    try:
        return Present(path, info_in(path))
    except ModelError as error:
        return Present(path, None, str(error))


def info_of(path: Path) -> ModelInfo | None:
    """Return the metadata of an exported file, or None if the file does not exist or cannot be read."""
    present = present_at(path)
    return present.info if present else None


def check(path: Path, new: NewExport, *, kind: str | None = None, replace: bool, trained: Path | None = None) -> None:
    """Check that a new export may replace what is at its place.

    Args:
        path: The place of the new export.
        new: What is known about the new export. The pictures are compared if their digest or their files are known.
        kind: The name of the variant, such as "int8"; None for a float32 file.
        replace: Whether the user gave `--replace`, which allows everything.
        trained: The run folder if the network is already trained, for the advice. None before training.

    Raises:
        UsageError: The present file is an export of other pictures, of other classes or of another kind. Or it is not
            a file of zoo.
        ExportError: The same, if the network is already trained.
    """
    present = None if replace else present_at(path)
    why = _obstacle(present, new, kind) if present else ""
    if not present or not why:
        return
    text = f"{str(path)!r} is not replaced, because {why} {describe(present, new.runs)}".rstrip()
    suffix = f"-{kind}" if kind else ""
    name = path.parent.name.removesuffix(suffix)
    other = next(
        f"{name}-{i}" for i in range(2, 10**6) if not (path.parent.parent / f"{name}-{i}{suffix}" / path.name).exists()
    )
    if trained is not None:
        options = kinds.option_words(kind) if kind else []
        again = shlex.join(["zoo", "export", str(trained), *options, "--exported", str(path.parent.parent)])
        raise ExportError(f"{text} The run is kept: `{again} --name {other}` exports it beside, `--replace` over it.")
    raise UsageError(f"{text} Add `--name {other}` to keep both, or `--replace` to replace it.")


def check_targets(
    exported: Path,
    name: str,
    variants: Sequence[VariantRequest],
    new: NewExport,
    *,
    float32: bool = True,
    replace: bool,
) -> None:
    """Check that the files of a new export can be written, and that they may replace what is at their places.

    Callers check this before they train or convert a network, so that a mistake is reported early.

    Args:
        exported: The folder of exports.
        name: The name of the export.
        variants: The variants that will be made.
        new: What is known about the export.
        float32: Whether there will be a float32 file.
        replace: Whether the user gave `--replace`.

    Raises:
        UsageError: A file at these places may not be replaced; see `check`.
        WriteError: A folder cannot be written to.
    """
    targets: list[tuple[Path, str | None]] = [(exported / name / EXPORTED_FILE, None)] if float32 else []
    targets += [(variant_path(exported, name, request.variant), request.variant.name) for request in variants]
    for target, kind in targets:
        files.check_writable(target.parent, "--exported FOLDER")
        check(target, new, kind=kind, replace=replace)


def plan(exported: Path, name: str, variants: Sequence[VariantRequest], new: NewExport, *, replace: bool) -> list[str]:
    """Describe which files a new export would write, and which present files it would replace, in a line each.

    Args:
        exported: The folder of exports.
        name: The name of the export.
        variants: The variants that would be made.
        new: What is known about the export.
        replace: Whether the user gave `--replace`.

    Raises:
        UsageError: A file at these places may not be replaced; see `check`.
        WriteError: A folder cannot be written to.
    """
    check_targets(exported, name, variants, new, replace=replace)
    paths = [exported / name / EXPORTED_FILE, *(variant_path(exported, name, each.variant) for each in variants)]
    lines = []
    for path in paths:
        present = present_at(path)
        text = f"Export: {path}"
        if present:
            text += f" would be replaced, and the old file kept. {describe(present, new.runs)}".rstrip()
            info = present.info
            if info and not replace and not _is_of_place(info, new) and _has_same_pictures(info, new) is None:
                text += (
                    " Some of the pictures may be unreadable. Whether the others are the same is known when they are "
                    "decoded. If they are not, the command stops before the training."
                )
        lines.append(text)
    return lines


def _obstacle(present: Present, new: NewExport, kind: str | None) -> str:
    """Return why a new export does not replace the present file without being asked to; empty if it does."""
    info = present.info
    if info is None:
        # What follows the first sentence is advice for those who want to use the file.
        return f"it is not a usable file of zoo: {present.problem.partition('. ')[0].rstrip('.')}."
    if info.precision.get("kind") != kind:
        return f"it is not {_article(kind or 'float32')} file."
    run = info.run.get("id")
    if run and run == new.run:
        return ""
    if new.classes is not None and _normal(info.classes) != _normal(new.classes):
        return f"it has other classes than {listed(new.classes, NAMED)}."
    if new.run is None and new.data is None:
        same = not run and info.weights.get("id") == new.weights
        return "" if same else f"it is not an export of {new.weights}."
    if info.task != new.task:
        return f"its task is {info.task}, not {new.task}."
    if not run:
        return "it is an export of a published network."
    if _is_of_place(info, new) or _has_same_pictures(info, new) is not False:
        return ""
    return f"it is an export of other pictures than those of {new.data!r}."


def _has_same_pictures(info: ModelInfo, new: NewExport) -> bool | None:
    """Return whether an earlier export was made from the same pictures; None if that is not known yet."""
    if new.digest is not None:
        return bool(new.digest == info.data.get("digest"))
    if new.source is None:
        return None
    return are_same(new.source, info, runs.Run(new.runs / str(info.run.get("id") or "none")))


def _article(kind: str) -> str:
    return f"an {kind}" if kind.startswith("i") else f"a {kind}"


def _normal(classes: Sequence[str]) -> list[str]:
    return sorted(map(normalized, classes))


def _data_of(info: ModelInfo, folder: Path) -> str | None:
    """Return the place of the pictures of an earlier export, from its run record; None if that is not available."""
    with contextlib.suppress(RunError):
        return str(runs.Run(folder / str(info.run.get("id") or "none")).read_record().options["data"])
    return None


def _is_of_place(info: ModelInfo, new: NewExport) -> bool:
    """Return whether an earlier export was made from pictures at the place where those of the new export are."""
    if new.data is None:
        return False
    place = info.data.get("place")
    if place and place == fingerprint(new.data):
        return True
    # Files of earlier versions have no fingerprint. A run may also have been exported again from a place in between.
    return _data_of(info, new.runs) == new.data


def describe(present: Present, folder: Path) -> str:
    """Describe the present file in one sentence: its run, pictures, classes and accuracy.

    Args:
        present: The file.
        folder: The folder of runs, where the run of the file is looked up.

    Returns:
        The sentence; empty if the file has no metadata.
    """
    info = present.info
    if info is None:
        return ""
    run = info.run.get("id")
    made = f"run {run}" if run else f"published weights {info.weights.get('id', 'of unknown name')}"
    counts = info.data.get("counts") or {}
    data = _data_of(info, folder)
    pictures = f"{sum(counts.values())} pictures of " if counts else ""
    place = f" in {data!r}" if data else f" in a folder {info.data['name']!r}" if info.data.get("name") else ""
    accuracy = _accuracy(info.metrics.get("test"))
    measured = f", test accuracy {accuracy}" if accuracy else ""
    classes = f"{len(info.classes)} classes ({listed(info.classes, NAMED)})"
    return f"The file is from {made}: {pictures}{classes}{place}{measured}."


def _accuracy(figures: Mapping[str, Any] | None) -> str:
    """Format the test accuracy, or the exact match, with its interval; empty if it is not known."""
    for key in ("exact_match", "accuracy"):
        if figures and key in figures:
            interval = figures.get(f"{key}_interval")
            return (
                format_accuracy(figures[key], interval, figures.get("pictures")) if interval else f"{figures[key]:.3f}"
            )
    return ""


def keep(present: Present, folder: Path) -> Path:
    """Make sure that the bytes of a file are kept elsewhere before the file is replaced, and return that place.

    If the folder of its run has the same bytes, this is that file. Otherwise, it is a copy beside the file, named
    `model.replaced-DIGEST.onnx`.

    Args:
        present: The file that is going to be replaced.
        folder: The folder of runs.

    Raises:
        WriteError: The copy cannot be written.
    """
    from zoo.export import artifact

    digest = _sha256(present.path)
    identity = present.info.run.get("id") if present.info else None
    if identity:
        size = present.path.stat().st_size
        run = folder / str(identity)
        for path in sorted([*run.glob("model*.onnx"), *run.glob(f"{runs.FORMATS}/*/{present.path.name}")]):
            if path.stat().st_size == size and _sha256(path) == digest:
                return path
    copy = present.path.with_name(f"{present.path.stem}.replaced-{digest[:8]}{present.path.suffix}")
    if not copy.is_file():
        for companion in companions(present.path):
            artifact.copy(companion, copy.with_suffix(companion.suffix))
        artifact.copy(present.path, copy)
    return copy


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Replaced:
    """A file that a new export is about to replace, and the place where its bytes are kept.

    Args:
        present: The file, read before it was replaced.
        kept: The place of the same bytes.
    """

    present: Present
    kept: Path


def prepare(path: Path, run: str | None, folder: Path) -> Replaced | None:
    """Keep the file that is about to be replaced; see `keep`. Call this directly before the file is replaced.

    Args:
        path: The place of the new export.
        run: The id of the run of the new export; None for a published network.
        folder: The folder of runs.

    Returns:
        What is replaced. None if nothing is there, or a file of the same run, which that run can make again.

    Raises:
        WriteError: The copy cannot be written.
    """
    present = present_at(path)
    if present is None or (present.info is not None and run is not None and present.info.run.get("id") == run):
        return None
    return Replaced(present, keep(present, folder))


def report(path: Path, replaced: Replaced | None, new: NewExport, info: ModelInfo, reporter: Reporter) -> None:
    """Report what a new export has replaced, and remove the signature and the tuned settings of the earlier file.

    A replaced export of the same run is not reported.

    Args:
        path: The place of the new export.
        replaced: What `prepare` returned.
        new: What was known about the new export before its file was made.
        info: The metadata of the new export.
        reporter: Receives the report in one line, or nothing if there is nothing to report.
    """
    sentences = []
    if replaced is not None:
        sentences = [f"{path} replaces {_old(replaced.present.info, new, info)}."]
        before = _accuracy(replaced.present.info.metrics.get("test")) if replaced.present.info else ""
        now = _accuracy(info.metrics.get("test"))
        if before and now:
            same = replaced.present.info and replaced.present.info.data.get("digest") == info.data.get("digest")
            sentences.append(f"Test accuracy{'' if same else ', on other test pictures'}: {before} -> {now}.")
        sentences.append(f"The old file is kept as {replaced.kept}.")
    tuned = tuned_settings(path)
    if tuned.is_file():
        with contextlib.suppress(OSError):
            tuned.unlink()
            sentences.append(f"Removed {tuned}, which was tuned for the earlier file.")
    signature = signature_path(path)
    if signature.is_file():
        with contextlib.suppress(OSError):
            signature.unlink()
            sentences.append(f"Removed {signature}, the signature of the earlier file.")
    if sentences:
        reporter.say(" ".join(sentences))


def _old(old: ModelInfo | None, new: NewExport, info: ModelInfo) -> str:
    """Describe in a few words what was replaced, and how its pictures are related to the new ones."""
    if old is None:
        return "a file that zoo did not write, or that was damaged"
    identity = old.run.get("id")
    if not identity:
        return "the export of a published network"
    count = sum((old.data.get("counts") or {}).values())
    if old.data.get("digest") == info.data.get("digest"):
        relation = "of the same pictures"
    elif _is_of_place(old, new) and _normal(old.classes) == _normal(info.classes):
        relation = f"of the same folder, which had {count} pictures then"
    else:
        relation = f"of other pictures, {count} of {len(old.classes)} classes"
    return f"the export of run {identity}, {relation}"


def tuned_settings(path: Path) -> Path:
    """Return the path to which `zoo-runtime tune` writes the settings for an exported file."""
    return path.with_suffix(".tuned.json")


def warn_of_stale(
    variants: Sequence[Variant],
    exported: Path,
    name: str,
    run: runs.Run | None,
    reporter: Reporter,
    formats: Sequence[tuple[str, Path]] = (),
) -> None:
    """Warn about variants and exports of other sizes that come from another run. Their files are kept.

    Args:
        variants: The kinds of variants to look for: those that were not requested together with the new export.
        exported: The folder of exports.
        name: The name of the new export.
        run: The run of the new export; None if a published network was exported.
        reporter: Receives the warnings.
        formats: The names and the main files of other formats to look at.
    """
    identity = run.id if run is not None else None
    for path, kind, size in [*_related(variants, exported, name), *((path, kind, None) for kind, path in formats)]:
        present = info_of(path)
        if present is None or present.precision.get("kind") != kind or present.run.get("id") == identity:
            continue
        if size is not None and present.image.size != size:
            continue
        text = f"{path} comes from another run and is not changed, so that it does not belong to {exported / name}. "
        if run is None:
            reporter.warn(f"{text}Remove it, or choose another --name.")
            continue
        words = ["zoo", "export", str(run.folder)]
        words += ["--size", f"{size[0]}x{size[1]}"] if size else []
        words += kinds.option_words(kind) if kind else []
        # The name of a variant is added to --name; the size is not.
        words += ["--name", path.parent.name.removesuffix(f"-{kind}"), "--exported", str(exported)]
        reporter.warn(f"{text}Remove it, or replace it: `{shlex.join(words)}`.")


def _related(
    variants: Sequence[Variant], exported: Path, name: str
) -> list[tuple[Path, str | None, tuple[int, int] | None]]:
    """List the files whose names say that they belong to an export: its variants, and exports of other sizes.

    Returns:
        (path, name of the variant or None, size or None) of each file.
    """
    found: list[tuple[Path, str | None, tuple[int, int] | None]] = [
        (variant_path(exported, name, variant), variant.name, None) for variant in variants
    ]
    names = {variant.name for variant in kinds.VARIANTS}
    # `glob` would read brackets in a name as a pattern, but names have none.
    for path in sorted(exported.glob(f"{name}-*/{EXPORTED_FILE}")):
        size, _, kind = path.parent.name.removeprefix(f"{name}-").partition("-")
        match = SIZE.fullmatch(size)
        if match and (not kind or kind in names):
            found.append((path, kind or None, (int(match[1]), int(match[2]))))
    return found
