"""Reports which earlier export a new export replaces, and warns about stale variants.

A variant is stale if another run exported it earlier under the name of the new export. For example, one run exports
`pets` and its variant `pets-int8`. Another run then exports `pets` without variants. Now `pets-int8` is stale: a user
could mistake it for a variant of the new `pets`. Stale variants are kept.

The settings that `zoo-runtime tune` measured for the replaced file are removed.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path

from zoo import runs
from zoo.export.variants import Variant
from zoo.reporter import Reporter
from zoo_runtime import ModelError, ModelInfo, Predictor

EXPORTED_FILE = "model.onnx"


def variant_path(exported: Path, name: str, variant: Variant) -> Path:
    """Return the path of a variant of an export in the folder of exports: `NAME-VARIANT/model.onnx`."""
    return exported / f"{name}-{variant.name}" / EXPORTED_FILE


def info_of(path: Path) -> ModelInfo | None:
    """Return the metadata of an exported file, or None if the file does not exist or cannot be read."""
    try:
        return Predictor(path, tuned=False).info if path.is_file() else None
    except ModelError:
        return None


def warn_of_stale(
    variants: Sequence[Variant], exported: Path, name: str, run: runs.Run | None, reporter: Reporter
) -> None:
    """Warn about variants of an export that come from another run. Their files are kept.

    Args:
        variants: The kinds of variants to look for: those that were not requested together with the new export.
        exported: The folder of exports.
        name: The name of the new export.
        run: The run of the new export; None if a published network was exported.
        reporter: Receives the warnings.
    """
    for variant in variants:
        path = variant_path(exported, name, variant)
        present = info_of(path)
        identity = run.id if run is not None else None
        if present is None or present.precision.get("kind") != variant.name or present.run.get("id") == identity:
            continue
        text = f"{path} comes from another run and is not changed, so that it does not belong to {exported / name}. "
        if run is None:
            reporter.warn(f"{text}Remove it, or choose another --name.")
        else:
            words = ["zoo", "export", str(run.folder), f"--{variant.name}", "--name", name, "--exported", str(exported)]
            reporter.warn(f"{text}Remove it, or replace it: `{shlex.join(words)}`.")


def report_replaced(
    earlier: ModelInfo | None, exported: Path, name: str, run: runs.Run | None, reporter: Reporter
) -> None:
    """Report that a new export replaced an earlier export, and remove the settings tuned for the earlier file.

    If the run folder of the earlier export still holds a copy of the earlier file, the report names this copy. A
    replaced export of the same run is not reported.

    Args:
        earlier: The metadata of the earlier export; None if there was no earlier export.
        exported: The folder of exports.
        name: The name of the new export, which is also the name of the earlier export.
        run: The run of the new export; None if a published network was exported.
        reporter: Receives the report in one line, or nothing if there is nothing to report.
    """
    target = exported / name / EXPORTED_FILE
    sentences = []
    identity = earlier.run.get("id") if earlier is not None else None
    if earlier is not None and identity != (run.id if run is not None else None):
        sentences = [f"{target} replaces the export of {f'run {identity}' if identity else 'a published network'}."]
        kept = (run.folder.parent if run is not None else Path("runs")) / str(identity or "") / EXPORTED_FILE
        present = info_of(kept)
        # A run folder keeps the file of the size at which the run was trained.
        if present is not None and present.run.get("id") == identity and present.image == earlier.image:
            sentences.append(f"The file of that run is kept as {kept}.")
    tuned = tuned_settings(target)
    if earlier is not None and tuned.is_file():
        with contextlib.suppress(OSError):
            tuned.unlink()
            sentences.append(f"Removed {tuned}, which was tuned for the earlier file.")
    if sentences:
        reporter.say(" ".join(sentences))


def tuned_settings(path: Path) -> Path:
    """Return the path to which `zoo-runtime tune` writes the settings for an exported file."""
    return path.with_suffix(".tuned.json")
