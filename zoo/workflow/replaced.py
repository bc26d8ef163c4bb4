"""Reports which earlier export a new export replaces, and warns about stale variants.

A variant is stale if another run exported it earlier under the same name. A user could mistake it for a variant of the
new export. Stale variants are kept. The settings that `zoo-runtime tune` measured for the replaced file are removed.
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
    """Warn about variants that another run exported under the same name. They are kept.

    Args:
        variants: The kinds of variants that this run has not made.
        exported: The folder of exports.
        name: The name of the export.
        run: The run that is exported now; None for a published network.
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
    """Report which export was replaced and where its file still is. Remove settings tuned for the replaced file.

    Args:
        earlier: The metadata of the export that was replaced; None if there was none.
        exported: The folder of exports.
        name: The name of the export.
        run: The run that has been exported; None for a published network.
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
